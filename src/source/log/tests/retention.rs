//! What retention takes, and what readers are told of it.

use super::*;

#[tokio::test]
async fn retention_by_bytes_says_what_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let small = EventLogConfig { retain_bytes: 20_000, ..config(folder.path()) };
    let opened = Opened::with(small, Clock::system()).await;
    let made = opened.source().describe().await.unwrap().oldest.unwrap();
    let mut places = Vec::new();
    for n in 0..30 {
        places.extend(opened.log.publish(vec![publication(n, 2_000), publication(n, 2_000)]).await.unwrap());
    }
    let oldest = opened.source().describe().await.unwrap().oldest.unwrap();
    assert!(oldest > made);
    let at = |(time, ordinal): Place| Position::new(EPOCH, time, ordinal);
    let kept: Vec<Position> = places.iter().map(|&p| at(p)).filter(|p| p.time >= oldest).collect();
    assert!((4..=10).contains(&kept.len()), "{}", kept.len());
    // The last place that was taken, and every later one, can be read from; an earlier one cannot.
    let taken: Vec<Position> = places.iter().map(|&p| at(p)).filter(|p| p.time < oldest).collect();
    for after in [*taken.last().unwrap(), Position::boundary(EPOCH, oldest)] {
        let rest: Vec<_> = opened.rest(after).await.iter().map(|change| change.position).collect();
        assert_eq!(rest, kept);
    }
    for after in [START, taken[0], taken.last().unwrap().before_change()] {
        let error = opened.source().read(EPOCH, after).await.unwrap_err();
        assert!(matches!(error, SourceError::HistoryLost(_)), "{error:?}");
    }
    opened.close().await;
}

#[tokio::test]
async fn a_reading_overtaken_by_retention_ends_with_history_lost() {
    let folder = tempfile::tempdir().unwrap();
    let small = EventLogConfig { retain_bytes: 20_000, ..config(folder.path()) };
    let opened = Opened::with(small, Clock::system()).await;
    let mut reading = opened.source().read(EPOCH, START).await.unwrap();
    // Nobody takes the reading's batches, so it stands still while the log moves on.
    for n in 0..200 {
        opened.log.publish(vec![publication(n, 2_000)]).await.unwrap();
    }
    let mut changes = Vec::new();
    let mut reached = START;
    let error = loop {
        match reading.recv().await.unwrap() {
            Ok(batch) => {
                take(&mut changes, reached, &batch);
                reached = batch.reached;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SourceError::HistoryLost(_)), "{error:?}");
    assert!(changes.len() < 200);
    assert!(reading.recv().await.is_none());
    opened.close().await;
}

#[tokio::test]
async fn retention_by_age_follows_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual();
    let opened =
        Opened::with(EventLogConfig { retain_seconds: Some(60), ..config(folder.path()) }, clock.clone()).await;
    let first = opened.log.publish(vec![publication(1, 0)]).await.unwrap()[0];
    clock.advance(Duration::from_secs(50));
    opened.log.publish(vec![publication(2, 0)]).await.unwrap();
    assert_eq!(opened.rest(START).await.len(), 2);
    clock.advance(Duration::from_secs(50));
    opened.log.publish(vec![publication(3, 0)]).await.unwrap();
    assert!(matches!(opened.source().read(EPOCH, START).await, Err(SourceError::HistoryLost(_))));
    assert_eq!(opened.rest(Position::new(EPOCH, first.0, first.1)).await.len(), 2);
    opened.close().await;
}
