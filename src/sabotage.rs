//! Deliberate mistakes of a whole hub, for drills to notice.
//!
//! Owns their names on the command line (`streamer serve --sabotage`, a flag that no help shows). What a
//! mistake does is told where it is made: in the session machine, in the MongoDB source, in
//! publishers, at loading.

use std::str::FromStr;

use crate::delivery::{machine, nats};
use crate::source::mongo;

/// What a hub is to do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// With each tenure everything begins at the present, whatever the cursors say.
    Forget,
    /// The session machine's.
    Machine(machine::Mistake),
    /// The source's.
    Source(mongo::Mistake),
    /// The publishers'.
    Nats(nats::Mistake),
}

impl Sabotage {
    /// All of them, by name.
    pub fn all() -> impl Iterator<Item = (String, Self)> {
        let machine = machine::Mistake::ALL.into_iter().map(|one| (kebab(&format!("{one:?}")), Self::Machine(one)));
        let source = mongo::Mistake::ALL.into_iter().map(|one| (kebab(&format!("{one:?}")), Self::Source(one)));
        let nats = nats::Mistake::ALL.into_iter().map(|one| (kebab(&format!("{one:?}")), Self::Nats(one)));
        std::iter::once(("forget".to_owned(), Self::Forget)).chain(machine).chain(source).chain(nats)
    }
}

/// Whose mistake it is.
impl Sabotage {
    /// The session machine's.
    pub fn of_machine(self) -> Option<machine::Mistake> {
        if let Self::Machine(mistake) = self { Some(mistake) } else { None }
    }

    /// The source's.
    pub fn of_source(self) -> Option<mongo::Mistake> {
        if let Self::Source(mistake) = self { Some(mistake) } else { None }
    }

    /// The publishers'.
    pub fn of_nats(self) -> Option<nats::Mistake> {
        if let Self::Nats(mistake) = self { Some(mistake) } else { None }
    }
}

impl FromStr for Sabotage {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::all().find(|(known, _)| known == name);
        found.map(|(_, sabotage)| sabotage).ok_or_else(|| {
            let names: Vec<String> = Self::all().map(|(name, _)| name).collect();
            format!("there is no such sabotage; there are {}", names.join(", "))
        })
    }
}

/// `JoinLate` is `join-late`.
fn kebab(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_none_stands_for_two() {
        let all: Vec<_> = Sabotage::all().collect();
        for (name, sabotage) in &all {
            assert_eq!(name.parse::<Sabotage>().as_ref(), Ok(sabotage));
        }
        assert_eq!("join-late".parse(), Ok(Sabotage::Machine(machine::Mistake::JoinLate)));
        let error = "none".parse::<Sabotage>().unwrap_err();
        assert!(error.contains("forget") && error.contains("swallow-gaps"), "{error}");
    }
}
