//! Answers of several partitions as one.
//!
//! Owns what one subscription, gateway or lease is of which each partition has told its part.

use std::collections::{BTreeMap, BTreeSet};

use super::{ByBackend, is_missing, telling};
use crate::cursor::CursorText;
use crate::error::Problem;
use crate::handle::{GatewayView, Lag, Page, PartitionView, Renewed, SubscriptionState, SubscriptionView};
use crate::position::{PartitionId, Position};
use crate::subscription::{SubscriptionId, SubscriptionKey};

/// A subscription of which each view is another partition's. At least one.
pub(super) fn subscription(views: Vec<SubscriptionView>) -> SubscriptionView {
    let mut views = views.into_iter();
    let mut all = views.next().expect("at least one partition has it");
    for view in views {
        let rank = |state| match state {
            SubscriptionState::Live => 0,
            SubscriptionState::CatchingUp => 1,
            SubscriptionState::Parked => 2,
        };
        if rank(view.state) > rank(all.state) {
            (all.state, all.parked_reason) = (view.state, view.parked_reason);
        }
        // Each partition moves a group's for itself.
        all.member = all.member.filter(|member| Some(member) == view.member.as_ref());
        all.active_from.extend(view.active_from);
        all.expires_at = all.expires_at.min(view.expires_at);
        for warning in view.warnings {
            if !all.warnings.contains(&warning) {
                all.warnings.push(warning);
            }
        }
    }
    all
}

/// One page of several, each in key order.
pub(super) fn pages(pages: Vec<Page>, limit: usize) -> Page {
    // Beyond where one of them ends nobody knows what else there is.
    let end = pages.iter().filter_map(|page| page.next.clone()).min();
    let mut by_key: BTreeMap<SubscriptionKey, Vec<SubscriptionView>> = BTreeMap::new();
    for view in pages.into_iter().flat_map(|page| page.subscriptions) {
        by_key.entry(view.spec.key()).or_default().push(view);
    }
    let count = by_key.len();
    let mut next = None;
    let mut subscriptions = Vec::new();
    for (key, views) in by_key {
        if subscriptions.len() == limit || end.as_ref().is_some_and(|end| key > *end) {
            break;
        }
        subscriptions.push(subscription(views));
        next = Some(key);
    }
    let is_whole = subscriptions.len() == count && end.is_none();
    Page { subscriptions, next: next.filter(|_| !is_whole) }
}

/// A gateway, by the backends' and their partitions' views of it; `None` if nobody has it.
pub(super) fn gateway(backends: Vec<Vec<GatewayView>>) -> Option<GatewayView> {
    let of_backends = backends.into_iter().filter_map(|views| {
        // Each partition of a backend has a copy of each subscription.
        join(views, |all, view| all.subscriptions = all.subscriptions.max(view.subscriptions))
    });
    join(of_backends, |all, view| all.subscriptions += view.subscriptions)
}

fn join(
    views: impl IntoIterator<Item = GatewayView>,
    count: impl Fn(&mut GatewayView, &GatewayView),
) -> Option<GatewayView> {
    views.into_iter().reduce(|mut all, view| {
        count(&mut all, &view);
        let rank = |state: &str| match state {
            "parked" => 0,
            "offline" => 1,
            "live" => 2,
            _ => 3,
        };
        if rank(&view.state) > rank(&all.state) {
            all.state = view.state;
        }
        all.cursor = match (all.cursor, view.cursor) {
            (Some(one), Some(other)) => Some(CursorText::joined([&one, &other])),
            (one, other) => one.or(other),
        };
        let seconds = [all.lag.seconds, view.lag.seconds].into_iter().flatten().reduce(f64::max);
        let changes = all.lag.changes.zip(view.lag.changes).map(|(one, other)| one + other);
        all.lag = Lag { seconds, changes };
        all.outbox_bytes += view.outbox_bytes;
        all.session = all.session.or(view.session);
        all
    })
}

/// The answer to a gateway's heartbeat. While a backend cannot say what it has nothing is called unknown: whoever is told
/// so registers anew.
pub(super) fn renewed(answers: ByBackend<Renewed>, named: &[SubscriptionId]) -> Result<Renewed, Problem> {
    let mut all: Option<Renewed> = None;
    let mut unknown: BTreeSet<&SubscriptionId> = named.iter().collect();
    let (mut unlisted, mut problems) = (BTreeSet::new(), Vec::new());
    for backend in answers {
        let (mut of_backend, mut lacking): (Option<Renewed>, BTreeSet<SubscriptionId>) = (None, BTreeSet::new());
        let mut is_missing_here = false;
        for answer in backend {
            match answer {
                Ok(renewed) => {
                    lacking.extend(renewed.unknown.iter().cloned());
                    unlisted.extend(renewed.unlisted.iter().cloned());
                    of_backend = Some(match of_backend {
                        None => renewed,
                        Some(other) => Renewed {
                            expires_at: renewed.expires_at.min(other.expires_at),
                            // Each partition has a copy of each.
                            renewed: renewed.renewed.min(other.renewed),
                            ..renewed
                        },
                    });
                }
                Err(problem) => {
                    is_missing_here |= is_missing(&problem);
                    problems.push(problem);
                }
            }
        }
        if !is_missing_here {
            unknown.retain(|id| lacking.contains(*id));
        }
        all = match (all, of_backend) {
            (Some(one), Some(other)) => Some(Renewed {
                expires_at: one.expires_at.min(other.expires_at),
                renewed: one.renewed + other.renewed,
                ..one
            }),
            (one, other) => one.or(other),
        };
    }
    let is_whole = problems.iter().all(is_missing);
    let mut all = all.ok_or_else(|| telling(problems))?;
    all.unknown = if is_whole { unknown.into_iter().cloned().collect() } else { Vec::new() };
    all.unlisted = unlisted.into_iter().collect();
    Ok(all)
}

/// A partition that nobody answers for.
pub(super) fn unowned(partition: PartitionId) -> PartitionView {
    PartitionView {
        partition,
        owner: None,
        epoch: 0,
        state: "backoff".into(),
        position: Position::default(),
        lag: Lag::default(),
        oplog_headroom_seconds: None,
        checkpoint: Position::default(),
        work: None,
    }
}
