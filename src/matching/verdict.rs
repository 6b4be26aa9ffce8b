//! Verdicts: from the images of a change to enter, update, leave, broadcast or nothing.
//!
//! Owns the rules of images, transitions and scopes (`docs/filters.md`). Does not know how an image
//! is evaluated: every evaluator brings that as a function, so all of them share these rules.

use std::sync::Arc;

use bson::RawDocument;

use super::{Certainty, Transition, Verdict};
use crate::change::{Change, Operation, Scope};
use crate::subscription::Operations;

/// What of a filter concerns whole changes and not their bodies.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Concern {
    /// Only changes here.
    pub(super) home: Home,
    /// What it asks of them.
    pub(super) asks: Asks,
}

/// What a filter asks of a change to its collection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Asks {
    /// Only these.
    pub(super) operations: Operations,
    /// Whether pre-images are evaluated too.
    pub(super) transitions: bool,
}

impl Asks {
    /// Whether a change that has the document in the image that counts, and nothing else, is a match.
    pub(super) fn is_plain(self) -> bool {
        !self.transitions && self.operations == Operations::ALL
    }
}

/// What a filter's home is to a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// Where it happened, or may have.
    Here,
    /// What it took the document out of.
    Left,
}

/// A tenant's collection.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Home(Arc<(Arc<str>, Arc<str>)>);

impl Home {
    pub(super) fn new(tenant: Arc<str>, collection: Arc<str>) -> Self {
        Self(Arc::new((tenant, collection)))
    }

    pub(super) fn tenant(&self) -> &Arc<str> {
        &self.0.0
    }

    pub(super) fn collection(&self) -> &Arc<str> {
        &self.0.1
    }

    pub(super) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Whether a scope is, or may be, this one.
    pub(super) fn is(&self, scope: &Scope) -> bool {
        scope.tenant.as_ref().is_none_or(|tenant| tenant == self.tenant())
            && scope.collection.as_ref().is_none_or(|collection| collection == self.collection())
    }
}

/// One of a change's two images, as a filter sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Image {
    /// The document as it is now; `before` is the pre-image.
    Post,
    /// The document as it was; `before` is null.
    Pre,
}

impl Image {
    /// The body that is `doc`.
    pub(super) fn body(self, change: &Change) -> Option<&RawDocument> {
        match self {
            Self::Post => change.document.as_deref(),
            Self::Pre => change.before.as_deref(),
        }
    }

    /// The body that is `before`.
    pub(super) fn before(self, change: &Change) -> Option<&RawDocument> {
        match self {
            Self::Post => change.before.as_deref(),
            Self::Pre => None,
        }
    }

    /// The scope that the document has in it.
    pub(super) fn scope(self, change: &Change) -> &Scope {
        match (self, &change.left) {
            (Self::Pre, Some(left)) => left,
            _ => &change.scope,
        }
    }
}

impl Concern {
    /// What a change is to the filter; see [`Asks::verdict`].
    pub(super) fn verdict(&self, change: &Change, matches: impl FnMut(Image) -> bool) -> Option<Verdict> {
        let is_left = || change.left.as_ref().is_some_and(|left| self.home.is(left));
        let side = if self.home.is(&change.scope) { Some(Side::Here) } else { is_left().then_some(Side::Left) };
        self.asks.verdict(change, side?, matches)
    }
}

impl Asks {
    /// What a change to either side is to the filter; `matches` evaluates the body of one of its images and is asked
    /// only for images that are there.
    #[inline]
    pub(super) fn verdict(
        self,
        change: &Change,
        side: Side,
        mut matches: impl FnMut(Image) -> bool,
    ) -> Option<Verdict> {
        if !self.operations.contains(change.operation) {
            return None;
        }
        if side == Side::Left {
            let was = self.transitions && change.before.is_some() && matches(Image::Pre);
            return was.then(|| Verdict { left_scope: true, ..told(Transition::Leave, Certainty::Exact) });
        }
        if change.operation == Operation::Delete {
            return match &change.before {
                None => Some(BROADCAST),
                Some(_) if !matches(Image::Pre) => None,
                Some(_) if self.transitions => Some(told(Transition::Leave, Certainty::Exact)),
                Some(_) => Some(Verdict::MATCH),
            };
        }
        // Reduced: nobody can say, so everybody whom it may concern is told to look.
        if change.document.is_none() {
            return Some(BROADCAST);
        }
        let now = matches(Image::Post);
        if !self.transitions {
            return now.then_some(Verdict::MATCH);
        }
        if change.left.is_some() || (change.operation == Operation::Insert && change.before.is_none()) {
            return now.then(|| told(Transition::Enter, Certainty::Exact));
        }
        if change.before.is_none() {
            return now.then(|| told(Transition::Update, Certainty::Unknown));
        }
        let transition = match (matches(Image::Pre), now) {
            (false, true) => Transition::Enter,
            (true, true) => Transition::Update,
            (true, false) => Transition::Leave,
            (false, false) => return None,
        };
        Some(told(transition, Certainty::Exact))
    }
}

const BROADCAST: Verdict =
    Verdict { transition: None, certainty: Some(Certainty::Unknown), broadcast: true, left_scope: false };

const fn told(transition: Transition, certainty: Certainty) -> Verdict {
    Verdict { transition: Some(transition), certainty: Some(certainty), broadcast: false, left_scope: false }
}
