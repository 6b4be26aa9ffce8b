//! A mongod of the tests' own, on a free port of loopback.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::ClientOptions;

/// A running mongod; killed when dropped.
pub(super) struct Mongod {
    port: u16,
    data: tempfile::TempDir,
    args: Vec<String>,
    child: Mutex<Child>,
}

impl Mongod {
    /// A replica set of one, initiated and writable.
    pub(super) async fn start(args: &[&str]) -> Self {
        let mongod = Self::start_bare(&[&["--replSet", "rs0"], args].concat()).await;
        let direct = mongod.direct().await;
        let host = format!("127.0.0.1:{}", mongod.port);
        let members = vec![doc! { "_id": 0, "host": host }];
        let config = doc! { "_id": "rs0", "members": members };
        direct.database("admin").run_command(doc! { "replSetInitiate": config }).await.unwrap();
        mongod.writable().await;
        mongod
    }

    /// A mongod as the arguments make it.
    pub(super) async fn start_bare(args: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let data = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let child = Mutex::new(spawn(port, &data, &args));
        let mongod = Self { port, data, args, child };
        mongod.answers().await;
        mongod
    }

    /// The one that tests share which leave it as it is; it lives as long as one of them holds it.
    pub(super) async fn shared() -> Arc<Self> {
        static SHARED: tokio::sync::Mutex<Weak<Mongod>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let started = Arc::new(Self::start(&[]).await);
        *shared = Arc::downgrade(&started);
        started
    }

    pub(super) fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", self.port)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// A client for the test's own writes.
    pub(super) async fn client(&self) -> Client {
        Client::with_uri_str(self.uri()).await.unwrap()
    }

    async fn direct(&self) -> Client {
        let uri = format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port);
        Client::with_options(ClientOptions::parse(uri).await.unwrap()).unwrap()
    }

    /// SIGKILL.
    pub(super) fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts it again on the same data.
    pub(super) async fn restart(&self) {
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = spawn(self.port, &self.data, &self.args);
        self.answers().await;
        self.writable().await;
    }

    async fn answers(&self) {
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let exited = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().unwrap();
            assert!(exited.is_none(), "mongod ended: {exited:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn writable(&self) {
        let direct = self.direct().await;
        loop {
            let hello: Option<Document> = direct.database("admin").run_command(doc! { "hello": 1 }).await.ok();
            if hello.is_some_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16, data: &tempfile::TempDir, args: &[String]) -> Child {
    let binary = std::env::var_os("STREAMER_MONGOD").map_or_else(|| PathBuf::from("mongod"), PathBuf::from);
    Command::new(binary)
        .args(["--bind_ip", "127.0.0.1", "--port", &port.to_string(), "--dbpath"])
        .arg(data.path())
        .arg("--logpath")
        .arg(data.path().join("log"))
        .args(["--wiredTigerCacheSizeGB", "0.25"])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mongod is found by STREAMER_MONGOD or in PATH")
}
