//! The loop beside a source that does not answer.

use async_trait::async_trait;

use super::*;
use tokio::sync::watch;

use crate::delivery::machine::{Limits, MachineConfig};
use crate::matching::BloomUse;
use crate::observe::health::Health;
use crate::position::{Epoch, PartitionId};
use crate::store::owners::Holder;
use crate::store::redb::RedbStore;

/// A server that told once what it is and then froze.
struct Frozen;

#[async_trait]
impl ChangeSource for Frozen {
    fn definition(&self) -> String {
        String::new()
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        let now = ClusterTime::new(1_000, 1);
        Ok(Description { identity: None, now, oldest: None, warnings: Vec::new() })
    }

    async fn read(&self, _: Epoch, _: Position) -> Result<Reading, SourceError> {
        std::future::pending().await
    }
}

fn machine() -> MachineConfig {
    MachineConfig {
        partition: PartitionId::new("default", 0),
        node: "hub-1".into(),
        window_bytes_max: 1 << 20,
        outbox_bytes_max: 1 << 20,
        hold_bytes_max: 1 << 20,
        rides_max: 8,
        memory_bytes_max: 1 << 20,
        outbox_bytes_soft: 1 << 18,
        turn_changes_max: 1_000,
        catchups_max: crate::limits::cursor_catchups_max,
        sessions_max: 100,
        quota_gateway: 10,
        quota_tenant: 10,
        quota_global: 10,
        park_seconds: 60,
        member_grace_seconds: 15,
        nats_gateways: Vec::new(),
        bloom: BloomUse::default(),
        shadow_every: 1,
        seed: 1,
        mistake: None,
    }
}

#[tokio::test]
async fn a_source_that_does_not_answer_holds_up_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (tasks, clock) = (Tasks::new(), Clock::system());
    let store = RedbStore::open(&folder.path().join("store.redb"), &tasks).unwrap();
    let (handle, commands) = PartitionHandle::new(PartitionId::new("default", 0), 8);
    let health = Health::new(clock.clone()).component("partition");
    let (of_loop, grace) = (handle.clone(), Duration::from_secs(1));
    let source = Arc::new(Frozen);
    let limits = Limits {
        quota_gateway: 10,
        quota_tenant: 10,
        quota_global: 10,
        sessions_max: 10,
        park_seconds: 60,
        member_grace_seconds: 15,
    };
    let config = PartitionConfig {
        machine: machine(),
        limits: watch::Sender::new(limits).subscribe(),
        source,
        store,
        tasks: tasks.clone(),
        clock,
        handle: of_loop,
        forward: None,
        holder: Holder::named("hub-1"),
        partitions: 1,
        members: None,
        health,
        grace,
        heartbeat_writes: false,
        tenants_named_max: 2,
        sabotage: false,
    };
    tasks.spawn(Kind::Partition, "default/0", run(config, commands));
    let answered = tokio::time::timeout(Duration::from_secs(20), async {
        // While the loop has not begun it owns nothing.
        while handle.view().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // By now it has asked the source.
        tokio::time::sleep(Duration::from_millis(200)).await;
        handle.view().await
    });
    let view = answered.await.expect("an answer comes").expect("the partition is owned");
    assert_eq!(view.state, "backoff");
}
