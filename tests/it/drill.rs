//! The drills themselves: they pass on a hub that keeps its promises, and fail on one that does not.
//!
//! A few of them, the quickest; `streamer drill all` has them all.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// Only a drill that hangs meets it.
const PATIENCE: Duration = Duration::from_secs(300);
/// Faults of the source, of the oplog, of the configuration and of NATS; that of the hub itself is tested apart.
const QUICK: &str = "pipeline-changed,oplog-rolled-over,undecodable,nats-revoked,nats-storage-lost";

async fn drill(arguments: &[&str]) -> (Output, Value) {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    // A failed drill leaves its logs.
    command.env("TMPDIR", temporary.path());
    command.arg("drill").args(arguments).args(["-o", "json"]).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("the drill ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report; it says: {said}"));
    (output, report)
}

#[tokio::test]
async fn nothing_is_lost_doubled_or_misordered_when_the_hub_is_killed() {
    for store in ["etcd", "redb"] {
        let (output, report) =
            drill(&["restart", "--rate", "300", "--kills", "4", "--seed", "11", "--store", store]).await;
        for count in ["lost", "duplicated", "misordered", "unexpected", "checksums", "late", "resyncs", "behind"] {
            assert_eq!(report[count], 0, "{count} with {store}: {report}");
        }
        assert!(report["expected"].as_u64().unwrap() > 1_000 && report["passed"] == true, "{report}");
        assert_eq!((&report["kills"], output.status.code()), (&Value::from(4), Some(0)));
    }
}

#[tokio::test]
async fn a_hub_that_forgets_fails_the_drill() {
    let (output, report) = drill(&["restart", "--rate", "300", "--kills", "2", "--sabotage", "--store", "redb"]).await;
    assert!(report["lost"].as_u64().unwrap() > 0 && report["passed"] == false, "{report}");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("lost") && said.lines().count() == 1, "{said}");
}

/// What became of each, and the JUnit file.
async fn all(more: &[&str]) -> (Output, Vec<Value>, String) {
    let folder = tempfile::tempdir().unwrap();
    let junit = folder.path().join("drills.xml");
    let arguments = ["all", "--rate", "300", "--only", QUICK, "--junit", path(&junit)];
    let (output, said) = drill(&[&arguments, more].concat()).await;
    let Value::Array(drills) = &said["drills"] else { panic!("{said}") };
    assert_eq!(drills.len(), QUICK.split(',').count(), "{said}");
    (output, drills.clone(), std::fs::read_to_string(&junit).unwrap())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn faults_of_all_sorts_lose_only_what_is_said_to_be_lost() {
    let (output, drills, junit) = all(&[]).await;
    for drill in &drills {
        assert_eq!((&drill["report"]["passed"], &drill["complaint"]), (&Value::Bool(true), &Value::Null), "{drill}");
    }
    // Both gateways were told once of what could not be had, and of nothing else.
    let of = |name: &str| &drills.iter().find(|drill| drill["name"] == name).unwrap()["report"];
    assert_eq!(of("pipeline-changed")["resyncs"], 0);
    assert!(of("oplog-rolled-over")["resynced"].as_u64().unwrap() > 0);
    assert!(of("undecodable")["resyncs"].as_u64().unwrap() >= 4);
    assert_eq!(output.status.code(), Some(0));
    assert!(junit.contains("failures=\"0\"") && junit.contains("name=\"undecodable\""), "{junit}");
}

#[tokio::test]
async fn each_notices_its_sabotage_by_what_it_does() {
    let (output, drills, junit) = all(&["--sabotage"]).await;
    for drill in &drills {
        assert_eq!((&drill["report"]["passed"], &drill["complaint"]), (&Value::Bool(false), &Value::Null), "{drill}");
    }
    assert_eq!(output.status.code(), Some(0));
    assert!(junit.contains("failures=\"0\""), "they failed as they must: {junit}");
}

#[tokio::test]
async fn the_drills_are_listed_and_unknown_ones_refused() {
    let (_, list) = drill(&["list"]).await;
    let drills = list["drills"].as_array().unwrap();
    assert!(drills.iter().any(|drill| drill["name"] == "restart" && drill["aboutSeconds"].as_u64() > Some(0)));
    assert!(drills.iter().any(|drill| drill["name"] == "soak"), "{list}");
    for arguments in [&["drill", "retsart"][..], &["drill", "all", "--only", "retsart"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_streamer")).args(arguments).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("restart"), "{said}");
    }
}

/// A minute of what half an hour is recorded for in `docs/reliability.md`, and the same with a hub that forgets.
#[tokio::test]
async fn a_short_soak_passes_and_a_sabotaged_one_does_not() {
    let arguments = ["soak", "--minutes", "1", "--rate", "200", "--seed", "5"];
    let (output, report) = drill(&arguments).await;
    assert!(report["passed"] == true && output.status.success(), "{report}");
    assert!(report["expected"].as_u64().unwrap() > 1_000 && report["rounds"].as_u64().unwrap() > 1, "{report}");
    let (output, report) = drill(&[&arguments[..], &["--sabotage"]].concat()).await;
    assert!(report["lost"].as_u64().unwrap() > 0 && report["passed"] == false, "{report}");
    assert_eq!(output.status.code(), Some(1));
}
