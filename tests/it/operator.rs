//! An operator's night: `tests/operator/walk.py`, which finds and mends what goes wrong on a whole hub.

use std::time::Duration;

use tokio::process::Command;

/// The walk takes one or two minutes; what takes longer is stuck.
const STUCK: Duration = Duration::from_secs(480);

#[tokio::test]
async fn what_is_wrong_is_found_from_everywhere_and_mended() {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new(format!("{root}/scripts/python"));
    command.arg(format!("{root}/tests/operator/walk.py")).args(["--streamer", env!("CARGO_BIN_EXE_streamer")]);
    let walked = tokio::time::timeout(STUCK, command.kill_on_drop(true).output()).await.expect("an end").unwrap();
    let said = String::from_utf8_lossy(&walked.stdout).into_owned() + &String::from_utf8_lossy(&walked.stderr);
    assert!(walked.status.success(), "{said}");
}
