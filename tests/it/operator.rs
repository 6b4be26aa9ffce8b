//! An operator's night: `tests/operator/walk.py`, which finds and mends what goes wrong on a whole hub.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// The walk takes one or two minutes; what takes longer is stuck.
const STUCK: Duration = Duration::from_secs(480);

#[tokio::test]
async fn what_is_wrong_is_found_from_everywhere_and_mended() {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new(format!("{root}/scripts/python"));
    command.arg(format!("{root}/tests/operator/walk.py")).args(["--streamer", env!("CARGO_BIN_EXE_streamer")]);
    let walk = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let id = walk.id().unwrap().to_string();
    let mut walked = std::pin::pin!(walk.wait_with_output());
    let walked = match tokio::time::timeout(STUCK, &mut walked).await {
        Ok(walked) => walked.unwrap(),
        Err(_) => {
            // It has servers to stop.
            let _ = Command::new("kill").args(["-TERM", &id]).status().await;
            walked.await.unwrap()
        }
    };
    let said = String::from_utf8_lossy(&walked.stdout).into_owned() + &String::from_utf8_lossy(&walked.stderr);
    assert!(walked.status.success(), "{said}");
}
