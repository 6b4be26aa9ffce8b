//! An etcd of the rig's own: one member.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use super::process::{Process, free_port};

/// How long it may take to start, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A running etcd.
#[derive(Debug)]
pub struct Etcd {
    _process: Process,
    port: u16,
}

impl Etcd {
    /// Starts it with its data in `folder` and waits until it is healthy.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        let (port, peer, log) = (free_port()?, free_port()?, folder.join("etcd.log"));
        let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new(binary);
        command
            .arg("--data-dir")
            .arg(folder.join("etcd"))
            .args(["--name", "rig", "--initial-cluster", &format!("rig={peers}")])
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--logger", "zap", "--log-level", "warn"]);
        let mut process = Process::start("etcd", command, &log)?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let health = format!("{clients}/health");
        let healthy = async || match http.get(&health).send().await {
            Ok(answer) => answer.status().is_success(),
            Err(_) => false,
        };
        process.until(START, &log, healthy).await?;
        Ok(Self { _process: process, port })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
