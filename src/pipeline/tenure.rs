//! A tenure: from winning a partition to losing it or going down.
//!
//! Owns what happens around the loop: ownership, loading, epochs, the first checkpoint, draining.
//! Between tenures nobody is served.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Semaphore, mpsc, watch};

use super::gauges;
use super::turns::Turns;
use super::{BACKOFF_MAX, BACKOFF_MIN, End, Heartbeats, Live, OUTCOMES_MAX, Openings, Partition, Waiting, split};
use crate::clock::Clock;
use crate::delivery::frame::CloseReason;
use crate::delivery::machine::{Checkpointed, Limits, Machine, MachineConfig, Outcome, Stored, WriteId};
use crate::handle::{Command, PartitionHandle};
use crate::limits;
use crate::observe::health::Component;
use crate::peer::{Forward, Members};
use crate::position::{Epoch, PartitionId, Position};
use crate::source::{ChangeSource, Description, SourceError};
use crate::store::checkpoint::{self, CheckpointRecord};
use crate::store::owners::{self, Holder};
use crate::store::placements::{self, PlacementRecord};
use crate::store::writer::commit_definitely;
use crate::store::{
    Entry, Fence, Owned, Ownership, Revision, Store, Unavailable, Write, cursors, gateways, subscriptions,
};
use crate::tasks::Tasks;

/// How long gateways have for their last acks when a tenure ends.
const LAST_ACKS: Duration = Duration::from_secs(1);
/// How long callers wait for the store before they are told that it does not answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// What a partition is made of.
pub struct PartitionConfig {
    /// What the machine needs to know.
    pub machine: MachineConfig,
    /// What of that may be changed meanwhile.
    pub limits: watch::Receiver<Limits>,
    /// Where changes come from.
    pub source: Arc<dyn ChangeSource>,
    /// Where state lives.
    pub store: Arc<dyn Store>,
    /// Starts tasks.
    pub tasks: Tasks,
    /// Tells the time.
    pub clock: Clock,
    /// For new sessions.
    pub handle: PartitionHandle,
    /// Whom to ask while another node owns the partition, where there can be others.
    pub forward: Option<Forward>,
    /// Into how many partitions the backend is split.
    pub partitions: u16,
    /// What the ownership key says of this node.
    pub holder: Holder,
    /// Which nodes could own the partition, where there can be others.
    pub members: Option<Members>,
    /// Says how the partition fares.
    pub health: Component,
    /// How long a drain may take.
    pub grace: Duration,
    /// Whether the source is written to while it is idle and someone waits.
    pub heartbeat_writes: bool,
    /// So many tenants have series of their own.
    pub tenants_named_max: usize,
    /// For the drill's own test: the hub forgets its cursors and starts at the present.
    pub sabotage: bool,
}

/// Serves a partition, tenure after tenure, until shutdown.
pub async fn run(config: PartitionConfig, mut commands: mpsc::Receiver<Command>) {
    let shutdown = config.tasks.shutdown_token();
    // The epoch in which a tenure ended because its source was another, or had gone back. Whoever serves it next begins
    // a new one: that may be another node, and then nothing is broken off when it is this one's turn again.
    let mut broken_off = None;
    let mut turns = Turns::new(&config);
    let disowned = |tell: fn(&PartitionId)| {
        config.handle.set_owner(false);
        tell(config.handle.id());
    };
    disowned(gauges::disowned);
    while !shutdown.is_cancelled() {
        let begun = begin(&config, broken_off, &mut turns, &mut commands).await;
        let Some((mut partition, owned)) = begun else {
            // Gateways that are connected here send their last acks.
            let last = meanwhile(config.forward.as_ref(), &config.health, &mut commands);
            let _ = tokio::time::timeout(LAST_ACKS, last).await;
            return disowned(gauges::gone);
        };
        config.handle.set_owner(true);
        let end = partition.serve(&mut commands, owned.ownership).await;
        match end {
            End::Shutdown => {
                partition.drain(&mut commands, config.grace).await;
                return disowned(gauges::gone);
            }
            End::Lost => {}
            End::HandOver(node) => {
                tracing::info!(%node, position = %partition.machine.reached(), "handing over");
                turns = partition.turns.clone();
                partition.drain(&mut commands, config.grace).await;
                turns.let_go(node);
            }
            End::Anew => {
                broken_off = Some(partition.machine.reached().epoch);
                partition.give_up(config.grace).await;
            }
        }
        disowned(gauges::disowned);
    }
}

/// Wins the partition and loads it. `None` at shutdown.
async fn begin(
    config: &PartitionConfig,
    broken_off: Option<Epoch>,
    turns: &mut Turns,
    commands: &mut mpsc::Receiver<Command>,
) -> Option<(Partition, Owned)> {
    let mut wait = BACKOFF_MIN;
    loop {
        let shutdown = config.tasks.shutdown_token();
        let attempt = async {
            turns.wait().await;
            if let Some(reason) = split::waits(config).await? {
                return Ok(Begun::Waits(reason));
            }
            let key = owners::key(&config.machine.partition);
            let owned = config.store.acquire(&key, &config.holder).await.map_err(|error| error.to_string())?;
            if let Some(node) = turns.whose_turn(config.store.as_ref()).await {
                give_back(config, &owned.fence).await;
                return Ok(Begun::LetGo(node));
            }
            let loaded = match split::ensure(config, &owned.fence).await {
                Ok(()) => load(config, broken_off, &owned.fence).await,
                Err(reason) => Err(reason),
            };
            match loaded {
                Ok(loaded) => Ok(Begun::Loaded(loaded, owned)),
                Err(reason) => {
                    // Another node may be able to.
                    give_back(config, &owned.fence).await;
                    Err(reason)
                }
            }
        };
        let result = tokio::select! {
            () = shutdown.cancelled() => return None,
            result = attempt => result,
            () = meanwhile(config.forward.as_ref(), &config.health, commands) => return None,
        };
        match result {
            Ok(Begun::Loaded(loaded, owned)) => {
                let mut partition = partition(config, loaded, owned.fence.clone());
                turns.taken();
                partition.turns = turns.clone();
                return Some((partition, owned));
            }
            Ok(Begun::LetGo(node)) => {
                tracing::info!(%node, "it is another node's turn");
                turns.let_go(node);
                continue;
            }
            Ok(Begun::Waits(reason)) => {
                config.health.starting(reason);
                wait = BACKOFF_MIN;
            }
            Err(reason) => {
                tracing::warn!(%reason, "cannot begin; trying again");
                config.health.failing(reason);
            }
        }
        let pause = tokio::time::sleep(wait);
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = pause => {}
            () = meanwhile(config.forward.as_ref(), &config.health, commands) => return None,
        }
        wait = (wait * 2).min(BACKOFF_MAX);
    }
}

/// While this node does not own the partition: whoever does is asked. Returns when nothing can come any more.
pub async fn meanwhile(forward: Option<&Forward>, health: &Component, commands: &mut mpsc::Receiver<Command>) {
    match forward {
        Some(forward) => forward.run(commands, health).await,
        // Dropping a command answers it: nobody owns the partition yet.
        None => while commands.recv().await.is_some() {},
    }
}

/// What an attempt to begin came to.
enum Begun {
    Loaded(Loaded, Owned),
    /// Won, and given back: this node should have it.
    LetGo(Arc<str>),
    /// Not to be served before another partition has done its part.
    Waits(String),
}

/// What a tenure begins with.
struct Loaded {
    machine: Box<Machine>,
    described: Description,
    placement: PlacementRecord,
}

/// So that others need not wait for the lease.
async fn give_back(config: &PartitionConfig, fence: &Fence) {
    if let Err(error) = config.store.release(fence).await {
        tracing::warn!(%error, "ownership could not be given back; others wait for the lease");
    }
}

fn partition(config: &PartitionConfig, loaded: Loaded, fence: Fence) -> Partition {
    let Loaded { machine, described, placement } = loaded;
    config.health.ok();
    tracing::info!(
        position = %machine.reached(),
        subscriptions = machine.subscription_count(),
        "serving"
    );
    Partition {
        machine: *machine,
        handle: config.handle.clone(),
        source: Arc::clone(&config.source),
        store: Arc::clone(&config.store),
        fence,
        tasks: config.tasks.clone(),
        clock: config.clock.clone(),
        live: Live::Backoff(tokio::time::Instant::now()),
        backoff: BACKOFF_MIN,
        heartbeats: config.heartbeat_writes.then(Heartbeats::default),
        placement,
        placing: Arc::default(),
        waiting: Waiting::default(),
        openings: [Openings::new(config.clock.clone()), Openings::new(config.clock.clone())],
        told: HashMap::new(),
        tenants_named_max: config.tenants_named_max,
        backtests: Arc::new(Semaphore::new(limits::backtests_max)),
        replays: super::Replays::new(Arc::clone(&config.source), config.tasks.clone(), config.machine.rides_max),
        outcomes: mpsc::channel(OUTCOMES_MAX),
        described: Some((described, config.clock.now())),
        describe_at: config.clock.now(),
        describing: Arc::default(),
        broken_off: false,
        descriptions: mpsc::channel(1),
        health: config.health.clone(),
        outboxes: Vec::new(),
        node: Arc::clone(&config.machine.node),
        fenced: false,
        ownership: Ownership::Held,
        history_lost: false,
        turns: Turns::new(config),
        limits: config.limits.clone(),
    }
}

/// The machine as the store has it. The starting position is durable before this returns.
async fn load(config: &PartitionConfig, broken_off: Option<Epoch>, fence: &Fence) -> Result<Loaded, String> {
    let describe = config.source.describe().await;
    let described = describe.map_err(|error: SourceError| error.to_string())?;
    let text = |error: Unavailable| error.to_string();
    let partition = &config.machine.partition;
    let entry = config.store.get(&checkpoint::key(partition)).await.map_err(text)?;
    let (mut subscriptions, revision) = config.store.scan(&subscriptions::prefix(partition)).await.map_err(text)?;
    let (gateways, _) = config.store.scan(&gateways::prefix(partition)).await.map_err(text)?;
    let (cursors, _) = config.store.scan(&cursors::prefix(partition)).await.map_err(text)?;
    let (mut checkpointed, mut reached) = resume(config, entry, broken_off, &described)?;
    let now = Position::boundary(reached.epoch, described.now.next());
    if config.sabotage {
        tracing::error!("sabotage: starting at the present, whatever the cursors say");
        reached = now;
        subscriptions.iter_mut().try_for_each(|entry| forget(entry, now)).map_err(|error| error.to_string())?;
    }
    if checkpointed.revision.is_none() || checkpointed.position != reached {
        checkpointed = store_checkpoint(config, fence, checkpointed, reached).await?;
    }
    let stored =
        Stored { subscriptions, gateways, cursors, revision: revision.max(checkpointed.revision.unwrap_or_default()) };
    let machine = config.machine.clone().within(*config.limits.borrow());
    let clock = config.clock.clone();
    let load = move || Machine::load(machine, clock, reached, now.max(reached), checkpointed, stored);
    // A hundred thousand filters take a while to compile.
    let machine = tokio::task::spawn_blocking(load).await.map_err(|error| error.to_string())?;
    let placement = config.store.get(&placements::key(&config.machine.partition)).await.map_err(text)?;
    let placement = placement.map(|entry| PlacementRecord::decode(&entry.value)).transpose();
    let placement = placement.map_err(|error| format!("the stored placement: {error}"))?.unwrap_or_default();
    Ok(Loaded { machine: Box::new(machine.map_err(|error| error.to_string())?), described, placement })
}

/// Sabotage: a subscription that begins at the present, so that no cursor, not even one that its gateway
/// presents, brings back what was written while the hub was away.
fn forget(entry: &mut Entry, now: Position) -> Result<(), serde_json::Error> {
    let mut record = subscriptions::SubscriptionRecord::decode(&entry.value)?;
    record.active_from = now;
    record.start = now;
    entry.value = record.encode();
    Ok(())
}

/// Where the loop begins: at the stored checkpoint, in an epoch that its definition decides.
fn resume(
    config: &PartitionConfig,
    entry: Option<Entry>,
    broken_off: Option<Epoch>,
    described: &Description,
) -> Result<(Checkpointed, Position), String> {
    let definition = config.source.definition();
    let identity = described.identity.clone();
    let now = |epoch| Position::boundary(epoch, described.now.next());
    let Some(entry) = entry else {
        let position = now(Epoch(1));
        return Ok((Checkpointed { position, definition, identity, ..Checkpointed::default() }, position));
    };
    let record = CheckpointRecord::decode(&entry.value).map_err(|error| format!("the stored checkpoint: {error}"))?;
    let revision = Some(entry.revision);
    let epoch = record.position.epoch;
    let next = Epoch(epoch.0 + 1);
    let is_other = matches!((&record.identity, &identity), (Some(old), Some(new)) if old != new);
    let is_ahead = record.position.time > described.now.next();
    if is_other || is_ahead || broken_off == Some(epoch) {
        tracing::error!(position = %record.position, "another deployment, or a restored one: starting at the present");
        let position = now(next);
        let restored = Some(position);
        let stored = record.position;
        return Ok((
            Checkpointed { position: stored, revision, definition, identity, restored, ..Checkpointed::default() },
            position,
        ));
    }
    let (position, risen) = if record.definition == definition {
        (record.position, record.risen)
    } else {
        tracing::warn!(epoch = next.0, "the stream's definition has changed: the epoch rises");
        (Position::boundary(next, record.position.time), Some(now(next)))
    };
    let (restored, witness) = (record.restored, record.witness);
    Ok((Checkpointed { position: record.position, revision, definition, identity, restored, risen, witness }, position))
}

async fn store_checkpoint(
    config: &PartitionConfig,
    fence: &Fence,
    mut checkpointed: Checkpointed,
    position: Position,
) -> Result<Checkpointed, String> {
    let record = CheckpointRecord {
        position,
        definition: checkpointed.definition.clone(),
        identity: checkpointed.identity.clone(),
        restored: checkpointed.restored,
        risen: checkpointed.risen,
        witness: checkpointed.witness,
        write: fence.created.0,
    };
    let expect = checkpointed.revision.map_or(crate::store::Expect::Absent, crate::store::Expect::At);
    let key = checkpoint::key(&config.machine.partition);
    let write = Write { key, expect, value: Some(record.encode()) };
    let mut jitter = ChaCha8Rng::seed_from_u64(fence.created.0);
    let revision = commit_definitely(config.store.as_ref(), fence, &[write], PATIENCE, || {}, &mut jitter).await;
    checkpointed.revision = Some(revision.map_err(|error| error.to_string())?);
    checkpointed.position = position;
    Ok(checkpointed)
}

/// Commits until the outcome is definite, and tells the loop.
pub(super) async fn settle(
    store: &dyn Store,
    fence: &Fence,
    id: WriteId,
    writes: &[Write],
    outcomes: &mpsc::Sender<(WriteId, Outcome)>,
) {
    let mut jitter = ChaCha8Rng::seed_from_u64(id.0);
    let unknown = || {
        // The loop may be busy; that a caller is told late does no harm.
        let _ = outcomes.try_send((id, Outcome::Unknown));
    };
    let result: Result<Revision, _> = commit_definitely(store, fence, writes, PATIENCE, unknown, &mut jitter).await;
    let outcome = match result {
        Ok(revision) => Outcome::Done(revision),
        Err(error) => Outcome::Failed(error),
    };
    // If the tenure has ended nobody needs the outcome: the next one reads the store.
    let _ = outcomes.send((id, outcome)).await;
}

impl Partition {
    /// What had been acked is not written any more: it is of a history that is no more.
    async fn give_up(self, grace: Duration) {
        let release = self.store.release(&self.fence);
        if let Err(error) = tokio::time::timeout(grace / 8, release).await.unwrap_or(Ok(())) {
            tracing::warn!(%error, "ownership could not be given up; the next tenure waits for the lease");
        }
    }

    /// Ends all sessions, takes their last acks, writes what is durable and gives ownership up.
    async fn drain(mut self, commands: &mut mpsc::Receiver<Command>, grace: Duration) {
        self.machine.close_all(CloseReason::Draining);
        // One that takes nothing must not hold up the next owner.
        let until = tokio::time::Instant::now() + (grace / 2).min(LAST_ACKS);
        while self.outboxes.iter().any(|outbox| outbox.strong_count() > 0) {
            self.perform();
            tokio::select! {
                () = tokio::time::sleep_until(until) => break,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                Some(command) = commands.recv() => self.on_command_draining(command),
                Some((id, outcome)) = self.outcomes.1.recv() => self.on_outcome(id, outcome),
            }
        }
        let until = until + grace / 4;
        self.machine.flush();
        while !self.machine.is_flushed() && !self.fenced {
            self.perform();
            tokio::select! {
                () = tokio::time::sleep_until(until) => {
                    tracing::warn!("cursors could not be written in time; what was acked may come again");
                    break;
                }
                Some((id, outcome)) = self.outcomes.1.recv() => {
                    self.on_outcome(id, outcome);
                    self.machine.flush();
                }
            }
        }
        let release = self.store.release(&self.fence);
        if let Err(error) = tokio::time::timeout(grace / 8, release).await.unwrap_or(Ok(())) {
            tracing::warn!(%error, "ownership could not be given up; a successor waits for the lease");
        }
        tracing::info!(position = %self.machine.reached(), "drained");
    }

    fn on_command_draining(&mut self, command: Command) {
        match command {
            Command::Ack(..) | Command::Disconnect { .. } => self.on_command(command),
            // Dropped: answered OWNER_UNKNOWN.
            _ => {}
        }
    }
}
