//! Sessions: connecting, where one resumes, how its lanes are laid out, and how it ends.
//!
//! Owns promises 5, 7, 9 and 10 as far as a session's start and its progress go. The *main* lane is the
//! live tail, or the one catch-up that leads everyone there; the *extra* lane serves, once the main lane
//! is live, those who start further back.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::compose::resync_item;
use super::lane::{Lane, Mode};
use super::notices::note_resync;
use super::outcomes::unanswered;
use super::state::{Gateway, GatewayIndex, OpenRequest, RecordRequest, RecordState, Session, SubLane, WriteKind};
use super::{Answer, Machine, Mistake, Waiter};
use crate::change::ResyncReason;
use crate::clock::Instant;
use crate::cursor::{Cursor, Place, Serial};
use crate::delivery::frame::{CloseReason, Expired, ExpiredReason};
use crate::delivery::outbox::{CatchUps, Identity, Item, LaneName, Outbox};
use crate::error::{Code, Problem};
use crate::handle::{DeliveryMode, Hello};
use crate::limits;
use crate::matching::SubscriptionIndex;
use crate::position::Position;
use crate::store::gateways::{GatewayRecord, Moved, Owed};
use crate::store::subscriptions::ParkedReason;
use crate::store::{Expect, Revision, Write, gateways};
use crate::subscription::GatewayId;

/// What the gateway is told of a parking.
pub(super) fn expired_reason(reason: ParkedReason) -> ExpiredReason {
    match reason {
        ParkedReason::Lease | ParkedReason::Operator => ExpiredReason::Lease,
        ParkedReason::TooCostly => ExpiredReason::TooCostly,
    }
}

impl Machine {
    /// Asks for a session. The answer comes once its number is stored.
    pub fn on_open(&mut self, hello: Hello, waiter: Waiter) {
        let cursor = match hello.cursor.as_ref().map(|text| Cursor::decode(text.as_str())).transpose() {
            Ok(cursor) => cursor,
            Err(error) => return self.answer(waiter, Err(Problem::new(Code::InvalidCursor, error.to_string()))),
        };
        if let Err(problem) = self.check_room(&hello.gateway) {
            return self.answer(waiter, Err(problem));
        }
        let index = self.gateway_or_new(&hello.gateway);
        let request = OpenRequest { hello, waiter, cursor, owed: None, abandoned: false };
        let gateway = &mut self.gateways[index.0];
        let is_new = gateway.session.is_none();
        if is_new
            && self.gateways.iter().filter(|(_, other)| other.session.is_some()).count() >= self.config.sessions_max
        {
            let detail = format!("{} gateways are connected, as many as sessions.max allows", self.config.sessions_max);
            return self.answer(waiter, Err(Problem::new(Code::RateLimited, detail).retry_after(5)));
        }
        self.request(index, RecordRequest::Open(request));
    }

    /// Has something written to a gateway's own record, after what is asked for already.
    pub(super) fn request(&mut self, index: GatewayIndex, request: RecordRequest) {
        let gateway = &mut self.gateways[index.0];
        if gateway.record == RecordState::Doubtful {
            return self.answer(request.waiter(), Err(unanswered()));
        }
        if gateway.removing.is_some() || gateway.waiting.len() >= limits::opens_waiting_max {
            let problem = Problem::new(Code::RateLimited, "this gateway's record is being written").retry_after(1);
            return self.answer(request.waiter(), Err(problem));
        }
        gateway.waiting.push_back(request);
        self.next_request(index);
    }

    /// Refuses a gateway that is not known where there are as many as there may be.
    pub(super) fn check_room(&self, id: &GatewayId) -> Result<(), Problem> {
        if self.gateways.len() < limits::gateways_max || self.gateway_ids.contains_key(id) {
            return Ok(());
        }
        let detail = format!("the hub knows {} gateways, as many as it may", limits::gateways_max);
        Err(Problem::new(Code::GlobalQuotaExceeded, detail).retry_after(60))
    }

    /// The store does not say what came of a write to this gateway's record: nobody waits for it.
    pub(super) fn doubt_record(&mut self, index: GatewayIndex) {
        self.gateways[index.0].record = RecordState::Doubtful;
        for request in std::mem::take(&mut self.gateways[index.0].waiting) {
            self.answer(request.waiter(), Err(unanswered()));
        }
    }

    /// Writes what is asked for, one after the other.
    pub(super) fn next_request(&mut self, index: GatewayIndex) {
        let gateway = &mut self.gateways[index.0];
        if gateway.record != RecordState::Free || gateway.removing.is_some() {
            return;
        }
        let Some(request) = gateway.waiting.pop_front() else { return };
        gateway.record = RecordState::Busy;
        match request {
            RecordRequest::Open(request) => self.write_open(index, request),
            RecordRequest::Move(request) => self.write_move(index, request),
            RecordRequest::Serve(request) => self.write_serve(index, request),
        }
    }

    fn write_open(&mut self, index: GatewayIndex, mut request: OpenRequest) {
        if let Err(problem) = self.check_mode(index, request.hello.transport.mode()) {
            self.gateways[index.0].record = RecordState::Free;
            self.answer(request.waiter, Err(problem));
            return self.next_request(index);
        }
        // The same number comes again where the answer to the first attempt was lost: nothing of that one was sent.
        if request.hello.number < self.gateways[index.0].sessions {
            let gateway = &mut self.gateways[index.0];
            gateway.record = RecordState::Free;
            let is_moved = gateway.moved.as_ref().is_some_and(|moved| moved.since == gateway.sessions);
            // After a move it is to come again, after a newer session it is not.
            let reason = if is_moved { CloseReason::Rewound } else { CloseReason::Superseded };
            self.answer(request.waiter, Ok(Answer::Over(reason, request.hello.number)));
            return self.next_request(index);
        }
        if request.cursor.as_ref().is_some_and(|cursor| self.is_unissued(index, cursor)) {
            self.note_unissued(index);
            request.cursor = None;
        }
        if request.cursor.is_none() && request.hello.transport.mode() == DeliveryMode::Stream {
            self.begin_at_floor(index, &mut request);
        }
        request.owed = self.owed_by_next(index, request.cursor.as_ref(), &request.hello);
        let own = self.own(index, request.cursor.as_ref());
        let has_a_say = own.is_some();
        let presented = request.hello.cursor.as_ref().filter(|_| has_a_say).map(ToString::to_string);
        // Decided once: what an ack says meanwhile must not make another of it than what is stored.
        request.cursor = request.cursor.take().filter(|_| has_a_say);
        let (owed, gateway) = (request.owed, &self.gateways[index.0]);
        let presented = presented.or_else(|| gateway.presented.clone());
        let record = self.gateway_record(index, request.hello.number, presented, owed, gateway.moved.clone());
        let write = self.record_write_of(index, &record);
        self.write(WriteKind::Open(index, Box::new(request)), vec![write]);
    }

    /// What another transport has kept for the gateway was acked before the gateway had it. One that does not say what
    /// it has is served from where it is known to have had everything.
    fn begin_at_floor(&self, index: GatewayIndex, request: &mut OpenRequest) {
        let gateway = &self.gateways[index.0];
        let had = gateway.had_of_kept().filter(|cursor| self.of_this_life(index, cursor).is_some());
        if had.is_some() {
            request.hello.cursor = gateway.mark.as_ref().and_then(|mark| mark.floor.clone());
            request.cursor = had;
        }
    }

    pub(super) fn gateway_record(
        &self,
        index: GatewayIndex,
        sessions: u64,
        presented: Option<String>,
        owed: Option<Owed>,
        moved: Option<Moved>,
    ) -> GatewayRecord {
        let incarnation = Some(self.gateways[index.0].incarnation).filter(|born| *born != Revision(0));
        let delivery = self.gateways[index.0].delivery;
        GatewayRecord { incarnation, sessions, presented, owed, moved, delivery, write: 0 }
    }

    pub(super) fn record_write_of(&mut self, index: GatewayIndex, record: &GatewayRecord) -> Write {
        let record = GatewayRecord { write: self.unique(), ..record.clone() };
        let gateway = &self.gateways[index.0];
        let expect = if gateway.revision == Revision(0) { Expect::Absent } else { Expect::At(gateway.revision) };
        let key = gateways::key(&self.config.partition, &gateway.id);
        Write { key, expect, value: Some(record.encode()) }
    }

    /// A gateway's index; a new one is not stored before something of it is.
    pub(super) fn gateway_or_new(&mut self, id: &GatewayId) -> GatewayIndex {
        if let Some(index) = self.gateway_ids.get(id) {
            return *index;
        }
        let place = Place { position: self.reached, known: self.confirmed, unfinished: BTreeMap::new() };
        let index = GatewayIndex(self.gateways.insert(Gateway {
            id: id.clone(),
            incarnation: Revision(0),
            revision: Revision(0),
            sessions: 0,
            serial: Serial::default(),
            place,
            quiet: true,
            subs: BTreeSet::new(),
            withheld: BTreeSet::new(),
            session: None,
            dirty: false,
            in_flight: BTreeMap::new(),
            renewed: Instant::default(),
            left: None,
            sent: Position::default(),
            idle: None,
            record: RecordState::Free,
            waiting: VecDeque::new(),
            presented: None,
            owed: None,
            moved: None,
            page_knows: 0,
            delivery: None,
            mark: None,
            removing: None,
        }));
        self.gateway_ids.insert(id.clone(), index);
        index
    }

    /// The session's number is stored: the old session ends and the new one begins.
    pub(super) fn on_opened(&mut self, index: GatewayIndex, request: OpenRequest, revision: Revision) {
        let OpenRequest { hello, waiter, cursor, owed, abandoned } = request;
        // If nobody waits for it any more, the number is used up all the same.
        let is_same = self.gateways[index.0].sessions == hello.number;
        self.end_session(index, if abandoned || is_same { CloseReason::Draining } else { CloseReason::Superseded });
        let gateway = &mut self.gateways[index.0];
        gateway.record = RecordState::Free;
        gateway.revision = revision;
        gateway.sessions = hello.number;
        if gateway.incarnation == Revision(0) {
            gateway.incarnation = revision;
        }
        gateway.dirty = true;
        // What an ack has said since it was sent is in no record before the next.
        gateway.owed = gateway.still_owed(owed);
        if let (Some(_), Some(text)) = (self.own(index, cursor.as_ref()), &hello.cursor) {
            self.gateways[index.0].presented = Some(text.to_string());
        }
        if abandoned {
            return self.next_request(index);
        }
        self.counters.sessions += 1;
        let place = self.resume_place(index, cursor.as_ref());
        let place = self.normalized(index, place);
        if self.own(index, cursor.as_ref()).is_some() && hello.transport.mode() == DeliveryMode::Stream {
            // It has said itself what it has.
            self.note(index, None);
        }
        let gateway = &mut self.gateways[index.0];
        if !gateway.quiet {
            // What it stands for from now on: becoming quiet goes by this place alone.
            gateway.place = place.clone();
        }
        let owed = gateway.owed.map(|owed| self.owed_item(owed, &place));
        let unheard = |index: &&SubscriptionIndex| {
            let sub = &self.subs[index.0];
            self.floor(sub, &place) <= sub.birth.0
        };
        let with_subs = self.gateways[index.0].subs.iter().filter(unheard).filter_map(|sub| self.lost_with(*sub));
        let lost = owed.into_iter().chain(with_subs).chain(self.without_filter(index, &place));
        let lost: Vec<Item> = lost.collect();
        let gateway = &self.gateways[index.0];
        lost.iter().for_each(|item| note_resync(&gateway.id, item));
        let node = hello.node.as_ref().unwrap_or(&self.config.node);
        let identity = Identity {
            gateway: gateway.id.clone(),
            node: Arc::clone(node),
            partition: self.config.partition.clone(),
            incarnation: gateway.incarnation,
            session: gateway.sessions,
            heartbeat_seconds: limits::heartbeat_seconds,
            unacked_bytes_max: hello.unacked_bytes_max.min(limits::unacked_bytes_max),
            catchups_max: self.config.catchups_max,
            redelivered_until: self.redelivered_until(index),
        };
        let soft = self.config.outbox_bytes_soft;
        let (drained, budget) = (Arc::clone(&self.drained), Arc::clone(&self.budget));
        let outbox = Arc::new(Outbox::new(identity, &place, soft, drained, budget, Arc::clone(&self.latency)));
        let number = gateway.sessions;
        let session = Session {
            number,
            outbox: Arc::clone(&outbox),
            main: Lane::new(Mode::Window, place.position, &self.clock),
            extra: None,
            transport: hello.transport,
            node: Arc::clone(node),
            since: self.clock.wall(),
            begun: self.clock.now(),
        };
        self.gateways[index.0].session = Some(session);
        self.member_is_here(index);
        self.begin(index, place);
        self.note_begun(index);
        if !lost.is_empty() {
            self.freeze(index, self.reached);
            // What is owed comes before all else, so that no other ack speaks for it.
            self.push_all(index, lost);
        }
        self.say_parked(index);
        self.say_revoked(index);
        self.answer(waiter, Ok(Answer::Session(outbox, number)));
        self.work();
        self.next_request(index);
    }

    /// Where a session starts: what a presented cursor says, which counts as an ack or as a rewind, or
    /// what is stored.
    fn resume_place(&mut self, index: GatewayIndex, cursor: Option<&Cursor>) -> Place {
        let serial = self.own(index, cursor).map(|(serial, _)| serial);
        let (place, is_news) = self.start(index, cursor);
        let gateway = &mut self.gateways[index.0];
        gateway.serial = serial.unwrap_or(gateway.serial);
        if is_news {
            gateway.place = place.clone();
            gateway.quiet = false;
        }
        self.in_epoch(place)
    }

    /// The place, in the epoch of its maker, from which a session with this cursor starts, and whether
    /// that is other than what is stored.
    pub(super) fn start(&self, index: GatewayIndex, cursor: Option<&Cursor>) -> (Place, bool) {
        let gateway = &self.gateways[index.0];
        let stored = if gateway.quiet { self.effective(index) } else { gateway.place.clone() };
        let Some((serial, place)) = self.own(index, cursor) else { return (stored, false) };
        // What a quiet gateway has acked says less than that it is quiet, unless that was of a history that is no more.
        let says_less = gateway.quiet && serial >= gateway.serial && place.position <= stored.position;
        if says_less && !self.is_broken_off(place.position) {
            return (stored, false);
        }
        (self.place_of(index, serial, place), true)
    }

    /// A presented cursor, if it is one of this gateway's present life and has a say.
    pub(super) fn own<'a>(&self, index: GatewayIndex, cursor: Option<&'a Cursor>) -> Option<(Serial, &'a Place)> {
        let cursor = cursor?;
        let place = self.of_this_life(index, cursor)?;
        (!self.is_voided(index, cursor.serial)).then_some((cursor.serial, place))
    }

    /// A place of an earlier epoch counts from the start of its cluster time; one from before a break
    /// with history, from that break.
    pub(super) fn in_epoch(&self, mut place: Place) -> Place {
        let epoch = self.reached.epoch;
        if place.position.epoch >= epoch {
            return place;
        }
        if let Some(restored) = self.broken_off_at(place.position) {
            place = Place { position: restored, known: place.known, unfinished: BTreeMap::new() };
        }
        place.position = self.in_present_epoch(place.position);
        for position in place.unfinished.values_mut() {
            *position = self.in_present_epoch(*position);
        }
        place
    }

    /// A position of an earlier epoch, as the start of its cluster time.
    pub(super) fn in_present_epoch(&self, position: Position) -> Position {
        let epoch = self.reached.epoch;
        if position.epoch >= epoch { position } else { Position::boundary(epoch, position.time) }
    }

    /// A rewind may go back to before the oldest filter that is still known: what that one's
    /// predecessors would have matched can no longer be said.
    fn without_filter(&self, index: GatewayIndex, place: &Place) -> Vec<Item> {
        let mut ranges: BTreeMap<(Position, Position), Vec<SubscriptionIndex>> = BTreeMap::new();
        for sub_index in &self.gateways[index.0].subs {
            let sub = &self.subs[sub_index.0];
            let oldest = sub.segments[0].from;
            let from = self.floor(sub, place).max(sub.birth.0);
            if sub.revision != Revision(0) && from < oldest {
                ranges.entry((from, oldest)).or_default().push(*sub_index);
            }
        }
        let said = ranges.into_iter().map(|((from, to), subs)| {
            resync_item(&self.subs, LaneName::Joining, (from, to), (ResyncReason::HistoryLost, None), subs)
        });
        said.collect()
    }

    fn say_parked(&mut self, index: GatewayIndex) {
        let mut by_reason: HashMap<ExpiredReason, Vec<_>> = HashMap::new();
        for sub in &self.gateways[index.0].subs {
            let sub = &self.subs[sub.0];
            if let Some((_, reason, _)) = sub.parked {
                by_reason.entry(expired_reason(reason)).or_default().push(sub.key.id.clone());
            }
        }
        for reason in [ExpiredReason::Lease, ExpiredReason::TooCostly] {
            if let Some(subscription_ids) = by_reason.remove(&reason) {
                self.push_all(index, vec![Item::Expired(Expired { subscription_ids, reason })]);
            }
        }
    }

    /// Lays out a session's lanes for someone who stands at `place`.
    pub(super) fn begin(&mut self, index: GatewayIndex, place: Place) {
        let place = self.normalized(index, place);
        let members: Vec<_> = self.gateways[index.0].subs.iter().copied().collect();
        let mut main = Lane::new(Mode::Window, place.position, &self.clock);
        let mut lowest: Option<Position> = None;
        let mut extra: Option<Lane> = None;
        let mut unfinished = CatchUps::default();
        let mut blocked = BTreeMap::new();
        let unripe = members.iter().any(|sub| self.subs[sub.0].is_unripe(self.reached));
        let is_live = place.position >= self.reached && !unripe;
        for sub_index in members {
            let floor = self.floor(&self.subs[sub_index.0], &place);
            self.subs[sub_index.0].rewind_to(floor);
            self.note_withheld(sub_index);
            let sub = &self.subs[sub_index.0];
            if sub.revision != Revision(0) {
                blocked.extend(sub.withheld().map(|withheld| (sub_index, withheld)));
            }
            if !sub.is_active() {
                continue;
            }
            let lane = if floor < place.position { SubLane::Extra } else { SubLane::Main };
            if lane == SubLane::Extra {
                let extra = extra.get_or_insert_with(|| Lane::new(Mode::Waiting, floor, &self.clock));
                extra.at = extra.at.min(floor);
                extra.add(sub_index, sub, floor);
                unfinished.add(sub.name(), !sub.is_replaced(), floor);
            } else if !is_live {
                main.add(sub_index, sub, floor);
                lowest = Some(lowest.map_or(floor, |lowest| lowest.min(floor)));
            }
            self.subs[sub_index.0].lane = lane;
        }
        // Where nobody has to be served there is nothing to read.
        main.at = main.at.max(lowest.unwrap_or(self.reached));
        if is_live {
            main.become_live();
        }
        let gateway = &mut self.gateways[index.0];
        if gateway.quiet && !(is_live && extra.is_none()) {
            // Until everyone is live, what is durable is what the session starts from.
            gateway.quiet = false;
            gateway.dirty = true;
            gateway.place = place.clone();
        }
        let known = self.known(index);
        let Some(session) = &mut self.gateways[index.0].session else { return };
        session.outbox.restart((place.position, known), unfinished, blocked);
        session.main = main;
        session.extra = extra;
        self.busy.insert(index);
    }

    /// After an overflow: everything that was not written is taken from a catch-up instead.
    pub(super) fn restart_session(&mut self, index: GatewayIndex) {
        let drops = self.broken(Mistake::OverflowDrops);
        self.leave_rides(index);
        let Some(session) = &self.gateways[index.0].session else { return };
        let written = session.outbox.cut();
        if !drops {
            self.begin(index, written.place());
        }
    }

    /// Takes a session's lanes out of their readings.
    fn leave_rides(&mut self, index: GatewayIndex) {
        let Some(mut session) = self.gateways[index.0].session.take() else { return };
        self.alight(index, LaneName::Main, &mut session.main);
        if let Some(extra) = &mut session.extra {
            self.alight(index, LaneName::Extra, extra);
        }
        self.gateways[index.0].session = Some(session);
    }

    /// Ends a gateway's session, if it has one.
    pub(super) fn end_session(&mut self, index: GatewayIndex, reason: CloseReason) {
        self.note_ended(index, reason);
        self.leave_rides(index);
        self.busy.remove(&index);
        if let Some(session) = self.gateways[index.0].session.take() {
            self.gateways[index.0].left = Some(self.clock.now());
            self.gateways[index.0].sent = self.horizon.max(self.reached);
            // Its transport may hold it for long, and nobody counts it any more. What was not written comes again.
            session.outbox.cut();
            session.outbox.push(Item::Closed(reason));
        }
        for sub in &self.gateways[index.0].subs {
            self.subs[sub.0].lane = SubLane::Main;
        }
    }

    /// A connection is gone.
    pub fn on_disconnect(&mut self, id: &GatewayId, number: u64) {
        let Some(index) = self.gateway_ids.get(id).copied() else { return };
        // Another attempt under the same number may have taken its place.
        let is_over = |session: &Session| session.number == number && session.outbox.is_abandoned();
        if self.gateways[index.0].session.as_ref().is_some_and(is_over) {
            self.end_session(index, CloseReason::Superseded);
        }
    }

    /// Ends all sessions.
    pub fn close_all(&mut self, reason: CloseReason) {
        let indices: Vec<_> = self.gateways.iter().map(|(index, _)| GatewayIndex(index)).collect();
        for index in indices {
            self.end_session(index, reason);
        }
    }

    /// Says progress to every session, and sees to it that they hold no more than they may. Call at least once a second.
    pub fn say_progress(&mut self) {
        let gone = |gateway: &Gateway| gateway.session.as_ref().is_some_and(|session| session.outbox.is_abandoned());
        let gone: Vec<_> =
            self.gateways.iter().filter(|(_, g)| gone(g)).map(|(index, _)| GatewayIndex(index)).collect();
        for index in gone {
            self.end_session(index, CloseReason::Superseded);
        }
        for (_, gateway) in &self.gateways {
            let Some(session) = &gateway.session else { continue };
            session.outbox.age();
            let live = session.main.is_live();
            let main = if live { session.main.at.max(self.reached) } else { session.main.at };
            let behind = session.extra.as_ref().map_or(0, Lane::len) + gateway.withheld.len();
            let catching_up = if live { behind } else { gateway.subs.len() } as u64;
            let extra = session.extra.as_ref().map(|lane| lane.at);
            let boundary = main.floor_boundary();
            session.outbox.push(Item::Progress { main, extra, boundary, catching_up });
        }
        self.relieve();
    }
}
