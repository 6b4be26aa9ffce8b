//! The hub's own writes, by which readings of an idle deployment move on.
//!
//! Owns where they go. What is written there is never delivered.

use bson::{Document, doc};
use mongodb::options::UpdateOptions;

use super::Shared;
use super::errors::Failure;
use crate::source::SourceError;

/// The collection, in every database.
pub(super) const HEARTBEATS: &str = "streamer.heartbeats";
/// The database, where the whole deployment is watched.
const DATABASE: &str = "streamer";

/// The database in which they are written.
pub(super) fn database(shared: &Shared) -> &str {
    shared.watched.database.as_deref().unwrap_or(DATABASE)
}

/// Writes one: always the same document.
pub(super) async fn write(shared: &Shared) -> Result<(), SourceError> {
    attempt(shared).await.map_err(Failure::into_source_error)
}

/// Likewise, for whoever wants to know what a failure is.
pub(super) async fn attempt(shared: &Shared) -> Result<(), Failure> {
    let heartbeats = shared.client.database(database(shared)).collection::<Document>(HEARTBEATS);
    let options = UpdateOptions::builder().upsert(true).build();
    let now = doc! { "$currentDate": { "at": true } };
    let written = heartbeats.update_one(doc! { "_id": "hub" }, now);
    written.with_options(options).await.map_err(|error| Failure::of(&error))?;
    Ok(())
}
