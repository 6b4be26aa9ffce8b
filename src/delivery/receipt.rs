//! What is known of a delivery: accepted by the connection, or durable with the gateway.
//!
//! Owns the difference between the two (`docs/delivery.md`): only a [`Durable`] can be told to the
//! hub as an ack. Knows nothing of transports.

use crate::cursor::CursorText;
use crate::edge::HubHandle;
use crate::error::Problem;
use crate::subscription::GatewayId;

/// Everything up to this cursor has been handed to the connection. Whether it arrived is not known.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Accepted(CursorText);

/// Everything up to this cursor counts as the gateway's own.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Durable(CursorText);

impl Accepted {
    /// The connection has taken what this cursor covers.
    pub fn by_connection(cursor: CursorText) -> Self {
        Self(cursor)
    }

    /// For gateways that asked for it (`?ack=auto`), what the connection took counts as durable.
    pub fn counts_as_durable(self) -> Durable {
        Durable(self.0)
    }
}

impl Durable {
    /// The gateway itself has acked.
    pub fn said_by_gateway(cursor: CursorText) -> Self {
        Self(cursor)
    }

    /// Tells the hub.
    pub async fn ack(self, hub: &HubHandle, gateway: &GatewayId) -> Result<(), Problem> {
        hub.ack(gateway.clone(), self.0).await
    }
}
