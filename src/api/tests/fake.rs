//! A loop that answers from a small model: it keeps subscriptions, and fails on demand for gateways
//! named `fail:<CODE>`.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::*;
use crate::cursor::CursorText;
use crate::delivery::session::Session;
use crate::handle::*;
use crate::position::{ClusterTime, Epoch, PartitionId, Position};
use crate::subscription::{GatewayId, Spec, SubscriptionKey};

pub(super) const ALL_CODES: [Code; 23] = [
    Code::InvalidRequest,
    Code::InvalidFilter,
    Code::CelCompilationFailed,
    Code::FilterTooComplex,
    Code::SubscriptionExists,
    Code::DeliveryMismatch,
    Code::SubscriptionNotFound,
    Code::GatewayNotFound,
    Code::NotFound,
    Code::MethodNotAllowed,
    Code::PayloadTooLarge,
    Code::UnsupportedMediaType,
    Code::GatewayQuotaExceeded,
    Code::TenantQuotaExceeded,
    Code::GlobalQuotaExceeded,
    Code::RateLimited,
    Code::StartTooOld,
    Code::InvalidCursor,
    Code::StoreUnavailable,
    Code::OwnerUnknown,
    Code::Unauthenticated,
    Code::Forbidden,
    Code::Internal,
];

pub(super) fn position(ordinal: u32) -> Position {
    Position::new(Epoch(1), ClusterTime::new(1_763_690_000, 1), ordinal)
}

pub(super) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_763_690_000 + seconds, 0).unwrap()
}

#[derive(Default)]
struct Model {
    subscriptions: BTreeMap<SubscriptionKey, SubscriptionView>,
    generation: u64,
    paused: bool,
}

/// What a command is to this gateway.
fn demanded(gateway: &GatewayId) -> Result<(), Problem> {
    let Some(code) = gateway.as_str().strip_prefix("fail:") else { return Ok(()) };
    let code = ALL_CODES.into_iter().find(|known| known.name() == code).unwrap();
    Err(Problem::new(code, "as the test wants").retry_after(7))
}

/// Two changes in two seconds, and which of them match.
fn tried(asked: &Backtest, filter: &crate::matching::Filter) -> BacktestPart {
    let mut part = BacktestPart {
        from: position(1),
        to: position(9),
        is_complete: asked.seconds < 60,
        bucket_seconds: 1,
        ..BacktestPart::default()
    };
    for number in [1, 2] {
        let body = json!({"tenant": "acme", "collection": "messages", "key": format!("k{number}"), "operation": "insert",
                          "document": {"n": number}});
        let published = crate::source::log::Publication::from_json(&body).unwrap();
        let change = crate::api::explain::as_change(published);
        part.changes += 1;
        part.costs.push(1_500);
        let bucket = part.buckets.entry(1_763_690_000 + number).or_default();
        bucket.changes += 1;
        let Some(verdict) = filter.evaluate(&change) else { continue };
        part.matches += 1;
        bucket.matches += 1;
        part.samples.push(Sample::of(&change, verdict));
    }
    part
}

impl Model {
    fn view(&mut self, spec: Spec) -> SubscriptionView {
        self.generation += 1;
        let parked = spec.subscription_id.as_str() == "parked";
        SubscriptionView {
            plan: crate::matching::Filter::compile(&spec).unwrap().plan(),
            expires_at: at(i64::from(spec.ttl_seconds)),
            spec: Arc::new(spec),
            member: None,
            state: if parked { SubscriptionState::Parked } else { SubscriptionState::Live },
            parked_reason: parked.then_some("lease".into()),
            generation: self.generation,
            active_from: vec![(PartitionId::new("default", 0), position(3))],
            warnings: vec!["POSTIMAGES_OFF".into()],
        }
    }

    fn explain(&mut self, query: &ExplainQuery) -> Result<Explained, Problem> {
        let filter = |view: &SubscriptionView| crate::matching::Filter::compile(&view.spec).unwrap();
        let subscription = match &query.subscription {
            None => None,
            Some(key) => {
                demanded(&key.gateway)?;
                let missing = || Problem::new(Code::SubscriptionNotFound, "not here");
                let view = self.subscriptions.get(key).ok_or_else(missing)?;
                Some((view.parked_reason.clone(), filter(view).explain(&query.change)))
            }
        };
        let verdict = |view: &SubscriptionView| filter(view).evaluate(&query.change);
        let found = self.subscriptions.iter().filter_map(|(key, view)| Some((key.clone(), verdict(view)?)));
        let (matches, subscriptions) = (found.collect(), self.subscriptions.len());
        Ok(Explained { matches, more: 0, evaluated: subscriptions, subscriptions, micros: 5, subscription })
    }

    fn register(&mut self, spec: Spec) -> Result<Registered, Problem> {
        demanded(&spec.gateway_id)?;
        let key = spec.key();
        match self.subscriptions.get(&key) {
            Some(view) if view.spec.same_as(&spec) => Ok(Registered { view: view.clone(), created: false }),
            Some(_) => Err(Problem::new(Code::SubscriptionExists, "another filter has this id")),
            None => {
                let view = self.view(spec);
                self.subscriptions.insert(key, view.clone());
                Ok(Registered { view, created: true })
            }
        }
    }

    fn find(&self, key: &SubscriptionKey) -> Result<&SubscriptionView, Problem> {
        demanded(&key.gateway)?;
        let missing = || Problem::new(Code::SubscriptionNotFound, "no such subscription");
        self.subscriptions.get(key).ok_or_else(missing)
    }

    fn gateway(&self, gateway: &GatewayId) -> Result<GatewayView, Problem> {
        demanded(gateway)?;
        let subscriptions = self.subscriptions.keys().filter(|key| key.gateway == *gateway).count() as u64;
        if subscriptions == 0 {
            return Err(Problem::new(Code::GatewayNotFound, "no such gateway"));
        }
        let connected = gateway.as_str() != "offline";
        Ok(GatewayView {
            gateway: gateway.clone(),
            state: if connected { "live" } else { "offline" }.into(),
            subscriptions,
            cursor: connected.then(|| CursorText("c".into())),
            lag: Lag { seconds: connected.then_some(0.5), changes: None },
            outbox_bytes: 10,
            delivery: DeliveryMode::Stream,
            session: connected.then(|| SessionView { transport: "sse".into(), since: at(0), node: "hub-1".into() }),
            last_ack_at: None,
        })
    }

    fn gateways(&self) -> Vec<GatewayView> {
        let mut names: Vec<_> = self.subscriptions.keys().map(|key| key.gateway.clone()).collect();
        names.dedup();
        names.iter().map(|name| self.gateway(name).unwrap()).collect()
    }

    fn page(&self, query: &ListQuery) -> Page {
        let wanted = |view: &&SubscriptionView| {
            query.gateway.as_ref().is_none_or(|gateway| *gateway == view.spec.gateway_id)
                && query.tenant.as_ref().is_none_or(|tenant| **tenant == *view.spec.tenant)
                && query.collection.as_ref().is_none_or(|collection| **collection == *view.spec.collection)
                && query.after.as_ref().is_none_or(|after| view.spec.key() > *after)
        };
        let mut subscriptions: Vec<_> = self.subscriptions.values().filter(wanted).cloned().collect();
        let more = subscriptions.len() > query.limit;
        subscriptions.truncate(query.limit);
        let next = if more { subscriptions.last().map(|view| view.spec.key()) } else { None };
        Page { subscriptions, next }
    }

    fn renew_gateway(
        &self,
        gateway: &GatewayId,
        named: Option<Vec<crate::subscription::SubscriptionId>>,
    ) -> Result<Renewed, Problem> {
        self.gateway(gateway)?;
        let here: Vec<_> =
            self.subscriptions.keys().filter(|key| key.gateway == *gateway).map(|key| key.id.clone()).collect();
        let (unknown, unlisted) = named.map_or((vec![], vec![]), |named| {
            let unknown = named.iter().filter(|id| !here.contains(id)).cloned().collect();
            (unknown, here.iter().filter(|id| !named.contains(id)).cloned().collect())
        });
        Ok(Renewed { expires_at: at(300), renewed: here.len() as u64, unknown, unlisted })
    }

    fn partition(&self) -> PartitionView {
        PartitionView {
            partition: PartitionId::new("default", 0),
            owner: Some("hub-1".into()),
            epoch: 1,
            work: None,
            state: if self.paused { "paused" } else { "reading" }.into(),
            position: position(5),
            lag: Lag { seconds: Some(1.5), changes: Some(4) },
            oplog_headroom_seconds: Some(3600.0),
            checkpoint: position(2),
        }
    }

    fn open(hello: Hello) -> Result<Session, Problem> {
        demanded(&hello.gateway)?;
        // A session that is over at once.
        Ok(Session::scripted(1).1)
    }

    fn answer(&mut self, command: Command) {
        match command {
            Command::Register(specs, reply) => {
                // As a loop that goes down does: no answer.
                if specs.iter().any(|compiled| compiled.spec.gateway_id.as_str() == "silent") {
                    return;
                }
                let _ = reply.send(specs.into_iter().map(|compiled| self.register(compiled.spec)).collect());
            }
            Command::Replace(compiled, reply) => {
                let found = self.find(&compiled.spec.key()).map(|_| ());
                let _ = reply.send(found.map(|()| {
                    let view = self.view(compiled.spec);
                    self.subscriptions.insert(view.spec.key(), view.clone());
                    view
                }));
            }
            Command::Unregister(key, reply) => {
                let found = self.find(&key).map(|_| ());
                self.subscriptions.remove(&key);
                let _ = reply.send(found);
            }
            Command::Subscription(key, reply) => drop(reply.send(self.find(&key).cloned())),
            Command::Subscriptions(query, reply) => drop(reply.send(self.page(&query))),
            Command::Renew(key, reply) => drop(reply.send(self.find(&key).map(|view| view.expires_at))),
            Command::RenewGateway(gateway, named, reply) => drop(reply.send(self.renew_gateway(&gateway, named))),
            Command::SetDelivery(gateway, _, reply) => drop(reply.send(demanded(&gateway))),
            Command::Unserved(_, reply) => drop(reply.send(Vec::new())),
            Command::Gateways(reply) => drop(reply.send(self.gateways())),
            Command::Gateway(gateway, reply) => drop(reply.send(self.gateway(&gateway))),
            Command::DeleteGateway(gateway, reply) => {
                let found = self.gateway(&gateway).map(|_| ());
                self.subscriptions.retain(|key, _| key.gateway != gateway);
                let _ = reply.send(found);
            }
            Command::ParkGateway(gateway, reply) => drop(reply.send(self.gateway(&gateway).map(|_| ()))),
            Command::SetCursor(gateway, _, _, reply) => drop(reply.send(self.gateway(&gateway).map(|_| ()))),
            Command::Open(hello, reply) => drop(reply.send(Self::open(hello))),
            Command::Ack(gateway, cursor, _, reply) => {
                let mine = if cursor.as_str().starts_with("mine") {
                    Ok(())
                } else {
                    Err(Problem::new(Code::InvalidCursor, "another's"))
                };
                let _ = reply.send(demanded(&gateway).and(mine));
            }
            Command::Move(_, reply) => drop(reply.send(Ok(self.partition()))),
            Command::Explain(query, reply) => drop(reply.send(self.explain(&query))),
            Command::Furthest(_, reply) => drop(reply.send(self.gateways())),
            Command::Backtest(asked, filter, reply) => drop(reply.send(Ok(tried(&asked, &filter)))),
            Command::Known(..) => {}
            Command::View(reply) => drop(reply.send(self.partition())),
            Command::Pause(pause, reply) => {
                self.paused = pause;
                let _ = reply.send(Ok(self.partition()));
            }
            // Publishers' business.
            Command::Marks(..)
            | Command::Removed(..)
            | Command::Record(..)
            | Command::PutRecord(..)
            | Command::Disconnect { .. } => {}
        }
    }
}

pub(super) async fn run(mut commands: mpsc::Receiver<Command>) {
    let mut model = Model::default();
    while let Some(command) = commands.recv().await {
        model.answer(command);
    }
}
