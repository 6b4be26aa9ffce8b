//! What a session is owed: to hear that everything before its start is lost, where the gateway does not
//! stand where it thought it did.
//!
//! Owns promise 11 for `forgotten` and `restored`. Only the session that meets with such a loss sees
//! it: the next one may present nothing, or what the first has answered. So it is stored in one
//! transaction with that session's number and said first in every session, until a cursor of one of
//! them acks it.

use super::state::GatewayIndex;
use super::{Machine, Mistake};
use crate::change::ResyncReason;
use crate::cursor::{Cursor, Place, Serial};
use crate::delivery::outbox::{FIRST_SERIAL, Item, LaneName, ResyncItem};
use crate::handle::{DeliveryMode, Hello};
use crate::position::Position;
use crate::store::gateways::Owed;

/// What is still to be said to a gateway that has acked up to `serial`. The ack of a `welcome` does not
/// count, in no session: it comes before.
pub(super) fn still_owed(owed: Option<Owed>, serial: Serial) -> Option<Owed> {
    owed.filter(|owed| serial.session < owed.since || serial.written < FIRST_SERIAL)
}

impl Machine {
    /// Whether the store has not had this cursor's session yet: it has been restored from a copy that knows less. What has been
    /// changed since the copy is undone, parkings and moves between members among it, and of that the cursor knows nothing;
    /// so the place counts that the copy has.
    pub(super) fn is_unissued(&self, index: GatewayIndex, cursor: &Cursor) -> bool {
        let is_newer = cursor.serial.session > self.gateways[index.0].sessions;
        is_newer && self.of_this_life(index, cursor).is_some()
    }

    /// What the next session is owed if it presents this cursor.
    pub(super) fn owed_by_next(&self, index: GatewayIndex, cursor: Option<&Cursor>, hello: &Hello) -> Option<Owed> {
        let gateway = &self.gateways[index.0];
        let since = hello.number;
        let own = self.own(index, cursor);
        if cursor.is_some_and(|cursor| self.of_this_life(index, cursor).is_none()) {
            return Some(Owed { since, reason: ResyncReason::Forgotten });
        }
        if self.is_broken_off(self.start(index, cursor).0.position) {
            return Some(Owed { since, reason: ResyncReason::Restored });
        }
        // A publisher presents what is kept for the gateway, whether it has had it or not.
        let presented = own
            .filter(|_| hello.transport.mode() == DeliveryMode::Stream)
            .map(|(serial, _)| serial)
            .unwrap_or_default();
        still_owed(gateway.owed, gateway.told().max(presented)).filter(|_| !self.broken(Mistake::OwedOnce))
    }

    /// Says it to a session that starts from `place`.
    pub(super) fn owed_item(&self, owed: Owed, place: &Place) -> Item {
        // The same each time: client libraries take another end for another break.
        let restored = self.checkpoint.stored.restored.filter(|_| owed.reason == ResyncReason::Restored);
        Item::Resync(Box::new(ResyncItem {
            lane: LaneName::Joining,
            advance: true,
            from: None,
            to: restored.unwrap_or(place.position),
            reason: owed.reason,
            scopes: None,
            subscription_ids: Vec::new(),
        }))
    }

    /// Where history goes on for what lies before its last break.
    pub(super) fn broken_off_at(&self, position: Position) -> Option<Position> {
        self.checkpoint.stored.restored.filter(|restored| position.epoch < restored.epoch)
    }

    pub(super) fn is_broken_off(&self, position: Position) -> bool {
        self.broken_off_at(position).is_some()
    }
}
