//! An operator's move of a gateway's cursor: a rewind or a skip.
//!
//! Owns what a move stores and what it makes of cursors from before it. A move takes a session's number, so
//! that everything of earlier sessions is older than it. Until a later session has acked something, an earlier
//! session's cursor says nothing (*voided*): a browser would present it and undo the move. After that it is
//! what any older cursor is, a rewind, and never more.

use std::collections::{BTreeMap, HashSet};

use super::registry::store_problem;
use super::state::{GatewayIndex, MoveRequest, MoveTarget, RecordRequest, RecordState, WriteKind};
use super::{Answer, Machine, Mistake, Waiter};
use crate::cursor::{Cursor, CursorText, Place, Serial};
use crate::delivery::frame::CloseReason;
use crate::error::{Code, Problem};
use crate::position::Position;
use crate::store::gateways::{Moved, Owed};
use crate::store::{CommitError, Revision};
use crate::subscription::GatewayId;

/// Where a gateway is moved.
#[derive(Clone, Debug)]
pub enum Target {
    /// What comes after this is served next.
    Position(Position),
    /// What comes after a cursor of its own, of each subscription.
    Cursor(CursorText),
}

impl Machine {
    /// Moves a gateway's cursor, under a session's number. Answered when it is stored.
    pub fn on_move(&mut self, id: &GatewayId, target: &Target, number: u64, waiter: Waiter) {
        let known = self.gateway_ids.get(id).copied();
        let Some(index) = known.filter(|index| self.gateways[index.0].incarnation != Revision(0)) else {
            return self.answer(waiter, Err(Problem::new(Code::GatewayNotFound, format!("no gateway {id}"))));
        };
        let target = match target {
            Target::Position(position) => MoveTarget::Position(*position),
            Target::Cursor(text) => {
                let cursor = Cursor::decode(text.as_str()).ok();
                match cursor.as_ref().and_then(|cursor| self.of_this_life(index, cursor)) {
                    Some(place) => MoveTarget::Place(place.clone()),
                    None => {
                        let problem = Problem::new(Code::InvalidCursor, "not a cursor of this gateway");
                        return self.answer(waiter, Err(problem));
                    }
                }
            }
        };
        self.request(index, RecordRequest::Move(MoveRequest { target, number, waiter, abandoned: false }));
    }

    /// The session ends before anything is stored: what it sends from now on would be sent again without
    /// anyone knowing.
    pub(super) fn write_move(&mut self, index: GatewayIndex, request: MoveRequest) {
        if request.number <= self.gateways[index.0].sessions {
            self.gateways[index.0].record = RecordState::Free;
            let problem = Problem::new(Code::RateLimited, "a session has been opened meanwhile").retry_after(1);
            self.answer(request.waiter, Err(problem));
            return self.next_request(index);
        }
        self.end_session(index, CloseReason::Rewound);
        let Place { position, known, unfinished } = match &request.target {
            MoveTarget::Position(position) => {
                Place { position: *position, known: self.known(index), unfinished: BTreeMap::new() }
            }
            MoveTarget::Place(place) => place.clone(),
        };
        let unfinished = unfinished.into_iter().map(|(revision, position)| (revision.0, position)).collect();
        let gateway = &self.gateways[index.0];
        let since = request.number;
        let redelivered_until = self.horizon.max(self.reached);
        let moved = Moved { since, position, known, unfinished, redelivered_until };
        // Said again from now on, for no ack of an earlier session speaks for it any more.
        let owed = gateway.still_owed(gateway.owed).map(|owed| Owed { since, ..owed });
        let record = self.gateway_record(index, since, None, owed, Some(moved.clone()));
        let write = self.record_write_of(index, &record);
        self.write(WriteKind::Move { gateway: index, request, moved, owed }, vec![write]);
    }

    pub(super) fn on_moved(
        &mut self,
        index: GatewayIndex,
        request: &MoveRequest,
        (moved, owed): (Moved, Option<Owed>),
        revision: Revision,
    ) {
        let gateway = &mut self.gateways[index.0];
        gateway.record = RecordState::Free;
        gateway.revision = revision;
        gateway.sessions = moved.since;
        gateway.owed = owed;
        gateway.stand_where_moved(moved);
        self.note_moved(index);
        if !request.abandoned {
            self.answer(request.waiter, Ok(Answer::Done));
        }
        self.next_request(index);
    }

    pub(super) fn on_move_refused(&mut self, index: GatewayIndex, request: &MoveRequest, error: &CommitError) {
        self.gateways[index.0].record = RecordState::Free;
        if !request.abandoned {
            self.answer(request.waiter, Err(store_problem(error)));
        }
        self.next_request(index);
    }

    /// At loading: a page of cursors that was written before the move was stored, or that did not know of it,
    /// says nothing.
    pub(super) fn load_moved(&mut self, index: GatewayIndex) {
        let gateway = &mut self.gateways[index.0];
        if let Some(moved) = &gateway.moved
            && gateway.page_knows < moved.since
            && self.config.mistake != Some(Mistake::PageUndoesMove)
        {
            // A cursor beside the move in its record was presented after it.
            let (moved, presented) = (moved.clone(), gateway.presented.take());
            gateway.stand_where_moved(moved);
            gateway.presented = presented;
        }
    }

    /// Whether a cursor of this session of the gateway's own says nothing, because an operator has moved the gateway
    /// since and no later session has acked anything yet.
    pub(super) fn is_voided(&self, index: GatewayIndex, serial: Serial) -> bool {
        let gateway = &self.gateways[index.0];
        let Some(moved) = gateway.moved.as_ref().filter(|moved| serial.session < moved.since) else { return false };
        // No message carries the number that the move took.
        let is_taken_up = gateway.serial.session != moved.since;
        !(is_taken_up || self.broken(Mistake::OldCursorUndoesMove))
    }

    /// Where a cursor leads. One from before an operator's move may be behind for some subscriptions and ahead of the
    /// move for others: of each the gateway has no more than either says.
    pub(super) fn place_of(&self, index: GatewayIndex, serial: Serial, place: &Place) -> Place {
        let gateway = &self.gateways[index.0];
        let is_before = gateway.moved.as_ref().is_some_and(|moved| serial.session < moved.since);
        if !is_before || self.broken(Mistake::OldCursorUndoesMove) {
            return place.clone();
        }
        let (mut place, stored) = (self.in_epoch(place.clone()), self.effective(index));
        // Of what its maker did not know it has nothing.
        let subs = gateway.subs.iter().map(|sub| &self.subs[sub.0]);
        let known_then = subs.filter(|sub| sub.start_revision <= place.known);
        let named_anew: HashSet<Revision> = known_then.flat_map(|sub| sub.names_for(Revision(0))).collect();
        let is_known = |name: &Revision| *name <= place.known || named_anew.contains(name);
        for (name, position) in stored.unfinished.into_iter().filter(|(name, _)| is_known(name)) {
            let entry = place.unfinished.entry(name).or_insert(position);
            *entry = (*entry).min(position);
        }
        Place { position: place.position.min(stored.position), known: place.known.min(stored.known), ..place }
    }

    /// Up to where what is delivered may have been delivered before an operator's rewind. Who has been
    /// parked since is served that much later.
    pub(super) fn redelivered_until(&self, index: GatewayIndex) -> Option<Position> {
        let moved = self.gateways[index.0].moved.as_ref().filter(|_| !self.broken(Mistake::RewindUnflagged))?;
        let until = moved.redelivered_until;
        // Before a break with history it says nothing of what comes after.
        (!self.is_broken_off(until)).then(|| self.in_present_epoch(until))
    }

    /// What a cursor of this gateway's present life says, whether it is voided or not.
    pub(super) fn of_this_life<'a>(&self, index: GatewayIndex, cursor: &'a Cursor) -> Option<&'a Place> {
        let gateway = &self.gateways[index.0];
        let is_own = gateway.incarnation != Revision(0) && cursor.incarnation == gateway.incarnation;
        cursor.places.get(&self.config.partition).filter(|_| is_own)
    }
}

impl super::state::Gateway {
    /// Nothing is known to have been taken but what the operator says.
    fn stand_where_moved(&mut self, moved: Moved) {
        self.page_knows = moved.since;
        self.presented = None;
        self.serial = Serial { session: moved.since, written: 0 };
        self.place = moved.place();
        self.moved = Some(moved);
        self.quiet = false;
        self.dirty = true;
    }
}
