//! The embedded log at its end: shutdown, files in use, disks that fail.

use super::*;

#[tokio::test]
async fn after_shutdown_nothing_is_taken_and_readings_end() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::at(&folder).await;
    let mut reading = opened.source().read(EPOCH, START).await.unwrap();
    let Opened { log, tasks } = opened;
    let pending: Vec<_> = (0..50).map(|n| log.publish(vec![publication(n, 0)])).collect();
    let taking = async {
        let mut changes = 0;
        loop {
            match reading.recv().await.unwrap() {
                Ok(batch) => changes += batch.events.len(),
                Err(error) => return (changes, error),
            }
        }
    };
    let (answers, stragglers, (read, error)) =
        futures::join!(futures::future::join_all(pending), tasks.drain(Duration::from_secs(60)), taking);
    assert!(stragglers.is_empty(), "{stragglers:?}");
    // Whatever was confirmed was also read; whatever was refused was not.
    let confirmed = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(read, confirmed);
    assert!(answers.iter().all(|answer| !matches!(answer, Err(PublishError::Broken(_)))));
    assert_eq!(error, SourceError::Unavailable("the embedded log is closed".into()));
    assert_eq!(log.publish(vec![publication(0, 0)]).await, Err(PublishError::Closed));
}

#[tokio::test]
async fn a_file_in_use_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Opened::at(&folder).await;
    let error = EventLog::open(config(folder.path()), &Tasks::new(), Clock::system()).await.unwrap_err().to_string();
    assert!(error.contains("log.redb cannot be opened") && !error.contains('\n'), "{error}");
    opened.close().await;
    std::fs::write(folder.path().join("text.redb"), "not a database").unwrap();
    let text = EventLogConfig { path: folder.path().join("text.redb"), ..config(folder.path()) };
    assert!(EventLog::open(text, &Tasks::new(), Clock::system()).await.is_err());
}

/// A disk in memory that fails from a chosen moment on, like a full one.
#[derive(Debug, Clone, Default)]
struct FailingDisk {
    memory: Arc<redb::backends::InMemoryBackend>,
    fails: Arc<std::sync::atomic::AtomicBool>,
}

impl FailingDisk {
    fn works(&self) -> std::io::Result<()> {
        if self.fails.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(std::io::Error::other("no space left, says the test"));
        }
        Ok(())
    }
}

impl redb::StorageBackend for FailingDisk {
    fn len(&self) -> std::io::Result<u64> {
        self.memory.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.memory.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.works()?;
        self.memory.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.works()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.works()?;
        self.memory.write(offset, data)
    }
}

#[tokio::test]
async fn a_disk_that_fails_stops_the_log_and_says_so() {
    let disk = FailingDisk::default();
    let fails = Arc::clone(&disk.fails);
    let folder = tempfile::tempdir().unwrap();
    let (clock, tasks) = (Clock::manual(), Tasks::new());
    let db = redb::Builder::new().create_with_backend(disk).unwrap();
    let (disk, start) = Disk::with_database(db, &config(folder.path()), writer::wall_time(&clock)).unwrap();
    let log = EventLog::start(disk, start, &tasks, clock);
    let mut reading = LogSource::new(Arc::clone(&log)).read(EPOCH, START).await.unwrap();
    log.publish(vec![publication(1, 0)]).await.unwrap();
    assert_eq!(log.trouble(), None);

    fails.store(true, std::sync::atomic::Ordering::SeqCst);
    let refused = log.publish(vec![publication(2, 0)]).await.unwrap_err();
    assert!(matches!(&refused, PublishError::Broken(reason) if reason.contains("says the test")), "{refused:?}");
    // Even if the disk recovers: what it kept of the failed write is not known before a restart.
    fails.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(log.publish(vec![publication(3, 0)]).await, Err(PublishError::Broken(_))));
    assert!(log.trouble().is_some());
    let (mut changes, mut reached) = (Vec::new(), START);
    let error = loop {
        match reading.recv().await.unwrap() {
            Ok(batch) => {
                take(&mut changes, reached, &batch);
                reached = batch.reached;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SourceError::Unavailable(_)), "{error:?}");
    assert_eq!(changes.len(), 1, "only what was confirmed has been read");
    assert!(tasks.drain(Duration::from_secs(60)).await.is_empty());
}
