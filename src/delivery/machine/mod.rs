//! The session machine: one partition's subscriptions, gateways, sessions and catch-ups.
//!
//! Owns the delivery contract. Pure and synchronous: changes, registrations, acks, connects, write
//! outcomes and ticks go in; items in outboxes, store writes and answers come out as [`Effect`]s. A
//! simulation (`tests/it/simulation`) tries its interleavings. Knows nothing of tasks, sockets or
//! drivers. The rules are explained in `docs/decisions/0002-session-machine.md`.
//!
//! - `mod.rs`: what it takes and gives, and the live path; `state.rs`: what it holds;
//! - `registry.rs`, `replace.rs`, `removal.rs`, `leases.rs`: what callers ask for; `outcomes.rs`: what
//!   comes of the writes; `admission.rs`: how subscriptions then enter service;
//! - `sessions.rs`, `lane.rs`, `catchup.rs`, `rides.rs`: how gateways get from where they stand to the live tail;
//!   `moved.rs`: how an operator moves them; `owed.rs`: what they are told first, where they do not stand
//!   where they thought;
//! - `serve.rs`: by which kind of transport;
//! - `relief.rs`: who is cut so that memory stays bounded;
//! - `progress.rs`: what is durable: acks, quiet gateways, floors, pages and the checkpoint;
//! - `groups.rs`: which member of a group has which of its subscriptions;
//! - `leaving.rs`: for another split of the backend;
//! - `load.rs`: from the store; `views.rs`: answers; `mistakes.rs`: for the simulation to find.

mod admission;
mod catchup;
mod compose;
mod groups;
mod lane;
mod leases;
mod leaving;
mod load;
mod mistakes;
mod moved;
mod notices;
mod outcomes;
mod owed;
mod progress;
mod registry;
mod relief;
mod removal;
mod replace;
mod rides;
mod serve;
mod sessions;
mod state;
mod tenants;
mod views;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rand::RngCore;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use slab::Slab;
use tokio::sync::Notify;
use wildmatch::WildMatch;

use self::compose::{advancing, compose, concerned, resync_item};
use self::leases::Sweep;
use self::state::{Gateway, GatewayIndex, PageState, Sub, SubLane, WriteKind};
use self::tenants::Tenants;
use crate::change::{Change, Flags};
use crate::clock::Clock;
use crate::delivery::body::SharedChange;
use crate::delivery::budget::Budget;
use crate::delivery::frame::CloseReason;
use crate::delivery::latency::Latency;
use crate::delivery::outbox::{Item, LaneName, Outbox};
use crate::delivery::window::{Entry, Window};
use crate::error::Problem;
use crate::handle::{Registered, SubscriptionView};
use crate::limits;
use crate::matching::{BloomUse, Match, Matcher, Matches, SubscriptionIndex};
use crate::paged::Paged;
use crate::position::{PartitionId, Position};
use crate::source::{Batch, Event, Gap};
use crate::store::{Revision, Write};
use crate::subscription::{GatewayId, SubscriptionKey};

pub use self::leaving::Left;
pub use self::load::{LoadError, Stored};
pub use self::mistakes::Mistake;
pub use self::moved::Target;
pub use self::outcomes::Outcome;

/// What a machine needs to know from the start.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The partition.
    pub partition: PartitionId,
    /// This node's name, for `welcome`.
    pub node: Arc<str>,
    /// Budget of the window.
    pub window_bytes_max: usize,
    /// An outbox above this is cut, and its session catches up.
    pub outbox_bytes_max: usize,
    /// What all outboxes may keep alive beyond the window.
    pub memory_bytes_max: usize,
    /// How far back in the window a checkpoint may stay for the sake of gateways that are about there.
    pub hold_bytes_max: usize,
    /// Readings of the source at once.
    pub rides_max: usize,
    /// Catch-ups pause above this.
    pub outbox_bytes_soft: usize,
    /// Changes that one turn takes from the window for catch-ups.
    pub turn_changes_max: usize,
    /// Unfinished catch-ups that one cursor names.
    pub catchups_max: usize,
    /// Sessions at once.
    pub sessions_max: usize,
    /// Subscriptions of one gateway.
    pub quota_gateway: usize,
    /// Subscriptions of one tenant.
    pub quota_tenant: usize,
    /// Subscriptions of the hub.
    pub quota_global: usize,
    /// How long a parked subscription is remembered.
    pub park_seconds: u64,
    /// How long a member of a group counts as live without a session.
    pub member_grace_seconds: u64,
    /// Patterns of the names of gateways that NATS serves unless an operator has said otherwise.
    pub nats_gateways: Vec<WildMatch>,
    /// When matching has a Bloom filter.
    pub bloom: BloomUse,
    /// Every so manyth change is matched a second time by the reference; none if 0.
    pub shadow_every: u32,
    /// How long a session's start, a PUT and the like may wait for the store before the caller is told.
    pub seed: u64,
    /// A deliberate mistake, for the simulation to find.
    pub mistake: Option<Mistake>,
}

/// What may be changed while a machine runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// `MachineConfig::quota_gateway`.
    pub quota_gateway: usize,
    /// `MachineConfig::quota_tenant`.
    pub quota_tenant: usize,
    /// `MachineConfig::quota_global`.
    pub quota_global: usize,
    /// `MachineConfig::sessions_max`.
    pub sessions_max: usize,
    /// `MachineConfig::park_seconds`.
    pub park_seconds: u64,
    /// `MachineConfig::member_grace_seconds`.
    pub member_grace_seconds: u64,
}

impl MachineConfig {
    /// The same with these limits.
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        let Limits { quota_gateway, quota_tenant, quota_global, sessions_max, park_seconds, member_grace_seconds } =
            limits;
        Self { quota_gateway, quota_tenant, quota_global, sessions_max, park_seconds, member_grace_seconds, ..self }
    }
}

/// Names a write whose outcome is awaited.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriteId(pub u64);

/// Names one reading of the source for a catch-up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplayId(pub u64);

/// Whom an answer is for: the caller's number and the item of its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// The caller.
    pub token: u64,
    /// The item of its batch.
    pub slot: usize,
}

/// A successful answer.
#[derive(Debug)]
pub enum Answer {
    /// To a registration.
    Registered(Box<Registered>),
    /// To a PUT.
    Replaced(Box<SubscriptionView>),
    /// To what has nothing to say.
    Done,
    /// To `open`.
    Session(Arc<Outbox>, u64),
    /// To `open`, where a newer number has been seen meanwhile: a session that has ended before it began, and its number.
    Over(CloseReason, u64),
}

/// What the shell must do.
#[derive(Debug)]
pub enum Effect {
    /// Commit these, all or nothing, and report the outcome.
    Write(WriteId, Vec<Write>),
    /// Tell a caller.
    Answer(Waiter, Result<Answer, Problem>),
    /// Start reading strictly after a position.
    OpenReplay(ReplayId, Position),
    /// Bring the next batch of a reading.
    FetchReplay(ReplayId),
    /// End a reading.
    CloseReplay(ReplayId),
}

/// One partition's state. See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    config: MachineConfig,
    clock: Clock,
    random: ChaCha8Rng,
    /// The loop's position: everything up to here has been matched.
    reached: Position,
    /// What it was before the last gap that no change shares a position with.
    before_gap: Position,
    /// Nothing beyond this can have been sent to anyone, by this owner or one before: after a restart
    /// the loop is behind what its predecessor has sent, and catch-ups may be ahead of the loop.
    horizon: Position,
    window: Window,
    matcher: Matcher,
    /// To be parked at the next opportunity: what they cost, or what this version thinks of them, is too much.
    too_costly: Vec<SubscriptionIndex>,
    subs: Paged<Sub>,
    sweep: Sweep,
    by_key: BTreeMap<SubscriptionKey, SubscriptionIndex>,
    gateways: Slab<Gateway>,
    gateway_ids: HashMap<GatewayId, GatewayIndex>,
    tenants: Tenants,
    /// By the names of their own gateways.
    groups: BTreeMap<GatewayId, groups::Group>,
    /// Subscriptions that a member has still to ack before another has them.
    revoking: BTreeSet<(GatewayIndex, SubscriptionIndex)>,
    /// The greatest revision of any confirmed write.
    confirmed: Revision,
    writes: HashMap<WriteId, WriteKind>,
    /// Which of them add to what a gateway is served.
    additions: HashMap<WriteId, GatewayIndex>,
    next_write: u64,
    rides: rides::Rides,
    /// Gateways with a catch-up under way.
    busy: BTreeSet<GatewayIndex>,
    pages: Vec<PageState>,
    checkpoint: progress::CheckpointState,
    effects: Vec<Effect>,
    /// Gateways that NATS served and that are gone, until their messages are seen to.
    removed: Vec<GatewayId>,
    /// Of all outboxes together.
    budget: Arc<Budget>,
    /// Likewise.
    latency: Arc<Latency>,
    /// Told by outboxes that have room again.
    drained: Arc<Notify>,
    counters: Counters,
    scratch: Matches,
}

/// Totals since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Changes matched by the live path.
    pub changes: u64,
    /// Matches found by the live path.
    pub matches: u64,
    /// Their size in memory.
    pub change_bytes: u64,
    /// Messages put into outboxes.
    pub deliveries: u64,
    /// Their size there.
    pub delivered_bytes: u64,
    /// Acks taken.
    pub acks: u64,
    /// Subscriptions parked because they cost too much.
    pub too_costly: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Outboxes that overflowed.
    pub overflows: u64,
    /// Sessions cut so that memory stays bounded.
    pub evictions: u64,
    /// Catch-ups that read the source.
    pub replays: u64,
    /// Resyncs said.
    pub resyncs: u64,
}

impl Counters {
    fn delivers(&mut self, item: &Item) {
        if matches!(item, Item::Change(_)) {
            self.deliveries += 1;
            self.delivered_bytes += item.size_bytes() as u64;
        }
    }
}

/// What the stored checkpoint says, for a machine that begins.
#[derive(Clone, Debug, Default)]
pub struct Checkpointed {
    /// The stored position.
    pub position: Position,
    /// The last write of its record; `None` before the first.
    pub revision: Option<Revision>,
    /// Goes into every record (`store::checkpoint`).
    pub definition: String,
    /// Likewise.
    pub identity: Option<String>,
    /// Likewise: cursors of an earlier epoch than this have lost their history.
    pub restored: Option<Position>,
    /// Likewise: what happened before may come again under this epoch's positions.
    pub risen: Option<Position>,
    /// Likewise: the last change that was read.
    pub witness: Option<Position>,
}

impl Machine {
    /// A machine without subscriptions whose loop stands at `reached`.
    pub fn new(config: MachineConfig, clock: Clock, reached: Position, checkpoint: Checkpointed) -> Self {
        let budget = Arc::new(Budget::new(config.memory_bytes_max));
        let latency = Arc::new(Latency::new(clock.clone(), &config.partition));
        let matcher = Matcher::watched(config.bloom, clock.clone(), config.shadow_every);
        let pages = (0..limits::cursor_pages).map(|_| PageState::default()).collect();
        Self {
            window: Window::new(reached, config.window_bytes_max),
            random: ChaCha8Rng::seed_from_u64(config.seed),
            config,
            clock,
            reached,
            before_gap: reached,
            horizon: reached,
            matcher,
            too_costly: Vec::new(),
            subs: Paged::default(),
            sweep: Sweep::default(),
            by_key: BTreeMap::new(),
            gateways: Slab::new(),
            gateway_ids: HashMap::new(),
            tenants: Tenants::default(),
            groups: BTreeMap::new(),
            revoking: BTreeSet::new(),
            confirmed: Revision(0),
            writes: HashMap::new(),
            additions: HashMap::new(),
            next_write: 1,
            rides: rides::Rides::default(),
            busy: BTreeSet::new(),
            pages,
            checkpoint: progress::CheckpointState::new(checkpoint),
            effects: Vec::new(),
            removed: Vec::new(),
            budget,
            latency,
            drained: Arc::new(Notify::new()),
            counters: Counters::default(),
            scratch: Matches::default(),
        }
    }

    /// From now on these limits hold. What is there already stays, however much it is.
    pub fn limit(&mut self, limits: Limits) {
        self.config = self.config.clone().within(limits);
    }

    /// What the shell must do now.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Told when an outbox that was full has room again: call [`Self::work`].
    pub fn drained(&self) -> Arc<Notify> {
        Arc::clone(&self.drained)
    }

    /// The loop's position.
    pub fn reached(&self) -> Position {
        self.reached
    }

    /// The last change that was read, by this owner or one before, in this epoch.
    pub fn witness(&self) -> Option<Position> {
        self.checkpoint.witness.filter(|witness| witness.epoch == self.reached.epoch)
    }

    /// Totals since start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn broken(&self, mistake: Mistake) -> bool {
        self.config.mistake == Some(mistake)
    }

    /// Takes the next batch of the live stream.
    ///
    /// # Panics
    /// If the batch lies before the loop's position: positions never move backwards.
    pub fn on_batch(&mut self, batch: Batch) {
        self.checkpoint.witness = batch.witness().or(self.checkpoint.witness);
        let mut events = batch.events.into_iter().peekable();
        let mut changes = Vec::new();
        while let Some(event) = events.next() {
            match event {
                Event::Change(change) => {
                    changes.push(self.shared(change));
                    if changes.len() >= self.scratch.together() || !matches!(events.peek(), Some(Event::Change(_))) {
                        self.on_changes(&mut changes);
                    }
                }
                Event::Resync(gap) => {
                    assert!(gap.position >= self.reached, "{:?} after {:?}", gap.position, self.reached);
                    // Several may share a position.
                    if gap.position > self.reached {
                        self.before_gap = self.reached;
                    }
                    self.reached = gap.position;
                    let is_last = self.is_last_gap(&gap, events.peek());
                    self.on_gap(gap, is_last);
                }
            }
        }
        assert!(batch.reached >= self.reached, "{:?} after {:?}", batch.reached, self.reached);
        self.reached = batch.reached;
        self.work();
    }

    /// A change as it is delivered. Of what an earlier epoch may have handed over nobody can tell.
    fn shared(&self, change: Arc<Change>) -> Arc<SharedChange> {
        let mut change = Arc::unwrap_or_clone(change);
        if self.checkpoint.stored.risen.is_some_and(|risen| change.position.time < risen.time) {
            change.flags = change.flags.with(Flags::REDELIVERED);
        }
        Arc::new(SharedChange::new(change))
    }

    /// Changes with nothing between them. No delivery adds or removes a subscription, so all may be matched beforehand.
    fn on_changes(&mut self, changes: &mut Vec<Arc<SharedChange>>) {
        let mut matches = std::mem::take(&mut self.scratch);
        self.matcher.matches_of(changes.iter().map(|change| &***change), &mut matches);
        for (change, found) in changes.drain(..).zip(matches.iter_mut()) {
            assert!(change.position > self.reached, "{:?} after {:?}", change.position, self.reached);
            self.reached = change.position;
            self.on_change(change, found);
        }
        self.scratch = matches;
    }

    fn on_change(&mut self, change: Arc<SharedChange>, matches: &mut [Match]) {
        self.counters.changes += 1;
        self.counters.change_bytes += change.size_bytes() as u64;
        self.counters.matches += matches.len() as u64;
        self.tenants.matched(change.scope.tenant.as_deref(), matches.len() as u64);
        // A stable order: by gateway, then by subscription.
        matches.sort_by_key(|found| (self.subs[found.subscription.0].gateway, found.subscription));
        let mut rest = &*matches;
        while let Some(first) = rest.first() {
            let gateway = self.subs[first.subscription.0].gateway;
            let count = rest.iter().take_while(|found| self.subs[found.subscription.0].gateway == gateway).count();
            let (group, others) = rest.split_at(count);
            self.deliver_live(gateway, &change, group);
            rest = others;
        }
        self.window.push(Entry::Change(change));
    }

    fn deliver_live(&mut self, index: GatewayIndex, change: &Arc<SharedChange>, group: &[Match]) {
        let at = change.position;
        let gateway = &self.gateways[index.0];
        let keeps_old = self.broken(Mistake::ReplaceKeepsOld);
        let serves_on = self.broken(Mistake::RevokedServesOn);
        let Some(session) = &gateway.session else {
            let concerned = group.iter().any(|found| {
                let sub = &self.subs[found.subscription.0];
                sub.is_active() && sub.current().from < at
            });
            if concerned && gateway.quiet && at > gateway.place.position {
                self.freeze(index, at.before_change());
            }
            return;
        };
        if !session.main.is_live() || at <= session.main.at {
            return;
        }
        let eligible = group.iter().filter(|found| {
            let sub = &self.subs[found.subscription.0];
            let is_due = sub.may_deliver(at) || keeps_old || (serves_on && sub.held().is_some());
            sub.lane == SubLane::Main && sub.is_active() && is_due
        });
        let eligible: Vec<(SubscriptionIndex, Match)> = eligible.map(|found| (found.subscription, *found)).collect();
        if eligible.is_empty() {
            return;
        }
        self.freeze(index, at.before_change());
        let found: Vec<_> = eligible.iter().map(|(sub, found)| (self.subs[sub.0].current(), found.verdict)).collect();
        let items = compose(LaneName::Main, change, &self.subs, &eligible, &found, Flags::none());
        self.push_all(index, items);
    }

    fn on_gap(&mut self, gap: Gap, is_last: bool) {
        let gap = Arc::new(gap);
        let indices: Vec<GatewayIndex> = self.gateways.iter().map(|(index, _)| GatewayIndex(index)).collect();
        let mut told = 0;
        for index in indices {
            let concerned: Vec<SubscriptionIndex> = self.concerned(index, &gap).collect();
            if concerned.is_empty() {
                continue;
            }
            told += 1;
            // Not acked, it is found again by the catch-up that starts before it: the boundary below is that, unless the
            // gap lies on it.
            let below = gap.position.floor_boundary();
            let is_on_it = gap.position.is_boundary() && !self.broken(Mistake::FreezeOnGap);
            self.freeze(index, if is_on_it { self.before_gap.min(below) } else { below });
            let gateway = &self.gateways[index.0];
            let live = gateway.session.as_ref().is_some_and(|session| session.main.is_live());
            // Of what is held the next member is told; or this one, if it stays.
            let is_due = |sub: &SubscriptionIndex| {
                let held = self.subs[sub.0].held();
                held.is_none_or(|held| gap.position <= held)
            };
            let due: Vec<SubscriptionIndex> = concerned.into_iter().filter(is_due).collect();
            if live && !due.is_empty() {
                let (from, to) = (gap.from(), gap.position);
                let item = resync_item(&self.subs, LaneName::Main, (from, to), (gap.reason, Some(&gap)), due);
                self.push_all(index, vec![advancing(item, is_last)]);
            }
        }
        self.note_gap(&gap, told);
        self.window.push(Entry::Gap(gap, is_last));
    }

    fn concerned(&self, index: GatewayIndex, gap: &Gap) -> impl Iterator<Item = SubscriptionIndex> {
        self.gateways[index.0].subs.iter().copied().filter(move |sub| {
            let sub = &self.subs[sub.0];
            !sub.is_of_another(gap.position)
                && sub.is_active()
                && sub.lane == SubLane::Main
                && concerned(gap, sub).is_some()
        })
    }

    /// Puts items into a session's outbox and cuts it if it is full.
    fn push_all(&mut self, index: GatewayIndex, items: Vec<Item>) {
        let Some(session) = &self.gateways[index.0].session else { return };
        let outbox = Arc::clone(&session.outbox);
        for item in items {
            self.counters.delivers(&item);
            self.counters.resyncs += u64::from(matches!(item, Item::Resync(_)));
            outbox.push(item);
        }
        if outbox.bytes() > self.config.outbox_bytes_max {
            self.counters.overflows += 1;
            self.note_overflow(index);
            self.restart_session(index);
        }
    }

    fn unique(&mut self) -> u64 {
        self.random.next_u64()
    }

    fn write(&mut self, kind: WriteKind, writes: Vec<Write>) -> WriteId {
        let id = WriteId(self.next_write);
        self.next_write += 1;
        self.writes.insert(id, kind);
        self.effects.push(Effect::Write(id, writes));
        id
    }

    fn answer(&mut self, waiter: Waiter, result: Result<Answer, Problem>) {
        self.effects.push(Effect::Answer(waiter, result));
    }

    /// Whether the next event is not another gap at the same position.
    fn is_last_gap(&self, gap: &Gap, next: Option<&Event>) -> bool {
        let is_last = !matches!(next, Some(Event::Resync(other)) if other.position == gap.position);
        is_last || self.broken(Mistake::PassFirstOfTwo)
    }
}
