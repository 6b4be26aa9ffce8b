//! The services over real sockets, with a hub whose answers are written here.

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code as Grpc_, Status, Streaming};
use tonic_types::StatusExt;

use super::super::frame::{CloseReason, Closed, Frame};
use super::super::testing::{FakeHub, change, changes, delivery, position, raw, welcome};
use super::*;
use crate::change::Change;
use crate::error::Code;
use crate::handle::{Command, Transport};
use crate::proto::consume_request::Request as Ask;
use crate::proto::consume_response::Message as Told;
use crate::proto::delivery_client::DeliveryClient;
use crate::proto::{Ack, Body, ConsumeRequest, ConsumeResponse, Heartbeat, Hello};
use crate::subscription::{Name, Operations};
use crate::tasks::Kind;

mod unary;

struct Serving {
    hub: FakeHub,
    channel: Channel,
    tasks: Tasks,
    stop: Option<oneshot::Sender<()>>,
}

fn read(value: &Value) -> Result<Spec, Problem> {
    let id = value["subscriptionId"].as_str().and_then(|id| Name::new(id).ok());
    let bad = || Problem::new(Code::InvalidRequest, "a bad name").at("subscriptionId");
    Ok(Spec {
        subscription_id: id.ok_or_else(bad)?,
        gateway_id: Name::new("gw-1").unwrap(),
        tenant: "acme".into(),
        collection: "messages".into(),
        backend: None,
        filters: Vec::new(),
        cel: None,
        interval: None,
        operations: Operations::ALL,
        transitions: false,
        fields: None,
        start_at: None,
        ttl_seconds: 300,
        generation: None,
    })
}

fn write(view: &SubscriptionView) -> Value {
    serde_json::json!({"subscriptionId": view.spec.subscription_id.as_str(), "state": view.state.name()})
}

async fn serving_with(publish: Option<Publish>) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (hub, tasks) = (FakeHub::new(), Tasks::new());
    let texts = SubscriptionTexts { read, write };
    let door = Door::open(crate::clock::Clock::manual());
    let hub_handle = hub.handle.clone();
    let grpc = Grpc { hub: hub_handle, tasks: tasks.clone(), texts, publish, peers: None, door, tls: Tls::default() };
    let (stop, stopped) = oneshot::channel::<()>();
    tasks.spawn(Kind::Listener, "grpc", async move {
        grpc.serve(listener, async move { drop(stopped.await) }).await.unwrap();
    });
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    Serving { hub, channel, tasks, stop: Some(stop) }
}

async fn serving() -> Serving {
    serving_with(None).await
}

fn hello(gateway: &str) -> Hello {
    Hello { gateway_id: gateway.into(), ..Hello::default() }
}

type Asking = mpsc::Sender<ConsumeRequest>;
type Telling = Result<Streaming<ConsumeResponse>, Status>;

impl Serving {
    /// Begins a stream with this request; the answer comes when the hub has answered.
    fn consume(&self, first: Ask) -> (Asking, impl Future<Output = Telling> + use<>) {
        let (asking, requests) = mpsc::channel(8);
        asking.try_send(ConsumeRequest { request: Some(first) }).unwrap();
        let mut client =
            DeliveryClient::new(self.channel.clone()).max_decoding_message_size(limits::grpc_message_bytes_max);
        let call = async move { Ok(client.consume(ReceiverStream::new(requests)).await?.into_inner()) };
        (asking, call)
    }

    /// A session that the hub grants.
    async fn session(&mut self, hello: Hello) -> (Asking, Streaming<ConsumeResponse>, mpsc::Sender<Vec<Frame>>) {
        let (asking, call) = self.consume(Ask::Hello(hello));
        let (telling, (_, frames)) = tokio::join!(call, self.hub.open());
        (asking, telling.unwrap(), frames)
    }
}

async fn say(asking: &Asking, request: Ask) {
    asking.send(ConsumeRequest { request: Some(request) }).await.unwrap();
}

fn ack(cursor: &str) -> Ask {
    Ask::Ack(Ack { cursor: cursor.into() })
}

async fn told(telling: &mut Streaming<ConsumeResponse>) -> Told {
    telling.message().await.unwrap().unwrap().message.unwrap()
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map_or(String::new(), |info| info.reason.clone())
}

#[tokio::test]
async fn a_session_from_hello_to_closed() {
    let mut serving = serving().await;
    let asked = Hello { cursor: Some("c".into()), max_unacked_bytes: 9, ..hello("gw-1") };
    let (_asking, call) = serving.consume(Ask::Hello(asked));
    let (telling, (hello, frames)) = tokio::join!(call, serving.hub.open());
    let mut telling = telling.unwrap();
    assert_eq!((hello.gateway.as_str(), hello.cursor.unwrap().as_str()), ("gw-1", "c"));
    assert_eq!((hello.transport, hello.auto_ack, hello.unacked_bytes_max), (Transport::Grpc, false, 9));

    frames.send(vec![Frame::Welcome(welcome())]).await.unwrap();
    let Told::Welcome(welcome) = told(&mut telling).await else { panic!("no welcome") };
    assert_eq!((welcome.session, welcome.cursor.as_str(), welcome.heartbeat_seconds), (7, "cursor-0", 20));
    assert_eq!(welcome.positions["default/0"], position(0).to_string());

    frames.send(changes(1..=3)).await.unwrap();
    let Told::Changes(batch) = told(&mut telling).await else { panic!("no changes") };
    let seqs: Vec<u64> = batch.changes.iter().map(|change| change.seq).collect();
    assert_eq!(seqs, [1, 2, 3]);
    let first = &batch.changes[0];
    assert_eq!(
        (first.tenant.as_deref(), first.operation.as_str(), first.key.as_str()),
        (Some("acme"), "insert", "m-9")
    );
    assert_eq!(first.id, format!("default/0/{}", position(1)));
    assert_eq!(first.document.as_deref(), Some(&br#"{"chatId":"c1","stars":4}"#[..]));
    assert_eq!((first.matches[0].generation, first.matches[0].transition.as_str()), (1204, ""));

    frames.send(vec![Frame::Closed(Closed { reason: CloseReason::Overloaded })]).await.unwrap();
    drop(frames);
    let Told::Closed(closed) = told(&mut telling).await else { panic!("not closed") };
    assert_eq!((closed.reason.as_str(), closed.retry_after_ms), ("overloaded", 5_000));
    assert!(telling.message().await.unwrap().is_none(), "after `closed` the stream ends well");
}

#[tokio::test]
async fn acks_and_heartbeats_arrive_while_nobody_reads() {
    let mut serving = serving().await;
    let (asking, _telling, frames) = serving.session(hello("gw-1")).await;
    // More than the connection takes while the client reads nothing.
    let document = Some(raw(&bson::doc! {"x": "x".repeat(1 << 20)}));
    let big = Frame::Change(delivery(1, Change { document, ..change(1) }));
    let stuck = async {
        loop {
            frames.send(vec![big.clone()]).await.unwrap();
        }
    };
    let acks = async {
        for number in 0..3 {
            say(&asking, ack(&format!("c{number}"))).await;
            assert_eq!(serving.hub.ack(Ok(())).await, ("gw-1".into(), format!("c{number}")));
        }
        say(&asking, Ask::Heartbeat(Heartbeat {})).await;
        assert_eq!(serving.hub.renewal().await, "gw-1");
        // Neither a gateway without subscriptions nor a hub in trouble ends the session.
        say(&asking, ack("c3")).await;
        serving.hub.ack(Err(Problem::new(Code::StoreUnavailable, "down"))).await;
        say(&asking, ack("c4")).await;
        serving.hub.ack(Ok(())).await;
    };
    tokio::select! {
        () = stuck => {}
        () = acks => {}
    }
    assert!(!frames.is_closed());
}

#[tokio::test]
async fn a_client_that_goes_away_drops_the_session() {
    let mut serving = serving().await;
    let (asking, telling, frames) = serving.session(hello("gw-1")).await;
    drop((asking, telling));
    frames.closed().await;
}

#[tokio::test]
async fn a_session_that_has_ended_leaves_no_task() {
    let mut serving = serving().await;
    let (_asking, mut telling, frames) = serving.session(hello("gw-1")).await;
    assert!(format!("{:?}", serving.tasks).contains("grpc gw-1"));
    drop(frames);
    assert!(telling.message().await.unwrap().is_none());
    let ended = async {
        while format!("{:?}", serving.tasks).contains("grpc gw-1") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("the reading ends with the session");
}

#[tokio::test]
async fn after_half_close_deliveries_go_on() {
    let mut serving = serving().await;
    let (asking, mut telling, frames) = serving.session(hello("gw-1")).await;
    say(&asking, ack("c")).await;
    drop(asking);
    serving.hub.ack(Ok(())).await;
    for seq in 1..=3 {
        frames.send(changes(seq..=seq)).await.unwrap();
        assert!(matches!(told(&mut telling).await, Told::Changes(_)));
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_ends_the_session() {
    let mut serving = serving().await;
    for (bad, expected) in [(Some(Ask::Hello(hello("gw-1"))), "INVALID_REQUEST"), (None, "INVALID_REQUEST")] {
        let (asking, mut telling, frames) = serving.session(hello("gw-1")).await;
        asking.send(ConsumeRequest { request: bad }).await.unwrap();
        let status = telling.message().await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Grpc_::InvalidArgument, expected.into()));
        frames.closed().await;
    }
    let (asking, mut telling, frames) = serving.session(hello("gw-1")).await;
    say(&asking, ack("another's")).await;
    serving.hub.ack(Err(Problem::new(Code::InvalidCursor, "another gateway's"))).await;
    let status = telling.message().await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Grpc_::InvalidArgument, "INVALID_CURSOR".into()));
    frames.closed().await;

    let (asking, mut telling, frames) = serving.session(hello("gw-1")).await;
    say(&asking, ack(&"c".repeat(limits::grpc_consume_request_bytes_max))).await;
    assert_eq!(telling.message().await.unwrap_err().code(), Grpc_::OutOfRange, "tonic's own word for too large");
    frames.closed().await;
}

#[tokio::test]
async fn a_hello_that_cannot_be_opens_nothing() {
    let mut serving = serving().await;
    let of_group = |gateway: &str, member: &str| {
        Ask::Hello(Hello { gateway_id: gateway.into(), group: "g".into(), member: member.into(), ..Hello::default() })
    };
    let tight = Hello { max_message_bytes: limits::grpc_message_bytes_min as u64 - 1, ..hello("gw-1") };
    for (first, field) in [
        (Ask::Heartbeat(Heartbeat {}), "hello"),
        (ack("c"), "hello"),
        (Ask::Hello(hello("")), "gateway_id"),
        (Ask::Hello(hello("a b")), "gateway_id"),
        (of_group("gw-1", "m"), "group"),
        (of_group("", ""), "member"),
        (of_group("", "a/b"), "member"),
        (Ask::Hello(Hello { body: 9, ..hello("gw-1") }), "body"),
        (Ask::Hello(tight), "max_message_bytes"),
    ] {
        let status = serving.consume(first).1.await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Grpc_::InvalidArgument, "INVALID_REQUEST".into()));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, field);
    }
    assert!(serving.hub.is_idle());

    let (_asking, call) = serving.consume(Ask::Hello(hello("gw-1")));
    let refuse = async {
        let Command::Open(_, reply) = serving.hub.command().await else { panic!("expected a hello") };
        reply.send(Err(Problem::new(Code::DeliveryMismatch, "set to NATS"))).unwrap();
    };
    let (refused, ()) = tokio::join!(call, refuse);
    let status = refused.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Grpc_::FailedPrecondition, "DELIVERY_MISMATCH".into()));
}

#[tokio::test]
async fn messages_keep_to_what_the_client_accepts() {
    let mut serving = serving().await;
    for (asked, max) in
        [(0, limits::grpc_message_bytes_default), (limits::grpc_message_bytes_min, limits::grpc_message_bytes_min)]
    {
        let hello = Hello { max_message_bytes: asked as u64, body: Body::Bson.into(), ..hello("gw-1") };
        let (_asking, call) = serving.consume(Ask::Hello(hello));
        let (telling, (_, frames)) = tokio::join!(call, serving.hub.open());
        let mut telling = telling.unwrap();
        let sized = |seq: u64, bytes: usize| {
            let document = Some(raw(&bson::doc! {"x": "x".repeat(bytes)}));
            Frame::Change(delivery(seq, Change { document, ..change(seq as u32) }))
        };
        frames.send(vec![sized(1, max - 1_000), sized(2, 9_000), sized(3, max), sized(4, 9_000)]).await.unwrap();
        drop(frames);
        let mut received = Vec::new();
        while let Some(response) = telling.message().await.unwrap() {
            assert!(prost::Message::encoded_len(&response) <= max);
            let Some(Told::Changes(batch)) = response.message else { panic!("expected changes") };
            received
                .push(batch.changes.iter().map(|c| (c.seq, c.flags.len(), c.document.is_some())).collect::<Vec<_>>());
        }
        assert_eq!(received, [vec![(1, 0, true)], vec![(2, 0, true), (3, 1, false), (4, 0, true)]]);
    }
}

#[tokio::test]
async fn health_and_reflection_answer() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::{v1, v1alpha};

    let mut serving = serving().await;
    let mut health = HealthClient::new(serving.channel.clone());
    for service in ["", "streamer.v1.Delivery", "streamer.v1.Registry"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }

    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(serving.channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("expected a list of services")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["streamer.v1.Delivery", "streamer.v1.Registry", "streamer.v1.Ingest", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|listed| listed == name), "{name} is not in {names:?}");
    }
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "streamer.v1.Delivery".into(),
        )),
    };
    let mut older = v1alpha::server_reflection_client::ServerReflectionClient::new(serving.channel.clone());
    let mut answers = older.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());

    // A stream that is open when the end begins is told first, and may end by itself.
    let (_asking, mut telling, frames) = serving.session(hello("gw-1")).await;
    let mut watch =
        health.watch(HealthCheckRequest { service: "streamer.v1.Delivery".into() }).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    serving.stop.take().unwrap().send(()).unwrap();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    frames.send(vec![Frame::Closed(Closed { reason: CloseReason::Draining })]).await.unwrap();
    drop(frames);
    assert!(matches!(told(&mut telling).await, Told::Closed(_)));
    assert!(telling.message().await.unwrap().is_none());
}
