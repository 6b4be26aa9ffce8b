//! CEL: the rules of its specification that apply to a filter, each with cases of our own, and the
//! limits that keep a program from hurting anyone else.

use bson::{Bson, Document, doc};
use serde_json::json;
use streamer::error::{Code, Problem};

use super::{change, compile, filter, is_match};

fn sample() -> Document {
    doc! {
        "i": 5, "l": 9_007_199_254_740_993_i64, "d": 2.5, "nan": f64::NAN, "zero": 0.0, "neg": -0.0,
        "s": "héllo", "empty": "", "t": true, "f": false, "n": Bson::Null, "u": Bson::Undefined,
        "date": bson::DateTime::from_millis(1_763_690_000_123), "far": bson::DateTime::from_millis(i64::MAX),
        "oid": bson::oid::ObjectId::from_bytes([0xab; 12]),
        "bin": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2, 255] },
        "dec": Bson::Decimal128("2.5".parse().expect("decimal")), "sym": Bson::Symbol("sym".into()),
        "ts": Bson::Timestamp(bson::Timestamp { time: 1, increment: 2 }), "min": Bson::MinKey,
        "list": [1, 2.0, "x", Bson::Null], "ints": [3, 1, 2], "none": [], "nested": {"a": {"b": 1}, "k": "v"},
        "people": [{"name": "bob", "age": 30}, {"name": "eve"}],
        "mixed": [1, "a"], "dates": [bson::DateTime::from_millis(i64::MAX), 1],
        "max": i64::MAX, "least": i64::MIN,
    }
}

#[track_caller]
fn check(cases: &[(&str, bool)]) {
    let document = sample();
    for (cel, expected) in cases {
        assert_eq!(is_match(json!({"cel": cel}), &document), *expected, "{cel}");
    }
}

#[test]
fn an_error_is_no_match_and_is_absorbed_where_the_other_side_decides() {
    check(&[
        ("doc.missing == 1", false),
        ("doc.missing != 1", false),
        ("!(doc.missing == 1)", false),
        ("doc.missing == 1 || true", true),
        ("true || doc.missing == 1", true),
        ("doc.missing == 1 || false", false),
        ("false || doc.missing == 1", false),
        ("!(doc.missing == 1 && false)", true),
        ("!(false && doc.missing == 1)", true),
        ("doc.missing == 1 && true", false),
        ("!(doc.missing == 1 && true)", false),
        ("doc.i || true", true),
        ("!(doc.i && false)", true),
        ("doc.i && true", false),
        ("doc.missing ? true : true", false),
        ("true ? true : doc.missing", true),
        ("doc.i", false),
        ("doc.t", true),
        ("doc.n", false),
    ]);
}

#[test]
fn presence_is_an_error_where_there_is_no_map_to_look_in() {
    check(&[
        ("has(doc.i)", true),
        ("has(doc.n)", true),
        ("has(doc.missing)", false),
        ("!has(doc.missing)", true),
        ("has(doc.nested.a.b)", true),
        ("!has(doc.nested.a.c)", true),
        ("has(doc.missing.a)", false),
        ("!has(doc.missing.a)", false),
        ("!has(doc.i.a)", false),
        ("!has(doc.list.a)", false),
        ("has(doc.missing.a) || true", true),
    ]);
}

#[test]
fn numbers_compare_by_value_across_their_types() {
    check(&[
        ("doc.i == 5.0", true),
        ("doc.i == 5u", true),
        ("doc.d == doc.dec", true),
        ("doc.i < 5.5", true),
        ("doc.i >= 5u", true),
        ("doc.zero == doc.neg", true),
        ("doc.nan == doc.nan", false),
        ("doc.nan != doc.nan", true),
        ("doc.nan < 1.0", false),
        ("!(doc.nan < 1.0)", false),
        // As in the specification's own conformance tests: the int becomes the nearest double.
        ("doc.l == 9007199254740992.0", true),
        ("doc.l == 9007199254740992", false),
        ("doc.max < 9223372036854775808.0", false),
        ("doc.max == 9223372036854775808.0", true),
        ("-1 < 0u", true),
        ("18446744073709551615u > doc.max", true),
    ]);
}

#[test]
fn values_of_different_types_are_unequal_and_have_no_order() {
    check(&[
        ("doc.i == 'x'", false),
        ("doc.i != 'x'", true),
        ("doc.i != null", true),
        ("doc.n == null", true),
        ("doc.u == null", true),
        ("doc.t == 1", false),
        ("doc.i < 'x'", false),
        ("!(doc.i < 'x')", false),
        ("doc.n < 1", false),
        ("!(doc.n <= null)", false),
        ("doc.f < doc.t", true),
        ("doc.list < doc.list", false),
        ("doc.s > 'a' && doc.s < 'i'", true),
        ("doc.bin < b'\\x01\\x03'", true),
        ("doc.nested == {'k': 'v', 'a': {'b': 1.0}}", true),
        ("{'k': 'v', 'a': {'b': 1}} == doc.nested", true),
        ("doc.list == [1.0, 2, 'x', null]", true),
        ("doc.ints == [1, 2, 3]", false),
    ]);
}

#[test]
fn every_type_of_bson_is_what_the_interface_says() {
    check(&[
        ("type(doc.i) == int && type(doc.l) == int && type(doc.d) == double && type(doc.dec) == double", true),
        ("type(doc.s) == string && type(doc.sym) == string && doc.sym == 'sym'", true),
        ("doc.oid == 'abababababababababababab'", true),
        ("type(doc.date) == google.protobuf.Timestamp", true),
        ("doc.date == timestamp('2025-11-21T01:53:20.123Z')", true),
        ("doc.date > timestamp('2025-11-21T01:53:20Z')", true),
        ("doc.date.getFullYear() == 2025 && doc.date.getMilliseconds() == 123", true),
        ("doc.date - timestamp('2025-11-21T01:53:20Z') == duration('0.123s')", true),
        ("doc.date + duration('1h') > doc.date", true),
        ("type(doc.bin) == bytes && doc.bin == b'\\x01\\x02\\xff' && size(doc.bin) == 3", true),
        ("type(doc.nested) == map && type(doc.list) == list", true),
        ("type(doc.n) == null_type && type(doc.u) == null_type", true),
        ("doc.ts == '{\"$timestamp\":{\"t\":1,\"i\":2}}'", true),
        ("doc.min == '{\"$minKey\":1}'", true),
    ]);
}

#[test]
fn a_date_out_of_the_years_of_cel_fails_where_it_is_looked_at() {
    check(&[
        ("doc.i == 5", true),
        ("doc.far == 1", false),
        ("doc.far != 1", false),
        ("has(doc.far)", false),
        ("'far' in doc", true),
        ("doc.far == 1 || true", true),
        ("doc.dates[1] == 1", true),
        ("doc.dates[1u] == 1", true),
        ("doc.dates[0] != 1", false),
        ("doc.dates[0.0] != 1", false),
        ("size(doc.dates) == 2", true),
        ("1 in doc.dates", false),
        ("doc.dates.exists(x, x == 1)", false),
        ("doc.exists(name, name == 'i')", true),
    ]);
}

#[test]
fn membership_and_indexing() {
    check(&[
        ("2 in doc.list", true),
        ("1.0 in doc.list", true),
        ("null in doc.list", true),
        ("7 in doc.list", false),
        ("!(7 in doc.list)", true),
        ("doc.i in [1, 5]", true),
        ("doc.s in []", false),
        ("'k' in doc.nested", true),
        ("'b' in doc.nested", false),
        ("1 in doc.nested", false),
        ("!(null in doc.nested)", false),
        ("'h' in doc.s", false),
        ("!('h' in doc.s)", false),
        ("1 in doc.missing", false),
        ("doc.ints[0] == 3", true),
        ("doc.ints[3] == 3", false),
        ("doc.ints[3] == 3 || true", true),
        ("doc.ints[-1] == 3", false),
        ("doc['i'] == 5", true),
        ("doc.nested['a'].b == 1", true),
        ("doc.people[0].name == 'bob'", true),
    ]);
}

#[test]
fn loops_absorb_errors_too() {
    check(&[
        ("doc.people.exists(p, p.name == 'eve')", true),
        ("doc.people.exists(p, p.age == 30)", true),
        ("doc.people.exists(p, p.age == 31)", false),
        ("!doc.people.exists(p, p.age == 31)", false),
        ("doc.people.all(p, p.age == 30)", false),
        ("!doc.people.all(p, p.age == 31)", true),
        ("doc.none.all(x, false)", true),
        ("doc.none.exists(x, true)", false),
        ("doc.ints.exists_one(x, x == 1)", true),
        ("doc.ints.filter(x, x > 1).size() == 2", true),
        ("doc.ints.map(x, x * 2) == [6, 2, 4]", true),
        ("doc.ints.map(x, x > 1, x) == [3, 2]", true),
        ("doc.mixed.exists(x, x > 5)", false),
        ("doc.nested.exists(name, name == 'k')", true),
        ("doc.i.exists(x, true)", false),
    ]);
}

#[test]
fn arithmetic_overflows_into_an_error() {
    check(&[
        ("doc.i + 1 == 6", true),
        ("doc.i + 1.0 == 6.0", false),
        ("doc.max + 1 > 0 || doc.i == 5", true),
        ("doc.max + 1 > 0", false),
        ("!(doc.max + 1 > 0)", false),
        ("-doc.least > 0", false),
        ("doc.least / -1 > 0", false),
        ("doc.i / 0 == 1", false),
        ("doc.i % 0 == 1", false),
        ("doc.i / 2 == 2 && -doc.i / 2 == -2 && -doc.i % 2 == -1", true),
        ("1.0 / doc.zero > 1.0e300", true),
        ("1u - 2u == 0u", false),
        ("int('12') == 12 && double('1.5') == 1.5 && string(doc.i) == '5' && int(2.9) == 2", true),
        ("int('x') == 1", false),
        ("int(1e300) == 1", false),
    ]);
}

#[test]
fn strings() {
    check(&[
        ("size(doc.s) == 5", true),
        ("doc.s.startsWith('hé') && doc.s.endsWith('lo') && doc.s.contains('éll')", true),
        ("doc.i.startsWith('5')", false),
        ("doc.s.matches('^h.llo$')", true),
        ("matches(doc.s, 'll')", true),
        ("doc.s + '!' == 'héllo!'", true),
        ("doc.s == 'he\\u0301llo'", false),
        ("r'\\n' == '\\\\n'", true),
    ]);
}

/// Of what no index takes: these are compiled, so the two evaluations share nothing.
#[test]
fn compiled_paths_mean_what_they_mean_in_cel() {
    let document = doc! {
        "0": {"1": "x", "a": 5}, "list": [3, {"0": 4, "b": 5}, [6]], "map": {"0": 1, "list": [1]}, "n": 0, "one": 1,
        "key": "list", "k": 7, "twice": {"a": 1}, "far": bson::DateTime::from_millis(i64::MAX),
        "dates": [1, bson::DateTime::from_millis(i64::MAX)], "marred": {"far": bson::DateTime::from_millis(i64::MAX), "a": 1},
        "none": Bson::Null,
    };
    for (cel, expected) in [
        ("doc['0'].a + 0 == 5 && doc['0']['1'] + '' == 'x'", true),
        ("doc.map['0'] + 0 == 1", true),
        // To a path it would be the first element.
        ("doc.list['0'] + 0 == 3", false),
        ("doc.list['0'] + 0 == 3 || true", true),
        ("has(doc.list.b) || size(doc.list) < 0", false),
        ("doc.map[0] + 0 == 1", false),
        ("doc.list[0] + doc.list[1]['0'] + doc.list[1].b + doc.list[2][0] == 18", true),
        ("doc.list[doc.n] + doc.list[0u] + doc.list[0.0] + doc.list[-0.0] == 12", true),
        ("doc.list[0.5] + 0 == 3", false),
        ("doc.list[doc.n - 1] + 0 == 3", false),
        ("doc.list[doc.one + 2] + 0 == 3", false),
        ("doc[doc.key][0] + 0 == 3 && doc[key] + 0 == 7", true),
        ("[1, doc.one + 1][doc.one] == 2", true),
        ("[1, doc.one + 1][2] == 2", false),
        ("[1, doc.missing][0] == 1", false),
        ("has(doc.map.list) && has(doc['0'].a) && !has(doc.map['list2'].a)", false),
        ("!has(doc.list[1].c) && has(doc.list[1].b)", true),
        ("!has(doc.list[7].c)", false),
        ("has(doc.far) || doc.one + 1 == 3", false),
        ("has(doc.marred.far) || doc.one + 1 == 3", false),
        ("[1].all(x, has(doc.far) || has(doc.marred.far) || has(doc.map['list2'].far))", false),
        ("!has(doc.marred.other) && has(doc.marred.a) && size(doc.marred) == 2", true),
        ("has(doc.none) && !has(doc.other) && doc.none == (doc.n == 1 ? 1 : null)", true),
        ("doc.dates[0] + 0 == 1 && size(doc.dates) == 2", true),
        ("doc.dates[1] == doc.dates[0]", false),
        ("doc.dates[1] != doc.dates[0]", false),
        ("doc.dates == doc.dates", false),
        ("doc.dates != doc.dates && doc.marred != doc.marred", true),
        ("[doc.dates] != [doc.dates]", true),
        ("doc.n + 1 in doc.dates", false),
        ("!(doc.n + 1 in doc.dates)", false),
        ("doc.dates.exists(x, x + 0 == 1)", false),
        ("doc.dates.exists(x, x + 0 == 1) || true", true),
        ("[doc.dates].exists(x, x[0] == 1)", true),
        ("doc.marred.exists(name, name.endsWith('ar'))", true),
        ("doc.dates + [1] != []", false),
        ("[1] + doc.dates != []", false),
        ("type(doc.dates) == list && type(doc.marred) == map && type(doc.twice.a) == int", true),
        ("type(doc.far) == null_type", false),
        ("type(type(doc.n)) == type && type(doc.n) != uint && type(doc.n) in [list, int]", true),
    ] {
        assert_eq!(is_match(json!({"cel": cel}), &document), expected, "{cel}");
    }
}

#[test]
fn compiled_comparisons_and_arithmetic() {
    check(&[
        ("doc.i + 0u == 5u", false),
        ("doc.i - 2 == 3 && doc.i * 2 == 10 && doc.i / 2 == 2 && doc.i % 3 == 2 && -doc.i == -5", true),
        ("doc.d + 0.5 == 3.0 && doc.d - 0.5 == 2 && doc.d * 2.0 == 5 && doc.d / 2.0 == 1.25 && -doc.d == -2.5", true),
        ("doc.d % 2.0 == 0.5", false),
        (
            "uint(doc.i) + 1u == 6 && uint(doc.i) - 1u == 4 && uint(doc.i) % 3u == 2u && uint(doc.i) / 2u * 2u == 4u",
            true,
        ),
        ("uint(doc.i) - 6u < 0", false),
        ("-uint(doc.i) < 0", false),
        ("uint(doc.i) / 0u == 0u || true", true),
        ("doc.max - doc.least > 0", false),
        ("doc.max * 2 > 0", false),
        ("-doc.least != 0 || doc.least % -1 == 0 || doc.least / -1 > 0", false),
        ("-doc.zero == doc.neg", true),
        ("doc.d / doc.zero > double(doc.max) && -doc.d / doc.zero < double(doc.least)", true),
        ("double(doc.max) == 9223372036854775807.0 && doc.max == 9223372036854775808.0", true),
        ("uint(doc.max) < 9223372036854775808u && uint(doc.max) + 1u > doc.max && uint(doc.i) > doc.least", true),
        (
            "uint(doc.i) == doc.i && doc.i + 0 == 5.0 && uint(doc.i) == 5.0 && uint(doc.i) < 5.5 && 4.5 < uint(doc.i)",
            true,
        ),
        ("doc.nan == doc.d || doc.nan < doc.d", false),
        ("!(doc.nan < doc.d)", false),
        ("doc.nan != doc.nan && !(doc.nan in [doc.nan])", true),
        ("doc.s + doc.empty + '!' == 'héllo!' && doc.bin + b'a' == b'\\x01\\x02\\xffa'", true),
        ("doc.s + doc.i == ''", false),
        ("doc.s < doc.empty || doc.f < doc.t && doc.bin > b''", true),
        ("doc.oid + '' == 'abababababababababababab' && doc.oid.startsWith('ab') && size(doc.oid) == 24", true),
        ("doc.ts.contains('timestamp') && doc.min.endsWith('}') && doc.dec + doc.d == 5.0", true),
        ("doc.date < timestamp('2025-11-21T01:53:20.124Z') && doc.date >= timestamp('2025-11-21T01:53:20.123Z')", true),
        (
            "doc.date == timestamp('2025-11-21T02:53:20.123+01:00') && doc.date != timestamp('2025-11-21T01:53:20.1230001Z')",
            true,
        ),
        ("doc.date - doc.date == doc.date - doc.date", true),
        (
            "doc.date - doc.date == doc.missing - doc.date || type(doc.date - doc.date) == google.protobuf.Duration",
            true,
        ),
        ("doc.date + doc.i == doc.date", false),
        ("doc.date > doc.i", false),
        ("doc.n == doc.u && doc.n != doc.f", true),
        ("doc.list == [1, 2] + ['x', null] && doc.list != [1, 2, 'x'] && doc.ints != doc.list", true),
        ("doc.nested == doc.nested && doc.nested.a != doc.nested && [doc.nested] == [doc.nested]", true),
        ("size(doc.ints + doc.nested) == 5", true),
        ("doc.nested + doc.ints == []", false),
    ]);
}

#[test]
fn compiled_functions() {
    check(&[
        (
            "size(doc.s) == 5 && doc.s.size() == 5 && size(doc.bin) == 3 && size(doc.list) == 4 && size(doc.nested) == 2",
            true,
        ),
        ("size(doc.i) == 1 || size(doc.n) == 0", false),
        ("doc.s.contains('éll') && doc.s.contains('') && !doc.s.contains('e') && doc.s.endsWith('o')", true),
        ("doc.bin.contains(b'a')", false),
        ("doc.s.contains(doc.i)", false),
        ("doc.s.matches('^h.l+o$') && !doc.s.matches('^h...l+o$') && matches(doc.s, 'é')", true),
        ("doc.i.matches('5')", false),
        ("int(doc.d) == 2 && int('-12') == -12 && int(uint(doc.i)) == 5 && int(doc.date) == 1763690000", true),
        ("int(doc.s) == 0 || int(doc.t) == 1 || int(doc.nan) == 0 || int(double(doc.least)) < 0", false),
        ("uint(doc.d) == 2u && uint('7') == 7 && uint(0.5 * doc.zero) == 0", true),
        ("uint(-doc.i) == 5u || uint('-1') == 1u || uint(doc.n) == 0u", false),
        ("double(doc.i) == 5.0 && double('1e3') == 1000 && double(uint(doc.i)) == 5 && double(doc.d) == 2.5", true),
        ("double(doc.s) > 0.0 || double(doc.t) > 0.0", false),
        (
            "string(doc.i) + string(doc.d) + string(doc.t) + string(uint(doc.i)) + string(doc.s) == '52.5true5héllo'",
            true,
        ),
        ("string(doc.zero) == '0' && string(doc.neg) == '-0' && string(doc.nan) == 'NaN'", true),
        ("string(doc.date) == '2025-11-21T01:53:20.123Z'", true),
        ("string(doc.bin) == ''", false),
        ("string(bytes(doc.s)) == doc.s && size(bytes(doc.s)) == 6 && bytes(doc.bin) == doc.bin", true),
        ("string(doc.n) == 'null' || string(doc.list) == '' || bytes(doc.i) == b''", false),
        ("bool(doc.t) && bool('1') && !bool('False') && bool(string(doc.t))", true),
        ("bool(doc.i) || bool('T') || bool(doc.n)", false),
        ("dyn(doc.i) + 1 == 6 && dyn(doc.list)[0] == 1", true),
        ("doc.i + 1 in [5.0, 6.0] && doc.i - 4 in doc.list && !(doc.i in doc.list)", true),
        ("doc.s + '' in doc.nested || doc.i + 1 in doc.nested || doc.t in doc.nested || 1.5 in doc.nested", false),
        ("'k' + '' in doc.nested && !(doc.empty + 'b' in doc.nested)", true),
        ("doc.date in doc.nested", false),
        ("doc.s + 'x' in doc.s", false),
        ("(doc.t ? doc.i : doc.missing) + 1 == 6 && (doc.f ? doc.missing : doc.i) + 1 == 6", true),
        ("(doc.i ? doc.i : doc.i) + 1 == 6", false),
    ]);
}

#[test]
fn compiled_loops() {
    check(&[
        ("doc.mixed.exists(x, x + 1 == 2)", true),
        ("doc.mixed.exists(x, x + 1 == 3)", false),
        ("!doc.mixed.exists(x, x + 1 == 3)", false),
        ("!doc.mixed.exists(x, x == 3)", true),
        ("doc.mixed.all(x, x + 1 == 2)", false),
        ("!doc.mixed.all(x, x + 1 == 2)", false),
        ("!doc.mixed.all(x, x + 1 == 3)", true),
        ("doc.mixed.exists_one(x, x == 1)", true),
        ("doc.mixed.exists_one(x, x + 1 == 2)", false),
        ("doc.mixed.exists_one(x, x != 'b')", false),
        ("doc.ints.exists(x, x)", false),
        ("!doc.ints.all(x, x)", false),
        ("doc.none.all(x, doc.missing) && !doc.none.exists(x, doc.missing) && !doc.none.exists_one(x, x)", true),
        ("doc.none.exists(x, doc.missing) || doc.missing.exists(x, true)", false),
        ("doc.s.exists(x, true) || doc.i.all(x, true) || doc.n.all(x, true)", false),
        ("doc.nested.exists(name, doc.i == 5 && name == 'k') && doc.nested.all(name, size(name) == 1)", true),
        ("doc.nested.exists_one(name, name == 'k') && doc.nested.filter(name, name == 'k') == ['k']", true),
        ("doc.people.exists(p, has(p.age) && p.age > doc.i && has(doc.i) && !has(doc.other))", true),
        ("doc.people.filter(p, has(p.age)).map(p, p.name) == ['bob']", true),
        ("doc.people.map(p, p.age) == [30]", false),
        ("doc.people.map(p, has(p.age), p.age) == [30] && doc.ints.map(x, [x]) == [[3], [1], [2]]", true),
        ("[doc.i, doc.d].exists(x, x == 2.5) && [1, 2].all(x, x < doc.i) && [].all(x, doc.i)", true),
        ("doc.ints.filter(doc, doc > 1) == [3, 2] && doc.ints.exists(google, google == 3)", true),
        ("doc.people.exists(int, type(int) == int) || doc.people.exists(op, op.name == 'eve')", true),
        ("doc.ints.exists(x, x in [doc.i - 2]) && doc.ints.exists(x, x in doc.ints && [x] != doc.ints)", true),
        // What only the interpreter can tell may still be what decides.
        ("doc.ints.all(x, doc.date - doc.date == doc.date - doc.date || doc.missing)", true),
        ("doc.dates.exists(x, true) || doc.ints.exists(x, doc.dates == doc.dates || size(doc.dates) == 2)", false),
        ("doc.ints.exists(x, has(doc.dates) && doc.dates[1] == x)", true),
    ]);
}

#[track_caller]
fn agreed(cel: &str, change: &streamer::change::Change) -> bool {
    let filter = filter(json!({"cel": cel}));
    let (mut matcher, mut out) = (streamer::matching::Matcher::new(), Vec::new());
    let subscription = streamer::matching::SubscriptionIndex(0);
    matcher.insert(subscription, std::sync::Arc::clone(&filter));
    matcher.matches(change, &mut out);
    let expected = filter.evaluate(change);
    assert_eq!(out.first().map(|found| found.verdict), expected, "{cel} {change:?}");
    assert_eq!(filter.explain(change).verdict, expected, "{cel} {change:?}");
    expected.is_some()
}

#[test]
fn what_was_before() {
    let mut with = change(&doc! {"a": 1, "l": [1, 2]});
    with.before = Some(super::raw(&doc! {"a": 0, "b": {"c": 1}, "l": [1]}));
    let without = change(&doc! {"a": 1, "l": [1, 2]});
    for (cel, expected, expected_without) in [
        ("before.a != doc.a", true, false),
        ("doc.a - before.a == 1 && size(doc.l) > size(before.l)", true, false),
        ("before != null", true, false),
        ("before == null || before.a < doc.a", true, true),
        ("has(before.b) && !has(before.x) && has(before.b.c)", true, false),
        ("!has(before.x.y)", false, false),
        ("doc.l.exists(x, !(x in before.l))", true, false),
        ("doc.l.all(x, has(before.a) && before.a < x)", true, false),
        ("'b' in before && before['b'].c + 0 == 1 && type(before) == map", true, false),
        ("type(before) == null_type || size(before) == 3", true, true),
        ("before.exists(name, name in doc && before != doc)", true, false),
    ] {
        assert_eq!(agreed(cel, &with), expected, "{cel}");
        assert_eq!(agreed(cel, &without), expected_without, "{cel}");
    }
    // Of a document that is gone the last image is `doc`, and nothing was before it.
    with.operation = streamer::change::Operation::Delete;
    with.document = None;
    assert!(agreed("before == null && doc.a + 1 == 1 && op.startsWith('del')", &with));
}

/// A text that is no UTF-8 is an error to look at, which may be absorbed; all else in its body is as ever.
#[test]
fn a_text_that_is_no_utf8_is_an_error() {
    let misspelt = |document: &Document| {
        let mut bytes = super::raw(document).into_bytes();
        let length = bytes.len();
        // The one letter of the last text.
        bytes[length - 3] = 0xff;
        bson::RawDocumentBuf::from_bytes(bytes).expect("the frame is whole")
    };
    let mut of_doc = change(&doc! {"a": 1});
    of_doc.document = Some(misspelt(&doc! {"a": 1, "l": [1], "z": "z"}));
    of_doc.before = Some(super::raw(&doc! {"a": 1}));
    let mut of_before = change(&doc! {"a": 1, "l": [1]});
    of_before.before = Some(misspelt(&doc! {"a": 1, "z": "z"}));
    for (cel, expected, expected_before) in [
        ("doc.a + 1 == 2 && before.a + 1 == 2", true, true),
        ("doc.z + '' != 'x'", false, false),
        ("before.z + '' != 'x'", false, false),
        ("has(doc.z) || doc.a + 1 == 3", false, false),
        ("has(before.z) || doc.a + 1 == 3", false, false),
        ("doc.z.endsWith('z') || op.endsWith('date')", true, true),
        ("doc.l.exists(x, doc.z == x)", false, false),
        ("[1].all(x, doc.z.endsWith('z') || x + 1 == 2)", true, true),
        ("size(doc) == 3", true, false),
        ("size(before) == 2 && before != null", false, true),
        ("doc == doc", false, true),
        ("before == before", true, false),
        ("op + key == 'updatek'", true, true),
    ] {
        assert_eq!(agreed(cel, &of_doc), expected, "{cel}");
        assert_eq!(agreed(cel, &of_before), expected_before, "{cel}");
    }
}

/// Of fields with one name the first counts, wherever it is looked for.
#[test]
fn of_repeated_fields_the_first_counts() {
    let field = |name: &str, value: i32| {
        let bytes = super::raw(&doc! {name: value}).into_bytes();
        bytes[4..bytes.len() - 1].to_vec()
    };
    let inner: Vec<u8> = [field("a", 1), field("b", 2), field("a", 3)].concat();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "a", "i", "j", "i"];
    let many: Vec<u8> = names.iter().zip(0..).flat_map(|(name, value)| field(name, value)).collect();
    let framed = |inner: &[u8]| [&(inner.len() as i32 + 5).to_le_bytes()[..], inner, &[0]].concat();
    let body = framed(&[&[3][..], b"m\0", &framed(&inner), &[3], b"many\0", &framed(&many)].concat());
    let mut change = change(&doc! {});
    change.document = Some(bson::RawDocumentBuf::from_bytes(body).expect("a frame"));
    change.before = Some(super::raw(&doc! {"a": 1, "b": 2}));
    for (cel, expected) in [
        ("doc.m.a + 0 == 1", true),
        ("size(doc.m) == 2", true),
        ("doc.m.exists_one(name, name == 'a') && size(doc.m.filter(name, true)) == 2", true),
        ("before == doc.m && doc.m == before", true),
        ("size(doc.many) == 10 && doc.many.filter(name, name == 'i') == ['i'] && doc.many.j + 0 == 11", true),
        ("doc.m == doc.m && [doc.m].exists(m, m.a == 1 && m['b'] == 2)", true),
    ] {
        assert_eq!(agreed(cel, &change), expected, "{cel}");
    }
}

#[test]
fn the_other_variables() {
    let document = doc! {"a": 1};
    for (cel, expected) in [
        ("op == 'update' && tenant == 't' && collection == 'c' && key == 'k' && before == null", true),
        ("op in ['insert', 'replace']", false),
        ("before.a == 1", false),
        ("has(before.a)", false),
    ] {
        assert_eq!(is_match(json!({"cel": cel}), &document), expected, "{cel}");
    }
    let mut with_before = change(&document);
    with_before.before = Some(super::raw(&doc! {"a": 0}));
    assert!(filter(json!({"cel": "doc.a > before.a"})).evaluate(&with_before).is_some());
}

#[track_caller]
fn refused(cel: &str) -> Problem {
    let problem = compile(json!({"cel": cel})).expect_err(&cel[..cel.len().min(80)]);
    assert_eq!(problem.field.as_deref(), Some("cel"), "{cel}");
    assert_eq!(problem.status, 422);
    problem
}

#[test]
fn what_does_not_compile() {
    for cel in [
        "",
        " ",
        "doc.a ==",
        "doc.a = 1",
        "(",
        "'x",
        "'\\q' == ''",
        "unknown == 1",
        "doc.a == unknown",
        "nothing(doc.a)",
        "doc.a.nothing()",
        "optional.of(1).hasValue()",
        "doc.?a == 1",
        "base64.encode(b'') == ''",
        "max(1, 2) == 2",
        "size(1, 2) == 1",
        "doc.s.startsWith()",
        "doc.l.exists(x, y)",
        "Message{a: 1} == 1",
        "x == 1 || doc.l.exists(x, true)",
        "1",
        "'text'",
        "[true]",
        "{'a': true}",
        "doc.a + 1",
        "size(doc.a)",
        "doc.l.map(x, x)",
        "-doc.a",
        "null",
        "doc.s.matches('(')",
        "\u{0}",
        "@result == 1",
        "google.protobuf.Nothing == 1",
        "doc.`a-b` == 1",
        "doc.l.exists(x.y, true)",
        "has(doc)",
        "/* no comment */ true",
    ] {
        assert_eq!(refused(cel).code, Code::CelCompilationFailed, "{cel}");
    }
}

#[test]
fn a_refusal_says_where_and_what() {
    assert!(refused("doc.a ==\n  == 1").detail.starts_with("line 2, column 3: "), "{}", refused("doc.a ==\n  == 1"));
    assert!(refused("doc.a == unknown").detail.contains("`unknown`"));
    assert!(refused("nothing(doc.a)").detail.contains("`nothing`"));
    for cel in ["", "(", "doc.a ==\n  == 1", "'x"] {
        assert!(!refused(cel).detail.contains('\n'), "{}", refused(cel));
    }
}

#[test]
fn what_is_too_complex() {
    let long = |unit: &str, times: usize, end: &str| format!("{}{end}", unit.repeat(times));
    for cel in [
        format!("doc.s == '{}'", "x".repeat(2048)),
        long("1 - ", 110, "1 == 1"),
        format!("doc{} == 1", ".a".repeat(110)),
        format!("doc{} == 1", "[0]".repeat(110)),
        format!("doc{} == 1", "[0]".repeat(600)),
        long("1 - ", 500, "1 == 1"),
        "doc.a.exists(x, doc.b.exists(y, x == y))".to_owned(),
        "[[1]].all(x, x.all(y, true))".to_owned(),
        "doc.a.map(x, doc.b.map(y, y)) == []".to_owned(),
        "doc.a.map(x, doc) == []".to_owned(),
        "doc.a.map(x, [x, before]) == []".to_owned(),
        "doc.a.map(x, key) == []".to_owned(),
        "doc.a.exists(x, x + x == 'aa')".to_owned(),
        format!("size([doc{}]) > 0", ", doc".repeat(400)),
        format!("[[doc{}], {{'a': before, doc.a: doc.b}}] != []", ", doc.a".repeat(5)),
        format!("doc.a.map(x, [x{}]) == []", ", x".repeat(8)),
        format!("doc.s{} == ''", " + doc.s".repeat(9)),
        "doc.s.matches(doc.p)".to_owned(),
        "doc.s.matches('a' + 'b')".to_owned(),
        "doc.a.exists(x, x.matches('a'))".to_owned(),
        format!("doc.s.matches('{}')", "a".repeat(257)),
        "doc.s.matches('(a{100}){100}')".to_owned(),
    ] {
        assert_eq!(refused(&cel).code, Code::FilterTooComplex, "{cel}");
    }
}

/// What copies nothing of the document may be written out at any length.
#[test]
fn lists_of_little_are_not_too_complex() {
    for cel in [
        format!("doc.a in [1{}]", ", 'two'".repeat(200)),
        format!("[doc.a == 1{}].all(x, x)", ", size(doc.b) - 1 > 2, has(doc.c), !(doc.d in [1])".repeat(20)),
        format!("[doc.a{}].exists(x, x == 1)", ", doc.b".repeat(6)),
    ] {
        assert!(compile(json!({"cel": cel})).is_ok(), "{cel}");
    }
}

/// The parser's own limit on nesting.
#[test]
fn deep_nesting_is_refused_one_way_or_the_other() {
    for cel in [
        format!("{}true{}", "(".repeat(500), ")".repeat(500)),
        format!("{}1{} == []", "[".repeat(500), "]".repeat(500)),
        format!("{}true", "!".repeat(1001)),
        format!("{}1 == 1", "-".repeat(1001)),
        "true ? ".repeat(200) + "true" + &" : false".repeat(200),
    ] {
        let result = compile(json!({"cel": cel}));
        let code = result.err().map(|problem| problem.code);
        assert!(
            matches!(code, None | Some(Code::CelCompilationFailed | Code::FilterTooComplex)),
            "{code:?} {}",
            &cel[..20]
        );
    }
}

/// What is accepted runs on half the stack of an ordinary task, in a debug build, too.
#[test]
fn the_deepest_accepted_programs_run_on_one_megabyte() {
    let deepest = |make: &dyn Fn(usize) -> String| {
        let accepted = (1..400).rev().map(make).find(|cel| cel.len() <= 2048 && compile(json!({"cel": cel})).is_ok());
        accepted.expect("some depth is accepted")
    };
    let chains: Vec<String> = vec![
        deepest(&|n| format!("{}1 == 1", "1 - ".repeat(n))),
        deepest(&|n| format!("doc{} == 1", ".a".repeat(n))),
        deepest(&|n| format!("doc{} == 1", "[0]".repeat(n))),
        deepest(&|n| format!("{}true{}", "(true || ".repeat(n), ")".repeat(n))),
        deepest(&|n| format!("{}doc.x{}", "(doc.x && ".repeat(n), ")".repeat(n))),
        deepest(&|n| format!("{}doc.x{}", "!(".repeat(n), ")".repeat(n))),
        deepest(&|n| format!("{}1{} == 1", "int(".repeat(n), ")".repeat(n))),
        deepest(&|n| format!("{}1{} == []", "[".repeat(n), "]".repeat(n))),
        deepest(&|n| format!("{}1{} == {{}}", "{'a':".repeat(n), "}".repeat(n))),
        deepest(&|n| format!("doc.l.exists(x, {}x{} == 1)", "int(".repeat(n), ")".repeat(n))),
        deepest(&|n| format!("[1].exists(x, {}true{})", "(true ? ".repeat(n), " : false)".repeat(n))),
        deepest(&|n| format!("doc.l{}.size() == 1", ".filter(x, true)".repeat(n))),
    ];
    // A body as deep as MongoDB takes.
    let mut body = doc! {"x": true};
    for _ in 0..180 {
        body = doc! {"a": body};
    }
    body.insert("x", true);
    body.insert("l", vec![1]);
    let run = move || {
        for cel in &chains {
            let filter = filter(json!({"cel": cel}));
            filter.evaluate(&change(&body));
            let mut matcher = streamer::matching::Matcher::new();
            matcher.insert(streamer::matching::SubscriptionIndex(0), filter);
            matcher.matches(&change(&body), &mut Vec::new());
        }
    };
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(run).expect("thread");
    thread.join().expect("no overflow, no panic");
}

/// What a loop takes from the document with every turn is bounded, or a filter would cost the
/// square of a document's size.
#[test]
fn loops_over_large_documents_are_an_error_where_they_would_be_quadratic() {
    let ints = |n: i32| (0..n).collect::<Vec<i32>>();
    let long = "x".repeat(64 << 10);
    let document = doc! {
        "few": ints(1000), "many": ints(1001), "thousands": ints(100_000), "too_many": ints(100_001), "limit": 5, "key": "limit",
        "text": &long, "longer": format!("{long}x"), "deep": [ints(600), ints(600)], "map": {"a": 1}, "names": ["limit", "few"],
    };
    for (cel, expected) in [
        ("doc.thousands.exists(x, x == 99999)", true),
        ("doc.too_many.exists(x, x == 1)", false),
        ("doc.too_many.exists(x, x == 1) || doc.limit == 5", true),
        ("1 in doc.too_many", true),
        ("doc.few.exists(x, x == doc.limit)", true),
        ("doc.few.exists(x, x in doc.few)", true),
        ("doc.few.exists(x, x in doc.many)", false),
        ("doc.few.exists(x, [doc.deep] == [doc.deep])", false),
        ("doc.few.exists(x, doc.text.contains('x'))", true),
        ("doc.few.exists(x, doc.longer.contains('x'))", false),
        ("doc.few.exists(x, size(doc.many) > x)", false),
        ("doc.few.exists(x, doc.many[x] == 7)", true),
        ("doc.few.exists(x, has(doc.many) && x == 3)", true),
        ("doc.few.exists(x, doc == doc)", false),
        ("doc.names.exists(x, doc[x] == 5)", true),
        ("doc.names.exists(x, has(doc.map.a) && doc[doc.key] == 5)", true),
        ("doc.names.exists(x, doc[size(doc.many) > 1 ? 'limit' : 'limit'] == 5)", false),
        ("doc.names.exists(doc, doc == 'few')", true),
        ("doc.many.filter(x, x > 5).exists(y, y == 9)", true),
        // Whatever an element before the end decides.
        ("doc.too_many.exists(x, x == 0)", false),
        ("doc.too_many.all(x, x > 0) || !doc.too_many.all(x, x > 0)", false),
        ("doc.too_many.exists_one(x, x == 0)", false),
        ("size(doc.thousands.map(x, x + 1)) == 100000", true),
        ("size(doc.too_many.map(x, x + 1)) > 0", false),
        ("doc.few.exists(x, x == doc.limit && size(doc.few) == 1000 && size(doc.text) > x)", true),
        ("doc.few.exists(x, [doc.longer] == [doc.longer])", false),
        ("doc.few.exists(x, doc.longer == doc.longer || true)", true),
        ("doc.few.exists(x, doc.many[999] == x && doc['deep'][1][599] == 599)", true),
        ("doc.few.exists(x, doc.deep[1] == doc.deep[0] && x == 1)", true),
        ("doc.few.exists(x, doc.map == doc.map && x == 1)", true),
    ] {
        assert_eq!(is_match(json!({"cel": cel}), &document), expected, "{cel}");
    }
}
