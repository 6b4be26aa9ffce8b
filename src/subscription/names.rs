//! Names of gateways and subscriptions.
//!
//! Owns the rule for names on every interface. Names are shared text, cheap to clone.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::limits;

/// 1 to 128 characters of `A-Z a-z 0-9 . _ : -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name(Arc<str>);

/// A gateway's name.
pub type GatewayId = Name;
/// A subscription's name, unique within its gateway.
pub type SubscriptionId = Name;

/// Not a name; the text says what one is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a name has 1 to {max} characters of A-Z a-z 0-9 . _ : -", max = limits::name_chars_max)]
pub struct NotAName;

impl Name {
    /// Checks and takes a name.
    pub fn new(text: &str) -> Result<Self, NotAName> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        if text.is_empty() || text.len() > limits::name_chars_max || !text.bytes().all(fits) {
            return Err(NotAName);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A subscription among all of a hub's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SubscriptionKey {
    /// Its owner.
    pub gateway: GatewayId,
    /// Its name there.
    pub id: SubscriptionId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_interface_says() {
        for good in ["a", "gw-1", "A.b_c:d-9", &"x".repeat(128)] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", "ä", "a/b", "a\n", &"x".repeat(129)] {
            assert_eq!(Name::new(bad), Err(NotAName), "{bad}");
        }
    }
}
