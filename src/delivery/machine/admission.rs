//! Admission: subscriptions whose writes are confirmed enter service, and leave it.
//!
//! Owns the choice of a lane for them and what the gateway's cursors may say meanwhile.

use super::lane::{Lane, Mode};
use super::state::{GatewayIndex, SubLane};
use super::{Machine, Mistake};
use crate::change::Flags;
use crate::delivery::outbox::{CatchUps, Item, LaneName};
use crate::matching::SubscriptionIndex;
use crate::position::Position;

impl Machine {
    /// Subscriptions whose writes are confirmed enter service, each from its floor.
    pub(super) fn admit(&mut self, index: GatewayIndex, subs: &[(SubscriptionIndex, Position)]) {
        for (sub, _) in subs {
            self.subs[sub.0].rewound = false;
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
            let is_unripe = self.subs[sub.0].is_unripe(self.reached);
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
                session.main.add(sub, &self.subs[sub.0], floor);
            }
        }
        let (items, _) = self.slice(&joining);
        if !(items.is_empty() && extra.is_empty()) {
            // Those of one transaction share a revision: hold all of them, or none.
            self.freeze_and_hold(index, subs);
        }
        for (sub, _) in &joining {
            self.subs[sub.0].lane = SubLane::Main;
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
        let sub = &self.subs[index.0];
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
        let unripe = subs.iter().any(|(sub, _)| self.subs[sub.0].is_unripe(self.reached));
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
        let mut lane = Lane::new(Mode::Window, lowest, &self.clock);
        for (sub, floor) in joining {
            lane.add(*sub, &self.subs[sub.0], *floor);
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
    pub(super) fn freeze_and_hold(&mut self, index: GatewayIndex, subs: &[(SubscriptionIndex, Position)]) {
        if !self.gateways[index.0].quiet {
            return;
        }
        self.freeze(index, self.reached);
        for (sub, floor) in subs {
            self.hold(index, self.subs[sub.0].name(), *floor);
        }
    }

    fn add_extra(&mut self, index: GatewayIndex, subs: &[(SubscriptionIndex, Position)]) {
        if subs.is_empty() {
            return;
        }
        let Some(mut session) = self.gateways[index.0].session.take() else { return };
        let lowest = subs.iter().map(|(_, floor)| *floor).min().unwrap_or(self.reached);
        let extra = session.extra.get_or_insert_with(|| Lane::new(Mode::Waiting, lowest, &self.clock));
        if lowest < extra.at {
            self.alight(index, LaneName::Extra, extra);
            for (_, member) in &mut extra.members {
                member.floor = member.floor.max(extra.at);
            }
            extra.at = lowest;
            extra.mode = Mode::Waiting;
        }
        for (sub, floor) in subs.iter().copied() {
            // Held back there by a PUT that came to nothing, it would go on after what was held back.
            session.main.remove(sub);
            extra.add(sub, &self.subs[sub.0], floor);
            self.subs[sub.0].lane = SubLane::Extra;
        }
        session.outbox.push(Item::Extra(self.named(extra)));
        self.gateways[index.0].session = Some(session);
        self.busy.insert(index);
    }

    /// A lane's catch-ups as cursors name them.
    pub(super) fn named(&self, lane: &Lane) -> CatchUps {
        let mut progress = CatchUps::default();
        for (_, member) in &lane.members {
            let sub = &self.subs[member.sub.0];
            progress.add(sub.name(), !sub.is_replaced(), member.floor.max(lane.at));
        }
        progress
    }

    /// Takes a subscription out of all catch-ups.
    pub(super) fn leave_lanes(&mut self, index: SubscriptionIndex) {
        let gateway = self.subs[index.0].gateway;
        let Some(mut session) = self.gateways[gateway.0].session.take() else { return };
        session.main.remove(index);
        if session.main.is_riding() && session.main.len() == 0 {
            // Where nobody has to be served there is nothing to read.
            self.alight(gateway, LaneName::Main, &mut session.main);
            session.main.at = session.main.at.max(self.reached);
        }
        if let Some(extra) = &mut session.extra
            && extra.remove(index)
        {
            // Many may go one after the other: cursors name who is left from the next step on.
            extra.is_misnamed = true;
            if extra.len() == 0 {
                self.alight(gateway, LaneName::Extra, extra);
                session.extra = None;
                session.outbox.push(Item::Extra(CatchUps::default()));
            }
        }
        session.outbox.push(Item::Unblocked(index));
        self.gateways[gateway.0].session = Some(session);
        self.settle(gateway);
    }
}
