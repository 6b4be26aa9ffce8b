//! The log's file.
//!
//! Owns the redb tables: one value a group commit keyed by its first cluster time, and what must be
//! remembered beside them. Blocking; knows nothing of publishers and readers.

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

use super::codec::{self, Events, Names};
use super::{EventLogConfig, Place};
use crate::change::Change;
use crate::limits;
use crate::position::{ClusterTime, Epoch};

const GROUPS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("groups");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("texts");

/// Times before this one may have been announced or given out.
const RESERVED: &str = "reserved";
/// When the log was made.
const CREATED: &str = "created";
/// Sum of all groups.
const BYTES: &str = "bytes";
/// The last event that retention has taken, in two numbers.
const PRUNED_TIME: &str = "pruned_time";
const PRUNED_ORDINAL: &str = "pruned_ordinal";
const IDENTITY: &str = "identity";

/// A file that failed or does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct DiskError(pub(super) String);

impl<E: Into<redb::Error>> From<E> for DiskError {
    fn from(error: E) -> Self {
        Self(error.into().to_string())
    }
}

impl From<codec::Damaged> for DiskError {
    fn from(error: codec::Damaged) -> Self {
        Self(error.to_string())
    }
}

/// Where a writer continues.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// Time of the last event on disk; zero if there is none.
    pub(super) written: ClusterTime,
    /// Nothing before this may be given out any more.
    pub(super) reserved: ClusterTime,
}

/// Some events from disk.
pub(super) enum Page {
    /// In order; `end` if there is nothing after them yet.
    Events { changes: Vec<Change>, end: bool },
    /// Retention has taken events after the asked place, up to this one.
    Lost(Place),
}

/// The open file.
pub(super) struct Disk {
    db: Database,
    retain_bytes: u64,
    retain_seconds: Option<u64>,
    /// Made at the log's creation.
    pub(super) identity: String,
    created: ClusterTime,
}

impl Disk {
    pub(super) fn open(config: &EventLogConfig, now: ClusterTime) -> Result<(Self, Start), DiskError> {
        if let Some(folder) = config.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| DiskError(error.to_string()))?;
        }
        Self::with_database(Database::create(&config.path)?, config, now)
    }

    pub(super) fn with_database(
        db: Database,
        config: &EventLogConfig,
        now: ClusterTime,
    ) -> Result<(Self, Start), DiskError> {
        let txn = db.begin_write()?;
        let (identity, start, created) = {
            let mut texts = txn.open_table(TEXTS)?;
            let mut numbers = txn.open_table(NUMBERS)?;
            let groups = txn.open_table(GROUPS)?;
            let known = texts.get(IDENTITY)?.map(|text| text.value().to_owned());
            let identity = match known {
                Some(identity) => identity,
                None => {
                    let identity = new_identity()?;
                    texts.insert(IDENTITY, identity.as_str())?;
                    numbers.insert(CREATED, now.0)?;
                    identity
                }
            };
            let number =
                |name: &str| -> Result<u64, DiskError> { Ok(numbers.get(name)?.map_or(0, |number| number.value())) };
            let written = match groups.last()? {
                Some((_, group)) => codec::last_place(group.value())?.0,
                None => ClusterTime(0),
            };
            let reserved = ClusterTime(number(RESERVED)?).max(written.next());
            (identity, Start { written, reserved }, ClusterTime(number(CREATED)?))
        };
        txn.commit()?;
        let disk =
            Self { db, retain_bytes: config.retain_bytes, retain_seconds: config.retain_seconds, identity, created };
        Ok((disk, start))
    }

    /// Writes a group and, in the same commit, a new reservation and what retention takes.
    pub(super) fn append(
        &self,
        first: ClusterTime,
        group: &[u8],
        reserve: Option<ClusterTime>,
    ) -> Result<(), DiskError> {
        let txn = self.db.begin_write()?;
        {
            let mut groups = txn.open_table(GROUPS)?;
            let mut numbers = txn.open_table(NUMBERS)?;
            groups.insert(first.0, group)?;
            let bytes = numbers.get(BYTES)?.map_or(0, |bytes| bytes.value()) + group.len() as u64;
            numbers.insert(BYTES, bytes)?;
            if let Some(reserve) = reserve {
                numbers.insert(RESERVED, reserve.0)?;
            }
            self.prune(&mut groups, &mut numbers, first)?;
        }
        txn.commit()?;
        Ok(())
    }

    /// Promises that after a restart no time before `until` is given out.
    pub(super) fn reserve(&self, until: ClusterTime) -> Result<(), DiskError> {
        let txn = self.db.begin_write()?;
        txn.open_table(NUMBERS)?.insert(RESERVED, until.0)?;
        txn.commit()?;
        Ok(())
    }

    fn prune(
        &self,
        groups: &mut Table<'_, u64, &[u8]>,
        numbers: &mut Table<'_, &str, u64>,
        now: ClusterTime,
    ) -> Result<(), DiskError> {
        let too_old = |first: u64| {
            let age = u64::from(now.seconds()).saturating_sub(u64::from(ClusterTime(first).seconds()));
            self.retain_seconds.is_some_and(|seconds| age > seconds)
        };
        let mut bytes = numbers.get(BYTES)?.map_or(0, |bytes| bytes.value());
        // The group just written stays in any case.
        loop {
            let oldest = groups.first()?.map_or(now.0, |(first, _)| first.value());
            if oldest >= now.0 || (bytes <= self.retain_bytes && !too_old(oldest)) {
                return Ok(());
            }
            let Some((_, group)) = groups.pop_first()? else { return Ok(()) };
            bytes = bytes.saturating_sub(group.value().len() as u64);
            let (time, ordinal) = codec::last_place(group.value())?;
            numbers.insert(BYTES, bytes)?;
            numbers.insert(PRUNED_TIME, time.0)?;
            numbers.insert(PRUNED_ORDINAL, u64::from(ordinal))?;
        }
    }

    /// The events strictly after `after` and before the time `until`, as many as one batch takes.
    pub(super) fn read(&self, epoch: Epoch, after: Place, until: ClusterTime) -> Result<Page, DiskError> {
        let txn = self.db.begin_read()?;
        let numbers = txn.open_table(NUMBERS)?;
        let number = |name: &str| -> Result<u64, DiskError> { Ok(numbers.get(name)?.map_or(0, |n| n.value())) };
        let pruned = (ClusterTime(number(PRUNED_TIME)?), u32::try_from(number(PRUNED_ORDINAL)?).unwrap_or(u32::MAX));
        if after < pruned {
            return Ok(Page::Lost(pruned));
        }
        let groups = txn.open_table(GROUPS)?;
        // The group that `after` lies in starts at or before it.
        let from = groups.range(..=after.0.0)?.next_back().transpose()?.map_or(0, |(first, _)| first.value());
        let mut changes = Vec::new();
        if from >= until.0 {
            return Ok(Page::Events { changes, end: true });
        }
        let mut names = Names::default();
        let mut bytes = 0;
        for entry in groups.range(from..until.0)? {
            let (_, group) = entry?;
            let mut events = Events::of(group.value())?;
            while let Some(event) = events.next()? {
                if event.place <= after {
                    continue;
                }
                let change = event.to_change(epoch, &mut names)?;
                let full = bytes + change.size_bytes() > limits::source_batch_bytes_max
                    || changes.len() >= limits::source_batch_changes_max;
                if full && !changes.is_empty() {
                    return Ok(Page::Events { changes, end: false });
                }
                bytes += change.size_bytes();
                changes.push(change);
            }
        }
        Ok(Page::Events { changes, end: true })
    }

    /// How many group commits are kept.
    #[cfg(test)]
    pub(super) fn groups(&self) -> u64 {
        use redb::ReadableTableMetadata;
        self.db.begin_read().unwrap().open_table(GROUPS).unwrap().len().unwrap()
    }

    /// The oldest time from which nothing is missing.
    pub(super) fn oldest(&self) -> Result<ClusterTime, DiskError> {
        let txn = self.db.begin_read()?;
        let pruned = txn.open_table(NUMBERS)?.get(PRUNED_TIME)?.map(|time| ClusterTime(time.value()).next());
        Ok(pruned.unwrap_or(self.created))
    }
}

/// Random, so that no two logs are taken for one. The one thing here that no test decides.
fn new_identity() -> Result<String, DiskError> {
    use rand::TryRngCore;
    let mut bytes = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|error| DiskError(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
