//! Random subscriptions over everything that a filter can say.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// Terms in CEL over the documents that `writes` makes.
const CEL: [&str; 20] = [
    "doc.stars > 3",
    "doc.stars % 3 == 0 || doc.kind == 'draft'",
    "'red' in doc.tags",
    "doc.tags.exists(t, t.startsWith('b'))",
    "doc.tags.all(t, size(t) > 3)",
    "size(doc.tags) >= 2",
    "has(doc.opt) && doc.opt != null",
    "!has(doc.opt)",
    "has(doc.nested.a) && doc.nested.a >= 1",
    "doc.nested.b.c == 'x' || doc.missing == 1 || doc.stars < 4",
    "op == 'update' && doc.n > 1",
    "op != 'delete' && doc.at >= 10",
    "before != null && doc.stars > before.stars",
    "before == null || doc.kind != before.kind",
    "key.endsWith('7') || key.endsWith('3')",
    "tenant == 'acme' && doc.author in ['bob', 'eve']",
    "doc.author.matches('^[a-c].*')",
    "collection.startsWith('c') && doc.kind in ['post', 'mail']",
    "type(doc.stars) == int && doc.stars / 2 == 1",
    "doc.when > timestamp('2026-01-01T00:00:03Z')",
];

/// Fields with values near those that are written.
fn operand(random: &mut ChaCha8Rng) -> (&'static str, Value) {
    let text = |values: &[&str], random: &mut ChaCha8Rng| json!(values.choose(random).unwrap());
    match random.random_range(0..10) {
        0 => ("kind", text(&["post", "mail", "draft", "po"], random)),
        1 => ("author", text(&["ann", "bob", "cid", "eve"], random)),
        2 => ("stars", json!(random.random_range(0..7))),
        3 => ("stars", json!(f64::from(random.random_range(0..14)) / 2.0)),
        4 => ("at", json!(random.random_range(0..30))),
        5 => ("nested.a", json!(random.random_range(0..3))),
        6 => ("tags.0", text(&["red", "blue", "green"], random)),
        7 => ("when", json!({ "$date": format!("2026-01-01T00:00:0{}Z", random.random_range(0..8)) })),
        8 => ("opt", text(&["x", "y"], random)),
        _ => ("n", json!({ "$numberLong": random.random_range(0..4).to_string() })),
    }
}

fn term(random: &mut ChaCha8Rng) -> Value {
    let (field, value) = operand(random);
    let list = |random: &mut ChaCha8Rng, first: Value| {
        let mut list = vec![first];
        list.extend((0..random.random_range(0..3)).map(|_| operand(random).1));
        Value::Array(list)
    };
    let (field, op, value) = match random.random_range(0..14) {
        0..=2 => (field, "==", value),
        3 => (field, "!=", value),
        4 => (field, "<", value),
        5 => (field, "<=", value),
        6 => (field, ">", value),
        7 => (field, ">=", value),
        8 => (field, "in", list(random, value)),
        9 => (field, "not-in", list(random, value)),
        10 => ("tags", "array-contains", json!(["red", "blue", "none"].choose(random).unwrap())),
        11 => ("tags", "array-contains-any", list(random, json!("green"))),
        12 => ("author", "starts-with", json!(["a", "b", "ev"].choose(random).unwrap())),
        _ => {
            let field = ["opt", "nested.a", "nested.b.c", "tags.1", "kind"].choose(random).unwrap();
            (*field, "exists", json!(random.random::<bool>()))
        }
    };
    json!({ "field": field, "op": op, "value": value })
}

/// Conditions without names: everything but ids, tenant and collection.
pub(super) fn conditions(random: &mut ChaCha8Rng) -> Map<String, Value> {
    let mut conditions = Map::new();
    let mut put = |name: &str, value: Value| conditions.insert(name.to_owned(), value);
    let terms = [0, 1, 1, 1, 2, 3].choose(random).copied().unwrap();
    if terms > 0 {
        put("filters", (0..terms).map(|_| term(random)).collect());
    }
    if terms == 0 || random.random_ratio(1, 4) {
        let mut source = (*CEL.choose(random).unwrap()).to_owned();
        if random.random_ratio(1, 3) {
            let joint = ["&&", "||"].choose(random).unwrap();
            source = format!("({source}) {joint} ({})", CEL.choose(random).unwrap());
        }
        put("cel", json!(source));
    }
    if random.random_ratio(1, 5) {
        let start = random.random_range(0..20);
        put("interval", json!({ "field": "at", "start": start, "stop": start + random.random_range(0..15) }));
    }
    if random.random_ratio(1, 4) {
        let mut operations = vec!["insert", "update", "replace", "delete"];
        operations.retain(|_| random.random());
        if operations.is_empty() {
            operations.push("update");
        }
        put("operations", json!(operations));
    }
    if random.random_ratio(2, 5) {
        put("transitions", json!(true));
    }
    put("ttlSeconds", json!(3600));
    conditions
}

/// All operators that occur.
pub(super) fn operators<'a>(all: impl Iterator<Item = &'a Map<String, Value>>) -> std::collections::BTreeSet<String> {
    let terms = all.filter_map(|conditions| conditions.get("filters")?.as_array()).flatten();
    terms.map(|term| term["op"].as_str().unwrap().to_owned()).collect()
}
