//! Another deployment in the place of the one that a running hub serves.

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
    register(&hub, "gw").await;
    let mut session = hub.open(Transport::GrpcJson, "gw", None).await;
    write(&site, "before").await;
    let all = until_key(&mut session, "before").await;
    let Some(Said::Change(change)) = all.last() else { panic!("{all:?}") };
    session.ack(&change.cursor).await;

    mongod.exchange().await;
    let images = doc! { "create": "documents", "changeStreamPreAndPostImages": { "enabled": true } };
    site.client.database(&site.database).run_command(images).await.unwrap();
    let ended = async { while !matches!(session.next().await, None | Some(Said::Closed(_))) {} };
    soon("the session's end", ended).await;

    // Told in every session until it is acked, whatever cursor is presented; then what the new one has.
    for cursor in [Some(change.cursor.as_str()), None] {
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
        write(&site, &key).await;
        until_key(&mut session, &key).await;
    }
    hub.drain().await;
}
