//! Images: the two bodies of a change, as its programs look at them.
//!
//! Owns what they share, each made when the first one asks: the walk over the body, whether it is BSON
//! to its last byte, and the interpreter's variables.

use super::cel::{Declared, Part, Stop, Variables};
use super::formula::Atom;
use super::names::{Names, Walk};
use super::path::{self, Found};
use super::value::is_sound;
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

/// What is made at most once a change: of the post-image and of the pre-image.
#[derive(Default)]
pub(super) struct Shared([OfImage; 2]);

#[derive(Default)]
struct OfImage {
    /// Whether the body is BSON to its last byte: half a document matches nothing.
    sound: Option<bool>,
    variables: Option<Variables>,
}

impl<'a> Images<'a> {
    pub(super) fn new(change: &'a Change, walked: Option<(&'a Names, &'a [Walk; 2])>, shared: &'a mut Shared) -> Self {
        Self { change, walked, shared }
    }

    /// Where a path leads in an image.
    pub(super) fn get(&self, image: Image, path: &Path) -> Found<'a> {
        let Some(body) = image.body(self.change) else { return Found::Error };
        match self.walked {
            Some((names, walks)) => walks[image as usize].get(names, path, body.as_bytes()),
            None => path::find(body, path),
        }
    }

    /// Where a path leads in what is `before` to an image. No walk need have gone there.
    pub(super) fn get_before(&self, image: Image, path: &Path) -> Found<'a> {
        image.before(self.change).map_or(Found::Error, |before| path::find(before, path))
    }

    /// What they are the images of.
    pub(super) fn change(&self) -> &'a Change {
        self.change
    }

    /// Whether an atom comes out as wanted.
    pub(super) fn holds(&mut self, image: Image, atom: &Atom, wanted: bool) -> bool {
        match atom {
            Atom::Term(term) => term.outcome(self.get(image, &term.path)) == Some(wanted) && self.is_sound(image),
            Atom::Cel(part) => match self.compiled_holds(image, part, wanted) {
                Some(holds) => holds,
                None => part.holds(wanted, self.variables(image)),
            },
        }
    }

    /// Whether a part comes out as wanted; `None` where only the interpreter can tell.
    fn compiled_holds(&mut self, image: Image, part: &Part, wanted: bool) -> Option<bool> {
        let compiled = part.compiled()?;
        let is = |outcome| match outcome {
            Err(Stop::Interpreter) => None,
            outcome => Some(outcome == Ok(wanted)),
        };
        if !is(compiled.outcome(self, image, Declared::BOTH))? {
            return Some(false);
        }
        // Now it matters whether what was looked at is BSON: if not, it is not there.
        let reads = compiled.reads();
        let declared = Declared {
            doc: !reads.doc || self.is_sound(image),
            before: !reads.before || image.before(self.change).is_none() || self.is_sound(Image::Pre),
        };
        if declared == Declared::BOTH { Some(true) } else { is(compiled.outcome(self, image, declared)) }
    }

    /// What the interpreter makes of a part.
    pub(super) fn outcome(&mut self, image: Image, part: &Part) -> Result<bool, String> {
        part.outcome(self.variables(image))
    }

    fn variables(&mut self, image: Image) -> &Variables {
        self.shared.0[image as usize].variables.get_or_insert_with(|| Variables::new(self.change, image))
    }

    pub(super) fn is_sound(&mut self, image: Image) -> bool {
        let body = image.body(self.change);
        *self.shared.0[image as usize].sound.get_or_insert_with(|| body.is_some_and(is_sound))
    }
}
