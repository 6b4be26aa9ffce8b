//! A store that is away for a while: what goes on, what is refused, and that nothing answered is lost.

use bson::doc;
use reqwest::Method;
use serde_json::{Value, json};
use streamer::clock::Clock;
use streamer::cmd::rig::{self, Etcd};
use streamer::config::StoreKind;

use super::bridge::{Bridge, free_port, port_of};
use super::consumers::{Said, Session, Transport};
use super::registration::{post, subscription};
use super::site::{Running, Site, document, soon, until};

async fn write(site: &Site, key: &str) {
    site.documents().insert_one(document("acme", "messages", key, doc! { "chat": "c" })).await.unwrap();
}

/// The cursor of the change with this key.
async fn cursor_of(session: &mut Session, key: &str) -> String {
    let taking = async {
        loop {
            match session.next().await.expect("the session goes on") {
                Said::Change(change) if change.key == key => return change.cursor,
                Said::Closed(reason) => panic!("{reason}"),
                _ => {}
            }
        }
    };
    soon(key, taking).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_etcd_is_away_delivery_goes_on_and_registrations_are_refused() {
    let (site, port, folder) = (Site::new().await, free_port().await, tempfile::tempdir().unwrap());
    let etcd = Etcd::start(&rig::find("etcd", None, "STREAMER_ETCD").unwrap(), folder.path()).await.unwrap();
    let bridge = Bridge::open(port, port_of(&etcd.url())).await;
    let mut config = site.config();
    config.store.kind = StoreKind::Etcd;
    config.store.endpoints = vec![format!("http://127.0.0.1:{port}")];
    // Ownership outlasts the outage.
    config.store.lease_seconds = 60;
    let hub = Running::start(&config, Clock::system()).await;
    for gateway in ["one", "two"] {
        assert_eq!(post(&hub, &subscription(gateway, "s", "c")).await.0, 201);
    }
    let mut session = hub.open(Transport::GrpcBson, "one", None).await;
    write(&site, "before").await;
    let cursor = cursor_of(&mut session, "before").await;
    session.ack(&cursor).await;

    drop(bridge);
    write(&site, "meanwhile").await;
    let cursor = cursor_of(&mut session, "meanwhile").await;
    let ack = json!({ "cursor": cursor });
    assert_eq!(hub.call(Method::POST, "/v1/gateways/one/ack", Some(&ack)).await.0, 204, "it is held");
    let refused = |(status, problem): (u16, Value)| {
        assert_eq!((status, &problem["code"]), (503, &json!("STORE_UNAVAILABLE")), "{problem}");
    };
    refused(post(&hub, &subscription("one", "new", "c")).await);
    refused(hub.get("/v1/gateways/two/stream").await);
    refused(hub.call(Method::DELETE, "/v1/gateways/two/subscriptions/s", None).await);
    assert_eq!(hub.get("/v1/gateways/one/subscriptions/s").await.0, 200, "what only looks is answered");
    until("a health that says so", async || {
        let (_, health) = hub.get("/health").await;
        (health["components"]["store"]["status"] == "degraded").then_some(())
    })
    .await;

    // What was refused may or may not have been written; asked again it is answered, and is so.
    let _bridge = Bridge::open(port, port_of(&etcd.url())).await;
    until("a registration", async || {
        let (status, answer) = post(&hub, &subscription("one", "new", "c")).await;
        match (status, answer["code"].as_str()) {
            (200 | 201, _) => Some(()),
            (503, Some("STORE_UNAVAILABLE")) | (429, Some("RATE_LIMITED")) => None,
            other => panic!("{other:?}"),
        }
    })
    .await;
    until("a removal", async || {
        let path = "/v1/gateways/two/subscriptions/s";
        matches!(hub.call(Method::DELETE, path, None).await.0, 204 | 404).then_some(())
    })
    .await;
    write(&site, "after").await;
    // By HTTP, whose answer says that the ack has been taken.
    let ack = json!({ "cursor": cursor_of(&mut session, "after").await });
    assert_eq!(hub.call(Method::POST, "/v1/gateways/one/ack", Some(&ack)).await.0, 204);
    hub.drain().await;

    let hub = Running::start(&config, Clock::system()).await;
    let mut session = hub.open(Transport::Sse, "one", None).await;
    let again: Vec<_> = site.all(&mut session).await.into_iter().map(|change| (change.key, change.matches)).collect();
    assert!(again.is_empty(), "every ack was written in the end: {again:?}");
    let (_, page) = hub.get("/v1/subscriptions").await;
    let found: Vec<_> = page["subscriptions"].as_array().unwrap().iter().map(|one| &one["subscriptionId"]).collect();
    assert_eq!(found, ["new", "s"]);
    hub.drain().await;
    site.remove().await;
}
