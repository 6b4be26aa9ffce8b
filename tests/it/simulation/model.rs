//! The plain model: the oplog, the store, and what must have been delivered.

use std::collections::BTreeMap;

use streamer::position::Position;
use streamer::store::gateways::{self, GatewayRecord};
use streamer::store::subscriptions::{self, SubscriptionRecord};
use streamer::store::{Entry, Expect, Key, Revision, Write};
use streamer::subscription::{GatewayId, SubscriptionKey};

/// The filters of the simulation: one value of the field `k`, or everything.
pub(super) const KINDS: u8 = 3;

pub(super) fn matches(filter: Option<u8>, k: u8) -> bool {
    filter.is_none_or(|wanted| wanted == k)
}

/// One generation of a subscription as the store came to hold it.
#[derive(Clone, Debug)]
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) filter: Option<u8>,
    pub(super) from: Position,
}

/// One life of a subscription, from creation to removal.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) key: SubscriptionKey,
    pub(super) generations: Vec<Generation>,
    pub(super) removed: bool,
}

/// An operator's move of a gateway's cursor, as the store came to hold it.
#[derive(Clone, Debug)]
pub(super) struct Move {
    pub(super) gateway: GatewayId,
    /// What comes after this is owed anew.
    pub(super) position: Position,
    /// To filters up to here: others begin where they begin.
    pub(super) known: u64,
}

/// A revisioned store whose commits are observed.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Moves that nobody has looked at yet.
    pub(super) moves: Vec<Move>,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) revision: u64,
    pub(super) lives: Vec<Life>,
}

impl Store {
    /// Commits if every condition holds.
    pub(super) fn commit(&mut self, writes: &[Write]) -> Option<Revision> {
        let holds = writes.iter().all(|write| {
            let found = self.entries.get(&write.key.0).map(|entry| entry.revision);
            match write.expect {
                Expect::Absent => found.is_none(),
                Expect::At(revision) => found == Some(revision),
                Expect::Anything => true,
            }
        });
        if !holds {
            return None;
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        for write in writes {
            self.observe(write, revision);
            match &write.value {
                Some(value) => {
                    let entry = Entry { key: write.key.clone(), value: value.clone(), revision };
                    self.entries.insert(write.key.0.clone(), entry);
                }
                None => {
                    self.entries.remove(&write.key.0);
                }
            }
        }
        Some(revision)
    }

    fn observe(&mut self, write: &Write, revision: Revision) {
        if let Some(gateway) = gateways::parse_key(&streamer::position::PartitionId::new("default", 0), &write.key) {
            return self.observe_move(gateway, write);
        }
        let Some(key) = subscriptions::parse_key(&streamer::position::PartitionId::new("default", 0), &write.key)
        else {
            return;
        };
        let existing = self.lives.iter().rposition(|life| life.key == key && !life.removed);
        let Some(value) = &write.value else {
            if let Some(life) = existing {
                self.lives[life].removed = true;
            }
            return;
        };
        let record = SubscriptionRecord::decode(value).unwrap();
        let number = record.generation.unwrap_or(revision).0;
        let filter = record.spec["filters"].as_array().and_then(|filters| filters.first()).map(|filter| {
            let value = &filter["value"];
            let text = value["$numberInt"].as_str().or_else(|| value["$numberLong"].as_str()).map(str::to_string);
            text.unwrap_or_else(|| value.to_string()).parse::<u8>().unwrap()
        });
        let generation = Generation { number, filter, from: record.active_from };
        match existing {
            Some(life) if self.lives[life].generations.last().is_some_and(|last| last.number == number) => {}
            Some(life) => self.lives[life].generations.push(generation),
            None => self.lives.push(Life { key, generations: vec![generation], removed: false }),
        }
    }

    fn observe_move(&mut self, gateway: GatewayId, write: &Write) {
        let moved = |value: &[u8]| GatewayRecord::decode(value).unwrap().moved;
        let before = self.entries.get(&write.key.0).and_then(|entry| moved(&entry.value));
        let after = write.value.as_ref().and_then(|value| moved(value));
        if let Some(moved) = after.filter(|after| Some(after) != before.as_ref()) {
            self.moves.push(Move { gateway, position: moved.position, known: moved.known.0 });
        }
    }

    pub(super) fn scan(&self, prefix: &str) -> Vec<Entry> {
        let range = self.entries.range(prefix.to_string()..);
        range.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry.clone()).collect()
    }

    pub(super) fn get(&self, key: &Key) -> Option<Entry> {
        self.entries.get(&key.0).cloned()
    }
}
