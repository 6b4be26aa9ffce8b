//! Answers: the hub's views as JSON.
//!
//! Owns the shapes and names of what is answered. Knows nothing of where the views come from.

use axum::http::StatusCode;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::problem;
use crate::error::Problem;
use crate::handle::{GatewayView, Lag, PartitionView, Registered, Renewed, SubscriptionView};
use crate::position::{PartitionId, Position};
use crate::subscription::GatewayId;

/// A JSON answer.
pub(super) fn json_answer(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// The usual one.
pub(super) fn ok(value: &Value) -> Response {
    json_answer(StatusCode::OK, value)
}

/// A time as every interface writes it.
pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A subscription: what was asked for, and what became of it.
pub fn subscription(view: &SubscriptionView) -> Value {
    let mut members = match view.spec.to_json() {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    let mut put = |name: &str, value: Value| members.insert(name.to_owned(), value);
    if view.spec.gateway_id.in_group().is_some() {
        put("member", json!(view.member.as_deref()));
    }
    put("state", json!(view.state.name()));
    if let Some(reason) = &view.parked_reason {
        put("parkedReason", json!(reason));
    }
    put("generation", json!(view.generation));
    put("activeFrom", positions(&view.active_from));
    put("expiresAt", json!(time(view.expires_at)));
    put("plan", view.plan.clone());
    put("warnings", json!(view.warnings));
    Value::Object(members)
}

fn positions(positions: &[(PartitionId, Position)]) -> Value {
    positions.iter().map(|(partition, position)| (partition.to_string(), json!(position))).collect()
}

/// One registration's status: created, or there already.
pub(super) fn status_of(registered: &Registered) -> StatusCode {
    if registered.created { StatusCode::CREATED } else { StatusCode::OK }
}

/// One registration in a batch's answer.
pub(super) fn batch_item(result: &Result<Registered, Problem>) -> Value {
    match result {
        Ok(registered) => {
            json!({"status": status_of(registered).as_u16(), "subscription": subscription(&registered.view)})
        }
        Err(refused) => batch_problem(refused),
    }
}

/// A refused item in a batch's answer.
pub(super) fn batch_problem(refused: &Problem) -> Value {
    json!({"status": refused.status, "problem": problem::document(refused)})
}

/// A gateway's heartbeat.
pub(super) fn renewed(renewed: &Renewed) -> Value {
    json!({
        "expiresAt": time(renewed.expires_at),
        "renewed": renewed.renewed,
        "unknown": renewed.unknown,
        "unlisted": renewed.unlisted,
    })
}

fn lag(lag: Lag) -> Value {
    json!({"seconds": lag.seconds, "changes": lag.changes})
}

/// A gateway.
pub(super) fn gateway(view: &GatewayView) -> Value {
    let session = view
        .session
        .as_ref()
        .map(|session| json!({"transport": session.transport, "since": time(session.since), "node": &*session.node}));
    let (kind, name) = match view.gateway.in_group() {
        Some((_, member)) => ("member", member),
        None => owner(&view.gateway),
    };
    json!({
        kind: name,
        "state": view.state,
        "subscriptions": view.subscriptions,
        "cursor": view.cursor.as_ref().map(|cursor| cursor.as_str()),
        "lag": lag(view.lag),
        "outboxBytes": view.outbox_bytes,
        "delivery": view.delivery.name(),
        "lastAckAt": view.last_ack_at.map(time),
        "session": session,
    })
}

/// A gateway among others, some of them members of groups.
pub(super) fn gateway_anywhere(view: &GatewayView) -> Value {
    let mut shown = gateway(view);
    if let Some((group, _)) = view.gateway.in_group() {
        shown["group"] = json!(group);
    }
    shown
}

/// Whose a subscription is, in the interface's words.
pub(super) fn owner(gateway: &GatewayId) -> (&'static str, &str) {
    match gateway.in_group() {
        Some((group, _)) => ("group", group),
        None => ("gatewayId", gateway.as_str()),
    }
}

/// A group, of which these are the members and what no member has yet.
pub(super) fn group(name: &str, views: &[&GatewayView]) -> Value {
    let is_member = |view: &&&GatewayView| view.gateway.in_group().is_some_and(|(_, member)| !member.is_empty());
    let members: Vec<_> = views.iter().filter(is_member).map(|view| gateway(view)).collect();
    let unassigned: u64 = views.iter().filter(|view| !is_member(view)).map(|view| view.subscriptions).sum();
    let all: u64 = views.iter().map(|view| view.subscriptions).sum();
    json!({"group": name, "subscriptions": all, "unassigned": unassigned, "members": members})
}

/// A partition.
pub(super) fn partition(view: &PartitionView) -> Value {
    json!({
        "partition": view.partition,
        "owner": view.owner.as_deref(),
        "epoch": view.epoch,
        "state": view.state,
        "position": view.position,
        "lag": lag(view.lag),
        "oplogHeadroomSeconds": view.oplog_headroom_seconds,
        "checkpoint": view.checkpoint,
    })
}
