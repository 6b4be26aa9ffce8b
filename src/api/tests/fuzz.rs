//! Nonsense on every route: no answer is the hub's fault, and every refusal is a problem document.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"];

fn paths() -> impl Strategy<Value = String> {
    let routes: Vec<&'static str> = table()
        .into_iter()
        .map(|(path, _)| path)
        // It does not end.
        .filter(|path| *path != "/v1/overview/stream")
        .chain(["/v1/gateways/{gateway}/stream", "/v1/gateways/{gateway}/ack"])
        .collect();
    let segment =
        prop_oneof![Just("gw-1".to_owned()), Just("default".to_owned()), Just("0".to_owned()), "[a-z0-9.%:_~-]{0,12}"];
    let query = prop_oneof![3 => Just(String::new()), 1 => "\\?[a-zA-Z=&%0-9+]{0,20}", 1 => "\\?(limit|after|tenant|ack|cursor)=[a-z0-9%]{0,8}"];
    (prop::sample::select(routes), vec(segment, 2), query).prop_map(|(route, names, query)| {
        let mut path = route.to_owned();
        for (number, hole) in ["{gateway}", "{subscription}", "{backend}", "{number}"].iter().enumerate() {
            path = path.replace(hole, &names[number % 2]);
        }
        path + &query
    })
}

/// JSON that is made of the interface's own words.
fn jsons() -> impl Strategy<Value = Value> {
    let words = [
        "subscriptionId",
        "gatewayId",
        "tenant",
        "collection",
        "filters",
        "field",
        "op",
        "value",
        "cel",
        "interval",
        "start",
        "stop",
        "operations",
        "transitions",
        "fields",
        "startAt",
        "operationTime",
        "cursor",
        "ttlSeconds",
        "subscriptions",
        "subscriptionIds",
        "delivery",
        "positions",
        "now",
        "t",
        "i",
        "node",
        "events",
        "key",
        "operation",
        "document",
        "before",
        "default/0",
        "$date",
        "$oid",
        "$numberLong",
        "$numberDouble",
        "$binary",
    ];
    let texts = [
        "",
        "a",
        "gw-1",
        "==",
        "in",
        "insert",
        "stream",
        "nats",
        "doc.a == 1",
        "doc.a.exists(x, x > 1)",
        "(((",
        "2026-11-21T10:00:00Z",
        "a.b.0",
        "000000016920372e0000000100000003",
        "\u{0}",
        "ä",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(texts.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 8, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((prop::sample::select(words.to_vec()), inner), 0..8)
                .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

/// A whole registration with one part of it replaced.
fn nearly_right() -> impl Strategy<Value = Value> {
    let members = prop::sample::select(vec![
        "filters",
        "cel",
        "interval",
        "operations",
        "fields",
        "startAt",
        "ttlSeconds",
        "tenant",
        "backend",
    ]);
    (members, jsons(), any::<bool>()).prop_map(|(name, value, batch)| {
        let mut asked = spec("gw-1", "a");
        asked[name] = value;
        if batch { json!({"subscriptions": [asked]}) } else { asked }
    })
}

fn bodies() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => vec(any::<u8>(), 0..64),
        2 => jsons().prop_map(|value| value.to_string().into_bytes()),
        2 => nearly_right().prop_map(|value| value.to_string().into_bytes()),
        1 => (jsons(), any::<prop::sample::Index>()).prop_map(|(value, cut)| {
            let mut text = value.to_string().into_bytes();
            text.truncate(cut.index(text.len() + 1));
            text
        }),
    ]
}

#[test]
fn nonsense_is_refused_properly() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let api = runtime.block_on(Api::start());
    let mut runner = TestRunner::new(Config { cases: 1500, failure_persistence: None, ..Config::default() });
    let cases = (prop::sample::select(METHODS.to_vec()), paths(), bodies());
    let outcome = runner.run(&cases, |(method, path, body)| {
        let answer = runtime.block_on(api.call_raw(method, &path, body));
        // Not ready is a truth about the hub, which this one is.
        prop_assert!(answer.status < 500, "{:?}", answer);
        if answer.status >= 400 && method != "HEAD" {
            answer.problem();
        }
        for result in answer.json["results"].as_array().into_iter().flatten() {
            prop_assert!(result["status"].as_u64().is_some_and(|status| status < 500), "{}", result);
        }
        Ok(())
    });
    outcome.unwrap();
    drop(api);
}
