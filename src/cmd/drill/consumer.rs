//! How a gateway of a drill hears: by gRPC or NATS with the client library, or by Server-Sent Events without.
//!
//! Owns what they have in common. What comes out of each has passed its check for duplicates.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bson::Bson;
use futures::StreamExt;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::rules;
use super::sse::SseConsumer;
use crate::change::ResyncReason;
use crate::client::{Backoff, Change, Client, ClientConfig, Cursor, Item, NatsConfig, State};
use crate::nats::Endpoint;
use crate::position::Position;

/// A drill measures how fast a hub is back, so its clients look often.
pub(super) const BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), most: Duration::from_millis(100) };

/// By what a gateway hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    Grpc,
    Sse,
    Nats,
}

/// Where the hubs are, by each.
#[derive(Clone, Debug)]
pub(super) struct Endpoints {
    pub(super) grpc: Vec<String>,
    pub(super) http: Vec<String>,
    pub(super) nats: Option<Endpoint>,
    /// After so long without a word a session is given up, and another hub is asked.
    pub(super) silence: Duration,
}

impl Endpoints {
    /// Beginning with another hub.
    #[must_use]
    pub(super) fn from(mut self, number: usize) -> Self {
        let count = self.grpc.len();
        self.grpc.rotate_left(number % count);
        self.http.rotate_left(number % count);
        self
    }
}

/// What a gateway hears.
#[derive(Debug)]
pub(super) enum Heard {
    /// A session has begun.
    Connected,
    /// A session is over, or could not be made.
    Broken,
    /// Something to take.
    Change(Delivery),
    /// What cannot be had any more.
    Resync(Resync),
    /// Everything before this has been sent; `None` while something is still behind.
    Progress(Option<Position>),
    /// Nothing of interest.
    Other,
}

/// One change, for the subscriptions that have not had it before.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) number: u64,
    pub(super) key: Arc<str>,
    pub(super) position: Position,
    /// Of which of [`rules::RULES`].
    pub(super) rules: Vec<usize>,
    pub(super) flags: Vec<String>,
}

/// A range of which some subscriptions are told that it is lost to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resync {
    pub(super) reason: ResyncReason,
    pub(super) from: Option<Position>,
    pub(super) to: Position,
    pub(super) rules: Vec<usize>,
}

/// With the library, or without.
pub(super) enum Consumer {
    Client(Box<Client>, Option<Cursor>),
    Sse(Box<SseConsumer>),
}

impl Consumer {
    /// Begins where a saved state says.
    pub(super) fn open(
        transport: Transport,
        endpoints: &Endpoints,
        gateway: &str,
        saved: Option<Value>,
        random: &mut ChaCha8Rng,
    ) -> anyhow::Result<Self> {
        match transport {
            Transport::Sse => Ok(Self::Sse(Box::new(SseConsumer::open(endpoints, gateway, saved)?))),
            Transport::Grpc | Transport::Nats => {
                let state = saved.map_or_else(|| Ok(State::default()), serde_json::from_value)?;
                let seed = Some(random.random());
                let (first, others) = endpoints.grpc.split_first().context("a hub")?;
                let mut config = ClientConfig { backoff: BACKOFF, seed, ..ClientConfig::new(first, gateway) };
                config.other_endpoints = others.to_vec();
                config.silence_timeout = endpoints.silence;
                config.connect_timeout = config.connect_timeout.min(endpoints.silence);
                if transport == Transport::Nats {
                    let endpoint = endpoints.nats.clone().context("a NATS server")?;
                    config.nats = Some(NatsConfig { endpoint, ..NatsConfig::new("") });
                }
                Ok(Self::Client(Box::new(Client::connect(config, state)?), None))
            }
        }
    }

    /// The next thing heard. Cancel-safe.
    pub(super) async fn next(&mut self) -> anyhow::Result<Heard> {
        match self {
            Self::Sse(consumer) => consumer.next().await,
            Self::Client(client, last) => {
                let Some(item) = client.next().await else { bail!("the stream ended") };
                by_client(item?, last)
            }
        }
    }

    /// What to save with everything heard so far.
    pub(super) fn state(&self) -> anyhow::Result<Value> {
        match self {
            Self::Client(client, _) => Ok(serde_json::to_value(client.state())?),
            Self::Sse(consumer) => consumer.state(),
        }
    }

    /// Everything heard so far has been taken for good.
    pub(super) async fn ack(&mut self) {
        match self {
            Self::Client(client, last) => {
                if let Some(cursor) = last.take() {
                    client.ack(&cursor);
                }
            }
            Self::Sse(consumer) => consumer.ack().await,
        }
    }

    /// Ends in order.
    pub(super) async fn close(self) {
        if let Self::Client(client, _) = self {
            client.close().await;
        }
    }
}

fn by_client(item: Item, last: &mut Option<Cursor>) -> anyhow::Result<Heard> {
    Ok(match item {
        Item::Connected(_) => Heard::Connected,
        Item::Change(change) => {
            let delivery = delivery(&change)?;
            *last = Some(change.cursor);
            Heard::Change(delivery)
        }
        Item::Resync(resync) => {
            *last = Some(resync.cursor);
            let reason = resync.reason.context("a resync of an unknown reason")?;
            let rules = rules::indices_of(resync.subscription_ids.iter().map(String::as_str))?;
            Heard::Resync(Resync { reason, from: resync.from, to: resync.to, rules })
        }
        Item::Progress(progress) => {
            let least = progress.positions.iter().map(|(_, position)| *position).min();
            Heard::Progress(least.filter(|_| progress.catching_up == 0))
        }
        Item::Expired(expired) => bail!("subscriptions were parked ({})", expired.reason),
        Item::Disconnected(_) | Item::Closed(_) => Heard::Broken,
        Item::Revoked(_) | Item::Assigned(_) => Heard::Other,
    })
}

fn delivery(change: &Change) -> anyhow::Result<Delivery> {
    let document = change.document.as_ref().map(|body| body.document()).transpose()?;
    // As JSON it is a 32-bit number while it is small.
    let number = document.and_then(|document| match document.get("number")? {
        Bson::Int32(number) => u64::try_from(*number).ok(),
        Bson::Int64(number) => u64::try_from(*number).ok(),
        _ => None,
    });
    Ok(Delivery {
        number: rules::number_of(number, &change.key, change.operation)?,
        key: change.key.as_str().into(),
        position: change.position,
        rules: rules::indices_of(change.matches.iter().map(|matched| matched.subscription_id.as_str()))?,
        flags: change.flags.clone(),
    })
}
