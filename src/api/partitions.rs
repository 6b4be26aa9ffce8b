//! Partitions and the cluster over HTTP.
//!
//! Owns these routes.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::ApiState;
use super::answer;
use super::request::{InPartition, JsonBody};
use crate::error::{Code, Problem};
use crate::handle::{PartitionHandle, PartitionView};
use crate::peer::Members;
use crate::position::PartitionId;
use crate::store::owners::Holder;
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
    Ok(answer::ok(&answer::partition(&handle(&state, partition.as_ref())?.view().await?)))
}

/// `POST /v1/partitions/{backend}/{number}/pause`.
pub(super) async fn pause(
    State(state): State<ApiState>,
    InPartition(partition): InPartition,
) -> Result<Response, Problem> {
    Ok(answer::ok(&answer::partition(&handle(&state, partition.as_ref())?.pause(true).await?)))
}

/// `POST /v1/partitions/{backend}/{number}/resume`.
pub(super) async fn resume(
    State(state): State<ApiState>,
    InPartition(partition): InPartition,
) -> Result<Response, Problem> {
    Ok(answer::ok(&answer::partition(&handle(&state, partition.as_ref())?.pause(false).await?)))
}

/// `POST /v1/partitions/{backend}/{number}/move`. Answered before the hand-over.
pub(super) async fn transfer(
    State(state): State<ApiState>,
    InPartition(partition): InPartition,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let fields = Fields::new(&body, "", &["node"])?;
    let node = Name::new(fields.text("node")?).map_err(|rule| invalid(rule.to_string()).at("node"))?;
    let partition = handle(&state, partition.as_ref())?;
    let view = partition.view().await?;
    let Some(members) = state.members.get() else {
        if view.owner.as_deref() == Some(node.as_str()) {
            return Ok(answer::ok(&answer::partition(&view)));
        }
        return Err(invalid("this hub runs alone: there is no other node to move a partition to").at("node"));
    };
    if !members.view().nodes.contains_key(node.as_str()) {
        return Err(invalid(format!("there is no node {node}; GET /v1/cluster lists them")).at("node"));
    }
    Ok(answer::ok(&answer::partition(&partition.move_to(node.as_str().into()).await?)))
}

fn handle<'a>(state: &'a ApiState, wanted: Option<&PartitionId>) -> Result<&'a PartitionHandle, Problem> {
    let found = wanted.and_then(|wanted| state.hub.partition(wanted));
    found.ok_or_else(|| Problem::new(Code::NotFound, "no such partition; GET /v1/partitions lists them"))
}

/// `GET /v1/cluster`. Also while no node owns the partition.
pub(super) async fn cluster(State(state): State<ApiState>) -> Result<Response, Problem> {
    let views = state.hub.partitions().await.unwrap_or_default();
    let owned = |view: &PartitionView| -> Value {
        json!({"partition": view.partition, "owner": view.owner.as_deref(), "epoch": view.epoch})
    };
    let members = state.members.get().map(Members::view).unwrap_or_default();
    let address = members.nodes.get(&state.node).and_then(|node| node.address.clone());
    let own = json!({
        "node": &*state.node,
        "address": address,
        "version": env!("CARGO_PKG_VERSION"),
        "startedAt": answer::time(state.started_at),
        "live": state.health.is_live(),
        "ready": state.health.is_ready(),
    });
    // Whether another one is ready it says itself.
    let other = |node: &Holder| -> Value {
        json!({
            "node": &*node.node,
            "address": node.address.as_deref(),
            "version": node.version.as_deref(),
            "startedAt": node.started_at.map(answer::time),
            "live": true,
            "ready": null,
        })
    };
    let others = members.nodes.values().filter(|node| node.node != state.node).map(other);
    let mut ring: Vec<_> =
        members.shares().into_iter().map(|(node, share)| json!({"node": &*node, "share": share})).collect();
    if ring.is_empty() {
        ring.push(json!({"node": &*state.node, "share": 1.0}));
    }
    Ok(answer::ok(&json!({
        "node": &*state.node,
        "nodes": std::iter::once(own).chain(others).collect::<Vec<_>>(),
        "leases": views.iter().map(owned).collect::<Vec<_>>(),
        "ring": ring,
    })))
}
