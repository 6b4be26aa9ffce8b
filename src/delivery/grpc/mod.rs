//! gRPC: the services of `proto/streamer/v1/streamer.proto`, with health and reflection, and what other nodes ask.
//!
//! Owns the server and its settings. Knows nothing of how the hub answers.

mod admit;
mod consume;
mod ingest;
mod messages;
mod registry;
mod status;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use self::admit::admit;
use crate::access::{Caller, Door, Tls};
use crate::edge::HubHandle;
use crate::error::Problem;
use crate::handle::SubscriptionView;
use crate::limits;
use crate::peer::Answers;
use crate::proto;
use crate::proto::delivery_server::DeliveryServer;
use crate::proto::ingest_server::IngestServer;
use crate::proto::peer::peer_server::PeerServer;
use crate::proto::registry_server::RegistryServer;
use crate::subscription::Spec;
use crate::tasks::Tasks;

/// Publishes events, given as over HTTP, and answers their positions once they are on disk.
pub type Publish = Arc<dyn Fn(Vec<Value>) -> BoxFuture<'static, Result<Vec<String>, Problem>> + Send + Sync>;

/// The JSON of subscriptions, as over HTTP: `Registry` speaks it too.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionTexts {
    /// Reads and validates what a gateway asks for.
    pub read: fn(&Value) -> Result<Spec, Problem>,
    /// Writes what is answered.
    pub write: fn(&SubscriptionView) -> Value,
}

/// What the services are made of.
#[derive(Clone)]
pub struct Grpc {
    /// Whom they ask.
    pub hub: HubHandle,
    /// Where a session's reading runs.
    pub tasks: Tasks,
    /// How subscriptions are read and written.
    pub texts: SubscriptionTexts,
    /// Into the embedded log, where there is one.
    pub publish: Option<Publish>,
    /// For other nodes.
    pub peers: Option<Answers>,
    /// Who may call.
    pub door: Door,
    /// How connections are taken.
    pub tls: Tls,
}

/// A peer that is gone without a word is found out by pings.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the listener stays for the owner's last acks.
const LAST_ACKS: Duration = Duration::from_secs(2);

impl Grpc {
    /// Serves until `shutdown`, and then until the streams have ended, which the hub sees to.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<DeliveryServer<consume::Deliveries>>().await;
        health.set_serving::<RegistryServer<registry::Registrations>>().await;
        if self.publish.is_some() {
            health.set_serving::<IngestServer<ingest::Publisher>>().await;
        }
        let of_ending = self.hub.clone();
        let ending = async move {
            shutdown.await;
            // Other nodes' gateways have last acks, too.
            let _ = tokio::time::timeout(LAST_ACKS, of_ending.disowned()).await;
            health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
            health.set_not_serving::<DeliveryServer<consume::Deliveries>>().await;
            health.set_not_serving::<RegistryServer<registry::Registrations>>().await;
            health.set_not_serving::<IngestServer<ingest::Publisher>>().await;
        };

        let incoming = admit::incoming(listener, self.tls, &self.tasks);
        let deliveries = consume::Deliveries { hub: self.hub.clone(), tasks: self.tasks };
        let registrations = registry::Registrations { hub: self.hub, texts: self.texts };
        let publisher = ingest::Publisher { publish: self.publish };
        let door = self.door;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        Server::builder()
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .add_service(InterceptedService::new(
                DeliveryServer::new(deliveries).max_decoding_message_size(limits::grpc_consume_request_bytes_max),
                admit(&door, Caller::client),
            ))
            .add_service(InterceptedService::new(
                RegistryServer::new(registrations).max_decoding_message_size(limits::batch_body_bytes_max),
                admit(&door, Caller::client),
            ))
            .add_service(InterceptedService::new(
                IngestServer::new(publisher).max_decoding_message_size(limits::batch_body_bytes_max),
                admit(&door, Caller::operator),
            ))
            .add_optional_service(self.peers.map(|answers| {
                let bytes_max = limits::peer_message_bytes_max;
                let peer =
                    PeerServer::new(answers).max_decoding_message_size(bytes_max).max_encoding_message_size(bytes_max);
                InterceptedService::new(peer, admit(&door, Caller::node))
            }))
            .add_service(health_service)
            .add_service(InterceptedService::new(
                reflection().build_v1().expect("the descriptors were compiled with this program"),
                admit(&door, Caller::known),
            ))
            .add_service(InterceptedService::new(
                reflection().build_v1alpha().expect("the descriptors were compiled with this program"),
                admit(&door, Caller::known),
            ))
            .serve_with_incoming_shutdown(incoming, ending)
            .await
    }
}

impl std::fmt::Debug for Grpc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grpc").field("publish", &self.publish.is_some()).finish_non_exhaustive()
    }
}
