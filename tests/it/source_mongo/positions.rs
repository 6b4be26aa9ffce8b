//! Positions are the same on every reading, wherever it begins.

use bson::{Bson, Document, doc};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use streamer::source::SourceWarning;

use super::*;

/// Single writes, `insert_many`, `update_many`, `delete_many` and transactions, some without effect
/// on what is watched.
async fn write_mixture(client: &Client, db: &Database) -> usize {
    let docs = recording(db, "docs").await;
    let other = client.database("elsewhere").collection::<Document>("docs");
    let many = |from: i32, count: i32| (from..from + count).map(|n| doc! { "_id": n, "tenant": "t", "n": n });
    docs.insert_many(many(0, 60)).await.unwrap();
    docs.update_many(doc! { "n": { "$lt": 20 } }, doc! { "$set": { "x": 1 } }).await.unwrap();
    let mut count = 80;
    for round in 0..6 {
        let mut session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        for n in 0..20 {
            let id = 1000 + round * 100 + n;
            docs.insert_one(doc! { "_id": id, "tenant": "t", "n": id }).session(&mut session).await.unwrap();
            if n % 3 == 0 {
                other.insert_one(doc! { "tenant": "t" }).session(&mut session).await.unwrap();
            }
            if n % 4 == 0 {
                // Nobody's: it is counted, and never seen.
                docs.insert_one(doc! { "_id": -id, "n": id }).session(&mut session).await.unwrap();
            }
        }
        session.commit_transaction().await.unwrap();
        docs.insert_one(doc! { "_id": format!("single-{round}"), "tenant": "t" }).await.unwrap();
        count += 21;
    }
    docs.delete_many(doc! { "n": { "$gte": 30, "$lt": 50 } }).await.unwrap();
    docs.insert_one(doc! { "_id": "last", "tenant": "t" }).await.unwrap();
    count + 21
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cut_of_a_run_yields_exactly_the_rest() {
    let server = Mongod::shared().await;
    let (client, db) = database(&server, "every_cut").await;
    let source = connect(config(&server, "every_cut", Layout::plain())).await;
    let start = now(&source).await;
    // Read live, while it is written.
    let mut reading = source.read(EPOCH, start).await.unwrap();
    let count = write_mixture(&client, &db).await;
    let mut live = Tape::default();
    live.until(&mut reading, |tape| tape.events.len() >= count).await;
    let all: Vec<_> = live.changes().iter().map(|change| told(change)).collect();
    assert_eq!(all.len(), count);
    assert!(all.iter().any(|change| change.0.ordinal == 25), "a transaction's changes share their time");

    let again = read(&source, start, count).await;
    assert_eq!(again.changes().iter().map(|change| told(change)).collect::<Vec<_>>(), all);
    for (index, change) in all.iter().enumerate() {
        let rest = &all[index + 1..];
        let tape = read(&source, change.0, rest.len()).await;
        assert_eq!(tape.changes().iter().map(|change| told(change)).collect::<Vec<_>>(), rest, "after {:?}", change.0);
    }
    // Cuts between what is seen: at changes that are nobody's, and at boundaries.
    for change in all.iter().step_by(9) {
        for cut in [change.0.before_change(), change.0.floor_boundary()] {
            let rest: Vec<_> = all.iter().filter(|other| other.0 > cut).cloned().collect();
            let tape = read(&source, cut, rest.len()).await;
            assert_eq!(tape.changes().iter().map(|change| told(change)).collect::<Vec<_>>(), rest, "after {cut:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_random_changes_equal_the_model() {
    let server = Mongod::shared().await;
    let (_, db) = database(&server, "model").await;
    let docs = recording(&db, "docs").await;
    let source = connect(config(&server, "model", Layout::plain())).await;
    let mut reading = source.read(EPOCH, now(&source).await).await.unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut model = std::collections::BTreeMap::<i32, Document>::new();
    let mut expected: Vec<(Operation, String, Option<Document>, Option<Document>)> = Vec::new();
    let mut next = 0;
    while expected.len() < 4000 {
        let some = model.keys().nth(random.random_range(0..model.len().max(1))).copied();
        match (random.random_range(0..5), some) {
            (0, _) | (_, None) => {
                let new: Vec<Document> = (next..next + 20).map(|n| doc! { "_id": n, "tenant": "t", "v": 0 }).collect();
                docs.insert_many(&new).await.unwrap();
                for (n, new) in (next..).zip(new) {
                    expected.push((Operation::Insert, n.to_string(), Some(new.clone()), None));
                    model.insert(n, new);
                }
                next += 20;
            }
            (1 | 2, Some(id)) => {
                let before = model[&id].clone();
                let mut after = before.clone();
                after.insert("v", before.get_i32("v").unwrap() + 1);
                docs.update_one(doc! { "_id": id }, doc! { "$inc": { "v": 1 } }).await.unwrap();
                expected.push((Operation::Update, id.to_string(), Some(after.clone()), Some(before)));
                model.insert(id, after);
            }
            (3, Some(id)) => {
                let before = model[&id].clone();
                let after = doc! { "_id": id, "tenant": "t", "v": 100, "w": [1, 2] };
                docs.replace_one(doc! { "_id": id }, &after).await.unwrap();
                if after != before {
                    expected.push((Operation::Replace, id.to_string(), Some(after.clone()), Some(before)));
                    model.insert(id, after);
                }
            }
            (_, Some(id)) => {
                docs.delete_one(doc! { "_id": id }).await.unwrap();
                expected.push((Operation::Delete, id.to_string(), None, model.remove(&id)));
            }
        }
    }
    let mut tape = Tape::default();
    tape.until(&mut reading, |tape| tape.events.len() >= expected.len()).await;
    let seen: Vec<_> = tape.changes().iter().map(|change| told(change)).collect();
    let seen: Vec<_> =
        seen.into_iter().map(|(_, operation, key, after, before)| (operation, key, after, before)).collect();
    assert_eq!(seen.len(), expected.len());
    for (seen, expected) in seen.iter().zip(&expected) {
        assert_eq!(seen, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_advances_by_boundaries() {
    let server = Mongod::shared().await;
    let (client, db) = database(&server, "idle").await;
    let source = connect(config(&server, "idle", Layout::plain())).await;
    let start = now(&source).await;
    let mut reading = source.read(EPOCH, start).await.unwrap();
    let mut tape = Tape::default();
    for n in 0..3 {
        let elsewhere = client.database("not_idle").collection::<Document>("docs");
        elsewhere.insert_one(doc! { "n": n }).await.unwrap();
        let written = source.describe().await.unwrap().now;
        tape.until(&mut reading, |tape| tape.reached.time >= written).await;
        assert!(tape.reached.is_boundary() && tape.events.is_empty());
    }
    // From a boundary so reached nothing is missing.
    let reached = tape.reached;
    drop(reading);
    db.collection::<Document>("docs").insert_one(doc! { "_id": 1, "tenant": "t" }).await.unwrap();
    assert_eq!(&*read(&source, reached, 1).await.changes()[0].key, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_the_oplog_does_not_have_is_another_history() {
    let server = Mongod::shared().await;
    let (_, db) = database(&server, "no_such_place").await;
    let source = connect(config(&server, "no_such_place", Layout::plain())).await;
    let start = now(&source).await;
    let docs = db.collection::<Document>("docs");
    docs.insert_one(doc! { "_id": 1, "tenant": "t" }).await.unwrap();
    let there = read(&source, start, 1).await.changes()[0].position;
    docs.insert_one(doc! { "_id": 2, "tenant": "t" }).await.unwrap();
    let mut reading = source.read(EPOCH, Position { ordinal: there.ordinal + 1, ..there }).await.unwrap();
    assert!(matches!(Tape::default().next(&mut reading).await, Err(SourceError::Exchanged(_))));
    assert!(reading.recv().await.is_none(), "after an error there is nothing more");
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_without_images_are_looked_up_and_those_of_the_deleted_left_out() {
    let server = Mongod::shared().await;
    let (client, db) = database(&server, "look_up").await;
    let docs = db.collection::<Document>("docs");
    docs.insert_many((0..250).map(|n| doc! { "_id": n, "tenant": "t", "v": 0 })).await.unwrap();
    let source = connect(config(&server, "look_up", Layout::plain())).await;
    let start = now(&source).await;
    docs.update_many(doc! {}, doc! { "$set": { "v": 1 } }).await.unwrap();
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    docs.update_one(doc! { "_id": 1 }, doc! { "$set": { "v": 2 } }).session(&mut session).await.unwrap();
    docs.update_one(doc! { "_id": 2 }, doc! { "$set": { "v": 3 } }).session(&mut session).await.unwrap();
    docs.delete_one(doc! { "_id": 1 }).session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    // All but the deleted one's two updates.
    let tape = read(&source, start, 251).await;
    let changes = tape.changes();
    for change in &changes[..249] {
        assert_eq!(change.flags.names().collect::<Vec<_>>(), ["lookup"]);
        let v = if &*change.key == "2" { 3 } else { 1 };
        assert_eq!((body(change).get_i32("v").unwrap(), &*change.key != "1"), (v, true));
        assert_eq!(change.changed.as_ref().unwrap().set.get_i32("v").unwrap(), 1);
    }
    let end: Vec<_> =
        changes[249..].iter().map(|change| (change.position.ordinal, change.operation, &*change.key)).collect();
    assert_eq!(end, [(2, Operation::Update, "2"), (3, Operation::Delete, "1")]);
    assert_eq!((changes[250].scope.tenant.clone(), changes[250].before.is_none()), (None, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_says_what_it_is() {
    let server = Mongod::shared().await;
    let (client, db) = database(&server, "described").await;
    recording(&db, "with").await;
    let source = connect(config(&server, "described", Layout::plain())).await;
    let first = source.describe().await.unwrap();
    assert_eq!(first.identity.as_ref().map(String::len), Some(24));
    assert!(first.oldest.unwrap() < first.now && first.warnings.is_empty());
    client.database("x").collection::<Document>("y").insert_one(doc! { "z": Bson::Null }).await.unwrap();
    db.create_collection("without").await.unwrap();
    let second = source.describe().await.unwrap();
    assert!(second.now > first.now && second.identity == first.identity);
    let names = |warnings: Vec<SourceWarning>| -> Vec<_> { warnings.iter().map(|w| w.name()).collect() };
    assert_eq!(names(second.warnings), ["POSTIMAGES_OFF", "PREIMAGES_OFF"]);
    assert_eq!(names(source.warnings_for("with").await.unwrap()), Vec::<&str>::new());
    assert_eq!(names(source.warnings_for("not_there").await.unwrap()).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_expire_before_the_oplog_are_warned_of() {
    let server = Mongod::start(&[]).await;
    let (client, db) = database(&server, "expiry").await;
    let docs = recording(&db, "docs").await;
    let source = connect(config(&server, "expiry", Layout::plain())).await;
    assert_eq!(source.describe().await.unwrap().warnings, []);
    let options = doc! { "preAndPostImages": { "expireAfterSeconds": 1 } };
    client
        .database("admin")
        .run_command(doc! { "setClusterParameter": { "changeStreamOptions": options } })
        .await
        .unwrap();
    // As soon as the oplog spans more than that second.
    while source.describe().await.unwrap().warnings.is_empty() {
        docs.insert_one(doc! {}).await.unwrap();
    }
    assert_eq!(source.describe().await.unwrap().warnings, [SourceWarning::ImagesExpireEarly]);
    assert_eq!(source.warnings_for("docs").await.unwrap(), [SourceWarning::ImagesExpireEarly]);
}
