//! Delivery by NATS JetStream.
//!
//! Owns the publishers: one for each gateway that is served by NATS and has something to be told, whose session is
//! one like any other and whose acks are the server's (`docs/decisions/0006-jetstream.md`). Knows the server as
//! `crate::nats` shows it.
//!
//! - `publisher.rs`: one session; `pack.rs`: frames as messages;
//! - `outlet.rs`: connections, and when they may be published on; `mark.rs`: how a stream that has gone back is found out;
//! - `mistakes.rs`: for drills to notice.

mod mark;
mod mistakes;
mod outlet;
mod pack;
mod publisher;

use std::collections::HashSet;
use std::hash::Hasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use self::mark::Checks;
pub use self::mistakes::Mistake;
use self::outlet::{Ledger, Outlet};
use self::publisher::{End, Publisher};
use crate::clock::Clock;
use crate::edge::Numbers;
use crate::handle::{PartitionHandle, Unserved};
use crate::limits;
use crate::nats::{Endpoint, StreamConfig, Trouble, subject};
use crate::observe::health::Component;
use crate::position::PartitionId;
use crate::subscription::GatewayId;
use crate::tasks::{Kind, Tasks};

/// How often it is looked who waits for a publisher.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it is tried to remove the messages of a gateway that is gone.
const PURGES_MAX: u32 = 1_000;
/// Before a gateway whose publisher could not publish is given another.
const PAUSE: Duration = Duration::from_millis(500);

/// What all of a hub's publishers know of the stream together.
#[derive(Clone, Debug)]
pub struct StreamWatch(Arc<Checks>);

impl StreamWatch {
    /// Nothing is known yet. A deliberate mistake is for a drill to notice.
    pub fn new(mistake: Option<Mistake>) -> Self {
        Self(Arc::new(Checks::new(mistake == Some(Mistake::TrustStream))))
    }
}

/// What publishers are made of.
pub struct Publishers {
    /// Opens their sessions,
    pub hub: PartitionHandle,
    /// each of which takes a number.
    pub numbers: Numbers,
    /// Starts them.
    pub tasks: Tasks,
    /// Tells the time.
    pub clock: Clock,
    /// Says how the server fares.
    pub health: Component,
    /// Where the server is.
    pub endpoint: Endpoint,
    /// What the stream is, if it has to be made.
    pub stream: StreamConfig,
    /// How many connections share the gateways.
    pub connections: usize,
    /// What is known of it.
    pub watch: StreamWatch,
    /// Whose deliveries they are.
    pub partition: PartitionId,
    /// A deliberate mistake, for a drill to notice.
    pub mistake: Option<Mistake>,
}

impl Publishers {
    /// Gives publishers to those who wait for one, until shutdown. Connects when the first one does.
    pub async fn run(self) {
        let shutdown = self.tasks.shutdown_token();
        let this = Arc::new(self);
        let serving: Arc<Mutex<HashSet<GatewayId>>> = Arc::default();
        let (mut outlets, mut removed): (Vec<Arc<Outlet>>, Vec<GatewayId>) = Default::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(LOOK_EVERY) => {}
            }
            let count = lock(&serving).len();
            // Those that are being served wait as well until their session has begun.
            let asked = this.hub.unserved(count + limits::nats_publishers_at_once_max).await;
            let Ok(unserved) = asked else {
                // Nobody owns the partition at the moment. What another owner publishes meanwhile is not known here:
                // the next tenure begins with a look at the stream.
                outlets.clear();
                continue;
            };
            let is_new = |it: &Unserved| !lock(&serving).contains(&it.gateway);
            let unserved: Vec<Unserved> = unserved.into_iter().filter(is_new).collect();
            // Before those of the same names that may come next publish anything.
            removed.extend(this.hub.removed().await.unwrap_or_default());
            if unserved.is_empty() && removed.is_empty() {
                continue;
            }
            if outlets.is_empty() {
                match this.connect().await {
                    Ok(made) => outlets = made,
                    Err(trouble) => {
                        tracing::error!(%trouble, "gateways wait for NATS");
                        this.health.degraded(trouble.to_string());
                        sleep(PAUSE).await;
                        continue;
                    }
                }
            }
            for gateway in removed.drain(..) {
                let outlet = Arc::clone(&outlets[share(&gateway, outlets.len())]);
                let (this, last) = (Arc::clone(&this), outlet.checks().newest());
                let name = format!("messages of {gateway}, which is gone");
                this.tasks.clone().spawn(Kind::Session, name, async move { this.purge(&outlet, &gateway, last).await });
            }
            for one in unserved {
                let outlet = Arc::clone(&outlets[share(&one.gateway, outlets.len())]);
                lock(&serving).insert(one.gateway.clone());
                let (this, serving) = (Arc::clone(&this), Arc::clone(&serving));
                let name = format!("publisher of {}", one.gateway);
                let served = Served(serving, one.gateway.clone());
                this.tasks.clone().spawn(Kind::Session, name, async move {
                    this.serve(outlet, &one).await;
                    drop(served);
                });
            }
        }
    }

    /// What was for a gateway that is gone is for nobody: all up to a message, but for the farewell.
    async fn purge(&self, outlet: &Outlet, gateway: &GatewayId, last: u64) {
        let (shutdown, subject) = (self.tasks.shutdown_token(), subject::deliveries(gateway, &self.partition));
        for _ in 0..PURGES_MAX {
            let purging = async {
                let leave = outlet.leave().await?;
                let kept = leave.server().last(&subject).await?;
                let farewell = kept.filter(|kept| kept.name.as_deref() == Some("closed"));
                let before = farewell.map_or(last + 1, |farewell| farewell.sequence.min(last + 1));
                leave.server().purge(&subject, before).await
            };
            let purged = tokio::select! {
                purged = purging => purged,
                () = shutdown.cancelled() => return,
            };
            let Err(trouble) = purged else { return };
            tracing::debug!(%gateway, %trouble, "its messages are still there");
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = shutdown.cancelled() => return,
            }
        }
        tracing::warn!(%gateway, subject, "messages of a gateway that is gone stay on its subject");
    }

    async fn connect(&self) -> Result<Vec<Arc<Outlet>>, Trouble> {
        let ledger = Arc::new(Ledger::open(self.hub.clone(), &self.stream.name, &self.watch.0).await?);
        Ok((0..self.connections.max(1)).map(|_| Arc::new(Outlet::new(self, Arc::clone(&ledger)))).collect())
    }

    async fn serve(&self, outlet: Arc<Outlet>, unserved: &Unserved) {
        let publisher = Publisher::new(self, outlet, &unserved.gateway);
        let shutdown = self.tasks.shutdown_token();
        let end = publisher.serve(unserved, &shutdown).await;
        publisher.report(&end);
        if let End::Trouble(trouble) = &end {
            self.health.degraded(trouble.to_string());
        }
        if !matches!(end, End::Closed) {
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }
}

/// A gateway that has a publisher, whatever becomes of that.
struct Served(Arc<Mutex<HashSet<GatewayId>>>, GatewayId);

impl Drop for Served {
    fn drop(&mut self) {
        lock(&self.0).remove(&self.1);
    }
}

fn lock(serving: &Mutex<HashSet<GatewayId>>) -> std::sync::MutexGuard<'_, HashSet<GatewayId>> {
    serving.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which connection serves a gateway.
fn share(gateway: &GatewayId, connections: usize) -> usize {
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(gateway.as_str().as_bytes());
    // The upper bits are the well mixed ones.
    (hasher.finish() >> 32) as usize % connections
}
