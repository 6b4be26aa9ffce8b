//! A gateway's side: what lies on its subject, one message after the other.
//!
//! Owns the durable consumer. It is made anew with each connection, so that what had been handed over and was not
//! acked comes again at once and in order: a consumer that goes on would hand it over only when the time for its ack
//! is over, behind what is newer.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, AckKind};
use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::timeout;

use super::Trouble;
use super::connect::{Connection, Endpoint, connect};
use super::stream::unanswered;
use super::subject::{self, CURSOR_HEADER, MESSAGE_HEADER, SEQUENCE_HEADER};
use crate::subscription::GatewayId;

/// Messages that the server sends ahead.
const AHEAD: usize = 16;
/// How long one pull waits.
const PULL: Duration = Duration::from_secs(30);
/// Longer than any application takes to ack: what is not acked comes again with the next connection.
const ACK_WAIT: Duration = Duration::from_secs(24 * 3_600);

/// What has come.
#[derive(Debug)]
pub enum Taken {
    /// A message of the stream.
    Message(Box<Delivered>),
    /// How far everything is in the stream; a message with this number is the last before it.
    Progress {
        /// Of the last message before it; 0 where there was none.
        sequence: u64,
        /// As in the other transports.
        payload: Bytes,
    },
}

/// A message that stays in the stream until it is acked.
#[derive(Debug)]
pub struct Delivered {
    /// `changes`, `resync`, …
    pub name: String,
    /// Says that everything up to here has been had.
    pub cursor: Option<String>,
    /// JSON.
    pub payload: Bytes,
    /// Its number in the stream.
    pub sequence: u64,
    /// When the server had it, since 1970.
    pub stored_at: Duration,
    message: jetstream::Message,
}

/// A gateway's consumer.
pub struct Consumer {
    connection: Connection,
    messages: pull::Stream,
    progress: Subscriber,
    /// Everything before this that was for the gateway has been taken.
    pub taken_before: u64,
}

impl Consumer {
    /// Connects and begins with the oldest message that has not been acked.
    ///
    /// # Errors
    /// No connection in time, no stream yet, a refusal.
    pub async fn open(
        endpoint: &Endpoint,
        stream: &str,
        gateway: &GatewayId,
        patience: Duration,
    ) -> Result<Self, Trouble> {
        let opening = async {
            let connection = connect(endpoint).await?;
            let context = jetstream::new(connection.client.clone());
            let found = context.get_stream(stream).await.map_err(|error| unanswered(&error))?;
            let last = found.cached_info().state.last_sequence;
            let (messages, first) = begin(&found, gateway).await?;
            let progress = connection.client.subscribe(subject::progress(gateway)).await;
            let progress = progress.map_err(|error| unanswered(&error))?;
            Ok(Self { connection, messages, progress, taken_before: first.unwrap_or(last + 1) })
        };
        timeout(patience, opening).await.unwrap_or_else(|_| Err(Trouble::Unanswered("no answer in time".into())))
    }

    /// Waits until what was acked has been handed to the server.
    pub async fn flush(&self) {
        // There is nobody to tell.
        let _ = self.connection.client.flush().await;
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// The connection, or the consumer, is gone: another one has to be opened.
    pub async fn next(&mut self) -> Result<Taken, Trouble> {
        let gone = || Trouble::Unanswered("the connection is gone".into());
        tokio::select! {
            _ = self.connection.gone.changed() => Err(gone()),
            message = self.messages.next() => {
                let message = message.ok_or_else(gone)?.map_err(|error| unanswered(&error))?;
                let info = message.info().map_err(|error| Trouble::Unanswered(error.to_string()))?;
                let nanos = u64::try_from(info.published.unix_timestamp_nanos()).unwrap_or_default();
                let (sequence, stored_at) = (info.stream_sequence, Duration::from_nanos(nanos));
                let headers = message.headers.clone().unwrap_or_default();
                Ok(Taken::Message(Box::new(Delivered {
                    name: text(&headers, MESSAGE_HEADER).unwrap_or_default(),
                    cursor: text(&headers, CURSOR_HEADER),
                    payload: message.payload.clone(),
                    sequence,
                    stored_at,
                    message,
                })))
            }
            progress = self.progress.next() => {
                let progress = progress.ok_or_else(gone)?;
                let headers = progress.headers.unwrap_or_default();
                let sequence = text(&headers, SEQUENCE_HEADER).and_then(|text| text.parse().ok()).unwrap_or_default();
                Ok(Taken::Progress { sequence, payload: progress.payload })
            }
        }
    }
}

/// A consumer in the place of the one there may have been, and the number of what it begins with.
async fn begin(stream: &Stream, gateway: &GatewayId) -> Result<(pull::Stream, Option<u64>), Trouble> {
    let (name, subject) = (subject::durable(gateway), subject::all_deliveries(gateway));
    if let Err(error) = stream.delete_consumer(&name).await {
        tracing::debug!(%error, name, "there was no consumer");
    }
    let config = pull::Config {
        durable_name: Some(name),
        filter_subject: subject.clone(),
        ack_policy: AckPolicy::Explicit,
        deliver_policy: DeliverPolicy::All,
        ack_wait: ACK_WAIT,
        max_ack_pending: -1,
        description: Some("a gateway of streamer".into()),
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| unanswered(&error))?;
    let waiting = consumer.cached_info().num_pending;
    let first = match waiting {
        0 => None,
        _ => stream.get_first_raw_message_by_subject(&subject, 1).await.ok().map(|first| first.sequence),
    };
    let messages = consumer.stream().max_messages_per_batch(AHEAD).expires(PULL).messages().await;
    Ok((messages.map_err(|error| unanswered(&error))?, first))
}

impl Delivered {
    /// It makes room. Whether the server has heard so nobody knows: if not, it comes again.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn ack(&self) -> Result<(), Trouble> {
        self.message.ack_with(AckKind::Ack).await.map_err(|error| Trouble::Unanswered(error.to_string()))
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| value.as_str().to_owned())
}
