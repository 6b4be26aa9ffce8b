//! Another number of partitions than before.
//!
//! Owns what becomes of what is stored when a backend is split otherwise (promise 2). Positions of the old split mean
//! nothing in the new one but their cluster time. So each partition of the new split begins with every subscription as
//! if it had just been registered, from the cluster time up to which all partitions of the old split had served it; what
//! comes twice is flagged, for the epoch rises. Nothing of the new split is served before the record says that it is
//! complete, and nothing of the old one afterwards. The owner of partition 0 sees to it; the others wait.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::tenure::{PATIENCE, PartitionConfig};
use crate::delivery::machine::{Checkpointed, Left, Machine, MachineConfig, Stored};
use crate::limits;
use crate::position::{Epoch, PartitionId, Position};
use crate::store::checkpoint::{self, CheckpointRecord};
use crate::store::gateways::{self, GatewayRecord};
use crate::store::owners::{self, Holder};
use crate::store::splits::{self, SplitRecord};
use crate::store::subscriptions::{self, SubscriptionRecord};
use crate::store::writer::{commit_definitely, pack};
use crate::store::{Entry, Expect, Fence, Key, Revision, Unavailable, Write, cursors};

/// Why this partition must not begin yet: partition 0 alone may find another split than the configured one.
pub(super) async fn waits(config: &PartitionConfig) -> Result<Option<String>, String> {
    let ((_, present), wanted) = (present(config).await?, config.partitions);
    let waits = present != wanted && config.machine.partition.number() != 0;
    Ok(waits.then(|| format!("split into {present} partitions, to be split into {wanted}: waiting for partition 0")))
}

/// The stored split.
async fn present(config: &PartitionConfig) -> Result<(Option<Entry>, u16), String> {
    let stored = config.store.get(&splits::key(config.machine.partition.backend())).await.map_err(text)?;
    let record = stored.as_ref().map(|entry| SplitRecord::decode(&entry.value)).transpose();
    let record = record.map_err(|error| format!("the stored split: {error}"))?;
    Ok((stored, record.map_or(1, |record| record.partitions)))
}

/// Has what is stored belong to the configured split. Asked as owner.
pub(super) async fn ensure(config: &PartitionConfig, fence: &Fence) -> Result<(), String> {
    let (partition, wanted) = (&config.machine.partition, config.partitions);
    let (stored, present) = present(config).await?;
    if present == wanted {
        return Ok(());
    }
    if partition.number() != 0 {
        // It has changed since it was looked at before.
        return Err(waits(config).await?.unwrap_or_default());
    }
    tracing::info!(backend = partition.backend(), present, wanted, "splitting into another number of partitions");
    change(config, fence, stored, present).await
}

fn text(error: Unavailable) -> String {
    error.to_string()
}

async fn change(config: &PartitionConfig, fence: &Fence, record: Option<Entry>, present: u16) -> Result<(), String> {
    let (backend, wanted) = (config.machine.partition.backend(), config.partitions);
    let id = |number| PartitionId::new(backend, number);
    // They are read where nobody serves them. Whoever takes one meanwhile makes the last transaction fail.
    let mut free = Vec::new();
    for number in 1..present.max(wanted) {
        let key = owners::key(&id(number));
        let expect = match config.store.get(&key).await.map_err(text)? {
            None => Expect::Absent,
            // Of an earlier process, where there is only one.
            Some(entry) if config.members.is_none() => Expect::At(entry.revision),
            Some(entry) => {
                let holder = Holder::decode(&entry.value).map_or_else(|_| "a node".into(), |holder| holder.node);
                let of = id(number);
                return Err(format!("to be split into {wanted} partitions: waiting for {holder} to let go of {of}"));
            }
        };
        free.push(Write { key, expect, value: None });
    }
    let mut old = Vec::new();
    for number in 0..present {
        let Some(entry) = config.store.get(&checkpoint::key(&id(number))).await.map_err(text)? else { continue };
        let record = CheckpointRecord::decode(&entry.value);
        old.push((id(number), record.map_err(|error| format!("the checkpoint of {}: {error}", id(number)))?));
    }
    // Above all of theirs begins the new one.
    let epoch = old.iter().map(|(_, record)| record.position.epoch).max();
    let lowest = old.iter().map(|(_, record)| record).min_by_key(|record| record.position.time);
    if let (Some(epoch), Some(lowest)) = (epoch, lowest) {
        let mut left = Left::default();
        for (id, record) in &old {
            left = left.and(leave(config, id, record, epoch).await?);
        }
        let guards: Vec<Write> = free.iter().filter(|_| config.members.is_some()).cloned().collect();
        for number in 0..wanted {
            let id = id(number);
            let own = old.iter().find(|(of, _)| *of == id).map(|(_, record)| record);
            let begun = Begun { own, lowest, epoch, is_alone: present == 1 };
            begin(config, fence, &id, &left, begun, &guards).await?;
        }
    }
    let expect = record.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
    let value = Some(SplitRecord { partitions: wanted }.encode());
    let mut writes = vec![Write { key: splits::key(backend), expect, value }];
    writes.extend(free);
    config.store.commit(fence, &writes).await.map_err(|error| format!("the new split: {error}"))?;
    for number in wanted..present {
        // Nobody looks at them any more.
        let leftover = scan(config, &id(number)).await?.into_iter().map(deletion).collect();
        write(config, fence, leftover, &[]).await?;
    }
    Ok(())
}

/// What a partition of the old split leaves.
async fn leave(
    config: &PartitionConfig,
    id: &PartitionId,
    record: &CheckpointRecord,
    epoch: Epoch,
) -> Result<Left, String> {
    let (subscriptions, revision) = config.store.scan(&subscriptions::prefix(id)).await.map_err(text)?;
    let (gateways, _) = config.store.scan(&gateways::prefix(id)).await.map_err(text)?;
    let (cursors, _) = config.store.scan(&cursors::prefix(id)).await.map_err(text)?;
    let stored = Stored { subscriptions, gateways, cursors, revision };
    let machine = MachineConfig { partition: id.clone(), ..config.machine.clone() };
    let (clock, at) = (config.clock.clone(), record.position);
    let checkpointed = Checkpointed { position: at, restored: record.restored, ..Checkpointed::default() };
    let loaded = tokio::task::spawn_blocking(move || {
        Machine::load(machine, clock, at, at, checkpointed, stored).map(|machine| machine.leave(epoch))
    });
    loaded.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// What a partition of the new split was in the old one.
struct Begun<'a> {
    /// Its checkpoint; `None`: it was not.
    own: Option<&'a CheckpointRecord>,
    /// The checkpoint that is furthest back.
    lowest: &'a CheckpointRecord,
    /// The greatest of the old split.
    epoch: Epoch,
    /// It was the only one: what it has is right as it is.
    is_alone: bool,
}

/// Has a partition of the new split begin with all that is left.
async fn begin(
    config: &PartitionConfig,
    fence: &Fence,
    id: &PartitionId,
    left: &Left,
    begun: Begun<'_>,
    guards: &[Write],
) -> Result<(), String> {
    let Begun { own, lowest, epoch, is_alone } = begun;
    let mut there = scan(config, id).await?;
    let mut expect = |key: &Key| match there.remove(key) {
        Some(revision) => Expect::At(revision),
        None => Expect::Absent,
    };
    let unique = fence.created.0;
    let mut writes = Vec::new();
    if own.is_none() || !is_alone {
        for (key, record) in &left.subscriptions {
            let key = subscriptions::key(id, key);
            // Cursors that knew it from its birth on there are only where there was a partition.
            let birth = record.birth.filter(|_| own.is_some());
            let record = SubscriptionRecord { birth, write: unique, ..record.clone() };
            writes.push(Write { expect: expect(&key), key, value: Some(record.encode()) });
        }
    }
    if own.is_none() {
        for (gateway, record) in &left.gateways {
            let key = gateways::key(id, gateway);
            let record = GatewayRecord { write: unique, ..record.clone() };
            writes.push(Write { expect: expect(&key), key, value: Some(record.encode()) });
        }
    }
    // Of no split: whoever loads it begins a new epoch, the same everywhere.
    let of = own.unwrap_or(lowest);
    let record = CheckpointRecord {
        position: Position::boundary(epoch, of.position.time),
        definition: String::new(),
        risen: None,
        witness: None,
        write: unique,
        ..of.clone()
    };
    let key = checkpoint::key(id);
    writes.push(Write { expect: expect(&key), key, value: Some(record.encode()) });
    if own.is_none() {
        // Of an earlier split that had this partition, too.
        writes.splice(0..0, there.into_iter().map(deletion));
    }
    write(config, fence, writes, guards).await
}

fn deletion((key, revision): (Key, Revision)) -> Write {
    Write { key, expect: Expect::At(revision), value: None }
}

/// All that is stored for a partition, and when it was last written.
async fn scan(config: &PartitionConfig, id: &PartitionId) -> Result<BTreeMap<Key, Revision>, String> {
    let mut found = BTreeMap::new();
    for prefix in [subscriptions::prefix(id), gateways::prefix(id), cursors::prefix(id)] {
        let (entries, _) = config.store.scan(&prefix).await.map_err(text)?;
        found.extend(entries.into_iter().map(|entry| (entry.key, entry.revision)));
    }
    let entry = config.store.get(&checkpoint::key(id)).await.map_err(text)?;
    found.extend(entry.map(|entry| (entry.key, entry.revision)));
    Ok(found)
}

/// Writes them, as many at a time as the store takes, if each time the guards hold.
async fn write(config: &PartitionConfig, fence: &Fence, writes: Vec<Write>, guards: &[Write]) -> Result<(), String> {
    let mut jitter = ChaCha8Rng::seed_from_u64(fence.created.0);
    let room = limits::store_txn_operations_max - guards.len();
    for part in pack(writes) {
        for part in part.chunks(room) {
            let part = [part, guards].concat();
            let written = commit_definitely(config.store.as_ref(), fence, &part, PATIENCE, || {}, &mut jitter).await;
            written.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}
