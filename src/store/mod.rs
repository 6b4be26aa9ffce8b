//! The store: what must survive a crash.
//!
//! Owns the trait behind which etcd and redb look the same: a revisioned key-value store in which an
//! owner's every write is refused once it is no longer the owner. One file a key family
//! (`subscriptions.rs`, `gateways.rs`, `cursors.rs`, `checkpoint.rs`, `streams.rs`, `owners.rs`, `placements.rs`,
//! `splits.rs`) holds that family's layout and
//! codec. Knows nothing of what the records mean to a session.

/// A record's codec. It is JSON, so that an operator can read it.
macro_rules! stored_as_json {
    ($record:ty) => {
        impl $record {
            /// The stored value.
            pub fn encode(&self) -> Vec<u8> {
                serde_json::to_vec(self).expect("a record is plain data")
            }

            /// Reads a stored value.
            pub fn decode(value: &[u8]) -> Result<Self, serde_json::Error> {
                serde_json::from_slice(value)
            }
        }
    };
}
use stored_as_json;

pub mod checkpoint;
pub mod cursors;
pub mod etcd;
pub mod faulty;
pub mod gateways;
pub mod metered;
pub mod owners;
pub mod placements;
pub mod redb;
pub mod splits;
pub mod streams;
pub mod subscriptions;
pub mod writer;

use std::collections::HashSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use self::owners::Holder;
pub use self::redb::bump;
use crate::limits;

/// The store's own clock: rises with every commit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A key below the configured prefix, such as `subs/default/g/gw-1/inbox-42`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(pub String);

/// A stored value and the revision of its last write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where it is.
    pub key: Key,
    /// What it says.
    pub value: Vec<u8>,
    /// When it was last written.
    pub revision: Revision,
}

/// What must be true of a key for a transaction to take effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// It does not exist.
    Absent,
    /// Its last write was this one.
    At(Revision),
    /// Anything.
    Anything,
}

/// One write of a transaction; the condition is on its own key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Where.
    pub key: Key,
    /// Under which condition.
    pub expect: Expect,
    /// `None` deletes.
    pub value: Option<Vec<u8>>,
}

impl Write {
    /// What it counts against `limits::store_txn_bytes_max`.
    pub fn size_bytes(&self) -> usize {
        self.key.0.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// What is written for a number: its revision is the number.
fn numbers() -> Key {
    Key("numbers".into())
}

/// Refuses what no store takes, so that all refuse alike: too many writes, too many bytes, or two
/// writes of one key.
fn check(writes: &[Write]) -> Result<(), CommitError> {
    if writes.len() > limits::store_txn_operations_max {
        return Err(CommitError::TooLarge(format!("{} writes in one transaction", writes.len())));
    }
    let bytes: usize = writes.iter().map(Write::size_bytes).sum();
    if bytes > limits::store_txn_bytes_max {
        return Err(CommitError::TooLarge(format!("{bytes} bytes in one transaction")));
    }
    let mut keys = HashSet::with_capacity(writes.len());
    match writes.iter().find(|write| !keys.insert(&write.key)) {
        Some(twice) => Err(CommitError::TooLarge(format!("{} twice in one transaction", twice.key.0))),
        None => Ok(()),
    }
}

/// How a commit failed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CommitError {
    /// A condition did not hold: nothing was written, and the same transaction never will be.
    #[error("a key is not as expected")]
    Conflict,
    /// This owner is one no longer: nothing was written, and nothing ever will be under this fence.
    #[error("ownership lost")]
    Fenced,
    /// It may or may not have been written, now or later.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// Over what the store takes in one transaction: nothing was written, and it never will be.
    #[error("too large for the store: {0}")]
    TooLarge(String),
}

/// A read or an election that failed; trying again may help.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("store unavailable: {0}")]
pub struct Unavailable(pub String);

/// Proof of ownership of one partition: every commit requires the key that it stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fence {
    /// The ownership key.
    pub key: Key,
    /// The revision at which this owner created it.
    pub created: Revision,
}

/// Whether an owner may still act, by its own clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ownership {
    /// It owns.
    Held,
    /// Its lease can have passed to another: it must not serve. It may come back to `Held` if the
    /// lease turns out to live.
    Uncertain,
    /// It has been lost for good.
    Lost,
}

/// A won ownership. Dropping it stops the renewal but releases nothing; `Store::release` does.
pub struct Owned {
    /// For commits.
    pub fence: Fence,
    /// Follows the lease by this owner's own clock.
    pub ownership: tokio::sync::watch::Receiver<Ownership>,
}

/// A revisioned, fenced key-value store.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Waits until `holder` owns the partition whose ownership key this is, and has the key say so. A lease that
    /// the same node's name left behind is revoked first, so a restart does not wait for it.
    async fn acquire(&self, key: &Key, holder: &Holder) -> Result<Owned, Unavailable>;

    /// Gives ownership up at once, so that a successor need not wait.
    async fn release(&self, fence: &Fence) -> Result<(), Unavailable>;

    /// Everything under a prefix, in key order, and the revision it was read at.
    async fn scan(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Unavailable>;

    /// One key.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Unavailable>;

    /// Writes all or nothing, if every condition and the fence hold. At most
    /// `limits::store_txn_operations_max` writes and `limits::store_txn_bytes_max` bytes.
    async fn commit(&self, fence: &Fence, writes: &[Write]) -> Result<Revision, CommitError>;

    /// A number that is greater than any that was given before, to whomever. Needs no ownership.
    async fn number(&self) -> Result<u64, Unavailable>;

    /// For health: `None` when the store answered last time, else what is wrong.
    fn trouble(&self) -> Option<String>;
}
