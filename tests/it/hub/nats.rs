//! Delivery by NATS JetStream: a whole hub, a real server, and consumers that take from the stream as a gateway does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, Message};
use bson::doc;
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use streamer::client::{Backoff, Client, ClientConfig, Item, NatsConfig, State};
use streamer::clock::Clock;
use streamer::cmd::rig::{self, Nats};
use streamer::config::Config;
use streamer::nats::{Endpoint, Login};
use streamer::position::Position;
use tempfile::TempDir;

use super::consumers::{Said, Session, Transport};
use super::history::{heard, register, until_key, write};
use super::site::{Running, Site, document, soon, until};

/// A NATS server, and a hub's configuration that names it.
pub(super) async fn place(subject_messages: u32) -> (Nats, Site, Config, TempDir) {
    let (program, folder) = (rig::find("nats-server", None, "STREAMER_NATS").unwrap(), rig::folder().unwrap());
    let nats = Nats::start(&program, folder.path(), "").await.unwrap();
    let site = Site::new().await;
    let mut config = site.config();
    config.nats.url = nats.url();
    config.nats.gateways = vec!["edge-*".into()];
    config.nats.subject_messages = subject_messages;
    (nats, site, config, folder)
}

/// A gateway that takes from the stream, and drops by position what it has had.
struct Taker {
    url: String,
    gateway: String,
    consumer: PullConsumer,
    last: Option<Position>,
    /// Dropped: it had them.
    again: usize,
    /// The messages' names in order, without repetitions of one after the other.
    names: Vec<String>,
    /// The cursor of the last message.
    cursor: String,
}

impl Taker {
    async fn new(nats: &Nats, gateway: &str) -> Self {
        let consumer = until("a consumer", async || consumer(&nats.url(), gateway).await).await;
        let (url, gateway) = (nats.url(), gateway.to_owned());
        Self { url, gateway, consumer, last: None, again: 0, names: Vec::new(), cursor: String::new() }
    }

    /// The changes up to the one with this key, each once.
    async fn until_key(&mut self, key: &str) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        let taking = async {
            while all.last().is_none_or(|last| last["key"] != key) {
                for change in self.next().await {
                    all.push(change);
                }
            }
        };
        soon(key, taking).await;
        all
    }

    async fn keys_until(&mut self, key: &str) -> Vec<String> {
        self.until_key(key).await.iter().map(|change| change["key"].as_str().unwrap().to_owned()).collect()
    }

    /// The changes of the next message.
    async fn next(&mut self) -> Vec<Value> {
        let Some(message) = self.message().await else { return Vec::new() };
        let text: Value = serde_json::from_slice(&message.payload).unwrap();
        let header = |name: &str| message.headers.as_ref().unwrap().get(name).unwrap().as_str().to_owned();
        let name = header("Streamer-Message");
        self.cursor = header("Streamer-Cursor");
        if self.names.last() != Some(&name) {
            self.names.push(name.clone());
        }
        message.ack().await.unwrap();
        if name != "changes" {
            return Vec::new();
        }
        let changes = text["changes"].as_array().unwrap();
        let (id, expected) = (header("Nats-Msg-Id"), id_of(&self.gateway, changes));
        // What was published before has a number at its end.
        let rest = id.strip_prefix(&expected).unwrap_or_else(|| panic!("{id} instead of {expected}"));
        assert!(rest.is_empty() || rest.starts_with('/'), "{id}");
        assert_eq!(changes.last().unwrap()["cursor"], self.cursor.as_str());
        let mut taken = Vec::new();
        for change in changes {
            assert_eq!(change.get("seq"), None);
            let position: Position = change["position"].as_str().unwrap().parse().unwrap();
            if self.last.is_some_and(|last| position <= last) {
                self.again += 1;
                continue;
            }
            self.last = Some(position);
            taken.push(change.clone());
        }
        taken
    }

    /// One message; none while the server is away, or the consumer is gone with its stream.
    async fn message(&mut self) -> Option<Message> {
        let batch = self.consumer.fetch().max_messages(1).expires(Duration::from_millis(300)).messages().await;
        let message = match batch {
            Ok(mut batch) => batch.next().await,
            Err(_) => None,
        };
        if let Some(Ok(message)) = message {
            return Some(message);
        }
        if let Some(anew) = consumer(&self.url, &self.gateway).await {
            self.consumer = anew;
        }
        None
    }
}

async fn consumer(url: &str, gateway: &str) -> Option<PullConsumer> {
    let context = jetstream::new(async_nats::connect(url).await.ok()?);
    let name = gateway.replace('.', "_");
    let config = pull::Config {
        durable_name: Some(name.clone()),
        filter_subject: format!("streamer.v1.deliver.{}.>", gateway.replace('.', "%2E")),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    context.get_stream("STREAMER").await.ok()?.get_or_create_consumer(&name, config).await.ok()
}

async fn jetstream_of(nats: &Nats) -> jetstream::Context {
    jetstream::new(async_nats::connect(nats.url()).await.unwrap())
}

/// Killed, and without anything that it had stored when it is back.
async fn start_empty(nats: &mut Nats) {
    nats.kill().await.unwrap();
    nats.lose_storage().unwrap();
    nats.restart().await.unwrap();
}

/// As the wire's description says.
fn id_of(gateway: &str, changes: &[Value]) -> String {
    let mut lines = String::new();
    for change in changes {
        for matched in change["matches"].as_array().unwrap() {
            let (position, id) = (change["position"].as_str().unwrap(), matched["subscriptionId"].as_str().unwrap());
            lines += &format!("{position} {id} {}\n", matched["generation"]);
        }
    }
    let digest: String = Sha256::digest(lines).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let at = |change: Option<&Value>| change.unwrap()["position"].as_str().unwrap().to_owned();
    format!("{gateway}/default/0/{}-{}/{digest}", at(changes.first()), at(changes.last()))
}

async fn write_all(site: &Site, keys: &[&str]) {
    for key in keys {
        write(site, key).await;
    }
}

async fn serve_by(hub: &Running, gateway: &str, mode: &str) {
    let asked = json!({ "delivery": mode });
    let (status, answer) = hub.call(Method::PUT, &format!("/v1/gateways/{gateway}"), Some(&asked)).await;
    assert_eq!((status, &answer["delivery"]), (200, &json!(mode)));
}

/// Waits until the hub says that everything that has been written is in the stream.
async fn is_published(site: &Site, hub: &Running, gateway: &str) {
    let end = site.now().await;
    site.mark().await;
    let stands = async || {
        let (_, view) = hub.get(&format!("/v1/gateways/{gateway}")).await;
        // Without a publisher it is quiet, and comes as far as that with nothing published.
        let is_served = view["session"]["transport"] == "nats";
        let cursor = streamer::cursor::Cursor::decode(view["cursor"].as_str()?).ok()?;
        (is_served && cursor.places.values().next()?.position.time > end).then_some(())
    };
    until("a cursor that has come so far", stands).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_takes_from_the_stream_and_carries_its_cursor_to_other_transports_and_back() {
    let (nats, site, config, _folder) = place(1_000).await;
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "gw.1").await;
    serve_by(&hub, "gw.1", "nats").await;
    write_all(&site, &["a", "b"]).await;
    let mut taker = Taker::new(&nats, "gw.1").await;
    assert_eq!(taker.keys_until("b").await, ["a", "b"]);
    assert_eq!(taker.names, ["welcome", "changes"]);
    let (_, view) = hub.get("/v1/gateways/gw.1").await;
    assert_eq!((&view["session"]["transport"], &view["delivery"]), (&json!("nats"), &json!("nats")));

    for transport in [Transport::Sse, Transport::GrpcJson] {
        let refused = Session::try_open(transport, &hub.http_url(), &hub.grpc_url(), "gw.1", None).await;
        assert!(refused.is_none());
    }
    let (status, problem) = hub.get("/v1/gateways/gw.1/stream").await;
    assert_eq!((status, &problem["code"]), (409, &json!("DELIVERY_MISMATCH")));

    // What it has not taken from the stream it gets by its cursor.
    write_all(&site, &["c", "d"]).await;
    is_published(&site, &hub, "gw.1").await;
    serve_by(&hub, "gw.1", "stream").await;
    let mut session = hub.open(Transport::Sse, "gw.1", Some(&taker.cursor)).await;
    let all = until_key(&mut session, "d").await;
    let keys: Vec<_> =
        all.iter().filter_map(|said| if let Said::Change(it) = said { Some(&*it.key) } else { None }).collect();
    assert_eq!(keys, ["c", "d"]);
    let Some(Said::Change(last)) = all.last() else { panic!("{all:?}") };
    session.ack(&last.cursor).await;

    // Ended by the next one's right to be served.
    serve_by(&hub, "gw.1", "nats").await;
    write(&site, "e").await;
    assert_eq!(taker.keys_until("e").await, ["c", "d", "e"], "it had left these in the stream");
    // Nobody renews its leases by taking.
    assert_eq!(hub.get("/v1/gateways/gw.1").await.1["state"], "live");
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_hub_loses_and_doubles_nothing_and_keeps_how_a_gateway_is_served() {
    let (nats, site, config, _folder) = place(1_000).await;
    let mut hub = Running::start(&config, Clock::system()).await;
    register(&hub, "edge-1").await;
    register(&hub, "other").await;
    serve_by(&hub, "other", "nats").await;
    let mut expected = Vec::new();
    for round in 0..4 {
        for number in 0..20 {
            let key = format!("{round}/{number}");
            write(&site, &key).await;
            expected.push(key);
        }
        if round == 3 {
            is_published(&site, &hub, "other").await;
        }
        hub.drain().await;
        write(&site, &format!("{round}/away")).await;
        expected.push(format!("{round}/away"));
        hub = Running::start(&config, Clock::system()).await;
    }
    write(&site, "end").await;
    expected.push("end".into());
    for gateway in ["edge-1", "other"] {
        let mut taker = Taker::new(&nats, gateway).await;
        assert_eq!(taker.keys_until("end").await, expected);
        assert_eq!(taker.again, 0, "acks are stored when the hub ends in order");
    }
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_or_frozen_holds_up_its_gateways_only() {
    let (mut nats, site, config, _folder) = place(1_000).await;
    let hub = Running::start(&config, Clock::system()).await;
    for gateway in ["edge-1", "near"] {
        register(&hub, gateway).await;
    }
    let mut near = hub.open(Transport::GrpcJson, "near", None).await;
    let mut taker = Taker::new(&nats, "edge-1").await;
    let mut expected = Vec::new();
    for (round, is_kill) in [true, false, true].into_iter().enumerate() {
        let keys = ["before", "during", "after"].map(|when| format!("{round}/{when}"));
        write(&site, &keys[0]).await;
        if is_kill {
            nats.kill().await.unwrap()
        } else {
            nats.freeze().await.unwrap()
        }
        write(&site, &keys[1]).await;
        until_key(&mut near, &keys[1]).await;
        if !is_kill {
            // Long enough for an answer to be given up.
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
        if is_kill {
            nats.restart().await.unwrap()
        } else {
            nats.thaw().await.unwrap()
        }
        write(&site, &keys[2]).await;
        expected.extend(keys);
    }
    assert_eq!(taker.keys_until("2/after").await, expected);
    until_key(&mut near, "2/after").await;
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_or_restored_storage_had_of_a_gateway_comes_again_if_it_had_not_taken_it() {
    let (mut nats, site, config, _folder) = place(1_000).await;
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "edge-1").await;
    let mut taker = Taker::new(&nats, "edge-1").await;
    for key in ["a", "b", "c"] {
        // Each in a message of its own.
        write(&site, key).await;
        is_published(&site, &hub, "edge-1").await;
    }
    assert_eq!(taker.keys_until("b").await.last().unwrap(), "b");
    // Time to see what it has taken.
    tokio::time::sleep(Duration::from_secs(6)).await;
    write_all(&site, &["d", "e"]).await;
    is_published(&site, &hub, "edge-1").await;

    start_empty(&mut nats).await;
    write(&site, "f").await;
    assert_eq!(taker.keys_until("f").await, ["c", "d", "e", "f"]);

    write(&site, "g").await;
    is_published(&site, &hub, "edge-1").await;
    nats.kill().await.unwrap();
    nats.back_up().unwrap();
    nats.restart().await.unwrap();
    write_all(&site, &["h", "i"]).await;
    is_published(&site, &hub, "edge-1").await;
    nats.kill().await.unwrap();
    nats.restore().unwrap();
    // The hub learns of it when it is there again.
    hub.drain().await;
    nats.restart().await.unwrap();
    let hub = Running::start(&config, Clock::system()).await;
    write(&site, "j").await;
    assert_eq!(taker.keys_until("j").await, ["g", "h", "i", "j"]);
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_subject_holds_up_nobody_else_and_goes_on_when_it_is_taken_from() {
    let (nats, site, config, _folder) = place(2).await;
    let hub = Running::start(&config, Clock::system()).await;
    for gateway in ["edge-full", "edge-free", "near"] {
        register(&hub, gateway).await;
    }
    let mut near = hub.open(Transport::GrpcJson, "near", None).await;
    let mut free = Taker::new(&nats, "edge-free").await;
    let keys: Vec<String> = (0..30).map(|number| format!("k{number}")).collect();
    for key in &keys {
        write(&site, key).await;
        assert_eq!(free.keys_until(key).await, [key.as_str()]);
    }
    until_key(&mut near, "k29").await;
    let mut full = Taker::new(&nats, "edge-full").await;
    assert_eq!(full.keys_until("k29").await, keys);
    assert_eq!((full.again, free.again), (0, 0));
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_would_lose_messages_is_not_published_to_until_it_is_mended() {
    let (nats, site, config, _folder) = place(1_000).await;
    let context = jetstream_of(&nats).await;
    let mut stream = jetstream::stream::Config {
        name: "STREAMER".into(),
        subjects: vec!["streamer.v1.deliver.>".into()],
        retention: jetstream::stream::RetentionPolicy::WorkQueue,
        max_messages_per_subject: 100,
        ..jetstream::stream::Config::default()
    };
    context.create_stream(stream.clone()).await.unwrap();
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "edge-1").await;
    write(&site, "a").await;
    let told = async || {
        let (_, health) = hub.get("/health").await;
        let text = health.to_string();
        text.contains("nats stream edit STREAMER --discard new").then_some(())
    };
    until("a word", told).await;
    assert!(hub.get("/health").await.1.to_string().contains("nats"));
    stream.discard = jetstream::stream::DiscardPolicy::New;
    stream.discard_new_per_subject = true;
    context.update_stream(stream).await.unwrap();
    let mut taker = Taker::new(&nats, "edge-1").await;
    assert_eq!(taker.keys_until("a").await, ["a"]);
    hub.drain().await;
    site.remove().await;
}

async fn rewind(hub: &Running, gateway: &str, position: &str) {
    let target = json!({ "positions": { "default/0": position } });
    let (status, answer) = hub.call(Method::PUT, &format!("/v1/gateways/{gateway}/cursor"), Some(&target)).await;
    assert_eq!(status, 204, "{answer}");
}

/// The server knows their ids for two minutes, and a rewound message is one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_rewinds_comes_again_however_soon_and_survives_a_lost_storage() {
    let (mut nats, site, config, _folder) = place(1_000).await;
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "edge-1").await;
    let mut taker = Taker::new(&nats, "edge-1").await;
    write_all(&site, &["a", "b", "c"]).await;
    let all = taker.until_key("c").await;
    let first = all[0]["position"].as_str().unwrap();
    for _ in 0..2 {
        // It has told the hub's side by taking.
        is_published(&site, &hub, "edge-1").await;
        rewind(&hub, "edge-1", first).await;
        taker.last = None;
        assert_eq!(taker.keys_until("c").await, ["b", "c"]);
    }
    // What it has is looked up; then it is rewound and takes nothing.
    tokio::time::sleep(Duration::from_secs(6)).await;
    rewind(&hub, "edge-1", first).await;
    let restarted = async || {
        let (_, view) = hub.get("/v1/gateways/edge-1").await;
        (view["session"]["transport"] == "nats" && view["state"] == "live").then_some(())
    };
    until("the next session", restarted).await;
    is_published(&site, &hub, "edge-1").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    start_empty(&mut nats).await;
    taker.last = None;
    assert_eq!(taker.keys_until("c").await, ["b", "c"]);
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_deleted_under_an_open_connection_is_made_again() {
    let (nats, site, config, _folder) = place(1_000).await;
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "edge-1").await;
    let mut taker = Taker::new(&nats, "edge-1").await;
    for key in ["a", "b"] {
        write(&site, key).await;
        is_published(&site, &hub, "edge-1").await;
    }
    assert_eq!(taker.keys_until("a").await.last().unwrap(), "a");
    let context = jetstream_of(&nats).await;
    context.delete_stream("STREAMER").await.unwrap();
    // Nothing is published meanwhile: only a look can find it out.
    let is_there = async || context.get_stream("STREAMER").await.ok().map(drop);
    until("the stream", is_there).await;
    write(&site, "c").await;
    assert_eq!(taker.keys_until("c").await.last().unwrap(), "c");
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_made_anew_is_told_that_what_it_had_is_over() {
    let (nats, site, config, _folder) = place(1_000).await;
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "edge-1").await;
    let mut taker = Taker::new(&nats, "edge-1").await;
    write(&site, "a").await;
    taker.until_key("a").await;
    write(&site, "left there").await;
    is_published(&site, &hub, "edge-1").await;
    assert_eq!(hub.call(Method::DELETE, "/v1/gateways/edge-1", None).await.0, 204);
    register(&hub, "edge-1").await;
    // Its first session begins with what lies on its subject.
    let is_served = async || (hub.get("/v1/gateways/edge-1").await.1["session"]["transport"] == "nats").then_some(());
    until("a session", is_served).await;
    write(&site, "b").await;
    taker.until_key("b").await;
    // The farewell may be there still, what came before it is not.
    taker.names.retain(|name| name != "closed");
    assert_eq!(taker.names, ["welcome", "changes", "welcome", "resync", "changes"]);
    hub.drain().await;
    site.remove().await;
}

/// Where the stream is, as of old, with what it has.
async fn put_back(nats: &mut Nats) {
    nats.kill().await.unwrap();
    nats.restore().unwrap();
    nats.restart().await.unwrap();
}

async fn sequence(nats: &Nats) -> u64 {
    let stream = jetstream_of(nats).await.get_stream("STREAMER").await.unwrap();
    stream.cached_info().state.last_sequence
}

/// What its subject has first: which message, and its number.
async fn first(nats: &Nats, gateway: &str) -> Option<(String, u64)> {
    let stream = jetstream_of(nats).await.get_stream("STREAMER").await.unwrap();
    let subject = format!("streamer.v1.deliver.{gateway}.default.0");
    let message = stream.get_first_raw_message_by_subject(&subject, 1).await.ok()?;
    Some((message.headers.get("Streamer-Message").unwrap().to_string(), message.sequence))
}

/// Others publish over what was lost of a gateway that is parked, and the hub is restarted: nothing in the stream tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_that_others_have_published_over_is_known_to_who_was_away_and_to_the_next_hub() {
    let (mut nats, site, config, _folder) = place(1_000).await;
    let hub = Running::start(&config, Clock::system()).await;
    for gateway in ["edge-away", "edge-here"] {
        register(&hub, gateway).await;
        is_published(&site, &hub, gateway).await;
    }
    nats.kill().await.unwrap();
    nats.back_up().unwrap();
    nats.restart().await.unwrap();
    write_all(&site, &["a", "b", "c"]).await;
    for gateway in ["edge-away", "edge-here"] {
        is_published(&site, &hub, gateway).await;
    }
    let acked = sequence(&nats).await;
    assert_eq!(hub.call(Method::POST, "/v1/gateways/edge-away/park", None).await.0, 204);
    let is_parked = async || (hub.get("/v1/gateways/edge-away").await.1["state"] == "parked").then_some(());
    until("that it is parked", is_parked).await;
    is_published(&site, &hub, "edge-here").await;
    put_back(&mut nats).await;
    let overtaken = async || {
        write(&site, &format!("over {}", rand::random::<u32>())).await;
        is_published(&site, &hub, "edge-here").await;
        (sequence(&nats).await > acked + 3).then_some(())
    };
    until("messages over those that were lost", overtaken).await;
    hub.drain().await;
    let hub = Running::start(&config, Clock::system()).await;
    assert_eq!(hub.call(Method::PUT, "/v1/gateways/edge-away/heartbeat", None).await.0, 200);
    write(&site, "end").await;
    let mut taker = Taker::new(&nats, "edge-away").await;
    assert_eq!(taker.keys_until("end").await[..3], ["a", "b", "c"]);
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_taken_off_nats_is_served_what_it_had_not_taken_there() {
    let (nats, site, config, _folder) = place(1_000).await;
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "edge-1").await;
    let mut taker = Taker::new(&nats, "edge-1").await;
    write(&site, "a").await;
    taker.until_key("a").await;
    write_all(&site, &["b", "c"]).await;
    is_published(&site, &hub, "edge-1").await;
    serve_by(&hub, "edge-1", "stream").await;
    // Until it has acked something it may not have had anything.
    for transport in [Transport::Sse, Transport::GrpcJson] {
        let mut session = hub.open(transport, "edge-1", None).await;
        let had = until_key(&mut session, "c").await;
        let Some(Said::Change(last)) = had.last() else { panic!("{had:?}") };
        assert!(had.iter().any(|said| matches!(said, Said::Change(change) if change.key == "b")), "{had:?}");
        if transport == Transport::GrpcJson {
            // By a call of its own, whose answer says that it is taken.
            let acked = json!({ "cursor": last.cursor });
            assert_eq!(hub.call(Method::POST, "/v1/gateways/edge-1/ack", Some(&acked)).await.0, 204);
        }
    }
    write(&site, "d").await;
    let mut session = hub.open(Transport::Sse, "edge-1", None).await;
    assert_eq!(heard(&until_key(&mut session, "d").await), ["d"]);
    hub.drain().await;
    site.remove().await;
}

/// The server's ack of the resync is not the gateway's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_is_owed_is_said_again_where_the_stream_loses_it() {
    let (mut nats, site, config, _folder) = place(1_000).await;
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "edge-1").await;
    write(&site, "left there").await;
    is_published(&site, &hub, "edge-1").await;
    assert_eq!(hub.call(Method::DELETE, "/v1/gateways/edge-1", None).await.0, 204);
    let farewell = async || first(&nats, "edge-1").await.filter(|(name, _)| name == "closed").map(drop);
    until("that nothing lies there but the farewell", farewell).await;
    register(&hub, "edge-1").await;
    let is_served = async || (hub.get("/v1/gateways/edge-1").await.1["session"]["transport"] == "nats").then_some(());
    until("a session", is_served).await;
    write(&site, "a").await;
    is_published(&site, &hub, "edge-1").await;
    // A connection that goes without any loss changes nothing.
    nats.kill().await.unwrap();
    nats.restart().await.unwrap();
    is_published(&site, &hub, "edge-1").await;
    start_empty(&mut nats).await;
    let mut taker = Taker::new(&nats, "edge-1").await;
    write(&site, "b").await;
    assert_eq!(taker.keys_until("b").await, ["a", "b"]);
    assert!(taker.names.contains(&"resync".to_owned()), "{:?}", taker.names);
    // Once it has taken it, it is not said again.
    tokio::time::sleep(Duration::from_secs(6)).await;
    is_published(&site, &hub, "edge-1").await;
    taker.names.clear();
    nats.kill().await.unwrap();
    nats.restart().await.unwrap();
    write(&site, "c").await;
    assert_eq!(taker.keys_until("c").await, ["c"]);
    assert!(!taker.names.contains(&"resync".to_owned()), "{:?}", taker.names);
    hub.drain().await;
    site.remove().await;
}

/// A storm of them, after a connection is gone for example.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_that_all_begin_at_once_hold_up_no_stream() {
    let (_nats, site, config, _folder) = place(1_000).await;
    // Nobody's turn comes but the first ones'.
    let hub = Running::start(&config, Clock::manual()).await;
    for number in 0..150 {
        register(&hub, &format!("edge-{number}")).await;
    }
    register(&hub, "near").await;
    let served = async || {
        let (_, views) = hub.get("/v1/gateways").await;
        let of_nats = |view: &&Value| view["session"]["transport"] == "nats";
        views["gateways"].as_array().unwrap().iter().filter(of_nats).count()
    };
    until("as many as may begin at once", async || (served().await == 100).then_some(())).await;
    drop(hub.open(Transport::Sse, "near", None).await);
    assert_eq!(served().await, 100, "the others still wait");
    hub.drain().await;
    site.remove().await;
}

/// Nobody learns of it but by looking, and whoever looks first must not find that all has been taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_an_operator_makes_anew_under_open_connections_costs_nobody_anything() {
    let (nats, site, config, _folder) = place(1_000).await;
    let hub = Running::start(&config, Clock::system()).await;
    let names: Vec<String> = (0..8).map(|number| format!("edge-{number}")).collect();
    for name in &names {
        register(&hub, name).await;
    }
    write_all(&site, &["a", "b"]).await;
    for name in &names {
        is_published(&site, &hub, name).await;
    }
    let context = jetstream_of(&nats).await;
    let config = context.get_stream("STREAMER").await.unwrap().cached_info().config.clone();
    context.delete_stream("STREAMER").await.unwrap();
    context.create_stream(config).await.unwrap();
    // Every publisher looks what has been taken before the next message.
    tokio::time::sleep(Duration::from_secs(6)).await;
    write(&site, "c").await;
    for name in &names {
        let mut taker = Taker::new(&nats, name).await;
        assert_eq!(taker.keys_until("c").await, ["a", "b", "c"], "{name}");
    }
    hub.drain().await;
    site.remove().await;
}

/// Neither by the removal of a gateway nor while its subject is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_for_a_gateway_that_is_removed_goes_even_if_its_subject_is_full() {
    let (nats, site, config, _folder) = place(3).await;
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "edge-1").await;
    let mut number = 0;
    while lying(&nats).await.get("edge-1") != Some(&3) {
        write(&site, &format!("{number}")).await;
        number += 1;
    }
    assert_eq!(hub.call(Method::DELETE, "/v1/gateways/edge-1", None).await.0, 204);
    until("nothing but a farewell", async || match first(&nats, "edge-1").await {
        None => Some(()),
        Some((name, _)) => (name == "closed").then_some(()),
    })
    .await;
    hub.drain().await;
    site.remove().await;
}

/// A gateway that is told only of what is for it.
async fn register_addressee(hub: &Running, gateway: &str) {
    let asked = json!({
        "subscriptionId": "own", "gatewayId": gateway, "tenant": "acme", "collection": "messages",
        "filters": [{ "field": "to", "op": "==", "value": gateway }],
    });
    assert_eq!(hub.call(Method::POST, "/v1/subscriptions", Some(&asked)).await.0, 201);
}

async fn write_to(site: &Site, gateway: &str, key: &str) {
    site.documents().insert_one(document("acme", "messages", key, doc! { "to": gateway })).await.unwrap();
}

/// How many messages lie on each gateway's subject.
async fn lying(nats: &Nats) -> HashMap<String, usize> {
    let Ok(stream) = jetstream_of(nats).await.get_stream("STREAMER").await else { return HashMap::new() };
    let subjects = stream.info_with_subjects("streamer.v1.deliver.>").await.unwrap();
    let counts: Vec<_> = subjects.map(|counted| counted.unwrap()).collect().await;
    let gateway = |subject: &str| subject.split('.').nth(3).unwrap().to_owned();
    counts.into_iter().map(|(subject, count)| (gateway(&subject), count)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_gateways_by_a_pattern_share_a_server_and_a_full_subject_is_its_own_gateways() {
    let (nats, site, mut config, _folder) = place(4).await;
    config.nats.connections = 2;
    let hub = Running::start(&config, Clock::system()).await;
    let names: Vec<String> = (0..200).map(|number| format!("edge-{number}")).collect();
    for name in &names {
        register_addressee(&hub, name).await;
    }
    let welcomed = async || (lying(&nats).await.len() == 200).then_some(());
    until("that all are welcomed", welcomed).await;
    // Each by itself, or they would lie there in one message.
    let mut keys = Vec::new();
    while lying(&nats).await["edge-0"] < 4 {
        let (before, key) = (lying(&nats).await["edge-0"], format!("full {}", keys.len()));
        write_to(&site, "edge-0", &key).await;
        keys.push(key);
        until("the next one", async || (lying(&nats).await["edge-0"] > before).then_some(())).await;
    }
    for number in 0..20 {
        keys.push(format!("more {number}"));
        write_to(&site, "edge-0", keys.last().unwrap()).await;
    }
    for name in &names[1..] {
        write_to(&site, name, &format!("for {name}")).await;
    }
    let all_have = async || {
        let lying = lying(&nats).await;
        names[1..].iter().all(|name| lying[name] == 2).then_some(lying["edge-0"])
    };
    assert_eq!(until("what is for the others", all_have).await, 4);
    let mut taker = Taker::new(&nats, "edge-0").await;
    assert_eq!(taker.keys_until("more 19").await, keys);
    let mut other = Taker::new(&nats, "edge-199").await;
    assert_eq!(other.keys_until("for edge-199").await, ["for edge-199"]);
    hub.drain().await;
    site.remove().await;
}

/// Certificates for both ends, signed by an authority of their own: their files.
pub(super) fn certificates(folder: &Path) -> [PathBuf; 5] {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let (authority_key, mut authority) = (KeyPair::generate().unwrap(), CertificateParams::new(vec![]).unwrap());
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let save = |name: &str, text: String| {
        std::fs::write(folder.join(name), text).unwrap();
        folder.join(name)
    };
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &issuer).unwrap();
        [save(&format!("{name}.pem"), signed.pem()), save(&format!("{name}.key"), key.serialize_pem())]
    };
    let ([server, server_key], [own, own_key]) = (issue("server"), issue("hub"));
    [save("ca.pem", certificate.pem()), server, server_key, own, own_key]
}

/// Neither speaks to a stranger: the server wants a certificate and an NKey, the hub a certificate of its authority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_and_a_client_that_say_who_they_are_deliver_over_an_encrypted_connection() {
    let program = rig::find("nats-server", None, "STREAMER_NATS").unwrap();
    let folder = rig::folder().unwrap();
    let [ca, server, server_key, own, own_key] = certificates(folder.path());
    let key = nkeys::KeyPair::new_user();
    let settings = format!(
        "tls {{ cert_file: {server:?}, key_file: {server_key:?}, ca_file: {ca:?}, verify: true }}\n\
         authorization {{ users: [ {{ nkey: {} }} ] }}",
        key.public_key()
    );
    let nats = Nats::start(&program, folder.path(), &settings).await.unwrap();
    let site = Site::new().await;
    let mut config = site.config();
    config.nats.url = nats.url().replace("nats://", "tls://");
    config.nats.gateways = vec!["edge-*".into()];
    let stranger = Running::start(&config, Clock::system()).await;
    register(&stranger, "edge-1").await;
    let is_refused = async || {
        let (_, health) = stranger.get("/health").await;
        (health["components"]["nats"]["status"] == "degraded").then_some(())
    };
    until("that it cannot connect", is_refused).await;
    stranger.drain().await;

    config.nats.nkey = Some(key.seed().unwrap());
    config.nats.ca = Some(ca.clone());
    (config.nats.certificate, config.nats.key) = (Some(own.clone()), Some(own_key.clone()));
    let hub = Running::start(&config, Clock::system()).await;
    write_all(&site, &["a", "b"]).await;
    let endpoint = Endpoint {
        url: config.nats.url.clone(),
        login: Login::NKey(key.seed().unwrap()),
        ca_file: Some(ca),
        certificate: Some((own, own_key)),
    };
    let mut of_client = ClientConfig::new(hub.grpc_url(), "edge-1");
    of_client.nats = Some(NatsConfig { endpoint, ..NatsConfig::new("") });
    let mut client = Client::connect(of_client, State::default()).unwrap();
    assert_eq!(handed(&mut client, "b").await.0, ["a", "b"]);
    client.close().await;
    hub.drain().await;
    site.remove().await;
}

/// A client over NATS, with this state.
fn client(nats: &Nats, hub: &Running, gateway: &str, state: State) -> Client {
    let mut config = ClientConfig::new(hub.grpc_url(), gateway);
    config.nats = Some(NatsConfig { http: Some(hub.http_url()), ..NatsConfig::new(nats.url()) });
    config.backoff = Backoff { first: Duration::from_millis(20), most: Duration::from_millis(200) };
    Client::connect(config, state).unwrap()
}

/// The keys that are handed over, up to this one, and the last change's cursor.
async fn handed(client: &mut Client, last: &str) -> (Vec<String>, Vec<streamer::client::Cursor>) {
    let (mut keys, mut cursors) = (Vec::new(), Vec::new());
    let taking = async {
        while keys.last().is_none_or(|key| key != last) {
            if let Item::Change(change) = client.next().await.expect("it goes on").unwrap() {
                keys.push(change.key.clone());
                cursors.push(change.cursor.clone());
            }
        }
    };
    soon(last, taking).await;
    (keys, cursors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_takes_from_the_stream_each_once_through_its_own_end_and_the_servers() {
    let (mut nats, site, config, _folder) = place(1_000).await;
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "edge-1.eu").await;
    write_all(&site, &["a", "b", "c"]).await;
    let mut first = client(&nats, &hub, "edge-1.eu", State::default());
    let (keys, cursors) = handed(&mut first, "c").await;
    assert_eq!(keys, ["a", "b", "c"]);
    first.ack(&cursors[0]);
    // It ends with its state, of which the last two are part.
    let state = first.close().await;
    write(&site, "d").await;
    let mut second = client(&nats, &hub, "edge-1.eu", state);
    let (keys, cursors) = handed(&mut second, "d").await;
    assert_eq!(keys, ["d"]);
    second.ack(cursors.last().unwrap());

    // And without it, after what it had acked.
    write_all(&site, &["e", "f"]).await;
    assert_eq!(handed(&mut second, "f").await.0, ["e", "f"]);
    drop(second);
    let mut third = client(&nats, &hub, "edge-1.eu", State::default());
    let (keys, cursors) = handed(&mut third, "f").await;
    assert_eq!(keys, ["e", "f"]);
    third.ack(cursors.last().unwrap());

    nats.kill().await.unwrap();
    write(&site, "g").await;
    nats.restart().await.unwrap();
    let (keys, cursors) = handed(&mut third, "g").await;
    assert_eq!(keys, ["g"]);
    third.ack(cursors.last().unwrap());
    start_empty(&mut nats).await;
    write(&site, "h").await;
    assert_eq!(handed(&mut third, "h").await.0, ["h"], "what is published again it has had");

    // Progress is heard once what lies before it has come.
    write(&site, "i").await;
    let end = site.now().await;
    site.mark().await;
    let mut seen = false;
    let waiting = async {
        loop {
            match third.next().await.unwrap().unwrap() {
                Item::Change(change) => {
                    assert_eq!(change.key, "i");
                    seen = true;
                    third.ack(&change.cursor);
                }
                Item::Progress(progress) if progress.positions[0].1.time > end => return,
                _ => {}
            }
        }
    };
    soon("progress", waiting).await;
    assert!(seen, "progress before what it speaks of");
    third.close().await;
    hub.drain().await;
    site.remove().await;
}

/// So many different documents, each once.
async fn handed_in_any_order(client: &mut Client, count: usize) -> Vec<String> {
    let mut keys = Vec::new();
    let taking = async {
        while keys.len() < count {
            if let Item::Change(change) = client.next().await.expect("it goes on").unwrap() {
                keys.push(change.key.clone());
                client.ack(&change.cursor);
            }
        }
    };
    soon("all of them", taking).await;
    keys.sort_unstable();
    keys
}

/// Each partition has a subject and publishers of its own; what one finds out of the stream the others know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_takes_several_partitions_from_the_stream_and_loses_none_with_it() {
    let (mut nats, site, mut config, _folder) = place(1_000).await;
    config.backends.0[0].partitions = 3;
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "edge-1").await;
    let keys =
        |numbers: std::ops::Range<u32>| -> Vec<String> { numbers.map(|number| format!("{number:02}")).collect() };
    let write_them =
        async |keys: &[String]| write_all(&site, &keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    write_them(&keys(0..20)).await;
    let mut client = client(&nats, &hub, "edge-1", State::default());
    assert_eq!(handed_in_any_order(&mut client, 20).await, keys(0..20));
    let stream = jetstream_of(&nats).await.get_stream("STREAMER").await.unwrap();
    let subjects = async || stream.info_with_subjects("streamer.v1.deliver.>").await.unwrap().count().await;
    drop(client);
    write_them(&keys(20..40)).await;
    until("messages of each partition", async || (subjects().await == 3).then_some(())).await;
    // What lies there is lost, and whoever publishes first finds it out.
    start_empty(&mut nats).await;
    write_them(&keys(40..60)).await;
    let mut client = self::client(&nats, &hub, "edge-1", State::default());
    let taking = async {
        let mut seen = std::collections::BTreeSet::new();
        while !keys(20..60).iter().all(|key| seen.contains(key)) {
            if let Item::Change(change) = client.next().await.expect("it goes on").unwrap() {
                seen.insert(change.key.clone());
                client.ack(&change.cursor);
            }
        }
    };
    soon("what was lost and what came after it", taking).await;
    client.close().await;
    hub.drain().await;
    site.remove().await;
}
