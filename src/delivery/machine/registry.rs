//! Registrations: what the store must say before anyone is answered, and what follows once it does.
//!
//! Owns promise 12 and 14. Additions are stored first and then served from their `activeFrom`;
//! removals and parkings are served until they are stored. A write of unknown outcome leaves
//! everything as it is until the outcome is known: the caller is told, the machine waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Answer, Effect, GatewayIndex, Machine, Mistake, Pending, Removal, Segment, Sub, SubLane, Waiter, WriteId, WriteKind,
};
use crate::clock::Instant;
use crate::cursor::{Cursor, Place};
use crate::delivery::frame::{CloseReason, Expired};
use crate::delivery::outbox::{Item, Withheld};
use crate::error::{Code, Problem};
use crate::handle::Renewed;
use crate::limits;
use crate::matching::{Filter, SubscriptionIndex};
use crate::position::{ClusterTime, Position};
use crate::store::gateways::{self, GatewayRecord};
use crate::store::subscriptions::{self, ParkedReason, ParkedRecord, SubscriptionRecord, SupersededRecord};
use crate::store::{CommitError, Expect, Key, Revision, Write};
use crate::subscription::{GatewayId, Path, Spec, StartAt, SubscriptionId, SubscriptionKey};

/// What came of a write, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Done(Revision),
    /// It did not, and never will.
    Failed(CommitError),
    /// The store has not answered in time; `Done` or `Failed` will follow.
    Unknown,
}

fn busy() -> Problem {
    Problem::new(Code::RateLimited, "another write to this subscription is under way").retry_after(1)
}

fn no_subscription(key: &SubscriptionKey) -> Problem {
    Problem::new(Code::SubscriptionNotFound, format!("no subscription {} at gateway {}", key.id, key.gateway))
}

impl Machine {
    /// Registers subscriptions; each answers to its own slot of `token`.
    pub fn on_register(&mut self, token: u64, items: Vec<(usize, Spec, Arc<Filter>)>) {
        let mut created: BTreeMap<GatewayIndex, Vec<SubscriptionIndex>> = BTreeMap::new();
        for (slot, spec, filter) in items {
            let waiter = Waiter { token, slot };
            match self.prepare(spec, filter, waiter) {
                Ok(Some((gateway, sub))) => created.entry(gateway).or_default().push(sub),
                Ok(None) => {}
                Err(problem) => self.answer(waiter, Err(problem)),
            }
        }
        for (gateway, subs) in created {
            self.write_created(gateway, subs);
        }
    }

    /// A new subscription that must be written, or `None` if an existing one answers.
    fn prepare(
        &mut self,
        spec: Spec,
        filter: Arc<Filter>,
        waiter: Waiter,
    ) -> Result<Option<(GatewayIndex, SubscriptionIndex)>, Problem> {
        let key = spec.key();
        if let Some(index) = self.by_key.get(&key).copied() {
            self.register_again(index, &spec, waiter)?;
            return Ok(None);
        }
        self.check_quotas(&spec)?;
        let active_from = self.start_position(&spec)?;
        let gateway = self.gateway_or_new(&key.gateway);
        if self.gateways[gateway.0].removing.is_some() {
            return Err(Problem::new(Code::RateLimited, "this gateway is being removed").retry_after(1));
        }
        let ttl_seconds = spec.ttl_seconds;
        *self.tenants.entry(Arc::clone(&spec.tenant)).or_default() += 1;
        let segment = segment(spec, filter, active_from);
        let sub = Sub {
            key: key.clone(),
            gateway,
            segments: vec![segment],
            revision: Revision(0),
            birth: (active_from, Revision(u64::MAX)),
            start: active_from,
            start_revision: Revision(u64::MAX),
            parked: None,
            rewound: false,
            pending: Some(Pending::Create),
            waiters: vec![waiter],
            revive_wanted: false,
            lane: SubLane::Main,
            expires: self.expiry(ttl_seconds),
            ttl_seconds,
        };
        let index = SubscriptionIndex(self.subs.insert(sub) as u32);
        self.by_key.insert(key, index);
        self.gateways[gateway.0].subs.insert(index);
        Ok(Some((gateway, index)))
    }

    fn register_again(&mut self, index: SubscriptionIndex, spec: &Spec, waiter: Waiter) -> Result<(), Problem> {
        let expires = self.expiry(spec.ttl_seconds);
        let sub = &mut self.subs[index.0 as usize];
        if !sub.current().spec.same_as(spec) {
            let detail = format!("subscription {} is there and asks for something else; PUT replaces it", sub.key.id);
            return Err(Problem::new(Code::SubscriptionExists, detail));
        }
        match sub.pending {
            Some(Pending::Create | Pending::Revive) => {
                sub.waiters.push(waiter);
                return Ok(());
            }
            Some(Pending::Replace(_) | Pending::Remove) => return Err(busy()),
            Some(Pending::Park(..)) | None => {}
        }
        sub.ttl_seconds = spec.ttl_seconds;
        sub.expires = expires;
        if sub.pending.is_some() {
            sub.revive_wanted = true;
            sub.waiters.push(waiter);
        } else if let Some((_, reason, _)) = sub.parked {
            if reason == ParkedReason::TooCostly {
                let view = self.view(index);
                self.answer(waiter, Ok(registered(view, false)));
                return Ok(());
            }
            sub.waiters.push(waiter);
            self.revive(vec![index]);
        } else {
            let view = self.view(index);
            self.answer(waiter, Ok(registered(view, false)));
        }
        Ok(())
    }

    fn check_quotas(&self, spec: &Spec) -> Result<(), Problem> {
        let gateway = self.gateway_ids.get(&spec.gateway_id).map_or(0, |index| self.gateways[index.0].subs.len());
        let tenant = self.tenants.get(&spec.tenant).copied().unwrap_or(0);
        let over = |code, whose: &str, quota: usize| {
            Err(Problem::new(code, format!("{whose} has {quota} subscriptions, its quota")).retry_after(60))
        };
        if gateway >= self.config.quota_gateway {
            return over(Code::GatewayQuotaExceeded, "the gateway", self.config.quota_gateway);
        }
        if tenant >= self.config.quota_tenant {
            return over(Code::TenantQuotaExceeded, "the tenant", self.config.quota_tenant);
        }
        if self.subs.len() >= self.config.quota_global {
            return over(Code::GlobalQuotaExceeded, "the hub", self.config.quota_global);
        }
        Ok(())
    }

    /// Where a new subscription begins: here, or at its `startAt`.
    fn start_position(&self, spec: &Spec) -> Result<Position, Problem> {
        let epoch = self.reached.epoch;
        // "After a snapshot read at T" is after every change at T: before the next instant.
        let boundary = |time: ClusterTime| Position::boundary(epoch, time);
        Ok(match &spec.start_at {
            None => self.reached,
            Some(StartAt::OperationTime(time)) => boundary(time.next()),
            Some(StartAt::Second(second)) => boundary(ClusterTime::new(*second, 0)),
            Some(StartAt::Position(position)) => *position,
            Some(StartAt::Cursor(text)) => {
                let invalid = || Problem::new(Code::InvalidCursor, "not a cursor of this hub").at("startAt.cursor");
                let cursor = Cursor::decode(text).map_err(|_| invalid())?;
                let place = cursor.places.get(&self.config.partition).ok_or_else(invalid)?;
                let position = place.lowest();
                if position.epoch < epoch { boundary(position.time) } else { position }
            }
        })
    }

    fn write_created(&mut self, gateway: GatewayIndex, subs: Vec<SubscriptionIndex>) {
        let mut writes = Vec::new();
        for index in subs {
            writes.push((index, self.record_write(index, self.record(index))));
        }
        for (part, mut writes) in packed(writes) {
            let born = self.birth(gateway, &mut writes);
            let kind = WriteKind::Create { subs: part, born: born.then_some(gateway) };
            self.write_addition(gateway, kind, writes);
        }
    }

    /// The gateway's own record goes with its first registration.
    fn birth(&mut self, index: GatewayIndex, writes: &mut Vec<Write>) -> bool {
        let write = self.unique();
        let gateway = &mut self.gateways[index.0];
        if gateway.revision != Revision(0) || gateway.record_busy {
            return false;
        }
        gateway.record_busy = true;
        let key = gateways::key(self.config.partition.backend(), &gateway.id);
        let record = GatewayRecord { incarnation: None, sessions: 0, write };
        writes.push(Write { key, expect: Expect::Absent, value: Some(record.encode()) });
        true
    }

    /// Until an addition is confirmed, its gateway's cursors do not claim to know of it.
    fn write_addition(&mut self, gateway: GatewayIndex, kind: WriteKind, writes: Vec<Write>) {
        let id = self.write(kind, writes);
        let confirmed = self.confirmed;
        self.additions.insert(id, gateway);
        self.gateways[gateway.0].in_flight.insert(id, confirmed);
    }

    fn record(&self, index: SubscriptionIndex) -> SubscriptionRecord {
        let sub = &self.subs[index.0 as usize];
        let current = sub.current();
        let stored =
            |revision: Revision| (revision != Revision(0) && revision != Revision(u64::MAX)).then_some(revision);
        let superseded = sub.segments[..sub.segments.len() - 1].iter().map(|segment| SupersededRecord {
            spec: segment.spec.to_stored(),
            generation: segment.generation,
            from: segment.from,
            until: segment.until.unwrap_or(segment.from),
        });
        SubscriptionRecord {
            spec: current.spec.to_stored(),
            generation: stored(current.generation),
            active_from: current.from,
            start: sub.start,
            start_revision: stored(sub.start_revision),
            birth: stored(sub.birth.1).filter(|birth| *birth != current.generation).map(|birth| (sub.birth.0, birth)),
            superseded: superseded.collect(),
            parked: sub.parked.map(|(floor, reason, at_ms)| ParkedRecord { floor, reason, at_ms }),
            write: 0,
        }
    }

    fn record_write(&mut self, index: SubscriptionIndex, mut record: SubscriptionRecord) -> Write {
        record.write = self.unique();
        let sub = &self.subs[index.0 as usize];
        let expect = if sub.revision == Revision(0) { Expect::Absent } else { Expect::At(sub.revision) };
        Write { key: self.store_key(&sub.key), expect, value: Some(record.encode()) }
    }

    fn store_key(&self, key: &SubscriptionKey) -> Key {
        subscriptions::key(self.config.partition.backend(), key)
    }

    /// Replaces a subscription's filter at the loop's position.
    pub fn on_replace(&mut self, spec: Spec, filter: Arc<Filter>, waiter: Waiter) {
        if let Err(problem) = self.try_replace(spec, filter, waiter) {
            self.answer(waiter, Err(problem));
        }
    }

    fn try_replace(&mut self, spec: Spec, filter: Arc<Filter>, waiter: Waiter) -> Result<(), Problem> {
        let key = spec.key();
        let index = *self.by_key.get(&key).ok_or_else(|| no_subscription(&key))?;
        let (reached, horizon) = (self.reached, self.horizon);
        let durable = self.effective(self.subs[index.0 as usize].gateway);
        let sub = &self.subs[index.0 as usize];
        if sub.pending.is_some() {
            return Err(busy());
        }
        let floor = sub.parked.map_or_else(|| self.floor(sub, &durable), |(floor, ..)| floor);
        let forgets = self.broken(Mistake::ForgetSuperseded);
        let sub = &mut self.subs[index.0 as usize];
        let last = sub.segments.len() - 1;
        let mut position = 0;
        sub.segments.retain(|segment| {
            position += 1;
            position > last || segment.until.is_none_or(|until| until > floor)
        });
        if sub.segments.len() > limits::superseded_max {
            let detail = "too many replaced filters that the gateway has not acked past";
            return Err(Problem::new(Code::RateLimited, detail).retry_after(1));
        }
        // Not before anything that may have been delivered under the old filter, or order would be lost;
        // and a filter that has not yet taken effect is replaced where it would have.
        let at = horizon.max(reached).max(sub.current().from);
        let next = segment(spec, filter, at);
        let (start, start_revision, ttl) = (sub.start, sub.start_revision, next.spec.ttl_seconds);
        let was_parked = sub.parked;
        // The record as it will be if the write takes effect.
        if let Some(current) = sub.segments.last_mut() {
            current.until = Some(at);
        }
        sub.segments.push(next.clone());
        sub.parked = None;
        if let Some((floor, ..)) = was_parked {
            sub.start = floor;
            sub.start_revision = Revision(u64::MAX);
        }
        let mut record = self.record(index);
        if forgets {
            record.superseded.clear();
        }
        let sub = &mut self.subs[index.0 as usize];
        sub.segments.pop();
        if let Some(current) = sub.segments.last_mut() {
            current.until = None;
        }
        (sub.start, sub.start_revision, sub.parked) = (start, start_revision, was_parked);
        if record.encode().len() > limits::subscription_bytes_max {
            let detail = format!("over {} bytes with the filters it replaces", limits::subscription_bytes_max);
            return Err(Problem::new(Code::FilterTooComplex, detail));
        }
        sub.pending = Some(Pending::Replace(Box::new(next)));
        sub.waiters.push(waiter);
        sub.ttl_seconds = ttl;
        let (gateway, is_parked) = (sub.gateway, was_parked.is_some());
        self.note_withheld(index);
        if !is_parked {
            self.push_all(gateway, vec![Item::Blocked(index, Withheld { start_revision, position: at })]);
            if self.gateways[gateway.0].session.is_some() && self.gateways[gateway.0].quiet {
                self.freeze(gateway, reached);
                self.gateways[gateway.0].place.unfinished.insert(start_revision, at.min(reached));
            }
        }
        let write = self.record_write(index, record);
        self.write_addition(gateway, WriteKind::Replace(index), vec![write]);
        Ok(())
    }

    fn on_replaced(&mut self, index: SubscriptionIndex, outcome: Result<Revision, CommitError>) {
        let forgets = self.broken(Mistake::ForgetSuperseded);
        let sub = &mut self.subs[index.0 as usize];
        let Some(Pending::Replace(next)) = sub.pending.take() else { return };
        let (at, gateway) = (next.from, sub.gateway);
        let was_parked = sub.parked;
        match outcome {
            Ok(revision) => {
                let mut next = *next;
                next.generation = revision;
                if let Some(current) = sub.segments.last_mut() {
                    current.until = Some(at);
                }
                if forgets {
                    sub.segments.clear();
                }
                sub.segments.push(next);
                sub.revision = revision;
                if let Some((floor, ..)) = sub.parked.take() {
                    sub.start = floor;
                    sub.start_revision = revision;
                }
                let filter = Arc::clone(&sub.current().filter);
                if was_parked.is_none() {
                    self.matcher.remove(index);
                }
                self.matcher.insert(index, filter);
                let ttl = self.subs[index.0 as usize].ttl_seconds;
                self.subs[index.0 as usize].expires = self.expiry(ttl);
                let floor = was_parked.map_or(at, |(floor, ..)| floor);
                self.admit(gateway, &[(index, floor)]);
                let view = self.view(index);
                self.settle_waiters(index, |_| Ok(Answer::Replaced(Box::new(view.clone()))));
            }
            Err(error) => {
                if was_parked.is_none() {
                    self.admit(gateway, &[(index, at)]);
                }
                self.settle_waiters(index, |_| Err(store_problem(&error)));
            }
        }
    }

    /// Removes a subscription.
    pub fn on_unregister(&mut self, key: &SubscriptionKey, waiter: Waiter) {
        let Some(index) = self.by_key.get(key).copied() else {
            return self.answer(waiter, Err(no_subscription(key)));
        };
        let sub = &mut self.subs[index.0 as usize];
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

    fn removal_write(&self, index: SubscriptionIndex) -> Write {
        let sub = &self.subs[index.0 as usize];
        Write { key: self.store_key(&sub.key), expect: Expect::At(sub.revision), value: None }
    }

    /// A subscription is gone: out of everything.
    fn drop_sub(&mut self, index: SubscriptionIndex) {
        self.leave_lanes(index);
        if self.matcher.contains(index) {
            self.matcher.remove(index);
        }
        let sub = self.subs.remove(index.0 as usize);
        self.by_key.remove(&sub.key);
        self.gateways[sub.gateway.0].subs.remove(&index);
        self.gateways[sub.gateway.0].withheld.remove(&index);
        let tenant = Arc::clone(&sub.current().spec.tenant);
        if let Some(count) = self.tenants.get_mut(&tenant) {
            *count -= 1;
            if *count == 0 {
                self.tenants.remove(&tenant);
            }
        }
    }

    /// Drops a gateway, its subscriptions and its cursor.
    pub fn on_remove_gateway(&mut self, id: &GatewayId, waiter: Waiter) {
        let Some(index) = self.gateway_ids.get(id).copied() else {
            let problem = Problem::new(Code::GatewayNotFound, format!("no gateway {id}"));
            return self.answer(waiter, Err(problem));
        };
        let gateway = &mut self.gateways[index.0];
        if let Some(removal) = &mut gateway.removing {
            return removal.waiters.push(waiter);
        }
        let subs: Vec<_> = gateway.subs.iter().copied().collect();
        if gateway.record_busy || subs.iter().any(|sub| self.subs[sub.0 as usize].pending.is_some()) {
            return self.answer(waiter, Err(busy()));
        }
        self.end_session(index, CloseReason::Removed);
        for sub in &subs {
            self.subs[sub.0 as usize].pending = Some(Pending::Remove);
        }
        let chunks: Vec<&[SubscriptionIndex]> = subs.chunks(limits::store_txn_operations_max - 1).collect();
        let count = chunks.len().max(1);
        self.gateways[index.0].removing = Some(Removal { waiters: vec![waiter], chunks: count });
        for number in 0..count {
            let part = chunks.get(number).map(|part| part.to_vec()).unwrap_or_default();
            let mut writes: Vec<Write> = part.iter().map(|sub| self.removal_write(*sub)).collect();
            let last = number + 1 == count;
            let gateway = &self.gateways[index.0];
            if last && gateway.revision != Revision(0) {
                let key = gateways::key(self.config.partition.backend(), id);
                writes.push(Write { key, expect: Expect::At(gateway.revision), value: None });
            }
            self.write(WriteKind::RemoveGateway { gateway: index, subs: part }, writes);
        }
    }

    fn on_gateway_chunk_removed(&mut self, index: GatewayIndex, subs: Vec<SubscriptionIndex>) {
        for sub in subs {
            self.drop_sub(sub);
        }
        let Some(removal) = &mut self.gateways[index.0].removing else { return };
        removal.chunks -= 1;
        if removal.chunks > 0 {
            return;
        }
        let waiters = std::mem::take(&mut removal.waiters);
        let gateway = self.gateways.remove(index.0);
        self.gateway_ids.remove(&gateway.id);
        self.busy.remove(&index);
        for waiter in waiters {
            self.answer(waiter, Ok(Answer::Done));
        }
    }

    /// Renews one lease; what was parked for want of renewal is revived.
    pub fn on_renew(&mut self, key: &SubscriptionKey) -> Result<Instant, Problem> {
        let index = *self.by_key.get(key).ok_or_else(|| no_subscription(key))?;
        if let Some(revived) = self.renew_one(index) {
            self.revive(vec![revived]);
        }
        Ok(self.subs[index.0 as usize].expires)
    }

    /// Renews all of a gateway's leases. `named` are those that it believes it has.
    pub fn on_renew_gateway(
        &mut self,
        id: &GatewayId,
        named: Option<Vec<SubscriptionId>>,
    ) -> Result<(Renewed, Instant), Problem> {
        let unknown_gateway = || Problem::new(Code::GatewayNotFound, format!("no gateway {id}"));
        let index = *self.gateway_ids.get(id).ok_or_else(unknown_gateway)?;
        let subs: Vec<_> = self.gateways[index.0].subs.iter().copied().collect();
        let mut here: BTreeMap<SubscriptionId, SubscriptionIndex> = BTreeMap::new();
        here.extend(subs.iter().map(|sub| (self.subs[sub.0 as usize].key.id.clone(), *sub)));
        let named = named.unwrap_or_else(|| here.keys().cloned().collect());
        let unknown = named.iter().filter(|id| !here.contains_key(id)).cloned().collect();
        let names: std::collections::BTreeSet<_> = named.iter().collect();
        let unlisted = here.keys().filter(|id| !names.contains(id)).cloned().collect();
        let first = self.renew_all(index);
        let renewed = subs.len() as u64;
        let wall = self.clock.wall() + first.since(self.clock.now());
        Ok((Renewed { expires_at: wall, renewed, unknown, unlisted }, first))
    }

    /// Renews all of a gateway's leases and returns when the first of them ends.
    pub(super) fn renew_all(&mut self, index: GatewayIndex) -> Instant {
        let subs: Vec<_> = self.gateways[index.0].subs.iter().copied().collect();
        let revived: Vec<_> = subs.iter().filter_map(|sub| self.renew_one(*sub)).collect();
        self.revive(revived);
        let expiries = subs.iter().map(|sub| self.subs[sub.0 as usize].expires);
        expiries.min().unwrap_or_else(|| self.expiry(limits::ttl_seconds_default))
    }

    fn renew_one(&mut self, index: SubscriptionIndex) -> Option<SubscriptionIndex> {
        let expires = self.expiry(self.subs[index.0 as usize].ttl_seconds);
        let sub = &mut self.subs[index.0 as usize];
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

    fn expiry(&self, ttl_seconds: u32) -> Instant {
        self.clock.now().after(Duration::from_secs(u64::from(ttl_seconds)))
    }

    /// Brings parked subscriptions back, each from its floor.
    fn revive(&mut self, subs: Vec<SubscriptionIndex>) {
        for (gateway, part) in self.by_gateway(subs) {
            let mut writes = Vec::new();
            for index in part {
                let sub = &mut self.subs[index.0 as usize];
                sub.pending = Some(Pending::Revive);
                let floor = sub.parked.map_or(sub.start, |(floor, ..)| floor);
                let mut record = self.record(index);
                record.parked = None;
                record.start = floor;
                record.start_revision = None;
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
            grouped.entry(self.subs[index.0 as usize].gateway).or_default().push(index);
        }
        grouped.into_iter().collect()
    }

    fn on_revived(&mut self, subs: Vec<SubscriptionIndex>, revision: Revision) {
        let mut admitted = Vec::new();
        for index in subs {
            let sub = &mut self.subs[index.0 as usize];
            sub.pending = None;
            sub.revision = revision;
            if let Some((floor, ..)) = sub.parked.take() {
                sub.start = floor;
            }
            sub.start_revision = revision;
            admitted.push((index, sub.start));
            let filter = Arc::clone(&sub.current().filter);
            self.matcher.insert(index, filter);
        }
        if let Some((first, _)) = admitted.first() {
            let gateway = self.subs[first.0 as usize].gateway;
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
        let forget_before = self.clock.wall().timestamp_millis() - (self.config.park_seconds as i64) * 1000;
        let mut due = Vec::new();
        let mut forgotten = Vec::new();
        for (index, sub) in &self.subs {
            let index = SubscriptionIndex(index as u32);
            if sub.pending.is_some() {
                continue;
            }
            match sub.parked {
                None if self.lease_end(sub) <= now => due.push(index),
                Some((_, _, at_ms)) if at_ms < forget_before => forgotten.push(index),
                _ => {}
            }
        }
        self.park(due, ParkedReason::Lease);
        for part in forgotten.chunks(limits::store_txn_operations_max) {
            let writes = part.iter().map(|index| self.removal_write(*index)).collect();
            for index in part {
                self.subs[index.0 as usize].pending = Some(Pending::Remove);
            }
            self.write(WriteKind::Remove(part.to_vec()), writes);
        }
    }

    /// Parks all of a gateway's subscriptions.
    pub fn on_park_gateway(&mut self, id: &GatewayId) -> Result<(), Problem> {
        let unknown = || Problem::new(Code::GatewayNotFound, format!("no gateway {id}"));
        let index = *self.gateway_ids.get(id).ok_or_else(unknown)?;
        let subs = self.gateways[index.0].subs.iter().copied().filter(|sub| {
            let sub = &self.subs[sub.0 as usize];
            sub.pending.is_none() && sub.parked.is_none()
        });
        let subs = subs.collect();
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
                let sub = &self.subs[index.0 as usize];
                let floor = if at_loop { self.reached } else { self.floor(sub, &durable).min(self.reached) };
                let mut record = self.record(index);
                record.parked = Some(ParkedRecord { floor, reason, at_ms });
                let write = self.record_write(index, record);
                writes.push((index, write));
                self.subs[index.0 as usize].pending = Some(Pending::Park(reason, floor));
                if early {
                    self.matcher.remove(index);
                }
            }
            for (part, writes) in packed(writes) {
                self.write(WriteKind::Park(part), writes);
            }
        }
    }

    /// The outcome of a write, or that it is not known yet.
    ///
    /// # Panics
    /// If the store contradicts its single owner: another writer has been at work under this fence.
    pub fn on_outcome(&mut self, id: WriteId, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Unknown if self.broken(Mistake::UnknownIsFailed) => {
                Outcome::Failed(CommitError::Unknown("taken for failed".into()))
            }
            other => other,
        };
        let result = match outcome {
            Outcome::Unknown => return self.tell_unknown(id),
            Outcome::Done(revision) => {
                self.confirmed = self.confirmed.max(revision);
                Ok(revision)
            }
            Outcome::Failed(error) => Err(error),
        };
        let Some(kind) = self.writes.remove(&id) else { return };
        if let Some(gateway) = self.additions.remove(&id) {
            self.gateways[gateway.0].in_flight.remove(&id);
        }
        match (kind, result) {
            (WriteKind::Replace(index), result) => self.on_replaced(index, result),
            (kind, Ok(revision)) => self.on_written(kind, revision),
            (kind, Err(error)) => self.on_refused(kind, &error),
        }
    }

    fn on_written(&mut self, kind: WriteKind, revision: Revision) {
        match kind {
            WriteKind::Create { subs, born } => self.on_created(subs, born, revision),
            WriteKind::Revive(subs) => self.on_revived(subs, revision),
            WriteKind::Park(subs) => self.on_parked(subs, revision),
            WriteKind::Remove(subs) => {
                for index in subs {
                    self.settle_waiters(index, |_| Ok(Answer::Done));
                    self.drop_sub(index);
                }
            }
            WriteKind::RemoveGateway { gateway, subs } => self.on_gateway_chunk_removed(gateway, subs),
            WriteKind::Open(index, request) => self.on_opened(index, *request, revision),
            WriteKind::Pages(pages) => self.on_pages_written(&pages, revision),
            WriteKind::Checkpoint(position) => self.on_checkpoint_written(position, revision),
            WriteKind::Replace(_) => unreachable!("handled by its caller"),
        }
    }

    fn on_refused(&mut self, kind: WriteKind, error: &CommitError) {
        match kind {
            WriteKind::Create { subs, born } => {
                if let Some(index) = born {
                    self.gateways[index.0].record_busy = false;
                }
                for index in subs {
                    self.settle_waiters(index, |_| Err(store_problem(error)));
                    self.drop_sub(index);
                }
            }
            WriteKind::Revive(subs) | WriteKind::Park(subs) | WriteKind::Remove(subs) => {
                for index in subs {
                    self.subs[index.0 as usize].pending = None;
                    self.settle_waiters(index, |_| Err(store_problem(error)));
                }
            }
            WriteKind::Open(index, request) => {
                self.gateways[index.0].record_busy = false;
                if !request.abandoned {
                    self.answer(request.waiter, Err(store_problem(error)));
                }
            }
            WriteKind::RemoveGateway { .. } | WriteKind::Pages(_) | WriteKind::Checkpoint(_) => {
                assert!(
                    matches!(error, CommitError::Fenced | CommitError::Unknown(_)),
                    "another writer has been at work under this owner's fence: {error}"
                );
            }
            WriteKind::Replace(_) => unreachable!("handled by its caller"),
        }
    }

    fn on_created(&mut self, subs: Vec<SubscriptionIndex>, born: Option<GatewayIndex>, revision: Revision) {
        if let Some(index) = born {
            let gateway = &mut self.gateways[index.0];
            gateway.record_busy = false;
            gateway.revision = revision;
            gateway.incarnation = revision;
            gateway.dirty = true;
        }
        let mut admitted = Vec::new();
        for index in subs {
            let sub = &mut self.subs[index.0 as usize];
            sub.pending = None;
            sub.revision = revision;
            sub.start_revision = revision;
            sub.birth.1 = revision;
            if let Some(segment) = sub.segments.last_mut() {
                segment.generation = revision;
            }
            admitted.push((index, sub.start));
            let filter = Arc::clone(&sub.current().filter);
            self.matcher.insert(index, filter);
        }
        if let Some((first, _)) = admitted.first() {
            let gateway = self.subs[first.0 as usize].gateway;
            self.admit(gateway, &admitted);
        }
        for (index, _) in admitted {
            let view = self.view(index);
            let mut first = true;
            self.settle_waiters(index, |_| Ok(registered(view.clone(), std::mem::take(&mut first))));
        }
    }

    fn on_parked(&mut self, subs: Vec<SubscriptionIndex>, revision: Revision) {
        let mut revived = Vec::new();
        for index in subs {
            let at_ms = self.clock.wall().timestamp_millis();
            let sub = &mut self.subs[index.0 as usize];
            let Some(Pending::Park(reason, floor)) = sub.pending.take() else { continue };
            sub.revision = revision;
            sub.parked = Some((floor, reason, at_ms));
            let gateway = sub.gateway;
            let durable = self.effective(gateway);
            let floor = self.floor(&self.subs[index.0 as usize], &durable);
            let sub = &mut self.subs[index.0 as usize];
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
            let reason = super::lanes::expired_reason(reason);
            self.push_all(gateway, vec![Item::Expired(Expired { subscription_ids, reason })]);
        }
        self.revive(revived);
    }

    fn settle_waiters(&mut self, index: SubscriptionIndex, mut result: impl FnMut(&Sub) -> Result<Answer, Problem>) {
        let sub = &mut self.subs[index.0 as usize];
        for waiter in std::mem::take(&mut sub.waiters) {
            let result = result(&self.subs[index.0 as usize]);
            self.effects.push(Effect::Answer(waiter, result));
        }
    }

    /// The store takes its time: callers are told, everything else waits.
    fn tell_unknown(&mut self, id: WriteId) {
        let problem = Problem::new(Code::StoreUnavailable, "the store does not answer; the outcome is not known yet");
        let problem = problem.retry_after(1);
        let subs = match self.writes.get_mut(&id) {
            Some(WriteKind::Create { subs, .. } | WriteKind::Revive(subs) | WriteKind::Remove(subs)) => subs.clone(),
            Some(WriteKind::Replace(index)) => vec![*index],
            Some(WriteKind::Open(_, request)) => {
                let waiter = request.waiter;
                if std::mem::replace(&mut request.abandoned, true) {
                    return;
                }
                return self.answer(waiter, Err(problem));
            }
            Some(WriteKind::RemoveGateway { gateway, .. }) => {
                let removal = self.gateways[gateway.0].removing.as_mut();
                let waiters = removal.map(|removal| std::mem::take(&mut removal.waiters)).unwrap_or_default();
                for waiter in waiters {
                    self.answer(waiter, Err(problem.clone()));
                }
                return;
            }
            _ => return,
        };
        for index in subs {
            self.settle_waiters(index, |_| Err(problem.clone()));
        }
    }
}

/// Splits writes so that each part fits a transaction, with room for one more.
fn packed(writes: Vec<(SubscriptionIndex, Write)>) -> Vec<(Vec<SubscriptionIndex>, Vec<Write>)> {
    let mut parts: Vec<(Vec<SubscriptionIndex>, Vec<Write>)> = Vec::new();
    let mut bytes = 0;
    for (index, write) in writes {
        let size = write.key.0.len() + write.value.as_ref().map_or(0, Vec::len) + 16;
        let is_full = parts.last().is_none_or(|(part, _)| part.len() + 1 >= limits::store_txn_operations_max);
        if is_full || bytes + size > limits::store_txn_bytes_max / 2 {
            parts.push((Vec::new(), Vec::new()));
            bytes = 0;
        }
        bytes += size;
        if let Some((part, of_part)) = parts.last_mut() {
            part.push(index);
            of_part.push(write);
        }
    }
    parts
}

fn segment(spec: Spec, filter: Arc<Filter>, from: Position) -> Segment {
    let fields = spec.fields.clone().map(|fields: Vec<Path>| fields.into());
    Segment { generation: Revision(0), spec: Arc::new(spec), filter, fields, from, until: None }
}

fn registered(view: crate::handle::SubscriptionView, created: bool) -> Answer {
    Answer::Registered(Box::new(crate::handle::Registered { view, created }))
}

fn store_problem(error: &CommitError) -> Problem {
    match error {
        CommitError::TooLarge(detail) => Problem::new(Code::FilterTooComplex, detail.clone()),
        CommitError::Fenced => {
            Problem::new(Code::OwnerUnknown, "this node no longer owns the partition").retry_after(1)
        }
        CommitError::Conflict | CommitError::Unknown(_) => {
            Problem::new(Code::StoreUnavailable, error.to_string()).retry_after(1)
        }
    }
}
