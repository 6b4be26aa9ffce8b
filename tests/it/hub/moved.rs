//! An operator's rewind or skip of a gateway's cursor.

use bson::doc;
use reqwest::Method;
use serde_json::{Value, json};
use streamer::clock::Clock;

use super::consumers::{Change, Said, Transport};
use super::history::{register, until_key, write};
use super::site::{Running, Site, document, soon};

const PATH: &str = "/v1/gateways/gw/cursor";

async fn move_to(hub: &Running, target: Value) -> (u16, Value) {
    hub.call(Method::PUT, PATH, Some(&target)).await
}

/// Keys, and which of them are flagged as delivered again.
fn keys(changes: &[Change]) -> Vec<(&str, bool)> {
    changes.iter().map(|change| (change.key.as_str(), change.flags.iter().any(|flag| flag == "redelivered"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_brings_it_again_flagged_whatever_cursor_is_presented() {
    let site = Site::new().await;
    let mut hub = Running::start(&site.config(), Clock::system()).await;
    register(&hub, "gw").await;
    for transport in [Transport::GrpcJson, Transport::Sse] {
        write(&site, &format!("a {transport:?}")).await;
        let time = site.now().await;
        write(&site, &format!("b {transport:?}")).await;
        write(&site, &format!("c {transport:?}")).await;
        let mut session = hub.open(transport, "gw", None).await;
        let all = until_key(&mut session, &format!("c {transport:?}")).await;
        let Some(Said::Change(last)) = all.last() else { panic!("{all:?}") };
        session.ack(&last.cursor).await;

        let target = json!({ "operationTime": { "t": time.seconds(), "i": time.0 & 0xffff_ffff } });
        let (status, answer) = move_to(&hub, target).await;
        assert_eq!(status, 204, "{answer}");
        let ended = async {
            loop {
                match session.next().await {
                    Some(Said::Closed(reason)) => return reason,
                    Some(_) => {}
                    None => panic!("no reason"),
                }
            }
        };
        assert_eq!(soon("the session's end", ended).await, "rewound");

        // A browser presents what it has, also after a restart; a move is not undone by it.
        hub.drain().await;
        hub = Running::start(&site.config(), Clock::system()).await;
        for cursor in [Some(last.cursor.as_str()), None] {
            let mut session = hub.open(transport, "gw", cursor).await;
            let changes = site.all(&mut session).await;
            let (b, c) = (format!("b {transport:?}"), format!("c {transport:?}"));
            assert_eq!(keys(&changes), [(b.as_str(), true), (c.as_str(), true)], "with {cursor:?}");
        }
        let new = format!("new {transport:?}");
        write(&site, &new).await;
        let mut session = hub.open(transport, "gw", Some(&last.cursor)).await;
        let changes = site.all(&mut session).await;
        assert_eq!(keys(&changes)[2..], [(new.as_str(), false)]);
        session.ack(&changes.last().unwrap().cursor).await;
    }
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skip_leaves_out_what_it_skips_and_nothing_else() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    register(&hub, "gw").await;
    write(&site, "before").await;
    let (status, answer) = move_to(&hub, json!({ "now": true })).await;
    assert_eq!(status, 204, "{answer}");
    write(&site, "after").await;
    let mut session = hub.open(Transport::GrpcBson, "gw", None).await;
    let changes = site.all(&mut session).await;
    assert_eq!(keys(&changes), [("after", false)]);

    // To a position, as a delivery has it.
    let position = changes[0].position.to_string();
    site.documents().insert_one(document("acme", "messages", "later", doc! {})).await.unwrap();
    let (status, answer) = move_to(&hub, json!({ "positions": { "default/0": position } })).await;
    assert_eq!(status, 204, "{answer}");
    let mut session = hub.open(Transport::Sse, "gw", Some(&changes[0].cursor)).await;
    let changes = site.all(&mut session).await;
    assert_eq!(changes.iter().map(|change| change.key.as_str()).collect::<Vec<_>>(), ["later"]);
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_can_be_moved_is_refused_and_changes_nothing() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    assert_eq!(move_to(&hub, json!({ "now": true })).await.0, 404);
    register(&hub, "gw").await;
    let mut session = hub.open(Transport::GrpcJson, "gw", None).await;
    let far = format!("{:08x}{:016x}{:08x}", 1, u64::MAX >> 1, 0);
    let later_epoch = format!("{:08x}{:016x}{:08x}", 7, site.now().await.0, 0);
    for (target, status, code) in [
        (json!({ "operationTime": "2001-01-01T00:00:00Z" }), 410, "START_TOO_OLD"),
        (json!({ "operationTime": "2101-01-01T00:00:00Z" }), 422, "INVALID_REQUEST"),
        (json!({ "positions": { "default/0": far } }), 422, "INVALID_REQUEST"),
        (json!({ "positions": { "default/0": later_epoch } }), 400, "INVALID_CURSOR"),
        (json!({ "positions": { "default/1": later_epoch } }), 422, "INVALID_REQUEST"),
    ] {
        let (got, problem) = move_to(&hub, target.clone()).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{target}: {problem}");
    }
    write(&site, "goes on").await;
    assert_eq!(keys(&site.all(&mut session).await), [("goes on", false)]);
    hub.drain().await;
    site.remove().await;
}
