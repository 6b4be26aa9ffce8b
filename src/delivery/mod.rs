//! Delivery: from a matched change to a gateway and back to an ack.
//!
//! Owns sessions, outboxes, catch-ups and the transports that carry them. Knows nothing of how changes
//! are read or matched.

pub mod body;
mod budget;
pub mod ejson;
pub mod frame;
pub mod grpc;
pub mod json;
mod latency;
pub mod machine;
pub mod nats;
pub mod outbox;
mod projection;
pub mod receipt;
pub mod session;
pub mod sse;
#[cfg(test)]
pub(crate) mod testing;
mod window;
