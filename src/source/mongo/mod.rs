//! MongoDB: a deployment's change stream as a source. The only place that imports the driver.
//!
//! Owns its client, the stream and everything peculiar to MongoDB. Knows nothing of subscriptions.
//!
//! A reading is a task that decodes (`reading`) and a task that holds the server's cursor (`feed`).
//! The stream is opened on the deployment, so that drops and renames do not end it, and always by
//! cluster time: a position alone says where (`sequence`).

mod changed;
mod connect;
mod decode;
mod describe;
mod errors;
mod event;
mod feed;
mod heartbeat;
mod inspect;
mod lookup;
mod mistakes;
mod ordinals;
mod pipeline;
mod reading;
mod segment;
mod sequence;
mod token;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mongodb::Client;
use tokio::sync::mpsc;

use self::errors::Failure;
pub use self::pipeline::Split;
use self::pipeline::{Level, Watched};
use self::reading::Reader;
use super::layout::Layout;
use super::{ChangeSource, Description, Reading, SourceError, SourceWarning};
use crate::limits;
use crate::position::{Epoch, Position};
use crate::tasks::{Kind, Tasks};

pub use self::connect::{Refused, Unfit};
pub use self::describe::Watch;
pub use self::inspect::{Answer, Inspection, NoAnswer, Oplog, Reach, User};
pub use self::mistakes::Mistake;
pub use self::token::cluster_time_of_token;

/// A deployment and what of it is watched.
#[derive(Clone)]
pub struct MongoConfig {
    /// The connection string.
    pub uri: String,
    /// The database; `None` for the whole deployment.
    pub database: Option<String>,
    /// The collections; `None` for all.
    pub collections: Option<Vec<String>>,
    /// Which share of the documents; `None` for all.
    pub split: Option<Split>,
    /// Where documents keep their tenant, collection and body.
    pub layout: Layout,
    /// How long an operation waits for a primary before it fails, where the connection string does
    /// not say.
    pub server_selection_timeout: Duration,
    /// Events above this lose their images on the server. Lower in tests alone.
    pub image_bytes_max: i64,
    /// How long an answer may take before the stream is opened again; twice as long each time that nothing comes of
    /// it, for the server may have much to look through.
    pub patience: Duration,
    /// A deliberate mistake, for a drill to notice.
    pub mistake: Option<Mistake>,
}

impl MongoConfig {
    /// The whole deployment at `uri`, in the default layout.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            database: None,
            collections: None,
            split: None,
            layout: Layout::syntrix(),
            server_selection_timeout: Duration::from_secs(5),
            image_bytes_max: limits::event_image_bytes_max,
            patience: Duration::from_secs(30),
            mistake: None,
        }
    }
}

impl fmt::Debug for MongoConfig {
    /// Without the connection string, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoConfig")
            .field("database", &self.database)
            .field("collections", &self.collections)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

/// A MongoDB deployment's change stream.
#[derive(Clone)]
pub struct MongoSource(Arc<Shared>);

/// What all readings of one source share.
struct Shared {
    client: Client,
    tasks: Tasks,
    watched: Watched,
    layout: Layout,
    image_bytes_max: i64,
    patience: Duration,
    /// Whether the deployment's stream was refused, and the database's is read.
    descended: AtomicBool,
    mistake: Option<Mistake>,
    /// Whether a reading has failed since one was last opened.
    stumbled: AtomicBool,
}

impl Shared {
    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// What streams are opened on.
    fn level(&self) -> Level {
        if self.descended.load(Ordering::Relaxed) { Level::Database } else { Level::Deployment }
    }

    /// From now on streams are opened on the database.
    fn descend(&self) {
        if !self.descended.swap(true, Ordering::Relaxed) {
            tracing::info!("the user may not read the deployment's change stream: reading the database's");
        }
    }
}

impl MongoSource {
    /// Connects with a client and a pool of its own, and makes sure that the server is one whose
    /// stream can be read.
    ///
    /// # Errors
    /// `Misconfigured` for a bad connection string, credentials that are refused, and a server that is
    /// no member of an initiated replica set, or a `mongos`; `Unavailable` where nobody answers.
    pub async fn connect(config: MongoConfig, tasks: Tasks) -> Result<Self, SourceError> {
        Ok(Self::dial(config, tasks, None).await?)
    }

    /// Likewise, and says what is wrong with a server that is refused.
    async fn dial(config: MongoConfig, tasks: Tasks, wait_max: Option<Duration>) -> Result<Self, Refused> {
        let client = connect::connect(&config, wait_max).await?;
        let watched = Watched::new(config.database, config.collections, config.split);
        Ok(Self(Arc::new(Shared {
            client,
            tasks,
            watched,
            layout: config.layout,
            image_bytes_max: config.image_bytes_max,
            patience: config.patience,
            descended: AtomicBool::new(false),
            mistake: config.mistake,
            stumbled: AtomicBool::new(false),
        })))
    }

    /// What a subscription to `collection` should be warned of.
    ///
    /// # Errors
    /// As [`ChangeSource::describe`].
    pub async fn warnings_for(&self, collection: &str) -> Result<Vec<SourceWarning>, SourceError> {
        describe::warnings_for(&self.0, collection).await
    }
}

impl fmt::Debug for MongoSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoSource").field("watched", &self.0.watched).finish_non_exhaustive()
    }
}

#[async_trait]
impl ChangeSource for MongoSource {
    fn definition(&self) -> String {
        self.0.watched.definition()
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        describe::describe(&self.0).await
    }

    async fn nudge(&self) -> Result<(), SourceError> {
        heartbeat::write(&self.0).await
    }

    async fn prove(&self, witness: Position) -> Result<(), SourceError> {
        let (sender, _) = mpsc::channel(1);
        let reader = Reader::new(Arc::clone(&self.0), sender, witness.epoch, witness);
        reader.prove(witness).await.map_err(Failure::into_source_error)
    }

    async fn read(&self, epoch: Epoch, after: Position) -> Result<Reading, SourceError> {
        let (sender, receiver) = mpsc::channel(limits::reading_batches_max);
        let mut reader = Reader::new(Arc::clone(&self.0), sender, epoch, after);
        let opened = match reader.open().await {
            // The reading itself gets past it.
            Err(failure @ (Failure::Oversize(_) | Failure::Cut(_) | Failure::Silent(_))) => Err(failure),
            opened => Ok(opened.map_err(Failure::into_source_error)?),
        };
        self.0.tasks.spawn(Kind::Reading, format!("mongo after {after}"), reader.run(opened));
        Ok(receiver)
    }
}
