//! Every way to be refused, and that each is a problem document.

use super::fake::ALL_CODES;
use super::*;

#[tokio::test]
async fn whatever_code_the_hub_answers_reaches_the_caller() {
    let api = Api::start().await;
    for code in ALL_CODES {
        let gateway = format!("fail:{}", code.name());
        let expected = (code.status(), code.name(), None);
        let post = api.call_with("POST", "/v1/subscriptions", &spec(&gateway, "a")).await;
        assert_eq!(post.problem(), expected);
        assert_eq!(post.headers["retry-after"], "7");
        let now = json!({"now": true});
        let scope = json!({"tenant": "t", "collection": "c"});
        for (method, path, body) in [
            ("GET", "", None),
            ("DELETE", "", None),
            ("PUT", "", Some(json!({"delivery": "stream"}))),
            ("PUT", "/heartbeat", None),
            ("PUT", "/cursor", Some(now)),
            ("POST", "/park", None),
            ("GET", "/stream", None),
            ("POST", "/ack", Some(json!({"cursor": "mine"}))),
            ("GET", "/subscriptions/a", None),
            ("PUT", "/subscriptions/a", Some(scope)),
            ("DELETE", "/subscriptions/a", None),
            ("PUT", "/subscriptions/a/heartbeat", None),
        ] {
            let request = api.request(method, &format!("/v1/gateways/{gateway}{path}"));
            let request = if let Some(body) = body { request.json(&body) } else { request };
            assert_eq!(api.send(request).await.problem(), expected, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_hub_that_goes_down_is_no_owner() {
    let api = Api::start().await;
    let answer = api.call_with("POST", "/v1/subscriptions", &spec("silent", "a")).await;
    assert_eq!(answer.problem(), (503, "OWNER_UNKNOWN", None));
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn paths_that_are_not_there() {
    let api = Api::start().await;
    for path in
        ["/nothing", "/v1", "/v1/", "/v1/gateways/", "/health/", "/v1/gateways/a/b", "/%FF", "/v1//gateways", "/v1/exp"]
    {
        let answer = api.call("GET", path).await;
        assert_eq!(answer.problem(), (404, "NOT_FOUND", None), "{path}");
        assert!(answer.json["detail"].as_str().unwrap().contains("openapi"), "{path}");
    }
    for (path, what) in [("/v1/aggregations", "aggregations"), ("/v1/aggregations/a", "aggregations")] {
        let answer = api.call("POST", path).await;
        assert_eq!(answer.problem(), (404, "NOT_FOUND", None));
        assert!(answer.json["detail"].as_str().unwrap().contains(what), "{path}");
    }
}

#[tokio::test]
async fn methods_that_are_not_there_are_told_with_those_that_are() {
    let api = Api::start().await;
    for (method, path, allow) in [
        ("DELETE", "/v1/subscriptions", vec!["GET", "HEAD", "POST"]),
        ("GET", "/v1/subscriptions/batch", vec!["POST"]),
        ("PATCH", "/v1/gateways/gw-1", vec!["DELETE", "GET", "HEAD", "PUT"]),
        ("POST", "/v1/gateways/gw-1/stream", vec!["GET", "HEAD"]),
        ("HEAD", "/v1/gateways/gw-1/stream", vec!["GET"]),
        ("GET", "/v1/gateways/gw-1/ack", vec!["POST"]),
        ("POST", "/health", vec!["GET", "HEAD"]),
        ("BREW", "/", vec!["GET", "HEAD"]),
        ("OPTIONS", "/v1/gateways", vec!["GET", "HEAD"]),
    ] {
        let answer = api.call(method, path).await;
        let mut told: Vec<_> = answer.headers["allow"].to_str().unwrap().split(',').collect();
        told.sort_unstable();
        assert_eq!((answer.status, told), (405, allow), "{method} {path}");
        if method != "HEAD" {
            assert_eq!(answer.problem(), (405, "METHOD_NOT_ALLOWED", None));
        }
    }
}

#[tokio::test]
async fn names_in_paths_are_names() {
    let api = Api::start().await;
    let long = "x".repeat(129);
    for name in ["a%20b", "%FF", "%C3%A4", "a%2Fb", "%zz", &long] {
        for (method, path, field) in [
            ("GET", format!("/v1/gateways/{name}"), "gatewayId"),
            ("POST", format!("/v1/gateways/{name}/park"), "gatewayId"),
            ("GET", format!("/v1/gateways/{name}/stream"), "gatewayId"),
            ("DELETE", format!("/v1/gateways/gw-1/subscriptions/{name}"), "subscriptionId"),
        ] {
            let answer = api.call(method, &path).await;
            let (status, code, at) = answer.problem();
            assert_eq!((status, code), (422, "INVALID_REQUEST"), "{path}");
            assert!(at.is_none() && name == "%FF" || at == Some(field), "{path}: {at:?}");
        }
    }
}

#[tokio::test]
async fn parameters_are_those_that_are_known() {
    let api = Api::start().await;
    for (path, field) in [
        ("/v1/subscriptions?tenat=x", "tenat"),
        ("/v1/subscriptions?limit=0", "limit"),
        ("/v1/subscriptions?limit=1001", "limit"),
        ("/v1/subscriptions?limit=-1", "limit"),
        ("/v1/subscriptions?limit=", "limit"),
        ("/v1/subscriptions?limit=1&limit=2", "limit"),
        ("/v1/subscriptions?after=x", "after"),
        ("/v1/subscriptions?tenant=%FF", "tenant"),
        ("/v1/subscriptions?tenant=%2", "tenant"),
        ("/v1/subscriptions?tenant=", "tenant"),
        ("/v1/subscriptions?gatewayId=a%20b", "gatewayId"),
        ("/v1/subscriptions?group=", "group"),
        ("/v1/gateways?limit=1", "limit"),
        ("/v1/gateways/gw-1/stream?since=1", "since"),
        ("/v1/partitions/default/0?x", "x"),
    ] {
        assert_eq!(api.call("GET", path).await.problem(), (422, "INVALID_REQUEST", Some(field)), "{path}");
    }
    let post = api.call_with("POST", "/v1/subscriptions?dry=1", &spec("gw-1", "a")).await;
    assert_eq!(post.problem(), (422, "INVALID_REQUEST", Some("dry")));
}

/// Routes that take a body, and one that each takes.
fn with_bodies() -> Vec<(&'static str, &'static str)> {
    vec![
        ("POST", "/v1/subscriptions"),
        ("POST", "/v1/subscriptions/batch"),
        ("PUT", "/v1/gateways/gw-1/subscriptions/a"),
        ("PUT", "/v1/gateways/gw-1"),
        ("PUT", "/v1/gateways/gw-1/cursor"),
        ("PUT", "/v1/gateways/gw-1/heartbeat"),
        ("POST", "/v1/gateways/gw-1/ack"),
        ("POST", "/v1/partitions/default/0/move"),
        ("POST", "/v1/events"),
        ("POST", "/v1/events/batch"),
    ]
}

#[tokio::test]
async fn bodies_are_json() {
    let api = Api::start().await;
    let bomb = format!(r#"{{"a":{}1{}}}"#, "[".repeat(400), "]".repeat(400));
    for (method, path) in with_bodies() {
        let batch = path.ends_with("batch");
        for media in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonx",
            "",
            "application/cbor; x=application/json",
        ] {
            let request = api.request(method, path).header("content-type", media).body("{}");
            assert_eq!(api.send(request).await.problem(), (415, "UNSUPPORTED_MEDIA_TYPE", None), "{path} {media}");
        }
        for text in [
            b"{".to_vec(),
            b"\xff\xfe".to_vec(),
            b"{\"a\":\"\xff\"}".to_vec(),
            b"{} {}".to_vec(),
            b"{\"a\":1e999}".to_vec(),
        ] {
            // An envelope with an unknown field is 422 before its values are read.
            let answer = api.call_raw(method, path, text.clone()).await;
            let (status, code, _) = answer.problem();
            assert!(status == 400 || (batch && status == 422), "{path} {text:?} {status}");
            assert_eq!(code, "INVALID_REQUEST");
        }
        let answer = api.call_raw(method, path, bomb.clone()).await;
        assert!([400, 422].contains(&answer.problem().0), "{path}");
        for wrong in ["[]", "\"x\"", "null", "17", r#"{"noSuchField":1}"#] {
            let answer = api.call_raw(method, path, wrong).await;
            assert_eq!(answer.problem().0, 422, "{path} {wrong}: {answer:?}");
        }
        if !path.ends_with("heartbeat") {
            assert_eq!(api.call(method, path).await.problem().0, 400, "{path} without a body");
        }
        // Without a media type it is taken for JSON.
        let answer = api.send(api.request(method, path).body("{\"noSuchField\":1}")).await;
        assert_eq!(answer.problem(), (422, "INVALID_REQUEST", Some("noSuchField")), "{path}");
    }
}

#[tokio::test]
async fn bodies_over_the_limit_are_too_large() {
    let api = Api::start().await;
    for (method, path) in with_bodies() {
        let max = if path.ends_with("batch") { limits::batch_body_bytes_max } else { limits::body_bytes_max };
        let mut text = vec![b' '; max + 1];
        text[..2].copy_from_slice(b"{}");
        let answer = api.call_raw(method, path, text).await;
        assert_eq!(answer.problem(), (413, "PAYLOAD_TOO_LARGE", None), "{path}");
    }
    let mut text = serde_json::to_vec(&spec("gw-1", "a")).unwrap();
    text.resize(limits::body_bytes_max, b' ');
    assert_eq!(api.call_raw("POST", "/v1/subscriptions", text).await.status, 201);
}

#[tokio::test]
async fn a_refusal_names_the_field() {
    let api = Api::start().await;
    for (change, status, code, field) in [
        (json!({"subscriptionId": "a b"}), 422, "INVALID_REQUEST", "subscriptionId"),
        (json!({"tenant": null}), 422, "INVALID_REQUEST", "tenant"),
        (json!({"group": "g"}), 422, "INVALID_REQUEST", "group"),
        (json!({"ttlSeconds": 1}), 422, "INVALID_REQUEST", "ttlSeconds"),
        (json!({"filters": [{"field": "a", "op": "~", "value": 1}]}), 422, "INVALID_FILTER", "filters[0].op"),
        (
            json!({"filters": vec![json!({"field": "a", "op": "==", "value": 1}); 33]}),
            422,
            "FILTER_TOO_COMPLEX",
            "filters",
        ),
        (json!({"cel": "nope.x == 1"}), 422, "CEL_COMPILATION_FAILED", "cel"),
        (json!({"cel": "1 == 1 && ".repeat(300)}), 422, "FILTER_TOO_COMPLEX", "cel"),
        (json!({"interval": {"field": "a", "start": 2, "stop": 1}}), 422, "INVALID_FILTER", "interval.start"),
        (json!({"startAt": {"cursor": ""}}), 400, "INVALID_CURSOR", "startAt.cursor"),
        (json!({"startAt": {"operationTime": "yesterday"}}), 422, "INVALID_REQUEST", "startAt.operationTime"),
    ] {
        let mut asked = spec("gw-1", "a");
        for (name, value) in change.as_object().unwrap() {
            asked[name] = value.clone();
        }
        let answer = api.call_with("POST", "/v1/subscriptions", &asked).await;
        assert_eq!(answer.problem(), (status, code, Some(field)), "{change}");
    }
    for (path, body, field) in [
        ("", json!({"delivery": "pigeon"}), Some("delivery")),
        ("", json!({}), Some("delivery")),
        ("/heartbeat", json!({"subscriptionIds": ["a", 1]}), Some("subscriptionIds[1]")),
        ("/heartbeat", json!({"subscriptionIds": ["a b"]}), Some("subscriptionIds[0]")),
        ("/heartbeat", json!({"subscriptionIds": "a"}), Some("subscriptionIds")),
        ("/cursor", json!({}), None),
        ("/cursor", json!({"now": true, "positions": {}}), None),
        ("/cursor", json!({"now": false}), Some("now")),
        ("/cursor", json!({"positions": {}}), Some("positions")),
        ("/cursor", json!({"positions": []}), Some("positions")),
        ("/cursor", json!({"positions": {"default": "x"}}), Some("positions.default")),
        ("/cursor", json!({"positions": {"default/0": "x"}}), Some("positions.default/0")),
        ("/cursor", json!({"positions": {"default/0": 1}}), Some("positions.default/0")),
        ("/cursor", json!({"operationTime": {"t": 1}}), Some("operationTime.i")),
        ("/cursor", json!({"operationTime": "x"}), Some("operationTime")),
        ("/ack", json!({"cursor": 1}), Some("cursor")),
    ] {
        let method = if path == "/ack" { "POST" } else { "PUT" };
        let answer = api.call_with(method, &format!("/v1/gateways/gw-1{path}"), &body).await;
        assert_eq!(answer.problem(), (422, "INVALID_REQUEST", field), "{path} {body}");
    }
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let api = Api::start().await;
    let answer = api.call_with("POST", "/v1/events", &json!("panic")).await;
    assert_eq!(answer.problem(), (500, "INTERNAL", None));
    assert!(!answer.text.contains("as the test wants"), "what broke is for the log");
    let long = format!(r#"{{"events":["panic",{}]}}"#, spec("a", "b"));
    assert_eq!(api.call_raw("POST", "/v1/events/batch", long).await.problem().0, 500);
    assert_eq!(api.call("GET", "/health").await.status, 200);
}
