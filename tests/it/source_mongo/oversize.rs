//! Events near and over the server's limit of 16 MB.

use bson::{Document, doc};
use streamer::change::ResyncReason;

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

/// An event holds its document's `_id` in its token, its key and both images, and the answer holds the token once
/// more. An answer that is too large for that the server does not refuse: it closes the connection.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_too_large_for_its_answer_is_told_as_a_gap_and_reading_goes_on() {
    let server = Mongod::shared().await;
    let (_, db) = database(&server, "large-ids").await;
    let docs = recording(&db, "docs").await;
    let source = connect(config(&server, "large-ids", Layout::plain())).await;
    let start = now(&source).await;
    let mut reading = source.read(EPOCH, start).await.unwrap();
    let mut live = Tape::default();
    // One by one: in an answer with others, whose end is another token, it might be had.
    for (count, id) in (1..).zip(["before", &"x".repeat(3_000_000), "between", &"y".repeat(3_000_000), "after"]) {
        docs.insert_one(doc! { "_id": id, "tenant": "t" }).await.unwrap();
        live.until(&mut reading, |tape| tape.events.len() >= count).await;
    }
    let changes = live.changes();
    let keys: Vec<_> = changes.iter().map(|change| change.key.get(..10).unwrap_or(&change.key)).collect();
    assert_eq!(keys, ["before", "between", "after"]);
    let is_told = |gap: &Gap| (gap.reason, gap.scope.collection.as_deref()) == (ResyncReason::Oversize, Some("docs"));
    assert!(live.gaps().len() == 2 && live.gaps().iter().all(is_told));
    let all: Vec<_> = live.events.iter().map(position_of).collect();
    for (index, position) in all.iter().enumerate().skip(1) {
        let rest = read(&source, *position, all.len() - index - 1).await;
        assert!(
            rest.events.iter().map(position_of).filter(|told| told > position).eq(all[index + 1..].iter().copied())
        );
    }
    // One after the other, with nothing between; and one that is refused first and then cut.
    let marked = doc! { "$set": { "v": 1 } };
    docs.update_one(doc! { "_id": "x".repeat(3_000_000) }, marked).await.unwrap();
    docs.delete_one(doc! { "_id": "x".repeat(3_000_000) }).await.unwrap();
    docs.insert_one(doc! { "_id": "z".repeat(3_000_000), "tenant": "t", "pad": "p".repeat(5_000_000) }).await.unwrap();
    docs.insert_one(doc! { "_id": "end", "tenant": "t" }).await.unwrap();
    live.until(&mut reading, |tape| tape.events.len() >= 9).await;
    let rest = read(&source, all[4], 4).await;
    assert_eq!(
        rest.events.iter().map(position_of).collect::<Vec<_>>(),
        live.events[5..].iter().map(position_of).collect::<Vec<_>>()
    );
    assert_eq!(rest.changes().last().map(|change| change.key.to_string()).as_deref(), Some("end"));
}

/// One that fits into an answer by itself, before one that does not: nothing new comes of reading it again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_change_before_a_large_id_does_not_keep_it_from_being_met() {
    let server = Mongod::shared().await;
    let (_, db) = database(&server, "large-before").await;
    let docs = recording(&db, "docs").await;
    let source = connect(config(&server, "large-before", Layout::plain())).await;
    let start = now(&source).await;
    docs.insert_one(doc! { "_id": "p", "tenant": "t", "pad": "p".repeat(6_000_000) }).await.unwrap();
    docs.insert_one(doc! { "_id": "x".repeat(3_000_000), "tenant": "t" }).await.unwrap();
    docs.insert_one(doc! { "_id": "end", "tenant": "t" }).await.unwrap();
    let all = read(&source, start, 3).await;
    let positions: Vec<_> = all.events.iter().map(position_of).collect();
    assert_eq!(all.changes().last().map(|change| change.key.to_string()).as_deref(), Some("end"));
    assert_eq!(read(&source, positions[0], 2).await.events.iter().map(position_of).collect::<Vec<_>>(), positions[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_which_nothing_can_be_had_ends_history_and_not_the_reading_of_what_follows() {
    let server = Mongod::shared().await;
    let (_, db) = database(&server, "huge-ids").await;
    let docs = recording(&db, "docs").await;
    let source = connect(config(&server, "huge-ids", Layout::plain())).await;
    let start = now(&source).await;
    docs.insert_one(doc! { "_id": "before", "tenant": "t" }).await.unwrap();
    docs.insert_one(doc! { "_id": "x".repeat(5_000_000), "tenant": "t" }).await.unwrap();
    let mut reading = source.read(EPOCH, start).await.unwrap();
    let mut tape = Tape::default();
    tape.until(&mut reading, |tape| !tape.events.is_empty()).await;
    let ended = loop {
        match tape.next(&mut reading).await {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, SourceError::HistoryLost(_)), "{ended:?}");
    let present = now(&source).await;
    docs.insert_one(doc! { "_id": "after", "tenant": "t" }).await.unwrap();
    assert_eq!(&*read(&source, present, 1).await.changes()[0].key, "after");
    // Its delete is small enough never to be refused, and too large for an answer all the same.
    let plain = db.collection::<Document>("plain");
    plain.insert_one(doc! { "_id": "y".repeat(5_000_000), "tenant": "t" }).await.unwrap();
    let before = now(&source).await;
    plain.delete_one(doc! { "_id": "y".repeat(5_000_000) }).await.unwrap();
    let mut reading = source.read(EPOCH, before).await.unwrap();
    let ended = loop {
        match reading.recv().await.expect("an end with a reason") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, SourceError::HistoryLost(_)), "{ended:?}");
}
