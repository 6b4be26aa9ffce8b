//! The restart drill itself: it passes on a hub that keeps its promises, and fails on one that does not.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// Only a drill that hangs meets it.
const PATIENCE: Duration = Duration::from_secs(300);

async fn drill(arguments: &[&str]) -> (Output, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamer"));
    command.args(["drill", "restart", "-o", "json", "--rate", "300"]).args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("the drill ends").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report; it says: {said}"));
    (output, report)
}

#[tokio::test]
async fn nothing_is_lost_doubled_or_misordered_when_the_hub_is_killed() {
    for store in ["etcd", "redb"] {
        let (output, report) = drill(&["--kills", "4", "--seed", "11", "--store", store]).await;
        for count in ["lost", "duplicated", "misordered", "unexpected", "checksums", "resyncs", "behind"] {
            assert_eq!(report[count], 0, "{count} with {store}: {report}");
        }
        assert!(report["expected"].as_u64().unwrap() > 1_000 && report["passed"] == true, "{report}");
        assert_eq!(output.status.code(), Some(0));
    }
}

#[tokio::test]
async fn a_hub_that_forgets_fails_the_drill() {
    let (output, report) = drill(&["--kills", "2", "--sabotage", "--store", "redb"]).await;
    assert!(report["lost"].as_u64().unwrap() > 0 && report["passed"] == false, "{report}");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("lost") && said.lines().count() == 1, "{said}");
}
