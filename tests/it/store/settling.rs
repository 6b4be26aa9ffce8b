//! Contract 12: a write of unknown outcome is settled, whatever the network did to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use streamer::store::faulty::{Fault, FaultyStore};
use streamer::store::writer::commit_definitely;
use streamer::store::{CommitError, Expect, Fence, Owned, Revision, Store, Write};

use super::{delete, key, open_etcd, open_redb, own, put};
use crate::support::etcd::{Etcd, unique_prefix};
use crate::support::{eventually, in_time};

/// Longer than any test.
const PATIENT: Duration = Duration::from_secs(600);

struct Scene {
    store: Arc<FaultyStore>,
    owned: Owned,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = FaultyStore::new(open_redb(folder.path()));
        let owned = own(store.as_ref(), "n").await;
        Self { store, owned, _folder: folder }
    }

    async fn settle(&self, writes: &[Write]) -> Result<Revision, CommitError> {
        settle(self.store.as_ref(), &self.owned.fence, writes).await
    }

    /// Without faults.
    async fn commit(&self, writes: &[Write]) -> Revision {
        self.store.commit(&self.owned.fence, writes).await.unwrap()
    }

    async fn read(&self, name: &str) -> Option<(Vec<u8>, Revision)> {
        self.store.get(&key(name)).await.unwrap().map(|entry| (entry.value, entry.revision))
    }
}

async fn settle(store: &dyn Store, fence: &Fence, writes: &[Write]) -> Result<Revision, CommitError> {
    let mut jitter = ChaCha8Rng::seed_from_u64(1);
    let work = commit_definitely(store, fence, writes, PATIENT, || panic!("too patient for that"), &mut jitter);
    in_time("an outcome", work).await
}

#[tokio::test]
async fn a_lost_request_is_sent_again() {
    let scene = Scene::new().await;
    scene.store.meet([Fault::FailBefore, Fault::FailBefore]);
    let revision = scene.settle(&[put("a", Expect::Absent, "w1")]).await.unwrap();
    assert_eq!(scene.read("a").await, Some((b"w1".to_vec(), revision)));
    assert_eq!(scene.store.commits(), 3);
}

#[tokio::test]
async fn a_lost_answer_is_found_in_the_store() {
    let scene = Scene::new().await;
    scene.store.meet([Fault::FailAfter]);
    let revision = scene.settle(&[put("a", Expect::Absent, "w1"), put("b", Expect::Absent, "w2")]).await.unwrap();
    assert_eq!(scene.read("a").await, Some((b"w1".to_vec(), revision)));
    assert_eq!(scene.read("b").await, Some((b"w2".to_vec(), revision)));

    // A deletion beside a value: the revision is the value's, whatever happened since.
    scene.store.meet([Fault::FailAfter, Fault::FailBefore]);
    let writes = [delete("b", Expect::At(revision)), put("a", Expect::At(revision), "w3")];
    let settled = scene.settle(&writes).await.unwrap();
    assert_eq!(scene.read("a").await, Some((b"w3".to_vec(), settled)));
    assert_eq!(scene.read("b").await, None);
}

#[tokio::test]
async fn the_revision_of_a_value_is_its_own_though_others_wrote_since() {
    let scene = Scene::new().await;
    let first = scene.commit(&[put("a", Expect::Absent, "w1"), put("b", Expect::Absent, "w1")]).await;
    let writes = [delete("b", Expect::At(first)), put("a", Expect::At(first), "w2")];
    let written = scene.commit(&writes).await;
    for n in 0..5 {
        scene.commit(&[put(format!("other/{n}"), Expect::Absent, "x")]).await;
    }
    // The answer to the commit above was lost: so its repetition begins in doubt.
    scene.store.meet([Fault::FailBefore]);
    assert_eq!(scene.settle(&writes).await, Ok(written));
}

#[tokio::test]
async fn a_deletion_whose_answer_was_lost_is_settled() {
    let scene = Scene::new().await;
    let first = scene.commit(&[put("a", Expect::Absent, "w1")]).await;
    scene.store.meet([Fault::FailAfter]);
    let revision = scene.settle(&[delete("a", Expect::At(first))]).await.unwrap();
    assert!(revision > first);
    assert_eq!(scene.read("a").await, None);
}

#[tokio::test]
async fn a_request_held_up_takes_effect_once() {
    let scene = Scene::new().await;
    scene.store.meet([Fault::Delay, Fault::Delay]);
    let revision = scene.settle(&[put("a", Expect::Absent, "w1")]).await.unwrap();
    assert_eq!(scene.store.arrive().await, [Err(CommitError::Conflict), Err(CommitError::Conflict)]);
    assert_eq!(scene.read("a").await, Some((b"w1".to_vec(), revision)));
}

#[tokio::test]
async fn somebody_elses_value_is_a_conflict() {
    let scene = Scene::new().await;
    let first = scene.commit(&[put("a", Expect::Absent, "theirs"), put("b", Expect::Absent, "theirs")]).await;
    for faults in [vec![], vec![Fault::FailBefore], vec![Fault::Delay, Fault::FailBefore]] {
        scene.store.meet(faults);
        assert_eq!(scene.settle(&[put("a", Expect::Absent, "ours")]).await, Err(CommitError::Conflict));
        scene.store.meet([Fault::FailBefore]);
        assert_eq!(scene.settle(&[delete("a", Expect::At(Revision(1)))]).await, Err(CommitError::Conflict));
        // Ours in part is not ours.
        scene.store.meet([Fault::FailBefore]);
        let half = [put("a", Expect::Absent, "theirs"), put("b", Expect::Absent, "ours")];
        assert_eq!(scene.settle(&half).await, Err(CommitError::Conflict));
    }
    assert_eq!(scene.read("a").await, Some((b"theirs".to_vec(), first)));
}

#[tokio::test]
async fn the_same_values_of_two_transactions_are_not_one() {
    let scene = Scene::new().await;
    scene.commit(&[put("a", Expect::Absent, "w1")]).await;
    scene.commit(&[put("b", Expect::Absent, "w2")]).await;
    scene.store.meet([Fault::FailBefore]);
    let both = [put("a", Expect::Absent, "w1"), put("b", Expect::Absent, "w2")];
    assert_eq!(scene.settle(&both).await, Err(CommitError::Conflict));
}

#[tokio::test]
async fn reads_that_fail_do_not_decide() {
    let scene = Scene::new().await;
    scene.store.meet([Fault::FailAfter]);
    scene.store.fail_reads(3);
    let revision = scene.settle(&[put("a", Expect::Absent, "w1")]).await.unwrap();
    assert_eq!(scene.read("a").await, Some((b"w1".to_vec(), revision)));
}

#[tokio::test]
async fn a_fence_ends_it() {
    let scene = Scene::new().await;
    scene.store.meet([Fault::FailBefore, Fault::Fenced]);
    assert_eq!(scene.settle(&[put("a", Expect::Absent, "w1")]).await, Err(CommitError::Fenced));
    own(scene.store.as_ref(), "n").await;
    scene.store.meet([Fault::FailBefore]);
    assert_eq!(scene.settle(&[put("a", Expect::Absent, "w1")]).await, Err(CommitError::Fenced));
    let large = [put("a", Expect::Absent, vec![0; 2 << 20])];
    assert!(matches!(scene.settle(&large).await, Err(CommitError::TooLarge(_))));
}

#[tokio::test]
async fn the_caller_is_told_once_that_nothing_is_known_and_the_work_goes_on() {
    let scene = Scene::new().await;
    let told = AtomicUsize::new(0);
    let tell = || {
        told.fetch_add(1, Ordering::SeqCst);
    };
    scene.store.meet([Fault::Hang]);
    let mut jitter = ChaCha8Rng::seed_from_u64(1);
    let writes = [put("a", Expect::Absent, "w1")];
    let (store, fence) = (scene.store.as_ref(), &scene.owned.fence);
    let work = commit_definitely(store, fence, &writes, Duration::from_millis(1), tell, &mut jitter);
    tokio::select! {
        _ = work => panic!("nothing can be known"),
        () = eventually("the caller is told", async || (told.load(Ordering::SeqCst) == 1).then_some(())) => {}
    }

    scene.store.meet([Fault::FailBefore; 4]);
    let work = commit_definitely(store, fence, &writes, Duration::from_millis(1), tell, &mut jitter);
    in_time("an outcome", work).await.unwrap();
    assert_eq!(told.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_and_then_killed_etcd_is_settled_too() {
    let etcd = Etcd::start().await;
    let store = open_etcd(&etcd.url(), &unique_prefix(), 60).await;
    let owned = own(store.as_ref(), "n").await;
    let (fence, mut jitter) = (&owned.fence, ChaCha8Rng::seed_from_u64(1));
    etcd.stop();
    let writes = [put("a", Expect::Absent, "w1")];
    let told = AtomicUsize::new(0);
    let tell = || {
        told.fetch_add(1, Ordering::SeqCst);
        etcd.cont();
    };
    let work = commit_definitely(store.as_ref(), fence, &writes, Duration::from_millis(200), tell, &mut jitter);
    let revision = in_time("an outcome", work).await.unwrap();
    assert_eq!(told.load(Ordering::SeqCst), 1);
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().revision, revision);

    etcd.kill9();
    let writes = [delete("a", Expect::At(revision)), put("b", Expect::Absent, "w2")];
    let (outcome, ()) = tokio::join!(settle(store.as_ref(), fence, &writes), async {
        // Not before it was missed.
        eventually("trouble", async || store.trouble()).await;
        etcd.restart().await;
    });
    let entry = store.get(&key("b")).await.unwrap().unwrap();
    assert_eq!((entry.value, entry.revision), (b"w2".to_vec(), outcome.unwrap()));
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever happens on the way: what is said is what is stored.
    #[test]
    fn what_is_said_is_what_is_stored(
        faults in prop::collection::vec(
            select(vec![Fault::Pass, Fault::FailBefore, Fault::FailAfter, Fault::Delay]), 0..4),
        reads_to_fail in 0..3_usize,
        is_taken in any::<bool>(),
        is_replaced in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let scene = Scene::new().await;
            let first = scene.commit(&[put("gone", Expect::Absent, "w0"), put("kept", Expect::Absent, "w0")]).await;
            if is_taken {
                scene.commit(&[put("new", Expect::Absent, "theirs")]).await;
            }
            let kept = if is_replaced { scene.commit(&[put("kept", Expect::At(first), "w1")]).await } else { first };
            scene.store.meet(faults);
            scene.store.fail_reads(reads_to_fail);
            let writes = [
                put("new", Expect::Absent, "ours"),
                put("kept", Expect::At(first), "ours"),
                delete("gone", Expect::At(first)),
            ];
            let outcome = scene.settle(&writes).await;
            scene.store.fail_reads(0);
            for late in scene.store.arrive().await {
                assert_eq!(late, Err(CommitError::Conflict), "too late");
            }
            let stored = [scene.read("new").await, scene.read("kept").await, scene.read("gone").await];
            if is_taken || is_replaced {
                assert_eq!(outcome, Err(CommitError::Conflict));
                assert_eq!(stored[1].as_ref().unwrap().1, kept);
                assert!(stored[2].is_some());
            } else {
                let ours = Some((b"ours".to_vec(), outcome.unwrap()));
                assert_eq!(stored, [ours.clone(), ours, None]);
            }
        });
    }
}
