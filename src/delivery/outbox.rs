//! The outbox: what a session has still to write, and what it has written.
//!
//! Owns the order of a session's messages, their serial numbers and the cursor that each of them
//! carries. The partition's loop puts items in; the session's transport takes frames out. Items hold
//! references into the window, never bodies of their own. Knows nothing of matching or of stores.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::body::SharedChange;
use super::budget::Budget;
use super::frame::{CloseReason, Closed, Delivery, Expired, Frame, Matched, Progress, Reassigned, Resync, Welcome};
use super::latency::{Followed, Latency, Traced};
use crate::change::{Flags, ResyncReason};
use crate::cursor::{Cursor, Place, Serial};
use crate::matching::SubscriptionIndex;
use crate::position::{PartitionId, Position};
use crate::store::Revision;
use crate::subscription::{GatewayId, Path, SubscriptionId};

/// Which part of a session an item belongs to: its position moves with that part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LaneName {
    /// The live tail, or the catch-up that leads to it.
    Main,
    /// The catch-up of subscriptions that start before the main part's position.
    Extra,
    /// A subscription that joins at once: moves nothing, for its revision is not yet known.
    Joining,
}

impl LaneName {
    const COUNT: usize = 3;
}

/// A change for one gateway, before it is written.
#[derive(Clone, Debug)]
pub(super) struct ChangeItem {
    pub(super) lane: LaneName,
    pub(super) change: Arc<SharedChange>,
    pub(super) matches: Vec<Matched>,
    pub(super) flags: Flags,
    pub(super) left_scope: bool,
    pub(super) fields: Option<Arc<[Path]>>,
    pub(super) with_before: bool,
    /// The last message of its lane at this position.
    pub(super) advance: bool,
    /// Its change is not the window's: it came by a reading of its own.
    pub(super) owned: bool,
}

/// A resync for one gateway, before it is written.
#[derive(Clone, Debug)]
pub(super) struct ResyncItem {
    pub(super) lane: LaneName,
    /// The last message of its lane at this position.
    pub(super) advance: bool,
    pub(super) from: Option<Position>,
    pub(super) to: Position,
    pub(super) reason: ResyncReason,
    pub(super) scopes: Option<Vec<(Arc<str>, Arc<str>)>>,
    pub(super) subscription_ids: Vec<SubscriptionId>,
}

/// One entry of the queue: a message, or a step that only changes what later cursors say.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Change(Box<ChangeItem>),
    Resync(Box<ResyncItem>),
    /// `main` and `extra` are how far the lanes have come; `boundary` is what is said.
    Progress {
        main: Position,
        extra: Option<Position>,
        boundary: Position,
        catching_up: u64,
    },
    Expired(Expired),
    Revoked(Reassigned),
    Assigned(Reassigned),
    Closed(CloseReason),
    /// The extra lane's catch-ups, anew.
    Extra(CatchUps),
    /// A subscription is served no further than this for now, whatever its part of the session says.
    Blocked(SubscriptionIndex, Withheld),
    /// It goes on, or is gone.
    Unblocked(SubscriptionIndex),
    /// Everything that started up to this revision is now covered.
    Known(Revision),
}

/// Catch-ups as cursors name them.
#[derive(Clone, Debug, Default)]
pub(super) struct CatchUps {
    places: BTreeMap<Revision, Position>,
    /// Names that are no subscription's start: those of filters that replaced others.
    replaced: BTreeSet<Revision>,
}

impl CatchUps {
    /// One of a subscription with this name, which is its start's unless its filter was replaced since. Those that share
    /// a name share the lowest position.
    pub(super) fn add(&mut self, name: Revision, is_start: bool, position: Position) {
        let entry = self.places.entry(name).or_insert(position);
        *entry = (*entry).min(position);
        if !is_start {
            self.replaced.insert(name);
        }
    }
}

/// A subscription that waits for a write: what cursors name it by, and what it has had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Withheld {
    pub(super) name: Revision,
    pub(super) position: Position,
}

impl Item {
    /// Whether it is a change as it happens.
    fn is_live(&self) -> bool {
        matches!(self, Self::Change(item) if item.lane == LaneName::Main && !item.flags.contains(Flags::REPLAYED))
    }

    pub(super) fn size_bytes(&self) -> usize {
        match self {
            // The body is the window's, but the item keeps it alive past eviction.
            Self::Change(item) => item.change.size_bytes() + 48 * item.matches.len() + 128,
            Self::Resync(item) => 128 + 32 * item.subscription_ids.len(),
            Self::Expired(item) => 64 + 32 * item.subscription_ids.len(),
            Self::Revoked(item) | Self::Assigned(item) => 64 + 32 * item.subscription_ids.len(),
            _ => 64,
        }
    }

    /// What it keeps alive beyond the window.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Change(item) if !item.owned => self.size_bytes() - item.change.size_bytes(),
            _ => self.size_bytes(),
        }
    }

    /// The place in the window that it refers to.
    fn shared(&self) -> Option<(LaneName, Position)> {
        match self {
            Self::Change(item) if !item.owned => Some((item.lane, item.change.position)),
            _ => None,
        }
    }
}

/// The number of what is put into an outbox first: `welcome` has the one before it.
pub(super) const FIRST_SERIAL: u64 = 2;

/// What a session has written: the state that its last written cursor speaks of.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// Messages written.
    pub(super) count: u64,
    /// The serial of the last message that waits for an ack.
    pub(super) last_substantial: u64,
    position: Position,
    known: Revision,
    extra: CatchUps,
    blocked: BTreeMap<SubscriptionIndex, Withheld>,
    seq: u64,
    /// How many catch-ups a cursor may name.
    catchups_max: usize,
}

impl Written {
    pub(super) fn at(place: &Place, catchups_max: usize) -> Self {
        let extra = CatchUps { places: place.unfinished.clone(), ..CatchUps::default() };
        Self { position: place.position, known: place.known, extra, catchups_max, ..Self::default() }
    }

    /// The cursor's part for the partition.
    pub(super) fn place(&self) -> Place {
        let mut unfinished = self.extra.places.clone();
        for Withheld { name, position } in self.blocked.values() {
            let entry = unfinished.entry(*name).or_insert(*position);
            *entry = (*entry).min(*position);
        }
        if unfinished.len() <= self.catchups_max {
            return Place { position: self.position, known: self.known, unfinished };
        }
        // Too many to name: claim to know none of them, so that each starts from its stored start; what has been
        // replaced, or is being replaced, has no such start to fall back on and holds the position instead.
        let CatchUps { places, replaced } = &self.extra;
        let first = places.keys().find(|name| !replaced.contains(*name));
        let first = first.map_or(u64::MAX, |name| name.0.saturating_sub(1));
        let held = self.blocked.values().map(|withheld| withheld.position);
        let held = held.chain(replaced.iter().filter_map(|name| places.get(name)).copied());
        let position = held.fold(self.position, Position::min);
        Place { position, known: self.known.min(Revision(first)), unfinished: BTreeMap::new() }
    }

    fn apply(&mut self, item: &Item) {
        match item {
            Item::Change(item) if item.advance => self.advance(item.lane, item.change.position),
            Item::Resync(item) if item.advance => self.advance(item.lane, item.to),
            Item::Progress { main, extra, .. } => {
                self.advance(LaneName::Main, *main);
                if let Some(extra) = extra {
                    self.advance(LaneName::Extra, *extra);
                }
            }
            Item::Extra(extra) => self.extra.clone_from(extra),
            Item::Blocked(sub, withheld) => {
                self.blocked.insert(*sub, *withheld);
            }
            Item::Unblocked(sub) => {
                self.blocked.remove(sub);
            }
            Item::Known(revision) => self.known = self.known.max(*revision),
            Item::Change(_)
            | Item::Resync(_)
            | Item::Expired(_)
            | Item::Revoked(_)
            | Item::Assigned(_)
            | Item::Closed(_) => {}
        }
    }

    fn advance(&mut self, lane: LaneName, to: Position) {
        match lane {
            LaneName::Main => self.position = self.position.max(to),
            LaneName::Extra => {
                for position in self.extra.places.values_mut() {
                    *position = (*position).max(to);
                }
            }
            LaneName::Joining => {}
        }
    }
}

/// What does not change over a session.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) gateway: GatewayId,
    pub(super) node: Arc<str>,
    pub(super) partition: PartitionId,
    pub(super) incarnation: Revision,
    pub(super) session: u64,
    pub(super) heartbeat_seconds: u32,
    pub(super) unacked_bytes_max: u64,
    /// How many catch-ups a cursor may name.
    pub(super) catchups_max: usize,
    /// Changes up to here may have been delivered before, and are flagged so.
    pub(super) redelivered_until: Option<Position>,
}

/// The outbox, shared by the loop and the transport. Bounded in bytes by the loop, which cuts it when
/// it is full (`machine::sessions`).
#[derive(Debug)]
pub struct Outbox {
    identity: Identity,
    state: Mutex<State>,
    /// Told when there is something to take.
    filled: Notify,
    /// Told when a full outbox has room again, or all of them together.
    drained: Arc<Notify>,
    /// Shared with the partition's other outboxes.
    budget: Arc<Budget>,
    /// Likewise.
    latency: Arc<Latency>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Item>,
    bytes: usize,
    /// The queue's part of the budget.
    held: usize,
    /// What the queue refers to in the window, in the order of each lane.
    shared: [VecDeque<Position>; LaneName::COUNT],
    /// Something has been taken since it began, or since it was cut.
    has_taken: bool,
    welcomed: bool,
    written: Written,
    /// Substantial items in the queue.
    waiting: usize,
    /// Written and not acked: serial and size.
    unacked: VecDeque<(u64, u64)>,
    unacked_bytes: u64,
    closed: bool,
    /// The transport is gone.
    abandoned: bool,
    /// Rounds of housekeeping since something was taken.
    idle_rounds: u8,
    low_mark_bytes: usize,
    above_mark: bool,
    /// Progress is due, though nothing more may be sent before an ack: how many still catch up.
    standstill: Option<u64>,
    followed: Followed,
    traced: Traced,
}

impl Outbox {
    pub(super) fn new(
        identity: Identity,
        place: &Place,
        low_mark_bytes: usize,
        drained: Arc<Notify>,
        budget: Arc<Budget>,
        latency: Arc<Latency>,
    ) -> Self {
        let state = State {
            written: Written::at(place, identity.catchups_max),
            low_mark_bytes,
            has_taken: true,
            ..State::default()
        };
        Self { identity, state: Mutex::new(state), filled: Notify::new(), drained, budget, latency }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an item.
    pub(super) fn push(&self, item: Item) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        if let Item::Progress { catching_up, .. } = &item {
            if matches!(state.queue.back(), Some(Item::Progress { .. })) {
                self.pop(&mut state, VecDeque::pop_back);
            }
            state.standstill = self.is_paced(&state).then_some(*catching_up);
        }
        state.closed = matches!(item, Item::Closed(_));
        state.bytes += item.size_bytes();
        state.held += item.held_bytes();
        self.budget.take(item.held_bytes());
        if let Some((lane, position)) = item.shared() {
            state.shared[lane as usize].push_back(position);
        }
        state.waiting += usize::from(is_substantial(&item));
        if item.is_live() {
            let before = state.queue.len();
            state.followed.queued(&self.latency, before);
            if let Item::Change(item) = &item {
                state.traced.queued(&self.latency, item.change.position);
            }
        }
        state.queue.push_back(item);
        state.above_mark |= state.bytes > state.low_mark_bytes;
        drop(state);
        self.filled.notify_one();
    }

    /// Takes an item out of the queue, and whether all outboxes together have room again because of it.
    fn pop(&self, state: &mut State, from: impl FnOnce(&mut VecDeque<Item>) -> Option<Item>) -> Option<(Item, bool)> {
        let item = from(&mut state.queue)?;
        state.bytes -= item.size_bytes();
        state.held -= item.held_bytes();
        if let Some((lane, _)) = item.shared() {
            state.shared[lane as usize].pop_front();
        }
        state.waiting -= usize::from(is_substantial(&item));
        let relieved = self.budget.give_back(item.held_bytes());
        Some((item, relieved))
    }

    /// Nobody will take from it any more: its session has ended at the transport's end.
    pub fn abandon(&self) {
        self.lock().abandoned = true;
    }

    /// Whether nobody will take from it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.lock().abandoned
    }

    /// One round of housekeeping is over.
    pub(super) fn age(&self) {
        let mut state = self.lock();
        state.idle_rounds = state.idle_rounds.saturating_add(1);
    }

    /// Whether its transport has taken something in the last few rounds.
    pub(super) fn is_taken_from(&self) -> bool {
        self.lock().idle_rounds <= IDLE_ROUNDS
    }

    /// Whether its transport has taken nothing over the last whole round.
    pub(super) fn rests(&self) -> bool {
        self.lock().idle_rounds > 1
    }

    /// Whether its transport has taken something since the outbox was cut: if not, what is read for it would
    /// only wait.
    pub(super) fn has_taken(&self) -> bool {
        self.lock().has_taken
    }

    /// Whose it is.
    pub(super) fn gateway(&self) -> &GatewayId {
        &self.identity.gateway
    }

    /// Whether its gateway has still to be told of something parked.
    pub(super) fn has_expired(&self) -> bool {
        self.lock().queue.iter().any(|item| matches!(item, Item::Expired(_)))
    }

    /// Its part of the budget.
    pub(super) fn held(&self) -> usize {
        self.lock().held
    }

    /// The oldest place in the window that it refers to.
    pub(super) fn oldest_shared(&self) -> Option<Position> {
        self.lock().shared.iter().filter_map(VecDeque::front).min().copied()
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The serial of the last message that waits for an ack, and whether more such wait to be written.
    pub(super) fn outstanding(&self) -> (u64, bool) {
        let state = self.lock();
        (state.written.last_substantial, state.waiting > 0)
    }

    /// How many messages have been written.
    pub(super) fn written_count(&self) -> u64 {
        self.lock().written.count
    }

    /// Throws away what has not been written and a catch-up will find again, and returns what has been.
    pub(super) fn cut(&self) -> Written {
        let mut state = self.lock();
        let mut kept = VecDeque::new();
        while let Some((item, _)) = self.pop(&mut state, VecDeque::pop_front) {
            let is_kept = match &item {
                Item::Expired(_) | Item::Revoked(_) | Item::Assigned(_) | Item::Closed(_) => true,
                // Said once, when the session began.
                Item::Resync(resync) => resync.lane == LaneName::Joining,
                _ => false,
            };
            kept.extend(is_kept.then_some(item));
        }
        state.bytes = kept.iter().map(Item::size_bytes).sum();
        state.held = kept.iter().map(Item::held_bytes).sum();
        self.budget.take(state.held);
        state.waiting = kept.iter().filter(|item| is_substantial(item)).count();
        state.queue = kept;
        state.above_mark = false;
        state.has_taken = false;
        state.followed.cut();
        state.traced.cut();
        // What it counted as waiting is a catch-up's now.
        state.standstill = None;
        state.written.clone()
    }

    /// Sets what the next cursor says, after a cut.
    pub(super) fn restart(
        &self,
        (position, known): (Position, Revision),
        extra: CatchUps,
        blocked: BTreeMap<SubscriptionIndex, Withheld>,
    ) {
        let mut state = self.lock();
        let written = &mut state.written;
        written.position = position;
        written.known = known;
        written.extra = extra;
        written.blocked = blocked;
    }

    /// Forgets what an ack covers, for pacing.
    pub(super) fn acked(&self, serial: u64) {
        let mut state = self.lock();
        state.followed.acked(&self.latency, serial);
        state.traced.acked(&self.latency, &self.identity.gateway, serial);
        while let Some((written, bytes)) = state.unacked.front().copied() {
            if written > serial {
                break;
            }
            state.unacked.pop_front();
            state.unacked_bytes -= bytes;
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Waits until [`Self::take`] has something. Cancel-safe.
    pub(super) async fn ready(&self) {
        loop {
            let notified = self.filled.notified();
            if self.has_message() {
                return;
            }
            notified.await;
        }
    }

    /// Waits until nothing more will be put in. Cancel-safe.
    pub(super) async fn ending(&self) {
        loop {
            let notified = self.filled.notified();
            if self.lock().closed {
                return;
            }
            notified.await;
        }
    }

    fn has_message(&self) -> bool {
        let state = self.lock();
        if !state.welcomed {
            return true;
        }
        state.standstill.is_some() || (!self.is_paced(&state) && state.queue.iter().any(is_message))
    }

    fn is_paced(&self, state: &State) -> bool {
        self.identity.unacked_bytes_max > 0
            && state.unacked_bytes >= self.identity.unacked_bytes_max
            && !state.queue.iter().any(|item| matches!(item, Item::Closed(_)))
    }

    /// The next messages, about `bytes_max` of them; they count as written. Empty if there are none.
    pub fn take(&self, bytes_max: usize) -> Vec<Frame> {
        let mut taken = Vec::new();
        let mut state = self.lock();
        let mut bytes = 0;
        let mut room = false;
        if !state.welcomed {
            state.idle_rounds = 0;
            state.welcomed = true;
            state.written.count += 1;
            taken.push((None, state.written.count, state.written.seq, state.written.place()));
        }
        while bytes < bytes_max && !self.is_paced(&state) {
            let Some((item, relieved)) = self.pop(&mut state, VecDeque::pop_front) else { break };
            // To hear that it stands still is not to take.
            state.idle_rounds = 0;
            room |= relieved | !std::mem::replace(&mut state.has_taken, true);
            let size = item.size_bytes();
            state.written.apply(&item);
            state.written.count += u64::from(is_message(&item));
            let serial = state.written.count;
            state.followed.taken(&self.latency, serial);
            if !is_message(&item) {
                continue;
            }
            bytes += size;
            if let Item::Change(item) = &item {
                state.written.seq += 1;
                state.traced.taken(&self.latency, item.change.position, serial);
            }
            if is_substantial(&item) {
                state.written.last_substantial = serial;
                if self.identity.unacked_bytes_max > 0 {
                    state.unacked.push_back((serial, size as u64));
                    state.unacked_bytes += size as u64;
                }
            }
            let (count, seq) = (state.written.count, state.written.seq);
            let place = state.written.place();
            taken.push((Some(item), count, seq, place));
        }
        // Who is paced hears all the same that it is served, and that it has not got on.
        if let Some(catching_up) = state.standstill.take()
            && self.is_paced(&state)
            && !state.closed
        {
            let main = state.written.position;
            // Of what waits, something may lie before this position: a catch-up, or one that joins.
            let catching_up = catching_up.max(u64::from(state.waiting > 0));
            let item = Item::Progress { main, extra: None, boundary: main.floor_boundary(), catching_up };
            state.written.count += 1;
            taken.push((Some(item), state.written.count, state.written.seq, state.written.place()));
        }
        // Where memory is short, one that has nothing is what catch-ups wait for.
        room |= !taken.is_empty() && state.queue.is_empty() && self.budget.is_exhausted();
        if state.above_mark && state.bytes <= state.low_mark_bytes {
            state.above_mark = false;
            room = true;
        }
        drop(state);
        if room {
            self.drained.notify_one();
        }
        taken.into_iter().map(|(item, count, seq, place)| self.frame(item, count, seq, place)).collect()
    }

    fn frame(&self, item: Option<Item>, count: u64, seq: u64, place: Place) -> Frame {
        let identity = &self.identity;
        let position = place.position;
        let partition = identity.partition.clone();
        let serial = Serial { session: identity.session, written: count };
        let places = BTreeMap::from([(partition.clone(), place)]);
        let cursor = Cursor { incarnation: identity.incarnation, serial, places }.encode();
        match item {
            None => Frame::Welcome(Welcome {
                session: identity.session,
                node: Arc::clone(&identity.node),
                cursor,
                positions: vec![(partition, position)],
                heartbeat_seconds: identity.heartbeat_seconds,
            }),
            Some(Item::Change(item)) => Frame::Change(Delivery {
                partition,
                seq,
                cursor,
                flags: match identity.redelivered_until {
                    Some(until) if item.change.position <= until => item.flags.with(Flags::REDELIVERED),
                    _ => item.flags,
                },
                change: item.change,
                matches: item.matches,
                left_scope: item.left_scope,
                fields: item.fields,
                with_before: item.with_before,
            }),
            Some(Item::Resync(item)) => Frame::Resync(Resync {
                cursor,
                partition,
                from: item.from,
                to: item.to,
                reason: item.reason,
                scopes: item.scopes,
                subscription_ids: item.subscription_ids,
            }),
            Some(Item::Progress { boundary, catching_up, .. }) => {
                Frame::Progress(Progress { cursor, positions: vec![(partition, boundary)], catching_up })
            }
            Some(Item::Expired(expired)) => Frame::Expired(expired),
            Some(Item::Revoked(moved)) => Frame::Revoked(moved),
            Some(Item::Assigned(moved)) => Frame::Assigned(moved),
            Some(Item::Closed(reason)) => Frame::Closed(Closed { reason }),
            Some(Item::Extra(_) | Item::Blocked(..) | Item::Unblocked(_) | Item::Known(_)) => {
                unreachable!("only messages become frames")
            }
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if self.budget.give_back(self.lock().held) {
            self.drained.notify_one();
        }
    }
}

/// A transport that has taken nothing for so many rounds of progress (half a second each) is stalled.
const IDLE_ROUNDS: u8 = 10;

/// Whether the gateway sees it.
fn is_message(item: &Item) -> bool {
    !matches!(item, Item::Extra(_) | Item::Blocked(..) | Item::Unblocked(_) | Item::Known(_))
}

/// Whether the gateway must ack it before its cursor may move by itself.
fn is_substantial(item: &Item) -> bool {
    matches!(item, Item::Change(_) | Item::Resync(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::{change, partition, position};
    use crate::limits;

    fn outbox(unacked_bytes_max: u64) -> Outbox {
        let identity = Identity {
            gateway: crate::subscription::Name::new("gw").unwrap(),
            node: "hub-1".into(),
            partition: partition(),
            incarnation: Revision(3),
            session: 1,
            heartbeat_seconds: 20,
            unacked_bytes_max,
            catchups_max: limits::cursor_catchups_max,
            redelivered_until: None,
        };
        let place = Place { position: position(0), ..Place::default() };
        let latency = Arc::new(Latency::new(crate::clock::Clock::manual(), &identity.partition));
        Outbox::new(identity, &place, 1 << 20, Arc::default(), Arc::new(Budget::new(usize::MAX)), latency)
    }

    fn item(ordinal: u32) -> Item {
        Item::Change(Box::new(ChangeItem {
            lane: LaneName::Main,
            change: Arc::new(SharedChange::new(change(ordinal))),
            matches: Vec::new(),
            flags: Flags::none(),
            left_scope: false,
            fields: None,
            with_before: false,
            advance: true,
            owned: false,
        }))
    }

    fn progress(ordinal: u32) -> Item {
        let main = position(ordinal);
        Item::Progress { main, extra: None, boundary: main.floor_boundary(), catching_up: 2 }
    }

    fn names(frames: &[Frame]) -> Vec<&'static str> {
        frames.iter().map(Frame::name).collect()
    }

    #[test]
    fn too_many_catch_ups_to_name_are_not_claimed_to_be_known() {
        let name = |number: u32| (Revision(u64::from(number)), position(100 + number));
        let most = limits::cursor_catchups_max as u32;
        let place = Place { position: position(500), known: Revision(900), ..Place::default() };
        let mut written = Written::at(&place, limits::cursor_catchups_max);
        let catch_ups = CatchUps { places: (10..10 + most).map(name).collect(), replaced: [Revision(14)].into() };
        written.apply(&Item::Extra(catch_ups));
        assert_eq!(written.place().unfinished.len(), limits::cursor_catchups_max);
        let withheld = Withheld { name: Revision(77_000), position: position(120) };
        written.apply(&Item::Blocked(SubscriptionIndex(1), withheld));
        let place = |at| Place { position: position(at), known: Revision(9), ..Place::default() };
        assert_eq!(written.place(), place(114), "one that was replaced has no start of its own");
        let withheld = Withheld { name: Revision(77_000), position: position(99) };
        written.apply(&Item::Blocked(SubscriptionIndex(2), withheld));
        assert_eq!(written.place(), place(99));
    }

    #[test]
    fn to_hear_progress_is_not_to_take() {
        let outbox = outbox(1);
        [item(1), item(2)].into_iter().for_each(|item| outbox.push(item));
        assert_eq!(names(&outbox.take(usize::MAX)), ["welcome", "change"]);
        for _ in 0..=IDLE_ROUNDS {
            assert!(outbox.is_taken_from());
            outbox.push(progress(2));
            assert_eq!(names(&outbox.take(usize::MAX)), ["progress"]);
            outbox.age();
        }
        assert!(!outbox.is_taken_from());
        outbox.acked(outbox.outstanding().0);
        assert_eq!(names(&outbox.take(usize::MAX)), ["change"]);
        assert!(outbox.is_taken_from());
    }

    #[test]
    fn who_is_paced_hears_progress_but_none_that_is_not_true() {
        let outbox = outbox(1);
        [item(1), item(2), progress(2)].into_iter().for_each(|item| outbox.push(item));
        assert_eq!(names(&outbox.take(usize::MAX)), ["welcome", "change"]);
        // Neither the second change nor the progress behind it.
        assert_eq!(names(&outbox.take(usize::MAX)), [""; 0]);
        for _ in 0..2 {
            outbox.push(progress(2));
            assert!(outbox.has_message());
            let frames = outbox.take(usize::MAX);
            let [Frame::Progress(said)] = frames.as_slice() else { panic!("{frames:?}") };
            let cursor = Cursor::decode(said.cursor.as_str()).unwrap();
            assert_eq!(cursor.places[&partition()].position, position(1));
            assert_eq!((said.positions[0].1, said.catching_up), (position(0), 2));
            assert!(!outbox.has_message());
        }
        outbox.acked(outbox.outstanding().0);
        assert_eq!(names(&outbox.take(usize::MAX)), ["change"]);
        outbox.acked(outbox.outstanding().0);
        assert_eq!(names(&outbox.take(usize::MAX)), ["progress"]);
    }
}
