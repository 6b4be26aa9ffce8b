//! The MongoDB source against real servers.

mod layouts;
mod lost;
mod oversize;
mod positions;
pub(crate) mod refused;
mod restart;
pub(crate) mod server;

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::{Client, Collection, Database};
use streamer::change::{Change, Operation};
use streamer::limits;
use streamer::position::{Epoch, Position};
use streamer::source::layout::Layout;
use streamer::source::mongo::{MongoConfig, MongoSource};
use streamer::source::{Batch, ChangeSource, Event, Gap, Reading, SourceError};
use streamer::tasks::Tasks;

use server::Mongod;

const EPOCH: Epoch = Epoch(7);

/// Nothing here takes long; what does is stuck.
const STUCK: Duration = Duration::from_secs(60);

fn config(server: &Mongod, database: &str, layout: Layout) -> MongoConfig {
    MongoConfig { database: Some(database.into()), layout, ..MongoConfig::new(server.uri()) }
}

async fn connect(config: MongoConfig) -> MongoSource {
    MongoSource::connect(config, Tasks::new()).await.unwrap()
}

/// Everything from now on.
async fn now(source: &MongoSource) -> Position {
    Position::boundary(EPOCH, source.describe().await.unwrap().now.next())
}

/// A collection that records images.
async fn recording(db: &Database, name: &str) -> Collection<Document> {
    let images = doc! { "enabled": true };
    db.run_command(doc! { "create": name, "changeStreamPreAndPostImages": images }).await.unwrap();
    db.collection(name)
}

/// What a reading has said so far, checked against the rules that hold for every reading.
#[derive(Default)]
struct Tape {
    events: Vec<Event>,
    reached: Position,
}

impl Tape {
    fn add(&mut self, batch: Batch) {
        let size = |event: &Event| match event {
            Event::Change(change) => change.size_bytes(),
            Event::Resync(_) => 0,
        };
        let bytes: usize = batch.events.iter().map(size).sum();
        assert!(batch.events.len() <= limits::source_batch_changes_max);
        assert!(bytes <= limits::source_batch_bytes_max || batch.events.len() == 1, "{bytes} bytes in a batch");
        for event in batch.events {
            let (last, position) = (self.events.last().map(position_of), position_of(&event));
            let is_change = matches!(event, Event::Change(_));
            assert!(
                last.is_none_or(|last| last < position || (!is_change && last == position)),
                "{last:?} {position:?}"
            );
            assert!(position > self.reached || (!is_change && position == self.reached), "{position:?}");
            assert_eq!(position.epoch, EPOCH);
            self.events.push(event);
        }
        let last = self.events.last().map(position_of).unwrap_or_default();
        assert!(batch.reached >= self.reached, "a reading never goes back");
        assert!(batch.reached >= last && (batch.reached == last || batch.reached.is_boundary()));
        self.reached = batch.reached;
    }

    async fn next(&mut self, reading: &mut Reading) -> Result<(), SourceError> {
        let batch = tokio::time::timeout(STUCK, reading.recv()).await.expect("a reading advances");
        self.add(batch.expect("a reading goes on")?);
        Ok(())
    }

    /// Reads on until `done`.
    async fn until(&mut self, reading: &mut Reading, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.next(reading).await.unwrap();
        }
    }

    fn changes(&self) -> Vec<Arc<Change>> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Change(change) => Some(Arc::clone(change)),
                Event::Resync(_) => None,
            })
            .collect()
    }

    fn gaps(&self) -> Vec<Gap> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Change(_) => None,
                Event::Resync(gap) => Some(gap.clone()),
            })
            .collect()
    }
}

/// Reads from `after` until `count` events have come.
async fn read(source: &MongoSource, after: Position, count: usize) -> Tape {
    let mut reading = source.read(EPOCH, after).await.unwrap();
    let mut tape = Tape::default();
    tape.until(&mut reading, |tape| tape.events.len() >= count).await;
    tape
}

fn position_of(event: &Event) -> Position {
    match event {
        Event::Change(change) => change.position,
        Event::Resync(gap) => gap.position,
    }
}

/// What makes two tellings of a change the same.
fn told(change: &Change) -> (Position, Operation, String, Option<Document>, Option<Document>) {
    let body = |document: &Option<bson::RawDocumentBuf>| {
        document.as_ref().map(|document| Document::try_from(document.as_ref()).unwrap())
    };
    (change.position, change.operation, change.key.to_string(), body(&change.document), body(&change.before))
}

fn body(change: &Change) -> Document {
    told(change).3.expect("a body")
}

async fn database(server: &Mongod, name: &str) -> (Client, Database) {
    let client = server.client().await;
    let database = client.database(name);
    (client, database)
}
