//! Events near and over the server's limit of 16 MB.

use bson::{Document, doc};

use super::*;

fn large(id: &str, bytes: usize) -> Document {
    doc! { "_id": id, "tenant": "t", "pad": "x".repeat(bytes) }
}

async fn write(docs: &Collection<Document>) {
    docs.insert_one(large("big", 9_000_000)).await.unwrap();
    docs.insert_one(doc! { "_id": "before", "tenant": "t" }).await.unwrap();
    docs.update_one(doc! { "_id": "big" }, doc! { "$set": { "v": 1 } }).await.unwrap();
    docs.insert_one(doc! { "_id": "between", "tenant": "t" }).await.unwrap();
    docs.update_one(doc! { "_id": "big" }, doc! { "$set": { "tenant": "u" } }).await.unwrap();
    docs.insert_one(doc! { "_id": "after", "tenant": "t" }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_leaves_out_images_and_keeps_the_scope() {
    let server = Mongod::shared().await;
    let (_, db) = database(&server, "guard").await;
    let docs = recording(&db, "docs").await;
    let source = connect(config(&server, "guard", Layout::plain())).await;
    let start = now(&source).await;
    write(&docs).await;
    docs.update_one(doc! { "_id": "big" }, doc! { "$set": { "more": "y".repeat(7_000_000) } }).await.unwrap();
    docs.delete_one(doc! { "_id": "big" }).await.unwrap();
    let changes = read(&source, start, 8).await.changes();
    let flags = |index: usize| changes[index].flags.names().collect::<Vec<_>>();
    assert!(changes[2].document.is_some() && changes[2].before.is_none() && flags(2).is_empty());
    assert_eq!(changes[4].left.as_ref().unwrap().tenant.as_deref(), Some("t"), "the pre-image's scope survives it");
    assert_eq!((changes[6].document.is_none(), changes[6].scope.tenant.as_deref()), (true, Some("u")));
    assert_eq!((flags(6), flags(7)), (vec!["reduced"], vec!["reduced"]));
    assert_eq!((changes[7].operation, changes[7].scope.tenant.as_deref()), (Operation::Delete, Some("u")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_had_is_stepped_over_and_told_without_body() {
    let server = Mongod::shared().await;
    let (_, db) = database(&server, "oversize").await;
    let docs = recording(&db, "docs").await;
    let config = MongoConfig { image_bytes_max: i64::MAX, ..config(&server, "oversize", Layout::plain()) };
    let source = connect(config).await;
    let start = now(&source).await;
    // Live, and so met by an open cursor.
    let mut reading = source.read(EPOCH, start).await.unwrap();
    let mut live = Tape::default();
    write(&docs).await;
    live.until(&mut reading, |tape| tape.events.len() >= 6).await;
    let changes = live.changes();
    let seen: Vec<_> = changes.iter().map(|change| (&*change.key, change.document.is_some())).collect();
    let expected =
        [("big", true), ("before", true), ("big", false), ("between", true), ("big", false), ("after", true)];
    assert_eq!(seen, expected);
    assert!(changes.iter().all(|change| change.flags.names().eq(change.document.is_none().then_some("reduced"))));
    assert_eq!((changes[4].scope.tenant.as_deref(), changes[4].left.as_ref().is_some()), (Some("u"), true));
    // It goes on behind them.
    docs.insert_one(doc! { "_id": "later", "tenant": "t" }).await.unwrap();
    live.until(&mut reading, |tape| tape.events.len() >= 7).await;
    // And from every place the rest is the same.
    let all: Vec<_> = live.changes().iter().map(|change| (change.position, change.key.clone())).collect();
    for (index, (position, _)) in all.iter().enumerate() {
        let rest = read(&source, *position, all.len() - index - 1).await;
        let rest: Vec<_> = rest.changes().iter().map(|change| (change.position, change.key.clone())).collect();
        assert_eq!(rest, all[index + 1..]);
    }
}
