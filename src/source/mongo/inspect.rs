//! A look at a deployment before a hub is started on it.
//!
//! Owns the questions that only `check-config` has, and asks the hub's own besides, in the hub's own words. Judges
//! nothing: what an answer is worth is for its reader to say. A question that is not answered hides no other's answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::error::Error;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connect::Refused;
use super::describe::{self, Watch};
use super::errors::Failure;
use super::pipeline::Level;
use super::reading::Reader;
use super::{MongoConfig, MongoSource, Shared, heartbeat};
use crate::clock::Clock;
use crate::position::{Epoch, Position};
use crate::source::SourceError;
use crate::tasks::Tasks;

/// How often the server is asked what time it is: the quickest answer says it best.
const CLOCK_QUESTIONS: usize = 3;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The user may not ask it.
    Forbidden,
    /// Anything else, in one line.
    Failed(String),
}

impl From<Failure> for NoAnswer {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Forbidden(_) => Self::Forbidden,
            failure => Self::Failed(failure.into_source_error().to_string()),
        }
    }
}

/// What came of one question.
pub type Answer<T> = Result<T, NoAnswer>;

/// What the user may read the changes of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The whole deployment, out of which the hub takes what is configured.
    Deployment,
    /// The one database that is configured.
    Database,
}

/// Whom the server takes the hub for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// The database in which it was made.
    pub database: String,
}

/// The oplog, by which a hub that was away catches up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Oplog {
    /// From its first entry to now, in seconds.
    pub seconds: u32,
    /// What it holds and may hold, in bytes; `None` where privileges hide it.
    pub fill: Option<(u64, u64)>,
    /// For how long it keeps everything, however much that is.
    pub kept_hours: Option<f64>,
}

/// What a deployment is.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Who the hub is there; `None` for nobody.
    pub user: Answer<Option<User>>,
    /// The server's version.
    pub version: Answer<String>,
    /// The version whose features it has switched on.
    pub feature_version: Answer<String>,
    /// How far the server's clock is ahead of this machine's, in milliseconds, and how wrong that may be.
    pub skew_millis: Answer<(i64, u64)>,
    /// What of it can be read, with the stream that the hub itself opens.
    pub stream: Answer<Reach>,
    /// By what a hub knows it again.
    pub identity: Answer<Option<String>>,
    /// How far back it can be read.
    pub oplog: Answer<Oplog>,
    /// What is watched of it.
    pub collections: Answer<Vec<Watch>>,
    /// How long images live, in seconds; `None` where they do as long as the oplog.
    pub image_seconds: Answer<Option<i64>>,
    /// Where the hub writes a document to move an idle deployment on, and whether it may; `None` if it is not to.
    pub heartbeats: Option<(String, Answer<()>)>,
}

impl MongoSource {
    /// Looks at the deployment. Nothing is changed there, but that a document is written among the hub's own if
    /// `heartbeats` says that the hub would. No question takes longer than `patience`.
    ///
    /// # Errors
    /// As [`MongoSource::connect`].
    pub async fn inspect(
        config: MongoConfig,
        tasks: Tasks,
        clock: &Clock,
        heartbeats: bool,
        patience: Duration,
    ) -> Result<Inspection, Refused> {
        // The rest of the time is for asking each host by itself what is wrong.
        let dialing = Self::dial(config, tasks, Some(patience / 2));
        let late = |_| SourceError::Unavailable(silent(patience));
        let source = timeout(patience, dialing).await.map_err(late)??;
        let shared = &source.0;
        let client = &shared.client;
        // By itself, for other questions would delay its answers.
        let skew_millis = ask(patience, skew(client, clock)).await;
        let (user, version, feature_version, stream, identity, oplog, collections, image_seconds, heartbeats) = tokio::join!(
            ask(patience, user(client)),
            ask(patience, version(client)),
            ask(patience, feature_version(client)),
            ask(patience, open(shared)),
            ask(patience, driver(describe::ask_identity(client))),
            ask(patience, oplog(client)),
            ask(patience, collections(shared)),
            ask(patience, driver(describe::ask_expiry(client))),
            written(shared, heartbeats, patience),
        );
        Ok(Inspection {
            user,
            version,
            feature_version,
            skew_millis,
            stream,
            identity,
            oplog,
            collections,
            image_seconds,
            heartbeats,
        })
    }
}

fn silent(patience: Duration) -> String {
    format!("MongoDB does not answer within {} s", patience.as_secs_f32())
}

async fn ask<T>(patience: Duration, question: impl Future<Output = Result<T, Failure>>) -> Answer<T> {
    match timeout(patience, question).await {
        Ok(answer) => answer.map_err(NoAnswer::from),
        Err(_) => Err(NoAnswer::Failed(silent(patience))),
    }
}

async fn driver<T>(question: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
    question.await.map_err(|error| Failure::of(&error))
}

async fn command(client: &Client, command: Document) -> Result<Document, Failure> {
    driver(async { client.database("admin").run_command(command).await }).await
}

async fn version(client: &Client) -> Result<String, Failure> {
    let answer = command(client, doc! { "buildInfo": 1 }).await?;
    Ok(answer.get_str("version").unwrap_or_default().to_owned())
}

async fn feature_version(client: &Client) -> Result<String, Failure> {
    let answer = command(client, doc! { "getParameter": 1, "featureCompatibilityVersion": 1 }).await?;
    let version = answer.get_document("featureCompatibilityVersion").and_then(|found| found.get_str("version"));
    Ok(version.unwrap_or_default().to_owned())
}

async fn user(client: &Client) -> Result<Option<User>, Failure> {
    let answer = command(client, doc! { "connectionStatus": 1 }).await?;
    let users = answer.get_document("authInfo").and_then(|info| info.get_array("authenticatedUsers"));
    let Some(first) = users.ok().and_then(|users| users.first()?.as_document()) else { return Ok(None) };
    let text = |name: &str| first.get_str(name).unwrap_or_default().to_owned();
    Ok(Some(User { name: text("user"), database: text("db") }))
}

/// An answer is as late as half of the time that it took, give or take as much.
async fn skew(client: &Client, clock: &Clock) -> Result<(i64, u64), Failure> {
    let mut best: Option<(i64, u64)> = None;
    for _ in 0..CLOCK_QUESTIONS {
        let (wall, asked) = (clock.wall(), clock.now());
        let answer = command(client, doc! { "hello": 1 }).await?;
        let took = clock.now().since(asked).as_millis() as u64;
        let Ok(theirs) = answer.get_datetime("localTime") else { continue };
        let skew = theirs.timestamp_millis() - wall.timestamp_millis() - (took / 2) as i64;
        if best.is_none_or(|(_, least)| took.div_ceil(2) < least) {
            best = Some((skew, took.div_ceil(2)));
        }
    }
    best.ok_or_else(|| Failure::Passing("MongoDB: the server does not tell its time".into()))
}

/// Opens the stream as a reading does and takes one answer.
async fn open(shared: &Arc<Shared>) -> Result<Reach, Failure> {
    let unheard = |error: SourceError| Failure::Passing(error.to_string());
    let now = describe::now(&shared.client).await.map_err(unheard)?;
    let (sender, _) = mpsc::channel(1);
    let mut reader = Reader::new(Arc::clone(shared), sender, Epoch(1), Position::boundary(Epoch(1), now.next()));
    match reader.open().await {
        Ok(mut feed) => {
            let answered = feed.next().await;
            feed.abandon();
            match answered {
                // A reading gets past it.
                Ok(_) | Err(Failure::Oversize(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Oversize(_)) => {}
        Err(failure) => return Err(failure),
    }
    Ok(match shared.level() {
        Level::Deployment => Reach::Deployment,
        Level::Database => Reach::Database,
    })
}

async fn oplog(client: &Client) -> Result<Oplog, Failure> {
    let unheard = |error: SourceError| Failure::Passing(error.to_string());
    let now = describe::now(client).await.map_err(unheard)?;
    let oldest = driver(describe::ask_oldest(client)).await?;
    let Some(oldest) = oldest else { return Err(Failure::Passing("MongoDB: the oplog has no entry".into())) };
    Ok(Oplog {
        seconds: now.seconds().saturating_sub(oldest.seconds()),
        fill: driver(fill(client)).await.ok().flatten(),
        kept_hours: kept_hours(client).await.ok().flatten(),
    })
}

async fn fill(client: &Client) -> Result<Option<(u64, u64)>, Error> {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let mut found = oplog.aggregate([doc! { "$collStats": { "storageStats": {} } }]).await?;
    let Some(stats) = found.try_next().await? else { return Ok(None) };
    let bytes = |name: &str| number(stats.get_document("storageStats").ok()?.get(name)?).map(|bytes| bytes as u64);
    Ok(bytes("size").zip(bytes("maxSize")))
}

async fn kept_hours(client: &Client) -> Result<Option<f64>, Failure> {
    let answer = command(client, doc! { "serverStatus": 1 }).await?;
    let truncation = answer.get_document("oplogTruncation").ok();
    let hours = truncation.and_then(|found| number(found.get("oplogMinRetentionHours")?));
    Ok(hours.filter(|hours| *hours > 0.0))
}

fn number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Int32(number) => Some(f64::from(*number)),
        Bson::Int64(number) => Some(*number as f64),
        Bson::Double(number) => Some(*number),
        _ => None,
    }
}

async fn collections(shared: &Shared) -> Result<Vec<Watch>, Failure> {
    let databases = describe::databases(shared).await?;
    describe::watched_collections(shared, &databases, None).await
}

async fn written(shared: &Shared, wanted: bool, patience: Duration) -> Option<(String, Answer<()>)> {
    if !wanted {
        return None;
    }
    Some((heartbeat::database(shared).to_owned(), ask(patience, heartbeat::attempt(shared)).await))
}
