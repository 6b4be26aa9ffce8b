//! The client library against a scripted hub: what it says, when it reconnects, and when it does not.

mod hub;
mod registering;

use std::time::Duration;

use futures::StreamExt;
use streamer::client::{Backoff, Body, Change, Client, ClientConfig, Error, Item, State};

use hub::{FakeHub, Session, change, closed, progress, resync, welcome};

fn config(hub: &FakeHub) -> ClientConfig {
    ClientConfig {
        backoff: Backoff { first: Duration::from_millis(1), most: Duration::from_millis(5) },
        seed: Some(7),
        ..ClientConfig::new(hub.endpoint(), "gw-1")
    }
}

fn connect(hub: &FakeHub, state: State) -> Client {
    Client::connect(config(hub), state).unwrap()
}

/// The next change; other items are of no interest, but a failure is.
async fn next_change(client: &mut Client) -> Change {
    loop {
        if let Item::Change(change) = client.next().await.expect("the stream goes on").unwrap() {
            return *change;
        }
    }
}

async fn next_progress(client: &mut Client) {
    while !matches!(client.next().await.expect("the stream goes on").unwrap(), Item::Progress(_)) {}
}

async fn welcomed(hub: &mut FakeHub, cursor: Option<&str>) -> Session {
    let mut session = hub.session().await;
    let hello = session.hello().await;
    assert_eq!(hello.gateway_id, "gw-1");
    assert_eq!(hello.cursor.as_deref(), cursor, "the cursor presented");
    session.send(welcome(60)).await;
    session
}

#[tokio::test]
async fn when_a_node_is_gone_it_goes_on_at_the_next_one() {
    let (mut first, mut second) = (FakeHub::start().await, FakeHub::start().await);
    let others = ClientConfig { other_endpoints: vec![second.endpoint()], ..config(&first) };
    let mut client = Client::connect(others, State::default()).unwrap();
    let mut session = welcomed(&mut first, None).await;
    session.send(change(1, 10, "c1", &["a"])).await;
    let one = next_change(&mut client).await;
    client.ack(&one.cursor);
    assert_eq!(session.ack().await, "c1");
    drop((session, first));

    let session = welcomed(&mut second, Some("c1")).await;
    session.send(change(1, 11, "d1", &["a"])).await;
    assert_eq!(next_change(&mut client).await.position.time.0, 11);
    // The first one is tried again, in vain, and the second one in its turn.
    drop(session);
    let session = welcomed(&mut second, Some("c1")).await;
    session.send(change(1, 12, "e1", &["a"])).await;
    assert_eq!(next_change(&mut client).await.position.time.0, 12);
}

#[tokio::test]
async fn it_hands_over_acks_and_presents_only_what_was_acked() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    let mut first = welcomed(&mut hub, None).await;
    first.send(change(1, 10, "c1", &["a"])).await;
    first.send(change(2, 11, "c2", &["a", "b"])).await;
    let one = next_change(&mut client).await;
    assert_eq!((one.key.as_str(), one.position.time.0), ("k", 10));
    assert_eq!(one.document.as_ref().map(|body: &Body| body.json().unwrap()), Some(serde_json::json!({"n": 10})));
    next_change(&mut client).await;
    client.ack(&one.cursor);
    assert_eq!(first.ack().await, "c1");
    drop(first);

    let mut second = welcomed(&mut hub, Some("c1")).await;
    second.send(change(1, 11, "d1", &["a", "b"])).await;
    second.send(change(2, 12, "d2", &["a", "b"])).await;
    let next = next_change(&mut client).await;
    assert_eq!(next.position.time.0, 12, "what was handed over before is dropped");
    client.ack(&next.cursor);
    assert_eq!(second.ack().await, "d2");
}

#[tokio::test]
async fn matches_are_dropped_and_not_messages() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    let session = welcomed(&mut hub, None).await;
    session.send(change(1, 10, "c1", &["a"])).await;
    session.send(change(2, 10, "c2", &["a", "late"])).await;
    session.send(change(3, 10, "c3", &["a", "late"])).await;
    session.send(change(4, 11, "c4", &["a"])).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let change = next_change(&mut client).await;
        let ids: Vec<_> = change.matches.iter().map(|m| m.subscription_id.clone()).collect();
        seen.push((change.position.time.0, ids.join(",")));
    }
    assert_eq!(seen, [(10, "a".into()), (10, "late".into()), (11, "a".into())]);
}

#[tokio::test]
async fn what_is_redelivered_is_handed_over_again() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    let session = welcomed(&mut hub, None).await;
    session.send(change(1, 10, "c1", &["a"])).await;
    let mut again = hub::raw_change(2, 10, "c2", &["a"]);
    again.flags.push("redelivered".into());
    session.send(hub::changes(vec![again])).await;
    assert_eq!(next_change(&mut client).await.position.time.0, 10);
    let again = next_change(&mut client).await;
    assert!(again.position.time.0 == 10 && again.is("redelivered"));
}

#[tokio::test]
async fn a_hole_is_a_broken_session() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    let session = welcomed(&mut hub, None).await;
    session.send(change(1, 10, "c1", &["a"])).await;
    session.send(change(3, 12, "c3", &["a"])).await;
    let one = next_change(&mut client).await;
    client.ack(&one.cursor);
    let again = welcomed(&mut hub, Some("c1")).await;
    again.send(change(1, 11, "d1", &["a"])).await;
    assert_eq!(next_change(&mut client).await.position.time.0, 11, "what came after the hole was not handed over");
}

#[tokio::test]
async fn dropped_repetitions_are_acked_when_nothing_is_untaken_and_not_before() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    let first = welcomed(&mut hub, None).await;
    first.send(change(1, 10, "c1", &["a"])).await;
    let one = next_change(&mut client).await;
    drop(first);
    let mut second = welcomed(&mut hub, None).await;
    second.send(change(1, 10, "d1", &["a"])).await;
    second.send(progress("d2", 20)).await;
    next_progress(&mut client).await;
    assert_eq!(client.state().cursor(), None, "the change is untaken still");
    client.ack(&one.cursor);
    assert_eq!(second.ack().await, "d2", "the newest cursor with nothing untaken before it");
    assert_eq!(client.state().cursor(), Some("d2"));
}

#[tokio::test]
async fn a_saved_state_spares_a_crashed_gateway_what_it_had_taken() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    let session = welcomed(&mut hub, None).await;
    session.send(change(1, 10, "c1", &["a"])).await;
    session.send(change(2, 11, "c2", &["a"])).await;
    next_change(&mut client).await;
    let saved = serde_json::to_string(client.state()).unwrap();
    next_change(&mut client).await;
    drop((client, session));

    let mut client = connect(&hub, serde_json::from_str(&saved).unwrap());
    let session = welcomed(&mut hub, None).await;
    session.send(change(1, 10, "d1", &["a"])).await;
    session.send(change(2, 11, "d2", &["a"])).await;
    assert_eq!(next_change(&mut client).await.position.time.0, 11);
}

#[tokio::test]
async fn a_resync_counts_as_untaken_until_it_is_acked() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    let mut session = welcomed(&mut hub, None).await;
    session.send(resync("r1", "history_lost", 50)).await;
    session.send(progress("p1", 60)).await;
    let told = loop {
        if let Item::Resync(told) = client.next().await.unwrap().unwrap() {
            break told;
        }
    };
    assert!(told.scopes.is_none() && told.to.time.0 == 50);
    next_progress(&mut client).await;
    assert_eq!(client.state().cursor(), None);
    client.ack(&told.cursor);
    assert_eq!(session.ack().await, "p1");
}

#[tokio::test]
async fn superseded_and_removed_end_the_stream() {
    for reason in ["superseded", "removed"] {
        let mut hub = FakeHub::start().await;
        let mut client = connect(&hub, State::default());
        let session = welcomed(&mut hub, None).await;
        session.send(closed(reason, 0)).await;
        let mut last = None;
        while let Some(item) = client.next().await {
            last = Some(item.unwrap());
        }
        assert!(matches!(last, Some(Item::Closed(closed)) if closed.reason == reason && !closed.reconnects));
        assert!(hub.is_quiet(), "it does not connect again");
    }
}

#[tokio::test]
async fn it_waits_as_long_as_the_hub_asks() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    let session = welcomed(&mut hub, None).await;
    session.send(closed("overloaded", 300)).await;
    let waits = loop {
        if let Item::Disconnected(disconnected) = client.next().await.unwrap().unwrap() {
            break disconnected.retry_in;
        }
    };
    assert!(waits >= Duration::from_millis(300), "{waits:?}");
    welcomed(&mut hub, None).await;
}

#[tokio::test]
async fn after_an_operators_rewind_no_cursor_is_presented() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    let mut session = welcomed(&mut hub, None).await;
    session.send(change(1, 10, "c1", &["a"])).await;
    session.send(change(2, 11, "c2", &["a"])).await;
    let one = next_change(&mut client).await;
    let two = next_change(&mut client).await;
    client.ack(&one.cursor);
    assert_eq!(session.ack().await, "c1");
    session.send(closed("rewound", 1)).await;
    let rewound = welcomed(&mut hub, None).await;
    rewound.send(progress("e0", 5)).await;
    next_progress(&mut client).await;
    client.ack(&two.cursor);
    assert_eq!(client.state().cursor(), Some("e0"), "a cursor from before the rewind would undo it");
}

#[tokio::test]
async fn a_refusal_for_good_ends_the_stream_with_its_code() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    hub.session().await.refuse(tonic::Status::invalid_argument("not a cursor of this hub")).await;
    let error = client.next().await.unwrap().unwrap_err();
    assert!(matches!(&error, Error::Refused(rejection) if rejection.detail.contains("not a cursor")), "{error}");
    assert!(client.next().await.is_none());
}

#[tokio::test]
async fn an_absent_hub_is_tried_again() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    for _ in 0..3 {
        hub.session().await.refuse(tonic::Status::unavailable("no owner")).await;
        let item = client.next().await.unwrap().unwrap();
        assert!(matches!(&item, Item::Disconnected(d) if d.reason == "no owner"), "{item:?}");
    }
    welcomed(&mut hub, None).await;
}

#[tokio::test]
async fn it_renews_its_leases_at_the_hubs_pace() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    let mut session = hub.session().await;
    session.hello().await;
    session.send(welcome(1)).await;
    session.heartbeat().await;
    session.send(progress("p1", 60)).await;
    next_progress(&mut client).await;
    assert_eq!(session.ack().await, "p1", "a quiet gateway's progress is acked instead of a heartbeat");
    session.heartbeat().await;
}

#[tokio::test]
async fn closing_says_the_last_ack() {
    let mut hub = FakeHub::start().await;
    let mut client = connect(&hub, State::default());
    let mut session = welcomed(&mut hub, None).await;
    session.send(change(1, 10, "c1", &["a"])).await;
    let one = next_change(&mut client).await;
    client.ack(&one.cursor);
    let told = async {
        assert_eq!(session.ack().await, "c1");
        session.ended().await;
        session.send(progress("p", 20)).await;
    };
    let (state, ()) = tokio::join!(client.close(), told);
    assert_eq!(state.cursor(), Some("c1"));
}

#[tokio::test]
async fn an_address_that_is_none_is_said_at_once() {
    for endpoint in ["", "127.0.0.1:7701", "ftp://host", "http://"] {
        let refused = Client::connect(ClientConfig::new(endpoint, "gw-1"), State::default());
        assert!(matches!(refused, Err(Error::Endpoint { .. })), "{endpoint}");
        let other = ClientConfig {
            other_endpoints: vec![endpoint.to_owned()],
            ..ClientConfig::new("http://127.0.0.1:7701", "gw-1")
        };
        let refused = Client::connect(other, State::default());
        assert!(matches!(refused, Err(Error::Endpoint { .. })), "{endpoint}");
    }
}
