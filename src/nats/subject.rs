//! Names on the server: subjects, headers, message ids.
//!
//! Owns how gateways and partitions are spelled in them. Knows nothing of connections.

use std::fmt::Write as _;

use crate::position::PartitionId;
use crate::subscription::GatewayId;

/// Above every subject of a gateway's deliveries.
pub const DELIVERIES: &str = "streamer.v1.deliver";
/// Above every subject of a gateway's progress.
const PROGRESS: &str = "streamer.v1.progress";

/// The header that says which message it is: `changes`, `resync`, …
pub const MESSAGE_HEADER: &str = "Streamer-Message";
/// The header with the cursor that acks the message and everything before it.
pub const CURSOR_HEADER: &str = "Streamer-Cursor";
/// The header of progress with the number of the last message in the stream that lies before it.
pub const SEQUENCE_HEADER: &str = "Streamer-Sequence";
/// The header with the cursor that the gateway had before the message.
pub const AFTER_HEADER: &str = "Streamer-After";

/// Where a partition's deliveries to a gateway go.
pub fn deliveries(gateway: &GatewayId, partition: &PartitionId) -> String {
    format!("{DELIVERIES}.{}.{}.{}", token(gateway.as_str()), token(partition.backend()), partition.number())
}

/// All deliveries to a gateway.
pub fn all_deliveries(gateway: &GatewayId) -> String {
    format!("{DELIVERIES}.{}.>", token(gateway.as_str()))
}

/// What a gateway's consumer is called. Consumers' names may not have dots; what a percent sign begins, the server takes
/// for a place to put a number, and then nobody gets the consumer's acks. No gateway's name has an equals sign.
pub fn durable(gateway: &GatewayId) -> String {
    gateway.as_str().replace('.', "=")
}

/// Where a gateway's progress is said.
pub fn progress(gateway: &GatewayId) -> String {
    format!("{PROGRESS}.{}", token(gateway.as_str()))
}

/// A name as one token of a subject: what the server gives a meaning to is percent-encoded.
fn token(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '.' | '*' | '>' | '%') || c.is_whitespace() || c.is_control() {
            let mut utf8 = [0; 4];
            for byte in c.encode_utf8(&mut utf8).bytes() {
                // Writing to a text does not fail.
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_token_each_and_different_names_are_different_tokens() {
        let subject = |gateway: &str| deliveries(&GatewayId::new(gateway).unwrap(), &PartitionId::new("b.1", 3));
        assert_eq!(subject("gw-1"), "streamer.v1.deliver.gw-1.b%2E1.3");
        assert_eq!(subject("eu.west"), "streamer.v1.deliver.eu%2Ewest.b%2E1.3");
        assert_eq!(token("a.b*c>d%e f\u{a0}"), "a%2Eb%2Ac%3Ed%25e%20f%C2%A0");
        assert_ne!(token("a.b"), token("a%2Eb"));
        assert_eq!(durable(&GatewayId::new("eu.west").unwrap()), "eu=west");
    }
}
