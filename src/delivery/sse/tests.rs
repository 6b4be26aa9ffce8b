//! Streams and acks over real sockets, and `?ack=auto` under a clock of the test's own.

use std::net::SocketAddr;

use futures::StreamExt;
use tokio::net::TcpListener;

use super::super::frame::{CloseReason, Closed};
use super::super::testing::{FakeHub, changes, cursor, progress, welcome};
use super::*;
use crate::handle::Command;
use crate::tasks::{Kind, Tasks};

async fn serving(hub: &FakeHub) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = routes(hub.handle.clone());
    Tasks::new().spawn(Kind::Listener, "sse", async move { axum::serve(listener, app).await.unwrap() });
    address
}

/// Reads one event of an answer: its name, its id and its data.
async fn event(response: &mut reqwest::Response, read: &mut Vec<u8>) -> Option<(String, Option<String>, Value)> {
    let end = loop {
        match read.windows(2).position(|two| two == b"\n\n") {
            Some(end) => break end,
            None => read.extend_from_slice(&response.chunk().await.unwrap()?),
        }
    };
    let text = String::from_utf8(read.drain(..end + 2).collect()).unwrap();
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    Some((line("event: ")?, line("id: "), serde_json::from_str(&line("data: ")?).unwrap()))
}

async fn problem(response: reqwest::Response) -> (u16, Value) {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn a_session_arrives_as_events_and_ends() {
    let mut hub = FakeHub::new();
    let url = format!("http://{}/v1/gateways/gw-1/stream", serving(&hub).await);
    let (response, (hello, frames)) = tokio::join!(reqwest::get(url), hub.open());
    let mut response = response.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!((hello.gateway.as_str(), hello.cursor, hello.auto_ack), ("gw-1", None, false));
    assert_eq!(hello.transport, Transport::Sse);

    frames.send(vec![Frame::Welcome(welcome())]).await.unwrap();
    frames.send(changes(1..=2)).await.unwrap();
    frames
        .send(vec![Frame::Progress(progress(3)), Frame::Closed(Closed { reason: CloseReason::Draining })])
        .await
        .unwrap();
    drop(frames);
    let mut read = Vec::new();
    let mut next = async || event(&mut response, &mut read).await;
    let (name, id, data) = next().await.unwrap();
    assert_eq!((name.as_str(), id.as_deref(), &data["session"]), ("welcome", Some("cursor-0"), &7.into()));
    for seq in 1..=2 {
        let (name, id, data) = next().await.unwrap();
        assert_eq!((name.as_str(), id), ("change", Some(format!("cursor-{seq}"))));
        assert_eq!((&data["seq"], &data["document"]["stars"]), (&seq.into(), &4.into()));
    }
    assert_eq!(next().await.unwrap().0, "progress");
    let (name, id, data) = next().await.unwrap();
    assert_eq!((name.as_str(), id, &data["reason"]), ("closed", None, &"draining".into()));
    assert!(next().await.is_none(), "the answer ends after `closed`");
    assert!(hub.is_idle(), "nothing is acked that nobody acked");
}

#[tokio::test]
async fn a_client_that_goes_away_drops_the_session() {
    let mut hub = FakeHub::new();
    let url = format!("http://{}/v1/gateways/gw-1/stream", serving(&hub).await);
    let (response, (_, frames)) = tokio::join!(reqwest::get(url), hub.open());
    drop(response);
    frames.closed().await;
}

#[tokio::test]
async fn the_last_event_id_comes_before_the_cursor() {
    let mut hub = FakeHub::new();
    let url = format!("http://{}/v1/gateways/gw-1/stream?cursor=from-query&ack=auto", serving(&hub).await);
    for (header, expected) in [(Some("from-header"), "from-header"), (None, "from-query"), (Some(""), "from-query")] {
        let mut request = reqwest::Client::new().get(&url);
        if let Some(header) = header {
            request = request.header("Last-Event-ID", header);
        }
        let (response, (hello, _frames)) = tokio::join!(request.send(), hub.open());
        assert_eq!((hello.cursor.unwrap().as_str(), hello.auto_ack), (expected, true));
        // The stream's first act; no other command may be mistaken for the next hello.
        assert_eq!(hub.renewal().await, "gw-1");
        drop(response);
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let mut hub = FakeHub::new();
    let base = format!("http://{}/v1/gateways", serving(&hub).await);
    for (path, field) in [
        ("a%20b/stream", "gatewayId"),
        ("%FF/stream", "gatewayId"),
        ("gw-1/stream?ack=manual", "ack"),
        ("gw-1/stream?ack=auto&ack=auto", "ack"),
        ("gw-1/stream?curser=x", "curser"),
    ] {
        let (status, document) = problem(reqwest::get(format!("{base}/{path}")).await.unwrap()).await;
        assert_eq!(
            (status, &document["code"], &document["field"]),
            (422, &"INVALID_REQUEST".into(), &field.into()),
            "{path}"
        );
    }
    let head = reqwest::Client::new().head(format!("{base}/gw-1/stream")).send().await.unwrap();
    assert_eq!((head.status().as_u16(), &head.headers()["allow"]), (405, &HeaderValue::from_static("GET")));
    assert!(hub.is_idle(), "none of these may reach the hub");

    let answer = async {
        let Command::Open(_, reply) = hub.command().await else { panic!("expected a hello") };
        reply.send(Err(Problem::new(Code::InvalidCursor, "not a cursor of this hub"))).unwrap();
    };
    let (response, ()) = tokio::join!(reqwest::get(format!("{base}/gw-1/stream?cursor=x")), answer);
    let (status, document) = problem(response.unwrap()).await;
    assert_eq!((status, &document["code"]), (400, &"INVALID_CURSOR".into()));
}

#[tokio::test]
async fn an_ack_reaches_the_hub() {
    let mut hub = FakeHub::new();
    let url = format!("http://{}/v1/gateways/gw-1/ack", serving(&hub).await);
    let post = |body: &'static str| {
        reqwest::Client::new().post(&url).header("content-type", "application/json; charset=utf-8").body(body).send()
    };
    let (response, ack) = tokio::join!(post(r#"{"cursor":"c"}"#), hub.ack(Ok(())));
    assert_eq!((response.unwrap().status().as_u16(), ack), (204, ("gw-1".into(), "c".into())));
    let refused = Problem::new(Code::InvalidCursor, "another gateway's");
    let (response, _) = tokio::join!(post(r#"{"cursor":"c"}"#), hub.ack(Err(refused)));
    assert_eq!(problem(response.unwrap()).await.0, 400);

    for (body, status, field) in [
        (r#"{"cursor":"c","x":1}"#, 422, Some("x")),
        (r#"{"cursor":1}"#, 422, Some("cursor")),
        ("{}", 422, Some("cursor")),
        ("[]", 422, None),
        ("{", 400, None),
        (r#"{"cursor":"c","cursor":"d"}"#, 400, None),
        ("", 400, None),
    ] {
        let (was, document) = problem(post(body).await.unwrap()).await;
        assert_eq!((was, document.get("field").and_then(Value::as_str)), (status, field), "{body}");
        assert_eq!(document["code"], "INVALID_REQUEST");
    }
    let form = reqwest::Client::new().post(&url).header("content-type", "text/plain").body("{}").send().await;
    assert_eq!(problem(form.unwrap()).await.1["code"], "UNSUPPORTED_MEDIA_TYPE");
    assert!(hub.is_idle());
}

fn auto(hub: &FakeHub) -> (tokio::sync::mpsc::Sender<Vec<Frame>>, impl Stream<Item = Bytes> + Unpin + use<>) {
    let (frames, session) = Session::scripted(7);
    let keeper = Keeper::new(hub.handle.clone(), Name::new("gw-1").unwrap());
    (frames, Box::pin(chunks(session, Some(keeper)).map(|chunk| chunk.unwrap())))
}

#[tokio::test(start_paused = true)]
async fn auto_ack_waits_until_the_connection_has_taken_the_chunk() {
    let mut hub = FakeHub::new();
    let (frames, mut body) = auto(&hub);
    // The first poll renews; the answer is awaited beside the deliveries.
    let (first, renewed) = tokio::join!(
        async {
            frames.send(changes(1..=2)).await.unwrap();
            body.next().await.unwrap()
        },
        hub.renewal()
    );
    assert_eq!((renewed.as_str(), first.is_empty()), ("gw-1", false));
    tokio::task::yield_now().await;
    assert!(hub.is_idle(), "the connection has not asked for more: it may not have taken this");

    let ((), ack) = tokio::join!(
        async {
            frames.send(changes(3..=3)).await.unwrap();
            body.next().await.unwrap();
        },
        async { hub.ack(Ok(())).await }
    );
    assert_eq!(ack, ("gw-1".into(), cursor(2).to_string()), "all of the first chunk, nothing of the second");
    // The last chunk is acked before the answer ends.
    drop(frames);
    let (end, ack) = tokio::join!(body.next(), hub.ack(Ok(())));
    assert_eq!((end, ack.1), (None, cursor(3).to_string()));
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_with_auto_ack_renews_in_time() {
    let mut hub = FakeHub::new();
    let (_frames, mut body) = auto(&hub);
    let start = tokio::time::Instant::now();
    tokio::select! {
        _ = body.next() => panic!("nothing was sent"),
        () = async { for _ in 0..4 { hub.renewal().await; } } => {}
    }
    assert!(start.elapsed().as_secs() <= 3 * u64::from(limits::lease_renewal_seconds) + 1);
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_does_not_answer_holds_up_no_delivery() {
    let mut hub = FakeHub::new();
    let (frames, mut body) = auto(&hub);
    for seq in 1..=3 {
        frames.send(changes(seq..=seq)).await.unwrap();
        assert!(body.next().await.is_some());
    }
    // Only the renewal was asked: the acks wait for its answer, and the latest covers the others.
    assert_eq!(hub.renewal().await, "gw-1");
    tokio::select! {
        _ = body.next() => panic!("nothing was sent"),
        ack = hub.ack(Ok(())) => assert_eq!(ack.1, cursor(3).to_string()),
    }
}
