//! What a soak does, and when.
//!
//! Owns the faults that a soak may have, and how a course is drawn from a seed: the same seed is the same
//! course, on any machine. None of these faults loses history, so everything must arrive.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::rig::Line;
use super::catalogue::{A_WHILE, PAST_LEASE, SHORT_LEASE_SECONDS};
use super::consumer::Transport;
use super::rules::Wish;
use super::script::{Drill, Expects, How, Odd, Sabotage, Scene, Server, Step, Symptom};

use Odd::{Images, Oversize, Undecodable};
use Server::{Etcd, Hub, Mongod, Nats};
use Step::{
    Compact, Fill, Freeze, Kill, KillInTransaction, LoseStorage, OthersGoOn, ReadOn, Ready, Recovered, Rename, Stall,
    Start, StreamsGoOn, Thaw, Wait, Write,
};

/// The soak, as far as it is a drill: its steps are drawn by [`Schedule::draw`].
pub(super) const SOAK: Drill = Drill {
    name: "soak",
    does: "breaks one thing after the other, drawn from the seed, while random subscriptions come and go",
    seconds: 1_800,
    rounds: 0,
    scene: Scene {
        breaks: &[Mongod, Etcd, Nats],
        relays: &[Mongod, Etcd, Nats],
        transports: &[Transport::Grpc, Transport::Sse, Transport::Nats],
        lease_seconds: SHORT_LEASE_SECONDS,
        narrow: true,
        ..Scene::PLAIN
    },
    round: |_| Vec::new(),
    expects: Expects { broadcasts: true, reconnects: true, redelivers: true, ..Expects::ALL },
    sabotage: Sabotage {
        how: How::Hub("forget"),
        does: "the hub begins at the present with each tenure, whatever the cursors say",
        shows: Symptom::Lost,
    },
};

/// Nothing breaks before.
const FIRST_SECOND: u32 = 10;
/// Between the time that a fault takes, recovery included, and the next fault.
const PAUSE_SECONDS: std::ops::Range<u32> = 4..13;
/// Nothing begins that could not be over so long before the end.
const LAST_SECONDS: u32 = 5;
/// Between the coming of one random subscription and the next.
const VISITS_APART_MS: std::ops::Range<u64> = 500..6_000;
/// How long one of them stays.
const STAYS_MS: std::ops::Range<u64> = 3_000..40_000;
/// The random subscriptions draw from numbers of their own.
const STREAM_OF_VISITS: u64 = 1;

/// Something that breaks and is mended.
struct Fault {
    name: &'static str,
    /// How long it takes, about, until all have recovered.
    seconds: u32,
    steps: fn(&mut ChaCha8Rng) -> Vec<Step>,
}

/// The first is how each soak begins, so that even the shortest has one that a forgetful hub cannot hide.
const FAULTS: &[Fault] = &[
    Fault { name: "hub-kill", seconds: 8, steps: |_| vec![Kill(Hub), Wait(0, 2_000), Start(Hub), Ready, Recovered] },
    Fault { name: "hub-freeze", seconds: 14, steps: |_| vec![Freeze(Hub), PAST_LEASE, Thaw(Hub), Recovered] },
    Fault {
        name: "transaction",
        seconds: 14,
        steps: |_| vec![KillInTransaction, Wait(0, 400), Start(Hub), Ready, Recovered],
    },
    Fault {
        name: "mongod-kill",
        seconds: 10,
        steps: |_| vec![Kill(Mongod), Wait(1_500, 4_000), Start(Mongod), Recovered],
    },
    Fault {
        name: "mongod-freeze",
        seconds: 12,
        steps: |_| vec![Freeze(Mongod), Wait(4_000, 10_000), Thaw(Mongod), Recovered],
    },
    Fault { name: "mongod-cut", seconds: 12, steps: mongod_cut },
    Fault { name: "etcd-stop", seconds: 14, steps: etcd_stop },
    Fault { name: "etcd-freeze", seconds: 14, steps: |_| vec![Freeze(Etcd), PAST_LEASE, Thaw(Etcd), Ready, Recovered] },
    Fault { name: "etcd-cut", seconds: 14, steps: etcd_cut },
    Fault { name: "etcd-compact", seconds: 14, steps: etcd_compact },
    Fault {
        name: "nats-kill",
        seconds: 8,
        steps: |_| vec![Kill(Nats), Wait(500, 4_000), StreamsGoOn, Start(Nats), Recovered],
    },
    Fault {
        name: "nats-freeze",
        seconds: 14,
        steps: |_| vec![Freeze(Nats), Wait(1_000, 8_000), Thaw(Nats), Recovered],
    },
    Fault { name: "nats-cut", seconds: 12, steps: nats_cut },
    Fault {
        name: "nats-full",
        seconds: 8,
        steps: |_| vec![Fill(true), Wait(1_000, 4_000), StreamsGoOn, Fill(false), Recovered],
    },
    Fault {
        name: "nats-storage-lost",
        seconds: 10,
        steps: |_| vec![Kill(Nats), LoseStorage, Wait(0, 2_000), Start(Nats), Recovered],
    },
    Fault {
        name: "gateway-stall",
        seconds: 14,
        steps: |_| vec![Stall, Wait(5_000, 8_000), OthersGoOn, ReadOn, Recovered],
    },
    Fault {
        name: "images-off",
        seconds: 8,
        steps: |_| vec![Write(Images(false)), A_WHILE, A_WHILE, Write(Images(true)), A_WHILE, Recovered],
    },
    Fault { name: "oversize", seconds: 8, steps: |_| vec![Write(Oversize), A_WHILE, Recovered] },
    Fault { name: "undecodable", seconds: 5, steps: |_| vec![Write(Undecodable), A_WHILE, Recovered] },
];

fn mongod_cut(random: &mut ChaCha8Rng) -> Vec<Step> {
    let lines = [Line::Silent, Line::Reset, Line::Slow { bytes_per_second: 20_000 }];
    let line = lines[random.random_range(0..lines.len())];
    vec![Step::Line(Mongod, line), Wait(3_000, 6_000), Step::Line(Mongod, Line::Open), Recovered]
}

fn nats_cut(random: &mut ChaCha8Rng) -> Vec<Step> {
    let line = if random.random_bool(0.5) { Line::Silent } else { Line::Reset };
    vec![Step::Line(Nats, line), Wait(3_000, 6_000), StreamsGoOn, Step::Line(Nats, Line::Open), Recovered]
}

/// Now within the lease, now past it.
fn etcd_stop(random: &mut ChaCha8Rng) -> Vec<Step> {
    let away = if random.random_bool(0.5) { Wait(500, 1_000) } else { PAST_LEASE };
    vec![Kill(Etcd), away, Start(Etcd), Ready, Recovered]
}

fn etcd_cut(random: &mut ChaCha8Rng) -> Vec<Step> {
    let line = if random.random_bool(0.5) { Line::Silent } else { Line::Reset };
    vec![Step::Line(Etcd, line), PAST_LEASE, Step::Line(Etcd, Line::Open), Ready, Recovered]
}

/// Under a live hub, and while another waits for the partition of one that was killed.
fn etcd_compact(_: &mut ChaCha8Rng) -> Vec<Step> {
    let mut steps = vec![Compact, A_WHILE, Compact, Kill(Hub), Rename, Start(Hub)];
    steps.extend([Compact, Wait(200, 300)].repeat(8));
    steps.extend([Ready, Compact, Recovered]);
    steps
}

/// A whole soak.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Schedule {
    pub(super) seconds: u32,
    pub(super) acts: Vec<Act>,
    pub(super) visits: Vec<Visit>,
}

/// One fault; it begins at its second, or when the one before it is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Act {
    pub(super) second: u32,
    pub(super) fault: &'static str,
    pub(super) steps: Vec<Step>,
}

/// A random subscription.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Visit {
    /// From 0.
    pub(super) gateway: usize,
    pub(super) wish: Wish,
    pub(super) comes: Duration,
    pub(super) goes: Duration,
}

impl Schedule {
    /// Drawn from the seed, and from nothing else. Each fault comes once before any comes again.
    pub(super) fn draw(seed: u64, minutes: u32, gateways: u32) -> Self {
        let seconds = minutes * 60;
        Self { seconds, acts: acts(seed, seconds), visits: visits(seed, seconds, gateways) }
    }

    /// As it is printed: the second and the fault, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |act: &Act| format!("{:>5} s  {}", act.second, act.fault);
        self.acts.iter().map(line).collect()
    }
}

fn acts(seed: u64, seconds: u32) -> Vec<Act> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut acts, mut bag) = (Vec::new(), vec![&FAULTS[0]]);
    let mut second = FIRST_SECOND;
    while let Some(fault) = bag.pop() {
        if second + fault.seconds + LAST_SECONDS > seconds {
            break;
        }
        acts.push(Act { second, fault: fault.name, steps: (fault.steps)(&mut random) });
        second += fault.seconds + random.random_range(PAUSE_SECONDS);
        if bag.is_empty() {
            bag = FAULTS.iter().collect();
            bag.shuffle(&mut random);
        }
    }
    acts
}

fn visits(seed: u64, seconds: u32, gateways: u32) -> Vec<Visit> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(STREAM_OF_VISITS);
    let (mut visits, mut comes) = (Vec::new(), Duration::ZERO);
    loop {
        comes += Duration::from_millis(random.random_range(VISITS_APART_MS));
        if comes.as_secs() >= u64::from(seconds) {
            return visits;
        }
        let goes = comes + Duration::from_millis(random.random_range(STAYS_MS));
        let gateway = random.random_range(0..gateways) as usize;
        visits.push(Visit { gateway, wish: Wish::draw(&mut random), comes, goes });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::catalogue::tests::assert_mended;
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_soak_and_another_is_another() {
        let soak = Schedule::draw(7, 30, 2);
        assert_eq!(soak, Schedule::draw(7, 30, 2));
        assert_eq!(soak.lines(), Schedule::draw(7, 30, 4).lines(), "gateways do not move the faults");
        assert_ne!(soak.lines(), Schedule::draw(8, 30, 2).lines());
        assert_ne!(soak.visits, Schedule::draw(8, 30, 2).visits);
        assert_eq!(soak.lines()[0], "   10 s  hub-kill");
    }

    #[test]
    fn a_longer_soak_begins_as_a_shorter_one() {
        let (short, long) = (Schedule::draw(3, 10, 2), Schedule::draw(3, 30, 2));
        assert!(long.lines().starts_with(&short.lines()));
        assert!(long.visits.starts_with(&short.visits));
    }

    #[test]
    fn every_fault_comes_in_each_half_of_half_an_hour() {
        for seed in 0..50 {
            let soak = Schedule::draw(seed, 30, 2);
            for half in 0..2 {
                let of_half = soak.acts.iter().filter(|act| act.second / 900 == half).map(|act| act.fault);
                assert_eq!(of_half.collect::<BTreeSet<_>>().len(), FAULTS.len(), "seed {seed}, half {half}");
            }
        }
    }

    #[test]
    fn faults_do_not_overlap_and_end_before_the_soak() {
        for (seed, minutes) in (0..50).zip((1..6).cycle()) {
            let soak = Schedule::draw(seed, minutes, 2);
            let about =
                |act: &Act| FAULTS.iter().find(|fault| fault.name == act.fault).map_or(0, |fault| fault.seconds);
            let ends = soak.acts.iter().map(|act| act.second + about(act));
            let next = soak.acts.iter().skip(1).map(|act| act.second).chain([soak.seconds]);
            assert!(ends.zip(next).all(|(end, next)| end + PAUSE_SECONDS.start <= next), "seed {seed}");
        }
    }

    #[test]
    fn whatever_a_soak_breaks_it_mends() {
        for fault in FAULTS {
            let steps =
                (0..20).flat_map(|seed| (fault.steps)(&mut ChaCha8Rng::seed_from_u64(seed))).collect::<Vec<_>>();
            assert_mended(&SOAK, &steps);
            assert_eq!(steps.last(), Some(&Recovered), "{}", fault.name);
        }
    }

    #[test]
    fn random_subscriptions_come_to_every_gateway_and_go() {
        let soak = Schedule::draw(1, 30, 4);
        assert!(soak.visits.len() > 300);
        assert_eq!(soak.visits.iter().map(|visit| visit.gateway).collect::<BTreeSet<_>>().len(), 4);
        assert!(soak.visits.iter().all(|visit| visit.comes < visit.goes));
    }
}
