//! Gateway groups on whole hubs: members share a group's subscriptions, come, go and are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bson::doc;
use reqwest::Method;
use serde_json::{Value, json};
use streamer::clock::Clock;
use streamer::config::Config;
use streamer::ring::Ring;

use super::cluster::shared;
use super::consumers::{Change, Said, Session, Transport};
use super::site::{Running, Site, document, soon, until};

fn config(site: &Site, partitions: u16) -> Config {
    let mut config = site.config();
    config.backends.0[0].partitions = partitions;
    config.sessions.member_grace_seconds = 1;
    config
}

fn name(number: u32) -> String {
    format!("s{number:02}")
}

/// One subscription for each value of `n`.
async fn register(hub: &Running, count: u32) {
    let one = |number| {
        json!({"subscriptionId": name(number), "group": "g", "tenant": "acme", "collection": "messages",
               "filters": [{"field": "n", "op": "==", "value": number}]})
    };
    let batch = json!({"subscriptions": (0..count).map(one).collect::<Vec<_>>()});
    let (status, answer) = hub.call(Method::POST, "/v1/subscriptions/batch", Some(&batch)).await;
    assert_eq!(status, 200);
    assert!(answer["results"].as_array().unwrap().iter().all(|result| result["status"] == 201), "{answer}");
}

/// One change for each subscription.
async fn write(site: &Site, round: u32, count: u32) {
    let documents = (0..count).map(|n| document("acme", "messages", &format!("{round}-{n:02}"), doc! { "n": n }));
    site.documents().insert_many(documents).await.unwrap();
}

/// Where the ring has them.
fn shares<'a>(members: &[&'a str], count: u32) -> BTreeMap<&'a str, BTreeSet<String>> {
    let ring = Ring::new(members.iter().map(|member| Arc::from(*member)));
    let mut shares: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for number in 0..count {
        let member = ring.member(&format!("g/{}", name(number))).unwrap();
        let member = members.iter().find(|it| ***it == **member).unwrap();
        shares.entry(member).or_default().insert(name(number));
    }
    shares
}

#[derive(Default)]
struct Heard {
    changes: Vec<Change>,
    revoked: BTreeSet<String>,
    assigned: BTreeSet<String>,
}

impl Heard {
    fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<_> = self.changes.iter().map(|change| change.key.as_str()).collect();
        keys.sort_unstable();
        keys
    }

    fn is_flagged(&self) -> bool {
        self.changes.iter().any(|change| change.flags.iter().any(|flag| flag == "redelivered"))
    }
}

/// What a session says until that is enough.
async fn hear(session: &mut Session, mut enough: impl FnMut(&Heard) -> bool) -> Heard {
    let mut heard = Heard::default();
    let hearing = async {
        while !enough(&heard) {
            match session.next().await.expect("the session goes on") {
                Said::Change(change) => heard.changes.push(*change),
                Said::Revoked(ids) => heard.revoked.extend(ids),
                Said::Assigned(ids) => heard.assigned.extend(ids),
                Said::Welcome | Said::Progress(..) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    soon("what a member hears", hearing).await;
    heard
}

async fn ack(hub: &Running, member: &str, cursor: &str) {
    let path = format!("/v1/groups/g/ack?member={member}");
    assert_eq!(hub.call(Method::POST, &path, Some(&json!({ "cursor": cursor }))).await.0, 204);
}

async fn group(hub: &Running) -> Value {
    hub.get("/v1/groups/g").await.1
}

/// Has what each member has be what the ring says.
async fn settled(hub: &Running, members: &[&str], count: u32) {
    let wanted = shares(members, count);
    until("everyone has their share", async || {
        let (_, page) = hub.get("/v1/subscriptions?group=g&limit=1000").await;
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for subscription in page["subscriptions"].as_array()? {
            let id = subscription["subscriptionId"].as_str()?.to_owned();
            found.entry(subscription["member"].as_str()?.to_owned()).or_default().insert(id);
        }
        let found: BTreeMap<&str, BTreeSet<String>> =
            found.iter().map(|(member, ids)| (member.as_str(), ids.clone())).collect();
        (found == wanted).then_some(())
    })
    .await;
}

/// One that joins takes its share: told to both, and nothing of it is lost, doubled or flagged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_share_by_the_ring_and_a_planned_move_doubles_nothing() {
    let site = Site::new().await;
    let hub = Running::start(&config(&site, 1), Clock::system()).await;
    register(&hub, 40).await;
    assert_eq!(
        (group(&hub).await["subscriptions"].clone(), group(&hub).await["unassigned"].clone()),
        (json!(40), json!(40))
    );
    write(&site, 0, 40).await;
    let mut first = hub.open(Transport::Sse, "g/m1", None).await;
    let heard = hear(&mut first, |heard| heard.changes.len() == 40).await;
    assert_eq!(heard.assigned.len(), 40);
    assert!(!heard.is_flagged(), "nobody had them before");
    ack(&hub, "m1", &heard.changes[39].cursor).await;

    let mut second = hub.open(Transport::GrpcBson, "g/m2", None).await;
    let wanted = shares(&["m1", "m2"], 40);
    assert!(wanted["m1"].len() > 5 && wanted["m2"].len() > 5);
    let assigned = hear(&mut second, |heard| heard.assigned.len() == wanted["m2"].len()).await;
    assert_eq!(assigned.assigned, wanted["m2"]);
    let revoked = hear(&mut first, |heard| heard.revoked.len() == wanted["m2"].len()).await;
    assert_eq!(revoked.revoked, wanted["m2"]);
    settled(&hub, &["m1", "m2"], 40).await;
    write(&site, 1, 40).await;
    for (session, member) in [(&mut first, "m1"), (&mut second, "m2")] {
        let heard = hear(session, |heard| heard.changes.len() == wanted[member].len()).await;
        let matched: BTreeSet<_> = heard.changes.iter().map(|it| it.matches[0].subscription_id.clone()).collect();
        assert_eq!(matched, wanted[member]);
        assert!(!heard.is_flagged());
        assert!(assigned.changes.is_empty() && revoked.changes.is_empty());
    }
    let (_, gateways) = hub.get("/v1/gateways").await;
    assert_eq!(gateways["gateways"], json!([]), "members are told of with their group");
    let said = group(&hub).await;
    assert_eq!(
        (said["members"][0]["member"].clone(), said["members"][1]["state"].clone()),
        (json!("m1"), json!("live"))
    );
    assert_eq!(said["unassigned"], 0);
    hub.drain().await;
    site.remove().await;
}

/// What a lost member had not acked goes on at another, flagged; what it had acked does not come again. When it is back
/// it has its own again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_members_share_goes_on_from_its_floor_and_comes_back() {
    let site = Site::new().await;
    let hub = Running::start(&config(&site, 1), Clock::system()).await;
    let mut first = hub.open(Transport::GrpcJson, "g/m1", None).await;
    let mut second = hub.open(Transport::Sse, "g/m2", None).await;
    hear(&mut first, |_| true).await;
    until("both are there", async || (group(&hub).await["members"].as_array()?.len() == 2).then_some(())).await;
    register(&hub, 30).await;
    settled(&hub, &["m1", "m2"], 30).await;
    let wanted = shares(&["m1", "m2"], 30);
    write(&site, 0, 30).await;
    let heard = hear(&mut first, |heard| heard.changes.len() == wanted["m1"].len()).await;
    let acked = 2;
    ack(&hub, "m1", &heard.changes[acked - 1].cursor).await;
    let own = hear(&mut second, |heard| heard.changes.len() == wanted["m2"].len()).await;
    ack(&hub, "m2", &own.changes.last().unwrap().cursor).await;
    drop(first);
    let taken_over = hear(&mut second, |heard| heard.changes.len() == wanted["m1"].len() - acked).await;
    assert_eq!(taken_over.assigned, wanted["m1"]);
    assert_eq!(
        taken_over.keys(),
        heard.changes[acked..]
            .iter()
            .map(|it| it.key.as_str())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
    assert!(taken_over.changes.iter().all(|change| change.flags.iter().any(|flag| flag == "redelivered")));
    write(&site, 1, 30).await;
    let all = hear(&mut second, |heard| heard.changes.len() == 30).await;
    assert!(!all.is_flagged(), "nobody else had these");
    ack(&hub, "m2", &all.changes[29].cursor).await;
    // It presents what it has: of what is elsewhere by now that says nothing.
    let mut first = hub.open(Transport::GrpcJson, "g/m1", Some(&heard.changes[acked].cursor)).await;
    let back = hear(&mut first, |heard| heard.assigned.len() == wanted["m1"].len()).await;
    assert_eq!(back.assigned, wanted["m1"]);
    settled(&hub, &["m1", "m2"], 30).await;
    write(&site, 2, 30).await;
    let again = hear(&mut first, |heard| heard.changes.len() == wanted["m1"].len()).await;
    assert!(back.changes.is_empty(), "{:?}", back.keys());
    assert!(again.changes.iter().all(|change| change.key.starts_with("2-")) && !again.is_flagged());
    hub.drain().await;
    site.remove().await;
}

/// Who has what outlives the hub; partitions and nodes agree on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_at_two_nodes_share_two_partitions_and_a_node_that_goes_changes_nothing() {
    let site = Site::new().await;
    let (_etcd, mut config) = shared(&site).await;
    config.backends.0[0].partitions = 2;
    config.sessions.member_grace_seconds = 5;
    let mut nodes = Vec::new();
    for node in ["hub-a", "hub-b"] {
        let mut config = config.clone();
        config.node.id = node.into();
        nodes.push(Running::start(&config, Clock::system()).await);
    }
    register(&nodes[0], 40).await;
    let mut first = nodes[0].open(Transport::GrpcBson, "g/m1", None).await;
    let mut second = nodes[1].open(Transport::Sse, "g/m2", None).await;
    hear(&mut first, |heard| heard.assigned.len() > 5).await;
    hear(&mut second, |heard| heard.assigned.len() > 5).await;
    settled(&nodes[1], &["m1", "m2"], 40).await;
    let wanted = shares(&["m1", "m2"], 40);
    write(&site, 0, 40).await;
    let one = hear(&mut first, |heard| heard.changes.len() == wanted["m1"].len()).await;
    let two = hear(&mut second, |heard| heard.changes.len() == wanted["m2"].len()).await;
    ack(&nodes[0], "m1", &one.changes.last().unwrap().cursor).await;
    ack(&nodes[1], "m2", &two.changes.last().unwrap().cursor).await;
    // Everyone goes to the other node.
    drop(second);
    nodes.pop().unwrap().drain().await;
    write(&site, 1, 40).await;
    let mut first = nodes[0].open(Transport::Sse, "g/m1", Some(&one.changes.last().unwrap().cursor)).await;
    let mut second = nodes[0].open(Transport::GrpcBson, "g/m2", None).await;
    for (session, member, before) in [(&mut first, "m1", &one), (&mut second, "m2", &two)] {
        let is_new = |change: &&Change| change.key.starts_with("1-");
        let enough = |heard: &Heard| heard.changes.iter().filter(is_new).count() == wanted[member].len();
        let heard = hear(session, enough).await;
        let matched = heard.changes.iter().filter(is_new).map(|it| it.matches[0].subscription_id.clone());
        assert_eq!(matched.collect::<BTreeSet<_>>(), wanted[member], "nothing has moved: {:?}", heard.keys());
        // What came while its assignment was on its way to the store is covered by later cursors only.
        let again = heard.changes.iter().filter(|change| !is_new(change));
        assert!(again.map(|it| it.key.as_str()).all(|key| before.keys().contains(&key)), "{:?}", heard.keys());
    }
    nodes.pop().unwrap().drain().await;
    site.remove().await;
}

/// What is asked of a group is asked as of a gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_asked_like_a_gateway() {
    let site = Site::new().await;
    let hub = Running::start(&config(&site, 2), Clock::system()).await;
    register(&hub, 4).await;
    let path = "/v1/groups/g/subscriptions/s00";
    let (status, one) = hub.get(path).await;
    assert_eq!((status, one["group"].clone(), one["member"].clone()), (200, json!("g"), Value::Null));
    assert!(one.get("gatewayId").is_none());
    assert_eq!(hub.call(Method::PUT, &format!("{path}/heartbeat"), None).await.0, 200);
    let (_, renewed) =
        hub.call(Method::PUT, "/v1/groups/g/heartbeat", Some(&json!({"subscriptionIds": ["s00", "x"]}))).await;
    assert_eq!((renewed["renewed"].clone(), renewed["unknown"].clone()), (json!(4), json!(["x"])));
    let other =
        json!({"tenant": "acme", "collection": "messages", "filters": [{"field": "n", "op": "==", "value": 99}]});
    let (status, replaced) = hub.call(Method::PUT, path, Some(&other)).await;
    assert_eq!((status, replaced["group"].clone()), (200, json!("g")), "{replaced}");
    assert!(replaced["generation"].as_u64() > one["generation"].as_u64());
    // A gateway of the same name is another.
    let of_gateway = json!({"subscriptionId": "s00", "gatewayId": "g", "tenant": "acme", "collection": "messages"});
    assert_eq!(hub.call(Method::POST, "/v1/subscriptions", Some(&of_gateway)).await.0, 201);
    let change = json!({"tenant": "acme", "collection": "messages", "document": {"n": 1}, "group": "g", "subscriptionId": "s01"});
    let (_, explained) = hub.call(Method::POST, "/v1/explain", Some(&change)).await;
    let matches = json!([{"gatewayId": "g", "subscriptionId": "s00"}, {"group": "g", "subscriptionId": "s01"}]);
    assert_eq!((explained["matches"].clone(), explained["subscription"]["matched"].clone()), (matches, json!(true)));
    let mut session = hub.open(Transport::Sse, "g/m1", None).await;
    hear(&mut session, |heard| heard.assigned.len() == 4).await;
    assert_eq!(hub.call(Method::DELETE, path, None).await.0, 204);
    assert_eq!(hub.get(path).await.0, 404);
    until("nothing is being written", async || {
        (hub.call(Method::DELETE, "/v1/groups/g", None).await.0 == 204).then_some(())
    })
    .await;
    let end = soon("the end", async {
        loop {
            if let Said::Closed(reason) = session.next().await.expect("a last word") {
                return reason;
            }
        }
    });
    assert_eq!(end.await, "removed");
    assert_eq!(hub.get("/v1/groups/g").await.0, 404, "{}", hub.get("/v1/groups/g").await.1);
    assert_eq!(hub.get("/v1/groups").await.1, json!({"groups": []}));
    assert_eq!(hub.call(Method::PUT, "/v1/groups/g/heartbeat", None).await.0, 404);
    assert_eq!(hub.get("/v1/gateways/g").await.1["subscriptions"], 1, "the gateway is still there");
    hub.drain().await;
    site.remove().await;
}
