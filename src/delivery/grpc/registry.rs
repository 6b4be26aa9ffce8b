//! `Registry`: subscriptions by the batch.
//!
//! Owns the batch's shape: one result an item, in order, and no bad item spoils another. What a
//! subscription is belongs to `subscription`, what happens to it to the hub.

use futures::{StreamExt, stream};
use tonic::{Request, Response, Status, async_trait};

use super::SubscriptionTexts;
use super::admit::{caller, refused};
use super::status::{invalid, status};
use crate::api::{json, problem};
use crate::edge::HubHandle;
use crate::error::{Code, Problem};
use crate::handle::Registered;
use crate::limits;
use crate::proto::register_result::Result as Outcome;
use crate::proto::registry_server::Registry;
use crate::proto::{
    HeartbeatRequest, HeartbeatResponse, RegisterRequest, RegisterResponse, RegisterResult, UnregisterRequest,
    UnregisterResponse,
};
use crate::subscription::{GatewayId, Name, Spec, SubscriptionId, SubscriptionKey};

/// Removals of one call that wait for the store together.
const REMOVALS_AT_ONCE: usize = 64;

pub(super) struct Registrations {
    pub(super) hub: HubHandle,
    pub(super) texts: SubscriptionTexts,
}

#[async_trait]
impl Registry for Registrations {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        let caller = caller(&request)?;
        let texts = request.into_inner().subscriptions;
        check_count(texts.len(), "subscriptions")?;
        let parsed: Vec<Result<Spec, Problem>> = {
            let allowed = |spec: Spec| caller.subscribes(&spec).map(|()| spec);
            texts.iter().map(|text| self.parse(text).and_then(allowed)).collect()
        };
        let specs: Vec<Spec> = parsed.iter().filter_map(|parsed| parsed.as_ref().ok()).cloned().collect();
        let mut registered = match specs.is_empty() {
            true => Vec::new(),
            false => self.hub.register(specs).await.map_err(status)?,
        }
        .into_iter();
        let results = parsed.into_iter().map(|parsed| match parsed {
            Err(problem) => self.result(Err(problem)),
            Ok(_) => self.result(registered.next().expect("the hub answers each item")),
        });
        Ok(Response::new(RegisterResponse { results: results.collect() }))
    }

    async fn unregister(&self, request: Request<UnregisterRequest>) -> Result<Response<UnregisterResponse>, Status> {
        let caller = caller(&request)?;
        let UnregisterRequest { gateway_id, subscription_ids, group } = request.into_inner();
        let gateway = owner_name(&gateway_id, &group)?;
        caller.serves(&gateway).map_err(refused)?;
        check_count(subscription_ids.len(), "subscription_ids")?;
        let remove = |text: String| async {
            // What cannot be a name is not there either.
            let Ok(id) = Name::new(&text) else { return (text, Ok(false)) };
            let key = SubscriptionKey { gateway: gateway.clone(), id };
            match self.hub.unregister(key).await {
                Ok(()) => (text, Ok(true)),
                Err(problem) if problem.status == 404 => (text, Ok(false)),
                Err(problem) => (text, Err(problem)),
            }
        };
        let mut outcomes = stream::iter(subscription_ids).map(remove).buffered(REMOVALS_AT_ONCE);
        let mut response = UnregisterResponse::default();
        while let Some((id, outcome)) = outcomes.next().await {
            // A call that failed half-way can be made again: what is gone is then unknown.
            let was_there = outcome.map_err(status)?;
            if was_there { &mut response.removed } else { &mut response.unknown }.push(id);
        }
        Ok(Response::new(response))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let caller = caller(&request)?;
        let HeartbeatRequest { gateway_id, subscription_ids, group } = request.into_inner();
        let gateway = owner_name(&gateway_id, &group)?;
        caller.serves(&gateway).map_err(refused)?;
        let mut unknown = Vec::new();
        let mut named = Vec::new();
        let any_named = !subscription_ids.is_empty();
        for text in subscription_ids {
            match Name::new(&text) {
                Ok(id) => named.push(id),
                Err(_) => unknown.push(text),
            }
        }
        let renewed = self.hub.renew_gateway(gateway, any_named.then_some(named)).await.map_err(status)?;
        let texts = |ids: Vec<SubscriptionId>| ids.into_iter().map(|id| id.to_string());
        unknown.extend(texts(renewed.unknown));
        Ok(Response::new(HeartbeatResponse {
            expires_at: renewed.expires_at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
            renewed: renewed.renewed,
            unknown,
            unlisted: texts(renewed.unlisted).collect(),
        }))
    }
}

impl Registrations {
    fn parse(&self, text: &str) -> Result<Spec, Problem> {
        if text.len() > limits::body_bytes_max {
            return Err(Problem::new(Code::PayloadTooLarge, "a subscription's JSON is over the limit of a body"));
        }
        (self.texts.read)(&json::parse(text.as_bytes())?)
    }

    fn result(&self, answer: Result<Registered, Problem>) -> RegisterResult {
        match answer {
            Ok(Registered { view, created }) => RegisterResult {
                status: if created { 201 } else { 200 },
                result: Some(Outcome::Subscription((self.texts.write)(&view).to_string())),
            },
            Err(problem) => RegisterResult {
                status: problem.status.into(),
                result: Some(Outcome::Problem(problem::document(&problem).to_string())),
            },
        }
    }
}

fn owner_name(gateway: &str, group: &str) -> Result<GatewayId, Status> {
    let name = |text: &str, field: &str| Name::new(text).map_err(|error| invalid(field, error.to_string()));
    match (gateway.is_empty(), group.is_empty()) {
        (_, true) => name(gateway, "gateway_id"),
        (true, false) => Ok(Name::group(&name(group, "group")?)),
        (false, false) => Err(invalid("group", "a call is for a `gateway_id` or for a `group`")),
    }
}

fn check_count(count: usize, field: &str) -> Result<(), Status> {
    let max = limits::batch_items_max;
    if count > max { Err(invalid(field, format!("a batch has at most {max} items"))) } else { Ok(()) }
}
