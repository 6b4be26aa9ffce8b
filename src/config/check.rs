//! What must hold between settings, beyond their types.
//!
//! Owns the rules; each failure names the setting at fault. Opens nothing and connects nowhere.

use std::net::SocketAddr;

use super::layout::{Layout, Place};
use super::{Backend, Backends, Config, Nats, Store, StoreKind};
use crate::limits;
use crate::observe::log;
use crate::subscription::Name;

/// A rule that is broken: the setting's path and one sentence.
pub(super) type Broken = (String, String);

pub(super) fn check(config: &Config) -> Result<(), Broken> {
    name("node.id", &config.node.id)?;
    access(config)?;
    listener("http.listen", config.http.listen, config.auth.tokens.is_some())?;
    listener("grpc.listen", config.grpc.listen, config.auth.tokens.is_some())?;
    if config.http.listen == config.grpc.listen && config.http.listen.port() != 0 {
        return broken("grpc.listen", "is the same address as http.listen");
    }
    store(&config.store)?;
    backends(&config.backends)?;
    nats(&config.nats)?;
    let positive = [
        ("quotas.gateway", u64::from(config.quotas.gateway)),
        ("quotas.tenant", u64::from(config.quotas.tenant)),
        ("quotas.global", u64::from(config.quotas.global)),
        ("window.bytes", config.window.bytes),
        ("sessions.outbox_bytes", config.sessions.outbox_bytes),
        ("sessions.park_seconds", config.sessions.park_seconds),
        ("sessions.member_grace_seconds", config.sessions.member_grace_seconds),
        ("sessions.max", u64::from(config.sessions.max)),
        ("shutdown.grace_seconds", config.shutdown.grace_seconds),
        ("embedded.retain_bytes", config.embedded.retain_bytes),
    ];
    for (setting, value) in positive {
        if value == 0 {
            return broken(setting, "must be at least 1");
        }
    }
    memory(config)?;
    if let Err(reason) = log::parse_filter(&config.log.filter) {
        return broken("log.filter", reason);
    }
    if let Some(endpoint) = &config.tracing.endpoint
        && !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme))
    {
        return broken("tracing.endpoint", "is not an address such as http://127.0.0.1:4317");
    }
    if !(0.0..=1.0).contains(&config.tracing.ratio) {
        return broken("tracing.ratio", "must be 0 to 1");
    }
    if config.embedded.path.as_os_str().is_empty() {
        return broken("embedded.path", "is empty");
    }
    Ok(())
}

fn memory(config: &Config) -> Result<(), Broken> {
    let (memory, window, outbox) = (config.memory.bytes, config.window.bytes, config.sessions.outbox_bytes);
    let partitions = config.backends.partition_count();
    if window > memory {
        return broken("window.bytes", format!("is more than memory.bytes ({memory}), which holds it"));
    }
    let shares = config.memory.shares(window, outbox, partitions);
    if shares.outboxes >= outbox && shares.window >= window.min(limits::window_bytes_least) {
        return Ok(());
    }
    let holds = "the window, one outbox (sessions.outbox_bytes) and two readings of the source";
    let rest = outbox + 2 * limits::reading_bytes_max;
    if partitions == 1 {
        return broken("memory.bytes", format!("must be at least {}, for {holds}", window + rest));
    }
    let least = partitions as u64 * (window.min(limits::window_bytes_least) + rest);
    broken("memory.bytes", format!("must be at least {least} for {partitions} partitions, each with {holds}"))
}

fn backends(backends: &Backends) -> Result<(), Broken> {
    if backends.0.is_empty() {
        return broken("backends", "at least one [[backends]] is needed");
    }
    for (index, one) in backends.0.iter().enumerate() {
        backend(index, one)?;
        if backends.0[..index].iter().any(|other| other.name == one.name) {
            return broken(format!("backends[{index}].name"), "is another backend's name, too");
        }
    }
    if backends.partition_count() > 1 && backends.catchups_max() == 0 {
        let count = backends.partition_count();
        let reason =
            format!("{count} partitions in all are more than a cursor has room for; use fewer, or shorter names");
        return broken("backends", reason);
    }
    Ok(())
}

fn nats(nats: &Nats) -> Result<(), Broken> {
    for address in nats.url.split(',').map(str::trim) {
        if !["nats://", "tls://"].iter().any(|scheme| address.len() > scheme.len() && address.starts_with(scheme)) {
            let address = address.rsplit('@').next().unwrap_or_default();
            return broken("nats.url", format!("{address:?} is not an address such as nats://127.0.0.1:4222"));
        }
    }
    if nats.url.contains('@') {
        return broken("nats.url", "says who the hub is; that goes into nats.user and nats.password, or nats.token");
    }
    for (index, pattern) in nats.gateways.iter().enumerate() {
        if pattern.is_empty() {
            return broken(format!("nats.gateways[{index}]"), "is empty; `*` stands for any characters, `?` for one");
        }
    }
    let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if nats.stream.is_empty() || nats.stream.len() > 32 || !nats.stream.chars().all(is_token) {
        return broken("nats.stream", "a stream's name has 1 to 32 characters of A-Z a-z 0-9 - _");
    }
    let bounds = [
        ("nats.subject_messages", nats.subject_messages, 10_000_000),
        ("nats.replicas", nats.replicas, 5),
        ("nats.connections", nats.connections, 64),
    ];
    for (setting, value, most) in bounds {
        if !(1..=most).contains(&value) {
            return broken(setting, format!("must be 1 to {most}"));
        }
    }
    let logins = [
        ("nats.user", nats.user.is_some()),
        ("nats.token", nats.token.is_some()),
        ("nats.nkey", nats.nkey.is_some()),
        ("nats.credentials", nats.credentials.is_some()),
    ];
    let mut given = logins.iter().filter(|(_, is_given)| *is_given);
    if let (Some((one, _)), Some((other, _))) = (given.next(), given.next()) {
        return broken(*other, format!("is given beside {one}; one of them says who the hub is"));
    }
    if nats.user.is_some() != nats.password.is_some() {
        return broken("nats.password", "nats.user and nats.password need each other");
    }
    if nats.certificate.is_some() != nats.key.is_some() {
        return broken("nats.key", "nats.certificate and nats.key need each other");
    }
    Ok(())
}

fn broken<T>(setting: impl Into<String>, reason: impl Into<String>) -> Result<T, Broken> {
    Err((setting.into(), reason.into()))
}

fn name(setting: &str, text: &str) -> Result<(), Broken> {
    Name::new(text).map(drop).or_else(|rule| broken(setting, rule.to_string()))
}

fn listener(setting: &str, address: SocketAddr, asks: bool) -> Result<(), Broken> {
    if asks || address.ip().is_loopback() {
        return Ok(());
    }
    broken(setting, format!("{address} is not a loopback address and needs authentication: name a file in auth.tokens"))
}

fn access(config: &Config) -> Result<(), Broken> {
    let (auth, tls) = (&config.auth, &config.tls);
    let files = [
        ("auth.tokens", &auth.tokens),
        ("tls.certificate", &tls.certificate),
        ("tls.key", &tls.key),
        ("tls.ca", &tls.ca),
    ];
    if let Some((setting, _)) = files.iter().find(|(_, file)| file.as_ref().is_some_and(|it| it.as_os_str().is_empty()))
    {
        return broken(*setting, "is empty; leave it out to do without");
    }
    if tls.certificate.is_some() != tls.key.is_some() {
        return broken("tls.key", "tls.certificate and tls.key need each other");
    }
    // Nodes that share a store ask one another.
    if auth.tokens.is_some() && config.store.kind == StoreKind::Etcd && auth.node_token.is_none() {
        return broken(
            "auth.node_token",
            "is needed beside auth.tokens where nodes share a store: a token of the role `node`",
        );
    }
    match &auth.node_token {
        Some(token) if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            broken("auth.node_token", "is no token; `streamer token --role node` makes one")
        }
        _ => Ok(()),
    }
}

fn store(store: &Store) -> Result<(), Broken> {
    match store.kind {
        StoreKind::Redb if store.path.as_os_str().is_empty() => broken("store.path", "is empty"),
        StoreKind::Redb => Ok(()),
        StoreKind::Etcd => {
            if store.endpoints.is_empty() {
                return broken("store.endpoints", "at least one address is needed");
            }
            for (index, endpoint) in store.endpoints.iter().enumerate() {
                if !["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
                    let reason = format!("{endpoint:?} is not an address such as http://127.0.0.1:2379");
                    return broken(format!("store.endpoints[{index}]"), reason);
                }
            }
            if !store.prefix.starts_with('/') || store.prefix.ends_with('/') {
                return broken("store.prefix", "must start with / and not end with it, as in /streamer");
            }
            if !(2..=3600).contains(&store.lease_seconds) {
                return broken("store.lease_seconds", "must be 2 to 3600");
            }
            Ok(())
        }
    }
}

fn backend(index: usize, backend: &Backend) -> Result<(), Broken> {
    let at = |field: &str| format!("backends[{index}].{field}");
    name(&at("name"), &backend.name)?;
    if !["mongodb://", "mongodb+srv://"].iter().any(|scheme| backend.uri.starts_with(scheme)) {
        return broken(at("uri"), "must start with mongodb:// or mongodb+srv://");
    }
    if !(1..=3600).contains(&backend.answer_seconds) {
        return broken(at("answer_seconds"), "must be 1 to 3600");
    }
    if backend.partitions == 0 {
        return broken(at("partitions"), "must be at least 1");
    }
    if let Some(index) = backend.tenants.iter().position(String::is_empty) {
        return broken(at(&format!("tenants[{index}]")), "is empty; `*` stands for any characters, `?` for one");
    }
    if backend.database.as_deref() == Some("") {
        return broken(at("database"), "is empty; leave it out to watch the whole deployment");
    }
    if let Some(index) = backend.collections.iter().position(String::is_empty) {
        return broken(at(&format!("collections[{index}]")), "is empty");
    }
    let Layout::Places(places) = &backend.layout else { return Ok(()) };
    let empty = |place: &Place| matches!(place, Place::Field(text) | Place::Constant(text) if text.is_empty());
    if empty(&places.tenant) {
        return broken(at("layout.tenant"), "is empty");
    }
    if places.collection.as_ref().is_some_and(empty) {
        return broken(at("layout.collection"), "is empty");
    }
    if places.body.as_deref() == Some("") {
        return broken(at("layout.body"), "is empty; leave it out for the whole document");
    }
    Ok(())
}
