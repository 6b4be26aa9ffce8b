//! What happens to whole collections: said to everyone whom it concerns, until it has been heard.

use bson::doc;
use streamer::clock::Clock;

use super::consumers::{Said, Session, Transport};
use super::history::{heard, register, until_key, write};
use super::site::{Running, Site, soon, until};

/// The next resync, and its cursor; others' changes may come before it.
async fn resync(session: &mut Session) -> (String, String) {
    let taking = async {
        loop {
            match session.next().await.expect("the session goes on") {
                Said::Resync(reason, cursor) => return (reason, cursor),
                Said::Welcome | Said::Progress(..) | Said::Change(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    soon("a resync", taking).await
}

/// Takes one change and acks it, so that nothing is left to be remembered.
async fn up_to_date(hub: &Running, site: &Site, gateway: &str, transport: Transport) -> Session {
    let mut session = hub.open(transport, gateway, None).await;
    write(site, gateway).await;
    let all = until_key(&mut session, gateway).await;
    let Some(Said::Change(last)) = all.last() else { unreachable!() };
    session.ack(&last.cursor).await;
    let path = format!("/v1/gateways/{gateway}");
    until("an ack", async || {
        let view = hub.get(&path).await.1;
        (view["lag"]["changes"] == 0).then_some(())
    })
    .await;
    session
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_collection_is_said_until_acked_to_who_was_here_and_who_was_away() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    for gateway in ["here", "away"] {
        register(&hub, gateway).await;
    }
    drop(up_to_date(&hub, &site, "away", Transport::Sse).await);
    let mut here = up_to_date(&hub, &site, "here", Transport::GrpcBson).await;
    // Nothing is written beside it: it has a time of its own, and no change there.
    site.documents().drop().await.unwrap();
    assert_eq!(resync(&mut here).await.0, "invalidated");
    drop(here);

    for (gateway, transports) in
        [("here", [Transport::Sse, Transport::GrpcJson]), ("away", [Transport::GrpcBson, Transport::Sse])]
    {
        let mut session = hub.open(transports[0], gateway, None).await;
        assert_eq!(resync(&mut session).await.0, "invalidated", "{gateway}");
        drop(session);
        let mut session = hub.open(transports[1], gateway, None).await;
        let (reason, cursor) = resync(&mut session).await;
        assert_eq!(reason, "invalidated", "{gateway}, again, for it was not acked");
        session.ack(&cursor).await;
        let key = format!("{gateway} afterwards");
        write(&site, &key).await;
        let all = until_key(&mut session, &key).await;
        assert_eq!(heard(&all).last(), Some(&key.as_str()));
        let Some(Said::Change(last)) = all.last() else { unreachable!() };
        session.ack(&last.cursor).await;
        drop(session);
        let mut session = hub.open(transports[0], gateway, None).await;
        let key = format!("{gateway} at last");
        write(&site, &key).await;
        let all = until_key(&mut session, &key).await;
        assert!(!heard(&all).contains(&"invalidated"), "{all:?}");
    }
    hub.drain().await;
    site.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_that_another_is_renamed_onto_is_said_to_who_was_away() {
    let site = Site::new().await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    register(&hub, "away").await;
    register(&hub, "here").await;
    drop(up_to_date(&hub, &site, "away", Transport::GrpcJson).await);
    let mut here = up_to_date(&hub, &site, "here", Transport::Sse).await;
    let database = site.client.database(&site.database);
    database.collection::<bson::Document>("prepared").insert_one(doc! { "x": 1 }).await.unwrap();
    let to = format!("{}.{}", site.database, site.documents().name());
    let command = doc! { "renameCollection": format!("{}.prepared", site.database), "to": to, "dropTarget": true };
    site.client.database("admin").run_command(command).await.unwrap();
    let (reason, _) = resync(&mut here).await;
    let mut away = hub.open(Transport::Sse, "away", None).await;
    assert_eq!(resync(&mut away).await.0, reason);
    hub.drain().await;
    site.remove().await;
}
