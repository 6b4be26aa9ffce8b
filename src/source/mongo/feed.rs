//! The cursor of one opened stream, read ahead in a task of its own.
//!
//! Owns the server's cursor. Its task is not cancelled in the middle of a request, so the driver's
//! cursor never sees a half-done poll; it ends after the request during which its receiver was
//! dropped, or at once with a cursor that is not asked again. Reading ahead by one batch lets the server prepare the next while this one is decoded.

use std::time::Duration;

use bson::{Document, RawDocument};
use futures::StreamExt;
use mongodb::Database;
use mongodb::error::Error;
use mongodb::options::{ReadConcern, ReadPreference, SelectionCriteria};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::errors::Failure;
use super::token::cluster_time_of_token;
use crate::position::ClusterTime;
use crate::tasks::{Kind, Tasks};

/// How long the server waits for something to tell before it answers with nothing: idle streams
/// advance at this pace, and a reading that nobody wants ends within it.
const AWAIT: Duration = Duration::from_millis(250);

/// Changes in one answer of the server at most; large enough that a request costs little beside them.
pub(super) const BATCH_CHANGES: u32 = 2_000;

/// The receiving end of one opened stream.
#[derive(Debug)]
pub(super) struct Feed {
    answers: mpsc::Receiver<Result<RawBatch, Failure>>,
    abandoned: CancellationToken,
}

impl Feed {
    /// Opens a stream with this pipeline.
    pub(super) async fn open(
        database: &Database,
        tasks: &Tasks,
        pipeline: Vec<Document>,
        batch_changes: u32,
    ) -> Result<Self, Error> {
        let cursor = database
            .aggregate(pipeline)
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .read_concern(ReadConcern::majority())
            .batch_size(batch_changes)
            .max_await_time(AWAIT)
            .batch()
            .await?;
        let (sender, answers) = mpsc::channel(1);
        let abandoned = CancellationToken::new();
        let until = abandoned.clone().cancelled_owned();
        tasks.spawn(Kind::Reading, "mongo cursor", async move {
            tokio::select! {
                () = fetch(cursor, sender) => {}
                () = until => {}
            }
        });
        Ok(Self { answers, abandoned })
    }

    /// The next answer; an empty one at least every [`AWAIT`].
    pub(super) async fn next(&mut self) -> Result<RawBatch, Failure> {
        let gone = || Failure::Passing("MongoDB: the change stream's cursor was closed".into());
        self.answers.recv().await.unwrap_or_else(|| Err(gone()))
    }

    /// Gives up an answer that is under way, with its connection.
    pub(super) fn abandon(&self) {
        self.abandoned.cancel();
    }
}

async fn fetch(mut cursor: RawBatchCursor, sender: mpsc::Sender<Result<RawBatch, Failure>>) {
    while let Some(batch) = cursor.next().await {
        let batch = batch.map_err(|error| Failure::of(&error));
        let failed = batch.is_err();
        if sender.send(batch).await.is_err() || failed {
            return;
        }
    }
}

/// The cluster time up to which an answer says that everything has been read.
pub(super) fn read_up_to(answer: &RawDocument) -> Option<ClusterTime> {
    let token = answer.get_document("cursor").ok()?.get_document("postBatchResumeToken").ok()?;
    cluster_time_of_token(token)
}
