//! The measurements run, and measure what they say. How fast is not a matter for tests.

use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// Only a measurement that hangs meets it.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_drain_delivers_the_whole_backlog_on_both_sides() {
    for body in ["bson", "json"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
        command.args(["bench", "drain", "--changes", "5000", "--subscriptions", "501", "--rounds", "2", "-o", "json"]);
        command.args(["--body", body]).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["changes"], report["rounds"].as_array().unwrap().len()), (&5000.into(), 2), "{report}");
        for side in ["rawRate", "hubRate", "ratio"] {
            assert!(report[side].as_f64().unwrap() > 0.0, "{side}: {report}");
        }
        // Each document's body is between half and all of its size.
        let bytes = report["rounds"][0]["hub"]["bodyBytes"].as_u64().unwrap();
        assert!((5000 * 450..5000 * 1000).contains(&bytes), "{bytes}");
    }
}

/// What `bench match` reports with these arguments; it ends well.
async fn matching(args: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    command.args(["bench", "match", "-o", "json"]).args(args).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every workload, in sizes that end soon.
#[tokio::test]
async fn matching_is_measured_on_every_workload_and_all_count_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("cost.svg");
    let sizes = ["--subscriptions", "40,400", "--programs", "10", "--changes", "300", "--seconds", "0.2"];
    let rest = ["--together", "--plot", plot.to_str().unwrap()];
    let report = matching(&[&sizes[..], &rest[..]].concat()).await;
    assert_eq!(report["disagreements"], serde_json::json!([]), "{report}");

    let rows = report["rows"].as_array().unwrap();
    let of = |workload: &str, contender: &str| {
        let rows = rows.iter().filter(|row| row["workload"] == workload && row["contender"] == contender);
        rows.collect::<Vec<_>>()
    };
    let cases = [
        ("chat", "hash look-up"),
        ("chat-nobody", "hash look-up"),
        ("intervals", "grid"),
        ("intervals-everything", "grid"),
        ("intervals-light", "grid"),
        ("intervals-churn", "grid"),
        ("mixed", "naive CEL"),
        ("cel", "naive CEL"),
    ];
    for (workload, other) in cases {
        for contender in ["engine", "bare walk", other] {
            let rows = of(workload, contender);
            assert_eq!(rows.len(), if workload == "cel" { 1 } else { 2 }, "{workload} {contender}: {report}");
            for row in rows {
                assert_eq!(row["state"], "measured", "{row}");
                assert!(row["rate"].as_f64().unwrap() > 0.0, "{row}");
                assert_eq!(row["matchesPerChange"].as_f64().unwrap() > 0.0, contender != "bare walk", "{row}");
            }
        }
        for row in of(workload, "engine") {
            for figure in ["insertRate", "removeRate", "ofWalk"] {
                assert!(row[figure].as_f64().unwrap() > 0.0, "{figure}: {row}");
            }
        }
    }
    assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg"));
}

#[tokio::test]
async fn a_process_of_its_own_tells_what_a_subscription_takes() {
    let sizes = ["--workload", "chat", "--subscriptions", "400", "--changes", "10", "--seconds", "0.01"];
    let report = matching(&[&sizes[..], &["--contender", "hash look-up"]].concat()).await;
    let rows = report["rows"].as_array().unwrap();
    let named: Vec<&str> = rows.iter().map(|row| row["contender"].as_str().unwrap()).collect();
    assert_eq!(named, ["engine", "hash look-up"]);
    for row in rows {
        let bytes = row["bytesPerSubscription"].as_f64().unwrap();
        assert!((20.0..5_000.0).contains(&bytes), "{row}");
    }
}

#[tokio::test]
async fn a_contender_that_nobody_knows_is_wrong_usage() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    let output = command.args(["bench", "match", "--contender", "magic"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("naive CEL"), "{said}");
}
