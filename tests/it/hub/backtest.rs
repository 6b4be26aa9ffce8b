//! Filters tried on the past of a real deployment; and what operators see of a hub that works.

use bson::doc;
use reqwest::Method;
use serde_json::{Value, json};
use streamer::clock::Clock;

use super::consumers::{Said, Transport};
use super::site::{Running, Site, document, soon, until};

fn candidate(value: i32) -> Value {
    json!({"subscriptionId": "c", "gatewayId": "gw", "tenant": "acme", "collection": "messages",
           "filters": [{"field": "n", "op": "==", "value": value}]})
}

async fn write(site: &Site, count: i32) {
    for number in 0..count {
        let body = doc! { "n": number % 10 };
        let of = document("acme", "messages", &format!("{number:04}-{:x}", rand::random::<u32>()), body);
        site.documents().insert_one(of).await.unwrap();
    }
}

/// The number of changes that every partition has read.
async fn read(hub: &Running, changes: u64) {
    until("all changes", async || {
        let (_, overview) = hub.get("/v1/overview").await;
        let all: Option<u64> =
            overview["partitions"].as_array()?.iter().map(|it| it["totals"]["changes"].as_u64()).sum();
        (all? >= changes).then_some(())
    })
    .await;
}

/// The window and the oplog say the same of what both have, however the backend is split.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_filter_would_have_fired_on() {
    let site = Site::new().await;
    let mut config = site.config();
    config.backends.0[0].partitions = 3;
    let hub = Running::start(&config, Clock::system()).await;
    write(&site, 60).await;
    read(&hub, 60).await;
    let ask = async |source: &str, seconds: u32, value: i32| {
        let body = json!({"subscription": candidate(value), "seconds": seconds, "source": source});
        let (status, answer) = hub.call(Method::POST, "/v1/backtest", Some(&body)).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    for source in ["window", "oplog"] {
        let answer = ask(source, 300, 7).await;
        assert_eq!((&answer["changes"], &answer["matches"]), (&json!(60), &json!(6)), "{source}: {answer}");
        let keys: Vec<_> =
            answer["samples"].as_array().unwrap().iter().map(|it| &it["key"].as_str().unwrap()[..4]).collect();
        assert_eq!(keys, ["0057", "0047", "0037", "0027", "0017", "0007"]);
        assert_eq!(answer["samples"][0]["document"]["n"], 7);
        let sum = |name: &str| -> u64 {
            answer["histogram"].as_array().unwrap().iter().map(|it| it[name].as_u64().unwrap()).sum()
        };
        assert_eq!((sum("changes"), sum("matches")), (60, 6));
        assert!(answer["costMicros"]["p50"].as_f64().unwrap() <= answer["costMicros"]["p99"].as_f64().unwrap());
        assert_eq!(ask(source, 300, 77).await["matches"], 0);
    }
    // The window began when the hub did; the oplog is older.
    assert_eq!(
        (&ask("window", 3_000, 7).await["complete"], &ask("oplog", 1, 7).await["complete"]),
        (&json!(false), &json!(true))
    );
    hub.drain().await;
    // What happened before a hub began is the oplog's alone.
    let hub = Running::start(&config, Clock::system()).await;
    let body = json!({"subscription": candidate(7), "seconds": 300, "source": "oplog"});
    let (_, answer) = hub.call(Method::POST, "/v1/backtest", Some(&body)).await;
    assert_eq!(answer["matches"], 6, "{answer}");
    hub.drain().await;
    site.remove().await;
}

/// Names that only something out of the ordinary brings about, or another transport.
const ON_OCCASION: [&str; 12] = [
    "streamer_config_reloads_total",
    "streamer_refused_callers_total",
    "streamer_source_reconnects_total",
    "streamer_nats_publishes_total",
    "streamer_nats_retries_total",
    "streamer_nats_duplicates_total",
    "streamer_nats_full_total",
    "streamer_nats_ack_seconds",
    "streamer_nats_stream_losses_total",
    "streamer_nats_rewinds_total",
    "streamer_log_published_total",
    "streamer_log_commit_seconds",
];

/// Every metric that is documented is told by a hub that works, and what it says is so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_works_tells_every_metric() {
    let site = Site::new().await;
    let mut config = site.config();
    config.metrics.tenants_max = 1;
    let hub = Running::start(&config, Clock::system()).await;
    assert_eq!(hub.call(Method::POST, "/v1/subscriptions", Some(&candidate(7))).await.0, 201);
    let mut session = hub.open(Transport::Sse, "gw", None).await;
    write(&site, 30).await;
    let mut taken = 0;
    while taken < 3 {
        if let Said::Change(change) = soon("a change", session.next()).await.unwrap() {
            session.ack(&change.cursor).await;
            taken += 1;
        }
    }
    let told = until("all metrics", async || {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let text = http.get(format!("{}/metrics", hub.http_url())).send().await.ok()?.text().await.ok()?;
        // Other tests' hubs are in this process, too.
        let is_there = |name: &&str| {
            text.lines().any(|line| line.starts_with(*name) && line[name.len()..].starts_with(['{', ' ', '_']))
        };
        let missing: Vec<_> =
            streamer::observe::metrics::names().filter(|name| !is_there(name) && !ON_OCCASION.contains(name)).collect();
        if missing.is_empty() {
            Some(text)
        } else {
            eprintln!("{missing:?}");
            None
        }
    })
    .await;
    assert!(told.contains("streamer_partition_state{partition=\"default/0\",state=\"paused\"}"));
    assert!(told.contains("streamer_tenant_matches_total{partition=\"default/0\",tenant=\"acme\"}"));
    let overview = until("an overview that has it all", async || {
        let (_, overview) = hub.get("/v1/overview").await;
        (overview["partitions"][0]["totals"]["delivered"] == 3).then_some(overview)
    })
    .await;
    let partition = &overview["partitions"][0];
    assert_eq!((&partition["totals"]["changes"], &partition["totals"]["matches"]), (&json!(30), &json!(3)));
    assert_eq!((&partition["subscriptions"]["live"], &partition["sessions"]), (&json!(1), &json!(1)));
    let listed = &overview["gateways"]["listed"][0];
    assert_eq!((&listed["gatewayId"], &listed["state"]), (&json!("gw"), &json!("live")));
    assert!(listed["lastAckAt"].is_string(), "{listed}");
    drop(session);
    hub.drain().await;
    site.remove().await;
}
