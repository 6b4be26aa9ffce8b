//! For another split of the backend: what is left to be served of each subscription.
//!
//! Owns what becomes of a subscription where positions mean something else: it begins anew from where it has had
//! everything, and keeps its filters and the generations by which gateways know them.

use super::Machine;
use crate::store::gateways::GatewayRecord;
use crate::store::subscriptions::SubscriptionRecord;
use crate::subscription::{GatewayId, SubscriptionKey};

/// What a partition leaves to those that come after it.
#[derive(Clone, Debug)]
pub struct Left {
    /// Gateways as another partition may begin with them.
    pub gateways: Vec<(GatewayId, GatewayRecord)>,
    /// Subscriptions as another partition may begin with them.
    pub subscriptions: Vec<(SubscriptionKey, SubscriptionRecord)>,
}

impl Machine {
    /// What is left to be served, as it was durable when this was loaded.
    pub fn leave(&self) -> Left {
        let gateways = self.gateways.iter().map(|(_, gateway)| {
            let record =
                GatewayRecord { sessions: gateway.sessions, delivery: gateway.delivery, ..GatewayRecord::default() };
            (gateway.id.clone(), record)
        });
        let subscriptions = self.subs.iter().map(|(_, sub)| {
            let floor = sub.parked.map_or_else(|| self.floor(sub, &self.effective(sub.gateway)), |(floor, ..)| floor);
            let mut sub = sub.clone();
            for segment in &mut sub.segments {
                let generation = Some(segment.shown());
                segment.spec = std::sync::Arc::new(crate::subscription::Spec { generation, ..(*segment.spec).clone() });
            }
            let mut record = SubscriptionRecord {
                generation: None,
                start: floor,
                start_revision: None,
                revivals: Vec::new(),
                birth: None,
                ..sub.record()
            };
            // Nothing goes further back than it has to.
            record.superseded.retain(|old| old.until > floor);
            record.active_from = record.active_from.max(floor);
            (sub.key.clone(), record)
        });
        Left { gateways: gateways.collect(), subscriptions: subscriptions.collect() }
    }
}

impl Left {
    /// One for all partitions: of each subscription the lesser of what either has had.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for (id, record) in other.gateways {
            match self.gateways.iter_mut().find(|(known, _)| *known == id) {
                Some((_, known)) => known.sessions = known.sessions.max(record.sessions),
                None => self.gateways.push((id, record)),
            }
        }
        for (key, record) in other.subscriptions {
            match self.subscriptions.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => known.lower_to(&record),
                None => self.subscriptions.push((key, record)),
            }
        }
        self
    }
}

impl SubscriptionRecord {
    /// With what is served further back, and by which filters.
    fn lower_to(&mut self, other: &Self) {
        if other.start.time >= self.start.time {
            return;
        }
        (self.start, self.active_from) = (other.start, other.active_from);
        self.superseded.clone_from(&other.superseded);
        if let Some(parked) = &mut self.parked {
            parked.floor = other.start;
        }
    }
}
