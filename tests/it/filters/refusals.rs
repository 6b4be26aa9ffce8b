//! What a registration refuses, with the code and the field that it names.

use serde_json::{Value, json};
use streamer::error::{Code, Problem};
use streamer::subscription::{GatewayId, Spec, StartAt, SubscriptionId};

use super::request;

#[track_caller]
fn refused(fields: Value, code: Code, field: &str) -> Problem {
    let problem = Spec::from_json(&request(fields.clone())).expect_err(&fields.to_string());
    assert_eq!(
        (problem.code, problem.field.as_deref(), problem.status),
        (code, (!field.is_empty()).then_some(field), code.status()),
        "{fields}: {problem}"
    );
    problem
}

#[test]
fn requests_of_the_wrong_shape() {
    for (fields, field) in [
        (json!({"subscriptionId": null}), "subscriptionId"),
        (json!({"subscriptionId": ""}), "subscriptionId"),
        (json!({"subscriptionId": "a b"}), "subscriptionId"),
        (json!({"subscriptionId": "x".repeat(129)}), "subscriptionId"),
        (json!({"subscriptionId": 7}), "subscriptionId"),
        (json!({"gatewayId": null}), "gatewayId"),
        (json!({"gatewayId": "ä"}), "gatewayId"),
        (json!({"group": "edge"}), "group"),
        (json!({"group": 1, "gatewayId": null}), "group"),
        (json!({"group": "a/b", "gatewayId": null}), "group"),
        (json!({"tenant": null}), "tenant"),
        (json!({"tenant": ""}), "tenant"),
        (json!({"tenant": "/a"}), "tenant"),
        (json!({"collection": "a/"}), "collection"),
        (json!({"collection": "a\u{7}b"}), "collection"),
        (json!({"collection": "ä".repeat(129)}), "collection"),
        (json!({"collection": ["c"]}), "collection"),
        (json!({"backend": "a b"}), "backend"),
        (json!({"nothing": 1}), "nothing"),
        (json!({"filters": {}}), "filters"),
        (json!({"filters": ["x"]}), "filters[0]"),
        (json!({"filters": [{"op": "==", "value": 1}]}), "filters[0].field"),
        (json!({"filters": [{"field": 1, "op": "==", "value": 1}]}), "filters[0].field"),
        (json!({"filters": [{"field": "a", "value": 1}]}), "filters[0].op"),
        (json!({"filters": [{"field": "a", "op": 1, "value": 1}]}), "filters[0].op"),
        (json!({"filters": [{"field": "a", "op": "=="}]}), "filters[0].value"),
        (
            json!({"filters": [{"field": "a", "op": "==", "value": 1}, {"field": "a", "op": "==", "value": 1, "x": 1}]}),
            "filters[1].x",
        ),
        (json!({"cel": 1}), "cel"),
        (json!({"interval": []}), "interval"),
        (json!({"interval": {"field": "a", "start": 1}}), "interval.stop"),
        (json!({"interval": {"field": "a", "start": 1, "stop": 2, "step": 1}}), "interval.step"),
        (json!({"operations": "insert"}), "operations"),
        (json!({"operations": [1]}), "operations[0]"),
        (json!({"transitions": "yes"}), "transitions"),
        (json!({"fields": "a"}), "fields"),
        (json!({"fields": ["a", 1]}), "fields[1]"),
        (json!({"fields": ["a..b"]}), "fields[0]"),
        (json!({"startAt": 1}), "startAt"),
        (json!({"startAt": {}}), "startAt"),
        (json!({"startAt": {"operationTime": {"t": 1, "i": 1}, "cursor": "x"}}), "startAt"),
        (json!({"startAt": {"position": "00000000000000000000000000000001"}}), "startAt.position"),
        (json!({"startAt": {"operationTime": 5}}), "startAt.operationTime"),
        (json!({"startAt": {"operationTime": "yesterday"}}), "startAt.operationTime"),
        (json!({"startAt": {"operationTime": "1969-12-31T23:59:59Z"}}), "startAt.operationTime"),
        (json!({"startAt": {"operationTime": {"t": 1}}}), "startAt.operationTime.i"),
        (json!({"startAt": {"operationTime": {"t": -1, "i": 1}}}), "startAt.operationTime.t"),
        (json!({"startAt": {"operationTime": {"t": 4294967296_u64, "i": 1}}}), "startAt.operationTime.t"),
        (json!({"startAt": {"cursor": 1}}), "startAt.cursor"),
        (json!({"ttlSeconds": 59}), "ttlSeconds"),
        (json!({"ttlSeconds": 3601}), "ttlSeconds"),
        (json!({"ttlSeconds": "300"}), "ttlSeconds"),
        (json!({"ttlSeconds": 60.5}), "ttlSeconds"),
        (json!({"ttlSeconds": -60}), "ttlSeconds"),
    ] {
        refused(fields, Code::InvalidRequest, field);
    }
    for other in [json!(null), json!([]), json!("x"), json!(1)] {
        assert_eq!(Spec::from_json(&other).expect_err("no object").code, Code::InvalidRequest);
    }
    assert!(refused(json!({"group": "edge"}), Code::InvalidRequest, "group").detail.contains("not both"));
    for cursor in ["", "a b", "ä", &"x".repeat(4097)] {
        refused(json!({"startAt": {"cursor": cursor}}), Code::InvalidCursor, "startAt.cursor");
    }
}

fn one(op: &str, value: Value) -> Value {
    json!({"filters": [{"field": "a", "op": op, "value": value}]})
}

#[test]
fn filters_that_mean_nothing() {
    for (op, value) in [
        ("exists", json!(1)),
        ("exists", json!(null)),
        ("starts-with", json!(1)),
        ("starts-with", json!(["a"])),
        ("in", json!("a")),
        ("not-in", json!({"a": 1})),
        ("array-contains-any", json!(1)),
        ("<", json!(null)),
        ("<=", json!([1])),
        (">", json!({"a": 1})),
        (">=", json!({"$numberDouble": "NaN"})),
        ("==", json!({"$oid": "xyz"})),
        ("==", json!({"$date": "soon"})),
        ("==", json!({"$numberInt": "12345678901"})),
        ("==", json!({"$date": {"$numberLong": "9223372036854775807"}})),
        ("in", json!([{"$date": {"$numberLong": "9223372036854775807"}}])),
    ] {
        refused(one(op, value), Code::InvalidFilter, "filters[0].value");
    }
    for op in ["=", "eq", "IN", ""] {
        refused(one(op, json!(1)), Code::InvalidFilter, "filters[0].op");
    }
    for path in ["", ".", "a.", ".a", "a..b", "a\u{0}"] {
        let filter = json!({"filters": [{"field": path, "op": "==", "value": 1}]});
        refused(filter, Code::InvalidFilter, "filters[0].field");
    }
    let interval = |start: Value, stop: Value| json!({"interval": {"field": "a", "start": start, "stop": stop}});
    refused(interval(json!(2), json!(1)), Code::InvalidFilter, "interval.start");
    refused(interval(json!("b"), json!("a")), Code::InvalidFilter, "interval.start");
    refused(interval(json!(1), json!("a")), Code::InvalidFilter, "interval");
    refused(interval(json!([1]), json!(1)), Code::InvalidFilter, "interval.start");
    refused(interval(json!(1), json!({"$numberDouble": "NaN"})), Code::InvalidFilter, "interval.stop");
    refused(json!({"operations": []}), Code::InvalidFilter, "operations");
    refused(json!({"operations": ["insert", "upsert"]}), Code::InvalidFilter, "operations[1]");
}

#[test]
fn filters_over_a_limit_and_at_it() {
    let long = |n: usize| "x".repeat(n);
    let steps = |n: usize| vec!["a"; n].join(".");
    let path = |path: String| json!({"filters": [{"field": path, "op": "==", "value": 1}]});
    let terms = |n: usize| json!({"filters": vec![json!({"field": "a", "op": "==", "value": 1}); n]});
    let at_the_limit = [
        terms(32),
        one("in", json!(vec![1; 1000])),
        one("==", json!(long(4096))),
        path(long(256)),
        path(steps(16)),
        json!({"cel": format!("'{}' == ''", long(2040))}),
        json!({"fields": [long(256)]}),
    ];
    for fields in at_the_limit {
        Spec::from_json(&request(fields)).expect("at the limit");
    }
    refused(terms(33), Code::FilterTooComplex, "filters");
    refused(one("in", json!(vec![1; 1001])), Code::FilterTooComplex, "filters[0].value");
    refused(one("==", json!(long(4097))), Code::FilterTooComplex, "filters[0].value");
    refused(one("==", json!({"deep": [long(4097)]})), Code::FilterTooComplex, "filters[0].value");
    refused(path(long(257)), Code::FilterTooComplex, "filters[0].field");
    refused(path(steps(17)), Code::FilterTooComplex, "filters[0].field");
    refused(json!({"cel": long(2049)}), Code::FilterTooComplex, "cel");
    refused(json!({"interval": {"field": steps(17), "start": 1, "stop": 2}}), Code::FilterTooComplex, "interval.field");
    refused(
        json!({"interval": {"field": "a", "start": "a", "stop": long(4097)}}),
        Code::FilterTooComplex,
        "interval.stop",
    );
    refused(json!({"fields": [steps(17)]}), Code::FilterTooComplex, "fields[0]");
    refused(json!({"fields": vec![long(200); 400]}), Code::FilterTooComplex, "");
}

#[test]
fn defaults_and_forms_of_start() {
    let spec = |fields: Value| Spec::from_json(&request(fields)).expect("valid");
    let plain = spec(json!({"cel": null, "filters": null, "startAt": null, "ttlSeconds": null}));
    assert_eq!(
        plain.to_json(),
        json!({"subscriptionId": "s", "gatewayId": "g", "tenant": "t", "collection": "c", "filters": [],
               "operations": ["insert", "update", "replace", "delete"], "transitions": false, "ttlSeconds": 300})
    );
    let at = |start: Value| spec(json!({"startAt": start})).start_at.expect("a start");
    assert_eq!(at(json!({"cursor": "abc"})), StartAt::Cursor("abc".into()));
    let StartAt::OperationTime(time) = at(json!({"operationTime": {"t": 7, "i": 3}})) else { panic!("a time") };
    assert_eq!((time.seconds(), time.increment()), (7, 3));
    for text in ["2026-11-21T10:00:00Z", "2026-11-21T11:00:00.9+01:00"] {
        let spec = spec(json!({"startAt": {"operationTime": text}}));
        assert_eq!(spec.start_at, Some(StartAt::Second(1_795_255_200)));
        assert_eq!(spec.to_json()["startAt"], json!({"operationTime": "2026-11-21T10:00:00Z"}));
    }
}

#[test]
fn the_path_of_a_put_names_the_subscription() {
    let (gateway, id) = (GatewayId::new("g").expect("name"), SubscriptionId::new("s").expect("name"));
    let put = |body: Value| Spec::from_json_at(&body, &gateway, &id);
    for body in [
        json!({"tenant": "t", "collection": "c"}),
        json!({"tenant": "t", "collection": "c", "gatewayId": "g"}),
        json!({"tenant": "t", "collection": "c", "gatewayId": "g", "subscriptionId": "s"}),
    ] {
        let spec = put(body).expect("valid");
        assert_eq!((spec.gateway_id.as_str(), spec.subscription_id.as_str()), ("g", "s"));
    }
    for field in ["gatewayId", "subscriptionId"] {
        let problem = put(json!({"tenant": "t", "collection": "c", field: "other"})).expect_err("differs");
        assert_eq!((problem.code, problem.field.as_deref()), (Code::InvalidRequest, Some(field)));
    }
}

#[test]
fn the_same_again_compares_all_but_lease_and_start() {
    let spec = |fields: Value| Spec::from_json(&request(fields)).expect("valid");
    let nan = json!({"$numberDouble": "NaN"});
    let one = spec(json!({"filters": [{"field": "a", "op": "!=", "value": nan}], "ttlSeconds": 60}));
    let again = json!({"filters": [{"field": "a", "op": "!=", "value": nan}], "startAt": {"cursor": "x"}});
    assert!(one.same_as(&spec(again)));
    let base = spec(json!({}));
    for other in [
        json!({"subscriptionId": "x"}),
        json!({"gatewayId": "x"}),
        json!({"tenant": "x"}),
        json!({"collection": "x"}),
        json!({"backend": "x"}),
        json!({"filters": [{"field": "a", "op": "==", "value": 1}]}),
        json!({"cel": "true"}),
        json!({"interval": {"field": "a", "start": 1, "stop": 2}}),
        json!({"operations": ["insert"]}),
        json!({"transitions": true}),
        json!({"fields": []}),
    ] {
        assert!(!base.same_as(&spec(other.clone())), "{other}");
    }
    assert!(base.same_as(&spec(json!({"operations": ["delete", "update", "insert", "replace"]}))));
}
