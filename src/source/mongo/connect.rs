//! Connecting, and telling plainly why it cannot be done.
//!
//! Owns the client's options and the first words with a server.

use std::time::Duration;

use bson::{Document, doc};
use futures::future::join_all;
use mongodb::Client;
use mongodb::options::{ClientOptions, ServerAddress};

use super::MongoConfig;
use super::errors::{Failure, describe};
use crate::source::SourceError;

/// Connections at most. A reading keeps one busy and now and then uses another; the driver's own
/// limit of ten would make readings wait for each other.
const POOL_CONNECTIONS_MAX: u32 = 256;

/// How long one host is given to say what it is, once the deployment as a whole cannot be reached.
const PROBE: Duration = Duration::from_secs(2);

/// Why a server's stream cannot be read, whoever asks for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It stands before a sharded cluster.
    #[error("the MongoDB server is a mongos: sharded clusters are not supported; connect to a replica set")]
    Mongos,
    /// Its replica set does not know its members yet.
    #[error("the MongoDB replica set has not been initiated: run rs.initiate() once")]
    NotInitiated,
    /// It stands alone.
    #[error(
        "the MongoDB server is no member of a replica set, so it has no change stream: start mongod with --replSet \
         and run rs.initiate() once"
    )]
    Standalone,
    /// It belongs to another one.
    #[error("the MongoDB replica set is named \"{name}\", the connection string says \"{wanted}\"")]
    OtherName {
        /// Its name.
        name: String,
        /// What the connection string says.
        wanted: String,
    },
}

/// Why there is no client.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    /// The server is one that cannot be read.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] SourceError),
}

impl From<Refused> for SourceError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unfit(unfit) => Self::Misconfigured(unfit.to_string()),
            Refused::Other(error) => error,
        }
    }
}

/// A client of a deployment whose change stream can be read. `wait_max` bounds how long a primary is waited for,
/// whatever the connection string says.
pub(super) async fn connect(config: &MongoConfig, wait_max: Option<Duration>) -> Result<Client, Refused> {
    let bad = |text: &str| SourceError::Misconfigured(format!("the MongoDB connection string cannot be used: {text}"));
    let mut options = ClientOptions::parse(&config.uri).await.map_err(|error| bad(&describe(&error)))?;
    options.max_pool_size = Some(options.max_pool_size.unwrap_or_default().max(POOL_CONNECTIONS_MAX));
    let wait = options.server_selection_timeout.get_or_insert(config.server_selection_timeout);
    *wait = (*wait).min(wait_max.unwrap_or(Duration::MAX));
    options.app_name.get_or_insert_with(|| "streamer".into());
    let client = Client::with_options(options.clone()).map_err(|error| bad(&describe(&error)))?;
    match client.database("admin").run_command(doc! { "hello": 1 }).await {
        Ok(hello) => refuse(&hello, options.repl_set_name.as_deref()).map_or(Ok(client), |unfit| Err(unfit.into())),
        Err(error) => match Failure::of(&error) {
            Failure::Cut(_) | Failure::Passing(_) => Err(diagnose(&options).await),
            failure => Err(failure.into_source_error().into()),
        },
    }
}

/// Why a server that answers like this cannot be used, if so.
fn refuse(hello: &Document, wanted: Option<&str>) -> Option<Unfit> {
    if hello.get_str("msg").ok() == Some("isdbgrid") {
        return Some(Unfit::Mongos);
    }
    match (hello.get_str("setName"), wanted) {
        (Err(_), _) if hello.get_bool("isreplicaset").ok() == Some(true) => Some(Unfit::NotInitiated),
        (Err(_), _) => Some(Unfit::Standalone),
        (Ok(name), Some(wanted)) if name != wanted => {
            Some(Unfit::OtherName { name: name.to_owned(), wanted: wanted.to_owned() })
        }
        (Ok(_), _) => None,
    }
}

/// Asks each host by itself what it is.
async fn diagnose(options: &ClientOptions) -> Refused {
    let mut answered = None;
    let told = join_all(options.hosts.iter().map(|host| probe(options, host))).await;
    for (host, hello) in options.hosts.iter().zip(told) {
        let Some(hello) = hello else { continue };
        if let Some(unfit) = refuse(&hello, options.repl_set_name.as_deref()) {
            return unfit.into();
        }
        answered = Some(host);
    }
    let text = match answered {
        Some(host) => format!("MongoDB at {host} answers, but its replica set has no primary now"),
        None => {
            let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
            format!("no MongoDB server answers at {}", hosts.join(", "))
        }
    };
    SourceError::Unavailable(text).into()
}

async fn probe(options: &ClientOptions, host: &ServerAddress) -> Option<Document> {
    let mut options = options.clone();
    options.hosts = vec![host.clone()];
    options.repl_set_name = None;
    options.direct_connection = Some(true);
    options.server_selection_timeout = Some(PROBE);
    options.connect_timeout = Some(PROBE);
    let client = Client::with_options(options).ok()?;
    client.database("admin").run_command(doc! { "hello": 1 }).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_said_with_what_to_do() {
        let says = |hello: Document, wanted| refuse(&hello, wanted).map(|unfit| unfit.to_string()).unwrap_or_default();
        assert!(says(doc! { "msg": "isdbgrid" }, None).contains("mongos"));
        assert!(says(doc! { "isWritablePrimary": true }, None).contains("--replSet"));
        assert!(says(doc! { "isreplicaset": true }, None).contains("rs.initiate()"));
        assert!(says(doc! { "setName": "rs1" }, Some("rs0")).contains("\"rs1\""));
        assert_eq!(says(doc! { "setName": "rs0" }, Some("rs0")), "");
        assert_eq!(says(doc! { "setName": "rs0" }, None), "");
    }
}
