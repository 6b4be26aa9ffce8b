//! Layouts, moves, drops and renames, as a real server tells them.

use bson::{Document, doc};
use streamer::change::{ResyncReason, Scope};

use super::*;

fn scope(tenant: Option<&str>, collection: Option<&str>) -> Scope {
    Scope { tenant: tenant.map(Into::into), collection: collection.map(Into::into) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_layout_keeps_tenants_bodies_and_keys_apart() {
    let server = Mongod::shared().await;
    let (_, db) = database(&server, "syntrix").await;
    let docs = recording(&db, "documents").await;
    let source = connect(config(&server, "syntrix", Layout::syntrix())).await;
    let start = now(&source).await;
    let tags: Vec<String> = (0..100).map(|n| format!("tag-{n}")).collect();
    let data = doc! { "x": 1, "tags": tags };
    docs.insert_one(doc! { "_id": "a:m:1", "tenant_id": "a", "collection": "c", "data": data }).await.unwrap();
    let update = doc! { "$set": { "data.x": 2, "rev": 5 }, "$unset": { "data.none": 1 } };
    docs.update_one(doc! { "_id": "a:m:1" }, update).await.unwrap();
    let slice = vec![doc! { "$set": { "data.tags": { "$slice": ["$data.tags", 1] } } }];
    docs.update_one(doc! { "_id": "a:m:1" }, slice).await.unwrap();
    let whole = doc! { "$set": { "data": { "y": 1 } } };
    docs.update_one(doc! { "_id": "a:m:1" }, whole).await.unwrap();
    docs.update_one(doc! { "_id": "a:m:1" }, doc! { "$set": { "tenant_id": "b" } }).await.unwrap();
    docs.update_one(doc! { "_id": "a:m:1" }, doc! { "$unset": { "tenant_id": 1 } }).await.unwrap();
    docs.update_one(doc! { "_id": "a:m:1" }, doc! { "$set": { "tenant_id": "c" } }).await.unwrap();
    docs.delete_one(doc! { "_id": "a:m:1" }).await.unwrap();
    let changes = read(&source, start, 8).await.changes();
    assert!(changes.iter().all(|change| &*change.key == "1" && change.wall_time_ms.is_some()));
    let set = |index: usize| Document::try_from(changes[index].changed.as_ref().unwrap().set.as_ref()).unwrap();
    assert_eq!((set(1), set(2)), (doc! { "x": 2 }, doc! { "tags": ["tag-0"] }));
    assert_eq!(set(3), doc! { "y": 1 });
    assert_eq!(changes[3].changed.as_ref().unwrap().removed, ["x", "tags"]);
    assert_eq!(body(&changes[2]), doc! { "x": 2, "tags": ["tag-0"] });
    let scopes: Vec<_> = changes.iter().map(|change| change.scope.tenant.as_deref().unwrap()).collect();
    assert_eq!(scopes, ["a", "a", "a", "a", "b", "b", "c", "c"]);
    assert_eq!(changes[4].left, Some(Scope::known("a", "c")));
    assert_eq!((changes[5].operation, changes[6].operation), (Operation::Delete, Operation::Insert));
    assert_eq!(told(&changes[7]).4, Some(doc! { "y": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn drops_and_renames_are_told_for_their_scope_and_the_stream_lives_on() {
    let server = Mongod::shared().await;
    let (client, db) = database(&server, "drops").await;
    let one = |n: i32| doc! { "_id": n, "tenant": "t" };
    let collection = |name: &str| db.collection::<Document>(name);
    for name in ["kept", "dropped", "away", "onto"] {
        collection(name).insert_one(one(0)).await.unwrap();
    }
    let watched = ["kept", "dropped", "away", "onto"].map(String::from).to_vec();
    let config = MongoConfig { collections: Some(watched), ..config(&server, "drops", Layout::plain()) };
    let source = connect(config).await;
    let start = now(&source).await;
    let rename = |from: &str, to: &str| {
        let (from, to) = (format!("drops.{from}"), format!("drops.{to}"));
        let admin = client.database("admin");
        async move { admin.run_command(doc! { "renameCollection": from, "to": to, "dropTarget": true }).await.unwrap() }
    };
    collection("dropped").drop().await.unwrap();
    collection("kept").insert_one(one(1)).await.unwrap();
    rename("away", "unwatched").await;
    collection("unwatched").insert_one(one(2)).await.unwrap();
    rename("unwatched", "onto").await;
    collection("onto").insert_one(one(3)).await.unwrap();
    collection("dropped").insert_one(one(4)).await.unwrap();
    db.drop().await.unwrap();
    collection("kept").insert_one(one(5)).await.unwrap();
    let mut reading = source.read(EPOCH, start).await.unwrap();
    let mut tape = Tape::default();
    tape.until(&mut reading, |tape| tape.changes().iter().any(|change| &*change.key == "5")).await;
    let gaps: Vec<_> =
        tape.gaps().into_iter().map(|gap| (gap.scope.collection.unwrap().to_string(), gap.reason)).collect();
    let said = |name: &str, reason| (name.to_owned(), reason);
    assert_eq!(
        gaps[..3],
        [
            said("dropped", ResyncReason::Invalidated),
            said("away", ResyncReason::Invalidated),
            said("onto", ResyncReason::Replaced),
        ]
    );
    let mut last: Vec<_> = gaps[3..].iter().map(|(name, _)| name.as_str()).collect();
    last.sort_unstable();
    assert_eq!(last, ["dropped", "kept", "onto"], "each collection of a dropped database");
    let keys: Vec<_> = tape.changes().iter().map(|change| change.key.to_string()).collect();
    assert_eq!(keys, ["1", "3", "4", "5"]);
    // A resume never misses one: at its own position it is told again.
    for (index, event) in tape.events.iter().enumerate() {
        let at = position_of(event);
        let rest = tape.events.iter().filter(|other| position_of(other) > at).count();
        let more = read(&source, at, rest).await;
        let is_gap = matches!(event, Event::Resync(_));
        let first = tape.events.iter().position(|other| position_of(other) >= at).unwrap();
        assert!(
            !is_gap
                || more.gaps().len() == tape.events[first..].iter().filter(|e| matches!(e, Event::Resync(_))).count()
        );
        assert_eq!(
            more.changes().len(),
            tape.events[index + 1..].iter().filter(|e| matches!(e, Event::Change(_))).count()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_default_layout_a_drop_concerns_every_scope() {
    let server = Mongod::shared().await;
    let (_, db) = database(&server, "drop_all").await;
    let docs = db.collection::<Document>("documents");
    docs.insert_one(doc! { "_id": "a:1" }).await.unwrap();
    let source = connect(config(&server, "drop_all", Layout::syntrix())).await;
    let start = now(&source).await;
    docs.drop().await.unwrap();
    let gaps = read(&source, start, 1).await.gaps();
    assert_eq!((gaps[0].scope.clone(), gaps[0].reason), (scope(None, None), ResyncReason::Invalidated));
    assert!(gaps[0].position.is_boundary());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_the_whole_deployment_is_watched() {
    let server = Mongod::start(&[]).await;
    let client = server.client().await;
    let source = connect(MongoConfig { layout: Layout::plain(), ..MongoConfig::new(server.uri()) }).await;
    let start = now(&source).await;
    for db in ["one", "two", "admin", "three"] {
        client.database(db).collection::<Document>(db).insert_one(doc! { "tenant": "t" }).await.unwrap();
    }
    let changes = read(&source, start, 3).await.changes();
    let seen: Vec<_> = changes.iter().map(|change| change.scope.collection.as_deref().unwrap()).collect();
    assert_eq!(seen, ["one", "two", "three"]);
}
