//! Connections to the server.
//!
//! Owns how the hub says who it is, and how long a connection lasts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Auth, AuthError, Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use nkeys::KeyPair;
use tokio::sync::watch;

use super::Trouble;
use super::stream::unanswered;

/// How often the server is asked whether it is still there; after two questions without answer the connection is
/// over.
const PING: Duration = Duration::from_secs(5);
/// For a connection, and for an answer.
const ANSWER: Duration = Duration::from_secs(5);

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

/// A connection, for as long as it lasts. It is never made anew: what has been handed to the driver and not to the
/// server when it is gone would be sent on the next one, to a stream that nobody has looked at.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// Turns true when it is gone.
    pub(super) gone: watch::Receiver<bool>,
}

/// Connects.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Connection, Trouble> {
    let wrong = |why: String| Trouble::Misconfigured(format!("NATS: {why}"));
    let identity = Arc::new(Identity::read(&endpoint.login).await.map_err(wrong)?);
    // The driver knows only how to connect again and again: from the second time on it has nobody to be.
    let is_used = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&is_used);
    let addresses: Vec<&str> = endpoint.url.split(',').map(str::trim).collect();
    let (ended, gone) = watch::channel(false);
    let mut options = ConnectOptions::with_auth_callback(move |nonce| {
        let (identity, is_over) = (Arc::clone(&identity), Arc::clone(&is_over));
        async move {
            if is_over.load(Ordering::Relaxed) {
                return Err(AuthError::new("the connection is over"));
            }
            identity.sign(&nonce)
        }
    });
    options = options
        .name("streamer")
        .ping_interval(PING)
        .connection_timeout(ANSWER)
        .request_timeout(Some(ANSWER))
        .max_reconnects(addresses.len())
        .ignore_discovered_servers()
        .reconnect_delay_callback(|_| Duration::ZERO)
        .event_callback(move |event| {
            match &event {
                Event::Connected | Event::Draining => {}
                Event::Disconnected | Event::Closed => {
                    // Told once; nobody may be there any more.
                    let _ = ended.send(true);
                }
                other => tracing::debug!(event = %other, "NATS"),
            }
            async {}
        });
    if let Some(file) = &endpoint.ca_file {
        options = options.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &endpoint.certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    let client = options.connect(addresses).await.map_err(|error| refused(&error))?;
    is_used.store(true, Ordering::Relaxed);
    Ok(Connection { client, gone })
}

fn refused(error: &ConnectError) -> Trouble {
    match error.kind() {
        ConnectErrorKind::ServerParse | ConnectErrorKind::Tls => Trouble::Misconfigured(format!("NATS: {error}")),
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            Trouble::Misconfigured(format!("the NATS server does not let the hub in: {error}"))
        }
        _ => unanswered(error),
    }
}

/// What the server is shown.
enum Identity {
    Nobody,
    User { name: String, password: String },
    Token(String),
    Key { jwt: Option<String>, key: Box<KeyPair> },
}

impl Identity {
    /// A file is read for each connection: it may have been renewed.
    async fn read(login: &Login) -> Result<Self, String> {
        let key = |seed: &str| match KeyPair::from_seed(seed) {
            Ok(key) => Ok(Box::new(key)),
            Err(error) => Err(format!("this is no seed of an NKey: {error}")),
        };
        Ok(match login {
            Login::Nobody => Self::Nobody,
            Login::User { name, password } => Self::User { name: name.clone(), password: password.clone() },
            Login::Token(token) => Self::Token(token.clone()),
            Login::NKey(seed) => Self::Key { jwt: None, key: key(seed)? },
            Login::Credentials(file) => {
                let path = file.display();
                let text = tokio::fs::read_to_string(file).await;
                let text = text.map_err(|error| format!("{path} cannot be read: {error}"))?;
                let (jwt, seed) = (section(&text, "USER JWT"), section(&text, "NKEY SEED"));
                let (Some(jwt), Some(seed)) = (jwt, seed) else {
                    return Err(format!("{path} has no user JWT and NKey seed"));
                };
                Self::Key { jwt: Some(jwt.to_owned()), key: key(seed)? }
            }
        })
    }

    fn sign(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        match self {
            Self::Nobody => {}
            Self::User { name, password } => {
                (auth.username, auth.password) = (Some(name.clone()), Some(password.clone()));
            }
            Self::Token(token) => auth.token = Some(token.clone()),
            Self::Key { jwt, key } => {
                auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
                // A JWT names the key itself.
                auth.nkey = jwt.is_none().then(|| key.public_key());
                auth.jwt.clone_from(jwt);
            }
        }
        Ok(auth)
    }
}

/// The line after the one that begins a section of a credentials file.
fn section<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.find(|line| line.starts_with("-----BEGIN") && line.contains(name))?;
    lines.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_credentials_file_is_read_and_nonsense_is_refused_without_a_secret_in_the_words() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hub.creds");
        let key = KeyPair::new_user();
        let seed = key.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\nabc.def\n------END NATS USER JWT------\n\n*** keep secret ***\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&file, text).unwrap();
        let auth = Identity::read(&Login::Credentials(file.clone())).await.unwrap().sign(b"nonce").unwrap();
        assert_eq!((auth.jwt.as_deref(), auth.nkey), (Some("abc.def"), None));
        key.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        std::fs::write(&file, "-----BEGIN NATS USER JWT-----\nabc.def\n").unwrap();
        assert!(
            Identity::read(&Login::Credentials(file)).await.err().unwrap().ends_with("has no user JWT and NKey seed")
        );
        let refused = Identity::read(&Login::NKey("SUSECRET".into())).await.err().unwrap();
        assert!(refused.starts_with("this is no seed") && !refused.contains("SECRET"), "{refused}");
    }
}
