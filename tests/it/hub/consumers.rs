//! Gateways without a client library: what a hub sends, message by message, nothing dropped.

use std::collections::HashMap;

use futures::StreamExt;
use futures::stream::BoxStream;
use serde::Deserialize;
use serde_json::value::RawValue;
use streamer::position::Position;
use streamer::proto;
use streamer::proto::consume_request::Request;
use streamer::proto::consume_response::Message;
use streamer::proto::delivery_client::DeliveryClient;
use tokio::sync::mpsc;

/// How a gateway consumes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    GrpcJson,
    GrpcBson,
    Sse,
}

/// A message, whatever it came by.
#[derive(Debug)]
pub(super) enum Said {
    Welcome,
    Change(Box<Change>),
    /// Positions by partition, and how many are behind.
    Progress(HashMap<String, String>, u64),
    /// Why, and the cursor that says it has been heard.
    Resync(String, String),
    Expired(Vec<String>),
    Revoked(Vec<String>),
    Assigned(Vec<String>),
    Closed(String),
}

#[derive(Debug)]
pub(super) struct Change {
    pub(super) partition: String,
    pub(super) seq: u64,
    pub(super) cursor: String,
    pub(super) position: Position,
    pub(super) key: String,
    pub(super) operation: String,
    pub(super) document: Option<Body>,
    pub(super) before: Option<Body>,
    /// Whether it was part of one.
    pub(super) transaction: bool,
    pub(super) flags: Vec<String>,
    pub(super) matches: Vec<Match>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Body {
    Text(String),
    Bson(Vec<u8>),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Match {
    pub(super) subscription_id: String,
    pub(super) generation: u64,
    /// Empty where not said.
    #[serde(default)]
    pub(super) transition: String,
    /// Empty where not said.
    #[serde(default)]
    pub(super) certainty: String,
}

/// One session.
pub(super) struct Session {
    messages: BoxStream<'static, Said>,
    acks: Acks,
    /// The last `seq` of each partition.
    last: HashMap<String, u64>,
}

enum Acks {
    Grpc(mpsc::Sender<proto::ConsumeRequest>),
    Sse(reqwest::Client, String),
}

/// A gateway, or a member of a group: `<group>/<member>`.
fn named(gateway: &str) -> (String, String, String) {
    match gateway.split_once('/') {
        None => (gateway.into(), String::new(), String::new()),
        Some((group, member)) => (String::new(), group.into(), member.into()),
    }
}

impl Session {
    /// Opens a session from the last ack, or from this cursor.
    pub(super) async fn open(
        transport: Transport,
        http: &str,
        grpc: &str,
        gateway: &str,
        cursor: Option<String>,
    ) -> Self {
        Self::try_open(transport, http, grpc, gateway, cursor).await.expect("a session")
    }

    /// The same, where there may be no hub or none that serves.
    pub(super) async fn try_open(
        transport: Transport,
        http: &str,
        grpc: &str,
        gateway: &str,
        cursor: Option<String>,
    ) -> Option<Self> {
        match transport {
            Transport::Sse => Self::sse(http, gateway, "", cursor).await,
            Transport::GrpcJson => Self::grpc(grpc, gateway, cursor, proto::Body::ExtendedJson).await,
            Transport::GrpcBson => Self::grpc(grpc, gateway, cursor, proto::Body::Bson).await,
        }
    }

    async fn grpc(url: &str, gateway: &str, cursor: Option<String>, body: proto::Body) -> Option<Self> {
        let (acks, requests) = mpsc::channel(16);
        let (gateway_id, group, member) = named(gateway);
        let hello = proto::Hello { gateway_id, group, member, cursor, body: body as i32, ..Default::default() };
        acks.send(proto::ConsumeRequest { request: Some(Request::Hello(hello)) }).await.unwrap();
        let mut client = DeliveryClient::connect(url.to_owned()).await.ok()?;
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let responses = client.consume(requests).await.ok()?.into_inner();
        let responses = responses.take_while(|response| std::future::ready(response.is_ok()));
        let messages = responses.flat_map(move |response| {
            futures::stream::iter(from_wire(response.unwrap().message.unwrap(), body == proto::Body::Bson))
        });
        Some(Self { messages: messages.boxed(), acks: Acks::Grpc(acks), last: HashMap::new() })
    }

    /// Server-Sent Events with these parameters (`?…`) and this `Last-Event-ID`.
    pub(super) async fn sse(url: &str, gateway: &str, parameters: &str, cursor: Option<String>) -> Option<Self> {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let (url, member) = match gateway.split_once('/') {
            None => (format!("{url}/v1/gateways/{gateway}"), String::new()),
            Some((group, member)) => (format!("{url}/v1/groups/{group}"), format!("?member={member}")),
        };
        let mut request = http.get(format!("{url}/stream{member}{parameters}"));
        if let Some(cursor) = cursor {
            request = request.header("Last-Event-ID", cursor);
        }
        let answer = request.send().await.ok()?.error_for_status().ok()?;
        let mut text = Vec::new();
        let chunks = answer.bytes_stream().take_while(|chunk| std::future::ready(chunk.is_ok()));
        let messages = chunks.flat_map(move |chunk| {
            text.extend_from_slice(&chunk.unwrap());
            let mut said = Vec::new();
            let end = text.windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |at| at + 2);
            let whole: Vec<u8> = text.drain(..end).collect();
            for event in std::str::from_utf8(&whole).unwrap().split_terminator("\n\n") {
                said.push(from_event(event));
            }
            futures::stream::iter(said)
        });
        Some(Self {
            messages: messages.boxed(),
            acks: Acks::Sse(http, format!("{url}/ack{member}")),
            last: HashMap::new(),
        })
    }

    /// The next message; `None` at the session's end, in order or not. Checks that `seq` has no hole.
    pub(super) async fn next(&mut self) -> Option<Said> {
        let said = self.messages.next().await?;
        if let Said::Change(change) = &said {
            let last = self.last.entry(change.partition.clone()).or_default();
            assert_eq!(change.seq, *last + 1, "seq has a hole");
            *last = change.seq;
        }
        Some(said)
    }

    pub(super) async fn ack(&mut self, cursor: &str) {
        assert!(self.try_ack(cursor).await, "the ack is taken");
    }

    /// Whether somebody was there to take it.
    pub(super) async fn try_ack(&mut self, cursor: &str) -> bool {
        match &self.acks {
            Acks::Grpc(requests) => {
                let ack = Request::Ack(proto::Ack { cursor: cursor.into() });
                requests.send(proto::ConsumeRequest { request: Some(ack) }).await.is_ok()
            }
            Acks::Sse(http, url) => {
                let body = serde_json::json!({ "cursor": cursor });
                http.post(url).json(&body).send().await.is_ok_and(|answer| answer.status() == 204)
            }
        }
    }
}

fn from_wire(message: Message, is_bson: bool) -> Vec<Said> {
    let body = |bytes: Vec<u8>| match is_bson {
        true => Body::Bson(bytes),
        false => Body::Text(String::from_utf8(bytes).unwrap()),
    };
    let change = |change: proto::Change| {
        let matches = change.matches.into_iter().map(|matched| Match {
            subscription_id: matched.subscription_id,
            generation: matched.generation,
            transition: matched.transition,
            certainty: matched.certainty,
        });
        Said::Change(Box::new(Change {
            partition: change.partition,
            seq: change.seq,
            cursor: change.cursor,
            position: change.position.parse().unwrap(),
            key: change.key,
            operation: change.operation,
            document: change.document.map(|bytes| body(bytes.to_vec())),
            before: change.before.map(|bytes| body(bytes.to_vec())),
            transaction: change.transaction.is_some(),
            flags: change.flags,
            matches: matches.collect(),
        }))
    };
    match message {
        Message::Welcome(_) => vec![Said::Welcome],
        Message::Changes(changes) => changes.changes.into_iter().map(change).collect(),
        Message::Progress(progress) => vec![Said::Progress(progress.positions, progress.catching_up)],
        Message::Resync(resync) => vec![Said::Resync(resync.reason, resync.cursor)],
        Message::Expired(expired) => vec![Said::Expired(expired.subscription_ids)],
        Message::Revoked(moved) => vec![Said::Revoked(moved.subscription_ids)],
        Message::Assigned(moved) => vec![Said::Assigned(moved.subscription_ids)],
        Message::Closed(closed) => vec![Said::Closed(closed.reason)],
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChangeJson<'a> {
    partition: String,
    seq: u64,
    cursor: String,
    position: Position,
    key: String,
    operation: String,
    #[serde(borrow)]
    document: &'a RawValue,
    #[serde(borrow)]
    before: &'a RawValue,
    #[serde(default)]
    transaction: Option<serde::de::IgnoredAny>,
    flags: Vec<String>,
    matches: Vec<Match>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProgressJson {
    positions: HashMap<String, String>,
    catching_up: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct OtherJson {
    reason: String,
    subscription_ids: Vec<String>,
}

fn from_event(event: &str) -> Said {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let (name, data) = (field("event").unwrap(), field("data").unwrap());
    let body = |raw: &RawValue| (raw.get() != "null").then(|| Body::Text(raw.get().to_owned()));
    let other = || serde_json::from_str::<OtherJson>(data).unwrap();
    match name {
        "welcome" => Said::Welcome,
        "change" => {
            let change: ChangeJson<'_> = serde_json::from_str(data).unwrap();
            assert_eq!(field("id"), Some(change.cursor.as_str()), "the id is the cursor");
            Said::Change(Box::new(Change {
                partition: change.partition,
                seq: change.seq,
                position: change.position,
                key: change.key,
                operation: change.operation,
                document: body(change.document),
                before: body(change.before),
                cursor: change.cursor,
                transaction: change.transaction.is_some(),
                flags: change.flags,
                matches: change.matches,
            }))
        }
        "progress" => {
            let progress: ProgressJson = serde_json::from_str(data).unwrap();
            Said::Progress(progress.positions, progress.catching_up)
        }
        "resync" => Said::Resync(other().reason, field("id").unwrap().to_owned()),
        "expired" => Said::Expired(other().subscription_ids),
        "revoked" => Said::Revoked(other().subscription_ids),
        "assigned" => Said::Assigned(other().subscription_ids),
        "closed" => Said::Closed(other().reason),
        other => panic!("an event called {other}"),
    }
}
