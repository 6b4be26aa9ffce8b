//! Traces: the way of a change from its commit to each ack, for OpenTelemetry.
//!
//! Owns which changes are followed and what is told of them, over OTLP. A trace's id is the change's position, so that
//! all nodes tell parts of one trace, and a position found in a log or a client is found again among the traces. The
//! same goes for the choice: it is made by the position, and falls out alike everywhere. Nothing of a document is told.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};

use super::exemplars;
use crate::position::Position;

/// How long the last spans may take to go at the end.
const LAST: Duration = Duration::from_secs(2);

/// Tells of the changes that it has chosen. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    /// Of all 64-bit numbers, so many are chosen.
    chosen: u64,
}

/// A part of a change's way.
#[derive(Clone, Debug)]
pub struct Part {
    /// What happens in it.
    pub name: &'static str,
    /// The histogram of how long it takes.
    pub metric: &'static str,
    /// When it begins
    pub from: DateTime<Utc>,
    /// and ends.
    pub to: DateTime<Utc>,
}

static INSTALLED: OnceLock<Tracer> = OnceLock::new();

/// The process's tracer, if it has one.
pub fn tracer() -> Option<Tracer> {
    INSTALLED.get().cloned()
}

/// Installs the process's tracer, which sends to this OTLP endpoint (gRPC) what it chooses: this share of all changes.
///
/// # Errors
/// An endpoint that is none.
pub fn install(endpoint: &str, ratio: f64, node: &str) -> Result<(), String> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.map_err(|error| error.to_string())?;
    let mut processor = BatchSpanProcessor::builder(exporter).build();
    let attributes = [
        KeyValue::new("service.name", "streamer"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", node.to_owned()),
    ];
    processor.set_resource(&Resource::builder_empty().with_attributes(attributes).build());
    let scope = InstrumentationScope::builder("streamer").with_version(env!("CARGO_PKG_VERSION")).build();
    // A conversion beyond the greatest number ends there.
    let chosen = (ratio * u64::MAX as f64) as u64;
    let _ = INSTALLED.set(Tracer(Arc::new(Inner { processor, scope, chosen })));
    Ok(())
}

/// Sends what is left.
pub async fn flush() {
    let Some(tracer) = tracer() else { return };
    let flushing = tokio::task::spawn_blocking(move || tracer.0.processor.force_flush());
    let _ = tokio::time::timeout(LAST, flushing).await;
}

impl Tracer {
    /// Whether it tells of this change.
    pub fn follows(&self, position: Position) -> bool {
        mixed(position) <= self.0.chosen
    }

    /// The change itself: read, matched and queued. What is delivered hangs below it.
    pub fn change(&self, position: Position, partition: &str, parts: &[Part]) {
        self.tell(position, (root(position), SpanId::INVALID), "change", partition, parts, Vec::new());
    }

    /// One gateway's delivery of it.
    pub fn delivery(&self, position: Position, partition: &str, gateway: &str, parts: &[Part]) {
        let attributes = vec![KeyValue::new("streamer.gateway", gateway.to_owned())];
        self.tell(position, (chance(), root(position)), "delivery", partition, parts, attributes);
    }

    fn tell(
        &self,
        position: Position,
        (id, parent): (SpanId, SpanId),
        name: &'static str,
        partition: &str,
        parts: &[Part],
        mut attributes: Vec<KeyValue>,
    ) {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return };
        attributes.push(KeyValue::new("streamer.position", position.to_string()));
        attributes.push(KeyValue::new("streamer.partition", partition.to_owned()));
        self.span(position, id, parent, name, first.from, last.to, attributes);
        for Part { name, metric, from, to } in parts {
            let seconds = (*to - *from).as_seconds_f64().max(0.0);
            exemplars::note(metric, partition, position, seconds, *to);
            self.span(position, chance(), id, name, *from, *to, Vec::new());
        }
    }

    #[allow(clippy::too_many_arguments, reason = "what a span is made of")]
    fn span(
        &self,
        position: Position,
        id: SpanId,
        parent: SpanId,
        name: &'static str,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        attributes: Vec<KeyValue>,
    ) {
        let trace = TraceId::from_bytes(bytes(position));
        self.0.processor.on_end(SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: SystemTime::from(from),
            // Clocks of two machines may differ: nothing ends before it begins.
            end_time: SystemTime::from(to.max(from)),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.0.scope.clone(),
        });
    }
}

fn bytes(position: Position) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&position.epoch.0.to_be_bytes());
    bytes[4..12].copy_from_slice(&position.time.0.to_be_bytes());
    bytes[12..].copy_from_slice(&position.ordinal.to_be_bytes());
    bytes
}

/// The change's own span, known to all nodes without a word.
fn root(position: Position) -> SpanId {
    SpanId::from_bytes((mixed(position) | 1).to_be_bytes())
}

fn chance() -> SpanId {
    SpanId::from_bytes((rand::random::<u64>() | 1).to_be_bytes())
}

/// The finalizer of MurmurHash3 over the position's parts: neighbours are chosen independently of one another.
fn mixed(position: Position) -> u64 {
    let mut hash = position.time.0 ^ (u64::from(position.epoch.0) << 32) ^ u64::from(position.ordinal).rotate_left(17);
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{ClusterTime, Epoch};

    #[test]
    fn a_trace_is_found_by_its_position_and_chosen_by_chance() {
        let at = |ordinal| Position::new(Epoch(7), ClusterTime::new(1_763_690_000, 3), ordinal);
        assert_eq!(TraceId::from_bytes(bytes(at(2))).to_string(), at(2).to_string());
        assert_ne!(root(at(1)), root(at(2)));
        let tenth = u64::MAX / 10;
        let chosen = (1..=10_000).filter(|ordinal| mixed(at(*ordinal)) <= tenth).count();
        assert!((900..1_100).contains(&chosen), "{chosen}");
    }
}
