//! A gateway's side of Server-Sent Events, without the client library.
//!
//! Owns what the contract asks of such a consumer: a table of last positions behind which nothing comes
//! twice, the check of `seq`, the id of the last event as the cursor, and acks by POST.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::super::sse::{self, Acks, Event, Events};
use super::consumer::{BACKOFF, Delivery, Endpoints, Heard, Resync};
use super::rules;
use crate::change::{Operation, ResyncReason};
use crate::client::Credentials;
use crate::position::Position;

/// An ack may be left out: the next one says it too.
const ACK_PATIENCE: Duration = Duration::from_secs(5);

/// One gateway's consumer. It connects, and connects again, by itself.
#[derive(Debug)]
pub(super) struct SseConsumer {
    /// The hubs; the first is asked next.
    addresses: Vec<String>,
    silence: Duration,
    gateway: String,
    http: reqwest::Client,
    session: Option<Session>,
    state: State,
    /// The last id that has been acked: where the next session begins.
    acked: Option<String>,
}

#[derive(Debug)]
struct Session {
    events: Events,
    /// The last `seq` by partition.
    last: HashMap<String, u64>,
}

/// What is saved: where to resume, and what has been handed over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    /// The id of the last event.
    cursor: Option<String>,
    /// By partition, subscription and generation the last position that was handed over.
    last: BTreeMap<String, Position>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChangeMessage {
    partition: String,
    seq: u64,
    position: Position,
    key: String,
    operation: Operation,
    document: Option<Body>,
    matches: Vec<Matched>,
    flags: Vec<String>,
}

#[derive(Deserialize)]
struct Body {
    number: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Matched {
    subscription_id: String,
    generation: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProgressMessage {
    positions: BTreeMap<String, Position>,
    catching_up: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResyncMessage {
    partition: String,
    from: Option<Position>,
    to: Position,
    reason: ResyncReason,
    subscription_ids: Vec<String>,
}

impl SseConsumer {
    /// Begins where a saved state says.
    pub(super) fn open(endpoints: &Endpoints, gateway: &str, saved: Option<Value>) -> anyhow::Result<Self> {
        let state: State = saved.map_or_else(|| Ok(State::default()), serde_json::from_value)?;
        let http = reqwest::Client::builder().no_proxy().timeout(ACK_PATIENCE).build()?;
        let (gateway, acked) = (gateway.to_owned(), state.cursor.clone());
        let (addresses, silence) = (endpoints.http.clone(), endpoints.silence);
        Ok(Self { addresses, silence, gateway, http, session: None, state, acked })
    }

    /// The next thing heard. Cancel-safe.
    pub(super) async fn next(&mut self) -> anyhow::Result<Heard> {
        loop {
            let Some(session) = &mut self.session else {
                let nobody = Credentials::default();
                let acks = Acks::Own(self.acked.as_deref());
                let opening = sse::open(&self.addresses[0], &nobody, &self.gateway, acks);
                let opened = timeout(self.silence, opening).await.unwrap_or_else(|_| Err(anyhow::anyhow!("silence")));
                match opened {
                    Ok(events) => self.session = Some(Session { events, last: HashMap::new() }),
                    Err(error) if error.is::<super::super::WrongUsage>() => return Err(error),
                    Err(_) => {
                        self.addresses.rotate_left(1);
                        sleep(BACKOFF.most).await;
                        return Ok(Heard::Broken);
                    }
                }
                continue;
            };
            match timeout(self.silence, session.events.next()).await {
                Ok(Ok(Some(event))) => {
                    if let Some(heard) = self.hear(event)? {
                        return Ok(heard);
                    }
                }
                // The end, a broken connection, silence: the same to a consumer.
                _ => {
                    self.session = None;
                    self.addresses.rotate_left(1);
                    return Ok(Heard::Broken);
                }
            }
        }
    }

    pub(super) fn state(&self) -> anyhow::Result<Value> {
        Ok(serde_json::to_value(&self.state)?)
    }

    pub(super) async fn ack(&mut self) {
        let Some(cursor) = self.state.cursor.clone().filter(|cursor| Some(cursor) != self.acked.as_ref()) else {
            return;
        };
        let url = format!("{}/v1/gateways/{}/ack", self.addresses[0], self.gateway);
        // A hub that does not answer is told by the next ack, or by the next session.
        let _ = self.http.post(url).json(&json!({ "cursor": cursor })).send().await;
        self.acked = Some(cursor);
    }

    /// What an event says, if it is of interest.
    fn hear(&mut self, event: Event) -> anyhow::Result<Option<Heard>> {
        let heard = match event.name.as_str() {
            "welcome" => Heard::Connected,
            "change" => {
                let delivery = self.change(read(&event)?)?;
                self.pass(event.id);
                return Ok(delivery.map(Heard::Change));
            }
            "progress" => {
                let progress: ProgressMessage = read(&event)?;
                let least = progress.positions.into_values().min();
                Heard::Progress(least.filter(|_| progress.catching_up == 0))
            }
            "resync" => Heard::Resync(self.resync(read(&event)?)?),
            "expired" => bail!("subscriptions were parked: {}", event.data),
            _ => Heard::Other,
        };
        self.pass(event.id);
        Ok(Some(heard))
    }

    fn pass(&mut self, id: String) {
        if !id.is_empty() {
            self.state.cursor = Some(id);
        }
    }

    /// What is left of a change once the subscriptions are gone that have had it.
    fn change(&mut self, change: ChangeMessage) -> anyhow::Result<Option<Delivery>> {
        let session = self.session.as_mut().context("an event without a session")?;
        let last = session.last.entry(change.partition.clone()).or_default();
        ensure!(change.seq == *last + 1, "seq has a hole: {} after {last} in {}", change.seq, change.partition);
        *last = change.seq;
        let redelivered = change.flags.iter().any(|flag| flag == "redelivered");
        let mut fresh = Vec::new();
        for matched in &change.matches {
            let name = format!("{} {} {}", change.partition, matched.subscription_id, matched.generation);
            let known = self.state.last.get(&name);
            if redelivered || known.is_none_or(|known| *known < change.position) {
                self.state.last.insert(name, change.position);
                fresh.push(matched.subscription_id.as_str());
            }
        }
        if fresh.is_empty() {
            return Ok(None);
        }
        Ok(Some(Delivery {
            number: rules::number_of(change.document.and_then(|body| body.number), &change.key, change.operation)?,
            position: change.position,
            rules: rules::indices_of(fresh)?,
            key: change.key.into(),
            flags: change.flags,
        }))
    }

    fn resync(&mut self, resync: ResyncMessage) -> anyhow::Result<Resync> {
        if resync.reason == ResyncReason::Restored {
            // Positions begin anew: what is remembered beyond concerns another history.
            let of_partition = format!("{} ", resync.partition);
            for (_, last) in self.state.last.iter_mut().filter(|(name, _)| name.starts_with(&of_partition)) {
                *last = (*last).min(resync.to);
            }
        }
        let rules = rules::indices_of(resync.subscription_ids.iter().map(String::as_str))?;
        Ok(Resync { reason: resync.reason, from: resync.from, to: resync.to, rules })
    }
}

fn read<T: DeserializeOwned>(event: &Event) -> anyhow::Result<T> {
    serde_json::from_str(&event.data).with_context(|| format!("a `{}` that cannot be read: {}", event.name, event.data))
}
