//! The drills.
//!
//! Owns the list, and nothing else. A new drill is a new entry here, in the words of `script`; if it needs
//! a new word, `course` says what that does.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::rig::{Line, MongodSize};
use super::consumer::Transport;
use super::script::{Drill, Expects, How, Odd, Sabotage, Scene, Server, Step, Symptom};
use crate::change::ResyncReason;

use How::{Hub as Mistake, KeepWrites};
use Odd::{Drop, Images, Oversize, RenameOnto, Undecodable};
use Server::{Etcd, Hub, Mongod, Nats};
use Step::{
    Aim, BackUp, Calm, Compact, Elect, Fill, Freeze, Kill, KillInTransaction, LoseStorage, OthersGoOn, ReadOn, Ready,
    Recovered, Redefine, Rename, Restore, Resume, Revoke, Roll, RollBack, RollOplog, Stall, Start, Still, StreamsGoOn,
    Thaw, Wait, Write,
};

/// Long enough for something to be under way.
pub(super) const A_WHILE: Step = Wait(800, 1_600);
/// Shorter than the default of fifteen, so that a drill need not wait for it so long.
pub(super) const SHORT_LEASE_SECONDS: u32 = 4;
/// Longer than that lease.
pub(super) const PAST_LEASE: Step = Wait(8_000, 8_500);
/// With these the oplog is cut within a second.
const SHORT_OPLOG: MongodSize = MongodSize { oplog_mib: 1, cache_gib: 0.5, sync_seconds: 1 };

/// The first gateway by NATS.
const BY_NATS: Scene = Scene { transports: &[Transport::Nats, Transport::Grpc, Transport::Sse], ..Scene::PLAIN };

/// Three hubs on three members of etcd and of MongoDB.
const CLUSTER: Scene = Scene {
    members: 3,
    etcds: 3,
    hubs: 3,
    breaks: &[Mongod, Etcd],
    relays: &[Etcd],
    lease_seconds: SHORT_LEASE_SECONDS,
    gateways: 100,
    rate: 30,
    ..Scene::PLAIN
};

/// All of them, in the order of `streamer drill all`.
pub(super) const DRILLS: &[Drill] = &[
    Drill {
        name: "restart",
        does: "kills the hub with SIGKILL at random moments and starts it again",
        seconds: 12,
        rounds: 5,
        scene: Scene::PLAIN,
        round: restart,
        expects: Expects::ALL,
        sabotage: Sabotage { how: Mistake("forget"), does: FORGETS, shows: Symptom::Lost },
    },
    Drill {
        name: "hub-freeze",
        does: "stops the hub with SIGSTOP until its lease is over, and lets it go on",
        seconds: 20,
        rounds: 1,
        scene: Scene { lease_seconds: SHORT_LEASE_SECONDS, ..Scene::PLAIN },
        round: |_| vec![A_WHILE, Freeze(Hub), Still(2_000), PAST_LEASE, Thaw(Hub), Recovered, A_WHILE],
        expects: Expects { reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("forget"), does: FORGETS, shows: Symptom::Lost },
    },
    Drill {
        name: "transaction",
        does: "kills the hub in the middle of a great transaction",
        seconds: 12,
        rounds: 2,
        scene: Scene::PLAIN,
        round: |_| vec![A_WHILE, KillInTransaction, Wait(0, 400), Start(Hub), Ready, Recovered],
        expects: Expects { reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("join-late"), does: JOINS_LATE, shows: Symptom::Lost },
    },
    Drill {
        name: "pipeline-changed",
        does: "restarts the hub with another definition of what it watches: the epoch rises",
        seconds: 10,
        rounds: 1,
        scene: Scene::PLAIN,
        round: |_| vec![A_WHILE, Kill(Hub), Redefine, A_WHILE, Start(Hub), Ready, Recovered, A_WHILE],
        expects: Expects { epoch_rises: true, reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("forget"), does: FORGETS, shows: Symptom::Lost },
    },
    Drill {
        name: "mongod-kill",
        does: "kills mongod with SIGKILL and starts it again after seconds",
        seconds: 18,
        rounds: 2,
        scene: Scene { breaks: &[Mongod], ..Scene::PLAIN },
        round: |_| vec![A_WHILE, Kill(Mongod), Wait(1_500, 4_000), Start(Mongod), Recovered],
        expects: Expects::ALL,
        sabotage: Sabotage { how: Mistake("resume-at-present"), does: RESUMES_AT_PRESENT, shows: Symptom::Lost },
    },
    Drill {
        name: "mongod-freeze",
        does: "stops the primary of three mongods with SIGSTOP for ten seconds",
        seconds: 20,
        rounds: 1,
        scene: Scene { breaks: &[Mongod], members: 3, ..Scene::PLAIN },
        round: |_| vec![A_WHILE, Freeze(Mongod), Wait(10_000, 10_001), Thaw(Mongod), Recovered, A_WHILE],
        expects: Expects::ALL,
        sabotage: Sabotage { how: Mistake("resume-at-present"), does: RESUMES_AT_PRESENT, shows: Symptom::Lost },
    },
    Drill {
        name: "mongod-step-down",
        does: "makes the primary of three mongods step down, and kills it while another serves",
        seconds: 28,
        rounds: 2,
        scene: Scene { breaks: &[Mongod], members: 3, ..Scene::PLAIN },
        round: |_| {
            let killed = [Kill(Mongod), Wait(2_000, 3_000), Start(Mongod), Recovered];
            [vec![A_WHILE, Elect, Recovered, A_WHILE], killed.to_vec()].concat()
        },
        expects: Expects::ALL,
        sabotage: Sabotage { how: Mistake("resume-at-present"), does: RESUMES_AT_PRESENT, shows: Symptom::Lost },
    },
    Drill {
        name: "mongod-rollback",
        does: "has writes undone that only a deposed primary had: they must never be delivered",
        seconds: 18,
        rounds: 1,
        scene: Scene { breaks: &[Mongod], members: 3, ..Scene::PLAIN },
        round: |_| vec![A_WHILE, RollBack, Recovered, A_WHILE],
        expects: Expects::ALL,
        sabotage: Sabotage {
            how: KeepWrites,
            does: "the other members hear of the writes that should be undone",
            shows: Symptom::Unexpected,
        },
    },
    Drill {
        name: "mongod-cut",
        does: "cuts the link between hub and mongod: silently, by resets, to a trickle, and for the connections there are",
        seconds: 32,
        rounds: 1,
        scene: Scene { relays: &[Mongod], ..Scene::PLAIN },
        round: |_| cuts(4_000),
        expects: Expects::ALL,
        sabotage: Sabotage { how: Mistake("resume-at-present"), does: RESUMES_AT_PRESENT, shows: Symptom::Lost },
    },
    Drill {
        name: "etcd-cut",
        does: "cuts the link between hub and etcd past the lease: silently, then by resets",
        seconds: 28,
        rounds: 1,
        scene: Scene { relays: &[Etcd], lease_seconds: SHORT_LEASE_SECONDS, ..Scene::PLAIN },
        round: |_| {
            let cut =
                |line| [A_WHILE, Step::Line(Etcd, line), PAST_LEASE, Step::Line(Etcd, Line::Open), Ready, Recovered];
            [cut(Line::Silent), cut(Line::Reset)].concat()
        },
        expects: Expects { reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("forget"), does: FORGETS, shows: Symptom::Lost },
    },
    Drill {
        name: "etcd-stop",
        does: "kills etcd with SIGKILL past the lease and starts it again",
        seconds: 24,
        rounds: 1,
        scene: Scene { breaks: &[Etcd], lease_seconds: SHORT_LEASE_SECONDS, ..Scene::PLAIN },
        round: |_| {
            let short = [A_WHILE, Kill(Etcd), Wait(500, 1_000), Start(Etcd), Recovered];
            let long = [A_WHILE, Kill(Etcd), PAST_LEASE, Start(Etcd), Ready, Recovered, A_WHILE];
            [&short[..], &long[..]].concat()
        },
        expects: Expects { reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("join-late"), does: JOINS_LATE, shows: Symptom::Lost },
    },
    Drill {
        name: "etcd-freeze",
        does: "stops etcd with SIGSTOP past the lease",
        seconds: 18,
        rounds: 1,
        scene: Scene { breaks: &[Etcd], lease_seconds: SHORT_LEASE_SECONDS, ..Scene::PLAIN },
        round: |_| vec![A_WHILE, Freeze(Etcd), PAST_LEASE, Thaw(Etcd), Ready, Recovered, A_WHILE],
        expects: Expects { reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("forget"), does: FORGETS, shows: Symptom::Lost },
    },
    Drill {
        name: "etcd-compact",
        does: "compacts etcd while another node waits for the partition of a killed one",
        seconds: 20,
        rounds: 2,
        scene: Scene { breaks: &[Etcd], lease_seconds: SHORT_LEASE_SECONDS, ..Scene::PLAIN },
        round: |_| {
            let mut steps = vec![A_WHILE, Compact, A_WHILE, Kill(Hub), Rename, Start(Hub)];
            steps.extend([Compact, Wait(200, 300)].repeat(8));
            steps.extend([Ready, Compact, Recovered]);
            steps
        },
        expects: Expects { reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("forget"), does: FORGETS, shows: Symptom::Lost },
    },
    Drill {
        name: "all-at-once",
        does: "kills mongod, etcd and the hub, and each again while the others recover",
        seconds: 22,
        rounds: 2,
        scene: Scene { breaks: &[Mongod, Etcd], lease_seconds: SHORT_LEASE_SECONDS, ..Scene::PLAIN },
        round: |_| {
            let soon = Wait(0, 900);
            let down = [A_WHILE, Kill(Mongod), Kill(Etcd), Kill(Hub), soon, Start(Hub), soon, Start(Mongod), soon];
            let again = [Kill(Hub), Start(Etcd), soon, Kill(Mongod), Start(Hub), soon, Start(Mongod), soon];
            let last = [Kill(Etcd), soon, Kill(Hub), Start(Etcd), Start(Hub), Ready, Recovered, A_WHILE];
            [&down[..], &again[..], &last[..]].concat()
        },
        expects: Expects { reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("forget"), does: FORGETS, shows: Symptom::Lost },
    },
    Drill {
        name: "cluster",
        does: "kills, freezes, cuts off and rolls the owner among three hubs, and kills the leaders of their etcd and MongoDB",
        seconds: 150,
        rounds: 1,
        scene: CLUSTER,
        round: cluster,
        expects: Expects { reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("forget"), does: FORGETS, shows: Symptom::Lost },
    },
    Drill {
        name: "gateway-stall",
        does: "has one gateway after the other read nothing for seconds, until the hub holds no more for it",
        seconds: 28,
        rounds: 2,
        scene: Scene { narrow: true, ..Scene::PLAIN },
        round: |_| vec![A_WHILE, Stall, Wait(6_000, 7_000), OthersGoOn, ReadOn, Recovered],
        expects: Expects { flag: Some("replayed"), ..Expects::ALL },
        sabotage: Sabotage {
            how: Mistake("overflow-drops"),
            does: "what overflows an outbox is dropped without a catch-up",
            shows: Symptom::Lost,
        },
    },
    Drill {
        name: "nats-kill",
        does: "kills the NATS server with SIGKILL and starts it again, and once the hub meanwhile",
        seconds: 22,
        rounds: 2,
        scene: Scene { breaks: &[Nats], ..BY_NATS },
        round: |_| {
            let server = [A_WHILE, Kill(Nats), Wait(1_000, 3_000), StreamsGoOn, Start(Nats), Recovered];
            let both = [A_WHILE, Kill(Nats), Kill(Hub), Wait(0, 900), Start(Hub), Ready, StreamsGoOn];
            [&server[..], &both[..], &[Start(Nats), Recovered, A_WHILE]].concat()
        },
        expects: Expects::ALL,
        sabotage: Sabotage { how: Mistake("ack-unstored"), does: ACKS_UNSTORED, shows: Symptom::Lost },
    },
    Drill {
        name: "nats-freeze",
        does: "stops the NATS server with SIGSTOP until publishes time out: some of them were stored",
        seconds: 34,
        rounds: 1,
        scene: Scene { breaks: &[Nats], ..BY_NATS },
        round: |_| {
            let short = [A_WHILE, Freeze(Nats), Wait(6_000, 7_000), StreamsGoOn, Thaw(Nats), Recovered];
            let long = [A_WHILE, Freeze(Nats), Wait(17_000, 17_500), StreamsGoOn, Thaw(Nats), Recovered, A_WHILE];
            [&short[..], &long[..]].concat()
        },
        expects: Expects::ALL,
        sabotage: Sabotage { how: Mistake("ack-unstored"), does: ACKS_UNSTORED, shows: Symptom::Lost },
    },
    Drill {
        name: "nats-cut",
        does: "cuts the link between hub and NATS: silently, by resets, to a trickle, and for the connections there are",
        seconds: 50,
        rounds: 1,
        scene: Scene { relays: &[Nats], ..BY_NATS },
        round: |_| {
            let cut = |line, while_cut: Step| {
                [A_WHILE, Step::Line(Nats, line), while_cut, StreamsGoOn, Step::Line(Nats, Line::Open), Recovered]
            };
            let ways = [
                cut(Line::Silent, Wait(16_000, 16_500)),
                cut(Line::Reset, Wait(3_000, 3_001)),
                cut(Line::Slow { bytes_per_second: 20_000 }, Wait(4_000, 4_001)),
                // Nothing is mended for it: the hub must find out by itself.
                cut(Line::Forgotten, Recovered),
            ];
            ways.concat()
        },
        expects: Expects::ALL,
        sabotage: Sabotage { how: Mistake("ack-unstored"), does: ACKS_UNSTORED, shows: Symptom::Lost },
    },
    Drill {
        name: "nats-full-subject",
        does: "has a gateway take nothing from NATS until its subject is full",
        seconds: 16,
        rounds: 1,
        scene: Scene {
            subject_messages: 8,
            transports: &[Transport::Nats, Transport::Nats, Transport::Grpc],
            ..BY_NATS
        },
        round: |_| vec![A_WHILE, Stall, Wait(6_000, 7_000), OthersGoOn, ReadOn, Recovered, A_WHILE],
        expects: Expects::ALL,
        sabotage: Sabotage { how: Mistake("ack-unstored"), does: ACKS_UNSTORED, shows: Symptom::Lost },
    },
    Drill {
        name: "nats-full",
        does: "has the whole stream take nothing more for seconds, twice, and the hub killed the second time",
        seconds: 20,
        rounds: 1,
        scene: Scene { breaks: &[Nats], ..BY_NATS },
        round: |_| {
            let once = [A_WHILE, Fill(true), Wait(3_000, 4_000), StreamsGoOn, Fill(false), Recovered];
            let again = [A_WHILE, Fill(true), A_WHILE, Kill(Hub), Start(Hub), Ready, StreamsGoOn, Fill(false)];
            [&once[..], &again[..], &[Recovered, A_WHILE]].concat()
        },
        expects: Expects::ALL,
        sabotage: Sabotage { how: Mistake("ack-unstored"), does: ACKS_UNSTORED, shows: Symptom::Lost },
    },
    Drill {
        name: "nats-storage-lost",
        does: "deletes what the NATS server has stored while a gateway has not taken all of it",
        seconds: 20,
        rounds: 1,
        scene: Scene { breaks: &[Nats], ..BY_NATS },
        round: |_| {
            let lost = [A_WHILE, Stall, A_WHILE, A_WHILE, Kill(Nats), LoseStorage, StreamsGoOn, Start(Nats)];
            [&lost[..], &[ReadOn, Recovered, A_WHILE]].concat().repeat(2)
        },
        expects: Expects { redelivers: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("trust-stream"), does: TRUSTS_STREAM, shows: Symptom::Lost },
    },
    Drill {
        name: "nats-restored",
        does: "puts the NATS server's storage back to what it was seconds before, with the hub looking on and away",
        seconds: 24,
        rounds: 1,
        scene: Scene { breaks: &[Nats], ..BY_NATS },
        round: |_| {
            let before = [A_WHILE, Kill(Nats), BackUp, Start(Nats), Recovered, Stall, A_WHILE, A_WHILE, Kill(Nats)];
            let here = [Restore, StreamsGoOn, Start(Nats), ReadOn, Recovered];
            let away = [Kill(Hub), Restore, Start(Nats), A_WHILE, Start(Hub), Ready, ReadOn, Recovered, A_WHILE];
            [&before[..], &here[..], &before[..], &away[..]].concat()
        },
        expects: Expects { redelivers: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("trust-stream"), does: TRUSTS_STREAM, shows: Symptom::Lost },
    },
    Drill {
        name: "nats-revoked",
        does: "has the NATS server know the hub no more for seconds",
        seconds: 14,
        rounds: 1,
        scene: Scene { breaks: &[Nats], ..BY_NATS },
        round: |_| vec![A_WHILE, Revoke(true), Wait(4_000, 5_000), StreamsGoOn, Revoke(false), Recovered, A_WHILE],
        expects: Expects::ALL,
        sabotage: Sabotage { how: Mistake("ack-unstored"), does: ACKS_UNSTORED, shows: Symptom::Lost },
    },
    Drill {
        name: "oplog-rolled-over",
        does: "stops the hub until the oplog no longer reaches back to where it was",
        seconds: 12,
        rounds: 1,
        scene: Scene { breaks: &[Mongod], mongod: SHORT_OPLOG, ..Scene::PLAIN },
        round: |_| vec![A_WHILE, Calm, Kill(Hub), Resume, A_WHILE, RollOplog, Start(Hub), Ready, Recovered, A_WHILE],
        expects: Expects { resyncs: &[ResyncReason::HistoryLost], loses: true, reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("swallow-loss"), does: SWALLOWS_LOSS, shows: Symptom::MissingResyncs },
    },
    Drill {
        name: "oplog-rolled-over-live",
        does: "stops the hub with SIGSTOP while the oplog rolls past its open cursor",
        seconds: 12,
        rounds: 1,
        scene: Scene { breaks: &[Mongod], mongod: SHORT_OPLOG, lease_seconds: 60, ..Scene::PLAIN },
        round: |_| vec![A_WHILE, Calm, Freeze(Hub), Resume, A_WHILE, RollOplog, Thaw(Hub), Recovered, A_WHILE],
        expects: Expects { resyncs: &[ResyncReason::HistoryLost], loses: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("swallow-loss"), does: SWALLOWS_LOSS, shows: Symptom::MissingResyncs },
    },
    Drill {
        name: "undecodable",
        does: "writes a document that cannot be delivered, while the hub looks on and while it is away",
        seconds: 10,
        rounds: 1,
        scene: Scene::PLAIN,
        round: |_| here_and_away(Undecodable),
        expects: Expects { resyncs: &[ResyncReason::Undecodable; 2], reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("swallow-gaps"), does: SWALLOWS_GAPS, shows: Symptom::MissingResyncs },
    },
    Drill {
        name: "oversize",
        does: "writes documents whose changes exceed 16 MB, or nearly, among the numbered ones",
        seconds: 10,
        rounds: 1,
        scene: Scene::PLAIN,
        round: |_| vec![A_WHILE, Write(Oversize), A_WHILE, Recovered],
        expects: Expects { flag: Some("reduced"), broadcasts: true, ..Expects::ALL },
        sabotage: Sabotage {
            how: Mistake("skip-reduced"),
            does: "a change whose body had to be left out is passed over",
            shows: Symptom::Lost,
        },
    },
    Drill {
        name: "images-off",
        does: "switches the recording of images off and on again under the hub",
        seconds: 16,
        rounds: 2,
        scene: Scene::PLAIN,
        round: |_| vec![A_WHILE, Write(Images(false)), A_WHILE, A_WHILE, Write(Images(true)), A_WHILE, Recovered],
        expects: Expects { flag: Some("lookup"), ..Expects::ALL },
        sabotage: Sabotage {
            how: Mistake("skip-look-ups"),
            does: "an update without a recorded image is passed over",
            shows: Symptom::Lost,
        },
    },
    Drill {
        name: "drop",
        does: "drops the watched collection and makes it anew, while the hub looks on and while it is away",
        seconds: 10,
        rounds: 1,
        scene: Scene::PLAIN,
        round: |_| here_and_away(Drop),
        expects: Expects { resyncs: &[ResyncReason::Invalidated; 2], reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("swallow-gaps"), does: SWALLOWS_GAPS, shows: Symptom::MissingResyncs },
    },
    Drill {
        name: "rename",
        does: "renames another collection onto the watched one, while the hub looks on and while it is away",
        seconds: 10,
        rounds: 1,
        scene: Scene::PLAIN,
        round: |_| here_and_away(RenameOnto),
        expects: Expects { resyncs: &[ResyncReason::Replaced; 2], reconnects: true, ..Expects::ALL },
        sabotage: Sabotage { how: Mistake("swallow-gaps"), does: SWALLOWS_GAPS, shows: Symptom::MissingResyncs },
    },
];

const ACKS_UNSTORED: &str = "what the NATS server does not answer for counts as stored";
const TRUSTS_STREAM: &str = "that the stream has lost something is overlooked";
const FORGETS: &str = "the hub begins at the present with each tenure, whatever the cursors say";
const JOINS_LATE: &str = "a catch-up joins the live tail one change late";
const RESUMES_AT_PRESENT: &str = "after an error or a silence the source reads on at the present";
const SWALLOWS_LOSS: &str = "lost history is passed over, and nobody is told";
const SWALLOWS_GAPS: &str = "what cannot be delivered is passed over, and nobody is told";

/// One of five kills hits a hub that is still starting.
fn restart(random: &mut ChaCha8Rng) -> Vec<Step> {
    let rest = |alive| vec![alive, Kill(Hub), Wait(0, 400), Start(Hub)];
    if random.random_ratio(1, 5) { rest(Wait(0, 300)) } else { [vec![Ready], rest(Wait(300, 2_500))].concat() }
}

/// The owner in each way, then each hub in turn, then those that lead the others.
fn cluster(_: &mut ChaCha8Rng) -> Vec<Step> {
    // That the others go on says that the partition has another owner.
    let broken = |breaking, mending| vec![A_WHILE, Aim, breaking, OthersGoOn, A_WHILE, mending, Ready, Recovered];
    [
        broken(Kill(Hub), Start(Hub)),
        broken(Freeze(Hub), Thaw(Hub)),
        broken(Step::Line(Etcd, Line::Silent), Step::Line(Etcd, Line::Open)),
        broken(Step::Line(Etcd, Line::Reset), Step::Line(Etcd, Line::Open)),
        vec![A_WHILE, Roll, Recovered],
        broken(Kill(Etcd), Start(Etcd)),
        broken(Kill(Mongod), Start(Mongod)),
    ]
    .concat()
}

/// Once while the hub looks on, and once while it is away.
fn here_and_away(odd: Odd) -> Vec<Step> {
    let here = [A_WHILE, Write(odd), A_WHILE, Recovered];
    let away = [Kill(Hub), Write(odd), A_WHILE, Start(Hub), Ready, Recovered];
    [&here[..], &away[..]].concat()
}

/// The link is cut in each way for so long.
fn cuts(milliseconds: u64) -> Vec<Step> {
    let cut = |line, while_cut: Step| {
        [A_WHILE, Step::Line(Mongod, line), while_cut, Step::Line(Mongod, Line::Open), Recovered]
    };
    let trickle = Line::Slow { bytes_per_second: 20_000 };
    [
        cut(Line::Silent, Still(milliseconds)),
        cut(Line::Reset, Still(milliseconds)),
        cut(trickle, Wait(milliseconds, milliseconds + 1)),
        // Nothing is mended for it: the hub must find out by itself.
        cut(Line::Forgotten, Recovered),
    ]
    .concat()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;
    use crate::sabotage::Sabotage as OfHub;

    fn rounds(drill: &Drill) -> Vec<Step> {
        (0..20).flat_map(|seed| (drill.round)(&mut ChaCha8Rng::seed_from_u64(seed))).collect()
    }

    #[test]
    fn names_are_names_and_mistakes_are_known() {
        let names: BTreeSet<&str> = DRILLS.iter().map(|drill| drill.name).collect();
        assert_eq!(names.len(), DRILLS.len());
        for drill in DRILLS {
            assert!(drill.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", drill.name);
            if let Mistake(name) = drill.sabotage.how {
                assert!(name.parse::<OfHub>().is_ok(), "{}: {name}", drill.name);
            }
        }
    }

    #[test]
    fn whatever_is_broken_is_mended_and_belongs_to_the_drill() {
        for drill in DRILLS {
            assert_mended(drill, &rounds(drill));
        }
    }

    /// Each thing that these steps break they mend, and only what the drill may break.
    pub(in super::super) fn assert_mended(drill: &Drill, steps: &[Step]) {
        let count = |wanted: &Step| steps.iter().filter(|step| *step == wanted).count();
        for server in [Hub, Mongod, Etcd, Nats] {
            let kills = count(&Kill(server)) + if server == Hub { count(&KillInTransaction) } else { 0 };
            assert_eq!(kills, count(&Start(server)), "{}: kills and starts of {server:?}", drill.name);
            assert_eq!(count(&Freeze(server)), count(&Thaw(server)), "{}: {server:?}", drill.name);
            let broken = kills + count(&Freeze(server)) > 0;
            assert!(!broken || server == Hub || drill.scene.breaks.contains(&server), "{}", drill.name);
            let cuts = |open: bool| {
                let is_one = |step: &&Step| matches!(step, Step::Line(to, line) if *to == server && (*line == Line::Open) == open);
                steps.iter().filter(is_one).count()
            };
            assert_eq!(cuts(false), cuts(true), "{}: the line to {server:?}", drill.name);
            assert!(cuts(false) == 0 || drill.scene.relays.contains(&server), "{}", drill.name);
        }
        let pairs = [(Calm, Resume), (Stall, ReadOn), (Fill(true), Fill(false)), (Revoke(true), Revoke(false))];
        for (from, to) in pairs.into_iter().chain([(Write(Images(false)), Write(Images(true)))]) {
            assert_eq!(count(&from), count(&to), "{}: {from:?}", drill.name);
        }
        assert_eq!(drill.expects.loses, count(&Calm) > 0, "{}", drill.name);
    }
}
