//! A database as drills and measurements write to it.
//!
//! Owns the documents' shape (layout `syntrix`) and the ways in which they are written. One writer writes
//! one thing after the other, so the order of the calls is the order of the commits.

use std::time::Duration;

use anyhow::Context;
use bson::spec::BinarySubtype;
use bson::{Binary, Document, Timestamp, doc};
use mongodb::options::{Acknowledgment, ChangeStreamPreAndPostImages, ClientOptions, WriteConcern};
use mongodb::{Client, ClientSession, Collection};

use tokio::time::{Instant, sleep};

use crate::position::ClusterTime;

/// A cluster time at which something has been written.
pub type OperationTime = ClusterTime;

/// Each stream that is read holds one nearly all the time; with the driver's default of ten, streams and writes would
/// wait for one another.
const CONNECTIONS_MAX: u32 = 2_000;
/// The collection of MongoDB that holds the documents.
const DOCUMENTS: &str = "documents";
/// One that takes their place.
const PREPARED: &str = "prepared";
/// How long a server may be away before nobody waits for it any more.
const PATIENCE: Duration = Duration::from_secs(120);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Whether an error of this room is one of the server's, which may pass.
pub fn may_pass(error: &anyhow::Error) -> bool {
    error.is::<mongodb::error::Error>()
}

/// One database of a deployment, with one collection of documents.
#[derive(Debug, Clone)]
pub struct Database {
    client: Client,
    name: String,
    tenant: String,
    collection: String,
}

/// One write of a transaction.
#[derive(Clone, Debug)]
pub enum Step {
    /// A new document of this key and body.
    Insert(String, Document),
    /// New values for some of a body's fields.
    Update(String, Document),
}

impl Database {
    /// Connects. The documents are those of one tenant and one collection.
    ///
    /// # Errors
    /// A deployment that cannot be reached.
    pub async fn connect(uri: &str, name: &str, tenant: &str, collection: &str) -> anyhow::Result<Self> {
        let mut options = ClientOptions::parse(uri).await.context("the MongoDB connection string")?;
        options.max_pool_size.get_or_insert(CONNECTIONS_MAX);
        let client = Client::with_options(options)?;
        let this = Self { client, name: name.into(), tenant: tenant.into(), collection: collection.into() };
        this.now().await.context("MongoDB cannot be reached")?;
        Ok(this)
    }

    /// Makes the collection. With images, what an update left and what was there before are recorded.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn create(&self, images: bool) -> anyhow::Result<()> {
        self.create_as(DOCUMENTS, images).await
    }

    async fn create_as(&self, name: &str, images: bool) -> anyhow::Result<()> {
        let images = ChangeStreamPreAndPostImages::builder().enabled(images).build();
        let database = self.client.database(&self.name);
        database.create_collection(name).change_stream_pre_and_post_images(images).await?;
        Ok(())
    }

    /// Switches the recording of images.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn record_images(&self, enabled: bool) -> anyhow::Result<()> {
        let command = doc! { "collMod": DOCUMENTS, "changeStreamPreAndPostImages": { "enabled": enabled } };
        self.client.database(&self.name).run_command(command).await?;
        Ok(())
    }

    /// Drops the collection and makes it anew, with images.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn drop_collection(&self) -> anyhow::Result<()> {
        self.documents().drop().await?;
        self.create(true).await
    }

    /// Makes a collection that holds these documents, with images, and renames it onto the one that is there.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn rename_onto(&self, documents: impl IntoIterator<Item = (String, Document)>) -> anyhow::Result<()> {
        self.create_as(PREPARED, true).await?;
        let database = self.client.database(&self.name);
        let documents = documents.into_iter().map(|(key, body)| self.document(&key, body));
        database.collection::<Document>(PREPARED).insert_many(documents).await?;
        let of = |name: &str| format!("{}.{name}", self.name);
        let rename = doc! { "renameCollection": of(PREPARED), "to": of(DOCUMENTS), "dropTarget": true };
        self.client.database("admin").run_command(rename).await?;
        Ok(())
    }

    /// A document of which the body is no document, but a text.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn insert_odd(&self, key: &str) -> anyhow::Result<()> {
        let odd = Document::from_iter(self.document(key, Document::new()).into_iter().map(|(name, value)| {
            let value = if name == "data" { "no document".into() } else { value };
            (name, value)
        }));
        self.documents().insert_one(odd).await?;
        Ok(())
    }

    /// A document that only the primary is asked to keep.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn insert_unsafely(&self, key: &str, body: Document) -> anyhow::Result<()> {
        let concern = WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(true).build();
        self.documents().insert_one(self.document(key, body)).write_concern(concern).await?;
        Ok(())
    }

    /// Many documents in one transaction.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn transact_inserts(
        &self,
        documents: impl IntoIterator<Item = (String, Document)>,
    ) -> anyhow::Result<()> {
        let documents = documents.into_iter().map(|(key, body)| self.document(&key, body));
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        self.documents().insert_many(documents).session(&mut session).await?;
        commit(&mut session).await
    }

    /// Whether the body of the document with this key has this value in this field.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn has(&self, key: &str, field: &str, value: i64) -> anyhow::Result<bool> {
        let which = doc! { "_id": self.id(key), format!("data.{field}"): value };
        Ok(self.documents().find_one(which).await?.is_some())
    }

    /// Waits until there is a primary of which a majority holds all that it has. Whatever was under way
    /// when something failed has happened by then, or never will.
    ///
    /// # Errors
    /// There is none for a long time.
    pub async fn settle(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.mark().await {
            if Instant::now() > deadline {
                return Err(error);
            }
            sleep(ASK_AGAIN).await;
        }
        Ok(())
    }

    /// Writes to something else until nothing that was written at or before `time` is in the oplog.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn roll(&self, time: OperationTime) -> anyhow::Result<()> {
        let oplog = self.client.database("local").collection::<Document>("oplog.rs");
        let pads = self.client.database(&format!("{}_pads", self.name)).collection::<Document>("pads");
        loop {
            let first =
                oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await?.context("an oplog without entries")?;
            let Timestamp { time: seconds, increment } = first.get_timestamp("ts")?;
            if ClusterTime::new(seconds, increment) > time {
                pads.drop().await?;
                return Ok(());
            }
            for _ in 0..4 {
                let pad = Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 64 << 10] };
                pads.insert_many((0..16).map(|_| doc! { "pad": pad.clone() })).await?;
            }
        }
    }

    /// Inserts many, in order, in one call.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn insert(&self, documents: impl IntoIterator<Item = (String, Document)>) -> anyhow::Result<()> {
        let documents = documents.into_iter().map(|(key, body)| self.document(&key, body));
        self.documents().insert_many(documents).await?;
        Ok(())
    }

    /// Sets some of a body's fields.
    ///
    /// # Errors
    /// The server refuses, or there is no such document.
    pub async fn update(&self, key: &str, fields: &Document) -> anyhow::Result<()> {
        let updated = self.documents().update_one(doc! { "_id": self.id(key) }, set(fields)).await?;
        anyhow::ensure!(updated.matched_count == 1, "no document {key}");
        Ok(())
    }

    /// All of it or nothing, in order.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn transact(&self, steps: &[Step]) -> anyhow::Result<()> {
        let mut session = self.client.start_session().await?;
        session.start_transaction().await?;
        for step in steps {
            self.step(&mut session, step).await?;
        }
        commit(&mut session).await
    }

    async fn step(&self, session: &mut ClientSession, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Insert(key, body) => {
                self.documents().insert_one(self.document(key, body.clone())).session(session).await?;
            }
            Step::Update(key, fields) => {
                let which = doc! { "_id": self.id(key) };
                let updated = self.documents().update_one(which, set(fields)).session(session).await?;
                anyhow::ensure!(updated.matched_count == 1, "no document {key}");
            }
        }
        Ok(())
    }

    /// A cluster time at or after every write that has been answered.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn now(&self) -> anyhow::Result<OperationTime> {
        let hello = self.client.database("admin").run_command(doc! { "hello": 1 }).await?;
        let Timestamp { time, increment } = hello.get_timestamp("operationTime").context("it is no replica set")?;
        Ok(ClusterTime::new(time, increment))
    }

    /// Writes something that matches nothing, so that the stream goes on past what was written before.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn mark(&self) -> anyhow::Result<()> {
        let marks: Collection<Document> = self.client.database(&self.name).collection("marks");
        marks.insert_one(doc! { "tenant_id": "nobody", "collection": "marks", "data": {} }).await?;
        Ok(())
    }

    /// The server's version.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn version(&self) -> anyhow::Result<String> {
        let info = self.client.database("admin").run_command(doc! { "buildInfo": 1 }).await?;
        Ok(info.get_str("version").unwrap_or_default().to_owned())
    }

    /// Removes the database.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn drop_all(&self) -> anyhow::Result<()> {
        self.client.database(&self.name).drop().await?;
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    fn documents(&self) -> Collection<Document> {
        self.client.database(&self.name).collection(DOCUMENTS)
    }

    fn id(&self, key: &str) -> String {
        format!("{}:{key}", self.tenant)
    }

    fn document(&self, key: &str, body: Document) -> Document {
        let (tenant, collection) = (&self.tenant, &self.collection);
        doc! { "_id": self.id(key), "tenant_id": tenant, "collection": collection, "data": body }
    }
}

/// The outcome of a commit may be unknown; it may be asked for again.
async fn commit(session: &mut ClientSession) -> anyhow::Result<()> {
    while let Err(error) = session.commit_transaction().await {
        if !error.contains_label(mongodb::error::UNKNOWN_TRANSACTION_COMMIT_RESULT) {
            return Err(error.into());
        }
    }
    Ok(())
}

fn set(fields: &Document) -> Document {
    let paths: Document = fields.iter().map(|(name, value)| (format!("data.{name}"), value.clone())).collect();
    doc! { "$set": paths }
}
