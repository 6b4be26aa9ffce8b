//! etcd frozen (SIGSTOP): it answers nothing, closes nothing, and wakes up with what it was sent.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use streamer::clock::Clock;
use streamer::store::{CommitError, Expect, Ownership, Store};

use super::{delete, key, open_etcd, own, put, until_known};
use crate::support::etcd::{Etcd, unique_prefix};
use crate::support::{eventually, in_time};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_beyond_its_lease_an_owner_stops_by_its_own_clock_and_then_learns_its_fate() {
    const LEASE_SECONDS: u64 = 3;
    let etcd = Etcd::start().await;
    let store = open_etcd(&etcd.url(), &unique_prefix(), LEASE_SECONDS).await;
    let mut owned = own(store.as_ref(), "n").await;
    store.commit(&owned.fence, &[put("a", Expect::Absent, "1")]).await.unwrap();

    etcd.stop();
    let (clock, frozen) = (Clock::system(), Clock::system().now());
    let uncertain = owned.ownership.wait_for(|now| *now != Ownership::Held);
    assert_eq!(*in_time("doubt", uncertain).await.unwrap(), Ownership::Uncertain);
    assert!(store.trouble().is_some());
    eventually("the lease is over by any clock", async || {
        (clock.now().since(frozen) > Duration::from_secs(2 * LEASE_SECONDS)).then_some(())
    })
    .await;
    assert_eq!(*owned.ownership.borrow(), Ownership::Uncertain, "nobody has answered");

    etcd.cont();
    let fate = owned.ownership.wait_for(|now| *now != Ownership::Uncertain);
    let fate = *in_time("certainty", fate).await.unwrap();
    // It has been seen to be lost. Whatever it is, the fence agrees.
    let outcome = until_known(store.as_ref(), &owned.fence, put("a", Expect::Anything, "2")).await;
    match fate {
        Ownership::Lost => assert_eq!(outcome, Err(CommitError::Fenced)),
        _ => drop(outcome.unwrap()),
    }
    let again = own(store.as_ref(), "n").await;
    store.commit(&again.fence, &[put("a", Expect::Anything, "3")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_for_less_than_its_lease_an_owner_goes_on() {
    let etcd = Etcd::start().await;
    let store = open_etcd(&etcd.url(), &unique_prefix(), 60).await;
    let owned = own(store.as_ref(), "n").await;
    etcd.stop();
    let unknown = store.commit(&owned.fence, &[put("a", Expect::Absent, "1")]).await;
    assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{unknown:?}");
    etcd.cont();
    until_known(store.as_ref(), &owned.fence, put("b", Expect::Absent, "1")).await.unwrap();
    assert_eq!(*owned.ownership.borrow(), Ownership::Held);
    assert_eq!(store.trouble(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_timed_out_cannot_take_effect_after_its_outcome_is_known() {
    let etcd = Etcd::start().await;
    let prefix = unique_prefix();
    let store = open_etcd(&etcd.url(), &prefix, 60).await;
    let owned = own(store.as_ref(), "n").await;
    let stamp = async || store.get(&owned.fence.key).await.unwrap().unwrap().revision;
    assert_eq!(stamp().await, owned.fence.created);

    etcd.stop();
    let unknown = store.commit(&owned.fence, &[put("a", Expect::Absent, "1")]).await;
    assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{unknown:?}");
    etcd.cont();
    let outcome = until_known(store.as_ref(), &owned.fence, put("a", Expect::Absent, "1")).await;
    assert!(matches!(outcome, Ok(_) | Err(CommitError::Conflict)), "{outcome:?}");
    assert!(stamp().await > owned.fence.created, "the old stamp must be worth nothing");
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    store.commit(&owned.fence, &[delete("a", Expect::At(entry.revision))]).await.unwrap();

    // The request as it was sent, held up by the network until now: its own conditions hold again.
    let mut client = Client::connect([etcd.url()], None).await.unwrap();
    let guard = format!("{prefix}/{}", owned.fence.key.0);
    let late = Txn::new()
        .when([
            Compare::mod_revision(guard, CompareOp::Equal, owned.fence.created.0 as i64),
            Compare::create_revision(format!("{prefix}/a"), CompareOp::Equal, 0),
        ])
        .and_then([TxnOp::put(format!("{prefix}/a"), "1", None::<PutOptions>)]);
    assert!(!client.txn(late).await.unwrap().succeeded());
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    // What is definite costs no stamp.
    let before = stamp().await;
    store.commit(&owned.fence, &[put("a", Expect::Absent, "2")]).await.unwrap();
    assert_eq!(store.commit(&owned.fence, &[put("a", Expect::Absent, "2")]).await, Err(CommitError::Conflict));
    assert_eq!(stamp().await, before);
}
