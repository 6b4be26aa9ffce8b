//! Who owns a partition, as the store says.
//!
//! Owns the following of the ownership keys, and the connections to the nodes that they name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::clock::every;
use crate::limits;
use crate::position::PartitionId;
use crate::proto::peer::peer_client::PeerClient;
use crate::store::owners::{self, Holder};
use crate::store::{Key, Store};
use crate::tasks::{Kind, Tasks};

/// How often the keys are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A node that is frozen, or behind a cut link, is given up after both.
const PING_EVERY: Duration = Duration::from_secs(3);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 flow control: a backlog must not wait for window updates.
const WINDOW_BYTES: u32 = 16 << 20;

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
    dial: Dial,
}

/// How other nodes are called: encrypted where they say so, with this node's token.
#[derive(Clone, Debug)]
pub struct Dial {
    authorization: Option<MetadataValue<Ascii>>,
    tls: ClientTlsConfig,
}

impl Dial {
    /// With this token, trusting these certificates or else those that the system does. `None`: that is no token.
    pub fn new(token: Option<&str>, ca: Option<Vec<u8>>) -> Option<Self> {
        let authorization = token.map(|token| MetadataValue::try_from(format!("Bearer {token}"))).transpose().ok()?;
        let tls = match ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        Some(Self { authorization, tls })
    }

    fn endpoint(&self, address: &str) -> Option<Endpoint> {
        if address.starts_with("https://") {
            return Endpoint::from_shared(address.to_owned()).ok()?.tls_config(self.tls.clone()).ok();
        }
        Endpoint::from_shared(format!("http://{address}")).ok()
    }
}

impl Interceptor for Dial {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

impl Owner {
    fn new(holder: Holder, dial: &Dial) -> Self {
        let channel = holder.address.as_deref().and_then(|address| dial.endpoint(address)).map(|endpoint| {
            endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_TIMEOUT)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES)
                .tcp_nodelay(true)
                .connect_lazy()
        });
        Self { holder, channel, dial: dial.clone() }
    }

    pub(super) fn client(&self) -> Option<PeerClient<InterceptedService<Channel, Dial>>> {
        let client = PeerClient::with_interceptor(self.channel.clone()?, self.dial.clone());
        let bytes_max = limits::peer_message_bytes_max;
        Some(client.max_decoding_message_size(bytes_max).max_encoding_message_size(bytes_max))
    }
}

impl Directory {
    /// Follows these partitions' keys until shutdown: one of it for each.
    pub fn follow(
        partitions: &[PartitionId],
        node: &Arc<str>,
        dial: &Dial,
        store: Arc<dyn Store>,
        tasks: &Tasks,
    ) -> Vec<Self> {
        let mut told = HashMap::new();
        let directory = |partition: &PartitionId| {
            let (sender, owner) = watch::channel(None);
            told.insert(owners::key(partition), sender);
            Self { partition: partition.clone(), node: Arc::clone(node), tasks: tasks.clone(), owner }
        };
        let directories = partitions.iter().map(directory).collect();
        let (node, dial, shutdown) = (Arc::clone(node), dial.clone(), tasks.shutdown_token());
        tasks.spawn(Kind::Housekeeping, "owners", async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = look(store.as_ref(), &node, &dial, &told) => {}
            }
        });
        directories
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

type Told = HashMap<Key, watch::Sender<Option<Owner>>>;

async fn look(store: &dyn Store, node: &Arc<str>, dial: &Dial, told: &Told) {
    let mut looks = every(LOOK_EVERY);
    loop {
        looks.tick().await;
        // While the store does not answer, who owned them last does so until its lease is over.
        let Ok((entries, _)) = store.scan(owners::OWNERS).await else { continue };
        let mut holders: HashMap<Key, Holder> = HashMap::new();
        for entry in entries {
            if let Ok(holder) = Holder::decode(&entry.value) {
                holders.insert(entry.key, holder);
            }
        }
        for (key, told) in told {
            let holder = holders.remove(key).filter(|holder| holder.node != *node);
            told.send_if_modified(|known| {
                let is_same = known.as_ref().map(|owner| &owner.holder) == holder.as_ref();
                if !is_same {
                    *known = holder.map(|holder| Owner::new(holder, dial));
                }
                !is_same
            });
        }
    }
}
