//! What deserves a look: marks beside partitions, gateways and parts.
//!
//! Owns from where on something counts as wrong on the screen. The hub's own judgement is its health.

use super::picture::{Gateway, Partition};

/// A lag from which on somebody should look, and one that is wrong. A reading that waits for a quiet
/// source's next sign of life stays below the first most of the time.
const LAG_SECONDS_LOOK: f64 = 15.0;
const LAG_SECONDS_WRONG: f64 = 60.0;

/// Oplog that is left to one who lags. A partition that does not lag is in no danger, and a young oplog is short.
const OPLOG_SECONDS_LOW: f64 = 3600.0;

/// How wrong something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Level {
    /// As it should be.
    #[default]
    Fine,
    /// Somebody should look.
    Look,
    /// It does not do its work.
    Wrong,
}

impl Level {
    /// How it is marked, for eyes that see no colours.
    pub(super) const fn sign(self) -> &'static str {
        match self {
            Self::Fine => "",
            Self::Look => "!",
            Self::Wrong => "!!",
        }
    }
}

/// A level, and why.
#[derive(Debug, Default)]
pub(super) struct Mark {
    pub(super) level: Level,
    pub(super) notes: Vec<String>,
}

impl Mark {
    fn add(&mut self, level: Level, note: impl Into<String>) {
        self.level = self.level.max(level);
        self.notes.push(note.into());
    }

    /// All reasons in one line.
    pub(super) fn note(&self) -> String {
        self.notes.join(", ")
    }
}

/// A partition's.
pub(super) fn partition(partition: &Partition) -> Mark {
    let mut mark = Mark::default();
    if partition.owner.is_none() {
        mark.add(Level::Wrong, "no owner");
    }
    match partition.state.as_str() {
        "reading" | "catching_up" => {}
        "paused" => mark.add(Level::Look, "paused"),
        "history_lost" => mark.add(Level::Wrong, "history lost"),
        "backoff" if partition.owner.is_some() => mark.add(Level::Wrong, "not reading"),
        "backoff" => {}
        other => mark.add(Level::Look, other),
    }
    let seconds = partition.lag.seconds.unwrap_or_default();
    lag(&mut mark, seconds);
    match partition.oplog_headroom_seconds {
        Some(left) if left < OPLOG_SECONDS_LOW && seconds >= LAG_SECONDS_LOOK => {
            mark.add(Level::Wrong, "oplog low");
        }
        _ => {}
    }
    mark
}

fn lag(mark: &mut Mark, seconds: f64) {
    if seconds >= LAG_SECONDS_LOOK {
        let level = if seconds >= LAG_SECONDS_WRONG { Level::Wrong } else { Level::Look };
        mark.add(level, "late");
    }
}

/// A gateway's.
pub(super) fn gateway(gateway: &Gateway) -> Mark {
    let mut mark = Mark::default();
    match gateway.state.as_str() {
        "parked" => mark.add(Level::Wrong, "parked"),
        "offline" => mark.add(Level::Look, "offline"),
        _ => lag(&mut mark, gateway.lag.seconds.unwrap_or_default()),
    }
    mark
}

/// Of a word of the hub's health.
pub(super) fn health(status: &str) -> Level {
    match status {
        "ok" => Level::Fine,
        "failing" => Level::Wrong,
        _ => Level::Look,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn marked(value: Value) -> (Level, String) {
        let mark = partition(&serde_json::from_value(value).unwrap());
        (mark.level, mark.note())
    }

    #[test]
    fn a_partition_is_marked_for_what_is_wrong_with_it() {
        let fine = json!({"owner": "hub-1", "state": "reading", "lag": {"seconds": 1.0}, "oplogHeadroomSeconds": 60.0});
        assert_eq!(marked(fine), (Level::Fine, String::new()), "a young oplog is short");
        assert_eq!(marked(json!({"owner": "hub-1", "state": "paused"})), (Level::Look, "paused".into()));
        assert_eq!(marked(json!({"state": "backoff"})), (Level::Wrong, "no owner".into()));
        assert_eq!(marked(json!({"owner": "h", "state": "backoff"})), (Level::Wrong, "not reading".into()));
        let late =
            json!({"owner": "h", "state": "catching_up", "lag": {"seconds": 95.0}, "oplogHeadroomSeconds": 600.0});
        assert_eq!(marked(late), (Level::Wrong, "late, oplog low".into()));
    }
}
