//! What can go wrong for good.
//!
//! Owns the errors that end a client, and those of registration calls. What passes by itself is no
//! error but a [`Disconnected`](super::Disconnected).

use std::fmt;

use serde::Deserialize;

use crate::error::Code;

/// What ends a client: reconnecting would not help.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The endpoint is no address.
    #[error("`{endpoint}` is no gRPC address: {reason}")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The hub will not serve this gateway, however often it is asked.
    #[error("the hub refuses: {0}")]
    Refused(Rejection),
    /// The hub said something that the contract does not know.
    #[error("the hub breaks the contract: {0}")]
    Contract(String),
}

/// What goes wrong with a registration call.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The address is none.
    #[error("`{0}` is no HTTP address")]
    Address(String),
    /// The token or the certificates are none.
    #[error("{0}")]
    Credentials(String),
    /// Nobody answered. Whether the call took effect is unknown: repeat it, all calls may be repeated.
    #[error("the hub at {address} cannot be reached: {reason}")]
    Unreachable {
        /// Whom.
        address: String,
        /// Why, in one line.
        reason: String,
    },
    /// The hub said no, and why.
    #[error("{0}")]
    Refused(Rejection),
    /// Somebody answered who is no hub.
    #[error("{address} answered status {status}, and not as a hub does")]
    Unexpected {
        /// Who.
        address: String,
        /// With what.
        status: u16,
    },
}

/// The cause at the bottom says the most: "connection refused", not "transport error".
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// A problem document (RFC 9457), as the hub answers it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Rejection {
    /// The stable code, such as `INVALID_FILTER`.
    pub code: String,
    /// The HTTP status that goes with it.
    #[serde(default)]
    pub status: u16,
    /// One sentence.
    #[serde(default)]
    pub detail: String,
    /// The field at fault, such as `filters[2].op`.
    #[serde(default)]
    pub field: Option<String>,
    /// When to try again, where that makes sense.
    #[serde(skip)]
    pub retry_after_seconds: Option<u64>,
}

impl Rejection {
    /// Whether it is this one.
    pub fn is(&self, code: Code) -> bool {
        self.code == code.name()
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)?;
        match &self.field {
            Some(field) => write!(f, " (at {field})"),
            None => Ok(()),
        }
    }
}
