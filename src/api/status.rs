//! How the hub is: health, metrics, totals.
//!
//! Owns these routes. Knows nothing of what is measured.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::ApiState;
use super::answer;
use crate::access::Caller;
use crate::error::Problem;
use crate::observe::health::Status;
use crate::observe::metrics;

/// The whole interface, for machines.
const OPENAPI: &str = include_str!("openapi.json");

fn health_answer(state: &ApiState, caller: &Caller, well: bool) -> Response {
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut view = serde_json::to_value(state.health.view()).unwrap_or_default();
    // Reasons name addresses and collections.
    if let (false, Some(members)) = (caller.is_operator(), view.as_object_mut()) {
        members.remove("components");
    }
    answer::json_answer(status, &view)
}

/// `GET /health`: 503 only while something fails.
pub(super) async fn health(State(state): State<ApiState>, caller: Caller) -> Response {
    health_answer(&state, &caller, state.health.view().status != Status::Failing)
}

/// `GET /health/live`: 503 once only a restart helps.
pub(super) async fn live(State(state): State<ApiState>, caller: Caller) -> Response {
    health_answer(&state, &caller, state.health.is_live())
}

/// `GET /health/ready`: 503 while the hub should be sent no work.
pub(super) async fn ready(State(state): State<ApiState>, caller: Caller) -> Response {
    health_answer(&state, &caller, state.health.is_ready())
}

/// `GET /metrics`.
pub(super) async fn prometheus(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    // Prometheus names it before all else; who merely takes everything wants the plain text.
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (media, text) = if accepts.into_iter().any(wants_open_metrics) {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", state.metrics.render_open())
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", state.metrics.render())
    };
    ([(header::CONTENT_TYPE, media)], text).into_response()
}

/// Whether it is among what is accepted, and not as what is not.
fn wants_open_metrics(accept: &str) -> bool {
    let mut wanted = accept.split(',').map(str::trim).filter(|one| one.starts_with("application/openmetrics-text"));
    wanted.any(|one| !one.split(';').any(|parameter| matches!(parameter.trim(), "q=0" | "q=0.0")))
}

/// `GET /v1/openapi.json`.
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// What `GET /v1/stats` sums up, and under which name.
const TOTALS: [(&str, &str); 9] = [
    ("changes", metrics::SOURCE_CHANGES),
    ("changeBytes", metrics::SOURCE_BYTES),
    ("matches", metrics::MATCHES),
    ("delivered", metrics::DELIVERED_CHANGES),
    ("deliveredBytes", metrics::DELIVERED_BYTES),
    ("acks", metrics::ACKS),
    ("registrations", metrics::REGISTRATIONS),
    ("resyncs", metrics::RESYNCS),
    ("requests", metrics::HTTP_REQUESTS),
];

/// `GET /v1/stats`: the counters that Prometheus is told, summed up over their labels.
pub(super) async fn stats(State(state): State<ApiState>) -> Result<Response, Problem> {
    let gateways = state.hub.gateways().await?;
    let text = state.metrics.render();
    let uptime_seconds = state.clock.now().since(state.started).as_secs_f64();
    let (mut totals, mut rates) = (Map::new(), Map::new());
    for (name, metric) in TOTALS {
        let total = total(&text, metric);
        totals.insert(name.to_owned(), json!(total as u64));
        // In the first moments a rate would be anything.
        let rate = if uptime_seconds >= 1.0 { json!(total / uptime_seconds) } else { Value::Null };
        rates.insert(format!("{name}PerSecond"), rate);
    }
    Ok(answer::ok(&json!({
        "node": &*state.node,
        "version": env!("CARGO_PKG_VERSION"),
        "startedAt": answer::time(state.started_at),
        "uptimeSeconds": uptime_seconds,
        "gateways": gateways.len(),
        "sessions": gateways.iter().filter(|gateway| gateway.session.is_some()).count(),
        "subscriptions": gateways.iter().map(|gateway| gateway.subscriptions).sum::<u64>(),
        "outboxBytes": gateways.iter().map(|gateway| gateway.outbox_bytes).sum::<u64>(),
        "totals": totals,
        "ratesSinceStart": rates,
    })))
}

/// The sum of a metric's samples, whatever their labels.
fn total(text: &str, metric: &str) -> f64 {
    let sample = |line: &str| {
        let rest = line.strip_prefix(metric).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    text.lines().filter_map(sample).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_is_the_sum_over_labels_of_one_metric_alone() {
        let text = "# TYPE a counter\na{x=\"1 2\"} 3\na{x=\"2\"} 4\na_total 100\na 1\n";
        assert_eq!(total(text, "a"), 8.0);
        assert_eq!(total(text, "b"), 0.0);
    }
}
