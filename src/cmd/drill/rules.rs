//! The drill's subscriptions, each with a rule by which the drill itself knows what must arrive.
//!
//! Owns both sides: the filter that the hub is given, and the plain condition on a numbered write that it
//! stands for. The condition is written by hand and shares no code with the matcher.

use anyhow::Context;
use serde_json::json;

use super::writer::Write;
use crate::change::Operation;
use crate::client::Subscription;

/// Of every numbered write.
pub(super) const TENANT: &str = "drill";
/// Of every numbered write.
pub(super) const COLLECTION: &str = "writes";

/// Keys that are inserted once begin with this, and end with the write's number.
pub(super) const NEW_KEY: &str = "n-";

/// A subscription and what it must receive.
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) wants: fn(&Write) -> bool,
    ask: fn(Subscription) -> Subscription,
}

/// Every gateway has one subscription of each.
pub(super) const RULES: [Rule; 8] = [
    Rule { name: "all", wants: |_| true, ask: |s| s },
    Rule { name: "even", wants: |w| w.number.is_multiple_of(2), ask: |s| s.filter("parity", "==", 0) },
    Rule { name: "odd", wants: |w| !w.number.is_multiple_of(2), ask: |s| s.filter("parity", "==", 1) },
    Rule { name: "one-key", wants: |w| w.key == "k-0", ask: |s| s.filter("key", "==", "k-0") },
    Rule {
        name: "range",
        wants: |w| (3..7).contains(&(w.number % 10)),
        ask: |s| s.filter("bucket", ">=", 3).filter("bucket", "<", 7),
    },
    Rule { name: "list", wants: |w| matches!(w.number % 10, 1 | 9), ask: |s| s.filter("bucket", "in", json!([1, 9])) },
    Rule {
        name: "inserts",
        wants: |w| w.operation == Operation::Insert,
        ask: |s| Subscription { operations: Some(vec![Operation::Insert]), ..s },
    },
    Rule {
        name: "expression",
        wants: |w| w.number.is_multiple_of(3) && w.operation == Operation::Update,
        ask: |s| s.cel("doc.number % 3 == 0 && op == 'update'"),
    },
];

/// All subscriptions of a gateway.
pub(super) fn subscriptions(gateway: &str) -> Vec<Subscription> {
    RULES.iter().map(|rule| (rule.ask)(Subscription::new(gateway, rule.name, TENANT, COLLECTION))).collect()
}

/// Which rules these subscriptions stand for.
pub(super) fn indices_of<'a>(names: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Vec<usize>> {
    let index = |name: &str| RULES.iter().position(|rule| rule.name == name);
    names.into_iter().map(|name| index(name).with_context(|| format!("an unknown subscription {name}"))).collect()
}

/// The number of a delivered write: its document's, or where that was left out, its key's.
pub(super) fn number_of(document: Option<u64>, key: &str) -> anyhow::Result<u64> {
    let of_key = || key.strip_prefix(NEW_KEY)?.parse().ok();
    document.or_else(of_key).with_context(|| format!("a change of {key} without its number"))
}
