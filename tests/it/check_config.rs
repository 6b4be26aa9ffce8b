//! `streamer check-config` against real servers: a deployment as it should be, and what is said of each that is not.

use std::process::{Output, Stdio};
use std::time::Duration;

use async_nats::jetstream;
use bson::{Document, doc};
use mongodb::Client;
use serde_json::{Value, json};
use streamer::cmd::rig::{self, Etcd, Nats};
use streamer::config::{Backend, Config, Layout, StoreKind};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::source_mongo::refused::{server_with_users, uri_as};
use crate::source_mongo::server::Mongod;
use crate::support::etcd::{Etcd as OneEtcd, unique_prefix};
use crate::support::{eventually, in_time};

/// One question may take five seconds, on a machine that is not busy.
const IN_TIME: Duration = Duration::from_secs(30);

async fn run(config: &Config, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    std::fs::write(&file, toml::to_string(config).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    command.arg("check-config").args(arguments).arg("--config").arg(&file).kill_on_drop(true);
    let began = tokio::time::Instant::now();
    let output = in_time("the end of the checks", command.output()).await.unwrap();
    assert!(began.elapsed() < IN_TIME, "{:?}", began.elapsed());
    output
}

/// The status and what was found.
async fn check(config: &Config, arguments: &[&str]) -> (Option<i32>, Found) {
    let output = run(config, &[&["-o", "json"], arguments].concat()).await;
    let text = String::from_utf8(output.stdout).unwrap();
    let found: Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), Found(found))
}

struct Found(Value);

impl Found {
    fn all(&self) -> impl Iterator<Item = &Value> {
        self.0["checks"].as_array().unwrap().iter()
    }

    /// Those of this name.
    fn of(&self, check: &str) -> Vec<&Value> {
        self.all().filter(|found| found["check"] == check).collect()
    }

    fn one(&self, check: &str) -> &Value {
        let found = self.of(check);
        assert_eq!(found.len(), 1, "{check}: {:#}", self.0);
        found[0]
    }

    fn result(&self, check: &str) -> &str {
        self.one(check)["result"].as_str().unwrap()
    }

    fn remedy(&self, check: &str) -> &str {
        self.one(check)["remedy"].as_str().unwrap_or_else(|| panic!("a remedy: {:#}", self.0))
    }

    /// Each that is neither as it should be nor could not be looked at.
    fn complaints(&self) -> Vec<&Value> {
        self.all().filter(|found| !["ok", "skipped"].contains(&found["result"].as_str().unwrap())).collect()
    }
}

fn free_address() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A hub of this database, with its store in a file of the folder.
fn config(uri: &str, database: &str, folder: &tempfile::TempDir) -> Config {
    let mut config = Config::default();
    (config.http.listen, config.grpc.listen) = (free_address(), free_address());
    config.store.kind = StoreKind::Redb;
    config.store.path = folder.path().join("store.redb");
    config.backends.0[0] =
        Backend { uri: uri.into(), database: Some(database.into()), layout: Layout::Plain, ..Backend::default() };
    config
}

async fn command(uri: &str, database: &str, command: Document) {
    Client::with_uri_str(uri).await.unwrap().database(database).run_command(command).await.unwrap();
}

fn with_images(name: &str) -> Document {
    doc! { "create": name, "changeStreamPreAndPostImages": { "enabled": true } }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_deployment_has_nothing_to_complain_of() {
    let (folder, mongod) = (rig::folder().unwrap(), Mongod::start(&[]).await);
    let etcd = Etcd::start_all(&rig::find("etcd", None, "STREAMER_ETCD").unwrap(), folder.path(), 3).await.unwrap();
    let nats = Nats::start(&rig::find("nats-server", None, "STREAMER_NATS").unwrap(), folder.path(), "").await.unwrap();
    command(&mongod.uri(), "app", with_images("docs")).await;
    let mut config = config(&mongod.uri(), "app", &folder);
    config.store.kind = StoreKind::Etcd;
    config.store.endpoints = etcd.urls();
    config.nats.url = nats.url();
    config.nats.gateways = vec!["edge-*".into()];
    config.node.address = Some("localhost:7701".into());
    config.backends.0[0].heartbeat_writes = true;
    config.backends.0[0].partitions = 2;
    let (status, found) = check(&config, &[]).await;
    assert_eq!(found.complaints(), Vec::<&Value>::new());
    assert_eq!((status, &found.0["result"]), (Some(0), &json!("ok")));
    for check in [
        "http.listen",
        "grpc.listen",
        "node.address",
        "memory.bytes",
        "etcd.members",
        "etcd.space",
        "etcd.write",
        "mongodb.reachable",
        "mongodb.replica-set",
        "mongodb.version",
        "mongodb.feature-version",
        "mongodb.clock",
        "mongodb.change-stream",
        "mongodb.oplog",
        "mongodb.identity",
        "mongodb.images",
        "mongodb.image-expiry",
        "mongodb.heartbeats",
        "nats.reachable",
        "nats.jetstream",
        "nats.stream",
    ] {
        assert_eq!(found.result(check), "ok", "{check}: {:#}", found.0);
    }
    assert_eq!(found.of("etcd.reachable").len(), 3);
    // A look leaves nothing behind.
    let context = jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    assert!(context.get_stream("STREAMER").await.is_err(), "no stream is made");
    let mut client = etcd_client::Client::connect(etcd.urls(), None).await.unwrap();
    let left = client.get("/streamer", Some(etcd_client::GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!((left.count(), client.leases().await.unwrap().leases().len()), (0, 0));

    // In words the same, a line each.
    let output = run(&config, &[]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text.starts_with("result   check") && text.contains("\nok       mongodb.change-stream    backend default"),
        "{text}"
    );
    assert!(text.trim_end().ends_with("0 warning, 0 failed, 1 skipped"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_replica_set_fails_with_what_makes_it_one() {
    let folder = tempfile::tempdir().unwrap();
    let (alone, fresh) = tokio::join!(Mongod::start_bare(&[]), Mongod::start_bare(&["--replSet", "rs0"]));
    let (status, found) = check(&config(&alone.uri(), "app", &folder), &[]).await;
    assert_eq!((status, found.result("mongodb.replica-set")), (Some(1), "failed"));
    let remedy = found.remedy("mongodb.replica-set");
    assert!(remedy.contains("--replSet") && remedy.ends_with("rs.initiate()"), "{remedy}");
    assert_eq!(found.result("store.redb"), "ok", "what is wrong with one hides nothing of another");
    let (_, found) = check(&config(&fresh.uri(), "app", &folder), &[]).await;
    assert_eq!(found.remedy("mongodb.replica-set"), "rs.initiate()");
    let output = run(&config(&fresh.uri(), "app", &folder), &[]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("streamer: 1 of ") && said.ends_with(" checks failed\n"), "{said}");
    let other = fresh.uri().replace(&fresh.port().to_string(), &free_address().port().to_string());
    let (_, found) = check(&config(&other, "app", &folder), &[]).await;
    assert_eq!(found.result("mongodb.reachable"), "failed");
    assert!(found.remedy("mongodb.reachable").ends_with("backends[0].uri"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_without_images_is_warned_of_until_its_command_has_been_run() {
    let (folder, mongod) = (tempfile::tempdir().unwrap(), Mongod::start(&[]).await);
    command(&mongod.uri(), "app", with_images("good")).await;
    command(&mongod.uri(), "app", doc! { "create": "bad" }).await;
    command(&mongod.uri(), "app", doc! { "create": "seen", "viewOn": "bad" }).await;
    let mut config = config(&mongod.uri(), "app", &folder);
    let (status, found) = check(&config, &[]).await;
    assert_eq!((status, &found.0["result"]), (Some(0), &json!("warning")));
    let complaints = found.complaints();
    assert_eq!(complaints.len(), 1, "a view records nothing and needs not to: {complaints:?}");
    assert_eq!((&complaints[0]["check"], &complaints[0]["target"]), (&json!("mongodb.images"), &json!("app.bad")));
    assert!(complaints[0]["detail"].as_str().unwrap().starts_with("POSTIMAGES_OFF, PREIMAGES_OFF"));
    assert_eq!(
        complaints[0]["remedy"],
        r#"db.getSiblingDB("app").runCommand({ collMod: "bad", changeStreamPreAndPostImages: { enabled: true } })"#
    );
    command(&mongod.uri(), "app", doc! { "collMod": "bad", "changeStreamPreAndPostImages": { "enabled": true } }).await;
    let (_, found) = check(&config, &[]).await;
    assert_eq!(found.complaints(), Vec::<&Value>::new());
    assert_eq!(found.one("mongodb.images")["detail"], "2 collections record pre-images and post-images");

    // One that is named and not there; images that go before the oplog does; and a smaller scope that is fine.
    config.backends.0[0].collections = vec!["good".into(), "later".into()];
    let early = doc! { "preAndPostImages": { "expireAfterSeconds": 1 } };
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    command(&mongod.uri(), "admin", doc! { "setClusterParameter": { "changeStreamOptions": early } }).await;
    let (_, found) = check(&config, &[]).await;
    let complaints = found.complaints();
    assert_eq!(complaints.len(), 2, "{complaints:?}");
    assert_eq!(
        complaints[0]["remedy"],
        r#"db.getSiblingDB("app").createCollection("later", { changeStreamPreAndPostImages: { enabled: true } })"#
    );
    assert!(complaints[1]["detail"].as_str().unwrap().starts_with("IMAGES_EXPIRE_EARLY"));
    let off = doc! { "preAndPostImages": { "expireAfterSeconds": "off" } };
    command(&mongod.uri(), "admin", doc! { "setClusterParameter": { "changeStreamOptions": off } }).await;
    command(&mongod.uri(), "app", with_images("later")).await;
    let (_, found) = check(&config, &[]).await;
    assert_eq!(found.complaints(), Vec::<&Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_privileges_is_told_which_and_how_to_get_them() {
    let (folder, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = server_with_users(&keys).await;
    let root = uri_as(&server, "root");
    command(&root, "mine", with_images("docs")).await;
    let mut config = config(&uri_as(&server, "stranger"), "mine", &folder);
    config.backends.0[0].heartbeat_writes = true;
    let (status, found) = check(&config, &[]).await;
    assert_eq!((status, found.result("mongodb.reachable")), (Some(1), "ok"));
    let text = |field: &str, check: &str| found.one(check)[field].as_str().unwrap().to_owned();
    for (check, result, needs, role) in [
        (
            "mongodb.change-stream",
            "failed",
            "changeStream and find on the database mine",
            r#"{ role: "read", db: "mine" }"#,
        ),
        ("mongodb.images", "warning", "listCollections", r#"{ role: "read", db: "mine" }"#),
        ("mongodb.oplog", "warning", "find on local.oplog.rs", r#"{ role: "clusterMonitor", db: "admin" }"#),
        ("mongodb.identity", "warning", "replSetGetConfig", r#"{ role: "clusterMonitor", db: "admin" }"#),
        ("mongodb.feature-version", "skipped", "getParameter", r#"{ role: "clusterMonitor", db: "admin" }"#),
        ("mongodb.image-expiry", "skipped", "getClusterParameter", r#"{ role: "streamerImages", db: "admin" }"#),
        ("mongodb.heartbeats", "failed", "insert and update", r#"{ role: "streamerHeartbeats", db: "admin" }"#),
    ] {
        assert_eq!(found.result(check), result, "{check}");
        assert!(text("detail", check).contains(needs), "{}", text("detail", check));
        let granted = format!("db.getSiblingDB(\"admin\").grantRolesToUser(\"stranger\", [{role}])");
        assert!(text("remedy", check).ends_with(&granted), "{}", text("remedy", check));
    }
    assert!(text("remedy", "mongodb.heartbeats").starts_with(
        r#"db.getSiblingDB("admin").createRole({ role: "streamerHeartbeats", privileges: [{ resource: { db: "mine", collection: "streamer.heartbeats" }, actions: ["insert", "update"] }], roles: [] });"#
    ));

    // All that was said is done, and nothing more.
    let role = |name: &str, resource: Document, actions: &[&str]| {
        doc! { "createRole": name, "privileges": [{ "resource": resource, "actions": actions }], "roles": [] }
    };
    let place = doc! { "db": "mine", "collection": "streamer.heartbeats" };
    command(&root, "admin", role("streamerHeartbeats", place, &["insert", "update"])).await;
    command(&root, "admin", role("streamerImages", doc! { "cluster": true }, &["getClusterParameter"])).await;
    let roles = vec![
        doc! { "role": "read", "db": "mine" },
        doc! { "role": "clusterMonitor", "db": "admin" },
        doc! { "role": "streamerImages", "db": "admin" },
        doc! { "role": "streamerHeartbeats", "db": "admin" },
    ];
    command(&root, "admin", doc! { "grantRolesToUser": "stranger", "roles": roles }).await;
    let (status, found) = check(&config, &[]).await;
    assert_eq!((status, found.complaints()), (Some(0), Vec::new()));
    assert_eq!(found.one("mongodb.change-stream")["detail"], "can be read of the database mine");

    // The whole deployment takes another role, and nobody in particular needs to be somebody first.
    config.backends.0[0].database = None;
    config.backends.0[0].heartbeat_writes = false;
    let (_, found) = check(&config, &[]).await;
    assert!(found.remedy("mongodb.change-stream").ends_with(r#"[{ role: "readAnyDatabase", db: "admin" }])"#));
    config.backends.0[0].uri = server.uri();
    let (_, found) = check(&config, &[]).await;
    assert!(found.remedy("mongodb.change-stream").contains("createUser"), "{:#}", found.0);
    config.backends.0[0].uri = server.uri().replace("mongodb://", "mongodb://stranger:wr0ng@");
    let output = run(&config, &[]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("mongodb.reachable") && !said.contains("wr0ng"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_endpoint_that_is_away_is_named_and_the_rest_is_looked_at() {
    let (folder, etcd) = (tempfile::tempdir().unwrap(), OneEtcd::start().await);
    let mut config = config(&format!("mongodb://{}/?replicaSet=rs0", free_address()), "app", &folder);
    let dead = format!("http://{}", free_address());
    config.store.kind = StoreKind::Etcd;
    config.store.endpoints = vec![dead.clone(), etcd.url()];
    config.store.prefix = format!("/{}", unique_prefix());
    let (status, found) = check(&config, &[]).await;
    assert_eq!(status, Some(1));
    let endpoints: Vec<_> = found.of("etcd.reachable").iter().map(|one| (&one["target"], &one["result"])).collect();
    assert_eq!(endpoints, [(&json!(dead), &json!("failed")), (&json!(etcd.url()), &json!("ok"))]);
    assert_eq!((found.result("etcd.write"), found.result("etcd.space")), ("ok", "ok"));
    assert_eq!(found.result("etcd.members"), "warning", "there is one");
    assert_eq!(found.result("mongodb.reachable"), "failed");

    // One that answers nothing at all takes no longer.
    etcd.stop();
    let (_, found) = check(&config, &[]).await;
    assert!(found.of("etcd.reachable").iter().all(|one| one["result"] == "failed"));
    assert_eq!(found.of("etcd.write").len(), 0);
    etcd.cont();

    // Whether anybody compacts shows after a while.
    let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
    eventually("etcd is awake", async || client.status().await.ok()).await;
    let (_, found) = check(&config, &[]).await;
    assert_eq!(found.result("etcd.compaction"), "skipped");
    let revision = client.put("x", "y", None).await.unwrap().header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
    let (_, found) = check(&config, &[]).await;
    assert_eq!(found.result("etcd.compaction"), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_has_no_space_left_fails_with_what_makes_space() {
    let (folder, etcd) = (tempfile::tempdir().unwrap(), OneEtcd::start().await);
    let mut config = config(&format!("mongodb://{}/?replicaSet=rs0", free_address()), "app", &folder);
    config.store.kind = StoreKind::Etcd;
    config.store.endpoints = vec![etcd.url()];
    let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
    let member = client.status().await.unwrap().header().unwrap().member_id();
    let mut options = etcd_client::AlarmOptions::new();
    options.with_member(member);
    let raised = client.alarm(etcd_client::AlarmAction::Activate, etcd_client::AlarmType::Nospace, Some(options));
    raised.await.unwrap();
    let (status, found) = check(&config, &[]).await;
    assert_eq!((status, found.result("etcd.space"), found.result("etcd.write")), (Some(1), "failed", "failed"));
    assert!(found.remedy("etcd.space").contains("etcdctl alarm disarm"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_and_addresses_in_use_are_a_running_hubs_or_anothers() {
    let data = tempfile::tempdir().unwrap();
    let mut config = config(&format!("mongodb://{}/?replicaSet=rs0", free_address()), "app", &data);
    let (http, grpc) = (config.http.listen, config.grpc.listen);
    let mut hub = Command::new(env!("CARGO_BIN_EXE_streamer"));
    hub.args(["dev", "--rate", "0", "--data"]).arg(data.path());
    hub.env("STREAMER__HTTP__LISTEN", http.to_string()).env("STREAMER__GRPC__LISTEN", grpc.to_string());
    hub.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut hub = hub.spawn().unwrap();
    let ready = format!("http://{http}/health/ready");
    eventually("the hub", async || reqwest::get(&ready).await.ok().filter(|answer| answer.status().is_success())).await;
    let (_, found) = check(&config, &[]).await;
    for check in ["store.redb", "http.listen", "grpc.listen"] {
        assert_eq!(found.result(check), "ok", "{:#}", found.0);
    }
    assert_eq!(found.one("store.redb")["detail"], "in use by a running hub");
    // The same file for a hub that is to listen elsewhere.
    config.http.listen = free_address();
    let (_, found) = check(&config, &[]).await;
    assert_eq!((found.result("store.redb"), found.result("grpc.listen")), ("warning", "failed"));
    hub.kill().await.unwrap();
    config.grpc.listen = free_address();
    let (_, found) = check(&config, &[]).await;
    assert_eq!((found.result("store.redb"), found.result("grpc.listen")), ("ok", "ok"));
    let (before, taken) = (found, TcpListener::bind(config.http.listen).await.unwrap());
    let (_, found) = check(&config, &[]).await;
    assert_eq!((before.result("http.listen"), found.result("http.listen")), ("ok", "failed"));
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_looked_at_where_it_is_needed() {
    let folder = rig::folder().unwrap();
    let program = rig::find("nats-server", None, "STREAMER_NATS").unwrap();
    let accounts = "accounts { A { users: [{user: a, password: a}], jetstream: enabled }\n B { users: [{user: b, password: b}] } }";
    let mut nats = Nats::start(&program, folder.path(), accounts).await.unwrap();
    let mut config = config(&format!("mongodb://{}/?replicaSet=rs0", free_address()), "app", &folder);
    config.nats.url = nats.url();
    let (_, found) = check(&config, &[]).await;
    assert_eq!(found.result("nats.reachable"), "skipped", "no gateway needs it");
    let (_, found) = check(&config, &["--all"]).await;
    assert_eq!(found.result("nats.reachable"), "failed", "it lets nobody in");
    assert!(found.remedy("nats.reachable").contains("nats.user"));
    config.nats.gateways = vec!["edge-*".into()];
    (config.nats.user, config.nats.password) = (Some("b".into()), Some("b".into()));
    let (_, found) = check(&config, &[]).await;
    assert_eq!((found.result("nats.reachable"), found.result("nats.jetstream")), ("ok", "failed"));
    (config.nats.user, config.nats.password) = (Some("a".into()), Some("a".into()));
    let (_, found) = check(&config, &[]).await;
    assert_eq!((found.result("nats.jetstream"), found.result("nats.stream")), ("ok", "ok"));
    let options = async_nats::ConnectOptions::with_user_and_password("a".into(), "a".into());
    let context = jetstream::new(options.connect(nats.url()).await.unwrap());
    let lossy = jetstream::stream::Config {
        name: "STREAMER".into(),
        subjects: vec!["streamer.v1.deliver.>".into()],
        retention: jetstream::stream::RetentionPolicy::WorkQueue,
        ..jetstream::stream::Config::default()
    };
    context.create_stream(lossy).await.unwrap();
    let (status, found) = check(&config, &[]).await;
    assert_eq!((status, found.result("nats.stream")), (Some(1), "failed"));
    assert_eq!(found.remedy("nats.stream"), "nats stream edit STREAMER --discard new");
    nats.kill().await.unwrap();
    let (_, found) = check(&config, &[]).await;
    assert_eq!(found.result("nats.reachable"), "failed");
    // One that has no JetStream for anybody.
    let port = free_address().port();
    let mut bare = Command::new(&program);
    bare.args(["-a", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let _bare = bare.kill_on_drop(true).spawn().unwrap();
    config.nats.url = format!("nats://127.0.0.1:{port}");
    (config.nats.user, config.nats.password) = (None, None);
    eventually("nats-server", async || async_nats::connect(&config.nats.url).await.ok()).await;
    let (_, found) = check(&config, &[]).await;
    assert_eq!((found.result("nats.reachable"), found.result("nats.jetstream")), ("ok", "failed"));
    assert!(found.remedy("nats.jetstream").starts_with("nats-server --jetstream"));
}
