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
