//! What was delivered against what had to be.
//!
//! Owns the counting, and nothing else: no server, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::consumer::Resync;
use super::rules::RULES;
use super::writer::Write;
use crate::change::ResyncReason;
use crate::position::{ClusterTime, Position};

/// One match that a gateway was handed, in the order of its hand-over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Which of [`RULES`].
    pub(super) rule: usize,
    /// The write's number, read from the delivered document.
    pub(super) number: u64,
    pub(super) key: Arc<str>,
    pub(super) position: Position,
    /// The `progress` that it came behind, though that had said that everything up to there was sent.
    pub(super) behind: Option<ClusterTime>,
    /// The hub said that it may have been handed over before.
    pub(super) redelivered: bool,
    /// The hub said that it may not be wanted.
    pub(super) broadcast: bool,
}

/// What one gateway was handed.
pub(super) struct Delivered<'a> {
    pub(super) seen: &'a [Seen],
    pub(super) resyncs: &'a [Resync],
}

/// What had to become of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Duty {
    /// What each subscription must be told, each once.
    pub(super) resyncs: Vec<ResyncReason>,
    /// Only what was written in these spans may be missing, and only if a resync says so.
    pub(super) losses: Vec<(ClusterTime, ClusterTime)>,
    /// Whether something may come again, if it says that it does.
    pub(super) redelivers: bool,
    /// Whether something may come that nobody wants, if it says that it may be so.
    pub(super) broadcasts: bool,
}

/// The counts. Those of [`Self::faults`] must be zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    /// Matches that had to arrive, but for those in a range that was resynced.
    pub(super) expected: u64,
    /// Matches that were lost as they had to be: the fault made it so, and a resync said so.
    pub(super) resynced: u64,
    /// Matches that came again, and said so, where they may.
    pub(super) redelivered: u64,
    /// Matches that nobody wants, and that said so, where they may.
    pub(super) broadcast: u64,
    /// Matches that never arrived.
    pub(super) lost: u64,
    /// Matches that arrived again behind the consumer's check.
    pub(super) duplicated: u64,
    /// Matches that arrived at or before a position, or a number, that their subscription had reached.
    pub(super) misordered: u64,
    /// Matches that arrived though the rule does not want them, or though their write was undone.
    pub(super) unexpected: u64,
    /// Keys of which the sequence of delivered numbers differs from the one written.
    pub(super) checksums: u64,
    /// Matches that arrived after `progress` had said that everything up to there was sent.
    pub(super) late: u64,
    /// Resyncs that a subscription had to be told and was not.
    pub(super) missing_resyncs: u64,
    /// Resyncs that a subscription was told without need.
    pub(super) superfluous_resyncs: u64,
}

impl Verdict {
    /// What must be zero, by name.
    pub(super) fn faults(&self) -> [(u64, &'static str); 8] {
        [
            (self.lost, "lost"),
            (self.duplicated, "duplicated"),
            (self.misordered, "misordered"),
            (self.unexpected, "unexpected"),
            (self.checksums, "keys with wrong checksums"),
            (self.late, "late"),
            (self.missing_resyncs, "missing resyncs"),
            (self.superfluous_resyncs, "superfluous resyncs"),
        ]
    }

    /// Together with another gateway's.
    pub(super) fn add(&mut self, other: &Self) {
        self.expected += other.expected;
        self.resynced += other.resynced;
        self.redelivered += other.redelivered;
        self.broadcast += other.broadcast;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.misordered += other.misordered;
        self.unexpected += other.unexpected;
        self.checksums += other.checksums;
        self.late += other.late;
        self.missing_resyncs += other.missing_resyncs;
        self.superfluous_resyncs += other.superfluous_resyncs;
    }
}

/// Faults that are described; one is mostly like the next.
const EXAMPLES_MAX: usize = 12;

/// One gateway's verdict, and some of what is wrong in words.
pub(super) fn judge(written: &[Write], delivered: &Delivered<'_>, duty: &Duty, examples: &mut Vec<String>) -> Verdict {
    let mut verdict = Verdict::default();
    for (index, rule) in RULES.iter().enumerate() {
        let expected: Vec<&Write> = written.iter().filter(|write| (rule.wants)(write)).collect();
        let got: Vec<&Seen> = delivered.seen.iter().filter(|seen| seen.rule == index).collect();
        let told: Vec<&Resync> = delivered.resyncs.iter().filter(|resync| resync.rules.contains(&index)).collect();
        let mut of_rule = Vec::new();
        verdict.add(&judge_matches(&expected, &got, &told, duty, &mut of_rule));
        verdict.add(&judge_resyncs(&told, &duty.resyncs, &mut of_rule));
        verdict.late += late(&got, ClusterTime(0));
        let room = EXAMPLES_MAX.saturating_sub(examples.len());
        examples.extend(of_rule.into_iter().take(room).map(|example| format!("{}: {example}", rule.name)));
    }
    verdict
}

/// Of one subscription, of which these writes are expected.
pub(super) fn judge_matches(
    expected: &[&Write],
    got: &[&Seen],
    told: &[&Resync],
    duty: &Duty,
    examples: &mut Vec<String>,
) -> Verdict {
    let mut times: BTreeMap<u64, u64> = expected.iter().map(|write| (write.number, 0)).collect();
    let mut verdict = Verdict::default();
    let mut reached: Option<(Position, u64)> = None;
    let mut first_times = Vec::new();
    for seen in got {
        match times.get_mut(&seen.number) {
            None if duty.broadcasts && seen.broadcast => {
                verdict.broadcast += 1;
                continue;
            }
            None => {
                verdict.unexpected += 1;
                examples.push(format!("unexpected {seen:?}"));
            }
            Some(times) => {
                *times += 1;
                if *times > 1 {
                    let is_fair = duty.redelivers && seen.redelivered;
                    *(if is_fair { &mut verdict.redelivered } else { &mut verdict.duplicated }) += 1;
                    if !is_fair {
                        examples.push(format!("again {seen:?}"));
                    }
                    continue;
                }
            }
        }
        first_times.push(seen);
        match reached {
            Some((position, number)) if seen.position <= position || seen.number <= number => {
                verdict.misordered += 1;
                examples.push(format!("after {number} at {position:?} came {seen:?}"));
            }
            _ => reached = Some((seen.position, seen.number)),
        }
    }
    let is_missing = |write: &&&Write| times[&write.number] == 0;
    let excused: BTreeSet<u64> = expected
        .iter()
        .filter(is_missing)
        .filter(|write| duty.losses.iter().any(|span| lies_in(write, *span)))
        .filter(|write| told.iter().any(|resync| may_cover(resync, write)))
        .map(|write| write.number)
        .collect();
    verdict.resynced = excused.len() as u64;
    verdict.expected = (expected.len() - excused.len()) as u64;
    let lost = expected.iter().filter(is_missing).filter(|write| !excused.contains(&write.number));
    examples.extend(lost.clone().map(|write| format!("lost {write:?}")));
    verdict.lost = lost.count() as u64;
    let owed = expected.iter().filter(|write| !excused.contains(&write.number));
    let written = checksums(owed.map(|write| (write.key.as_str(), write.number)));
    let delivered = checksums(first_times.iter().map(|seen| (&*seen.key, seen.number)));
    let differ = |(key, sum): (&&str, &u64)| delivered.get(key) != Some(sum);
    let unknown = delivered.keys().filter(|key| !written.contains_key(*key)).count();
    verdict.checksums = (written.iter().filter(|(key, sum)| differ((key, sum))).count() + unknown) as u64;
    verdict
}

/// Matches that came behind a `progress` that was said for their subscription: one of this time or later.
pub(super) fn late(got: &[&Seen], since: ClusterTime) -> u64 {
    got.iter().filter(|seen| seen.behind.is_some_and(|progress| progress >= since)).count() as u64
}

/// Whether the write was made in this span, which begins and ends while nothing is being written.
fn lies_in(write: &Write, (begin, end): (ClusterTime, ClusterTime)) -> bool {
    begin <= write.after && write.after < end
}

/// Whether the write may lie in the range. Of its time only the bounds are known.
fn may_cover(resync: &Resync, write: &Write) -> bool {
    resync.from.is_none_or(|from| from.time <= write.until) && write.after <= resync.to.time
}

/// The same one said again, after a reconnect, is one.
pub(super) fn judge_resyncs(told: &[&Resync], due: &[ResyncReason], examples: &mut Vec<String>) -> Verdict {
    let distinct: BTreeSet<(&str, Position)> = told.iter().map(|resync| (resync.reason.name(), resync.to)).collect();
    let mut left: Vec<&str> = due.iter().map(|reason| reason.name()).collect();
    let mut verdict = Verdict::default();
    for (reason, _) in distinct {
        match left.iter().position(|due| *due == reason) {
            Some(at) => drop(left.swap_remove(at)),
            None => {
                verdict.superfluous_resyncs += 1;
                examples.push(format!("superfluous among {told:?}"));
            }
        }
    }
    verdict.missing_resyncs = left.len() as u64;
    examples.extend(left.iter().map(|reason| format!("no resync {reason}")));
    verdict
}

/// For each key a sum of its numbers in which their order counts: FNV-1a, 64 bits (Fowler, Noll, Vo).
fn checksums<'a>(numbers: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<&'a str, u64> {
    let mut sums = BTreeMap::new();
    for (key, number) in numbers {
        let sum = sums.entry(key).or_insert(0xcbf2_9ce4_8422_2325_u64);
        for byte in number.to_le_bytes() {
            *sum = (*sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Operation;
    use crate::position::Epoch;

    fn written(count: u64) -> Vec<Write> {
        let key = |number| format!("k-{}", number % 3);
        let write = |number| Write {
            number,
            key: key(number),
            operation: Operation::Update,
            after: ClusterTime(number.saturating_sub(1)),
            until: ClusterTime(number),
        };
        (0..count).map(write).collect()
    }

    /// What a perfect hub would deliver.
    fn delivered(written: &[Write]) -> Vec<Seen> {
        let seen = |write: &Write, rule| Seen {
            rule,
            number: write.number,
            key: write.key.as_str().into(),
            position: Position::new(Epoch(1), ClusterTime(write.number), 1),
            behind: None,
            redelivered: false,
            broadcast: false,
        };
        let rules = |write| (0..RULES.len()).filter(move |rule| (RULES[*rule].wants)(write));
        written.iter().flat_map(|write| rules(write).map(move |rule| seen(write, rule))).collect()
    }

    fn judge(written: &[Write], seen: &[Seen]) -> Verdict {
        judge_with(written, seen, &[], &Duty::default())
    }

    fn judge_with(written: &[Write], seen: &[Seen], resyncs: &[Resync], duty: &Duty) -> Verdict {
        super::judge(written, &Delivered { seen, resyncs }, duty, &mut Vec::new())
    }

    fn is_clean(verdict: &Verdict) -> bool {
        verdict.faults().iter().all(|(count, _)| *count == 0)
    }

    /// A resync that tells everybody of (from, to].
    fn resync(from: u64, to: u64) -> Resync {
        let at = |time| Position::new(Epoch(1), ClusterTime(time), 0);
        let rules = (0..RULES.len()).collect();
        Resync { reason: ResyncReason::HistoryLost, from: Some(at(from)), to: at(to), rules }
    }

    fn duty(resyncs: usize, losses: &[(u64, u64)]) -> Duty {
        Duty {
            resyncs: vec![ResyncReason::HistoryLost; resyncs],
            losses: losses.iter().map(|(begin, end)| (ClusterTime(*begin), ClusterTime(*end))).collect(),
            ..Duty::default()
        }
    }

    #[test]
    fn a_perfect_delivery_is_clean() {
        let written = written(100);
        let verdict = judge(&written, &delivered(&written));
        assert!(is_clean(&verdict) && verdict.expected > 200, "{verdict:?}");
    }

    #[test]
    fn each_fault_is_counted() {
        let written = written(100);
        let perfect = delivered(&written);
        let of_all: Vec<usize> = (0..perfect.len()).filter(|at| perfect[*at].rule == 0).collect();

        let mut lost = perfect.clone();
        lost.remove(of_all[50]);
        let verdict = judge(&written, &lost);
        assert_eq!((verdict.lost, verdict.checksums, verdict.duplicated, verdict.misordered), (1, 1, 0, 0));

        let mut twice = perfect.clone();
        twice.push(perfect[of_all[50]].clone());
        let verdict = judge(&written, &twice);
        assert_eq!((verdict.lost, verdict.duplicated, verdict.misordered), (0, 1, 0));

        let mut swapped = perfect.clone();
        swapped.swap(of_all[50], of_all[51]);
        let verdict = judge(&written, &swapped);
        assert_eq!((verdict.lost, verdict.duplicated, verdict.misordered), (0, 0, 1));

        let mut wrong = perfect.clone();
        wrong[of_all[50]].rule = 1 + usize::from(perfect[of_all[50]].number.is_multiple_of(2));
        let verdict = judge(&written, &wrong);
        assert_eq!((verdict.lost, verdict.unexpected), (1, 1));
        assert!(!is_clean(&verdict));

        let mut behind = perfect;
        behind[of_all[50]].behind = Some(ClusterTime(70));
        assert_eq!(judge(&written, &behind).late, 1);
    }

    #[test]
    fn nothing_delivered_is_everything_lost() {
        let written = written(10);
        let verdict = judge(&written, &[]);
        assert_eq!(verdict.lost, verdict.expected);
        assert!(!is_clean(&verdict));
    }

    #[test]
    fn what_a_resync_told_of_may_be_missing_where_the_fault_was_and_nowhere_else() {
        let written = written(100);
        let without = |range: std::ops::Range<u64>| {
            let mut seen = delivered(&written);
            seen.retain(|seen| !range.contains(&seen.number));
            seen
        };
        let verdict = judge_with(&written, &without(40..60), &[resync(39, 60)], &duty(1, &[(30, 70)]));
        assert!(is_clean(&verdict) && verdict.resynced > 20, "{verdict:?}");
        // Told again after a reconnect it is still one.
        let again = [resync(39, 60), resync(35, 60)];
        assert!(is_clean(&judge_with(&written, &without(40..60), &again, &duty(1, &[(30, 70)]))));
        // Outside of the range, outside of the fault.
        assert!(judge_with(&written, &without(20..60), &[resync(39, 60)], &duty(1, &[(10, 70)])).lost > 0);
        assert!(judge_with(&written, &without(40..60), &[resync(39, 60)], &duty(1, &[(30, 50)])).lost > 0);
    }

    #[test]
    fn resyncs_are_missing_or_superfluous_by_subscription() {
        let written = written(100);
        let seen = delivered(&written);
        let rules = RULES.len() as u64;
        let told = |resyncs: &[Resync], due| judge_with(&written, &seen, resyncs, &duty(due, &[]));
        assert_eq!(told(&[], 1).missing_resyncs, rules);
        assert_eq!(told(&[resync(1, 2)], 0).superfluous_resyncs, rules);
        assert_eq!(told(&[resync(1, 2), resync(3, 4)], 1).superfluous_resyncs, rules);
        let of_one = Resync { rules: vec![3], ..resync(1, 2) };
        assert_eq!(told(&[of_one], 1).missing_resyncs, rules - 1);
        let other = Resync { reason: ResyncReason::Oversize, ..resync(1, 2) };
        let verdict = told(&[other], 1);
        assert_eq!((verdict.missing_resyncs, verdict.superfluous_resyncs), (rules, rules));
    }

    #[test]
    fn what_comes_again_must_say_so_and_only_where_it_may() {
        let written = written(10);
        let mut seen = delivered(&written);
        seen.push(Seen { redelivered: true, ..seen[0].clone() });
        let verdict = judge_with(&written, &seen, &[], &Duty { redelivers: true, ..Duty::default() });
        assert!(is_clean(&verdict) && verdict.redelivered == 1, "{verdict:?}");
        assert_eq!(judge_with(&written, &seen, &[], &Duty::default()).duplicated, 1);
        let last = seen.pop().unwrap();
        let unwanted = RULES.iter().position(|rule| !(rule.wants)(&written[9])).unwrap();
        let position = Position::new(Epoch(1), ClusterTime(9), 1);
        seen.push(Seen { rule: unwanted, number: 9, position, redelivered: false, broadcast: true, ..last });
        let verdict = judge_with(&written, &seen, &[], &Duty { broadcasts: true, ..Duty::default() });
        assert!(is_clean(&verdict) && verdict.broadcast == 1, "{verdict:?}");
        assert_eq!(judge_with(&written, &seen, &[], &Duty::default()).unexpected, 1);
    }
}
