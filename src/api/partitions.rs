//! Partitions and the cluster over HTTP.
//!
//! Owns these routes. This version is one node: it owns every partition, and there is nowhere to move
//! one to.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::ApiState;
use super::answer;
use super::request::{InPartition, JsonBody};
use crate::error::{Code, Problem};
use crate::handle::PartitionView;
use crate::position::PartitionId;
use crate::subscription::Name;
use crate::subscription::fields::{Fields, invalid};

/// `GET /v1/partitions`.
pub(super) async fn list(State(state): State<ApiState>) -> Result<Response, Problem> {
    let views = state.hub.partitions().await?;
    Ok(answer::ok(&json!({"partitions": views.iter().map(answer::partition).collect::<Vec<_>>()})))
}

/// `GET /v1/partitions/{backend}/{number}`.
pub(super) async fn read(
    State(state): State<ApiState>,
    InPartition(partition): InPartition,
) -> Result<Response, Problem> {
    Ok(answer::ok(&answer::partition(&find(&state, partition).await?)))
}

/// `POST /v1/partitions/{backend}/{number}/pause`.
pub(super) async fn pause(
    State(state): State<ApiState>,
    InPartition(partition): InPartition,
) -> Result<Response, Problem> {
    find(&state, partition).await?;
    Ok(answer::ok(&answer::partition(&state.hub.pause(true).await?)))
}

/// `POST /v1/partitions/{backend}/{number}/resume`.
pub(super) async fn resume(
    State(state): State<ApiState>,
    InPartition(partition): InPartition,
) -> Result<Response, Problem> {
    find(&state, partition).await?;
    Ok(answer::ok(&answer::partition(&state.hub.pause(false).await?)))
}

/// `POST /v1/partitions/{backend}/{number}/move`. Where it is already, it can stay.
pub(super) async fn transfer(
    State(state): State<ApiState>,
    InPartition(partition): InPartition,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let fields = Fields::new(&body, "", &["node"])?;
    let node = Name::new(fields.text("node")?).map_err(|rule| invalid(rule.to_string()).at("node"))?;
    let view = find(&state, partition).await?;
    if view.owner.as_deref() == Some(node.as_str()) {
        return Ok(answer::ok(&answer::partition(&view)));
    }
    Err(invalid("this hub runs alone: there is no other node to move a partition to").at("node"))
}

async fn find(state: &ApiState, wanted: Option<PartitionId>) -> Result<PartitionView, Problem> {
    let views = state.hub.partitions().await?;
    let found = wanted.and_then(|wanted| views.into_iter().find(|view| view.partition == wanted));
    found.ok_or_else(|| Problem::new(Code::NotFound, "no such partition; GET /v1/partitions lists them"))
}

/// `GET /v1/cluster`.
pub(super) async fn cluster(State(state): State<ApiState>) -> Result<Response, Problem> {
    let views = state.hub.partitions().await?;
    let owned = |view: &PartitionView| -> Value {
        json!({"partition": view.partition, "owner": view.owner.as_deref(), "epoch": view.epoch})
    };
    Ok(answer::ok(&json!({
        "node": &*state.node,
        "nodes": [{
            "node": &*state.node,
            "version": env!("CARGO_PKG_VERSION"),
            "startedAt": answer::time(state.started_at),
            "live": state.health.is_live(),
            "ready": state.health.is_ready(),
        }],
        "leases": views.iter().map(owned).collect::<Vec<_>>(),
        "ring": [{"node": &*state.node, "share": 1.0}],
    })))
}
