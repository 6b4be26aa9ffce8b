//! Hubs that ask who calls, over encrypted connections.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use bson::doc;
use futures::StreamExt;
use serde_json::json;
use streamer::client::{
    Client, ClientConfig, Credentials, Error, Item, Registration, RegistrationError, State, Subscription,
};
use streamer::clock::Clock;
use streamer::config::Config;
use tokio::process::Command;

use super::cluster::{nodes, shared};
use super::nats::certificates;
use super::site::{Running, Site, document, soon, until};

fn streamer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// A token made as an operator makes it.
async fn token(file: &Path, arguments: &[&str]) -> String {
    let made = streamer().args(["token", "--file"]).arg(file).args(arguments).output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

fn secure(url: &str) -> String {
    url.replace("http://", "https://")
}

struct Keys {
    tokens: PathBuf,
    ca: PathBuf,
    node: String,
    edge: String,
    operator: String,
}

async fn keys(folder: &Path, config: &mut Config) -> Keys {
    let tokens = folder.join("tokens.toml");
    let node = token(&tokens, &["--name", "nodes", "--role", "node"]).await;
    let of_edge = ["--name", "edge", "--role", "gateway", "--gateways", "gw*", "--tenants", "acme"];
    let edge = token(&tokens, &of_edge).await;
    let operator = token(&tokens, &["--name", "ops", "--role", "operator"]).await;
    let [ca, certificate, key, ..] = certificates(folder);
    config.auth.tokens = Some(tokens.clone());
    config.auth.node_token = Some(node.clone());
    (config.tls.certificate, config.tls.key, config.tls.ca) = (Some(certificate), Some(key), Some(ca.clone()));
    Keys { tokens, ca, node, edge, operator }
}

fn credentials(token: &str, ca: &Path) -> Credentials {
    Credentials { token: Some(token.into()), ca: Some(ca.into()) }
}

fn consumer(hub: &Running, gateway: &str, credentials: Credentials) -> Client {
    let config = ClientConfig { credentials, ..ClientConfig::new(secure(&hub.grpc_url()), gateway) };
    Client::connect(config, State::default()).unwrap()
}

/// Why a client ends for good.
async fn end(client: &mut Client) -> String {
    let ending = async {
        loop {
            match client.next().await {
                Some(Ok(_)) => {}
                Some(Err(Error::Refused(rejection))) => return rejection.code,
                other => panic!("{other:?}"),
            }
        }
    };
    soon("the client's end", ending).await
}

async fn key(client: &mut Client) -> String {
    let taking = async {
        loop {
            if let Item::Change(change) = client.next().await.unwrap().unwrap() {
                return change.key.clone();
            }
        }
    };
    soon("a change", taking).await
}

fn all(gateway: &str, tenant: &str) -> Subscription {
    Subscription::new(gateway, "all", tenant, "messages")
}

fn code(refused: Result<impl Sized, RegistrationError>) -> String {
    match refused.map(drop).unwrap_err() {
        RegistrationError::Refused(rejection) => rejection.code,
        other => other.to_string(),
    }
}

async fn insert(site: &Site, key: &str) {
    site.documents().insert_one(document("acme", "messages", key, doc! {})).await.unwrap();
}

/// What a gateway asks of one node comes from another: each of the three says who it is, and nobody listens in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_gateways_say_who_they_are_over_encrypted_connections() {
    let site = Site::new().await;
    let (_etcd, mut config) = shared(&site).await;
    let keys = keys(site.folder.path(), &mut config).await;
    let names = nodes();
    let at = |place: usize| {
        let mut config = config.clone();
        config.node.id = names[place].to_string();
        config
    };
    let owner = Running::start(&at(0), Clock::system()).await;
    let edge = Running::start(&at(1), Clock::system()).await;
    let of_edge = credentials(&keys.edge, &keys.ca);
    let calls = Registration::with(secure(&edge.http_url()), &of_edge).unwrap();
    until("a registration", async || calls.register(&all("gw", "acme")).await.ok()).await;
    assert_eq!(code(calls.register(&all("gw", "globex")).await), "FORBIDDEN");
    assert_eq!(code(calls.register(&all("other", "acme")).await), "FORBIDDEN");
    let nobody = Credentials { ca: Some(keys.ca.clone()), token: None };
    let strangers = Registration::with(secure(&edge.http_url()), &nobody).unwrap();
    assert_eq!(code(strangers.register(&all("gw", "acme")).await), "UNAUTHENTICATED");
    // Who does not trust the certificate does not call, and nothing is said in clear.
    let wary = Registration::with(secure(&edge.http_url()), &Credentials { ca: None, ..of_edge.clone() }).unwrap();
    assert!(code(wary.register(&all("gw", "acme")).await).contains("cannot be reached"));
    let in_clear = Registration::with(edge.http_url(), &of_edge).unwrap();
    assert!(code(in_clear.register(&all("gw", "acme")).await).contains("cannot be reached"));

    let mut client = consumer(&edge, "gw", of_edge.clone());
    insert(&site, "a").await;
    assert_eq!(key(&mut client).await, "a");
    assert_eq!(end(&mut consumer(&edge, "gw", nobody.clone())).await, "UNAUTHENTICATED");
    assert_eq!(end(&mut consumer(&edge, "other", of_edge.clone())).await, "FORBIDDEN");
    // Node tokens are for nodes.
    assert_eq!(end(&mut consumer(&edge, "gw", credentials(&keys.node, &keys.ca))).await, "FORBIDDEN");

    let operator = Registration::with(secure(&edge.http_url()), &credentials(&keys.operator, &keys.ca)).unwrap();
    let explained = json!({"tenant": "acme", "collection": "messages", "document": {}});
    assert_eq!(operator.explain(&explained).await.unwrap()["matches"][0]["gatewayId"], "gw");
    assert_eq!(code(calls.explain(&explained).await), "FORBIDDEN");

    // Taken back, it ends what it has opened, here and in time.
    let text = std::fs::read_to_string(&keys.tokens).unwrap();
    let without: Vec<_> = text.split("[[tokens]]").filter(|one| !one.contains("\"edge\"")).collect();
    std::fs::write(&keys.tokens, without.join("[[tokens]]")).unwrap();
    assert_eq!(end(&mut client).await, "UNAUTHENTICATED");
    edge.drain().await;
    owner.drain().await;

    // A node that does not say that it is one is told nothing by the owner.
    let owner = Running::start(&at(0), Clock::system()).await;
    let mut pretender = at(1);
    pretender.auth.node_token = Some(keys.operator.clone());
    let edge = Running::start(&pretender, Clock::system()).await;
    let operator = Registration::with(secure(&edge.http_url()), &credentials(&keys.operator, &keys.ca)).unwrap();
    assert_eq!(code(operator.register(&all("gw", "acme")).await), "OWNER_UNKNOWN");
    edge.drain().await;
    owner.drain().await;
    site.remove().await;
}

/// A certificate is renewed by writing its files; connections that stand are not touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_taken_while_the_hub_runs() {
    let site = Site::new().await;
    let mut config = site.config();
    let keys = keys(site.folder.path(), &mut config).await;
    let hub = Running::start(&config, Clock::system()).await;
    let before = credentials(&keys.operator, &keys.ca);
    let calls = async |credentials: &Credentials| {
        // Each time a new connection.
        let calls = Registration::with(secure(&hub.http_url()), credentials).unwrap();
        calls.register(&all("gw", "acme")).await.is_ok()
    };
    assert!(calls(&before).await);
    let mut client = consumer(&hub, "gw", before.clone());
    insert(&site, "a").await;
    assert_eq!(key(&mut client).await, "a");

    let elsewhere = tempfile::tempdir().unwrap();
    let [ca, certificate, private, ..] = certificates(elsewhere.path());
    let after = credentials(&keys.operator, &ca);
    // A certificate with another's key is not taken.
    std::fs::copy(&certificate, config.tls.certificate.as_ref().unwrap()).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert!(calls(&before).await && !calls(&after).await);
    std::fs::copy(&private, config.tls.key.as_ref().unwrap()).unwrap();
    until("the new certificate", async || calls(&after).await.then_some(())).await;
    assert!(!calls(&before).await);
    insert(&site, "b").await;
    assert_eq!(key(&mut client).await, "b");
    hub.drain().await;
    site.remove().await;
}

/// The commands take a token from a file or a variable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_say_who_asks() {
    let site = Site::new().await;
    let mut config = site.config();
    let keys = keys(site.folder.path(), &mut config).await;
    let hub = Running::start(&config, Clock::system()).await;
    let file = site.folder.path().join("operator.token");
    std::fs::write(&file, format!("{}\n", keys.operator)).unwrap();
    let tail = |transport: &str| {
        let mut command = streamer();
        command.args(["tail", "--http", &secure(&hub.http_url()), "--grpc", &secure(&hub.grpc_url())]);
        command.args(["--tenant", "acme", "--collection", "messages", "--count", "1", "-o", "json"]);
        command.args(["--transport", transport, "--ca"]).arg(&keys.ca);
        command
    };
    for transport in ["grpc", "sse"] {
        let mut command = tail(transport);
        let tailing = command.arg("--token-file").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
        let running = tailing.wait_with_output();
        let writing = async {
            loop {
                insert(&site, &format!("{:x}", rand::random::<u64>())).await;
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        };
        let printed = tokio::select! {
            printed = soon("a change", running) => printed.unwrap(),
            () = writing => unreachable!(),
        };
        assert!(printed.status.success(), "{printed:?}");
    }
    let refused = tail("grpc").env("STREAMER_TOKEN", "wrong").output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("UNAUTHENTICATED") && !refused.status.success(), "{said}");
    let missing = tail("grpc").args(["--token-file", "/nowhere/token"]).output().await.unwrap();
    assert_eq!(missing.status.code(), Some(2));
    // Neither the log of a hub nor its configuration as printed holds a token.
    let shown = streamer()
        .args(["check-config", "--offline"])
        .env("STREAMER__AUTH__TOKENS", &keys.tokens)
        .env("STREAMER__AUTH__NODE_TOKEN", &keys.node)
        .output()
        .await
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("node_token = \"***\"") && !shown.contains(&keys.node), "{shown}");
    hub.drain().await;
    site.remove().await;
}
