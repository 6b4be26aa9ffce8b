//! Metrics: numbers for Prometheus.
//!
//! Owns every metric's name, unit and meaning, and their text. Who counts what is said where it is
//! counted, with `metrics::counter!(metrics::MATCHES)` and the like.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::exemplars;
use crate::clock::every;
use crate::tasks::{Kind, Tasks};

enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// A metric's name, type, unit and meaning.
type Described = (&'static str, Type, Unit, &'static str);

macro_rules! metrics {
    ($($constant:ident = $name:literal, $type:ident, $unit:ident, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $constant: &str = $name;)*
        const ALL: &[Described] = &[$(($name, Type::$type, Unit::$unit, $meaning)),*];
    };
}

metrics! {
    BUILD_INFO = "streamer_build_info", Gauge, Count, "Always 1; the label `version` says what is running.";
    COMPONENT_STATUS = "streamer_component_status", Gauge, Count, "How a part fares: 0 ok, 1 degraded, 2 failing, by `component`.";
    CONFIG_RELOADS = "streamer_config_reloads_total", Counter, Count, "Times that configuration, tokens or certificates were read again, by `what` (config, tokens, tls) and `outcome` (taken, refused).";
    REFUSED_CALLERS = "streamer_refused_callers_total", Counter, Count, "Calls without a good token or without leave, by `listener` (http, grpc) and `reason` (unauthenticated, forbidden).";

    SOURCE_CHANGES = "streamer_source_changes_total", Counter, Count, "Changes read from a backend, by `partition`.";
    SOURCE_BYTES = "streamer_source_bytes_total", Counter, Bytes, "Their size in memory, by `partition`.";
    SOURCE_RECONNECTS = "streamer_source_reconnects_total", Counter, Count, "Readings begun again after an error, by `partition`.";
    RESYNCS = "streamer_resyncs_total", Counter, Count, "Resyncs that had to be told, by `partition`.";
    PARTITION_OWNED = "streamer_partition_owned", Gauge, Count, "1 at the node that owns the partition, 0 at others, by `partition`. The other metrics of a partition are its owner's.";
    PARTITION_STATE = "streamer_partition_state", Gauge, Count, "1 for the state that it is in, 0 for others, by `partition` and `state` (reading, catching_up, paused, backoff, history_lost).";
    PARTITION_LAG = "streamer_partition_lag_seconds", Gauge, Seconds, "How far a partition is behind its backend, by `partition`.";
    OPLOG_HEADROOM = "streamer_oplog_headroom_seconds", Gauge, Seconds, "How much longer the checkpoint can be read from, by `partition`.";
    WINDOW_BYTES = "streamer_window_bytes", Gauge, Bytes, "Recent changes kept in memory, by `partition`.";

    LATENCY_READ = "streamer_latency_commit_to_read_seconds", Histogram, Seconds, "From a change's wall time at the backend (whose clock it is) to its being read, by `partition`; the newest of each batch.";
    LATENCY_MATCHED = "streamer_latency_read_to_matched_seconds", Histogram, Seconds, "From there to its having been matched and queued, by `partition`.";
    LATENCY_SENT = "streamer_latency_matched_to_sent_seconds", Histogram, Seconds, "From there to its being handed to the transport, live only, by `partition`.";
    LATENCY_ACKED = "streamer_latency_sent_to_acked_seconds", Histogram, Seconds, "From there to its ack, by `partition`; one message a session at a time is followed.";

    MATCHES = "streamer_matches_total", Counter, Count, "Pairs of a change and a subscription that it concerns, by `partition`.";
    TENANT_CHANGES = "streamer_tenant_changes_total", Counter, Count, "Changes read of a tenant, by `partition` and `tenant`; without `tenant`, of all that are not named. Only with `metrics.tenants_max`.";
    TENANT_MATCHES = "streamer_tenant_matches_total", Counter, Count, "Matches of a tenant, by `partition` and `tenant`; without `tenant`, of all that are not named. Only with `metrics.tenants_max`.";
    MATCH_CANDIDATES = "streamer_match_candidates_total", Counter, Count, "Filters evaluated because an index led to them, by `partition`.";
    BLOOM_CHECKS = "streamer_bloom_checks_total", Counter, Count, "Keys that the Bloom filter was asked for, by `partition`.";
    BLOOM_FALSE_POSITIVES = "streamer_bloom_false_positives_total", Counter, Count, "Absent keys that it let through, by `partition`.";
    BLOOM_FALSE_POSITIVE_RATE = "streamer_bloom_false_positive_ratio", Gauge, Count, "The share of absent keys that it let through since start, by `partition`.";
    SHADOW_CHECKS = "streamer_shadow_checks_total", Counter, Count, "Evaluations repeated by the reference, by `partition`.";
    SHADOW_DIFFERENCES = "streamer_shadow_differences_total", Counter, Count, "Those that came out differently: each is a bug, by `partition`.";
    SUBSCRIPTIONS = "streamer_subscriptions", Gauge, Count, "Subscriptions, by `partition` and `state` (live, catching_up, parked).";
    PARKED_TOO_COSTLY = "streamer_parked_too_costly_total", Counter, Count, "Subscriptions parked because their filter proved too dear, by `partition`.";
    REGISTRATIONS = "streamer_registrations_total", Counter, Count, "Registrations answered, by `code` (created, unchanged, or the problem's).";

    GATEWAYS = "streamer_gateways", Gauge, Count, "Gateways, by `partition` and `state` (live, catching_up, offline, parked).";
    GATEWAY_LAG_MAX = "streamer_gateway_lag_max_seconds", Gauge, Seconds, "How far the durable cursor of the slowest connected gateway is behind, by `partition`.";
    SESSIONS = "streamer_sessions", Gauge, Count, "Connected gateways, by `partition`.";
    DELIVERED_CHANGES = "streamer_delivered_changes_total", Counter, Count, "Change messages handed to gateways' outboxes, by `partition`.";
    DELIVERED_BYTES = "streamer_delivered_bytes_total", Counter, Bytes, "Their size in outboxes, by `partition`.";
    OUTBOX_BYTES = "streamer_outbox_bytes", Gauge, Bytes, "What waits for gateways, by `partition`.";
    OVERFLOWS = "streamer_overflows_total", Counter, Count, "Sessions turned to a catch-up because they were too slow, by `partition`.";
    CATCHUPS = "streamer_catchups", Gauge, Count, "Catch-ups in progress, by `partition`.";
    ACKS = "streamer_acks_total", Counter, Count, "Acks taken, by `partition`.";

    NATS_PUBLISHES = "streamer_nats_publishes_total", Counter, Count, "Messages handed to NATS, each time that they were.";
    NATS_RETRIES = "streamer_nats_retries_total", Counter, Count, "Those of them that were handed over again.";
    NATS_DUPLICATES = "streamer_nats_duplicates_total", Counter, Count, "Messages that the server knew already.";
    NATS_FULL = "streamer_nats_full_total", Counter, Count, "Messages refused because a gateway has not taken what lies there.";
    NATS_ACK_TIME = "streamer_nats_ack_seconds", Histogram, Seconds, "From a message's first handing over to the server's ack.";
    NATS_STREAM_LOSSES = "streamer_nats_stream_losses_total", Counter, Count, "How often the stream was found to have lost messages, or to be another.";
    NATS_REWINDS = "streamer_nats_rewinds_total", Counter, Count, "Gateways to which something is published again because the stream has lost it.";

    STORE_COMMITS = "streamer_store_commits_total", Counter, Count, "Store transactions, by `outcome` (ok, conflict, fenced, unknown, too_large).";
    STORE_COMMIT_TIME = "streamer_store_commit_seconds", Histogram, Seconds, "Time of a store transaction.";

    HTTP_REQUESTS = "streamer_http_requests_total", Counter, Count, "HTTP requests answered, by `route`, `method` and `status`.";
    HTTP_TIME = "streamer_http_request_seconds", Histogram, Seconds, "Time to answer one, streams apart, by `route`.";

    LOG_PUBLISHED = "streamer_log_published_total", Counter, Count, "Changes written to the embedded log.";
    LOG_COMMIT_TIME = "streamer_log_commit_seconds", Histogram, Seconds, "Time of one of its group commits, disk included.";
}

/// Every metric's name.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, ..)| *name)
}

/// From a tenth of a millisecond to ten seconds.
pub(super) const SECONDS_BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Histograms keep raw samples until somebody asks or this has passed.
const UPKEEP: Duration = Duration::from_secs(5);

/// The process's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// The recorder of this process, installed at the first call; the macros count nothing before.
    ///
    /// # Panics
    /// If something else has installed a recorder.
    pub fn install() -> Self {
        static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
        let handle = INSTALLED.get_or_init(|| {
            let recorder = builder().build_recorder();
            let handle = recorder.handle();
            metrics::set_global_recorder(recorder).expect("nothing else installs a recorder");
            describe();
            handle
        });
        Self { handle: handle.clone() }
    }

    /// Keeps histograms small while nobody asks for them.
    pub fn start_upkeep(&self, tasks: &Tasks) {
        let (handle, shutdown) = (self.handle.clone(), tasks.shutdown_token());
        tasks.spawn(Kind::Housekeeping, "metrics", async move {
            let mut ticks = every(UPKEEP);
            loop {
                // Both are cancel-safe.
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = ticks.tick() => handle.run_upkeep(),
                }
            }
        });
    }

    /// Prometheus text, version 0.0.4.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// OpenMetrics text, version 1.0.0, which has exemplars.
    pub fn render_open(&self) -> String {
        exemplars::open_metrics(&self.handle.render())
    }
}

fn builder() -> PrometheusBuilder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
        .expect("the buckets are not empty")
}

fn describe() {
    for (name, kind, unit, meaning) in ALL {
        match kind {
            Type::Counter => describe_counter!(*name, *unit, *meaning),
            Type::Gauge => describe_gauge!(*name, *unit, *meaning),
            Type::Histogram => describe_histogram!(*name, *unit, *meaning),
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::{counter, histogram};
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_convention() {
        let mut seen = BTreeSet::new();
        for (name, kind, unit, meaning) in ALL {
            assert!(seen.insert(name), "{name} twice");
            assert!(name.starts_with("streamer_") && meaning.ends_with('.'), "{name}");
            let base = name.strip_suffix("_total").unwrap_or(name);
            assert_eq!(matches!(kind, Type::Counter), base != *name, "{name}: counters alone end in _total");
            match unit {
                Unit::Seconds => assert!(base.ends_with("_seconds"), "{name}"),
                Unit::Bytes => assert!(base.ends_with("_bytes"), "{name}"),
                _ => assert!(!base.ends_with("_seconds") && !base.ends_with("_bytes"), "{name}"),
            }
            assert!(!matches!(kind, Type::Histogram) || name.ends_with("_seconds"), "{name} has no buckets");
        }
    }

    #[test]
    fn what_is_counted_is_rendered_with_its_meaning() {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            counter!(MATCHES, "partition" => "default/0").increment(3);
            histogram!(LATENCY_MATCHED, "partition" => "default/0").record(0.002);
        });
        let text = handle.render();
        for line in [
            "# TYPE streamer_matches_total counter",
            "# HELP streamer_matches_total Pairs of a change",
            "streamer_matches_total{partition=\"default/0\"} 3",
            "streamer_latency_read_to_matched_seconds_bucket{partition=\"default/0\",le=\"0.001\"} 0",
            "streamer_latency_read_to_matched_seconds_bucket{partition=\"default/0\",le=\"0.0025\"} 1",
            "streamer_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn installing_twice_is_installing_once_and_upkeep_ends() {
        let tasks = Tasks::new();
        Metrics::install().start_upkeep(&tasks);
        counter!(ACKS).increment(1);
        assert!(Metrics::install().render().contains("streamer_acks_total"));
        assert!(tasks.drain(Duration::from_secs(60)).await.is_empty());
    }
}
