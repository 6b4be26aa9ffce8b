//! Relief: who is cut so that memory stays bounded.
//!
//! Owns the choice. A session that is cut loses nothing: it goes on by a catch-up from what it was last written.

use std::cmp::Reverse;

use super::state::{GatewayIndex, Session};
use super::{Machine, Mistake};

impl Machine {
    /// Cuts sessions that keep changes alive which the window has given up. While all outboxes together hold as
    /// much as they may, those that have taken nothing of late are cut, too; those that take make room by
    /// themselves, and are cut only where even that is too slow, and if the window has what they wait for: what
    /// was read for one alone would be read again and again. Call at least once a second.
    pub(super) fn relieve(&mut self) {
        let start = self.window.start();
        let outlived =
            self.sessions().filter(|(_, session)| session.outbox.oldest_shared().is_some_and(|at| at <= start));
        let outlived: Vec<_> = outlived.map(|(index, _)| index).collect();
        for index in outlived {
            self.evict(index);
        }
        if !self.budget.is_exhausted() {
            return;
        }
        let mut holders: Vec<_> = self
            .sessions()
            .filter_map(|(index, session)| {
                let (held, rests) = (session.outbox.held(), session.outbox.rests());
                let is_read_for = session.main.is_riding() || session.extra.is_some();
                (held > 0 && (rests || !is_read_for)).then_some((rests, held, index))
            })
            .collect();
        holders.sort_unstable_by_key(|(rests, held, _)| Reverse((*rests, *held)));
        for (rests, _, index) in holders {
            let is_enough = if rests { !self.budget.is_exhausted() } else { !self.budget.is_overdrawn() };
            if is_enough {
                return;
            }
            self.evict(index);
        }
    }

    fn sessions(&self) -> impl Iterator<Item = (GatewayIndex, &Session)> {
        self.gateways.iter().filter_map(|(index, gateway)| Some((GatewayIndex(index), gateway.session.as_ref()?)))
    }

    fn evict(&mut self, index: GatewayIndex) {
        self.counters.evictions += 1;
        if self.broken(Mistake::EvictForgets) {
            if let Some(session) = &self.gateways[index.0].session {
                session.outbox.cut();
            }
            return;
        }
        self.note_overflow(index);
        self.restart_session(index);
    }
}
