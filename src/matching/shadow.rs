//! The shadow check: live changes, a second time, by the reference.
//!
//! Owns which changes are checked and how much of one check there may be. Every so manyth change, what the
//! index found and as many programs again that it did not find are evaluated by the reference; a difference is
//! a bug of ours, and is handed out with the program and the document's shape, without its values.

use bson::{RawBsonRef, RawDocument};

use super::{ProgramId, Verdict};
use crate::change::Change;

/// Programs evaluated in one check that the index found, and that it did not find.
pub(super) const PROGRAMS_MAX: usize = 32;

/// The reference reads a body anew for each program.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Differences kept until somebody takes them.
const KEPT_MAX: usize = 8;

/// Index and reference disagree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The program's conditions as CEL.
    pub program: String,
    /// Names and types of the document's fields.
    pub shape: String,
    /// By the reference.
    pub expected: Option<Verdict>,
    /// By the index.
    pub found: Option<Verdict>,
}

/// What checks came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ShadowCounts {
    /// Programs evaluated a second time.
    pub checks: u64,
    /// Those that came out differently.
    pub differences: u64,
}

#[derive(Default, Debug)]
pub(super) struct Shadow {
    /// Every so manyth change is checked; none if 0.
    every: u32,
    seen: u32,
    /// Where among the programs the last check ended.
    pub(super) at: Option<ProgramId>,
    pub(super) counts: ShadowCounts,
    differences: Vec<Difference>,
}

impl Shadow {
    pub(super) fn new(every: u32) -> Self {
        Self { every, ..Self::default() }
    }

    /// Whether this change is to be checked: the first one that is due and not so large that others would wait for it.
    pub(super) fn is_due(&mut self, change: &Change) -> bool {
        self.seen = (self.seen + 1).min(self.every);
        let bytes = [&change.document, &change.before].into_iter().flatten().map(|body| body.as_bytes().len());
        let is_due = self.every > 0 && self.seen == self.every && bytes.sum::<usize>() <= BODY_BYTES_MAX;
        if is_due {
            self.seen = 0;
        }
        is_due
    }

    pub(super) fn differs(&mut self, difference: impl FnOnce() -> Difference) {
        self.counts.differences += 1;
        if self.differences.len() < KEPT_MAX {
            self.differences.push(difference());
        }
    }

    pub(super) fn take(&mut self) -> Vec<Difference> {
        std::mem::take(&mut self.differences)
    }
}

/// The longest shape.
const SHAPE_CHARS_MAX: usize = 1_000;

/// Names and types of a document's fields.
pub(super) fn shape(document: Option<&RawDocument>) -> String {
    let mut text = String::new();
    match document {
        None => text.push_str("none"),
        Some(document) => write_document(&mut text, document, 0),
    }
    text
}

fn write_document(text: &mut String, document: &RawDocument, depth: usize) {
    text.push('{');
    for (number, field) in document.into_iter().enumerate() {
        if text.len() > SHAPE_CHARS_MAX || depth > 8 {
            text.push('…');
            break;
        }
        text.push_str(if number > 0 { ", " } else { "" });
        match field {
            Ok((name, value)) => {
                text.push_str(AsRef::<str>::as_ref(&name));
                text.push_str(": ");
                write_value(text, value, depth);
            }
            Err(_) => text.push_str("(no BSON)"),
        }
    }
    text.push('}');
}

fn write_value(text: &mut String, value: RawBsonRef<'_>, depth: usize) {
    match value {
        RawBsonRef::Document(document) => write_document(text, document, depth + 1),
        RawBsonRef::Array(items) => {
            text.push('[');
            if let Some(Ok(first)) = items.into_iter().next() {
                write_value(text, first, depth + 1);
                text.push_str(", …");
            }
            text.push(']');
        }
        other => text.push_str(&format!("{:?}", other.element_type())),
    }
}
