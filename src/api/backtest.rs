//! `POST /v1/backtest`: how often a filter would have fired.
//!
//! Owns this route and how the partitions' parts become one answer. Nothing is registered and nothing delivered.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use chrono::DateTime;
use serde_json::{Value, json};

use super::request::{JsonBody, aside};
use super::{ApiState, answer};
use crate::access::Caller;
use crate::delivery::ejson;
use crate::error::Problem;
use crate::handle::{Backtest, BacktestPart, BacktestSource, Bucket, Sample};
use crate::limits;
use crate::position::Position;
use crate::subscription::Spec;
use crate::subscription::fields::{Fields, invalid};

/// `POST /v1/backtest`.
pub(super) async fn backtest(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let asked = asked(&body)?;
    caller.subscribes(&asked.spec)?;
    let parts = state.hub.backtest(asked).await?;
    Ok(answer::ok(&aside(move || text(parts)).await))
}

fn asked(body: &Value) -> Result<Backtest, Problem> {
    let fields = Fields::new(body, "", &["subscription", "seconds", "source"])?;
    let subscription = fields.get("subscription").ok_or_else(|| invalid("is missing").at("subscription"))?;
    let within = |problem: Problem| {
        let field = problem.field.as_ref().map_or("subscription".into(), |field| format!("subscription.{field}"));
        problem.at(field)
    };
    let spec = Spec::from_json(subscription).map_err(within)?;
    let max = limits::backtest_seconds_max;
    let seconds = match fields.get("seconds") {
        None => Some(300),
        Some(given) => given.as_u64().and_then(|it| u32::try_from(it).ok()).filter(|it| (1..=max).contains(it)),
    };
    let seconds = seconds.ok_or_else(|| invalid(format!("`seconds` is 1 to {max}")).at("seconds"))?;
    let source = match fields.optional_text("source")?.unwrap_or("window") {
        "window" => BacktestSource::Window,
        "oplog" => BacktestSource::Oplog,
        _ => return Err(invalid("`source` is `window` or `oplog`").at("source")),
    };
    Ok(Backtest { spec: Arc::new(spec), seconds, source })
}

fn text(parts: Vec<BacktestPart>) -> Value {
    let (mut changes, mut matches, mut is_complete) = (0, 0, true);
    let (mut costs, mut samples) = (Vec::new(), Vec::new());
    let mut buckets: BTreeMap<u32, Bucket> = BTreeMap::new();
    // All of them have been tried from the last one's beginning to the first one's end.
    let (mut from, mut to) = (None, None);
    let mut width = 1;
    for part in parts {
        changes += part.changes;
        matches += part.matches;
        is_complete &= part.is_complete;
        costs.extend(part.costs);
        samples.extend(part.samples);
        width = part.bucket_seconds;
        for (second, bucket) in part.buckets {
            buckets.entry(second).or_default().add(bucket);
        }
        from = from.max(Some(part.from));
        to = Some(to.map_or(part.to, |to: Position| to.min(part.to)));
    }
    samples.sort_by_key(|sample| sample.change.position);
    let shown = samples.len().saturating_sub(limits::backtest_samples_max);
    costs.sort_unstable();
    // Microseconds of one change, found where the share of them lies.
    let cost = |share: f64| -> Option<f64> {
        let last = costs.len().checked_sub(1)?;
        Some(f64::from(costs[(last as f64 * share) as usize]) / 1_000.0)
    };
    json!({
        "changes": changes,
        "matches": matches,
        "samples": samples[shown..].iter().rev().map(sample).collect::<Vec<_>>(),
        "costMicros": {"p50": cost(0.5), "p99": cost(0.99)},
        "from": from,
        "to": to,
        "complete": is_complete,
        "histogram": buckets.into_iter().map(|(second, bucket)| json!({
            "from": DateTime::from_timestamp(second.into(), 0).map(answer::time),
            "seconds": width,
            "changes": bucket.changes,
            "matches": bucket.matches,
        })).collect::<Vec<_>>(),
    })
}

fn sample(sample: &Sample) -> Value {
    let Sample { change, verdict, is_reduced } = sample;
    let document = change.document.as_ref().and_then(|document| {
        let mut text = Vec::new();
        ejson::write_document(&mut text, document).ok()?;
        serde_json::from_slice::<Value>(&text).ok()
    });
    let time = change.position.time;
    let mut shown = json!({
        "position": change.position,
        "clusterTime": {"t": time.seconds(), "i": time.increment()},
        "key": &*change.key,
        "operation": change.operation.name(),
        "document": document,
    });
    if *is_reduced {
        shown["reduced"] = true.into();
    }
    if let Some(transition) = verdict.transition {
        shown["transition"] = transition.name().into();
    }
    if let Some(certainty) = verdict.certainty {
        shown["certainty"] = certainty.name().into();
    }
    shown
}
