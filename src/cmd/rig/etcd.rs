//! An etcd of the rig's own: one member.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Client, CompactionOptions};
use tokio::process::Command;

use super::process::{Process, free_port};

/// How long it may take to start, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// An etcd, and what it is started with again and again.
#[derive(Debug)]
pub struct Etcd {
    binary: PathBuf,
    folder: PathBuf,
    port: u16,
    peer: u16,
    /// Nothing before this revision is kept.
    compacted: i64,
    process: Process,
}

impl Etcd {
    /// Starts it with its data in `folder` and waits until it is healthy.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        let (port, peer) = (free_port()?, free_port()?);
        let process = spawn(binary, folder, port, peer)?;
        let mut etcd = Self { binary: binary.to_owned(), folder: folder.to_owned(), port, peer, compacted: 0, process };
        etcd.healthy().await?;
        Ok(etcd)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// Starts it again on its data, and waits until it is healthy.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process = spawn(&self.binary, &self.folder, self.port, self.peer)?;
        self.healthy().await
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        self.process.freeze().await
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn thaw(&self) -> anyhow::Result<()> {
        self.process.thaw().await
    }

    /// Gives up every revision but the present one.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn compact(&mut self) -> anyhow::Result<()> {
        let mut client = Client::connect([self.url()], None).await?;
        let status = client.status().await?;
        let revision = status.header().map_or(0, |header| header.revision());
        // Done once it cannot be done again.
        if revision > self.compacted {
            client.compact(revision, Some(CompactionOptions::new().with_physical())).await?;
            self.compacted = revision;
        }
        Ok(())
    }

    async fn healthy(&mut self) -> anyhow::Result<()> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let health = format!("{}/health", self.url());
        let healthy = async || match http.get(&health).send().await {
            Ok(answer) => answer.status().is_success(),
            Err(_) => false,
        };
        self.process.until(START, &log(&self.folder), healthy).await
    }
}

fn spawn(binary: &Path, folder: &Path, port: u16, peer: u16) -> anyhow::Result<Process> {
    let (clients, peers) = (url(port), url(peer));
    let mut command = Command::new(binary);
    command
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--name", "rig", "--initial-cluster", &format!("rig={peers}")])
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--logger", "zap", "--log-level", "warn"]);
    Process::start("etcd", command, &log(folder))
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn log(folder: &Path) -> PathBuf {
    folder.join("etcd.log")
}
