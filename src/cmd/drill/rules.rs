//! The drill's subscriptions, each with a rule by which the drill itself knows what must arrive.
//!
//! Owns both sides: the filter that the hub is given, and the plain condition on a numbered write that it
//! stands for. The condition is written by hand and shares no code with the matcher.

use anyhow::Context;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::writer::{HOT_KEYS, Write};
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

/// What a random subscription asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Parity(u64),
    /// At least, and less than.
    Buckets(u64, u64),
    OneOf(Vec<u64>),
    Key(String),
    /// Divided by the one the number leaves the other.
    Remainder(u64, u64),
    Inserts,
}

impl Wish {
    pub(super) fn draw(random: &mut ChaCha8Rng) -> Self {
        match random.random_range(0..6) {
            0 => Self::Parity(random.random_range(0..2)),
            1 => {
                let least = random.random_range(0..9);
                Self::Buckets(least, random.random_range(least + 1..11))
            }
            2 => {
                let always = random.random_range(0..10);
                Self::OneOf((0..10).filter(|bucket| random.random_bool(0.3) || *bucket == always).collect())
            }
            3 => Self::Key(format!("k-{}", random.random_range(0..HOT_KEYS))),
            4 => {
                let divisor = random.random_range(2..20);
                Self::Remainder(divisor, random.random_range(0..divisor))
            }
            _ => Self::Inserts,
        }
    }

    pub(super) fn wants(&self, write: &Write) -> bool {
        let bucket = write.number % 10;
        match self {
            Self::Parity(parity) => write.number % 2 == *parity,
            Self::Buckets(least, most) => (*least..*most).contains(&bucket),
            Self::OneOf(buckets) => buckets.contains(&bucket),
            Self::Key(key) => write.key == *key,
            Self::Remainder(divisor, remainder) => write.number % divisor == *remainder,
            Self::Inserts => write.operation == Operation::Insert,
        }
    }

    pub(super) fn subscription(&self, gateway: &str, name: String) -> Subscription {
        let asked = Subscription::new(gateway, name, TENANT, COLLECTION);
        match self {
            Self::Parity(parity) => asked.filter("parity", "==", *parity),
            Self::Buckets(least, most) => asked.filter("bucket", ">=", *least).filter("bucket", "<", *most),
            Self::OneOf(buckets) => asked.filter("bucket", "in", json!(buckets)),
            Self::Key(key) => asked.filter("key", "==", key.as_str()),
            Self::Remainder(divisor, remainder) => asked.cel(format!("doc.number % {divisor} == {remainder}")),
            Self::Inserts => Subscription { operations: Some(vec![Operation::Insert]), ..asked },
        }
    }
}

/// Names of random subscriptions begin with this, and end with their number.
const GUEST: &str = "guest-";

/// The name of the random subscription of this number.
pub(super) fn guest_name(number: usize) -> String {
    format!("{GUEST}{number}")
}

/// Which rules these subscriptions stand for; random ones are numbered behind the rules.
pub(super) fn indices_of<'a>(names: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Vec<usize>> {
    let of_guest = |name: &str| name.strip_prefix(GUEST)?.parse().ok().map(|number: usize| RULES.len() + number);
    let index = |name: &str| RULES.iter().position(|rule| rule.name == name).or_else(|| of_guest(name));
    names.into_iter().map(|name| index(name).with_context(|| format!("an unknown subscription {name}"))).collect()
}

/// The number of a delivered write: its document's, or where that was left out, its key's; what is so large is updated
/// at once, with the next number.
pub(super) fn number_of(document: Option<u64>, key: &str, operation: Operation) -> anyhow::Result<u64> {
    let of_insert = || key.strip_prefix(NEW_KEY)?.parse::<u64>().ok();
    let of_key = || of_insert().map(|number| number + u64::from(operation == Operation::Update));
    document.or_else(of_key).with_context(|| format!("a change of {key} without its number"))
}
