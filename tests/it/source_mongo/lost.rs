//! The oplog rolls past a reading.

use bson::{Binary, Document, doc, spec::BinarySubtype};

use super::*;

/// With these the oplog is cut within a second.
const SHORT_OPLOG: &[&str] = &["--oplogSize", "1", "--syncdelay", "1"];

async fn write_megabytes(docs: &Collection<Document>, megabytes: usize) {
    let pad = Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 64 << 10] };
    for _ in 0..megabytes {
        docs.insert_many((0..16).map(|_| doc! { "tenant": "t", "pad": pad.clone() })).await.unwrap();
    }
}

async fn until_lost(source: &MongoSource, docs: &Collection<Document>, start: Position) {
    loop {
        write_megabytes(docs, 20).await;
        if source.describe().await.unwrap().oldest.unwrap() > start.time {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_before_the_oplog_is_history_lost() {
    let server = Mongod::start(SHORT_OPLOG).await;
    let (_, db) = database(&server, "lost").await;
    let docs = db.collection::<Document>("docs");
    let source = connect(config(&server, "lost", Layout::plain())).await;
    let start = now(&source).await;
    until_lost(&source, &docs, start).await;
    assert!(matches!(source.read(EPOCH, start).await, Err(SourceError::HistoryLost(_))));
    // What follows can be read.
    let start = now(&source).await;
    docs.insert_one(doc! { "_id": "next", "tenant": "t" }).await.unwrap();
    assert_eq!(&*read(&source, start, 1).await.changes()[0].key, "next");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_the_oplog_overtakes_ends_with_history_lost() {
    let server = Mongod::start(SHORT_OPLOG).await;
    let (_, db) = database(&server, "overtaken").await;
    let docs = db.collection::<Document>("docs");
    let source = connect(config(&server, "overtaken", Layout::plain())).await;
    let mut reading = source.read(EPOCH, now(&source).await).await.unwrap();
    // Nobody takes its batches, so its cursor falls behind: what a reading holds is bounded.
    write_megabytes(&docs, 160).await;
    let behind = now(&source).await;
    until_lost(&source, &docs, behind).await;
    let mut tape = Tape::default();
    let error = loop {
        if let Err(error) = tape.next(&mut reading).await {
            break error;
        }
    };
    assert!(matches!(error, SourceError::HistoryLost(_)), "{error}");
    assert!(tape.events.len() < 160 * 16, "it was overtaken, not merely slow: {}", tape.events.len());
    assert!(reading.recv().await.is_none(), "after an error there is nothing more");
}
