//! What was delivered against what had to be.
//!
//! Owns the counting, and nothing else: no server, no clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rules::RULES;
use super::writer::Write;
use crate::position::Position;

/// One match that a gateway was handed, in the order of its hand-over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Which of [`RULES`].
    pub(super) rule: usize,
    /// The write's number, read from the delivered document.
    pub(super) number: u64,
    pub(super) key: String,
    pub(super) position: Position,
}

/// The counts; all but the first must be zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    /// Matches that had to arrive.
    pub(super) expected: u64,
    /// Matches that never arrived.
    pub(super) lost: u64,
    /// Matches that arrived again behind the client's check.
    pub(super) duplicated: u64,
    /// Matches that arrived at or before a position, or a number, that their subscription had reached.
    pub(super) misordered: u64,
    /// Matches that arrived though the rule does not want them.
    pub(super) unexpected: u64,
    /// Keys of which the sequence of delivered numbers differs from the one written.
    pub(super) checksums: u64,
}

impl Verdict {
    pub(super) fn is_clean(&self) -> bool {
        let Self { expected: _, lost, duplicated, misordered, unexpected, checksums } = *self;
        lost + duplicated + misordered + unexpected + checksums == 0
    }

    /// Together with another gateway's.
    pub(super) fn add(&mut self, other: &Self) {
        self.expected += other.expected;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.misordered += other.misordered;
        self.unexpected += other.unexpected;
        self.checksums += other.checksums;
    }
}

/// One gateway's verdict.
pub(super) fn judge(written: &[Write], seen: &[Seen]) -> Verdict {
    let mut verdict = Verdict::default();
    for (index, rule) in RULES.iter().enumerate() {
        let expected: Vec<&Write> = written.iter().filter(|write| (rule.wants)(write)).collect();
        let got: Vec<&Seen> = seen.iter().filter(|seen| seen.rule == index).collect();
        verdict.add(&judge_one(&expected, &got));
    }
    verdict
}

fn judge_one(expected: &[&Write], got: &[&Seen]) -> Verdict {
    let mut times: BTreeMap<u64, u64> = expected.iter().map(|write| (write.number, 0)).collect();
    let mut verdict = Verdict { expected: expected.len() as u64, ..Verdict::default() };
    let mut reached: Option<(Position, u64)> = None;
    for seen in got {
        match times.get_mut(&seen.number) {
            None => verdict.unexpected += 1,
            Some(times) => {
                *times += 1;
                if *times > 1 {
                    verdict.duplicated += 1;
                    continue;
                }
            }
        }
        match reached {
            Some((position, number)) if seen.position <= position || seen.number <= number => verdict.misordered += 1,
            _ => reached = Some((seen.position, seen.number)),
        }
    }
    verdict.lost = times.values().filter(|times| **times == 0).count() as u64;
    let written = checksums(expected.iter().map(|write| (write.key.as_str(), write.number)));
    let delivered = checksums(got.iter().map(|seen| (seen.key.as_str(), seen.number)));
    let differ = |(key, sum): (&&str, &u64)| delivered.get(key) != Some(sum);
    let unknown = delivered.keys().filter(|key| !written.contains_key(*key)).count();
    verdict.checksums = (written.iter().filter(|(key, sum)| differ((key, sum))).count() + unknown) as u64;
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
    use crate::position::{ClusterTime, Epoch};

    fn written(count: u64) -> Vec<Write> {
        let key = |number| format!("k-{}", number % 3);
        (0..count).map(|number| Write { number, key: key(number), operation: Operation::Update }).collect()
    }

    /// What a perfect hub would deliver.
    fn delivered(written: &[Write]) -> Vec<Seen> {
        let seen = |write: &Write, rule| Seen {
            rule,
            number: write.number,
            key: write.key.clone(),
            position: Position::new(Epoch(1), ClusterTime(write.number), 1),
        };
        let rules = |write| (0..RULES.len()).filter(move |rule| (RULES[*rule].wants)(write));
        written.iter().flat_map(|write| rules(write).map(move |rule| seen(write, rule))).collect()
    }

    #[test]
    fn a_perfect_delivery_is_clean() {
        let written = written(100);
        let verdict = judge(&written, &delivered(&written));
        assert!(verdict.is_clean() && verdict.expected > 200, "{verdict:?}");
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
        assert!(!verdict.is_clean());
    }

    #[test]
    fn nothing_delivered_is_everything_lost() {
        let written = written(10);
        let verdict = judge(&written, &[]);
        assert_eq!(verdict.lost, verdict.expected);
        assert!(!verdict.is_clean());
    }
}
