//! A match as it is printed.
//!
//! Owns the line that people read, and the JSON that programs read: the stream's own, whatever
//! transport it came by.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::client::{Body, Change};

/// A body is shown up to here.
const BODY_CHARS_MAX: usize = 100;

/// One change, as the stream's JSON.
#[derive(Debug)]
pub(super) struct Shown(Value);

impl Shown {
    /// As it came by SSE.
    pub(super) fn of_json(change: Value) -> Self {
        Self(change)
    }

    /// As it came by gRPC.
    pub(super) fn of(change: &Change) -> anyhow::Result<Self> {
        let body = |body: &Option<Body>| body.as_ref().map(Body::json).transpose();
        let matches: Vec<Value> = change
            .matches
            .iter()
            .map(|m| {
                let mut shown = Map::new();
                shown.insert("subscriptionId".into(), m.subscription_id.as_str().into());
                shown.insert("generation".into(), m.generation.into());
                for (name, text) in [("transition", &m.transition), ("certainty", &m.certainty)] {
                    if !text.is_empty() {
                        shown.insert(name.into(), text.as_str().into());
                    }
                }
                Value::Object(shown)
            })
            .collect();
        let mut shown = json!({
            "partition": change.partition, "position": change.position, "id": change.id,
            "tenant": change.tenant, "collection": change.collection, "key": change.key,
            "operation": change.operation, "document": body(&change.document)?, "before": body(&change.before)?,
            "wallTime": change.wall_time, "matches": matches, "flags": change.flags,
        });
        if let Some(set) = body(&change.set)? {
            shown["changed"] = json!({ "set": set, "removed": change.removed });
        }
        if let Some((id, number)) = &change.transaction {
            shown["transaction"] = json!({ "id": id, "number": number });
        }
        Ok(Self(shown))
    }

    /// For programs.
    pub(super) fn json(&self) -> &Value {
        &self.0
    }

    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }
}

/// For people: the time of day, what happened, to which key, and a short body.
impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wall = self.text("wallTime");
        let time = wall.split_once('T').map_or(wall, |(_, time)| time.trim_end_matches('Z'));
        write!(f, "{time:<12}  {:<7}  {}", self.text("operation"), self.text("key"))?;
        let first = &self.0["matches"][0];
        if let Some(transition) = first["transition"].as_str() {
            let unsure = if first["certainty"] == "unknown" { "?" } else { "" };
            write!(f, "  {transition}{unsure}")?;
        }
        let body = [&self.0["document"], &self.0["before"]].into_iter().find(|body| !body.is_null());
        if let Some(body) = body {
            let text = body.to_string();
            match text.char_indices().nth(BODY_CHARS_MAX) {
                Some((end, _)) => write!(f, "  {}…", &text[..end])?,
                None => write!(f, "  {text}")?,
            }
        }
        for flag in self.0["flags"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            write!(f, "  [{flag}]")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_what_and_which() {
        let shown = Shown::of_json(json!({
            "wallTime": "2026-11-21T10:00:00.120Z", "operation": "update", "key": "m-9",
            "document": {"chatId": "c1"}, "before": null, "flags": ["lookup"],
            "matches": [{"subscriptionId": "tail", "generation": 4, "transition": "update", "certainty": "unknown"}],
        }));
        assert_eq!(shown.to_string(), r#"10:00:00.120  update   m-9  update?  {"chatId":"c1"}  [lookup]"#);
    }

    #[test]
    fn long_bodies_are_cut_between_characters_and_a_delete_shows_what_was() {
        let shown = Shown::of_json(json!({
            "operation": "delete", "key": "k", "document": null, "before": {"text": "ü".repeat(300)},
        }));
        assert!(shown.to_string().ends_with("üü…"));
    }
}
