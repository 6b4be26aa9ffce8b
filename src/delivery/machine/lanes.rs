//! Sessions and catch-ups: how a gateway gets from where it stands to the live tail.
//!
//! Owns connecting, the two lanes of a session and the join. The *main* lane is the live tail, or the
//! one catch-up that leads everyone there; the *extra* lane serves, once the main lane is live, those
//! who start further back. Reconnect, overflow, `startAt`, revival and PUT differ only in who is in
//! which lane and from where.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use slab::Slab;

use super::{
    Answer, Effect, Gateway, GatewayIndex, Machine, Mistake, OpenRequest, ReplayId, Session, Sub, SubLane, Waiter,
    WriteKind, compose, concerns, resync_item,
};
use crate::change::{Flags, ResyncReason};
use crate::clock::Instant;
use crate::cursor::{Cursor, Place, Serial};
use crate::delivery::body::SharedChange;
use crate::delivery::frame::{CloseReason, Expired, ExpiredReason};
use crate::delivery::outbox::{Identity, Item, LaneName, Outbox, ResyncItem};
use crate::delivery::window::Entry;
use crate::error::{Code, Problem};
use crate::handle::Hello;
use crate::limits;
use crate::matching::{Match, Matcher, SubscriptionIndex};
use crate::position::Position;
use crate::source::{Batch, Event, Gap, SourceError};
use crate::store::gateways::{self, GatewayRecord};
use crate::store::subscriptions::ParkedReason;
use crate::store::{Expect, Revision, Write};
use crate::subscription::GatewayId;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Takes what the live path finds.
    Live,
    /// Waits for the main lane to be live.
    Waiting,
    /// Reads the window.
    Window,
    /// Reads the source.
    Replay { id: ReplayId, fetching: bool },
}

/// One filter of one subscription in a catch-up.
#[derive(Clone, Copy, Debug)]
struct Member {
    sub: SubscriptionIndex,
    generation: Revision,
    /// Nothing at or before this is delivered again.
    floor: Position,
}

/// A part of a session that moves on together.
#[derive(Debug)]
pub(super) struct Lane {
    mode: Mode,
    /// Everything up to here is in the outbox; for a live lane, the loop's position if that is later.
    pub(super) at: Position,
    matcher: Matcher,
    members: Slab<Member>,
    by_sub: HashMap<SubscriptionIndex, Vec<usize>>,
}

impl Lane {
    fn new(mode: Mode, at: Position) -> Self {
        let (members, by_sub) = (Slab::new(), HashMap::new());
        Self { mode, at, matcher: Matcher::new(), members, by_sub }
    }

    pub(super) fn is_live(&self) -> bool {
        self.mode == Mode::Live
    }

    /// How many subscriptions are in it; a live lane does not count them.
    pub(super) fn len(&self) -> usize {
        self.by_sub.len()
    }

    fn replay(&self) -> Option<ReplayId> {
        match self.mode {
            Mode::Replay { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Adds all filters of a subscription that may still apply after `floor`. One that is here already
    /// is served from there again.
    fn add(&mut self, index: SubscriptionIndex, sub: &Sub, floor: Position) {
        for segment in &sub.segments {
            if segment.until.is_none_or(|until| until > floor) {
                let here = self.by_sub.get(&index).into_iter().flatten();
                let here = here.copied().find(|member| self.members[*member].generation == segment.generation);
                if let Some(member) = here {
                    let member = &mut self.members[member];
                    member.floor = member.floor.min(floor);
                    continue;
                }
                let member = self.members.insert(Member { sub: index, generation: segment.generation, floor });
                self.matcher.insert(SubscriptionIndex(member as u32), Arc::clone(&segment.filter));
                self.by_sub.entry(index).or_default().push(member);
            }
        }
    }

    /// Removes a subscription; whether it was here.
    fn remove(&mut self, index: SubscriptionIndex) -> bool {
        let Some(members) = self.by_sub.remove(&index) else { return false };
        for member in members {
            self.matcher.remove(SubscriptionIndex(member as u32));
            self.members.remove(member);
        }
        true
    }

    fn become_live(&mut self) {
        *self = Self::new(Mode::Live, self.at);
    }

    /// The messages that an entry of the stream makes for its members.
    fn items(&mut self, name: LaneName, entry: &Entry, subs: &Slab<Sub>, flags: Flags) -> Vec<Item> {
        match entry {
            Entry::Change(change) => self.change_items(name, change, subs, flags),
            Entry::Gap(gap) => self.gap_items(name, gap, subs),
        }
    }

    fn change_items(
        &mut self,
        name: LaneName,
        change: &Arc<SharedChange>,
        subs: &Slab<Sub>,
        flags: Flags,
    ) -> Vec<Item> {
        let mut matches = Vec::new();
        self.matcher.matches(change, &mut matches);
        let at = change.position;
        let mut eligible: Vec<(SubscriptionIndex, Match)> = Vec::new();
        let mut found = Vec::new();
        for hit in matches {
            let member = self.members[hit.subscription.0 as usize];
            let sub = &subs[member.sub.0 as usize];
            let Some(segment) = sub.segments.iter().find(|segment| segment.generation == member.generation) else {
                continue;
            };
            let is_current = sub.current().generation == segment.generation;
            let in_range = segment.from < at && segment.until.is_none_or(|until| at <= until);
            if at > member.floor && in_range && (!is_current || sub.may_deliver(at)) {
                eligible.push((member.sub, hit));
                found.push((segment, hit.verdict));
            }
        }
        compose(name, change, subs, &eligible, &found, flags)
    }

    fn gap_items(&self, name: LaneName, gap: &Gap, subs: &Slab<Sub>) -> Vec<Item> {
        let range = (gap.position.floor_boundary(), gap.position);
        self.lost_items(name, gap, range, subs)
    }

    fn lost_items(&self, name: LaneName, gap: &Gap, range: (Position, Position), subs: &Slab<Sub>) -> Vec<Item> {
        let concerned = self.by_sub.keys().copied().filter(|index| concerns(gap, &subs[index.0 as usize]));
        let concerned: Vec<_> = concerned.collect();
        if concerned.is_empty() {
            return Vec::new();
        }
        vec![resync_item(subs, name, range, gap.reason, concerned)]
    }
}

impl Machine {
    /// Asks for a session. The answer comes once its number is stored.
    pub fn on_open(&mut self, hello: Hello, waiter: Waiter) {
        let cursor = match hello.cursor.as_ref().map(|text| Cursor::decode(text.as_str())).transpose() {
            Ok(cursor) => cursor,
            Err(error) => return self.answer(waiter, Err(Problem::new(Code::InvalidCursor, error.to_string()))),
        };
        let index = self.gateway_or_new(&hello.gateway);
        let gateway = &mut self.gateways[index.0];
        if gateway.record_busy || gateway.removing.is_some() {
            let problem = Problem::new(Code::RateLimited, "this gateway's record is being written").retry_after(1);
            return self.answer(waiter, Err(problem));
        }
        gateway.record_busy = true;
        let incarnation = (gateway.incarnation != Revision(0)).then_some(gateway.incarnation);
        let sessions = gateway.sessions + 1;
        let expect = if gateway.revision == Revision(0) { Expect::Absent } else { Expect::At(gateway.revision) };
        let record = GatewayRecord { incarnation, sessions, write: self.unique() };
        let key = gateways::key(self.config.partition.backend(), &hello.gateway);
        let request = Box::new(OpenRequest { hello, waiter, cursor, abandoned: false });
        self.write(WriteKind::Open(index, request), vec![Write { key, expect, value: Some(record.encode()) }]);
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
            record_busy: false,
            removing: None,
        }));
        self.gateway_ids.insert(id.clone(), index);
        index
    }

    /// The session's number is stored: the old session ends and the new one begins.
    pub(super) fn on_opened(&mut self, index: GatewayIndex, request: OpenRequest, revision: Revision) {
        let OpenRequest { hello, waiter, cursor, abandoned } = request;
        // If nobody waits for it any more, the number is used up all the same.
        self.end_session(index, if abandoned { CloseReason::Draining } else { CloseReason::Superseded });
        let gateway = &mut self.gateways[index.0];
        gateway.record_busy = false;
        gateway.revision = revision;
        gateway.sessions += 1;
        if gateway.incarnation == Revision(0) {
            gateway.incarnation = revision;
        }
        gateway.dirty = true;
        if abandoned {
            return;
        }
        self.counters.sessions += 1;
        let (place, lost) = self.resume_place(index, cursor);
        let place = self.normalized(index, place);
        let gateway = &mut self.gateways[index.0];
        let is_restored = matches!(&lost, Some(Item::Resync(resync)) if resync.reason == ResyncReason::Restored);
        if !gateway.quiet && !is_restored {
            // What it stands for from now on: becoming quiet goes by this place alone.
            gateway.place = place.clone();
        }
        let lost: Vec<Item> = lost.into_iter().chain(self.without_filter(index, &place)).collect();
        let gateway = &self.gateways[index.0];
        let identity = Identity {
            node: Arc::clone(&self.config.node),
            partition: self.config.partition.clone(),
            incarnation: gateway.incarnation,
            session: gateway.sessions,
            heartbeat_seconds: limits::heartbeat_seconds,
            unacked_bytes_max: hello.unacked_bytes_max,
        };
        let soft = self.config.outbox_bytes_soft;
        let outbox = Arc::new(Outbox::new(identity, &place, soft, Arc::clone(&self.drained)));
        let number = gateway.sessions;
        let session = Session {
            number,
            outbox: Arc::clone(&outbox),
            main: Lane::new(Mode::Window, place.position),
            extra: None,
            transport: hello.transport,
            since: self.clock.wall(),
        };
        self.gateways[index.0].session = Some(session);
        self.begin(index, place);
        self.say_parked(index);
        if !lost.is_empty() {
            self.freeze(index, self.reached);
            self.push_all(index, lost);
        }
        self.answer(waiter, Ok(Answer::Session(outbox, number)));
        self.work();
    }

    /// Where a session starts: what a presented cursor says, or what is stored.
    fn resume_place(&mut self, index: GatewayIndex, cursor: Option<Cursor>) -> (Place, Option<Item>) {
        let gateway = &self.gateways[index.0];
        let stored = if gateway.quiet { self.effective(index) } else { gateway.place.clone() };
        let Some(cursor) = cursor else { return self.in_epoch(stored) };
        let presented = cursor.places.get(&self.config.partition).cloned();
        let (Some(presented), true) = (presented, cursor.incarnation == gateway.incarnation) else {
            let stored = self.in_epoch(stored).0;
            let lost = self.lost(None, stored.position, ResyncReason::Forgotten);
            return (stored, Some(lost));
        };
        let gateway = &mut self.gateways[index.0];
        if cursor.serial >= gateway.serial {
            gateway.serial = cursor.serial;
            if !(gateway.quiet && presented.position <= stored.position) {
                gateway.place = presented.clone();
                gateway.quiet = false;
                return self.in_epoch(presented);
            }
            return self.in_epoch(stored);
        }
        // Older than what was acked: a rewind.
        gateway.serial = cursor.serial;
        gateway.place = presented.clone();
        gateway.quiet = false;
        self.in_epoch(presented)
    }

    /// A place of an earlier epoch counts from the start of its cluster time; one from before a
    /// restored deployment is lost.
    pub(super) fn in_epoch(&self, mut place: Place) -> (Place, Option<Item>) {
        let epoch = self.reached.epoch;
        if place.position.epoch >= epoch {
            return (place, None);
        }
        if let Some(restored) = self.checkpoint.stored.restored
            && place.position.epoch < restored.epoch
        {
            let lost = self.lost(None, restored, ResyncReason::Restored);
            let place = Place { position: restored, known: place.known, unfinished: BTreeMap::new() };
            return (place, Some(lost));
        }
        place.position = Position::boundary(epoch, place.position.time);
        for position in place.unfinished.values_mut() {
            *position = Position::boundary(epoch, position.time);
        }
        (place, None)
    }

    /// A rewind may go back to before the oldest filter that is still known: what that one's
    /// predecessors would have matched can no longer be said.
    fn without_filter(&self, index: GatewayIndex, place: &Place) -> Vec<Item> {
        let mut ranges: BTreeMap<(Position, Position), Vec<SubscriptionIndex>> = BTreeMap::new();
        for sub_index in &self.gateways[index.0].subs {
            let sub = &self.subs[sub_index.0 as usize];
            let oldest = sub.segments[0].from;
            let from = self.floor(sub, place).max(sub.birth.0);
            if sub.revision != Revision(0) && from < oldest {
                ranges.entry((from, oldest)).or_default().push(*sub_index);
            }
        }
        let said = ranges.into_iter().map(|((from, to), subs)| {
            resync_item(&self.subs, LaneName::Joining, (from, to), ResyncReason::HistoryLost, subs)
        });
        said.collect()
    }

    fn lost(&self, from: Option<Position>, to: Position, reason: ResyncReason) -> Item {
        let (scopes, subscription_ids) = (None, Vec::new());
        Item::Resync(Box::new(ResyncItem { lane: LaneName::Joining, from, to, reason, scopes, subscription_ids }))
    }

    fn say_parked(&mut self, index: GatewayIndex) {
        let mut by_reason: HashMap<ExpiredReason, Vec<_>> = HashMap::new();
        for sub in &self.gateways[index.0].subs {
            let sub = &self.subs[sub.0 as usize];
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
    fn begin(&mut self, index: GatewayIndex, place: Place) {
        let place = self.normalized(index, place);
        let members: Vec<_> = self.gateways[index.0].subs.iter().copied().collect();
        let mut main = Lane::new(Mode::Window, place.position);
        let mut lowest: Option<Position> = None;
        let mut extra: Option<Lane> = None;
        let mut unfinished: BTreeMap<Revision, Position> = BTreeMap::new();
        let mut blocked = BTreeMap::new();
        let unripe = members.iter().any(|sub| self.subs[sub.0 as usize].is_unripe(self.reached));
        let is_live = place.position >= self.reached && !unripe;
        for sub_index in members {
            let floor = self.floor(&self.subs[sub_index.0 as usize], &place);
            self.subs[sub_index.0 as usize].rewind_to(floor);
            self.note_withheld(sub_index);
            let sub = &self.subs[sub_index.0 as usize];
            if sub.revision != Revision(0) {
                blocked.extend(sub.withheld().map(|withheld| (sub_index, withheld)));
            }
            if !sub.is_active() {
                continue;
            }
            let lane = if floor < place.position { SubLane::Extra } else { SubLane::Main };
            if lane == SubLane::Extra {
                let extra = extra.get_or_insert_with(|| Lane::new(Mode::Waiting, floor));
                extra.at = extra.at.min(floor);
                extra.add(sub_index, sub, floor);
                let entry = unfinished.entry(sub.start_revision).or_insert(floor);
                *entry = (*entry).min(floor);
            } else if !is_live {
                main.add(sub_index, sub, floor);
                lowest = Some(lowest.map_or(floor, |lowest| lowest.min(floor)));
            }
            self.subs[sub_index.0 as usize].lane = lane;
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
        session.outbox.restart(&Place { position: place.position, known, unfinished }, blocked);
        session.main = main;
        session.extra = extra;
        self.busy.insert(index);
    }

    /// After an overflow: everything that was not written is taken from a catch-up instead.
    pub(super) fn restart_session(&mut self, index: GatewayIndex) {
        let drops = self.broken(Mistake::OverflowDrops);
        self.close_replays(index);
        let Some(session) = &self.gateways[index.0].session else { return };
        let written = session.outbox.cut();
        if !drops {
            self.begin(index, written.place());
        }
    }

    fn close_replays(&mut self, index: GatewayIndex) {
        let Some(session) = &self.gateways[index.0].session else { return };
        let replays = session.main.replay().into_iter().chain(session.extra.as_ref().and_then(Lane::replay));
        for id in replays.collect::<Vec<_>>() {
            self.replays.remove(&id);
            self.effects.push(Effect::CloseReplay(id));
        }
    }

    /// Ends a gateway's session, if it has one.
    pub(super) fn end_session(&mut self, index: GatewayIndex, reason: CloseReason) {
        self.close_replays(index);
        self.busy.remove(&index);
        if let Some(session) = self.gateways[index.0].session.take() {
            session.outbox.push(Item::Closed(reason));
        }
        for sub in &self.gateways[index.0].subs {
            self.subs[sub.0 as usize].lane = SubLane::Main;
        }
    }

    /// A connection is gone.
    pub fn on_disconnect(&mut self, id: &GatewayId, number: u64) {
        let Some(index) = self.gateway_ids.get(id).copied() else { return };
        if self.gateways[index.0].session.as_ref().is_some_and(|session| session.number == number) {
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

    /// Says progress to every session. Call at least once a second.
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
    }

    /// Moves catch-ups on, a bounded number of changes. Whether there is more to do right now.
    pub fn work(&mut self) -> bool {
        let mut budget = self.config.turn_changes_max;
        for index in self.busy.clone() {
            self.step(index, &mut budget);
        }
        budget == 0
    }

    fn step(&mut self, index: GatewayIndex, budget: &mut usize) {
        let Some(mut session) = self.gateways[index.0].session.take() else {
            self.busy.remove(&index);
            return;
        };
        self.step_lane(index, &session.outbox, &mut session.main, LaneName::Main, budget);
        let main_live = session.main.is_live();
        if let Some(extra) = &mut session.extra {
            if main_live && extra.mode == Mode::Waiting {
                extra.mode = Mode::Window;
            }
            self.step_lane(index, &session.outbox, extra, LaneName::Extra, budget);
            let is_level = extra.at == self.reached && session.main.at <= self.reached;
            if main_live && is_level && extra.mode == Mode::Window && self.is_ripe(extra) {
                for sub in extra.by_sub.keys() {
                    self.subs[sub.0 as usize].lane = SubLane::Main;
                }
                session.extra = None;
                session.outbox.push(Item::Extra(BTreeMap::new()));
            }
        }
        let done = main_live && session.extra.is_none();
        self.gateways[index.0].session = Some(session);
        if done {
            self.busy.remove(&index);
            self.settle(index);
        }
    }

    fn step_lane(&mut self, index: GatewayIndex, outbox: &Outbox, lane: &mut Lane, name: LaneName, budget: &mut usize) {
        let has_room = outbox.bytes() < self.config.outbox_bytes_soft;
        match lane.mode {
            Mode::Live | Mode::Waiting => {}
            Mode::Replay { fetching: true, .. } => {}
            Mode::Replay { id, fetching: false } => {
                if has_room {
                    lane.mode = Mode::Replay { id, fetching: true };
                    self.effects.push(Effect::FetchReplay(id));
                }
            }
            Mode::Window if !self.window.reaches(lane.at) => {
                let id = ReplayId(self.next_replay);
                self.next_replay += 1;
                self.counters.replays += 1;
                self.replays.insert(id, (index, name));
                lane.mode = Mode::Replay { id, fetching: true };
                self.effects.push(Effect::OpenReplay(id, lane.at));
                self.effects.push(Effect::FetchReplay(id));
            }
            Mode::Window => self.step_window(outbox, lane, name, budget),
        }
    }

    fn step_window(&mut self, outbox: &Outbox, lane: &mut Lane, name: LaneName, budget: &mut usize) {
        let entries: Vec<Entry> = self.window.after(lane.at, *budget).cloned().collect();
        let is_last = entries.len() == self.window.count_after(lane.at);
        let late = usize::from(self.broken(Mistake::JoinLate) && is_last && !entries.is_empty());
        let mut all = true;
        for entry in &entries[..entries.len() - late] {
            if outbox.bytes() >= self.config.outbox_bytes_soft {
                all = false;
                break;
            }
            *budget -= 1;
            for item in lane.items(name, entry, &self.subs, Flags::REPLAYED) {
                self.counters.deliveries += 1;
                outbox.push(item);
            }
            lane.at = lane.at.max(entry.position());
        }
        if !(all && is_last) {
            return;
        }
        lane.at = lane.at.max(self.reached);
        self.horizon = self.horizon.max(lane.at);
        if name == LaneName::Main && self.is_ripe(lane) {
            lane.become_live();
        }
    }

    /// Whether the live path's one filter a subscription is enough for all of them.
    fn is_ripe(&self, lane: &Lane) -> bool {
        lane.by_sub.keys().all(|sub| !self.subs[sub.0 as usize].is_unripe(self.reached))
    }

    /// A replay's next batch.
    pub fn on_replay_batch(&mut self, id: ReplayId, batch: Batch) {
        let Some((index, name)) = self.replays.get(&id).copied() else { return };
        let Some(mut session) = self.gateways[index.0].session.take() else { return };
        let Session { main, extra, outbox, .. } = &mut session;
        let lane = if name == LaneName::Main { Some(main) } else { extra.as_mut() };
        if let Some(lane) = lane.filter(|lane| lane.replay() == Some(id)) {
            for event in batch.events {
                let entry = match event {
                    Event::Change(change) if change.position > lane.at => Entry::Change(self.shared(change)),
                    Event::Resync(gap) if gap.position >= lane.at => Entry::Gap(Arc::new(gap)),
                    _ => continue,
                };
                for item in lane.items(name, &entry, &self.subs, Flags::REPLAYED) {
                    self.counters.deliveries += 1;
                    outbox.push(item);
                }
                lane.at = lane.at.max(entry.position());
            }
            lane.at = lane.at.max(batch.reached);
            self.horizon = self.horizon.max(lane.at);
            lane.mode = Mode::Replay { id, fetching: false };
            if self.window.reaches(lane.at) {
                self.end_replay(id, lane);
            }
        }
        self.gateways[index.0].session = Some(session);
        self.busy.insert(index);
        self.work();
    }

    fn end_replay(&mut self, id: ReplayId, lane: &mut Lane) {
        self.replays.remove(&id);
        self.effects.push(Effect::CloseReplay(id));
        lane.mode = Mode::Window;
    }

    /// A replay failed. What is lost is said, and serving goes on from the window; anything else is
    /// tried again (the shell waits before it opens).
    pub fn on_replay_failed(&mut self, id: ReplayId, error: &SourceError) {
        let Some((index, name)) = self.replays.get(&id).copied() else { return };
        let Some(mut session) = self.gateways[index.0].session.take() else { return };
        let Session { main, extra, outbox, .. } = &mut session;
        let lane = if name == LaneName::Main { Some(main) } else { extra.as_mut() };
        if let Some(lane) = lane.filter(|lane| lane.replay() == Some(id)) {
            if matches!(error, SourceError::HistoryLost(_)) {
                self.end_replay(id, lane);
                let (from, to) = (lane.at, self.window.start().max(lane.at));
                let gap = Gap { position: to, scope: Default::default(), reason: ResyncReason::HistoryLost };
                for item in lane.lost_items(name, &gap, (from, to), &self.subs) {
                    self.counters.resyncs += 1;
                    outbox.push(item);
                }
                lane.at = to;
            } else {
                lane.mode = Mode::Replay { id, fetching: true };
                self.effects.push(Effect::OpenReplay(id, lane.at));
                self.effects.push(Effect::FetchReplay(id));
            }
        }
        self.gateways[index.0].session = Some(session);
        self.busy.insert(index);
        self.work();
    }

    /// The live stream can no longer be read from where it was: everyone is told, and it goes on at
    /// `to`. Those who are behind or away learn it from their own catch-ups.
    pub fn on_history_lost(&mut self, to: Position) {
        let from = self.reached;
        assert!(to >= from, "{to:?} after {from:?}");
        let indices: Vec<_> = self.gateways.iter().map(|(index, _)| GatewayIndex(index)).collect();
        for index in indices {
            self.freeze(index, from);
            let Some(session) = &self.gateways[index.0].session else { continue };
            if session.main.is_live() {
                let subs = self.gateways[index.0].subs.iter().copied();
                let active = subs.filter(|sub| self.subs[sub.0 as usize].is_active());
                let reason = ResyncReason::HistoryLost;
                let item = resync_item(&self.subs, LaneName::Main, (from, to), reason, active);
                self.push_all(index, vec![item]);
            }
        }
        self.reached = to;
        self.window.restart(to);
        self.work();
    }

    /// Subscriptions whose writes are confirmed enter service, each from its floor.
    pub(super) fn admit(&mut self, index: GatewayIndex, subs: &[(SubscriptionIndex, Position)]) {
        for (sub, _) in subs {
            self.subs[sub.0 as usize].rewound = false;
            self.note_withheld(*sub);
        }
        let Some(session) = &self.gateways[index.0].session else {
            return self.admit_offline(index, subs);
        };
        if self.broken(Mistake::KnownTooEarly) {
            session.outbox.push(Item::Known(self.confirmed));
        }
        let live_at = session.main.is_live().then(|| session.main.at.max(self.reached));
        let main_at = live_at.unwrap_or(session.main.at);
        let (mut main, mut extra, mut joining) = (Vec::new(), Vec::new(), Vec::new());
        for (sub, floor) in subs.iter().copied() {
            // One that still catches up goes on there: its order must hold over a replaced filter, too.
            let is_behind = session.extra.as_ref().is_some_and(|extra| extra.by_sub.contains_key(&sub));
            let is_unripe = self.subs[sub.0 as usize].is_unripe(self.reached);
            if is_behind {
                extra.push((sub, floor));
            } else if live_at.is_some() && is_unripe {
                extra.push((sub, floor.min(main_at)));
            } else if live_at.is_some_and(|at| at == self.reached) && self.can_join(floor) {
                joining.push((sub, floor));
            } else if floor < main_at {
                extra.push((sub, floor));
            } else {
                main.push((sub, floor));
            }
        }
        if let Some(session) = &mut self.gateways[index.0].session {
            for (sub, floor) in main {
                session.main.add(sub, &self.subs[sub.0 as usize], floor);
            }
        }
        let (items, _) = self.slice(&joining);
        if !(items.is_empty() && extra.is_empty()) {
            // Those of one transaction share a revision: hold all of them, or none.
            self.freeze_and_hold(index, subs);
        }
        for (sub, _) in &joining {
            self.subs[sub.0 as usize].lane = SubLane::Main;
        }
        // The lanes first: what follows may overflow, and then all of them are laid out anew.
        self.add_extra(index, &extra);
        self.push_all(index, items);
        for (sub, _) in subs {
            self.push_all(index, vec![Item::Unblocked(*sub)]);
        }
        let known = self.known(index);
        self.push_all(index, vec![Item::Known(known)]);
        self.work();
    }

    /// Call when what decides whether a subscription is withheld may have changed.
    pub(super) fn note_withheld(&mut self, index: SubscriptionIndex) {
        let sub = &self.subs[index.0 as usize];
        let withheld = &mut self.gateways[sub.gateway.0].withheld;
        if sub.withheld().is_some() {
            withheld.insert(index);
        } else {
            withheld.remove(&index);
        }
    }

    fn can_join(&self, floor: Position) -> bool {
        self.window.reaches(floor) && self.window.count_after(floor) <= self.config.turn_changes_max
    }

    /// Without a session it is enough to know whether something waits.
    fn admit_offline(&mut self, index: GatewayIndex, subs: &[(SubscriptionIndex, Position)]) {
        if !self.gateways[index.0].quiet {
            return;
        }
        let (joining, older): (Vec<_>, Vec<_>) = subs.iter().copied().partition(|(_, floor)| self.can_join(*floor));
        let (_, first) = self.slice(&joining);
        let unripe = subs.iter().any(|(sub, _)| self.subs[sub.0 as usize].is_unripe(self.reached));
        // A cursor may be ahead of the loop, after a restart.
        let taken = self.gateways[index.0].place.position;
        let is_behind = subs.iter().any(|(_, floor)| *floor < taken);
        if first.is_some() || !older.is_empty() || unripe || is_behind {
            self.freeze_and_hold(index, subs);
        }
        self.gateways[index.0].dirty = true;
    }

    /// What the window holds for these subscriptions after their floors, and the first of it.
    fn slice(&mut self, joining: &[(SubscriptionIndex, Position)]) -> (Vec<Item>, Option<Position>) {
        let Some(lowest) = joining.iter().map(|(_, floor)| *floor).min() else { return (Vec::new(), None) };
        let mut lane = Lane::new(Mode::Window, lowest);
        for (sub, floor) in joining {
            lane.add(*sub, &self.subs[sub.0 as usize], *floor);
        }
        let mut items = Vec::new();
        let mut first = None;
        for entry in self.window.after(lowest, usize::MAX) {
            let found = lane.items(LaneName::Joining, entry, &self.subs, Flags::REPLAYED);
            if !found.is_empty() {
                first = first.or(Some(entry.position()));
                items.extend(found);
            }
        }
        (items, first)
    }

    /// Ends a gateway's quiet because of these subscriptions, which are not served yet.
    fn freeze_and_hold(&mut self, index: GatewayIndex, subs: &[(SubscriptionIndex, Position)]) {
        if !self.gateways[index.0].quiet {
            return;
        }
        self.freeze(index, self.reached);
        for (sub, floor) in subs {
            self.hold(index, self.subs[sub.0 as usize].start_revision, *floor);
        }
    }

    fn add_extra(&mut self, index: GatewayIndex, subs: &[(SubscriptionIndex, Position)]) {
        if subs.is_empty() {
            return;
        }
        let Some(mut session) = self.gateways[index.0].session.take() else { return };
        let lowest = subs.iter().map(|(_, floor)| *floor).min().unwrap_or(self.reached);
        let extra = session.extra.get_or_insert_with(|| Lane::new(Mode::Waiting, lowest));
        if lowest < extra.at {
            if let Some(id) = extra.replay() {
                self.end_replay(id, extra);
            }
            for (_, member) in &mut extra.members {
                member.floor = member.floor.max(extra.at);
            }
            extra.at = lowest;
            extra.mode = Mode::Waiting;
        }
        for (sub, floor) in subs.iter().copied() {
            // Held back there by a PUT that came to nothing, it would go on after what was held back.
            session.main.remove(sub);
            extra.add(sub, &self.subs[sub.0 as usize], floor);
            self.subs[sub.0 as usize].lane = SubLane::Extra;
        }
        let mut progress: BTreeMap<Revision, Position> = BTreeMap::new();
        for (_, member) in &extra.members {
            let revision = self.subs[member.sub.0 as usize].start_revision;
            let position = member.floor.max(extra.at);
            let entry = progress.entry(revision).or_insert(position);
            *entry = (*entry).min(position);
        }
        session.outbox.push(Item::Extra(progress));
        self.gateways[index.0].session = Some(session);
        self.busy.insert(index);
    }

    /// Takes a subscription out of all catch-ups.
    pub(super) fn leave_lanes(&mut self, index: SubscriptionIndex) {
        let gateway = self.subs[index.0 as usize].gateway;
        let Some(mut session) = self.gateways[gateway.0].session.take() else { return };
        session.main.remove(index);
        if let Some(extra) = &mut session.extra
            && extra.remove(index)
            && extra.len() == 0
        {
            if let Some(id) = extra.replay() {
                self.end_replay(id, extra);
            }
            session.extra = None;
            session.outbox.push(Item::Extra(BTreeMap::new()));
        }
        session.outbox.push(Item::Unblocked(index));
        self.gateways[gateway.0].session = Some(session);
        self.settle(gateway);
    }
}

/// What the gateway is told of a parking.
pub(super) fn expired_reason(reason: ParkedReason) -> ExpiredReason {
    match reason {
        ParkedReason::Lease | ParkedReason::Operator => ExpiredReason::Lease,
        ParkedReason::TooCostly => ExpiredReason::TooCostly,
    }
}
