//! A hash table that grows a part at a time: no insertion takes long, however much there is.
//!
//! Small ones are one table, whose growth is quick; larger ones are many, which grow one by one.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Tables of a large one.
const SHARDS: usize = 1 << 8;
/// A table with more than these is divided.
const FEW: usize = 1 << 12;

/// Things by their hashes.
#[derive(Debug)]
pub(super) struct Shards<T> {
    /// None, one or all.
    shards: Vec<HashTable<T>>,
    len: usize,
}

impl<T> Default for Shards<T> {
    fn default() -> Self {
        Self { shards: Vec::new(), len: 0 }
    }
}

/// The table takes the hash's first and last bits for itself.
#[inline]
fn shard(hash: u64, shards: usize) -> usize {
    if shards < SHARDS { 0 } else { (hash >> 40) as usize % SHARDS }
}

impl<T> Shards<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(super) fn find(&self, hash: u64, is: impl FnMut(&T) -> bool) -> Option<&T> {
        self.shards.get(shard(hash, self.shards.len()))?.find(hash, is)
    }

    /// The thing with this hash, or what `make` makes of nothing.
    pub(super) fn find_or_insert(
        &mut self,
        hash: u64,
        is: impl FnMut(&T) -> bool,
        make: impl FnOnce() -> T,
        hash_of: impl Fn(&T) -> u64,
    ) -> &mut T {
        if self.shards.is_empty() {
            self.shards.push(HashTable::new());
        }
        if self.shards.len() == 1 && self.len >= FEW {
            self.divide(&hash_of);
        }
        let at = shard(hash, self.shards.len());
        match self.shards[at].entry(hash, is, hash_of) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.len += 1;
                entry.insert(make()).into_mut()
            }
        }
    }

    fn divide(&mut self, hash_of: &impl Fn(&T) -> u64) {
        let whole = std::mem::take(&mut self.shards);
        self.shards.resize_with(SHARDS, HashTable::new);
        for thing in whole.into_iter().flatten() {
            let hash = hash_of(&thing);
            self.shards[shard(hash, SHARDS)].insert_unique(hash, thing, hash_of);
        }
    }

    /// Does something to the thing with this hash, and takes it out if nothing is left of it.
    pub(super) fn change(&mut self, hash: u64, is: impl FnMut(&T) -> bool, is_over: impl FnOnce(&mut T) -> bool) {
        let at = shard(hash, self.shards.len());
        let Some(Ok(mut entry)) = self.shards.get_mut(at).map(|table| table.find_entry(hash, is)) else { return };
        if is_over(entry.get_mut()) {
            entry.remove();
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn what_is_in_it_is_found_before_and_after_it_is_divided() {
        let hashing = hashbrown::DefaultHashBuilder::default();
        let hash = |number: &u32| hashing.hash_one(number);
        let (mut shards, mut expected) = (Shards::default(), BTreeSet::new());
        for round in 0..3_u32 {
            for number in 0..3 * FEW as u32 {
                if (number + round).is_multiple_of(3) {
                    shards.change(hash(&number), |known| *known == number, |_| true);
                    expected.remove(&number);
                } else {
                    let found = shards.find_or_insert(hash(&number), |known| *known == number, || number, hash);
                    assert_eq!(*found, number);
                    expected.insert(number);
                }
            }
            assert_eq!(shards.shards.len(), SHARDS);
            assert_eq!(shards.len, expected.len());
            for number in 0..3 * FEW as u32 {
                let found = shards.find(hash(&number), |known| *known == number);
                assert_eq!(found.copied(), expected.get(&number).copied());
            }
        }
        for number in &expected {
            shards.change(hash(number), |known| known == number, |_| true);
        }
        assert!(shards.is_empty());
    }

    #[test]
    fn what_has_something_left_stays() {
        let mut shards = Shards::default();
        shards.change(7, |_| true, |_: &mut u32| panic!("there is nothing"));
        *shards.find_or_insert(7, |_| true, || 1, |_| 7) += 1;
        shards.change(
            7,
            |_| true,
            |count| {
                *count -= 1;
                *count == 0
            },
        );
        assert_eq!(shards.find(7, |_| true), Some(&1));
    }
}
