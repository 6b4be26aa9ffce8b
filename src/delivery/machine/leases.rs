//! Leases: renewal, parking and revival (promise 14).
//!
//! Owns the timers. A parked subscription is not matched; its floor is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::groups::{Group, no_group};
use super::registry::{busy, no_subscription, packed, registered};
use super::state::{GatewayIndex, Pending, RecordState, Sub, WriteKind};
use super::{Machine, Mistake};
use crate::clock::Instant;
use crate::cursor::Place;
use crate::delivery::frame::Expired;
use crate::delivery::outbox::Item;
use crate::error::{Code, Problem};
use crate::handle::{DeliveryMode, Renewed, SubscriptionStates};
use crate::limits;
use crate::matching::SubscriptionIndex;
use crate::store::Revision;
use crate::store::subscriptions::{ParkedReason, ParkedRecord};
use crate::subscription::{GatewayId, SubscriptionId, SubscriptionKey};

/// How long a session has lasted before what its gateway was told of at its start is taken to be read: long enough
/// for a heartbeat.
const EXPIRED_TOLD_SECONDS: u64 = 3 * limits::heartbeat_seconds as u64;

/// The way through all subscriptions, a part each time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweep {
    /// The next to look at.
    at: u32,
    counting: SubscriptionStates,
    /// In which states they were when they were looked at last, if all have been.
    pub(super) counted: Option<SubscriptionStates>,
}

impl Machine {
    /// Renews one lease; what was parked for want of renewal is revived.
    pub fn on_renew(&mut self, key: &SubscriptionKey) -> Result<Instant, Problem> {
        let index = *self.by_key.get(key).ok_or_else(|| no_subscription(key))?;
        if let Some(revived) = self.renew_one(index) {
            self.revive(vec![revived]);
        }
        Ok(self.subs[index.0].expires)
    }

    /// Renews all of a gateway's leases. `named` are those that it believes it has.
    pub fn on_renew_gateway(
        &mut self,
        id: &GatewayId,
        named: Option<Vec<SubscriptionId>>,
    ) -> Result<(Renewed, Instant), Problem> {
        let subs = self.subs_of(id)?;
        let mut here: BTreeMap<SubscriptionId, SubscriptionIndex> = BTreeMap::new();
        here.extend(subs.iter().map(|sub| (self.subs[sub.0].key.id.clone(), *sub)));
        let named = named.unwrap_or_else(|| here.keys().cloned().collect());
        let unknown = named.iter().filter(|id| !here.contains_key(id)).cloned().collect();
        let names: std::collections::BTreeSet<_> = named.iter().collect();
        let unlisted = here.keys().filter(|id| !names.contains(id)).cloned().collect();
        let first = self.renew_all(&subs);
        let renewed = subs.len() as u64;
        let wall = self.clock.wall() + first.since(self.clock.now());
        Ok((Renewed { expires_at: wall, renewed, unknown, unlisted }, first))
    }

    /// A gateway's subscriptions: of a member those that it has, of a group all.
    fn subs_of(&self, id: &GatewayId) -> Result<Vec<SubscriptionIndex>, Problem> {
        if id.in_group().is_some_and(|(_, member)| member.is_empty()) {
            let is_known = self.gateways.iter().any(|(_, gateway)| gateway.id.owner() == *id);
            let group = self.groups.get(id);
            let subs = group.map(|group| group.subs().collect()).or_else(|| is_known.then(Vec::new));
            return subs.ok_or_else(|| no_group(id));
        }
        let unknown = || Problem::new(Code::GatewayNotFound, format!("no gateway {id}"));
        let index = *self.gateway_ids.get(id).ok_or_else(unknown)?;
        Ok(self.gateways[index.0].subs.iter().copied().collect())
    }

    /// Renews these leases and returns when the first of them ends.
    fn renew_all(&mut self, subs: &[SubscriptionIndex]) -> Instant {
        let revived: Vec<_> = subs.iter().filter_map(|sub| self.renew_one(*sub)).collect();
        self.revive(revived);
        let expiries = subs.iter().map(|sub| self.subs[sub.0].expires);
        expiries.min().unwrap_or_else(|| self.expiry(limits::ttl_seconds_default))
    }

    fn renew_one(&mut self, index: SubscriptionIndex) -> Option<SubscriptionIndex> {
        let expires = self.expiry(self.subs[index.0].ttl_seconds);
        let sub = &mut self.subs[index.0];
        sub.expires = expires;
        match (&sub.pending, sub.parked) {
            (Some(Pending::Park(..)), _) => {
                sub.revive_wanted = true;
                None
            }
            (None, Some((_, reason, _))) if reason != ParkedReason::TooCostly => Some(index),
            _ => None,
        }
    }

    /// When a lease ends: by its own renewal or by its gateway's last ack.
    pub(super) fn lease_end(&self, sub: &Sub) -> Instant {
        let ttl = Duration::from_secs(u64::from(sub.ttl_seconds));
        sub.expires.max(self.gateways[sub.gateway.0].renewed.after(ttl))
    }

    pub(super) fn expiry(&self, ttl_seconds: u32) -> Instant {
        self.clock.now().after(Duration::from_secs(u64::from(ttl_seconds)))
    }

    /// Brings parked subscriptions back, each from its floor.
    pub(super) fn revive(&mut self, subs: Vec<SubscriptionIndex>) {
        for (gateway, part) in self.by_gateway(subs) {
            let mut writes = Vec::new();
            for index in part {
                let sub = &mut self.subs[index.0];
                sub.pending = Some(Pending::Revive);
                let mut revived = sub.clone();
                revived.unpark(Revision(u64::MAX));
                let record = revived.record();
                writes.push((index, self.record_write(index, record)));
            }
            for (part, writes) in packed(writes) {
                self.write_addition(gateway, WriteKind::Revive(part), writes);
            }
        }
    }

    fn by_gateway(&self, subs: Vec<SubscriptionIndex>) -> Vec<(GatewayIndex, Vec<SubscriptionIndex>)> {
        let mut grouped: BTreeMap<GatewayIndex, Vec<SubscriptionIndex>> = BTreeMap::new();
        for index in subs {
            grouped.entry(self.subs[index.0].gateway).or_default().push(index);
        }
        grouped.into_iter().collect()
    }

    pub(super) fn on_revived(&mut self, subs: Vec<SubscriptionIndex>, revision: Revision) {
        let mut admitted = Vec::new();
        for index in subs {
            let sub = &mut self.subs[index.0];
            sub.pending = None;
            sub.revision = revision;
            sub.unpark(revision);
            admitted.push((index, sub.start));
            let filter = Arc::clone(&sub.current().filter);
            self.matcher.insert(index, filter);
            self.look_again(index);
        }
        if let Some((first, _)) = admitted.first() {
            let gateway = self.subs[first.0].gateway;
            self.admit(gateway, &admitted);
        }
        for (index, _) in admitted {
            let view = self.view(index);
            self.settle_waiters(index, |_| Ok(registered(view.clone(), false)));
        }
    }

    /// Parks what has not been renewed, and forgets what has been parked for too long. Call once a
    /// second or so.
    pub fn expire(&mut self) {
        let now = self.clock.now();
        let part = self.next_part();
        let subs = part.clone().filter_map(|number| Some((number, self.subs.get(number)?)));
        let due = subs.filter(|(_, sub)| sub.pending.is_none() && sub.parked.is_none());
        let due = due.filter(|(_, sub)| self.lease_end(sub) <= now);
        let due = due.map(|(number, _)| SubscriptionIndex(number)).collect();
        self.park(due, ParkedReason::Lease);
        self.park_too_costly();
        self.forget(part);
        self.tend_groups();
    }

    /// Which subscriptions are looked at this time: of many a part, so that the others need not wait. They are counted
    /// on the way.
    fn next_part(&mut self) -> Range<u32> {
        let from = if self.sweep.at < self.subs.end() { self.sweep.at } else { 0 };
        let to = self.subs.end().min(from.saturating_add(limits::subscriptions_swept_at_once_max as u32));
        let part = self.counted((from..to).filter_map(|number| self.subs.get(number)));
        let so_far = if from == 0 { SubscriptionStates::default() } else { self.sweep.counting };
        self.sweep.counting = SubscriptionStates {
            live: so_far.live + part.live,
            catching_up: so_far.catching_up + part.catching_up,
            parked: so_far.parked + part.parked,
        };
        self.sweep.at = to;
        if to == self.subs.end() {
            self.sweep.counted = Some(self.sweep.counting);
        }
        from..to
    }

    /// A gateway that is away, and of which nothing is left but what is forgotten, is forgotten as a whole: when it
    /// comes back with its cursor it is told. One that is connected loses single subscriptions: of these it has been
    /// told that they are parked, after its `welcome` or when they were.
    fn forget(&mut self, part: Range<u32>) {
        let now = self.clock.now();
        let park = Duration::from_secs(self.config.park_seconds);
        let before_ms = self.clock.wall().timestamp_millis() - park.as_millis() as i64;
        let is_over = |sub: &Sub| matches!(sub.parked, Some((_, _, at_ms)) if at_ms < before_ms);
        let mut gone = BTreeSet::new();
        let members: BTreeSet<GatewayIndex> = self.groups.values().flat_map(Group::members).collect();
        for (index, gateway) in &mut self.gateways {
            // A publisher's session says nothing of its gateway.
            let is_there = gateway.session.as_ref().is_some_and(|it| it.transport.mode() == DeliveryMode::Stream);
            let is_away = !is_there && gateway.record == RecordState::Free && !members.contains(&GatewayIndex(index));
            let is_empty = gateway.subs.is_empty();
            if !is_away || !is_empty {
                gateway.idle = None;
            }
            // An operator's word is kept for whoever may still come.
            let is_gone = if is_empty {
                is_away && gateway.delivery.is_none() && gateway.idle.get_or_insert(now).after(park) < now
            } else {
                is_away && gateway.subs.iter().all(|sub| is_over(&self.subs[sub.0]))
            };
            if is_gone && gateway.removing.is_none() {
                gone.insert(GatewayIndex(index));
            }
        }
        let single = part.filter_map(|number| Some((number, self.subs.get(number)?)));
        let single = single.filter(|(_, sub)| sub.pending.is_none() && is_over(sub));
        // Whoever is away has not been told of their parking, and whoever is back may still revive them.
        let told = Duration::from_secs(EXPIRED_TOLD_SECONDS);
        let single = single.filter(|(_, sub)| {
            let session = self.gateways[sub.gateway.0].session.as_ref();
            session.is_some_and(|session| session.begun.after(told) <= now && !session.outbox.has_expired())
        });
        let single: Vec<_> = single.map(|(number, _)| SubscriptionIndex(number)).collect();
        for index in gone.into_iter().take(limits::gateways_forgotten_at_once_max) {
            if !self.is_awaiting_writes(index) {
                self.remove_gateway(index, Vec::new());
            }
        }
        for part in single.chunks(limits::store_txn_operations_max) {
            let writes = part.iter().map(|index| self.removal_write(*index)).collect();
            for index in part {
                self.subs[index.0].pending = Some(Pending::Remove);
            }
            self.write(WriteKind::Remove(part.to_vec()), writes);
        }
    }

    /// Parks those that were found to cost more than one may, live or catching up.
    fn park_too_costly(&mut self) {
        let mut costly = std::mem::take(&mut self.too_costly);
        costly.extend(self.matcher.take_too_costly());
        costly.sort_unstable();
        costly.dedup();
        // Who awaits a write is looked at again.
        let is_there = |index: &SubscriptionIndex| self.subs.get(index.0).is_some_and(|sub| sub.parked.is_none());
        let (awaiting, ready): (Vec<_>, Vec<_>) =
            costly.into_iter().filter(is_there).partition(|index| self.subs[index.0].pending.is_some());
        self.too_costly = awaiting;
        self.counters.too_costly += ready.len() as u64;
        self.park(ready, ParkedReason::TooCostly);
    }

    /// Whoever has this number next, or another filter, has not been too costly.
    pub(super) fn acquit(&mut self, index: SubscriptionIndex) {
        self.too_costly.retain(|costly| *costly != index);
    }

    /// Parks all of a gateway's subscriptions.
    pub fn on_park_gateway(&mut self, id: &GatewayId) -> Result<(), Problem> {
        let mut subs = self.subs_of(id)?;
        if subs.iter().any(|sub| self.subs[sub.0].held().is_some()) {
            return Err(busy());
        }
        subs.retain(|sub| {
            let sub = &self.subs[sub.0];
            sub.pending.is_none() && sub.parked.is_none()
        });
        self.park(subs, ParkedReason::Operator);
        Ok(())
    }

    fn park(&mut self, subs: Vec<SubscriptionIndex>, reason: ParkedReason) {
        let at_ms = self.clock.wall().timestamp_millis();
        let early = self.broken(Mistake::ParkBeforeWrite);
        let at_loop = self.broken(Mistake::ParkAtLoop);
        for (gateway, part) in self.by_gateway(subs) {
            let durable: Place = self.effective(gateway);
            let mut writes = Vec::new();
            for index in part {
                let sub = &self.subs[index.0];
                let floor = if at_loop { self.reached } else { self.floor(sub, &durable).min(self.reached) };
                let mut record = sub.record();
                record.parked = Some(ParkedRecord { floor, reason, at_ms });
                let write = self.record_write(index, record);
                writes.push((index, write));
                self.subs[index.0].pending = Some(Pending::Park(reason, floor));
                if early {
                    self.matcher.remove(index);
                }
            }
            for (part, writes) in packed(writes) {
                self.write(WriteKind::Park(part), writes);
            }
        }
    }

    pub(super) fn on_parked(&mut self, subs: Vec<SubscriptionIndex>, revision: Revision) {
        let (mut parked, mut revived) = (Vec::new(), Vec::new());
        for index in subs {
            let at_ms = self.clock.wall().timestamp_millis();
            let sub = &mut self.subs[index.0];
            let Some(Pending::Park(reason, floor)) = sub.pending.take() else { continue };
            sub.revision = revision;
            sub.parked = Some((floor, reason, at_ms));
            let gateway = sub.gateway;
            let durable = self.effective(gateway);
            let floor = self.floor(&self.subs[index.0], &durable);
            let sub = &mut self.subs[index.0];
            sub.rewind_to(floor);
            let withheld = sub.withheld();
            let subscription_ids = vec![sub.key.id.clone()];
            if std::mem::take(&mut sub.revive_wanted) {
                revived.push(index);
            }
            self.note_withheld(index);
            self.leave_lanes(index);
            if self.matcher.contains(index) {
                self.matcher.remove(index);
            }
            if let Some(withheld) = withheld {
                self.push_all(gateway, vec![Item::Blocked(index, withheld)]);
            }
            parked.push((index, reason));
            let reason = super::sessions::expired_reason(reason);
            self.push_all(gateway, vec![Item::Expired(Expired { subscription_ids, reason })]);
        }
        self.note_parked(&parked);
        self.revive(revived);
    }
}
