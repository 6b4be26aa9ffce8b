//! Connections to the server.
//!
//! Owns how the hub says who it is, and how it comes back after the connection is gone. A server that is not there
//! holds nothing up: the connection is made when it is.

use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::watch;

use super::Trouble;

/// How often the server is asked whether it is still there; after two questions without answer the connection is
/// made anew.
const PING: Duration = Duration::from_secs(5);
/// For a connection, and for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Between one attempt to connect and the next, at most.
const RETRY_MAX: Duration = Duration::from_secs(2);
const RETRY_MIN: Duration = Duration::from_millis(50);

/// Who the hub is to the server.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Login {
    /// Nobody in particular.
    #[default]
    Nobody,
    /// By name and password.
    User {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// By a token.
    Token(String),
    /// By the seed of an NKey.
    NKey(String),
    /// By a file with a JWT and the seed of its NKey.
    Credentials(PathBuf),
}

impl std::fmt::Debug for Login {
    /// Without secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nobody => "nobody",
            Self::User { .. } => "by user and password",
            Self::Token(_) => "by token",
            Self::NKey(_) => "by NKey",
            Self::Credentials(_) => "by credentials",
        })
    }
}

/// Where the server is, and how it is spoken to.
#[derive(Clone, Default)]
pub struct Endpoint {
    /// One address or several, separated by commas: `nats://…`, or `tls://…` for an encrypted connection.
    pub url: String,
    /// Who the hub is.
    pub login: Login,
    /// Certificates that the server's may be signed by, beside those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The hub's own certificate and key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl std::fmt::Debug for Endpoint {
    /// Without the address, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("login", &self.login).finish_non_exhaustive()
    }
}

/// A connection, and how often it has been made.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// Counts how often the connection has been made or lost.
    pub(super) changes: watch::Receiver<u64>,
}

/// Connects, or goes on trying in the background.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Connection, Trouble> {
    let wrong = |why: String| Trouble::Misconfigured(format!("NATS: {why}"));
    let (changed, changes) = watch::channel(0);
    let mut options = ConnectOptions::new()
        .name("streamer")
        .retry_on_initial_connect()
        .ping_interval(PING)
        .connection_timeout(ANSWER)
        .request_timeout(Some(ANSWER))
        .reconnect_delay_callback(|attempts| {
            RETRY_MIN.saturating_mul(1 << u32::try_from(attempts).unwrap_or(u32::MAX).min(8)).min(RETRY_MAX)
        })
        .event_callback(move |event| {
            match &event {
                Event::Connected => tracing::info!("connected to NATS"),
                Event::Disconnected => tracing::warn!("the connection to NATS is gone"),
                other => tracing::warn!(event = %other, "NATS"),
            }
            if matches!(event, Event::Connected | Event::Disconnected) {
                changed.send_modify(|count| *count += 1);
            }
            async {}
        });
    options = match &endpoint.login {
        Login::Nobody => options,
        Login::User { name, password } => options.user_and_password(name.clone(), password.clone()),
        Login::Token(token) => options.token(token.clone()),
        Login::NKey(seed) => options.nkey(seed.clone()),
        Login::Credentials(file) => {
            let unreadable = |error| wrong(format!("{} cannot be used: {error}", file.display()));
            options.credentials_file(file).await.map_err(unreadable)?
        }
    };
    if let Some(file) = &endpoint.ca_file {
        options = options.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &endpoint.certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    let addresses: Vec<&str> = endpoint.url.split(',').map(str::trim).collect();
    let client = options.connect(addresses).await.map_err(|error| wrong(error.to_string()))?;
    Ok(Connection { client, changes })
}
