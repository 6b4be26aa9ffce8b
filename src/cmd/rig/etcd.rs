//! An etcd of the rig's own: one member, or several.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use etcd_client::{Client, CompactionOptions, Compare, CompareOp, Txn, TxnOp};
use futures::{StreamExt, stream};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::process::{Process, free_port};

/// How long it may take to start, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Transactions under way at once, and keys that are written again and again, when it is measured.
const UNDER_WAY: usize = 64;
const KEYS: usize = 4_096;
/// How long a member may take to say who leads.
const ASKING: Duration = Duration::from_secs(5);

/// An etcd, and what it is started with again and again.
#[derive(Debug)]
pub struct Etcd {
    binary: PathBuf,
    /// How each is told of all.
    cluster: String,
    members: Vec<Member>,
    /// Who was broken last, and is mended next.
    broken: usize,
    /// Nothing before this revision is kept.
    compacted: i64,
}

#[derive(Debug)]
struct Member {
    name: String,
    folder: PathBuf,
    port: u16,
    peer: u16,
    process: Process,
}

impl Etcd {
    /// Starts one member with its data in `folder` and waits until it is healthy.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        Self::start_all(binary, folder, 1).await
    }

    /// Starts so many members.
    ///
    /// # Errors
    /// They do not start.
    pub async fn start_all(binary: &Path, folder: &Path, members: usize) -> anyhow::Result<Self> {
        let ports = (0..members).map(|_| Ok((free_port()?, free_port()?))).collect::<anyhow::Result<Vec<_>>>()?;
        let named = ports.iter().enumerate().map(|(number, (_, peer))| format!("rig-{number}={}", url(*peer)));
        let cluster = named.collect::<Vec<_>>().join(",");
        let mut etcd = Self { binary: binary.to_owned(), cluster, members: Vec::new(), broken: 0, compacted: 0 };
        for (number, (port, peer)) in ports.into_iter().enumerate() {
            let (name, folder) = (format!("rig-{number}"), folder.join(format!("etcd-{number}")));
            std::fs::create_dir_all(&folder)?;
            let process = spawn(binary, &etcd.cluster, &name, &folder, (port, peer))?;
            etcd.members.push(Member { name, folder, port, peer, process });
        }
        for member in &mut etcd.members {
            member.healthy().await?;
        }
        Ok(etcd)
    }

    /// Where its first member is.
    pub fn url(&self) -> String {
        url(self.port())
    }

    /// Where all of them are.
    pub fn urls(&self) -> Vec<String> {
        self.ports().map(url).collect()
    }

    /// The first one's port.
    pub fn port(&self) -> u16 {
        self.members[0].port
    }

    /// All their ports.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.members.iter().map(|member| member.port)
    }

    /// SIGKILL; of several, to the one that leads.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.broken = self.leader().await?;
        self.members[self.broken].process.kill().await
    }

    /// Starts it again on its data, and waits until it is healthy.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let member = &mut self.members[self.broken];
        let ports = (member.port, member.peer);
        member.process = spawn(&self.binary, &self.cluster, &member.name, &member.folder, ports)?;
        member.healthy().await
    }

    /// SIGSTOP; of several, to the one that leads.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn freeze(&mut self) -> anyhow::Result<()> {
        self.broken = self.leader().await?;
        self.members[self.broken].process.freeze().await
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn thaw(&self) -> anyhow::Result<()> {
        self.members[self.broken].process.thaw().await
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

    /// How many transactions a second it takes, of so many writes of so many bytes each under one condition, with as
    /// many under way as a hub has.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn rate(&self, measured: Duration, operations: usize, bytes: usize) -> anyhow::Result<f64> {
        let mut client = Client::connect(self.urls(), None).await?;
        client.put("fence", "it", None).await?;
        let began = Instant::now();
        let writing = (0_usize..).take_while(|_| began.elapsed() < measured).map(|number| {
            let mut client = client.clone();
            let key = move |n: usize| format!("k/{}", (number * operations + n) % KEYS);
            let puts: Vec<_> = (0..operations).map(|n| TxnOp::put(key(n), vec![b'x'; bytes], None)).collect();
            let fenced = Compare::create_revision("fence", CompareOp::Greater, 0);
            async move { client.txn(Txn::new().when([fenced]).and_then(puts)).await }
        });
        let mut done = 0_u32;
        let mut writing = pin!(stream::iter(writing).buffer_unordered(UNDER_WAY));
        while let Some(written) = writing.next().await {
            written?;
            done += 1;
        }
        Ok(f64::from(done) / began.elapsed().as_secs_f64())
    }

    async fn leader(&self) -> anyhow::Result<usize> {
        if self.members.len() == 1 {
            return Ok(0);
        }
        for (number, member) in self.members.iter().enumerate() {
            let asking = async { Client::connect([url(member.port)], None).await?.status().await };
            let Ok(Ok(status)) = timeout(ASKING, asking).await else { continue };
            if status.header().is_some_and(|header| header.member_id() == status.leader()) {
                return Ok(number);
            }
        }
        anyhow::bail!("no member of etcd leads")
    }
}

impl Member {
    async fn healthy(&mut self) -> anyhow::Result<()> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let health = format!("{}/health", url(self.port));
        let healthy = async || match http.get(&health).send().await {
            Ok(answer) => answer.status().is_success(),
            Err(_) => false,
        };
        self.process.until(START, &log(&self.folder), healthy).await.with_context(|| format!("etcd {}", self.name))
    }
}

fn spawn(binary: &Path, cluster: &str, name: &str, folder: &Path, (port, peer): (u16, u16)) -> anyhow::Result<Process> {
    let (clients, peers) = (url(port), url(peer));
    let mut command = Command::new(binary);
    command
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args(["--name", name, "--initial-cluster", cluster])
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
