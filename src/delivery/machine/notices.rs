//! What the log says of gateways and subscriptions: one line for what somebody may ask about afterwards.
//!
//! Owns the words. Which partition it is says the span that its loop runs in. No values of documents, no filters.

use super::Machine;
use super::state::GatewayIndex;
use crate::delivery::frame::CloseReason;
use crate::delivery::outbox::Item;
use crate::handle::DeliveryMode;
use crate::matching::SubscriptionIndex;
use crate::source::Gap;
use crate::store::subscriptions::ParkedReason;
use crate::subscription::GatewayId;

impl Machine {
    pub(super) fn note_begun(&self, index: GatewayIndex) {
        let gateway = &self.gateways[index.0];
        let Some(session) = &gateway.session else { return };
        tracing::info!(
            gateway = %gateway.id,
            session = session.number,
            transport = session.transport.name(),
            node = %session.node,
            position = %session.main.at,
            behind_seconds = self.seconds_behind(self.effective(index).position),
            "a session begins"
        );
    }

    /// Before the session is gone.
    pub(super) fn note_ended(&self, index: GatewayIndex, reason: CloseReason) {
        let gateway = &self.gateways[index.0];
        let Some(session) = &gateway.session else { return };
        let position = self.effective(index).position;
        tracing::info!(
            gateway = %gateway.id,
            session = session.number,
            // Nobody is told anything who is gone.
            reason = if session.outbox.is_abandoned() { "disconnected" } else { reason.name() },
            %position,
            behind_seconds = self.seconds_behind(position),
            "a session ends"
        );
    }

    pub(super) fn note_overflow(&self, index: GatewayIndex) {
        tracing::warn!(gateway = %self.gateways[index.0].id, position = %self.reached, "too slow: its session goes on as a catch-up");
    }

    pub(super) fn note_unissued(&self, index: GatewayIndex) {
        tracing::error!(gateway = %self.gateways[index.0].id, position = %self.reached, "a cursor is of a session that the store has not had yet: was the store restored? going on from where the store has the gateway");
    }

    /// So many gateways have something that it is about.
    pub(super) fn note_gap(&self, gap: &Gap, gateways: usize) {
        let (reason, from, position) = (gap.reason.name(), gap.from(), gap.position);
        if gateways > 0 {
            tracing::warn!(reason, %from, %position, gateways, "gateways are told to read a range anew");
        }
    }

    /// `subs` are one gateway's, parked by one write.
    pub(super) fn note_parked(&self, subs: &[(SubscriptionIndex, ParkedReason)]) {
        let Some(((first, reason), count)) = subs.first().zip(Some(subs.len())) else { return };
        let sub = &self.subs[first.0];
        let gateway = &self.gateways[sub.gateway.0].id;
        if *reason != ParkedReason::TooCostly {
            return tracing::info!(%gateway, reason = reason.name(), subscriptions = count, position = %self.reached, "subscriptions are parked");
        }
        for (index, _) in subs {
            let subscription = &self.subs[index.0].key.id;
            tracing::warn!(%gateway, %subscription, reason = reason.name(), position = %self.reached, "a filter is too costly: its subscription is parked");
        }
    }

    pub(super) fn note_moved(&self, index: GatewayIndex) {
        tracing::info!(gateway = %self.gateways[index.0].id, position = %self.gateways[index.0].place.position, "a gateway's cursor is moved");
    }

    pub(super) fn note_removed(&self, index: GatewayIndex) {
        let gateway = &self.gateways[index.0];
        tracing::info!(gateway = %gateway.id, subscriptions = gateway.subs.len(), position = %self.reached, "a gateway is removed");
    }

    pub(super) fn note_served(&self, index: GatewayIndex, mode: DeliveryMode) {
        tracing::info!(gateway = %self.gateways[index.0].id, delivery = ?mode, position = %self.reached, "a gateway is served another way");
    }
}

/// One gateway is told of a loss that is its own.
pub(super) fn note_resync(gateway: &GatewayId, item: &Item) {
    let Item::Resync(resync) = item else { return };
    let (reason, from, position) = (resync.reason.name(), resync.from.map(tracing::field::display), resync.to);
    tracing::warn!(%gateway, reason, from, %position, "a gateway is told to read anew");
}
