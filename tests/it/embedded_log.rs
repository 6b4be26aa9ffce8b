//! The embedded log under `kill -9`: what was confirmed is there, once, in order, at its place.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use streamer::change::Operation;
use streamer::clock::Clock;
use streamer::position::{ClusterTime, Epoch, Position};
use streamer::source::log::{EventLog, EventLogConfig, LogSource, Place, Publication};
use streamer::source::{ChangeSource, Event};
use streamer::tasks::Tasks;

/// Set for the process that is to be killed.
const FOLDER: &str = "STREAMER_TEST_LOG_FOLDER";
const CONCURRENT: usize = 8;
const KILLS: usize = 15;

fn config(folder: &Path) -> EventLogConfig {
    EventLogConfig { path: folder.join("log.redb"), retain_bytes: 1 << 30, retain_seconds: None }
}

fn publication(key: String) -> Publication {
    let document = bson::rawdoc! { "body": "x".repeat(300) };
    Publication {
        tenant: "t".into(),
        collection: "c".into(),
        key: key.into(),
        operation: Operation::Insert,
        document: Some(document),
        before: None,
    }
}

/// Not a test: the writer that is killed. Prints `key time ordinal` for each confirmed change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a helper process of the test below"]
async fn writer_to_be_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let log = EventLog::open(config(folder), &Tasks::new(), Clock::system()).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..CONCURRENT {
        let log = Arc::clone(&log);
        writers.spawn(async move {
            for n in 0.. {
                // Two at a time now and then, which must be there both or not at all.
                let keys: Vec<String> =
                    (0..1 + n % 2).map(|twin| format!("{}-{writer}-{n}-{twin}", std::process::id())).collect();
                let places = log.publish(keys.iter().cloned().map(publication).collect()).await.unwrap();
                let mut lines = String::new();
                for (key, (time, ordinal)) in keys.iter().zip(places) {
                    lines.push_str(&format!("ack {key} {} {ordinal}\n", time.0));
                }
                std::io::stdout().write_all(lines.as_bytes()).unwrap();
            }
        });
    }
    writers.join_next().await;
}

fn start(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded_log::writer_to_be_killed", "--ignored", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Takes confirmations, kills after `confirmed_min` of them, and takes what was still in the pipe.
fn run_and_kill(folder: &Path, confirmed_min: usize) -> Vec<(String, Place)> {
    let mut child = start(folder);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut confirmed = Vec::new();
    for line in lines {
        // The last line may be cut short by the kill: it was not confirmed then.
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        if let ["ack", key, time, ordinal] = words[..]
            && let (Ok(time), Ok(ordinal)) = (time.parse(), ordinal.parse())
        {
            confirmed.push((key.to_owned(), (ClusterTime(time), ordinal)));
        }
        if confirmed.len() == confirmed_min {
            child.kill().unwrap(); // SIGKILL
        }
    }
    child.wait().unwrap();
    assert!(confirmed.len() >= confirmed_min, "the writer ended by itself");
    confirmed
}

async fn read_all(folder: &Path) -> Vec<(String, Place)> {
    let tasks = Tasks::new();
    let log = EventLog::open(config(folder), &tasks, Clock::system()).await.unwrap();
    let source = LogSource::new(Arc::clone(&log));
    let until = source.describe().await.unwrap().now;
    let mut reading = source.read(Epoch(0), Position::default()).await.unwrap();
    let mut found = Vec::new();
    let mut reached = Position::default();
    while reached.time < until {
        let batch = reading.recv().await.unwrap().unwrap();
        reached = batch.reached;
        for event in batch.events {
            let Event::Change(change) = event else { panic!("{event:?}") };
            found.push((change.key.to_string(), (change.position.time, change.position.ordinal)));
        }
    }
    drop((reading, source, log));
    assert!(tasks.drain(Duration::from_secs(60)).await.is_empty());
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut confirmed = Vec::new();
    let mut read_before: Vec<(String, Place)> = Vec::new();
    for round in 0..KILLS {
        confirmed.extend(run_and_kill(folder.path(), 5 + 13 * round));
        let read = read_all(folder.path()).await;
        assert!(read.windows(2).all(|pair| pair[0].1 < pair[1].1), "places ascend, over restarts too");
        assert_eq!(read[..read_before.len()], read_before, "what was once read stays as it was");
        let at: std::collections::HashMap<&str, Place> =
            read.iter().map(|(key, place)| (key.as_str(), *place)).collect();
        assert_eq!(at.len(), read.len(), "nothing twice");
        for (key, place) in &confirmed {
            assert_eq!(at.get(key.as_str()), Some(place), "{key} was confirmed at {place:?}");
        }
        // Batches are there whole: the pair's other half has the same cluster time.
        for (key, (time, ordinal)) in read.iter().filter(|(_, (_, ordinal))| *ordinal == 2) {
            let twin = format!("{}-0", key.strip_suffix("-1").unwrap());
            assert_eq!(at.get(twin.as_str()), Some(&(*time, ordinal - 1)));
        }
        for (key, (time, _)) in read.iter() {
            let words: Vec<&str> = key.split('-').collect();
            let (n, twin) = (words[2].parse::<u64>().unwrap(), words[3]);
            if n % 2 == 1 && twin == "0" {
                let other = format!("{}-1", key.strip_suffix("-0").unwrap());
                assert_eq!(at.get(other.as_str()), Some(&(*time, 2)), "{key} has lost its twin");
            }
        }
        read_before = read;
    }
}
