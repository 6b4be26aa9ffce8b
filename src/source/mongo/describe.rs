//! What a deployment is, how far it has come, and what its configuration costs.
//!
//! Owns the questions. Where privileges hide an answer it is left out, not guessed.

use bson::{Bson, Document, Timestamp, doc};
use futures::TryStreamExt;
use mongodb::error::Error;
use mongodb::results::CollectionType;
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
pub(super) async fn now(client: &Client) -> Result<ClusterTime, SourceError> {
    let answer = client.database("admin").run_command(doc! { "ping": 1 }).await;
    let answer = answer.map_err(|error| source_error(&error))?;
    let time = answer.get_timestamp("operationTime").map(cluster_time);
    time.map_err(|_| SourceError::Unavailable("MongoDB: the server does not tell its operation time".into()))
}

/// Stays with the replica set for life; a restored or another deployment has another.
async fn identity(client: &Client) -> Option<String> {
    ask_identity(client).await.ok().flatten()
}

pub(super) async fn ask_identity(client: &Client) -> Result<Option<String>, Error> {
    let answer = client.database("admin").run_command(doc! { "replSetGetConfig": 1 }).await?;
    let settings = answer.get_document("config").and_then(|config| config.get_document("settings"));
    let id = settings.and_then(|settings| settings.get_object_id("replicaSetId"));
    Ok(id.ok().map(|id| id.to_hex()))
}

/// The oplog's first entry.
async fn oldest(client: &Client) -> Option<ClusterTime> {
    ask_oldest(client).await.ok().flatten()
}

pub(super) async fn ask_oldest(client: &Client) -> Result<Option<ClusterTime>, Error> {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let first = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).projection(doc! { "ts": 1 }).await?;
    Ok(first.and_then(|entry| entry.get_timestamp("ts").ok().map(cluster_time)))
}

/// Whether some watched collection, or the one named, does not record its images. A database that the
/// user may not list says nothing.
async fn image_warnings(shared: &Shared, only: Option<&str>) -> Result<Vec<SourceWarning>, SourceError> {
    let databases = databases(shared).await.map_err(Failure::into_source_error)?;
    let collections = match watched_collections(shared, &databases, only).await {
        Ok(collections) => collections,
        Err(Failure::Forbidden(_)) => return Ok(Vec::new()),
        Err(failure) => return Err(failure.into_source_error()),
    };
    // One that does not exist yet records nothing when it comes to be by itself.
    let off = collections.iter().any(|collection| !collection.records);
    Ok(if off { vec![SourceWarning::PostImagesOff, SourceWarning::PreImagesOff] } else { Vec::new() })
}

/// A collection that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Where it is; `None` for one that is named and is in none of the databases.
    pub database: Option<String>,
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub exists: bool,
    /// Whether it records images.
    pub records: bool,
}

/// The databases of which something may be watched.
pub(super) async fn databases(shared: &Shared) -> Result<Vec<String>, Failure> {
    let own = ["admin", "config", "local"];
    let names = match &shared.watched.database {
        Some(database) => vec![database.clone()],
        None => shared.client.list_database_names().await.map_err(|error| Failure::of(&error))?,
    };
    Ok(names.into_iter().filter(|name| !own.contains(&name.as_str())).collect())
}

/// The watched collections, or the one named, those that are named and do not exist among them.
pub(super) async fn watched_collections(
    shared: &Shared,
    databases: &[String],
    only: Option<&str>,
) -> Result<Vec<Watch>, Failure> {
    let mut named: Vec<&str> = match only {
        Some(collection) => vec![collection],
        None => shared.watched.collections.iter().flatten().map(String::as_str).collect(),
    };
    let mut out = Vec::new();
    for database in databases {
        let found = recording(&shared.client.database(database)).await.map_err(|error| Failure::of(&error))?;
        for (name, records) in found {
            if shared.watched.covers(database, &name) && only.is_none_or(|only| only == name) {
                named.retain(|one| *one != name);
                out.push(Watch { database: Some(database.clone()), name, exists: true, records });
            }
        }
    }
    let absent = |name: &str| {
        let (database, name) = (shared.watched.database.clone(), name.to_owned());
        Watch { database, name, exists: false, records: false }
    };
    out.extend(named.into_iter().map(absent));
    Ok(out)
}

/// A database's collections, and whether each records its images.
async fn recording(database: &Database) -> Result<Vec<(String, bool)>, Error> {
    let mut collections = database.list_collections().await?;
    let mut out = Vec::new();
    while let Some(collection) = collections.try_next().await? {
        // Nothing is ever told of views and time series.
        let is_told = collection.collection_type == CollectionType::Collection;
        if is_told && !collection.name.starts_with("system.") && collection.name != HEARTBEATS {
            let images = collection.options.change_stream_pre_and_post_images;
            out.push((collection.name, images.is_some_and(|images| images.enabled)));
        }
    }
    Ok(out)
}

/// Whether images are set to expire before the oplog does at its present length.
async fn images_expire_early(client: &Client, now: ClusterTime, oldest: Option<ClusterTime>) -> bool {
    let Ok(Some(expiry)) = ask_expiry(client).await else { return false };
    oldest.is_some_and(|oldest| expiry < i64::from(now.seconds().saturating_sub(oldest.seconds())))
}

/// How long images live, in seconds; `None` where they do as long as the oplog.
pub(super) async fn ask_expiry(client: &Client) -> Result<Option<i64>, Error> {
    let question = doc! { "getClusterParameter": "changeStreamOptions" };
    Ok(expiry_seconds(&client.database("admin").run_command(question).await?))
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
