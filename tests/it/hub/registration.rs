//! Registration over HTTP with a whole hub behind it: what is answered, what is delivered because of it,
//! and what a restart keeps.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::doc;
use reqwest::Method;
use serde_json::{Value, json};
use streamer::clock::Clock;
use streamer::cmd::rig::HubPlan;
use streamer::config::StoreKind;
use streamer::position::{ClusterTime, Position};

use super::consumers::{Change, Said, Session, Transport};
use super::servers;
use super::site::{PARTITION, Running, Site, call, document, soon, until};

pub(super) fn subscription(gateway: &str, id: &str, chat: &str) -> Value {
    json!({
        "subscriptionId": id, "gatewayId": gateway, "tenant": "acme", "collection": "messages",
        "filters": [{ "field": "chat", "op": "==", "value": chat }],
    })
}

pub(super) async fn post(hub: &Running, body: &Value) -> (u16, Value) {
    hub.call(Method::POST, "/v1/subscriptions", Some(body)).await
}

async fn write(site: &Site, key: &str, chat: &str) {
    site.documents().insert_one(document("acme", "messages", key, doc! { "chat": chat, "key": key })).await.unwrap();
}

async fn open(hub: &Running, gateway: &str) -> Session {
    hub.open(Transport::Sse, gateway, None).await
}

/// `(subscription, generation)` of each match, in order.
fn matches(changes: &[Change]) -> Vec<(&str, u64)> {
    let matches = changes.iter().flat_map(|change| &change.matches);
    matches.map(|matched| (matched.subscription_id.as_str(), matched.generation)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_repeated_refused_replaced_and_removed() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    let asked = subscription("gw", "inbox", "c1");
    let path = "/v1/gateways/gw/subscriptions/inbox";

    let (status, made) = post(&hub, &asked).await;
    assert_eq!((status, &made["state"]), (201, &json!("live")), "{made}");
    assert_eq!(made["warnings"], json!([]), "images are recorded");
    assert_eq!(made["plan"]["indexes"][0]["field"], "chat");
    let mut longer = asked.clone();
    longer["ttlSeconds"] = json!(600);
    longer["startAt"] = json!({ "operationTime": { "t": 1, "i": 1 } });
    let (status, again) = post(&hub, &longer).await;
    assert_eq!(status, 200, "ttl and startAt are not part of what it is: {again}");
    assert_eq!((&again["generation"], &again["activeFrom"]), (&made["generation"], &made["activeFrom"]));
    let (status, problem) = post(&hub, &subscription("gw", "inbox", "c2")).await;
    assert_eq!((status, &problem["code"]), (409, &json!("SUBSCRIPTION_EXISTS")));

    let mut session = open(&hub, "gw").await;
    write(&site, "1", "c1").await;
    let before = site.all(&mut session).await;
    let old = made["generation"].as_u64().unwrap();
    assert_eq!(matches(&before), [("inbox", old)]);

    // Until its place the old filter holds; after it the new one; nothing between is missed.
    let writing = async {
        for number in 0..60 {
            write(&site, &format!("both-{number}"), "c1").await;
        }
    };
    let replacement = json!({
        "tenant": "acme", "collection": "messages",
        "filters": [{ "field": "chat", "op": "in", "value": ["c1", "c2"] }],
    });
    let (replaced, ()) = tokio::join!(hub.call(Method::PUT, path, Some(&replacement)), writing);
    let (status, replaced) = replaced;
    assert_eq!(status, 200, "{replaced}");
    let new = replaced["generation"].as_u64().unwrap();
    let place: Position = replaced["activeFrom"][PARTITION].as_str().unwrap().parse().unwrap();
    assert!(new > old);
    write(&site, "2", "c2").await;
    let changes = site.all(&mut session).await;
    assert_eq!(changes.len(), 61, "no gap and nothing twice");
    for change in &changes {
        let generation = if change.position <= place { old } else { new };
        assert_eq!(matches(std::slice::from_ref(change)), [("inbox", generation)], "{} {place}", change.position);
    }

    assert_eq!(hub.call(Method::DELETE, path, None).await, (204, Value::Null));
    for (method, path) in
        [(Method::DELETE, path.to_owned()), (Method::GET, path.to_owned()), (Method::PUT, format!("{path}/heartbeat"))]
    {
        let (status, problem) = hub.call(method, &path, None).await;
        assert_eq!((status, &problem["code"]), (404, &json!("SUBSCRIPTION_NOT_FOUND")));
    }
    write(&site, "3", "c1").await;
    assert!(site.all(&mut session).await.is_empty());
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_pages_quotas_and_the_end_of_a_gateway() {
    let site = Site::new().await;
    let mut config = site.config();
    (config.quotas.gateway, config.quotas.tenant, config.quotas.global) = (5, 7, 8);
    let hub = Running::start(&config, Clock::system()).await;

    let mut bad = subscription("gw", "bad", "c");
    bad["filters"][0]["op"] = json!("~");
    let mut of = subscription("gw", "cel", "c");
    of["cel"] = json!("doc.");
    let items = [subscription("gw", "a", "1"), bad, subscription("gw", "b", "2"), of, subscription("gw", "a", "3")];
    let batch = json!({ "subscriptions": items });
    let (status, answer) = hub.call(Method::POST, "/v1/subscriptions/batch", Some(&batch)).await;
    assert_eq!(status, 200);
    let results = answer["results"].as_array().unwrap();
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 422, 201, 422, 409], "{answer}");
    assert_eq!(results[1]["problem"]["field"], "filters[0].op");
    assert_eq!(results[3]["problem"]["code"], "CEL_COMPILATION_FAILED");

    for id in ["c", "d", "e"] {
        assert_eq!(post(&hub, &subscription("gw", id, "1")).await.0, 201);
    }
    let refused = async |gateway: &str, tenant: &str, code: &str| {
        let mut asked = subscription(gateway, "f", "1");
        asked["tenant"] = json!(tenant);
        let (status, problem) = post(&hub, &asked).await;
        assert_eq!((status, &problem["code"]), (429, &json!(code)), "{problem}");
    };
    refused("gw", "acme", "GATEWAY_QUOTA_EXCEEDED").await;
    assert_eq!(post(&hub, &subscription("gw", "c", "1")).await.0, 200, "one that is there needs no room");
    for id in ["a", "b"] {
        assert_eq!(post(&hub, &subscription("other", id, "1")).await.0, 201);
    }
    refused("other", "acme", "TENANT_QUOTA_EXCEEDED").await;
    let mut last = subscription("other", "z", "1");
    last["tenant"] = json!("globex");
    assert_eq!(post(&hub, &last).await.0, 201);
    refused("third", "globex", "GLOBAL_QUOTA_EXCEEDED").await;

    let mut ids = Vec::new();
    let mut after = String::new();
    loop {
        let (status, page) = hub.get(&format!("/v1/subscriptions?tenant=acme&limit=3{after}")).await;
        assert_eq!(status, 200);
        let subscriptions = page["subscriptions"].as_array().unwrap();
        assert!(subscriptions.len() <= 3);
        let name = |one: &Value| format!("{}/{}", one["gatewayId"], one["subscriptionId"]).replace('"', "");
        ids.extend(subscriptions.iter().map(name));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(ids, ["gw/a", "gw/b", "gw/c", "gw/d", "gw/e", "other/a", "other/b"]);
    let (_, page) = hub.get("/v1/subscriptions?gatewayId=other&tenant=globex").await;
    assert_eq!(page["subscriptions"].as_array().unwrap().len(), 1);

    let named = json!({ "subscriptionIds": ["a", "b", "c", "nowhere"] });
    let (status, renewed) = hub.call(Method::PUT, "/v1/gateways/gw/heartbeat", Some(&named)).await;
    assert_eq!((status, &renewed["renewed"]), (200, &json!(5)), "{renewed}");
    assert_eq!((&renewed["unknown"], &renewed["unlisted"]), (&json!(["nowhere"]), &json!(["d", "e"])));
    let (status, problem) = hub.call(Method::PUT, "/v1/gateways/nobody/heartbeat", None).await;
    assert_eq!((status, &problem["code"]), (404, &json!("GATEWAY_NOT_FOUND")));

    let (_, gateways) = hub.get("/v1/gateways").await;
    assert_eq!(gateways["gateways"].as_array().unwrap().len(), 2);
    assert_eq!(hub.call(Method::DELETE, "/v1/gateways/gw", None).await.0, 204);
    assert_eq!(hub.get("/v1/gateways/gw").await.0, 404);
    assert_eq!(hub.get("/v1/gateways/gw/subscriptions/a").await.0, 404);
    assert_eq!(post(&hub, &subscription("third", "a", "1")).await.0, 201, "there is room again");
    hub.drain().await;
    site.remove().await;
}

/// What the session learns of leases that ran out.
async fn expired(session: &mut Session) -> Vec<String> {
    let learning = async {
        loop {
            match session.next().await.expect("the session goes on") {
                Said::Expired(ids) => return ids,
                Said::Welcome | Said::Progress(..) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    soon("what expired", learning).await
}

async fn is(hub: &Running, gateway: &str, id: &str, state: &str) {
    let path = format!("/v1/gateways/{gateway}/subscriptions/{id}");
    until(state, async || (hub.get(&path).await.1["state"] == state).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_is_parked_and_comes_back_with_what_it_missed() {
    let (site, clock) = (Site::new().await, Clock::manual());
    let mut config = site.config();
    config.sessions.park_seconds = 1_000;
    let hub = Running::start(&config, clock.clone()).await;
    for (id, seconds) in [("short", 60), ("long", 600)] {
        let mut asked = subscription("gw", id, "c1");
        asked["ttlSeconds"] = json!(seconds);
        assert_eq!(post(&hub, &asked).await.0, 201);
    }
    let mut session = open(&hub, "gw").await;
    write(&site, "1", "c1").await;
    let seen = site.all(&mut session).await;
    assert_eq!(seen.len(), 1, "one message for both");
    assert_eq!(seen[0].matches.len(), 2);
    session.ack(&seen[0].cursor).await;

    // Renewed in time it stays, though more than its time has passed since it was made.
    for _ in 0..3 {
        clock.advance(Duration::from_secs(40));
        let renewed = hub.call(Method::PUT, "/v1/gateways/gw/subscriptions/short/heartbeat", None).await;
        assert_eq!(renewed.0, 200);
    }
    write(&site, "2", "c1").await;
    let seen = site.all(&mut session).await;
    assert_eq!(seen[0].matches.len(), 2);
    session.ack(&seen[0].cursor).await;

    clock.advance(Duration::from_secs(400));
    is(&hub, "gw", "short", "parked").await;
    is(&hub, "gw", "long", "live").await;
    assert_eq!(expired(&mut session).await, ["short"]);
    session = open(&hub, "gw").await;
    assert_eq!(expired(&mut session).await, ["short"], "said again after each welcome");
    write(&site, "3", "c1").await;
    let seen = site.all(&mut session).await;
    assert_eq!(matches(&seen).iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["long"]);

    // The gateway's heartbeat revives it, and what it missed comes.
    let (_, renewed) = hub.call(Method::PUT, "/v1/gateways/gw/heartbeat", None).await;
    assert_eq!(renewed["renewed"], 2);
    is(&hub, "gw", "short", "live").await;
    let seen = site.all(&mut session).await;
    assert_eq!(matches(&seen).iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["short"]);
    assert_eq!(seen[0].flags, ["replayed"]);
    session.ack(&seen[0].cursor).await;

    // So does a registration of the same.
    clock.advance(Duration::from_secs(400));
    is(&hub, "gw", "short", "parked").await;
    write(&site, "4", "c1").await;
    let mut asked = subscription("gw", "short", "c1");
    asked["ttlSeconds"] = json!(60);
    assert_eq!(post(&hub, &asked).await.0, 200);
    is(&hub, "gw", "short", "live").await;
    let seen = site.all(&mut session).await;
    let mut ids: Vec<_> = matches(&seen).iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["long", "short"], "each once");

    // After its time in parking it is gone.
    clock.advance(Duration::from_secs(700));
    is(&hub, "gw", "short", "parked").await;
    clock.advance(Duration::from_secs(1_100));
    let path = "/v1/gateways/gw/subscriptions/short";
    until("the end of what is parked", async || (hub.get(path).await.0 == 404).then_some(())).await;
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_everything() {
    let (site, clock) = (Site::new().await, Clock::manual());
    let config = site.config();
    let hub = Running::start(&config, clock.clone()).await;
    for (id, seconds) in [("kept", 3_600), ("parked", 60)] {
        let mut asked = subscription("gw", id, "c1");
        (asked["ttlSeconds"], asked["transitions"]) = (json!(seconds), json!(true));
        (asked["cel"], asked["fields"]) = (json!("doc.key != 'x'"), json!(["chat"]));
        assert_eq!(post(&hub, &asked).await.0, 201);
    }
    let mut session = open(&hub, "gw").await;
    write(&site, "1", "c1").await;
    let seen = site.all(&mut session).await;
    session.ack(&seen[0].cursor).await;
    clock.advance(Duration::from_secs(100));
    is(&hub, "gw", "parked", "parked").await;
    let (_, before) = hub.get("/v1/subscriptions").await;
    write(&site, "2", "c1").await;
    drop(session);
    hub.drain().await;
    write(&site, "3", "c1").await;

    let hub = Running::start(&config, clock.clone()).await;
    let (_, after) = hub.get("/v1/subscriptions").await;
    let same = |list: &Value| -> Vec<Value> {
        let mut list = list["subscriptions"].as_array().unwrap().clone();
        for one in &mut list {
            // A lease begins anew with the hub, and who is not connected catches up.
            for moving in ["expiresAt", "state"] {
                one.as_object_mut().unwrap().remove(moving);
            }
        }
        list
    };
    assert_eq!(same(&before), same(&after));
    is(&hub, "gw", "parked", "parked").await;
    let mut session = open(&hub, "gw").await;
    let seen = site.all(&mut session).await;
    assert_eq!(matches(&seen).iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["kept", "kept"]);
    assert_eq!(hub.call(Method::PUT, "/v1/gateways/gw/subscriptions/parked/heartbeat", None).await.0, 200);
    is(&hub, "gw", "parked", "live").await;
    let seen = site.all(&mut session).await;
    assert_eq!(matches(&seen).iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["parked", "parked"]);
    hub.drain().await;
    site.remove().await;
}

/// Answered is durable: whatever was answered before a SIGKILL is there after it, with its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_kill() {
    let (site, etcd) = (Site::new().await, servers::etcd().await);
    for kind in [StoreKind::Redb, StoreKind::Etcd] {
        let mut config = site.config();
        (config.store.kind, config.store.endpoints) = (kind, vec![etcd.address.clone()]);
        config.store.prefix = format!("/{}", site.database);
        let plan = HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), site.folder.path(), config).unwrap();
        let mut hub = plan.start(None).unwrap();
        hub.ready().await.unwrap();
        let url = plan.http_url();
        let gateway = format!("gw-{kind:?}");
        let path = |id: &str| format!("/v1/gateways/{gateway}/subscriptions/{id}");
        let mut answered: BTreeMap<String, Value> = BTreeMap::new();
        for round in 0..4 {
            let ids: Vec<_> = (0..50).map(|n| format!("{round}-{n:02}")).collect();
            let items: Vec<_> = ids.iter().map(|id| subscription(&gateway, id, id)).collect();
            let batch = json!({ "subscriptions": items });
            let (_, made) = call(&url, Method::POST, "/v1/subscriptions/batch", Some(&batch)).await;
            for (id, result) in ids.iter().zip(made["results"].as_array().unwrap()) {
                assert_eq!(result["status"], 201, "{result}");
                answered.insert(id.clone(), result["subscription"].clone());
            }
            let replacement = json!({ "tenant": "acme", "collection": "messages", "cel": "doc.chat == 'x'" });
            let (status, replaced) = call(&url, Method::PUT, &path(&ids[7]), Some(&replacement)).await;
            assert_eq!(status, 200, "{replaced}");
            answered.insert(ids[7].clone(), replaced);
            assert_eq!(call(&url, Method::DELETE, &path(&ids[3]), None).await.0, 204);
            answered.remove(&ids[3]);

            hub.kill().await.unwrap();
            // Nobody is there to see it being written.
            write(&site, &format!("{kind:?}-{round}"), &ids[0]).await;
            hub = plan.start(None).unwrap();
            hub.ready().await.unwrap();
            let (_, page) =
                call(&url, Method::GET, &format!("/v1/subscriptions?gatewayId={gateway}&limit=1000"), None).await;
            let found: BTreeMap<String, Value> = page["subscriptions"].as_array().unwrap().iter().map(named).collect();
            assert!(found.keys().eq(answered.keys()), "{:?}", found.keys());
            for (id, one) in &answered {
                for field in ["generation", "activeFrom", "filters", "cel", "tenant", "collection", "plan"] {
                    assert_eq!(one[field], found[id][field], "{id} {field}");
                }
            }
        }
        let mut session = Session::open(Transport::GrpcJson, &url, &plan.grpc_url(), &gateway, None).await;
        let seen = site.all(&mut session).await;
        let ids: Vec<_> = matches(&seen).iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, ["0-00", "1-00", "2-00", "3-00"], "each once, though its hub was dead");
        assert!(hub.terminate().await.unwrap().success());
    }
    site.remove().await;
}

fn named(one: &Value) -> (String, Value) {
    (one["subscriptionId"].as_str().unwrap().to_owned(), one.clone())
}

/// A gateway that has acked nothing gets what the old filter matched by the old filter, whatever happened
/// to the hub since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_filter_outlives_a_kill() {
    let site = Site::new().await;
    let plan = HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), site.folder.path(), site.config()).unwrap();
    let mut hub = plan.start(None).unwrap();
    hub.ready().await.unwrap();
    let (url, path) = (plan.http_url(), "/v1/gateways/gw/subscriptions/s");
    let (status, made) = call(&url, Method::POST, "/v1/subscriptions", Some(&subscription("gw", "s", "chat-0"))).await;
    assert_eq!(status, 201, "{made}");
    let place = |answer: &Value| answer["activeFrom"][PARTITION].as_str().unwrap().parse::<Position>().unwrap();
    // From where on which filter holds, and under which generation.
    let mut filters = vec![(place(&made), made["generation"].as_u64().unwrap())];
    for round in 1..5 {
        for number in 0..40 {
            write(&site, &format!("{round}-{number}"), &format!("chat-{}", number % 5)).await;
        }
        let replacement = json!({
            "tenant": "acme", "collection": "messages",
            "filters": [{ "field": "chat", "op": "==", "value": format!("chat-{round}") }],
        });
        let (status, replaced) = call(&url, Method::PUT, path, Some(&replacement)).await;
        assert_eq!(status, 200, "{replaced}");
        filters.push((place(&replaced), replaced["generation"].as_u64().unwrap()));
        hub.kill().await.unwrap();
        hub = plan.start(None).unwrap();
        hub.ready().await.unwrap();
    }
    write(&site, "last", "chat-4").await;
    let mut session = Session::open(Transport::Sse, &url, &plan.grpc_url(), "gw", None).await;
    let changes = site.all(&mut session).await;
    let got: Vec<_> = changes.iter().map(|one| (one.position, one.matches[0].generation)).collect();
    let mut wanted = Vec::new();
    for change in site.read(ClusterTime(filters[0].0.time.0 - 1), site.now().await).await {
        let round = filters.partition_point(|(place, _)| *place < change.position);
        let chat = change.document.as_ref().unwrap().get_str("chat").unwrap().to_owned();
        if round > 0 && chat == format!("chat-{}", round - 1) {
            wanted.push((change.position, filters[round - 1].1));
        }
    }
    assert!(wanted.len() > 20);
    assert_eq!(got, wanted);
    assert!(hub.terminate().await.unwrap().success());
    site.remove().await;
}
