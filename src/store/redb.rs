//! The embedded store: a single node's state in one redb file.
//!
//! Owns the file's layout: one table of key to (revision, value), one of counters. Commits that wait
//! together share one fsync. Knows nothing of what the records mean.

pub mod inspect;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ::redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use super::owners::Holder;
use super::{
    CommitError, Entry, Expect, Fence, Key, Owned, Ownership, Revision, Store, Unavailable, Write, check, numbers,
};
use crate::tasks::{Kind, Tasks};

const RECORDS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("records");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const REVISION: &str = "revision";

/// Commits that wait for the disk; callers past that wait themselves.
const COMMITS_MAX: usize = 1024;
/// Commits that share one fsync.
const GROUP_MAX: usize = 256;

type Reply = oneshot::Sender<Result<Revision, CommitError>>;

struct Job {
    /// `None` for the ownership key itself, which no fence guards.
    fence: Option<Fence>,
    writes: Vec<Write>,
    reply: Reply,
}

/// A store in a file of its own, which one process holds open.
pub struct RedbStore {
    database: Arc<Database>,
    jobs: mpsc::Sender<Job>,
    trouble: Arc<Mutex<Option<String>>>,
    /// Nobody can take an ownership away while this process holds the file.
    held: watch::Sender<Ownership>,
}

fn unavailable(error: impl std::fmt::Display) -> Unavailable {
    Unavailable(error.to_string())
}

impl RedbStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// A file that another process holds, or that is no such store.
    pub fn open(path: &Path, tasks: &Tasks) -> Result<Arc<Self>, Unavailable> {
        let at = |error: &dyn std::fmt::Display| Unavailable(format!("{}: {error}", path.display()));
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| at(&error))?;
        }
        let database = Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => at(&"another process has it open"),
            other => at(&other),
        })?;
        let prepare = || -> Result<(), ::redb::Error> {
            let transaction = database.begin_write()?;
            transaction.open_table(RECORDS)?;
            transaction.open_table(COUNTERS)?;
            transaction.commit()?;
            Ok(())
        };
        prepare().map_err(|error| at(&error))?;
        let database = Arc::new(database);
        let (jobs, queue) = mpsc::channel(COMMITS_MAX);
        let trouble = Arc::new(Mutex::new(None));
        let writer = write_groups(Arc::clone(&database), queue, Arc::clone(&trouble));
        tasks.spawn(Kind::StoreWriter, "redb", writer);
        Ok(Arc::new(Self { database, jobs, trouble, held: watch::Sender::new(Ownership::Held) }))
    }

    async fn submit(&self, fence: Option<Fence>, writes: Vec<Write>) -> Result<Revision, CommitError> {
        let gone = || CommitError::Unknown("the store's writer has ended".into());
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job { fence, writes, reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, ::redb::Error> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let database = Arc::clone(&self.database);
        let joined = tokio::task::spawn_blocking(move || work(&database)).await;
        joined.map_err(unavailable)?.map_err(unavailable)
    }
}

/// Raises the revision of a store that no process holds: from what, and to what.
///
/// # Errors
/// A file that is not there, that another process holds, or that is no such store.
pub fn bump(path: &Path, by: u64) -> Result<(u64, u64), Unavailable> {
    let raise = || -> Result<(u64, u64), ::redb::Error> {
        let database = Database::open(path)?;
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        // Not made where there is none: this would be the wrong file.
        let is_store = transaction.list_tables()?.any(|table| table.name() == COUNTERS.name());
        if !is_store {
            return Err(::redb::Error::TableDoesNotExist(COUNTERS.name().to_owned()));
        }
        let counted = {
            let mut counters = transaction.open_table(COUNTERS)?;
            let from = counters.get(REVISION)?.map_or(0, |counter| counter.value());
            let to = from.saturating_add(by);
            counters.insert(REVISION, to)?;
            (from, to)
        };
        transaction.commit()?;
        Ok(counted)
    };
    raise().map_err(|error| Unavailable(format!("{}: {error}", path.display())))
}

/// Takes what waits and writes it as one transaction of the file.
async fn write_groups(database: Arc<Database>, mut queue: mpsc::Receiver<Job>, trouble: Arc<Mutex<Option<String>>>) {
    let mut group = Vec::new();
    while queue.recv_many(&mut group, GROUP_MAX).await > 0 {
        let jobs = std::mem::take(&mut group);
        let database = Arc::clone(&database);
        let joined = tokio::task::spawn_blocking(move || {
            let outcome = commit_group(&database, &jobs);
            (jobs, outcome)
        })
        .await;
        let Ok((jobs, outcome)) = joined else { return };
        let now = outcome.as_ref().err().map(ToString::to_string);
        *trouble.lock().unwrap_or_else(PoisonError::into_inner) = now;
        match outcome {
            Ok(results) => {
                for (job, result) in jobs.into_iter().zip(results) {
                    // A caller who has gone away needs no answer.
                    let _ = job.reply.send(result);
                }
            }
            Err(error) => {
                for job in jobs {
                    let _ = job.reply.send(Err(CommitError::Unknown(error.to_string())));
                }
            }
        }
    }
}

fn commit_group(database: &Database, jobs: &[Job]) -> Result<Vec<Result<Revision, CommitError>>, ::redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let mut results = Vec::with_capacity(jobs.len());
    {
        let mut records = transaction.open_table(RECORDS)?;
        let mut counters = transaction.open_table(COUNTERS)?;
        let mut revision = counters.get(REVISION)?.map_or(0, |counter| counter.value());
        for job in jobs {
            let refused = refusal(&records, job)?;
            if let Some(error) = refused {
                results.push(Err(error));
                continue;
            }
            revision += 1;
            for write in &job.writes {
                match &write.value {
                    Some(value) => {
                        records.insert(write.key.0.as_str(), (revision, value.as_slice()))?;
                    }
                    None => {
                        records.remove(write.key.0.as_str())?;
                    }
                }
            }
            results.push(Ok(Revision(revision)));
        }
        counters.insert(REVISION, revision)?;
    }
    transaction.commit()?;
    Ok(results)
}

fn refusal(records: &::redb::Table<'_, &str, (u64, &[u8])>, job: &Job) -> Result<Option<CommitError>, ::redb::Error> {
    let revision = |key: &Key| -> Result<Option<Revision>, ::redb::Error> {
        Ok(records.get(key.0.as_str())?.map(|record| Revision(record.value().0)))
    };
    if let Some(fence) = &job.fence
        && revision(&fence.key)? != Some(fence.created)
    {
        return Ok(Some(CommitError::Fenced));
    }
    for write in &job.writes {
        let found = revision(&write.key)?;
        let holds = match write.expect {
            Expect::Absent => found.is_none(),
            Expect::At(at) => found == Some(at),
            Expect::Anything => true,
        };
        if !holds {
            return Ok(Some(CommitError::Conflict));
        }
    }
    Ok(None)
}

#[async_trait]
impl Store for RedbStore {
    async fn acquire(&self, key: &Key, holder: &Holder) -> Result<Owned, Unavailable> {
        // The process that holds the file is the only node.
        let write = Write { key: key.clone(), expect: Expect::Anything, value: Some(holder.encode()) };
        let created = self.submit(None, vec![write]).await.map_err(unavailable)?;
        Ok(Owned { fence: Fence { key: key.clone(), created }, ownership: self.held.subscribe() })
    }

    async fn release(&self, fence: &Fence) -> Result<(), Unavailable> {
        let write = Write { key: fence.key.clone(), expect: Expect::At(fence.created), value: None };
        match self.submit(None, vec![write]).await {
            Ok(_) | Err(CommitError::Conflict) => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn number(&self) -> Result<u64, Unavailable> {
        let write = Write { key: numbers(), expect: Expect::Anything, value: Some(Vec::new()) };
        self.submit(None, vec![write]).await.map(|revision| revision.0).map_err(unavailable)
    }

    async fn scan(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Unavailable> {
        let prefix = prefix.to_string();
        self.read(move |database| {
            let transaction = database.begin_read()?;
            let records = transaction.open_table(RECORDS)?;
            let counters = transaction.open_table(COUNTERS)?;
            let mut entries = Vec::new();
            for record in records.range(prefix.as_str()..)? {
                let (key, record) = record?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                let (revision, value) = record.value();
                let key = Key(key.value().to_string());
                entries.push(Entry { key, value: value.to_vec(), revision: Revision(revision) });
            }
            let revision = counters.get(REVISION)?.map_or(0, |counter| counter.value());
            Ok((entries, Revision(revision)))
        })
        .await
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Unavailable> {
        let key = key.clone();
        self.read(move |database| {
            let transaction = database.begin_read()?;
            let records = transaction.open_table(RECORDS)?;
            let found = records.get(key.0.as_str())?;
            Ok(found.map(|record| {
                let (revision, value) = record.value();
                Entry { key: key.clone(), value: value.to_vec(), revision: Revision(revision) }
            }))
        })
        .await
    }

    async fn commit(&self, fence: &Fence, writes: &[Write]) -> Result<Revision, CommitError> {
        check(writes)?;
        self.submit(Some(fence.clone()), writes.to_vec()).await
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
