//! Look-ups: documents of updates whose post-image was not recorded.
//!
//! Owns the query. What it finds may be later than the update, never earlier.

use bson::raw::cstr;
use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, rawdoc};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::error::Error;
use mongodb::options::{ReadPreference, SelectionCriteria};
use rustc_hash::FxHashMap;

use crate::position::ClusterTime;

/// Documents asked for in one query.
pub(super) const LOOKUP_DOCUMENTS_MAX: usize = 100;

/// How long the server may take for one query.
const LOOKUP_MS_MAX: i32 = 10_000;

/// Documents by the bytes of their `_id`.
pub(super) type Found = FxHashMap<Vec<u8>, RawDocumentBuf>;

/// What names a document in [`Found`].
pub(super) fn id_bytes(id: RawBsonRef<'_>) -> Vec<u8> {
    let mut bytes = RawDocumentBuf::new();
    bytes.append(cstr!("_id"), id);
    bytes.into_bytes()
}

/// Reads the documents with these `_id`s as they are at `at` or later, by a majority.
pub(super) async fn find(
    client: &Client,
    (db, coll): (&str, &str),
    ids: &[RawBsonRef<'_>],
    at: ClusterTime,
) -> Result<Found, Error> {
    let mut list = RawArrayBuf::new();
    for id in ids {
        list.push(*id);
    }
    let at = Timestamp { time: at.seconds(), increment: at.increment() };
    let command = rawdoc! {
        "find": coll,
        "filter": { "_id": { "$in": list } },
        "readConcern": { "level": "majority", "afterClusterTime": at },
        "maxTimeMS": LOOKUP_MS_MAX,
    };
    let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
    let database = client.database(db);
    let mut batches = database.run_raw_cursor_command(command).selection_criteria(primary).batch().await?;
    let mut found = Found::default();
    while let Some(batch) = batches.try_next().await? {
        for document in batch.doc_slices()? {
            keep(&mut found, document?.as_document());
        }
    }
    Ok(found)
}

fn keep(found: &mut Found, document: Option<&RawDocument>) {
    let Some(document) = document else { return };
    if let Ok(Some(id)) = document.get("_id") {
        found.insert(id_bytes(id), document.to_owned());
    }
}
