//! A database of a test's own, and hubs that watch it.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::{Client, Collection};
use reqwest::Method;
use serde_json::Value;
use streamer::change::Change;
use streamer::clock::Clock;
use streamer::config::{Config, StoreKind};
use streamer::hub::{Backend, Hub};
use streamer::observe::metrics::Metrics;
use streamer::position::{ClusterTime, Epoch, Position};
use streamer::source::layout::Layout;
use streamer::source::mongo::{MongoConfig, MongoSource, Split};
use streamer::source::{ChangeSource, Event};
use streamer::tasks::Tasks;
use tempfile::TempDir;

use super::consumers::{self, Said, Session, Transport};
use super::servers::{self, Server};

/// Nothing here takes long; what does is stuck.
pub(super) const STUCK: Duration = Duration::from_secs(60);
/// The partition of all these hubs.
pub(super) const PARTITION: &str = "default/0";

/// Fails the test if what is waited for does not come.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(STUCK, future).await;
    waited.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Asks until the answer is there.
pub(super) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(what, asking).await
}

/// A database, whose collection `documents` records images, and a folder for a store.
pub(super) struct Site {
    pub(super) mongodb: Server,
    pub(super) client: Client,
    pub(super) database: String,
    pub(super) folder: TempDir,
}

impl Site {
    pub(super) async fn new() -> Self {
        Self::on(servers::mongodb().await).await
    }

    /// On a server of the test's own.
    pub(super) async fn on(mongodb: Server) -> Self {
        let client = Client::with_uri_str(&mongodb.address).await.unwrap();
        let database = format!("hub_{:016x}", rand::random::<u64>());
        let images = doc! { "enabled": true };
        let create = doc! { "create": "documents", "changeStreamPreAndPostImages": images };
        client.database(&database).run_command(create).await.unwrap();
        Self { mongodb, client, database, folder: tempfile::tempdir().unwrap() }
    }

    pub(super) fn documents(&self) -> Collection<Document> {
        self.client.database(&self.database).collection("documents")
    }

    /// A hub of this database, with its store in the folder.
    pub(super) fn config(&self) -> Config {
        let mut config = Config::default();
        config.http.listen = ([127, 0, 0, 1], 0).into();
        config.grpc.listen = ([127, 0, 0, 1], 0).into();
        config.store.kind = StoreKind::Redb;
        config.store.path = self.folder.path().join("store.redb");
        config.backends.0[0].uri.clone_from(&self.mongodb.address);
        config.backends.0[0].database = Some(self.database.clone());
        config
    }

    /// A cluster time at or after every write that has been answered.
    pub(super) async fn now(&self) -> ClusterTime {
        let hello = self.client.database("admin").run_command(doc! { "hello": 1 }).await.unwrap();
        let now = hello.get_timestamp("operationTime").unwrap();
        ClusterTime::new(now.time, now.increment)
    }

    /// Everything that is delivered until all that has been written up to now has been sent.
    pub(super) async fn all(&self, session: &mut Session) -> Vec<consumers::Change> {
        let end = self.now().await;
        self.mark().await;
        let mut changes = Vec::new();
        let taking = async {
            loop {
                match session.next().await.expect("the session goes on") {
                    Said::Change(change) => changes.push(*change),
                    Said::Progress(positions, 0) if is_past(&positions, end) => return changes,
                    Said::Welcome | Said::Progress(..) | Said::Expired(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        soon("progress", taking).await
    }

    /// An idle stream's place moves with the next write or within seconds; this makes it now.
    pub(super) async fn mark(&self) {
        let mark = document("nobody", "marks", &format!("{:x}", rand::random::<u64>()), doc! {});
        self.documents().insert_one(mark).await.unwrap();
    }

    /// The changes of the documents after `from` up to `end`, read without a hub.
    pub(super) async fn read(&self, from: ClusterTime, end: ClusterTime) -> Vec<Arc<Change>> {
        self.read_part(from, end, Split { number: 0, count: 1 }).await
    }

    /// Likewise, of one partition of so many.
    pub(super) async fn read_part(&self, from: ClusterTime, end: ClusterTime, split: Split) -> Vec<Arc<Change>> {
        let mut config = MongoConfig::new(&self.mongodb.address);
        config.database = Some(self.database.clone());
        config.layout = Layout::syntrix();
        config.split = Some(split);
        let source = MongoSource::connect(config, Tasks::new()).await.unwrap();
        let mut reading = source.read(Epoch(1), Position::boundary(Epoch(1), from.next())).await.unwrap();
        let mut changes = Vec::new();
        loop {
            let batch = soon("a batch", reading.recv()).await.unwrap().unwrap();
            for event in batch.events {
                match event {
                    Event::Change(change) if change.scope.collection.as_deref() == Some("marks") => {}
                    Event::Change(change) if change.position.time > end => {}
                    Event::Change(change) => changes.push(change),
                    Event::Resync(gap) => panic!("{gap:?}"),
                }
            }
            if batch.reached.time > end {
                return changes;
            }
        }
    }

    /// The database is no longer needed.
    pub(super) async fn remove(self) {
        self.client.database(&self.database).drop().await.unwrap();
    }
}

/// A document of layout `syntrix`.
pub(super) fn document(tenant: &str, collection: &str, key: &str, body: Document) -> Document {
    doc! { "_id": format!("{tenant}:{key}"), "tenant_id": tenant, "collection": collection, "data": body }
}

/// Status and body of a call of the hub at this address; null for no body.
pub(super) async fn call(url: &str, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = http.request(method, format!("{url}{path}"));
    if let Some(body) = body {
        request = request.json(body);
    }
    // A stream, opened where a refusal was expected, would never end.
    let answering = async {
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap())
    };
    let (status, bytes) = soon("an answer", answering).await;
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
    (status, body)
}

/// A hub within this process.
pub(super) struct Running {
    hub: Hub,
}

impl Running {
    /// `STREAMER_TEST_LOG=1` prints what it logs.
    pub(super) async fn start(config: &Config, clock: Clock) -> Self {
        if std::env::var_os("STREAMER_TEST_LOG").is_some() {
            let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_test_writer().try_init();
        }
        let starting = Hub::start(config, Backend::Mongo, Tasks::new(), clock, Metrics::install(), None);
        let hub = starting.await.unwrap();
        until("a hub that is ready", async || hub.is_ready().then_some(())).await;
        Self { hub }
    }

    pub(super) fn http_url(&self) -> String {
        format!("http://{}", self.hub.http)
    }

    pub(super) fn grpc_url(&self) -> String {
        format!("http://{}", self.hub.grpc)
    }

    /// Status and body of a call; null for no body.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        call(&self.http_url(), method, path, body).await
    }

    /// A session from the last ack, or from this cursor.
    pub(super) async fn open(&self, transport: Transport, gateway: &str, cursor: Option<&str>) -> Session {
        let cursor = cursor.map(str::to_owned);
        Session::open(transport, &self.http_url(), &self.grpc_url(), gateway, cursor).await
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, None).await
    }

    /// Ends it in order.
    pub(super) async fn drain(self) {
        assert_eq!(self.hub.drain().await, Vec::<String>::new(), "stragglers");
    }
}

/// Whether a `positions` object says that everything at `time` has been sent.
pub(super) fn is_past(positions: &std::collections::HashMap<String, String>, time: ClusterTime) -> bool {
    positions.values().all(|position| position.parse::<Position>().unwrap().time > time) && !positions.is_empty()
}
