//! Rides: one reading of the source for all catch-ups that want what it brings.
//!
//! Owns who rides which reading, and what becomes of a batch. A lane boards where it stands, at or past the
//! reading's place, and takes what lies after its own; it leaves where it has no room, to board another later, and
//! where the window takes over. A reading waits for no rider, and ends without any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::compose::owned;
use super::lane::{Lane, Mode};
use super::notices::note_resync;
use super::state::GatewayIndex;
use super::{Effect, Machine, Mistake, ReplayId};
use crate::change::{Flags, ResyncReason};
use crate::delivery::outbox::{LaneName, Outbox};
use crate::delivery::window::Entry;
use crate::limits;
use crate::position::Position;
use crate::source::{Batch, Event, Gap, SourceError};

/// A lane of a gateway's session.
type Rider = (GatewayIndex, LaneName);

/// One reading of the source.
#[derive(Debug)]
struct Ride {
    /// It has brought everything up to here.
    at: Position,
    fetching: bool,
    riders: Vec<Rider>,
}

/// All readings of the partition's catch-ups.
#[derive(Debug, Default)]
pub(super) struct Rides {
    next: u64,
    /// Where the source has said that history is lost: it is not asked again. Of other places this says nothing, for
    /// some are lost because they never were in this history.
    lost: BTreeSet<Position>,
    all: BTreeMap<ReplayId, Ride>,
}

impl Rides {
    /// The reading that brings what lies after `at` soonest, unless one of its own would be sooner.
    fn for_lane(&self, at: Position, rides_max: usize, late: bool) -> Option<ReplayId> {
        let has_place = self.all.len() < rides_max;
        let is_near =
            |ride: &Ride| at.time.seconds().saturating_sub(ride.at.time.seconds()) <= limits::ride_wait_seconds;
        let brings = |ride: &Ride| ride.at <= at && (!has_place || is_near(ride));
        let brings = self.all.iter().filter(|(_, ride)| late || brings(ride));
        brings.max_by_key(|(_, ride)| ride.at).map(|(id, _)| *id)
    }
}

impl Machine {
    /// Lanes that want a reading board one, those with the least history left first.
    pub(super) fn board(&mut self, mut waiting: Vec<(Position, GatewayIndex, LaneName)>) {
        waiting.sort_unstable_by_key(|(at, index, _)| (*at, *index));
        for (at, index, name) in waiting {
            let late = self.broken(Mistake::BoardLate);
            let id = match self.rides.for_lane(at, self.config.rides_max, late) {
                Some(id) => id,
                None if self.has_place() => self.begin_ride(at),
                None => continue,
            };
            let session = self.gateways[index.0].session.as_mut();
            let lane = session.and_then(|session| session.lane_mut(name));
            if let (Some(lane), Some(ride)) = (lane, self.rides.all.get_mut(&id)) {
                lane.mode = Mode::Riding(id);
                ride.riders.push((index, name));
            }
        }
    }

    /// A reading that stands still, because none of its riders has room, makes place: they board again when they
    /// have.
    fn has_place(&mut self) -> bool {
        if self.rides.all.len() < self.config.rides_max {
            return true;
        }
        let stands = |ride: &Ride| !ride.fetching && !ride.riders.iter().any(|rider| self.is_room_for(rider));
        let standing = self.rides.all.iter().find(|(_, ride)| stands(ride)).map(|(id, _)| *id);
        let Some((id, ride)) = standing.and_then(|id| Some((id, self.rides.all.get_mut(&id)?))) else { return false };
        let riders = std::mem::take(&mut ride.riders);
        self.let_off(id, riders, |_, _, _, _| {});
        self.end_if_empty(id);
        true
    }

    fn is_room_for(&self, rider: &Rider) -> bool {
        self.gateways[rider.0.0].session.as_ref().is_some_and(|session| self.may_read(&session.outbox))
    }

    fn begin_ride(&mut self, at: Position) -> ReplayId {
        self.rides.next += 1;
        let id = ReplayId(self.rides.next);
        self.counters.replays += 1;
        self.rides.all.insert(id, Ride { at, fetching: true, riders: Vec::new() });
        self.effects.push(Effect::OpenReplay(id, at));
        self.effects.push(Effect::FetchReplay(id));
        id
    }

    /// Readings bring more as long as one of their riders has room for it.
    pub(super) fn drive(&mut self) {
        let goes_on = |ride: &Ride| !ride.fetching && ride.riders.iter().any(|rider| self.is_room_for(rider));
        let ids: Vec<_> = self.rides.all.iter().filter(|(_, ride)| goes_on(ride)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(ride) = self.rides.all.get_mut(&id) {
                ride.fetching = true;
                self.effects.push(Effect::FetchReplay(id));
            }
        }
    }

    /// Takes a lane out of its reading, if it is in one.
    pub(super) fn alight(&mut self, index: GatewayIndex, name: LaneName, lane: &mut Lane) {
        let Mode::Riding(id) = lane.mode else { return };
        lane.mode = Mode::Window;
        let Some(ride) = self.rides.all.get_mut(&id) else { return };
        ride.riders.retain(|rider| *rider != (index, name));
        self.end_if_empty(id);
    }

    fn end_if_empty(&mut self, id: ReplayId) {
        if self.rides.all.get(&id).is_some_and(|ride| ride.riders.is_empty()) {
            self.rides.all.remove(&id);
            self.effects.push(Effect::CloseReplay(id));
        }
    }

    /// A reading's next batch.
    pub fn on_replay_batch(&mut self, id: ReplayId, batch: Batch) {
        let Some(ride) = self.rides.all.get_mut(&id) else { return };
        let (from, reached) = (ride.at, ride.at.max(batch.reached));
        (ride.at, ride.fetching) = (reached, false);
        let riders = std::mem::take(&mut ride.riders);
        let entries = self.entries(batch, from);
        self.horizon = self.horizon.max(reached);
        let mut staying = Vec::new();
        self.let_off(id, riders, |machine, outbox, lane, rider| {
            if machine.ride(outbox, lane, rider.1, &entries, reached) && !machine.window.reaches(lane.at) {
                lane.mode = Mode::Riding(id);
                staying.push(rider);
            }
        });
        if let Some(ride) = self.rides.all.get_mut(&id) {
            ride.riders = staying;
        }
        self.end_if_empty(id);
        self.work();
    }

    fn entries(&self, batch: Batch, from: Position) -> Vec<Entry> {
        let mut events = batch.events.into_iter().peekable();
        let mut entries = Vec::new();
        while let Some(event) = events.next() {
            match event {
                Event::Change(change) if change.position > from => entries.push(Entry::Change(self.shared(change))),
                // Said again by a reading that begins at its place.
                Event::Resync(gap) if gap.position >= from => {
                    let is_last = self.is_last_gap(&gap, events.peek());
                    entries.push(Entry::Gap(Arc::new(gap), is_last));
                }
                _ => {}
            }
        }
        entries
    }

    /// Gives a rider its part of a batch. Whether it has taken it: without room it stays where it is.
    fn ride(&mut self, outbox: &Outbox, lane: &mut Lane, name: LaneName, entries: &[Entry], reached: Position) -> bool {
        let is_ahead = |entry: &&Entry| match entry {
            Entry::Change(change) => change.position > lane.at,
            Entry::Gap(gap, _) => gap.position >= lane.at,
        };
        // One that had room when it was asked for has room still, whatever came by other ways.
        let has_room = outbox.has_taken() && outbox.bytes() < 2 * self.config.outbox_bytes_soft;
        if !has_room && lane.at < reached {
            if self.broken(Mistake::LeaveAtRide) {
                lane.at = reached;
            }
            return false;
        }
        let first = entries.iter().take_while(|entry| !is_ahead(entry)).count();
        for entry in &entries[first..] {
            for item in lane.items(name, entry, &self.subs, Flags::REPLAYED) {
                self.counters.delivers(&item);
                outbox.push(owned(item));
            }
            lane.at = lane.at.max(entry.position());
        }
        self.too_costly.extend(lane.take_too_costly());
        lane.at = lane.at.max(reached);
        true
    }

    /// A reading failed. What is lost is said to those who stood where it did, and serving goes on from the
    /// window; anything else is tried again (the shell waits before it opens).
    pub fn on_replay_failed(&mut self, id: ReplayId, error: &SourceError) {
        let Some(ride) = self.rides.all.get_mut(&id) else { return };
        let at = ride.at;
        if !matches!(error, SourceError::HistoryLost(_) | SourceError::Exchanged(_)) {
            ride.fetching = true;
            self.effects.push(Effect::OpenReplay(id, at));
            self.effects.push(Effect::FetchReplay(id));
            return;
        }
        if self.rides.lost.len() >= limits::lost_positions_max {
            self.rides.lost.pop_first();
        }
        self.rides.lost.insert(at);
        let riders = std::mem::take(&mut ride.riders);
        self.end_if_empty(id);
        let all_lost = self.broken(Mistake::LostForAllRiders);
        self.let_off(id, riders, |machine, outbox, lane, (_, name)| {
            // Others want what comes later, which may still be there.
            if lane.at <= at || all_lost {
                machine.say_lost(outbox, lane, name);
            }
        });
        self.work();
    }

    /// Takes these out of their reading, each with something to do then.
    fn let_off(
        &mut self,
        id: ReplayId,
        riders: Vec<Rider>,
        mut then: impl FnMut(&mut Self, &Outbox, &mut Lane, Rider),
    ) {
        for rider in riders {
            let index = rider.0;
            let Some(mut session) = self.gateways[index.0].session.take() else { continue };
            let outbox = Arc::clone(&session.outbox);
            if let Some(lane) = session.lane_mut(rider.1).filter(|lane| lane.mode == Mode::Riding(id)) {
                lane.mode = Mode::Window;
                then(self, &outbox, lane, rider);
            }
            self.gateways[index.0].session = Some(session);
            self.busy.insert(index);
        }
    }

    /// Whether it is known that the source no longer has what lies after `at`.
    pub(super) fn is_known_lost(&self, at: Position) -> bool {
        self.rides.lost.contains(&at)
    }

    pub(super) fn say_lost(&mut self, outbox: &Outbox, lane: &mut Lane, name: LaneName) {
        let from = lane.at;
        // Who begins later has lost nothing yet, and history may be there. To find out for each beginning would ask the
        // source as often as there are subscriptions: so half of them are passed at a time.
        let later = lane.members.iter().map(|(_, member)| member.floor).filter(|floor| *floor > from);
        let mut later: Vec<_> = later.collect();
        later.sort_unstable();
        let to = self.window.start().max(from);
        let to = later.get(later.len() / 2).map_or(to, |half| to.min(*half));
        let gap = Gap { position: to, scope: Default::default(), reason: ResyncReason::HistoryLost };
        for item in lane.lost_items(name, &gap, (from, to), Some(to), &self.subs) {
            self.counters.resyncs += 1;
            note_resync(outbox.gateway(), &item);
            outbox.push(item);
        }
        lane.at = to;
    }
}
