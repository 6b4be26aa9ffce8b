//! Every route with each role and with none.

use std::time::Duration;

use super::*;
use crate::access::digest;

const TOKENS: [(&str, &str); 5] = [
    ("op", "role = 'operator'"),
    ("edge", "role = 'gateway'\ngateways = ['gw-*']\ngroups = ['g']\ntenants = ['acme*']"),
    ("other", "role = 'gateway'\ngateways = ['other']\ntenants = ['*']"),
    ("hub-2", "role = 'node'"),
    ("late", "role = 'operator'\nexpires = '2025-11-21T00:00:00Z'"),
];

fn text(tokens: &[(&str, &str)]) -> String {
    let one = |(name, rest): &(&str, &str)| {
        format!("[[tokens]]\nname = {name:?}\nsha256 = {:?}\n{rest}\n", digest(&format!("secret-{name}")))
    };
    tokens.iter().map(one).collect()
}

async fn guarded(file: &std::path::Path) -> Api {
    std::fs::write(file, text(&TOKENS)).unwrap();
    let file = file.to_owned();
    Api::behind(Some(publisher()), |clock, tasks| Door::with_tokens(file, clock, tasks).unwrap()).await
}

/// Whom the decision lets in: nobody in particular, a gateway that is bound to what the path names, or operators.
fn least(method: &str, path: &str) -> &'static str {
    match path {
        "/" | "/dashboard/{file}" | "/v1/openapi.json" | "/health" | "/health/live" | "/health/ready" => "everybody",
        "/v1/subscriptions" | "/v1/subscriptions/batch" | "/v1/backtest" => "clients",
        "/v1/gateways" | "/v1/groups" => "operators",
        _ if path.ends_with("/park") || path.ends_with("/cursor") => "operators",
        _ if path.starts_with("/v1/gateways/") || path.starts_with("/v1/groups/") => "owners",
        _ => {
            assert!(!path.contains("{gateway}") && !method.is_empty());
            "operators"
        }
    }
}

#[tokio::test]
async fn every_route_with_each_role_and_with_none() {
    let folder = tempfile::tempdir().unwrap();
    let api = guarded(&folder.path().join("tokens.toml")).await;
    let document: Value = serde_json::from_str(include_str!("../openapi.json")).unwrap();
    let mut asked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let least = least(method, path);
            for (caller, allowed) in [
                (None, least == "everybody"),
                (Some("Bearer secret-nobody"), least == "everybody"),
                (Some("Bearer secret-late"), least == "everybody"),
                (Some("Basic secret-op"), least == "everybody"),
                (Some("Bearer"), least == "everybody"),
                (Some("Bearer secret-hub-2"), least == "everybody"),
                (Some("Bearer secret-other"), matches!(least, "everybody" | "clients")),
                (Some("Bearer secret-edge"), least != "operators"),
                (Some("bearer secret-op"), true),
            ] {
                let concrete = path
                    .replace("{gateway}", "gw-1")
                    .replace("{group}", "g")
                    .replace("{subscription}", "s")
                    .replace("{backend}", "default")
                    .replace("{number}", "0")
                    .replace("{file}", "app.js");
                // A list without a gateway would be an operator's.
                let query = if path == "/v1/subscriptions" && method == "get" {
                    let whose = if caller == Some("Bearer secret-other") { "other" } else { "gw-1" };
                    format!("?gatewayId={whose}")
                } else {
                    String::new()
                };
                let mut request = api.request(&method.to_uppercase(), &format!("{concrete}{query}"));
                if let Some(header) = caller {
                    request = request.header("authorization", header);
                }
                if matches!(method.as_str(), "post" | "put") {
                    request = request.header("content-type", "application/json").body("{}");
                }
                // Streams go on: the head is enough.
                let answer = tokio::time::timeout(Duration::from_secs(20), request.send()).await.unwrap().unwrap();
                let status = answer.status().as_u16();
                let known = matches!(caller, Some(it) if it.to_lowercase().starts_with("bearer secret-")
                    && !it.ends_with("nobody") && !it.ends_with("late"));
                let what = format!("{method} {path} by {caller:?}: {status}");
                match (allowed, known) {
                    (true, _) => assert!(!matches!(status, 401 | 403), "{what}"),
                    (false, true) => assert_eq!(status, 403, "{what}"),
                    (false, false) => {
                        assert_eq!(status, 401, "{what}");
                        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
                    }
                }
                asked += 1;
            }
        }
    }
    assert!(asked > 9 * 40, "{asked}");
}

fn by(api: &Api, name: &str, method: &str, path: &str) -> reqwest::RequestBuilder {
    api.request(method, path).bearer_auth(format!("secret-{name}"))
}

#[tokio::test]
async fn a_gateways_token_is_for_its_gateways_and_tenants_alone() {
    let folder = tempfile::tempdir().unwrap();
    let api = guarded(&folder.path().join("tokens.toml")).await;
    let mut elsewhere = spec("gw-1", "s");
    elsewhere["tenant"] = json!("globex");
    let mut of_group = spec("gw-1", "s");
    of_group.as_object_mut().unwrap().remove("gatewayId");
    of_group["group"] = json!("h");
    for (body, field) in [(spec("other", "s"), "gatewayId"), (elsewhere.clone(), "tenant"), (of_group, "group")] {
        let answer = api.send(by(&api, "edge", "POST", "/v1/subscriptions").json(&body)).await;
        assert_eq!(answer.problem(), (403, "FORBIDDEN", Some(field)));
    }
    assert_eq!(api.send(by(&api, "edge", "POST", "/v1/subscriptions").json(&spec("gw-1", "s"))).await.status / 100, 2);
    let both = json!({"subscriptions": [spec("gw-1", "s"), elsewhere]});
    let answer = api.send(by(&api, "edge", "POST", "/v1/subscriptions/batch").json(&both)).await;
    assert!(answer.json["results"][0]["subscription"].is_object(), "{answer:?}");
    assert_eq!(answer.json["results"][1]["problem"]["code"], "FORBIDDEN");
    let put = by(&api, "edge", "PUT", "/v1/gateways/gw-1/subscriptions/s").json(&elsewhere);
    assert_eq!(api.send(put).await.problem(), (403, "FORBIDDEN", Some("tenant")));
    for (path, status) in [
        ("/v1/subscriptions", 403),
        ("/v1/subscriptions?tenant=acme", 403),
        ("/v1/subscriptions?gatewayId=other", 403),
        ("/v1/subscriptions?group=h", 403),
        ("/v1/subscriptions?gatewayId=gw-1", 200),
        ("/v1/gateways/other", 403),
        ("/v1/gateways/g%77-1", 200),
        ("/v1/gateways/gw-1%2F", 422),
    ] {
        assert_eq!(api.send(by(&api, "edge", "GET", path)).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn who_is_not_an_operator_is_told_how_the_hub_is_and_not_why() {
    let folder = tempfile::tempdir().unwrap();
    let api = guarded(&folder.path().join("tokens.toml")).await;
    for path in ["/health", "/health/live", "/health/ready"] {
        let answer = api.call("GET", path).await;
        assert_eq!((answer.status, &answer.json["status"]), (200, &json!("ok")), "{answer:?}");
        assert!(answer.json.get("components").is_none());
        assert!(api.send(by(&api, "op", "GET", path)).await.json["components"]["store"].is_object());
    }
}

/// The file is read again when it changes; one that cannot be taken changes nothing; what is open by a token ends with it.
#[tokio::test(start_paused = false)]
async fn a_token_is_taken_back_by_taking_its_line_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.toml");
    let api = guarded(&file).await;
    let status = async |name: &str| api.send(by(&api, name, "GET", "/v1/partitions")).await.status;
    assert_eq!((status("op").await, status("new").await), (200, 401));
    let becomes = async |name: &str, wanted: u16| {
        let waiting = async {
            while status(name).await != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the file to be read again");
    };
    std::fs::write(&file, text(&[TOKENS[0], ("new", "role = 'operator'")])).unwrap();
    becomes("new", 200).await;
    std::fs::write(&file, "nonsense").unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((status("op").await, status("new").await), (200, 200), "nonsense is not taken");
    std::fs::write(&file, text(&[TOKENS[0]])).unwrap();
    becomes("new", 401).await;
    std::fs::remove_file(&file).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(status("op").await, 200);
}

/// A browser sends what any page wants: without tokens only this hub's own page is heard.
#[tokio::test]
async fn pages_of_other_origins_do_not_reach_a_hub_that_asks_nobody() {
    let api = Api::start().await;
    let own = format!("http://{}", api.address);
    let port = api.address.port();
    for (host, origin, status) in [
        (None, None, 200),
        (None, Some(own.as_str()), 200),
        (Some(format!("localhost:{port}")), None, 200),
        (Some("[::1]:80".into()), None, 200),
        (None, Some("http://evil.example"), 403),
        (None, Some("null"), 403),
        (Some(format!("evil.example:{port}")), None, 403),
        (Some("evil.example".into()), Some("http://evil.example"), 403),
        (Some("127.0.0.1.evil.example".into()), None, 403),
    ] {
        let mut request = api.request("POST", "/v1/partitions/default/0/pause");
        if let Some(host) = &host {
            request = request.header("host", host);
        }
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        assert_eq!(api.send(request).await.status, status, "{host:?} {origin:?}");
    }
}
