//! A store that is put back from a copy: what it has forgotten is said or delivered again, and nothing passes for what it
//! is not.

use std::process::Stdio;

use reqwest::Method;
use serde_json::json;
use streamer::clock::Clock;
use streamer::config::Config;
use tokio::process::Command;

use super::consumers::{Said, Transport};
use super::history::{heard, register, until_key, write};
use super::site::{PARTITION, Running, Site};

/// A store with the subscription `all` of `gw`, paused, as it was before more happened than it knows of; and the cursor
/// with which the gateway has acked the last of that.
async fn put_back(site: &Site, config: &Config) -> String {
    let hub = Running::start(config, Clock::system()).await;
    register(&hub, "gw").await;
    let parked = json!({"subscriptionId": "parked", "gatewayId": "gw", "tenant": "acme", "collection": "messages"});
    assert_eq!(hub.call(Method::POST, "/v1/subscriptions", Some(&parked)).await.0, 201);
    write(site, "before").await;
    let mut session = hub.open(Transport::Sse, "gw", None).await;
    let heard_before = until_key(&mut session, "before").await;
    assert_eq!(heard(&heard_before), ["before"]);
    let paused = format!("/v1/partitions/{PARTITION}/pause");
    assert_eq!(hub.call(Method::POST, &paused, None).await.0, 200);
    drop(session);
    hub.drain().await;
    let copy = config.store.path.with_extension("copy");
    std::fs::copy(&config.store.path, &copy).unwrap();

    let hub = Running::start(config, Clock::system()).await;
    // So that revisions have been given that will be given again.
    for number in 0..20 {
        let asked = json!({"subscriptionId": format!("later-{number}"), "gatewayId": "gw", "tenant": "acme", "collection": "messages"});
        assert_eq!(hub.call(Method::POST, "/v1/subscriptions", Some(&asked)).await.0, 201);
    }
    // All are parked; all but one are there again before anything is written.
    assert_eq!(hub.call(Method::POST, "/v1/gateways/gw/park", None).await.0, 204);
    let held = json!({"subscriptionIds": ["all"]});
    assert_eq!(hub.call(Method::PUT, "/v1/gateways/gw/heartbeat", Some(&held)).await.0, 200);
    let resumed = format!("/v1/partitions/{PARTITION}/resume");
    assert_eq!(hub.call(Method::POST, &resumed, None).await.0, 200);
    let mut session = hub.open(Transport::Sse, "gw", None).await;
    write(site, "after").await;
    let all = until_key(&mut session, "after").await;
    let Some(Said::Change(after)) = all.last() else { panic!("{all:?}") };
    session.ack(&after.cursor).await;
    drop(session);
    hub.drain().await;
    std::fs::rename(&copy, &config.store.path).unwrap();
    after.cursor.clone()
}

/// It begins where the partition stands, which is before all that the gateway has had.
async fn register_anew(hub: &Running) {
    let asked = json!({"subscriptionId": "anew", "gatewayId": "gw", "tenant": "acme", "collection": "messages"});
    let (status, made) = hub.call(Method::POST, "/v1/subscriptions", Some(&asked)).await;
    assert_eq!(status, 201, "{made}");
    let resumed = format!("/v1/partitions/{PARTITION}/resume");
    assert_eq!(hub.call(Method::POST, &resumed, None).await.0, 200);
}

/// Whether this change was delivered for this subscription.
fn told(all: &[Said], key: &str, subscription: &str) -> bool {
    all.iter().any(|said| match said {
        Said::Change(change) => {
            change.key == key && change.matches.iter().any(|found| found.subscription_id == subscription)
        }
        _ => false,
    })
}

async fn bump(config: &Config) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    command.args(["admin", "bump-revision", "--store"]).arg(&config.store.path);
    command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_its_revision_raised_nothing_is_lost_and_nobody_reads_anew() {
    let site = Site::new().await;
    let config = site.config();
    let cursor = put_back(&site, &config).await;
    let bumped = bump(&config).await;
    assert!(bumped.status.success(), "{}", String::from_utf8_lossy(&bumped.stderr));

    let hub = Running::start(&config, Clock::system()).await;
    // It presents its cursor only later, when its session's number is none of the future any more.
    drop(hub.open(Transport::Sse, "gw", None).await);
    register_anew(&hub).await;
    let held = json!({"subscriptionIds": ["all", "anew", "later-0"]});
    let (_, renewed) = hub.call(Method::PUT, "/v1/gateways/gw/heartbeat", Some(&held)).await;
    assert_eq!(renewed["unknown"], json!(["later-0"]), "{renewed}");
    let mut session = hub.open(Transport::Sse, "gw", Some(&cursor)).await;
    write(&site, "last").await;
    let all = until_key(&mut session, "last").await;
    // The new one is owed what lies after its beginning, though the gateway's cursor is further.
    assert!(all.iter().all(|said| matches!(said, Said::Change(_))), "nobody reads anything anew: {all:?}");
    assert!(told(&all, "after", "anew"), "{all:?}");
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parking_that_is_undone_is_served_from_where_the_copy_has_it() {
    let site = Site::new().await;
    let config = site.config();
    let cursor = put_back(&site, &config).await;
    let hub = Running::start(&config, Clock::system()).await;
    let in_use = bump(&config).await;
    assert_eq!(in_use.status.code(), Some(1), "a hub holds the file");
    let resumed = format!("/v1/partitions/{PARTITION}/resume");
    assert_eq!(hub.call(Method::POST, &resumed, None).await.0, 200);
    // It was parked when `after` was written, which the copy does not know; its gateway's cursor is further, and says
    // nothing of it.
    let mut session = hub.open(Transport::Sse, "gw", Some(&cursor)).await;
    write(&site, "last").await;
    let all = until_key(&mut session, "last").await;
    assert!(told(&all, "after", "parked"), "{all:?}");
    hub.drain().await;
    site.remove().await;
}
