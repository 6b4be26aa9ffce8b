//! Questions: what the interfaces ask, in a form that travels.
//!
//! Owns the reading of each command as a question, and each question's answer.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{encode, session};
use crate::cursor::CursorText;
use crate::error::Problem;
use crate::handle::{
    Backtest, Command, CursorTarget, DeliveryMode, ExplainQuery, ListQuery, PartitionHandle, Reply, in_order,
};
use crate::peer::forward::Asker;
use crate::subscription::{GatewayId, Spec, SubscriptionId, SubscriptionKey};

/// One question to the owner: each is the method of `PartitionHandle` of the same name.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// The subscriptions as they are stored.
    Register(Vec<String>),
    Replace(String),
    Unregister(SubscriptionKey),
    Subscription(SubscriptionKey),
    Subscriptions(ListQuery),
    Renew(SubscriptionKey),
    RenewGateway(GatewayId, Option<Vec<SubscriptionId>>),
    SetDelivery(GatewayId, DeliveryMode),
    Gateways,
    Furthest(usize),
    Gateway(GatewayId),
    DeleteGateway(GatewayId),
    ParkGateway(GatewayId),
    SetCursor(GatewayId, CursorTarget, u64),
    Ack(GatewayId, CursorText),
    Explain(Box<ExplainQuery>),
    Backtest(Box<Backtest>),
    Known(Vec<SubscriptionKey>),
    View,
    Pause(bool),
    Move(Arc<str>),
}

/// The owner's answer.
pub(super) async fn answer(hub: &PartitionHandle, question: Question) -> Result<Vec<u8>, Problem> {
    match question {
        Question::Register(specs) => {
            let mut good = Vec::with_capacity(specs.len());
            let asked = specs.iter().map(|text| spec(text).map(|spec| good.push(spec))).collect();
            let answered = hub.register(good).await.map(|answers| in_order(asked, answers));
            encode(&answered)
        }
        Question::Replace(text) => match spec(&text) {
            Ok(spec) => encode(&hub.replace(spec).await),
            Err(problem) => encode(&Err::<(), _>(problem)),
        },
        Question::Unregister(key) => encode(&hub.unregister(key).await),
        Question::Subscription(key) => encode(&hub.subscription(key).await),
        Question::Subscriptions(query) => encode(&hub.subscriptions(query).await),
        Question::Renew(key) => encode(&hub.renew(key).await),
        Question::RenewGateway(gateway, named) => encode(&hub.renew_gateway(gateway, named).await),
        Question::SetDelivery(gateway, mode) => encode(&hub.set_delivery(gateway, mode).await),
        Question::Gateways => encode(&hub.gateways().await),
        Question::Furthest(max) => encode(&hub.furthest(max).await),
        Question::Gateway(gateway) => encode(&hub.gateway(gateway).await),
        Question::DeleteGateway(gateway) => encode(&hub.delete_gateway(gateway).await),
        Question::ParkGateway(gateway) => encode(&hub.park_gateway(gateway).await),
        Question::SetCursor(gateway, target, number) => encode(&hub.set_cursor(gateway, target, number).await),
        Question::Ack(gateway, cursor) => encode(&hub.ack(gateway, cursor).await),
        Question::Explain(query) => encode(&hub.explain(*query).await),
        Question::Backtest(asked) => encode(&hub.backtest(*asked).await),
        Question::Known(keys) => encode(&hub.known(keys).await),
        Question::View => encode(&hub.view().await),
        Question::Pause(pause) => encode(&hub.pause(pause).await),
        Question::Move(node) => encode(&hub.move_to(node).await),
    }
}

fn spec(text: &str) -> Result<Spec, Problem> {
    let stored = serde_json::from_str(text).map_err(|error| super::garbled(&error))?;
    Spec::from_stored(&stored)
}

/// Asks the owner in the command's stead.
pub(super) async fn pass_on(asker: &Asker, command: Command) {
    let text = |spec: &Spec| spec.to_stored().to_string();
    match command {
        Command::Register(items, reply) => {
            let question = Question::Register(items.iter().map(|item| text(&item.spec)).collect());
            let _ = reply.send(match asker.ask(&question).await {
                Ok(answers) => answers,
                Err(problem) => items.iter().map(|_| Err(problem.clone())).collect(),
            });
        }
        Command::Replace(compiled, reply) => told(asker, &Question::Replace(text(&compiled.spec)), reply).await,
        Command::Unregister(key, reply) => told(asker, &Question::Unregister(key), reply).await,
        Command::Subscription(key, reply) => told(asker, &Question::Subscription(key), reply).await,
        Command::Renew(key, reply) => told(asker, &Question::Renew(key), reply).await,
        Command::RenewGateway(gateway, named, reply) => {
            told(asker, &Question::RenewGateway(gateway, named), reply).await;
        }
        Command::SetDelivery(gateway, mode, reply) => told(asker, &Question::SetDelivery(gateway, mode), reply).await,
        Command::Gateway(gateway, reply) => told(asker, &Question::Gateway(gateway), reply).await,
        Command::DeleteGateway(gateway, reply) => told(asker, &Question::DeleteGateway(gateway), reply).await,
        Command::ParkGateway(gateway, reply) => told(asker, &Question::ParkGateway(gateway), reply).await,
        // A mark is noted by the owner's own publishers only.
        Command::Ack(gateway, cursor, None, reply) => told(asker, &Question::Ack(gateway, cursor), reply).await,
        Command::Explain(query, reply) => told(asker, &Question::Explain(query), reply).await,
        Command::Backtest(asked, _, reply) => told(asker, &Question::Backtest(asked), reply).await,
        Command::Pause(pause, reply) => told(asker, &Question::Pause(pause), reply).await,
        Command::Move(node, reply) => told(asker, &Question::Move(node), reply).await,
        Command::Subscriptions(query, reply) => listed(asker, &Question::Subscriptions(query), reply).await,
        Command::Gateways(reply) => listed(asker, &Question::Gateways, reply).await,
        Command::Furthest(max, reply) => listed(asker, &Question::Furthest(max), reply).await,
        Command::Known(keys, reply) => listed(asker, &Question::Known(keys), reply).await,
        Command::View(reply) => listed(asker, &Question::View, reply).await,
        Command::SetCursor(gateway, target, number, reply) if !matches!(target, CursorTarget::Cursor(_)) => {
            told(asker, &Question::SetCursor(gateway, target, number), reply).await;
        }
        // Whoever has gone away meanwhile must not end the session of who has not.
        Command::Open(hello, mut reply) if hello.transport.mode() == DeliveryMode::Stream => {
            let opened = tokio::select! {
                opened = session::open(asker, hello) => opened,
                () = reply.closed() => return,
            };
            let _ = reply.send(opened);
        }
        // The owner's own business, its publishers' for example. Dropping a command answers it.
        Command::Open(..)
        | Command::SetCursor(..)
        | Command::Ack(_, _, Some(_), _)
        | Command::Unserved(..)
        | Command::Marks(_)
        | Command::Removed(_)
        | Command::Record(..)
        | Command::PutRecord(..)
        | Command::Disconnect { .. } => {}
    }
}

async fn told<T: DeserializeOwned>(asker: &Asker, question: &Question, reply: Reply<Result<T, Problem>>) {
    if !reply.is_closed() {
        let _ = reply.send(asker.ask(question).await);
    }
}

/// Without an answer the question is dropped, which says that the owner is unknown.
async fn listed<T: DeserializeOwned>(asker: &Asker, question: &Question, reply: Reply<T>) {
    match asker.ask(question).await {
        Ok(answer) => drop(reply.send(answer)),
        Err(problem) => tracing::debug!(%problem, "the owner has not answered"),
    }
}
