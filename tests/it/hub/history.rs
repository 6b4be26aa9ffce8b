//! An oplog that has rolled past somebody: it is said, to those whom it concerns, and serving goes on.

use bson::{Binary, Bson, Document, doc, spec::BinarySubtype};
use reqwest::Method;
use serde_json::json;
use streamer::clock::Clock;
use streamer::config::Config;
use streamer::position::ClusterTime;

use super::consumers::{Change, Said, Session, Transport};
use super::servers::Server;
use super::site::{Running, Site, document, soon, until};
use crate::source_mongo::server::Mongod;

/// With these the oplog is cut within a second.
const SHORT_OPLOG: &[&str] = &["--oplogSize", "1", "--syncdelay", "1"];

async fn place() -> (Mongod, Site, Config) {
    let mongod = Mongod::start(SHORT_OPLOG).await;
    let site = Site::on(Server::at(mongod.uri())).await;
    let mut config = site.config();
    config.window.bytes = 1 << 20;
    (mongod, site, config)
}

pub(super) async fn register(hub: &Running, gateway: &str) {
    let asked = json!({
        "subscriptionId": "all", "gatewayId": gateway, "tenant": "acme", "collection": "messages", "ttlSeconds": 3600,
    });
    let (status, made) = hub.call(Method::POST, "/v1/subscriptions", Some(&asked)).await;
    assert_eq!(status, 201, "{made}");
}

pub(super) async fn write(site: &Site, key: &str) {
    site.documents().insert_one(document("acme", "messages", key, doc! {})).await.unwrap();
}

/// Writes of another tenant until nothing at or before `time` is in the oplog.
async fn roll(site: &Site, time: ClusterTime) {
    let oplog = site.client.database("local").collection::<Document>("oplog.rs");
    let pad = Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 64 << 10] };
    let rolling = async {
        loop {
            let first = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.unwrap().unwrap();
            let Some(Bson::Timestamp(first)) = first.get("ts") else { panic!("{first}") };
            if ClusterTime::new(first.time, first.increment) > time {
                return;
            }
            for _ in 0..20 {
                let body = doc! { "pad": pad.clone() };
                let documents =
                    (0..16).map(|_| document("else", "pads", &format!("{:x}", rand::random::<u64>()), body.clone()));
                site.documents().insert_many(documents).await.unwrap();
            }
        }
    };
    soon("an oplog that has rolled", rolling).await;
}

/// All that comes up to the change with this key, without what says nothing new.
pub(super) async fn until_key(session: &mut Session, key: &str) -> Vec<Said> {
    let mut all = Vec::new();
    let taking = async {
        loop {
            let said = session.next().await.expect("the session goes on");
            let is_last = matches!(&said, Said::Change(change) if change.key == key);
            if !matches!(said, Said::Welcome | Said::Progress(..)) {
                all.push(said);
            }
            if is_last {
                return;
            }
        }
    };
    soon(key, taking).await;
    all
}

/// What a gateway hears, in short: reasons of resyncs and keys.
pub(super) fn heard(all: &[Said]) -> Vec<&str> {
    let short = all.iter().map(|said| match said {
        Said::Resync(reason, _) => reason.as_str(),
        Said::Change(change) => change.key.as_str(),
        other => panic!("{other:?}"),
    });
    short.collect()
}

fn first_change(all: &[Said]) -> &Change {
    let change = all.iter().find_map(|said| match said {
        Said::Change(change) => Some(change),
        _ => None,
    });
    change.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_was_away_too_long_is_told_and_nobody_else() {
    let (_mongod, site, config) = place().await;
    let hub = Running::start(&config, Clock::system()).await;
    for gateway in ["away", "here"] {
        register(&hub, gateway).await;
    }
    write(&site, "first").await;
    // It has got something that it has not acked, and goes.
    let mut away = hub.open(Transport::GrpcBson, "away", None).await;
    let seen = until_key(&mut away, "first").await;
    let first = first_change(&seen);
    drop(away);
    let mut here = hub.open(Transport::Sse, "here", None).await;
    let seen_here = until_key(&mut here, "first").await;
    here.ack(&first_change(&seen_here).cursor).await;
    roll(&site, first.position.time).await;
    write(&site, "second").await;
    assert_eq!(heard(&until_key(&mut here, "second").await), ["second"], "nothing was lost to it");

    // Said again until it has been heard.
    let mut cursor = String::new();
    for transport in [Transport::GrpcBson, Transport::Sse] {
        let mut away = hub.open(transport, "away", None).await;
        write(&site, &format!("{transport:?}")).await;
        let all = until_key(&mut away, &format!("{transport:?}")).await;
        assert_eq!(heard(&all)[0], "history_lost", "{all:?}");
        let Said::Resync(_, of_resync) = &all[0] else { unreachable!() };
        cursor.clone_from(of_resync);
        if transport == Transport::Sse {
            away.ack(&cursor).await;
        }
    }
    let mut away = hub.open(Transport::GrpcJson, "away", None).await;
    write(&site, "last").await;
    let all = until_key(&mut away, "last").await;
    assert!(!heard(&all).contains(&"history_lost"), "{all:?}");

    // Nobody can begin there any more.
    let time = first.position.time;
    for start in [
        json!({ "cursor": first.cursor }),
        json!({ "operationTime": { "t": time.seconds(), "i": time.0 & 0xffff_ffff } }),
    ] {
        // The hub asks now and then how far the oplog reaches.
        let mut tries = 0;
        let problem = until("a hub that knows", async || {
            tries += 1;
            let asked = json!({
                "subscriptionId": format!("late-{tries}"), "gatewayId": "late", "tenant": "acme",
                "collection": "messages", "startAt": start,
            });
            let (status, answer) = hub.call(Method::POST, "/v1/subscriptions", Some(&asked)).await;
            (status == 410).then_some(answer)
        });
        assert_eq!(problem.await["code"], "START_TOO_OLD", "{start}");
    }
    hub.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_was_away_too_long_says_so_and_goes_on() {
    let (_mongod, site, config) = place().await;
    let hub = Running::start(&config, Clock::system()).await;
    register(&hub, "gw").await;
    write(&site, "first").await;
    let mut session = hub.open(Transport::Sse, "gw", None).await;
    let seen = until_key(&mut session, "first").await;
    let first = first_change(&seen);
    session.ack(&first.cursor).await;
    drop(session);
    hub.drain().await;
    write(&site, "missed").await;
    roll(&site, site.now().await).await;
    let hub = Running::start(&config, Clock::system()).await;
    let mut session = hub.open(Transport::GrpcJson, "gw", None).await;
    // What is written before the hub reads again is among what was lost.
    soon("what was lost", async {
        loop {
            match session.next().await.expect("the session goes on") {
                Said::Welcome | Said::Progress(..) => {}
                Said::Resync(reason, _) => return assert_eq!(reason, "history_lost"),
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    write(&site, "second").await;
    assert_eq!(heard(&until_key(&mut session, "second").await), ["second"]);
    hub.drain().await;
}
