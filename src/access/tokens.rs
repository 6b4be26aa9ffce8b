//! The file of tokens: its text, and what is in it.
//!
//! Owns the format and its rules. A token itself is nowhere but with whom it was given to.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use wildmatch::WildMatch;

use super::caller::{Grant, Role};
use crate::subscription::Name;

/// Before the chance, so that a token that has strayed is known for what it is.
const PREFIX: &str = "streamer_";

/// A token in clear: 256 bits of chance. It is printed once and kept by nobody here.
pub struct Token(String);

impl Token {
    /// A new one.
    pub fn new() -> Self {
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())))
    }

    /// Its text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl Default for Token {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What the file keeps of a token, in 64 hex digits. A token is as long as a key, not something that somebody thought of, so
/// one round is enough.
pub fn digest(token: &str) -> String {
    Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A role in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// Everything but what nodes ask of one another.
    Operator,
    /// Some gateways and groups, in some tenants.
    Gateway,
    /// Another hub of the cluster.
    Node,
}

/// One of `[[tokens]]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Whose it is, for people.
    pub name: String,
    /// For what.
    pub role: RoleName,
    /// [`digest`] of the token.
    pub sha256: String,
    /// Name patterns (`*` and `?`) of gateways.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// Name patterns of groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Name patterns of tenants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
    /// From when on it is no longer good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<DateTime<Utc>>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    tokens: Vec<Entry>,
}

/// All that are good, by digest: an attacker cannot choose what he is compared with, so the look-up tells him nothing.
#[derive(Debug, Default)]
pub(super) struct Tokens(HashMap<String, Known>);

#[derive(Debug)]
struct Known {
    entry: Entry,
    grant: Arc<Grant>,
}

impl Entry {
    fn check(&self) -> Result<(), String> {
        let wrong = |why: String| Err(format!("token {:?}: {why}", self.name));
        if let Err(rule) = Name::new(&self.name) {
            return wrong(rule.to_string());
        }
        if self.sha256.len() != 64 || !self.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return wrong("sha256 is 64 lowercase hex digits".into());
        }
        let lists = [("gateways", &self.gateways), ("groups", &self.groups), ("tenants", &self.tenants)];
        if let Some((list, _)) = lists.iter().find(|(_, list)| list.iter().any(String::is_empty)) {
            return wrong(format!("a pattern in {list} is empty; `*` stands for any characters, `?` for one"));
        }
        match self.role {
            RoleName::Gateway if self.gateways.is_empty() && self.groups.is_empty() => {
                wrong("a gateway's token names gateways or groups".into())
            }
            RoleName::Gateway if self.tenants.is_empty() => {
                wrong("a gateway's token names tenants; [\"*\"] for all".into())
            }
            RoleName::Operator | RoleName::Node if lists.iter().any(|(_, list)| !list.is_empty()) => {
                wrong("gateways, groups and tenants belong to the role `gateway`".into())
            }
            _ => Ok(()),
        }
    }

    fn role(&self) -> Role {
        let patterns = |list: &[String]| list.iter().map(|pattern| WildMatch::new(pattern)).collect();
        match self.role {
            RoleName::Operator => Role::Operator,
            RoleName::Node => Role::Node,
            RoleName::Gateway => Role::Gateway {
                gateways: patterns(&self.gateways),
                groups: patterns(&self.groups),
                tenants: patterns(&self.tenants),
            },
        }
    }

    /// As it stands in the file.
    ///
    /// # Errors
    /// A rule that it breaks.
    pub fn to_toml(&self) -> Result<String, String> {
        self.check()?;
        toml::to_string(&File { tokens: vec![self.clone()] }).map_err(|error| error.to_string())
    }
}

impl FromStr for Tokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let File { tokens } = toml::from_str(text).map_err(|error| error.to_string().replace('\n', " "))?;
        let mut names = HashSet::new();
        let mut known = HashMap::new();
        for entry in tokens {
            entry.check()?;
            if !names.insert(entry.name.clone()) {
                return Err(format!("two tokens have the name {:?}", entry.name));
            }
            let grant = Grant { name: entry.name.clone(), role: entry.role(), revoked: CancellationToken::new() };
            let name = entry.name.clone();
            if known.insert(entry.sha256.clone(), Known { entry, grant: Arc::new(grant) }).is_some() {
                return Err(format!("token {name:?}: another one has the same sha256"));
            }
        }
        Ok(Self(known))
    }
}

/// The roles of a file's tokens.
///
/// # Errors
/// Why it is no such file.
pub fn check_tokens(text: &str) -> Result<Vec<RoleName>, String> {
    Ok(text.parse::<Tokens>()?.0.into_values().map(|known| known.entry.role).collect())
}

/// What this token is for, by a file's text.
pub fn role_of(text: &str, token: &str) -> Option<RoleName> {
    text.parse::<Tokens>().ok()?.0.get(&digest(token)).map(|known| known.entry.role)
}

impl Tokens {
    /// What this token allows now.
    pub(super) fn find(&self, token: &str, now: DateTime<Utc>) -> Option<Arc<Grant>> {
        let found = self.0.get(&digest(token))?;
        (!found.is_over(now)).then(|| Arc::clone(&found.grant))
    }

    /// These instead. What is open by a token that stays as it was goes on; what is open by another ends.
    pub(super) fn replace(&mut self, mut new: Self) {
        for (digest, known) in std::mem::take(&mut self.0) {
            match new.0.get_mut(&digest) {
                Some(same) if same.entry == known.entry => same.grant = known.grant,
                _ => known.grant.revoked.cancel(),
            }
        }
        *self = new;
    }

    /// Ends what is open by tokens that are over.
    pub(super) fn expire(&self, now: DateTime<Utc>) {
        for known in self.0.values().filter(|known| known.is_over(now)) {
            known.grant.revoked.cancel();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Known {
    fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.entry.expires.is_some_and(|end| end <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, role: &str, rest: &str) -> String {
        format!("[[tokens]]\nname = {name:?}\nrole = {role:?}\nsha256 = {:?}\n{rest}\n", digest(name))
    }

    #[test]
    fn what_is_wrong_in_the_file_is_said_with_the_tokens_name() {
        for (text, words) in [
            (entry("a", "operator", "gateways = [\"g\"]"), "belong to the role `gateway`"),
            (entry("a", "gateway", "tenants = [\"t\"]"), "names gateways or groups"),
            (entry("a", "gateway", "gateways = [\"g\"]"), "names tenants"),
            (entry("a", "gateway", "gateways = [\"\"]\ntenants = [\"t\"]"), "is empty"),
            (entry("a b", "operator", ""), "\"a b\""),
            (entry("a", "king", ""), "king"),
            (entry("a", "operator", "colour = 1"), "colour"),
            (format!("{}{}", entry("a", "operator", ""), entry("a", "operator", "")), "two tokens have the name"),
            ("[[tokens]]\nname = \"a\"\nrole = \"operator\"\nsha256 = \"abc\"".into(), "64 lowercase hex digits"),
            ("tokens = 7".into(), "tokens"),
            ("[[tokens]".into(), ""),
        ] {
            let refused = text.parse::<Tokens>().unwrap_err();
            assert!(refused.contains(words) && !refused.contains('\n'), "{refused}");
        }
        let same = format!("{}{}", entry("a", "operator", ""), entry("a", "operator", "").replace("\"a\"", "\"b\""));
        assert!(same.parse::<Tokens>().unwrap_err().contains("same sha256"));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let token = Token::new();
        let made = Entry {
            name: "edge".into(),
            role: RoleName::Gateway,
            sha256: digest(token.reveal()),
            gateways: vec!["gw-*".into()],
            groups: Vec::new(),
            tenants: vec!["*".into()],
            expires: DateTime::from_timestamp(1_800_000_000, 0),
        };
        let text = made.to_toml().unwrap();
        assert!(!text.contains(token.reveal()));
        let tokens: Tokens = text.parse().unwrap();
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        assert_eq!(tokens.find(token.reveal(), at(1_799_999_999)).unwrap().name, "edge");
        assert!(tokens.find(token.reveal(), at(1_800_000_000)).is_none(), "it is over");
        assert!(tokens.find("streamer_", at(0)).is_none() && tokens.find("", at(0)).is_none());
        assert_ne!(token.reveal(), Token::new().reveal());
        assert!(!format!("{token:?}").contains(token.reveal()));
    }

    #[test]
    fn a_token_that_is_gone_or_another_ends_what_is_open() {
        let now = DateTime::from_timestamp(0, 0).unwrap();
        let mut tokens: Tokens = [entry("a", "operator", ""), entry("b", "operator", ""), entry("c", "operator", "")]
            .concat()
            .parse()
            .unwrap();
        let before: Vec<_> = ["a", "b", "c"].map(|name| tokens.find(name, now).unwrap()).into();
        let new = [entry("a", "operator", ""), entry("b", "node", "")].concat();
        tokens.replace(new.parse().unwrap());
        assert_eq!(before.iter().map(|grant| grant.revoked.is_cancelled()).collect::<Vec<_>>(), [false, true, true]);
        assert!(!tokens.find("b", now).unwrap().revoked.is_cancelled());
        // It still ends if it goes later.
        tokens.replace("".parse().unwrap());
        assert!(before[0].revoked.is_cancelled());
    }
}
