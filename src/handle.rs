//! A partition's handle: what may be asked of it.
//!
//! Owns the questions and answers between the hub's edge (`edge`) and a partition's loop.
//! Every call is one command in the loop's queue and one answer, so that each takes effect at an
//! exact position. Knows nothing of HTTP or gRPC.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::change::Change;
use crate::cursor::CursorText;
use crate::delivery::session::Session;
use crate::error::{Code, Problem};
use crate::limits;
use crate::matching::{Explanation, Filter, Verdict};
use crate::position::{ClusterTime, PartitionId, Position};
use crate::store::{CommitError, Entry, Key, Revision, Unavailable, Write};
use crate::subscription::{GatewayId, Spec, SubscriptionId, SubscriptionKey};

pub use crate::subscription::DeliveryMode;

/// Which transport serves a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Transport {
    /// `Delivery.Consume`.
    Grpc,
    /// Server-Sent Events.
    Sse,
    /// NATS JetStream.
    Nats,
}

impl Transport {
    /// The name in `GET /v1/gateways`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Sse => "sse",
            Self::Nats => "nats",
        }
    }

    /// Which gateways it serves.
    pub const fn mode(self) -> DeliveryMode {
        match self {
            Self::Grpc | Self::Sse => DeliveryMode::Stream,
            Self::Nats => DeliveryMode::Nats,
        }
    }
}

/// What a transport that keeps messages itself notes with an ack: it is stored with the cursor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// In its own words.
    pub note: Arc<str>,
    /// Up to where the gateway is known to have taken what was kept for it.
    pub floor: Option<CursorText>,
}

/// A word of the interface. Another node may have said it.
pub type Word = Cow<'static, str>;

/// A gateway that waits for its publisher.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unserved {
    /// Which.
    pub gateway: GatewayId,
    /// What its last publisher noted.
    pub mark: Option<Mark>,
}

/// A request for a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Whose.
    pub gateway: GatewayId,
    /// Where to resume; `None`: the last acked cursor.
    pub cursor: Option<CursorText>,
    /// By what.
    pub transport: Transport,
    /// What is handed over counts as acked (`?ack=auto`), and the stream renews the lease.
    pub auto_ack: bool,
    /// Deliveries pause while more than this is unacked; 0 for no limit.
    pub unacked_bytes_max: u64,
    /// The session's number: newer sessions have greater ones, whatever node they are opened at. Taken by the edge.
    pub number: u64,
    /// The node that the gateway is connected to, if that is another than the partition's owner.
    pub node: Option<Arc<str>>,
}

impl Hello {
    /// From the last acked cursor on, without any limit.
    pub fn new(gateway: GatewayId, transport: Transport) -> Self {
        Self { gateway, cursor: None, transport, auto_ack: false, unacked_bytes_max: 0, number: 0, node: None }
    }
}

/// Where a subscription stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SubscriptionState {
    /// In the live tail.
    Live,
    /// Behind it.
    CatchingUp,
    /// Not matched; its place is remembered.
    Parked,
}

impl SubscriptionState {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::CatchingUp => "catching_up",
            Self::Parked => "parked",
        }
    }
}

/// A subscription as it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubscriptionView {
    /// What was asked for.
    #[serde(with = "stored")]
    pub spec: Arc<Spec>,
    /// Of a group's, the member that has it.
    pub member: Option<Arc<str>>,
    /// Where it stands.
    pub state: SubscriptionState,
    /// Why it is parked: `lease`, `operator`, `too_costly`.
    pub parked_reason: Option<Word>,
    /// The revision of its creation or last PUT.
    pub generation: u64,
    /// Matches after this are delivered.
    pub active_from: Vec<(PartitionId, Position)>,
    /// When it will be parked unless renewed.
    pub expires_at: DateTime<Utc>,
    /// How it is indexed.
    pub plan: serde_json::Value,
    /// `POSTIMAGES_OFF` and the like.
    pub warnings: Vec<Word>,
}

/// The answer to a registration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registered {
    /// The subscription.
    pub view: SubscriptionView,
    /// 201 rather than 200.
    pub created: bool,
}

/// Which subscriptions to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ListQuery {
    /// Only this tenant's.
    pub tenant: Option<String>,
    /// Only this collection's.
    pub collection: Option<String>,
    /// Only this gateway's.
    pub gateway: Option<GatewayId>,
    /// After this one, in key order.
    pub after: Option<SubscriptionKey>,
    /// At most so many.
    pub limit: usize,
}

/// One page of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page {
    /// In key order.
    pub subscriptions: Vec<SubscriptionView>,
    /// Where the next page begins, if there is one.
    pub next: Option<SubscriptionKey>,
}

/// The answer to a gateway's heartbeat.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Renewed {
    /// When the first of the renewed leases ends.
    pub expires_at: DateTime<Utc>,
    /// How many were renewed.
    pub renewed: u64,
    /// Named but not here.
    pub unknown: Vec<SubscriptionId>,
    /// Here but not named.
    pub unlisted: Vec<SubscriptionId>,
}

/// How far something is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// By cluster time.
    pub seconds: Option<f64>,
    /// Counted by the owner since it began; `None` when unknown.
    pub changes: Option<u64>,
}

/// A gateway as it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GatewayView {
    /// Its name.
    pub gateway: GatewayId,
    /// `live`, `catching_up`, `offline` or `parked`.
    pub state: Word,
    /// How many it has.
    pub subscriptions: u64,
    /// Its durable cursor.
    pub cursor: Option<CursorText>,
    /// Of that cursor.
    pub lag: Lag,
    /// Waiting to be written.
    pub outbox_bytes: u64,
    /// How it is served.
    pub delivery: DeliveryMode,
    /// Its connection.
    pub session: Option<SessionView>,
    /// When its last ack came, as far as this owner knows.
    #[serde(default)]
    pub last_ack_at: Option<DateTime<Utc>>,
}

/// A connection as it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionView {
    /// `grpc`, `sse`, `nats`.
    pub transport: Word,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Where.
    pub node: Arc<str>,
}

/// A change as it is asked about, and one of those whom it might concern.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// What happened, or might.
    pub change: Change,
    /// Whose filter is to be explained step by step.
    pub subscription: Option<SubscriptionKey>,
}

/// Whom a change concerns, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// In the order of their keys.
    pub matches: Vec<(SubscriptionKey, Verdict)>,
    /// How many matches there are beyond those listed.
    pub more: usize,
    /// Different filters that were evaluated in full.
    pub evaluated: usize,
    /// Live subscriptions.
    pub subscriptions: usize,
    /// What finding and evaluating took, in microseconds.
    pub micros: u64,
    /// The one that was asked about: why it is parked, if it is, and its steps.
    pub subscription: Option<(Option<Word>, Explanation)>,
}

/// Which past a filter is tried on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BacktestSource {
    /// What is kept in memory.
    Window,
    /// What the backend still has.
    Oplog,
}

/// A filter that is tried on the past.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backtest {
    /// The subscription that it might become.
    #[serde(with = "stored")]
    pub spec: Arc<Spec>,
    /// How far back, from where the partition stands.
    pub seconds: u32,
    /// Which past.
    pub source: BacktestSource,
}

impl Backtest {
    /// Where it begins, seen from here.
    pub(crate) fn since(&self, reached: Position) -> Position {
        let second = reached.time.seconds().saturating_sub(self.seconds);
        Position::boundary(reached.epoch, ClusterTime::new(second, 0))
    }

    /// The width of its histogram's buckets.
    pub(crate) fn bucket_seconds(&self) -> u32 {
        self.seconds.div_ceil(limits::backtest_buckets).max(1)
    }
}

/// What a partition has to say of a backtest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BacktestPart {
    /// Changes tried.
    pub changes: u64,
    /// Of these, how many would have been told.
    pub matches: u64,
    /// All after this
    pub from: Position,
    /// up to this have been tried,
    pub to: Position,
    /// if this says so: else not as far back as was asked for, or not to the end.
    pub is_complete: bool,
    /// The last of those that match.
    pub samples: Vec<Sample>,
    /// Of a part of the changes, what the filter took, in nanoseconds.
    pub costs: Vec<u32>,
    /// The width of a bucket.
    pub bucket_seconds: u32,
    /// By the second that each begins with; those without changes are left out.
    #[serde(with = "buckets")]
    pub buckets: BTreeMap<u32, Bucket>,
}

/// A change that matches.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// It, without what is not shown.
    pub change: Change,
    /// How.
    pub verdict: Verdict,
    /// Its document is too long to be shown.
    pub is_reduced: bool,
}

impl Sample {
    /// What may be shown of a change: as in its delivery, nothing of a document that has left the subscription's scope.
    pub(crate) fn of(change: &Change, verdict: Verdict) -> Self {
        let shown = change.document.as_ref().filter(|_| !verdict.left_scope);
        let is_reduced = shown.is_some_and(|document| document.as_bytes().len() > limits::backtest_sample_bytes_max);
        let document = shown.filter(|_| !is_reduced).cloned();
        let change = Change {
            position: change.position,
            scope: change.scope.clone(),
            left: None,
            key: change.key.clone(),
            operation: change.operation,
            document,
            before: None,
            changed: None,
            wall_time_ms: change.wall_time_ms,
            transaction: None,
            flags: change.flags,
        };
        Self { change, verdict, is_reduced }
    }
}

/// A part of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Changes tried.
    pub changes: u64,
    /// Of these, how many match.
    pub matches: u64,
}

/// BSON has no numbers as names.
mod buckets {
    use super::{BTreeMap, Bucket, Deserialize};
    use serde::{Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(it: &BTreeMap<u32, Bucket>, serializer: S) -> Result<S::Ok, S::Error> {
        it.iter().map(|(second, bucket)| (*second, *bucket)).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u32, Bucket>, D::Error> {
        Ok(Vec::<(u32, Bucket)>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// A partition as it is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartitionView {
    /// Its name.
    pub partition: PartitionId,
    /// The node that owns it.
    pub owner: Option<Arc<str>>,
    /// Its epoch.
    pub epoch: u32,
    /// `reading`, `catching_up`, `paused`, `backoff`, `history_lost`.
    pub state: Word,
    /// How far it has read.
    pub position: Position,
    /// Behind the server.
    pub lag: Lag,
    /// How much later the checkpoint could be read, in seconds; `None` when unknown.
    pub oplog_headroom_seconds: Option<f64>,
    /// Where a restart would begin.
    pub checkpoint: Position,
    /// What there is and what has been done; an older node does not say.
    #[serde(default)]
    pub work: Option<Workload>,
}

/// What a partition's owner has to do, and what it has done since it began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Workload {
    /// Subscriptions.
    pub subscriptions: SubscriptionStates,
    /// Gateways.
    pub gateways: GatewayStates,
    /// Connected gateways.
    pub sessions: u64,
    /// Catch-ups under way.
    pub catchups: u64,
    /// Recent changes kept in memory, in bytes.
    pub window_bytes: u64,
    /// What waits for gateways, in bytes.
    pub outbox_bytes: u64,
    /// How far the durable cursor of the slowest connected gateway is behind, in seconds.
    pub gateway_lag_max_seconds: f64,
    /// Totals.
    pub totals: Totals,
    /// Filters that cost the most, the dearest first.
    pub costliest: Vec<Costly>,
}

/// How many subscriptions stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionStates {
    /// In the live tail.
    pub live: u64,
    /// Behind it.
    pub catching_up: u64,
    /// Not matched.
    pub parked: u64,
}

/// How many gateways are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStates {
    /// Connected, and with the live tail.
    pub live: u64,
    /// Connected, and behind it.
    pub catching_up: u64,
    /// Not connected.
    pub offline: u64,
    /// All their subscriptions are.
    pub parked: u64,
}

/// Totals since an owner began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "each is the metric of the same name")]
pub struct Totals {
    pub changes: u64,
    pub change_bytes: u64,
    pub matches: u64,
    pub delivered: u64,
    pub delivered_bytes: u64,
    pub acks: u64,
    pub resyncs: u64,
    pub overflows: u64,
    pub candidates: u64,
    pub bloom_checks: u64,
    pub bloom_false_positives: u64,
    pub shadow_checks: u64,
    pub shadow_differences: u64,
}

/// A filter, and what it costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Costly {
    /// One of those who have it.
    pub subscription: SubscriptionKey,
    /// Of one evaluation, in microseconds.
    pub average_micros: f64,
    /// How many were timed.
    pub evaluations: u64,
}

/// Where an operator moves a cursor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum CursorTarget {
    /// Changes after this cluster time.
    OperationTime(ClusterTime),
    /// Changes from this second on.
    Second(u32),
    /// Changes after these positions.
    Positions(Vec<(PartitionId, Position)>),
    /// What comes after this cursor of the gateway's own, of each subscription.
    Cursor(CursorText),
    /// Only what is still to come.
    Now,
}

/// A request whose filter has been compiled.
#[derive(Debug)]
pub struct Compiled {
    /// What is asked for.
    pub spec: Spec,
    /// Its filter.
    pub filter: Arc<Filter>,
}

pub(crate) type Reply<T> = oneshot::Sender<T>;

/// A subscription's request as it is stored.
mod stored {
    use super::{Arc, Deserialize, Spec};
    use serde::{Deserializer, Serialize, Serializer, de};

    pub(super) fn serialize<S: Serializer>(spec: &Arc<Spec>, serializer: S) -> Result<S::Ok, S::Error> {
        spec.to_stored().to_string().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Spec>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let stored = serde_json::from_str(&text).map_err(de::Error::custom)?;
        Spec::from_stored(&stored).map(Arc::new).map_err(de::Error::custom)
    }
}

/// The answers to a batch of which only the good ones were asked about.
pub(crate) fn in_order<T>(
    asked: Vec<Result<(), Problem>>,
    answers: Vec<Result<T, Problem>>,
) -> Vec<Result<T, Problem>> {
    let missing = || Err(Problem::new(Code::OwnerUnknown, "an answer is missing").retry_after(1));
    let mut answers = answers.into_iter();
    asked.into_iter().map(|asked| asked.and_then(|()| answers.next().unwrap_or_else(missing))).collect()
}

/// Compiles filters where it holds nobody up.
pub(crate) async fn compile(specs: Vec<Spec>) -> Result<Vec<Result<Compiled, Problem>>, Problem> {
    let work = move || {
        let compiled = |spec: Spec| Filter::compile(&spec).map(|filter| Compiled { spec, filter });
        specs.into_iter().map(compiled).collect()
    };
    let failed = |_| Problem::new(Code::CelCompilationFailed, "the filter cannot be compiled");
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// Compiles one.
pub(crate) async fn compile_one(spec: Spec) -> Result<Compiled, Problem> {
    let missing = || Err(Problem::new(Code::CelCompilationFailed, "the filter cannot be compiled"));
    compile(vec![spec]).await?.pop().unwrap_or_else(missing)
}

/// One question to a partition's loop.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is the method of `PartitionHandle` of the same name")]
pub enum Command {
    Register(Vec<Compiled>, Reply<Vec<Result<Registered, Problem>>>),
    Replace(Box<Compiled>, Reply<Result<SubscriptionView, Problem>>),
    Unregister(SubscriptionKey, Reply<Result<(), Problem>>),
    Subscription(SubscriptionKey, Reply<Result<SubscriptionView, Problem>>),
    Subscriptions(ListQuery, Reply<Page>),
    Renew(SubscriptionKey, Reply<Result<DateTime<Utc>, Problem>>),
    RenewGateway(GatewayId, Option<Vec<SubscriptionId>>, Reply<Result<Renewed, Problem>>),
    SetDelivery(GatewayId, DeliveryMode, Reply<Result<(), Problem>>),
    Gateways(Reply<Vec<GatewayView>>),
    Furthest(usize, Reply<Vec<GatewayView>>),
    Gateway(GatewayId, Reply<Result<GatewayView, Problem>>),
    DeleteGateway(GatewayId, Reply<Result<(), Problem>>),
    ParkGateway(GatewayId, Reply<Result<(), Problem>>),
    SetCursor(GatewayId, CursorTarget, u64, Reply<Result<(), Problem>>),
    Open(Hello, Reply<Result<Session, Problem>>),
    Ack(GatewayId, CursorText, Option<Mark>, Reply<Result<(), Problem>>),
    Unserved(usize, Reply<Vec<Unserved>>),
    Marks(Reply<Vec<Mark>>),
    Removed(Reply<Vec<GatewayId>>),
    Record(Key, Reply<Result<Option<Entry>, Unavailable>>),
    PutRecord(Write, Reply<Result<Revision, CommitError>>),
    Explain(Box<ExplainQuery>, Reply<Result<Explained, Problem>>),
    Backtest(Box<Backtest>, Arc<Filter>, Reply<Result<BacktestPart, Problem>>),
    Known(Vec<SubscriptionKey>, Reply<Vec<SubscriptionKey>>),
    View(Reply<PartitionView>),
    Pause(bool, Reply<Result<PartitionView, Problem>>),
    Move(Arc<str>, Reply<Result<PartitionView, Problem>>),
    /// A session's end, told by dropping it.
    Disconnect {
        gateway: GatewayId,
        session: u64,
    },
}

/// Asks a partition. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PartitionHandle {
    id: PartitionId,
    commands: mpsc::Sender<Command>,
    is_owner: watch::Sender<bool>,
}

impl PartitionHandle {
    /// A handle and the loop's end of it. The queue holds `commands_max` commands; callers past that
    /// wait.
    pub fn new(id: PartitionId, commands_max: usize) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(commands_max);
        (Self { id, commands, is_owner: watch::Sender::new(false) }, receiver)
    }

    /// Which one.
    pub fn id(&self) -> &PartitionId {
        &self.id
    }

    /// Whether this node owns the partition, as far as it knows.
    pub fn is_owner(&self) -> bool {
        *self.is_owner.borrow()
    }

    /// A tenure begins, or has ended.
    pub(crate) fn set_owner(&self, is_owner: bool) {
        self.is_owner.send_replace(is_owner);
    }

    /// Waits until this node does not own the partition.
    pub(crate) async fn disowned(&self) {
        let _ = self.is_owner.subscribe().wait_for(|is_owner| !is_owner).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Problem> {
        let gone = || {
            Problem::new(Code::OwnerUnknown, "the hub is shutting down or does not own the partition").retry_after(1)
        };
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// Registers, each for itself; answers come in order.
    pub async fn register(&self, specs: Vec<Spec>) -> Result<Vec<Result<Registered, Problem>>, Problem> {
        let mut good = Vec::with_capacity(specs.len());
        let asked = compile(specs).await?.into_iter().map(|item| item.map(|item| good.push(item))).collect();
        let answers = if good.is_empty() { Vec::new() } else { self.register_compiled(good).await? };
        Ok(in_order(asked, answers))
    }

    /// Likewise, with filters that have been compiled.
    pub(crate) async fn register_compiled(
        &self,
        items: Vec<Compiled>,
    ) -> Result<Vec<Result<Registered, Problem>>, Problem> {
        self.ask(|reply| Command::Register(items, reply)).await
    }

    /// Replaces a subscription's filter at one position.
    pub async fn replace(&self, spec: Spec) -> Result<SubscriptionView, Problem> {
        self.replace_compiled(compile_one(spec).await?).await
    }

    /// Likewise, with a filter that has been compiled.
    pub(crate) async fn replace_compiled(&self, item: Compiled) -> Result<SubscriptionView, Problem> {
        self.ask(|reply| Command::Replace(Box::new(item), reply)).await?
    }

    /// Those of these subscriptions that are here.
    pub async fn known(&self, keys: Vec<SubscriptionKey>) -> Result<Vec<SubscriptionKey>, Problem> {
        self.ask(|reply| Command::Known(keys, reply)).await
    }

    /// Removes a subscription for good.
    pub async fn unregister(&self, key: SubscriptionKey) -> Result<(), Problem> {
        self.ask(|reply| Command::Unregister(key, reply)).await?
    }

    /// One subscription.
    pub async fn subscription(&self, key: SubscriptionKey) -> Result<SubscriptionView, Problem> {
        self.ask(|reply| Command::Subscription(key, reply)).await?
    }

    /// A page of subscriptions.
    pub async fn subscriptions(&self, query: ListQuery) -> Result<Page, Problem> {
        self.ask(|reply| Command::Subscriptions(query, reply)).await
    }

    /// Renews one lease; revives the subscription if it was parked.
    pub async fn renew(&self, key: SubscriptionKey) -> Result<DateTime<Utc>, Problem> {
        self.ask(|reply| Command::Renew(key, reply)).await?
    }

    /// Renews all of a gateway's leases; revives what was parked.
    pub async fn renew_gateway(
        &self,
        gateway: GatewayId,
        named: Option<Vec<SubscriptionId>>,
    ) -> Result<Renewed, Problem> {
        self.ask(|reply| Command::RenewGateway(gateway, named, reply)).await?
    }

    /// Says how a gateway is served.
    pub async fn set_delivery(&self, gateway: GatewayId, mode: DeliveryMode) -> Result<(), Problem> {
        self.ask(|reply| Command::SetDelivery(gateway, mode, reply)).await?
    }

    /// All gateways.
    pub async fn gateways(&self) -> Result<Vec<GatewayView>, Problem> {
        self.ask(Command::Gateways).await
    }

    /// At most so many gateways, those furthest behind first.
    pub async fn furthest(&self, max: usize) -> Result<Vec<GatewayView>, Problem> {
        self.ask(|reply| Command::Furthest(max, reply)).await
    }

    /// One gateway.
    pub async fn gateway(&self, gateway: GatewayId) -> Result<GatewayView, Problem> {
        self.ask(|reply| Command::Gateway(gateway, reply)).await?
    }

    /// Drops a gateway, its subscriptions and its cursor.
    pub async fn delete_gateway(&self, gateway: GatewayId) -> Result<(), Problem> {
        self.ask(|reply| Command::DeleteGateway(gateway, reply)).await?
    }

    /// Parks all of a gateway's subscriptions.
    pub async fn park_gateway(&self, gateway: GatewayId) -> Result<(), Problem> {
        self.ask(|reply| Command::ParkGateway(gateway, reply)).await?
    }

    /// An operator's rewind or skip, which takes a session's number.
    pub async fn set_cursor(&self, gateway: GatewayId, target: CursorTarget, number: u64) -> Result<(), Problem> {
        self.ask(|reply| Command::SetCursor(gateway, target, number, reply)).await?
    }

    /// Opens a session; an older one of the same gateway ends. One that is older itself says that it is superseded.
    pub async fn open(&self, hello: Hello) -> Result<Session, Problem> {
        self.ask(|reply| Command::Open(hello, reply)).await?
    }

    /// Acks everything sent before this cursor in its session.
    pub async fn ack(&self, gateway: GatewayId, cursor: CursorText) -> Result<(), Problem> {
        self.ask(|reply| Command::Ack(gateway, cursor, None, reply)).await?
    }

    /// Likewise, by what the gateway's messages are kept in: that says nothing of the gateway itself, so it renews
    /// no lease.
    pub async fn ack_kept(&self, gateway: GatewayId, cursor: CursorText, mark: Mark) -> Result<(), Problem> {
        self.ask(|reply| Command::Ack(gateway, cursor, Some(mark), reply)).await?
    }

    /// At most `max` gateways that are to be served by NATS and are not.
    pub async fn unserved(&self, max: usize) -> Result<Vec<Unserved>, Problem> {
        self.ask(|reply| Command::Unserved(max, reply)).await
    }

    /// What was noted for all gateways.
    pub async fn marks(&self) -> Result<Vec<Mark>, Problem> {
        self.ask(Command::Marks).await
    }

    /// Gateways that NATS served and that have been removed since this was asked last.
    pub async fn removed(&self) -> Result<Vec<GatewayId>, Problem> {
        self.ask(Command::Removed).await
    }

    /// One record of the store.
    pub async fn record(&self, key: Key) -> Result<Option<Entry>, Problem> {
        let found = self.ask(|reply| Command::Record(key, reply)).await?;
        found.map_err(|error| Problem::new(Code::StoreUnavailable, error.to_string()).retry_after(1))
    }

    /// Writes one record, as the partition's owner. Tried once: what came of it may be unknown.
    pub async fn put_record(&self, write: Write) -> Result<Result<Revision, CommitError>, Problem> {
        self.ask(|reply| Command::PutRecord(write, reply)).await
    }

    /// Whom a change would concern, and why.
    pub async fn explain(&self, query: ExplainQuery) -> Result<Explained, Problem> {
        self.ask(|reply| Command::Explain(Box::new(query), reply)).await?
    }

    /// How often a filter would have fired.
    pub async fn backtest(&self, asked: Backtest) -> Result<BacktestPart, Problem> {
        let filter = compile_one((*asked.spec).clone()).await?.filter;
        self.ask(|reply| Command::Backtest(Box::new(asked), filter, reply)).await?
    }

    /// How it is.
    pub async fn view(&self) -> Result<PartitionView, Problem> {
        self.ask(Command::View).await
    }

    /// Stops (`true`) or goes on reading.
    pub async fn pause(&self, pause: bool) -> Result<PartitionView, Problem> {
        self.ask(|reply| Command::Pause(pause, reply)).await?
    }

    /// Has a node own the partition, as long as it lives. Answered when that is stored; the hand-over follows.
    pub async fn move_to(&self, node: Arc<str>) -> Result<PartitionView, Problem> {
        self.ask(|reply| Command::Move(node, reply)).await?
    }

    /// Tells that a session has ended. Never waits: if the queue is full the loop finds out by itself.
    pub fn disconnected(&self, gateway: GatewayId, session: u64) {
        let _ = self.commands.try_send(Command::Disconnect { gateway, session });
    }
}
