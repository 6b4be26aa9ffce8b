//! Resume tokens: the one thing read out of them.
//!
//! Owns the knowledge that a token's `_data` begins with a cluster time (a `KeyString` whose first
//! element is a timestamp). Everything else about a token stays opaque.

use bson::RawDocument;

use crate::position::ClusterTime;

/// The byte that opens a timestamp in a `KeyString`.
const TIMESTAMP: u8 = 0x82;

/// The cluster time with which a resume token begins: everything before it has been read.
pub fn cluster_time_of_token(token: &RawDocument) -> Option<ClusterTime> {
    let data = token.get_str("_data").ok()?.as_bytes();
    let (kind, rest) = data.split_at_checked(2)?;
    if byte(kind)? != TIMESTAMP {
        return None;
    }
    let mut time = 0_u64;
    for pair in rest.get(..16)?.chunks_exact(2) {
        time = time << 8 | u64::from(byte(pair)?);
    }
    Some(ClusterTime(time))
}

fn byte(pair: &[u8]) -> Option<u8> {
    let digit = |b: &u8| (*b as char).to_digit(16);
    Some((digit(&pair[0])? << 4 | digit(&pair[1])?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn a_token_begins_with_its_cluster_time() {
        // A token as mongod 6.0.5 made it for an event at (1763690000, 3).
        let token = rawdoc! { "_data": "82691FC61000000003 2B042C0100296E5A1004".replace(' ', "") };
        assert_eq!(cluster_time_of_token(&token), Some(ClusterTime::new(0x691F_C610, 3)));
    }

    #[test]
    fn what_is_no_token_has_no_time() {
        for data in ["", "8", "82", "8269", "83691FC61000000003", "82691FC6100000000G", "82ä91FC6100000000"] {
            assert_eq!(cluster_time_of_token(&rawdoc! { "_data": data }), None, "{data}");
        }
        assert_eq!(cluster_time_of_token(&rawdoc! { "_data": 5 }), None);
    }
}
