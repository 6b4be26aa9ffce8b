//! A mongod of the rig's own: a replica set of one member.

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
}

impl Default for MongodSize {
    fn default() -> Self {
        Self { oplog_mib: 990, cache_gib: 0.5 }
    }
}

/// A running mongod.
#[derive(Debug)]
pub struct Mongod {
    process: Process,
    port: u16,
}

impl Mongod {
    /// Starts it with its data in `folder`, initiates its replica set and waits until it takes writes.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(binary: &Path, folder: &Path, size: MongodSize) -> anyhow::Result<Self> {
        let data: PathBuf = folder.join("mongod");
        std::fs::create_dir_all(&data)?;
        let (port, log) = (free_port()?, folder.join("mongod.log"));
        let mut command = Command::new(binary);
        command
            .args(["--replSet", "rs0", "--bind_ip", "127.0.0.1", "--port", &port.to_string()])
            .args(["--oplogSize", &size.oplog_mib.to_string()])
            .args(["--wiredTigerCacheSizeGB", &size.cache_gib.to_string()])
            .arg("--dbpath")
            .arg(&data);
        let mut process = Process::start("mongod", command, &log)?;
        let direct = format!("mongodb://127.0.0.1:{port}/?directConnection=true&serverSelectionTimeoutMS=1000");
        let client = Client::with_uri_str(&direct).await?;
        let admin = client.database("admin");
        process.until(START, &log, async || admin.run_command(doc! { "ping": 1 }).await.is_ok()).await?;
        let members = vec![doc! { "_id": 0, "host": format!("127.0.0.1:{port}") }];
        admin.run_command(doc! { "replSetInitiate": { "_id": "rs0", "members": members } }).await?;
        let writable = async || {
            let hello: Option<Document> = admin.run_command(doc! { "hello": 1 }).await.ok();
            hello.is_some_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
        };
        process.until(START, &log, writable).await?;
        Ok(Self { process, port })
    }

    /// Where it is.
    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", self.port)
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }
}
