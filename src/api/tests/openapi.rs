//! `/v1/openapi.json` says what is here, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use super::fake::ALL_CODES;
use super::*;

const STREAMS: [&str; 4] = [
    "/v1/gateways/{gateway}/stream",
    "/v1/gateways/{gateway}/ack",
    "/v1/groups/{group}/stream",
    "/v1/groups/{group}/ack",
];

fn document() -> Value {
    serde_json::from_str(include_str!("../openapi.json")).unwrap()
}

/// Any path that the route takes.
fn concrete(path: &str) -> String {
    path.replace("{gateway}", "gw-1")
        .replace("{group}", "g")
        .replace("{subscription}", "s")
        .replace("{backend}", "default")
        .replace("{number}", "0")
        .replace("{file}", "app.js")
}

#[tokio::test]
async fn each_route_is_in_the_document_and_the_other_way_round() {
    let api = Api::start().await;
    let mut served: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in table().into_iter().map(|(path, _)| path).chain(STREAMS) {
        // No route knows this method, so each says which ones it does.
        let answer = api.call("TRACE", &concrete(path)).await;
        assert_eq!(answer.status, 405, "{path}");
        let allow = answer.headers["allow"].to_str().unwrap();
        // HEAD comes with GET.
        let methods = allow.split(',').filter(|method| *method != "HEAD").map(str::to_lowercase);
        served.insert(path.to_owned(), methods.collect());
    }
    let written: BTreeMap<String, BTreeSet<String>> = document()["paths"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(path, operations)| (path.clone(), operations.as_object().unwrap().keys().cloned().collect()))
        .collect();
    assert_eq!(served, written);
    let answer = api.call("GET", "/v1/openapi.json").await;
    assert_eq!((answer.media_type(), &answer.json), ("application/json", &document()));
}

fn walk(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(map) => {
            visit(map);
            map.values().for_each(|value| walk(value, visit));
        }
        Value::Array(items) => items.iter().for_each(|value| walk(value, visit)),
        _ => {}
    }
}

#[test]
fn the_document_is_whole() {
    let document = document();
    assert_eq!(
        (&document["openapi"], &document["info"]["version"]),
        (&json!("3.1.0"), &json!(env!("CARGO_PKG_VERSION")))
    );
    let (mut ids, mut used) = (BTreeSet::new(), BTreeSet::new());
    walk(&document, &mut |map| {
        if let Some(target) = map.get("$ref").and_then(Value::as_str) {
            assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target} leads nowhere");
            used.insert(target.to_owned());
        }
        if let Some(id) = map.get("operationId").and_then(Value::as_str) {
            assert!(ids.insert(id.to_owned()), "{id} twice");
            assert!(map["responses"].as_object().is_some_and(|responses| responses.contains_key("default")), "{id}");
        }
    });
    for kind in ["schemas", "responses", "parameters"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            assert!(used.contains(&format!("#/components/{kind}/{name}")), "{name} is used nowhere");
        }
    }
    let codes: Vec<_> = ALL_CODES.iter().map(|code| json!(code.name())).collect();
    assert_eq!(document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"], json!(codes));
}

/// That the answer has exactly the members which its schema has, and all that are required.
fn assert_fits(document: &Value, schema: &str, answer: &Value) {
    let schema_of = &document["components"]["schemas"][schema];
    let members = answer.as_object().unwrap_or_else(|| panic!("{schema}: {answer}"));
    for name in members.keys() {
        assert!(schema_of["properties"].get(name).is_some(), "{schema} does not know {name}");
    }
    for name in schema_of["required"].as_array().unwrap() {
        assert!(members.contains_key(name.as_str().unwrap()), "{schema} without {name}");
    }
}

#[tokio::test]
async fn answers_are_what_the_document_says() {
    let (api, document) = (Api::start().await, document());
    let mut full = spec("gw-1", "parked");
    for (name, value) in [
        ("filters", json!([{"field": "a", "op": "==", "value": 1}])),
        ("cel", json!("doc.a == 1")),
        ("backend", json!("default")),
        ("interval", json!({"field": "at", "start": 1, "stop": 2})),
        ("operations", json!(["insert"])),
        ("transitions", json!(true)),
        ("fields", json!(["a"])),
        ("startAt", json!({"operationTime": {"t": 1, "i": 1}})),
        ("ttlSeconds", json!(60)),
    ] {
        full[name] = value;
    }
    assert_fits(&document, "SubscriptionRequest", &full);
    let created = api.call_with("POST", "/v1/subscriptions", &full).await;
    assert_eq!(created.status, 201);
    assert_fits(&document, "Subscription", &created.json);
    for (path, schema, pointer) in [
        ("/v1/subscriptions", "SubscriptionPage", ""),
        ("/v1/gateways/gw-1", "Gateway", ""),
        ("/v1/partitions", "Partition", "/partitions/0"),
        ("/v1/cluster", "Cluster", ""),
        ("/v1/stats", "Stats", ""),
        ("/v1/overview", "Overview", ""),
        ("/v1/drills", "DrillReports", ""),
        ("/health", "Health", ""),
        ("/nowhere", "Problem", ""),
    ] {
        let answer = api.call("GET", path).await.json;
        assert_fits(&document, schema, answer.pointer(pointer).unwrap());
    }
    let tried = json!({"subscription": spec("gw-1", "a"), "seconds": 5, "source": "oplog"});
    assert_fits(&document, "BacktestRequest", &tried);
    assert_fits(&document, "Backtest", &api.call_with("POST", "/v1/backtest", &tried).await.json);
    let beat = api.call("PUT", "/v1/gateways/gw-1/heartbeat").await.json;
    assert_fits(&document, "Renewed", &beat);
}

#[tokio::test]
async fn the_examples_for_people_are_of_this_interface() {
    let api = Api::start().await;
    let text = include_str!("../../../docs/http-api.md");
    let mut seen = 0;
    for call in text.split("curl ").skip(1).map(|rest| rest.split(['\n', ';']).next().unwrap()) {
        let Some((options, address)) = call.split_once("localhost:7700") else { continue };
        let path = address.split([' ', '\'']).next().unwrap();
        let verb = options.split("-X ").nth(1).map(|rest| rest.split(' ').next().unwrap());
        if path == "/v1/overview/stream" {
            // It goes on; a test of its own reads it.
            continue;
        }
        let method = verb.unwrap_or(if address.contains("--json") { "POST" } else { "GET" });
        let answer = api.call(method, path).await;
        let code = answer.json["code"].as_str();
        assert!(!matches!(code, Some("NOT_FOUND" | "METHOD_NOT_ALLOWED")), "{method} {path}: {answer:?}");
        seen += 1;
    }
    assert!(seen > 15, "{seen} examples");
}
