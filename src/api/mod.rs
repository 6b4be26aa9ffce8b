//! The HTTP interface.
//!
//! Owns routes, problem documents and the JSON of the interface. Asks the hub through `HubHandle`;
//! knows nothing of how it serves. `openapi.json` is the full text of what is here.

pub mod answer;
mod backtest;
mod dashboard;
mod drills;
mod events;
mod explain;
mod gateways;
mod groups;
mod guard;
pub(crate) mod json;
mod overview;
mod partitions;
pub mod problem;
mod request;
mod server;
mod status;
mod subscriptions;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get, post, put};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

pub use server::serve;

use crate::access::Door;
use crate::clock::{Clock, Instant};
use crate::delivery::sse;
use crate::edge::HubHandle;
use crate::error::Problem;
use crate::observe::health::Health;
use crate::observe::metrics::Metrics;
use crate::peer::Members;

/// Publishes changes into the embedded log; answers their positions, each for itself and in order,
/// once they are on disk.
pub type Publish =
    Arc<dyn Fn(Vec<Value>) -> BoxFuture<'static, Result<Vec<Result<String, Problem>>, Problem>> + Send + Sync>;

/// What the routes are made of.
#[derive(Clone)]
pub struct ApiState {
    hub: HubHandle,
    node: Arc<str>,
    health: Health,
    metrics: Metrics,
    clock: Clock,
    started: Instant,
    started_at: DateTime<Utc>,
    members: Arc<OnceLock<Members>>,
    publish: Option<Publish>,
    door: Door,
    drills: Option<PathBuf>,
    shutdown: CancellationToken,
    last: overview::Last,
}

impl ApiState {
    /// A hub's interface, which counts its time from now on. `publish` is there where the hub has an
    /// embedded log.
    pub fn new(
        hub: HubHandle,
        node: impl Into<Arc<str>>,
        health: Health,
        metrics: Metrics,
        clock: Clock,
        publish: Option<Publish>,
    ) -> Self {
        let (started, started_at) = (clock.now(), clock.wall());
        let door = Door::open(clock.clone());
        let (node, members) = (node.into(), Arc::default());
        let (drills, shutdown, last) = (None, CancellationToken::new(), overview::Last::default());
        Self { hub, node, health, metrics, clock, started, started_at, publish, members, door, drills, shutdown, last }
    }

    /// One of several nodes, once it has joined them.
    #[must_use]
    pub fn among(self, members: Arc<OnceLock<Members>>) -> Self {
        Self { members, ..self }
    }

    /// One that asks callers who they are.
    #[must_use]
    pub fn behind(self, door: Door) -> Self {
        Self { door, ..self }
    }

    /// One that shows the reports of drills in this folder.
    #[must_use]
    pub fn showing(self, drills: Option<PathBuf>) -> Self {
        Self { drills, ..self }
    }

    /// One whose streams end when this is cancelled.
    #[must_use]
    pub fn until(self, shutdown: CancellationToken) -> Self {
        Self { shutdown, ..self }
    }
}

/// Every route but those of `delivery::sse`.
fn table() -> Vec<(&'static str, MethodRouter<ApiState>)> {
    vec![
        ("/", get(dashboard::page)),
        ("/dashboard/{file}", get(dashboard::part)),
        ("/health", get(status::health)),
        ("/health/live", get(status::live)),
        ("/health/ready", get(status::ready)),
        ("/metrics", get(status::prometheus)),
        ("/v1/openapi.json", get(status::openapi)),
        ("/v1/stats", get(status::stats)),
        ("/v1/overview", get(overview::overview)),
        ("/v1/overview/stream", get(overview::follow)),
        ("/v1/drills", get(drills::list)),
        ("/v1/subscriptions", get(subscriptions::list).post(subscriptions::register)),
        ("/v1/subscriptions/batch", post(subscriptions::register_batch)),
        (
            "/v1/gateways/{gateway}/subscriptions/{subscription}",
            get(subscriptions::read).put(subscriptions::replace).delete(subscriptions::remove),
        ),
        ("/v1/gateways/{gateway}/subscriptions/{subscription}/heartbeat", put(subscriptions::renew)),
        ("/v1/gateways", get(gateways::list)),
        ("/v1/gateways/{gateway}", get(gateways::read).put(gateways::set_delivery).delete(gateways::remove)),
        ("/v1/gateways/{gateway}/heartbeat", put(gateways::renew)),
        ("/v1/gateways/{gateway}/cursor", put(gateways::set_cursor)),
        ("/v1/gateways/{gateway}/park", post(gateways::park)),
        ("/v1/groups", get(groups::list)),
        ("/v1/groups/{group}", get(groups::read).delete(gateways::remove)),
        (
            "/v1/groups/{group}/subscriptions/{subscription}",
            get(subscriptions::read).put(subscriptions::replace).delete(subscriptions::remove),
        ),
        ("/v1/groups/{group}/subscriptions/{subscription}/heartbeat", put(subscriptions::renew)),
        ("/v1/groups/{group}/heartbeat", put(gateways::renew)),
        ("/v1/groups/{group}/park", post(gateways::park)),
        ("/v1/explain", post(explain::explain)),
        ("/v1/backtest", post(backtest::backtest)),
        ("/v1/partitions", get(partitions::list)),
        ("/v1/partitions/{backend}/{number}", get(partitions::read)),
        ("/v1/partitions/{backend}/{number}/pause", post(partitions::pause)),
        ("/v1/partitions/{backend}/{number}/resume", post(partitions::resume)),
        ("/v1/partitions/{backend}/{number}/move", post(partitions::transfer)),
        ("/v1/cluster", get(partitions::cluster)),
        ("/v1/events", post(events::publish)),
        ("/v1/events/batch", post(events::publish_batch)),
    ]
}

/// The whole interface.
pub fn router(state: ApiState) -> Router {
    let mut routes = Router::new();
    for (path, methods) in table() {
        routes = routes.route(path, methods);
    }
    let streams = sse::routes(state.hub.clone()).layer(from_fn(request::bounded_body));
    guarded(routes.with_state(state.clone()).merge(streams), &state)
}

/// Makes a problem document of whatever goes wrong on the way to a route and in it, and counts.
fn guarded(routes: Router, state: &ApiState) -> Router {
    routes
        .method_not_allowed_fallback(guard::method_not_allowed)
        .fallback(guard::not_found)
        .layer(from_fn(guard::no_stray_parameters))
        .layer(from_fn_with_state(state.door.clone(), guard::admit))
        .layer(CatchPanicLayer::custom(guard::panicked))
        .layer(from_fn_with_state(state.clock.clone(), guard::count))
}
