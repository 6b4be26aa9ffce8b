//! The servers that hubs under test use: those that the environment names, else some of the tests' own,
//! which live as long as a test holds them.

use std::sync::{Arc, Weak};

use streamer::cmd::rig::{self, Etcd, Mongod, MongodSize};
use tempfile::TempDir;
use tokio::sync::Mutex;

/// A server and where it is.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) address: String,
    _own: Option<Arc<dyn Send + Sync>>,
}

impl Server {
    /// One that its test keeps itself.
    pub(super) fn at(address: String) -> Self {
        Self { address, _own: None }
    }
}

type Own<T> = Mutex<Weak<(T, String, TempDir)>>;

/// A replica set that nobody's test breaks.
pub(super) async fn mongodb() -> Server {
    static OWN: Own<Mongod> = Mutex::const_new(Weak::new());
    if let Ok(address) = std::env::var("STREAMER_TEST_MONGODB") {
        return Server { address, _own: None };
    }
    let mut own = OWN.lock().await;
    let server = match own.upgrade() {
        Some(server) => server,
        None => {
            let (program, folder) = (rig::find("mongod", None, "STREAMER_MONGOD").unwrap(), rig::folder().unwrap());
            let mongod = Mongod::start(&program, folder.path(), MongodSize::default()).await.unwrap();
            let address = mongod.uri();
            Arc::new((mongod, address, folder))
        }
    };
    *own = Arc::downgrade(&server);
    Server { address: server.1.clone(), _own: Some(server) }
}

/// An etcd that nobody's test breaks; each test has a prefix of its own in it.
pub(super) async fn etcd() -> Server {
    static OWN: Own<Etcd> = Mutex::const_new(Weak::new());
    if let Ok(address) = std::env::var("STREAMER_TEST_ETCD") {
        return Server { address, _own: None };
    }
    let mut own = OWN.lock().await;
    let server = match own.upgrade() {
        Some(server) => server,
        None => {
            let (program, folder) = (rig::find("etcd", None, "STREAMER_ETCD").unwrap(), rig::folder().unwrap());
            let etcd = Etcd::start(&program, folder.path()).await.unwrap();
            let address = etcd.url();
            Arc::new((etcd, address, folder))
        }
    };
    *own = Arc::downgrade(&server);
    Server { address: server.1.clone(), _own: Some(server) }
}
