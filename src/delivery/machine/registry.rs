//! Registrations: what the store must say before anyone is answered.
//!
//! Owns the making of subscriptions, their quotas and their records (promise 12). Additions are stored
//! first and then served from their `activeFrom`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::state::{GatewayIndex, Pending, RecordState, Segment, Sub, SubLane, WriteKind};
use super::{Answer, Machine, Waiter};
use crate::cursor::Cursor;
use crate::error::{Code, Problem};
use crate::limits;
use crate::matching::{Filter, SubscriptionIndex};
use crate::position::{ClusterTime, Position};
use crate::store::gateways::GatewayRecord;
use crate::store::subscriptions::{ParkedReason, SubscriptionRecord};
use crate::store::{CommitError, Expect, Key, Revision, Write, gateways, subscriptions};
use crate::subscription::{Path, Spec, StartAt, SubscriptionKey};

pub(super) fn busy() -> Problem {
    Problem::new(Code::RateLimited, "another write to this subscription is under way").retry_after(1)
}

pub(super) fn no_subscription(key: &SubscriptionKey) -> Problem {
    let owner = match key.gateway.in_group() {
        Some((group, _)) => format!("of group {group}"),
        None => format!("at gateway {}", key.gateway),
    };
    Problem::new(Code::SubscriptionNotFound, format!("no subscription {} {owner}", key.id))
}

/// Splits writes so that each part fits a transaction, with room for one more.
pub(super) fn packed(writes: Vec<(SubscriptionIndex, Write)>) -> Vec<(Vec<SubscriptionIndex>, Vec<Write>)> {
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

pub(super) fn segment(spec: Spec, filter: Arc<Filter>, from: Position) -> Segment {
    let fields = spec.fields.clone().map(|fields: Vec<Path>| fields.into());
    Segment { generation: Revision(0), spec: Arc::new(spec), filter, fields, from, until: None }
}

pub(super) fn registered(view: crate::handle::SubscriptionView, created: bool) -> Answer {
    Answer::Registered(Box::new(crate::handle::Registered { view, created }))
}

pub(super) fn store_problem(error: &CommitError) -> Problem {
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
        let (home, assigned) = self.home_of(&key);
        let gateway = self.gateway_or_new(&home);
        if self.gateways[gateway.0].removing.is_some() || self.is_group_removing(&key.gateway) {
            return Err(Problem::new(Code::RateLimited, "this gateway is being removed").retry_after(1));
        }
        let ttl_seconds = spec.ttl_seconds;
        self.tenants.count(&spec.tenant);
        let segment = segment(spec, filter, active_from);
        let sub = Sub {
            key: key.clone(),
            gateway,
            assigned,
            segments: vec![segment],
            revision: Revision(0),
            birth: (active_from, Revision(u64::MAX)),
            start: active_from,
            start_revision: Revision(u64::MAX),
            revivals: Vec::new(),
            parked: None,
            rewound: false,
            pending: Some(Pending::Create),
            waiters: vec![waiter],
            revive_wanted: false,
            lane: SubLane::Main,
            expires: self.expiry(ttl_seconds),
            ttl_seconds,
        };
        let index = SubscriptionIndex(self.subs.insert(sub));
        self.by_key.insert(key, index);
        self.gateways[gateway.0].subs.insert(index);
        self.enlist(index);
        Ok(Some((gateway, index)))
    }

    fn register_again(&mut self, index: SubscriptionIndex, spec: &Spec, waiter: Waiter) -> Result<(), Problem> {
        let expires = self.expiry(spec.ttl_seconds);
        let sub = &mut self.subs[index.0];
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
            Some(Pending::Park(..) | Pending::Revoke { .. } | Pending::Assign { .. }) | None => {}
        }
        sub.ttl_seconds = spec.ttl_seconds;
        sub.expires = expires;
        if matches!(sub.pending, Some(Pending::Park(..))) {
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
        let gateway = match self.groups.get(&spec.gateway_id) {
            Some(group) => group.len(),
            None => self.gateway_ids.get(&spec.gateway_id).map_or(0, |index| self.gateways[index.0].subs.len()),
        };
        let over = |code, whose: &str, quota: usize| {
            Err(Problem::new(code, format!("{whose} has {quota} subscriptions, its quota")).retry_after(60))
        };
        if gateway >= self.config.quota_gateway {
            return over(Code::GatewayQuotaExceeded, "the gateway", self.config.quota_gateway);
        }
        self.tenants.check(&spec.tenant, self.config.quota_tenant)?;
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
                self.position_today(place.lowest()).map_err(|problem| problem.at("startAt.cursor"))?
            }
        })
    }

    /// Where somebody begins now who names a position of this epoch or of an earlier one.
    ///
    /// # Errors
    /// `START_TOO_OLD`, where history broke off since; `INVALID_CURSOR`, if no epoch had it.
    pub fn position_today(&self, position: Position) -> Result<Position, Problem> {
        if self.is_broken_off(position) {
            let detail = "the deployment was restored since, and what lay after this is gone";
            return Err(Problem::new(Code::StartTooOld, detail));
        }
        if position.epoch > self.reached.epoch {
            return Err(Problem::new(Code::InvalidCursor, "not a position of this hub"));
        }
        Ok(self.in_present_epoch(position))
    }

    fn write_created(&mut self, gateway: GatewayIndex, subs: Vec<SubscriptionIndex>) {
        let mut writes = Vec::new();
        for index in subs {
            writes.push((index, self.record_write(index, self.subs[index.0].record())));
        }
        for (part, mut writes) in packed(writes) {
            let born = self.birth(gateway, &mut writes);
            let kind = WriteKind::Create { subs: part, born: born.then_some(gateway) };
            self.write_addition(gateway, kind, writes);
        }
    }

    /// The gateway's own record goes with its first registration.
    pub(super) fn birth(&mut self, index: GatewayIndex, writes: &mut Vec<Write>) -> bool {
        let write = self.unique();
        let gateway = &mut self.gateways[index.0];
        if gateway.revision != Revision(0) || gateway.record != RecordState::Free {
            return false;
        }
        gateway.record = RecordState::Busy;
        let key = gateways::key(&self.config.partition, &gateway.id);
        let record = GatewayRecord { write, ..GatewayRecord::default() };
        writes.push(Write { key, expect: Expect::Absent, value: Some(record.encode()) });
        true
    }

    /// Until an addition is confirmed, its gateway's cursors do not claim to know of it.
    pub(super) fn write_addition(&mut self, gateway: GatewayIndex, kind: WriteKind, writes: Vec<Write>) {
        let id = self.write(kind, writes);
        let confirmed = self.confirmed;
        self.additions.insert(id, gateway);
        self.gateways[gateway.0].in_flight.insert(id, confirmed);
    }

    pub(super) fn record_write(&mut self, index: SubscriptionIndex, mut record: SubscriptionRecord) -> Write {
        record.write = self.unique();
        let sub = &self.subs[index.0];
        let expect = if sub.revision == Revision(0) { Expect::Absent } else { Expect::At(sub.revision) };
        Write { key: self.store_key(&sub.key), expect, value: Some(record.encode()) }
    }

    pub(super) fn store_key(&self, key: &SubscriptionKey) -> Key {
        subscriptions::key(&self.config.partition, key)
    }

    pub(super) fn on_created(&mut self, subs: Vec<SubscriptionIndex>, born: Option<GatewayIndex>, revision: Revision) {
        if let Some(index) = born {
            let gateway = &mut self.gateways[index.0];
            gateway.record = RecordState::Free;
            gateway.revision = revision;
            gateway.incarnation = revision;
            gateway.dirty = true;
        }
        let mut admitted = Vec::new();
        for index in subs {
            let sub = &mut self.subs[index.0];
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
            let gateway = self.subs[first.0].gateway;
            self.admit(gateway, &admitted);
        }
        if let Some(index) = born {
            self.next_request(index);
        }
        for (index, _) in admitted {
            let view = self.view(index);
            let mut first = true;
            self.settle_waiters(index, |_| Ok(registered(view.clone(), std::mem::take(&mut first))));
        }
    }
}
