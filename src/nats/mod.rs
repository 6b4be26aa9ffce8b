//! NATS JetStream: the server, and the stream that deliveries go through.
//!
//! Owns the driver. Knows nothing of sessions: what is published, and when, is `delivery::nats`' to say.

mod connect;
mod consume;
mod stream;
pub mod subject;

pub use connect::{Endpoint, Login};
pub use consume::{Consumer, Delivered, Taken};
pub use stream::{Flaw, Found, Kept, Message, Server, State, Stored, StreamConfig};

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The stream holds as much as it may, in all or of this subject: what it has must be taken first.
    #[error("the stream is full: {0}")]
    Full(String),
    /// There is no such stream any more.
    #[error("there is no stream for this subject")]
    NoStream,
    /// A message is larger than the server takes.
    #[error("the server takes no message of that size")]
    TooLarge,
    /// Nobody can say whether it was done.
    #[error("NATS does not answer: {0}")]
    Unanswered(String),
    /// Only an operator can help.
    #[error("{0}")]
    Misconfigured(String),
}
