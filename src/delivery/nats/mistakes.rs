//! Deliberate mistakes of publishers, which drills must notice: each breaks one promise where it is kept.

use std::time::Duration;

/// Deliberate mistakes: a drill must notice each, or it proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// What the server does not answer for, or has no room for, counts as stored.
    AckUnstored,
    /// That the stream is another, or has gone back, is overlooked.
    TrustStream,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::AckUnstored, Self::TrustStream];
}

/// How long after the connection is gone [`Mistake::AckUnstored`] goes on.
pub(super) const UNSTORED: Duration = Duration::from_millis(500);
