//! One session, by whichever transport.
//!
//! Owns the choice. What differs between the transports is theirs (`grpc`, `jetstream`).

use std::time::Duration;

use super::config::ClientConfig;
use super::error::Error;
use super::{grpc, jetstream};
use crate::proto::ConsumeResponse;
use crate::tasks::Tasks;

/// Why there is no session, or no longer.
#[derive(Debug)]
pub(super) enum Ended {
    /// Try again; the hub may have said when.
    Retry { reason: String, after: Option<Duration> },
    /// Trying again would not help.
    Refused(Error),
}

/// How sessions are made.
pub(super) enum Route {
    Grpc(grpc::Nodes),
    Nats(Box<jetstream::Route>),
}

/// A session that has begun.
pub(super) enum Connection {
    Grpc(Box<grpc::Connection>),
    Nats(Box<jetstream::Connection>),
}

impl Route {
    /// The addresses, checked.
    pub(super) fn new(config: &ClientConfig, tasks: &Tasks) -> Result<Self, Error> {
        match &config.nats {
            None => Ok(Self::Grpc(grpc::Nodes::new(config)?)),
            Some(nats) => Ok(Self::Nats(Box::new(jetstream::Route::new(
                nats,
                &config.gateway_id,
                &config.credentials,
                tasks.clone(),
            )?))),
        }
    }
}

impl Connection {
    /// Resumes from `cursor`, where the transport keeps no place of its own.
    pub(super) async fn open(route: &Route, config: &ClientConfig, cursor: Option<String>) -> Result<Self, Ended> {
        Ok(match route {
            Route::Grpc(nodes) => Self::Grpc(Box::new(grpc::Connection::open(nodes.next(), config, cursor).await?)),
            Route::Nats(route) => Self::Nats(Box::new(jetstream::Connection::open(route, config).await?)),
        })
    }

    /// The next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<ConsumeResponse, Ended> {
        match self {
            Self::Grpc(connection) => connection.next().await,
            Self::Nats(connection) => connection.next().await,
        }
    }

    /// Whether it could be said at once.
    pub(super) fn ack(&mut self, cursor: String) -> bool {
        match self {
            Self::Grpc(connection) => connection.ack(cursor),
            Self::Nats(connection) => connection.ack(&cursor),
        }
    }

    /// Whether acks renew the leases.
    pub(super) fn acks_renew(&self) -> bool {
        matches!(self, Self::Grpc(_))
    }

    pub(super) fn heartbeat(&self) {
        match self {
            Self::Grpc(connection) => connection.heartbeat(),
            Self::Nats(connection) => connection.heartbeat(),
        }
    }

    /// Ends it when what was said is out.
    pub(super) async fn close(self) {
        match self {
            Self::Grpc(connection) => connection.close().await,
            Self::Nats(connection) => connection.close().await,
        }
    }
}
