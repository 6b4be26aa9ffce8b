//! What Prometheus is told of a partition.
//!
//! Owns the way from the loop's state to metrics. At a node that does not own the partition nothing but that is said:
//! gauges that stay behind would be somebody else's past.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use chrono::DateTime;
use metrics::{Label, counter, gauge, histogram};

use super::Partition;
use crate::clock::{Clock, Instant};
use crate::handle::{PartitionView, Workload};
use crate::observe::metrics as names;
use crate::observe::trace::{Part, tracer};
use crate::position::{PartitionId, Position};
use crate::source::Batch;

/// Of each partition the tenants that have series of their own.
static NAMED: LazyLock<Mutex<BTreeMap<PartitionId, BTreeSet<Arc<str>>>>> = LazyLock::new(Mutex::default);

/// All states that a partition can be in.
const STATES: [&str; 5] = ["reading", "catching_up", "paused", "backoff", "history_lost"];

/// Says that this node does not own it.
pub(super) fn disowned(partition: &PartitionId) {
    let partition = partition.to_string();
    gauge!(names::PARTITION_OWNED, "partition" => partition.clone()).set(0.0);
    for state in STATES {
        gauge!(names::PARTITION_STATE, "partition" => partition.clone(), "state" => state).set(0.0);
    }
    for name in [names::PARTITION_LAG, names::GATEWAY_LAG_MAX] {
        gauge!(name, "partition" => partition.clone()).set(0.0);
    }
    // Zero would say that nothing is left.
    gauge!(names::OPLOG_HEADROOM, "partition" => partition.clone()).set(f64::NAN);
    gauge!(names::BLOOM_FALSE_POSITIVE_RATE, "partition" => partition.clone()).set(0.0);
    work(&partition, &Workload::default());
}

/// Says that this node has no part in it any more: the configuration that comes may not know it.
pub(super) fn gone(partition: &PartitionId) {
    disowned(partition);
    gauge!(names::PARTITION_OWNED, "partition" => partition.to_string()).set(f64::NAN);
}

/// A batch has come whose newest change was made at this wall time, as its backend tells it.
pub(super) fn read(partition: &PartitionId, age: Duration) {
    histogram!(names::LATENCY_READ, "partition" => partition.to_string()).record(age);
}

/// It has been matched and queued.
pub(super) fn matched(partition: &PartitionId, took: Duration) {
    histogram!(names::LATENCY_MATCHED, "partition" => partition.to_string()).record(took);
}

/// The changes of a batch that traces are told of, with their wall times.
pub(super) fn traced(batch: &Batch) -> Vec<(Position, i64)> {
    let Some(tracer) = tracer() else { return Vec::new() };
    let timed = batch.events.iter().filter_map(|event| Some((event.position(), event.wall_time_ms()?)));
    timed.filter(|(position, _)| tracer.follows(*position)).collect()
}

/// They have been matched and queued, from this moment on till now.
pub(super) fn tell_changes(partition: &PartitionId, changes: Vec<(Position, i64)>, clock: &Clock, began: Instant) {
    let Some(tracer) = tracer().filter(|_| !changes.is_empty()) else { return };
    let now = clock.wall();
    let read = now - clock.now().since(began);
    for (position, wall_time_ms) in changes {
        let made = DateTime::from_timestamp_millis(wall_time_ms).map_or(read, |made| made.min(read));
        let parts = [
            Part { name: "read", metric: names::LATENCY_READ, from: made, to: read },
            Part { name: "match", metric: names::LATENCY_MATCHED, from: read, to: now },
        ];
        tracer.change(position, &partition.to_string(), &parts);
    }
}

/// Reading has to begin again.
pub(super) fn reconnects(partition: &PartitionId) {
    counter!(names::SOURCE_RECONNECTS, "partition" => partition.to_string()).increment(1);
}

fn work(partition: &str, work: &Workload) {
    let of = |name: &'static str, value: u64| gauge!(name, "partition" => partition.to_owned()).set(value as f64);
    of(names::SESSIONS, work.sessions);
    of(names::CATCHUPS, work.catchups);
    of(names::WINDOW_BYTES, work.window_bytes);
    of(names::OUTBOX_BYTES, work.outbox_bytes);
    let by_state = |name: &'static str, states: &[(&'static str, u64)]| {
        for (state, count) in states {
            gauge!(name, "partition" => partition.to_owned(), "state" => *state).set(*count as f64);
        }
    };
    let subscriptions = work.subscriptions;
    let states =
        [("live", subscriptions.live), ("catching_up", subscriptions.catching_up), ("parked", subscriptions.parked)];
    by_state(names::SUBSCRIPTIONS, &states);
    let gateways = work.gateways;
    let states = [
        ("live", gateways.live),
        ("catching_up", gateways.catching_up),
        ("offline", gateways.offline),
        ("parked", gateways.parked),
    ];
    by_state(names::GATEWAYS, &states);
}

impl Partition {
    /// Tells how it is.
    pub(super) fn tell(&mut self) {
        let view = self.plain_view();
        let PartitionView { partition, state, work: workload, .. } = view;
        let (partition, workload) = (partition.to_string(), workload.unwrap_or_default());
        gauge!(names::PARTITION_OWNED, "partition" => partition.clone()).set(f64::from(u8::from(view.owner.is_some())));
        for name in STATES {
            let is_in = f64::from(u8::from(state == name));
            gauge!(names::PARTITION_STATE, "partition" => partition.clone(), "state" => name).set(is_in);
        }
        if let Some(lag) = view.lag.seconds {
            gauge!(names::PARTITION_LAG, "partition" => partition.clone()).set(lag);
        }
        if let Some(headroom) = view.oplog_headroom_seconds {
            gauge!(names::OPLOG_HEADROOM, "partition" => partition.clone()).set(headroom);
        }
        gauge!(names::GATEWAY_LAG_MAX, "partition" => partition.clone()).set(workload.gateway_lag_max_seconds);
        work(&partition, &workload);
        let totals = workload.totals;
        for (name, total) in [
            (names::SOURCE_CHANGES, totals.changes),
            (names::SOURCE_BYTES, totals.change_bytes),
            (names::MATCHES, totals.matches),
            (names::MATCH_CANDIDATES, totals.candidates),
            (names::BLOOM_CHECKS, totals.bloom_checks),
            (names::BLOOM_FALSE_POSITIVES, totals.bloom_false_positives),
            (names::SHADOW_CHECKS, totals.shadow_checks),
            (names::SHADOW_DIFFERENCES, totals.shadow_differences),
            (names::DELIVERED_CHANGES, totals.delivered),
            (names::DELIVERED_BYTES, totals.delivered_bytes),
            (names::ACKS, totals.acks),
            (names::RESYNCS, totals.resyncs),
            (names::OVERFLOWS, totals.overflows),
            (names::PARKED_TOO_COSTLY, self.machine.counters().too_costly),
        ] {
            let step = self.step(name, None, total);
            counter!(name, "partition" => partition.clone()).increment(step);
        }
        self.name_tenants();
        let tenants: Vec<_> = self.machine.tenants().map(|(name, totals)| (name.cloned(), totals)).collect();
        for (tenant, totals) in tenants {
            for (name, total) in [(names::TENANT_CHANGES, totals.changes), (names::TENANT_MATCHES, totals.matches)] {
                let step = self.step(name, tenant.clone(), total);
                let mut labels = vec![Label::new("partition", partition.clone())];
                labels.extend(tenant.as_ref().map(|tenant| Label::new("tenant", tenant.to_string())));
                counter!(name, labels).increment(step);
            }
        }
        let rate = self.machine.matching().bloom.false_positive_rate();
        gauge!(names::BLOOM_FALSE_POSITIVE_RATE, "partition" => partition).set(rate);
    }

    /// Tenants get a name as long as there is room, and keep it as long as the process lives, through hand-overs and
    /// reloads: a series that has begun goes on, and there are never more.
    fn name_tenants(&mut self) {
        if self.tenants_named_max == 0 {
            return;
        }
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        let named = named.entry(self.machine.partition().clone()).or_default();
        if named.len() < self.tenants_named_max {
            let new: Vec<_> =
                self.machine.present_tenants().filter(|tenant| !named.contains(*tenant)).cloned().collect();
            named.extend(new.into_iter().take(self.tenants_named_max - named.len()));
        }
        self.machine.name_tenants(named.iter().take(self.tenants_named_max).cloned());
    }

    /// How far a counter has come since it was told last: a tenure counts from zero, and a counter never goes back.
    fn step(&mut self, name: &'static str, tenant: Option<Arc<str>>, total: u64) -> u64 {
        let told = self.told.insert((name, tenant), total).unwrap_or_default();
        total.saturating_sub(told)
    }
}
