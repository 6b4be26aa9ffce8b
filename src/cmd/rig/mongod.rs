//! A mongod of the rig's own: a replica set of one member, or one of several.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use tokio::process::Command;

use super::process::{Pid, Process, free_port};

/// How long it may take to start, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// What it may keep.
#[derive(Clone, Copy, Debug)]
pub struct MongodSize {
    /// The oplog.
    pub oplog_mib: u64,
    /// The cache.
    pub cache_gib: f64,
    /// How often it writes to disk what it holds; before that, nothing of the oplog is given up.
    pub sync_seconds: u32,
}

impl Default for MongodSize {
    fn default() -> Self {
        Self { oplog_mib: 990, cache_gib: 0.5, sync_seconds: 60 }
    }
}

/// A mongod, and what it is started with again and again.
#[derive(Debug)]
pub struct Mongod {
    binary: PathBuf,
    data: PathBuf,
    log: PathBuf,
    size: MongodSize,
    port: u16,
    process: Process,
}

impl Mongod {
    /// Starts it with its data in `folder`, initiates its replica set and waits until it takes writes.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(binary: &Path, folder: &Path, size: MongodSize) -> anyhow::Result<Self> {
        let mut mongod = Self::start_bare(binary, folder, "mongod", size).await?;
        mongod.initiate(&[mongod.port]).await?;
        mongod.writable().await?;
        Ok(mongod)
    }

    /// Starts one that does not yet belong to a replica set; `name` tells its files from another's.
    pub(super) async fn start_bare(binary: &Path, folder: &Path, name: &str, size: MongodSize) -> anyhow::Result<Self> {
        let (data, log, port) = (folder.join(name), folder.join(format!("{name}.log")), free_port()?);
        std::fs::create_dir_all(&data)?;
        let process = spawn(binary, &data, &log, size, port)?;
        let mut mongod = Self { binary: binary.to_owned(), data, log, size, port, process };
        mongod.answers().await?;
        Ok(mongod)
    }

    /// Makes a replica set of these members, which elects within about a second.
    pub(super) async fn initiate(&self, ports: &[u16]) -> anyhow::Result<()> {
        let members: Vec<Document> =
            (0..).zip(ports).map(|(id, port): (i32, _)| doc! { "_id": id, "host": host(*port) }).collect();
        let settings = doc! { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200 };
        let config = doc! { "_id": "rs0", "members": members, "settings": settings };
        self.command(doc! { "replSetInitiate": config }).await?;
        Ok(())
    }

    /// Where it is, for all who look for the primary.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/?replicaSet=rs0", host(self.port))
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// Starts it again on its data, and waits until it answers.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.process = spawn(&self.binary, &self.data, &self.log, self.size, self.port)?;
        self.answers().await
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

    /// Tells this very server to do something.
    pub(super) async fn command(&self, command: Document) -> anyhow::Result<Document> {
        Ok(self.direct().await?.database("admin").run_command(command).await?)
    }

    /// Whether it takes writes.
    pub(super) async fn is_primary(&self) -> bool {
        let hello = self.command(doc! { "hello": 1 }).await;
        hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
    }

    async fn direct(&self) -> anyhow::Result<Client> {
        let uri = format!("mongodb://{}/?directConnection=true&serverSelectionTimeoutMS=1000", host(self.port));
        Ok(Client::with_uri_str(uri).await?)
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let client = self.direct().await?;
        let admin = client.database("admin");
        self.process.until(START, &self.log, async || admin.run_command(doc! { "ping": 1 }).await.is_ok()).await
    }

    async fn writable(&mut self) -> anyhow::Result<()> {
        let client = self.direct().await?;
        let admin = client.database("admin");
        let writable = async || {
            let hello: Option<Document> = admin.run_command(doc! { "hello": 1 }).await.ok();
            hello.is_some_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
        };
        self.process.until(START, &self.log, writable).await
    }
}

fn spawn(binary: &Path, data: &Path, log: &Path, size: MongodSize, port: u16) -> anyhow::Result<Process> {
    let mut command = Command::new(binary);
    command
        .args(["--replSet", "rs0", "--bind_ip", "127.0.0.1", "--port", &port.to_string()])
        .args(["--oplogSize", &size.oplog_mib.to_string(), "--syncdelay", &size.sync_seconds.to_string()])
        .args(["--wiredTigerCacheSizeGB", &size.cache_gib.to_string()])
        .arg("--dbpath")
        .arg(data);
    Process::start("mongod", command, log)
}

pub(super) fn host(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
