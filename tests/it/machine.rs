//! The session machine by itself: what it makes of what it finds in the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use streamer::change::{Change, Flags, Operation, ResyncReason, Scope};
use streamer::clock::Clock;
use streamer::cursor::{Cursor, CursorText};
use streamer::delivery::frame::{CloseReason, Frame};
use streamer::delivery::machine::{
    Answer, Checkpointed, Effect, Machine, MachineConfig, Outcome, ReplayId, Stored, Target, Waiter, WriteId,
};
use streamer::delivery::outbox::Outbox;
use streamer::error::Code;
use streamer::handle::{Hello, SubscriptionState, Transport};
use streamer::matching::{BloomUse, Filter};
use streamer::position::{ClusterTime, Epoch, PartitionId, Position};
use streamer::source::{Batch, Event, SourceError};
use streamer::store::checkpoint::CheckpointRecord;
use streamer::store::subscriptions::{self, ParkedReason, SubscriptionRecord};
use streamer::store::{Entry, Revision, Write};
use streamer::subscription::{GatewayId, Name, Spec, SubscriptionKey};

pub(super) fn config() -> MachineConfig {
    MachineConfig {
        partition: PartitionId::new("default", 0),
        node: "hub-1".into(),
        window_bytes_max: 1 << 20,
        outbox_bytes_max: 1 << 20,
        hold_bytes_max: 1 << 20,
        rides_max: 8,
        memory_bytes_max: 1 << 20,
        outbox_bytes_soft: 1 << 18,
        turn_changes_max: 1_000,
        catchups_max: streamer::limits::cursor_catchups_max,
        sessions_max: 100,
        quota_gateway: 10,
        quota_tenant: 10,
        quota_global: 10,
        park_seconds: 60,
        member_grace_seconds: 15,
        nats_gateways: Vec::new(),
        bloom: BloomUse::default(),
        shadow_every: 0,
        seed: 1,
        mistake: None,
    }
}

fn key(id: &str) -> SubscriptionKey {
    SubscriptionKey { gateway: Name::new("gw").unwrap(), id: Name::new(id).unwrap() }
}

pub(super) fn record(spec: Value, at: Position) -> SubscriptionRecord {
    SubscriptionRecord {
        spec,
        generation: None,
        active_from: at,
        start: at,
        start_revision: None,
        revivals: Vec::new(),
        birth: None,
        superseded: Vec::new(),
        parked: None,
        assigned: None,
        write: 1,
    }
}

/// A machine with one subscription whose stored filter compiles no more, and one that is well.
fn with_a_refused_filter() -> (Machine, Position) {
    let at = Position::boundary(Epoch(1), ClusterTime::new(10, 0));
    let stored = |id: &str| asked(id).to_stored();
    let mut refused = stored("refused");
    refused["cel"] = json!("nobody.knows(doc)");
    let entries = [("refused", refused), ("good", stored("good"))];
    let entry = |(id, spec): (&str, Value)| Entry {
        key: subscriptions::key(&PartitionId::new("default", 0), &key(id)),
        value: record(spec, at).encode(),
        revision: Revision(5),
    };
    let stored = Stored {
        subscriptions: entries.map(entry).into(),
        gateways: Vec::new(),
        cursors: Vec::new(),
        revision: Revision(5),
    };
    let checkpoint = Checkpointed { position: at, definition: "d".into(), ..Checkpointed::default() };
    (Machine::load(config(), Clock::manual(), at, at, checkpoint, stored).expect("loads"), at)
}

fn asked(id: &str) -> Spec {
    let asked = json!({"subscriptionId": id, "gatewayId": "gw", "tenant": "acme", "collection": "messages", "cel": "doc.a == 1"});
    Spec::from_json(&asked).unwrap()
}

fn writes(machine: &mut Machine) -> Vec<(WriteId, Vec<Write>)> {
    let writes = |effect| if let Effect::Write(id, writes) = effect { Some((id, writes)) } else { None };
    machine.take_effects().into_iter().filter_map(writes).collect()
}

/// A filter may have been fine for the version that stored it. One partition must not stand still for it, nor
/// the subscription go on in silence.
#[test]
fn a_stored_filter_that_does_not_compile_any_more_is_parked_as_too_costly() {
    let (mut machine, at) = with_a_refused_filter();
    machine.expire();
    let writes = writes(&mut machine);
    let [(id, writes)] = writes.as_slice() else { panic!("{writes:?}") };
    assert_eq!(writes.len(), 1);
    let written = SubscriptionRecord::decode(writes[0].value.as_ref().unwrap()).unwrap();
    let parked = written.parked.expect("parked");
    assert_eq!((parked.reason, parked.floor), (ParkedReason::TooCostly, at));
    machine.on_outcome(*id, Outcome::Done(Revision(6)));
    let view = machine.subscription(&key("refused")).unwrap();
    assert_eq!((view.state, view.parked_reason), (SubscriptionState::Parked, Some("too_costly".into())));
    assert_eq!(machine.subscription(&key("good")).unwrap().parked_reason, None);
}

/// Numbers are reused, and a replacement is what is to be done about it.
#[test]
fn what_was_too_costly_is_forgotten_with_its_filter() {
    for replaces in [false, true] {
        let (mut machine, _) = with_a_refused_filter();
        let (waiter, filter) = (Waiter { token: 1, slot: 0 }, Filter::compile(&asked("next")).unwrap());
        if replaces {
            machine.on_replace(asked("refused"), Arc::clone(&filter), waiter);
        } else {
            machine.on_unregister(&key("refused"), waiter);
        }
        let done = |machine: &mut Machine, revision| {
            for (id, _) in writes(machine) {
                machine.on_outcome(id, Outcome::Done(Revision(revision)));
            }
        };
        done(&mut machine, 6);
        machine.on_register(2, vec![(0, asked("next"), filter)]);
        done(&mut machine, 7);
        machine.expire();
        assert!(writes(&mut machine).is_empty(), "{replaces}");
        for id in ["good", "next"].into_iter().chain(replaces.then_some("refused")) {
            assert_eq!(machine.subscription(&key(id)).unwrap().parked_reason, None, "{id}");
        }
    }
}

/// A machine with one subscription for a minute and one for ten, and the store's revision.
fn with_two_leases(clock: &Clock) -> (Machine, u64) {
    let at = Position::boundary(Epoch(1), ClusterTime::new(10, 0));
    let mut machine = Machine::new(config(), clock.clone(), at, Checkpointed::default());
    let mut revision = 10;
    for (token, id) in [(1, "short"), (2, "long")] {
        let spec = Spec { ttl_seconds: if id == "long" { 600 } else { 60 }, ..asked(id) };
        machine.on_register(token, vec![(0, spec.clone(), Filter::compile(&spec).unwrap())]);
        checkpoint(&mut machine, &mut revision);
    }
    (machine, revision)
}

/// Of very many, a part each time, so that the loop is not held up; and all of them in the end.
#[test]
fn leases_of_many_run_out_part_by_part() {
    const PART: usize = streamer::limits::subscriptions_swept_at_once_max;
    const MANY: usize = 2 * PART + 10;
    let clock = Clock::manual();
    let at = Position::boundary(Epoch(1), ClusterTime::new(10, 0));
    let entries = (0..MANY).map(|number| {
        let id = format!("s-{number}");
        Entry {
            key: subscriptions::key(&PartitionId::new("default", 0), &key(&id)),
            value: record(asked(&id).to_stored(), at).encode(),
            revision: Revision(5),
        }
    });
    let stored =
        Stored { subscriptions: entries.collect(), gateways: Vec::new(), cursors: Vec::new(), revision: Revision(5) };
    let checkpointed = Checkpointed { position: at, definition: "d".into(), ..Checkpointed::default() };
    let mut machine = Machine::load(config(), clock.clone(), at, at, checkpointed, stored).expect("loads");
    let states = |machine: &Machine| {
        let states = machine.workload().subscriptions;
        (states.live as usize, states.parked as usize)
    };
    assert_eq!(states(&machine), (MANY, 0));
    clock.advance(Duration::from_secs(301));
    let mut revision = 6;
    let mut parked = Vec::new();
    for _ in 0..3 {
        machine.expire();
        let mut count = 0;
        for (id, writes) in writes(&mut machine) {
            count += writes.len();
            revision += 1;
            machine.on_outcome(id, Outcome::Done(Revision(revision)));
        }
        parked.push(count);
    }
    assert_eq!(parked, [PART, PART, 10]);
    assert_eq!(states(&machine), (MANY, 0), "as they were when they were looked at");
    (0..3).for_each(|_| machine.expire());
    assert_eq!(states(&machine), (0, MANY));
}

/// A session of `gw`, and its number.
fn open(machine: &mut Machine, cursor: Option<CursorText>, revision: &mut u64) -> (Arc<Outbox>, u64) {
    machine.on_open(Hello { cursor, ..hello("gw") }, Waiter { token: 3, slot: 0 });
    let mut opened = None;
    for _ in 0..2 {
        for effect in machine.take_effects() {
            match effect {
                Effect::Write(id, _) => {
                    *revision += 1;
                    machine.on_outcome(id, Outcome::Done(Revision(*revision)));
                }
                Effect::Answer(_, Ok(Answer::Session(outbox, number))) => opened = Some((outbox, number)),
                _ => {}
            }
        }
    }
    opened.expect("a session")
}

/// A gateway of which nothing is left is forgotten as a whole: one that comes back with its cursor is told, and not
/// left to wonder where its subscriptions are.
#[test]
fn a_gateway_whose_subscriptions_are_all_forgotten_is_forgotten_and_told() {
    let clock = Clock::manual();
    let (mut machine, mut revision) = with_two_leases(&clock);
    let id = Name::new("gw").unwrap();
    let (outbox, number) = open(&mut machine, None, &mut revision);
    let Some(Frame::Welcome(welcome)) = outbox.take(1 << 20).into_iter().next() else { panic!("a welcome") };
    outbox.abandon();
    machine.on_disconnect(&id, number);
    let mut later = |machine: &mut Machine, seconds| {
        clock.advance(Duration::from_secs(seconds));
        machine.expire();
        checkpoint(machine, &mut revision);
    };
    // The one is parked, but nobody has been told: it stays as long as the gateway may come for the other.
    later(&mut machine, 61);
    later(&mut machine, 61);
    assert!(machine.subscription(&key("short")).is_ok());
    later(&mut machine, 500);
    later(&mut machine, 61);
    assert!(machine.gateway(&id).is_err());
    let mut revision = 100;
    let (outbox, number) = open(&mut machine, Some(welcome.cursor), &mut revision);
    let told = outbox.take(1 << 20);
    let reasons = told.iter().filter_map(|frame| if let Frame::Resync(it) = frame { Some(it.reason) } else { None });
    assert_eq!(reasons.collect::<Vec<_>>(), [ResyncReason::Forgotten]);
    // It has nothing, and goes as it came.
    outbox.abandon();
    machine.on_disconnect(&id, number);
    machine.expire();
    clock.advance(Duration::from_secs(61));
    machine.expire();
    checkpoint(&mut machine, &mut revision);
    assert!(machine.gateway(&id).is_err());
}

/// A gateway that is there has been told what is parked, so that may go by itself; but not before it has been told.
#[test]
fn a_connected_gateway_loses_what_was_parked_too_long_and_nothing_else() {
    let clock = Clock::manual();
    let (mut machine, mut revision) = with_two_leases(&clock);
    let (outbox, _) = open(&mut machine, None, &mut revision);
    let later = |machine: &mut Machine, revision: &mut u64| {
        clock.advance(Duration::from_secs(61));
        machine.expire();
        checkpoint(machine, revision);
    };
    later(&mut machine, &mut revision);
    later(&mut machine, &mut revision);
    assert!(machine.subscription(&key("short")).is_ok(), "nobody has read it");
    let told = outbox.take(1 << 20);
    assert!(told.iter().any(|frame| matches!(frame, Frame::Expired(_))), "{told:?}");
    later(&mut machine, &mut revision);
    assert!(machine.subscription(&key("short")).is_err() && machine.subscription(&key("long")).is_ok());
}

/// Whoever comes back late has the time to read what it is told, and to ask for it.
#[test]
fn what_was_parked_too_long_may_be_revived_by_a_gateway_that_has_just_come_back() {
    let clock = Clock::manual();
    let (mut machine, mut revision) = with_two_leases(&clock);
    for _ in 0..2 {
        clock.advance(Duration::from_secs(61));
        machine.expire();
        checkpoint(&mut machine, &mut revision);
    }
    let (outbox, _) = open(&mut machine, None, &mut revision);
    assert!(outbox.take(1 << 20).iter().any(|frame| matches!(frame, Frame::Expired(_))));
    clock.advance(Duration::from_secs(20));
    machine.expire();
    checkpoint(&mut machine, &mut revision);
    machine.on_renew_gateway(&Name::new("gw").unwrap(), None).unwrap();
    checkpoint(&mut machine, &mut revision);
    assert_ne!(machine.subscription(&key("short")).unwrap().state, SubscriptionState::Parked);
}

/// Whoever waits for a removal is answered, whatever removes it in the end.
#[test]
fn a_removal_is_answered_when_the_whole_gateway_goes() {
    let mut machine = with_gateways(&["gw"], 1);
    let sub = SubscriptionKey { gateway: Name::new("gw").unwrap(), id: Name::new("all").unwrap() };
    machine.on_remove_gateway(&sub.gateway, Waiter { token: 7, slot: 0 });
    machine.on_unregister(&sub, Waiter { token: 8, slot: 0 });
    let mut answered = Vec::new();
    for _ in 0..2 {
        for effect in machine.take_effects() {
            match effect {
                Effect::Write(id, _) => machine.on_outcome(id, Outcome::Done(Revision(1_000))),
                Effect::Answer(waiter, Ok(_)) => answered.push(waiter.token),
                _ => {}
            }
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, [7, 8]);
}

/// Many are read on all cores: in order all the same, and one that cannot be read is named.
#[test]
fn many_subscriptions_are_loaded_as_they_were_stored() {
    const COUNT: usize = 2_500;
    let at = Position::boundary(Epoch(1), ClusterTime::new(10, 0));
    let name = |number: usize| format!("s-{number}");
    let entry = |number: usize| Entry {
        key: subscriptions::key(&PartitionId::new("default", 0), &key(&name(number))),
        value: record(asked(&name(number)).to_stored(), at).encode(),
        revision: Revision(number as u64 + 1),
    };
    let load = |subscriptions: Vec<Entry>| {
        let stored = Stored { subscriptions, revision: Revision(COUNT as u64), ..Stored::default() };
        Machine::load(config(), Clock::manual(), at, at, Checkpointed::default(), stored)
    };
    let entries: Vec<_> = (0..COUNT).map(entry).collect();
    let machine = load(entries.clone()).unwrap();
    assert_eq!(machine.subscription_count(), COUNT);
    for number in 0..COUNT {
        assert_eq!(machine.subscription(&key(&name(number))).unwrap().generation, number as u64 + 1);
    }
    let mut broken = entries;
    broken[2_001].value = b"{".to_vec();
    let error = load(broken).unwrap_err().to_string();
    assert!(error.contains("s-2001 "), "{error}");
}

/// What the store is asked to hold as the checkpoint, with all else that is written stored.
fn checkpoint(machine: &mut Machine, revision: &mut u64) -> Option<Position> {
    machine.flush();
    let mut found = None;
    loop {
        let all = writes(machine);
        if all.is_empty() {
            return found;
        }
        for (id, writes) in all {
            let is_checkpoint = |write: &&Write| write.key.0.starts_with("checkpoint/");
            let record = writes.iter().find(is_checkpoint).and_then(|write| write.value.as_deref());
            found = record.map(|value| CheckpointRecord::decode(value).unwrap().position).or(found);
            *revision += 1;
            machine.on_outcome(id, Outcome::Done(Revision(*revision)));
        }
    }
}

/// As the store gives them to sessions and moves.
fn number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

pub(super) fn hello(gateway: &str) -> Hello {
    Hello {
        gateway: Name::new(gateway).unwrap(),
        cursor: None,
        transport: Transport::Grpc,
        auto_ack: false,
        unacked_bytes_max: 0,
        number: number(),
        node: None,
    }
}

pub(super) fn change(position: Position) -> Change {
    Change {
        position,
        scope: Scope::known("acme", "messages"),
        left: None,
        key: "x".into(),
        operation: Operation::Insert,
        document: Some(bson::rawdoc! { "a": 1 }),
        before: None,
        changed: None,
        wall_time_ms: None,
        transaction: None,
        flags: Flags::none(),
    }
}

/// After a restart one reading serves all who are about there; who never acks is not among them for long.
#[test]
fn the_checkpoint_stays_behind_those_who_are_near_and_waits_for_nobody_else() {
    let epoch = Epoch(1);
    let at = |seconds: u32, ordinal: u32| Position::new(epoch, ClusterTime::new(seconds, 1), ordinal);
    let mut machine = Machine::new(config(), Clock::manual(), at(100, 0), Checkpointed::default());
    let mut revision = 10;
    assert_eq!(checkpoint(&mut machine, &mut revision), Some(at(100, 0)));
    machine.on_register(1, vec![(0, asked("all"), Filter::compile(&asked("all")).unwrap())]);
    checkpoint(&mut machine, &mut revision);
    machine.on_open(hello("gw"), Waiter { token: 2, slot: 0 });
    checkpoint(&mut machine, &mut revision);
    let mut read = |machine: &mut Machine, seconds, reached| {
        let events = vec![Event::Change(Arc::new(change(at(seconds, 1))))];
        machine.on_batch(Batch { events, reached });
        checkpoint(machine, &mut revision)
    };
    // Unacked, it holds the checkpoint before it, as long as it is near.
    assert_eq!(read(&mut machine, 101, at(102, 0)), Some(at(101, 0)));
    assert_eq!(read(&mut machine, 103, at(103, 5)), None, "it stays");
    assert_eq!(read(&mut machine, 104, at(109, 0)), Some(at(109, 0)), "nobody is waited for");
}

/// A reading that stands still, because its gateway takes nothing, is not what another waits for.
#[test]
fn a_gateway_that_takes_nothing_does_not_keep_others_from_reading() {
    let at = |seconds: u32, ordinal: u32| Position::new(Epoch(1), ClusterTime::new(seconds, 1), ordinal);
    let mut machine = with_gateways(&["ahead", "behind"], 1);
    machine.on_move(
        &Name::new("ahead").unwrap(),
        &Target::Position(at(200, 0)),
        number(),
        Waiter { token: 3, slot: 0 },
    );
    checkpoint(&mut machine, &mut 20);

    let [(id, after)] = readings_for(&mut machine, "ahead")[..] else { panic!("one reading") };
    assert_eq!(after, at(200, 0));
    let event = Event::Change(Arc::new(change(at(201, 1))));
    machine.on_replay_batch(id, Batch { events: vec![event], reached: at(201, 1) });

    let [(_, after)] = readings_for(&mut machine, "behind")[..] else { panic!("one reading") };
    assert_eq!(after, at(101, 0));
}

/// What its maker did not know is served from its own start, though that may lie before the cursor.
#[test]
fn a_move_to_a_cursor_is_one_for_each_subscription() {
    let at = |seconds: u32, ordinal: u32| Position::new(Epoch(1), ClusterTime::new(seconds, 1), ordinal);
    let mut machine = with_gateways(&["gw"], 8);
    let gateway: GatewayId = Name::new("gw").unwrap();
    let moved = |machine: &mut Machine, target| {
        machine.on_move(&gateway, &target, number(), Waiter { token: 3, slot: 0 });
        let mut revision = machine.gateway(&gateway).unwrap().subscriptions * 100;
        checkpoint(machine, &mut revision);
        let cursor = machine.gateway(&gateway).unwrap().cursor.unwrap();
        let places = Cursor::decode(cursor.as_str()).unwrap().places;
        (cursor, places.into_values().next().unwrap())
    };
    let (cursor, place) = moved(&mut machine, Target::Position(at(200, 0)));
    let later = Spec { gateway_id: gateway.clone(), ..asked("later") };
    machine.on_register(9, vec![(0, later.clone(), Filter::compile(&later).unwrap())]);
    checkpoint(&mut machine, &mut 150);
    let (_, to_position) = moved(&mut machine, Target::Position(at(200, 0)));
    assert!(to_position.known > place.known, "an operator's position is one for all that there are");
    assert_eq!(moved(&mut machine, Target::Cursor(cursor)).1, place);
}

/// What the source has said to be lost it is not asked for again, whoever comes back to it.
#[test]
fn a_position_that_is_known_to_be_lost_is_asked_for_once() {
    let at = |seconds: u32, ordinal: u32| Position::new(Epoch(1), ClusterTime::new(seconds, 1), ordinal);
    let mut machine = with_gateways(&["first", "again", "later", "before"], 8);
    let behind = |machine: &mut Machine, gateway, to| {
        machine.on_move(&Name::new(gateway).unwrap(), &Target::Position(to), number(), Waiter { token: 3, slot: 0 });
        checkpoint(machine, &mut 20);
        readings_for(machine, gateway)
    };
    let [(id, _)] = behind(&mut machine, "first", at(150, 0))[..] else { panic!("one reading") };
    machine.on_replay_failed(id, &SourceError::HistoryLost("gone".into()));
    assert_eq!(machine.counters().resyncs, 1);
    assert_eq!(behind(&mut machine, "again", at(150, 0)), []);
    assert_eq!(machine.counters().resyncs, 2, "it is told all the same");
    // Some positions are lost because they never were in this history: that says nothing of others.
    for (gateway, seconds) in [("later", 151), ("before", 149)] {
        assert_eq!(behind(&mut machine, gateway, at(seconds, 0)).len(), 1, "{gateway} may be there");
    }
}

/// A machine with these gateways, each with a subscription to everything; the window holds next to nothing of what
/// has been read.
fn with_gateways(gateways: &[&str], rides_max: usize) -> Machine {
    let at = |seconds: u32, ordinal: u32| Position::new(Epoch(1), ClusterTime::new(seconds, 1), ordinal);
    let config = MachineConfig { rides_max, window_bytes_max: 1, outbox_bytes_soft: 64, ..config() };
    let mut machine = Machine::new(config, Clock::manual(), at(100, 0), Checkpointed::default());
    let mut revision = 10;
    checkpoint(&mut machine, &mut revision);
    for (token, gateway) in (1..).zip(gateways) {
        let spec = Spec { gateway_id: Name::new(gateway).unwrap(), ..asked("all") };
        machine.on_register(token, vec![(0, spec.clone(), Filter::compile(&spec).unwrap())]);
        checkpoint(&mut machine, &mut revision);
    }
    let events = (101..=300).map(|seconds| Event::Change(Arc::new(change(at(seconds, 1)))));
    machine.on_batch(Batch { events: events.collect(), reached: at(301, 0) });
    machine
}

/// Opens a session. The readings that this leads to, and where they begin.
fn readings_for(machine: &mut Machine, gateway: &str) -> Vec<(ReplayId, Position)> {
    machine.on_open(hello(gateway), Waiter { token: 4, slot: 0 });
    let mut found = Vec::new();
    // An opening is stored before anything is read for it.
    for _ in 0..2 {
        for effect in machine.take_effects() {
            match effect {
                Effect::OpenReplay(id, after) => found.push((id, after)),
                Effect::Write(id, _) => machine.on_outcome(id, Outcome::Done(Revision(1_000))),
                _ => {}
            }
        }
    }
    found
}

/// What comes of an opening under this number: a session, or why it is over before it began.
fn opened(machine: &mut Machine, number: u64, revision: &mut u64) -> Result<Arc<Outbox>, CloseReason> {
    machine.on_open(Hello { number, ..hello("gw") }, Waiter { token: 3, slot: 0 });
    for _ in 0..2 {
        for effect in machine.take_effects() {
            match effect {
                Effect::Write(id, _) => {
                    *revision += 1;
                    machine.on_outcome(id, Outcome::Done(Revision(*revision)));
                }
                Effect::Answer(_, Ok(Answer::Session(outbox, _))) => return Ok(outbox),
                Effect::Answer(_, Ok(Answer::Over(reason, _))) => return Err(reason),
                _ => {}
            }
        }
    }
    panic!("no answer")
}

/// The last word of a session, if it is over.
fn end(outbox: &Outbox) -> Option<CloseReason> {
    outbox.take(usize::MAX).into_iter().find_map(|frame| match frame {
        Frame::Closed(closed) => Some(closed.reason),
        _ => None,
    })
}

/// Which of two sessions is the newer is for their numbers to say, not for the order in which they come.
#[test]
fn an_older_session_does_not_end_a_newer_one() {
    let mut machine = with_gateways(&["gw"], 8);
    let mut revision = 1_000;
    let newer = opened(&mut machine, 7, &mut revision).unwrap();
    assert_eq!(opened(&mut machine, 6, &mut revision).err(), Some(CloseReason::Superseded));
    assert_eq!(end(&newer), None);
    // The answer to an attempt was lost: the same session is asked for again.
    let again = opened(&mut machine, 7, &mut revision).unwrap();
    assert_eq!(end(&newer), Some(CloseReason::Draining));
    // That the first attempt's end has been noticed says nothing of the second.
    newer.abandon();
    machine.on_disconnect(&Name::new("gw").unwrap(), 7);
    assert_eq!(end(&again), None);
    let newest = opened(&mut machine, 9, &mut revision).unwrap();
    assert_eq!(end(&again), Some(CloseReason::Superseded));

    let gateway: GatewayId = Name::new("gw").unwrap();
    let target = Target::Position(Position::new(Epoch(1), ClusterTime::new(200, 1), 0));
    machine.on_move(&gateway, &target, 9, Waiter { token: 4, slot: 0 });
    let answers = machine.take_effects();
    assert!(matches!(answers[..], [Effect::Answer(_, Err(_))]), "a move takes a number of its own: {answers:?}");
    assert_eq!(end(&newest), None);
    machine.on_move(&gateway, &target, 12, Waiter { token: 4, slot: 0 });
    checkpoint(&mut machine, &mut revision);
    // A session that was on its way when the operator moved it comes again.
    assert_eq!(opened(&mut machine, 11, &mut revision).err(), Some(CloseReason::Rewound));
    opened(&mut machine, 13, &mut revision).unwrap();
}

/// Calls may come to a partition in another order than to the one that was asked first: an older one changes nothing.
#[test]
fn a_filter_of_an_older_generation_does_not_replace_a_newer_one() {
    let mut machine = with_gateways(&["gw"], 8);
    let mut revision = 1_000;
    let mut put = |machine: &mut Machine, generation| {
        let gateway_id: GatewayId = Name::new("gw").unwrap();
        let spec = Spec { gateway_id, generation: Some(generation), ..asked("all") };
        let filter = Filter::compile(&spec).unwrap();
        machine.on_replace(spec, filter, Waiter { token: 7, slot: 0 });
        let mut answered = None;
        for _ in 0..2 {
            for effect in machine.take_effects() {
                match effect {
                    Effect::Write(id, _) => {
                        revision += 1;
                        machine.on_outcome(id, Outcome::Done(Revision(revision)));
                    }
                    Effect::Answer(_, Ok(Answer::Replaced(view))) => answered = Some(Ok(view.generation)),
                    Effect::Answer(_, Err(problem)) => answered = Some(Err(problem.code)),
                    _ => {}
                }
            }
        }
        answered.expect("an answer")
    };
    assert_eq!(put(&mut machine, 5_000), Ok(5_000));
    assert_eq!(put(&mut machine, 4_999), Err(Code::RateLimited));
    assert_eq!(put(&mut machine, 5_000), Ok(5_000), "the same call again");
    assert_eq!(put(&mut machine, 5_001), Ok(5_001));
}
