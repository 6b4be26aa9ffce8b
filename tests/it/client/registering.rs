//! Registration calls against a scripted HTTP server: what is sent, and what becomes of each answer.

use axum::Router;
use axum::body::Bytes;
use axum::http::{Method, StatusCode, Uri};
use axum::response::IntoResponse;
use serde_json::{Value, json};
use streamer::client::{Registration, RegistrationError, Subscription};
use streamer::error::Code;
use streamer::tasks::{Kind, Tasks};
use tokio::net::TcpListener;

/// Answers every call with what `answer` makes of it.
async fn serve(answer: impl Fn(String, Value) -> (u16, Value) + Clone + Send + Sync + 'static) -> Registration {
    let app = Router::new().fallback(move |method: Method, uri: Uri, body: Bytes| {
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, answer) = answer(format!("{method} {uri}"), body);
        let headers = [("retry-after", "7"), ("content-type", "application/problem+json")];
        async move { (StatusCode::from_u16(status).unwrap(), headers, answer.to_string()).into_response() }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    Tasks::new().spawn(Kind::Listener, "fake hub", async move { axum::serve(listener, app).await.unwrap() });
    Registration::new(address).unwrap()
}

fn registered() -> Value {
    json!({
        "subscriptionId": "s", "gatewayId": "g", "tenant": "t", "collection": "c", "state": "live", "generation": 7,
        "activeFrom": {"default/0": "00000001000000000000000500000000"}, "expiresAt": "2026-11-21T10:00:00Z",
        "plan": {}, "warnings": ["POSTIMAGES_OFF"],
    })
}

fn problem(code: Code) -> Value {
    json!({"type": "about:blank", "title": "no", "status": code.status(), "detail": "why", "code": code.name(), "field": "filters[0].op"})
}

#[tokio::test]
async fn calls_go_where_the_interface_has_them() {
    let hub = serve(|call, body| match call.as_str() {
        "POST /v1/subscriptions" => (if body["subscriptionId"] == "s" { 201 } else { 500 }, registered()),
        "PUT /v1/gateways/g/subscriptions/s" => (200, registered()),
        "DELETE /v1/gateways/g/subscriptions/s" | "DELETE /v1/gateways/g" => (204, Value::Null),
        "PUT /v1/gateways/g/subscriptions/s/heartbeat" => (200, json!({"expiresAt": "x"})),
        "PUT /v1/gateways/g/heartbeat" => {
            (200, json!({"expiresAt": "x", "renewed": 1, "unknown": body["subscriptionIds"], "unlisted": ["u"]}))
        }
        _ => (404, problem(Code::SubscriptionNotFound)),
    })
    .await;
    let asked = Subscription::new("g", "s", "t", "c");
    let answer = hub.register(&asked).await.unwrap();
    assert_eq!((answer.generation, answer.active_from["default/0"].time.0), (7, 5));
    assert_eq!(hub.replace(&asked).await.unwrap().warnings, ["POSTIMAGES_OFF"]);
    assert!(hub.unregister("g", "s").await.unwrap());
    assert!(!hub.unregister("g", "gone").await.unwrap());
    assert!(hub.delete_gateway("g").await.unwrap());
    hub.heartbeat_one("g", "s").await.unwrap();
    let renewal = hub.heartbeat("g", Some(&["n".to_owned()])).await.unwrap();
    assert_eq!((renewal.renewed, renewal.unknown, renewal.unlisted), (1, vec!["n".into()], vec!["u".into()]));
}

#[tokio::test]
async fn a_batch_answers_each_in_order() {
    let results = json!({"results": [
        {"status": 201, "subscription": registered()},
        {"status": 422, "problem": problem(Code::InvalidFilter)},
    ]});
    let hub = serve(move |_, _| (200, results.clone())).await;
    let asked = Subscription::new("g", "s", "t", "c");
    let answers = hub.register_batch(&[asked.clone(), asked]).await.unwrap();
    assert_eq!(answers[0].as_ref().unwrap().generation, 7);
    let refused = answers[1].as_ref().unwrap_err();
    assert!(refused.is(Code::InvalidFilter) && refused.field.as_deref() == Some("filters[0].op"));
}

#[tokio::test]
async fn problems_are_typed() {
    let hub = serve(|_, _| (429, problem(Code::RateLimited))).await;
    let error = hub.register(&Subscription::new("g", "s", "t", "c")).await.unwrap_err();
    assert_eq!(error.to_string(), "RATE_LIMITED: why (at filters[0].op)");
    let RegistrationError::Refused(rejection) = error else { panic!("{error}") };
    assert_eq!((rejection.status, rejection.retry_after_seconds), (429, Some(7)));

    let other = serve(|_, _| (500, json!("an error page"))).await;
    let error = other.heartbeat("g", None).await.unwrap_err();
    assert!(matches!(error, RegistrationError::Unexpected { status: 500, .. }), "{error}");
}

#[tokio::test]
async fn an_absent_hub_is_named_in_one_line() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hub = Registration::new(format!("http://127.0.0.1:{port}")).unwrap();
    let error = hub.register(&Subscription::new("g", "s", "t", "c")).await.unwrap_err().to_string();
    let expected = format!("the hub at http://127.0.0.1:{port} cannot be reached: Connection refused");
    assert!(error.starts_with(&expected) && error.lines().count() == 1, "{error}");
    assert!(matches!(Registration::new("127.0.0.1:7700"), Err(RegistrationError::Address(_))));
}
