//! Deliberate mistakes of the source, which drills must notice: each breaks one promise where it is kept.

use std::time::Duration;

/// Deliberate mistakes: a drill must notice each, or it proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// After an error, or when the server says nothing for a while, reading goes on when the server is there again,
    /// at the present.
    ResumeAtPresent,
    /// Drops, renames and changes that cannot be told are passed over in silence.
    SwallowGaps,
    /// Where the oplog no longer reaches back, reading goes on at the present, and nobody is told.
    SwallowLoss,
    /// An update whose post-image was not recorded is passed over.
    SkipLookUps,
    /// A change whose body had to be left out is passed over.
    SkipReduced,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::ResumeAtPresent, Self::SwallowGaps, Self::SwallowLoss, Self::SkipLookUps, Self::SkipReduced];
}

/// What [`Mistake::ResumeAtPresent`] takes for a broken stream.
pub(super) const SILENCE: Duration = Duration::from_secs(2);
/// How long whoever goes on at the present takes for it.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
