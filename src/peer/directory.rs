//! Who owns a partition, as the store says.
//!
//! Owns the following of the ownership key, and the connection to the node that it names.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::clock::every;
use crate::limits;
use crate::position::PartitionId;
use crate::proto::peer::peer_client::PeerClient;
use crate::store::Store;
use crate::store::owners::{self, Holder};
use crate::tasks::{Kind, Tasks};

/// How often the key is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A node that is frozen, or behind a cut link, is given up after both.
const PING_EVERY: Duration = Duration::from_secs(3);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 flow control: a backlog must not wait for window updates.
const WINDOW_BYTES: u32 = 16 << 20;

/// What a directory is made of.
pub struct DirectoryConfig {
    /// Of which partition.
    pub partition: PartitionId,
    /// This node's name.
    pub node: Arc<str>,
    /// Where ownership is decided.
    pub store: Arc<dyn Store>,
    /// Starts its task.
    pub tasks: Tasks,
}

/// The partition's owner, as far as it is known here. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Directory {
    pub(super) partition: PartitionId,
    /// This node's name.
    pub(super) node: Arc<str>,
    pub(super) tasks: Tasks,
    owner: watch::Receiver<Option<Owner>>,
}

/// Another node that owns the partition.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) holder: Holder,
    /// `None`: it has no address that could be asked.
    channel: Option<Channel>,
}

impl Owner {
    fn new(holder: Holder) -> Self {
        let address = holder.address.as_ref().map(|address| format!("http://{address}"));
        let endpoint = address.and_then(|address| Endpoint::from_shared(address).ok());
        let channel = endpoint.map(|endpoint| {
            endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_TIMEOUT)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .tcp_nodelay(true)
                .connect_lazy()
        });
        Self { holder, channel }
    }

    pub(super) fn client(&self) -> Option<PeerClient<Channel>> {
        let client = PeerClient::new(self.channel.clone()?);
        let bytes_max = limits::peer_message_bytes_max;
        Some(client.max_decoding_message_size(bytes_max).max_encoding_message_size(bytes_max))
    }
}

impl Directory {
    /// Follows the key until shutdown.
    pub fn follow(config: DirectoryConfig) -> Self {
        let (told, owner) = watch::channel(None);
        let (partition, tasks) = (config.partition.clone(), config.tasks.clone());
        let node = Arc::clone(&config.node);
        let name = format!("owner of {partition}");
        tasks.spawn(Kind::Housekeeping, name, async move {
            let shutdown = config.tasks.shutdown_token();
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = look(&config, &told) => {}
            }
        });
        Self { partition, node, tasks, owner }
    }

    /// Another node that owns the partition, if one does.
    pub(super) fn owner(&self) -> Option<Owner> {
        self.owner.borrow().clone()
    }

    /// Each owner from the present one on.
    pub(super) fn owners(&self) -> watch::Receiver<Option<Owner>> {
        self.owner.clone()
    }

    /// Waits until that node is not the owner any more.
    pub(super) async fn gone(&self, former: &Holder) {
        let mut owner = self.owner.clone();
        let is_another = |now: &Option<Owner>| now.as_ref().is_none_or(|now| now.holder != *former);
        if owner.wait_for(is_another).await.is_err() {
            // Nobody follows it any more: the hub is going down, and what is under way may come to its end.
            std::future::pending::<()>().await;
        }
    }
}

async fn look(config: &DirectoryConfig, told: &watch::Sender<Option<Owner>>) {
    let key = owners::key(&config.partition);
    let mut looks = every(LOOK_EVERY);
    loop {
        looks.tick().await;
        // While the store does not answer, who owned it last does so until its lease is over.
        let Ok(entry) = config.store.get(&key).await else { continue };
        let holder = entry.and_then(|entry| Holder::decode(&entry.value).ok());
        let holder = holder.filter(|holder| holder.node != config.node);
        told.send_if_modified(|known| {
            let is_same = known.as_ref().map(|owner| &owner.holder) == holder.as_ref();
            if !is_same {
                *known = holder.map(Owner::new);
            }
            !is_same
        });
    }
}
