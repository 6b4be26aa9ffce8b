//! Random subscriptions that come and go beside the fixed ones, and the verdict on them.
//!
//! Owns their registration and removal by HTTP, and what is owed to them: from `activeFrom` on everything;
//! until their removal all that their gateway was told was sent; what was under way then may come, without
//! holes, and soon nothing more. A `progress` speaks of those who were registered when it was said: a store
//! that stands still holds a registration up, and `progress` passes its `activeFrom` meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::super::rig::Database;
use super::gateway::{Outcome, Standing};
use super::rules::{RULES, Wish, guest_name};
use super::schedule::Visit;
use super::verdict::{Duty, Seen, Verdict, judge_matches, judge_resyncs, late};
use super::writer::Write;
use crate::client::{Registration, RegistrationError};
use crate::position::{ClusterTime, Position};

/// How long an answer is waited for before it is asked again.
const ANSWER: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// What is committed so long after a removal was answered must not be handed over.
const GRACE_SECONDS: u32 = 5;

/// A random subscription that has come.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// Its number, by which it is named.
    number: usize,
    gateway: usize,
    wish: Wish,
    /// As the hub answered: what comes after is owed.
    active_from: Position,
    /// A `progress` of this time or later was said after the registration was answered; none if nobody could tell
    /// the time.
    heeded_from: Option<ClusterTime>,
    removal: Option<Removal>,
}

#[derive(Clone, Copy, Debug)]
struct Removal {
    /// What its gateway had for good before the removal was asked for; none if none of that was said of it.
    owed: Option<ClusterTime>,
    /// From here on nothing may come; none if nobody could tell the time.
    over: Option<ClusterTime>,
}

/// Lets them come and go.
pub(super) struct Guests {
    pub(super) registration: Registration,
    pub(super) database: Database,
    pub(super) gateways: Vec<(String, watch::Receiver<Standing>)>,
    pub(super) visits: Vec<Visit>,
    pub(super) stop: CancellationToken,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Move {
    Come,
    Go,
}

impl Guests {
    /// Each comes and goes at its time, or as soon as the hub lets it, until told to stop. Those who are there then
    /// stay.
    pub(super) async fn run(self) -> anyhow::Result<Vec<Guest>> {
        let began = Instant::now();
        let mut guests = BTreeMap::new();
        for (at, what, number) in moves(&self.visits) {
            tokio::select! {
                () = sleep_until(began + at) => {}
                () = self.stop.cancelled() => break,
            }
            match what {
                Move::Come => drop(guests.insert(number, self.come(number).await?)),
                Move::Go => {
                    let guest: &mut Guest = guests.get_mut(&number).context("nobody goes who has not come")?;
                    guest.removal = Some(self.go(guest).await?);
                }
            }
        }
        Ok(guests.into_values().collect())
    }

    async fn come(&self, number: usize) -> anyhow::Result<Guest> {
        let Visit { gateway, wish, .. } = &self.visits[number];
        let subscription = wish.subscription(&self.gateways[*gateway].0, guest_name(number));
        let registered = answered(|| self.registration.register(&subscription)).await?;
        let active_from = registered.active_from.values().min().context("a registration without activeFrom")?;
        // Any time after the answer will do, but without one the guest could hardly be judged.
        let heeded_from = loop {
            match self.now().await {
                None if !self.stop.is_cancelled() => sleep(ASK_AGAIN).await,
                told => break told,
            }
        };
        let (wish, active_from) = (wish.clone(), *active_from);
        Ok(Guest { number, gateway: *gateway, wish, active_from, heeded_from, removal: None })
    }

    async fn go(&self, guest: &Guest) -> anyhow::Result<Removal> {
        let (gateway, standing) = &self.gateways[guest.gateway];
        let (progress, name) = (standing.borrow().progress, guest_name(guest.number));
        answered(|| self.registration.unregister(gateway, &name)).await?;
        let owed = guest.heeded_from.and_then(|from| (progress >= from).then_some(progress));
        let over = self.now().await.map(|now| ClusterTime::new(now.seconds() + GRACE_SECONDS, 0));
        Ok(Removal { owed, over })
    }

    /// The server's time. One that is broken just now tells none.
    async fn now(&self) -> Option<ClusterTime> {
        timeout(ANSWER, self.database.now()).await.ok().and_then(Result::ok)
    }
}

/// In the order of their times.
fn moves(visits: &[Visit]) -> Vec<(Duration, Move, usize)> {
    let both = |(number, visit): (usize, &Visit)| [(visit.comes, Move::Come, number), (visit.goes, Move::Go, number)];
    let mut moves: Vec<_> = visits.iter().enumerate().flat_map(both).collect();
    moves.sort();
    moves
}

/// A hub that is broken is asked again; one that refuses is at fault.
async fn answered<T, F>(call: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, RegistrationError>>,
{
    loop {
        match timeout(ANSWER, call()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(RegistrationError::Refused(refused))) if refused.status < 500 && refused.status != 429 => {
                bail!("a random subscription is refused: {refused}");
            }
            _ => sleep(ASK_AGAIN).await,
        }
    }
}

/// How the guests of one gateway have fared, and some of what is wrong in words.
pub(super) fn judge_guests(
    guests: &[&Guest],
    written: &[Write],
    outcome: &Outcome,
    duty: &Duty,
    examples: &mut Vec<String>,
) -> Verdict {
    let mut seen: BTreeMap<usize, Vec<&Seen>> = BTreeMap::new();
    let mut positions = HashMap::new();
    for one in &outcome.seen {
        if one.rule >= RULES.len() {
            seen.entry(one.rule - RULES.len()).or_default().push(one);
        } else {
            positions.entry(one.number).or_insert(one.position);
        }
    }
    let mut verdict = Verdict::default();
    for guest in guests {
        let got = seen.remove(&guest.number).unwrap_or_default();
        let rule = RULES.len() + guest.number;
        let told: Vec<_> = outcome.resyncs.iter().filter(|resync| resync.rules.contains(&rule)).collect();
        let expected = guest.expected(written, &positions, &got);
        let mut of_guest = Vec::new();
        verdict.add(&judge_matches(&expected, &got, &told, duty, &mut of_guest));
        // Which of the resyncs it lived to see nobody knows.
        let of_resyncs = Verdict { missing_resyncs: 0, ..judge_resyncs(&told, &duty.resyncs, &mut Vec::new()) };
        verdict.add(&of_resyncs);
        verdict.late += guest.heeded_from.map_or(0, |from| late(&got, from));
        if !of_guest.is_empty() {
            of_guest.truncate(EXAMPLES_OF_ONE);
            examples.extend(of_guest.into_iter().map(|example| format!("{guest:?}: {example}")));
        }
    }
    for (number, got) in seen {
        verdict.unexpected += got.len() as u64;
        examples.push(format!("{} came for guest-{number}, who is not of this gateway", got.len()));
    }
    examples.truncate(EXAMPLES_OF_ALL);
    verdict
}

/// Faults that are described.
const EXAMPLES_OF_ONE: usize = 3;
const EXAMPLES_OF_ALL: usize = 24;

impl Guest {
    pub(super) fn gateway(&self) -> usize {
        self.gateway
    }

    pub(super) fn is_gone(&self) -> bool {
        self.removal.is_some()
    }

    /// The writes that must be among `got`. Of those that were under way at the removal these are all before the last
    /// one that came.
    fn expected<'a>(&self, written: &'a [Write], positions: &HashMap<u64, Position>, got: &[&Seen]) -> Vec<&'a Write> {
        let first = written.partition_point(|write| write.until < self.active_from.time);
        let last_seen = got.iter().map(|seen| seen.number).max();
        let is_due = |write: &&Write| {
            // One that the fixed subscriptions did not get is called lost there; here only if its bounds say enough.
            let position = positions.get(&write.number);
            let (begun, owed) = match position {
                Some(position) => (*position > self.active_from, position.time),
                None => (write.after >= self.active_from.time, write.until),
            };
            let is_owed = match self.removal {
                None => true,
                Some(removal) if removal.owed.is_some_and(|until| owed < until) => true,
                Some(removal) => {
                    removal.over.is_none_or(|over| owed < over) && last_seen.is_some_and(|last| write.number <= last)
                }
            };
            begun && is_owed && self.wish.wants(write)
        };
        // Nothing later than both can be due.
        let end = self.removal.map_or(written.len(), |removal| {
            let may_be_due = |write: &Write| {
                removal.owed.is_some_and(|until| write.after < until) || last_seen.is_some_and(|n| write.number <= n)
            };
            written.partition_point(may_be_due)
        });
        written[first..end.max(first)].iter().filter(is_due).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Operation;
    use crate::position::Epoch;

    const COUNT: u64 = 100;
    const EVEN: Wish = Wish::Parity(0);

    fn at(number: u64) -> Position {
        // A cluster time's upper half are seconds.
        Position::new(Epoch(1), ClusterTime::new(number as u32, 1), 1)
    }

    fn written() -> Vec<Write> {
        let bound = |number: u64| ClusterTime::new(number as u32, 5);
        let write = |number| Write {
            number,
            key: format!("k-{}", number % 3),
            operation: Operation::Update,
            after: bound(number - 1),
            until: bound(number),
        };
        (1..=COUNT).map(write).collect()
    }

    fn seen(rule: usize, number: u64) -> Seen {
        let key = format!("k-{}", number % 3).into();
        Seen { rule, number, key, position: at(number), behind: None, redelivered: false, broadcast: false }
    }

    /// Of one guest who has come at 20 and gone at 60, and was handed these; the fixed subscription has all.
    fn judged(numbers: impl IntoIterator<Item = u64>) -> Verdict {
        judged_with(numbers, Some(Removal { owed: Some(at(60).time), over: Some(at(65).time) }))
    }

    fn judged_with(numbers: impl IntoIterator<Item = u64>, removal: Option<Removal>) -> Verdict {
        judged_seen(numbers.into_iter().map(|number| seen(RULES.len() + 3, number)), removal)
    }

    fn judged_seen(of_guest: impl IntoIterator<Item = Seen>, removal: Option<Removal>) -> Verdict {
        let heeded_from = Some(at(30).time);
        let guest = Guest { number: 3, gateway: 0, wish: EVEN, active_from: at(20), heeded_from, removal };
        let all = (1..=COUNT).map(|number| seen(0, number)).chain(of_guest).collect();
        let outcome = Outcome { seen: all, ..Outcome::default() };
        judge_guests(&[&guest], &written(), &outcome, &Duty::default(), &mut Vec::new())
    }

    fn even(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
        range.filter(|number| number.is_multiple_of(2)).collect()
    }

    fn faults(verdict: &Verdict) -> u64 {
        verdict.faults().iter().map(|(count, _)| count).sum()
    }

    #[test]
    fn what_is_owed_is_exact_at_the_beginning_and_tolerant_at_the_end() {
        for last in [59, 60, 62, 64] {
            let verdict = judged(even(22..=last));
            assert_eq!(faults(&verdict), 0, "until {last}: {verdict:?}");
            assert_eq!(verdict.expected, (last - 20) / 2);
        }
        assert_eq!(judged(even(20..=60)).unexpected, 1, "at activeFrom");
        assert_eq!(judged(even(24..=60)).lost, 1, "after activeFrom");
        assert_eq!(judged(even(22..=56)).lost, 1, "before the removal");
        assert_eq!(judged(even(22..=66)).unexpected, 1, "long after the removal");
        assert_eq!(judged([even(22..=60), vec![64]].concat()).lost, 1, "a hole in what was under way");
    }

    #[test]
    fn who_stays_gets_all_and_who_gets_nothing_has_lost_it() {
        assert_eq!(faults(&judged_with(even(22..=COUNT), None)), 0);
        assert_eq!(judged_with(even(22..=98), None).lost, 1);
        assert_eq!(judged([]).lost, 19);
    }

    #[test]
    fn progress_said_before_the_registration_was_answered_counts_for_nothing() {
        let told = |behind: u64, number| Seen { behind: Some(at(behind).time), ..seen(RULES.len() + 3, number) };
        let rest = || even(24..=COUNT).into_iter().map(|number| seen(RULES.len() + 3, number));
        assert_eq!(judged_seen([told(29, 22)].into_iter().chain(rest()), None).late, 0);
        assert_eq!(judged_seen([told(30, 22)].into_iter().chain(rest()), None).late, 1);
        // One that left before any `progress` was said of it may have got nothing.
        let removal = Removal { owed: None, over: Some(at(65).time) };
        assert_eq!(faults(&judged_with([], Some(removal))), 0);
        assert_eq!(judged_with([24], Some(removal)).lost, 1);
    }

    #[test]
    fn what_nobody_asked_for_is_unexpected() {
        assert_eq!(judged([even(22..=60), vec![61]].concat()).unexpected, 1);
        let outcome = Outcome { seen: vec![seen(RULES.len() + 9, 5)], ..Outcome::default() };
        assert_eq!(judge_guests(&[], &written(), &outcome, &Duty::default(), &mut Vec::new()).unexpected, 1);
    }

    #[test]
    fn nobody_goes_before_having_come() {
        let visit = |comes, goes| Visit {
            gateway: 0,
            wish: EVEN,
            comes: Duration::from_secs(comes),
            goes: Duration::from_secs(goes),
        };
        let order: Vec<usize> = moves(&[visit(1, 9), visit(2, 3)]).into_iter().map(|(_, _, number)| number).collect();
        assert_eq!(order, [0, 1, 1, 0]);
    }
}
