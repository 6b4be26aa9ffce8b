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

/// A gateway's name. Two kinds can be named by nobody from outside, for they hold a `/`: `<group>/<member>` is a member
/// of a group, and `<group>/` holds what of a group no member has yet ([`Name::group`], [`Name::member`]).
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

    /// Reads what a record or another node says: groups and members, too.
    pub fn stored(text: &str) -> Result<Self, NotAName> {
        let Some((group, member)) = text.split_once('/') else { return Self::new(text) };
        let group = Self::new(group)?;
        if member.is_empty() { Ok(Self::group(&group)) } else { Ok(Self::member(&group, &Self::new(member)?)) }
    }

    /// Whose a group's subscriptions are.
    #[must_use]
    pub fn group(group: &Self) -> Self {
        Self(format!("{group}/").into())
    }

    /// One of a group's gateways.
    #[must_use]
    pub fn member(group: &Self, member: &Self) -> Self {
        Self(format!("{group}/{member}").into())
    }

    /// The names of the group and of the member, which is empty for the group itself; of other gateways nothing.
    pub fn in_group(&self) -> Option<(&str, &str)> {
        self.0.split_once('/')
    }

    /// Whose the subscriptions of this gateway are: its group's, or its own.
    #[must_use]
    pub fn owner(&self) -> Self {
        self.in_group().map_or_else(|| self.clone(), |(group, _)| Self(format!("{group}/").into()))
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
        Self::stored(&text).map_err(serde::de::Error::custom)
    }
}

/// A subscription among all of a hub's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SubscriptionKey {
    /// Its owner: a gateway or a group.
    pub gateway: GatewayId,
    /// Its name there.
    pub id: SubscriptionId,
}

impl SubscriptionKey {
    /// As text: `g/<gateway>/<subscription>`, of a group `m/<group>/<subscription>`. Names hold no `/`.
    pub fn to_text(&self) -> String {
        let (kind, owner) = match self.gateway.in_group() {
            Some((group, _)) => ("m", group),
            None => ("g", self.gateway.as_str()),
        };
        format!("{kind}/{owner}/{}", self.id)
    }

    /// The reverse of [`Self::to_text`].
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('/')?;
        let (owner, id) = rest.split_once('/')?;
        let owner = Name::new(owner).ok()?;
        let gateway = match kind {
            "g" => owner,
            "m" => Name::group(&owner),
            _ => return None,
        };
        Some(Self { gateway, id: Name::new(id).ok()? })
    }
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

    #[test]
    fn groups_and_members_are_nobodys_names() {
        let name = |text| Name::new(text).unwrap();
        let (group, member) = (Name::group(&name("g")), Name::member(&name("g"), &name("m")));
        assert_eq!((group.in_group(), member.in_group()), (Some(("g", "")), Some(("g", "m"))));
        assert_eq!((member.owner(), group.owner(), name("g").owner()), (group.clone(), group.clone(), name("g")));
        for good in [&group, &member, &name("g")] {
            assert_eq!(Name::stored(good.as_str()).as_ref(), Ok(good));
        }
        for bad in ["/", "/m", "g/m/", "g//m", "g/ m"] {
            assert_eq!(Name::stored(bad), Err(NotAName), "{bad}");
        }
    }
}
