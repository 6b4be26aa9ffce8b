//! Ownership in etcd: winning a key under a lease, keeping the lease, telling when it is in doubt.
//!
//! Owns the lease and this owner's own judgement of it. What etcd really does was tried out: a key may
//! outlive its lease, a restart renews every lease in full, and a frozen etcd lets it go the moment it
//! wakes. So an owner stops by its own clock, and correctness rests on the fence alone. The ownership
//! key names its node and carries its lease: that is how a restarted node knows what it left behind.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, Error, EventType, KeyValue, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp,
    WatchOptions,
};
use tokio::sync::watch;

use super::{EtcdStore, Failure, Stamp, Tenure, Trouble, lock, revision_of};
use crate::clock::{Clock, Instant};
use crate::store::owners::Holder;
use crate::store::{Fence, Key, Owned, Ownership, Revision, Unavailable};
use crate::tasks::Kind;

/// A watch that says nothing is not trusted longer than this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between two looks in any case.
const PAUSE: Duration = Duration::from_millis(100);
/// An owner stops this long, or a third of a short lease, before its lease can have run out.
const MARGIN_MAX: Duration = Duration::from_secs(2);
/// Renewals within one lease.
const RENEWALS: u32 = 6;
/// gRPC's code for a lease that is no more.
const NOT_FOUND: i32 = 5;

impl EtcdStore {
    /// Waits until the key is this node's.
    pub(super) async fn own(&self, key: &Key, holder: &Holder) -> Result<Owned, Unavailable> {
        let path = self.path(key);
        loop {
            let found = self.trouble.call(self.kv.clone().get(path.clone(), None)).await?;
            match found.kvs().first() {
                None => {
                    if let Some(owned) = self.try_own(&path, key, holder).await? {
                        return Ok(owned);
                    }
                }
                Some(left) if is_of(left, holder) => self.clear(left).await?,
                Some(_) => self.until_freed(&path, revision_of(found.header())).await,
            }
        }
    }

    /// Takes away what this node held before its restart; that need not run out.
    async fn clear(&self, holder: &KeyValue) -> Result<(), Unavailable> {
        self.revoke(holder.lease()).await?;
        // Revoking deletes the key, unless somebody has put it there without its lease.
        let left = Compare::mod_revision(holder.key(), CompareOp::Equal, holder.mod_revision());
        let txn = Txn::new().when([left]).and_then([TxnOp::delete(holder.key(), None)]);
        self.trouble.call(self.kv.clone().txn(txn)).await?;
        Ok(())
    }

    /// Revokes a lease; one that is no more is fine.
    pub(super) async fn revoke(&self, lease: i64) -> Result<(), Unavailable> {
        match self.trouble.call(self.client.clone().lease_revoke(lease)).await {
            Ok(_) | Err(Failure { code: Some(NOT_FOUND), .. }) => Ok(()),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn try_own(&self, path: &str, key: &Key, holder: &Holder) -> Result<Option<Owned>, Unavailable> {
        // The lease runs from when the server took the request, which is not before it was sent.
        let granted = self.clock.now();
        let wanted = i64::try_from(self.config.lease_seconds).unwrap_or(i64::MAX);
        let lease = self.trouble.call(self.client.clone().lease_grant(wanted, None)).await?;
        let (lease, ttl) = (lease.id(), Duration::from_secs(lease.ttl().clamp(1, wanted.max(1)) as u64));
        let put = TxnOp::put(path, holder.encode(), Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new().when([Compare::create_revision(path, CompareOp::Equal, 0)]).and_then([put]);
        // If this fails it may yet have won: the next attempt finds the key under our name.
        let answer = self.trouble.call(self.kv.clone().txn(txn)).await?;
        if !answer.succeeded() {
            self.revoke(lease).await?;
            return Ok(None);
        }
        let created = revision_of(answer.header());
        let fence = Fence { key: key.clone(), created: Revision(created as u64) };
        let tenure = Tenure {
            fence: fence.clone(),
            says: holder.encode(),
            lease,
            stamp: Mutex::new(Stamp { revision: created, in_doubt: false }),
            turn: tokio::sync::Mutex::default(),
        };
        lock(&self.tenures).insert(path.to_string(), Arc::new(tenure));
        Ok(Some(Owned { fence, ownership: self.keep(lease, ttl, granted) }))
    }

    /// Waits until the key may be free. Whatever the watch fails to tell (it is cut off, or its
    /// revision has been compacted) is found by the next look.
    async fn until_freed(&self, path: &str, after: i64) {
        let mut client = self.client.clone();
        let freed = async {
            let options = WatchOptions::new().with_start_revision(after + 1);
            let Ok(mut changes) = client.watch(path, Some(options)).await else { return };
            while let Ok(Some(change)) = changes.message().await {
                let is_freed = change.events().iter().any(|event| event.event_type() == EventType::Delete);
                if is_freed || change.canceled() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LOOK_AGAIN, freed).await;
        tokio::time::sleep(PAUSE).await;
    }

    fn keep(&self, lease: i64, ttl: Duration, granted: Instant) -> watch::Receiver<Ownership> {
        let (told, ownership) = watch::channel(Ownership::Held);
        let certainty = Certainty { clock: self.clock.clone(), ttl, renewed: granted };
        let (client, trouble) = (self.client.clone(), self.trouble.clone());
        let renewal = Renewal { client, trouble, lease, certainty, told };
        // It ends with its receiver, not at shutdown: while the hub drains, cursors are still written
        // under this fence.
        self.tasks.spawn(Kind::Lease, format!("lease {lease:x}"), renewal.run());
        ownership
    }
}

/// Whether a node of this name has the key.
fn is_of(held: &KeyValue, holder: &Holder) -> bool {
    Holder::decode(held.value()).is_ok_and(|held| held.node == holder.node)
}

/// How long a lease certainly lives, by this owner's own clock.
struct Certainty {
    clock: Clock,
    ttl: Duration,
    /// When the last renewal that succeeded was sent: the server's own count begins no earlier.
    renewed: Instant,
}

impl Certainty {
    /// What is left until this owner must stop.
    fn left(&self) -> Duration {
        let certain = self.ttl - MARGIN_MAX.min(self.ttl / 3);
        // In the clock's own unit, or a rest too small for it would never pass.
        let certain = Duration::from_micros(certain.as_micros() as u64);
        certain.saturating_sub(self.clock.now().since(self.renewed))
    }

    /// How long to wait for anything: never past the point where this owner must stop.
    fn step(&self) -> Duration {
        let every = self.ttl / RENEWALS;
        match self.left() {
            Duration::ZERO => every,
            left => every.min(left),
        }
    }

    fn judge(&self) -> Ownership {
        if self.left().is_zero() { Ownership::Uncertain } else { Ownership::Held }
    }
}

/// Keeps a lease alive.
struct Renewal {
    client: Client,
    trouble: Trouble,
    lease: i64,
    certainty: Certainty,
    told: watch::Sender<Ownership>,
}

impl Renewal {
    async fn run(mut self) {
        let told = self.told.clone();
        // The receiver's end may fall anywhere: nothing here must be finished.
        tokio::select! {
            () = told.closed() => {}
            () = self.renew() => {}
        }
    }

    /// Returns when the lease is lost for good.
    async fn renew(&mut self) {
        let mut stream = None;
        loop {
            let asked = self.certainty.clock.now();
            let answer = keep_alive(&mut self.client, self.lease, &mut stream);
            match tokio::time::timeout(self.certainty.step(), answer).await {
                Ok(Ok(ttl)) if ttl > 0 => {
                    self.certainty.renewed = asked;
                    self.trouble.note(None);
                }
                Ok(Ok(_)) => return self.tell(Ownership::Lost),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the lease could not be renewed");
                    self.trouble.note(Some(error.to_string()));
                    stream = None;
                }
                Err(_) => {
                    self.trouble.note(Some("no answer to the renewal of the lease".into()));
                    stream = None;
                }
            }
            self.tell(self.certainty.judge());
            tokio::time::sleep(self.certainty.step()).await;
            self.tell(self.certainty.judge());
        }
    }

    fn tell(&self, now: Ownership) {
        self.told.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}

type KeepAlive = (LeaseKeeper, LeaseKeepAliveStream);

/// Renews once; the time to live that the server grants, 0 if there is no such lease.
async fn keep_alive(client: &mut Client, lease: i64, stream: &mut Option<KeepAlive>) -> Result<i64, Error> {
    if stream.is_none() {
        return match client.lease_keep_alive(lease).await {
            // Opening it renews.
            Ok(opened) => {
                *stream = Some(opened);
                Ok(1)
            }
            Err(Error::LeaseKeepAliveError(reason)) if reason.contains("not found") => Ok(0),
            Err(error) => Err(error),
        };
    }
    let Some((keeper, answers)) = stream else { return Ok(0) };
    keeper.keep_alive().await?;
    match answers.message().await? {
        Some(answer) => Ok(answer.ttl()),
        None => Err(Error::LeaseKeepAliveError("the stream has ended".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No answer ever comes: however the steps fall, the owner stops before its lease can end.
    #[test]
    fn an_owner_stops_before_its_lease_can_end() {
        for (seconds, lost_ms) in (1..=60).flat_map(|seconds| [(seconds, 0), (seconds, 7), (seconds, 333)]) {
            let (clock, ttl) = (Clock::manual(), Duration::from_secs(seconds));
            let certainty = Certainty { clock: clock.clone(), ttl, renewed: clock.now() };
            assert_eq!(certainty.judge(), Ownership::Held);
            clock.advance(Duration::from_millis(lost_ms).min(ttl / 2));
            while certainty.judge() == Ownership::Held {
                clock.advance(certainty.step());
            }
            let stopped = clock.now().since(certainty.renewed);
            assert!(stopped <= ttl - MARGIN_MAX.min(ttl / 3), "stopped after {stopped:?} of {ttl:?}");
            assert!(stopped >= ttl / 2, "stopped after only {stopped:?} of {ttl:?}");
            assert!(!certainty.step().is_zero(), "an uncertain owner goes on asking, and not without rest");
        }
    }
}
