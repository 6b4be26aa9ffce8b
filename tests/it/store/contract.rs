//! What every store promises, tried on each of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use streamer::limits;
use streamer::store::faulty::FaultyStore;
use streamer::store::{CommitError, Entry, Expect, Ownership, Revision, Store, Write};

use super::{delete, key, open_etcd, open_redb, own, own_key, put};
use crate::support::etcd::{Etcd, unique_prefix};

/// A store and what must live as long as it.
struct Backend {
    store: Arc<dyn Store>,
    _server: Option<Arc<Etcd>>,
    _folder: Option<tempfile::TempDir>,
}

impl Backend {
    async fn etcd() -> Self {
        let (url, server) = Etcd::shared().await;
        let store = open_etcd(&url, &unique_prefix(), 60).await;
        Self { store, _server: server, _folder: None }
    }

    async fn redb() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { store: open_redb(folder.path()), _server: None, _folder: Some(folder) }
    }

    async fn faulty() -> Self {
        let inner = Self::redb().await;
        Self { store: FaultyStore::new(Arc::clone(&inner.store)), ..inner }
    }
}

macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        contract!(@ etcd: $($promise),*);
        contract!(@ redb: $($promise),*);
        contract!(@ faulty: $($promise),*);
    };
    (@ $backend:ident: $($promise:ident),*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    let backend = super::Backend::$backend().await;
                    super::$promise(backend.store.as_ref()).await;
                }
            )*
        }
    };
}

contract!(
    a_write_takes_effect_only_as_expected,
    a_transaction_is_all_or_nothing,
    only_the_owner_writes,
    one_node_owns_several_keys,
    a_scan_is_complete_and_in_order,
    a_scan_reads_large_records,
    what_is_too_large_is_refused,
    the_limits_themselves_are_taken,
    writers_at_once_are_told_apart,
    a_number_is_greater_than_all_before,
);

async fn a_number_is_greater_than_all_before(store: &dyn Store) {
    let mut last = store.number().await.unwrap();
    for _ in 0..3 {
        let fence = own(store, "n").await.fence;
        store.commit(&fence, &[put("a", Expect::Anything, "1")]).await.unwrap();
        let number = store.number().await.unwrap();
        assert!(number > last);
        last = number;
    }
    let mut at_once = futures::future::join_all((0..20).map(|_| store.number())).await;
    at_once.sort_by_key(|number| *number.as_ref().unwrap());
    at_once.dedup();
    assert_eq!(at_once.len(), 20);
    assert!(at_once.into_iter().all(|number| number.unwrap() > last));
}

async fn value_of(store: &dyn Store, name: &str) -> Option<Vec<u8>> {
    store.get(&key(name)).await.unwrap().map(|entry| entry.value)
}

async fn a_write_takes_effect_only_as_expected(store: &dyn Store) {
    let fence = own(store, "n").await.fence;
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    assert_eq!(store.commit(&fence, &[put("a", Expect::At(Revision(1)), "0")]).await, Err(CommitError::Conflict));
    let first = store.commit(&fence, &[put("a", Expect::Absent, "1")]).await.unwrap();
    let entry = Entry { key: key("a"), value: b"1".to_vec(), revision: first };
    assert_eq!(store.get(&key("a")).await.unwrap(), Some(entry));

    assert_eq!(store.commit(&fence, &[put("a", Expect::Absent, "2")]).await, Err(CommitError::Conflict));
    assert_eq!(value_of(store, "a").await, Some(b"1".to_vec()));
    let second = store.commit(&fence, &[put("a", Expect::At(first), "2")]).await.unwrap();
    assert!(second > first);
    assert_eq!(store.commit(&fence, &[put("a", Expect::At(first), "3")]).await, Err(CommitError::Conflict));
    assert_eq!(store.commit(&fence, &[delete("a", Expect::At(first))]).await, Err(CommitError::Conflict));
    let third = store.commit(&fence, &[put("a", Expect::Anything, "3")]).await.unwrap();
    assert!(third > second);

    let fourth = store.commit(&fence, &[delete("a", Expect::At(third))]).await.unwrap();
    assert!(fourth > third);
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    assert_eq!(store.commit(&fence, &[delete("a", Expect::At(third))]).await, Err(CommitError::Conflict));
    let fifth = store.commit(&fence, &[put("a", Expect::Absent, "5")]).await.unwrap();
    assert!(fifth > fourth, "a revision never comes back");
    assert_eq!(store.trouble(), None);
}

async fn a_transaction_is_all_or_nothing(store: &dyn Store) {
    let fence = own(store, "n").await.fence;
    let writes = [put("a", Expect::Absent, "1"), put("b", Expect::Absent, "1"), put("c", Expect::Absent, "1")];
    let first = store.commit(&fence, &writes).await.unwrap();
    let (entries, at) = store.scan("").await.unwrap();
    let written: Vec<_> = entries.iter().filter(|entry| entry.revision == first).collect();
    assert_eq!(written.len(), 3, "{entries:?}");
    assert!(at >= first);

    let refused = [
        put("a", Expect::At(first), "2"),
        delete("b", Expect::At(first)),
        put("d", Expect::Absent, "2"),
        put("c", Expect::At(Revision(first.0 - 1)), "2"),
    ];
    assert_eq!(store.commit(&fence, &refused).await, Err(CommitError::Conflict));
    assert_eq!(store.scan("").await.unwrap().0, entries);
    store.commit(&fence, &refused[..3]).await.unwrap();
    assert_eq!(value_of(store, "a").await, Some(b"2".to_vec()));
    assert_eq!(value_of(store, "b").await, None);
    assert_eq!(value_of(store, "d").await, Some(b"2".to_vec()));
}

async fn only_the_owner_writes(store: &dyn Store) {
    let first = own(store, "n").await;
    assert_eq!(*first.ownership.borrow(), Ownership::Held);
    store.commit(&first.fence, &[put("a", Expect::Absent, "1")]).await.unwrap();

    // A restart under the same name: the older life writes nothing more.
    let second = own(store, "n").await;
    assert!(second.fence.created > first.fence.created);
    let stale = store.commit(&first.fence, &[put("a", Expect::Anything, "stale")]).await;
    assert_eq!(stale, Err(CommitError::Fenced));
    store.release(&first.fence).await.unwrap();
    store.commit(&second.fence, &[put("a", Expect::Anything, "2")]).await.unwrap();

    store.release(&second.fence).await.unwrap();
    store.release(&second.fence).await.unwrap();
    for fence in [&first.fence, &second.fence] {
        let late = [put("a", Expect::Anything, "late"), put("b", Expect::Absent, "late")];
        assert_eq!(store.commit(fence, &late).await, Err(CommitError::Fenced));
    }
    // Fenced comes before conflict: a stale owner must not think that its record was taken.
    assert_eq!(store.commit(&second.fence, &[put("a", Expect::Absent, "x")]).await, Err(CommitError::Fenced));
    assert_eq!(value_of(store, "a").await, Some(b"2".to_vec()));
    let third = own(store, "m").await;
    store.commit(&third.fence, &[put("a", Expect::Anything, "3")]).await.unwrap();
}

async fn one_node_owns_several_keys(store: &dyn Store) {
    let one = own_key(store, "owner/p/0", "n").await;
    let two = own_key(store, "owner/q/0", "n").await;
    store.commit(&one.fence, &[put("a", Expect::Absent, "1")]).await.unwrap();
    store.commit(&two.fence, &[put("b", Expect::Absent, "1")]).await.unwrap();
    store.release(&one.fence).await.unwrap();
    store.commit(&two.fence, &[put("b", Expect::Anything, "2")]).await.unwrap();
    assert_eq!(store.commit(&one.fence, &[put("a", Expect::Anything, "2")]).await, Err(CommitError::Fenced));
}

async fn a_scan_is_complete_and_in_order(store: &dyn Store) {
    const RECORDS: usize = 2_100;
    let fence = own(store, "n").await.fence;
    let names: Vec<String> = (0..RECORDS).map(|n| format!("subs/b/g/{n:05}")).collect();
    let around = ["subs/b/f/x", "subs/b/g", "subs/b/g0", "subs/b/h/x"];
    let all: Vec<&str> = names.iter().map(String::as_str).chain(around).collect();
    for chunk in all.chunks(limits::store_txn_operations_max) {
        let writes: Vec<Write> = chunk.iter().map(|name| put(*name, Expect::Absent, *name)).collect();
        store.commit(&fence, &writes).await.unwrap();
    }
    let (entries, at) = store.scan("subs/b/g/").await.unwrap();
    let found: Vec<&str> = entries.iter().map(|entry| entry.key.0.as_str()).collect();
    assert_eq!(found, names.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(entries.iter().all(|entry| entry.value == entry.key.0.as_bytes() && entry.revision <= at));
    assert_eq!(store.scan("subs/b/g").await.unwrap().0.len(), RECORDS + 2);
    let (nothing, later) = store.scan("nothing/").await.unwrap();
    assert!(nothing.is_empty() && later >= at, "{nothing:?} at {later:?}");
}

async fn a_scan_reads_large_records(store: &dyn Store) {
    let fence = own(store, "n").await.fence;
    let large = vec![7; limits::subscription_bytes_max];
    for n in 0..15 {
        let writes: Vec<Write> = (0..15).map(|m| put(format!("big/{n}/{m}"), Expect::Absent, large.clone())).collect();
        store.commit(&fence, &writes).await.unwrap();
    }
    let (entries, _) = store.scan("big/").await.unwrap();
    assert_eq!(entries.len(), 225);
    assert!(entries.iter().all(|entry| entry.value == large));
}

async fn what_is_too_large_is_refused(store: &dyn Store) {
    let fence = own(store, "n").await.fence;
    let many = |count: usize| (0..count).map(|n| put(format!("k/{n}"), Expect::Absent, "v")).collect::<Vec<_>>();
    let large = |bytes: usize| vec![put("k/large", Expect::Absent, vec![1; bytes])];
    let twice = vec![put("k/a", Expect::Absent, "1"), put("k/a", Expect::Absent, "2")];
    for writes in [many(128), many(129), large(limits::store_txn_bytes_max), large(1_600_000), large(3 << 20), twice] {
        let answer = store.commit(&fence, &writes).await;
        assert!(matches!(answer, Err(CommitError::TooLarge(_))), "{answer:?}");
    }
    assert_eq!(store.scan("k/").await.unwrap().0, []);
}

async fn the_limits_themselves_are_taken(store: &dyn Store) {
    let fence = own(store, "n").await.fence;
    let bytes = limits::store_txn_bytes_max / limits::store_txn_operations_max;
    let writes: Vec<Write> = (0..limits::store_txn_operations_max)
        .map(|n| {
            let name = format!("k/{n}/{}", "n".repeat(400));
            let value = vec![1; bytes - name.len()];
            put(name, Expect::Absent, value)
        })
        .collect();
    let revision = store.commit(&fence, &writes).await.unwrap();
    let again: Vec<Write> = writes.into_iter().map(|write| Write { expect: Expect::At(revision), ..write }).collect();
    store.commit(&fence, &again).await.unwrap();
    assert_eq!(store.scan("k/").await.unwrap().0.len(), limits::store_txn_operations_max);
}

async fn writers_at_once_are_told_apart(store: &dyn Store) {
    let fence = &own(store, "n").await.fence;
    let commits = (0..1_000).map(|n| async move {
        // Two contend for each key.
        store.commit(fence, &[put(format!("k/{}", n / 2), Expect::Absent, format!("{n}"))]).await
    });
    let outcomes = futures::future::join_all(commits).await;
    let won: BTreeSet<Revision> = outcomes.iter().filter_map(|outcome| outcome.clone().ok()).collect();
    assert_eq!(won.len(), 500);
    for (pair, n) in outcomes.chunks(2).zip(0..) {
        let (winner, revision) = match pair {
            [Ok(revision), Err(CommitError::Conflict)] => (2 * n, revision),
            [Err(CommitError::Conflict), Ok(revision)] => (2 * n + 1, revision),
            other => panic!("one of two must win: {other:?}"),
        };
        let entry = store.get(&key(format!("k/{n}"))).await.unwrap().unwrap();
        assert_eq!((entry.value, entry.revision), (winner.to_string().into_bytes(), *revision));
    }
}
