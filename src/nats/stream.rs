//! The stream: made, checked, published to, and asked what it still has.
//!
//! Owns what its settings must be. A message is there or it is not; that nobody answers is a third outcome, and is
//! said as such.

use std::error::Error as _;
use std::time::Duration;

use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind, PublishErrorKind, RequestErrorKind,
};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, LastRawMessageErrorKind, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, ErrorCode, context, message::StreamMessage};
use async_nats::{HeaderMap, header};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::time::timeout;

use super::Trouble;
use super::connect::{Connection, Endpoint, connect};
use super::subject::{AFTER_HEADER, CURSOR_HEADER, DELIVERIES, MESSAGE_HEADER, SEQUENCE_HEADER};

/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);
/// How long what nobody keeps may take to be handed over.
const SAYING: Duration = Duration::from_millis(200);
/// How long the server knows ids: its own default.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// What the stream is called, and what it may hold, if it has to be made.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Its name.
    pub name: String,
    /// Messages that wait for one gateway at most.
    pub subject_messages_max: u32,
    /// How many servers keep it.
    pub replicas: u32,
}

/// A connection and the stream on it.
#[derive(Clone, Debug)]
pub struct Server {
    connection: Connection,
    context: jetstream::Context,
    config: StreamConfig,
}

/// A message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number.
    pub sequence: u64,
    /// The server knew the id already: it is an earlier message's number.
    pub is_duplicate: bool,
}

/// What the stream is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// When it was made: another time is another stream.
    pub created: String,
    /// The number of the last message that was ever stored in it.
    pub last_sequence: u64,
}

/// Why a stream is not one that deliveries can go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// What it is or does.
    pub what: String,
    /// The command that mends it.
    pub mend: String,
}

/// The stream, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The hub makes it.
    Absent,
    /// It will do.
    Fit(State),
    /// It will not.
    Unfit(Flaw),
}

/// A message for the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it goes.
    pub subject: String,
    /// Two with the same id are one.
    pub id: String,
    /// Which message it is.
    pub name: &'static str,
    /// Acks it and everything before it.
    pub cursor: Option<String>,
    /// What the gateway had before it.
    pub after: Option<String>,
    /// Its text.
    pub payload: Bytes,
}

/// A message that the stream has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub sequence: u64,
    /// Which message it is.
    pub name: Option<String>,
    /// Acks it and everything before it.
    pub cursor: Option<String>,
    /// What the gateway had before it.
    pub after: Option<String>,
}

impl Server {
    /// Connects.
    ///
    /// # Errors
    /// There is no server, it does not let the hub in, or what the hub is to say who it is cannot be used.
    pub async fn connect(endpoint: &Endpoint, config: StreamConfig) -> Result<Self, Trouble> {
        let connection = connect(endpoint).await?;
        let context = jetstream::ContextBuilder::new().timeout(ANSWER).ack_timeout(ANSWER);
        let context = context.build(connection.client.clone());
        Ok(Self { connection, context, config })
    }

    /// Waits until the connection is gone, for good.
    pub async fn gone(&self) {
        let mut gone = self.connection.gone.clone();
        // Without a sender it is gone as well.
        let _ = gone.wait_for(|gone| *gone).await;
    }

    /// Whether there still is a connection.
    pub fn is_connected(&self) -> bool {
        !*self.connection.gone.borrow()
            && self.connection.client.connection_state() == async_nats::connection::State::Connected
    }

    /// The greatest message that the server takes, headers included.
    pub fn message_bytes_max(&self) -> usize {
        self.connection.client.max_payload()
    }

    /// Makes the stream if it is absent, and checks it if it is there.
    ///
    /// # Errors
    /// `Misconfigured` where a stream of this name would lose messages, with the command that mends it.
    pub async fn ensure(&self) -> Result<State, Trouble> {
        let info = match self.context.get_stream(&self.config.name).await {
            Ok(stream) => stream.cached_info().clone(),
            Err(error) if is_absent(&error) => {
                let made = self.context.create_stream(self.wanted()).await;
                made.map_err(|error| self.not_made(&error))?.cached_info().clone()
            }
            Err(error) => return Err(unanswered(&error)),
        };
        match self.flaw(&info.config) {
            None => Ok(state(&info)),
            Some(Flaw { what, mend }) => Err(Trouble::Misconfigured(format!("{what}; mend it with: {mend}"))),
        }
    }

    /// Looks whether it is there and will do, and makes none.
    ///
    /// # Errors
    /// Nobody answers; `Misconfigured` where the server has no JetStream for the hub.
    pub async fn look(&self) -> Result<Found, Trouble> {
        match self.context.get_stream(&self.config.name).await {
            Ok(stream) => {
                let info = stream.cached_info();
                Ok(self.flaw(&info.config).map_or_else(|| Found::Fit(state(info)), Found::Unfit))
            }
            Err(error) if is_absent(&error) => Ok(Found::Absent),
            Err(error) if is_off(&error) => {
                Err(Trouble::Misconfigured(format!("the NATS server has no JetStream for the hub: {error}")))
            }
            Err(error) => Err(unanswered(&error)),
        }
    }

    /// The server may have a reason that will not go away by itself.
    fn not_made(&self, error: &CreateStreamError) -> Trouble {
        match error.kind() {
            CreateStreamErrorKind::JetStream(refused) if !is_passing(&refused) => {
                let name = &self.config.name;
                Trouble::Misconfigured(format!("the NATS server does not make the stream {name}: {refused}"))
            }
            _ => unanswered(error),
        }
    }

    fn wanted(&self) -> Config {
        Config {
            name: self.config.name.clone(),
            subjects: vec![format!("{DELIVERIES}.>")],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            max_messages: -1,
            max_bytes: -1,
            max_messages_per_subject: i64::from(self.config.subject_messages_max),
            storage: StorageType::File,
            num_replicas: self.config.replicas as usize,
            duplicate_window: DUPLICATE_WINDOW,
            description: Some("deliveries of streamer to its gateways".into()),
            ..Config::default()
        }
    }

    /// A stream that throws away what nobody has taken, and acks all the same, is worse than none.
    fn flaw(&self, found: &Config) -> Option<Flaw> {
        let name = &self.config.name;
        let wrong = |what: &str, mend: String| Some(Flaw { what: format!("the NATS stream {name} {what}"), mend });
        let edit = |flags: &str| format!("nats stream edit {name} {flags}");
        let anew = || format!("nats stream rm {name}   # the hub makes it anew");
        let all = format!("{DELIVERIES}.>");
        if found.retention != RetentionPolicy::WorkQueue {
            let what =
                "does not have retention workqueue, so what gateways have taken makes no room; that cannot be changed";
            return wrong(what, anew());
        }
        if found.discard != DiscardPolicy::New {
            return wrong("discards old messages when it is full, which loses them", edit("--discard new"));
        }
        if found.max_messages_per_subject <= 0 || !found.discard_new_per_subject {
            let flags = format!("--max-msgs-per-subject {} --discard-per-subject", self.config.subject_messages_max);
            return wrong(
                "has no limit a subject that refuses new messages, so one gateway fills it for all",
                edit(&flags),
            );
        }
        if !found.max_age.is_zero() {
            return wrong("has an age limit, which loses what is not taken in time", edit("--max-age 0"));
        }
        if !found.subjects.contains(&all) {
            return wrong(&format!("does not have the subject {all}"), edit(&format!("--subjects '{all}'")));
        }
        if found.storage != StorageType::File {
            return wrong("is kept in memory, which a restart of the server loses; that cannot be changed", anew());
        }
        if found.max_message_size > 0 {
            return wrong("takes only messages up to a size of its own", edit("--max-msg-size -1"));
        }
        if found.no_ack {
            return wrong("does not ack what is published", edit("--ack"));
        }
        None
    }

    /// Publishes, and waits until the server has stored it. Without a connection nothing is handed over that would be
    /// sent later.
    ///
    /// # Errors
    /// All of [`Trouble`]; after `Unanswered` it may have been stored all the same.
    pub async fn publish(&self, message: &Message) -> Result<Stored, Trouble> {
        if !self.is_connected() {
            return Err(Trouble::Unanswered("there is no connection".into()));
        }
        let (subject, payload) = (message.subject.clone(), message.payload.clone());
        let published = self.context.publish_with_headers(subject, headers(message), payload).await;
        let stored = match published {
            Ok(answer) => answer.await,
            Err(error) => Err(error),
        };
        let error = match stored {
            Ok(ack) => return Ok(Stored { sequence: ack.sequence, is_duplicate: ack.duplicate }),
            Err(error) => error,
        };
        let refused = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
        Err(match (error.kind(), refused) {
            (PublishErrorKind::StreamNotFound, _) => Trouble::NoStream,
            (PublishErrorKind::MaxPayloadExceeded, _) => Trouble::TooLarge,
            (_, Some(refused)) if refused.error_code() == ErrorCode::STREAM_STORE_FAILED => {
                Trouble::Full(refused.to_string())
            }
            (_, Some(refused)) if refused.error_code() == ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => {
                Trouble::TooLarge
            }
            _ => unanswered(&error),
        })
    }

    /// Says something that nobody keeps.
    /// `sequence` is the number of the last message that was stored before it.
    pub async fn say(&self, subject: String, sequence: u64, payload: Bytes) {
        if !self.is_connected() {
            return;
        }
        // Nobody waits for it, and the next one says more.
        let mut headers = HeaderMap::new();
        headers.insert(MESSAGE_HEADER, "progress");
        headers.insert(SEQUENCE_HEADER, sequence.to_string());
        // Where the connection is stuck, publishers must not be.
        let _ = timeout(SAYING, self.connection.client.publish_with_headers(subject, headers, payload)).await;
    }

    /// The newest message on a subject.
    ///
    /// # Errors
    /// Nobody answers, or the stream is gone.
    pub async fn last(&self, subject: &str) -> Result<Option<Kept>, Trouble> {
        match self.stream().await?.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(kept(&message))),
            Err(error) => asked(&error.kind(), &error),
        }
    }

    /// The oldest message on a subject that nobody has taken.
    ///
    /// # Errors
    /// As [`Self::last`].
    pub async fn first(&self, subject: &str) -> Result<Option<Kept>, Trouble> {
        match self.stream().await?.get_first_raw_message_by_subject(subject, 1).await {
            Ok(message) => Ok(Some(kept(&message))),
            Err(error) => asked(&error.kind(), &error),
        }
    }

    /// What the stream is now.
    ///
    /// # Errors
    /// As [`Self::last`].
    pub async fn state(&self) -> Result<State, Trouble> {
        match self.context.get_stream(&self.config.name).await {
            Ok(stream) => Ok(state(stream.cached_info())),
            Err(error) if is_absent(&error) => Err(Trouble::NoStream),
            Err(error) => Err(unanswered(&error)),
        }
    }

    /// How many messages lie on a subject.
    ///
    /// # Errors
    /// As [`Self::last`].
    pub async fn lying(&self, subject: &str) -> Result<usize, Trouble> {
        let counted = self.stream().await?.info_with_subjects(subject).await.map_err(|error| unanswered(&error))?;
        let counts = counted.map(|count| count.map(|(_, count)| count).map_err(|error| unanswered(&error)));
        Ok(counts.try_collect::<Vec<_>>().await?.into_iter().sum())
    }

    /// Removes what lies on a subject before a message.
    ///
    /// # Errors
    /// As [`Self::last`].
    pub async fn purge(&self, subject: &str, before: u64) -> Result<(), Trouble> {
        let purged = self.stream().await?.purge().filter(subject).sequence(before).await;
        purged.map(|_| ()).map_err(|error| unanswered(&error))
    }

    /// From now on the stream takes no more than this in all; `None`: as much as there is room for.
    ///
    /// # Errors
    /// As [`Self::last`].
    pub async fn limit(&self, bytes_max: Option<u32>) -> Result<(), Trouble> {
        let found = self.context.get_stream(&self.config.name).await.map_err(|error| unanswered(&error))?;
        let config = Config { max_bytes: bytes_max.map_or(-1, i64::from), ..found.cached_info().config.clone() };
        self.context.update_stream(config).await.map(|_| ()).map_err(|error| unanswered(&error))
    }

    async fn stream(&self) -> Result<jetstream::stream::Stream<()>, Trouble> {
        self.context.get_stream_no_info(&self.config.name).await.map_err(|error| unanswered(&error))
    }
}

fn headers(message: &Message) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_MESSAGE_ID, message.id.as_str());
    headers.insert(MESSAGE_HEADER, message.name);
    for (name, value) in [(CURSOR_HEADER, &message.cursor), (AFTER_HEADER, &message.after)] {
        if let Some(value) = value {
            headers.insert(name, value.as_str());
        }
    }
    headers
}

fn kept(message: &StreamMessage) -> Kept {
    let header = |name: &str| message.headers.get(name).map(|value| value.as_str().to_owned());
    Kept {
        sequence: message.sequence,
        name: header(MESSAGE_HEADER),
        cursor: header(CURSOR_HEADER),
        after: header(AFTER_HEADER),
    }
}

fn state(info: &Info) -> State {
    State { created: info.created.to_string(), last_sequence: info.state.last_sequence }
}

fn is_absent(error: &context::GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Whether there is no JetStream at all, or none for this account.
fn is_off(error: &context::GetStreamError) -> bool {
    match error.kind() {
        GetStreamErrorKind::JetStream(refused) => {
            [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT]
                .contains(&refused.error_code())
        }
        GetStreamErrorKind::Request => {
            let source = error.source().and_then(|source| source.downcast_ref::<context::RequestError>());
            source.is_some_and(|source| source.kind() == RequestErrorKind::NoResponders)
        }
        _ => false,
    }
}

/// Whether a refusal may be over without anybody's doing: servers of a cluster come and go.
fn is_passing(refused: &jetstream::Error) -> bool {
    matches!(
        refused.error_code(),
        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::CLUSTER_NOT_AVAILABLE | ErrorCode::CLUSTER_NOT_LEADER
    ) || refused.code() == 503
}

/// A question about a message was not answered by one.
fn asked(kind: &LastRawMessageErrorKind, error: &dyn std::error::Error) -> Result<Option<Kept>, Trouble> {
    match kind {
        LastRawMessageErrorKind::NoMessageFound => Ok(None),
        LastRawMessageErrorKind::JetStream(refused) if refused.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            Err(Trouble::NoStream)
        }
        _ => Err(unanswered(error)),
    }
}

pub(super) fn unanswered(error: &dyn std::error::Error) -> Trouble {
    let because = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    Trouble::Unanswered(format!("{error}{because}").replace('\n', " "))
}
