//! What is durable: acks, quiet gateways, floors, cursor pages and the checkpoint.
//!
//! Owns the rules of promises 5 and 6. A gateway with nothing unacked is *quiet*: its cursor follows
//! the loop without being touched, in memory and in the store alike, because its page is written anew
//! before the checkpoint may pass the first change that concerns it.

use std::collections::{BTreeMap, HashSet};

use super::state::{GatewayIndex, PageState, RecordState, Sub, WriteKind};
use super::{Checkpointed, Machine, Mistake};
use crate::cursor::{Cursor, CursorText, Place, Serial};
use crate::error::{Code, Problem};
use crate::handle::{DeliveryMode, Mark};
use crate::limits;
use crate::position::{ClusterTime, Position};
use crate::store::checkpoint::{self, CheckpointRecord};
use crate::store::cursors::{self, CursorPage, CursorRecord};
use crate::store::{Expect, Revision, Write};
use crate::subscription::GatewayId;

/// The checkpoint as stored and the round of writes that moves it on.
#[derive(Debug)]
pub(super) struct CheckpointState {
    pub(super) stored: Checkpointed,
    /// The last change that was read.
    pub(super) witness: Option<Position>,
    /// The position that may be written once `pages_left` pages are.
    next: Option<Position>,
    pages_left: usize,
}

impl CheckpointState {
    pub(super) fn new(stored: Checkpointed) -> Self {
        Self { witness: stored.witness, stored, next: None, pages_left: 0 }
    }
}

/// What an ack says.
enum Acked {
    /// More than was known.
    News(GatewayIndex),
    /// What was known, or less.
    Known,
}

impl Machine {
    /// Takes an ack. Acks of superseded sessions are ignored; those of another gateway are refused.
    pub fn on_ack(&mut self, id: &GatewayId, cursor: &str) -> Result<(), Problem> {
        if let Acked::News(index) = self.acked(id, cursor, None)? {
            self.gateways[index.0].renewed = self.clock.now();
        }
        Ok(())
    }

    /// Takes an ack of what keeps a gateway's messages, with what it notes. The gateway itself has said nothing, so
    /// its leases are as they were.
    pub fn on_ack_kept(&mut self, id: &GatewayId, cursor: &str, mark: Mark) -> Result<(), Problem> {
        self.acked(id, cursor, Some(mark)).map(|_| ())
    }

    fn acked(&mut self, id: &GatewayId, cursor: &str, mark: Option<Mark>) -> Result<Acked, Problem> {
        let invalid = |detail: &str| Problem::new(Code::InvalidCursor, detail);
        let cursor = Cursor::decode(cursor).map_err(|error| invalid(&error.to_string()))?;
        let index =
            *self.gateway_ids.get(id).ok_or_else(|| Problem::new(Code::GatewayNotFound, format!("no gateway {id}")))?;
        let dead_counts = self.broken(Mistake::AckFromDeadSession);
        let gateway = &self.gateways[index.0];
        if cursor.incarnation != gateway.incarnation {
            return Err(invalid("this cursor belongs to another gateway"));
        }
        let place = cursor.places.get(&self.config.partition).ok_or_else(|| invalid("not a cursor of this hub"))?;
        if cursor.serial.session > gateway.sessions {
            return Err(invalid("this cursor is from a session that has not been"));
        }
        let is_newest = cursor.serial.session == gateway.sessions;
        let is_news = is_newest && cursor.serial > gateway.serial;
        if !(is_news || dead_counts) {
            if cursor.serial == gateway.serial && mark.is_some() {
                self.note(index, mark);
            }
            return Ok(Acked::Known);
        }
        if let Some(session) = &gateway.session
            && is_newest
        {
            if cursor.serial.written > session.outbox.written_count() {
                return Err(invalid("this cursor has not been handed out"));
            }
            session.outbox.acked(cursor.serial.written);
        }
        if mark.is_some() || self.mode(index) == DeliveryMode::Stream {
            self.note(index, mark);
        }
        self.take_ack(index, cursor.serial, place.clone());
        self.counters.acks += 1;
        if self.gateways[index.0].id.in_group().is_some() {
            self.finish_revocations(Some(index));
        }
        Ok(Acked::News(index))
    }

    /// Takes what is noted with an ack; nothing, if the gateway itself says what it has.
    pub(super) fn note(&mut self, index: GatewayIndex, mark: Option<Mark>) {
        let gateway = &mut self.gateways[index.0];
        gateway.mark = mark;
        gateway.owed = gateway.still_owed(gateway.owed);
        gateway.dirty = true;
    }

    fn take_ack(&mut self, index: GatewayIndex, serial: Serial, place: Place) {
        let gateway = &mut self.gateways[index.0];
        gateway.serial = serial;
        gateway.owed = gateway.still_owed(gateway.owed);
        gateway.dirty = true;
        if gateway.quiet {
            return;
        }
        gateway.place = place;
        self.settle(index);
    }

    /// Finds out whether a gateway has become quiet.
    pub(super) fn settle(&mut self, index: GatewayIndex) {
        let reached = self.reached;
        let unmatched_counts = self.broken(Mistake::AdvanceUnmatched);
        let gateway = &self.gateways[index.0];
        if gateway.quiet {
            return;
        }
        let Some(session) = &gateway.session else { return };
        let (last, waiting) = session.outbox.outstanding();
        let is_live = session.main.is_live() && session.main.at <= reached && session.extra.is_none();
        let all_acked = gateway.serial.session == session.number && gateway.serial.written >= last || last == 0;
        let blocked = !gateway.withheld.is_empty();
        if !(waiting || blocked) && all_acked && (is_live || unmatched_counts) {
            let gateway = &mut self.gateways[index.0];
            gateway.quiet = true;
            gateway.dirty = true;
        }
    }

    /// Ends a gateway's quiet: it has taken everything up to `at`, and no more is known.
    pub(super) fn freeze(&mut self, index: GatewayIndex, at: Position) {
        let known = self.known(index);
        let gateway = &mut self.gateways[index.0];
        if !gateway.quiet {
            return;
        }
        gateway.quiet = false;
        gateway.dirty = true;
        gateway.place = Place { position: gateway.place.position.max(at), known, unfinished: BTreeMap::new() };
    }

    /// While a gateway was quiet until now: what it was quiet about does not include this subscription.
    pub(super) fn hold(&mut self, index: GatewayIndex, name: Revision, floor: Position) {
        let unfinished = &mut self.gateways[index.0].place.unfinished;
        let entry = unfinished.entry(name).or_insert(floor);
        *entry = (*entry).min(floor);
    }

    /// The revision up to which everything of this gateway is known: no write below it is under way.
    pub(super) fn known(&self, index: GatewayIndex) -> Revision {
        let gateway = &self.gateways[index.0];
        gateway.in_flight.values().copied().min().unwrap_or(self.confirmed)
    }

    /// What the gateway has durably taken.
    pub(super) fn effective(&self, index: GatewayIndex) -> Place {
        let gateway = &self.gateways[index.0];
        if !gateway.quiet {
            return self.in_epoch(gateway.place.clone());
        }
        Place {
            position: gateway.place.position.max(self.reached),
            known: self.known(index),
            unfinished: BTreeMap::new(),
        }
    }

    /// From where a subscription must be served to someone who stands at `place`.
    pub(super) fn floor(&self, sub: &Sub, place: &Place) -> Position {
        let floor = Self::claimed(sub, place);
        // What another member has had is no business of this one, wherever it stands.
        if sub.assigned.is_some() { floor.max(sub.birth.0) } else { floor }
    }

    /// Up to where somebody who stands at `place` has had a subscription.
    fn claimed(sub: &Sub, place: &Place) -> Position {
        if sub.birth.1 > place.known {
            return sub.start.min(sub.birth.0);
        }
        let unfinished = sub.names_for(place.known).filter_map(|name| place.unfinished.get(&name).copied()).min();
        let base = match unfinished {
            Some(progress) => progress.min(place.position),
            // Parked and revived since: only a rewind stands before where it was parked. The revision
            // that named it then is not known any more, so any of them may have been its.
            None if sub.start_revision > place.known => place.lowest().min(sub.revived_after(place.known)),
            None => place.position,
        };
        // Filters that its maker did not know begin where they took over.
        let unknown = sub.segments.iter().find(|segment| segment.generation > place.known);
        unknown.map_or(base, |segment| base.min(segment.from))
    }

    /// A place with a catch-up of which nothing is known any more counts from its lowest position.
    pub(super) fn normalized(&self, index: GatewayIndex, mut place: Place) -> Place {
        let subs = self.gateways[index.0].subs.iter().map(|sub| &self.subs[sub.0]);
        let names: HashSet<Revision> = subs.flat_map(|sub| sub.names_for(Revision(0))).collect();
        if self.broken(Mistake::UnknownCatchUpDone) {
            place.unfinished.clear();
        }
        let is_unknown = |name: &Revision| !names.contains(name);
        if place.unfinished.keys().any(is_unknown) {
            // Unless one that is still here may have had the name, and has another by now.
            let mut own = self.gateways[index.0].subs.iter().map(|sub| &self.subs[sub.0]);
            let is_renamed = own.any(|sub| sub.birth.1 <= place.known && sub.start_revision > place.known);
            let gone = if is_renamed { HashSet::new() } else { self.gone_elsewhere(index) };
            place.unfinished.retain(|name, _| !(is_unknown(name) && gone.contains(name)));
        }
        if place.unfinished.keys().any(is_unknown) {
            place.position = place.lowest();
            place.unfinished.clear();
        }
        place
    }

    /// Writes what has become durable; the checkpoint follows once its pages are confirmed. Call once
    /// a second: that bounds the store's load.
    pub fn flush(&mut self) {
        if self.checkpoint.next.is_some() {
            return;
        }
        let mut dirty: BTreeMap<u16, ()> = BTreeMap::new();
        for (_, gateway) in &mut self.gateways {
            if std::mem::take(&mut gateway.dirty) {
                dirty.insert(cursors::page_of(&gateway.id), ());
            }
        }
        self.checkpoint.next = Some(self.restart_from());
        let early = self.broken(Mistake::CheckpointBeforePages);
        self.checkpoint.pages_left = if early { 0 } else { dirty.len() };
        for page in dirty.keys().copied().collect::<Vec<_>>() {
            self.write_page(page);
        }
        if self.checkpoint.pages_left == 0 {
            self.write_checkpoint();
        }
    }

    /// Where the one reading begins after a restart: behind those who are near the head, so that it serves all
    /// of them, and no further back than costs little. Who is further behind catches up by himself and holds
    /// nothing back.
    fn restart_from(&self) -> Position {
        let recent = self.reached.time.0.saturating_sub(limits::checkpoint_hold_seconds << 32);
        let floor = Position::boundary(self.reached.epoch, ClusterTime(recent));
        let floor = floor.max(self.window.last(self.config.hold_bytes_max)).max(self.checkpoint.stored.position);
        // Who has nothing is served from nowhere.
        let served = self.gateways.iter().filter(|(_, gateway)| !gateway.quiet && !gateway.subs.is_empty());
        let places = served.map(|(_, gateway)| gateway.place.lowest());
        // At a boundary: what somebody else says of a position is not proved.
        let lowest = places.filter(|place| *place >= floor).min().map(Position::floor_boundary);
        lowest.map_or(self.reached, |lowest| lowest.max(self.checkpoint.stored.position).min(self.reached))
    }

    fn write_page(&mut self, page: u16) {
        let mut content = CursorPage { write: self.unique(), ..CursorPage::default() };
        let mut presented = Vec::new();
        for (index, gateway) in &self.gateways {
            if cursors::page_of(&gateway.id) == page && gateway.incarnation != Revision(0) {
                // One of an earlier epoch stays as it is until a session starts from it: only then is it
                // found that its history is lost.
                let place = if gateway.quiet { self.effective(GatewayIndex(index)) } else { gateway.place.clone() };
                let moved = gateway.moved.as_ref().map_or(0, |moved| moved.since);
                let record = CursorRecord::new(gateway.incarnation, gateway.serial, &place, gateway.quiet, moved);
                let text = |text: &CursorText| text.as_str().to_owned();
                let mark = gateway.mark.as_ref().map(|mark| mark.note.as_ref().to_owned());
                let floor = gateway.mark.as_ref().and_then(|mark| mark.floor.as_ref().map(text));
                let record = CursorRecord { mark, floor, ..record };
                content.cursors.insert(gateway.id.to_string(), record);
                if gateway.presented.is_some() && gateway.record == RecordState::Free && gateway.removing.is_none() {
                    presented.push(GatewayIndex(index));
                }
            }
        }
        presented.truncate(limits::store_txn_operations_max - 1);
        let state = &self.pages[usize::from(page)];
        let expect = if state.exists { Expect::At(state.revision) } else { Expect::Absent };
        let key = cursors::key(&self.config.partition, page);
        let mut writes = vec![Write { key, expect, value: Some(content.encode()) }];
        writes.extend(presented.iter().map(|index| self.write_without_presented(*index)));
        self.write(WriteKind::Page(page, presented), writes);
    }

    /// The page says where the gateway stands: its own record need not any longer.
    fn write_without_presented(&mut self, index: GatewayIndex) -> Write {
        let gateway = &mut self.gateways[index.0];
        gateway.presented = None;
        gateway.record = RecordState::Busy;
        let (sessions, moved) = (gateway.sessions, gateway.moved.clone());
        let owed = gateway.still_owed(gateway.owed);
        let record = self.gateway_record(index, sessions, None, owed, moved);
        self.record_write_of(index, &record)
    }

    /// A page is stored.
    pub(super) fn on_page_written(&mut self, page: u16, presented: &[GatewayIndex], revision: Revision) {
        self.pages[usize::from(page)] = PageState { revision, exists: true };
        for index in presented {
            let gateway = &mut self.gateways[index.0];
            gateway.revision = revision;
            gateway.record = RecordState::Free;
            self.next_request(*index);
        }
        let waited_for = self.checkpoint.pages_left > 0;
        self.checkpoint.pages_left = self.checkpoint.pages_left.saturating_sub(1);
        if waited_for && self.checkpoint.pages_left == 0 {
            self.write_checkpoint();
        }
    }

    fn write_checkpoint(&mut self) {
        let Some(next) = self.checkpoint.next else { return };
        let stored = &self.checkpoint.stored;
        if next <= stored.position && stored.revision.is_some() {
            self.checkpoint.next = None;
            return;
        }
        let record = CheckpointRecord {
            position: next,
            definition: stored.definition.clone(),
            identity: stored.identity.clone(),
            restored: stored.restored,
            risen: stored.risen,
            witness: self.witness(),
            write: self.unique(),
        };
        let stored = &self.checkpoint.stored;
        let expect = stored.revision.map_or(Expect::Absent, Expect::At);
        let key = checkpoint::key(&self.config.partition);
        self.write(WriteKind::Checkpoint(next), vec![Write { key, expect, value: Some(record.encode()) }]);
    }

    /// The checkpoint is stored.
    pub(super) fn on_checkpoint_written(&mut self, position: Position, revision: Revision) {
        self.checkpoint.stored.position = position;
        self.checkpoint.stored.revision = Some(revision);
        self.checkpoint.next = None;
    }

    /// Of the deployment whose changes these are, where it can be told.
    pub fn identity(&self) -> Option<&str> {
        self.checkpoint.stored.identity.as_deref()
    }

    /// Where a restart would begin.
    pub fn checkpoint(&self) -> Position {
        self.checkpoint.stored.position
    }

    /// Whether everything durable is stored: for a drained shutdown.
    pub fn is_flushed(&self) -> bool {
        self.checkpoint.next.is_none() && self.gateways.iter().all(|(_, gateway)| !gateway.dirty)
    }
}
