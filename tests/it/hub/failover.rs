//! Three hub processes on one store: owners that are killed, frozen past their lease, and restarted in order, under
//! numbered writes and gateways at all nodes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bson::doc;
use etcd_client::{Client, EventType, GetOptions, WatchOptions};
use reqwest::Method;
use serde_json::Value;
use streamer::cmd::rig::{Hub, HubPlan};
use streamer::config::Config;
use streamer::position::Position;
use tokio::time::{sleep, timeout};

use super::cluster::shared;
use super::consumers::{Said, Session, Transport};
use super::registration::subscription;
use super::site::{Site, call, document, until};

const LEASE_SECONDS: u32 = 4;
/// A gateway hears something every second: one that hears nothing for so long goes elsewhere.
const SILENCE: Duration = Duration::from_secs(4);
/// Once all is written, so many messages may come without a change in them before something is missing.
const WAITS_MAX: usize = 40;
const NAMES: [&str; 3] = ["hub-a", "hub-b", "hub-c"];

fn plan(config: &Config, folder: &Path, name: &str) -> HubPlan {
    let folder = folder.join(name);
    std::fs::create_dir(&folder).unwrap();
    let mut config = config.clone();
    config.node.id = name.into();
    config.store.lease_seconds = LEASE_SECONDS;
    HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), &folder, config).unwrap()
}

/// Which of the nodes owns the partition, by what another one says of it.
async fn owner(urls: &[String], asked: usize) -> Option<usize> {
    let ask = call(&urls[asked], Method::GET, "/v1/partitions/default/0", None);
    let (_, view) = timeout(Duration::from_secs(2), ask).await.ok()?;
    NAMES.iter().position(|name| view["owner"] == *name)
}

/// What a gateway has taken, in order, until it is as much as was written; behind the check by position that clients
/// make.
async fn take(plans: &[HubPlan], gateway: &str, first: usize, total: &AtomicUsize) -> Vec<String> {
    let transports = [Transport::Sse, Transport::GrpcJson, Transport::GrpcBson];
    let (mut keys, mut last, mut cursor, mut turn) = (Vec::new(), None::<Position>, None::<String>, first);
    let mut waits = 0;
    while keys.len() < total.load(Ordering::Relaxed) && waits < WAITS_MAX {
        let (plan, transport) = (&plans[turn % plans.len()], transports[turn % 3]);
        turn += 1;
        let (http, grpc) = (plan.http_url(), plan.grpc_url());
        let open = Session::try_open(transport, &http, &grpc, gateway, cursor.clone());
        let Ok(Some(mut session)) = timeout(SILENCE, open).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while let Ok(Some(said)) = timeout(SILENCE, session.next()).await {
            match said {
                Said::Change(change) => {
                    assert!(!change.flags.iter().any(|flag| flag == "redelivered"), "{change:?}");
                    if last.is_none_or(|last| change.position > last) {
                        last = Some(change.position);
                        keys.push(change.key.clone());
                        waits = 0;
                        cursor = Some(change.cursor);
                    }
                }
                Said::Closed(reason) => {
                    assert_eq!(reason, "draining", "{gateway}");
                    break;
                }
                said @ Said::Resync(..) => panic!("{gateway}: {said:?}"),
                _ => {}
            }
            match total.load(Ordering::Relaxed) {
                usize::MAX => {}
                total if keys.len() >= total => return keys,
                _ => waits += 1,
            }
            if waits >= WAITS_MAX {
                return keys;
            }
        }
    }
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_killed_frozen_and_restarted_lose_nothing() {
    let site = Site::new().await;
    let (etcd, config) = shared(&site).await;
    let plans: Vec<_> = NAMES.iter().map(|name| plan(&config, site.folder.path(), name)).collect();
    let urls: Vec<_> = plans.iter().map(HubPlan::http_url).collect();
    let mut hubs: Vec<Hub> = Vec::new();
    for plan in &plans {
        let mut hub = plan.start(None).unwrap();
        hub.ready().await.unwrap();
        hubs.push(hub);
    }
    let gateways = ["gw-0", "gw-1", "gw-2"];
    for (number, gateway) in gateways.iter().enumerate() {
        let asked = subscription(gateway, "s", "c");
        until("a registration", async || {
            let (status, _) = call(&urls[number], Method::POST, "/v1/subscriptions", Some(&asked)).await;
            matches!(status, 200 | 201).then_some(())
        })
        .await;
    }

    let (stop, total) = (AtomicBool::new(false), AtomicUsize::new(usize::MAX));
    let writing = async {
        let mut keys = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let key = format!("{:06}", keys.len());
            site.documents().insert_one(document("acme", "messages", &key, doc! { "chat": "c" })).await.unwrap();
            keys.push(key);
            sleep(Duration::from_millis(5)).await;
        }
        keys
    };
    let breaking = async {
        for fault in ["kill", "freeze", "restart", "freeze", "kill"] {
            let of = until("an owner", async || owner(&urls, 0).await).await;
            let asked = (of + 1) % NAMES.len();
            match fault {
                "kill" => hubs[of].kill().await.unwrap(),
                "freeze" => hubs[of].freeze().await.unwrap(),
                _ => assert!(hubs[of].terminate().await.unwrap().success()),
            }
            until(fault, async || owner(&urls, asked).await.filter(|now| *now != of)).await;
            if fault == "freeze" {
                // It wakes up and believes, for a moment, that it owns the partition.
                hubs[of].thaw().await.unwrap();
            } else {
                hubs[of] = plans[of].start(None).unwrap();
            }
            hubs[of].ready().await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let taking = gateways.iter().enumerate().map(|(number, gateway)| take(&plans, gateway, number, &total));
    let (written, (), taken) = tokio::join!(
        async {
            let written = writing.await;
            total.store(written.len(), Ordering::Relaxed);
            written
        },
        breaking,
        futures::future::join_all(taking),
    );
    for keys in taken {
        assert_eq!(keys, written);
    }
    check_history(&etcd.address, &config.store.prefix).await;
    for hub in &mut hubs {
        hub.terminate().await.unwrap();
    }
    site.remove().await;
}

/// Nothing of the partition was ever written while nobody owned it.
async fn check_history(etcd: &str, prefix: &str) {
    let mut client = Client::connect([etcd], None).await.unwrap();
    let now = client.get(prefix, Some(GetOptions::new().with_prefix())).await.unwrap().header().unwrap().revision();
    let options = WatchOptions::new().with_start_revision(1).with_prefix();
    let mut changes = client.watch(prefix, Some(options)).await.unwrap();
    let owner_key = format!("{prefix}/owners/default/0");
    let (mut is_owned, mut owners, mut written) = (false, Vec::new(), BTreeMap::<String, usize>::new());
    let mut revision = 0;
    while revision < now {
        let Ok(answer) = timeout(Duration::from_secs(5), changes.message()).await else { break };
        let answer = answer.unwrap().unwrap();
        for event in answer.events() {
            let entry = event.kv().unwrap();
            revision = entry.mod_revision();
            let key = entry.key_str().unwrap();
            if key == owner_key {
                is_owned = event.event_type() == EventType::Put;
                if is_owned && entry.create_revision() == entry.mod_revision() {
                    let holder: Value = serde_json::from_slice(entry.value()).unwrap();
                    owners.push(holder["node"].as_str().unwrap().to_owned());
                }
                continue;
            }
            let family =
                key.strip_prefix(prefix).unwrap().trim_start_matches('/').split('/').next().unwrap().to_owned();
            // Nodes and the numbers of sessions are nobody's.
            if family != "nodes" && family != "numbers" {
                assert!(is_owned, "{key} was written at {revision}, when nobody owned the partition");
                *written.entry(family).or_default() += 1;
            }
        }
    }
    assert!(owners.len() >= 6, "five faults, six owners at least: {owners:?}");
    assert!(
        ["checkpoint", "cursors", "gateways", "subs"].iter().all(|family| written.contains_key(*family)),
        "{written:?}"
    );
}
