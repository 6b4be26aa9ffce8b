//! An idle deployment: progress that moves on all the same.

use streamer::clock::Clock;

use super::consumers::{Said, Transport};
use super::history::register;
use super::servers::Server;
use super::site::{Running, Site, is_past, soon};
use crate::source_mongo::server::Mongod;

/// MongoDB writes something of its own every ten seconds; so this takes a server that does not.
const SILENT: &[&str] = &["--setParameter", "writePeriodicNoops=false"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_heartbeat_writes_progress_passes_a_write_though_nothing_follows_it() {
    for whole_deployment in [false, true] {
        let mongod = Mongod::start(SILENT).await;
        let site = Site::on(Server::at(mongod.uri())).await;
        let mut config = site.config();
        config.backends.0[0].heartbeat_writes = true;
        if whole_deployment {
            config.backends.0[0].database = None;
        }
        let hub = Running::start(&config, Clock::system()).await;
        register(&hub, "gw").await;
        let mut session = hub.open(Transport::GrpcJson, "gw", None).await;
        let end = site.now().await;
        let past = async {
            loop {
                match session.next().await.expect("the session goes on") {
                    Said::Progress(positions, 0) if is_past(&positions, end) => return,
                    Said::Welcome | Said::Progress(..) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        soon("progress", past).await;
        hub.drain().await;
    }
}
