//! Refusals over HTTP, with a whole hub behind them.

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use streamer::clock::Clock;

use super::registration::{post, subscription};
use super::site::{Running, Site};

const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Every refusal is a problem document with its code and, where one field is at fault, that field.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_problem_documents() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    let with = |field: &str, value: Value| {
        let mut asked = subscription("gw", "s", "c");
        asked[field] = value;
        asked
    };
    let mut wrong = Vec::new();
    let chain = vec!["doc.n == 1"; 200].join(" || ");
    for (asked, status, code, field) in [
        (with("subscriptionId", json!("a b")), 422, "INVALID_REQUEST", "subscriptionId"),
        (with("gatewayId", json!("x".repeat(129))), 422, "INVALID_REQUEST", "gatewayId"),
        (with("tenant", json!("/acme")), 422, "INVALID_REQUEST", "tenant"),
        (with("collection", Value::Null), 422, "INVALID_REQUEST", "collection"),
        (with("ttlSeconds", json!(59)), 422, "INVALID_REQUEST", "ttlSeconds"),
        (with("ttlSeconds", json!(3601)), 422, "INVALID_REQUEST", "ttlSeconds"),
        (with("colour", json!("red")), 422, "INVALID_REQUEST", "colour"),
        (with("operations", json!(["upsert"])), 422, "INVALID_FILTER", "operations[0]"),
        (with("filters", json!([{ "field": "a", "op": "in", "value": 1 }])), 422, "INVALID_FILTER", "filters[0].value"),
        (with("filters", json!([{ "field": "a", "op": "~", "value": 1 }])), 422, "INVALID_FILTER", "filters[0].op"),
        (
            with("filters", json!([{ "field": "a..b", "op": "==", "value": 1 }])),
            422,
            "INVALID_FILTER",
            "filters[0].field",
        ),
        (with("interval", json!({ "field": "n", "start": 2, "stop": 1 })), 422, "INVALID_FILTER", "interval.start"),
        (with("cel", json!("doc.")), 422, "CEL_COMPILATION_FAILED", "cel"),
        (with("cel", json!("nobody == 1")), 422, "CEL_COMPILATION_FAILED", "cel"),
        (with("cel", json!("strange(doc)")), 422, "CEL_COMPILATION_FAILED", "cel"),
        (with("cel", json!(chain)), 422, "FILTER_TOO_COMPLEX", "cel"),
        (with("cel", json!("!".repeat(3000))), 422, "FILTER_TOO_COMPLEX", "cel"),
        (
            with("filters", json!(vec![json!({ "field": "a", "op": "==", "value": 1 }); 33])),
            422,
            "FILTER_TOO_COMPLEX",
            "filters",
        ),
    ] {
        let (answered, problem) = post(&hub, &asked).await;
        let told = (answered, problem["code"].as_str().unwrap(), problem["field"].as_str().unwrap_or_default());
        if told != (status, code, field) {
            wrong.push(format!("{problem}, expected {status} {code} {field}"));
        }
        assert_eq!(problem["status"], answered);
        assert!(["type", "title", "detail"].iter().all(|name| problem[name].is_string()), "{problem}");
    }
    for (method, path, status, code) in [
        (Method::GET, "/v1/nowhere", 404, "NOT_FOUND"),
        (Method::PATCH, "/v1/subscriptions", 405, "METHOD_NOT_ALLOWED"),
        (Method::GET, "/v1/gateways/gw/subscriptions/none", 404, "SUBSCRIPTION_NOT_FOUND"),
        (Method::DELETE, "/v1/gateways/none", 404, "GATEWAY_NOT_FOUND"),
        (Method::GET, "/v1/gateways/none", 404, "GATEWAY_NOT_FOUND"),
        (Method::GET, "/v1/subscriptions?limit=0", 422, "INVALID_REQUEST"),
        (Method::GET, "/v1/subscriptions?colour=red", 422, "INVALID_REQUEST"),
        (Method::GET, "/v1/subscriptions?after=nonsense", 422, "INVALID_REQUEST"),
    ] {
        let (answered, problem) = hub.call(method.clone(), path, None).await;
        if (answered, &problem["code"]) != (status, &json!(code)) {
            wrong.push(format!("{method} {path}: {problem}, expected {status} {code}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/v1/subscriptions", hub.http_url());
    let large = format!("{{\"tenant\":\"{}\"}}", "x".repeat(1 << 20));
    for (body, media, status, code) in [
        ("{".to_owned(), "application/json", 400, "INVALID_REQUEST"),
        ("{}".to_owned(), "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (large, "application/json", 413, "PAYLOAD_TOO_LARGE"),
    ] {
        let answer = http.post(&url).header("content-type", media).body(body).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["content-type"]), (status, &PROBLEM));
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], code);
    }
    assert_eq!(hub.get("/v1/subscriptions").await.1["subscriptions"], json!([]), "nothing was made");
    hub.drain().await;
    site.remove().await;
}
