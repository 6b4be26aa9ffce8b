//! Where the configuration's servers are, in their drivers' terms.
//!
//! Owns the translation, so that whoever looks at a server before the hub does looks at the same one.

use crate::config::{Nats, Store};
use crate::nats::{Endpoint, Login, StreamConfig};
use crate::store::etcd::EtcdConfig;

/// The etcd of the store.
pub(crate) fn etcd_config(store: &Store) -> EtcdConfig {
    EtcdConfig {
        endpoints: store.endpoints.clone(),
        prefix: store.prefix.clone(),
        lease_seconds: u64::from(store.lease_seconds),
    }
}

/// The NATS server, and what the stream there is.
pub(crate) fn nats_config(nats: &Nats) -> (Endpoint, StreamConfig) {
    let nats = nats.clone();
    let login = match (nats.user, nats.password, nats.token, nats.nkey, nats.credentials) {
        (Some(name), Some(password), ..) => Login::User { name, password },
        (.., Some(token), _, _) => Login::Token(token),
        (.., Some(seed), _) => Login::NKey(seed),
        (.., Some(file)) => Login::Credentials(file),
        _ => Login::Nobody,
    };
    let endpoint = Endpoint { url: nats.url, login, ca_file: nats.ca, certificate: nats.certificate.zip(nats.key) };
    let stream =
        StreamConfig { name: nats.stream, subject_messages_max: nats.subject_messages, replicas: nats.replicas };
    (endpoint, stream)
}
