//! Relief: who is cut so that memory stays bounded.
//!
//! Owns the choice. A session that is cut loses nothing: it goes on by a catch-up from what it was last written.

use super::state::GatewayIndex;
use super::{Machine, Mistake};

impl Machine {
    /// Cuts sessions that keep changes alive which the window has given up, and, while all outboxes together
    /// hold more than they may, those that take nothing, then those that hold most. Call at least once a second.
    pub(super) fn relieve(&mut self) {
        let start = self.window.start();
        let sessions = self.gateways.iter().filter_map(|(index, gateway)| Some((index, gateway.session.as_ref()?)));
        let outlived = sessions.filter(|(_, session)| session.outbox.oldest_shared().is_some_and(|at| at <= start));
        let outlived: Vec<_> = outlived.map(|(index, _)| GatewayIndex(index)).collect();
        for index in outlived {
            self.evict(index);
        }
        if !self.budget.is_exhausted() {
            return;
        }
        let sessions = self.gateways.iter().filter_map(|(index, gateway)| Some((index, gateway.session.as_ref()?)));
        let mut holders: Vec<_> = sessions
            .map(|(index, session)| (session.outbox.is_taken_from(), session.outbox.held(), GatewayIndex(index)))
            .filter(|(_, held, _)| *held > 0)
            .collect();
        holders.sort_unstable_by_key(|(is_taken_from, held, _)| (*is_taken_from, std::cmp::Reverse(*held)));
        for (_, _, index) in holders {
            if !self.budget.is_exhausted() {
                return;
            }
            self.evict(index);
        }
    }

    fn evict(&mut self, index: GatewayIndex) {
        self.counters.evictions += 1;
        if self.broken(Mistake::EvictForgets) {
            if let Some(session) = &self.gateways[index.0].session {
                session.outbox.cut();
            }
            return;
        }
        self.restart_session(index);
    }
}
