//! Servers whose stream cannot be read, each with its one line.

use std::os::unix::fs::PermissionsExt;

use bson::{Bson, Document, doc};
use mongodb::Client;
use streamer::change::ResyncReason;

use super::*;

async fn refusal(uri: String) -> SourceError {
    let config = MongoConfig { server_selection_timeout: Duration::from_millis(500), ..MongoConfig::new(uri) };
    MongoSource::connect(config, Tasks::new()).await.expect_err("refused")
}

fn says(error: &SourceError, words: &str) {
    let line = error.to_string();
    assert!(line.contains(words) && !line.contains('\n'), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_connection_string_is_misconfigured() {
    for uri in ["", "localhost", "mongodb://", "mongodb://h:port/", "mongodb://h/?w=-1"] {
        let error = refusal(uri.into()).await;
        assert!(matches!(error, SourceError::Misconfigured(_)), "{uri}: {error}");
        says(&error, "connection string");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_it_is_unavailable() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refusal(format!("mongodb://127.0.0.1:{free}/?replicaSet=rs0")).await;
    assert!(matches!(error, SourceError::Unavailable(_)));
    says(&error, &format!("127.0.0.1:{free}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_replica_set_is_misconfigured_whatever_the_string_says() {
    let server = Mongod::start_bare(&[]).await;
    for options in ["", "?replicaSet=rs0", "?directConnection=true"] {
        let error = refusal(format!("mongodb://127.0.0.1:{}/{options}", server.port())).await;
        assert!(matches!(error, SourceError::Misconfigured(_)), "{options}: {error}");
        says(&error, "--replSet");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_that_is_not_initiated_or_has_another_name_is_misconfigured() {
    let server = Mongod::start_bare(&["--replSet", "rs0"]).await;
    for options in ["", "?replicaSet=rs0"] {
        let error = refusal(format!("mongodb://127.0.0.1:{}/{options}", server.port())).await;
        assert!(matches!(error, SourceError::Misconfigured(_)), "{options}: {error}");
        says(&error, "rs.initiate()");
    }
    let server = Mongod::shared().await;
    let error = refusal(format!("mongodb://127.0.0.1:{}/?replicaSet=rs9", server.port())).await;
    assert!(matches!(error, SourceError::Misconfigured(_)));
    says(&error, "rs9");
}

/// A server with users: `root`, `reader` (may read the database `mine`), `stranger` (may read nothing).
pub(crate) async fn server_with_users(keys: &tempfile::TempDir) -> Mongod {
    let key = keys.path().join("key");
    std::fs::write(&key, "a key that the members share").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = Mongod::start_bare(&["--replSet", "rs0", "--auth", "--keyFile", key.to_str().unwrap()]).await;
    server.initiate(&[&server]).await;
    server.writable().await;
    let create = |name: &str, roles: Vec<Bson>| doc! { "createUser": name, "pwd": "pw", "roles": roles };
    let first = server.direct().await;
    first.database("admin").run_command(create("root", vec!["root".into()])).await.unwrap();
    let root = as_user(&server, "root").await;
    let reads = vec![Bson::from(doc! { "role": "read", "db": "mine" })];
    root.database("admin").run_command(create("reader", reads)).await.unwrap();
    root.database("admin").run_command(create("stranger", vec![])).await.unwrap();
    server
}

pub(crate) fn uri_as(server: &Mongod, user: &str) -> String {
    server.uri().replace("mongodb://", &format!("mongodb://{user}:pw@"))
}

async fn as_user(server: &Mongod, user: &str) -> Client {
    Client::with_uri_str(uri_as(server, user)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_one_database_reads_that_and_survives_its_drop() {
    let keys = tempfile::tempdir().unwrap();
    let server = server_with_users(&keys).await;
    let mine = as_user(&server, "root").await.database("mine");
    let config = |user: &str| {
        let (database, layout) = (Some("mine".to_owned()), Layout::plain());
        MongoConfig { database, layout, ..MongoConfig::new(uri_as(&server, user)) }
    };
    let source = connect(config("reader")).await;
    let description = source.describe().await.unwrap();
    assert_eq!((description.identity, description.oldest), (None, None));
    let start = Position::boundary(EPOCH, description.now.next());
    let mut reading = source.read(EPOCH, start).await.unwrap();
    let mut live = Tape::default();
    let docs = mine.collection::<Document>("docs");
    for n in 0..3 {
        docs.insert_one(doc! { "_id": n as i32, "tenant": "t" }).await.unwrap();
        live.until(&mut reading, |tape| tape.changes().len() > n).await;
        mine.drop().await.unwrap();
        live.until(&mut reading, |tape| tape.gaps().len() > n).await;
    }
    docs.insert_one(doc! { "_id": 3, "tenant": "t" }).await.unwrap();
    live.until(&mut reading, |tape| tape.changes().len() == 4).await;
    let all: Vec<_> = live.changes().iter().map(|change| told(change)).collect();
    // Whoever may read more reads the same, and from every place the rest is there.
    let root = connect(config("root")).await;
    assert_eq!(read(&root, start, 7).await.changes().iter().map(|change| told(change)).collect::<Vec<_>>(), all);
    assert_eq!(root.definition(), source.definition());
    for event in &live.events {
        let rest: Vec<_> = all.iter().filter(|change| change.0 > position_of(event)).cloned().collect();
        let mut reading = source.read(EPOCH, position_of(event)).await.unwrap();
        let mut tape = Tape::default();
        tape.until(&mut reading, |tape| tape.changes().len() == rest.len()).await;
        assert_eq!(tape.changes().iter().map(|change| told(change)).collect::<Vec<_>>(), rest);
    }
}

/// The stream's end is met again on the way to what cannot be had.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_right_after_a_drop_of_the_database_is_stepped_over() {
    let keys = tempfile::tempdir().unwrap();
    let server = server_with_users(&keys).await;
    let mine = as_user(&server, "root").await.database("mine");
    let (database, layout) = (Some("mine".to_owned()), Layout::plain());
    let source = connect(MongoConfig { database, layout, ..MongoConfig::new(uri_as(&server, "reader")) }).await;
    let start = now(&source).await;
    let mut reading = source.read(EPOCH, start).await.unwrap();
    let docs = mine.collection::<Document>("docs");
    docs.insert_one(doc! { "_id": 1, "tenant": "t" }).await.unwrap();
    mine.drop().await.unwrap();
    docs.insert_one(doc! { "_id": "x".repeat(3_000_000), "tenant": "t", "pad": "p".repeat(5_000_000) }).await.unwrap();
    docs.insert_one(doc! { "_id": 2, "tenant": "t" }).await.unwrap();
    let mut live = Tape::default();
    live.until(&mut reading, |tape| tape.changes().len() == 2).await;
    let keys: Vec<_> = live.changes().iter().map(|change| change.key.len()).collect();
    let reasons: Vec<_> = live.gaps().iter().map(|gap| gap.reason).collect();
    assert_eq!((reasons, keys), (vec![ResyncReason::Invalidated, ResyncReason::Oversize], vec![1, 1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_is_told_what_is_missing() {
    let keys = tempfile::tempdir().unwrap();
    let server = server_with_users(&keys).await;
    let error = refusal(server.uri().replace("mongodb://", "mongodb://reader:wrong@")).await;
    assert!(matches!(error, SourceError::Misconfigured(_)), "{error}");
    for (user, database) in [("stranger", Some("mine")), ("reader", Some("other")), ("reader", None)] {
        let config = MongoConfig { database: database.map(str::to_owned), ..MongoConfig::new(uri_as(&server, user)) };
        let source = connect(config).await;
        assert_eq!(source.describe().await.unwrap().warnings, [], "what it may not see it does not guess");
        let error = source.read(EPOCH, Position::default()).await.expect_err("refused");
        assert!(matches!(error, SourceError::Misconfigured(_)), "{error}");
        says(&error, "changeStream");
    }
}
