//! What a deployment is, how far it has come, and what its configuration costs.
//!
//! Owns the questions. Where privileges hide an answer it is left out, not guessed.

use bson::{Bson, Document, Timestamp, doc};
use futures::TryStreamExt;
use mongodb::error::Error;
use mongodb::{Client, Database};

use super::Shared;
use super::errors::{Failure, source_error};
use super::heartbeat::HEARTBEATS;
use crate::position::ClusterTime;
use crate::source::layout::CollectionPlace;
use crate::source::{Description, SourceError, SourceWarning};

/// Asks the deployment.
pub(super) async fn describe(shared: &Shared) -> Result<Description, SourceError> {
    let now = now(&shared.client).await?;
    let oldest = oldest(&shared.client).await;
    let mut warnings = image_warnings(shared, None).await?;
    if images_expire_early(&shared.client, now, oldest).await {
        warnings.push(SourceWarning::ImagesExpireEarly);
    }
    Ok(Description { identity: identity(&shared.client).await, now, oldest, warnings })
}

/// What a subscription to `collection` should be warned of.
pub(super) async fn warnings_for(shared: &Shared, collection: &str) -> Result<Vec<SourceWarning>, SourceError> {
    let stored_in = match shared.layout.collection {
        CollectionPlace::Namespace => Some(collection),
        CollectionPlace::Field(_) => None,
    };
    let mut warnings = image_warnings(shared, stored_in).await?;
    let now = now(&shared.client).await?;
    if images_expire_early(&shared.client, now, oldest(&shared.client).await).await {
        warnings.push(SourceWarning::ImagesExpireEarly);
    }
    Ok(warnings)
}

/// The server's operation time: whatever is written from now on carries a later one.
async fn now(client: &Client) -> Result<ClusterTime, SourceError> {
    let answer = client.database("admin").run_command(doc! { "ping": 1 }).await;
    let answer = answer.map_err(|error| source_error(&error))?;
    let time = answer.get_timestamp("operationTime").map(cluster_time);
    time.map_err(|_| SourceError::Unavailable("MongoDB: the server does not tell its operation time".into()))
}

/// Stays with the replica set for life; a restored or another deployment has another.
async fn identity(client: &Client) -> Option<String> {
    let answer = client.database("admin").run_command(doc! { "replSetGetConfig": 1 }).await.ok()?;
    let settings = answer.get_document("config").ok()?.get_document("settings").ok()?;
    settings.get_object_id("replicaSetId").ok().map(|id| id.to_hex())
}

/// The oplog's first entry.
async fn oldest(client: &Client) -> Option<ClusterTime> {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let first = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).projection(doc! { "ts": 1 });
    first.await.ok()??.get_timestamp("ts").ok().map(cluster_time)
}

/// Whether some watched collection, or the one named, does not record its images. A database that the
/// user may not list says nothing.
async fn image_warnings(shared: &Shared, only: Option<&str>) -> Result<Vec<SourceWarning>, SourceError> {
    let client = &shared.client;
    let databases = match &shared.watched.database {
        Some(database) => vec![database.clone()],
        None => client.list_database_names().await.map_err(|error| source_error(&error))?,
    };
    let own = ["admin", "config", "local"];
    let mut named: Vec<&str> = match only {
        Some(collection) => vec![collection],
        None => shared.watched.collections.iter().flatten().map(String::as_str).collect(),
    };
    let mut off = false;
    for database in databases.iter().filter(|name| !own.contains(&name.as_str())) {
        let collections = match recording(&client.database(database)).await.map_err(|error| Failure::of(&error)) {
            Ok(collections) => collections,
            Err(Failure::Forbidden(_)) => return Ok(Vec::new()),
            Err(failure) => return Err(failure.into_source_error()),
        };
        for (name, records) in collections {
            if shared.watched.covers(database, &name) && only.is_none_or(|only| only == name) {
                named.retain(|one| *one != name);
                off |= !records;
            }
        }
    }
    // One that does not exist yet records nothing when it comes to be by itself.
    off |= !named.is_empty();
    Ok(if off { vec![SourceWarning::PostImagesOff, SourceWarning::PreImagesOff] } else { Vec::new() })
}

/// A database's collections, and whether each records its images.
async fn recording(database: &Database) -> Result<Vec<(String, bool)>, Error> {
    let mut collections = database.list_collections().await?;
    let mut out = Vec::new();
    while let Some(collection) = collections.try_next().await? {
        if !collection.name.starts_with("system.") && collection.name != HEARTBEATS {
            let images = collection.options.change_stream_pre_and_post_images;
            out.push((collection.name, images.is_some_and(|images| images.enabled)));
        }
    }
    Ok(out)
}

/// Whether images are set to expire before the oplog does at its present length.
async fn images_expire_early(client: &Client, now: ClusterTime, oldest: Option<ClusterTime>) -> bool {
    let question = doc! { "getClusterParameter": "changeStreamOptions" };
    let Ok(answer) = client.database("admin").run_command(question).await else { return false };
    let Some(expiry) = expiry_seconds(&answer) else { return false };
    oldest.is_some_and(|oldest| expiry < i64::from(now.seconds().saturating_sub(oldest.seconds())))
}

/// `None` where images live as long as the oplog.
fn expiry_seconds(answer: &Document) -> Option<i64> {
    let parameter = answer.get_array("clusterParameters").ok()?.first()?.as_document()?;
    match parameter.get_document("preAndPostImages").ok()?.get("expireAfterSeconds")? {
        Bson::Int32(seconds) => Some(i64::from(*seconds)),
        Bson::Int64(seconds) => Some(*seconds),
        Bson::Double(seconds) => Some(*seconds as i64),
        _ => None,
    }
}

fn cluster_time(time: Timestamp) -> ClusterTime {
    ClusterTime::new(time.time, time.increment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_a_number_of_seconds_or_none() {
        let answer = |value: Bson| {
            let images = doc! { "expireAfterSeconds": value };
            doc! { "clusterParameters": [{ "_id": "changeStreamOptions", "preAndPostImages": images }] }
        };
        assert_eq!(expiry_seconds(&answer(Bson::Int64(60))), Some(60));
        assert_eq!(expiry_seconds(&answer(Bson::Int32(60))), Some(60));
        assert_eq!(expiry_seconds(&answer("off".into())), None);
        assert_eq!(expiry_seconds(&doc! {}), None);
    }
}
