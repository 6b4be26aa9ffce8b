//! The hub's overview, as `GET /v1/overview` answers it.
//!
//! Owns its shape, as far as it is drawn. Fields that are unknown, missing or null do no harm: the hub
//! may be older or newer than this program. Every text has been made harmless for a terminal.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::text::clean;

/// A time, or none where the text is no time.
type Time = Option<DateTime<Utc>>;

/// The hub at one moment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Overview {
    #[serde(deserialize_with = "time")]
    pub(super) at: Time,
    /// Who answers.
    pub(super) node: String,
    pub(super) version: String,
    #[serde(deserialize_with = "time")]
    pub(super) started_at: Time,
    pub(super) uptime_seconds: f64,
    pub(super) health: Health,
    pub(super) partitions: Vec<Partition>,
    pub(super) gateways: Gateways,
}

/// How the node is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    pub(super) status: String,
    pub(super) live: Option<bool>,
    pub(super) ready: Option<bool>,
    pub(super) components: BTreeMap<String, Component>,
}

/// How one of its parts is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Component {
    pub(super) status: String,
    pub(super) reason: Option<String>,
    #[serde(deserialize_with = "time")]
    pub(super) since: Time,
}

/// One partition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Partition {
    /// Such as `default/0`.
    pub(super) partition: String,
    /// None where nobody has it, or who has it cannot be asked.
    pub(super) owner: Option<String>,
    pub(super) epoch: u64,
    pub(super) state: String,
    pub(super) lag: Lag,
    pub(super) oplog_headroom_seconds: Option<f64>,
    pub(super) subscriptions: Option<Counts>,
    pub(super) sessions: Option<u64>,
    pub(super) catchups: Option<u64>,
    pub(super) totals: Option<Totals>,
    pub(super) costliest: Vec<Costly>,
}

/// How far something is behind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lag {
    pub(super) seconds: Option<f64>,
    pub(super) changes: Option<u64>,
}

/// Subscriptions or gateways by their state.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    pub(super) live: u64,
    pub(super) catching_up: u64,
    pub(super) offline: u64,
    pub(super) parked: u64,
}

/// What a partition has counted since its owner began.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Totals {
    pub(super) changes: u64,
    pub(super) matches: u64,
    pub(super) delivered: u64,
    pub(super) delivered_bytes: u64,
    pub(super) candidates: u64,
    pub(super) bloom_checks: u64,
    pub(super) bloom_false_positives: u64,
    pub(super) shadow_checks: u64,
    pub(super) shadow_differences: u64,
}

/// A subscription that takes much of the matcher's time.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Costly {
    pub(super) gateway_id: Option<String>,
    pub(super) group: Option<String>,
    pub(super) subscription_id: String,
    pub(super) average_micros: f64,
    pub(super) evaluations: u64,
}

/// All gateways.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Gateways {
    pub(super) total: u64,
    pub(super) states: Counts,
    /// Those furthest behind, first of all the furthest.
    pub(super) listed: Vec<Gateway>,
}

/// One gateway, or a group's member.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Gateway {
    pub(super) gateway_id: Option<String>,
    pub(super) group: Option<String>,
    pub(super) member: Option<String>,
    pub(super) state: String,
    pub(super) subscriptions: u64,
    pub(super) lag: Lag,
    pub(super) outbox_bytes: u64,
    pub(super) delivery: String,
    #[serde(deserialize_with = "time")]
    pub(super) last_ack_at: Time,
    pub(super) session: Option<Session>,
}

/// A gateway's connection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Session {
    pub(super) transport: String,
    pub(super) node: String,
}

impl Overview {
    /// Of an answer.
    ///
    /// # Errors
    /// A field that is there and means something else.
    pub(super) fn of(answer: Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(harmless(answer))
    }
}

impl Gateway {
    /// By what it is known on the screen.
    pub(super) fn name(&self) -> String {
        match (&self.gateway_id, &self.group) {
            (Some(gateway), _) => gateway.clone(),
            (None, Some(group)) => format!("{group}/{}", self.member.as_deref().unwrap_or("-")),
            (None, None) => "-".to_owned(),
        }
    }
}

impl Costly {
    /// By what it is known on the screen.
    pub(super) fn name(&self) -> String {
        let gateway = self.gateway_id.as_deref().or(self.group.as_deref()).unwrap_or("-");
        format!("{gateway}/{}", self.subscription_id)
    }
}

impl Counts {
    /// All of them.
    pub(super) fn sum(&self) -> u64 {
        [self.catching_up, self.offline, self.parked].into_iter().fold(self.live, u64::saturating_add)
    }
}

/// Texts and names cleaned, members that are null left out.
fn harmless(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(clean(&text)),
        Value::Array(items) => items.into_iter().map(harmless).collect(),
        Value::Object(members) => {
            let members = members.into_iter().filter(|(_, value)| !value.is_null());
            members.map(|(name, value)| (clean(&name), harmless(value))).collect()
        }
        other => other,
    }
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(DateTime::parse_from_rfc3339(&text).ok().map(|time| time.to_utc()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_null_or_unknown_does_no_harm() {
        assert_eq!(Overview::of(json!({})).unwrap().partitions.len(), 0);
        let overview = Overview::of(json!({
            "at": "yesterday", "novelty": [1, {"x": null}], "uptimeSeconds": 3,
            "partitions": [{"partition": "default/0", "owner": null, "lag": {"seconds": null}, "totals": null, "more": 1}],
            "gateways": {"listed": [{"group": "g", "member": "m-1", "session": null}, {"gatewayId": "gw-1"}]},
        }));
        let overview = overview.unwrap();
        assert_eq!((overview.at, overview.uptime_seconds), (None, 3.0));
        let partition = &overview.partitions[0];
        assert!(partition.owner.is_none() && partition.totals.is_none() && partition.lag.seconds.is_none());
        let names: Vec<_> = overview.gateways.listed.iter().map(Gateway::name).collect();
        assert_eq!(names, ["g/m-1", "gw-1"]);
    }

    #[test]
    fn names_have_no_control_characters_left() {
        let overview = Overview::of(json!({
            "node": "a\u{1b}[31m", "health": {"components": {"st\u{7}ore": {"status": "failing", "reason": "\u{9b}2J"}}},
        }));
        let overview = overview.unwrap();
        assert_eq!(overview.node, "a\u{fffd}[31m");
        let (name, component) = overview.health.components.first_key_value().unwrap();
        assert_eq!((name.as_str(), component.reason.as_deref()), ("st\u{fffd}ore", Some("\u{fffd}2J")));
    }

    #[test]
    fn another_answer_is_no_overview() {
        assert!(Overview::of(json!([1])).is_err());
        assert!(Overview::of(json!({"partitions": "many"})).is_err());
    }
}
