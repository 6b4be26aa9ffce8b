//! Gateways over HTTP: list, read, remove, renew, how they are served, and an operator's hand.
//!
//! Owns these routes, without the stream and its acks (`delivery::sse`). Knows nothing of sessions.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::ApiState;
use super::answer;
use super::request::{InGateway, JsonBody, OptionalJsonBody, aside, partition};
use crate::error::Problem;
use crate::handle::{CursorTarget, DeliveryMode};
use crate::subscription::fields::{Fields, invalid, shown, wrong_type};
use crate::subscription::{Name, StartAt, SubscriptionId, operation_time};

/// `GET /v1/gateways`.
pub(super) async fn list(State(state): State<ApiState>) -> Result<Response, Problem> {
    let mut views = state.hub.gateways().await?;
    views.retain(|view| view.gateway.in_group().is_none());
    let answering =
        aside(move || answer::ok(&json!({"gateways": views.iter().map(answer::gateway).collect::<Vec<_>>()})));
    Ok(answering.await)
}

/// `GET /v1/gateways/{gateway}`.
pub(super) async fn read(State(state): State<ApiState>, InGateway(gateway): InGateway) -> Result<Response, Problem> {
    Ok(answer::ok(&answer::gateway(&state.hub.gateway(gateway).await?)))
}

/// `DELETE /v1/gateways/{gateway}`.
pub(super) async fn remove(
    State(state): State<ApiState>,
    InGateway(gateway): InGateway,
) -> Result<StatusCode, Problem> {
    state.hub.delete_gateway(gateway).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT /v1/gateways/{gateway}`.
pub(super) async fn set_delivery(
    State(state): State<ApiState>,
    InGateway(gateway): InGateway,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let fields = Fields::new(&body, "", &["delivery"])?;
    let text = fields.text("delivery")?;
    let mode = match text {
        "stream" => DeliveryMode::Stream,
        "nats" => DeliveryMode::Nats,
        _ => return Err(invalid("`delivery` is `stream` or `nats`").at("delivery")),
    };
    state.hub.set_delivery(gateway.clone(), mode).await?;
    Ok(answer::ok(&json!({"gatewayId": gateway, "delivery": text})))
}

/// `PUT /v1/gateways/{gateway}/heartbeat`.
pub(super) async fn renew(
    State(state): State<ApiState>,
    InGateway(gateway): InGateway,
    OptionalJsonBody(body): OptionalJsonBody,
) -> Result<Response, Problem> {
    let named = body.as_ref().map(named).transpose()?.flatten();
    Ok(answer::ok(&answer::renewed(&state.hub.renew_gateway(gateway, named).await?)))
}

fn named(body: &Value) -> Result<Option<Vec<SubscriptionId>>, Problem> {
    let fields = Fields::new(body, "", &["subscriptionIds"])?;
    let Some(items) = fields.list("subscriptionIds")? else { return Ok(None) };
    let one = |(number, item): (usize, &Value)| {
        let at = || format!("subscriptionIds[{number}]");
        let text = item.as_str().ok_or_else(|| wrong_type("a string", item, &at()))?;
        Name::new(text).map_err(|rule| invalid(rule.to_string()).at(at()))
    };
    items.iter().enumerate().map(one).collect::<Result<_, _>>().map(Some)
}

/// `PUT /v1/gateways/{gateway}/cursor`.
pub(super) async fn set_cursor(
    State(state): State<ApiState>,
    InGateway(gateway): InGateway,
    JsonBody(body): JsonBody,
) -> Result<StatusCode, Problem> {
    state.hub.set_cursor(gateway, target(&body)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn target(body: &Value) -> Result<CursorTarget, Problem> {
    let fields = Fields::new(body, "", &["operationTime", "positions", "now"])?;
    match (fields.get("operationTime"), fields.get("positions"), fields.boolean("now")?) {
        (Some(time), None, None) => match operation_time(time, "operationTime")? {
            StartAt::Second(second) => Ok(CursorTarget::Second(second)),
            StartAt::OperationTime(time) => Ok(CursorTarget::OperationTime(time)),
            StartAt::Cursor(_) | StartAt::Position(_) => Err(invalid("not a time").at("operationTime")),
        },
        (None, Some(places), None) => positions(places),
        (None, None, Some(true)) => Ok(CursorTarget::Now),
        (None, None, Some(false)) => Err(invalid("`now` can only be true").at("now")),
        _ => Err(invalid("exactly one of operationTime, positions and now says where to")),
    }
}

fn positions(places: &Value) -> Result<CursorTarget, Problem> {
    let Value::Object(members) = places else { return Err(wrong_type("an object", places, "positions")) };
    if members.is_empty() {
        return Err(invalid("at least one partition").at("positions"));
    }
    let one = |(name, value): (&String, &Value)| {
        let at = || format!("positions.{}", shown(name));
        let partition = partition(name).ok_or_else(|| invalid("a partition is <backend>/<number>").at(at()))?;
        let text = value.as_str().ok_or_else(|| wrong_type("a string", value, &at()))?;
        let position = text.parse().map_err(|rule| invalid(format!("{rule}")).at(at()))?;
        Ok((partition, position))
    };
    members.iter().map(one).collect::<Result<_, Problem>>().map(CursorTarget::Positions)
}

/// `POST /v1/gateways/{gateway}/park`.
pub(super) async fn park(State(state): State<ApiState>, InGateway(gateway): InGateway) -> Result<StatusCode, Problem> {
    state.hub.park_gateway(gateway).await?;
    Ok(StatusCode::NO_CONTENT)
}
