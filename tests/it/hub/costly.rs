//! Filters that cost too much in operation: parked with a notice, and nobody else notices.

use bson::{Bson, doc};
use reqwest::Method;
use serde_json::{Value, json};
use streamer::clock::Clock;

use super::consumers::{Said, Transport};
use super::registration::{post, subscription};
use super::site::{Running, Site, document, soon, until};

/// Within every limit of a registration; dear over a long list.
fn dear() -> Value {
    let tests: Vec<String> = (0..40).map(|n| format!("x % {} == {}", n + 1_000, n + 2_000)).collect();
    let mut asked = subscription("gw", "dear", "c");
    asked["cel"] = json!(format!("doc.numbers.exists(x, {})", tests.join(" || ")));
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_is_too_dear_is_parked_and_says_so_until_it_is_replaced() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    assert_eq!(post(&hub, &dear()).await.0, 201);
    assert_eq!(post(&hub, &subscription("gw", "plain", "c")).await.0, 201);
    let mut session = hub.open(Transport::Sse, "gw", None).await;

    let numbers: Vec<Bson> = (0..50_000).map(Bson::Int32).collect();
    let large = document("acme", "messages", "m", doc! { "chat": "c", "count": 0, "numbers": numbers });
    let id = large.get("_id").unwrap().clone();
    site.documents().insert_one(large).await.unwrap();
    let path = "/v1/gateways/gw/subscriptions/dear";
    let mut writes = 1_u32;
    until("parking", async || {
        for _ in 0..5 {
            site.documents().update_one(doc! { "_id": &id }, doc! { "$inc": { "data.count": 1 } }).await.unwrap();
            writes += 1;
        }
        let view = hub.get(path).await.1;
        (view["state"] == "parked").then(|| assert_eq!(view["parkedReason"], "too_costly"))
    })
    .await;

    // The other subscription has had every change, and the notice has come between them.
    let (mut told, mut changes) = (0, 0);
    let reading = async {
        while changes < writes || told == 0 {
            match session.next().await.expect("the session goes on") {
                Said::Change(change) => {
                    assert!(change.matches.iter().all(|found| found.subscription_id == "plain"));
                    changes += 1;
                }
                Said::Expired(ids) => {
                    assert_eq!(ids, ["dear"]);
                    told += 1;
                }
                Said::Welcome | Said::Progress(..) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    soon("every change and the notice", reading).await;
    drop(session);

    // Neither a heartbeat nor the same again brings it back, and each session is told.
    assert_eq!(hub.call(Method::PUT, "/v1/gateways/gw/heartbeat", None).await.0, 200);
    post(&hub, &dear()).await;
    assert_eq!(hub.get(path).await.1["state"], "parked");
    let mut session = hub.open(Transport::Sse, "gw", None).await;
    let telling = async {
        loop {
            if let Said::Expired(ids) = session.next().await.expect("the session goes on") {
                return ids;
            }
        }
    };
    assert_eq!(soon("the notice again", telling).await, ["dear"]);
    drop(session);

    // Another filter does.
    let (status, view) = hub.call(Method::PUT, path, Some(&subscription("gw", "dear", "c"))).await;
    assert_eq!((status, &view["state"]), (200, &json!("live")), "{view}");
    hub.drain().await;
    site.remove().await;
}
