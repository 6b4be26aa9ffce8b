//! What a session is owed is said until it is acked: the interleavings that the simulation seldom meets,
//! one by one.

use std::sync::Arc;

use serde_json::json;
use streamer::change::ResyncReason;
use streamer::clock::Clock;
use streamer::cursor::CursorText;
use streamer::delivery::frame::Frame;
use streamer::delivery::machine::{
    Answer, Checkpointed, Effect, Machine, MachineConfig, Outcome, Stored, Waiter, WriteId,
};
use streamer::delivery::outbox::Outbox;
use streamer::handle::{Hello, Transport};
use streamer::matching::BloomUse;
use streamer::matching::Filter;
use streamer::position::{ClusterTime, Epoch, PartitionId, Position};
use streamer::source::Batch;
use streamer::store::{Revision, Write, cursors, gateways, subscriptions};
use streamer::subscription::{GatewayId, Spec};

use super::model::Store;

/// A machine, its store and no faults but those that a test asks for.
struct Hub {
    machine: Machine,
    config: MachineConfig,
    store: Store,
    writes: Vec<(WriteId, Vec<Write>)>,
    sessions: Vec<Arc<Outbox>>,
    /// The last session's.
    numbers: u64,
    epoch: u32,
    time: u64,
    restored: Option<Position>,
}

fn id() -> GatewayId {
    GatewayId::new("g").unwrap()
}

const WAITER: Waiter = Waiter { token: 1, slot: 0 };

impl Hub {
    /// With one gateway that has one subscription.
    fn new() -> Self {
        let config = MachineConfig {
            partition: PartitionId::new("default", 0),
            node: "test".into(),
            window_bytes_max: 1_000_000,
            outbox_bytes_max: 1_000_000,
            hold_bytes_max: 1 << 20,
            rides_max: 8,
            memory_bytes_max: 1 << 20,
            outbox_bytes_soft: 1_000,
            turn_changes_max: 1_000,
            catchups_max: streamer::limits::cursor_catchups_max,
            sessions_max: 100,
            quota_gateway: 100,
            quota_tenant: 100,
            quota_global: 100,
            park_seconds: 1_000_000,
            member_grace_seconds: 15,
            nats_gateways: Vec::new(),
            bloom: BloomUse::Off,
            shadow_every: 0,
            seed: 1,
            mistake: None,
        };
        let start = Position::boundary(Epoch(1), ClusterTime(10));
        let machine = Machine::new(config.clone(), Clock::manual(), start, Checkpointed::default());
        let (store, restored) = (Store::default(), None);
        let (writes, sessions) = (Vec::new(), Vec::new());
        let mut hub = Self { machine, config, store, writes, sessions, numbers: 0, epoch: 1, time: 10, restored };
        hub.flush();
        hub.register();
        hub
    }

    fn effects(&mut self) {
        for effect in self.machine.take_effects() {
            match effect {
                Effect::Write(id, writes) => self.writes.push((id, writes)),
                Effect::Answer(_, Ok(Answer::Session(outbox, _))) => self.sessions.push(outbox),
                Effect::Answer(_, answer) => assert!(answer.is_ok(), "{answer:?}"),
                _ => {}
            }
        }
    }

    fn settle(&mut self) {
        self.effects();
        while !self.writes.is_empty() {
            let (id, writes) = self.writes.remove(0);
            let revision = self.store.commit(&writes).expect("a single owner");
            self.machine.on_outcome(id, Outcome::Done(revision));
            self.effects();
        }
    }

    fn flush(&mut self) {
        self.machine.flush();
        self.settle();
    }

    /// The loop goes on, and the gateway's place with it if it is quiet.
    fn pass(&mut self) {
        self.time += 1;
        let reached = Position::boundary(Epoch(self.epoch), ClusterTime(self.time));
        self.machine.on_batch(Batch { events: Vec::new(), reached });
        self.machine.say_progress();
        self.flush();
    }

    fn register(&mut self) {
        let spec = json!({"subscriptionId": "s", "gatewayId": "g", "tenant": "t", "collection": "c"});
        let spec = Spec::from_json(&spec).unwrap();
        let filter = Filter::compile(&spec).unwrap();
        self.machine.on_register(1, vec![(0, spec, filter)]);
        self.settle();
        self.flush();
    }

    fn remove_and_register(&mut self) {
        self.machine.on_remove_gateway(&id(), WAITER);
        self.settle();
        self.register();
    }

    fn ask(&mut self, cursor: Option<&str>) {
        self.numbers += 1;
        let hello = Hello {
            gateway: id(),
            cursor: cursor.map(|text| CursorText(text.into())),
            transport: Transport::Grpc,
            auto_ack: false,
            unacked_bytes_max: 0,
            number: self.numbers,
            node: None,
        };
        self.machine.on_open(hello, WAITER);
        self.effects();
    }

    /// What a new session says.
    fn open(&mut self, cursor: Option<&str>) -> Vec<Frame> {
        self.ask(cursor);
        self.settle();
        self.pass();
        let frames = self.sessions.last().expect("it was answered").take(usize::MAX);
        assert!(matches!(frames.first(), Some(Frame::Welcome(_))), "{frames:?}");
        frames
    }

    fn ack(&mut self, frame: &Frame) {
        self.machine.on_ack(&id(), cursor(frame)).unwrap();
    }

    /// A new owner, from what is stored.
    fn crash(&mut self) {
        self.writes.clear();
        let stored = Stored {
            subscriptions: self.store.scan(&subscriptions::prefix(&PartitionId::new("default", 0))),
            gateways: self.store.scan(&gateways::prefix(&PartitionId::new("default", 0))),
            cursors: self.store.scan(&cursors::prefix(&self.config.partition)),
            revision: Revision(self.store.revision),
        };
        let entry = self.store.scan("checkpoint/").pop().expect("stored at the start");
        let (restored, revision) = (self.restored, Some(entry.revision));
        let position = self.machine.checkpoint();
        let checkpoint = Checkpointed { position, revision, restored, ..Checkpointed::default() };
        let reached = Position::boundary(Epoch(self.epoch), ClusterTime(self.time));
        let (config, clock) = (self.config.clone(), Clock::manual());
        self.machine = Machine::load(config, clock, reached, reached, checkpoint, stored).unwrap();
    }

    /// The deployment is another one: its history begins now.
    fn restore_deployment(&mut self) {
        self.epoch += 1;
        self.time += 100;
        self.restored = Some(Position::boundary(Epoch(self.epoch), ClusterTime(self.time)));
        self.crash();
    }

    /// A cursor of a gateway that has since been removed and registered again.
    fn alien(&mut self) -> String {
        let frames = self.open(None);
        self.ack(progress(&frames));
        self.flush();
        self.remove_and_register();
        cursor(progress(&frames)).to_string()
    }
}

fn cursor(frame: &Frame) -> &str {
    frame.cursor().expect("it can be acked").as_str()
}

fn progress(frames: &[Frame]) -> &Frame {
    frames.iter().find(|frame| matches!(frame, Frame::Progress(_))).expect("a progress")
}

/// The loss that is said before anything else that can be acked.
fn owed(frames: &[Frame]) -> Option<(ResyncReason, Position)> {
    match frames.get(1)? {
        Frame::Resync(resync) => {
            assert_eq!((resync.from, resync.scopes.as_ref()), (None, None));
            Some((resync.reason, resync.to))
        }
        _ => None,
    }
}

fn reason(frames: &[Frame]) -> Option<ResyncReason> {
    owed(frames).map(|(reason, _)| reason)
}

const FORGOTTEN: Option<ResyncReason> = Some(ResyncReason::Forgotten);
const RESTORED: Option<ResyncReason> = Some(ResyncReason::Restored);

#[test]
fn what_is_forgotten_is_said_until_it_is_acked() {
    let mut hub = Hub::new();
    let alien = hub.alien();
    hub.ask(Some(&alien));
    hub.settle();
    // The connection is lost before anything is read; the gateway does not present its cursor again.
    for crashes in [false, true, false] {
        if crashes {
            hub.crash();
        }
        assert_eq!(reason(&hub.open(None)), FORGOTTEN, "after a crash: {crashes}");
    }
    let frames = hub.open(None);
    hub.ack(&frames[1]);
    assert_eq!(reason(&hub.open(None)), None);
    hub.crash();
    assert_eq!(reason(&hub.open(None)), None);
}

#[test]
fn what_is_forgotten_ends_where_serving_goes_on() {
    let mut hub = Hub::new();
    let alien = hub.alien();
    let to = |frames: Vec<Frame>| owed(&frames).expect("it is forgotten").1;
    let first = to(hub.open(Some(&alien)));
    // Nothing is acked: the gateway stays where it is.
    hub.pass();
    hub.flush();
    let again = to(hub.open(None));
    assert_eq!(again.time, first.time);
    // A quiet one moves on before it is told. What came in between was not for it.
    let alien = hub.alien();
    hub.ask(Some(&alien));
    hub.writes.iter().for_each(|(_, writes)| assert!(hub.store.commit(writes).is_some()));
    hub.crash();
    hub.pass();
    let reached = hub.machine.reached();
    assert_eq!(to(hub.open(None)), reached);
}

#[test]
fn to_have_been_welcomed_is_not_to_have_been_told() {
    let mut hub = Hub::new();
    let alien = hub.alien();
    let frames = hub.open(Some(&alien));
    hub.ack(&frames[0]);
    assert_eq!(reason(&hub.open(None)), FORGOTTEN);
    // As browsers do.
    let frames = hub.open(Some(cursor(&frames[0])));
    assert_eq!(reason(&frames), FORGOTTEN);
    let told = cursor(&frames[1]).to_string();
    assert_eq!(reason(&hub.open(Some(&told))), None);
}

#[test]
fn a_second_forgotten_cursor_is_not_acked_with_the_first() {
    let mut hub = Hub::new();
    let alien = hub.alien();
    let first = hub.open(Some(&alien));
    hub.open(Some(&alien));
    // The ack of a dead session comes late, and then its cursor is presented.
    hub.ack(&first[1]);
    assert_eq!(reason(&hub.open(None)), FORGOTTEN);
    let frames = hub.open(Some(cursor(&first[1])));
    assert_eq!(reason(&frames), FORGOTTEN);
    hub.ack(&frames[1]);
    assert_eq!(reason(&hub.open(None)), None);
}

#[test]
fn an_ack_counts_while_the_next_session_is_being_written() {
    let mut hub = Hub::new();
    let alien = hub.alien();
    let frames = hub.open(Some(&alien));
    hub.ask(None);
    hub.ack(&frames[1]);
    hub.settle();
    assert_eq!(reason(&hub.sessions.last().unwrap().take(usize::MAX)), None);
    assert_eq!(reason(&hub.open(None)), None);
}

#[test]
fn a_removed_gateway_is_owed_nothing_but_for_its_cursors() {
    let mut hub = Hub::new();
    let alien = hub.alien();
    hub.open(Some(&alien));
    hub.remove_and_register();
    assert_eq!(reason(&hub.open(None)), None);
    // One that is not there at all is told, too, and again.
    hub.machine.on_remove_gateway(&id(), WAITER);
    hub.settle();
    assert_eq!(reason(&hub.open(Some(&alien))), FORGOTTEN);
    hub.register();
    hub.crash();
    assert_eq!(reason(&hub.open(None)), FORGOTTEN);
}

#[test]
fn a_session_that_nobody_waited_for_has_told_nobody() {
    let mut hub = Hub::new();
    let alien = hub.alien();
    hub.ask(Some(&alien));
    let id = hub.writes[0].0;
    hub.machine.on_outcome(id, Outcome::Unknown);
    let refused = hub.machine.take_effects();
    assert!(matches!(refused[..], [Effect::Answer(_, Err(_))]), "{refused:?}");
    hub.settle();
    assert_eq!(reason(&hub.open(None)), FORGOTTEN);
}

#[test]
fn a_restored_deployment_is_said_until_it_is_acked() {
    let mut hub = Hub::new();
    let frames = hub.open(None);
    let before = cursor(progress(&frames)).to_string();
    hub.ack(progress(&frames));
    hub.pass();
    hub.restore_deployment();
    let to = hub.restored.unwrap();
    let first = hub.open(None);
    assert_eq!(owed(&first), Some((ResyncReason::Restored, to)));
    // The welcome's cursor is of the new epoch; to present it says nothing of what came after it.
    assert_eq!(reason(&hub.open(Some(cursor(&first[0])))), RESTORED);
    hub.crash();
    let frames = hub.open(None);
    assert_eq!(owed(&frames), Some((ResyncReason::Restored, to)));
    hub.ack(&frames[1]);
    assert_eq!(reason(&hub.open(None)), None);
    // Whoever goes back is told again only if that is to before the break.
    assert_eq!(reason(&hub.open(Some(cursor(progress(&frames))))), None);
    assert_eq!(reason(&hub.open(Some(&before))), RESTORED);
}

/// A hub that finds out within its first second has written no page of cursors.
#[test]
fn who_has_no_cursor_stored_is_told_of_a_break_as_well() {
    for presents in [false, true] {
        let mut hub = Hub::new();
        let frames = hub.open(None);
        let before = cursor(progress(&frames)).to_string();
        hub.ack(progress(&frames));
        let pages = cursors::prefix(&hub.config.partition);
        hub.store.entries.retain(|key, _| !key.starts_with(&pages));
        hub.restore_deployment();
        let frames = hub.open(presents.then_some(&before));
        assert_eq!(owed(&frames), Some((ResyncReason::Restored, hub.restored.unwrap())), "{presents}");
        hub.ack(&frames[1]);
        assert_eq!(reason(&hub.open(None)), None, "{presents}");
        // Who comes later has lost nothing.
        hub.remove_and_register();
        hub.store.entries.retain(|key, _| !key.starts_with(&pages));
        hub.crash();
        assert_eq!(reason(&hub.open(None)), None, "{presents}");
    }
}

#[test]
fn a_break_with_history_is_found_in_a_later_epoch() {
    let mut hub = Hub::new();
    let frames = hub.open(None);
    hub.ack(progress(&frames));
    hub.pass();
    hub.restore_deployment();
    // The epoch rises before the gateway has been back.
    hub.epoch += 1;
    hub.crash();
    let later = hub.open(None);
    assert_eq!(reason(&later), RESTORED);
    let Frame::Welcome(welcome) = &later[0] else { panic!("no welcome") };
    assert_eq!(welcome.positions[0].1.epoch, Epoch(hub.epoch));
    hub.ack(&later[1]);
    assert_eq!(reason(&hub.open(None)), None);
    assert_eq!(reason(&hub.open(Some(cursor(progress(&frames))))), RESTORED);
}
