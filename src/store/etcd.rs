//! The cluster's store: etcd.
//!
//! Owns the fence, the lease and what each failure of a call means. Knows nothing of what the records
//! mean. What etcd really does was tried out: a key may outlive its lease, and a restart renews every
//! lease in full, so an owner stops by its own clock and correctness rests on the fence alone.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
    TxnOpResponse,
};
use tokio::sync::watch;

use super::{CommitError, Entry, Expect, Fence, Key, Owned, Ownership, Revision, Store, Unavailable, Write};
use crate::clock::{Clock, Instant};
use crate::tasks::{Kind, Tasks};

/// No call waits longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to win an ownership that another holds.
const ACQUIRE_EVERY: Duration = Duration::from_millis(500);
/// Keys read at a time.
const SCAN_PAGE: i64 = 5_000;
/// etcd's code for a request over its limits.
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
    config: EtcdConfig,
    tasks: Tasks,
    clock: Clock,
    trouble: Arc<Mutex<Option<String>>>,
    /// The lease of each fence, to give it up.
    leases: Mutex<Vec<(Fence, i64)>>,
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
            .with_connect_timeout(CALL_TIMEOUT)
            .with_timeout(CALL_TIMEOUT);
        let connected = Client::connect(&config.endpoints, Some(options)).await;
        let client = connected.map_err(|error| Unavailable(error.to_string()))?;
        let leases = Mutex::new(Vec::new());
        Ok(Arc::new(Self { client, config, tasks, clock, trouble: Arc::default(), leases }))
    }

    fn path(&self, key: &Key) -> String {
        format!("{}/{}", self.config.prefix.trim_end_matches('/'), key.0)
    }

    fn note<T>(&self, result: Result<T, String>) -> Result<T, String> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        *trouble = result.as_ref().err().cloned();
        result
    }

    /// A call with a deadline of our own: a frozen server answers nothing at all.
    async fn call<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
        let result = match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", CALL_TIMEOUT.as_secs())),
        };
        self.note(result)
    }

    async fn lease(&self, node: &str) -> Result<i64, String> {
        let mut client = self.client.clone();
        let recorded = self.path(&Key(format!("nodes/{node}/lease")));
        let found = self.call(client.get(recorded.clone(), None)).await?;
        let old = found.kvs().first().and_then(|pair| pair.value_str().ok()?.parse::<i64>().ok());
        if let Some(old) = old {
            // What this node held before its restart need not run out. It may have done so already.
            let _ = self.call(client.lease_revoke(old)).await;
        }
        let ttl = i64::try_from(self.config.lease_seconds).unwrap_or(i64::MAX);
        let lease = self.call(client.lease_grant(ttl, None)).await?.id();
        self.call(client.put(recorded, lease.to_string(), None)).await?;
        Ok(lease)
    }

    async fn try_own(&self, key: &str, node: &str, lease: i64) -> Result<Option<Revision>, String> {
        let put = TxnOp::put(key, node, Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new()
            .when([Compare::create_revision(key, CompareOp::Equal, 0)])
            .and_then([put])
            .or_else([TxnOp::get(key, None)]);
        let response = self.call(self.client.clone().txn(txn)).await?;
        if response.succeeded() {
            return Ok(response.header().map(|header| Revision(header.revision() as u64)));
        }
        // An earlier attempt of ours may have won without our learning of it.
        let ours = response.op_responses().iter().find_map(|op| match op {
            TxnOpResponse::Get(found) => {
                found.kvs().first().filter(|pair| pair.lease() == lease).map(|pair| pair.create_revision())
            }
            _ => None,
        });
        Ok(ours.map(|revision| Revision(revision as u64)))
    }

    fn renew(&self, lease: i64, granted: Instant) -> watch::Receiver<Ownership> {
        let (told, ownership) = watch::channel(Ownership::Held);
        let ttl = Duration::from_secs(self.config.lease_seconds);
        let renewal = Renewal { client: self.client.clone(), clock: self.clock.clone(), lease, ttl, told };
        // It ends with its receiver, not at shutdown: while the hub drains, cursors are still written
        // under this fence.
        self.tasks.spawn(Kind::Lease, format!("lease {lease:x}"), renewal.run(granted));
        ownership
    }
}

/// Keeps a lease alive and follows it by this owner's own clock.
struct Renewal {
    client: Client,
    clock: Clock,
    lease: i64,
    ttl: Duration,
    told: watch::Sender<Ownership>,
}

impl Renewal {
    async fn run(mut self, granted: Instant) {
        // The lease runs from when the server took the request, which is not before it was sent.
        let mut sent = granted;
        let margin = Duration::from_secs(2).min(self.ttl / 3);
        let every = self.ttl / 6;
        let mut stream = None;
        loop {
            tokio::select! {
                () = self.told.closed() => return,
                () = tokio::time::sleep(every) => {}
            }
            let asked = self.clock.now();
            match tokio::time::timeout(every, keep_alive(&mut self.client, self.lease, &mut stream)).await {
                Ok(Ok(ttl)) if ttl > 0 => {
                    sent = asked;
                    self.tell(Ownership::Held);
                }
                Ok(Ok(_)) => {
                    self.tell(Ownership::Lost);
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the lease could not be renewed");
                    stream = None;
                }
                Err(_) => stream = None,
            }
            if self.clock.now().since(sent) + margin + every >= self.ttl {
                self.tell(Ownership::Uncertain);
            }
        }
    }

    fn tell(&self, now: Ownership) {
        self.told.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}

type KeepAlive = (etcd_client::LeaseKeeper, etcd_client::LeaseKeepAliveStream);

/// Renews once; the time to live that the server grants, 0 if there is no such lease.
async fn keep_alive(client: &mut Client, lease: i64, stream: &mut Option<KeepAlive>) -> Result<i64, Error> {
    if stream.is_none() {
        match client.lease_keep_alive(lease).await {
            Ok(opened) => *stream = Some(opened),
            Err(Error::LeaseKeepAliveError(_)) => return Ok(0),
            Err(error) => return Err(error),
        }
    }
    let Some((keeper, answers)) = stream else { return Ok(0) };
    keeper.keep_alive().await?;
    match answers.message().await? {
        Some(answer) => Ok(answer.ttl()),
        None => Err(Error::LeaseKeepAliveError("the stream has ended".into())),
    }
}

fn compare(path: String, expect: Expect) -> Option<Compare> {
    match expect {
        Expect::Absent => Some(Compare::create_revision(path, CompareOp::Equal, 0)),
        Expect::At(revision) => Some(Compare::mod_revision(path, CompareOp::Equal, revision.0 as i64)),
        Expect::Anything => None,
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn acquire(&self, key: &Key, node: &str) -> Result<Owned, Unavailable> {
        let path = self.path(key);
        let mut granted = self.clock.now();
        let mut lease = self.lease(node).await.map_err(Unavailable)?;
        loop {
            if let Some(created) = self.try_own(&path, node, lease).await.map_err(Unavailable)? {
                let fence = Fence { key: key.clone(), created };
                self.leases.lock().unwrap_or_else(PoisonError::into_inner).push((fence.clone(), lease));
                return Ok(Owned { fence, ownership: self.renew(lease, granted) });
            }
            tokio::time::sleep(ACQUIRE_EVERY).await;
            if self.clock.now().since(granted) * 2 > Duration::from_secs(self.config.lease_seconds) {
                // Still waiting: a fresh lease, so that a win begins with a whole one.
                granted = self.clock.now();
                lease = self.lease(node).await.map_err(Unavailable)?;
            }
        }
    }

    async fn release(&self, fence: &Fence) -> Result<(), Unavailable> {
        let lease = {
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(at) = leases.iter().position(|(held, _)| held == fence) else { return Ok(()) };
            leases.swap_remove(at).1
        };
        let revoked = self.call(self.client.clone().lease_revoke(lease)).await;
        revoked.map(|_| ()).map_err(Unavailable)
    }

    async fn scan(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), Unavailable> {
        let root = self.path(&Key(String::new()));
        let mut from = format!("{root}{prefix}").into_bytes();
        let mut end = from.clone();
        // The first key that does not begin with the prefix; the prefix is ASCII.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let mut entries = Vec::new();
        let mut revision = 0;
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(SCAN_PAGE)
                .with_revision(revision)
                .with_sort(SortTarget::Key, SortOrder::Ascend);
            let page = self.call(self.client.clone().get(from.clone(), Some(options))).await.map_err(Unavailable)?;
            if revision == 0 {
                revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
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
        let found = self.call(self.client.clone().get(self.path(key), None)).await.map_err(Unavailable)?;
        Ok(found.kvs().first().map(|pair| Entry {
            key: key.clone(),
            value: pair.value().to_vec(),
            revision: Revision(pair.mod_revision() as u64),
        }))
    }

    async fn commit(&self, fence: &Fence, writes: &[Write]) -> Result<Revision, CommitError> {
        let guard = self.path(&fence.key);
        let mut compares = vec![Compare::create_revision(guard.clone(), CompareOp::Equal, fence.created.0 as i64)];
        compares.extend(writes.iter().filter_map(|write| compare(self.path(&write.key), write.expect)));
        let operations: Vec<TxnOp> = writes
            .iter()
            .map(|write| match &write.value {
                Some(value) => TxnOp::put(self.path(&write.key), value.clone(), None),
                None => TxnOp::delete(self.path(&write.key), None),
            })
            .collect();
        let txn = Txn::new().when(compares).and_then(operations).or_else([TxnOp::get(guard, None)]);
        let mut client = self.client.clone();
        let answer = tokio::time::timeout(CALL_TIMEOUT, client.txn(txn)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(Error::GRpcStatus(status)))
                if status.code() as i32 == INVALID_ARGUMENT
                    || status.message().contains("message length too large") =>
            {
                return Err(CommitError::TooLarge(status.message().to_string()));
            }
            Ok(Err(error)) => {
                let reason = self.note::<()>(Err(error.to_string())).err().unwrap_or_default();
                return Err(CommitError::Unknown(reason));
            }
            Err(_) => {
                let reason = format!("no answer within {} s", CALL_TIMEOUT.as_secs());
                let reason = self.note::<()>(Err(reason)).err().unwrap_or_default();
                return Err(CommitError::Unknown(reason));
            }
        };
        let _ = self.note(Ok(()));
        if answer.succeeded() {
            return Ok(Revision(answer.header().map_or(0, etcd_client::ResponseHeader::revision) as u64));
        }
        let is_held = answer.op_responses().iter().any(|op| match op {
            TxnOpResponse::Get(found) => {
                found.kvs().first().is_some_and(|pair| pair.create_revision() as u64 == fence.created.0)
            }
            _ => false,
        });
        Err(if is_held { CommitError::Conflict } else { CommitError::Fenced })
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
