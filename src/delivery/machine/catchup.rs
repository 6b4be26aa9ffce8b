//! Catch-ups: how a lane gets from where it stands to the live tail.
//!
//! Owns reading the window for lanes, the join, and what is said where the live stream's history is lost. How
//! the source is read for them is in `rides`.

use super::compose::resync_item;
use super::lane::{Lane, Mode};
use super::state::{GatewayIndex, Sub, SubLane};
use super::{Machine, Mistake};
use crate::change::{Flags, ResyncReason};
use crate::delivery::outbox::{CatchUps, Item, LaneName, Outbox};
use crate::delivery::window::Entry;
use crate::position::Position;

impl Machine {
    /// Moves catch-ups on, a bounded number of changes. Whether there is more to do right now.
    pub fn work(&mut self) -> bool {
        let mut budget = self.config.turn_changes_max;
        let mut waiting = Vec::new();
        for index in self.busy.clone() {
            self.step(index, &mut budget, &mut waiting);
        }
        self.board(waiting);
        self.drive();
        budget == 0
    }

    fn step(&mut self, index: GatewayIndex, budget: &mut usize, waiting: &mut Vec<(Position, GatewayIndex, LaneName)>) {
        let Some(mut session) = self.gateways[index.0].session.take() else {
            self.busy.remove(&index);
            return;
        };
        self.step_lane(&session.outbox, &mut session.main, LaneName::Main, budget);
        let main_live = session.main.is_live();
        if let Some(extra) = &mut session.extra {
            if main_live && extra.mode == Mode::Waiting {
                extra.mode = Mode::Window;
            }
            if std::mem::take(&mut extra.is_misnamed) {
                session.outbox.push(Item::Extra(self.named(extra)));
            }
            self.step_lane(&session.outbox, extra, LaneName::Extra, budget);
            let is_level = extra.at == self.reached && session.main.at <= self.reached;
            if main_live && is_level && extra.mode == Mode::Window && self.is_ripe(extra) {
                for sub in extra.by_sub.keys() {
                    self.subs[sub.0].lane = SubLane::Main;
                }
                session.extra = None;
                session.outbox.push(Item::Extra(CatchUps::default()));
            }
        }
        // A reading is for nobody who could not take what it brings.
        if self.may_read(&session.outbox) {
            let lanes = [(Some(&session.main), LaneName::Main), (session.extra.as_ref(), LaneName::Extra)];
            let lanes = lanes.into_iter().filter_map(|(lane, name)| Some((lane?, name)));
            let wants = lanes.filter(|(lane, _)| lane.mode == Mode::Window && !self.window.reaches(lane.at));
            waiting.extend(wants.map(|(lane, name)| (lane.at, index, name)));
        }
        let done = main_live && session.extra.is_none();
        self.gateways[index.0].session = Some(session);
        if done {
            self.busy.remove(&index);
            self.settle(index);
        }
    }

    fn step_lane(&mut self, outbox: &Outbox, lane: &mut Lane, name: LaneName, budget: &mut usize) {
        if lane.mode != Mode::Window {
            return;
        }
        while !self.window.reaches(lane.at) && self.is_known_lost(lane.at) {
            self.say_lost(outbox, lane, name);
        }
        if self.window.reaches(lane.at) {
            self.step_window(outbox, lane, name, budget);
        }
    }

    /// Where memory is short one entry at a time must do.
    fn has_room(&self, outbox: &Outbox) -> bool {
        let bytes_max = if self.budget.is_exhausted() { 1 } else { self.config.outbox_bytes_soft };
        outbox.has_taken() && outbox.bytes() < bytes_max
    }

    /// Whether what a reading brings may wait in this outbox.
    pub(super) fn may_read(&self, outbox: &Outbox) -> bool {
        self.has_room(outbox) && !self.budget.is_exhausted()
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
                self.counters.delivers(&item);
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
        lane.by_sub.keys().all(|sub| !self.subs[sub.0].is_unripe(self.reached))
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
                let is_due = |sub: &Sub| sub.is_active() && sub.held().is_none();
                let active = subs.filter(|sub| is_due(&self.subs[sub.0]));
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
