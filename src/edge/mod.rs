//! The hub as its interfaces see it: all partitions of all backends as one.
//!
//! Owns which partitions a call is about, and how their answers become one. A partition is a whole hub in small
//! (`docs/decisions/0007-several-hubs.md`): each has its own copy of a subscription, its own sessions and its own
//! cursors, and keeps every promise by itself. Who owns one, here or at another node, is for the loop's end of its
//! handle to know (`pipeline`, `peer`). Knows nothing of HTTP or gRPC.
//!
//! - `mod.rs`: calls; `register.rs`: those that say what a subscription is; `merge.rs`: answers;
//! - `session.rs`: a session of several partitions; `numbers.rs`: which of two sessions is the newer.

mod merge;
mod numbers;
mod register;
mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::future::join_all;
use tokio::sync::mpsc;
use wildmatch::WildMatch;

pub use self::numbers::Numbers;
pub(crate) use self::session::Merged;
use crate::cursor::CursorText;
use crate::delivery::session::Session;
use crate::error::{Code, Problem};
use crate::handle::{
    Backtest, BacktestPart, Command, CursorTarget, DeliveryMode, ExplainQuery, Explained, GatewayView, Hello,
    ListQuery, Page, PartitionHandle, PartitionView, Renewed, SubscriptionView,
};
use crate::position::PartitionId;
use crate::subscription::{GatewayId, SubscriptionId, SubscriptionKey};

/// A backend's partitions, and which tenants live there.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name.
    pub name: Arc<str>,
    /// Patterns of tenants' names; none: those that live nowhere else.
    pub tenants: Vec<WildMatch>,
    /// In the order of their numbers.
    pub partitions: Vec<PartitionHandle>,
}

/// Asks the hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HubHandle(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    backends: Vec<Backend>,
    numbers: Numbers,
}

/// What all partitions of each backend have said.
type ByBackend<T> = Vec<Vec<Result<T, Problem>>>;

fn is_missing(problem: &Problem) -> bool {
    problem.status == 404
}

fn unowned() -> Problem {
    Problem::new(Code::OwnerUnknown, "no partition answers").retry_after(1)
}

/// Which of several failures to tell: that something is not there says less than that someone does not answer.
fn telling(problems: impl IntoIterator<Item = Problem>) -> Problem {
    let (missing, others): (Vec<_>, Vec<_>) = problems.into_iter().partition(is_missing);
    others.into_iter().chain(missing).next().unwrap_or_else(unowned)
}

/// What the partitions that have it say of something that any of them may have. `strict`: one that cannot tell
/// whether it has it is the answer.
fn known<T>(answers: impl IntoIterator<Item = Result<T, Problem>>, strict: bool) -> Result<Vec<T>, Problem> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer {
            Ok(it) => found.push(it),
            Err(problem) => problems.push(problem),
        }
    }
    let is_doubtful = strict && problems.iter().any(|problem| !is_missing(problem));
    if found.is_empty() || is_doubtful { Err(telling(problems)) } else { Ok(found) }
}

/// The answers of the one backend that has something.
fn of_one<T>(answers: ByBackend<T>) -> Result<Vec<Result<T, Problem>>, Problem> {
    let (mut having, lacking): (Vec<_>, Vec<_>) = answers.into_iter().partition(|of| of.iter().any(Result::is_ok));
    match having.is_empty() {
        false => Ok(having.swap_remove(0)),
        true => Err(telling(lacking.into_iter().flatten().filter_map(Result::err))),
    }
}

impl HubHandle {
    /// Of these backends.
    pub fn new(backends: Vec<Backend>, numbers: Numbers) -> Self {
        Self(Arc::new(Parts { backends, numbers }))
    }

    /// Of one partition, `default/0`, whose loop's end is returned: for tests of what lies before a loop.
    pub fn single(commands_max: usize) -> (Self, mpsc::Receiver<Command>) {
        let (handle, commands) = PartitionHandle::new(PartitionId::new("default", 0), commands_max);
        let backend = Backend { name: "default".into(), tenants: Vec::new(), partitions: vec![handle] };
        (Self::new(vec![backend], Numbers::counted()), commands)
    }

    fn partitions_of_all(&self) -> impl Iterator<Item = &PartitionHandle> {
        self.0.backends.iter().flat_map(|backend| &backend.partitions)
    }

    /// The hub's only partition.
    fn only(&self) -> Option<&PartitionHandle> {
        let mut all = self.partitions_of_all();
        all.next().filter(|_| all.next().is_none())
    }

    /// One partition.
    pub fn partition(&self, wanted: &PartitionId) -> Option<&PartitionHandle> {
        self.partitions_of_all().find(|partition| partition.id() == wanted)
    }

    async fn by_backend<'a, T, A: Future<Output = Result<T, Problem>>>(
        &'a self,
        ask: impl Fn(&'a PartitionHandle) -> A,
    ) -> ByBackend<T> {
        join_all(self.0.backends.iter().map(|backend| join_all(backend.partitions.iter().map(&ask)))).await
    }

    async fn of_all<'a, T, A: Future<Output = Result<T, Problem>>>(
        &'a self,
        ask: impl Fn(&'a PartitionHandle) -> A,
    ) -> Vec<Result<T, Problem>> {
        join_all(self.partitions_of_all().map(ask)).await
    }

    /// Removes a subscription for good.
    pub async fn unregister(&self, key: SubscriptionKey) -> Result<(), Problem> {
        known(self.of_all(|partition| partition.unregister(key.clone())).await, true).map(drop)
    }

    /// One subscription.
    pub async fn subscription(&self, key: SubscriptionKey) -> Result<SubscriptionView, Problem> {
        let answers = self.by_backend(|partition| partition.subscription(key.clone())).await;
        known(of_one(answers)?, false).map(merge::subscription)
    }

    /// A page of subscriptions.
    pub async fn subscriptions(&self, query: ListQuery) -> Result<Page, Problem> {
        // Where a tenant cannot have any, nobody need answer.
        let home = query.tenant.as_deref().and_then(|tenant| self.backend_of(Some(tenant), None).ok());
        let asked = |partition: &PartitionHandle| home.is_none_or(|home| home.name[..] == *partition.id().backend());
        let asked = self.partitions_of_all().filter(|partition| asked(partition));
        let answers = join_all(asked.map(|partition| partition.subscriptions(query.clone()))).await;
        // A list that lacks something would not say so.
        let pages = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(merge::pages(pages, query.limit))
    }

    /// Renews one lease; revives the subscription if it was parked. One that some partition of its backend does not
    /// have is not there: whoever registers it again completes it.
    pub async fn renew(&self, key: SubscriptionKey) -> Result<DateTime<Utc>, Problem> {
        let answers = self.by_backend(|partition| partition.renew(key.clone())).await;
        let ends = of_one(answers)?.into_iter().collect::<Result<Vec<_>, _>>()?;
        ends.into_iter().min().ok_or_else(unowned)
    }

    /// Renews all of a gateway's leases; revives what was parked.
    pub async fn renew_gateway(
        &self,
        gateway: GatewayId,
        named: Option<Vec<SubscriptionId>>,
    ) -> Result<Renewed, Problem> {
        if let Some(partition) = self.only() {
            return partition.renew_gateway(gateway, named).await;
        }
        let answers = self.by_backend(|partition| partition.renew_gateway(gateway.clone(), named.clone())).await;
        merge::renewed(answers, named.as_deref().unwrap_or_default())
    }

    /// Says how a gateway is served.
    pub async fn set_delivery(&self, gateway: GatewayId, mode: DeliveryMode) -> Result<(), Problem> {
        known(self.of_all(|partition| partition.set_delivery(gateway.clone(), mode)).await, true).map(drop)
    }

    /// All gateways, of the partitions that answer.
    pub async fn gateways(&self) -> Result<Vec<GatewayView>, Problem> {
        Self::joined(self.by_backend(PartitionHandle::gateways).await)
    }

    /// At most so many gateways, those furthest behind first, as the partitions say that name them.
    pub async fn furthest(&self, max: usize) -> Result<Vec<GatewayView>, Problem> {
        let mut gateways = Self::joined(self.by_backend(|partition| partition.furthest(max)).await)?;
        let behind = |view: &GatewayView| view.lag.seconds.unwrap_or_default();
        gateways.sort_by(|a, b| a.session.is_none().cmp(&b.session.is_none()).then(behind(b).total_cmp(&behind(a))));
        gateways.truncate(max);
        Ok(gateways)
    }

    fn joined(answers: ByBackend<Vec<GatewayView>>) -> Result<Vec<GatewayView>, Problem> {
        if !answers.iter().flatten().any(Result::is_ok) {
            return Err(telling(answers.into_iter().flatten().filter_map(Result::err)));
        }
        let mut gateways: BTreeMap<GatewayId, Vec<Vec<GatewayView>>> = BTreeMap::new();
        for (number, backend) in answers.into_iter().enumerate() {
            for view in backend.into_iter().flatten().flatten() {
                let of = gateways.entry(view.gateway.clone()).or_default();
                of.resize_with(of.len().max(number + 1), Vec::new);
                of[number].push(view);
            }
        }
        Ok(gateways.into_values().filter_map(merge::gateway).collect())
    }

    /// One gateway, at the partitions that answer.
    pub async fn gateway(&self, gateway: GatewayId) -> Result<GatewayView, Problem> {
        let answers = self.by_backend(|partition| partition.gateway(gateway.clone())).await;
        let (mut views, mut problems) = (Vec::new(), Vec::new());
        for backend in answers {
            let (found, failed): (Vec<_>, Vec<_>) = backend.into_iter().partition(Result::is_ok);
            views.push(found.into_iter().flatten().collect());
            problems.extend(failed.into_iter().filter_map(Result::err));
        }
        merge::gateway(views).ok_or_else(|| telling(problems))
    }

    /// Drops a gateway, its subscriptions and its cursor.
    pub async fn delete_gateway(&self, gateway: GatewayId) -> Result<(), Problem> {
        known(self.of_all(|partition| partition.delete_gateway(gateway.clone())).await, true).map(drop)
    }

    /// Parks all of a gateway's subscriptions.
    pub async fn park_gateway(&self, gateway: GatewayId) -> Result<(), Problem> {
        known(self.of_all(|partition| partition.park_gateway(gateway.clone())).await, true).map(drop)
    }

    /// An operator's rewind or skip: of the partitions that are named, or of all.
    pub async fn set_cursor(&self, gateway: GatewayId, target: CursorTarget) -> Result<(), Problem> {
        let mut moves = Vec::new();
        match &target {
            CursorTarget::Positions(places) => {
                for (partition, position) in places {
                    let unknown = || {
                        let detail = format!("there is no partition {partition}; GET /v1/partitions lists them");
                        Problem::new(Code::InvalidRequest, detail).at("positions")
                    };
                    let place = CursorTarget::Positions(vec![(partition.clone(), *position)]);
                    moves.push((self.partition(partition).ok_or_else(unknown)?, place));
                }
            }
            _ => moves.extend(self.partitions_of_all().map(|partition| (partition, target.clone()))),
        }
        let number = self.0.numbers.next().await?;
        let moved = moves.into_iter().map(|(partition, target)| partition.set_cursor(gateway.clone(), target, number));
        known(join_all(moved).await, true).map(drop)
    }

    /// Opens a session; an older one of the same gateway ends.
    pub async fn open(&self, mut hello: Hello) -> Result<Session, Problem> {
        hello.number = self.0.numbers.next().await?;
        match self.only() {
            Some(partition) => {
                hello.cursor = hello.cursor.map(|cursor| cursor.for_partition(partition.id()));
                partition.open(hello).await
            }
            None => session::open(self.partitions_of_all().cloned().collect(), hello).await,
        }
    }

    /// Acks everything sent before this cursor in its session, over all partitions.
    pub async fn ack(&self, gateway: GatewayId, cursor: CursorText) -> Result<(), Problem> {
        if let Some(partition) = self.only() {
            return partition.ack(gateway, cursor.for_partition(partition.id())).await;
        }
        let parts = cursor.parts().map_err(|error| Problem::new(Code::InvalidCursor, error.to_string()))?;
        let own = parts.iter().filter_map(|(id, part)| Some((self.partition(id)?, part)));
        let acks = own.map(|(partition, part)| partition.ack(gateway.clone(), part.clone()));
        let acked = join_all(acks).await;
        if acked.is_empty() {
            return Err(Problem::new(Code::InvalidCursor, "not a cursor of this hub"));
        }
        let is_taken = acked.iter().any(Result::is_ok);
        // A part of a partition that has not joined is what was presented: that it refuses it is for its session to say.
        let refused = acked.into_iter().filter_map(Result::err).find(|problem| !is_taken || problem.status >= 500);
        refused.map_or(Ok(()), Err)
    }

    /// Whom a change would concern, and why.
    pub async fn explain(&self, query: ExplainQuery) -> Result<Explained, Problem> {
        // All partitions of a backend have the same subscriptions.
        let backend = self.backend_of(query.change.scope.tenant.as_deref(), None)?;
        let partition = backend.partitions.first().ok_or_else(unowned)?;
        partition.explain(query).await
    }

    /// How often a filter would have fired, as each partition that it would live in says.
    pub async fn backtest(&self, asked: Backtest) -> Result<Vec<BacktestPart>, Problem> {
        let backend = self.backend_of(Some(&asked.spec.tenant), asked.spec.backend.as_deref())?;
        let asking = backend.partitions.iter().map(|partition| partition.backtest(asked.clone()));
        join_all(asking).await.into_iter().collect()
    }

    /// All partitions. One that nobody answers for has no owner.
    pub async fn partitions(&self) -> Result<Vec<PartitionView>, Problem> {
        let answers = self.of_all(PartitionHandle::view).await;
        if !answers.iter().any(Result::is_ok) {
            return Err(telling(answers.into_iter().filter_map(Result::err)));
        }
        let ids = self.partitions_of_all().map(PartitionHandle::id);
        Ok(ids.zip(answers).map(|(id, answer)| answer.unwrap_or_else(|_| merge::unowned(id.clone()))).collect())
    }

    /// Waits until this node owns no partition.
    pub(crate) async fn disowned(&self) {
        join_all(self.partitions_of_all().map(PartitionHandle::disowned)).await;
    }

    /// Where a tenant's changes are.
    fn backend_of(&self, tenant: Option<&str>, named: Option<&str>) -> Result<&Backend, Problem> {
        let backends = &self.0.backends;
        let refused = |detail: String| Problem::new(Code::InvalidRequest, detail).at("backend");
        let lives = |backend: &&Backend| {
            tenant.is_some_and(|tenant| backend.tenants.iter().any(|pattern| pattern.matches(tenant)))
        };
        if let Some(named) = named {
            let names = || backends.iter().map(|backend| &*backend.name).collect::<Vec<_>>().join(", ");
            let found = backends.iter().find(|backend| *backend.name == *named);
            let found = found.ok_or_else(|| refused(format!("there is no backend {named}, only {}", names())))?;
            let is_elsewhere = !lives(&found) && (!found.tenants.is_empty() || backends.iter().any(|it| lives(&it)));
            if is_elsewhere {
                return Err(refused(format!("this tenant does not live in backend {named}")));
            }
            return Ok(found);
        }
        if let Some(mapped) = backends.iter().find(lives) {
            return Ok(mapped);
        }
        let mut open = backends.iter().filter(|backend| backend.tenants.is_empty());
        match (open.next(), open.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(refused("no backend is configured for this tenant".into())),
            _ => Err(refused("several backends are configured: name the one that this tenant lives in".into())),
        }
    }
}
