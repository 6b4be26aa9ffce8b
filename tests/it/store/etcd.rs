//! etcd: leases, the fence, restarts under the same name, requests that come late.

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use streamer::store::owners::Holder;
use streamer::store::{CommitError, Expect, Fence, Ownership, Store};
use tokio::sync::watch;

use super::{key, open_etcd, own, own_key, put, until_known};
use crate::support::etcd::{Etcd, unique_prefix};
use crate::support::{eventually, in_time};

/// Far longer than any test: whoever waits for it to run out fails.
const LONG_SECONDS: u64 = 600;
const SHORT_SECONDS: u64 = 2;

async fn told(ownership: &mut watch::Receiver<Ownership>, wanted: Ownership) {
    in_time(&format!("{wanted:?}"), ownership.wait_for(|now| *now == wanted)).await.unwrap();
}

/// The owner's lease by etcd's own account.
async fn lease_of(client: &mut Client, prefix: &str, fence: &Fence) -> i64 {
    let found = client.get(format!("{prefix}/{}", fence.key.0), None).await.unwrap();
    found.kvs()[0].lease()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_does_not_wait_for_its_old_lease() {
    let (url, _server) = Etcd::shared().await;
    let prefix = unique_prefix();
    let before = open_etcd(&url, &prefix, LONG_SECONDS).await;
    let old = own(before.as_ref(), "n").await;
    before.commit(&old.fence, &[put("a", Expect::Absent, "1")]).await.unwrap();

    let after = open_etcd(&url, &prefix, LONG_SECONDS).await;
    let new = own(after.as_ref(), "n").await;
    assert!(new.fence.created > old.fence.created);
    let stale = before.commit(&old.fence, &[put("a", Expect::Anything, "stale")]).await;
    assert_eq!(stale, Err(CommitError::Fenced));
    after.commit(&new.fence, &[put("a", Expect::Anything, "2")]).await.unwrap();
    assert_eq!(*new.ownership.borrow(), Ownership::Held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_waits_until_the_key_is_released() {
    let etcd = Etcd::start().await;
    let url = etcd.url();
    let prefix = unique_prefix();
    let (a, b) = (open_etcd(&url, &prefix, LONG_SECONDS).await, open_etcd(&url, &prefix, LONG_SECONDS).await);
    let owned = own(a.as_ref(), "a").await;
    let mut waiting = Box::pin(own(b.as_ref(), "b"));
    // Time enough to win, were it possible; each of the owner's commits is proof that it was not.
    for n in 0..50 {
        a.commit(&owned.fence, &[put(format!("k/{n}"), Expect::Absent, "a")]).await.unwrap();
        assert!(futures::poll!(&mut waiting).is_pending());
    }
    // A waiter's watch must survive that its revision is compacted away.
    let mut client = Client::connect([&url], None).await.unwrap();
    let (_, at) = a.scan("k/").await.unwrap();
    client.compact(at.0 as i64, None).await.unwrap();
    let (next, ()) = tokio::join!(waiting, async { a.release(&owned.fence).await.unwrap() });
    b.commit(&next.fence, &[put("k/0", Expect::Anything, "b")]).await.unwrap();
    let stale = a.commit(&owned.fence, &[put("k/0", Expect::Anything, "a")]).await;
    assert_eq!(stale, Err(CommitError::Fenced));
    assert_eq!(b.get(&key("k/0")).await.unwrap().unwrap().value, b"b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_renew_is_refused_before_and_after_a_successor_came() {
    let (url, _server) = Etcd::shared().await;
    let prefix = unique_prefix();
    let (a, b) = (open_etcd(&url, &prefix, SHORT_SECONDS).await, open_etcd(&url, &prefix, SHORT_SECONDS).await);
    // Its receiver gone, it is renewed no more.
    let fence = own(a.as_ref(), "a").await.fence;
    let refused = eventually("the lease has run out", async || {
        a.commit(&fence, &[put("checkpoint", Expect::Anything, "a")]).await.err()
    })
    .await;
    assert_eq!(refused, CommitError::Fenced);
    let owned = own(b.as_ref(), "b").await;
    b.commit(&owned.fence, &[put("checkpoint", Expect::Anything, "b")]).await.unwrap();
    let late = a.commit(&fence, &[put("checkpoint", Expect::Anything, "late")]).await;
    assert_eq!(late, Err(CommitError::Fenced));
    assert_eq!(b.get(&key("checkpoint")).await.unwrap().unwrap().value, b"b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_renews_keeps_its_key_past_its_lease() {
    let (url, _server) = Etcd::shared().await;
    let prefix = unique_prefix();
    let store = open_etcd(&url, &prefix, SHORT_SECONDS).await;
    let mut owned = own(store.as_ref(), "n").await;
    let mut client = Client::connect([&url], None).await.unwrap();
    let lease = lease_of(&mut client, &prefix, &owned.fence).await;
    // Another lease of the same length, never renewed, tells when this one would have run out.
    let other = client.lease_grant(SHORT_SECONDS as i64, None).await.unwrap().id();
    let with = PutOptions::new().with_lease(other);
    client.put(format!("{prefix}/witness"), "", Some(with)).await.unwrap();
    eventually("the witness is gone", async || store.get(&key("witness")).await.unwrap().is_none().then_some(())).await;
    assert_eq!(lease_of(&mut client, &prefix, &owned.fence).await, lease);
    store.commit(&owned.fence, &[put("a", Expect::Absent, "1")]).await.unwrap();

    client.lease_revoke(lease).await.unwrap();
    told(&mut owned.ownership, Ownership::Lost).await;
    let late = store.commit(&owned.fence, &[put("a", Expect::Anything, "late")]).await;
    assert_eq!(late, Err(CommitError::Fenced));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ownership_key_rewritten_behind_the_owner_does_not_stop_it() {
    let (url, _server) = Etcd::shared().await;
    let prefix = unique_prefix();
    let store = open_etcd(&url, &prefix, LONG_SECONDS).await;
    let owned = own(store.as_ref(), "n").await;
    let mut client = Client::connect([&url], None).await.unwrap();
    let lease = lease_of(&mut client, &prefix, &owned.fence).await;
    for n in 0..3 {
        // As a renewal of the stamp does that arrives late.
        let path = format!("{prefix}/{}", owned.fence.key.0);
        client.put(path, "n", Some(PutOptions::new().with_lease(lease))).await.unwrap();
        store.commit(&owned.fence, &[put(format!("k/{n}"), Expect::Absent, "v")]).await.unwrap();
        let conflict = store.commit(&owned.fence, &[put("k/0", Expect::Absent, "v")]).await;
        assert_eq!(conflict, Err(CommitError::Conflict));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_ours_without_a_lease_is_cleared_away() {
    let (url, _server) = Etcd::shared().await;
    let prefix = unique_prefix();
    let mut client = Client::connect([&url], None).await.unwrap();
    client.put(format!("{prefix}/owner/p/0"), Holder::named("n").encode(), None).await.unwrap();
    let store = open_etcd(&url, &prefix, LONG_SECONDS).await;
    let owned = own(store.as_ref(), "n").await;
    store.commit(&owned.fence, &[put("a", Expect::Absent, "1")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_etcd_costs_neither_ownership_nor_what_was_committed() {
    let etcd = Etcd::start().await;
    let prefix = unique_prefix();
    let store = open_etcd(&etcd.url(), &prefix, 30).await;
    let owned = own(store.as_ref(), "n").await;
    let waiting = open_etcd(&etcd.url(), &prefix, 30).await;
    let mut successor = Box::pin(own(waiting.as_ref(), "m"));
    let revision = store.commit(&owned.fence, &[put("a", Expect::Absent, "1")]).await.unwrap();
    for round in 0..3 {
        assert!(futures::poll!(&mut successor).is_pending());
        etcd.kill9();
        let lost = store.commit(&owned.fence, &[put(format!("k/{round}"), Expect::Anything, "v")]).await;
        assert!(matches!(lost, Err(CommitError::Unknown(_))), "{lost:?}");
        assert!(store.trouble().is_some());
        assert!(store.get(&key("a")).await.is_err());
        etcd.restart().await;
        let write = put(format!("k/{round}"), Expect::Anything, "v");
        until_known(store.as_ref(), &owned.fence, write).await.unwrap();
        assert_eq!(store.trouble(), None);
    }
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((entry.value, entry.revision), (b"1".to_vec(), revision));
    assert_eq!(*owned.ownership.borrow(), Ownership::Held);
    store.release(&owned.fence).await.unwrap();
    let next = successor.await;
    waiting.commit(&next.fence, &[put("a", Expect::At(revision), "2")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_can_be_opened_before_etcd_is_there() {
    let etcd = Etcd::start().await;
    etcd.kill9();
    let store = open_etcd(&etcd.url(), &unique_prefix(), LONG_SECONDS).await;
    assert!(store.acquire(&key("owner/p/0"), &Holder::named("n")).await.is_err());
    assert!(store.scan("").await.is_err());
    assert!(store.trouble().is_some());
    etcd.restart().await;
    let owned = own_key(store.as_ref(), "owner/p/0", "n").await;
    store.commit(&owned.fence, &[put("a", Expect::Absent, "1")]).await.unwrap();
    assert_eq!(store.trouble(), None);
}

/// What the store relies on, tried on the server itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_takes_as_many_comparisons_as_operations() {
    let (url, _server) = Etcd::shared().await;
    let prefix = unique_prefix();
    let mut client = Client::connect([&url], None).await.unwrap();
    let txn = |compares: usize, puts: usize| {
        let compares = (0..compares).map(|n| Compare::create_revision(format!("{prefix}/{n}"), CompareOp::Equal, 0));
        let puts = (0..puts).map(|n| TxnOp::put(format!("{prefix}/{n}"), "v", None));
        Txn::new().when(compares.collect::<Vec<_>>()).and_then(puts.collect::<Vec<_>>())
    };
    assert!(client.txn(txn(129, 1)).await.is_err());
    assert!(client.txn(txn(1, 129)).await.is_err());
    assert!(client.txn(txn(128, 128)).await.unwrap().succeeded());
}
