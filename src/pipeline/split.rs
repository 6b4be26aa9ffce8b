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
use crate::position::{PartitionId, Position};
use crate::store::checkpoint::{self, CheckpointRecord};
use crate::store::owners::{self, Holder};
use crate::store::splits::{self, SplitRecord};
use crate::store::writer::{commit_definitely, pack};
use crate::store::{Entry, Expect, Fence, Key, Unavailable, Write, cursors, gateways, subscriptions};

/// Whether this partition's turn has come: partition 0 alone may find another split than the configured one.
pub(super) async fn may_begin(config: &PartitionConfig) -> Result<(), String> {
    let (_, present) = present(config).await?;
    if present == config.partitions || config.machine.partition.number() == 0 {
        return Ok(());
    }
    let wanted = config.partitions;
    Err(format!("split into {present} partitions, to be split into {wanted}: waiting for partition 0"))
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
        return may_begin(config).await;
    }
    tracing::warn!(backend = partition.backend(), present, wanted, "splitting into another number of partitions");
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
    let mut all: Option<Left> = None;
    let mut checkpointed: Option<CheckpointRecord> = None;
    for number in 0..present {
        let Some((checkpoint, left)) = leave(config, &id(number)).await? else { continue };
        checkpointed = Some(match checkpointed {
            Some(other) if other.position.time <= checkpoint.position.time => other,
            _ => checkpoint,
        });
        all = Some(match all {
            None => left,
            Some(other) => other.and(left),
        });
    }
    if let (Some(all), Some(checkpointed)) = (all, checkpointed) {
        // What partition 0 alone has had is right as it is.
        let first = u16::from(present == 1);
        for number in first..wanted {
            begin(config, fence, &id(number), number >= present, &all, &checkpointed).await?;
        }
    }
    let expect = record.map_or(Expect::Absent, |entry| Expect::At(entry.revision));
    let value = Some(SplitRecord { partitions: wanted }.encode());
    let mut writes = vec![Write { key: splits::key(backend), expect, value }];
    writes.extend(free);
    config.store.commit(fence, &writes).await.map_err(|error| format!("the new split: {error}"))?;
    for number in wanted..present {
        // Nobody looks at them any more.
        let leftover = scan(config, &id(number)).await?.into_values().flatten().map(deletion).collect();
        write(config, fence, leftover).await?;
    }
    Ok(())
}

/// What a partition of the old split leaves; `None` if it never began.
async fn leave(config: &PartitionConfig, id: &PartitionId) -> Result<Option<(CheckpointRecord, Left)>, String> {
    let Some(entry) = config.store.get(&checkpoint::key(id)).await.map_err(text)? else { return Ok(None) };
    let record = CheckpointRecord::decode(&entry.value).map_err(|error| format!("the checkpoint of {id}: {error}"))?;
    let (subscriptions, revision) = config.store.scan(&subscriptions::prefix(id)).await.map_err(text)?;
    let (gateways, _) = config.store.scan(&gateways::prefix(id)).await.map_err(text)?;
    let (cursors, _) = config.store.scan(&cursors::prefix(id)).await.map_err(text)?;
    let stored = Stored { subscriptions, gateways, cursors, revision: revision.max(entry.revision) };
    let machine = MachineConfig { partition: id.clone(), ..config.machine.clone() };
    let (clock, at) = (config.clock.clone(), record.position);
    let checkpointed = Checkpointed { position: at, restored: record.restored, ..Checkpointed::default() };
    let loaded = tokio::task::spawn_blocking(move || {
        Machine::load(machine, clock, at, at, checkpointed, stored).map(|machine| machine.leave())
    });
    let left = loaded.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Ok(Some((record, left)))
}

/// Has a partition of the new split begin with all that is left.
async fn begin(
    config: &PartitionConfig,
    fence: &Fence,
    id: &PartitionId,
    is_new: bool,
    left: &Left,
    checkpointed: &CheckpointRecord,
) -> Result<(), String> {
    let mut there = scan(config, id).await?;
    let mut expect = |key: &Key| match there.remove(key).flatten() {
        Some(entry) => Expect::At(entry.revision),
        None => Expect::Absent,
    };
    let unique = fence.created.0;
    let mut writes = Vec::new();
    for (key, record) in &left.subscriptions {
        let (mut record, key) = (record.clone(), subscriptions::key(id, key));
        record.write = unique;
        writes.push(Write { expect: expect(&key), key, value: Some(record.encode()) });
    }
    if is_new {
        for (gateway, record) in &left.gateways {
            let (mut record, key) = (record.clone(), gateways::key(id, gateway));
            record.write = unique;
            writes.push(Write { expect: expect(&key), key, value: Some(record.encode()) });
        }
        // Of no split: whoever loads it begins a new epoch.
        let position = Position::boundary(checkpointed.position.epoch, checkpointed.position.time);
        let record = CheckpointRecord {
            position,
            definition: String::new(),
            restored: None,
            risen: None,
            witness: None,
            write: unique,
            ..checkpointed.clone()
        };
        let key = checkpoint::key(id);
        writes.push(Write { expect: expect(&key), key, value: Some(record.encode()) });
        // Of an earlier split that had this partition, too.
        writes.splice(0..0, there.into_values().flatten().map(deletion));
    }
    write(config, fence, writes).await
}

fn deletion(entry: Entry) -> Write {
    Write { key: entry.key, expect: Expect::At(entry.revision), value: None }
}

/// All that is stored for a partition.
async fn scan(config: &PartitionConfig, id: &PartitionId) -> Result<BTreeMap<Key, Option<Entry>>, String> {
    let mut found = BTreeMap::new();
    for prefix in [subscriptions::prefix(id), gateways::prefix(id), cursors::prefix(id)] {
        let (entries, _) = config.store.scan(&prefix).await.map_err(text)?;
        found.extend(entries.into_iter().map(|entry| (entry.key.clone(), Some(entry))));
    }
    let key = checkpoint::key(id);
    if let Some(entry) = config.store.get(&key).await.map_err(text)? {
        found.insert(key, Some(entry));
    }
    Ok(found)
}

async fn write(config: &PartitionConfig, fence: &Fence, writes: Vec<Write>) -> Result<(), String> {
    let mut jitter = ChaCha8Rng::seed_from_u64(fence.created.0);
    for part in pack(writes) {
        let written = commit_definitely(config.store.as_ref(), fence, &part, PATIENCE, || {}, &mut jitter).await;
        written.map_err(|error| error.to_string())?;
    }
    Ok(())
}
