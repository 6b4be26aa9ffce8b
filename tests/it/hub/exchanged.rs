//! Another deployment in the place of the one that a running hub serves, or the same one from a backup.

use bson::doc;
use streamer::clock::Clock;

use super::consumers::{Said, Session, Transport};
use super::history::{register, until_key, write};
use super::servers::Server;
use super::site::{Running, Site, soon, until};
use crate::source_mongo::server::Mongod;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_deployment_under_a_running_hub_is_said_and_then_served() {
    let mongod = Mongod::start(&[]).await;
    let site = Site::on(Server::at(mongod.uri())).await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    let (mut session, cursor) = served(&site, &hub).await;

    mongod.exchange().await;
    let images = doc! { "create": "documents", "changeStreamPreAndPostImages": { "enabled": true } };
    site.client.database(&site.database).run_command(images).await.unwrap();
    let ended = async { while !matches!(session.next().await, None | Some(Said::Closed(_))) {} };
    soon("the session's end", ended).await;
    is_said(&site, &hub, &cursor).await;
    hub.drain().await;
}

/// Its clock runs on, and it has the same identity: only what was read and is not there any more tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_put_back_under_a_running_hub_is_said_and_then_served() {
    let mongod = Mongod::start(&[]).await;
    let site = Site::on(Server::at(mongod.uri())).await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    served(&site, &hub).await;
    let mut cursor = String::new();
    let read = async { cursor = read_what_will_be_lost(&site, &hub).await };
    mongod.restore_after(read).await;
    is_said(&site, &hub, &cursor).await;
    hub.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_put_back_while_the_hub_is_away_is_said_and_then_served() {
    let mongod = Mongod::start(&[]).await;
    let site = Site::on(Server::at(mongod.uri())).await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    served(&site, &hub).await;
    let mut cursor = String::new();
    let read = async {
        cursor = read_what_will_be_lost(&site, &hub).await;
        hub.drain().await;
    };
    mongod.restore_after(read).await;
    let hub = Running::start(&site.config(), Clock::system()).await;
    is_said(&site, &hub, &cursor).await;
    hub.drain().await;
}

/// A session that has had a change and acked it, and the change's cursor.
async fn served(site: &Site, hub: &Running) -> (Session, String) {
    register(hub, "gw").await;
    let mut session = hub.open(Transport::GrpcJson, "gw", None).await;
    write(site, "before").await;
    let all = until_key(&mut session, "before").await;
    let Some(Said::Change(change)) = all.last() else { panic!("{all:?}") };
    session.ack(&change.cursor).await;
    let cursor = change.cursor.clone();
    (session, cursor)
}

/// A change that the backup does not have, and its cursor.
async fn read_what_will_be_lost(site: &Site, hub: &Running) -> String {
    let mut session = hub.open(Transport::GrpcJson, "gw", None).await;
    write(site, "lost").await;
    let all = until_key(&mut session, "lost").await;
    let Some(Said::Change(change)) = all.last() else { panic!("{all:?}") };
    session.ack(&change.cursor).await;
    beyond(site, &mut session).await;
    change.cursor.clone()
}

/// The reading comes to a boundary at which there is nothing that could be missed.
async fn beyond(site: &Site, session: &mut Session) {
    let other = site.client.database("elsewhere").collection("noise");
    other.insert_one(doc! {}).await.unwrap();
    for _ in 0..4 {
        while !matches!(session.next().await, Some(Said::Progress(..))) {}
    }
}

/// The loss is told, and what comes after it arrives.
async fn is_said(site: &Site, hub: &Running, cursor: &str) {
    // Told in every session until it is acked, whatever cursor is presented; then what the new one has.
    for cursor in [Some(cursor), None] {
        // Until the hub has looked there is nobody, or a session that ends without a word.
        let told = async || {
            let (http, grpc) = (hub.http_url(), hub.grpc_url());
            let cursor = cursor.map(str::to_owned);
            let mut session = Session::try_open(Transport::GrpcJson, &http, &grpc, "gw", cursor).await?;
            loop {
                match session.next().await? {
                    Said::Welcome | Said::Progress(..) => {}
                    Said::Closed(_) => return None,
                    Said::Resync(reason, _) => return Some((session, reason)),
                    other => panic!("{other:?} before a word"),
                }
            }
        };
        let (mut session, reason) = until("a word", told).await;
        assert_eq!(reason, "restored");
        let key = format!("after {}", cursor.is_some());
        write(site, &key).await;
        until_key(&mut session, &key).await;
    }
}
