//! The driver's own change stream, as the yardstick.
//!
//! Owns the cheapest reading that the driver's public interface offers: raw documents, no filter but the
//! database's.

use std::time::Duration;

use anyhow::{Context, bail};
use bson::{RawDocumentBuf, Timestamp, doc};
use tokio::time::Instant;

use super::database::{Database, OperationTime};

/// What the server hands out at a time; the hub asks for the same.
const BATCH_CHANGES: u32 = 2_000;
/// Longer than any answer takes; only a backlog that is not there meets it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the server waits for something to hand out; the hub asks for the same.
const AWAIT: Duration = Duration::from_millis(250);

/// One reading.
#[derive(Clone, Copy, Debug)]
pub struct RawDrain {
    /// From the request to the last change.
    pub took: Duration,
    /// Bytes of all events.
    pub bytes: u64,
}

/// Reads `changes` inserts from `from` on, and tells `progress` how many there were so far.
///
/// # Errors
/// The server refuses, or the changes do not come.
pub async fn drain_raw(
    database: &Database,
    from: OperationTime,
    changes: u64,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<RawDrain> {
    let began = Instant::now();
    let start = Timestamp { time: from.seconds(), increment: from.increment() };
    let of_database = database.client().database(database.name());
    let watch = of_database.watch().start_at_operation_time(start).batch_size(BATCH_CHANGES);
    let mut stream = watch.await?.with_type::<RawDocumentBuf>();
    let (mut seen, mut bytes) = (0, 0);
    let mut last = Instant::now();
    while seen < changes {
        let Some(event) = stream.next_if_any().await? else {
            if last.elapsed() > PATIENCE {
                bail!("only {seen} of {changes} changes came");
            }
            continue;
        };
        if event.get_str("operationType").context("an event without a type")? != "insert" {
            continue;
        }
        bytes += event.as_bytes().len() as u64;
        seen += 1;
        if seen % 4096 == 0 {
            progress(seen);
            last = Instant::now();
        }
    }
    progress(seen);
    Ok(RawDrain { took: began.elapsed(), bytes })
}

/// Reads on from now, all inserts or those for one gateway, and tells of each its body's `number`. The stream is
/// open when this returns; what it returns reads it.
///
/// # Errors
/// The server refuses.
pub async fn watch_raw(
    database: &Database,
    gateway: Option<u32>,
    mut arrived: impl FnMut(u64, Instant) + Send + 'static,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let of_database = database.client().database(database.name());
    let only = gateway.map(|gateway| doc! { "$match": { "fullDocument.data.gateway": gateway as i32 } });
    let watch = of_database.watch().pipeline(only).batch_size(BATCH_CHANGES).max_await_time(AWAIT);
    let mut stream = watch.await?.with_type::<RawDocumentBuf>();
    Ok(async move {
        loop {
            let Some(event) = stream.next_if_any().await? else { continue };
            let now = Instant::now();
            let body = event.get_document("fullDocument").and_then(|document| document.get_document("data"));
            if let Ok(number) = body.and_then(|body| body.get_i64("number")) {
                arrived(number as u64, now);
            }
        }
    })
}
