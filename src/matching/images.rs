//! Images: the two bodies of a change, as its programs look at them.
//!
//! Owns what they share: what the walks found, and the interpreter's variables, made when the first one asks.

use super::cel::{Part, Stop, Variables};
use super::formula::Atom;
use super::names::{Names, NodeId, Walk};
use super::path::{self, Found};
use super::verdict::Image;
use crate::change::Change;
use crate::subscription::Path;

/// What programs see of one change.
pub(super) struct Images<'a> {
    change: &'a Change,
    /// The names that were walked for, and what the walks found: post-image and pre-image. Without, every
    /// path is looked up by itself.
    walked: Option<(&'a Names, &'a [Walk; 2])>,
    shared: &'a mut Shared,
}

/// What is made at most once a change: the interpreter's variables for the post-image and the pre-image.
#[derive(Default)]
pub(super) struct Shared([Option<Variables>; 2]);

impl<'a> Images<'a> {
    pub(super) fn new(change: &'a Change, walked: Option<(&'a Names, &'a [Walk; 2])>, shared: &'a mut Shared) -> Self {
        Self { change, walked, shared }
    }

    /// Where a path leads in an image.
    pub(super) fn get(&self, image: Image, path: &Path) -> Found<'a> {
        let Some(body) = image.body(self.change) else { return Found::Error };
        match self.walked {
            Some((names, walks)) => walks[image as usize].get(names, path, body.as_bytes()),
            None => path::find(body, path).checked(),
        }
    }

    /// What stands at a node in an image; a text is not looked at.
    #[inline]
    pub(super) fn at(&self, image: Image, node: NodeId) -> Found<'a> {
        match (image.body(self.change), self.walked) {
            (Some(body), Some((names, walks))) => walks[image as usize].at(names, node, body.as_bytes()),
            _ => Found::Error,
        }
    }

    /// What stands at a node in an image; a text is UTF-8.
    pub(super) fn checked_at(&self, image: Image, node: NodeId) -> Found<'a> {
        match (image.body(self.change), self.walked) {
            (Some(body), Some((names, walks))) => walks[image as usize].checked_at(names, node, body.as_bytes()),
            _ => Found::Error,
        }
    }

    /// Where a path leads in what is `before` to an image. No walk need have gone there.
    pub(super) fn get_before(&self, image: Image, path: &Path) -> Found<'a> {
        image.before(self.change).map_or(Found::Error, |before| path::find(before, path)).checked()
    }

    /// What they are the images of.
    pub(super) fn change(&self) -> &'a Change {
        self.change
    }

    /// Whether an atom comes out as wanted.
    pub(super) fn holds(&mut self, image: Image, atom: &Atom, wanted: bool) -> bool {
        match atom {
            Atom::Term(term) => term.outcome(self.get(image, &term.path)) == Some(wanted),
            Atom::Cel(part) => match part.compiled().map(|compiled| compiled.outcome(self, image)) {
                Some(Ok(outcome)) => outcome == wanted,
                Some(Err(Stop::Error)) => false,
                Some(Err(Stop::Interpreter)) | None => part.holds(wanted, self.variables(image)),
            },
        }
    }

    /// What the interpreter makes of a part.
    pub(super) fn outcome(&mut self, image: Image, part: &Part) -> Result<bool, String> {
        part.outcome(self.variables(image))
    }

    fn variables(&mut self, image: Image) -> &Variables {
        self.shared.0[image as usize].get_or_insert_with(|| Variables::new(self.change, image))
    }
}
