//! A hub as a process: how it refuses to start, what it waits for, how it ends.

use std::path::Path;
use std::process::Output;

use bson::doc;
use reqwest::Method;
use serde_json::{Value, json};
use streamer::cmd::rig::{self, Etcd, HubPlan};
use streamer::config::{Config, StoreKind};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use super::bridge::{Bridge, free_port, port_of};
use super::consumers::{Said, Session, Transport};
use super::site::{STUCK, Site, call, document, soon, until};
use crate::source_mongo::server::Mongod;

/// Ends before it is told to; or is stuck.
async fn serve(config: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    command.args(["serve", "--config"]).arg(&file).current_dir(folder.path()).kill_on_drop(true);
    soon("the end of a hub that cannot start", command.output()).await.unwrap()
}

fn text(config: &Config) -> String {
    toml::to_string(config).unwrap()
}

/// The status and the last line that it wrote.
fn last_words(output: &Output) -> (Option<i32>, String) {
    let said = String::from_utf8_lossy(&output.stderr);
    (output.status.code(), said.lines().last().unwrap_or_default().to_owned())
}

fn local(mut config: Config, folder: &Path) -> Config {
    config.http.listen = ([127, 0, 0, 1], 0).into();
    config.grpc.listen = ([127, 0, 0, 1], 0).into();
    config.store.kind = StoreKind::Redb;
    config.store.path = folder.join("store.redb");
    config
}

#[tokio::test]
async fn what_is_wrong_in_the_configuration_is_said_in_one_line() {
    for (config, words) in [
        ("[http]\nlissten = \"127.0.0.1:7700\"\n", &["http.lissten", "unknown", "listen"][..]),
        ("[stor]\nkind = \"redb\"\n", &["stor", "unknown", "store"]),
        ("[[backends]]\nnam = \"x\"\n", &["backends[0].nam", "unknown", "name"]),
        ("[http]\nlisten = \"here\"\n", &["http.listen", "here"]),
        ("[grpc]\nlisten = \"0.0.0.0:7701\"\n", &["grpc.listen", "0.0.0.0:7701", "authentication"]),
        ("[http]\nlisten = \"192.168.1.1:7700\"\n", &["http.listen", "192.168.1.1:7700", "authentication"]),
        ("[quotas]\ngateway = \"many\"\n", &["quotas.gateway", "many"]),
        ("[store]\nkind = \"paper\"\n", &["store.kind", "paper", "redb"]),
        ("[node\n", &["line 1"]),
        ("[[backends]]\nuri = \"localhost\"\n", &["backends[0].uri", "mongodb://"]),
        ("[log]\nfilter = \"a=b=c\"\n", &["log.filter", "a=b=c"]),
    ] {
        let output = serve(config).await;
        let (status, line) = last_words(&output);
        assert_eq!(status, Some(2), "{config}: {line}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{config}: {output:?}");
        assert!(words.iter().all(|word| line.contains(word)), "{config}: {line}");
        assert!(line.contains("hub.toml"), "it says where: {line}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = local(Config::default(), folder.path());
    config.grpc.listen = taken.local_addr().unwrap();
    let (status, line) = last_words(&serve(&text(&config)).await);
    assert_eq!(status, Some(1), "{line}");
    assert!(line.contains("grpc.listen") && line.contains(&config.grpc.listen.to_string()), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_replica_set_is_refused() {
    let (server, folder) = (Mongod::start_bare(&[]).await, tempfile::tempdir().unwrap());
    let mut config = local(Config::default(), folder.path());
    for options in ["", "?replicaSet=rs0"] {
        config.backends.0[0].uri = format!("mongodb://127.0.0.1:{}/{options}", server.port());
        let (status, line) = last_words(&serve(&text(&config)).await);
        assert_eq!(status, Some(2), "{line}");
        assert!(line.contains("backend default") && line.contains("--replSet"), "{line}");
    }
}

/// `/health` once it says this of a component that fails.
async fn fails(http: &str, component: &str, words: &str) {
    until(words, async || {
        let health = reachable(http, "/health").await?;
        let report = &health.1["components"][component];
        let reason = report["reason"].as_str().unwrap_or_default();
        (health.0 == 503 && report["status"] == "failing" && reason.contains(words)).then_some(())
    })
    .await;
    let (status, _) = call(http, Method::GET, "/health/live", None).await;
    assert_eq!(status, 200, "a restart would not help");
    let (status, _) = call(http, Method::GET, "/health/ready", None).await;
    assert_eq!(status, 503);
}

async fn reachable(http: &str, path: &str) -> Option<(u16, Value)> {
    let http_client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http_client.get(format!("{http}{path}")).send().await.ok()?;
    Some((answer.status().as_u16(), answer.json().await.ok()?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_does_not_answer_is_waited_for() {
    let (site, port) = (Site::new().await, free_port().await);
    let mut config = site.config();
    config.backends.0[0].uri = format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0&serverSelectionTimeoutMS=500");
    let plan = HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), site.folder.path(), config).unwrap();
    let mut hub = plan.start(None).unwrap();
    fails(&plan.http_url(), "partition default/0", &port.to_string()).await;
    let asked = json!({ "subscriptionId": "s", "gatewayId": "g", "tenant": "t", "collection": "c" });
    let _bridge = Bridge::open(port, port_of(&site.mongodb.address)).await;
    hub.ready().await.unwrap();
    let (status, made) = call(&plan.http_url(), Method::POST, "/v1/subscriptions", Some(&asked)).await;
    assert_eq!(status, 201, "{made}");
    assert!(hub.terminate().await.unwrap().success());
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_does_not_answer_is_waited_for() {
    let (site, port) = (Site::new().await, free_port().await);
    let mut config = site.config();
    config.store.kind = StoreKind::Etcd;
    config.store.endpoints = vec![format!("http://127.0.0.1:{port}")];
    let plan = HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), site.folder.path(), config).unwrap();
    let mut hub = plan.start(None).unwrap();
    fails(&plan.http_url(), "partition default/0", "").await;
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&rig::find("etcd", None, "STREAMER_ETCD").unwrap(), folder.path()).await.unwrap();
    let _bridge = Bridge::open(port, port_of(&etcd.url())).await;
    hub.ready().await.unwrap();
    assert!(hub.terminate().await.unwrap().success());
    site.remove().await;
}

/// Quotas change while the hub runs; a configuration that cannot be changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_takes_new_quotas_when_it_is_told_to_read_its_configuration_again() {
    let site = Site::new().await;
    let mut config = site.config();
    config.quotas.gateway = 1;
    let plan = HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), site.folder.path(), config.clone()).unwrap();
    let mut hub = plan.start(None).unwrap();
    hub.ready().await.unwrap();
    let register = async |id: &str| {
        let asked = json!({ "subscriptionId": id, "gatewayId": "g", "tenant": "t", "collection": "c" });
        call(&plan.http_url(), Method::POST, "/v1/subscriptions", Some(&asked)).await.0
    };
    assert_eq!((register("a").await, register("b").await), (201, 429));
    config.quotas.gateway = 2;
    plan.configure(config.clone()).unwrap();
    hub.reload().await.unwrap();
    until("the new quota", async || (register("b").await == 201).then_some(())).await;
    assert_eq!(register("c").await, 429);
    // Neither nonsense nor less than there is does any harm.
    std::fs::write(site.folder.path().join("hub.toml"), "quotas = 7").unwrap();
    hub.reload().await.unwrap();
    until("a word on it", async || std::fs::read_to_string(plan.log()).unwrap().contains("is not taken").then_some(()))
        .await;
    assert_eq!((register("a").await, register("c").await), (200, 429));
    config.quotas.gateway = 1;
    plan.configure(config).unwrap();
    hub.reload().await.unwrap();
    until("a word on it", async || {
        (std::fs::read_to_string(plan.log()).unwrap().matches("read again").count() == 2).then_some(())
    })
    .await;
    assert_eq!((register("a").await, register("b").await), (200, 200));
    assert!(hub.terminate().await.unwrap().success());
    site.remove().await;
}

/// A backend comes and goes while the process runs; sessions are told and lose nothing, and a configuration that cannot
/// serve is left again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_takes_another_backend_when_it_is_told_to_read_its_configuration_again() {
    let (site, second) = (Site::new().await, Site::new().await);
    let mut one = site.config();
    one.backends.0[0].name = "one".into();
    one.backends.0[0].tenants = vec!["acme".into()];
    let mut both = one.clone();
    let mut other = one.backends.0[0].clone();
    (other.name, other.database, other.tenants) = ("two".into(), Some(second.database.clone()), Vec::new());
    both.backends.0.push(other);
    let plan = HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), site.folder.path(), one.clone()).unwrap();
    let mut hub = plan.start(None).unwrap();
    hub.ready().await.unwrap();
    let register = async |tenant: &str| {
        let asked = json!({"subscriptionId": tenant, "gatewayId": "gw", "tenant": tenant, "collection": "messages"});
        call(&plan.http_url(), Method::POST, "/v1/subscriptions", Some(&asked)).await.0
    };
    let partitions = async || {
        until("its partitions", async || {
            let listed = reqwest::Client::builder().no_proxy().build().unwrap();
            let answer = listed.get(format!("{}/v1/partitions", plan.http_url())).send().await.ok()?;
            let listed: Value = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
            let listed = listed["partitions"].as_array()?;
            Some(listed.iter().map(|it| it["partition"].as_str().unwrap().to_owned()).collect::<Vec<_>>())
        })
        .await
    };
    let insert = async |site: &Site, tenant: &str, key: &str| {
        site.documents().insert_one(document(tenant, "messages", key, doc! {})).await.unwrap();
    };
    let closed = async |mut session: Session| loop {
        match soon("the end of its session", session.next()).await {
            Some(Said::Closed(reason)) => return reason,
            Some(_) => {}
            None => return "without a word".to_owned(),
        }
    };
    let mut cursor = None;
    let mut expected = async |keys: &[&str]| {
        let url = (plan.http_url(), plan.grpc_url());
        let mut session =
            until("a session", async || Session::try_open(Transport::Sse, &url.0, &url.1, "gw", cursor.clone()).await)
                .await;
        let mut found = Vec::new();
        while found.len() < keys.len() {
            if let Some(Said::Change(change)) = soon("its changes", session.next()).await {
                cursor = Some(change.cursor);
                found.push(change.key);
            }
        }
        found.sort();
        assert_eq!(found, keys);
        session
    };
    assert_eq!(register("acme").await, 201);
    insert(&site, "acme", "a1").await;
    let session = expected(&["a1"]).await;

    plan.configure(both.clone()).unwrap();
    hub.reload().await.unwrap();
    assert_eq!(closed(session).await, "draining");
    insert(&site, "acme", "a2").await;
    hub.ready().await.unwrap();
    assert_eq!(partitions().await, ["one/0", "two/0"]);
    assert_eq!(register("globex").await, 201);
    insert(&second, "globex", "g1").await;
    let session = expected(&["a2", "g1"]).await;

    // It can be read, but nothing can be served with it.
    let mut hopeless = both.clone();
    hopeless.store.path = "/dev/null/store.redb".into();
    plan.configure(hopeless).unwrap();
    hub.reload().await.unwrap();
    assert_eq!(closed(session).await, "draining");
    until("a word on it", async || std::fs::read_to_string(plan.log()).unwrap().contains("goes back").then_some(()))
        .await;
    hub.ready().await.unwrap();
    insert(&second, "globex", "g2").await;
    let session = expected(&["g2"]).await;

    plan.configure(one).unwrap();
    hub.reload().await.unwrap();
    assert_eq!(closed(session).await, "draining");
    hub.ready().await.unwrap();
    assert_eq!(partitions().await, ["one/0"]);
    insert(&site, "acme", "a3").await;
    expected(&["a3"]).await;
    assert!(hub.terminate().await.unwrap().success());
    site.remove().await;
    second.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_still_waits_can_be_told_to_end() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port().await);
    let mut config = local(Config::default(), folder.path());
    config.backends.0[0].uri = format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0");
    let plan = HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), folder.path(), config).unwrap();
    let mut hub = plan.start(None).unwrap();
    until("an address that answers", async || reachable(&plan.http_url(), "/health").await).await;
    assert!(hub.terminate().await.unwrap().success());
}

async fn register(http: &str, gateway: &str) {
    let asked = json!({
        "subscriptionId": "all", "gatewayId": gateway, "tenant": "acme", "collection": "messages",
    });
    let (status, made) = call(http, Method::POST, "/v1/subscriptions", Some(&asked)).await;
    assert_eq!(status, 201, "{made}");
}

/// Everything to the session's end: keys of changes, and why it ended.
async fn rest(mut session: Session) -> (Vec<String>, Option<String>) {
    let mut keys = Vec::new();
    while let Some(said) = session.next().await {
        match said {
            Said::Change(change) => {
                session.try_ack(&change.cursor).await;
                keys.push(change.key);
            }
            Said::Closed(reason) => {
                assert!(session.next().await.is_none());
                return (keys, Some(reason));
            }
            _ => {}
        }
    }
    (keys, None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains() {
    let site = Site::new().await;
    let mut config = site.config();
    config.shutdown.grace_seconds = 8;
    let plan = HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), site.folder.path(), config).unwrap();
    let mut hub = plan.start(None).unwrap();
    hub.ready().await.unwrap();
    let mut sessions = Vec::new();
    let mut gateways = Vec::new();
    for (number, transport) in [Transport::Sse, Transport::GrpcJson, Transport::GrpcBson].into_iter().enumerate() {
        let gateway = format!("gw-{number}");
        register(&plan.http_url(), &gateway).await;
        let mut session = Session::open(transport, &plan.http_url(), &plan.grpc_url(), &gateway, None).await;
        gateways.push((gateway, transport));
        let documents = (0..50).map(|n| document("acme", "messages", &format!("{number}-{n:02}"), doc! { "n": n }));
        site.documents().insert_many(documents).await.unwrap();
        let seen = site.all(&mut session).await;
        session.ack(&seen.last().unwrap().cursor).await;
        sessions.push(session);
    }
    // A gateway that takes nothing and a caller that says nothing hold nobody up.
    register(&plan.http_url(), "stuck").await;
    let _stuck = Session::open(Transport::Sse, &plan.http_url(), &plan.grpc_url(), "stuck", None).await;
    let _silent = TcpStream::connect(plan.http_url().trim_start_matches("http://")).await.unwrap();
    let mut ends = JoinSet::new();
    for session in sessions {
        ends.spawn(rest(session));
    }
    let ended = tokio::time::timeout(STUCK, hub.terminate()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", std::fs::read_to_string(plan.log()).unwrap());
    for (_, reason) in ends.join_all().await {
        assert_eq!(reason.as_deref(), Some("draining"));
    }
    let log = std::fs::read_to_string(plan.log()).unwrap();
    assert!(log.contains("draining") && log.contains("drained"), "{log}");
    // The driver's own tasks may panic once the runtime is gone, when all is done.
    assert!(!log.contains("panicked"), "{log}");

    // What was acked is durable: it does not come again.
    let mut hub = plan.start(None).unwrap();
    hub.ready().await.unwrap();
    let after = document("acme", "messages", "after", doc! {});
    site.documents().insert_one(after).await.unwrap();
    for (number, (gateway, transport)) in gateways.into_iter().enumerate() {
        let mut session = Session::open(transport, &plan.http_url(), &plan.grpc_url(), &gateway, None).await;
        let keys: Vec<_> = site.all(&mut session).await.into_iter().map(|change| change.key).collect();
        assert_eq!(keys.last().map(String::as_str), Some("after"));
        let again = keys.iter().filter(|key| key.starts_with(&format!("{number}-"))).count();
        assert_eq!(again, 0, "{gateway}: {keys:?}");
    }
    assert!(hub.terminate().await.unwrap().success());
    site.remove().await;
}

/// Whoever is told twice still ends in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_changes_nothing() {
    let site = Site::new().await;
    let plan = HubPlan::of(env!("CARGO_BIN_EXE_streamer").into(), site.folder.path(), site.config()).unwrap();
    let mut hub = plan.start(None).unwrap();
    hub.ready().await.unwrap();
    register(&plan.http_url(), "gw").await;
    let session = Session::open(Transport::GrpcBson, &plan.http_url(), &plan.grpc_url(), "gw", None).await;
    let pid = hub.pid().0.to_string();
    let tell: Child = Command::new("kill").args(["-TERM", &pid]).spawn().unwrap();
    let told = tell.wait_with_output().await.unwrap();
    assert!(told.status.success());
    // It may be gone already; then there is nobody to tell.
    let _ = hub.terminate().await.map(|status| assert!(status.success()));
    assert_eq!(rest(session).await.1.as_deref(), Some("draining"));
    site.remove().await;
}
