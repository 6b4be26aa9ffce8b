//! `streamer tail` against a hub on the embedded log, over both transports.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use streamer::clock::Clock;
use tokio::process::{Child, Command};

/// Only what hangs meets it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Dev {
    _child: Child,
    http: String,
    grpc: String,
    _data: tempfile::TempDir,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Dev {
    async fn start() -> Self {
        let (http, grpc) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let data = tempfile::tempdir().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_streamer"))
            .args(["dev", "--rate", "50", "--seed", "1", "--data"])
            .arg(data.path())
            .envs([("STREAMER__HTTP__LISTEN", &http), ("STREAMER__GRPC__LISTEN", &grpc)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let dev = Self { _child: child, http: format!("http://{http}"), grpc: format!("http://{grpc}"), _data: data };
        let ready = format!("{}/health/ready", dev.http);
        let is_ready = async || reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success());
        let until_ready = async {
            while !is_ready().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, until_ready).await.expect("the hub gets ready");
        dev
    }

    async fn tail(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
        command.args(["tail", "--http", &self.http, "--grpc", &self.grpc, "--collection", "messages"]);
        command.args(["--tenant", "demo"]).args(arguments).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("tail ends").unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

#[tokio::test]
async fn matches_are_printed_over_both_transports_and_the_gateway_is_gone_afterwards() {
    let dev = Dev::start().await;
    for transport in ["grpc", "sse"] {
        let wanted = ["--filter", "stars >= 3", "--count", "5", "-o", "json", "--transport", transport];
        let (status, out, said) = dev.tail(&wanted).await;
        assert_eq!(status, Some(0), "{said}");
        let changes: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(changes.len(), 5, "{out}");
        let positions: Vec<&str> = changes.iter().map(|change| change["position"].as_str().unwrap()).collect();
        assert!(positions.is_sorted(), "{positions:?}");
        for change in &changes {
            let body = if change["operation"] == "delete" { &change["before"] } else { &change["document"] };
            assert!(body["stars"].as_i64().unwrap() >= 3, "{change}");
        }
    }
    let gateways: Value = reqwest::get(format!("{}/v1/gateways", dev.http)).await.unwrap().json().await.unwrap();
    let names: Vec<&str> =
        gateways["gateways"].as_array().unwrap().iter().map(|gateway| gateway["gatewayId"].as_str().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with("tail-")), "{names:?}");
}

/// What somebody does who has written and wants to see it: with the operation time that the write was answered with.
#[tokio::test]
async fn it_ends_when_everything_up_to_a_time_has_been_printed() {
    let dev = Dev::start().await;
    for transport in ["grpc", "sse"] {
        let seconds = (Clock::system().wall().timestamp() + 2) as u64;
        let until = format!("{seconds}.1");
        let (status, out, said) =
            dev.tail(&["--until-operation-time", &until, "--transport", transport, "-o", "json"]).await;
        assert_eq!(status, Some(0), "{said}");
        let times: Vec<u64> = out
            .lines()
            .map(|line| {
                let change: Value = serde_json::from_str(line).unwrap();
                u64::from_str_radix(&change["position"].as_str().unwrap()[8..16], 16).unwrap()
            })
            .collect();
        // Fifty a second: it was not the first that ended it, and what came last was near the end.
        assert!(times.len() > 10 && times.last().is_some_and(|last| last + 1 >= seconds), "{transport} {times:?}");
    }
    let (status, _, said) = dev.tail(&["--until-operation-time", "soon"]).await;
    assert!(status == Some(2) && said.contains("1763690000.1"), "{said}");
}

#[tokio::test]
async fn people_read_a_line_a_match() {
    let dev = Dev::start().await;
    let (status, out, said) = dev.tail(&["--count", "3", "--transitions"]).await;
    assert_eq!(status, Some(0), "{said}");
    assert!(out.lines().count() == 3 && out.lines().all(|line| line.contains("  m-")), "{out}");
}

#[tokio::test]
async fn what_is_wrong_is_said_in_one_line() {
    let dev = Dev::start().await;
    let last = |said: &str| said.lines().last().unwrap_or_default().to_owned();
    let (status, _, said) = dev.tail(&["--cel", "doc."]).await;
    assert!(status == Some(2) && last(&said).starts_with("streamer: CEL_COMPILATION_FAILED"), "{said}");
    let (status, _, said) = dev.tail(&["--filter", "stars"]).await;
    assert!(status == Some(2) && said.lines().count() == 1, "{said}");
}

#[tokio::test]
async fn an_absent_hub_is_said_in_one_line() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    command.args(["tail", "--http", &nobody, "--tenant", "t", "--collection", "c"]).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("tail ends").unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("cannot be reached: Connection refused") && said.lines().count() == 1, "{said}");
}
