//! A backend of several partitions, and several backends: to a gateway they are one hub.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bson::{Document, doc};
use reqwest::Method;
use serde_json::{Value, json};
use streamer::clock::Clock;
use streamer::cmd::rig::{Line, Relay};
use streamer::config::Config;
use streamer::position::Position;
use streamer::ring::Ring;
use streamer::tasks::Tasks;

use super::cluster::shared;
use super::consumers::{Change, Said, Session, Transport};
use super::site::{Running, Site, document, soon, until};

const TRANSPORTS: [Transport; 3] = [Transport::Sse, Transport::GrpcJson, Transport::GrpcBson];

fn split(site: &Site, partitions: u16) -> Config {
    let mut config = site.config();
    config.backends.0[0].partitions = partitions;
    config
}

fn asked(gateway: &str, id: &str) -> Value {
    json!({"subscriptionId": id, "gatewayId": gateway, "tenant": "acme", "collection": "messages"})
}

async fn post(hub: &Running, asked: &Value) -> (u16, Value) {
    hub.call(Method::POST, "/v1/subscriptions", Some(asked)).await
}

async fn write(site: &Site, keys: std::ops::Range<u32>) {
    let documents = keys.map(|key| document("acme", "messages", &format!("{key:04}"), doc! { "n": 0 }));
    site.documents().insert_many(documents).await.unwrap();
}

/// Acks, and waits until that is taken: over gRPC nobody is told when.
async fn ack(hub: &Running, cursor: &str) {
    let cursor = json!({ "cursor": cursor });
    assert_eq!(hub.call(Method::POST, "/v1/gateways/gw/ack", Some(&cursor)).await.0, 204);
}

/// The next message that is neither a welcome nor progress.
async fn said(session: &mut Session) -> Said {
    let taking = async {
        loop {
            match session.next().await.expect("the session goes on") {
                Said::Welcome | Said::Progress(..) => {}
                other => return other,
            }
        }
    };
    soon("a message", taking).await
}

async fn change(session: &mut Session) -> Change {
    match said(session).await {
        Said::Change(change) => *change,
        other => panic!("{other:?}"),
    }
}

fn partitions_of(changes: &[Change]) -> BTreeSet<&str> {
    changes.iter().map(|change| change.partition.as_str()).collect()
}

/// Positions ascend in each partition.
fn in_order(changes: &[Change]) {
    let mut last: BTreeMap<&str, Position> = BTreeMap::new();
    for change in changes {
        let before = last.insert(&change.partition, change.position);
        assert!(before.is_none_or(|before| before < change.position), "{change:?}");
    }
}

fn keys(changes: &[Change]) -> Vec<&str> {
    let mut keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
    keys.sort_unstable();
    keys
}

/// One cursor stands for all partitions, whatever transport it came by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_resumes_all_partitions_from_one_cursor() {
    let site = Site::new().await;
    let hub = Running::start(&split(&site, 3), Clock::system()).await;
    let (status, answer) = post(&hub, &asked("gw", "all")).await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(answer["activeFrom"].as_object().unwrap().len(), 3);
    let generation = answer["generation"].as_u64().unwrap();
    let mut cursor: Option<String> = None;
    for (round, transport) in TRANSPORTS.into_iter().cycle().take(6).enumerate() {
        let round = round as u32;
        write(&site, round * 40..round * 40 + 40).await;
        let mut session = hub.open(transport, "gw", cursor.as_deref()).await;
        let changes = site.all(&mut session).await;
        in_order(&changes);
        assert!(changes.iter().all(|change| change.matches[0].generation == generation));
        // What was not covered by the cursor before comes again, with what is new.
        let first = if cursor.is_some() { round * 40 - 20 } else { 0 };
        let wanted: Vec<String> = (first..round * 40 + 40).map(|key| format!("{key:04}")).collect();
        let taken = keys(&changes).len();
        if cursor.is_none() {
            assert_eq!(keys(&changes), wanted);
            assert_eq!(partitions_of(&changes).len(), 3);
        } else {
            assert!(keys(&changes).ends_with(&wanted.iter().map(String::as_str).skip(20).collect::<Vec<_>>()));
            assert_eq!(taken, 60, "{:?}", keys(&changes));
        }
        // Twenty are left uncovered.
        let at = taken - 21;
        cursor = Some(changes[at].cursor.clone());
        if round.is_multiple_of(2) {
            ack(&hub, &changes[at].cursor).await;
            drop(session);
            // Of what was acked nothing comes again; without a cursor as with it.
            let mut again = hub.open(transport, "gw", None).await;
            let left = site.all(&mut again).await;
            assert_eq!(keys(&left), keys(&changes[at + 1..]));
        }
    }
    let (_, gateway) = hub.get("/v1/gateways/gw").await;
    assert_eq!(gateway["subscriptions"], 1);
    hub.drain().await;
    site.remove().await;
}

/// What is asked of a subscription or a gateway is asked of all partitions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_about_all_partitions() {
    let site = Site::new().await;
    let hub = Running::start(&split(&site, 3), Clock::system()).await;
    for id in ["a", "b", "c"] {
        assert_eq!(post(&hub, &asked("gw", id)).await.0, 201);
        assert_eq!(post(&hub, &asked("gw", id)).await.0, 200);
    }
    let other = json!({"subscriptionId": "a", "gatewayId": "gw", "tenant": "acme", "collection": "other"});
    assert_eq!(post(&hub, &other).await.1["code"], "SUBSCRIPTION_EXISTS");
    let unknown = json!({"subscriptionId": "x", "gatewayId": "gw", "tenant": "t", "collection": "c", "backend": "b"});
    let (status, problem) = post(&hub, &unknown).await;
    assert_eq!((status, &problem["field"]), (422, &json!("backend")), "{problem}");

    let (_, page) = hub.get("/v1/subscriptions?limit=2").await;
    let ids = |page: &Value| -> Vec<String> {
        let all = page["subscriptions"].as_array().unwrap();
        all.iter().map(|one| one["subscriptionId"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&page), ["a", "b"]);
    let after = page["next"].as_str().unwrap();
    let (_, rest) = hub.get(&format!("/v1/subscriptions?limit=2&after={after}")).await;
    assert_eq!((ids(&rest), &rest["next"]), (vec!["c".to_owned()], &Value::Null));
    assert_eq!(hub.get("/v1/gateways").await.1["gateways"].as_array().unwrap().len(), 1);
    let named = json!({"subscriptionIds": ["a", "nobody"]});
    let (status, renewed) = hub.call(Method::PUT, "/v1/gateways/gw/heartbeat", Some(&named)).await;
    assert_eq!((status, &renewed["renewed"]), (200, &json!(3)), "{renewed}");
    assert_eq!((&renewed["unknown"], &renewed["unlisted"]), (&json!(["nobody"]), &json!(["b", "c"])));

    let mut session = hub.open(Transport::Sse, "gw", None).await;
    let path = "/v1/gateways/gw/subscriptions/a";
    let (status, put) = hub.call(Method::PUT, path, Some(&other)).await;
    assert_eq!(status, 200, "{put}");
    assert_eq!(hub.get(path).await.1["generation"], put["generation"]);
    for (id, collection) in [("m", "messages"), ("o", "other")] {
        for key in 0..12 {
            let document = document("acme", collection, &format!("{id}{key}"), doc! {});
            site.documents().insert_one(document).await.unwrap();
        }
    }
    let changes = site.all(&mut session).await;
    assert_eq!(changes.len(), 24);
    for change in &changes {
        let ids: Vec<&str> = change.matches.iter().map(|matched| matched.subscription_id.as_str()).collect();
        if change.key.starts_with('o') {
            assert_eq!(ids, ["a"]);
            assert_eq!(Some(change.matches[0].generation), put["generation"].as_u64());
        } else {
            assert_eq!(ids, ["b", "c"]);
        }
    }
    assert_eq!(hub.call(Method::DELETE, path, None).await.0, 204);
    assert_eq!(hub.call(Method::DELETE, path, None).await.1["code"], "SUBSCRIPTION_NOT_FOUND");
    let heartbeat = "/v1/gateways/gw/subscriptions/a/heartbeat";
    assert_eq!(hub.call(Method::PUT, heartbeat, None).await.1["code"], "SUBSCRIPTION_NOT_FOUND");

    // A rewind of all of them, and of one.
    assert_eq!(hub.call(Method::PUT, "/v1/gateways/gw/cursor", Some(&json!({"now": true}))).await.0, 204);
    assert!(matches!(said(&mut session).await, Said::Closed(reason) if reason == "rewound"));
    let positions: BTreeMap<&str, String> = changes
        .iter()
        .filter(|it| it.key.starts_with('m'))
        .map(|it| (it.partition.as_str(), it.position))
        .fold(BTreeMap::new(), |mut first, (partition, position)| {
            first.entry(partition).or_insert_with(|| position.floor_boundary().to_string());
            first
        });
    assert_eq!(positions.len(), 3);
    let one = positions.first_key_value().unwrap();
    let target = json!({"positions": {*one.0: one.1}});
    let (status, answer) = hub.call(Method::PUT, "/v1/gateways/gw/cursor", Some(&target)).await;
    assert_eq!(status, 204, "{answer}");
    let mut session = hub.open(Transport::GrpcJson, "gw", None).await;
    let again = site.all(&mut session).await;
    let before = changes.iter().filter(|it| it.partition == *one.0 && it.key.starts_with('m')).count();
    assert_eq!((again.len(), partitions_of(&again)), (before, [*one.0].into()));
    assert!(again.iter().all(|change| change.flags.contains(&"redelivered".to_owned())));
    let nowhere = json!({"positions": {"default/3": one.1}});
    let (status, problem) = hub.call(Method::PUT, "/v1/gateways/gw/cursor", Some(&nowhere)).await;
    assert_eq!((status, &problem["field"]), (422, &json!("positions")));
    assert_eq!(hub.call(Method::DELETE, "/v1/gateways/gw", None).await.0, 204);
    assert!(matches!(said(&mut session).await, Said::Closed(reason) if reason == "removed"));
    assert_eq!(hub.get("/v1/gateways/gw").await.1["code"], "GATEWAY_NOT_FOUND");

    let (_, listed) = hub.get("/v1/partitions").await;
    let names: Vec<&Value> = listed["partitions"].as_array().unwrap().iter().map(|it| &it["partition"]).collect();
    assert_eq!(names, ["default/0", "default/1", "default/2"]);
    assert_eq!(hub.call(Method::POST, "/v1/partitions/default/1/pause", None).await.1["state"], "paused");
    assert_eq!(hub.get("/v1/partitions/default/0").await.1["state"], "reading");
    hub.drain().await;
    site.remove().await;
}

/// A restart finds every partition where it was, and what was lost is said by each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_goes_on_in_all_partitions() {
    let site = Site::new().await;
    let config = split(&site, 2);
    let hub = Running::start(&config, Clock::system()).await;
    assert_eq!(post(&hub, &asked("gw", "all")).await.0, 201);
    let mut session = hub.open(Transport::GrpcJson, "gw", None).await;
    write(&site, 0..20).await;
    let changes = site.all(&mut session).await;
    assert_eq!(partitions_of(&changes).len(), 2);
    ack(&hub, &changes[9].cursor).await;
    let mut left: Vec<String> = changes[10..].iter().map(|change| change.key.clone()).collect();
    hub.drain().await;
    write(&site, 20..40).await;
    left.extend((20..40).map(|key| format!("{key:04}")));
    left.sort_unstable();

    let hub = Running::start(&config, Clock::system()).await;
    let mut session = hub.open(Transport::Sse, "gw", None).await;
    let changes = site.all(&mut session).await;
    assert_eq!(keys(&changes), left);
    in_order(&changes);
    session.ack(&changes.last().unwrap().cursor).await;
    // Nobody knows which documents a dropped collection had: each partition says so.
    site.documents().drop().await.unwrap();
    for _ in 0..2 {
        let Said::Resync(reason, cursor) = said(&mut session).await else { panic!("a resync") };
        assert_eq!(reason, "invalidated");
        session.ack(&cursor).await;
    }
    hub.drain().await;
    site.remove().await;
}

/// Another number of partitions: each goes on with everything, from where all of the old ones had been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_split_otherwise_loses_nothing() {
    let site = Site::new().await;
    let path = "/v1/gateways/gw/subscriptions/put";
    let put = |n: i32| {
        let filters = json!([{"field": "n", "op": "==", "value": n}]);
        json!({"subscriptionId": "put", "gatewayId": "gw", "tenant": "acme", "collection": "messages", "filters": filters})
    };
    let hub = Running::start(&split(&site, 1), Clock::system()).await;
    let (_, registered) = post(&hub, &asked("gw", "all")).await;
    let (_, first) = post(&hub, &put(0)).await;
    let mut session = hub.open(Transport::GrpcJson, "gw", None).await;
    write(&site, 0..20).await;
    let changes = site.all(&mut session).await;
    assert_eq!(changes.len(), 20);
    // From here on the filter is another, and nothing has been acked past that.
    let (_, second) = hub.call(Method::PUT, path, Some(&put(1))).await;
    assert_ne!(first["generation"], second["generation"]);
    ack(&hub, &changes[9].cursor).await;
    let presented = changes[13].cursor.clone();
    let (all, mut epoch) = (registered["generation"].as_u64(), Some(1));
    hub.drain().await;

    for (partitions, from) in [(3, 20), (2, 40), (4, 60), (1, 80)] {
        write(&site, from..from + 20).await;
        let hub = Running::start(&split(&site, partitions), Clock::system()).await;
        let (_, listed) = hub.get("/v1/partitions").await;
        let epochs: BTreeSet<u64> =
            listed["partitions"].as_array().unwrap().iter().map(|it| it["epoch"].as_u64().unwrap()).collect();
        assert!(epochs.len() == 1 && epochs.first() > epoch.as_ref(), "one for all, above the last one: {epochs:?}");
        epoch = epochs.first().copied();
        let (_, view) = hub.get("/v1/gateways/gw/subscriptions/all").await;
        assert_eq!(view["activeFrom"].as_object().unwrap().len(), usize::from(partitions), "{view}");
        assert_eq!(view["generation"].as_u64(), all);
        // A cursor of the old split says nothing of the new one's other partitions.
        let cursor = (from == 20).then_some(presented.as_str());
        let mut session = hub.open(Transport::Sse, "gw", cursor).await;
        let changes = site.all(&mut session).await;
        in_order(&changes);
        let mut got = keys(&changes);
        got.dedup();
        assert_eq!(got.len(), changes.len(), "each once");
        assert!(changes.iter().all(|change| change.flags.contains(&"redelivered".to_owned())));
        let wanted: Vec<String> = (from..from + 20).map(|key| format!("{key:04}")).collect();
        if from == 20 {
            let behind = keys(&changes).iter().filter(|key| **key < "0020").count();
            assert!((6..=10).contains(&behind), "{behind} of ten that were not acked, of which four were presented");
            for change in &changes {
                let of_put: Vec<u64> =
                    change.matches.iter().filter(|it| it.subscription_id == "put").map(|it| it.generation).collect();
                // By the filter of its time.
                let is_before = change.key.as_str() < "0020";
                assert_eq!(of_put, if is_before { vec![first["generation"].as_u64().unwrap()] } else { vec![] });
            }
            assert!(keys(&changes).ends_with(&wanted.iter().map(String::as_str).collect::<Vec<_>>()));
        } else {
            assert_eq!(keys(&changes), wanted);
        }
        assert_eq!(partitions_of(&changes).len(), usize::from(partitions));
        write(&site, from + 100..from + 110).await;
        let mut changes = site.all(&mut session).await;
        assert_eq!(changes.len(), 10);
        assert!(changes.iter().all(|change| change.flags.is_empty()));
        ack(&hub, &changes.pop().unwrap().cursor).await;
        hub.drain().await;
    }
    site.remove().await;
}

fn two(site: &Site, second: &str) -> Config {
    let mut config = site.config();
    let mut other = config.backends.0[0].clone();
    config.backends.0[0].name = "one".into();
    config.backends.0[0].tenants = vec!["acme*".into()];
    other.name = "two".into();
    other.database = Some(second.into());
    other.partitions = 2;
    config.backends.0.push(other);
    config
}

async fn insert(site: &Site, database: &str, tenant: &str, key: &str) {
    let documents = site.client.database(database).collection::<Document>("documents");
    documents.insert_one(document(tenant, "messages", key, doc! {})).await.unwrap();
}

/// Tenants live where the map says; a gateway hears of all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_gateway_is_served_from_two_backends() {
    let (site, second) = (Site::new().await, Site::new().await);
    let hub = Running::start(&two(&site, &second.database), Clock::system()).await;
    let of = |tenant: &str, id: &str| json!({"subscriptionId": id, "gatewayId": "gw", "tenant": tenant, "collection": "messages"});
    let (status, one) = post(&hub, &of("acme-1", "a")).await;
    assert_eq!((status, one["activeFrom"].as_object().unwrap().len()), (201, 1), "{one}");
    let (status, other) = post(&hub, &of("globex", "b")).await;
    assert_eq!((status, other["activeFrom"].as_object().unwrap().len()), (201, 2), "{other}");
    // Its name is its own in the whole hub.
    assert_eq!(post(&hub, &of("globex", "a")).await.1["code"], "SUBSCRIPTION_EXISTS");
    let put = hub.call(Method::PUT, "/v1/gateways/gw/subscriptions/a", Some(&of("globex", "a"))).await;
    assert_eq!((put.0, &put.1["field"]), (422, &json!("tenant")), "{put:?}");
    let mut elsewhere = of("acme-1", "x");
    elsewhere["backend"] = json!("two");
    assert_eq!(post(&hub, &elsewhere).await.1["field"], "backend");
    elsewhere["backend"] = json!("one");
    assert_eq!(post(&hub, &elsewhere).await.0, 201);

    let mut session = hub.open(Transport::Sse, "gw", None).await;
    for number in 0..10 {
        insert(&site, &site.database, "acme-1", &format!("a{number}")).await;
        insert(&site, &second.database, "globex", &format!("g{number}")).await;
        // Nobody asked for these tenants there.
        insert(&site, &site.database, "globex", &format!("x{number}")).await;
        insert(&site, &second.database, "acme-1", &format!("y{number}")).await;
    }
    let mut changes = Vec::new();
    for _ in 0..20 {
        changes.push(change(&mut session).await);
    }
    assert_eq!(partitions_of(&changes), ["one/0", "two/0", "two/1"].into());
    assert!(changes.iter().all(|it| it.key.starts_with(if it.partition == "one/0" { 'a' } else { 'g' })));
    session.ack(&changes[11].cursor).await;
    drop(session);
    let mut again = hub.open(Transport::GrpcJson, "gw", None).await;
    let mut rest = Vec::new();
    for _ in 12..20 {
        rest.push(change(&mut again).await);
    }
    assert_eq!(keys(&rest), keys(&changes[12..]));
    let (_, gateway) = hub.get("/v1/gateways/gw").await;
    assert_eq!(gateway["subscriptions"], 3);
    let (_, renewed) =
        hub.call(Method::PUT, "/v1/gateways/gw/heartbeat", Some(&json!({"subscriptionIds": ["a", "b"]}))).await;
    assert_eq!(
        (&renewed["renewed"], &renewed["unknown"], &renewed["unlisted"]),
        (&json!(3), &json!([]), &json!(["x"]))
    );
    let explained = json!({"tenant": "globex", "collection": "messages", "document": {}});
    let (_, explained) = hub.call(Method::POST, "/v1/explain", Some(&explained)).await;
    assert_eq!(explained["matches"], json!([{"gatewayId": "gw", "subscriptionId": "b"}]));
    hub.drain().await;
    site.remove().await;
    second.remove().await;
}

/// What is down is nobody else's business; what it says when it is back comes as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_away_touches_nobody_else() {
    let site = Site::new().await;
    let port = site.mongodb.address.strip_prefix("mongodb://127.0.0.1:").unwrap().split('/').next().unwrap();
    let relay = Relay::open(&Tasks::new(), port.parse().unwrap()).await.unwrap();
    let second = Site::new().await;
    let mut config = two(&site, &second.database);
    config.backends.0[1].uri = format!("mongodb://127.0.0.1:{}/?directConnection=true", relay.port());
    relay.set(Line::Reset);
    // Ready all the same.
    let hub = Running::start(&config, Clock::system()).await;
    let of = |tenant: &str, id: &str| json!({"subscriptionId": id, "gatewayId": "gw", "tenant": tenant, "collection": "messages"});
    assert_eq!(post(&hub, &of("acme", "a")).await.0, 201);
    let (status, problem) = post(&hub, &of("globex", "b")).await;
    assert_eq!((status, &problem["code"]), (503, &json!("OWNER_UNKNOWN")), "{problem}");
    let mut session = hub.open(Transport::Sse, "gw", None).await;
    insert(&site, &site.database, "acme", "1").await;
    let first = change(&mut session).await;
    assert_eq!((first.partition.as_str(), first.key.as_str()), ("one/0", "1"));
    session.ack(&first.cursor).await;
    let (_, renewed) =
        hub.call(Method::PUT, "/v1/gateways/gw/heartbeat", Some(&json!({"subscriptionIds": ["a", "b"]}))).await;
    assert_eq!((&renewed["renewed"], &renewed["unknown"]), (&json!(1), &json!([])), "nobody can say of b");
    let (_, of_acme) = hub.get("/v1/subscriptions?tenant=acme").await;
    assert_eq!(of_acme["subscriptions"][0]["subscriptionId"], "a");
    assert_eq!(hub.get("/v1/subscriptions").await.1["code"], "OWNER_UNKNOWN", "a list that lacks some is none");
    let (_, listed) = hub.get("/v1/partitions").await;
    let owners: Vec<bool> = listed["partitions"].as_array().unwrap().iter().map(|it| it["owner"].is_null()).collect();
    assert_eq!(owners, [false, true, true]);

    relay.set(Line::Open);
    until("the second backend", async || (post(&hub, &of("globex", "b")).await.0 < 300).then_some(())).await;
    insert(&site, &second.database, "globex", "2").await;
    let joined = change(&mut session).await;
    assert_eq!((joined.key.as_str(), joined.seq), ("2", 1), "the same session has it");
    session.ack(&joined.cursor).await;
    drop(session);
    insert(&site, &site.database, "acme", "3").await;
    let mut session = hub.open(Transport::GrpcBson, "gw", Some(&joined.cursor)).await;
    assert_eq!(change(&mut session).await.key, "3");
    hub.drain().await;
    site.remove().await;
    second.remove().await;
}

/// Two nodes, of which each owns some partitions: a gateway at either hears of all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_of_several_nodes_are_one_at_each_of_them() {
    let site = Site::new().await;
    let (_etcd, mut config) = shared(&site).await;
    config.backends.0[0].partitions = 4;
    let node = async |id: &str| {
        let mut config = config.clone();
        config.node.id = id.into();
        Running::start(&config, Clock::system()).await
    };
    let ring = Ring::new(["hub-a", "hub-b"].map(Arc::from));
    let first = node("hub-a").await;
    let second = node("hub-b").await;
    let owners = async |hub: &Running| -> Vec<String> {
        let (_, listed) = hub.get("/v1/partitions").await;
        let views = listed["partitions"].as_array().cloned().unwrap_or_default();
        views.iter().map(|view| view["owner"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let wanted: Vec<String> =
        (0..4).map(|number| ring.member(&format!("default/{number}")).unwrap().to_string()).collect();
    until("the ring's owners", async || (owners(&first).await == wanted).then_some(())).await;
    assert_eq!(owners(&second).await, wanted);
    for (round, hub) in [&first, &second, &first].into_iter().enumerate() {
        let round = round as u32;
        let (status, answer) = post(hub, &asked("gw", &format!("s{round}"))).await;
        assert_eq!((status, answer["activeFrom"].as_object().unwrap().len()), (201, 4), "{answer}");
        let mut session = hub.open(TRANSPORTS[round as usize], "gw", None).await;
        write(&site, round * 40..round * 40 + 40).await;
        let changes = site.all(&mut session).await;
        in_order(&changes);
        assert_eq!((changes.len(), partitions_of(&changes).len()), (40, 4));
        assert!(changes.iter().all(|change| change.matches.len() == round as usize + 1));
        ack(hub, &changes[39].cursor).await;
        // Moved under an open session, they end it, and it goes on where it was.
        let to = json!({"node": if round == 1 { "hub-a" } else { "hub-b" }});
        let path = format!("/v1/partitions/default/{round}/move");
        assert_eq!(hub.call(Method::POST, &path, Some(&to)).await.0, 200);
        if wanted[round as usize] != to["node"].as_str().unwrap() {
            assert!(matches!(said(&mut session).await, Said::Closed(reason) if reason == "draining"));
            let moved = async || (owners(hub).await[round as usize] == to["node"].as_str().unwrap()).then_some(());
            until("the new owner", moved).await;
        }
    }
    second.drain().await;
    let all = vec!["hub-a".to_owned(); 4];
    until("all at the other node", async || (owners(&first).await == all).then_some(())).await;
    write(&site, 200..210).await;
    let mut session = first.open(Transport::Sse, "gw", None).await;
    assert_eq!(site.all(&mut session).await.len(), 10);
    first.drain().await;
    site.remove().await;
}
