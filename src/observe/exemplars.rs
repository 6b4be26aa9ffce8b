//! Exemplars: of each bucket of the latency histograms, the last change in it that traces tell of.
//!
//! Owns OpenMetrics text, the form of Prometheus's text that has room for them. A trace's id is the change's position, so
//! an exemplar leads to its trace, and to the change in every log and client. What is kept is bounded: one a bucket.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::metrics::SECONDS_BUCKETS;
use crate::position::Position;

struct Exemplar {
    position: Position,
    seconds: f64,
    at: DateTime<Utc>,
}

/// By metric, partition and bucket.
type Kept = HashMap<(&'static str, String), [Option<Exemplar>; SECONDS_BUCKETS.len() + 1]>;

static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A change has taken so long in one stage of a partition.
pub(super) fn note(metric: &'static str, partition: &str, position: Position, seconds: f64, at: DateTime<Utc>) {
    let bucket = SECONDS_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS_BUCKETS.len());
    let mut kept = kept();
    kept.entry((metric, partition.to_owned())).or_default()[bucket] = Some(Exemplar { position, seconds, at });
}

/// OpenMetrics 1.0 from Prometheus's text 0.0.4, with what is kept.
pub(super) fn open_metrics(text: &str) -> String {
    let kept = kept();
    let mut open = String::with_capacity(text.len() + text.len() / 8);
    let mut counter = "";
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            // A family of counters is named without the ending of its samples. Its help stands before its type.
            (Some("#"), Some(what), Some(name), Some(rest)) => {
                if what == "TYPE" {
                    counter = if rest == "counter" { name } else { "" };
                }
                let family = name.strip_suffix("_total").unwrap_or(name);
                let _ = writeln!(open, "# {what} {family} {rest}");
            }
            _ => {
                open.push_str(line);
                if counter.is_empty()
                    && let Some(exemplar) = exemplar_of(&kept, line)
                {
                    let Exemplar { position, seconds, at } = exemplar;
                    let at = at.timestamp_millis() as f64 / 1000.0;
                    let _ = write!(open, " # {{trace_id=\"{position}\"}} {seconds} {at:.3}");
                }
                open.push('\n');
            }
        }
    }
    open.push_str("# EOF\n");
    open
}

/// What is kept for this line of a bucket.
fn exemplar_of<'k>(kept: &'k Kept, line: &str) -> Option<&'k Exemplar> {
    let (name, labels) = line.split_once("_bucket{")?;
    let partition = label(labels, "partition")?;
    let bound = label(labels, "le")?;
    let bucket = if bound == "+Inf" {
        SECONDS_BUCKETS.len()
    } else {
        let bound: f64 = bound.parse().ok()?;
        SECONDS_BUCKETS.iter().position(|known| *known == bound)?
    };
    let (_, buckets) = kept.iter().find(|((metric, of), _)| *metric == name && of == partition)?;
    buckets[bucket].as_ref()
}

/// Names of partitions have nothing in them that is escaped.
fn label<'l>(labels: &'l str, name: &str) -> Option<&'l str> {
    let mut pairs = labels.split(',').filter_map(|pair| pair.split_once("=\""));
    pairs.find(|(known, _)| *known == name)?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{ClusterTime, Epoch};

    #[test]
    fn a_bucket_leads_to_the_last_change_in_it() {
        let at = |second| Position::boundary(Epoch(1), ClusterTime::new(second, 0));
        let when = DateTime::from_timestamp_millis(1_700_000_000_250).unwrap();
        note("streamer_of_a_test_seconds", "default/0", at(1), 0.002, when);
        note("streamer_of_a_test_seconds", "default/0", at(2), 0.0021, when);
        note("streamer_of_a_test_seconds", "default/0", at(3), 11.0, when);
        note("streamer_of_a_test_seconds", "sales/0", at(4), 0.5, when);
        let text = "# HELP streamer_of_a_test_total Of a test.\n# TYPE streamer_of_a_test_total counter\nstreamer_of_a_test_total{partition=\"default/0\"} 3\n\n\
                    # TYPE streamer_of_a_test_seconds histogram\n\
                    streamer_of_a_test_seconds_bucket{partition=\"default/0\",le=\"0.001\"} 0\n\
                    streamer_of_a_test_seconds_bucket{partition=\"default/0\",le=\"0.0025\"} 2\n\
                    streamer_of_a_test_seconds_bucket{partition=\"default/1\",le=\"0.0025\"} 2\n\
                    streamer_of_a_test_seconds_bucket{partition=\"default/0\",le=\"+Inf\"} 3\n\
                    streamer_of_a_test_seconds_bucket{partition=\"sales/0\",le=\"0.5\"} 1\n\
                    streamer_of_a_test_seconds_sum{partition=\"default/0\"} 11.0041\n\n";
        let exemplar =
            |position: Position, seconds: &str| format!(" # {{trace_id=\"{position}\"}} {seconds} 1700000000.250");
        let expected = [
            "# HELP streamer_of_a_test Of a test.".to_owned(),
            "# TYPE streamer_of_a_test counter".to_owned(),
            "streamer_of_a_test_total{partition=\"default/0\"} 3".to_owned(),
            "# TYPE streamer_of_a_test_seconds histogram".to_owned(),
            "streamer_of_a_test_seconds_bucket{partition=\"default/0\",le=\"0.001\"} 0".to_owned(),
            "streamer_of_a_test_seconds_bucket{partition=\"default/0\",le=\"0.0025\"} 2".to_owned()
                + &exemplar(at(2), "0.0021"),
            "streamer_of_a_test_seconds_bucket{partition=\"default/1\",le=\"0.0025\"} 2".to_owned(),
            "streamer_of_a_test_seconds_bucket{partition=\"default/0\",le=\"+Inf\"} 3".to_owned()
                + &exemplar(at(3), "11"),
            "streamer_of_a_test_seconds_bucket{partition=\"sales/0\",le=\"0.5\"} 1".to_owned()
                + &exemplar(at(4), "0.5"),
            "streamer_of_a_test_seconds_sum{partition=\"default/0\"} 11.0041".to_owned(),
            "# EOF".to_owned(),
        ];
        assert_eq!(open_metrics(text).lines().collect::<Vec<_>>(), expected);
    }
}
