//! The cluster's store: etcd.
//!
//! Owns the fence, the pages of a scan and what each failure of a call means; `ownership.rs` owns the
//! lease. Knows nothing of what the records mean.
//!
//! A commit that timed out may still sit in a socket or a queue and take effect much later, even after
//! its repetition has been undone by a later write. So each commit requires the *last* revision of the
//! ownership key, its stamp; after a commit of unknown outcome the key is written anew before anything
//! else, and what still carries the old stamp can no longer take effect. Only then is what the store
//! says about the doubtful write final.

pub mod inspect;
mod ownership;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, KvClient, PutOptions, ResponseHeader, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use super::owners::Holder;
use super::{CommitError, Entry, Expect, Fence, Key, Owned, Revision, Store, Unavailable, Write, check, numbers};
use crate::clock::Clock;
use crate::limits;
use crate::tasks::Tasks;

/// No call waits longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Keys read at a time.
const SCAN_PAGE: usize = 1_000;
/// The greatest page: subscriptions, or the few but large pages of cursors.
const SCAN_BYTES_MAX: usize =
    SCAN_PAGE * (limits::subscription_bytes_max + 1024) + limits::cursor_pages as usize * limits::store_txn_bytes_max;
/// gRPC's code for a request over etcd's limits.
const INVALID_ARGUMENT: i32 = 3;

/// Where the cluster's state lives.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// URLs of the members.
    pub endpoints: Vec<String>,
    /// All keys are below this.
    pub prefix: String,
    /// How long an owner that says nothing keeps its ownership.
    pub lease_seconds: u64,
}

/// A connection to etcd. The client reconnects by itself.
pub struct EtcdStore {
    client: Client,
    kv: KvClient,
    config: EtcdConfig,
    tasks: Tasks,
    clock: Clock,
    trouble: Trouble,
    /// This store's own ownerships, by the path of their key.
    tenures: Mutex<BTreeMap<String, Arc<Tenure>>>,
}

/// What went wrong with the last call, if it did.
#[derive(Clone, Default)]
struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    fn note(&self, trouble: Option<String>) {
        *lock(&self.0) = trouble;
    }

    /// A call with a deadline of our own: a frozen server answers nothing at all.
    async fn call<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        let result = match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failure::from(error)),
            Err(_) => Err(Failure { code: None, reason: format!("no answer within {} s", CALL_TIMEOUT.as_secs()) }),
        };
        // A refusal is an answer.
        let failed = result.as_ref().err().filter(|failure| !failure.is_refusal());
        self.note(failed.map(|failure| failure.reason.clone()));
        result
    }
}

/// A call that failed, and gRPC's code if it got that far.
struct Failure {
    code: Option<i32>,
    reason: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::GRpcStatus(status) => {
                Self { code: Some(status.code() as i32), reason: status.message().to_string() }
            }
            other => Self { code: None, reason: other.to_string() },
        }
    }
}

impl From<Failure> for Unavailable {
    fn from(failure: Failure) -> Self {
        Self(failure.reason)
    }
}

impl Failure {
    /// The request itself is wrong: nothing was written, and it never will be.
    fn is_refusal(&self) -> bool {
        self.code == Some(INVALID_ARGUMENT)
            || self.reason.contains("message larger than max")
            || self.reason.contains("message length too large")
    }
}

/// One ownership while it lasts.
struct Tenure {
    fence: Fence,
    /// What the ownership key says.
    says: Vec<u8>,
    lease: i64,
    stamp: Mutex<Stamp>,
    /// Only one renews the stamp.
    turn: tokio::sync::Mutex<()>,
}

/// The last revision of the ownership key, as far as known, and whether a commit under it may still
/// take effect unseen.
#[derive(Clone, Copy)]
struct Stamp {
    revision: i64,
    in_doubt: bool,
}

impl Tenure {
    fn doubt(&self, revision: i64) {
        let mut stamp = lock(&self.stamp);
        // What carries an older stamp can do no harm any more.
        stamp.in_doubt |= stamp.revision == revision;
    }

    fn adopt(&self, revision: i64) {
        let mut stamp = lock(&self.stamp);
        stamp.revision = stamp.revision.max(revision);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn revision_of(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, ResponseHeader::revision)
}

/// The first and the last revision of the key that the failed branch of a transaction has read.
fn read_back(response: &TxnResponse) -> Option<(i64, i64)> {
    response.op_responses().iter().find_map(|op| match op {
        TxnOpResponse::Get(found) => found.kvs().first().map(|pair| (pair.create_revision(), pair.mod_revision())),
        _ => None,
    })
}

fn compare(path: String, expect: Expect) -> Option<Compare> {
    match expect {
        Expect::Absent => Some(Compare::create_revision(path, CompareOp::Equal, 0)),
        Expect::At(revision) => Some(Compare::mod_revision(path, CompareOp::Equal, revision.0 as i64)),
        Expect::Anything => None,
    }
}

impl EtcdStore {
    /// Prepares the connection; etcd itself need not be there yet.
    ///
    /// # Errors
    /// Endpoints that are none.
    pub async fn connect(config: EtcdConfig, tasks: Tasks, clock: Clock) -> Result<Arc<Self>, Unavailable> {
        let options = ConnectOptions::new()
            .with_keep_alive(Duration::from_secs(3), Duration::from_secs(3))
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(CALL_TIMEOUT);
        let connected = Client::connect(&config.endpoints, Some(options)).await;
        let client = connected.map_err(|error| Unavailable(error.to_string()))?;
        let kv = client.kv_client().max_decoding_message_size(SCAN_BYTES_MAX);
        let (trouble, tenures) = (Trouble::default(), Mutex::default());
        Ok(Arc::new(Self { client, kv, config, tasks, clock, trouble, tenures }))
    }

    fn path(&self, key: &Key) -> String {
        format!("{}/{}", self.config.prefix.trim_end_matches('/'), key.0)
    }

    fn tenure(&self, fence: &Fence) -> Option<Arc<Tenure>> {
        lock(&self.tenures).get(&self.path(&fence.key)).filter(|tenure| tenure.fence == *fence).cloned()
    }

    /// The stamp that the next commit must carry; a new one after a commit of unknown outcome.
    async fn stamp(&self, tenure: &Tenure) -> Result<i64, CommitError> {
        let fresh = || Some(*lock(&tenure.stamp)).filter(|stamp| !stamp.in_doubt).map(|stamp| stamp.revision);
        if let Some(revision) = fresh() {
            return Ok(revision);
        }
        let _turn = tenure.turn.lock().await;
        if let Some(revision) = fresh() {
            return Ok(revision);
        }
        let path = self.path(&tenure.fence.key);
        let put = TxnOp::put(path.clone(), tenure.says.clone(), Some(PutOptions::new().with_lease(tenure.lease)));
        let owned = Compare::create_revision(path, CompareOp::Equal, tenure.fence.created.0 as i64);
        let txn = Txn::new().when([owned]).and_then([put]);
        match self.trouble.call(self.kv.clone().txn(txn)).await {
            Ok(answer) if answer.succeeded() => {
                let revision = revision_of(answer.header());
                *lock(&tenure.stamp) = Stamp { revision, in_doubt: false };
                Ok(revision)
            }
            Ok(_) => Err(CommitError::Fenced),
            Err(failure) => Err(CommitError::Unknown(failure.reason)),
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn acquire(&self, key: &Key, holder: &Holder) -> Result<Owned, Unavailable> {
        self.own(key, holder).await
    }

    async fn release(&self, fence: &Fence) -> Result<(), Unavailable> {
        let Some(tenure) = self.tenure(fence) else { return Ok(()) };
        self.revoke(tenure.lease).await?;
        lock(&self.tenures).retain(|_, held| held.fence != *fence);
        Ok(())
    }

    async fn scan(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Unavailable> {
        let root = self.path(&Key(String::new()));
        let mut from = format!("{root}{prefix}").into_bytes();
        let mut end = from.clone();
        // The first key that does not begin with the prefix: no byte of UTF-8 is 255.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let mut entries = Vec::new();
        let mut revision = 0;
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(SCAN_PAGE as i64)
                .with_revision(revision)
                .with_sort(SortTarget::Key, SortOrder::Ascend);
            let page = self.trouble.call(self.kv.clone().get(from.clone(), Some(options))).await?;
            if revision == 0 {
                revision = revision_of(page.header());
            }
            for pair in page.kvs() {
                let text = pair.key_str().map_err(|error| Unavailable(error.to_string()))?;
                let key = Key(text.strip_prefix(&root).unwrap_or(text).to_string());
                let revision = Revision(pair.mod_revision() as u64);
                entries.push(Entry { key, value: pair.value().to_vec(), revision });
            }
            match page.kvs().last() {
                Some(last) if page.more() => {
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => return Ok((entries, Revision(revision as u64))),
            }
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, Unavailable> {
        let found = self.trouble.call(self.kv.clone().get(self.path(key), None)).await?;
        Ok(found.kvs().first().map(|pair| Entry {
            key: key.clone(),
            value: pair.value().to_vec(),
            revision: Revision(pair.mod_revision() as u64),
        }))
    }

    async fn number(&self) -> Result<u64, Unavailable> {
        let put = self.trouble.call(self.kv.clone().put(self.path(&numbers()), Vec::new(), None)).await?;
        Ok(revision_of(put.header()) as u64)
    }

    async fn commit(&self, fence: &Fence, writes: &[Write]) -> Result<Revision, CommitError> {
        check(writes)?;
        let (guard, created) = (self.path(&fence.key), fence.created.0 as i64);
        let tenure = self.tenure(fence);
        loop {
            let stamp = match &tenure {
                Some(tenure) => Some(self.stamp(tenure).await?),
                None => None,
            };
            // No two writes share a revision, so the last one implies the first.
            let owned = match stamp {
                Some(stamp) => Compare::mod_revision(guard.clone(), CompareOp::Equal, stamp),
                None => Compare::create_revision(guard.clone(), CompareOp::Equal, created),
            };
            let expected = writes.iter().filter_map(|write| compare(self.path(&write.key), write.expect));
            let operations = writes.iter().map(|write| match &write.value {
                Some(value) => TxnOp::put(self.path(&write.key), value.clone(), None),
                None => TxnOp::delete(self.path(&write.key), None),
            });
            let txn = Txn::new()
                .when([owned].into_iter().chain(expected).collect::<Vec<_>>())
                .and_then(operations.collect::<Vec<_>>())
                .or_else([TxnOp::get(guard.clone(), None)]);
            let answer = match self.trouble.call(self.kv.clone().txn(txn)).await {
                Ok(answer) => answer,
                Err(failure) if failure.is_refusal() => return Err(CommitError::TooLarge(failure.reason)),
                Err(failure) => {
                    if let (Some(tenure), Some(stamp)) = (&tenure, stamp) {
                        tenure.doubt(stamp);
                    }
                    return Err(CommitError::Unknown(failure.reason));
                }
            };
            if answer.succeeded() {
                return Ok(Revision(revision_of(answer.header()) as u64));
            }
            match (read_back(&answer), &tenure) {
                (Some((first, last)), Some(tenure)) if first == created && Some(last) != stamp => {
                    // The stamp has changed meanwhile: this attempt took no effect for that alone.
                    tenure.adopt(last);
                }
                (Some((first, _)), _) if first == created => return Err(CommitError::Conflict),
                _ => return Err(CommitError::Fenced),
            }
        }
    }

    fn trouble(&self) -> Option<String> {
        lock(&self.trouble.0).clone()
    }
}
