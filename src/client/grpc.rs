//! One session over gRPC: made, consumed, ended.
//!
//! Owns the wire: the channel's settings, `hello`, acks and heartbeats, and what a status means. Knows
//! nothing of what is handed over.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code as Grpc, Status, Streaming};
use tonic_types::StatusExt;

use super::config::{BodyFormat, ClientConfig};
use super::connection::Ended;
use super::error::innermost;
use super::error::{Error, Rejection};
use crate::proto::consume_request::Request;
use crate::proto::consume_response::Message;
use crate::proto::delivery_client::DeliveryClient;
use crate::proto::{Ack, Body, ConsumeRequest, ConsumeResponse, Heartbeat, Hello};

/// HTTP/2 flow control: a backlog must not wait for window updates.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Acks and heartbeats that wait for the connection; what does not fit is said later.
const REQUESTS_MAX: usize = 16;

/// A session that the hub has accepted.
pub(super) struct Connection {
    requests: mpsc::Sender<ConsumeRequest>,
    responses: Streaming<ConsumeResponse>,
}

/// The nodes that a session can be opened at.
pub(super) struct Nodes {
    endpoints: Vec<Endpoint>,
    next: AtomicUsize,
}

impl Nodes {
    /// Their addresses, checked.
    pub(super) fn new(config: &ClientConfig) -> Result<Self, Error> {
        let addresses = std::iter::once(&config.endpoint).chain(&config.other_endpoints);
        let endpoints = addresses.map(|address| endpoint(address, config)).collect::<Result<_, _>>()?;
        Ok(Self { endpoints, next: AtomicUsize::new(0) })
    }

    /// Where the next connection is made to.
    pub(super) fn next(&self) -> &Endpoint {
        &self.endpoints[self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len()]
    }
}

fn endpoint(address: &str, config: &ClientConfig) -> Result<Endpoint, Error> {
    let bad = |reason: String| Error::Endpoint { endpoint: address.to_owned(), reason };
    config.credentials.authorization().map_err(bad)?;
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| bad(error.to_string()))?;
    let uri = endpoint.uri();
    let endpoint = match uri.scheme_str() {
        Some("http") if uri.host().is_some() => endpoint,
        Some("https") if uri.host().is_some() => {
            let tls = config.credentials.tls().map_err(bad)?;
            endpoint.tls_config(tls).map_err(|error| bad(error.to_string()))?
        }
        _ => return Err(bad("it begins with http:// or https:// and names a host".to_owned())),
    };
    Ok(endpoint
        .connect_timeout(config.connect_timeout)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .tcp_nodelay(true))
}

impl Connection {
    /// Connects and says hello, resuming from `cursor`.
    pub(super) async fn open(
        endpoint: &Endpoint,
        config: &ClientConfig,
        cursor: Option<String>,
    ) -> Result<Self, Ended> {
        let channel =
            endpoint.connect().await.map_err(|error| Ended::Retry { reason: innermost(&error), after: None })?;
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let (gateway_id, group, member) = match &config.group {
            None => (config.gateway_id.clone(), String::new(), String::new()),
            Some(group) => (String::new(), group.clone(), config.gateway_id.clone()),
        };
        let hello = Hello {
            gateway_id,
            group,
            member,
            cursor,
            body: match config.body {
                BodyFormat::Bson => Body::Bson.into(),
                BodyFormat::ExtendedJson => Body::ExtendedJson.into(),
            },
            max_unacked_bytes: config.max_unacked_bytes,
            max_message_bytes: config.max_message_bytes as u64,
        };
        let hello = ConsumeRequest { request: Some(Request::Hello(hello)) };
        requests.try_send(hello).expect("a new queue has room");
        let mut client: DeliveryClient<Channel> =
            DeliveryClient::new(channel).max_decoding_message_size(config.max_message_bytes);
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        if let Ok(Some(authorization)) = config.credentials.authorization() {
            request.metadata_mut().insert("authorization", authorization);
        }
        let consuming = pin!(client.consume(request));
        let responses = tokio::time::timeout(config.connect_timeout, consuming)
            .await
            .map_err(|_| Ended::Retry { reason: "the hub does not answer".to_owned(), after: None })?
            .map_err(|status| ended(&status))?;
        Ok(Self { requests, responses: responses.into_inner() })
    }

    /// The next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<ConsumeResponse, Ended> {
        match self.responses.message().await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(Ended::Retry { reason: "the hub ended the session".to_owned(), after: None }),
            Err(status) => Err(ended(&status)),
        }
    }

    /// Whether it could be said at once.
    pub(super) fn ack(&self, cursor: String) -> bool {
        self.say(Request::Ack(Ack { cursor }))
    }

    /// If it cannot be said at once, the connection is busy with what says as much.
    pub(super) fn heartbeat(&self) {
        self.say(Request::Heartbeat(Heartbeat {}));
    }

    /// Says no more, and waits until what was said is certainly out: the next progress, a second away,
    /// is read with it. What else comes is not wanted any more.
    pub(super) async fn close(self) {
        let Self { requests, mut responses } = self;
        drop(requests);
        let flushed = async {
            while let Ok(Some(response)) = responses.message().await {
                if matches!(response.message, Some(Message::Progress(_) | Message::Closed(_))) {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, flushed).await;
    }

    fn say(&self, request: Request) -> bool {
        self.requests.try_send(ConsumeRequest { request: Some(request) }).is_ok()
    }
}

fn ended(status: &Status) -> Ended {
    let details = status.get_error_details();
    let code = details.error_info().map(|info| info.reason.clone());
    let after = details.retry_info().and_then(|info| info.retry_delay);
    let for_good = matches!(
        status.code(),
        Grpc::InvalidArgument
            | Grpc::FailedPrecondition
            | Grpc::OutOfRange
            | Grpc::Unauthenticated
            | Grpc::PermissionDenied
            | Grpc::Unimplemented
    );
    if for_good {
        let http = details.error_info().and_then(|info| info.metadata.get("status")?.parse().ok());
        return Ended::Refused(Error::Refused(Rejection {
            code: code.unwrap_or_else(|| format!("{:?}", status.code())),
            status: http.unwrap_or_default(),
            detail: status.message().to_owned(),
            field: details.error_info().and_then(|info| info.metadata.get("field").cloned()),
            retry_after_seconds: None,
        }));
    }
    let reason = match code {
        Some(code) => format!("{code}: {}", status.message()),
        None => status.message().to_owned(),
    };
    Ended::Retry { reason, after }
}
