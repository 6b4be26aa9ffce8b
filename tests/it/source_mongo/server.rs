//! A mongod of the tests' own, on a free port of loopback.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::ClientOptions;

/// A running mongod; killed when dropped.
pub(crate) struct Mongod {
    port: u16,
    data: Mutex<tempfile::TempDir>,
    args: Vec<String>,
    child: Mutex<Child>,
}

impl Mongod {
    /// A replica set of one, initiated and writable.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let mongod = Self::start_bare(&[&["--replSet", "rs0"], args].concat()).await;
        mongod.initiate(&[&mongod]).await;
        mongod.writable().await;
        mongod
    }

    /// A replica set of three that elects a new primary within about a second.
    pub(super) async fn start_three() -> [Self; 3] {
        let start = || Self::start_bare(&["--replSet", "rs0", "--oplogSize", "64"]);
        let (a, b, c) = tokio::join!(start(), start(), start());
        a.initiate(&[&a, &b, &c]).await;
        a.client_of(&[&a, &b, &c]).await.database("x").collection("y").insert_one(doc! {}).await.unwrap();
        [a, b, c]
    }

    /// Makes a replica set of these members.
    pub(super) async fn initiate(&self, members: &[&Self]) {
        let members = members.iter().enumerate();
        let members: Vec<Document> = members
            .map(|(id, member)| doc! { "_id": id as i32, "host": format!("127.0.0.1:{}", member.port) })
            .collect();
        let settings = doc! { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200 };
        let config = doc! { "_id": "rs0", "members": members, "settings": settings };
        self.direct().await.database("admin").run_command(doc! { "replSetInitiate": config }).await.unwrap();
    }

    /// The connection string of a set of these.
    pub(super) fn uri_of(members: &[&Self]) -> String {
        let hosts: Vec<_> = members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        format!("mongodb://{}/?replicaSet=rs0&retryWrites=true", hosts.join(","))
    }

    async fn client_of(&self, members: &[&Self]) -> Client {
        Client::with_uri_str(Self::uri_of(members)).await.unwrap()
    }

    /// A mongod as the arguments make it.
    pub(crate) async fn start_bare(args: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let data = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let child = Mutex::new(spawn(port, &data, &args));
        let mongod = Self { port, data: Mutex::new(data), args, child };
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

    pub(crate) fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A client for the test's own writes.
    pub(super) async fn client(&self) -> Client {
        Client::with_uri_str(self.uri()).await.unwrap()
    }

    /// A client of this server alone.
    pub(super) async fn direct(&self) -> Client {
        let uri = format!("mongodb://127.0.0.1:{}/?directConnection=true", self.port);
        Client::with_options(ClientOptions::parse(uri).await.unwrap()).unwrap()
    }

    /// SIGKILL.
    pub(super) fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// SIGSTOP or SIGCONT.
    pub(super) fn signal(&self, name: &str) {
        let id = self.child.lock().unwrap_or_else(PoisonError::into_inner).id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Starts it again on the same data.
    pub(super) async fn restart(&self) {
        self.respawn();
        self.answers().await;
    }

    fn respawn(&self) {
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = spawn(self.port, &data, &self.args);
    }

    /// Another deployment takes its place: a new replica set of the same name, at the same address, with nothing in it.
    pub(crate) async fn exchange(&self) {
        self.kill();
        *self.data.lock().unwrap_or_else(PoisonError::into_inner) = tempfile::tempdir().unwrap();
        self.respawn();
        self.answers().await;
        self.initiate(&[self]).await;
        self.writable().await;
    }

    /// It is put back to what it holds now after `meanwhile`, as from a copy of its disk.
    pub(crate) async fn restore_after(&self, meanwhile: impl Future<Output = ()>) {
        let kept = tempfile::tempdir().unwrap();
        self.kill();
        self.copy_data(|data| (data.to_path_buf(), kept.path().to_path_buf()));
        self.restart().await;
        self.writable().await;
        meanwhile.await;
        self.kill();
        *self.data.lock().unwrap_or_else(PoisonError::into_inner) = tempfile::tempdir().unwrap();
        self.copy_data(|data| (kept.path().to_path_buf(), data.to_path_buf()));
        self.restart().await;
        self.writable().await;
    }

    fn copy_data(&self, which: impl FnOnce(&Path) -> (PathBuf, PathBuf)) {
        let (from, to) = which(self.data.lock().unwrap_or_else(PoisonError::into_inner).path());
        let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
        assert!(copied.success());
    }

    async fn answers(&self) {
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let exited = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().unwrap();
            assert!(exited.is_none(), "mongod ended: {exited:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it is primary.
    pub(super) async fn writable(&self) {
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
