//! Gateway groups over HTTP: which there are, and who is in them.
//!
//! Owns these routes; what a group has in common with a gateway is in `gateways` and `subscriptions`, the stream and its
//! acks in `delivery::sse`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use super::ApiState;
use super::answer;
use super::request::{InGateway, aside};
use crate::error::{Code, Problem};
use crate::handle::GatewayView;

fn by_group(views: &[GatewayView]) -> BTreeMap<&str, Vec<&GatewayView>> {
    let mut groups: BTreeMap<&str, Vec<&GatewayView>> = BTreeMap::new();
    for view in views {
        if let Some((group, _)) = view.gateway.in_group() {
            groups.entry(group).or_default().push(view);
        }
    }
    groups
}

/// `GET /v1/groups`.
pub(super) async fn list(State(state): State<ApiState>) -> Result<Response, Problem> {
    let views = state.hub.gateways().await?;
    let answering = aside(move || {
        let groups = by_group(&views);
        let groups: Vec<_> = groups.iter().map(|(name, views)| answer::group(name, views)).collect();
        answer::ok(&json!({"groups": groups}))
    });
    Ok(answering.await)
}

/// `GET /v1/groups/{group}`.
pub(super) async fn read(State(state): State<ApiState>, InGateway(group): InGateway) -> Result<Response, Problem> {
    let views = state.hub.gateways().await?;
    let name = group.in_group().map_or("", |(group, _)| group);
    match by_group(&views).get(name) {
        Some(views) => Ok(answer::ok(&answer::group(name, views))),
        None => Err(Problem::new(Code::GatewayNotFound, format!("no group {name}"))),
    }
}
