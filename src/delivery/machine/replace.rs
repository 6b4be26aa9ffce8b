//! PUT: one filter until a position, the next one from there.
//!
//! Owns the point of change and what the record keeps of replaced filters (promise 12).

use std::sync::Arc;

use super::registry::{busy, no_subscription, segment, store_problem};
use super::state::{Pending, WriteKind};
use super::{Answer, Machine, Mistake, Waiter};
use crate::delivery::outbox::{Item, Withheld};
use crate::error::{Code, Problem};
use crate::limits;
use crate::matching::{Filter, SubscriptionIndex};
use crate::store::{CommitError, Revision};
use crate::subscription::Spec;

impl Machine {
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
        let durable = self.effective(self.subs[index.0].gateway);
        let sub = &self.subs[index.0];
        if sub.pending.is_some() {
            return Err(busy());
        }
        // Another partition was asked first, and calls may come here in another order than there.
        if spec.generation.is_some_and(|generation| generation < sub.current().shown()) {
            let detail = format!("subscription {} has been replaced meanwhile", sub.key.id);
            return Err(Problem::new(Code::RateLimited, detail).retry_after(1));
        }
        let floor = sub.parked.map_or_else(|| self.floor(sub, &durable), |(floor, ..)| floor);
        let moves = sub.current().spec.tenant != spec.tenant;
        if moves {
            self.tenants.check(&spec.tenant, self.config.quota_tenant)?;
        }
        let tenant = Arc::clone(&spec.tenant);
        let forgets = self.broken(Mistake::ForgetSuperseded);
        let sub = &mut self.subs[index.0];
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
        let (name, was_parked, ttl) = (sub.name(), sub.parked, next.spec.ttl_seconds);
        let mut replaced = sub.clone();
        replaced.replace_filter(next.clone());
        replaced.unpark(Revision(u64::MAX));
        let mut record = replaced.record();
        if forgets {
            record.superseded.clear();
        }
        if record.encode().len() > limits::subscription_bytes_max {
            let detail = format!("over {} bytes with the filters it replaces", limits::subscription_bytes_max);
            return Err(Problem::new(Code::FilterTooComplex, detail));
        }
        sub.pending = Some(Pending::Replace(Box::new(next)));
        sub.waiters.push(waiter);
        // Under both of its tenants until the store has decided.
        if moves {
            self.tenants.count(&tenant);
        }
        let sub = &mut self.subs[index.0];
        sub.ttl_seconds = ttl;
        let (gateway, is_parked) = (sub.gateway, was_parked.is_some());
        self.note_withheld(index);
        if !is_parked {
            self.push_all(gateway, vec![Item::Blocked(index, Withheld { name, position: at })]);
            if self.gateways[gateway.0].session.is_some() && self.gateways[gateway.0].quiet {
                self.freeze(gateway, reached);
                self.gateways[gateway.0].place.unfinished.insert(name, at.min(reached));
            }
        }
        let write = self.record_write(index, record);
        self.write_addition(gateway, WriteKind::Replace(index), vec![write]);
        Ok(())
    }

    pub(super) fn on_replaced(&mut self, index: SubscriptionIndex, outcome: Result<Revision, CommitError>) {
        let forgets = self.broken(Mistake::ForgetSuperseded);
        let sub = &mut self.subs[index.0];
        let Some(Pending::Replace(next)) = sub.pending.take() else { return };
        let (at, gateway) = (next.from, sub.gateway);
        let was_parked = sub.parked;
        let tenants = (Arc::clone(&sub.current().spec.tenant), Arc::clone(&next.spec.tenant));
        if tenants.0 != tenants.1 {
            self.tenants.discount(if outcome.is_ok() { &tenants.0 } else { &tenants.1 });
        }
        let sub = &mut self.subs[index.0];
        match outcome {
            Ok(revision) => {
                let mut next = *next;
                next.generation = revision;
                sub.replace_filter(next);
                if forgets {
                    sub.segments.drain(..sub.segments.len() - 1);
                }
                sub.revision = revision;
                sub.unpark(revision);
                let filter = Arc::clone(&sub.current().filter);
                if was_parked.is_none() {
                    self.matcher.remove(index);
                }
                self.look_again(index);
                self.matcher.insert(index, filter);
                self.acquit(index);
                let ttl = self.subs[index.0].ttl_seconds;
                self.subs[index.0].expires = self.expiry(ttl);
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
}
