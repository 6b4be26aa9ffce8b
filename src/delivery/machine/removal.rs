//! Removals: of subscriptions and of whole gateways. They are served until it is stored.

use std::sync::Arc;

use super::registry::{busy, no_subscription};
use super::state::{GatewayIndex, Pending, RecordState, Removal, WriteKind};
use super::{Answer, Machine, Waiter};
use crate::delivery::frame::CloseReason;
use crate::error::{Code, Problem};
use crate::handle::DeliveryMode;
use crate::limits;
use crate::matching::SubscriptionIndex;
use crate::store::{Expect, Revision, Write, gateways};
use crate::subscription::{GatewayId, SubscriptionKey};

impl Machine {
    /// Removes a subscription.
    pub fn on_unregister(&mut self, key: &SubscriptionKey, waiter: Waiter) {
        let Some(index) = self.by_key.get(key).copied() else {
            return self.answer(waiter, Err(no_subscription(key)));
        };
        let sub = &mut self.subs[index.0];
        match sub.pending {
            None => {}
            Some(Pending::Remove) => return sub.waiters.push(waiter),
            Some(_) => return self.answer(waiter, Err(busy())),
        }
        sub.pending = Some(Pending::Remove);
        sub.waiters.push(waiter);
        let write = self.removal_write(index);
        self.write(WriteKind::Remove(vec![index]), vec![write]);
    }

    pub(super) fn removal_write(&self, index: SubscriptionIndex) -> Write {
        let sub = &self.subs[index.0];
        Write { key: self.store_key(&sub.key), expect: Expect::At(sub.revision), value: None }
    }

    /// A subscription is gone: out of everything.
    pub(super) fn drop_sub(&mut self, index: SubscriptionIndex) {
        self.leave_lanes(index);
        self.acquit(index);
        if self.matcher.contains(index) {
            self.matcher.remove(index);
        }
        let Some(sub) = self.subs.remove(index.0) else { return };
        self.strike(&sub.key.gateway, sub.gateway, index);
        self.by_key.remove(&sub.key);
        self.gateways[sub.gateway.0].subs.remove(&index);
        self.gateways[sub.gateway.0].withheld.remove(&index);
        let tenant = Arc::clone(&sub.current().spec.tenant);
        self.tenants.discount(&tenant);
    }

    /// Drops a gateway, its subscriptions and its cursor.
    pub fn on_remove_gateway(&mut self, id: &GatewayId, waiter: Waiter) {
        if id.in_group().is_some() {
            return self.on_remove_group(id, waiter);
        }
        let Some(index) = self.gateway_ids.get(id).copied() else {
            let problem = Problem::new(Code::GatewayNotFound, format!("no gateway {id}"));
            return self.answer(waiter, Err(problem));
        };
        let gateway = &mut self.gateways[index.0];
        if let Some(removal) = &mut gateway.removing {
            return removal.waiters.push(waiter);
        }
        if gateway.record != RecordState::Free || self.is_awaiting_writes(index) {
            return self.answer(waiter, Err(busy()));
        }
        self.remove_gateway(index, vec![waiter]);
    }

    /// Whether a write to one of its subscriptions is under way, or to one that it is to have.
    pub(super) fn is_awaiting_writes(&self, index: GatewayIndex) -> bool {
        !self.gateways[index.0].in_flight.is_empty()
            || self.gateways[index.0].subs.iter().any(|sub| self.subs[sub.0].pending.is_some())
    }

    /// Removes a gateway for whose record and subscriptions no write is under way.
    pub(super) fn remove_gateway(&mut self, index: GatewayIndex, waiters: Vec<Waiter>) {
        self.note_removed(index);
        self.end_session(index, CloseReason::Removed);
        let id = self.gateways[index.0].id.clone();
        self.member_leaves(&id);
        let subs: Vec<_> = self.gateways[index.0].subs.iter().copied().collect();
        for sub in &subs {
            self.subs[sub.0].pending = Some(Pending::Remove);
        }
        let chunks: Vec<&[SubscriptionIndex]> = subs.chunks(limits::store_txn_operations_max - 1).collect();
        let count = chunks.len().max(1);
        self.gateways[index.0].removing = Some(Removal { waiters, chunks: count });
        for number in 0..count {
            let part = chunks.get(number).map(|part| part.to_vec()).unwrap_or_default();
            let mut writes: Vec<Write> = part.iter().map(|sub| self.removal_write(*sub)).collect();
            let last = number + 1 == count;
            let gateway = &self.gateways[index.0];
            if last && gateway.revision != Revision(0) {
                let key = gateways::key(&self.config.partition, &gateway.id);
                writes.push(Write { key, expect: Expect::At(gateway.revision), value: None });
            }
            self.write(WriteKind::RemoveGateway { gateway: index, subs: part }, writes);
        }
    }

    pub(super) fn on_gateway_chunk_removed(&mut self, index: GatewayIndex, subs: Vec<SubscriptionIndex>) {
        for sub in subs {
            self.settle_waiters(sub, |_| Ok(Answer::Done));
            self.drop_sub(sub);
        }
        let Some(removal) = &mut self.gateways[index.0].removing else { return };
        removal.chunks -= 1;
        if removal.chunks > 0 {
            return;
        }
        let waiters = std::mem::take(&mut removal.waiters);
        let is_of_nats = self.mode(index) == DeliveryMode::Nats;
        let gateway = self.gateways.remove(index.0);
        if is_of_nats {
            self.removed.push(gateway.id.clone());
        }
        self.gateway_ids.remove(&gateway.id);
        self.busy.remove(&index);
        for waiter in waiters {
            self.answer(waiter, Ok(Answer::Done));
        }
        self.member_is_gone(&gateway.id);
    }
}
