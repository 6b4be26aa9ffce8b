//! The rules of `docs/filters.md` beside CEL: operators, images, transitions, scopes, broadcasts,
//! plans.

use std::sync::Arc;

use bson::{Bson, Document, doc};
use serde_json::{Value, json};
use streamer::change::{Change, Flags, Operation, Scope};
use streamer::matching::{BloomUse, Certainty, Match, Matcher, SubscriptionIndex, Transition, Verdict};

use super::{change, filter, is_match, raw};

fn sample() -> Document {
    doc! {
        "s": "chat", "i": 3, "d": 3.0, "n": Bson::Null, "t": true, "list": [1, "x", [2]], "map": {"k": 1, "0": "zero"},
        "deep": [{"a": [10, 20]}], "date": bson::DateTime::from_millis(1000),
        "oid": bson::oid::ObjectId::from_bytes([0xab; 12]),
    }
}

#[track_caller]
fn check(cases: &[(&str, &str, Value, bool)]) {
    for (field, op, value, expected) in cases {
        let fields = json!({"filters": [{"field": field, "op": op, "value": value}]});
        assert_eq!(is_match(fields, &sample()), *expected, "{field} {op} {value}");
    }
}

#[test]
fn equality_and_order() {
    check(&[
        ("s", "==", json!("chat"), true),
        ("s", "==", json!("Chat"), false),
        ("s", "!=", json!("Chat"), true),
        ("s", "!=", json!(1), true),
        ("missing", "!=", json!(1), false),
        ("i", "==", json!(3.0), true),
        ("d", "==", json!(3), true),
        ("i", "==", json!({"$numberDecimal": "3.00"}), true),
        ("i", "==", json!("3"), false),
        ("n", "==", json!(null), true),
        ("missing", "==", json!(null), false),
        ("t", "==", json!(true), true),
        ("t", "==", json!(1), false),
        ("oid", "==", json!({"$oid": "abababababababababababab"}), true),
        ("oid", "==", json!("abababababababababababab"), true),
        ("date", "==", json!({"$date": "1970-01-01T00:00:01Z"}), true),
        ("date", "==", json!("1970-01-01T00:00:01Z"), false),
        ("map", "==", json!({"0": "zero", "k": 1.0}), true),
        ("list", "==", json!([1, "x", [2]]), true),
        ("list", "==", json!([1, "x"]), false),
        ("i", "<", json!(3.5), true),
        ("i", "<=", json!(3), true),
        ("i", ">", json!(3), false),
        ("i", ">=", json!(3.0), true),
        ("i", "<", json!("4"), false),
        ("s", ">=", json!("chas"), true),
        ("date", "<", json!({"$date": "2000-01-01T00:00:00Z"}), true),
        ("missing", "<", json!(1), false),
        ("n", "<", json!(1), false),
    ]);
}

#[test]
fn membership_prefixes_and_presence() {
    check(&[
        ("i", "in", json!([1, 3.0]), true),
        ("i", "in", json!([]), false),
        ("i", "not-in", json!([]), true),
        ("i", "not-in", json!([3]), false),
        ("missing", "not-in", json!([3]), false),
        ("n", "in", json!([null]), true),
        ("list", "array-contains", json!(1.0), true),
        ("list", "array-contains", json!([2]), true),
        ("list", "array-contains", json!(2), false),
        ("map", "array-contains", json!("k"), true),
        ("map", "array-contains", json!("zero"), false),
        ("s", "array-contains", json!("c"), false),
        ("list", "array-contains-any", json!([7, "x"]), true),
        ("list", "array-contains-any", json!([7, "y"]), false),
        ("map", "array-contains-any", json!([null, "k"]), true),
        ("s", "starts-with", json!("ch"), true),
        ("s", "starts-with", json!(""), true),
        ("s", "starts-with", json!("Ch"), false),
        ("i", "starts-with", json!("3"), false),
        ("oid", "starts-with", json!("abab"), true),
        ("n", "exists", json!(true), true),
        ("missing", "exists", json!(false), true),
        ("missing", "exists", json!(true), false),
        ("missing.a", "exists", json!(false), false),
        ("s.a", "exists", json!(false), false),
    ]);
}

#[test]
fn paths_walk_maps_and_arrays() {
    check(&[
        ("map.k", "==", json!(1), true),
        ("map.0", "==", json!("zero"), true),
        ("list.0", "==", json!(1), true),
        ("list.2.0", "==", json!(2), true),
        ("list.3", "==", json!(1), false),
        ("list.00", "==", json!(1), false),
        ("list.k", "==", json!(1), false),
        ("deep.0.a.1", "==", json!(20), true),
        ("deep.a", "exists", json!(true), false),
        ("deep.a", "exists", json!(false), false),
        ("list.2", "exists", json!(true), true),
        ("list.3", "exists", json!(false), true),
        ("list.-1", "exists", json!(false), false),
    ]);
}

#[test]
fn intervals_have_both_ends() {
    for (start, stop, expected) in [
        (json!(3), json!(3), true),
        (json!(1), json!(2.9), false),
        (json!(3.1), json!(4), false),
        (json!(2.5), json!(3.0), true),
        (json!("a"), json!("z"), false),
    ] {
        let fields = json!({"interval": {"field": "i", "start": start, "stop": stop}});
        assert_eq!(is_match(fields.clone(), &sample()), expected, "{fields}");
    }
}

fn update(before: Option<Document>, after: Document) -> Change {
    Change { before: before.as_ref().map(raw), ..change(&after) }
}

fn delete(before: Option<Document>) -> Change {
    Change { operation: Operation::Delete, document: None, ..update(before, doc! {}) }
}

const ENTER: Option<(Transition, Certainty)> = Some((Transition::Enter, Certainty::Exact));
const UPDATE: Option<(Transition, Certainty)> = Some((Transition::Update, Certainty::Exact));
const LEAVE: Option<(Transition, Certainty)> = Some((Transition::Leave, Certainty::Exact));
const UNSURE: Option<(Transition, Certainty)> = Some((Transition::Update, Certainty::Unknown));

fn told(fields: &Value, change: &Change) -> Option<(Transition, Certainty)> {
    let verdict = filter(fields.clone()).evaluate(change)?;
    assert!(!verdict.broadcast);
    Some((verdict.transition.expect("asked for"), verdict.certainty.expect("asked for")))
}

#[test]
fn transitions() {
    let fields = json!({"filters": [{"field": "a", "op": "==", "value": 1}], "transitions": true});
    let (yes, no) = (doc! {"a": 1}, doc! {"a": 2});
    let insert = |d: &Document| Change { operation: Operation::Insert, ..change(d) };
    for (change, expected) in [
        (insert(&yes), ENTER),
        (insert(&no), None),
        (update(Some(no.clone()), yes.clone()), ENTER),
        (update(Some(yes.clone()), yes.clone()), UPDATE),
        (update(Some(yes.clone()), no.clone()), LEAVE),
        (update(Some(no.clone()), no.clone()), None),
        (update(None, yes.clone()), UNSURE),
        (update(None, no.clone()), None),
        (delete(Some(yes.clone())), LEAVE),
        (delete(Some(no.clone())), None),
    ] {
        assert_eq!(told(&fields, &change), expected, "{change:?}");
    }
    // `operations` looks at the change only.
    let only = json!({"filters": fields["filters"], "transitions": true, "operations": ["update"]});
    assert_eq!(told(&only, &update(Some(yes.clone()), no)), LEAVE);
    assert_eq!(told(&only, &delete(Some(yes))), None);
}

#[test]
fn before_is_null_while_the_pre_image_is_evaluated_and_for_deletes() {
    let fields = json!({"cel": "before == null && doc.a == 1", "transitions": true});
    assert_eq!(told(&fields, &update(Some(doc! {"a": 1}), doc! {"a": 1})), LEAVE);
    assert_eq!(told(&fields, &delete(Some(doc! {"a": 1}))), LEAVE);
    assert_eq!(told(&fields, &update(None, doc! {"a": 1})), UNSURE);
}

#[test]
fn without_transitions_the_present_document_decides_and_for_a_delete_the_last() {
    let fields = json!({"filters": [{"field": "a", "op": "==", "value": 1}]});
    let f = filter(fields);
    assert_eq!(f.evaluate(&update(Some(doc! {"a": 2}), doc! {"a": 1})), Some(Verdict::MATCH));
    assert_eq!(f.evaluate(&update(Some(doc! {"a": 1}), doc! {"a": 2})), None);
    assert_eq!(f.evaluate(&delete(Some(doc! {"a": 1}))), Some(Verdict::MATCH));
    assert_eq!(f.evaluate(&delete(Some(doc! {"a": 2}))), None);
}

const BROADCAST: Verdict =
    Verdict { transition: None, certainty: Some(Certainty::Unknown), broadcast: true, left_scope: false };

#[test]
fn what_cannot_be_evaluated_is_broadcast_to_whom_it_may_concern() {
    let mut matcher = Matcher::new();
    let scopes = [("t", "c", true), ("t", "d", true), ("u", "c", true), ("t", "c", false)];
    for (number, (tenant, collection, deletes)) in scopes.into_iter().enumerate() {
        let operations = if deletes { json!(null) } else { json!(["insert", "update"]) };
        let fields = json!({"tenant": tenant, "collection": collection, "operations": operations, "transitions": number == 0,
                            "filters": [{"field": "a", "op": "==", "value": 1}]});
        matcher.insert(SubscriptionIndex(number as u32), filter(fields));
    }
    let mut told = |change: &Change| -> Vec<u32> {
        let mut out = Vec::new();
        matcher.matches(change, &mut out);
        out.iter()
            .map(|Match { subscription, verdict }| {
                (*verdict == BROADCAST).then_some(subscription.0).expect("broadcast")
            })
            .collect()
    };
    let scoped = |tenant: Option<&str>, collection: Option<&str>| Change {
        scope: Scope { tenant: tenant.map(Arc::from), collection: collection.map(Arc::from) },
        ..delete(None)
    };
    assert_eq!(told(&scoped(Some("t"), Some("c"))), [0]);
    assert_eq!(told(&scoped(Some("t"), None)), [0, 1]);
    assert_eq!(told(&scoped(None, Some("c"))), [0, 2]);
    assert_eq!(told(&scoped(None, None)), [0, 1, 2]);
    assert_eq!(told(&scoped(Some("x"), None)), [0_u32; 0]);
    let reduced = Change { document: None, flags: Flags::REDUCED, ..change(&doc! {}) };
    assert_eq!(told(&reduced), [0, 3]);
}

#[test]
fn a_document_that_changes_its_scope_leaves_there_and_enters_here() {
    let mut moved = update(Some(doc! {"a": 1}), doc! {"a": 1});
    moved.left = Some(Scope::known("t", "old"));
    let asks = |collection: &str, transitions: bool, cel: &str| {
        filter(json!({"collection": collection, "transitions": transitions, "cel": cel,
                      "filters": [{"field": "a", "op": "==", "value": 1}]}))
    };
    let leave = Verdict {
        transition: Some(Transition::Leave),
        certainty: Some(Certainty::Exact),
        broadcast: false,
        left_scope: true,
    };
    let enter = Verdict { transition: Some(Transition::Enter), left_scope: false, ..leave };
    assert_eq!(asks("old", true, "collection == 'old'").evaluate(&moved), Some(leave));
    assert_eq!(asks("c", true, "collection == 'c'").evaluate(&moved), Some(enter));
    assert_eq!(asks("c", true, "true").evaluate(&moved), Some(enter));
    assert_eq!(asks("old", false, "true").evaluate(&moved), None);
    assert_eq!(asks("c", false, "true").evaluate(&moved), Some(Verdict::MATCH));
    assert_eq!(asks("other", true, "true").evaluate(&moved), None);
    moved.before = Some(raw(&doc! {"a": 2}));
    assert_eq!(asks("old", true, "true").evaluate(&moved), None);
}

/// MongoDB stores whatever bytes a client sends as a text, and hands them out again.
#[test]
fn a_text_that_is_no_utf8_is_an_error_for_whoever_looks_at_it() {
    let mut odd = change(&doc! {"a": 1, "b": "text", "l": ["text", 1], "c": 2});
    let mut bytes = odd.document.take().expect("a body").into_bytes();
    for at in 0..bytes.len() - 4 {
        if &bytes[at..at + 4] == b"text" {
            bytes[at + 3] = 0xff;
        }
    }
    odd.document = Some(bson::RawDocumentBuf::from_bytes(bytes).expect("the frame is whole"));
    let term = |field: &str, op: &str, value: Value| json!({"filters": [{"field": field, "op": op, "value": value}]});
    for (fields, expected) in [
        (term("a", "==", json!(1)), true),
        (term("c", "==", json!(2)), true),
        (term("z", "exists", json!(false)), true),
        (term("b", "!=", json!("x")), false),
        (term("b", ">", json!("a")), false),
        (term("b", "starts-with", json!("te")), false),
        (term("b", "not-in", json!(["x"])), false),
        (term("b", "exists", json!(true)), false),
        (term("b", "exists", json!(false)), false),
        (term("l", "exists", json!(true)), true),
        (term("l", "array-contains", json!(1)), false),
        (term("l.1", "==", json!(1)), true),
        (json!({"cel": "doc.a == 1 && size(doc.l) == 2"}), true),
        (json!({"cel": "doc.b != 'x' || doc.c == 2"}), true),
        (json!({"cel": "doc.b != 'x'"}), false),
        (json!({"cel": "!(doc.b == 'x')"}), false),
        (json!({"cel": "op == 'update'"}), true),
        (json!({}), true),
    ] {
        matches_by_both(fields, &odd, expected);
    }
}

/// The reference and the index say the same of one filter and one change.
fn matches_by_both(fields: Value, change: &Change, expected: bool) {
    let (said, filter) = (fields.to_string(), filter(fields));
    assert_eq!(filter.evaluate(change).is_some(), expected, "{said}");
    let (mut matcher, mut out) = (Matcher::new(), Vec::new());
    matcher.insert(SubscriptionIndex(0), filter);
    matcher.matches(change, &mut out);
    assert_eq!(!out.is_empty(), expected, "{said}");
}

/// Kinds of values of which bytes can be wrong in other ways than a text's.
#[test]
fn what_cannot_be_read_is_an_error_whatever_its_type() {
    let regex = |pattern: &str| {
        Bson::RegularExpression(bson::Regex { pattern: pattern.try_into().unwrap(), options: "".try_into().unwrap() })
    };
    let bytes = |subtype| Bson::Binary(bson::Binary { subtype, bytes: vec![1, 2, 3, 4, 5] });
    let body = doc! {
        "r": regex("wrong"), "code": Bson::JavaScriptCode("wrong".into()), "sound": regex("right"),
        "old": bytes(bson::spec::BinarySubtype::BinaryOld), "l": [1, regex("wrong")], "m": {"r": regex("wrong")},
    };
    let mut odd = change(&body);
    let mut raw = odd.document.take().unwrap().into_bytes();
    for at in 0..raw.len() - 5 {
        match &raw[at..at + 5] {
            b"wrong" => raw[at] = 0xff,
            // The old subtype's inner length.
            [2, 5, 0, 0, 0] => raw[at + 1] = 77,
            _ => {}
        }
    }
    odd.document = Some(bson::RawDocumentBuf::from_bytes(raw).expect("the frame is whole"));
    let exists = |field: &str| json!({"filters": [{"field": field, "op": "exists", "value": true}]});
    for (fields, expected) in [
        (exists("r"), false),
        (exists("code"), false),
        (exists("old"), false),
        (exists("sound"), true),
        (exists("l"), true),
        (exists("m.r"), false),
        (json!({"filters": [{"field": "r", "op": "!=", "value": 1}]}), false),
        (json!({"filters": [{"field": "l", "op": "array-contains", "value": 1}]}), false),
        (json!({"filters": [{"field": "l", "op": "array-contains-any", "value": [1, 2]}]}), false),
        (json!({"cel": "has(doc.r)"}), false),
        (json!({"cel": "doc.l.exists(x, x == 1)"}), false),
        (json!({"cel": "doc.l[0] in doc.l"}), false),
        (json!({"cel": "[1].exists(x, has(doc.m.r)) || false"}), false),
        (json!({"cel": "doc.r != 1 || doc.l[0] == 1"}), true),
    ] {
        matches_by_both(fields, &odd, expected);
    }
}

/// Past a few elements what is wanted is looked up by keys.
#[test]
fn long_lists_are_searched_as_short_ones_are() {
    let wanted = json!([7, "x", 2.5, {"a": 1}, 9_007_199_254_740_993_i64, null, [1]]);
    let fields = json!({"filters": [{"field": "l", "op": "array-contains-any", "value": wanted}]});
    let long = |last: Bson| {
        let mut items: Vec<Bson> = (100..200).map(Bson::Int32).collect();
        items.push(last);
        items
    };
    for (last, expected) in [
        (Bson::Int32(7), true),
        (Bson::Double(7.0), true),
        (Bson::Int32(8), false),
        ("x".into(), true),
        (Bson::Symbol("x".into()), true),
        ("y".into(), false),
        (Bson::Decimal128("2.5".parse().unwrap()), true),
        (Bson::Document(doc! {"a": 1}), true),
        (Bson::Document(doc! {"a": 2}), false),
        (Bson::Array(vec![Bson::Int32(1)]), true),
        (Bson::Array(vec![]), false),
        (Bson::Int64(9_007_199_254_740_993), true),
        // One double, but other ints.
        (Bson::Int64(9_007_199_254_740_992), false),
        (Bson::Double(9_007_199_254_740_992.0), true),
        (Bson::Double(f64::NAN), false),
        (Bson::Null, true),
        (Bson::Undefined, true),
    ] {
        for items in [long(last.clone()), vec![last.clone()]] {
            matches_by_both(fields.clone(), &change(&doc! {"l": items}), expected);
        }
    }
    // An error among them outweighs what is found, wherever it stands.
    let mut marred = long(Bson::DateTime(bson::DateTime::MAX));
    marred.insert(0, Bson::Int32(7));
    matches_by_both(fields, &change(&doc! {"l": marred}), false);
}

#[test]
fn a_plan_names_the_index_and_the_rest() {
    let term = |field: &str, op: &str, value: Value| json!({"field": field, "op": op, "value": value});
    let fields = json!({"filters": [term("a", "in", json!([1, 2])), term("b", "==", json!("x")), term("c", ">", json!(1))],
                        "cel": "doc.d == 1"});
    assert_eq!(
        filter(fields).plan(),
        json!({"indexes": [{"kind": "equality", "field": "b"}], "residual": ["doc.a in (2 values)", "doc.c > 1", "doc.d == 1"]})
    );
    // What CEL asks of one path is known as well as if `filters` had asked it.
    let plan = |cel: &str| filter(json!({"cel": cel})).plan();
    assert_eq!(plan("2 == doc.a.b"), json!({"indexes": [{"kind": "equality", "field": "a.b"}], "residual": []}));
    assert_eq!(
        plan("doc.n > 1 && (doc.a in ['x', 'y'] || doc.b == 3 || doc['b'] == 4) && size(doc.l) == 2"),
        json!({"indexes": [{"kind": "in", "field": "a"}, {"kind": "equality", "field": "b"}],
               "residual": ["doc.n > 1", "size(doc.l) == 2"]})
    );
    assert_eq!(
        plan("!(doc.a != 1 || doc.b > 2)"),
        json!({"indexes": [{"kind": "equality", "field": "a"}], "residual": ["!(doc.b > 2)"]})
    );
    assert_eq!(
        plan("doc.n > 1 && doc.n <= 5 && doc.m != 2"),
        json!({"indexes": [{"kind": "range", "field": "n"}], "residual": ["doc.m != 2"]})
    );
    assert_eq!(
        plan("doc.at >= timestamp('2025-11-21T00:00:00Z') && doc.at < timestamp('2025-11-22T00:00:00Z')"),
        json!({"indexes": [{"kind": "range", "field": "at"}], "residual": []})
    );
    let tags = "doc.tags.exists(t, t == 'a' || t in ['b', 'c'] || 'd' == t && doc.n > 1)";
    let member = json!([{"kind": "member", "field": "tags"}]);
    assert_eq!(plan(tags)["indexes"], member);
    assert_eq!(plan(tags)["residual"].as_array().map(Vec::len), Some(1));
    for scanned in
        ["doc.tags.exists(t, t == 'a' || t > 'b')", "!doc.tags.exists(t, t == 'a')", "doc.tags.all(t, t == 'a')"]
    {
        assert_eq!(plan(scanned)["indexes"], json!([{"kind": "scan", "field": null}]), "{scanned}");
    }
    assert_eq!(plan("doc.a == 1 && false"), json!({"indexes": [], "residual": ["false"]}));
    let fields = json!({"filters": [term("a", "in", json!([1, 2]))]});
    assert_eq!(filter(fields).plan(), json!({"indexes": [{"kind": "in", "field": "a"}], "residual": []}));
    let kind = |fields: Value| {
        let plan = filter(fields).plan();
        (plan["indexes"][0]["kind"].as_str().unwrap().to_owned(), plan["residual"].as_array().unwrap().len())
    };
    for (op, value, expected) in [
        ("array-contains", json!(1), ("member", 0)),
        ("array-contains-any", json!([1, "x"]), ("member", 0)),
        ("starts-with", json!("x"), ("range", 0)),
        (">", json!(1), ("range", 0)),
        ("<=", json!("x"), ("range", 0)),
        ("exists", json!(true), ("presence", 0)),
        ("exists", json!(false), ("scan", 1)),
        // To be there at all is all that a table knows of these.
        ("!=", json!(1), ("presence", 1)),
        ("not-in", json!([1]), ("presence", 1)),
        ("==", json!([1]), ("presence", 1)),
    ] {
        assert_eq!(kind(json!({"filters": [term("a", op, value)]})), (expected.0.to_owned(), expected.1), "{op}");
    }
    for fields in [json!({}), json!({"cel": "size(doc.a) == 1"}), json!({"cel": "doc.a == 1 || op == 'insert'"})] {
        assert_eq!(filter(fields).plan()["indexes"], json!([{"kind": "scan", "field": null}]));
    }
}

/// Counted, not timed: of 100,000 subscriptions with one equality a change meets its own only.
#[test]
fn a_hundred_thousand_equalities_are_no_scan() {
    let mut matcher = Matcher::new();
    for number in 0..100_000_u32 {
        let fields = json!({"filters": [{"field": "chat", "op": "==", "value": format!("c{number}")}]});
        matcher.insert(SubscriptionIndex(number), filter(fields));
    }
    let one = change(&doc! {"chat": "c77777"});
    assert_eq!(matcher.candidates(&one), 1);
    let mut out = Vec::new();
    matcher.matches(&one, &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!(matcher.candidates(&change(&doc! {"chat": "nobody"})), 0);
    for number in 0..100_000_u32 {
        assert!(matcher.remove(SubscriptionIndex(number)));
    }
    assert!(matcher.is_empty());
    matcher.matches(&one, &mut out);
    assert!(out.is_empty());
}

/// Counted, not timed: ranges, prefixes and members meet those that they concern, and a subscription to
/// everything costs nobody else anything.
#[test]
fn ranges_prefixes_and_members_are_no_scan() {
    let mut matcher = Matcher::new();
    let mut number = 0_u32;
    let mut add = |matcher: &mut Matcher, fields: Value| {
        matcher.insert(SubscriptionIndex(number), filter(fields));
        number += 1;
    };
    let time = |seconds: i64| bson::DateTime::from_millis(seconds * 1_000).try_to_rfc3339_string().unwrap();
    for n in 0..2_000_i64 {
        add(&mut matcher, json!({"interval": {"field": "at", "start": n * 5, "stop": n * 5 + 10}}));
        add(&mut matcher, json!({"cel": format!("doc.price > {n}.5 && doc.price < {}", n + 2)}));
        add(&mut matcher, json!({"filters": [{"field": "path", "op": "starts-with", "value": format!("/home/{n}/")}]}));
        add(&mut matcher, json!({"cel": format!("'tag-{n}' in doc.tags")}));
        add(&mut matcher, json!({"cel": format!("doc.labels.exists(l, l == 'label-{n}')")}));
        let (day, next) = (time(n * 86_400), time((n + 1) * 86_400));
        add(&mut matcher, json!({"cel": format!("doc.seen >= timestamp('{day}') && timestamp('{next}') > doc.seen")}));
        add(&mut matcher, json!({"cel": format!("doc.kind == 'x' && (doc.a == {n} || doc.b == {n})")}));
    }
    let mut candidates = |body: Document| {
        let one = change(&body);
        let mut out = Vec::new();
        matcher.matches(&one, &mut out);
        (matcher.candidates(&one), out.len())
    };
    assert_eq!(candidates(doc! {"at": 5_000}), (3, 3));
    assert_eq!(candidates(doc! {"at": 5_001}), (2, 2));
    // The ends of this range are open; what lies on them is not found.
    assert_eq!(candidates(doc! {"price": 7.25}), (1, 1));
    assert_eq!(candidates(doc! {"price": 7}), (1, 1));
    assert_eq!(candidates(doc! {"price": 7.5}), (1, 1));
    assert_eq!(candidates(doc! {"path": "/home/17/file"}), (1, 1));
    assert_eq!(candidates(doc! {"path": "/home/"}), (0, 0));
    assert_eq!(candidates(doc! {"tags": ["x", "tag-3", "tag-1999"]}), (2, 2));
    assert_eq!(candidates(doc! {"labels": ["x", "label-3", "label-3", "label-4"]}), (2, 2));
    assert_eq!(candidates(doc! {"labels": {"label-3": 1}}), (1, 1));
    for milliseconds in [86_400_000 * 7, 86_400_000 * 8 - 1] {
        assert_eq!(candidates(doc! {"seen": bson::DateTime::from_millis(milliseconds)}), (1, 1));
    }
    assert_eq!(candidates(doc! {"seen": bson::DateTime::from_millis(-1)}), (0, 0));
    assert_eq!(candidates(doc! {"seen": bson::DateTime::MAX}), (0, 0));
    // After a few it is noticed that all of them ask for this kind, and that `a` and `b` tell them apart.
    assert_eq!(candidates(doc! {"a": 5_000, "b": 5_000, "kind": "x"}), (5, 0));
    assert_eq!(candidates(doc! {"a": 500, "b": 900, "kind": "x"}), (7, 2));
    assert_eq!(candidates(doc! {"nothing": 1}), (0, 0));
}

/// What repeats is found once, and found without gathering every repetition first.
#[test]
fn equal_elements_find_their_subscriptions_once() {
    let mut matcher = Matcher::new();
    for number in 0..200 {
        let term = json!({"field": "tags", "op": "array-contains-any", "value": ["x", "y", number]});
        matcher.insert(SubscriptionIndex(number), filter(json!({"filters": [term]})));
    }
    let tags: Vec<&str> = ["x", "y"].into_iter().cycle().take(50_000).collect();
    let one = change(&doc! {"tags": tags});
    assert_eq!(matcher.candidates(&one), 200);
    let mut out = Vec::new();
    matcher.matches(&one, &mut out);
    assert_eq!(out.len(), 200);
}

/// A condition counts twice on the way to two values: nested ones must not count without end.
#[test]
fn nested_conditions_are_compiled_in_bounded_steps() {
    let nested = |depth: usize, last: &str| (0..depth).fold(last.to_owned(), |inner, _| format!("({inner}?true:true)"));
    for last in ["true", "doc.a", "doc.a == 1", "size(doc.a) == 1"] {
        let filter = filter(json!({"cel": nested(80, last)}));
        for body in [doc! {"a": 1}, doc! {"a": true}, doc! {"a": [1]}, doc! {}] {
            let one = change(&body);
            let mut matcher = Matcher::new();
            matcher.insert(SubscriptionIndex(0), Arc::clone(&filter));
            let mut out = Vec::new();
            matcher.matches(&one, &mut out);
            assert_eq!(out.first().map(|found| found.verdict), filter.evaluate(&one), "{last} {body}");
        }
    }
}

/// Counted: the Bloom filter never hides a key, however it ages, and lets few others through.
#[test]
fn the_bloom_filter_hides_nobody_and_stays_sharp() {
    let mut matcher = Matcher::with_bloom(BloomUse::From(1_000));
    let on = |n: u32| filter(json!({"filters": [{"field": "a", "op": "==", "value": n}]}));
    let mut out = Vec::new();
    let mut finds = |matcher: &mut Matcher, n: u32| {
        matcher.matches(&change(&doc! {"a": n}), &mut out);
        out.first().map(|found| found.subscription.0)
    };
    let mut live = std::collections::BTreeSet::new();
    // A set that grows, is exchanged piece by piece, and shrinks to nothing.
    for n in 0..20_000_u32 {
        matcher.insert(SubscriptionIndex(n), on(n));
        live.insert(n);
        if n >= 5_000 {
            let gone = n - 5_000;
            assert!(matcher.remove(SubscriptionIndex(gone)));
            live.remove(&gone);
        }
        if n % 500 == 0 {
            assert!(live.iter().all(|n| finds(&mut matcher, *n) == Some(*n)), "at {n}");
        }
    }
    let before = matcher.counts().bloom;
    for n in 1_000_000..1_050_000 {
        assert_eq!(finds(&mut matcher, n), None);
    }
    let after = matcher.counts().bloom;
    assert_eq!(after.checks - before.checks, 50_000);
    let passed = after.false_passes - before.false_passes;
    assert!(passed < 500, "{passed} of 50,000 absent keys");
    assert!(after.rebuilds >= 4, "{after:?}");
    for n in live {
        assert!(matcher.remove(SubscriptionIndex(n)));
        assert_eq!(finds(&mut matcher, n), None);
    }
    assert!(matcher.is_empty());
}

/// The same conditions are evaluated once, whoever asks and however they are written.
#[test]
fn equal_filters_are_one_program() {
    let mut matcher = Matcher::new();
    let same = [
        json!({"filters": [{"field": "a", "op": ">=", "value": 1}, {"field": "b", "op": "==", "value": "x"},
                           {"field": "a", "op": "<=", "value": 5}]}),
        json!({"filters": [{"field": "b", "op": "==", "value": "x"}], "interval": {"field": "a", "start": 1, "stop": 5}}),
        json!({"cel": "doc.b == 'x' && 5 >= doc.a && doc.a >= 1"}),
        json!({"cel": "doc.a >= 1 && !(!(doc.a <= 5) || !('x' == doc.b))"}),
        json!({"cel": "doc.a >= 1 && doc.a >= 0 && doc.a <= 5 && doc.b == 'x' && true"}),
    ];
    for n in 0..100_u32 {
        matcher.insert(SubscriptionIndex(n), filter(same[n as usize % same.len()].clone()));
    }
    let one = change(&doc! {"a": 3, "b": "x"});
    let mut out = Vec::new();
    matcher.matches(&one, &mut out);
    assert_eq!((out.len(), matcher.candidates(&one)), (100, 1));
    for n in 0..99 {
        assert!(matcher.remove(SubscriptionIndex(n)));
    }
    matcher.matches(&one, &mut out);
    assert_eq!(out.iter().map(|found| found.subscription.0).collect::<Vec<_>>(), [99]);
    // Where doubles are no longer exact, the wider of two ranges may be the one that says no.
    assert!(!is_match(
        json!({"cel": "doc.a > 9007199254740992 && doc.a >= 9007199254740993"}),
        &doc! {"a": 9007199254740992.0}
    ));
}
