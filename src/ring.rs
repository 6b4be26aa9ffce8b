//! Consistent hashing: who of several members has a key.
//!
//! Owns the ring. Every node that knows the same members comes to the same answer, whatever its version: points are
//! SHA-256, not a hash of the standard library. Source of the method: Karger et al., "Consistent Hashing and Random
//! Trees", STOC 1997; virtual nodes as in Stoica et al., "Chord", SIGCOMM 2001.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::limits;

/// A ring with [`limits::ring_points_per_member`] points a member.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// In order. Two members on one point: the lesser name has it.
    points: Vec<(u64, Arc<str>)>,
}

fn point(parts: [&str; 2]) -> u64 {
    // No name holds the separator.
    let digest = Sha256::new().chain_update(parts[0]).chain_update([0]).chain_update(parts[1]).finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// Where a key lies on every ring.
pub fn point_of(key: &str) -> u64 {
    point(["", key])
}

impl Ring {
    /// Of these members.
    pub fn new(members: impl IntoIterator<Item = Arc<str>>) -> Self {
        let of = |member: Arc<str>| {
            let at = move |number: usize| (point([&member, &number.to_string()]), Arc::clone(&member));
            (0..limits::ring_points_per_member).map(at)
        };
        let mut points: Vec<_> = members.into_iter().flat_map(of).collect();
        points.sort();
        points.dedup_by_key(|(point, _)| *point);
        Self { points }
    }

    /// Who has this key: the member of the first point at or after the key's.
    pub fn member(&self, key: &str) -> Option<&Arc<str>> {
        self.member_at(point_of(key))
    }

    /// Who has a key with this point.
    pub fn member_at(&self, own: u64) -> Option<&Arc<str>> {
        let next = self.points.partition_point(|(point, _)| *point < own);
        self.points.get(next).or_else(|| self.points.first()).map(|(_, member)| member)
    }

    /// Which part of all keys each member has.
    pub fn shares(&self) -> BTreeMap<Arc<str>, f64> {
        let mut shares = BTreeMap::new();
        let Some((last, _)) = self.points.last() else { return shares };
        let mut before = *last;
        for (point, member) in &self.points {
            // From the last one over zero to the first.
            let length = match point.wrapping_sub(before) {
                0 => 2f64.powi(64),
                length => length as f64,
            };
            *shares.entry(Arc::clone(member)).or_default() += length / 2f64.powi(64);
            before = *point;
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(members: impl IntoIterator<Item = u32>) -> Ring {
        Ring::new(members.into_iter().map(|number| format!("member-{number}").into()))
    }

    fn keys() -> impl Iterator<Item = String> {
        (0..2_000).map(|number| format!("gw/sub-{number}"))
    }

    #[test]
    fn a_ring_of_nobody_has_nobody() {
        assert_eq!(Ring::default().member("k"), None);
        assert!(Ring::default().shares().is_empty());
        assert!((ring([1]).shares().values().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    /// Another version of the hub must come to the same answer: this changes only with every stored assignment.
    #[test]
    fn the_answer_is_for_ever() {
        let ring = Ring::new(["hub-a", "hub-b", "hub-c"].map(Arc::from));
        let owners: Vec<_> = (0..8).map(|n| &**ring.member(&format!("default/{n}")).unwrap()).collect();
        assert_eq!(owners, GOLDEN);
    }

    const GOLDEN: [&str; 8] = ["hub-c", "hub-a", "hub-c", "hub-c", "hub-b", "hub-a", "hub-b", "hub-c"];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn one_that_leaves_moves_only_its_own_and_they_come_back_the_same_way(
            members in proptest::collection::btree_set(0u32..10_000, 2..12),
            leaves in any::<prop::sample::Index>(),
        ) {
            let left = *members.iter().nth(leaves.index(members.len())).unwrap();
            let (before, after) = (ring(members.iter().copied()), ring(members.iter().copied().filter(|m| *m != left)));
            let gone: Arc<str> = format!("member-{left}").into();
            for key in keys() {
                let (had, has) = (before.member(&key).unwrap(), after.member(&key).unwrap());
                prop_assert!(had == has || *had == gone, "{key} went from {had} to {has}");
                prop_assert!(*has != gone);
            }
        }

        #[test]
        fn ten_members_have_about_as_much(first in 0u32..10_000) {
            let shares = ring(first..first + 10).shares();
            let total: f64 = shares.values().sum();
            prop_assert!((total - 1.0).abs() < 1e-9);
            let spread: f64 = shares.values().map(|share| (share - 0.1).powi(2)).sum::<f64>() / 10.0;
            prop_assert!(spread.sqrt() < 0.015, "{shares:?}");
        }
    }
}
