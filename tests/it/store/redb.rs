//! The embedded store: durable under `kill -9`, one process at a time.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use streamer::store::redb::RedbStore;
use streamer::store::{Expect, Key, Ownership, Revision, Store};
use streamer::tasks::Tasks;

use super::{delete, key, open_redb, own, put};
use crate::support::eventually;

/// Set for the process that is to be killed.
const FOLDER: &str = "STREAMER_TEST_STORE_FOLDER";
const WRITERS: usize = 8;
const KILLS: usize = 8;
const CONFIRMED_MIN: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_there_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_redb(folder.path());
    let owned = own(store.as_ref(), "n").await;
    let first = store.commit(&owned.fence, &[put("a", Expect::Absent, "1"), put("b", Expect::Absent, "1")]).await;
    let last = store.commit(&owned.fence, &[delete("b", Expect::At(first.clone().unwrap()))]).await.unwrap();
    drop(store);
    let store = reopened(folder.path()).await;
    let entry = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((entry.value, entry.revision), (b"1".to_vec(), first.unwrap()));
    assert_eq!(store.get(&key("b")).await.unwrap(), None);
    let again = own(store.as_ref(), "n").await;
    assert!(again.fence.created > last, "revisions go on where they were");
    assert_eq!(*again.ownership.borrow(), Ownership::Held);
    assert!(store.commit(&owned.fence, &[put("a", Expect::Anything, "stale")]).await.is_err());
    assert!(owned.ownership.has_changed().is_err(), "the store that it was of is gone");
}

#[tokio::test]
async fn a_file_that_cannot_be_had_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep").join("er").join("store.redb");
    let refused = |path: &Path| RedbStore::open(path, &Tasks::new()).err().map(|error| error.to_string()).unwrap();
    let _store = RedbStore::open(&path, &Tasks::new()).unwrap();
    let error = refused(&path);
    assert!(error.ends_with("store.redb: another process has it open"), "{error}");

    let other = folder.path().join("other");
    std::fs::write(&other, "not a store at all\n".repeat(1_000)).unwrap();
    let errors = [refused(&other), refused(folder.path()), refused(&other.join("store.redb"))];
    assert!(errors.iter().all(|error| error.lines().count() == 1 && error.contains(&*folder.path().to_string_lossy())));
}

/// The writer's thread lets go of the file shortly after the store is dropped.
async fn reopened(folder: &Path) -> Arc<RedbStore> {
    let path = folder.join("store.redb");
    eventually("the file is free", async || RedbStore::open(&path, &Tasks::new()).ok()).await
}

/// Not a test: the writer that is killed. Prints `ack key revision` for each confirmed pair of records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a helper process of the test below"]
async fn writer_to_be_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = open_redb(Path::new(&folder));
    let fence = &own(store.as_ref(), "n").await.fence;
    let store = &store;
    let writers = (0..WRITERS).map(|writer| async move {
        for n in 0.. {
            let name = format!("k/{}-{writer}-{n}", std::process::id());
            let twins = [put(format!("{name}/1"), Expect::Absent, "v"), put(format!("{name}/2"), Expect::Absent, "v")];
            let revision = store.commit(fence, &twins).await.unwrap();
            println!("ack {name} {}", revision.0);
        }
    });
    futures::future::join_all(writers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut confirmed: BTreeMap<String, Revision> = BTreeMap::new();
    let mut last = Revision(0);
    for round in 0..KILLS {
        run_and_kill(folder.path(), CONFIRMED_MIN + 7 * round, &mut confirmed);
        let store = open_redb(folder.path());
        let (entries, at) = store.scan("k/").await.unwrap();
        let found: BTreeMap<&Key, Revision> = entries.iter().map(|entry| (&entry.key, entry.revision)).collect();
        for (name, revision) in &confirmed {
            for twin in ["1", "2"] {
                assert_eq!(found.get(&key(format!("{name}/{twin}"))), Some(revision), "{name} in round {round}");
            }
        }
        // What was not confirmed may be there, but whole.
        for (first, revision) in found.iter().filter(|(key, _)| key.0.ends_with("/1")) {
            let second = key(format!("{}/2", first.0.strip_suffix("/1").unwrap()));
            assert_eq!(found.get(&second), Some(revision));
        }
        assert!(at > last && confirmed.values().all(|revision| *revision <= at));
        last = at;
        drop(store);
        // The next process must be able to lock it.
        let file = std::fs::File::open(folder.path().join("store.redb")).unwrap();
        eventually("the file is free", async || file.try_lock().ok()).await;
    }
    assert!(confirmed.len() >= KILLS * CONFIRMED_MIN);
}

fn run_and_kill(folder: &Path, confirmed_min: usize, confirmed: &mut BTreeMap<String, Revision>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::redb::writer_to_be_killed", "--ignored", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let before = confirmed.len();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut killed = false;
    while lines.read_line(&mut line).unwrap() > 0 {
        // The last line may be cut short by the kill: it was not confirmed then.
        let ack = line.strip_suffix('\n').and_then(|line| line.split_once("ack ")).map(|(_, ack)| ack.to_string());
        line.clear();
        let Some(ack) = ack else { continue };
        let (name, revision) = ack.split_once(' ').unwrap();
        confirmed.insert(name.to_string(), Revision(revision.parse().unwrap()));
        if !killed && confirmed.len() - before >= confirmed_min {
            child.kill().unwrap(); // SIGKILL
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the writer ended by itself");
}
