//! One session over NATS JetStream: a durable consumer, and heartbeats by HTTP.
//!
//! Owns which messages of the stream an ack stands for. Knows nothing of what is handed over.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::config::{ClientConfig, NatsConfig};
use super::connection::Ended;
use super::credentials::Credentials;
use super::error::Error;
use super::registration::Registration;
use super::wire;
use crate::nats::{Consumer, Delivered, Taken, Trouble};
use crate::proto::ConsumeResponse;
use crate::proto::consume_response::Message;
use crate::subscription::{GatewayId, Name};
use crate::tasks::{Kind, Tasks};

const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the stream is, and where heartbeats go.
pub(super) struct Route {
    nats: NatsConfig,
    gateway: GatewayId,
    hub: Option<Registration>,
    tasks: Tasks,
}

impl Route {
    pub(super) fn new(
        nats: &NatsConfig,
        gateway: &str,
        credentials: &Credentials,
        tasks: Tasks,
    ) -> Result<Self, Error> {
        let bad = |endpoint: &str, reason: String| Error::Endpoint { endpoint: endpoint.to_owned(), reason };
        let name = Name::new(gateway).map_err(|error| bad(gateway, error.to_string()))?;
        let hub = match &nats.http {
            Some(address) => {
                let hub = Registration::with(address.clone(), credentials);
                Some(hub.map_err(|error| bad(address, error.to_string()))?)
            }
            None => None,
        };
        Ok(Self { nats: nats.clone(), gateway: name, hub, tasks })
    }
}

/// Messages of the stream that have come and have not been acked.
pub(super) struct Connection {
    consumer: Consumer,
    /// Counts the messages of this connection.
    count: u64,
    pending: VecDeque<(u64, Delivered)>,
    /// Which of them a cursor stands for, with all before it.
    places: HashMap<String, u64>,
    /// So many are to be acked.
    free: u64,
    /// The number in the stream of what has come last.
    seen: u64,
    /// Progress that speaks of messages which have not come yet: the newest.
    ahead: Option<(u64, Message)>,
    hub: Option<(Registration, GatewayId)>,
    tasks: Tasks,
}

impl Connection {
    pub(super) async fn open(route: &Route, config: &ClientConfig) -> Result<Self, Ended> {
        let NatsConfig { endpoint, stream, .. } = &route.nats;
        let consumer = Consumer::open(endpoint, stream, &route.gateway, config.connect_timeout).await;
        let consumer = consumer.map_err(|trouble| match trouble {
            Trouble::Misconfigured(reason) => {
                Ended::Refused(Error::Endpoint { endpoint: endpoint.url.clone(), reason })
            }
            other => Ended::Retry { reason: other.to_string(), after: None },
        })?;
        let seen = consumer.taken_before - 1;
        let hub = route.hub.clone().map(|hub| (hub, route.gateway.clone()));
        let tasks = route.tasks.clone();
        let (pending, places) = (VecDeque::new(), HashMap::new());
        Ok(Self { consumer, count: 0, pending, places, free: 0, seen, ahead: None, hub, tasks })
    }

    /// The next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<ConsumeResponse, Ended> {
        loop {
            self.ack_free().await?;
            if let Some((_, message)) = self.ahead.take_if(|(sequence, _)| *sequence <= self.seen) {
                if let Message::Progress(progress) = &message {
                    self.places.insert(progress.cursor.clone(), self.count);
                }
                return Ok(ConsumeResponse { message: Some(message) });
            }
            let taken = self.consumer.next().await.map_err(|trouble| again(&trouble))?;
            let message = match taken {
                Taken::Progress { sequence, payload } => {
                    self.ahead = read("progress", &payload)?.map(|message| (sequence, message));
                    continue;
                }
                Taken::Message(delivered) => self.take(*delivered)?,
            };
            if message.is_some() {
                return Ok(ConsumeResponse { message });
            }
        }
    }

    fn take(&mut self, delivered: Delivered) -> Result<Option<Message>, Ended> {
        let message = read(&delivered.name, &delivered.payload)?;
        let before = self.count;
        self.count += 1;
        self.seen = self.seen.max(delivered.sequence);
        if let Some(Message::Changes(changes)) = &message {
            // But for the last one they stand for what came before the message.
            self.places.extend(changes.changes.iter().map(|change| (change.cursor.clone(), before)));
        }
        if let Some(cursor) = &delivered.cursor {
            self.places.insert(cursor.clone(), self.count);
        }
        self.pending.push_back((self.count, delivered));
        Ok(message)
    }

    /// What an ack of this cursor stands for is acked with the next message.
    pub(super) fn ack(&mut self, cursor: &str) -> bool {
        let Some(free) = self.places.remove(cursor) else { return false };
        self.free = self.free.max(free);
        true
    }

    async fn ack_free(&mut self) -> Result<(), Ended> {
        let mut any = false;
        while let Some((number, delivered)) = self.pending.front() {
            if *number > self.free {
                break;
            }
            delivered.ack().await.map_err(|trouble| again(&trouble))?;
            self.pending.pop_front();
            any = true;
        }
        if any {
            let free = self.free;
            self.places.retain(|_, number| *number > free);
        }
        Ok(())
    }

    /// Where nobody was named to renew them the application does.
    pub(super) fn heartbeat(&self) {
        let Some((hub, gateway)) = self.hub.clone() else { return };
        self.tasks.spawn(Kind::Client, format!("heartbeat of {gateway}"), async move {
            if let Err(error) = hub.heartbeat(gateway.as_str(), None).await {
                tracing::debug!(%gateway, %error, "a heartbeat was not heard");
            }
        });
    }

    pub(super) async fn close(mut self) {
        let closing = async {
            let _ = self.ack_free().await;
            self.consumer.flush().await;
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
    }
}

fn again(trouble: &Trouble) -> Ended {
    Ended::Retry { reason: trouble.to_string(), after: None }
}

fn read(name: &str, payload: &[u8]) -> Result<Option<Message>, Ended> {
    let unreadable = |error: serde_json::Error| Error::Contract(format!("a message `{name}`: {error}"));
    wire::read(name, payload).map_err(|error| Ended::Refused(unreadable(error)))
}
