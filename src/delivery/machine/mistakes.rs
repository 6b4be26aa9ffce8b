//! Deliberate mistakes, which the simulation must find: each breaks one promise where it is kept.

/// Deliberate mistakes: the simulation must find each, or it proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// A catch-up joins the live tail one change late.
    JoinLate,
    /// A catch-up that a cursor does not know counts as done.
    UnknownCatchUpDone,
    /// Acks of superseded sessions count.
    AckFromDeadSession,
    /// A quiet gateway's cursor advances over what it was never matched against.
    AdvanceUnmatched,
    /// A PUT forgets the filter that it replaces.
    ForgetSuperseded,
    /// A write that timed out counts as failed.
    UnknownIsFailed,
    /// A subscription leaves the index before its parking is stored.
    ParkBeforeWrite,
    /// The floor of a parked subscription is where it was parked, acked or not.
    ParkAtLoop,
    /// The checkpoint passes a match before the cursor that it holds back is stored.
    CheckpointBeforePages,
    /// A new subscription's cursor says that it is known before its first matches are written.
    KnownTooEarly,
    /// What overflows an outbox is dropped without a catch-up.
    OverflowDrops,
    /// A subscription whose PUT is under way goes on with the old filter.
    ReplaceKeepsOld,
    /// Where two losses lie at one position, the first one's cursor passes the second.
    PassFirstOfTwo,
    /// A loss that a session is owed is said in that session only, heard or not.
    OwedOnce,
    /// A gateway that has acked everything stands on the gap that nobody has told it of.
    FreezeOnGap,
    /// A cursor from before an operator's move counts.
    OldCursorUndoesMove,
    /// A page of cursors that does not know of an operator's move counts.
    PageUndoesMove,
    /// What comes again after an operator's rewind is not flagged.
    RewindUnflagged,
    /// What a session loses so that memory stays bounded is not caught up.
    EvictForgets,
    /// A catch-up boards a reading that has passed it.
    BoardLate,
    /// A catch-up without room leaves where its reading is.
    LeaveAtRide,
    /// What is lost where a reading stands is lost for all who ride it.
    LostForAllRiders,
    /// A member goes on getting what was revoked.
    RevokedServesOn,
    /// What was revoked counts as acked.
    RevokedIsAcked,
    /// What a lost member was sent counts as acked.
    LostMemberAcked,
    /// What another member may have had comes without a flag.
    ReassignedUnflagged,
}

impl Mistake {
    /// Those of one gateway's own deliveries.
    pub const ALL: [Self; 22] = [
        Self::JoinLate,
        Self::UnknownCatchUpDone,
        Self::AckFromDeadSession,
        Self::AdvanceUnmatched,
        Self::ForgetSuperseded,
        Self::UnknownIsFailed,
        Self::ParkBeforeWrite,
        Self::ParkAtLoop,
        Self::CheckpointBeforePages,
        Self::KnownTooEarly,
        Self::OverflowDrops,
        Self::ReplaceKeepsOld,
        Self::PassFirstOfTwo,
        Self::OwedOnce,
        Self::FreezeOnGap,
        Self::OldCursorUndoesMove,
        Self::PageUndoesMove,
        Self::RewindUnflagged,
        Self::EvictForgets,
        Self::BoardLate,
        Self::LeaveAtRide,
        Self::LostForAllRiders,
    ];

    /// Those of groups.
    pub const OF_GROUPS: [Self; 4] =
        [Self::RevokedServesOn, Self::RevokedIsAcked, Self::LostMemberAcked, Self::ReassignedUnflagged];
}
