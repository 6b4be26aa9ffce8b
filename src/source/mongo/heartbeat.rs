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

/// Writes one: always the same document.
pub(super) async fn write(shared: &Shared) -> Result<(), SourceError> {
    let database = shared.client.database(shared.watched.database.as_deref().unwrap_or(DATABASE));
    let heartbeats = database.collection::<Document>(HEARTBEATS);
    let options = UpdateOptions::builder().upsert(true).build();
    let now = doc! { "$currentDate": { "at": true } };
    let written = heartbeats.update_one(doc! { "_id": "hub" }, now);
    written.with_options(options).await.map_err(|error| Failure::of(&error).into_source_error())?;
    Ok(())
}
