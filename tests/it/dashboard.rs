//! The dashboard in a browser, before a whole hub, used as an operator would; once of a hub that asks for a token.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use streamer::access::{Entry, RoleName, Token, digest};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// A page is looked at for a minute or two; what takes longer is stuck.
const STUCK: Duration = Duration::from_secs(240);

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// A hub on its embedded log, which nothing else writes to.
async fn hub(folder: &Path, tokens: Option<&Path>) -> (Child, String) {
    let (http, grpc) = (free_port().await, free_port().await);
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    command
        .args(["dev", "--rate", "0", "--data"])
        .arg(folder)
        .env("STREAMER__HTTP__LISTEN", format!("127.0.0.1:{http}"))
        .env("STREAMER__GRPC__LISTEN", format!("127.0.0.1:{grpc}"))
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if let Some(tokens) = tokens {
        command.env("STREAMER__AUTH__TOKENS", tokens).env("STREAMER__AUTH__NODE_TOKEN", "unused");
    }
    let hub = command.spawn().unwrap();
    let base = format!("http://127.0.0.1:{http}");
    let calls = reqwest::Client::builder().no_proxy().build().unwrap();
    let ready = async {
        while !calls.get(format!("{base}/health/ready")).send().await.is_ok_and(|answer| answer.status().is_success()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(STUCK, ready).await.expect("a hub that is ready");
    (hub, base)
}

async fn looks(base: &str, arguments: &[&str]) {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new(format!("{root}/scripts/python"));
    command.arg(format!("{root}/tests/operator/dashboard.py")).args(["--base", base]).args(arguments);
    let looked = tokio::time::timeout(STUCK, command.kill_on_drop(true).output()).await.expect("an end").unwrap();
    let said = String::from_utf8_lossy(&looked.stdout).into_owned() + &String::from_utf8_lossy(&looked.stderr);
    assert!(looked.status.success(), "{said}");
}

#[tokio::test]
async fn an_operator_finds_his_way_in_the_dashboard() {
    let folder = tempfile::tempdir().unwrap();
    let (_hub, base) = hub(folder.path(), None).await;
    looks(&base, &[]).await;
}

#[tokio::test]
async fn the_dashboard_asks_for_a_token_where_the_hub_does() {
    let folder = tempfile::tempdir().unwrap();
    let (token, file) = (Token::new(), folder.path().join("tokens.toml"));
    let entry = Entry {
        name: "ops".into(),
        role: RoleName::Operator,
        sha256: digest(token.reveal()),
        gateways: Vec::new(),
        groups: Vec::new(),
        tenants: Vec::new(),
        expires: None,
    };
    std::fs::write(&file, entry.to_toml().unwrap()).unwrap();
    let (_hub, base) = hub(folder.path(), Some(&file)).await;
    looks(&base, &["--token", token.reveal()]).await;
}
