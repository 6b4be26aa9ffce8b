//! A client in another language, generated from the proto: it registers, consumes and acks.
//!
//! Here against the real transports before a hub whose answers are written; the script itself runs
//! against any hub.

use std::process::Stdio;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use bson::{RawDocumentBuf, doc};
use serde_json::{Value, json};
use streamer::access::{Door, Tls};
use streamer::change::{Change, Changed, Flags, Operation, Scope, Transaction};
use streamer::clock::Clock;
use streamer::cursor::CursorText;
use streamer::delivery::body::SharedChange;
use streamer::delivery::frame::{Delivery, Frame, Matched, Progress, Welcome};
use streamer::delivery::grpc::{Grpc, SubscriptionTexts};
use streamer::delivery::session::Session;
use streamer::delivery::sse;
use streamer::edge::HubHandle;
use streamer::handle::Command;
use streamer::position::{ClusterTime, Epoch, PartitionId, Position};
use streamer::subscription::Name;
use streamer::tasks::{Kind, Tasks};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

fn position(ordinal: u32) -> Position {
    Position::new(Epoch(1), ClusterTime::new(1_763_690_000, 3), ordinal)
}

fn cursor(number: u64) -> CursorText {
    CursorText(format!("cursor-{number}").into())
}

fn partition() -> PartitionId {
    PartitionId::new("default", 0)
}

fn raw(document: bson::Document) -> RawDocumentBuf {
    RawDocumentBuf::from_bytes(bson::serialize_to_vec(&document).unwrap()).unwrap()
}

fn change(seq: u64) -> Frame {
    let change = Change {
        position: position(seq as u32),
        scope: Scope::known("acme", "messages"),
        left: None,
        key: format!("m-{seq}").into(),
        operation: Operation::Update,
        document: Some(raw(doc! {"n": seq as i64, "at": bson::DateTime::from_millis(0)})),
        before: None,
        changed: Some(Changed { set: raw(doc! {"n": seq as i64}), removed: vec!["old".into()] }),
        wall_time_ms: Some(1_763_690_000_120),
        transaction: Some(Transaction { id: "a session".into(), number: 7 }),
        flags: Flags::LOOKUP,
    };
    let matched =
        Matched { subscription_id: Name::new("all").unwrap(), generation: 4, transition: None, certainty: None };
    Frame::Change(Delivery {
        partition: partition(),
        seq,
        cursor: cursor(seq),
        flags: change.flags,
        change: Arc::new(SharedChange::new(change)),
        matches: vec![matched],
        left_scope: false,
        fields: None,
        with_before: false,
    })
}

/// Answers as a hub would: a session of two batches, the second after the ack of the first. Returns
/// the acks.
async fn hub(mut commands: mpsc::Receiver<Command>) -> Vec<String> {
    let mut acks = Vec::new();
    let mut session = None;
    while let Some(command) = commands.recv().await {
        match command {
            Command::Open(hello, reply) => {
                assert_eq!(hello.gateway.as_str(), "py-1");
                let (frames, opened) = Session::scripted(7);
                reply.send(Ok(opened)).unwrap();
                let welcome = Welcome {
                    session: 7,
                    node: "hub-1".into(),
                    cursor: cursor(0),
                    positions: vec![(partition(), position(0))],
                    heartbeat_seconds: 20,
                };
                frames.send(vec![Frame::Welcome(welcome)]).await.unwrap();
                frames.send((1..=3).map(change).collect()).await.unwrap();
                session = Some(frames);
            }
            Command::Ack(gateway, cursor, _, reply) => {
                assert_eq!(gateway.as_str(), "py-1");
                acks.push(cursor.to_string());
                reply.send(Ok(())).unwrap();
                if acks.len() == 2 {
                    return acks;
                }
                let progress = Progress { cursor, positions: Vec::new(), catching_up: 0 };
                let frames = vec![Frame::Progress(progress), change(4), change(5)];
                session.as_ref().unwrap().send(frames).await.unwrap();
            }
            other => drop(other),
        }
    }
    acks
}

#[tokio::test]
async fn a_generated_python_client_consumes_and_acks() {
    let tasks = Tasks::new();
    let (handle, commands) = HubHandle::single(16);
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (http_address, grpc_address) = (http.local_addr().unwrap(), grpc.local_addr().unwrap());
    let (registered, mut registrations) = mpsc::channel::<Value>(1);
    let register = post(|axum::Json(body): axum::Json<Value>| async move {
        registered.send(body).await.unwrap();
        (StatusCode::CREATED, axum::Json(json!({"state": "live"})))
    });
    let app: Router = sse::routes(handle.clone()).route("/v1/subscriptions", register);
    tasks.spawn(Kind::Listener, "http", async move { axum::serve(http, app).await.unwrap() });
    let texts = SubscriptionTexts {
        read: |_| unreachable!("the client registers over HTTP"),
        write: |_| unreachable!("the client registers over HTTP"),
    };
    let (door, tls) = (Door::open(Clock::system()), Tls::default());
    let services = Grpc { hub: handle, tasks: tasks.clone(), texts, publish: None, peers: None, door, tls };
    tasks.spawn(Kind::Listener, "grpc", async move { services.serve(grpc, std::future::pending()).await.unwrap() });

    let root = env!("CARGO_MANIFEST_DIR");
    let consumer = tokio::process::Command::new(format!("{root}/scripts/python"))
        .arg(format!("{root}/tests/python/consumer.py"))
        .args(["--grpc", &grpc_address.to_string(), "--http", &http_address.to_string()])
        .args(["--gateway", "py-1", "--tenant", "acme", "--collection", "messages", "--count", "5"])
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    tokio::pin!(consumer);
    let acks = tokio::select! {
        biased;
        acks = hub(commands) => acks,
        output = &mut consumer => panic!("the consumer ended early: {:?}", output.unwrap().status),
    };
    let output = consumer.await.unwrap();
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(acks, ["cursor-3", "cursor-5"]);
    let asked = registrations.recv().await.unwrap();
    assert_eq!(
        (&asked["subscriptionId"], &asked["gatewayId"], &asked["tenant"]),
        (&json!("all"), &json!("py-1"), &json!("acme"))
    );

    // What Python has understood is what SSE would have said.
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = (1..=5).map(|seq| {
        let mut text = Vec::new();
        streamer::delivery::json::write_frame(&mut text, &change(seq));
        serde_json::from_slice::<Value>(&text).unwrap()
    });
    assert_eq!(lines, expected.collect::<Vec<_>>());
}
