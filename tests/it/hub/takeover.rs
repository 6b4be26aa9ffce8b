//! Who is served when a gateway connects twice, and from where: transports mixed, cursors carried from
//! one to the other, acks of those who are no longer served.

use std::time::Duration;

use bson::doc;
use reqwest::Method;
use serde_json::json;
use streamer::clock::Clock;

use super::consumers::{Change, Said, Session, Transport};
use super::site::{Running, Site, document, soon, until};

const TRANSPORTS: [Transport; 3] = [Transport::Sse, Transport::GrpcJson, Transport::GrpcBson];

async fn register(hub: &Running, gateway: &str) {
    let asked = json!({
        "subscriptionId": "all", "gatewayId": gateway, "tenant": "acme", "collection": "messages", "ttlSeconds": 60,
    });
    assert_eq!(hub.call(Method::POST, "/v1/subscriptions", Some(&asked)).await.0, 201);
}

/// Writes documents with these keys.
async fn write(site: &Site, keys: std::ops::Range<u32>) {
    let documents = keys.map(|key| document("acme", "messages", &format!("{key:04}"), doc! { "n": key }));
    site.documents().insert_many(documents).await.unwrap();
}

/// The next change.
async fn change(session: &mut Session) -> Change {
    let taking = async {
        loop {
            match session.next().await.expect("the session goes on") {
                Said::Change(change) => return *change,
                Said::Welcome | Said::Progress(..) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    soon("a change", taking).await
}

/// The reason of its end.
async fn end(mut session: Session) -> String {
    let ending = async {
        loop {
            if let Said::Closed(reason) = session.next().await.expect("a reason") {
                assert!(session.next().await.is_none(), "the stream ends after it");
                return reason;
            }
        }
    };
    soon("the session's end", ending).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_session_is_served_whatever_it_comes_by() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    register(&hub, "gw").await;
    write(&site, 0..1000).await;
    let mut current = hub.open(Transport::GrpcBson, "gw", None).await;
    let (mut taken, mut stale) = (0, Vec::new());
    for (number, transport) in TRANSPORTS.into_iter().cycle().take(9).enumerate() {
        // Some are taken and acked, some only taken; the older session is cut off in the middle.
        let mut last = None;
        for _ in 0..20 {
            last = Some(change(&mut current).await);
        }
        let cursor = last.unwrap().cursor;
        let presented = match number % 3 {
            // Nothing is acked: all of it comes again.
            0 => None,
            // The cursor is presented, to another transport.
            1 => Some(cursor.clone()),
            // The ack is durable in the hub before the next session is opened.
            _ => {
                assert_eq!(ack(&hub, "gw", &cursor).await, 204);
                None
            }
        };
        taken += if number % 3 == 0 { 0 } else { 20 };
        let next = hub.open(transport, "gw", presented.as_deref()).await;
        assert_eq!(end(std::mem::replace(&mut current, next)).await, "superseded");
        stale.push(cursor);
        let first = change(&mut current).await;
        assert_eq!(first.key, format!("{taken:04}"), "session {number} by {transport:?}");
        // Where it was is where the next round begins.
        current = reopened(&hub, current, transport).await;
    }
    // The acks of sessions that are no longer served change nothing, and nobody is told off.
    let last = stale.pop().unwrap();
    for cursor in stale {
        assert_eq!(ack(&hub, "gw", &cursor).await, 204);
    }
    assert_eq!(ack(&hub, "gw", &last).await, 204);
    let mut again = hub.open(Transport::Sse, "gw", None).await;
    assert_eq!(change(&mut again).await.key, format!("{taken:04}"));
    hub.drain().await;
    site.remove().await;
}

/// The same session from its beginning.
async fn reopened(hub: &Running, session: Session, transport: Transport) -> Session {
    let next = hub.open(transport, "gw", None).await;
    assert_eq!(end(session).await, "superseded");
    next
}

async fn ack(hub: &Running, gateway: &str, cursor: &str) -> u16 {
    let path = format!("/v1/gateways/{gateway}/ack");
    hub.call(Method::POST, &path, Some(&json!({ "cursor": cursor }))).await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_resumes_at_last_event_id_before_its_parameter_before_the_last_ack() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    register(&hub, "gw").await;
    write(&site, 0..50).await;
    let mut session = hub.open(Transport::Sse, "gw", None).await;
    let seen = site.all(&mut session).await;
    assert_eq!(seen.len(), 50);
    session.ack(&seen[9].cursor).await;
    let open = async |parameters: &str, id: Option<&Change>| {
        let id = id.map(|change| change.cursor.clone());
        Session::sse(&hub.http_url(), "gw", parameters, id).await.expect("a stream")
    };
    let first = async |mut session: Session| change(&mut session).await.key;
    assert_eq!(first(open("", None).await).await, "0010", "the last ack");
    let parameter = format!("?cursor={}", seen[19].cursor);
    assert_eq!(first(open(&parameter, None).await).await, "0020");
    assert_eq!(first(open("", None).await).await, "0020", "a cursor presented is an ack");
    assert_eq!(first(open(&parameter, Some(&seen[29])).await).await, "0030", "the header goes first");
    assert_eq!(first(open("", Some(&seen[4])).await).await, "0005", "an older one is a rewind");
    assert_eq!(first(open("", None).await).await, "0005");

    // What is no cursor is refused; another gateway's is no place here, and that is said.
    register(&hub, "other").await;
    for (gateway, cursor) in [("gw", "nonsense"), ("gw", "AAAA"), ("other", &seen[3].cursor)] {
        let path = format!("/v1/gateways/{gateway}");
        let acked = hub.call(Method::POST, &format!("{path}/ack"), Some(&json!({ "cursor": cursor }))).await;
        assert_eq!((acked.0, &acked.1["code"]), (400, &json!("INVALID_CURSOR")), "{gateway} {cursor}");
        if gateway == "gw" {
            let (status, problem) = hub.get(&format!("{path}/stream?cursor={cursor}")).await;
            assert_eq!((status, &problem["code"]), (400, &json!("INVALID_CURSOR")), "{cursor}");
        }
    }
    let mut session = hub.open(Transport::Sse, "other", Some(&seen[3].cursor)).await;
    let resync = async {
        loop {
            match session.next().await.expect("the session goes on") {
                Said::Resync(reason, _) => return reason,
                Said::Welcome => {}
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(soon("a resync", resync).await, "forgotten");
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_automatic_stream_has_written_is_acked_and_renews_the_lease() {
    let (site, clock) = (Site::new().await, Clock::manual());
    let hub = Running::start(&site.config(), clock.clone()).await;
    register(&hub, "gw").await;
    let mut session = Session::sse(&hub.http_url(), "gw", "?ack=auto", None).await.expect("a stream");
    for round in 0..3 {
        // Longer in all than the lease; each round something is acked.
        clock.advance(Duration::from_secs(40));
        write(&site, round * 10..round * 10 + 10).await;
        assert_eq!(site.all(&mut session).await.len(), 10);
        until("the ack of what was written", async || {
            // The next chunk is asked for only when the one before has been written.
            soon("progress", session.next()).await.expect("the session goes on");
            let (_, gateway) = hub.get("/v1/gateways/gw").await;
            (gateway["lag"]["changes"] == json!(0)).then_some(())
        })
        .await;
    }
    let (_, subscription) = hub.get("/v1/gateways/gw/subscriptions/all").await;
    assert_eq!(subscription["state"], "live", "{subscription}");
    drop(session);
    write(&site, 30..33).await;
    let mut session = hub.open(Transport::GrpcJson, "gw", None).await;
    let keys: Vec<_> = site.all(&mut session).await.into_iter().map(|change| change.key).collect();
    assert_eq!(keys, ["0030", "0031", "0032"], "what was acked does not come again");
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_deleted_is_told_so() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    for transport in TRANSPORTS {
        register(&hub, "gw").await;
        let session = hub.open(transport, "gw", None).await;
        assert_eq!(hub.call(Method::DELETE, "/v1/gateways/gw", None).await.0, 204);
        assert_eq!(end(session).await, "removed");
    }
    hub.drain().await;
    site.remove().await;
}
