//! A change as it is shared by everyone it is delivered to, with its encoded bodies.
//!
//! Owns the promise that a body is encoded once for each (format, projection), however many sessions
//! need it. Knows nothing of sessions.

use std::ops::Deref;

use crate::change::Change;

/// A change with room for its encoded forms.
#[derive(Debug)]
pub struct SharedChange {
    change: Change,
}

impl SharedChange {
    /// Takes a change that is about to be shared.
    pub fn new(change: Change) -> Self {
        Self { change }
    }
}

impl Deref for SharedChange {
    type Target = Change;

    fn deref(&self) -> &Change {
        &self.change
    }
}
