//! The readers beside the raw cursor.
//!
//! Owns how each side connects and notes what arrives. All gateways are in this process: what they cost is
//! part of both sides.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::arrivals::Arrivals;
use super::readers::Readers;
use super::{COLLECTION, PATIENCE, TENANT, TTL_SECONDS};
use crate::client::{Backoff, BodyFormat, Client, ClientConfig, Item, Registration, State, Subscription};
use crate::cmd::rig::{self, Database, HubPlan};

const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(1) };
/// An ack stands for so many changes, or for all that came when nothing more does.
const ACK_EVERY: u32 = 64;
const STALLED: &str = "stalled";

/// A gateway's name.
pub(super) fn gateway(number: u32) -> String {
    format!("gw-{number}")
}

/// Sessions of a hub; all are live when this returns. And one that is connected and never reads, if it is wanted.
pub(super) async fn of_hub(
    count: u32,
    plan: &HubPlan,
    readers: &Readers,
    arrivals: &Arc<Arrivals>,
    stalled: bool,
) -> anyhow::Result<Option<Client>> {
    let (ready, mut live) = mpsc::channel(count as usize);
    for name in (0..count).map(gateway) {
        let config =
            ClientConfig { backoff: BACKOFF, body: BodyFormat::Bson, ..ClientConfig::new(plan.grpc_url(), &name) };
        let client = Client::connect(config, State::default())?;
        readers.start(&name, read(client, Arc::clone(arrivals), ready.clone()));
    }
    for connected in 0..count {
        let one = timeout(PATIENCE, live.recv()).await;
        one.ok().flatten().with_context(|| format!("only {connected} of {count} gateways became live"))?;
    }
    if stalled {
        return stall(plan).await.map(Some);
    }
    unregister(plan).await?;
    Ok(None)
}

/// A change stream of its own for each, filtered by the server.
pub(super) async fn by_streams(
    count: u32,
    database: &Database,
    readers: &Readers,
    arrivals: &Arc<Arrivals>,
) -> anyhow::Result<()> {
    for number in 0..count {
        let arrivals = Arc::clone(arrivals);
        let stream = rig::watch_raw(database, Some(number), move |number, now| arrivals.gateway(number, now)).await?;
        readers.start(&gateway(number), stream);
    }
    Ok(())
}

async fn read(mut client: Client, arrivals: Arc<Arrivals>, live: mpsc::Sender<()>) -> anyhow::Result<()> {
    let (mut live, mut unacked) = (Some(live), 0);
    while let Some(item) = client.next().await {
        match item? {
            Item::Change(change) => {
                let now = Instant::now();
                let body = change.document.as_ref().context("a change without its document")?;
                let number = bson::RawDocument::from_bytes(&body.bytes)?.get_i64("number")?;
                arrivals.gateway(number as u64, now);
                unacked += 1;
                if unacked >= ACK_EVERY {
                    client.ack(&change.cursor);
                    unacked = 0;
                }
            }
            Item::Progress(progress) if progress.catching_up == 0 => {
                if let Some(live) = live.take() {
                    let _ = live.send(()).await;
                }
            }
            Item::Resync(resync) => bail!("the hub says resync ({:?})", resync.reason),
            _ => {}
        }
    }
    bail!("a session ended for good")
}

/// Sent every change; it says hello, and takes nothing from then on.
async fn stall(plan: &HubPlan) -> anyhow::Result<Client> {
    let all = Subscription { ttl_seconds: Some(TTL_SECONDS), ..Subscription::new(STALLED, "all", TENANT, COLLECTION) };
    Registration::new(plan.http_url())?.register(&all).await?;
    let config = ClientConfig { body: BodyFormat::Bson, ..ClientConfig::new(plan.grpc_url(), STALLED) };
    let mut client = Client::connect(config, State::default())?;
    let hello = async { while !matches!(client.next().await, None | Some(Ok(Item::Connected(_)))) {} };
    timeout(PATIENCE, hello).await.context("the stalled gateway cannot connect")?;
    Ok(client)
}

/// Of an earlier round nothing is left.
async fn unregister(plan: &HubPlan) -> anyhow::Result<()> {
    let url = format!("{}/v1/gateways/{STALLED}", plan.http_url());
    let answer = reqwest::Client::builder().no_proxy().build()?.delete(url).send().await?;
    anyhow::ensure!(answer.status().is_success() || answer.status().as_u16() == 404, "{}", answer.status());
    Ok(())
}
