//! The stores: one contract for all of them, and what each does when its server or its disk fails.

mod contract;
mod etcd;
mod freezing;
mod redb;
mod settling;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use streamer::clock::Clock;
use streamer::store::etcd::{EtcdConfig, EtcdStore};
use streamer::store::owners::Holder;
use streamer::store::redb::RedbStore;
use streamer::store::{CommitError, Expect, Fence, Key, Owned, Revision, Store, Write};
use streamer::tasks::Tasks;

use crate::support::in_time;

fn key(name: impl Into<String>) -> Key {
    Key(name.into())
}

fn put(name: impl Into<String>, expect: Expect, value: impl Into<Vec<u8>>) -> Write {
    Write { key: key(name), expect, value: Some(value.into()) }
}

fn delete(name: impl Into<String>, expect: Expect) -> Write {
    Write { key: key(name), expect, value: None }
}

async fn own(store: &dyn Store, node: &str) -> Owned {
    own_key(store, "owner/p/0", node).await
}

/// As the hub does it: again, if the store does not answer.
async fn own_key(store: &dyn Store, name: &str, node: &str) -> Owned {
    let owned = async {
        loop {
            match store.acquire(&key(name), &Holder::named(node)).await {
                Ok(owned) => return owned,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    in_time("ownership", owned).await
}

/// Commits one write, again as long as nothing is known.
async fn until_known(store: &dyn Store, fence: &Fence, write: Write) -> Result<Revision, CommitError> {
    let writes = [write];
    let known = async {
        loop {
            match store.commit(fence, &writes).await {
                Err(CommitError::Unknown(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                definite => return definite,
            }
        }
    };
    in_time("a definite outcome", known).await
}

async fn open_etcd(url: &str, prefix: &str, lease_seconds: u64) -> Arc<EtcdStore> {
    let config = EtcdConfig { endpoints: vec![url.to_string()], prefix: prefix.to_string(), lease_seconds };
    EtcdStore::connect(config, Tasks::new(), Clock::system()).await.unwrap()
}

fn open_redb(folder: &Path) -> Arc<RedbStore> {
    RedbStore::open(&folder.join("store.redb"), &Tasks::new()).unwrap()
}
