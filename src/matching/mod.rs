//! Matching: which live subscriptions a change concerns.
//!
//! Owns compiled filters, their index and the reference evaluator. Synchronous and free of I/O;
//! knows nothing of sessions, stores or transports.
//!
//! `value` is what BSON means to a filter and `verdict` what images and scopes mean; both evaluators
//! share them. `reference` is the slow one that defines a filter's meaning by the CEL interpreter;
//! `formula` is the fast one: plain Boolean logic over atoms, of which `term` evaluates those that test
//! one path, whether they come from `filters` or from CEL. `cel` has the interpreter and its defences.
//!
//! A change's way: `index` has a `search` go to its scope's `shelf`, whose `names` are looked for in one walk over each image;
//! what stands there leads through `table`, by hash (`keys`) and by `ranges` and `spans`, to the `programs` filed there under
//! what `access` chose; what is then left of each (`residual`) is evaluated over what was found (`images`), and it stands
//! for its subscriptions (`ids`). Each step is taken for several changes before the next one is.

mod access;
mod bloom;
mod cel;
mod explain;
mod filter;
mod formula;
mod ids;
mod images;
mod index;
mod intern;
mod keys;
mod meter;
mod names;
mod path;
mod programs;
mod ranges;
mod raw;
mod reference;
mod residual;
mod search;
mod shadow;
mod shards;
mod shelf;
mod spans;
mod table;
mod term;
pub(crate) mod value;
mod verdict;

use serde::{Deserialize, Serialize};

pub use bloom::{BloomCounts, BloomUse};
pub use explain::{Explanation, Outcome, Step};
pub use filter::Filter;
pub use index::{Counts, Matcher};
pub use shadow::{Difference, ShadowCounts};

/// A live subscription's number in its partition's table; small, dense and reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubscriptionIndex(pub u32);

/// A program's number within its matcher: what all subscriptions with the same conditions share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct ProgramId(u32);

/// How a document moved with respect to a filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transition {
    /// Matches now, did not before.
    Enter,
    /// Matches now and before.
    Update,
    /// Matched before, does not now.
    Leave,
}

impl Transition {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enter => "enter",
            Self::Update => "update",
            Self::Leave => "leave",
        }
    }
}

/// How sure a verdict is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// Known.
    Exact,
    /// The image that would tell is missing.
    Unknown,
}

impl Certainty {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Unknown => "unknown",
        }
    }
}

/// What a change is to a filter that it concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Verdict {
    /// For subscriptions that ask for transitions.
    pub transition: Option<Transition>,
    /// For subscriptions that ask for transitions, and in broadcasts.
    pub certainty: Option<Certainty>,
    /// Not evaluated: it may concern the subscription (`Flags::BROADCAST`).
    pub broadcast: bool,
    /// The change took the document out of this subscription's tenant or collection: said in a
    /// message of its own, without body, under the scope that was left.
    pub left_scope: bool,
}

impl Verdict {
    /// A plain match of a subscription without transitions.
    pub const MATCH: Self = Self { transition: None, certainty: None, broadcast: false, left_scope: false };
}

/// One subscription that a change concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Match {
    /// Which.
    pub subscription: SubscriptionIndex,
    /// How.
    pub verdict: Verdict,
}

/// So many matches' memory is kept for the next.
const MATCHES_KEPT: usize = 1 << 16;

/// Whom each of several changes concerns, in their order; memory to be reused.
#[derive(Default, Debug)]
pub struct Matches {
    all: Vec<Match>,
    /// Where those of each change end.
    ends: Vec<usize>,
}

impl Matches {
    fn clear(&mut self) {
        self.all.clear();
        // What a crowd took is not kept for few.
        self.all.shrink_to(MATCHES_KEPT);
        self.ends.clear();
    }

    /// How many changes to match at once next: enough for it to be quicker, and one where the last ones concerned a crowd, whose
    /// matches would not be few together.
    pub fn together(&self) -> usize {
        if self.all.len() > MATCHES_KEPT { 1 } else { search::TOGETHER }
    }

    /// For each change whom it concerns.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [Match]> {
        let (mut rest, mut start) = (self.all.as_mut_slice(), 0);
        self.ends.iter().map(move |end| {
            let (found, others) = std::mem::take(&mut rest).split_at_mut(end - start);
            (rest, start) = (others, *end);
            found
        })
    }
}
