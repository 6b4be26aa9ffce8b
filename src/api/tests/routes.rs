//! Every route, as it is meant to be used.

use super::*;

#[tokio::test]
async fn a_subscription_lives_from_post_to_delete() {
    let api = Api::start().await;
    let mut asked = spec("gw-1", "inbox");
    asked["filters"] = json!([{"field": "chatId", "op": "==", "value": "c1"}]);
    asked["cel"] = json!("doc.stars > 3");
    asked["startAt"] = json!({"operationTime": "2026-11-21T10:00:00Z"});
    let created = api.call_with("POST", "/v1/subscriptions", &asked).await;
    assert_eq!((created.status, created.media_type()), (201, "application/json"));
    assert_eq!(
        created.json,
        json!({
            "subscriptionId": "inbox", "gatewayId": "gw-1", "tenant": "acme", "collection": "messages",
            "filters": [{"field": "chatId", "op": "==", "value": "c1"}], "cel": "doc.stars > 3",
            "operations": ["insert", "update", "replace", "delete"], "transitions": false,
            "startAt": {"operationTime": "2026-11-21T10:00:00Z"}, "ttlSeconds": 300,
            "state": "live", "generation": 1, "activeFrom": {"default/0": "00000001691fc6100000000100000003"},
            "expiresAt": "2025-11-21T01:58:20.000Z",
            "plan": {"indexes": [{"kind": "equality", "field": "chatId"}], "residual": ["doc.stars > 3"]},
            "warnings": ["POSTIMAGES_OFF"]
        })
    );
    let again = api.call_with("POST", "/v1/subscriptions", &asked).await;
    assert_eq!((again.status, &again.json["generation"]), (200, &json!(1)));
    asked["cel"] = json!("doc.stars > 4");
    let other = api.call_with("POST", "/v1/subscriptions", &asked).await;
    assert_eq!(other.problem(), (409, "SUBSCRIPTION_EXISTS", None));

    let path = "/v1/gateways/gw-1/subscriptions/inbox";
    assert_eq!(api.call("GET", path).await.json["cel"], "doc.stars > 3");
    // The path has the names: the body need not.
    let body = json!({"tenant": "acme", "collection": "messages", "cel": "doc.stars > 5"});
    let replaced = api.call_with("PUT", path, &body).await;
    assert_eq!(
        (replaced.status, &replaced.json["generation"], &replaced.json["cel"]),
        (200, &json!(2), &json!("doc.stars > 5"))
    );
    let mut body = body.clone();
    body["gatewayId"] = json!("gw-2");
    assert_eq!(api.call_with("PUT", path, &body).await.problem(), (422, "INVALID_REQUEST", Some("gatewayId")));

    let beat = api.call("PUT", &format!("{path}/heartbeat")).await;
    assert_eq!((beat.status, &beat.json), (200, &json!({"expiresAt": "2025-11-21T01:58:20.000Z"})));
    let gone = api.call("DELETE", path).await;
    assert_eq!((gone.status, gone.text.as_str()), (204, ""));
    for (method, path) in [("GET", path.to_owned()), ("DELETE", path.to_owned()), ("PUT", format!("{path}/heartbeat"))]
    {
        assert_eq!(api.call(method, &path).await.problem(), (404, "SUBSCRIPTION_NOT_FOUND", None));
    }
}

#[tokio::test]
async fn a_parked_subscription_says_why() {
    let api = Api::start().await;
    let answer = api.call_with("POST", "/v1/subscriptions", &spec("gw-1", "parked")).await;
    assert_eq!((&answer.json["state"], &answer.json["parkedReason"]), (&json!("parked"), &json!("lease")));
}

#[tokio::test]
async fn in_a_batch_one_bad_item_spoils_no_other() {
    let api = Api::start().await;
    let mut bad_cel = spec("gw-1", "b");
    bad_cel["cel"] = json!("doc.(");
    let items = [
        spec("gw-1", "a").to_string(),
        bad_cel.to_string(),
        "17".to_owned(),
        r#"{"tenant":"a","tenant":"b"}"#.to_owned(),
        spec("fail:TENANT_QUOTA_EXCEEDED", "c").to_string(),
        spec("gw-1", "a").to_string(),
        spec("gw-1", "d").to_string(),
        "[".repeat(500) + &"]".repeat(500),
        format!("\"{}\"", "x".repeat(limits::body_bytes_max)),
    ];
    let body = format!(r#"{{"subscriptions": [{}]}}"#, items.join(","));
    let answer = api.call_raw("POST", "/v1/subscriptions/batch", body).await;
    assert_eq!(answer.status, 200);
    let results = answer.json["results"].as_array().unwrap();
    let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 422, 422, 400, 429, 200, 201, 400, 413]);
    assert_eq!(results[0]["subscription"]["subscriptionId"], "a");
    assert_eq!(
        (&results[1]["problem"]["code"], &results[1]["problem"]["field"]),
        (&json!("CEL_COMPILATION_FAILED"), &json!("cel"))
    );
    assert_eq!(
        (&results[4]["problem"]["code"], &results[4]["problem"]["status"]),
        (&json!("TENANT_QUOTA_EXCEEDED"), &json!(429))
    );
    assert_eq!(results[6]["subscription"]["generation"], 2);
    assert_eq!(
        api.call_with("POST", "/v1/subscriptions/batch", &json!({"subscriptions": []})).await.json,
        json!({"results": []})
    );
}

#[tokio::test]
async fn a_batch_has_ten_thousand_items_and_not_one_more() {
    let api = Api::start().await;
    let body = |count: usize| {
        let items: Vec<_> = (0..count).map(|number| spec("gw-1", &format!("s{number}"))).collect();
        json!({"subscriptions": items})
    };
    let answer = api.call_with("POST", "/v1/subscriptions/batch", &body(limits::batch_items_max)).await;
    let results = answer.json["results"].as_array().unwrap();
    assert_eq!(results.len(), limits::batch_items_max);
    assert!(results.iter().enumerate().all(|(number, result)| {
        result["status"] == 201 && result["subscription"]["subscriptionId"] == format!("s{number}")
    }));
    let refused = api.call_with("POST", "/v1/subscriptions/batch", &body(limits::batch_items_max + 1)).await;
    assert_eq!(refused.problem(), (422, "INVALID_REQUEST", Some("subscriptions")));
}

#[tokio::test]
async fn lists_have_filters_and_pages() {
    let api = Api::start().await;
    for gateway in ["gw-1", "gw-2"] {
        for id in ["a", "b", "c"] {
            let mut asked = spec(gateway, id);
            if id == "c" {
                asked["tenant"] = json!("other tenant/ä&=");
                asked["collection"] = json!("things");
            }
            assert_eq!(api.call_with("POST", "/v1/subscriptions", &asked).await.status, 201);
        }
    }
    let names = async |query: &str| {
        let answer = api.call("GET", &format!("/v1/subscriptions{query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let items = answer.json["subscriptions"].as_array().unwrap().clone();
        let name = |item: &Value| {
            format!("{}/{}", item["gatewayId"].as_str().unwrap(), item["subscriptionId"].as_str().unwrap())
        };
        (items.iter().map(name).collect::<Vec<_>>(), answer.json["next"].as_str().map(str::to_owned))
    };
    let all = ["gw-1/a", "gw-1/b", "gw-1/c", "gw-2/a", "gw-2/b", "gw-2/c"];
    assert_eq!(names("").await, (all.map(str::to_owned).to_vec(), None));
    assert_eq!(names("?gatewayId=gw-2").await.0, all[3..]);
    assert_eq!(names("?tenant=other%20tenant/%C3%A4%26%3D").await.0, ["gw-1/c", "gw-2/c"]);
    assert_eq!(names("?tenant=other+tenant/%C3%A4%26%3D&collection=messages").await.0, [""; 0]);
    assert_eq!(names("?collection=things&gatewayId=gw-1").await.0, ["gw-1/c"]);
    assert_eq!(names("?group=g").await, (vec![], None));
    let (mut read, mut next) = names("?limit=2").await;
    while let Some(token) = next {
        let page = names(&format!("?limit=2&after={token}")).await;
        assert!(!page.0.is_empty() && page.0.len() <= 2);
        read.extend(page.0);
        next = page.1;
    }
    assert_eq!(read, all);
}

#[tokio::test]
async fn a_gateway_is_seen_steered_and_removed() {
    let api = Api::start().await;
    for (gateway, id) in [("gw-1", "a"), ("gw-1", "b"), ("offline", "a")] {
        api.call_with("POST", "/v1/subscriptions", &spec(gateway, id)).await;
    }
    let connected = json!({
        "gatewayId": "gw-1", "state": "live", "subscriptions": 2, "cursor": "c",
        "lag": {"seconds": 0.5, "changes": null}, "outboxBytes": 10, "delivery": "stream", "lastAckAt": null,
        "session": {"transport": "sse", "since": "2025-11-21T01:53:20.000Z", "node": "hub-1"}
    });
    let list = api.call("GET", "/v1/gateways").await;
    assert_eq!(list.json["gateways"][0], connected);
    let offline = &list.json["gateways"][1];
    assert_eq!(
        (&offline["cursor"], &offline["session"], &offline["lag"]["seconds"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(api.call("GET", "/v1/gateways/gw-1").await.json, connected);

    let beat = "/v1/gateways/gw-1/heartbeat";
    let all = json!({"expiresAt": "2025-11-21T01:58:20.000Z", "renewed": 2, "unknown": [], "unlisted": []});
    assert_eq!(api.call("PUT", beat).await.json, all);
    assert_eq!(api.call_with("PUT", beat, &json!({})).await.json, all);
    let named = api.call_with("PUT", beat, &json!({"subscriptionIds": ["b", "z"]})).await;
    assert_eq!((&named.json["unknown"], &named.json["unlisted"]), (&json!(["z"]), &json!(["a"])));

    let served = api.call_with("PUT", "/v1/gateways/gw-1", &json!({"delivery": "stream"})).await;
    assert_eq!((served.status, served.json), (200, json!({"gatewayId": "gw-1", "delivery": "stream"})));
    let nats = api.call_with("PUT", "/v1/gateways/gw-1", &json!({"delivery": "nats"})).await;
    assert_eq!((nats.status, nats.json), (200, json!({"gatewayId": "gw-1", "delivery": "nats"})));
    let other = api.call_with("PUT", "/v1/gateways/gw-1", &json!({"delivery": "mail"})).await;
    assert_eq!(other.problem(), (422, "INVALID_REQUEST", Some("delivery")));

    let cursor = "/v1/gateways/gw-1/cursor";
    for target in [
        json!({"now": true}),
        json!({"operationTime": {"t": 1, "i": 2}}),
        json!({"operationTime": "2026-11-21T10:00:00.5+01:00"}),
        json!({"positions": {"default/0": "000000016920372e0000000100000003"}}),
    ] {
        assert_eq!(api.call_with("PUT", cursor, &target).await.status, 204, "{target}");
    }
    assert_eq!(api.call("POST", "/v1/gateways/gw-1/park").await.status, 204);
    assert_eq!(api.call("DELETE", "/v1/gateways/gw-1").await.status, 204);
    for (method, path) in [("GET", ""), ("DELETE", ""), ("PUT", "/heartbeat"), ("POST", "/park")] {
        let gone = api.call(method, &format!("/v1/gateways/gw-1{path}")).await;
        assert_eq!(gone.problem(), (404, "GATEWAY_NOT_FOUND", None));
    }
}

#[tokio::test]
async fn streams_and_acks_are_served_too() {
    let api = Api::start().await;
    let stream = api.call("GET", "/v1/gateways/gw-1/stream?ack=auto").await;
    assert_eq!((stream.status, stream.media_type()), (200, "text/event-stream"));
    assert_eq!(api.call_with("POST", "/v1/gateways/gw-1/ack", &json!({"cursor": "mine"})).await.status, 204);
    let other = api.call_with("POST", "/v1/gateways/gw-1/ack", &json!({"cursor": "x"})).await;
    assert_eq!(other.problem(), (400, "INVALID_CURSOR", None));
    let refused = api.call("GET", "/v1/gateways/fail:DELIVERY_MISMATCH/stream").await;
    assert_eq!(refused.problem(), (409, "DELIVERY_MISMATCH", None));
}

#[tokio::test]
async fn partitions_pause_and_resume_and_stay_where_they_are() {
    let api = Api::start().await;
    let reading = json!({
        "partition": "default/0", "owner": "hub-1", "epoch": 1, "state": "reading",
        "position": "00000001691fc6100000000100000005", "lag": {"seconds": 1.5, "changes": 4},
        "oplogHeadroomSeconds": 3600.0, "checkpoint": "00000001691fc6100000000100000002"
    });
    assert_eq!(api.call("GET", "/v1/partitions").await.json, json!({"partitions": [reading]}));
    let path = "/v1/partitions/default/0";
    assert_eq!(api.call("GET", path).await.json, reading);
    assert_eq!(api.call("POST", &format!("{path}/pause")).await.json["state"], "paused");
    assert_eq!(api.call("POST", &format!("{path}/resume")).await.json["state"], "reading");
    let stay = api.call_with("POST", &format!("{path}/move"), &json!({"node": "hub-1"})).await;
    assert_eq!((stay.status, stay.json), (200, reading));
    let away = api.call_with("POST", &format!("{path}/move"), &json!({"node": "hub-2"})).await;
    assert_eq!(away.problem(), (422, "INVALID_REQUEST", Some("node")));
    for other in ["default/1", "default/00", "other/0", "a%20b/0", "default/x"] {
        for (method, what) in [("GET", ""), ("POST", "/pause"), ("POST", "/resume")] {
            let answer = api.call(method, &format!("/v1/partitions/{other}{what}")).await;
            assert_eq!(answer.problem(), (404, "NOT_FOUND", None), "{other}");
        }
    }
    let cluster = api.call("GET", "/v1/cluster").await.json;
    assert_eq!((&cluster["node"], &cluster["nodes"][0]["ready"]), (&json!("hub-1"), &json!(true)));
    assert_eq!(cluster["leases"], json!([{"partition": "default/0", "owner": "hub-1", "epoch": 1}]));
}

#[tokio::test]
async fn events_are_published_where_there_is_a_log() {
    let api = Api::start().await;
    let event = json!({"tenant": "t", "collection": "c", "key": "k", "operation": "insert", "document": {"a": 1}});
    let one = api.call_with("POST", "/v1/events", &event).await;
    assert_eq!((one.status, one.json), (201, json!({"position": format!("{:032x}", 1)})));
    let refused = api.call_with("POST", "/v1/events", &json!({"tenant": 1})).await;
    assert_eq!(refused.problem().1, "INVALID_REQUEST");
    let body = format!(r#"{{"events":[{event},{{}},{{"a":1,"a":2}},{event}]}}"#);
    let many = api.call_raw("POST", "/v1/events/batch", body).await;
    let statuses: Vec<_> = many.json["results"].as_array().unwrap().iter().map(|result| &result["status"]).collect();
    assert_eq!(statuses, [201, 422, 400, 201]);

    let without = Api::with(None).await;
    for path in ["/v1/events", "/v1/events/batch"] {
        assert_eq!(without.call_with("POST", path, &event).await.problem(), (404, "NOT_FOUND", None));
    }
}

#[tokio::test]
async fn health_tells_live_from_ready() {
    let api = Api::start().await;
    let statuses = async || {
        let mut statuses = Vec::new();
        for path in ["/health?probe=1", "/health/live", "/health/ready"] {
            let answer = api.call("GET", path).await;
            assert_eq!(answer.media_type(), "application/json");
            assert!(answer.json["components"].is_object());
            statuses.push(answer.status);
        }
        statuses
    };
    assert_eq!(statuses().await, [200, 200, 200]);
    api.component.degraded("slow");
    assert_eq!(statuses().await, [200, 200, 200]);
    api.component.failing("gone");
    assert_eq!(statuses().await, [503, 200, 503]);
    api.health.condemn("a bug");
    assert_eq!(statuses().await, [503, 503, 503]);
}

#[tokio::test]
async fn numbers_and_lists_for_people_and_machines() {
    let api = Api::start().await;
    api.call_with("POST", "/v1/subscriptions", &spec("gw-1", "a")).await;
    let metrics = api.call("GET", "/metrics").await;
    assert!(metrics.media_type().starts_with("text/plain; version=0.0.4"));
    let counted = r#"streamer_http_requests_total{route="/v1/subscriptions",method="POST",status="201"}"#;
    assert!(metrics.text.contains(counted), "{}", metrics.text);
    assert!(metrics.text.contains(r#"streamer_registrations_total{code="created"}"#));
    let stats = api.call("GET", "/v1/stats").await.json;
    assert_eq!((&stats["node"], &stats["gateways"], &stats["subscriptions"]), (&json!("hub-1"), &json!(1), &json!(1)));
    assert!(
        stats["totals"]["registrations"].as_u64().unwrap() >= 1 && stats["totals"]["requests"].as_u64().unwrap() >= 2
    );
    let page = api.call("GET", "/").await;
    assert!(page.media_type().starts_with("text/html") && page.headers.contains_key("content-security-policy"));
    // Each part that a part names is there, as what a browser takes for it.
    let mut named = vec![("dashboard/".to_owned(), page.text)];
    let mut seen = std::collections::BTreeSet::new();
    while let Some((_, text)) = named.pop() {
        for end in text
            .match_indices("=\"dashboard/")
            .map(|(at, it)| at + it.len())
            .chain(text.match_indices("from \"./").map(|(at, it)| at + it.len()))
        {
            let name: String = text[end..].chars().take_while(|it| it.is_ascii_alphanumeric() || *it == '.').collect();
            if !name.is_empty() && seen.insert(name.clone()) {
                let part = api.call("GET", &format!("/dashboard/{name}")).await;
                let media = match name.rsplit('.').next() {
                    Some("js") => "text/javascript",
                    Some("css") => "text/css",
                    _ => "image/svg+xml",
                };
                assert!(part.status == 200 && part.media_type().starts_with(media), "{name}: {part:?}");
                named.push((name, part.text));
            }
        }
    }
    assert!(seen.len() >= 9, "{seen:?}");
    assert_eq!(api.call("GET", "/dashboard/nothing.js").await.problem(), (404, "NOT_FOUND", None));
    assert_eq!(api.call("HEAD", "/health").await.status, 200);
}

#[tokio::test]
async fn a_change_is_explained() {
    let api = Api::start().await;
    let mut asked = spec("gw-1", "stars");
    asked["filters"] = json!([{"field": "stars", "op": ">=", "value": 3}]);
    asked["cel"] = json!("doc.kind != 'draft'");
    assert_eq!(api.call_with("POST", "/v1/subscriptions", &asked).await.status, 201);
    let mut change = json!({"tenant": "acme", "collection": "messages", "document": {"stars": "many", "kind": "note"},
                            "gatewayId": "gw-1", "subscriptionId": "stars"});
    let answer = api.call_with("POST", "/v1/explain", &change).await;
    assert_eq!((answer.status, &answer.json["matches"]), (200, &json!([])));
    assert_eq!(
        answer.json["subscription"],
        json!({"matched": false, "steps": [
            {"step": "scope", "result": "passed", "detail": "asks for acme/messages"},
            {"step": "operation", "result": "passed", "detail": "asks for insert, update, replace, delete, and this is insert"},
            {"step": "index", "result": "rejected", "detail": "range of stars"},
            {"step": "doc.kind != \"draft\"", "result": "passed", "detail": "doc.kind is of type string"},
            {"step": "doc.stars >= 3", "result": "error", "detail": "doc.stars is of type string, which cannot be compared so"},
            {"step": "verdict", "result": "rejected", "detail": "no match"},
        ]})
    );
    change["document"]["stars"] = json!(4);
    change["before"] = json!({"stars": 1});
    let answer = api.call_with("POST", "/v1/explain", &change).await;
    assert_eq!(answer.json["subscription"]["matched"], true);
    assert_eq!(answer.json["matches"], json!([{"gatewayId": "gw-1", "subscriptionId": "stars"}]));
    assert!(answer.json["cost"]["evaluated"].is_u64() && answer.json["cost"]["subscriptions"] == 1);

    change["subscriptionId"] = json!("other");
    assert_eq!(api.call_with("POST", "/v1/explain", &change).await.problem(), (404, "SUBSCRIPTION_NOT_FOUND", None));
    for (field, value) in [("gatewayId", json!(null)), ("document", json!(7)), ("operation", json!("merge"))] {
        let mut change = change.clone();
        change[field] = value;
        let answer = api.call_with("POST", "/v1/explain", &change).await;
        assert_eq!(answer.problem(), (422, "INVALID_REQUEST", Some(field)));
    }
}

#[tokio::test]
async fn one_picture_for_all_who_look() {
    let api = Api::start().await;
    api.call_with("POST", "/v1/subscriptions", &spec("gw-1", "a")).await;
    let first = api.call("GET", "/v1/overview").await;
    assert_eq!((first.status, &first.json["node"]), (200, &json!("hub-1")));
    assert_eq!(first.json["partitions"][0]["partition"], "default/0");
    assert_eq!(first.json["gateways"]["listed"][0]["gatewayId"], "gw-1");
    // Taken once for all who ask within the same moment.
    api.call_with("POST", "/v1/subscriptions", &spec("gw-2", "a")).await;
    assert_eq!(api.call("GET", "/v1/overview").await.text, first.text);
    let mut stream = api.request("GET", "/v1/overview/stream").send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let chunk = stream.chunk().await.unwrap().unwrap();
    let text = std::str::from_utf8(&chunk).unwrap();
    assert_eq!(text, format!("event: overview\ndata: {}\n\n", first.text));
    assert_eq!(api.call("GET", "/v1/drills").await.json, json!({"reports": []}));
}

#[tokio::test]
async fn a_filter_is_tried_on_the_past() {
    let api = Api::start().await;
    let mut of = spec("gw-1", "candidate");
    of["filters"] = json!([{"field": "n", "op": "==", "value": 2}]);
    let answer = api.call_with("POST", "/v1/backtest", &json!({"subscription": of, "seconds": 10})).await;
    let mut expected = json!({
        "changes": 2, "matches": 1, "from": answer.json["from"], "to": answer.json["to"], "complete": true,
        "costMicros": {"p50": 1.5, "p99": 1.5},
        "histogram": [
            {"from": "2025-11-21T01:53:21.000Z", "seconds": 1, "changes": 1, "matches": 0},
            {"from": "2025-11-21T01:53:22.000Z", "seconds": 1, "changes": 1, "matches": 1},
        ],
    });
    expected["samples"] = json!([{"position": answer.json["samples"][0]["position"], "clusterTime": {"t": 0, "i": 0},
                                  "key": "k2", "operation": "insert", "document": {"n": 2}}]);
    assert_eq!((answer.status, &answer.json), (200, &expected));
    assert_eq!(api.call("GET", "/v1/gateways/gw-1").await.status, 404, "nothing has been registered");
    let longer =
        api.call_with("POST", "/v1/backtest", &json!({"subscription": of, "seconds": 60, "source": "oplog"})).await;
    assert_eq!(longer.json["complete"], false);
    of["filters"] = json!([{"field": "n", "op": "is", "value": 2}]);
    for (body, code, field) in [
        (json!({"subscription": of}), "INVALID_FILTER", "subscription.filters[0].op"),
        (json!({"seconds": 3}), "INVALID_REQUEST", "subscription"),
        (json!({"subscription": spec("g", "s"), "seconds": 0}), "INVALID_REQUEST", "seconds"),
        (json!({"subscription": spec("g", "s"), "seconds": "all"}), "INVALID_REQUEST", "seconds"),
        (json!({"subscription": spec("g", "s"), "source": "past"}), "INVALID_REQUEST", "source"),
        (json!({"subscription": spec("g", "s"), "since": 1}), "INVALID_REQUEST", "since"),
    ] {
        let answer = api.call_with("POST", "/v1/backtest", &body).await;
        assert_eq!(answer.problem(), (422, code, Some(field)));
    }
}
