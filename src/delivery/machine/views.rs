//! Answers: what the machine's state looks like from outside.
//!
//! Owns the views of subscriptions and gateways. Changes nothing.

use std::ops::Bound;
use std::sync::Arc;

use super::registry::no_subscription;
use super::tenants::TenantTotals;
use super::{Gateway, GatewayIndex, Machine, Sub, SubLane};
use crate::clock::Instant;
use crate::cursor::Cursor;
use crate::delivery::body::SharedChange;
use crate::delivery::window::Entry;
use crate::error::{Code, Problem};
use crate::handle::{
    Costly, ExplainQuery, Explained, GatewayView, Lag, ListQuery, Page, SessionView, SubscriptionState,
    SubscriptionStates, SubscriptionView, Totals, Workload,
};
use crate::limits;
use crate::matching::{Counts, Difference, SubscriptionIndex};
use crate::position::{PartitionId, Position};
use crate::store::Revision;
use crate::store::subscriptions::ParkedReason;
use crate::subscription::{GatewayId, SubscriptionKey};

impl Machine {
    /// One subscription.
    pub fn subscription(&self, key: &SubscriptionKey) -> Result<SubscriptionView, Problem> {
        let index = self.by_key.get(key).filter(|index| self.subs[index.0].revision != Revision(0));
        index.map(|index| self.view(*index)).ok_or_else(|| no_subscription(key))
    }

    /// A page of subscriptions in key order.
    pub fn subscriptions(&self, query: &ListQuery) -> Page {
        let after = query.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut subscriptions = Vec::new();
        let mut last: Option<&SubscriptionKey> = None;
        for (key, index) in self.by_key.range((after, Bound::Unbounded)) {
            let sub = &self.subs[index.0];
            let spec = &sub.current().spec;
            let wanted = query.gateway.as_ref().is_none_or(|gateway| *gateway == key.gateway)
                && query.tenant.as_ref().is_none_or(|tenant| **tenant == *spec.tenant)
                && query.collection.as_ref().is_none_or(|collection| **collection == *spec.collection)
                && sub.revision != Revision(0);
            if !wanted {
                continue;
            }
            if subscriptions.len() == query.limit {
                return Page { subscriptions, next: last.cloned() };
            }
            subscriptions.push(self.view(*index));
            last = Some(key);
        }
        Page { subscriptions, next: None }
    }

    /// Whether there is such a subscription, live or parked.
    pub fn knows(&self, key: &SubscriptionKey) -> bool {
        self.by_key.contains_key(key)
    }

    pub(super) fn view(&self, index: SubscriptionIndex) -> SubscriptionView {
        let sub = &self.subs[index.0];
        let current = sub.current();
        let left = self.lease_end(sub).since(self.clock.now());
        SubscriptionView {
            spec: Arc::clone(&current.spec),
            member: sub.assigned.as_ref().map(|assigned| Arc::clone(&assigned.member)),
            state: self.state(sub),
            parked_reason: sub.parked.map(|(_, reason, _)| reason.name().into()),
            generation: current.shown(),
            active_from: vec![(self.config.partition.clone(), current.from)],
            expires_at: self.clock.wall() + left,
            plan: current.filter.plan(),
            warnings: Vec::new(),
        }
    }

    /// Whom a change would concern, by the live matcher itself; it is delivered to nobody.
    ///
    /// # Errors
    /// `SUBSCRIPTION_NOT_FOUND`, if one is named that is not here.
    pub fn explain(&mut self, query: &ExplainQuery) -> Result<Explained, Problem> {
        let subscription = match &query.subscription {
            None => None,
            Some(key) => {
                let view = self.subscription(key)?;
                let sub = &self.subs[self.by_key[key].0];
                Some((view.parked_reason, sub.current().filter.explain(&query.change)))
            }
        };
        let (began, mut found) = (self.clock.now(), Vec::new());
        let evaluated = self.matcher.trial(&query.change, &mut found);
        let micros = u64::try_from(self.clock.now().since(began).as_micros()).unwrap_or(u64::MAX);
        let mut matches: Vec<_> =
            found.iter().map(|found| (self.subs[found.subscription.0].key.clone(), found.verdict)).collect();
        matches.sort_by(|a, b| a.0.cmp(&b.0));
        let more = matches.len().saturating_sub(limits::explain_matches_max);
        matches.truncate(limits::explain_matches_max);
        Ok(Explained { matches, more, evaluated, subscriptions: self.matcher.len(), micros, subscription })
    }

    /// What matching came to, catch-ups apart.
    pub fn matching(&self) -> Counts {
        self.matcher.counts()
    }

    /// What the shadow check found since this was asked last.
    pub fn take_differences(&mut self) -> Vec<Difference> {
        self.matcher.take_differences()
    }

    fn state(&self, sub: &Sub) -> SubscriptionState {
        if sub.parked.is_some() {
            return SubscriptionState::Parked;
        }
        let session = self.gateways[sub.gateway.0].session.as_ref();
        let behind = session.is_some_and(|session| sub.lane == SubLane::Extra || !session.main.is_live());
        if behind { SubscriptionState::CatchingUp } else { SubscriptionState::Live }
    }

    /// All gateways, by name.
    pub fn gateways(&self) -> Vec<GatewayView> {
        let mut views: Vec<_> = self.gateways.iter().map(|(index, _)| self.gateway_view(GatewayIndex(index))).collect();
        views.sort_by(|a, b| a.gateway.cmp(&b.gateway));
        views
    }

    /// Those furthest behind, connected ones before others.
    pub fn furthest(&self, max: usize) -> Vec<GatewayView> {
        let mut all: Vec<_> = self
            .gateways
            .iter()
            .map(|(index, gateway)| {
                let index = GatewayIndex(index);
                (gateway.session.is_none(), self.effective(index).position, index)
            })
            .collect();
        if all.len() > max {
            all.select_nth_unstable(max);
            all.truncate(max);
        }
        all.sort_unstable();
        all.into_iter().map(|(.., index)| self.gateway_view(index)).collect()
    }

    /// One gateway.
    pub fn gateway(&self, id: &GatewayId) -> Result<GatewayView, Problem> {
        let index = self.gateway_ids.get(id);
        let missing = || Problem::new(Code::GatewayNotFound, format!("no gateway {id}"));
        index.map(|index| self.gateway_view(*index)).ok_or_else(missing)
    }

    /// How far behind the loop a position is.
    pub(super) fn seconds_behind(&self, position: Position) -> u32 {
        self.reached.time.seconds().saturating_sub(position.time.seconds())
    }

    fn gateway_view(&self, index: GatewayIndex) -> GatewayView {
        let gateway = &self.gateways[index.0];
        let place = self.effective(index);
        let behind = f64::from(self.seconds_behind(place.position));
        let changes = self.window.reaches(place.position).then(|| self.window.count_after(place.position) as u64);
        let cursor = Cursor {
            incarnation: gateway.incarnation,
            serial: gateway.serial,
            places: [(self.config.partition.clone(), place)].into(),
        };
        GatewayView {
            gateway: gateway.id.clone(),
            state: self.gateway_state(gateway).into(),
            subscriptions: gateway.subs.len() as u64,
            cursor: Some(cursor.encode()),
            lag: Lag { seconds: Some(behind), changes },
            delivery: self.mode(index),
            outbox_bytes: gateway.session.as_ref().map_or(0, |session| session.outbox.bytes() as u64),
            session: gateway.session.as_ref().map(|session| SessionView {
                transport: session.transport.name().into(),
                since: session.since,
                node: Arc::clone(&session.node),
            }),
            last_ack_at: (gateway.renewed != Instant::default())
                .then(|| self.clock.wall() - self.clock.now().since(gateway.renewed)),
        }
    }

    /// The changes that the window has after this, at most so many, where they begin (there, or later), and whether that
    /// is all.
    pub fn recent(&self, after: Position, max: usize) -> (Vec<Arc<SharedChange>>, Position, bool) {
        let start = after.max(self.window.start());
        let mut is_whole = self.window.count_after(start) <= max;
        let changes = self.window.after(start, max).filter_map(|entry| match entry {
            Entry::Change(change) => Some(Arc::clone(change)),
            Entry::Gap(..) => {
                is_whole = false;
                None
            }
        });
        (changes.collect(), start, is_whole)
    }

    /// How many are in which state.
    pub(super) fn counted<'s>(&self, subs: impl Iterator<Item = &'s Sub>) -> SubscriptionStates {
        let mut states = SubscriptionStates::default();
        for sub in subs {
            *match self.state(sub) {
                SubscriptionState::Live => &mut states.live,
                SubscriptionState::CatchingUp => &mut states.catching_up,
                SubscriptionState::Parked => &mut states.parked,
            } += 1;
        }
        states
    }

    /// What there is, and what has been done, but for the costliest filters.
    pub fn workload(&self) -> Workload {
        let mut work = Workload {
            catchups: self.busy.len() as u64,
            window_bytes: self.window.bytes() as u64,
            ..Workload::default()
        };
        // Of many, what the sweep has counted: each second anew it would hold the loop up.
        let are_many = self.subs.len() > limits::subscriptions_swept_at_once_max;
        work.subscriptions = self.sweep.counted.filter(|_| are_many).unwrap_or_else(|| {
            let all = self.subs.iter().map(|(_, sub)| sub);
            self.counted(all)
        });
        for (index, gateway) in &self.gateways {
            *match self.gateway_state(gateway) {
                "live" => &mut work.gateways.live,
                "catching_up" => &mut work.gateways.catching_up,
                "parked" => &mut work.gateways.parked,
                _ => &mut work.gateways.offline,
            } += 1;
            let Some(session) = &gateway.session else { continue };
            work.sessions += 1;
            work.outbox_bytes += session.outbox.bytes() as u64;
            // To whom nothing is owed need not ack. Whose leases have run out is stalled all the more.
            let is_put_aside = |sub: &SubscriptionIndex| {
                self.subs[sub.0].parked.is_some_and(|(_, reason, _)| reason != ParkedReason::Lease)
            };
            if gateway.subs.iter().all(is_put_aside) {
                continue;
            }
            let behind = f64::from(self.seconds_behind(self.effective(GatewayIndex(index)).position));
            work.gateway_lag_max_seconds = work.gateway_lag_max_seconds.max(behind);
        }
        let (counters, matching) = (self.counters, self.matcher.counts());
        work.totals = Totals {
            changes: counters.changes,
            change_bytes: counters.change_bytes,
            matches: counters.matches,
            delivered: counters.deliveries,
            delivered_bytes: counters.delivered_bytes,
            acks: counters.acks,
            resyncs: counters.resyncs,
            overflows: counters.overflows,
            candidates: matching.candidates,
            bloom_checks: matching.bloom.checks,
            bloom_false_positives: matching.bloom.false_passes,
            shadow_checks: matching.shadow.checks,
            shadow_differences: matching.shadow.differences,
        };
        work
    }

    /// Tenants that have subscriptions.
    pub fn present_tenants(&self) -> impl Iterator<Item = &Arc<str>> {
        self.tenants.present()
    }

    /// From now on counts what comes of these for each by itself.
    pub fn name_tenants(&mut self, names: impl IntoIterator<Item = Arc<str>>) {
        self.tenants.name(names);
    }

    /// What has come of the tenants that are named, and of all others together.
    pub fn tenants(&self) -> impl Iterator<Item = (Option<&Arc<str>>, TenantTotals)> {
        self.tenants.totals()
    }

    /// The filters that cost the most.
    pub fn costliest(&self) -> Vec<Costly> {
        let costliest = self.matcher.costliest(limits::costliest_shown_max).into_iter();
        let costly = |(index, average_micros, evaluations): (SubscriptionIndex, f64, u64)| {
            let subscription = self.subs[index.0].key.clone();
            Costly { subscription, average_micros, evaluations }
        };
        costliest.map(costly).collect()
    }

    fn gateway_state(&self, gateway: &Gateway) -> &'static str {
        let all_parked = !gateway.subs.is_empty() && gateway.subs.iter().all(|sub| self.subs[sub.0].parked.is_some());
        match &gateway.session {
            _ if all_parked => "parked",
            None => "offline",
            Some(session) if session.main.is_live() && session.extra.is_none() => "live",
            Some(_) => "catching_up",
        }
    }

    /// How many subscriptions there are.
    pub fn subscription_count(&self) -> usize {
        self.subs.len()
    }

    /// The partition.
    pub fn partition(&self) -> &PartitionId {
        &self.config.partition
    }

    /// Sessions that catch up.
    pub fn catch_up_count(&self) -> usize {
        self.busy.len()
    }

    /// Whether sessions take what they get, and all that do have more waiting than they should.
    pub fn is_congested(&self) -> bool {
        let sessions = self.gateways.iter().filter_map(|(_, gateway)| gateway.session.as_ref());
        let mut taking = sessions.filter(|session| session.outbox.is_taken_from()).peekable();
        taking.peek().is_some() && taking.all(|session| session.outbox.bytes() > self.config.outbox_bytes_soft)
    }

    /// What the window holds.
    pub fn window_bytes(&self) -> usize {
        self.window.bytes()
    }

    /// Sessions open now.
    pub fn session_count(&self) -> usize {
        self.gateways.iter().filter(|(_, gateway)| gateway.session.is_some()).count()
    }
}
