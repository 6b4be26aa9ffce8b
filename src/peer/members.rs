//! Which nodes there are, and which of them should own what.
//!
//! Owns this node's own key, the following of all others, and the choice (`Members::choice`): where an operator wants a
//! partition, as long as that node lives, else what the ring says. It is advice: what decides is the ownership key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::every;
use crate::position::PartitionId;
use crate::ring::Ring;
use crate::store::owners::{self, Holder};
use crate::store::{Owned, Ownership, Store, Unavailable, placements};
use crate::tasks::{Kind, Tasks};

/// How often it is looked who is there.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After the store has refused this node its key.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the cluster.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The nodes that live, by name.
    pub nodes: BTreeMap<Arc<str>, Holder>,
    /// Where operators want partitions, by the partition's name.
    wanted: BTreeMap<Arc<str>, Arc<str>>,
    ring: Ring,
}

impl View {
    fn new(nodes: BTreeMap<Arc<str>, Holder>, wanted: BTreeMap<Arc<str>, Arc<str>>) -> Self {
        let ring = Ring::new(nodes.keys().cloned());
        Self { nodes, wanted, ring }
    }

    /// Of nodes of these names, for tests.
    #[cfg(test)]
    pub(crate) fn of(nodes: &[&str], wanted: Option<(&PartitionId, &str)>) -> Self {
        let nodes = nodes.iter().map(|node| ((*node).into(), Holder::named(*node))).collect();
        let wanted = wanted.map(|(partition, node)| (partition.to_string().into(), node.into()));
        Self::new(nodes, wanted.into_iter().collect())
    }

    /// As the store has it now.
    pub(crate) async fn read(store: &dyn Store) -> Result<Self, Unavailable> {
        read(store).await.map(|(nodes, wanted)| Self::new(nodes, wanted))
    }

    /// Which node should own a partition.
    pub fn choice(&self, partition: &PartitionId) -> Option<Choice> {
        let name = partition.to_string();
        let wanted = self.wanted.get(name.as_str()).filter(|node| self.nodes.contains_key(*node));
        match wanted {
            Some(node) => Some(Choice { node: Arc::clone(node), is_wanted: true }),
            None => self.ring.member(&name).map(|node| Choice { node: Arc::clone(node), is_wanted: false }),
        }
    }

    /// Which part of all keys each node would have.
    pub fn shares(&self) -> BTreeMap<Arc<str>, f64> {
        self.ring.shares()
    }
}

/// Which node should own a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its name.
    pub node: Arc<str>,
    /// An operator wants it there.
    pub is_wanted: bool,
}

/// The cluster as this node knows it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Members {
    view: watch::Receiver<Arc<View>>,
}

impl Members {
    /// Joins, and follows who else is there, until shutdown.
    pub fn join(holder: Holder, store: Arc<dyn Store>, tasks: &Tasks) -> Self {
        let (told, view) = watch::channel(Arc::default());
        let shutdown = tasks.shutdown_token();
        let of_looking = Arc::clone(&store);
        tasks.spawn(Kind::Housekeeping, "members", async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = look(of_looking.as_ref(), &told) => {}
            }
        });
        let shutdown = tasks.shutdown_token();
        tasks.spawn(Kind::Housekeeping, "membership", async move {
            let mut owned = None;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = stay(&holder, store.as_ref(), &mut owned) => {}
            }
            // At once, or others would wait for its lease before they take what was its own.
            if let Some(Owned { fence, .. }) = owned
                && let Err(error) = store.release(&fence).await
            {
                tracing::warn!(%error, "this node could not say that it leaves; its lease will");
            }
        });
        Self { view }
    }

    /// Nothing changes, for tests.
    #[cfg(test)]
    pub(crate) fn fixed(view: View) -> Self {
        Self { view: watch::channel(Arc::new(view)).1 }
    }

    /// As it is known now.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }
}

/// Keeps this node's key.
async fn stay(holder: &Holder, store: &dyn Store, owned: &mut Option<Owned>) {
    let key = owners::node_key(&holder.node);
    loop {
        match store.acquire(&key, holder).await {
            Ok(won) => {
                let lost = |now: &Ownership| *now == Ownership::Lost;
                let mut ownership = owned.insert(won).ownership.clone();
                let _ = ownership.wait_for(lost).await;
                tracing::warn!(node = %holder.node, "this node's lease is lost: joining anew");
            }
            Err(error) => tracing::warn!(%error, "this node cannot join"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn look(store: &dyn Store, told: &watch::Sender<Arc<View>>) {
    let mut looks = every(LOOK_EVERY);
    loop {
        looks.tick().await;
        // What was known stands while the store does not answer.
        let Ok((nodes, wanted)) = read(store).await else { continue };
        let known = Arc::clone(&told.borrow());
        if known.nodes != nodes || known.wanted != wanted {
            tracing::info!(nodes = ?nodes.keys().collect::<Vec<_>>(), "nodes");
            told.send_replace(Arc::new(View::new(nodes, wanted)));
        }
    }
}

type Read = (BTreeMap<Arc<str>, Holder>, BTreeMap<Arc<str>, Arc<str>>);

async fn read(store: &dyn Store) -> Result<Read, Unavailable> {
    let (nodes, _) = store.scan(owners::NODES).await?;
    let (wanted, _) = store.scan(placements::PREFIX).await?;
    let holders = nodes.iter().filter_map(|entry| Holder::decode(&entry.value).ok());
    let nodes = holders.map(|holder| (Arc::clone(&holder.node), holder)).collect();
    let wanted = wanted.iter().filter_map(placements::read);
    let wanted = wanted.filter_map(|(partition, record)| Some((partition, record.node?)));
    Ok((nodes, wanted.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_word_stands_while_the_node_lives_and_else_the_rings() {
        let partition = PartitionId::new("default", 0);
        let view = |names: &[&str]| View::of(names, Some((&partition, "hub-a")));
        let choice = |names: &[&str]| view(names).choice(&partition);
        let of = |node: &str, is_wanted| Some(Choice { node: node.into(), is_wanted });
        assert_eq!(choice(&["hub-a", "hub-b", "hub-c"]), of("hub-a", true));
        assert_eq!(choice(&["hub-b", "hub-c"]), of("hub-c", false));
        assert_eq!(choice(&["hub-b"]), of("hub-b", false));
        assert_eq!(choice(&[]), None);
        let other = view(&["hub-a", "hub-b"]).choice(&PartitionId::new("default", 1));
        assert_eq!(other.map(|choice| choice.is_wanted), Some(false));
    }
}
