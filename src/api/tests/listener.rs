//! The listener: both versions of HTTP, slow and vanishing clients, and the end.

use crate::access::Tls;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

async fn listening(router: Router) -> (SocketAddr, Tasks) {
    let (tasks, listener) = (Tasks::new(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let serving = tasks.clone();
    tasks.spawn(Kind::Listener, "http", async move { serve(listener, Tls::default(), router, &serving).await });
    (address, tasks)
}

#[tokio::test]
async fn both_versions_on_one_port() {
    let api = Api::start().await;
    let two = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{}/health", api.address);
    let response = two.get(&url).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, reqwest::Version::HTTP_2));
    let response = api.client.get(&url).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, reqwest::Version::HTTP_11));
    let refused = two.post(format!("http://{}/v1/subscriptions", api.address)).body("{").send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 400);
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request_after_a_refusal() {
    let api = Api::start().await;
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    for _ in 0..2 {
        stream
            .write_all(b"DELETE /v1/gateways HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}")
            .await
            .unwrap();
        let mut head = Vec::new();
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 405"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
    }
}

/// A route that streams what the test sends.
fn streaming(chunks: mpsc::Receiver<Bytes>) -> Router {
    let chunks = Arc::new(std::sync::Mutex::new(Some(chunks)));
    Router::new().route(
        "/stream",
        get(move || {
            let chunks = chunks.lock().unwrap().take().unwrap();
            async move { Body::from_stream(ReceiverStream::new(chunks).map(Ok::<_, std::convert::Infallible>)) }
        }),
    )
}

#[tokio::test]
async fn a_stream_is_not_buffered_and_outlives_the_beginning_of_the_end() {
    let (sender, chunks) = mpsc::channel(1);
    let (address, tasks) = listening(streaming(chunks)).await;
    let mut response = reqwest::get(format!("http://{address}/stream")).await.unwrap();
    for text in ["a", "b"] {
        sender.send(Bytes::from(text)).await.unwrap();
        assert_eq!(response.chunk().await.unwrap().unwrap(), text);
    }
    tasks.shutdown_token().cancel();
    sender.send(Bytes::from("c")).await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "c");
    drop(sender);
    assert!(response.chunk().await.unwrap().is_none());
    assert!(tasks.drain(Duration::from_secs(30)).await.is_empty(), "nothing is left behind");
    assert!(TcpStream::connect(address).await.is_err(), "the port is free");
}

#[tokio::test]
async fn a_client_that_vanishes_ends_its_stream() {
    let (sender, chunks) = mpsc::channel(1);
    let (address, tasks) = listening(streaming(chunks)).await;
    let response = reqwest::get(format!("http://{address}/stream")).await.unwrap();
    drop(response);
    sender.closed().await;
    assert!(tasks.drain(Duration::from_secs(30)).await.is_empty());
}

#[tokio::test]
async fn stragglers_are_named() {
    let (_sender, chunks) = mpsc::channel(1);
    let (address, tasks) = listening(streaming(chunks)).await;
    let _response = reqwest::get(format!("http://{address}/stream")).await.unwrap();
    let left = tasks.drain(Duration::from_millis(50)).await;
    assert!(left.len() == 1 && left[0].starts_with("Session http 127.0.0.1:"), "{left:?}");
}

#[tokio::test]
async fn idle_connections_are_closed_at_the_end() {
    let api = Api::start().await;
    assert_eq!(api.call("GET", "/health").await.status, 200);
    let _idle = TcpStream::connect(api.address).await.unwrap();
    api.tasks.shutdown_token().cancel();
    assert!(api.tasks.drain(Duration::from_secs(30)).await.iter().all(|name| name == "Partition fake"));
}

/// Who connects and says nothing, or only begins to, does not stay, and holds up no drain.
#[tokio::test(start_paused = true)]
async fn who_asks_nothing_is_sent_away() {
    let api = Api::start().await;
    for said in [&b""[..], b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut silent = TcpStream::connect(api.address).await.unwrap();
        silent.write_all(said).await.unwrap();
        let mut heard = Vec::new();
        // Paused time goes on when nothing else does.
        let ended = tokio::time::timeout(Duration::from_secs(120), silent.read_to_end(&mut heard)).await;
        assert!(ended.is_ok(), "{said:?}");
    }
}
