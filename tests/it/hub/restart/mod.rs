//! SIGKILL of a hub in the middle of transactions and batches, before gateways that have got, and acked,
//! differently far: everything comes, in order, behind a client's check nothing twice, and at the
//! positions at which it came before.

mod gateways;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use streamer::change::Change;
use streamer::cmd::rig::{Hub, HubPlan};
use streamer::config::{Config, StoreKind};
use streamer::matching::Filter;
use streamer::position::{ClusterTime, Position};
use streamer::subscription::Spec;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::consumers::Transport;
use super::servers;
use super::site::{self, Site, soon};
use gateways::{Leaves, Library, Raw, Resume, Taken};
use writer::Writer;

const KILLS: usize = 4;
const GATEWAYS: [&str; 8] =
    ["prompt", "rare", "crashes", "presents-sse", "presents-grpc", "asks-sse", "asks-grpc", "never"];

/// What a gateway had at its end.
#[derive(Default)]
struct Outcome {
    /// Behind the client's check, in the order in which it came.
    taken: Vec<Taken>,
    /// With everything that came again.
    delivered: BTreeSet<(Position, i64)>,
    /// Where its sessions began, once it had got something.
    resumed: Vec<Position>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_with_redb() {
    let site = Site::new().await;
    let config = site.config();
    assert_eq!(drill(site, config, false).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_forgets_is_found_out() {
    let site = Site::new().await;
    let config = site.config();
    let fault = drill(site, config, true).await.expect("a fault");
    assert!(fault.contains("should be"), "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_with_etcd() {
    let (site, etcd) = (Site::new().await, servers::etcd().await);
    let mut config = site.config();
    config.store.kind = StoreKind::Etcd;
    config.store.endpoints = vec![etcd.address.clone()];
    config.store.prefix = format!("/{}", site.database);
    assert_eq!(drill(site, config, false).await, None);
}

fn subscriptions(gateway: &str) -> Vec<serde_json::Value> {
    let asked = |id: &str, more: serde_json::Value| {
        let mut asked = json!({
            "subscriptionId": id, "gatewayId": gateway, "tenant": "acme", "collection": "messages",
            "ttlSeconds": 3600,
        });
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        asked
    };
    vec![
        asked("all", json!({})),
        asked("odd", json!({ "filters": [{ "field": "odd", "op": "==", "value": 1 }] })),
        asked("fifth", json!({ "cel": "doc.n % 5 == 0", "transitions": true })),
    ]
}

/// What went wrong, if anything did.
async fn drill(site: Site, config: Config, sabotage: bool) -> Option<String> {
    let plan = HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), site.folder.path(), config).unwrap();
    let mut hub = plan.start(None).unwrap();
    hub.ready().await.unwrap();
    let from = site.now().await;
    let mut generations = BTreeMap::new();
    for gateway in GATEWAYS {
        for asked in subscriptions(gateway) {
            let (status, made) =
                site::call(&plan.http_url(), reqwest::Method::POST, "/v1/subscriptions", Some(&asked)).await;
            assert_eq!(status, 201, "{made}");
            let id = made["subscriptionId"].as_str().unwrap().to_owned();
            generations.insert((gateway, id), made["generation"].as_u64().unwrap());
        }
    }
    let (written, end) = watch::channel(None);
    // Said by a gateway that has got a part of what was written at once, and not all of it.
    let (in_transaction, mut transactions) = mpsc::channel(1);
    let (in_batch, mut batches) = mpsc::channel(1);
    let mut gateways = enter(&plan, &end, [in_transaction, in_batch]);

    let (stop, stopped) = watch::channel(false);
    let mut writing = JoinSet::new();
    writing.spawn(Writer::new(&site).run(stopped));
    for number in 0..KILLS {
        let middles = if number % 2 == 0 { &mut transactions } else { &mut batches };
        // One from before the last kill says nothing about this hub.
        let _ = middles.try_recv();
        soon("a gateway that has got half of it", middles.recv()).await.unwrap();
        hub.kill().await.unwrap();
        hub = plan.start(sabotage.then_some("forget")).unwrap();
        hub.ready().await.unwrap();
    }
    stop.send_replace(true);
    let count = writing.join_next().await.unwrap().unwrap();
    let end = site.now().await;
    site.mark().await;
    written.send_replace(Some(end));
    let mut outcomes = BTreeMap::new();
    while let Some(outcome) = soon("all that was written", gateways.join_next()).await {
        let (name, outcome): (&str, Outcome) = outcome.unwrap();
        outcomes.insert(name, outcome);
    }
    let changes = site.read(from, end).await;
    assert_eq!(changes.len(), count, "each write is one change");
    ended_well(hub).await;
    site.remove().await;
    judge(&changes, &outcomes, &generations)
}

async fn ended_well(mut hub: Hub) {
    hub.check().unwrap();
    assert!(hub.terminate().await.unwrap().success());
}

fn enter(
    plan: &HubPlan,
    end: &watch::Receiver<Option<ClusterTime>>,
    middles: [mpsc::Sender<()>; 2],
) -> JoinSet<(&'static str, Outcome)> {
    let [in_transaction, in_batch] = middles;
    let mut gateways = JoinSet::new();
    for (number, name) in GATEWAYS.into_iter().enumerate() {
        let (http, grpc) = (plan.http_url(), plan.grpc_url());
        let raw = |transport, resume, ack_every| Raw {
            name,
            http: http.clone(),
            grpc: grpc.clone(),
            transport,
            resume,
            ack_every,
            end: end.clone(),
        };
        let library = |ack_every, crashes| Library {
            name,
            grpc: grpc.clone(),
            ack_every,
            crashes,
            seed: number as u64,
            end: end.clone(),
        };
        match name {
            "prompt" => gateways.spawn(library(1, false).run()),
            "rare" => gateways.spawn(library(37, false).run()),
            "crashes" => gateways.spawn(library(11, true).run()),
            "presents-sse" => gateways
                .spawn(raw(Transport::Sse, Resume::Presents(Leaves::InTransaction, in_transaction.clone()), 0).run()),
            "presents-grpc" => {
                gateways.spawn(raw(Transport::GrpcBson, Resume::Presents(Leaves::InBatch, in_batch.clone()), 50).run())
            }
            "asks-sse" => gateways.spawn(raw(Transport::Sse, Resume::Asks, 41).run()),
            "asks-grpc" => gateways.spawn(raw(Transport::GrpcJson, Resume::Asks, 17).run()),
            _ => gateways.spawn(raw(Transport::GrpcBson, Resume::Asks, 0).run()),
        };
    }
    gateways
}

fn judge(
    changes: &[Arc<Change>],
    outcomes: &BTreeMap<&str, Outcome>,
    generations: &BTreeMap<(&'static str, String), u64>,
) -> Option<String> {
    let numbered: BTreeMap<Position, i64> =
        changes.iter().map(|change| (change.position, writer::number_of(change))).collect();
    for gateway in GATEWAYS {
        let outcome = &outcomes[gateway];
        for (position, number) in &outcome.delivered {
            if numbered.get(position) != Some(number) {
                return Some(format!("{gateway}: {number} came at another position than before, {position}"));
            }
        }
        for asked in subscriptions(gateway) {
            let id = asked["subscriptionId"].as_str().unwrap();
            let generation = generations[&(gateway, id.to_owned())];
            let filter = Filter::compile(&Spec::from_json(&asked).unwrap()).unwrap();
            let matching = changes.iter().filter_map(|change| {
                let verdict = filter.evaluate(change)?;
                let asked = verdict.transition.filter(|_| asked["transitions"] == json!(true));
                let transition = asked.map_or("", |transition| transition.name());
                Some((change.position, generation, transition.to_owned()))
            });
            let wanted: Vec<_> = matching.collect();
            let mine = outcome.taken.iter().filter(|taken| taken.id == id);
            let got: Vec<_> = mine.map(|taken| (taken.position, taken.generation, taken.transition.clone())).collect();
            let differs = got.iter().zip(&wanted).position(|(got, wanted)| got != wanted);
            if let Some(at) = differs.or((got.len() != wanted.len()).then(|| got.len().min(wanted.len()))) {
                let (got, wanted) = (got.get(at), wanted.get(at));
                return Some(format!("{gateway}, {id}: number {at} is {got:?} and should be {wanted:?}"));
            }
        }
    }
    // The test says something only if sessions began inside what was written at once.
    let ends: BTreeMap<ClusterTime, u32> =
        changes.iter().map(|change| (change.position.time, change.position.ordinal)).collect();
    let is_inside = |position: &&Position| position.ordinal > 0 && position.ordinal < ends[&position.time];
    let inside = |name: &str| outcomes[name].resumed.iter().filter(is_inside).count();
    assert!(inside("presents-sse") >= KILLS / 2, "sessions that began inside a transaction");
    assert!(outcomes["presents-grpc"].resumed.len() >= KILLS, "each kill is seen");
    None
}
