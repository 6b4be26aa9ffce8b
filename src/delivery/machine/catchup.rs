//! Catch-ups: how a lane gets from where it stands to the live tail.
//!
//! Owns reading the source and the window for lanes, the join, and what is said where history is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compose::{owned, resync_item};
use super::lane::{Lane, Mode};
use super::state::{GatewayIndex, Session, SubLane};
use super::{Effect, Machine, Mistake, ReplayId};
use crate::change::{Flags, ResyncReason};
use crate::delivery::outbox::{Item, LaneName, Outbox};
use crate::delivery::window::Entry;
use crate::position::Position;
use crate::source::{Batch, Event, Gap, SourceError};

impl Machine {
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
        let has_room = self.has_room(outbox);
        let may_read = has_room && !self.budget.is_exhausted();
        match lane.mode {
            Mode::Live | Mode::Waiting => {}
            Mode::Replay { fetching: true, .. } => {}
            Mode::Replay { id, fetching: false } => {
                if may_read {
                    lane.mode = Mode::Replay { id, fetching: true };
                    self.effects.push(Effect::FetchReplay(id));
                }
            }
            Mode::Window if !self.window.reaches(lane.at) => {
                // A reading is begun for nobody who could not take what it brings.
                if !may_read {
                    return;
                }
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

    /// Where memory is short one entry at a time must do.
    fn has_room(&self, outbox: &Outbox) -> bool {
        let bytes_max = if self.budget.is_exhausted() { 1 } else { self.config.outbox_bytes_soft };
        outbox.has_taken() && outbox.bytes() < bytes_max
    }

    fn step_window(&mut self, outbox: &Outbox, lane: &mut Lane, name: LaneName, budget: &mut usize) {
        // Who has no room has nothing looked through for it.
        if !self.has_room(outbox) && self.window.count_after(lane.at) > 0 {
            return;
        }
        let entries: Vec<Entry> = self.window.after(lane.at, *budget).cloned().collect();
        let is_last = entries.len() == self.window.count_after(lane.at);
        let late = usize::from(self.broken(Mistake::JoinLate) && is_last && !entries.is_empty());
        let mut all = true;
        for entry in &entries[..entries.len() - late] {
            // What shares a position goes together: the lane stands after all of it, or before.
            if entry.position() > lane.at && !self.has_room(outbox) {
                all = false;
                break;
            }
            *budget = budget.saturating_sub(1);
            for item in lane.items(name, entry, &self.subs, Flags::REPLAYED) {
                self.counters.deliveries += 1;
                outbox.push(item);
            }
            lane.at = lane.at.max(entry.position());
        }
        self.too_costly.extend(lane.take_too_costly());
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
            let mut events = batch.events.into_iter().peekable();
            while let Some(event) = events.next() {
                let entry = match event {
                    Event::Change(change) if change.position > lane.at => Entry::Change(self.shared(change)),
                    Event::Resync(gap) if gap.position >= lane.at => {
                        let is_last = self.is_last_gap(&gap, events.peek());
                        Entry::Gap(Arc::new(gap), is_last)
                    }
                    _ => continue,
                };
                for item in lane.items(name, &entry, &self.subs, Flags::REPLAYED) {
                    self.counters.deliveries += 1;
                    outbox.push(owned(item));
                }
                lane.at = lane.at.max(entry.position());
            }
            self.too_costly.extend(lane.take_too_costly());
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

    pub(super) fn end_replay(&mut self, id: ReplayId, lane: &mut Lane) {
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
                let item = resync_item(&self.subs, LaneName::Main, (from, to), (reason, None), active);
                self.push_all(index, vec![item]);
            }
        }
        self.reached = to;
        self.window.restart(to);
        self.work();
    }
}
