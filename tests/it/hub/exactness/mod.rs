//! Random subscriptions against random writes: what arrives is what the reference evaluator says of
//! changes that were read without the hub; nothing more, nothing less, in order.

mod subscriptions;
mod writes;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use streamer::change::Change;
use streamer::clock::Clock;
use streamer::matching::{Filter, Verdict};
use streamer::position::{ClusterTime, Position};
use streamer::source::mongo::Split;
use streamer::subscription::{Operator, Spec};
use tokio::task::JoinSet;

use super::consumers::{self, Body, Said, Session, Transport};
use super::site::{Running, STUCK, Site, is_past};
use writes::Writer;

const TENANTS: [&str; 2] = ["acme", "globex"];
const COLLECTIONS: usize = 40;
/// For each tenant.
const FILTERS: usize = 1_024;
const WRITERS: u64 = 4;
const WRITES_EACH: usize = 5_200;
const GATEWAYS: [Transport; 8] = [
    Transport::Sse,
    Transport::GrpcJson,
    Transport::Sse,
    Transport::GrpcBson,
    Transport::Sse,
    Transport::GrpcJson,
    Transport::Sse,
    Transport::GrpcBson,
];

struct Subscription {
    gateway: usize,
    id: String,
    filter: Arc<Filter>,
    transitions: bool,
    generation: u64,
    /// By partition.
    active_from: Vec<Position>,
}

/// Which subscription, and how it is concerned.
type Concerned = (usize, &'static str, &'static str);

/// A partition's number and a change's position in it.
type Place = (usize, Position);

/// A change as it was read without the hub.
type Read = (usize, Arc<Change>);

/// What a gateway got or should have got: where, for which subscription, and how it is concerned.
type Got<'a> = (Place, &'a str, &'a str, &'a str);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_is_what_the_reference_says() {
    try_with(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_of_several_partitions_is_what_the_reference_says() {
    try_with(3).await;
}

async fn try_with(partitions: u16) {
    let given = std::env::var("STREAMER_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed: u64 = given.unwrap_or_else(rand::random);
    // Shown only if the test fails.
    println!("STREAMER_TEST_SEED={seed}");
    let site = Site::new().await;
    let mut config = site.config();
    config.backends.0[0].partitions = partitions;
    let hub = Running::start(&config, Clock::system()).await;
    let from = site.now().await;
    let subscriptions = register(&hub, seed, partitions).await;

    let mut sessions = JoinSet::new();
    let (written, end) = tokio::sync::watch::channel(None);
    for (gateway, transport) in GATEWAYS.into_iter().enumerate() {
        let (http, grpc) = (hub.http_url(), hub.grpc_url());
        let session = Session::open(transport, &http, &grpc, &format!("gw-{gateway}"), None).await;
        let end = end.clone();
        sessions.spawn(async move { (gateway, consume(session, end).await) });
    }
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let writer = Writer::new(seed, number, site.client.clone(), &site.database);
        writers.spawn(writer.run(WRITES_EACH));
    }
    let count: usize = writers.join_all().await.into_iter().sum();
    assert!(count >= 20_000);
    let end = site.now().await;
    written.send_replace(Some(end));

    let mut changes: Vec<Read> = Vec::new();
    for number in 0..partitions {
        let part = site.read_part(from, end, Split { number, count: partitions }).await;
        assert!(part.len() > count / usize::from(2 * partitions), "a fair share");
        changes.extend(part.into_iter().map(|change| (usize::from(number), change)));
    }
    let changes = Arc::new(changes);
    assert_eq!(changes.len(), count, "each write is one change");
    let mut received: BTreeMap<usize, Vec<consumers::Change>> =
        tokio::time::timeout(STUCK, sessions.join_all()).await.expect("all arrives").into_iter().collect();
    let subscriptions = Arc::new(subscriptions);
    let expected = tokio::task::spawn_blocking({
        let (subscriptions, changes) = (Arc::clone(&subscriptions), changes.clone());
        move || evaluate(&subscriptions, &changes)
    });
    let expected = expected.await.unwrap();
    let fault = |received: &_| compare(&subscriptions, &changes, &expected, received);
    assert_eq!(fault(&received), None);
    for spoil in SPOILERS {
        let mut aside = Vec::new();
        spoil(received.get_mut(&3).unwrap(), &mut aside);
        assert!(fault(&received).is_some(), "what is wrong is found");
        spoil(received.get_mut(&3).unwrap(), &mut aside);
    }
    assert_eq!(fault(&received), None);
    hub.drain().await;
    site.remove().await;
}

/// Registers every filter for both tenants, spread over the gateways.
async fn register(hub: &Running, seed: u64, partitions: u16) -> Vec<Subscription> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let all: Vec<Map<String, Value>> = (0..FILTERS).map(|_| subscriptions::conditions(&mut random)).collect();
    assert_eq!(subscriptions::operators(all.iter()).len(), Operator::ALL.len(), "all operators occur");
    let mut requests = Vec::new();
    for (number, conditions) in all.iter().enumerate() {
        let collection = format!("c{}", random.random_range(0..COLLECTIONS));
        for tenant in TENANTS {
            let gateway = random.random_range(0..GATEWAYS.len());
            let mut request = conditions.clone();
            request.insert("gatewayId".into(), json!(format!("gw-{gateway}")));
            request.insert("subscriptionId".into(), json!(format!("{number}-{tenant}")));
            request.insert("tenant".into(), json!(tenant));
            request.insert("collection".into(), json!(collection));
            requests.push((gateway, Value::Object(request)));
        }
    }
    let batch = json!({ "subscriptions": requests.iter().map(|(_, request)| request).collect::<Vec<_>>() });
    let (status, answer) = hub.call(reqwest::Method::POST, "/v1/subscriptions/batch", Some(&batch)).await;
    assert_eq!(status, 200, "{answer}");
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), requests.len());
    let made = results.iter().zip(requests).map(|(result, (gateway, request))| {
        assert_eq!(result["status"], 201, "{request}: {result}");
        let registered = &result["subscription"];
        Subscription {
            gateway,
            id: request["subscriptionId"].as_str().unwrap().to_owned(),
            filter: Filter::compile(&Spec::from_json(&request).unwrap()).unwrap(),
            transitions: request["transitions"] == json!(true),
            generation: registered["generation"].as_u64().unwrap(),
            active_from: (0..partitions).map(|number| active_from(registered, number)).collect(),
        }
    });
    made.collect()
}

fn active_from(registered: &Value, number: u16) -> Position {
    registered["activeFrom"][format!("default/{number}")].as_str().unwrap().parse().unwrap()
}

/// Takes everything until the hub says that all that was written has been sent.
async fn consume(
    mut session: Session,
    end: tokio::sync::watch::Receiver<Option<ClusterTime>>,
) -> Vec<consumers::Change> {
    let mut changes: Vec<consumers::Change> = Vec::new();
    loop {
        match session.next().await.expect("the session goes on") {
            Said::Welcome => {}
            Said::Change(change) => {
                if change.seq % 300 == 0 {
                    session.ack(&change.cursor).await;
                }
                changes.push(*change);
            }
            Said::Progress(positions, behind) => {
                let end = *end.borrow();
                if behind == 0 && end.is_some_and(|end| is_past(&positions, end)) {
                    return changes;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// For each change those whom it concerns, in two threads.
fn evaluate(subscriptions: &[Subscription], changes: &[Read]) -> Vec<Vec<Concerned>> {
    let part = |changes: &[Read]| -> Vec<Vec<Concerned>> {
        changes.iter().map(|change| concerned(subscriptions, change)).collect()
    };
    let (first, second) = changes.split_at(changes.len() / 2);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| part(second));
        let mut all = part(first);
        all.extend(second.join().unwrap());
        all
    })
}

fn concerned(subscriptions: &[Subscription], (partition, change): &Read) -> Vec<Concerned> {
    let mut concerned = Vec::new();
    for (number, subscription) in subscriptions.iter().enumerate() {
        if change.position <= subscription.active_from[*partition] {
            continue;
        }
        if let Some(Verdict { transition, certainty, broadcast, .. }) = subscription.filter.evaluate(change) {
            assert!(!broadcast, "images are recorded: nobody needs to look");
            let (transition, certainty) = if subscription.transitions {
                (transition.unwrap().name(), certainty.unwrap().name())
            } else {
                ("", "")
            };
            concerned.push((number, transition, certainty));
        }
    }
    concerned
}

/// Spoils the first; the second is where it may put something aside.
type Spoiler = fn(&mut Vec<consumers::Change>, &mut Vec<consumers::Change>);

/// Each makes one small thing wrong in what a gateway received, and right again when called once more.
const SPOILERS: [Spoiler; 5] = [
    // Lost, or out of order.
    |received, aside| match aside.pop() {
        Some(change) => received.insert(100, change),
        None => aside.push(received.remove(100)),
    },
    |received, _| {
        let last = received.len() - 1;
        received.swap(0, last);
    },
    // A subscription that does not match, or of another time.
    |received, _| {
        let id = &mut received[100].matches[0].subscription_id;
        *id = if id.ends_with("acme") { id.replace("acme", "globex") } else { id.replace("globex", "acme") };
    },
    |received, _| received[100].matches[0].generation ^= 1,
    |received, _| received[100].operation = received[100].operation.chars().rev().collect(),
];

/// What differs from what the reference says, if anything.
fn compare(
    subscriptions: &[Subscription],
    changes: &[Read],
    expected: &[Vec<Concerned>],
    received: &BTreeMap<usize, Vec<consumers::Change>>,
) -> Option<String> {
    let by_position: HashMap<Place, &Arc<Change>> =
        changes.iter().map(|(partition, change)| ((*partition, change.position), change)).collect();
    let mut wanted: Vec<Vec<Got<'_>>> = vec![Vec::new(); GATEWAYS.len()];
    for ((partition, change), concerned) in changes.iter().zip(expected) {
        for &(number, transition, certainty) in concerned {
            let subscription = &subscriptions[number];
            wanted[subscription.gateway].push(((*partition, change.position), &subscription.id, transition, certainty));
        }
    }
    let total: usize = wanted.iter().map(Vec::len).sum();
    assert!(total > 20_000, "a test of {total} matches says little");
    let generations: HashMap<&str, u64> = subscriptions.iter().map(|one| (one.id.as_str(), one.generation)).collect();
    for (gateway, messages) in received {
        let mut got: Vec<Got<'_>> = Vec::new();
        for message in messages {
            let Some(change) = by_position.get(&place(message)) else {
                return Some(format!("gw-{gateway}: nothing happened there: {message:?}"));
            };
            if let Some(fault) = check_message(change, message, &generations) {
                return Some(format!("gw-{gateway}: {fault}: {message:?}\n{change:?}"));
            }
            for matched in &message.matches {
                got.push((place(message), &matched.subscription_id, &matched.transition, &matched.certainty));
            }
        }
        let mut last: BTreeMap<usize, Position> = BTreeMap::new();
        for (partition, position) in messages.iter().map(place) {
            if last.insert(partition, position).is_some_and(|last| last > position) {
                return Some(format!("gw-{gateway}: out of order at {position}"));
            }
        }
        let wanted = &mut wanted[*gateway];
        wanted.sort_unstable();
        got.sort_unstable();
        let differs = got.iter().zip(wanted.iter()).position(|(got, wanted)| got != wanted);
        if let Some(at) = differs.or((got.len() != wanted.len()).then(|| got.len().min(wanted.len()))) {
            let (got, wanted) = (got.get(at), wanted.get(at));
            let change = got.or(wanted).map(|(place, ..)| by_position[place]);
            return Some(format!("gw-{gateway}: got {got:?}, expected {wanted:?}\n{change:?}"));
        }
    }
    None
}

fn place(message: &consumers::Change) -> Place {
    let number = message.partition.strip_prefix("default/").unwrap();
    (number.parse().unwrap(), message.position)
}

/// What is wrong with a message by itself.
fn check_message(
    change: &Change,
    message: &consumers::Change,
    generations: &HashMap<&str, u64>,
) -> Option<&'static str> {
    let is_known = |matched: &consumers::Match| generations[matched.subscription_id.as_str()] == matched.generation;
    if !message.flags.is_empty() {
        return Some("a flag");
    }
    if message.operation != change.operation.name() {
        return Some("another operation");
    }
    if !message.matches.iter().all(is_known) {
        return Some("another generation");
    }
    (!are_bodies_right(change, message)).then_some("another body")
}

/// The bodies as they are delivered, where nothing else decides about them.
fn are_bodies_right(change: &Change, message: &consumers::Change) -> bool {
    let left = message.matches.iter().all(|matched| matched.transition == "leave") && change.left.is_some();
    if left {
        return true;
    }
    let transitions = message.matches.iter().any(|matched| !matched.transition.is_empty());
    let with_before = transitions || change.document.is_none();
    let before = change.before.as_deref().filter(|_| with_before);
    is_body(change.document.as_deref(), message.document.as_ref()) && is_body(before, message.before.as_ref())
}

fn is_body(recorded: Option<&bson::RawDocument>, delivered: Option<&Body>) -> bool {
    match (recorded, delivered) {
        (None, None) => true,
        (Some(recorded), Some(Body::Bson(delivered))) => recorded.as_bytes() == delivered,
        (Some(recorded), Some(Body::Text(delivered))) => {
            let document = bson::Document::try_from(recorded).unwrap();
            let text = bson::Bson::Document(document).into_relaxed_extjson().to_string();
            text == *delivered
        }
        _ => false,
    }
}
