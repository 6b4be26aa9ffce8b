//! `POST /v1/explain`: whom a change would concern, and why.
//!
//! Owns this route and the JSON of its answer. Nothing is delivered.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::request::{JsonBody, aside};
use super::{ApiState, answer};
use crate::change::{Change, Flags, Operation, Scope};
use crate::error::Problem;
use crate::handle::{ExplainQuery, Explained};
use crate::position::{ClusterTime, Epoch, Position};
use crate::source::log::Publication;
use crate::subscription::fields::{Fields, invalid, wrong_type};
use crate::subscription::{Name, SubscriptionKey};

const FIELDS: [&str; 9] =
    ["tenant", "collection", "document", "before", "operation", "key", "gatewayId", "group", "subscriptionId"];
/// Those that say whose filter is to be explained.
const WHOSE: [&str; 3] = ["gatewayId", "group", "subscriptionId"];

/// `POST /v1/explain`.
pub(super) async fn explain(State(state): State<ApiState>, JsonBody(body): JsonBody) -> Result<Response, Problem> {
    let query = aside(move || query(&body)).await?;
    let explained = state.hub.explain(query).await?;
    Ok(answer::ok(&aside(move || text(&explained)).await))
}

/// A change as on `POST /v1/events`, with a key and an operation to be guessed, and a subscription.
fn query(body: &Value) -> Result<ExplainQuery, Problem> {
    let fields = Fields::new(body, "", &FIELDS)?;
    let name = |field: &str| {
        let text = fields.optional_text(field)?;
        text.map(|text| Name::new(text).map_err(|error| invalid(error.to_string()).at(field))).transpose()
    };
    let owner = match (name("gatewayId")?, name("group")?) {
        (Some(_), Some(_)) => return Err(invalid("a subscription has a gateway or a group").at("group")),
        (gateway, group) => gateway.or(group.as_ref().map(Name::group)),
    };
    let subscription = match (owner, name("subscriptionId")?) {
        (Some(gateway), Some(id)) => Some(SubscriptionKey { gateway, id }),
        (None, None) => None,
        (None, Some(_)) => return Err(invalid("a subscription is named together with its gateway").at("gatewayId")),
        (Some(_), None) => return Err(invalid("a gateway is named together with a subscription").at("subscriptionId")),
    };
    let map = body.as_object().ok_or_else(|| wrong_type("an object", body, ""))?;
    let published = map.iter().filter(|(name, _)| !WHOSE.contains(&name.as_str()));
    let mut change: Map<String, Value> = published.map(|(name, value)| (name.clone(), value.clone())).collect();
    let is_there = |field: &str| fields.get(field).is_some();
    let guessed = match (is_there("document"), is_there("before")) {
        (true, false) => Operation::Insert,
        (false, true) => Operation::Delete,
        _ => Operation::Update,
    };
    // Any key will do where none is given: it must only not look like one.
    for (field, value) in [("operation", guessed.name()), ("key", "?")] {
        if !is_there(field) {
            change.insert(field.to_owned(), value.into());
        }
    }
    let change = Publication::from_json(&Value::Object(change))?;
    Ok(ExplainQuery { change: as_change(change), subscription })
}

pub(super) fn as_change(publication: Publication) -> Change {
    Change {
        position: Position::new(Epoch(1), ClusterTime::new(0, 0), 1),
        scope: Scope::known(publication.tenant, publication.collection),
        left: None,
        key: publication.key,
        operation: publication.operation,
        document: publication.document,
        before: publication.before,
        changed: None,
        wall_time_ms: None,
        transaction: None,
        flags: Flags::none(),
    }
}

fn text(explained: &Explained) -> Value {
    let matches = explained.matches.iter().map(|(key, verdict)| {
        let (kind, owner) = answer::owner(&key.gateway);
        let mut found = json!({kind: owner, "subscriptionId": key.id});
        if let Some(transition) = verdict.transition {
            found["transition"] = transition.name().into();
        }
        if let Some(certainty) = verdict.certainty {
            found["certainty"] = certainty.name().into();
        }
        found
    });
    let mut answer = json!({
        "matches": matches.collect::<Vec<_>>(),
        "unlistedMatches": explained.more,
        "cost": {
            "subscriptions": explained.subscriptions,
            "evaluated": explained.evaluated,
            "micros": explained.micros,
        },
    });
    if let Some((parked, explanation)) = &explained.subscription {
        let mut steps = json!(explanation.steps);
        let matched = explanation.verdict.is_some() && parked.is_none();
        if let (Some(reason), Some(steps)) = (parked, steps.as_array_mut()) {
            let detail = format!("parked ({reason}): it is matched with nothing until it is revived");
            steps.push(json!({"step": "state", "result": "rejected", "detail": detail}));
        }
        answer["subscription"] = json!({"matched": matched, "steps": steps});
    }
    answer
}
