//! Keys: from what a document holds to the programs filed under it.
//!
//! Owns one hash table for all scopes and paths of a partition. An entry is 32 bits of its key's hash
//! beside the shard that the other bits name, and a program or a list of them: keys are not kept.
//! Two keys that meet in all those bits share an entry, which costs an evaluation and nothing else.

use std::hash::{BuildHasher, Hash};

use hashbrown::hash_table::Entry as Place;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::ProgramId;
use super::bloom::{Bloom, BloomCounts, BloomUse};
use super::ids::Ids;
use crate::paged::Paged;

/// A table grows shard by shard, so that no insertion moves more than this part of it.
const SHARDS: usize = 256;

/// Where programs are filed by hashes.
#[derive(Default, Debug)]
pub(super) struct Keys {
    hashing: DefaultHashBuilder,
    shards: Vec<HashTable<Entry>>,
    lists: Paged<Ids>,
    len: usize,
    bloom: Bloom,
    /// Has nearly all keys meet, as two of a million do.
    #[cfg(test)]
    pub(super) all_meet: bool,
}

/// What is filed under a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    tag: u32,
    /// A program, or with the highest bit set a list.
    filed: u32,
}

impl Entry {
    /// As much of its key's hash as it tells.
    pub(super) fn key(&self, shard: usize) -> KeyHash {
        KeyHash(u64::from(self.tag) << 32 | shard as u64)
    }
}

const LIST: u32 = 1 << 31;

/// What a key leads to: a program, or a list of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Filed(u32);

impl From<ProgramId> for Filed {
    fn from(program: ProgramId) -> Self {
        Self(program.0)
    }
}

/// The hash of a key, computed once for all that is asked of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct KeyHash(u64);

impl KeyHash {
    fn shard(self) -> usize {
        self.0 as usize % SHARDS
    }

    /// The bits that stand in an entry.
    fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// All that an entry can tell of it.
    pub(super) fn bits(self) -> u64 {
        u64::from(self.tag()) << 8 | self.shard() as u64
    }
}

/// An entry's place in its shard. Made of its tag alone, so a shard can grow without its keys.
fn place(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Keys {
    pub(super) fn new(bloom: BloomUse) -> Self {
        Self { bloom: Bloom::new(bloom), ..Self::default() }
    }

    #[inline]
    pub(super) fn hash(&self, key: impl Hash) -> KeyHash {
        let hash = self.hashing.hash_one(key);
        #[cfg(test)]
        let hash = if self.all_meet { hash % 3 } else { hash };
        KeyHash(hash)
    }

    /// When there is a filter in front of the table.
    pub(super) fn bloom_use(&self) -> BloomUse {
        self.bloom.wanted
    }

    /// What the filter in front of the table did.
    pub(super) fn bloom_counts(&self) -> BloomCounts {
        self.bloom.counts
    }

    /// Takes back what has been counted since.
    pub(super) fn set_bloom_counts(&mut self, counts: BloomCounts) {
        self.bloom.counts = counts;
    }

    /// Files a program under a key.
    pub(super) fn insert(&mut self, key: KeyHash, program: ProgramId) {
        if self.shards.is_empty() {
            self.shards.resize_with(SHARDS, HashTable::new);
        }
        let tag = key.tag();
        match self.shards[key.shard()].entry(place(tag), |entry| entry.tag == tag, |entry| place(entry.tag)) {
            Place::Vacant(vacant) => {
                vacant.insert(Entry { tag, filed: program.0 });
                self.len += 1;
            }
            Place::Occupied(mut entry) => {
                let filed = &mut entry.get_mut().filed;
                if *filed & LIST != 0 {
                    if let Some(list) = self.lists.get_mut(*filed & !LIST) {
                        list.insert(program.0);
                    }
                } else if *filed != program.0 {
                    let mut list = Ids::one(*filed);
                    list.insert(program.0);
                    *filed = LIST | self.lists.insert(list);
                }
            }
        }
        self.bloom.inserted(key, self.len, &self.shards);
    }

    /// Takes a program from under a key.
    pub(super) fn remove(&mut self, key: KeyHash, program: ProgramId) {
        let tag = key.tag();
        let Some(shard) = self.shards.get_mut(key.shard()) else { return };
        let Ok(mut found) = shard.find_entry(place(tag), |entry| entry.tag == tag) else { return };
        let filed = found.get().filed;
        if filed & LIST == 0 {
            if filed == program.0 {
                found.remove();
                self.len -= 1;
                self.bloom.removed(self.len, &self.shards);
            }
            return;
        }
        let Some(list) = self.lists.get_mut(filed & !LIST) else { return };
        list.remove(program.0);
        if let Some(last) = list.only() {
            self.lists.remove(filed & !LIST);
            found.get_mut().filed = last;
        }
    }

    /// What is filed under a key.
    #[inline]
    pub(super) fn find(&mut self, key: KeyHash) -> Option<Filed> {
        if self.len == 0 || !self.bloom.may_have(key) {
            return None;
        }
        let tag = key.tag();
        let Some(entry) = self.shards[key.shard()].find(place(tag), |entry| entry.tag == tag) else {
            self.bloom.passed_in_vain();
            return None;
        };
        Some(Filed(entry.filed))
    }

    /// Calls `each` with every program there.
    #[inline]
    pub(super) fn programs(&self, filed: Filed, mut each: impl FnMut(ProgramId)) {
        if filed.0 & LIST == 0 {
            each(ProgramId(filed.0));
        } else if let Some(list) = self.lists.get(filed.0 & !LIST) {
            list.each(|program| each(ProgramId(program)));
        }
    }

    /// Calls `each` with every program there, if they are few; whether they are.
    #[inline]
    pub(super) fn few(&self, filed: Filed, mut each: impl FnMut(ProgramId)) -> bool {
        if filed.0 & LIST == 0 {
            each(ProgramId(filed.0));
            return true;
        }
        let few = self.lists.get(filed.0 & !LIST).map_or(&[][..], Ids::few);
        few.iter().for_each(|program| each(ProgramId(*program)));
        !few.is_empty()
    }

    /// How many programs are filed under a key.
    pub(super) fn crowd(&self, key: KeyHash) -> usize {
        let tag = key.tag();
        let entry = self.shards.get(key.shard()).and_then(|shard| shard.find(place(tag), |entry| entry.tag == tag));
        entry.map_or(0, |entry| match entry.filed & LIST {
            0 => 1,
            _ => self.lists.get(entry.filed & !LIST).map_or(0, Ids::len),
        })
    }
}
