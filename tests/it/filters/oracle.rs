//! The index and the fast evaluation against the reference: random filters, documents near their
//! edges, insertions and removals in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::{Bson, Document, doc};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use streamer::change::{Change, Flags, Operation, Scope};
use streamer::clock::Clock;
use streamer::matching::{BloomUse, Filter, Match, Matcher, Matches, SubscriptionIndex};
use streamer::subscription::Spec;

use super::change;

/// Values that collide, almost collide, or must not.
fn scalars() -> Vec<Bson> {
    let of = |subtype, bytes: &[u8]| Bson::Binary(bson::Binary { subtype, bytes: bytes.to_vec() });
    let oid = bson::oid::ObjectId::from_bytes([7; 12]);
    vec![
        Bson::Null,
        Bson::Undefined,
        Bson::Boolean(true),
        Bson::Boolean(false),
        Bson::Int32(0),
        Bson::Int32(1),
        Bson::Int64(1),
        Bson::Int32(-1),
        Bson::Int32(2),
        Bson::Int64(i64::MAX),
        Bson::Int64(i64::MIN),
        Bson::Int64((1 << 53) + 1),
        Bson::Int64(1 << 53),
        Bson::Double(9_007_199_254_740_992.0),
        Bson::Double(9.223_372_036_854_776e18),
        Bson::Double(1.0),
        Bson::Double(0.0),
        Bson::Double(-0.0),
        Bson::Double(1.5),
        Bson::Double(f64::NAN),
        Bson::Double(f64::INFINITY),
        Bson::Double(5e-324),
        Bson::Decimal128("1".parse().unwrap()),
        Bson::Decimal128("1.50".parse().unwrap()),
        Bson::Decimal128("NaN".parse().unwrap()),
        Bson::Decimal128("1E+400".parse().unwrap()),
        "".into(),
        "\0".into(),
        "a".into(),
        "a\0".into(),
        "a\0\0".into(),
        "ab".into(),
        "b".into(),
        "é".into(),
        "e\u{301}".into(),
        "1".into(),
        "0".into(),
        Bson::Symbol("a".into()),
        Bson::ObjectId(oid),
        oid.to_hex().into(),
        Bson::DateTime(bson::DateTime::from_millis(0)),
        Bson::DateTime(bson::DateTime::from_millis(1)),
        Bson::DateTime(bson::DateTime::from_millis(-1)),
        Bson::DateTime(bson::DateTime::from_millis(1_483_228_800_000)),
        Bson::DateTime(bson::DateTime::from_millis(253_402_300_799_999)),
        Bson::DateTime(bson::DateTime::from_millis(253_402_300_800_000)),
        of(bson::spec::BinarySubtype::Generic, &[1]),
        of(bson::spec::BinarySubtype::Uuid, &[1]),
        of(bson::spec::BinarySubtype::Generic, b"a"),
        Bson::Timestamp(bson::Timestamp { time: 1, increment: 1 }),
        "{\"$timestamp\":{\"t\":1,\"i\":1}}".into(),
        Bson::MinKey,
        Bson::MaxKey,
        Bson::JavaScriptCode("a b".into()),
        Bson::RegularExpression(bson::Regex { pattern: "a".try_into().unwrap(), options: "i".try_into().unwrap() }),
    ]
}

fn scalar() -> impl Strategy<Value = Bson> {
    select(scalars())
}

const NAMES: [&str; 5] = ["a", "b", "0", "1", "x"];

/// Any value, nested to this depth.
pub(super) fn bson(depth: u32) -> BoxedStrategy<Bson> {
    let leaf = scalar().boxed();
    leaf.prop_recursive(depth, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Bson::Array),
            vec((select(&NAMES[..]), inner), 0..4).prop_map(|fields| {
                Bson::Document(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
    .boxed()
}

/// Mostly plain values, for those are what indexes are made of.
fn mostly_plain() -> BoxedStrategy<Bson> {
    prop_oneof![4 => scalar(), 1 => bson(3)].boxed()
}

fn document() -> impl Strategy<Value = Document> {
    vec((select(&NAMES[..]), mostly_plain()), 1..6)
        .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => select(&NAMES[..2]).prop_map(str::to_owned),
        1 => vec(select(&NAMES[..]), 1..4).prop_map(|steps| steps.join(".")),
    ]
}

const OPERATORS: [&str; 12] =
    ["==", "!=", "<", "<=", ">", ">=", "in", "not-in", "array-contains", "array-contains-any", "starts-with", "exists"];

fn term(value: BoxedStrategy<Bson>) -> impl Strategy<Value = Value> {
    let weighted = prop_oneof![4 => Just("=="), 2 => Just("in"), 4 => select(&OPERATORS[..])];
    (path(), weighted, value.clone(), vec(value, 0..4), any::<bool>()).prop_map(|(field, op, value, list, flag)| {
        let value = match op {
            "in" | "not-in" | "array-contains-any" => Bson::Array(list),
            "exists" => Bson::Boolean(flag),
            _ => value,
        };
        json!({"field": field, "op": op, "value": value.into_canonical_extjson()})
    })
}

const CEL: [&str; 22] = [
    "doc.a == 1",
    "doc.a == doc.b",
    "doc.a != doc.b",
    "has(doc.a.b) || doc.x == null",
    "doc.a in doc.b",
    "doc.a < doc.b",
    "doc.a.exists(x, x == 1)",
    "doc.a.exists(x, x == 'x' || x in [2, 2.5, null] || x == 3u)",
    "doc.b.exists(x, doc.a == 1 && x == doc.b || 1 == x && doc.a != 2)",
    "doc.a > timestamp('1970-01-01T00:00:00Z') && doc.a <= timestamp('1970-01-01T00:00:00.001Z')",
    "doc.a != timestamp('1970-01-01T00:00:00.0001Z') || doc.b == timestamp('0001-01-01T00:00:00Z')",
    "doc.a > timestamp('2016-12-31T23:59:60Z') || doc.b == timestamp('2016-12-31T23:59:60Z')",
    "doc.a.startsWith('a') && doc.a <= 'a'",
    "doc.a.all(x, x != 1)",
    "!(doc.a == 'a')",
    "op == 'insert'",
    "before.a == doc.a",
    "before == null",
    "size(doc.a) > 1",
    "doc.a.startsWith('a') || doc.b > 1",
    "tenant == 't' && key == 'k'",
    "doc.a[0] == doc.b['0']",
];

/// Literals as CEL writes them.
const LITERALS: [&str; 18] = [
    "-2u",
    "-(1)",
    "1",
    "-1",
    "0",
    "2u",
    "1.0",
    "1.5",
    "-0.0",
    "9223372036854775807",
    "true",
    "false",
    "null",
    "''",
    "'a'",
    "'ab'",
    "b'a'",
    "9007199254740993",
];

fn cel_path() -> impl Strategy<Value = String> {
    let step = prop_oneof![
        3 => select(vec![".a", ".b", ".x"]),
        1 => select(vec!["['a']", "['0']", "['1']", "[0]", "[1]"]),
    ];
    let rest = prop_oneof![3 => vec(step.clone(), 0..1), 1 => vec(step, 1..3)];
    (select(vec![".a", ".b", "['0']"]), rest).prop_map(|(first, rest)| format!("doc{first}{}", rest.concat()))
}

/// Nested Boolean CEL; all of it compiles.
fn a_condition() -> BoxedStrategy<String> {
    let literal = || select(&LITERALS[..]);
    let comparison = select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let leaf = prop_oneof![
        4 => (cel_path(), comparison.clone(), literal()).prop_map(|(path, op, value)| format!("{path} {op} {value}")),
        2 => (literal(), comparison.clone(), cel_path()).prop_map(|(value, op, path)| format!("{value} {op} {path}")),
        1 => (cel_path(), comparison, cel_path()).prop_map(|(path, op, other)| format!("{path} {op} {other}")),
        2 => (cel_path(), vec(literal(), 0..4)).prop_map(|(path, values)| format!("{path} in [{}]", values.join(", "))),
        2 => (literal(), cel_path()).prop_map(|(value, path)| format!("{value} in {path}")),
        1 => (cel_path(), select(vec![".a", ".b", ".x"])).prop_map(|(path, last)| format!("has({path}{last})")),
        1 => select(vec!["has(doc.a)", "has(doc.b)", "true", "false"]).prop_map(str::to_owned),
        1 => (cel_path(), select(vec!["", "a", "é"])).prop_map(|(path, text)| format!("{path}.startsWith('{text}')")),
        1 => cel_path(),
        1 => select(&CEL[..]).prop_map(|cel| format!("({cel})")),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let three = (inner.clone(), inner.clone(), inner.clone());
        prop_oneof![
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            3 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            2 => inner.prop_map(|a| format!("!({a})")),
            1 => three.prop_map(|(condition, a, b)| format!("({condition} ? {a} : {b})")),
        ]
    })
    .boxed()
}

/// A request; most are valid.
pub(super) fn request_of(value: BoxedStrategy<Bson>) -> impl Strategy<Value = Value> {
    let operations =
        prop_oneof![3 => Just(json!(null)), 1 => Just(json!(["insert", "delete"])), 1 => Just(json!(["update"]))];
    let cel = prop_oneof![
        3 => Just(json!(null)),
        1 => select(&CEL[..]).prop_map(Value::from),
        3 => a_condition().prop_map(Value::from),
    ];
    let interval = prop_oneof![
        3 => Just(json!(null)),
        1 => (path(), scalar(), scalar()).prop_map(|(field, start, stop)| {
            json!({"field": field, "start": start.into_canonical_extjson(), "stop": stop.into_canonical_extjson()})
        }),
    ];
    let scope = (select(vec!["t", "t", "t", "u"]), select(vec!["c", "c", "c", "d"]));
    (vec(term(value), 0..3), cel, interval, operations, any::<bool>(), scope).prop_map(
        |(filters, cel, interval, operations, transitions, (tenant, collection))| {
            json!({"subscriptionId": "s", "gatewayId": "g", "tenant": tenant, "collection": collection, "filters": filters,
                   "cel": cel, "interval": interval, "operations": operations, "transitions": transitions})
        },
    )
}

fn a_filter() -> impl Strategy<Value = Arc<Filter>> {
    request_of(mostly_plain()).prop_filter_map("a valid request", |request| {
        Some(Filter::compile(&Spec::from_json(&request).ok()?).expect("these compile"))
    })
}

fn a_scope() -> impl Strategy<Value = Scope> {
    (select(vec!["t", "t", "u"]), select(vec!["c", "c", "d"]))
        .prop_map(|(tenant, collection)| Scope::known(tenant, collection))
}

/// A change as a source makes them.
fn a_change() -> impl Strategy<Value = Change> {
    let images = (document(), proptest::option::of(document()), any::<bool>());
    let left = proptest::option::weighted(0.2, a_scope());
    (select(&Operation::ALL[..]), images, a_scope(), left, 0..20_u8, 0..4_u8).prop_map(
        |(operation, (now, before, keep), scope, left, odd, unknown)| {
            let mut made = change(&now);
            made.operation = operation;
            made.scope = scope;
            made.before = before.map(|before| super::raw(if keep { &now } else { &before }));
            match operation {
                Operation::Insert => made.before = None,
                Operation::Delete => made.document = None,
                _ => {}
            }
            if made.before.is_some() && operation != Operation::Delete && left.as_ref() != Some(&made.scope) {
                made.left = left;
            }
            if operation == Operation::Delete && made.before.is_none() {
                made.scope.collection = made.scope.collection.filter(|_| unknown & 1 == 0);
                made.scope.tenant = made.scope.tenant.filter(|_| unknown & 2 == 0);
            }
            if odd == 0 {
                (made.document, made.flags) = (None, Flags::REDUCED);
            }
            if odd == 1 {
                made.document = made.document.map(|_| broken());
            }
            if odd == 2 {
                made.document = made.document.as_ref().map(misspelt);
            }
            if odd == 3 {
                made.before = made.before.as_ref().map(misspelt);
            }
            made
        },
    )
}

/// A document whose second field is cut off in the middle of its text.
fn broken() -> bson::RawDocumentBuf {
    let mut bytes = super::raw(&doc! {"a": 1, "b": "text"}).into_bytes();
    let length = bytes.len();
    bytes[length - 6] = 0xff;
    bytes[length - 10] = 0x7f;
    bson::RawDocumentBuf::from_bytes(bytes).expect("the frame is whole")
}

/// The same with every text "a", at any depth, in a byte that is no UTF-8.
fn misspelt(document: &bson::RawDocumentBuf) -> bson::RawDocumentBuf {
    let mut bytes = document.as_bytes().to_vec();
    let text = [2, 0, 0, 0, b'a', 0];
    for at in 0..bytes.len().saturating_sub(text.len()) {
        if bytes[at..].starts_with(&text) {
            bytes[at + 4] = 0xff;
        }
    }
    bson::RawDocumentBuf::from_bytes(bytes).expect("the frame is whole")
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u32, Arc<Filter>),
    /// The first asks for what the second does.
    Share(u32, u32),
    Remove(u32),
    Changes(Vec<Change>),
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..40_u32, a_filter()).prop_map(|(number, filter)| Step::Insert(number, filter)),
        1 => (0..40_u32).prop_map(Step::Remove),
        1 => (0..40_u32, 0..40_u32).prop_map(|(number, other)| Step::Share(number, other)),
        2 => vec(a_change(), 1..4).prop_map(Step::Changes),
        // More than are looked for together.
        1 => vec(a_change(), 10..40).prop_map(Step::Changes),
    ]
}

proptest! {
    #![proptest_config(super::cases(300))]

    #[test]
    fn the_index_finds_exactly_what_the_reference_says(steps in vec(a_step(), 1..50), bloom in any::<bool>()) {
        let bloom = if bloom { BloomUse::From(0) } else { BloomUse::Off };
        let mut matcher = Matcher::watched(bloom, Clock::manual(), 1);
        let mut model: BTreeMap<SubscriptionIndex, Arc<Filter>> = BTreeMap::new();
        let mut out = Matches::default();
        for step in steps {
            match step {
                Step::Share(number, other) => {
                    if let Some(filter) = model.get(&SubscriptionIndex(other)).cloned() {
                        matcher.insert(SubscriptionIndex(number), Arc::clone(&filter));
                        model.insert(SubscriptionIndex(number), filter);
                    }
                }
                Step::Insert(number, filter) => {
                    matcher.insert(SubscriptionIndex(number), Arc::clone(&filter));
                    model.insert(SubscriptionIndex(number), filter);
                }
                Step::Remove(number) => {
                    let removed = matcher.remove(SubscriptionIndex(number));
                    prop_assert_eq!(removed, model.remove(&SubscriptionIndex(number)).is_some());
                }
                Step::Changes(changes) => {
                    matcher.matches_of(&changes, &mut out);
                    prop_assert_eq!(out.iter_mut().count(), changes.len());
                    let mut one = Vec::new();
                    for (change, found) in changes.iter().zip(out.iter_mut()) {
                        let evaluate = |(subscription, filter): (&SubscriptionIndex, &Arc<Filter>)| {
                            filter.evaluate(change).map(|verdict| Match { subscription: *subscription, verdict })
                        };
                        let expected: Vec<Match> = model.iter().filter_map(evaluate).collect();
                        prop_assert_eq!(&*found, &expected, "{:?}", change);
                        matcher.matches(change, &mut one);
                        prop_assert_eq!(&one, &expected, "alone: {:?}", change);
                    }
                }
            }
            prop_assert_eq!(matcher.len(), model.len());
            // It checks itself, and finds what this test would.
            prop_assert_eq!(matcher.counts().shadow.differences, 0);
        }
    }
}

/// An interval of numbers or dates, and who asks for it: most in the simplest way.
fn an_interval() -> impl Strategy<Value = serde_json::Value> {
    let ends = (0..60_i64, prop_oneof![4 => 0..12_i64, 1 => 0..2_000_i64]);
    (ends, 0..8_u8, 0..10_u8).prop_map(|((start, length), kind, way)| {
        let value = |n: i64| match kind {
            0..=4 => Bson::Int64(n),
            5 | 6 => Bson::Double(n as f64 / 4.0),
            _ => Bson::DateTime(bson::DateTime::from_millis(n)),
        };
        let end = |n: i64| value(n).into_canonical_extjson();
        let mut asked = json!({"interval": {"field": "a", "start": end(start), "stop": end(start + length)}});
        match way {
            0 => asked["transitions"] = json!(true),
            1 => asked["operations"] = json!(["update", "delete"]),
            2 => asked["filters"] = json!([{"field": "b", "op": "==", "value": 1}]),
            _ => {}
        }
        asked
    })
}

proptest! {
    #![proptest_config(super::cases(60))]

    /// Enough for them to be divided again and again, some asked for by several, and some by nobody for a while.
    #[test]
    fn many_intervals_are_found_exactly(
        asked in vec(an_interval(), 1..150),
        steps in vec((0..200_u32, 0..150_usize, 0..4_u8), 100..600),
        changes in vec((0..260_i64, 0..260_i64, 0..5_u8), 20..60),
    ) {
        let filters: Vec<_> = asked.into_iter().map(|asked| super::compile(asked).expect("these compile")).collect();
        let (mut matcher, mut model) = (Matcher::new(), BTreeMap::new());
        for (number, filter, removes) in steps {
            if removes == 0 {
                prop_assert_eq!(matcher.remove(SubscriptionIndex(number)), model.remove(&number).is_some());
            } else {
                let filter = &filters[filter % filters.len()];
                matcher.insert(SubscriptionIndex(number), Arc::clone(filter));
                model.insert(number, Arc::clone(filter));
            }
        }
        let value = |n: i64| match n % 4 {
            0 | 1 => Bson::Int64(n / 4),
            2 => Bson::Double(n as f64 / 8.0),
            _ => Bson::DateTime(bson::DateTime::from_millis(n / 4)),
        };
        let changes: Vec<Change> = changes.into_iter().map(|(now, before, way)| {
            let mut made = change(&doc! {"a": value(now), "b": now % 2});
            let was = super::raw(&doc! {"a": value(before), "b": 1});
            match way {
                0 => {}
                1 => made.operation = Operation::Update,
                2 => (made.operation, made.before) = (Operation::Replace, Some(was)),
                3 => (made.operation, made.before, made.document) = (Operation::Delete, Some(was), None),
                _ => (made.operation, made.before, made.left) = (Operation::Update, Some(was), Some(Scope::known("t", "d"))),
            }
            made
        }).collect();
        let mut out = Matches::default();
        matcher.matches_of(&changes, &mut out);
        for (change, found) in changes.iter().zip(out.iter_mut()) {
            let evaluate = |(number, filter): (&u32, &Arc<Filter>)| {
                filter.evaluate(change).map(|verdict| Match { subscription: SubscriptionIndex(*number), verdict })
            };
            let expected: Vec<Match> = model.iter().filter_map(evaluate).collect();
            prop_assert_eq!(&*found, &expected, "{:?}", change);
        }
        for number in model.keys() {
            matcher.remove(SubscriptionIndex(*number));
        }
        matcher.matches_of(&changes, &mut out);
        prop_assert!(out.iter_mut().all(|found| found.is_empty()));
    }
}

/// Values that expressions can do something with, in lists and maps and by themselves.
fn workable() -> BoxedStrategy<Bson> {
    let plain = prop_oneof![
        3 => (-2..4_i64).prop_map(Bson::Int64),
        2 => select(vec!["a", "ab", "é", "", "1", "true"]).prop_map(Bson::from),
        1 => any::<bool>().prop_map(Bson::Boolean),
        1 => select(vec![1.0, 1.5, -0.5]).prop_map(Bson::Double),
        2 => scalar(),
    ]
    .boxed();
    let map = vec((select(&NAMES[..]), plain.clone()), 0..4)
        .prop_map(|fields| Bson::Document(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()));
    let element = prop_oneof![6 => plain.clone(), 1 => map.clone(), 1 => bson(2)];
    prop_oneof![5 => plain, 3 => vec(element, 0..5).prop_map(Bson::Array), 2 => map, 1 => bson(3)].boxed()
}

fn workable_document() -> impl Strategy<Value = Document> {
    vec((select(&["a", "a", "b", "b", "x", "0"][..]), workable()), 2..7)
        .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Any expression that is worked out over a body, `within` a loop or not.
fn a_value(depth: u32, within: bool) -> BoxedStrategy<String> {
    let steps = || select(vec!["", "", "", ".a", "['b']", "['0']", "[0]", "[1u]", "[key]"]);
    let body = select(vec!["doc.a", "doc.a", "doc.b", "doc.b", "doc.x", "before.a", "before.b", "doc", "before"]);
    let path = (body, steps()).prop_map(|(path, step)| format!("{path}{step}"));
    let text = select(vec!["'a'", "'é'", "b'a'", "op", "key", "tenant", "collection", "2", "0u", "'2'"]);
    let literal = prop_oneof![select(&LITERALS[..]), text].prop_map(str::to_owned);
    let instant = select(vec!["timestamp('1970-01-01T00:00:00Z')", "timestamp('1970-01-01T01:00:00.001+01:00')"]);
    let types = select(vec!["int", "string", "list", "google.protobuf.Timestamp"]);
    let leaf = prop_oneof![
        6 => path,
        4 => literal.clone(),
        1 => instant.prop_map(str::to_owned),
        1 => types.prop_map(str::to_owned),
        if within { 8 } else { 1 } => steps().prop_map(move |step| format!("{}{step}", if within { "x" } else { "key" })),
    ]
    .boxed();
    if depth == 0 {
        return leaf;
    }
    let inner = || a_value(depth - 1, within);
    let one = select(vec!["size", "int", "uint", "double", "string", "bytes", "bool", "type", "dyn"]);
    let list = vec(inner(), 0..3).prop_map(|items| format!("[{}]", items.join(", ")));
    let looped = if within {
        leaf.clone()
    } else {
        let parts = (inner(), a_test(depth - 1, true), a_value(depth - 1, true), 0..3_u8);
        let looped = |(range, test, value, kind)| match kind {
            0 => format!("({range}).filter(x, {test})"),
            1 => format!("({range}).map(x, {value})"),
            _ => format!("({range}).map(x, {test}, {value})"),
        };
        parts.prop_map(looped).boxed()
    };
    prop_oneof![
        4 => leaf,
        4 => (inner(), select(vec!["+", "-", "*", "/", "%"]), inner()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
        3 => (one, inner()).prop_map(|(function, a)| format!("{function}({a})")),
        1 => inner().prop_map(|a| format!("({a}).size()")),
        1 => inner().prop_map(|a| format!("-({a})")),
        1 => list,
        1 => (inner(), inner()).prop_map(|(a, b)| format!("({a})[{b}]")),
        1 => (a_test(depth - 1, within), inner(), inner()).prop_map(|(test, a, b)| format!("({test} ? {a} : {b})")),
        1 => a_test(depth - 1, within),
        1 => looped,
    ]
    .boxed()
}

/// The same, most likely true or false.
fn a_test(depth: u32, within: bool) -> BoxedStrategy<String> {
    let value = || a_value(depth.saturating_sub(1), within);
    let literal = || select(&LITERALS[..]);
    let comparison = || select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let text = select(vec!["contains", "startsWith", "endsWith"]);
    let compared = (value(), comparison(), value()).prop_map(|(a, op, b)| format!("({a} {op} {b})"));
    let leaf = prop_oneof![
        5 => compared,
        3 => (value(), comparison(), literal()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
        2 => (value(), value()).prop_map(|(a, b)| format!("({a} in {b})")),
        1 => (value(), vec(literal(), 0..4)).prop_map(|(a, items)| format!("({a} in [{}])", items.join(", "))),
        2 => (value(), text, value()).prop_map(|(a, test, b)| format!("({a}).{test}({b})")),
        1 => (value(), select(vec!["a", "b", "x"])).prop_map(|(a, name)| format!("has(({a}).{name})")),
        1 => value().prop_map(move |a| if within { a } else { format!("({a}).matches('^(a|b)+$')") }),
    ]
    .boxed();
    if depth == 0 {
        return leaf;
    }
    let inner = || a_test(depth - 1, within);
    let looped = if within {
        leaf.clone()
    } else {
        let kind = select(vec!["exists", "exists", "all", "exists_one"]);
        let parts = (value(), kind, a_test(depth - 1, true));
        parts.prop_map(|(range, kind, test)| format!("({range}).{kind}(x, {test})")).boxed()
    };
    prop_oneof![
        4 => leaf,
        2 => (inner(), select(vec!["&&", "||"]), inner()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
        1 => inner().prop_map(|a| format!("!({a})")),
        1 => (inner(), inner(), inner()).prop_map(|(test, a, b)| format!("({test} ? {a} : {b})")),
        3 => looped,
    ]
    .boxed()
}

/// A filter of one such expression. Not all are within CEL's limits.
fn a_worked_out_filter() -> impl Strategy<Value = Arc<Filter>> {
    (a_test(3, false), any::<bool>()).prop_filter_map("within the limits", |(cel, transitions)| {
        super::compile(json!({"cel": cel, "transitions": transitions})).ok()
    })
}

fn a_worked_out_change() -> impl Strategy<Value = Change> {
    let before = proptest::option::weighted(0.6, workable_document());
    (workable_document(), before, 0..20_u8).prop_map(|(now, before, odd)| {
        let mut made = change(&now);
        made.before = before.map(|before| if odd == 0 { broken() } else { super::raw(&before) });
        if odd == 1 {
            made.document = Some(broken());
        }
        if odd == 2 && made.before.is_some() {
            (made.operation, made.document) = (Operation::Delete, None);
        }
        made
    })
}

proptest! {
    #![proptest_config(super::cases(3000))]

    #[test]
    fn what_is_worked_out_over_bodies_is_what_the_interpreter_says(
        filters in vec(a_worked_out_filter(), 1..6),
        changes in vec(a_worked_out_change(), 1..6),
    ) {
        let (mut matcher, mut out) = (Matcher::new(), Vec::new());
        for (number, filter) in filters.iter().enumerate() {
            matcher.insert(SubscriptionIndex(number as u32), Arc::clone(filter));
        }
        for change in &changes {
            matcher.matches(change, &mut out);
            for (number, filter) in filters.iter().enumerate() {
                let found = out.iter().find(|found| found.subscription == SubscriptionIndex(number as u32));
                prop_assert_eq!(found.map(|found| found.verdict), filter.evaluate(change), "{:?} {:?}", filter, change);
            }
        }
    }
}

/// Every operator, every pair of values, bare and inside containers.
#[test]
fn every_operator_agrees_on_every_pair_of_values() {
    let values = scalars();
    let mut bodies = vec![doc! {}];
    for value in &values {
        let in_containers: [Bson; 5] = [
            value.clone(),
            vec![value.clone()].into(),
            vec![Bson::Int32(1), value.clone(), Bson::Array(vec![value.clone()])].into(),
            doc! {"a": value.clone()}.into(),
            doc! {"1": [value.clone()], "a": 1}.into(),
        ];
        bodies.extend(in_containers.map(|value| doc! {"a": value}));
    }
    let changes: Vec<Change> = bodies.iter().map(change).collect();
    let mut matcher = Matcher::new();
    let (mut out, mut compared) = (Vec::new(), 0);
    for op in OPERATORS {
        for value in &values {
            let operand = match op {
                "in" | "not-in" | "array-contains-any" => vec![value.clone(), Bson::Int32(7)].into(),
                "exists" => Bson::Boolean(*value == Bson::Null),
                _ => value.clone(),
            };
            let fields = json!({"filters": [{"field": "a", "op": op, "value": operand.into_canonical_extjson()}]});
            let Ok(filter) = super::compile(fields) else { continue };
            matcher.insert(SubscriptionIndex(0), Arc::clone(&filter));
            for change in &changes {
                matcher.matches(change, &mut out);
                assert_eq!(out.first().map(|found| found.verdict), filter.evaluate(change), "{filter:?} {change:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 50_000, "{compared}");
}
