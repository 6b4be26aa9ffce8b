//! `Registry` and `Ingest`.

use std::sync::Arc;

use chrono::DateTime;
use serde_json::json;

use super::super::super::testing::partition;
use super::*;
use crate::handle::{Registered, Renewed, SubscriptionState};
use crate::proto::ingest_client::IngestClient;
use crate::proto::register_result::Result as Outcome;
use crate::proto::registry_client::RegistryClient;

fn registered(spec: Spec, created: bool) -> Registered {
    let view = SubscriptionView {
        spec: Arc::new(spec),
        member: None,
        state: SubscriptionState::Live,
        parked_reason: None,
        generation: 1,
        active_from: vec![(partition(), position(0))],
        expires_at: DateTime::UNIX_EPOCH,
        plan: Value::Null,
        warnings: Vec::new(),
    };
    Registered { view, created }
}

#[tokio::test]
async fn a_batch_of_registrations_is_answered_item_by_item() {
    let mut serving = serving().await;
    let mut client = RegistryClient::new(serving.channel.clone());
    let item = |id: &str| json!({"subscriptionId": id}).to_string();
    let twice = r#"{"subscriptionId": "d", "subscriptionId": "e"}"#;
    let subscriptions = vec![item("a"), twice.into(), item("b"), item("not a name"), item("c")];
    let answer = async {
        let Command::Register(specs, reply) = serving.hub.command().await else { panic!("expected registrations") };
        let ids: Vec<_> = specs.iter().map(|compiled| compiled.spec.subscription_id.to_string()).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        let mut specs = specs.into_iter();
        let mut next = |created| registered(specs.next().unwrap().spec, created);
        let results = vec![
            Ok(next(true)),
            Err(Problem::new(Code::SubscriptionExists, "differs")),
            Ok({
                next(true);
                next(false)
            }),
        ];
        reply.send(results).unwrap();
    };
    let (response, ()) = tokio::join!(client.register(proto::RegisterRequest { subscriptions }), answer);
    let results = response.unwrap().into_inner().results;
    let seen = results.iter().map(|result| match result.result.as_ref().unwrap() {
        Outcome::Subscription(text) => {
            (result.status, serde_json::from_str::<Value>(text).unwrap()["subscriptionId"].clone())
        }
        Outcome::Problem(text) => (result.status, serde_json::from_str::<Value>(text).unwrap()["code"].clone()),
    });
    let expected =
        [(201, "a"), (400, "INVALID_REQUEST"), (409, "SUBSCRIPTION_EXISTS"), (422, "INVALID_REQUEST"), (200, "c")];
    assert_eq!(seen.collect::<Vec<_>>(), expected.map(|(status, text)| (status, json!(text))));

    let subscriptions = vec![String::new(); limits::batch_items_max + 1];
    let status = client.register(proto::RegisterRequest { subscriptions }).await.unwrap_err();
    assert_eq!(status.code(), Grpc_::InvalidArgument);
    assert!(serving.hub.is_idle());
}

#[tokio::test]
async fn unregistering_tells_what_was_there() {
    let mut serving = serving().await;
    let mut client = RegistryClient::new(serving.channel.clone());
    let request = proto::UnregisterRequest {
        gateway_id: "gw-1".into(),
        subscription_ids: ["a", "not a name", "b", "c"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let answers = async {
        for _ in 0..3 {
            let Command::Unregister(key, reply) = serving.hub.command().await else { panic!("expected a removal") };
            let gone = Problem::new(Code::SubscriptionNotFound, "no such subscription");
            reply.send(if key.id.as_str() == "b" { Err(gone) } else { Ok(()) }).unwrap();
        }
    };
    let (response, ()) = tokio::join!(client.unregister(request), answers);
    let response = response.unwrap().into_inner();
    assert_eq!(
        (response.removed, response.unknown),
        (vec!["a".into(), "c".into()], vec!["not a name".into(), "b".to_string()])
    );
}

#[tokio::test]
async fn a_heartbeat_says_what_the_two_sides_do_not_share() {
    let mut serving = serving().await;
    let mut client = RegistryClient::new(serving.channel.clone());
    for (ids, named) in [(vec![], None), (vec!["a", "not a name"], Some(vec!["a"]))] {
        let subscription_ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let request = proto::HeartbeatRequest { gateway_id: "gw-1".into(), subscription_ids, ..Default::default() };
        let answer = async {
            let Command::RenewGateway(_, was, reply) = serving.hub.command().await else {
                panic!("expected a renewal")
            };
            let names = |ids: Vec<&str>| ids.into_iter().map(|id| Name::new(id).unwrap()).collect::<Vec<_>>();
            assert_eq!(was, named.map(names));
            let renewed = Renewed {
                expires_at: DateTime::UNIX_EPOCH,
                renewed: 2,
                unknown: names(vec!["a"]),
                unlisted: names(vec!["b"]),
            };
            reply.send(Ok(renewed)).unwrap();
        };
        let (response, ()) = tokio::join!(client.heartbeat(request), answer);
        let response = response.unwrap().into_inner();
        assert_eq!((response.expires_at.as_str(), response.renewed), ("1970-01-01T00:00:00.000Z", 2));
        assert_eq!(response.unlisted, ["b"]);
        assert_eq!(response.unknown, if ids.is_empty() { vec!["a"] } else { vec!["not a name", "a"] });
    }
}

#[tokio::test]
async fn publishing_needs_the_embedded_log() {
    let request = |event: &str| proto::PublishRequest { events: vec![event.into()] };
    let serving = serving().await;
    let mut client = IngestClient::new(serving.channel.clone());
    let status = client.publish(request("{}")).await.unwrap_err();
    assert_eq!(status.code(), Grpc_::Unimplemented);
    assert!(status.message().contains("streamer dev"), "says where it is: {}", status.message());

    let publish: Publish = Arc::new(|events| Box::pin(async move { Ok(vec![events[0]["key"].to_string()]) }));
    let serving = serving_with(Some(publish)).await;
    let mut client = IngestClient::new(serving.channel.clone());
    assert_eq!(client.publish(request(r#"{"key":7}"#)).await.unwrap().into_inner().positions, ["7"]);
    let status = client.publish(request("{")).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Grpc_::InvalidArgument, "INVALID_REQUEST".into()));
}
