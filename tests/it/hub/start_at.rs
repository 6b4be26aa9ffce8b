//! `startAt`: a subscription that begins where its client's own read, clock or colleague left off.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use reqwest::Method;
use serde_json::{Value, json};
use streamer::clock::Clock;
use streamer::position::{ClusterTime, Position};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::consumers::{Body, Change, Session, Transport};
use super::site::{PARTITION, Running, Site, document, until};

const WRITERS: u32 = 3;
/// Snapshots that are taken while all write.
const READS: usize = 12;

fn asked(gateway: &str, id: &str, start: Value) -> Value {
    json!({
        "subscriptionId": id, "gatewayId": gateway, "tenant": "acme", "collection": "messages", "startAt": start,
    })
}

async fn register(hub: &Running, asked: &Value) -> (u16, Value) {
    hub.call(Method::POST, "/v1/subscriptions", Some(asked)).await
}

fn operation_time(time: ClusterTime) -> Value {
    json!({ "operationTime": { "t": time.seconds(), "i": time.0 & 0xffff_ffff } })
}

async fn write(site: &Site, key: &str) {
    site.documents().insert_one(document("acme", "messages", key, doc! { "key": key })).await.unwrap();
}

/// Keys of what came for this subscription.
fn keys_of<'a>(changes: &'a [Change], id: &str) -> Vec<&'a str> {
    let mine = changes.iter().filter(|change| change.matches.iter().any(|one| one.subscription_id == id));
    mine.map(|change| change.key.as_str()).collect()
}

/// A client reads everything, and subscribes to what came after: what it has then is what there is,
/// whatever was written meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_then_subscribe_has_no_hole_and_nothing_twice() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    let mut session = hub.open(Transport::GrpcBson, "gw", None).await;
    let from = site.now().await;
    let (stop, stopped) = watch::channel(false);
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        writers.spawn(keep_writing(site.documents(), number, stopped.clone()));
    }
    let mut reads: BTreeMap<String, (ClusterTime, BTreeMap<String, Document>)> = BTreeMap::new();
    for number in 0..READS {
        let (time, state) = snapshot(&site).await;
        // The subscription comes some writes later.
        let last = site.now().await;
        until("more writes", async || (site.now().await.0 > last.0 + 3).then_some(())).await;
        let id = format!("read-{number}");
        let (status, made) = register(&hub, &asked("gw", &id, operation_time(time))).await;
        assert_eq!(status, 201, "{made}");
        let active: Position = made["activeFrom"][PARTITION].as_str().unwrap().parse().unwrap();
        assert_eq!((active.time, active.ordinal), (time.next(), 0), "the boundary after all that was read");
        reads.insert(id, (time, state));
    }
    stop.send_replace(true);
    writers.join_all().await;
    let changes = site.all(&mut session).await;
    let (_, now) = snapshot(&site).await;
    assert!(now.len() > 10);
    let all = site.read(from, site.now().await).await;
    for (id, (time, mut state)) in reads {
        let mine: Vec<_> =
            changes.iter().filter(|change| change.matches.iter().any(|m| m.subscription_id == id)).collect();
        let got: Vec<_> = mine.iter().map(|change| change.position).collect();
        let after = all.iter().map(|change| change.position).filter(|position| position.time > time);
        assert_eq!(got, after.collect::<Vec<_>>(), "{id}: every change after the read, in order, once");
        for change in mine {
            match &change.document {
                None => drop(state.remove(&change.key)),
                Some(Body::Bson(bytes)) => {
                    state.insert(change.key.clone(), bson::deserialize_from_slice(bytes).unwrap());
                }
                Some(Body::Text(text)) => panic!("{text}"),
            }
        }
        assert_eq!(state, now, "{id}");
    }
    hub.drain().await;
    site.remove().await;
}

/// Everything at one time.
async fn snapshot(site: &Site) -> (ClusterTime, BTreeMap<String, Document>) {
    let find = doc! {
        "find": "documents", "filter": { "tenant_id": "acme" }, "batchSize": 100_000, "readConcern": { "level": "snapshot" },
    };
    let answer = site.client.database(&site.database).run_command(find).await.unwrap();
    let cursor = answer.get_document("cursor").unwrap();
    assert_eq!(cursor.get_i64("id").unwrap(), 0, "all in one batch");
    let time = cursor.get_timestamp("atClusterTime").unwrap();
    let documents = cursor.get_array("firstBatch").unwrap().iter().map(|one| {
        let one = one.as_document().unwrap();
        let key = one.get_str("_id").unwrap().strip_prefix("acme:").unwrap();
        (key.to_owned(), one.get_document("data").unwrap().clone())
    });
    (ClusterTime::new(time.time, time.increment), documents.collect())
}

async fn keep_writing(documents: mongodb::Collection<Document>, writer: u32, stopped: watch::Receiver<bool>) {
    let mut number = 0;
    while !*stopped.borrow() {
        number += 1;
        let id = format!("acme:{writer}-{}", number % 10);
        let which = doc! { "_id": &id };
        match number % 5 {
            0 => drop(documents.delete_one(which).await.unwrap()),
            1 | 2 => {
                let fresh = doc! { "tenant_id": "acme", "collection": "messages", "data": { "n": number } };
                documents.replace_one(which, fresh).upsert(true).await.unwrap();
            }
            _ => {
                let change = doc! { "$inc": { "data.n": 1 }, "$set": { "data.at": number } };
                documents.update_one(which, change).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_of_day_takes_all_of_its_second() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    let from = site.now().await;
    // Writes in at least three seconds, the middle one of which is asked for. An idle deployment's time
    // stands still, so the first second is that of the first write.
    write(&site, "first").await;
    let first = site.now().await.seconds();
    let mut number = 0;
    until("a third second", async || {
        write(&site, &number.to_string()).await;
        number += 1;
        (site.now().await.seconds() > first + 2).then_some(())
    })
    .await;
    let second = first + 1;
    let text = chrono::DateTime::from_timestamp(second.into(), 0).unwrap().to_rfc3339();
    let (status, made) = register(&hub, &asked("gw", "s", json!({ "operationTime": text }))).await;
    assert_eq!(status, 201, "{made}");
    let active: Position = made["activeFrom"][PARTITION].as_str().unwrap().parse().unwrap();
    assert_eq!(active, Position::boundary(active.epoch, ClusterTime::new(second, 0)));
    let mut session = hub.open(Transport::Sse, "gw", None).await;
    let changes = site.all(&mut session).await;
    let all = site.read(from, site.now().await).await;
    let wanted = all.iter().filter(|change| change.position.time.seconds() >= second);
    let wanted: Vec<_> = wanted.map(|change| change.key.to_string()).collect();
    assert!(wanted.len() < all.len(), "some came before");
    assert_eq!(keys_of(&changes, "s"), wanted);
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ahead_of_the_stream_nothing_matches_until_then() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    let from = site.now().await;
    // An idle deployment's time stands still: this makes it now.
    site.mark().await;
    let ahead = ClusterTime::new(site.now().await.seconds() + 3, 0);
    let (status, made) = register(&hub, &asked("gw", "later", operation_time(ahead))).await;
    assert_eq!(status, 201, "{made}");
    let mut now = asked("gw", "now", Value::Null);
    now.as_object_mut().unwrap().remove("startAt");
    assert_eq!(register(&hub, &now).await.0, 201);
    let mut session = hub.open(Transport::GrpcJson, "gw", None).await;
    let mut number = 0;
    until("that time", async || {
        write(&site, &number.to_string()).await;
        number += 1;
        (site.now().await.seconds() > ahead.seconds()).then_some(())
    })
    .await;
    let changes = site.all(&mut session).await;
    let all = site.read(from, site.now().await).await;
    let key = |change: &std::sync::Arc<streamer::change::Change>| change.key.to_string();
    let wanted: Vec<_> = all.iter().filter(|change| change.position.time > ahead).map(key).collect();
    assert!(!wanted.is_empty() && wanted.len() < all.len());
    assert_eq!(keys_of(&changes, "later"), wanted);
    assert_eq!(keys_of(&changes, "now"), all.iter().map(key).collect::<Vec<_>>());
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_oplog_has_no_longer_is_refused() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    for start in [json!({ "operationTime": { "t": 1, "i": 1 } }), json!({ "operationTime": "2001-02-03T04:05:06Z" })] {
        let (status, problem) = register(&hub, &asked("gw", "s", start)).await;
        assert_eq!((status, &problem["code"]), (410, &json!("START_TOO_OLD")), "{problem}");
        assert_eq!(problem["field"], "startAt");
    }
    assert_eq!(hub.get("/v1/gateways/gw/subscriptions/s").await.0, 404, "nothing was made");

    // The first entry that is there is not too old.
    let oplog = site.client.database("local").collection::<Document>("oplog.rs");
    let first = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await.unwrap().unwrap();
    let Some(Bson::Timestamp(first)) = first.get("ts") else { panic!("{first}") };
    let start = operation_time(ClusterTime::new(first.time, first.increment));
    let (status, made) = register(&hub, &asked("gw", "s", start)).await;
    assert_eq!(status, 201, "{made}");
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_colleagues_cursor_is_a_place_to_begin() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    let mut first = asked("one", "all", Value::Null);
    first.as_object_mut().unwrap().remove("startAt");
    assert_eq!(register(&hub, &first).await.0, 201);
    // Many at once, so that the cursor lies inside a cluster time.
    let documents = (0..60).map(|n| document("acme", "messages", &format!("{n:02}"), doc! { "n": n }));
    site.documents().insert_many(documents).await.unwrap();
    let mut session = hub.open(Transport::Sse, "one", None).await;
    let seen = site.all(&mut session).await;
    assert_eq!(seen.len(), 60);
    let start = json!({ "cursor": seen[24].cursor });
    let (status, made) = register(&hub, &asked("two", "rest", start)).await;
    assert_eq!((status, &made["activeFrom"][PARTITION]), (201, &json!(seen[24].position.to_string())), "{made}");
    let mut other = hub.open(Transport::GrpcBson, "two", None).await;
    write(&site, "60").await;
    let rest = site.all(&mut other).await;
    let wanted: Vec<_> = (25..=60).map(|n| format!("{n:02}")).collect();
    assert_eq!(keys_of(&rest, "rest"), wanted);

    // It is neither an ack for the colleague nor forbidden while live; what is no cursor is said.
    let mut again: Session = hub.open(Transport::Sse, "one", None).await;
    assert_eq!(site.all(&mut again).await.len(), 61);
    let (status, problem) = register(&hub, &asked("two", "bad", json!({ "cursor": "AAAA" }))).await;
    assert_eq!((status, &problem["code"]), (400, &json!("INVALID_CURSOR")), "{problem}");
    for both in [json!({}), json!({ "cursor": seen[3].cursor, "operationTime": { "t": 5, "i": 1 } })] {
        let (status, problem) = register(&hub, &asked("two", "bad", both)).await;
        assert_eq!((status, &problem["code"]), (422, &json!("INVALID_REQUEST")), "{problem}");
    }
    hub.drain().await;
    site.remove().await;
}
