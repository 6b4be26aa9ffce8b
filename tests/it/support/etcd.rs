//! An etcd of the tests' own, on free ports of loopback.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use streamer::cmd::rig;

use super::eventually;

/// A running etcd with one member; killed when dropped.
pub(crate) struct Etcd {
    port: u16,
    peer: u16,
    data: tempfile::TempDir,
    child: Mutex<Child>,
}

impl Etcd {
    /// Starts one and waits until it serves.
    pub(crate) async fn start() -> Self {
        let [port, peer] = [0; 2].map(|any| TcpListener::bind(("127.0.0.1", any)).unwrap());
        let [port, peer] = [port, peer].map(|listener| listener.local_addr().unwrap().port());
        let data = tempfile::tempdir().unwrap();
        let child = Mutex::new(spawn(port, peer, &data));
        let etcd = Self { port, peer, data, child };
        etcd.serves().await;
        etcd
    }

    /// The one for tests that leave it as it is, told apart by prefix: that of the environment
    /// (`scripts/services`), else one that lives as long as a test holds it.
    pub(crate) async fn shared() -> (String, Option<Arc<Self>>) {
        static SHARED: tokio::sync::Mutex<Weak<Etcd>> = tokio::sync::Mutex::const_new(Weak::new());
        if let Ok(url) = std::env::var("STREAMER_TEST_ETCD") {
            return (url, None);
        }
        let mut shared = SHARED.lock().await;
        let etcd = match shared.upgrade() {
            Some(running) => running,
            None => Arc::new(Self::start().await),
        };
        *shared = Arc::downgrade(&etcd);
        (etcd.url(), Some(etcd))
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// SIGKILL.
    pub(crate) fn kill9(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// SIGSTOP: it answers nothing and closes nothing.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
        // The signal is on its way to each of its threads; until all have stopped it may still answer.
        let id = self.child.lock().unwrap_or_else(PoisonError::into_inner).id();
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        };
        while !std::fs::read_dir(format!("/proc/{id}/task")).unwrap().all(is_stopped) {
            std::thread::yield_now();
        }
    }

    /// SIGCONT.
    pub(crate) fn cont(&self) {
        self.signal("CONT");
    }

    /// Starts it again on the same data.
    pub(crate) async fn restart(&self) {
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = spawn(self.port, self.peer, &self.data);
        self.serves().await;
    }

    fn signal(&self, name: &str) {
        let id = self.child.lock().unwrap_or_else(PoisonError::into_inner).id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    async fn serves(&self) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let health = format!("{}/health", self.url());
        eventually("etcd is healthy", async || {
            let exited = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().unwrap();
            assert!(exited.is_none(), "etcd ended: {exited:?}");
            http.get(&health).send().await.ok().filter(|answer| answer.status().is_success())
        })
        .await;
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// A prefix that no other test, nor another run on a shared server, uses.
pub(crate) fn unique_prefix() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let random: u64 = rand::random();
    format!("test-{}-{random:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn spawn(port: u16, peer: u16, data: &tempfile::TempDir) -> Child {
    let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
    Command::new(rig::find("etcd", None, "STREAMER_ETCD").unwrap())
        .arg("--data-dir")
        .arg(data.path().join("etcd"))
        .args(["--name", "test", "--initial-cluster", &format!("test={peers}")])
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
