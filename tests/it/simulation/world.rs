//! The world around the machine: writers, gateways, a store and a source that misbehave.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bson::rawdoc;
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::json;
use streamer::change::{Change, Flags, Operation, ResyncReason, Scope};
use streamer::clock::Clock;
use streamer::cursor::{Cursor, CursorText};
use streamer::delivery::machine::{
    Answer, Checkpointed, Effect, Machine, MachineConfig, Mistake, Outcome, ReplayId, Stored, Target, Waiter, WriteId,
};
use streamer::handle::{GatewayView, Hello, Transport};
use streamer::matching::BloomUse;
use streamer::matching::Filter;
use streamer::position::{ClusterTime, Epoch, PartitionId, Position};
use streamer::ring::Ring;
use streamer::source::{Batch, Event, Gap, SourceError};
use streamer::store::checkpoint::{self, CheckpointRecord};
use streamer::store::subscriptions::SubscriptionRecord;
use streamer::store::{CommitError, Expect, Revision, Write, cursors, gateways, subscriptions};
use streamer::subscription::{GatewayId, Spec, StartAt, SubscriptionId};

use super::client::{Client, Lost, Moved};
use super::model::{KINDS, Life, Store, matches};

/// Stands for a change that cannot be delivered.
const GAP: u8 = 99;
const GATEWAYS: usize = 3;
const SUBSCRIPTIONS: usize = 4;

/// A write on its way to the store.
struct OnItsWay {
    id: WriteId,
    writes: Vec<Write>,
    /// The machine has been told that the outcome is unknown.
    told: bool,
    /// Already in the store, only the answer is missing.
    applied: Option<Revision>,
}

/// Who the three clients are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cast {
    Gateways,
    /// The members of one group.
    Members,
}

pub(super) struct World {
    random: ChaCha8Rng,
    cast: Cast,
    mistake: Option<Mistake>,
    clock: Clock,
    config: MachineConfig,
    oplog: Vec<Arc<Change>>,
    /// The oldest position that the source still has everything after.
    oldest: Position,
    trims: bool,
    time: u64,
    epoch: Epoch,
    store: Store,
    machine: Machine,
    on_its_way: Vec<OnItsWay>,
    replays: BTreeMap<ReplayId, (Position, bool)>,
    /// Who asked for a session, and of which life the cursor was that it presented.
    opens: HashMap<u64, (usize, Option<Revision>)>,
    next_token: u64,
    /// The last number of a session or a move.
    numbers: u64,
    clients: Vec<Client>,
    ids: Vec<GatewayId>,
    late_acks: Vec<(usize, String)>,
    calm: bool,
    /// Where the live stream had to start anew.
    live_lost: Vec<(Position, Position)>,
}

fn filter_of(kind: Option<u8>) -> Arc<Filter> {
    static CACHE: OnceLock<Vec<Arc<Filter>>> = OnceLock::new();
    let all = CACHE.get_or_init(|| {
        let kinds = std::iter::once(None).chain((0..KINDS).map(Some));
        kinds.map(|kind| Filter::compile(&spec(&GatewayId::new("g0").unwrap(), "s0", kind)).unwrap()).collect()
    });
    Arc::clone(&all[kind.map_or(0, |kind| usize::from(kind) + 1)])
}

fn spec(owner: &GatewayId, subscription: &str, kind: Option<u8>) -> Spec {
    let (whose, owner) = owner.in_group().map_or(("gatewayId", owner.as_str()), |(group, _)| ("group", group));
    let filters: Vec<_> = kind.into_iter().map(|kind| json!({"field": "k", "op": "==", "value": kind})).collect();
    Spec::from_json(&json!({
        "subscriptionId": subscription, whose: owner, "tenant": "t", "collection": "c",
        "filters": filters, "ttlSeconds": 60,
    }))
    .unwrap()
}

/// What does not change when the epoch rises.
fn bare(position: Position) -> Position {
    Position { epoch: Epoch(0), ..position }
}

fn kind_of(change: &Change) -> u8 {
    change.document.as_ref().unwrap().get_i32("k").unwrap() as u8
}

impl World {
    pub(super) fn new(seed: u64, cast: Cast, mistake: Option<Mistake>) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let clock = Clock::manual();
        let config = MachineConfig {
            partition: PartitionId::new("default", 0),
            node: "sim".into(),
            window_bytes_max: *[500, 3_000, 1_000_000].choose(&mut random).unwrap(),
            outbox_bytes_max: *[1_500, 6_000, 1_000_000].choose(&mut random).unwrap(),
            hold_bytes_max: *[0, 1_000, 1_000_000].choose(&mut random).unwrap(),
            rides_max: *[1, 2, 8].choose(&mut random).unwrap(),
            memory_bytes_max: *[1_500, 4_000, 1_000_000].choose(&mut random).unwrap(),
            outbox_bytes_soft: *[400, 1_000].choose(&mut random).unwrap(),
            turn_changes_max: *[1, 3, 1_000].choose(&mut random).unwrap(),
            catchups_max: streamer::limits::cursor_catchups_max,
            sessions_max: 100,
            quota_gateway: 100,
            quota_tenant: 100,
            quota_global: 100,
            park_seconds: 1_000_000,
            member_grace_seconds: 15,
            nats_gateways: Vec::new(),
            bloom: BloomUse::From(0),
            shadow_every: 7,
            seed,
            mistake,
        };
        let start = Position::boundary(Epoch(1), ClusterTime(10));
        let machine = Machine::new(config.clone(), clock.clone(), start, checkpointed(start, None));
        let trims = random.random_ratio(1, 4);
        let id = |number: usize| match cast {
            Cast::Gateways => GatewayId::new(&format!("g{number}")).unwrap(),
            Cast::Members => GatewayId::stored(&format!("g/m{number}")).unwrap(),
        };
        let mut world = Self {
            random,
            cast,
            mistake,
            clock,
            config,
            oplog: Vec::new(),
            oldest: start,
            trims,
            time: 10,
            epoch: Epoch(1),
            store: Store::default(),
            machine,
            on_its_way: Vec::new(),
            replays: BTreeMap::new(),
            opens: HashMap::new(),
            next_token: 1,
            numbers: 0,
            clients: (0..GATEWAYS).map(|_| Client::default()).collect(),
            ids: (0..GATEWAYS).map(id).collect(),
            late_acks: Vec::new(),
            calm: false,
            live_lost: Vec::new(),
        };
        // No registration is accepted before its partition has a durable starting position.
        world.machine.flush();
        world.settle_store();
        world
    }

    pub(super) fn run(mut self) -> Result<(), String> {
        let steps = self.random.random_range(60..260);
        for _ in 0..steps {
            self.step();
            self.check_clients()?;
        }
        self.end()?;
        self.check_all()
    }

    fn at(&self, time: u64, ordinal: u32) -> Position {
        Position::new(self.epoch, ClusterTime(time), ordinal)
    }

    fn chance(&mut self, one_in: u32) -> bool {
        !self.calm && self.random.random_ratio(1, one_in)
    }

    fn step(&mut self) {
        let client = self.random.random_range(0..GATEWAYS);
        match self.random.random_range(0..100) {
            0..16 => self.write_some(),
            16..32 => self.read_live(),
            32..38 => self.register(client),
            38..42 => self.replace(client),
            42..43 => self.unregister(client),
            43..48 => self.connect(client),
            48..50 => self.cut(client),
            50..64 => self.receive(client),
            64..74 => self.ack(client),
            74 => self.heartbeat(client),
            75 if self.cast == Cast::Members => self.heartbeat(client),
            75 if self.random.random_ratio(1, 2) => self.move_cursor(client),
            75 => self.heartbeat(client),
            76..78 => self.tick(),
            78..80 => self.late_ack(),
            80..90 => {
                for _ in 0..self.random.random_range(1..4) {
                    self.store_answers();
                }
            }
            90..96 => {
                for _ in 0..self.random.random_range(1..3) {
                    self.replay_answers();
                    self.do_effects();
                }
            }
            // A member's cursors say nothing of what others have.
            96 if self.cast == Cast::Members => self.tick(),
            96 => self.restore(client),
            97 if self.random.random_ratio(1, 3) => self.remove_gateway(client),
            97 => {
                let _ = self.machine.on_park_gateway(&self.ids[client]);
            }
            98 => self.trim(),
            _ => {
                if self.random.random_ratio(1, 3) {
                    self.crash();
                }
            }
        }
        if self.random.random_ratio(1, 3) {
            self.machine.work();
        }
        self.do_effects();
    }

    fn write_some(&mut self) {
        for _ in 0..self.random.random_range(1..4) {
            self.time += self.random.random_range(1..3);
            let count = if self.random.random_ratio(1, 4) { self.random.random_range(2..6) } else { 1 };
            // A drop or a rename need not have a change beside it: then it stands on the boundary.
            let is_lone = self.random.random_ratio(1, 20);
            for ordinal in if is_lone { 0..=0 } else { 1..=count } {
                let k = i32::from(self.random.random_range(0..KINDS));
                let k = if is_lone || self.random.random_ratio(1, 30) { i32::from(GAP) } else { k };
                self.oplog.push(Arc::new(Change {
                    position: self.at(self.time, ordinal),
                    scope: Scope::known("t", "c"),
                    left: None,
                    key: "x".into(),
                    operation: Operation::Insert,
                    document: Some(rawdoc! { "k": k }),
                    before: None,
                    changed: None,
                    wall_time_ms: None,
                    transaction: None,
                    flags: Flags::none(),
                }));
            }
        }
    }

    /// Some of what lies after a position; perhaps up to the end, with a boundary.
    fn batch_after(&mut self, after: Position) -> Batch {
        let from = self.oplog.partition_point(|change| change.position <= after);
        let most = if self.calm { usize::MAX } else { self.random.random_range(0..12) };
        let changes: Vec<_> = self.oplog[from..].iter().take(most).cloned().collect();
        let is_all = from + changes.len() == self.oplog.len();
        let mut reached = changes.last().map_or(after, |change| change.position);
        if is_all && (self.calm || self.random.random_ratio(1, 2)) {
            reached = reached.max(self.at(self.time + 1, 0));
            self.time += 1;
        }
        Batch { events: changes.iter().flat_map(events).collect(), reached }
    }

    fn read_live(&mut self) {
        self.trace(|| "live".into());
        if self.machine.reached() < self.oldest {
            // The live cursor has fallen off the end.
            let from = self.machine.reached();
            self.time += 1;
            let to = self.at(self.time, 0);
            self.live_lost.push((from, to));
            self.machine.on_history_lost(to);
            return;
        }
        let batch = self.batch_after(self.machine.reached());
        self.machine.on_batch(batch);
    }

    fn restore(&mut self, client: usize) {
        self.trace(|| format!("restore {client}"));
        if let Some(connection) = self.clients[client].connection.as_ref() {
            let number = connection.number;
            connection.outbox.abandon();
            self.machine.on_disconnect(&self.ids[client], number);
        }
        // What its former self had asked for is not its own; its acks may still be on their way.
        self.opens.retain(|_, (of, _)| *of != client);
        self.late_acks.extend(self.clients[client].last_words().map(|cursor| (client, cursor)));
        self.clients[client].restore();
    }

    fn trim(&mut self) {
        if self.trims && !self.calm && self.random.random_ratio(1, 4) && !self.oplog.is_empty() {
            let cut = self.random.random_range(0..self.oplog.len());
            self.oldest = self.oldest.max(self.oplog[cut].position);
        }
    }

    fn subscription(&mut self) -> String {
        format!("s{}", self.random.random_range(0..SUBSCRIPTIONS))
    }

    fn kind(&mut self) -> Option<u8> {
        self.random.random_ratio(3, 4).then(|| self.random.random_range(0..KINDS))
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn register(&mut self, client: usize) {
        self.trace(|| format!("register {client}"));
        let token = self.token();
        let count = self.random.random_range(1..3);
        let mut names = HashSet::new();
        let mut items = Vec::new();
        for slot in 0..count {
            let name = self.subscription();
            let kind = self.kind();
            if !names.insert(name.clone()) {
                continue;
            }
            let mut spec = spec(&self.ids[client].owner(), &name, kind);
            if self.random.random_ratio(1, 4) && self.time > 12 {
                let low = self.oldest.time.0.max(11);
                let time = self.random.random_range(low..self.time.max(low + 1) + 2);
                spec.start_at = Some(StartAt::OperationTime(ClusterTime(time)));
            }
            items.push((slot, spec, filter_of(kind)));
        }
        self.machine.on_register(token, items);
    }

    fn replace(&mut self, client: usize) {
        self.trace(|| format!("replace {client}"));
        let name = self.subscription();
        let kind = self.kind();
        let token = self.token();
        let spec = spec(&self.ids[client].owner(), &name, kind);
        self.machine.on_replace(spec, filter_of(kind), Waiter { token, slot: 0 });
    }

    fn unregister(&mut self, client: usize) {
        self.trace(|| format!("unregister {client}"));
        let token = self.token();
        let id = SubscriptionId::new(&self.subscription()).unwrap();
        let key = streamer::subscription::SubscriptionKey { gateway: self.ids[client].owner(), id };
        self.machine.on_unregister(&key, Waiter { token, slot: 0 });
    }

    fn remove_gateway(&mut self, client: usize) {
        self.trace(|| format!("remove gateway {client}"));
        let token = self.token();
        self.machine.on_remove_gateway(&self.ids[client].owner(), Waiter { token, slot: 0 });
    }

    /// As the store gives them to sessions and moves.
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// An operator's rewind or skip.
    fn move_cursor(&mut self, client: usize) {
        let token = self.token();
        let low = self.oldest.time.0.max(11);
        let time = self.random.random_range(low..self.time.max(low + 1) + 2);
        let on_a_change = self.oplog.choose(&mut self.random).map(|change| change.position);
        let on_a_change = on_a_change.filter(|at| *at >= self.oldest && self.random.random_ratio(1, 2));
        let target = on_a_change.unwrap_or(self.at(time, 0));
        self.trace(|| format!("move {client} to {target:?}"));
        let number = self.number();
        self.machine.on_move(&self.ids[client].clone(), &Target::Position(target), number, Waiter { token, slot: 0 });
    }

    /// What the store has come to hold of moves.
    fn note_moves(&mut self) {
        for moved in std::mem::take(&mut self.store.moves) {
            let client = self.ids.iter().position(|id| *id == moved.gateway).expect("one of ours");
            let handed = Some(self.clients[client].handed.len());
            self.trace(|| format!("moved {moved:?}"));
            self.clients[client].moves.push(Moved { position: moved.position, known: moved.known, handed });
        }
    }

    fn connect(&mut self, client: usize) {
        let forgets = self.chance(5) && !self.clients[client].is_restored;
        let cursor = self.clients[client].acked.clone().filter(|_| !forgets);
        let presented = cursor.as_deref().and_then(|text| Cursor::decode(text).ok());
        self.trace(|| format!("connect {client} at {presented:?}"));
        let token = self.token();
        self.opens.insert(token, (client, presented.map(|cursor| cursor.incarnation)));
        let hello = Hello {
            gateway: self.ids[client].clone(),
            cursor: cursor.map(|text| CursorText(text.into())),
            transport: Transport::Grpc,
            auto_ack: false,
            unacked_bytes_max: *[0, 0, 600, 5_000].choose(&mut self.random).expect("some"),
            number: self.number(),
            node: None,
        };
        self.machine.on_open(hello, Waiter { token, slot: 0 });
    }

    /// A connection breaks: what was on its way is lost.
    fn cut(&mut self, client: usize) {
        self.trace(|| format!("cut {client}"));
        if let Some(connection) = self.clients[client].connection.take()
            && self.random.random_ratio(4, 5)
        {
            connection.outbox.abandon();
            self.machine.on_disconnect(&self.ids[client], connection.number);
        }
    }

    fn receive(&mut self, client: usize) {
        self.trace(|| format!("receive {client}"));
        let bytes = if self.calm { 1 << 20 } else { self.random.random_range(1..3_000) };
        let count = if self.calm { usize::MAX } else { self.random.random_range(0..12) };
        self.clients[client].pump(bytes);
        let said = self.clients[client].lost.len();
        self.clients[client].read(count);
        if let Some(needless) = self.needless(client, said) {
            self.clients[client].broken = Some(needless);
        }
        for (until, known) in std::mem::take(&mut self.clients[client].claims) {
            if let Err(broken) = self.check_progress(client, until, known) {
                self.clients[client].broken = Some(broken);
            }
        }
    }

    /// Of what was just said to be lost, something that can still be read.
    fn needless(&self, client: usize, said: usize) -> Option<String> {
        let (client, id) = (&self.clients[client], &self.ids[client]);
        // There the filter may be what is lost.
        let mut lives = self.store.lives.iter().filter(|life| life.key.gateway == id.owner());
        let is_back = client.was_restored || !client.moves.is_empty() || lives.any(|life| life.generations.len() > 1);
        let is_there = |lost: &&Lost| {
            lost.reason == ResyncReason::HistoryLost && lost.from.is_some_and(|from| bare(from) >= bare(self.oldest))
        };
        let needless = client.lost.iter().skip(said).find(is_there).filter(|_| !is_back)?;
        Some(format!("what is after {:?} is there, but was said to be lost: {needless:?}", self.oldest))
    }

    fn ack(&mut self, client: usize) {
        self.trace(|| format!("ack {client}: {:?}", self.clients[client].processed));
        let count = if self.calm { usize::MAX } else { self.random.random_range(1..8) };
        let Some(cursor) = self.clients[client].ack(count) else { return };
        if self.random.random_ratio(1, 4) {
            self.clients[client].back_up();
        }
        if self.chance(6) {
            // Lost, or very late.
            if self.random.random_ratio(1, 2) {
                self.late_acks.push((client, cursor));
            }
            return;
        }
        let _ = self.machine.on_ack(&self.ids[client], &cursor);
    }

    fn late_ack(&mut self) {
        if !self.late_acks.is_empty() {
            let index = self.random.random_range(0..self.late_acks.len());
            let (client, cursor) = self.late_acks.swap_remove(index);
            let _ = self.machine.on_ack(&self.ids[client], &cursor);
        }
    }

    fn heartbeat(&mut self, client: usize) {
        let _ = self.machine.on_renew_gateway(&self.ids[client].owner(), None);
    }

    fn tick(&mut self) {
        self.trace(|| "tick".into());
        let seconds = if self.calm { 1 } else { self.random.random_range(0..40) };
        self.clock.advance(Duration::from_secs(seconds));
        self.machine.say_progress();
        self.machine.expire();
        self.machine.flush();
    }

    /// With `STREAMER_SIM_TRACE` set, what happens is printed: together with one seed it is a story.
    fn trace(&self, text: impl FnOnce() -> String) {
        static WANTED: OnceLock<bool> = OnceLock::new();
        if *WANTED.get_or_init(|| std::env::var_os("STREAMER_SIM_TRACE").is_some()) {
            eprintln!("{:?} {}", self.machine.reached(), text());
        }
    }

    fn do_effects(&mut self) {
        for effect in self.machine.take_effects() {
            let short = match &effect {
                Effect::Write(id, writes) => {
                    let keys: Vec<_> = writes.iter().map(|write| write.key.0.as_str()).collect();
                    format!("write {id:?} {keys:?}")
                }
                Effect::Answer(waiter, answer) => format!("answer {waiter:?} {}", answer.is_ok()),
                other => format!("{other:?}"),
            };
            self.trace(|| short);
            match effect {
                Effect::Write(id, writes) => {
                    self.on_its_way.push(OnItsWay { id, writes, told: false, applied: None });
                }
                Effect::Answer(waiter, answer) => self.take_answer(waiter, answer.ok()),
                Effect::OpenReplay(id, after) => {
                    self.replays.insert(id, (after, false));
                }
                Effect::FetchReplay(id) => {
                    if let Some((_, wanted)) = self.replays.get_mut(&id) {
                        *wanted = true;
                    }
                }
                Effect::CloseReplay(id) => {
                    self.replays.remove(&id);
                }
            }
        }
    }

    fn take_answer(&mut self, waiter: Waiter, answer: Option<Answer>) {
        let Some((client, presented)) = self.opens.remove(&waiter.token) else { return };
        let Some(Answer::Session(outbox, number)) = answer else { return };
        self.clients[client].connected(outbox, number);
        let view = self.machine.gateway(&self.ids[client]).ok();
        let current = view.and_then(|view| view.cursor).and_then(|text| Cursor::decode(text.as_str()).ok());
        let current = current.map(|cursor| cursor.incarnation);
        if presented.is_some() && presented != current {
            self.clients[client].forgotten_by = current;
        }
        if self.clients[client].was_restored && self.chance(3) {
            // Its former self's acks arrive only now, and it will not present its cursor again.
            while !self.late_acks.is_empty() {
                self.late_ack();
            }
            if self.random.random_ratio(1, 2) {
                self.cut(client);
                self.clients[client].acked = None;
            }
        }
    }

    fn store_answers(&mut self) {
        if self.on_its_way.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.on_its_way.len());
        if self.chance(8) && !self.on_its_way[index].told {
            // Times out; it may or may not have been applied already.
            if self.on_its_way[index].applied.is_none() && self.random.random_ratio(1, 2) {
                let writes = self.on_its_way[index].writes.clone();
                self.on_its_way[index].applied = self.store.commit(&writes);
                self.note_moves();
            }
            self.on_its_way[index].told = true;
            let id = self.on_its_way[index].id;
            self.machine.on_outcome(id, Outcome::Unknown);
            return;
        }
        self.answer_write(index);
    }

    fn answer_write(&mut self, index: usize) {
        let write = self.on_its_way.swap_remove(index);
        let may_fail = write.writes.iter().all(|write| write.key.0.starts_with("subs/") && write.value.is_some());
        // A gateway that was never stored is removed by a write of nothing.
        if write.applied.is_none() && may_fail && self.chance(10) && !write.writes.is_empty() {
            let error = CommitError::TooLarge("as the simulation wants".into());
            self.machine.on_outcome(write.id, Outcome::Failed(error));
            return;
        }
        let revision = write.applied.or_else(|| self.store.commit(&write.writes));
        self.note_moves();
        self.trace(|| format!("{:?} is stored: {revision:?}", write.id));
        match revision {
            Some(revision) => self.machine.on_outcome(write.id, Outcome::Done(revision)),
            None => self.machine.on_outcome(write.id, Outcome::Failed(CommitError::Conflict)),
        }
    }

    fn settle_store(&mut self) {
        loop {
            self.do_effects();
            if self.on_its_way.is_empty() {
                return;
            }
            self.answer_write(0);
        }
    }

    fn replay_answers(&mut self) {
        let wanted: Vec<ReplayId> = self.replays.iter().filter(|(_, (_, wanted))| *wanted).map(|(id, _)| *id).collect();
        let Some(id) = wanted.choose(&mut self.random).copied() else { return };
        let (after, _) = self.replays[&id];
        if self.chance(8) {
            self.machine.on_replay_failed(id, &SourceError::Unavailable("as the simulation wants".into()));
        } else if after < self.oldest {
            self.machine.on_replay_failed(id, &SourceError::HistoryLost("trimmed".into()));
        } else {
            let batch = self.batch_after(after);
            self.replays.insert(id, (batch.reached, false));
            self.machine.on_replay_batch(id, batch);
        }
    }

    fn crash(&mut self) {
        self.trace(|| "crash".into());
        for mut write in std::mem::take(&mut self.on_its_way) {
            if write.applied.is_none() && self.random.random_ratio(1, 2) {
                write.applied = self.store.commit(&write.writes);
            }
        }
        self.note_moves();
        self.replays.clear();
        self.opens.clear();
        for client in &mut self.clients {
            // What the hub had written may still be in the pipe.
            if self.random.random_ratio(1, 2) {
                client.read(usize::MAX);
            }
            client.connection = None;
        }
        let partition = self.config.partition.clone();
        let entry = self.store.get(&checkpoint::key(&partition)).expect("written at the start");
        let mut record = CheckpointRecord::decode(&entry.value).unwrap();
        let mut revision = entry.revision;
        if self.random.random_ratio(1, 4) {
            record = self.raise_epoch(record);
            let (key, expect) = (checkpoint::key(&partition), Expect::Anything);
            let write = Write { key, expect, value: Some(record.encode()) };
            revision = self.store.commit(&[write]).expect("no condition");
        }
        let mut reached = record.position;
        if reached < self.oldest {
            self.time += 1;
            self.live_lost.push((reached, self.at(self.time, 0)));
            reached = self.at(self.time, 0);
        }
        let stored = Stored {
            subscriptions: self.store.scan(&subscriptions::prefix(&PartitionId::new("default", 0))),
            gateways: self.store.scan(&gateways::prefix(&PartitionId::new("default", 0))),
            cursors: self.store.scan(&cursors::prefix(&partition)),
            revision: Revision(self.store.revision),
        };
        self.config.mistake = self.mistake;
        let checkpointed = Checkpointed { risen: record.risen, ..checkpointed(record.position, Some(revision)) };
        let (config, clock) = (self.config.clone(), self.clock.clone());
        let horizon = self.at(self.time + 1, 0);
        self.machine = Machine::load(config, clock, reached, horizon, checkpointed, stored).expect("own records");
    }

    /// The stream's definition has changed: everything has a new position.
    fn raise_epoch(&mut self, record: CheckpointRecord) -> CheckpointRecord {
        self.epoch = Epoch(self.epoch.0 + 1);
        self.trace(|| "the epoch rises".into());
        for change in &mut self.oplog {
            let mut again = Change::clone(change);
            again.position.epoch = self.epoch;
            *change = Arc::new(again);
        }
        self.oldest.epoch = self.epoch;
        let position = Position::boundary(self.epoch, record.position.time);
        CheckpointRecord { position, risen: Some(self.at(self.time + 1, 0)), ..record }
    }

    fn check_clients(&self) -> Result<(), String> {
        for (client, id) in self.clients.iter().zip(&self.ids) {
            if let Some(broken) = &client.broken {
                return Err(format!("{id}: {broken}"));
            }
        }
        Ok(())
    }

    /// No more faults: everything must arrive, and everyone become quiet.
    fn end(&mut self) -> Result<(), String> {
        self.calm = true;
        self.late_acks.clear();
        for round in 0..400 {
            self.settle_store();
            if round % 8 == 0 {
                for client in 0..GATEWAYS {
                    self.heartbeat(client);
                    if self.clients[client].connection.is_none() {
                        self.connect(client);
                    }
                }
                self.settle_store();
            }
            self.read_live();
            self.tick();
            for _ in 0..4 {
                self.do_effects();
                self.replay_answers();
                self.machine.work();
            }
            for client in 0..GATEWAYS {
                self.receive(client);
                self.ack(client);
            }
            if round > 40 && self.is_done() {
                return Ok(());
            }
        }
        let states: Vec<_> =
            self.machine.gateways().iter().map(|view| (view.gateway.clone(), view.state.clone())).collect();
        Err(format!("not everyone becomes live and the checkpoint does not follow: {states:?}"))
    }

    fn is_done(&self) -> bool {
        let is_live = |view: &GatewayView| view.state == "live" || view.state == "parked";
        // What a group has and no member.
        let is_left = |view: &GatewayView| view.gateway.as_str().ends_with('/') && view.subscriptions == 0;
        let all_live = self.machine.gateways().iter().all(|view| is_live(view) || is_left(view));
        let end = self.oplog.last().map_or(self.at(0, 0), |change| change.position);
        // Whoever still reads what was written earlier hears old progress.
        let end = end.max(self.at(self.time - 5, 0));
        let all_told =
            self.clients.iter().all(|client| client.progress.is_some_and(|(p, behind)| p > end && behind == 0));
        all_live && all_told && self.is_laid_out() && self.machine.checkpoint() > end
    }

    /// What of a group is served is where the ring of all its members has it.
    fn is_laid_out(&self) -> bool {
        let members = self.ids.iter().filter_map(|id| id.in_group()).map(|(_, member)| Arc::from(member));
        let ring = Ring::new(members);
        let partition = PartitionId::new("default", 0);
        self.store.lives.iter().filter(|life| !life.removed).all(|life| {
            let entry = self.store.get(&subscriptions::key(&partition, &life.key)).expect("it lives");
            let record = SubscriptionRecord::decode(&entry.value).unwrap();
            let member = ring.member(&format!("{}{}", life.key.gateway, life.key.id));
            record.parked.is_some() || record.assigned.map(|it| it.member).as_deref() == member.map(|it| &**it)
        })
    }

    fn check_all(&self) -> Result<(), String> {
        self.check_clients()?;
        let latest: HashMap<_, usize> =
            self.store.lives.iter().enumerate().map(|(index, life)| (life.key.clone(), index)).collect();
        for (index, life) in self.store.lives.iter().enumerate() {
            let is_alive = !life.removed && latest[&life.key] == index;
            match self.cast {
                Cast::Gateways => self.check_life(life, is_alive)?,
                Cast::Members => self.check_life_in_group(life, is_alive)?,
            }
        }
        for (client, id) in self.clients.iter().zip(&self.ids) {
            for handed in &client.handed {
                let known = self.store.lives.iter().any(|life| {
                    life.key.gateway == id.owner()
                        && life.key.id == handed.subscription
                        && life.generations.iter().any(|generation| generation.number == handed.generation)
                });
                if !known {
                    return Err(format!("{id}: {handed:?} of a generation that the store never held"));
                }
            }
        }
        Ok(())
    }

    /// Everything before a progress with nobody behind has been sent to everyone whom it knew.
    fn check_progress(&self, client: usize, until: Position, known: Revision) -> Result<(), String> {
        for life in self.store.lives.iter().filter(|life| life.key.gateway == self.ids[client].owner() && !life.removed)
        {
            let entry =
                self.store.get(&subscriptions::key(&PartitionId::new("default", 0), &life.key)).expect("it lives");
            let record = SubscriptionRecord::decode(&entry.value).unwrap();
            if entry.revision > known || record.parked.is_some() || until.epoch < self.epoch {
                continue;
            }
            let (client, of) = (&self.clients[client], &self.ids[client]);
            let others = self.clients.iter().filter(|_| self.cast == Cast::Members);
            if of.in_group().is_some_and(|(_, of)| record.assigned.is_none_or(|assigned| assigned.member != of)) {
                continue;
            }
            let handed = others.chain([client]).flat_map(|client| &client.handed);
            let handed = handed.filter(|handed| handed.subscription == life.key.id);
            let handed: HashSet<Position> = handed.map(|handed| bare(handed.position)).collect();
            for change in self.oplog.iter().filter(|change| kind_of(change) != GAP) {
                let at = change.position;
                if handed.contains(&bare(at)) {
                    continue;
                }
                let current = life.generations.iter().rev().find(|generation| generation.from < at);
                let Some(current) = current.filter(|current| current.from.epoch == self.epoch && at < until) else {
                    continue;
                };
                let skipped = client.moves.iter().any(|moved| skips(moved, current.number, bare(at)));
                let of_all = self.clients.iter().filter(|_| self.cast == Cast::Members);
                let is_excused = of_all.chain([client]).any(|client| self.excused(client, life, bare(at)));
                if matches(current.filter, kind_of(change)) && !skipped && !is_excused {
                    return Err(format!("progress until {until:?}, but {at:?} has not been sent; {life:?}"));
                }
            }
        }
        Ok(())
    }

    fn check_life(&self, life: &Life, is_alive: bool) -> Result<(), String> {
        let client = self.ids.iter().position(|id| *id == life.key.gateway).unwrap();
        let client = &self.clients[client];
        let numbers: HashSet<u64> = life.generations.iter().map(|generation| generation.number).collect();
        let of_this = client.handed.iter();
        let of_this =
            of_this.filter(|handed| handed.subscription == life.key.id && numbers.contains(&handed.generation));
        let got: Vec<(u64, Position, bool)> =
            of_this.map(|handed| (handed.generation, bare(handed.position), handed.redelivered)).collect();
        // What was said to be lost and not acked may still come, where it turns out to be readable.
        let misordered = |pair: &&[(u64, Position, bool)]| {
            pair[0].1 >= pair[1].1 && !pair[1].2 && !self.excused(client, life, pair[1].1)
        };
        if let Some(pair) = got.windows(2).find(misordered) {
            return Err(format!("{:?}: misordered or doubled: {pair:?}; {life:?}", life.key));
        }
        let mut expected = Vec::new();
        let mut allowed = HashSet::new();
        for change in &self.oplog {
            let at = bare(change.position);
            // A rise moves a filter's bounds to the start of their cluster time.
            let moved = |from: Position| from.epoch < self.epoch && from.time == at.time;
            if life.generations.iter().any(|generation| moved(generation.from)) {
                allowed.extend(life.generations.iter().map(|generation| (generation.number, at)));
                continue;
            }
            let Some(current) = life.generations.iter().rev().find(|generation| bare(generation.from) < at) else {
                continue;
            };
            let gaps = gaps(change);
            if !gaps.is_empty() {
                let skipped = client.moves.iter().any(|moved| skips(moved, current.number, at));
                if is_alive && !skipped && !gaps.iter().all(|reason| self.said(client, life, at, Some(*reason))) {
                    return Err(format!("{:?}: nobody said that {at:?} cannot be delivered; {life:?}", life.key));
                }
            } else if matches(current.filter, kind_of(change)) {
                expected.push((current.number, at));
            }
        }
        let wanted: HashSet<_> = expected.iter().copied().collect();
        let got: Vec<(u64, Position)> = got.into_iter().map(|(number, at, _)| (number, at)).collect();
        if let Some(spurious) = got.iter().find(|one| !wanted.contains(*one) && !allowed.contains(*one)) {
            return Err(format!("{:?}: {spurious:?} should not have been delivered; {life:?}", life.key));
        }
        let have: HashSet<_> = got.into_iter().collect();
        let skipped = |moves: &[Moved], one: &(u64, Position)| moves.iter().any(|moved| skips(moved, one.0, one.1));
        let is_missing = |one: &&(u64, Position)| !self.excused(client, life, one.1);
        let lost = expected.iter().filter(|one| !have.contains(*one) && !skipped(&client.moves, one)).find(is_missing);
        if let Some(lost) = lost.filter(|_| is_alive) {
            return Err(format!("{:?}: {lost:?} was lost; {life:?}; got {have:?}", life.key));
        }
        for (index, moved) in client.moves.iter().enumerate() {
            let Some(handed) = moved.handed.filter(|_| is_alive) else { continue };
            let again: HashSet<_> = client.handed[handed.min(client.handed.len())..]
                .iter()
                .filter(|handed| handed.subscription == life.key.id)
                .map(|handed| (handed.generation, bare(handed.position)))
                .collect();
            let owed = expected.iter().filter(|one| one.1 > bare(moved.position) && !again.contains(*one));
            let missing = owed.filter(|one| !skipped(&client.moves[index + 1..], one)).find(is_missing);
            if let Some(missing) = missing {
                return Err(format!("{:?}: {missing:?} did not come again after {moved:?}; {life:?}", life.key));
            }
        }
        Ok(())
    }

    /// Some member has had every change, and none of them two members without a word.
    fn check_life_in_group(&self, life: &Life, is_alive: bool) -> Result<(), String> {
        let numbers: HashSet<u64> = life.generations.iter().map(|generation| generation.number).collect();
        let is_excused = |at: Position| self.clients.iter().any(|client| self.excused(client, life, at));
        let (mut have, mut unflagged) = (HashSet::new(), HashMap::new());
        for (client, id) in self.clients.iter().zip(&self.ids) {
            let mut last = None;
            for handed in client.handed.iter().filter(|handed| handed.subscription == life.key.id) {
                if !numbers.contains(&handed.generation) {
                    continue;
                }
                let one = (handed.generation, bare(handed.position));
                if last.is_some_and(|last| last >= one.1) && !handed.redelivered && !is_excused(one.1) {
                    return Err(format!("{:?}: misordered at {id}: {one:?} after {last:?}; {life:?}", life.key));
                }
                last = Some(one.1);
                have.insert(one);
                if handed.redelivered {
                    continue;
                }
                // At one member what follows something flagged goes on from there.
                if let Some(other) = unflagged.insert(one, id).filter(|other| *other != id)
                    && !is_excused(one.1)
                {
                    return Err(format!("{:?}: {one:?} went to {other} and to {id}; {life:?}", life.key));
                }
            }
        }
        for change in &self.oplog {
            let at = bare(change.position);
            let moved = |from: Position| from.epoch < self.epoch && from.time == at.time;
            if life.generations.iter().any(|generation| moved(generation.from)) {
                have.retain(|(_, handed)| *handed != at);
                continue;
            }
            let Some(current) = life.generations.iter().rev().find(|generation| bare(generation.from) < at) else {
                continue;
            };
            let gaps = gaps(change);
            if !gaps.is_empty() {
                let said = |reason: &ResyncReason| self.clients.iter().any(|it| self.said(it, life, at, Some(*reason)));
                if is_alive && !gaps.iter().all(said) {
                    return Err(format!("{:?}: nobody said that {at:?} cannot be delivered; {life:?}", life.key));
                }
            } else if matches(current.filter, kind_of(change)) {
                let is_there = have.remove(&(current.number, at));
                if is_alive && !is_there && !is_excused(at) {
                    return Err(format!("{:?}: {at:?} was lost; {life:?}", life.key));
                }
            }
        }
        match have.iter().next() {
            Some(spurious) => Err(format!("{:?}: {spurious:?} should not have been delivered; {life:?}", life.key)),
            None => Ok(()),
        }
    }

    /// Whether the hub had reason to say that this is lost, and has said it.
    fn excused(&self, client: &Client, life: &Life, position: Position) -> bool {
        (self.trims || client.was_restored || !client.moves.is_empty()) && self.said(client, life, position, None)
    }

    /// Whether a resync covers the position, for this reason or as part of a greater loss.
    fn said(&self, client: &Client, life: &Life, position: Position, reason: Option<ResyncReason>) -> bool {
        let is_greater = |lost: &Lost| {
            !matches!(lost.reason, ResyncReason::Undecodable | ResyncReason::Invalidated | ResyncReason::Replaced)
        };
        let covers = |lost: &Lost| {
            reason.is_none_or(|reason| lost.reason == reason || is_greater(lost))
                && lost.from.is_none_or(|from| bare(from) < position)
                && position <= bare(lost.to)
                && lost.subscriptions.as_ref().is_none_or(|ids| ids.contains(&life.key.id))
        };
        client.lost.iter().any(covers)
    }
}

/// Whether an operator has skipped this change of a filter of this number.
fn skips(moved: &Moved, number: u64, position: Position) -> bool {
    position <= bare(moved.position) && number <= moved.known
}

fn events(change: &Arc<Change>) -> Vec<Event> {
    let gaps = gaps(change);
    if gaps.is_empty() {
        return vec![Event::Change(Arc::clone(change))];
    }
    let position = change.position;
    let event = |reason: &ResyncReason| Event::Resync(Gap { position, scope: change.scope.clone(), reason: *reason });
    gaps.iter().map(event).collect()
}

/// What is to be said in the place of a change that cannot be produced. One event may concern two scopes.
fn gaps(change: &Change) -> &'static [ResyncReason] {
    match (kind_of(change), change.position.ordinal % 2) {
        (GAP, 0) if !change.position.is_boundary() => &[ResyncReason::Undecodable],
        (GAP, _) => &[ResyncReason::Invalidated, ResyncReason::Replaced],
        _ => &[],
    }
}

fn checkpointed(position: Position, revision: Option<Revision>) -> Checkpointed {
    Checkpointed { position, revision, definition: "sim".into(), ..Checkpointed::default() }
}
