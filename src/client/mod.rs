//! The client library: a gateway's side of a delivery session.
//!
//! [`Client`] keeps one gateway connected over gRPC and hands over what its subscriptions match:
//! each change at least once, and once only behind the table of last positions that it keeps. It
//! reconnects by itself, from the last cursor that the application has acked. [`Registration`] makes
//! and renews subscriptions over HTTP.
//!
//! Owns the rules that a gateway must keep (`docs/client.md`). Knows nothing of how a hub works; of
//! the wire it knows what the contract says.
//!
//! ```no_run
//! use futures::StreamExt;
//! use streamer::client::{Client, ClientConfig, Item, Registration, State, Subscription};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let hub = Registration::new("http://127.0.0.1:7700")?;
//! hub.register(&Subscription::new("gw-1", "inbox-42", "acme", "messages").filter("chatId", "==", "c1")).await?;
//!
//! let config = ClientConfig::new("http://127.0.0.1:7701", "gw-1");
//! let mut client = Client::connect(config, State::default())?;
//! while let Some(item) = client.next().await {
//!     if let Item::Change(change) = item? {
//!         // Take it, and store what came of it together with `client.state()`. Then:
//!         client.ack(&change.cursor);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod backoff;
mod config;
mod connection;
mod credentials;
mod error;
mod grpc;
mod item;
mod jetstream;
mod keeper;
mod ledger;
mod registration;
mod runner;
mod seq;
mod state;
mod stream;
mod subscription;
mod wire;

#[cfg(test)]
mod simulation;

pub use backoff::Backoff;
pub use config::{BodyFormat, ClientConfig, NatsConfig};
pub use credentials::Credentials;
pub(crate) use error::innermost;
pub use error::{Error, RegistrationError, Rejection};
pub use item::{Body, Change, Closed, Cursor, Disconnected, Expired, Item, Match, Progress, Resync, Welcome};
pub use registration::{Registered, Registration, Renewal};
pub use state::State;
pub use stream::Client;
pub use subscription::{Filter, Subscription};
