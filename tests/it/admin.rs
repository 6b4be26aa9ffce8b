//! `streamer admin export` and `import` between hubs with a store of their own each.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::{Value, json};
use streamer::clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::support::{eventually, in_time};

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A hub on its embedded log.
struct Hub {
    _child: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Hub {
    async fn start() -> Self {
        Self::at(free_address()).await
    }

    async fn at(http: SocketAddr) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
        command.args(["dev", "--rate", "0", "--data"]).arg(data.path());
        command.env("STREAMER__HTTP__LISTEN", http.to_string());
        command.env("STREAMER__GRPC__LISTEN", free_address().to_string());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let hub = Self { _child: child, url: format!("http://{http}"), _data: data };
        let ready = format!("{}/health/ready", hub.url);
        eventually("the hub", async || reqwest::get(&ready).await.ok().filter(|answer| answer.status().is_success()))
            .await;
        hub
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let request = reqwest::Client::new().request(method, format!("{}{path}", self.url)).json(&body);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        let bytes = answer.bytes().await.unwrap();
        if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() }
    }

    async fn export(&self, arguments: &[&str]) -> String {
        let output = admin(&[&["export", "--url", &self.url], arguments].concat(), "", &[]).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn import(&self, arguments: &[&str], lines: &str) -> (Option<i32>, Value) {
        let arguments = [&["import", "--url", &self.url, "-o", "json"], arguments].concat();
        report(&admin(&arguments, lines, &[]).await)
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn report(output: &Output) -> (Option<i32>, Value) {
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {}", stderr(output))))
}

async fn admin(arguments: &[&str], input: &str, env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    command.arg("admin").args(arguments).envs(env.iter().copied()).kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let feeding = async move {
        // One that has no use for it may have ended.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let (output, ()) = in_time("the end", async { tokio::join!(child.wait_with_output(), feeding) }).await;
    output.unwrap()
}

/// Counts of a report.
fn counts(report: &Value) -> [u64; 3] {
    [
        report["created"].as_u64().unwrap(),
        report["unchanged"].as_u64().unwrap(),
        report["refused"].as_array().unwrap().len() as u64,
    ]
}

/// Of every kind; more than a page, and more than a batch.
fn subscriptions() -> Vec<Value> {
    let exact = json!([
        {"field": "a.0", "op": "==", "value": {"$date": "2026-11-21T10:00:00.123Z"}},
        {"field": "b", "op": "in", "value": [9_007_199_254_740_993_i64, 1.5, -0.0, "x", null, {"$numberDecimal": "1.10"}]},
        {"field": "c", "op": "!=", "value": {"$binary": {"base64": "AAE=", "subType": "00"}}},
        {"field": "d", "op": "exists", "value": false},
    ]);
    let mut all = vec![
        json!({"subscriptionId": "exact", "gatewayId": "gw-1", "tenant": "acme", "collection": "c", "filters": exact}),
        json!({
            "subscriptionId": "rich", "gatewayId": "gw-1", "tenant": "acme", "collection": "c",
            "cel": "doc.a == \"ü\" && has(doc.b)", "interval": {"field": "at", "start": 1, "stop": 2.5},
            "operations": ["insert", "delete"], "transitions": true, "fields": ["a", "b.c"], "ttlSeconds": 3600,
        }),
        json!({"subscriptionId": "grouped", "group": "workers", "tenant": "acme", "collection": "c"}),
        json!({"subscriptionId": "by-nats", "gatewayId": "gw-2", "tenant": "other", "collection": "c"}),
    ];
    let many = |n| json!({"subscriptionId": format!("n-{n}"), "gatewayId": "gw-3", "tenant": "t", "collection": "c"});
    all.extend((0..2_100).map(many));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_and_imported_is_exported_again_alike() {
    let (first, second) = tokio::join!(Hub::start(), Hub::start());
    let all = subscriptions();
    let answer = first.call(Method::POST, "/v1/subscriptions/batch", json!({ "subscriptions": all })).await;
    assert!(answer["results"].as_array().unwrap().iter().all(|result| result["status"] == 201), "{answer}");
    first.call(Method::PUT, "/v1/gateways/gw-2", json!({"delivery": "nats"})).await;
    first.call(Method::POST, "/v1/gateways/gw-1/park", Value::Null).await;

    let exported = first.export(&[]).await;
    let lines: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), all.len());
    let line = |id: &str| lines.iter().find(|line| line["subscription"]["subscriptionId"] == id).unwrap();
    assert_eq!(line("by-nats")["delivery"], "nats");
    assert_eq!((&line("exact")["delivery"], &line("grouped")["delivery"]), (&json!("stream"), &Value::Null));
    let members: Vec<_> = line("grouped")["subscription"].as_object().unwrap().keys().cloned().collect();
    let expected =
        ["subscriptionId", "group", "tenant", "collection", "filters", "operations", "transitions", "ttlSeconds"];
    assert_eq!(members, expected);

    // First only in thought.
    let (status, would) = second.import(&["--dry-run"], &exported).await;
    assert_eq!((status, counts(&would)), (Some(0), [2_104, 0, 0]));
    assert_eq!((&would["dryRun"], &would["deliveriesChanged"]), (&json!(true), &json!(1)));
    assert_eq!(second.export(&[]).await, "");
    let (status, report) = second.import(&[], &exported).await;
    assert_eq!((status, counts(&report), &report["deliveriesChanged"]), (Some(0), [2_104, 0, 0], &json!(1)));
    assert_eq!(second.export(&[]).await, exported);
    for arguments in [&[][..], &["--dry-run"]] {
        let (status, again) = second.import(arguments, &exported).await;
        assert_eq!((status, counts(&again), &again["deliveriesChanged"]), (Some(0), [0, 2_104, 0], &json!(0)));
    }

    // Parts of it, into a file.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("part.jsonl");
    let written = async |arguments: &[&str]| {
        let output = ["--output", file.to_str().unwrap()];
        assert_eq!(first.export(&[&output, arguments].concat()).await, "");
        std::fs::read_to_string(&file).unwrap().lines().count()
    };
    assert_eq!(written(&["--tenant", "acme"]).await, 3);
    assert_eq!(written(&["--gateway", "gw-1"]).await, 2);
    assert_eq!(written(&["--group", "workers"]).await, 1);
    let output = admin(&["import", "--url", &second.url, "--input", file.to_str().unwrap()], "", &[]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0 created, 1 unchanged, 0 refused\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_is_named_and_the_rest_is_imported() {
    let hub = Hub::start().await;
    let good = |id: &str| json!({"subscriptionId": id, "gatewayId": "gw", "tenant": "t", "collection": "c"});
    let mut bad = good("bad");
    bad["filters"] = json!([{"field": "a", "op": "~", "value": 1}]);
    let mut other = good("one");
    other["cel"] = json!("doc.a == 1");
    let of_nats = |id: &str| json!({"subscription": good(id), "delivery": "nats"});
    let lines = format!(
        "{}\n\nnonsense\n{}\n{}\n{}\n{}\n{}",
        good("one"),
        bad,
        other,
        of_nats("two"),
        json!({"subscription": good("three"), "delivery": "stream"}),
        good("four"),
    );
    for arguments in [&["--dry-run"][..], &[]] {
        let (status, report) = hub.import(arguments, &lines).await;
        assert_eq!((status, counts(&report)), (Some(1), [3, 0, 4]), "{report:#}");
        let told = report["refused"].as_array().unwrap().iter();
        let told: Vec<_> = told.map(|one| (one["line"].as_u64().unwrap(), one["code"].as_str().unwrap())).collect();
        let expected =
            [(3, "INVALID_REQUEST"), (4, "INVALID_FILTER"), (5, "SUBSCRIPTION_EXISTS"), (7, "INVALID_REQUEST")];
        assert_eq!(told, expected, "{report:#}");
        assert_eq!(report["refused"][1]["field"], "filters[0].op");
        assert_eq!(report["refused"][1]["subscriptionId"], "bad");
    }
    assert_eq!(hub.export(&[]).await.lines().count(), 3);
    let output = admin(&["import", "--url", &hub.url], &lines, &[]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with("line 3: INVALID_REQUEST: ") && text.contains("\nline 4: gw/bad: INVALID_FILTER: "),
        "{text}"
    );
    assert!(text.ends_with("0 created, 3 unchanged, 4 refused\n"), "{text}");
    assert_eq!(stderr(&output), "streamer: 4 refused\n");

    // Where it begins is the hub's to judge.
    let (status, report) = hub.import(&["--start-at", "no-cursor"], &good("five").to_string()).await;
    assert_eq!((status, &report["refused"][0]["code"]), (Some(1), &json!("INVALID_CURSOR")));
    let (status, report) = hub.import(&["--start-at", "2000-01-01T00:00:00Z"], &good("five").to_string()).await;
    assert_eq!((status, &report["refused"][0]["code"]), (Some(1), &json!("START_TOO_OLD")));
    let later = (Clock::system().wall() + chrono::TimeDelta::hours(1)).to_rfc3339();
    let (status, report) = hub.import(&["--start-at", &later], &good("five").to_string()).await;
    assert_eq!((status, counts(&report)), (Some(0), [1, 0, 0]), "{report:#}");
    let output = admin(&["import", "--url", "nonsense"], "", &[]).await;
    assert_eq!(output.status.code(), Some(2));
    let output = admin(&["import", "--url", &hub.url, "--input", "/nowhere/at/all"], "", &[]).await;
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_away_is_waited_for() {
    let address = free_address();
    let url = format!("http://{address}");
    let line = json!({"subscriptionId": "s", "gatewayId": "gw", "tenant": "t", "collection": "c"}).to_string();
    let output = admin(&["import", "--url", &url, "--retry-seconds", "0"], &line, &[]).await;
    assert!(output.status.code() == Some(1) && stderr(&output).contains("cannot be reached"), "{}", stderr(&output));
    let arguments = ["import", "--url", &url, "--retry-seconds", "100", "-o", "json"];
    let (output, _hub) = tokio::join!(admin(&arguments, &line, &[]), async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        Hub::at(address).await
    });
    assert_eq!(counts(&report(&output).1), [1, 0, 0]);
}

/// Answers one request after the other with these, and keeps what was asked.
async fn stub(answers: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut request, mut buffer) = (String::new(), [0; 4096]);
            loop {
                let read = stream.read(&mut buffer).await.unwrap();
                request.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
                let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
                let length =
                    head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(0_usize) {
                    break;
                }
            }
            heard.lock().unwrap().push(request);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, asked, serving)
}

fn http(status: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_asked_for_again_and_what_does_not_is_not() {
    let problem = |status: u16, code: &str| json!({"status": status, "code": code, "detail": "so it is"});
    let results = |statuses: &[(u16, &str)]| {
        let one = |(status, code): &(u16, &str)| match status {
            200..300 => json!({"status": status, "subscription": {}}),
            _ => json!({"status": status, "problem": problem(*status, code)}),
        };
        http("200 OK", "", &json!({"results": statuses.iter().map(one).collect::<Vec<_>>()}))
    };
    let (url, asked, _serving) = stub(vec![
        http("503 Service Unavailable", "retry-after: 2\r\n", &problem(503, "OWNER_UNKNOWN")),
        results(&[(201, ""), (429, "RATE_LIMITED"), (429, "TENANT_QUOTA_EXCEEDED")]),
        results(&[(200, "")]),
    ])
    .await;
    let line = |id: &str| json!({"subscriptionId": id, "gatewayId": "gw", "tenant": "t", "collection": "c"});
    let lines = format!("{}\n{}\n{}\n", line("a"), line("b"), line("c"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "from-file\n").unwrap();
    let began = tokio::time::Instant::now();
    let arguments = ["import", "--url", &url, "-o", "json", "--token-file", file.to_str().unwrap()];
    let (status, report) = report(&admin(&arguments, &lines, &[("STREAMER_TOKEN", "from-env")]).await);
    assert!(began.elapsed().as_secs() >= 3, "as long as the hub asked for, and a pause");
    assert_eq!((status, counts(&report)), (Some(1), [1, 1, 1]));
    assert_eq!(
        (&report["refused"][0]["line"], &report["refused"][0]["code"]),
        (&json!(3), &json!("TENANT_QUOTA_EXCEEDED"))
    );
    let asked = asked.lock().unwrap().clone();
    assert!(asked.iter().all(|request| request.contains("authorization: Bearer from-file")), "{asked:?}");
    assert!(asked[2].ends_with(&format!("{{\"subscriptions\":[{}]}}", line("b"))), "{}", asked[2]);

    let (url, asked, _serving) = stub(vec![http("401 Unauthorized", "", &problem(401, "UNAUTHENTICATED"))]).await;
    let output = admin(&["export", "--url", &url], "", &[("STREAMER_TOKEN", "from-env")]).await;
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(1), "streamer: the hub refuses: UNAUTHENTICATED: so it is\n".into())
    );
    assert!(asked.lock().unwrap()[0].contains("authorization: Bearer from-env"));
}
