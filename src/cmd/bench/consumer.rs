//! The one consumer of a drain: a gateway that counts and acks.

use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use tokio::time::{Instant, timeout};

use super::super::rig::cpu_seconds;
use crate::client::{Backoff, BodyFormat, Client, ClientConfig, Item, State};

/// An ack stands for so many changes.
const ACK_EVERY: u64 = 1_000;
/// The hub is just starting: look often, so that little of the backlog is read before the session.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(5), most: Duration::from_millis(20) };
/// Longer than the start of a hub with a million subscriptions.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the consumer saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drained {
    /// From the client's first attempt to `welcome`.
    pub(super) welcomed_after: Duration,
    /// From `welcome` to the last change.
    pub(super) took: Duration,
    /// This process's processor time from `welcome` to the last change.
    pub(super) cpu_seconds: f64,
    /// Of all bodies.
    pub(super) bytes: u64,
}

/// Takes `changes` changes, each with `matches` matches.
pub(super) async fn drain(
    endpoint: &str,
    gateway: &str,
    body: BodyFormat,
    (changes, matches): (u64, u32),
    mut progress: impl FnMut(u64),
) -> anyhow::Result<Drained> {
    let config = ClientConfig { backoff: BACKOFF, body, ..ClientConfig::new(endpoint, gateway) };
    let began = Instant::now();
    let mut client = Client::connect(config, State::default())?;
    let mut welcomed: Option<(Instant, f64)> = None;
    let (mut seen, mut bytes) = (0, 0);
    while seen < changes {
        let item = timeout(PATIENCE, client.next()).await;
        let item = item.with_context(|| format!("only {seen} of {changes} changes came"))?;
        match item.context("the hub ended the session")?? {
            Item::Connected(_) if welcomed.is_some() => bail!("the session broke after {seen} changes"),
            Item::Connected(_) => welcomed = Some((Instant::now(), cpu_seconds(None))),
            Item::Change(change) => {
                if change.matches.len() != matches as usize {
                    bail!("change {seen} matches {} subscriptions instead of {matches}", change.matches.len());
                }
                seen += 1;
                bytes += change.document.as_ref().map_or(0, |body| body.bytes.len() as u64);
                if seen % ACK_EVERY == 0 {
                    client.ack(&change.cursor);
                    progress(seen);
                }
            }
            Item::Resync(resync) => bail!("the hub says resync ({:?})", resync.reason),
            _ => {}
        }
    }
    let (start, cpu) = welcomed.context("changes without a welcome")?;
    let took = start.elapsed();
    let cpu_seconds = cpu_seconds(None) - cpu;
    progress(seen);
    drop(client);
    Ok(Drained { welcomed_after: start - began, took, cpu_seconds, bytes })
}
