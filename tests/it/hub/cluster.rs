//! Several hubs of one store: any of them serves any call, whoever owns the partition.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::doc;
use reqwest::Method;
use serde_json::{Value, json};
use streamer::clock::Clock;
use streamer::config::{Config, StoreKind};
use streamer::ring::Ring;

use super::consumers::{Change, Said, Session, Transport};
use super::registration::{post, subscription};
use super::servers::{self, Server};
use super::site::{PARTITION, Running, Site, document, soon, until};

/// Names of nodes in the order in which the partition is theirs while those before are away.
pub(super) fn nodes() -> Vec<Arc<str>> {
    let mut left: BTreeSet<Arc<str>> = ["hub-a", "hub-b", "hub-c"].map(Arc::from).into();
    let mut ordered = Vec::new();
    while let Some(next) = Ring::new(left.iter().cloned()).member(PARTITION).cloned() {
        left.remove(&next);
        ordered.push(next);
    }
    ordered
}

const TRANSPORTS: [Transport; 3] = [Transport::Sse, Transport::GrpcJson, Transport::GrpcBson];

/// A store for several hubs.
pub(super) async fn shared(site: &Site) -> (Server, Config) {
    let etcd = servers::etcd().await;
    let mut config = site.config();
    config.store.kind = StoreKind::Etcd;
    config.store.endpoints = vec![etcd.address.clone()];
    config.store.prefix = format!("/{}", site.database);
    (etcd, config)
}

/// Nodes of one store and of one database.
struct Cluster {
    site: Site,
    /// In the order in which the partition is theirs.
    names: Vec<Arc<str>>,
    config: Config,
    _etcd: Server,
}

impl Cluster {
    async fn new() -> Self {
        let site = Site::new().await;
        let (etcd, config) = shared(&site).await;
        Self { site, names: nodes(), config, _etcd: etcd }
    }

    /// Starts the node with this place in the order.
    async fn node(&self, place: usize) -> Running {
        let mut config = self.config.clone();
        config.node.id = self.names[place].to_string();
        Running::start(&config, Clock::system()).await
    }

    /// Ends what is left of it, one node after the other.
    async fn end(self, nodes: impl IntoIterator<Item = Running>) {
        for node in nodes {
            node.drain().await;
        }
        self.site.remove().await;
    }
}

async fn write(site: &Site, key: &str) {
    site.documents().insert_one(document("acme", "messages", key, doc! { "chat": "c", "n": 1 })).await.unwrap();
}

async fn change(session: &mut Session) -> Change {
    let taking = async {
        loop {
            match session.next().await.expect("the session goes on") {
                Said::Change(change) => return *change,
                Said::Closed(reason) => panic!("{reason}"),
                _ => {}
            }
        }
    };
    soon("a change", taking).await
}

async fn owner(hub: &Running) -> Value {
    hub.get("/v1/partitions/default/0").await.1["owner"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_answers_any_call() {
    let cluster = Cluster::new().await;
    let names = &cluster.names;
    let first = cluster.node(0).await;
    let edge = cluster.node(1).await;
    assert_eq!(owner(&edge).await, *names[0]);
    let path = "/v1/gateways/gw/subscriptions/s";

    let (status, made) = post(&edge, &subscription("gw", "s", "c")).await;
    assert_eq!(status, 201, "{made}");
    let (status, again) = post(&first, &subscription("gw", "s", "c")).await;
    assert_eq!((status, &again["generation"], &again["activeFrom"]), (200, &made["generation"], &made["activeFrom"]));
    assert_eq!((&again["plan"], &again["warnings"]), (&made["plan"], &made["warnings"]));
    let (status, problem) = post(&edge, &subscription("gw", "s", "other")).await;
    assert_eq!((status, &problem["code"]), (409, &json!("SUBSCRIPTION_EXISTS")));
    let batch = json!({ "subscriptions": [subscription("gw", "t", "c"), { "subscriptionId": "bad" }, subscription("gw", "s", "x")] });
    let (status, answer) = edge.call(Method::POST, "/v1/subscriptions/batch", Some(&batch)).await;
    let statuses: Vec<_> = answer["results"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
    assert_eq!((status, statuses), (200, vec![json!(201), json!(422), json!(409)]));

    let (_, here) = edge.get("/v1/subscriptions?limit=1").await;
    assert_eq!((&here["subscriptions"][0]["subscriptionId"], here["next"].is_string()), (&json!("s"), true));
    let (_, there) = first.get("/v1/subscriptions?limit=1").await;
    assert_eq!(here["next"], there["next"]);
    assert_eq!(edge.get(path).await.1["filters"], json!([{ "field": "chat", "op": "==", "value": "c" }]));

    let mut other = subscription("gw", "s", "d");
    other["filters"][0]["value"] = json!({ "$numberLong": "9007199254740993" });
    let (status, replaced) = edge.call(Method::PUT, path, Some(&other)).await;
    assert_eq!((status, &replaced["filters"]), (200, &first.get(path).await.1["filters"]));
    assert!(replaced["generation"].as_u64() > made["generation"].as_u64());
    assert!(edge.call(Method::PUT, &format!("{path}/heartbeat"), None).await.1["expiresAt"].is_string());
    let named = json!({ "subscriptionIds": ["s", "gone"] });
    let (_, renewed) = edge.call(Method::PUT, "/v1/gateways/gw/heartbeat", Some(&named)).await;
    assert_eq!((&renewed["unknown"], &renewed["unlisted"]), (&json!(["gone"]), &json!(["t"])));

    let asked = json!({
        "tenant": "acme", "collection": "messages", "document": { "chat": "c", "at": { "$date": "2026-11-21T10:00:00Z" } },
        "gatewayId": "gw", "subscriptionId": "s",
    });
    let (_, explained) = edge.call(Method::POST, "/v1/explain", Some(&asked)).await;
    assert_eq!(explained["matches"], json!([{ "gatewayId": "gw", "subscriptionId": "t" }]), "{explained}");
    assert_eq!(
        explained["subscription"],
        first.call(Method::POST, "/v1/explain", Some(&asked)).await.1["subscription"]
    );

    assert_eq!(edge.call(Method::POST, "/v1/gateways/gw/park", None).await.0, 204);
    until("that it is parked", async || (first.get(path).await.1["state"] == "parked").then_some(())).await;
    assert_eq!(edge.get(path).await.1["parkedReason"], "operator");
    let (_, gateways) = edge.get("/v1/gateways").await;
    assert_eq!(
        (&gateways["gateways"][0]["gatewayId"], &gateways["gateways"][0]["state"]),
        (&json!("gw"), &json!("parked"))
    );
    let target = json!({ "now": true });
    assert_eq!(edge.call(Method::PUT, "/v1/gateways/gw/cursor", Some(&target)).await.0, 204);
    let served = json!({ "delivery": "nats" });
    assert_eq!(edge.call(Method::PUT, "/v1/gateways/gw", Some(&served)).await.0, 200);
    assert_eq!(edge.get("/v1/gateways/gw/stream").await.1["code"], "DELIVERY_MISMATCH");
    assert_eq!(edge.call(Method::POST, "/v1/partitions/default/0/pause", None).await.1["state"], "paused");
    assert_eq!(first.call(Method::POST, "/v1/partitions/default/0/resume", None).await.0, 200);

    assert_eq!(edge.call(Method::DELETE, path, None).await.0, 204);
    assert_eq!(edge.get(path).await.1["code"], "SUBSCRIPTION_NOT_FOUND");
    assert_eq!(edge.call(Method::DELETE, "/v1/gateways/gw", None).await.0, 204);
    assert_eq!(edge.get("/v1/gateways/gw").await.1["code"], "GATEWAY_NOT_FOUND");
    cluster.end([edge, first]).await;
}

/// What a gateway is told does not depend on the node that it is connected to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_the_same_at_any_node() {
    let cluster = Cluster::new().await;
    let (site, names) = (&cluster.site, &cluster.names);
    let first = cluster.node(0).await;
    let edge = cluster.node(1).await;
    for transport in TRANSPORTS {
        let (here, there) = (format!("edge-{transport:?}"), format!("owner-{transport:?}"));
        for gateway in [&here, &there] {
            let asked = json!({
                "subscriptionId": "s", "gatewayId": gateway, "tenant": "acme", "collection": "messages",
                "transitions": true, "fields": ["n", "chat"],
                "filters": [{ "field": "n", "op": ">", "value": 0 }],
            });
            assert_eq!(post(&edge, &asked).await.0, 201);
        }
        let mut sessions = [edge.open(transport, &here, None).await, first.open(transport, &there, None).await];
        let key = format!("{transport:?}");
        write(site, &key).await;
        let id = doc! { "_id": format!("acme:{key}") };
        for update in
            [doc! { "$set": { "data.n": 2, "data.more": "x".repeat(3_000) } }, doc! { "$set": { "data.n": 0 } }]
        {
            assert_eq!(site.documents().update_one(id.clone(), update).await.unwrap().modified_count, 1);
        }
        site.documents().delete_one(id).await.unwrap();
        write(site, &format!("{key}-end")).await;
        let mut told = Vec::new();
        for session in &mut sessions {
            let mut changes = vec![change(session).await];
            while !changes.last().unwrap().key.ends_with("end") {
                changes.push(change(session).await);
            }
            let cursor = changes.last().unwrap().cursor.clone();
            session.ack(&cursor).await;
            changes.iter_mut().for_each(|change| {
                change.cursor.clear();
                change.matches.iter_mut().for_each(|one| one.generation = 0);
            });
            told.push(format!("{changes:#?}"));
        }
        assert_eq!(told[0], told[1]);
        let (_, view) = first.get(&format!("/v1/gateways/{here}")).await;
        assert_eq!((&view["session"]["node"], &view["state"]), (&json!(*names[1]), &json!("live")), "{view}");
        // The ack has reached the owner: at the other node nothing comes again.
        let mut again = until("an ack that counts", async || {
            let mut session = first.open(transport, &here, None).await;
            site.all(&mut session).await.is_empty().then_some(session)
        })
        .await;
        write(site, &format!("{key}-after")).await;
        assert_eq!(change(&mut again).await.key, format!("{key}-after"));
    }
    cluster.end([edge, first]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_elsewhere_comes_back_with_its_cursor_when_the_owner_goes() {
    let cluster = Cluster::new().await;
    let (site, names) = (&cluster.site, &cluster.names);
    let first = cluster.node(0).await;
    let edge = cluster.node(1).await;
    let third = cluster.node(2).await;
    assert_eq!(post(&third, &subscription("gw", "s", "c")).await.0, 201);
    let mut session = third.open(Transport::GrpcJson, "gw", None).await;
    write(site, "a").await;
    let cursor = change(&mut session).await.cursor;
    write(site, "b").await;
    assert_eq!(change(&mut session).await.key, "b");
    // The newest session is served, wherever it is opened.
    let mut newer = edge.open(Transport::Sse, "gw", Some(&cursor)).await;
    assert_eq!(change(&mut newer).await.key, "b");
    assert_eq!(closed(session).await, "superseded");

    first.drain().await;
    assert_eq!(closed(newer).await, "draining");
    write(site, "c").await;
    let mut left = [Some(edge), Some(third)];
    for round in 0..2 {
        let hub = left[round].as_ref().unwrap();
        let name = &names[1 + round];
        let mut session = until("a session", async || {
            let (http, grpc) = (hub.http_url(), hub.grpc_url());
            Session::try_open(Transport::GrpcBson, &http, &grpc, "gw", Some(cursor.clone())).await
        })
        .await;
        let expected = ["b", "c", "d"];
        for key in &expected[..2 + round] {
            assert_eq!(change(&mut session).await.key, *key, "at {name}");
        }
        if round == 0 {
            write(site, "d").await;
            assert_eq!(change(&mut session).await.key, "d");
            left[0].take().unwrap().drain().await;
        }
    }
    let last = left[1].take().unwrap();
    until("the last one as owner", async || (owner(&last).await == *names[2]).then_some(())).await;
    cluster.end([last]).await;
}

/// Writes one document after the other until it is told to stop; how many.
async fn keep_writing(site: &Site, stop: &AtomicBool) -> usize {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        write(site, &format!("{written:05}")).await;
        written += 1;
    }
    write(site, "end").await;
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_goes_where_it_is_wanted_and_loses_nothing_on_the_way() {
    let cluster = Cluster::new().await;
    let (site, names) = (&cluster.site, &cluster.names);
    let first = cluster.node(0).await;
    let second = cluster.node(1).await;
    assert_eq!(post(&first, &subscription("gw", "s", "c")).await.0, 201);
    let path = "/v1/partitions/default/0/move";
    let nowhere = json!({ "node": "hub-z" });
    let (status, problem) = second.call(Method::POST, path, Some(&nowhere)).await;
    assert_eq!((status, &problem["field"]), (422, &json!("node")), "{problem}");

    let stop = AtomicBool::new(false);
    let moving = async {
        for node in [&names[1], &names[0], &names[1]] {
            let wanted = json!({ "node": **node });
            until("a move that is taken", async || {
                (second.call(Method::POST, path, Some(&wanted)).await.0 == 200).then_some(())
            })
            .await;
            until("the other owner", async || (owner(&first).await == **node).then_some(())).await;
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    // One gateway, now at this node and now at that one.
    let reading = async {
        let (mut keys, mut cursor, mut turn) = (Vec::new(), None, 0);
        while keys.last().is_none_or(|key| key != "end") {
            let hub = [&first, &second][turn % 2];
            turn += 1;
            let mut session = until("a session", async || {
                Session::try_open(TRANSPORTS[turn % 3], &hub.http_url(), &hub.grpc_url(), "gw", cursor.clone()).await
            })
            .await;
            while let Some(said) = soon("a message", session.next()).await {
                match said {
                    Said::Change(change) => {
                        keys.push(change.key.clone());
                        cursor = Some(change.cursor);
                        if keys.last().is_some_and(|key| key == "end") {
                            break;
                        }
                    }
                    Said::Closed(reason) => assert_eq!(reason, "draining"),
                    _ => {}
                }
            }
        }
        keys
    };
    let (written, keys, ()) = tokio::join!(keep_writing(site, &stop), reading, moving);
    let mut expected: Vec<_> = (0..written).map(|number| format!("{number:05}")).collect();
    expected.push("end".into());
    assert_eq!(keys, expected);

    for hub in [&first, &second] {
        let (status, cluster) = hub.get("/v1/cluster").await;
        let named = |list: &Value| -> BTreeSet<String> {
            list.as_array().unwrap().iter().map(|one| one["node"].as_str().unwrap().to_owned()).collect()
        };
        let both: BTreeSet<String> = names[..2].iter().map(ToString::to_string).collect();
        assert_eq!((status, named(&cluster["nodes"]), named(&cluster["ring"])), (200, both.clone(), both), "{cluster}");
        assert_eq!(cluster["leases"][0]["owner"], *names[1]);
        assert!(cluster["nodes"].as_array().unwrap().iter().all(|node| node["address"].is_string()), "{cluster}");
    }
    // Where it is wanted is gone: back to whom the ring says.
    second.drain().await;
    until("the first one as owner", async || (owner(&first).await == *names[0]).then_some(())).await;
    cluster.end([first]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_outlives_its_owner() {
    let cluster = Cluster::new().await;
    let (site, names) = (&cluster.site, &cluster.names);
    let first = cluster.node(0).await;
    let second = cluster.node(1).await;
    assert_eq!(post(&first, &subscription("gw", "s", "c")).await.0, 201);
    let path = "/v1/partitions/default/0";
    let (status, view) = second.call(Method::POST, &format!("{path}/pause"), None).await;
    assert_eq!((status, &view["state"]), (200, &json!("paused")));
    first.drain().await;
    until("the other owner", async || (owner(&second).await == *names[1]).then_some(())).await;
    assert_eq!(second.get(path).await.1["state"], "paused");
    write(site, "a").await;
    assert_eq!(second.call(Method::POST, &format!("{path}/resume"), None).await.0, 200);
    let mut session = second.open(Transport::Sse, "gw", None).await;
    assert_eq!(change(&mut session).await.key, "a");
    second.drain().await;
    let third = cluster.node(2).await;
    assert_ne!(third.get(path).await.1["state"], "paused");
    cluster.end([third]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_takes_what_is_its_own() {
    let cluster = Cluster::new().await;
    let names = &cluster.names;
    let second = cluster.node(1).await;
    assert_eq!(owner(&second).await, *names[1]);
    let third = cluster.node(2).await;
    let first = cluster.node(0).await;
    until("the first choice as owner", async || (owner(&third).await == *names[0]).then_some(())).await;
    cluster.end([third, second, first]).await;
}

async fn closed(mut session: Session) -> String {
    let ending = async {
        loop {
            if let Said::Closed(reason) = session.next().await.expect("a reason") {
                return reason;
            }
        }
    };
    soon("the session's end", ending).await
}
