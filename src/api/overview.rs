//! `GET /v1/overview`: one picture of the hub, for the dashboard and for `streamer top`.
//!
//! Owns its shape, and how often it is taken: at most once a second, however many look. Knows nothing of how it is drawn.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{ApiState, answer};
use crate::clock::{Instant, every};
use crate::delivery::sse;
use crate::error::Problem;
use crate::handle::{Costly, GatewayStates, PartitionView, Workload};
use crate::limits;

/// How old a picture may be.
const FRESH: Duration = Duration::from_millis(900);
/// How long partitions are waited for: those who look take a longer silence for the hub's.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two of a stream.
const EVERY: Duration = Duration::from_secs(1);

/// The last picture.
#[derive(Clone, Default)]
pub(super) struct Last(Arc<Mutex<Option<Picture>>>);

/// When it was taken, and what it shows.
type Picture = (Instant, Arc<str>);

/// `GET /v1/overview`.
pub(super) async fn overview(State(state): State<ApiState>) -> Result<Response, Problem> {
    let text = picture(&state).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text.to_string()).into_response())
}

/// `GET /v1/overview/stream`.
pub(super) async fn follow(State(state): State<ApiState>) -> Response {
    let shutdown = state.shutdown.clone();
    let pictures = stream::unfold((state, every(EVERY)), |(state, mut ticks)| async move {
        ticks.tick().await;
        // Those who look are told that nobody answers by the hub's health, which needs no partition.
        let event = match picture(&state).await {
            Ok(text) => format!("event: overview\ndata: {text}\n\n"),
            Err(problem) => format!("event: problem\ndata: {}\n\n", super::problem::document(&problem)),
        };
        Some((Ok::<_, Infallible>(Bytes::from(event)), (state, ticks)))
    });
    (sse::HEAD, Body::from_stream(pictures.take_until(shutdown.cancelled_owned()))).into_response()
}

async fn picture(state: &ApiState) -> Result<Arc<str>, Problem> {
    let mut last = state.last.0.lock().await;
    if let Some((taken, text)) = &*last
        && state.clock.now().since(*taken) < FRESH
    {
        return Ok(Arc::clone(text));
    }
    let text: Arc<str> = taken(state).await?.to_string().into();
    *last = Some((state.clock.now(), Arc::clone(&text)));
    Ok(text)
}

async fn taken(state: &ApiState) -> Result<Value, Problem> {
    // While no partition has an owner there is still the hub's health to see.
    let asking = async { tokio::join!(state.hub.partitions(), state.hub.furthest(limits::overview_gateways_max)) };
    let (partitions, listed) = match tokio::time::timeout(PATIENCE, asking).await {
        Ok((partitions, listed)) => (partitions.unwrap_or_default(), listed.unwrap_or_default()),
        Err(_) => (Vec::new(), Vec::new()),
    };
    let all = partitions.iter().filter_map(|view| view.work.as_ref()).map(|work| work.gateways);
    // Each partition has its own view of a gateway: that of the one with the most is shown.
    let total = |states: &GatewayStates| states.live + states.catching_up + states.offline + states.parked;
    let states = all.max_by_key(total).unwrap_or_default();
    Ok(json!({
        "at": answer::time(state.clock.wall()),
        "node": &*state.node,
        "version": env!("CARGO_PKG_VERSION"),
        "startedAt": answer::time(state.started_at),
        "uptimeSeconds": state.clock.now().since(state.started).as_secs_f64(),
        "health": state.health.view(),
        "partitions": partitions.iter().map(partition).collect::<Vec<_>>(),
        "gateways": {
            "total": total(&states),
            "states": {
                "live": states.live,
                "catching_up": states.catching_up,
                "offline": states.offline,
                "parked": states.parked,
            },
            "listed": listed.iter().map(answer::gateway_anywhere).collect::<Vec<_>>(),
        },
    }))
}

fn partition(view: &PartitionView) -> Value {
    let mut shown = answer::partition(view);
    let Some(Workload { subscriptions, sessions, catchups, window_bytes, outbox_bytes, totals, costliest, .. }) =
        &view.work
    else {
        return shown;
    };
    shown["subscriptions"] = json!({
        "live": subscriptions.live,
        "catching_up": subscriptions.catching_up,
        "parked": subscriptions.parked,
    });
    shown["sessions"] = json!(sessions);
    shown["catchups"] = json!(catchups);
    shown["windowBytes"] = json!(window_bytes);
    shown["outboxBytes"] = json!(outbox_bytes);
    shown["totals"] = json!(totals);
    shown["costliest"] = costliest.iter().map(costly).collect();
    shown
}

fn costly(costly: &Costly) -> Value {
    let Costly { subscription, average_micros, evaluations } = costly;
    let (kind, owner) = answer::owner(&subscription.gateway);
    json!({
        kind: owner,
        "subscriptionId": subscription.id,
        "averageMicros": average_micros,
        "evaluations": evaluations,
    })
}
