//! The rig: servers, hubs and writers that drills and measurements start.
//!
//! Owns every process that a drill starts, and all their use of the MongoDB driver. Each server listens
//! on a free port of loopback, keeps its data in a folder that its owner gives it, and dies with its
//! handle. Knows nothing of what is drilled or measured.

mod binary;
mod database;
mod etcd;
mod hub;
mod machine;
mod mongod;
mod nats;
mod process;
mod raw;
mod relay;
mod replica_set;

pub use binary::find;
pub use database::{Database, OperationTime, Step, may_pass};
pub use etcd::Etcd;
pub use hub::{Hub, HubPlan};
pub use machine::{Machine, cpu_seconds, resident_kib};
pub use mongod::{Mongod, MongodSize};
pub use nats::Nats;
pub use process::Pid;
pub use raw::{RawDrain, drain_raw, watch_raw};
pub use relay::{Line, Relay};
pub use replica_set::ReplicaSet;

/// Makes a folder for a rig's data. It goes when the value does.
///
/// # Errors
/// A temporary folder that cannot be written.
pub fn folder() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("streamer-rig-").tempdir()
}

/// Leaves the servers' logs for whoever looks into a failure, without their data. Says where.
pub fn keep_logs(folder: &std::path::Path) -> String {
    let kept = || -> std::io::Result<std::path::PathBuf> {
        let kept = tempfile::Builder::new().prefix("streamer-logs-").tempdir()?.keep();
        for file in std::fs::read_dir(folder)? {
            let path = file?.path();
            if let (Some("log"), Some(name)) = (path.extension().and_then(|end| end.to_str()), path.file_name()) {
                std::fs::copy(&path, kept.join(name))?;
            }
        }
        Ok(kept)
    };
    match kept() {
        Ok(kept) => format!("logs are in {}", kept.display()),
        Err(error) => format!("the logs could not be kept: {error}"),
    }
}
