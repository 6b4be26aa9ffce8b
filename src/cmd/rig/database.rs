//! A database as drills and measurements write to it.
//!
//! Owns the documents' shape (layout `syntrix`) and the ways in which they are written. One writer writes
//! one thing after the other, so the order of the calls is the order of the commits.

use anyhow::Context;
use bson::{Document, Timestamp, doc};
use mongodb::options::{ChangeStreamPreAndPostImages, ClientOptions};
use mongodb::{Client, ClientSession, Collection};

use crate::position::ClusterTime;

/// A cluster time at which something has been written.
pub type OperationTime = ClusterTime;

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
        let options = ClientOptions::parse(uri).await.context("the MongoDB connection string")?;
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
        let images = ChangeStreamPreAndPostImages::builder().enabled(images).build();
        let database = self.client.database(&self.name);
        database.create_collection("documents").change_stream_pre_and_post_images(images).await?;
        Ok(())
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
        // The outcome of a commit may be unknown; it may be asked for again.
        while let Err(error) = session.commit_transaction().await {
            if !error.contains_label(mongodb::error::UNKNOWN_TRANSACTION_COMMIT_RESULT) {
                return Err(error.into());
            }
        }
        Ok(())
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
        self.client.database(&self.name).collection("documents")
    }

    fn id(&self, key: &str) -> String {
        format!("{}:{key}", self.tenant)
    }

    fn document(&self, key: &str, body: Document) -> Document {
        let (tenant, collection) = (&self.tenant, &self.collection);
        doc! { "_id": self.id(key), "tenant_id": tenant, "collection": collection, "data": body }
    }
}

fn set(fields: &Document) -> Document {
    let paths: Document = fields.iter().map(|(name, value)| (format!("data.{name}"), value.clone())).collect();
    doc! { "$set": paths }
}
