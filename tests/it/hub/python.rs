//! A client in another language, generated from the proto, before a whole hub: it registers, sees what is
//! written, acks, and goes on where it left off.

use std::process::Stdio;

use bson::doc;
use reqwest::Method;
use serde_json::{Value, json};
use streamer::clock::Clock;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::consumers::Transport;
use super::nats;
use super::site::{PARTITION, Running, Site, document, soon, until};

/// A consumer that ends after so many changes.
fn consumer(hub: &Running, count: usize) -> Child {
    let root = env!("CARGO_MANIFEST_DIR");
    Command::new(format!("{root}/scripts/python"))
        .arg(format!("{root}/tests/python/consumer.py"))
        .args(["--grpc", hub.grpc_url().trim_start_matches("http://")])
        .args(["--http", hub.http_url().trim_start_matches("http://")])
        .args(["--gateway", "py-1", "--tenant", "acme", "--collection", "messages", "--transitions"])
        .args(["--cel", "doc.n >= 10", "--count", &count.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Its lines, once it has ended well.
async fn lines(mut consumer: Child) -> Vec<Value> {
    let mut out = BufReader::new(consumer.stdout.take().unwrap()).lines();
    let mut lines = Vec::new();
    while let Some(line) = soon("a change", out.next_line()).await.unwrap() {
        lines.push(serde_json::from_str(&line).unwrap());
    }
    assert!(consumer.wait().await.unwrap().success());
    lines
}

async fn write(site: &Site, numbers: std::ops::Range<i32>) {
    for n in numbers {
        let body = doc! { "n": n, "at": bson::DateTime::from_millis(0), "text": "ä\"\n" };
        site.documents().insert_one(document("acme", "messages", &format!("m-{n}"), body)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_client_sees_what_is_written() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    let first = consumer(&hub, 5);
    until("its registration", async || (hub.get("/v1/gateways/py-1/subscriptions/all").await.0 == 200).then_some(()))
        .await;
    let from = site.now().await;
    write(&site, 8..14).await;
    let which = doc! { "_id": "acme:m-12" };
    site.documents().update_one(which, doc! { "$set": { "data.n": 3 } }).await.unwrap();
    let first = lines(first).await;

    let keys: Vec<_> = first.iter().map(|change| change["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["m-10", "m-11", "m-12", "m-13", "m-12"]);
    let transitions: Vec<_> = first.iter().map(|change| change["matches"][0]["transition"].as_str().unwrap()).collect();
    assert_eq!(transitions, ["enter", "enter", "enter", "enter", "leave"]);
    let body = json!({ "n": 10, "at": { "$date": "1970-01-01T00:00:00Z" }, "text": "ä\"\n" });
    assert_eq!((&first[0]["document"], &first[0]["partition"]), (&body, &json!(PARTITION)));
    assert_eq!((&first[4]["operation"], &first[4]["changed"]["set"]), (&json!("update"), &json!({ "n": 3 })));
    assert_eq!(first[4]["before"]["n"], 12);
    let read = site.read(from, site.now().await).await;
    let positions: Vec<_> = read.iter().map(|change| change.position.to_string()).collect();
    let got: Vec<_> = first.iter().map(|change| change["position"].as_str().unwrap()).collect();
    assert_eq!(got, positions[2..], "where they were written");

    // What it acked does not come again, neither to it nor to another client of the gateway.
    write(&site, 14..17).await;
    let keys: Vec<_> = lines(consumer(&hub, 3)).await.iter().map(|change| change["key"].clone()).collect();
    assert_eq!(keys, ["m-14", "m-15", "m-16"]);
    let mut session = hub.open(Transport::Sse, "py-1", None).await;
    assert_eq!(site.all(&mut session).await.len(), 0);
    hub.drain().await;
    site.remove().await;
}

/// One that takes from the stream until it has had so many changes that are new to it.
fn taker(url: &str, state: &std::path::Path, count: usize, crashes: bool) -> Child {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new(format!("{root}/scripts/python"));
    command
        .arg(format!("{root}/tests/python/nats_consumer.py"))
        .args(["--nats", url, "--gateway", "edge.py", "--count", &count.to_string(), "--state"])
        .arg(state)
        .args(crashes.then_some("--crash"));
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_gateway_takes_from_the_stream_each_once_through_its_own_end() {
    let (server, site, mut config, folder) = nats::place(1_000).await;
    config.nats.gateways = vec!["edge.*".into()];
    let hub = Running::start(&config, Clock::system()).await;
    let asked = json!({
        "subscriptionId": "all", "gatewayId": "edge.py", "tenant": "acme", "collection": "messages", "cel": "doc.n >= 10",
    });
    assert_eq!(hub.call(Method::POST, "/v1/subscriptions", Some(&asked)).await.0, 201);
    let is_served = async || (hub.get("/v1/gateways/edge.py").await.1["session"]["transport"] == "nats").then_some(());
    until("a publisher", is_served).await;
    let state = folder.path().join("edge.json");
    let keys = async |taker| lines(taker).await.iter().map(|change| change["key"].clone()).collect::<Vec<_>>();
    write(&site, 8..12).await;
    assert_eq!(keys(taker(&server.url(), &state, 2, true)).await, ["m-10", "m-11"]);
    // What it left there comes first, and it knows it.
    write(&site, 12..14).await;
    assert_eq!(keys(taker(&server.url(), &state, 2, false)).await, ["m-12", "m-13"]);
    hub.drain().await;
    site.remove().await;
}
