//! A hub's partitions: what the configuration makes of them, and how each begins.
//!
//! Owns the way from a configured backend to a running loop. A backend that is away holds up its own partitions alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::Instrument;
use wildmatch::WildMatch;

use super::{Backend, StartError};
use crate::config::{self, Config};
use crate::delivery::nats::Publishers;
use crate::edge::{self, HubHandle, Numbers};
use crate::handle::{Command, PartitionHandle};
use crate::observe::health::{Component, Health};
use crate::peer::Forward;
use crate::pipeline::{self, PartitionConfig};
use crate::position::PartitionId;
use crate::sabotage::Sabotage;
use crate::source::log::{EventLog, LogSource};
use crate::source::mongo::{MongoConfig, MongoSource, Split};
use crate::source::{ChangeSource, SourceError};
use crate::tasks::{Kind, Tasks};

/// Commands that wait for a partition's loop; callers past that wait themselves.
const COMMANDS_MAX: usize = 1024;
/// Between one attempt to reach a backend and the next; twice as long each time.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Where a partition's changes come from.
pub(super) enum Origin {
    Mongo { config: MongoConfig, heartbeat_writes: bool },
    Log(Arc<EventLog>),
}

impl Origin {
    pub(super) fn heartbeat_writes(&self) -> bool {
        matches!(self, Self::Mongo { heartbeat_writes: true, .. })
    }

    async fn open(&self, tasks: &Tasks) -> Result<Arc<dyn ChangeSource>, SourceError> {
        Ok(match self {
            Self::Mongo { config, .. } => Arc::new(MongoSource::connect(config.clone(), tasks.clone()).await?),
            Self::Log(log) => Arc::new(LogSource::new(Arc::clone(log))),
        })
    }
}

/// A partition that is still to begin.
pub(super) struct Seat {
    pub(super) id: PartitionId,
    /// Into how many its backend is split.
    pub(super) partitions: u16,
    pub(super) origin: Origin,
    pub(super) handle: PartitionHandle,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) health: Component,
}

/// All partitions of the configuration, and the handle that asks them.
pub(super) fn seats(
    config: &Config,
    reads: &Backend,
    numbers: Numbers,
    health: &Health,
    sabotage: Option<Sabotage>,
) -> Result<(HubHandle, Vec<Seat>), StartError> {
    let (mut seats, mut backends) = (Vec::new(), Vec::new());
    // An embedded log is one stream.
    let (backends_max, partitions_max) = match reads {
        Backend::Log(_) => (1, 1),
        Backend::Mongo => (usize::MAX, u16::MAX),
    };
    for backend in config.backends.0.iter().take(backends_max) {
        let (mut partitions, count) = (Vec::new(), backend.partitions.min(partitions_max));
        for number in 0..count {
            let id = PartitionId::new(backend.name.as_str(), number);
            let (handle, commands) = PartitionHandle::new(id.clone(), COMMANDS_MAX);
            partitions.push(handle.clone());
            let origin = match reads {
                Backend::Log(log) => Origin::Log(Arc::clone(log)),
                Backend::Mongo => {
                    let split = Split { number, count };
                    let config = mongo_config(backend, split, sabotage)?;
                    Origin::Mongo { config, heartbeat_writes: backend.heartbeat_writes }
                }
            };
            let health = health.one_of(format!("partition {id}"));
            seats.push(Seat { id, partitions: count, origin, handle, commands, health });
        }
        let tenants = backend.tenants.iter().map(|pattern| WildMatch::new(pattern)).collect();
        backends.push(edge::Backend { name: backend.name.as_str().into(), tenants, partitions });
    }
    Ok((HubHandle::new(backends, numbers), seats))
}

/// A partition from before its backend is there.
pub(super) struct Starting {
    pub(super) id: PartitionId,
    pub(super) origin: Origin,
    /// What it is once it has a source.
    pub(super) partition: Box<dyn FnOnce(Arc<dyn ChangeSource>) -> PartitionConfig + Send>,
    pub(super) publishers: Publishers,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) forward: Option<Forward>,
    pub(super) health: Component,
    pub(super) tasks: Tasks,
}

impl Starting {
    /// Starts it. What comes of the first attempt to reach its backend is told: one that does not answer is waited for,
    /// one that refuses is the operator's business.
    pub(super) fn spawn(self) -> oneshot::Receiver<Result<(), StartError>> {
        let (told, first_try) = oneshot::channel();
        let (tasks, name) = (self.tasks.clone(), self.id.to_string());
        // Of the highest level, so that whatever is logged says it.
        let span = tracing::error_span!("in", partition = name);
        tasks.spawn(Kind::Partition, name, self.run(told).instrument(span));
        first_try
    }

    async fn run(mut self, told: oneshot::Sender<Result<(), StartError>>) {
        let shutdown = self.tasks.shutdown_token();
        // A node that cannot read a backend serves it through others meanwhile.
        let source = tokio::select! {
            source = open(&self.id, &self.origin, &self.tasks, &self.health, told) => source,
            () = shutdown.cancelled() => return,
            () = pipeline::meanwhile(self.forward.as_ref(), &self.health, &mut self.commands) => return,
        };
        let Some(source) = source else { return };
        self.tasks.spawn(Kind::Housekeeping, "publishers", self.publishers.run());
        pipeline::run((self.partition)(source), self.commands).await;
    }
}

/// `None` where the backend has refused at once.
async fn open(
    id: &PartitionId,
    origin: &Origin,
    tasks: &Tasks,
    health: &Component,
    told: oneshot::Sender<Result<(), StartError>>,
) -> Option<Arc<dyn ChangeSource>> {
    let (mut wait, mut told) = (RETRY_MIN, Some(told));
    loop {
        let opened = origin.open(tasks).await;
        let is_first = told.is_some();
        let refusal = match &opened {
            Err(SourceError::Unavailable(_)) | Ok(_) => Ok(()),
            Err(error) => Err(StartError::Misconfigured(format!("backend {}: {error}", id.backend()))),
        };
        let is_refused = refusal.is_err();
        if let Some(told) = told.take() {
            let _ = told.send(refusal);
        }
        let detail = match opened {
            Ok(source) => return Some(source),
            Err(_) if is_refused && is_first => return None,
            Err(SourceError::Unavailable(detail)) => detail,
            Err(error) => error.to_string(),
        };
        tracing::warn!(detail, "the backend does not answer; trying again");
        health.failing(detail);
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

pub(crate) fn mongo_config(
    backend: &config::Backend,
    split: Split,
    sabotage: Option<Sabotage>,
) -> Result<MongoConfig, StartError> {
    let mut mongo = MongoConfig::new(backend.uri.clone());
    mongo.database.clone_from(&backend.database);
    mongo.collections = (!backend.collections.is_empty()).then(|| backend.collections.clone());
    mongo.split = Some(split);
    let layout = serde_json::to_value(&backend.layout).and_then(serde_json::from_value);
    mongo.layout = layout.map_err(|error| StartError::Misconfigured(format!("backends.layout: {error}")))?;
    mongo.patience = Duration::from_secs(backend.answer_seconds.into());
    mongo.mistake = sabotage.and_then(Sabotage::of_source);
    Ok(mongo)
}
