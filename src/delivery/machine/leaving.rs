//! For another split of the backend: what is left to be served of each subscription.
//!
//! Owns what becomes of a subscription where positions mean something else: it begins anew from where it has had
//! everything, and keeps its filters and the generations by which gateways know them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Machine;
use super::state::Sub;
use crate::position::{Epoch, Position};
use crate::store::gateways::GatewayRecord;
use crate::store::subscriptions::SubscriptionRecord;
use crate::subscription::{GatewayId, Spec, SubscriptionKey};

/// What partitions leave to those that come after them. Positions are boundaries of one epoch.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Gateways as a partition may begin with them.
    pub gateways: BTreeMap<GatewayId, GatewayRecord>,
    /// Subscriptions as a partition may begin with them.
    pub subscriptions: BTreeMap<SubscriptionKey, SubscriptionRecord>,
}

impl Machine {
    /// What is left to be served, as it was durable when this was loaded. Its positions are given this epoch.
    pub fn leave(&self, epoch: Epoch) -> Left {
        let gateways = self.gateways.iter().map(|(_, gateway)| {
            let (sessions, delivery) = (gateway.sessions, gateway.delivery);
            (gateway.id.clone(), GatewayRecord { sessions, delivery, ..GatewayRecord::default() })
        });
        let subscriptions = self.subs.iter().map(|(_, sub)| (sub.key.clone(), self.record_left(sub, epoch)));
        Left { gateways: gateways.collect(), subscriptions: subscriptions.collect() }
    }

    fn record_left(&self, sub: &Sub, epoch: Epoch) -> SubscriptionRecord {
        let at = |position: Position| Position::boundary(epoch, position.time);
        let floor = at(sub.parked.map_or_else(|| self.still_due(sub), |(floor, ..)| floor));
        let mut sub = sub.clone();
        for segment in &mut sub.segments {
            let generation = Some(segment.shown());
            segment.spec = Arc::new(Spec { generation, ..(*segment.spec).clone() });
        }
        let mut record = sub.record();
        record.superseded.retain(|old| at(old.until) > floor);
        for old in &mut record.superseded {
            (old.from, old.until) = (at(old.from), at(old.until));
        }
        if let Some(parked) = &mut record.parked {
            parked.floor = floor;
        }
        SubscriptionRecord {
            generation: None,
            // Nothing goes further back than it has to.
            active_from: at(record.active_from).max(floor),
            start: floor,
            start_revision: None,
            revivals: Vec::new(),
            // Who is there, the new split finds out for itself.
            assigned: None,
            // It goes to whoever lives, from where it has had everything.
            birth: record.assigned.is_none().then(|| (at(sub.birth.0).min(floor), sub.birth.1)),
            ..record
        }
    }

    /// From where it is still to be served. What a transport has kept for the gateway it may still lose.
    fn still_due(&self, sub: &Sub) -> Position {
        let gateway = &self.gateways[sub.gateway.0];
        let due = self.floor(sub, &self.effective(sub.gateway));
        let had = gateway.had_of_kept();
        let had = had.as_ref().and_then(|cursor| self.of_this_life(sub.gateway, cursor));
        had.map_or(due, |place| due.min(self.floor(sub, &self.in_epoch(place.clone()))))
    }
}

impl Left {
    /// One for all partitions: of each subscription the lesser of what either has had.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (id, record) in other.gateways {
            let known = self.gateways.entry(id).or_insert_with(|| record.clone());
            known.sessions = known.sessions.max(record.sessions);
        }
        for (key, record) in other.subscriptions {
            // With it go the filters that are still due from there on.
            let known = self.subscriptions.entry(key).or_insert_with(|| record.clone());
            if record.start < known.start {
                *known = record;
            }
        }
        self
    }
}
