//! Subscriptions over HTTP: register, list, read, replace, renew, remove.
//!
//! Owns these routes. What needs no hub is refused here, so that the partition's loop is asked only
//! for what can be done. Knows nothing of leases, quotas or positions.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use metrics::counter;
use serde_json::{Value, json};

use super::ApiState;
use super::request::{BatchBody, InSubscription, JsonBody, aside, query};
use super::{answer, json as text};
use crate::access::Caller;
use crate::error::{Code, Problem};
use crate::handle::{ListQuery, Registered};
use crate::limits;
use crate::matching::Filter;
use crate::observe::metrics::REGISTRATIONS;
use crate::subscription::fields::invalid;
use crate::subscription::{GatewayId, Name, Spec, SubscriptionKey};

/// A specification that compiles. Equal CEL programs in use are shared, so that the loop, which
/// compiles for itself, finds this one made as long as it is held here.
struct Ready {
    spec: Spec,
    filter: Arc<Filter>,
}

fn ready(spec: Spec) -> Result<Ready, Problem> {
    let filter = Filter::compile(&spec)?;
    Ok(Ready { spec, filter })
}

/// Compiling CEL waits for another thread.
async fn ready_aside(spec: Spec) -> Result<Ready, Problem> {
    if spec.cel.is_some() { aside(move || ready(spec)).await } else { ready(spec) }
}

/// `POST /v1/subscriptions`.
pub(super) async fn register(
    State(state): State<ApiState>,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let registered = register_one(&state, &caller, &body).await;
    count(&registered);
    let registered = registered?;
    Ok(answer::json_answer(answer::status_of(&registered), &answer::subscription(&registered.view)))
}

async fn register_one(state: &ApiState, caller: &Caller, body: &Value) -> Result<Registered, Problem> {
    let spec = Spec::from_json(body)?;
    caller.subscribes(&spec)?;
    let Ready { spec, filter: _compiled } = ready_aside(spec).await?;
    let mut results = state.hub.register(vec![spec]).await?;
    results.pop().unwrap_or_else(|| Err(short_answer()))
}

fn short_answer() -> Problem {
    Problem::new(Code::Internal, "the hub answered fewer registrations than it was asked for")
}

fn count(result: &Result<Registered, Problem>) {
    let code = match result {
        Ok(Registered { created: true, .. }) => "created",
        Ok(_) => "unchanged",
        Err(problem) => problem.code.name(),
    };
    counter!(REGISTRATIONS, "code" => code).increment(1);
}

/// `POST /v1/subscriptions/batch`.
pub(super) async fn register_batch(
    State(state): State<ApiState>,
    caller: Caller,
    BatchBody(body): BatchBody,
) -> Result<Response, Problem> {
    let read = aside(move || {
        let items = text::items(&body, "subscriptions", limits::batch_items_max)?;
        let one = |item: &serde_json::value::RawValue| {
            if item.get().len() > limits::body_bytes_max {
                let detail = format!("a subscription has at most {} bytes", limits::body_bytes_max);
                return Err(Problem::new(Code::PayloadTooLarge, detail));
            }
            let spec = Spec::from_json(&text::parse(item.get().as_bytes())?)?;
            caller.subscribes(&spec)?;
            ready(spec)
        };
        Ok::<_, Problem>(items.into_iter().map(one).collect::<Vec<_>>())
    });
    let mut specs = Vec::new();
    let mut compiled = Vec::new();
    let mut refusals: Vec<Option<Problem>> = Vec::new();
    for item in read.await? {
        match item {
            Ok(Ready { spec, filter }) => {
                specs.push(spec);
                compiled.push(filter);
                refusals.push(None);
            }
            Err(problem) => refusals.push(Some(problem)),
        }
    }
    let registered = if specs.is_empty() { Vec::new() } else { state.hub.register(specs).await? };
    drop(compiled);
    let answering = aside(move || {
        let mut registered = registered.into_iter();
        let mut result = |refusal: Option<Problem>| match refusal {
            Some(problem) => Err(problem),
            None => registered.next().unwrap_or_else(|| Err(short_answer())),
        };
        let one = |refusal| {
            let result = result(refusal);
            count(&result);
            answer::batch_item(&result)
        };
        answer::ok(&json!({"results": refusals.into_iter().map(one).collect::<Vec<_>>()}))
    });
    Ok(answering.await)
}

/// `GET /v1/subscriptions`.
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    RawQuery(raw): RawQuery,
) -> Result<Response, Problem> {
    let mut wanted = ListQuery { limit: limits::page_items_default, ..ListQuery::default() };
    let mut of_group = None;
    for (parameter, value) in query(raw.as_deref(), &["tenant", "collection", "gatewayId", "group", "limit", "after"])?
    {
        match parameter.as_str() {
            "tenant" => wanted.tenant = Some(scope_name(value, "tenant")?),
            "collection" => wanted.collection = Some(scope_name(value, "collection")?),
            "gatewayId" => wanted.gateway = Some(name(&value, "gatewayId")?),
            "limit" => wanted.limit = limit(&value)?,
            "after" => {
                wanted.after = Some(read_token(&value).ok_or_else(|| invalid("not a `next` of this list").at("after"))?)
            }
            _ => of_group = Some(Name::group(&name(&value, "group")?)),
        }
    }
    if let Some(group) = of_group {
        // Nobody's subscription is both a gateway's and a group's.
        if wanted.gateway.replace(group).is_some() {
            return Ok(answer::ok(&json!({"subscriptions": [], "next": null})));
        }
    }
    match &wanted.gateway {
        Some(owner) => caller.serves(owner)?,
        None if caller.is_operator() => {}
        None => return Err(Problem::new(Code::Forbidden, "with this token a list names a `gatewayId` or a `group`")),
    }
    let page = state.hub.subscriptions(wanted).await?;
    let answering = aside(move || {
        let subscriptions: Vec<_> = page.subscriptions.iter().map(answer::subscription).collect();
        answer::ok(&json!({"subscriptions": subscriptions, "next": page.next.as_ref().map(token)}))
    });
    Ok(answering.await)
}

fn name(text: &str, parameter: &str) -> Result<GatewayId, Problem> {
    Name::new(text).map_err(|rule| invalid(rule.to_string()).at(parameter))
}

fn scope_name(text: String, parameter: &str) -> Result<String, Problem> {
    if text.is_empty() || text.len() > limits::scope_name_bytes_max {
        let detail = format!("`{parameter}` has 1 to {} bytes", limits::scope_name_bytes_max);
        return Err(invalid(detail).at(parameter));
    }
    Ok(text)
}

fn limit(text: &str) -> Result<usize, Problem> {
    let number = text.parse().ok().filter(|number| (1..=limits::page_items_max).contains(number));
    number.ok_or_else(|| invalid(format!("`limit` is 1 to {}", limits::page_items_max)).at("limit"))
}

/// A place in the list, opaque to clients.
fn token(key: &SubscriptionKey) -> String {
    URL_SAFE_NO_PAD.encode(key.to_text())
}

fn read_token(token: &str) -> Option<SubscriptionKey> {
    SubscriptionKey::parse(&String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?)
}

/// `GET /v1/gateways/{gateway}/subscriptions/{subscription}`.
pub(super) async fn read(
    State(state): State<ApiState>,
    InSubscription(key): InSubscription,
) -> Result<Response, Problem> {
    Ok(answer::ok(&answer::subscription(&state.hub.subscription(key).await?)))
}

/// `PUT /v1/gateways/{gateway}/subscriptions/{subscription}`.
pub(super) async fn replace(
    State(state): State<ApiState>,
    InSubscription(key): InSubscription,
    caller: Caller,
    JsonBody(body): JsonBody,
) -> Result<Response, Problem> {
    let spec = Spec::from_json_at(&body, &key.gateway, &key.id)?;
    caller.subscribes(&spec)?;
    let Ready { spec, filter: _compiled } = ready_aside(spec).await?;
    Ok(answer::ok(&answer::subscription(&state.hub.replace(spec).await?)))
}

/// `DELETE /v1/gateways/{gateway}/subscriptions/{subscription}`.
pub(super) async fn remove(
    State(state): State<ApiState>,
    InSubscription(key): InSubscription,
) -> Result<StatusCode, Problem> {
    state.hub.unregister(key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT /v1/gateways/{gateway}/subscriptions/{subscription}/heartbeat`.
pub(super) async fn renew(
    State(state): State<ApiState>,
    InSubscription(key): InSubscription,
) -> Result<Response, Problem> {
    Ok(answer::ok(&json!({"expiresAt": answer::time(state.hub.renew(key).await?)})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_nothing_else_does() {
        let key = SubscriptionKey { gateway: Name::new("gw:1").unwrap(), id: Name::new("a.b-c_d").unwrap() };
        assert_eq!(read_token(&token(&key)), Some(key.clone()));
        let of_group = SubscriptionKey { gateway: Name::group(&key.gateway), ..key };
        assert_eq!(read_token(&token(&of_group)), Some(of_group));
        for text in ["", "x", "====", &URL_SAFE_NO_PAD.encode("g/a"), &URL_SAFE_NO_PAD.encode("g/a/b/c")] {
            assert_eq!(read_token(text), None, "{text}");
        }
    }
}
