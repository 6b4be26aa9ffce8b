//! Gateway groups in the session machine by itself: what becomes of subscriptions whose members come and go.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use streamer::change::ResyncReason;
use streamer::clock::Clock;
use streamer::cursor::{Place, Serial};
use streamer::delivery::frame::Frame;
use streamer::delivery::machine::{
    Answer, Checkpointed, Effect, Machine, MachineConfig, Outcome, Stored, Waiter, WriteId,
};
use streamer::delivery::outbox::Outbox;
use streamer::error::{Code, Problem};
use streamer::handle::{Hello, SubscriptionState};
use streamer::matching::Filter;
use streamer::position::{ClusterTime, Epoch, PartitionId, Position};
use streamer::ring::Ring;
use streamer::source::{Batch, Event};
use streamer::store::cursors::{self, CursorPage, CursorRecord};
use streamer::store::gateways::{self, GatewayRecord};
use streamer::store::subscriptions::{AssignedRecord, SubscriptionRecord};
use streamer::store::{Entry, Revision, Write, subscriptions};
use streamer::subscription::{GatewayId, Name, Spec, SubscriptionKey};

use super::machine::{change, config, hello, record};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn member(text: &str) -> GatewayId {
    GatewayId::member(&name("g"), &name(text))
}

fn group() -> GatewayId {
    GatewayId::group(&name("g"))
}

fn key(id: &str) -> SubscriptionKey {
    SubscriptionKey { gateway: group(), id: name(id) }
}

fn asked(id: &str) -> Spec {
    let asked =
        json!({"subscriptionId": id, "group": "g", "tenant": "acme", "collection": "messages", "ttlSeconds": 60});
    Spec::from_json(&asked).unwrap()
}

/// The first of these names that the ring of these members gives to one of them.
fn of(wanted: &str, members: &[&str]) -> String {
    let ring = Ring::new(members.iter().map(|member| Arc::from(*member)));
    let is_its = |id: &String| **ring.member(&format!("g/{id}")).unwrap() == *wanted;
    (0..).map(|number| format!("s{number}")).find(is_its).unwrap()
}

fn at(seconds: u32) -> Position {
    Position::new(Epoch(1), ClusterTime::new(seconds, 1), 0)
}

struct Rig {
    machine: Machine,
    clock: Clock,
    revision: u64,
    second: u32,
    /// Sent and not answered yet.
    writes: VecDeque<(WriteId, Vec<Write>)>,
    answers: Vec<Result<Answer, Problem>>,
}

impl Rig {
    fn of(machine: Machine, clock: Clock, second: u32) -> Self {
        Self { machine, clock, revision: 1_000, second, writes: VecDeque::new(), answers: Vec::new() }
    }

    fn new(config: MachineConfig) -> Self {
        let clock = Clock::manual();
        let machine = Machine::new(config, clock.clone(), at(10), Checkpointed::default());
        Self::of(machine, clock, 10)
    }

    fn take(&mut self) {
        for effect in self.machine.take_effects() {
            match effect {
                Effect::Write(id, writes) => self.writes.push_back((id, writes)),
                Effect::Answer(_, answer) => self.answers.push(answer),
                _ => {}
            }
        }
    }

    /// Everything that is under way is stored.
    fn settle(&mut self) {
        self.take();
        while let Some((id, _)) = self.writes.pop_front() {
            self.revision += 1;
            self.machine.on_outcome(id, Outcome::Done(Revision(self.revision)));
            self.take();
        }
    }

    fn register(&mut self, id: &str) {
        let spec = asked(id);
        let filter = Filter::compile(&spec).unwrap();
        self.machine.on_register(1, vec![(0, spec, filter)]);
        self.settle();
    }

    fn open(&mut self, of: &str, cursor: Option<&str>) -> Arc<Outbox> {
        let cursor = cursor.map(|text| streamer::cursor::CursorText(text.into()));
        self.machine.on_open(Hello { gateway: member(of), cursor, ..hello("gw") }, Waiter { token: 2, slot: 0 });
        self.settle();
        let opened = self.answers.drain(..).find_map(|answer| match answer {
            Ok(Answer::Session(outbox, _)) => Some(outbox),
            _ => None,
        });
        opened.expect("a session")
    }

    fn close(&mut self, of: &str, outbox: &Outbox) {
        outbox.abandon();
        self.machine.say_progress();
        self.settle();
        let state = self.machine.gateway(&member(of)).unwrap().state;
        assert_eq!(state, "offline");
    }

    fn write(&mut self) {
        self.second += 1;
        let epoch = self.machine.reached().epoch;
        let event = Event::Change(Arc::new(change(Position { ordinal: 1, epoch, ..at(self.second) })));
        self.machine.on_batch(Batch { events: vec![event], reached: Position { epoch, ..at(self.second + 1) } });
        self.second += 1;
        self.settle();
    }

    fn pass(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            self.machine.say_progress();
            self.machine.expire();
            self.settle();
        }
    }

    /// Takes everything and acks the last of it.
    fn ack(&mut self, of: &str, outbox: &Outbox) -> Vec<Frame> {
        let frames = outbox.take(usize::MAX);
        if let Some(cursor) = frames.iter().rev().find_map(Frame::cursor) {
            self.machine.on_ack(&member(of), cursor.as_str()).unwrap();
        }
        self.settle();
        frames
    }

    fn remove_group(&mut self) {
        self.machine.on_remove_gateway(&group(), Waiter { token: 9, slot: 0 });
        self.take();
    }

    fn holder(&self, id: &str) -> Option<Arc<str>> {
        self.machine.subscription(&key(id)).unwrap().member
    }
}

fn changes(frames: &[Frame]) -> usize {
    frames.iter().filter(|frame| matches!(frame, Frame::Change(_))).count()
}

/// Acks renew what a member has. When it goes to another, that is not forgotten.
#[test]
fn a_lease_that_acks_have_renewed_survives_a_move() {
    let mut rig = Rig::new(config());
    let id = of("b", &["a", "b"]);
    let first = rig.open("a", None);
    rig.register(&id);
    for _ in 0..5 {
        rig.write();
        assert_eq!(changes(&rig.ack("a", &first)), 1);
        rig.pass(40);
    }
    let second = rig.open("b", None);
    rig.pass(3);
    assert_eq!(rig.holder(&id).as_deref(), Some("b"));
    rig.pass(40);
    assert_eq!(rig.machine.subscription(&key(&id)).unwrap().state, SubscriptionState::Live);
    rig.write();
    assert_eq!(changes(&rig.ack("b", &second)), 1);
}

/// Who has acked everything gives a subscription away at once; who has not is waited for, and not for ever.
#[test]
fn a_move_waits_for_the_ack_and_not_for_ever() {
    let mut rig = Rig::new(config());
    let id = of("b", &["a", "b"]);
    let first = rig.open("a", None);
    rig.register(&id);
    rig.write();
    let had = first.take(usize::MAX);
    assert_eq!(changes(&had), 1);
    let second = rig.open("b", None);
    rig.pass(2);
    assert_eq!(rig.holder(&id).as_deref(), Some("a"), "its ack is waited for");
    rig.write();
    assert_eq!(changes(&first.take(usize::MAX)), 0, "it gets nothing more of it");
    rig.pass(streamer::limits::revoke_seconds_max as u32 + 1);
    assert_eq!(rig.holder(&id).as_deref(), Some("b"));
    let flags: Vec<bool> = second
        .take(usize::MAX)
        .iter()
        .filter_map(|frame| match frame {
            Frame::Change(delivery) => Some(delivery.flags.contains(streamer::change::Flags::REDELIVERED)),
            _ => None,
        })
        .collect();
    assert_eq!(flags, [true, false], "what the first one may have had is flagged, what it has not had is not");
}

/// A group whose removal is under way goes on with a member that comes meanwhile.
#[test]
fn a_member_that_comes_while_its_group_is_removed_gets_what_is_registered_then() {
    let mut rig = Rig::new(config());
    rig.register("s0");
    let first = rig.open("a", None);
    let _second = rig.open("b", None);
    rig.pass(2);
    rig.remove_group();
    // Everything but the last write of the removal.
    while rig.writes.len() > 1 {
        let (id, _) = rig.writes.pop_front().unwrap();
        rig.revision += 1;
        rig.machine.on_outcome(id, Outcome::Done(Revision(rig.revision)));
        rig.take();
    }
    let (last, _) = rig.writes.pop_front().unwrap();
    drop(first);
    let again = rig.open("c", None);
    rig.machine.on_outcome(last, Outcome::Done(Revision(9_000)));
    rig.revision = 9_000;
    rig.settle();
    assert!(matches!(rig.answers.pop(), Some(Ok(Answer::Done))));
    rig.register("s1");
    rig.pass(1);
    assert_eq!(rig.holder("s1").as_deref(), Some("c"));
    rig.write();
    assert_eq!(changes(&again.take(usize::MAX)), 1);
}

/// Two removals of one gateway would contradict one another in the store.
#[test]
fn a_group_is_not_removed_while_one_of_its_members_is_being_forgotten() {
    let mut rig = Rig::new(config());
    rig.register("s0");
    let only = rig.open("a", None);
    rig.pass(1);
    let other = rig.open("b", None);
    rig.pass(1);
    rig.close(
        if rig.holder("s0").as_deref() == Some("a") { "b" } else { "a" },
        if rig.holder("s0").as_deref() == Some("a") { &other } else { &only },
    );
    for _ in 0..59 {
        rig.machine.on_renew_gateway(&group(), None).unwrap();
        rig.pass(1);
    }
    // The one that is away, and has nothing, is forgotten just now.
    while rig.writes.is_empty() {
        rig.clock.advance(Duration::from_secs(1));
        rig.machine.on_renew_gateway(&group(), None).unwrap();
        rig.machine.expire();
        rig.take();
    }
    rig.remove_group();
    assert!(matches!(rig.answers.pop(), Some(Err(problem)) if problem.code == Code::RateLimited));
    rig.settle();
    rig.remove_group();
    rig.settle();
    assert!(matches!(rig.answers.pop(), Some(Ok(Answer::Done))));
    assert_eq!(rig.machine.gateways().len(), 0);
    rig.remove_group();
    assert!(matches!(rig.answers.pop(), Some(Err(problem)) if problem.code == Code::GatewayNotFound));
}

/// Nobody is left whom the break with history could be told but the member that goes on.
#[test]
fn what_was_lost_by_a_break_with_history_is_told_to_the_new_member_until_it_has_heard() {
    let spec = asked("s0").to_stored();
    let old = Position::boundary(Epoch(1), ClusterTime::new(10, 0));
    let restored = Position::boundary(Epoch(2), ClusterTime::new(100, 0));
    let entry = Entry {
        key: subscriptions::key(&PartitionId::new("default", 0), &key("s0")),
        value: record(spec, old).encode(),
        revision: Revision(5),
    };
    let stored = Stored { subscriptions: vec![entry], revision: Revision(5), ..Stored::default() };
    let checkpoint = Checkpointed { position: restored, restored: Some(restored), ..Checkpointed::default() };
    let clock = Clock::manual();
    let machine = Machine::load(config(), clock.clone(), restored, restored, checkpoint, stored).expect("loads");
    let mut rig = Rig::of(machine, clock, 200);
    let lost = |frames: &[Frame]| {
        frames.iter().any(|frame| match frame {
            Frame::Resync(resync) => resync.reason == ResyncReason::HistoryLost && resync.to == restored,
            _ => false,
        })
    };
    let first = rig.open("a", None);
    rig.pass(2);
    assert_eq!(rig.holder("s0").as_deref(), Some("a"));
    assert!(lost(&first.take(usize::MAX)));
    let again = rig.open("a", None);
    assert!(lost(&rig.ack("a", &again)), "unheard as far as the hub knows");
    rig.write();
    assert_eq!(changes(&rig.ack("a", &again)), 1);
    let last = rig.open("a", None);
    assert!(!lost(&last.take(usize::MAX)), "heard");
}

/// What a member was not told of before its session ended, the next session says.
#[test]
fn a_member_that_comes_back_in_the_middle_of_a_move_hears_of_it() {
    let mut rig = Rig::new(config());
    let id = of("b", &["a", "b"]);
    let first = rig.open("a", None);
    rig.register(&id);
    rig.write();
    first.take(usize::MAX);
    let _second = rig.open("b", None);
    rig.pass(1);
    let again = rig.open("a", None);
    let is_revoked = |frame: &Frame| matches!(frame, Frame::Revoked(moved) if moved.subscription_ids == [name(&id)]);
    assert!(again.take(usize::MAX).iter().any(is_revoked));
}

/// What is moving cannot be parked, and a caller must know.
#[test]
fn a_group_is_asked_about_as_a_whole() {
    let mut rig = Rig::new(config());
    let id = of("b", &["a", "b"]);
    assert_eq!(rig.machine.on_renew_gateway(&group(), None).unwrap_err().code, Code::GatewayNotFound);
    let first = rig.open("a", None);
    assert_eq!(rig.machine.on_renew_gateway(&group(), None).unwrap().0.renewed, 0, "a group without subscriptions");
    rig.register(&id);
    rig.write();
    first.take(usize::MAX);
    let _second = rig.open("b", None);
    rig.pass(1);
    assert_eq!(rig.machine.on_park_gateway(&group()).unwrap_err().code, Code::RateLimited);
    rig.pass(streamer::limits::revoke_seconds_max as u32 + 1);
    rig.machine.on_park_gateway(&group()).unwrap();
    rig.settle();
    assert_eq!(rig.machine.subscription(&key(&id)).unwrap().state, SubscriptionState::Parked);
}

/// The ring of the members that live decides, whoever connected first, and one that goes takes nobody else's along.
#[test]
fn only_the_share_of_one_that_goes_moves_and_it_comes_back_the_same_way() {
    let quota = MachineConfig { quota_gateway: 1_000, quota_tenant: 1_000, quota_global: 1_000, ..config() };
    let mut rig = Rig::new(quota);
    let names: Vec<String> = (0..300).map(|number| format!("s{number}")).collect();
    let members: Vec<String> = (0..10).map(|number| format!("m{number}")).collect();
    let mut sessions: Vec<Arc<Outbox>> = members.iter().map(|member| rig.open(member, None)).collect();
    names.iter().for_each(|id| rig.register(id));
    rig.pass(2);
    let holders = |rig: &Rig| names.iter().map(|id| rig.holder(id).unwrap()).collect::<Vec<_>>();
    let before = holders(&rig);
    let ring = Ring::new(members.iter().map(|member| Arc::from(member.as_str())));
    let by_ring: Vec<_> = names.iter().map(|id| ring.member(&format!("g/{id}")).unwrap().clone()).collect();
    assert_eq!(before, by_ring);
    rig.close("m3", &sessions[3].clone());
    rig.pass(12);
    assert_eq!(holders(&rig), before, "it may come back");
    rig.pass(5);
    let without = holders(&rig);
    assert!(without.iter().zip(&before).all(|(now, then)| if **then == *"m3" { **now != *"m3" } else { now == then }));
    sessions[3] = rig.open("m3", None);
    rig.pass(10);
    assert_eq!(holders(&rig), before);
}

/// After a crash the loop stands before what an earlier member has acked. That is no business of the one that has it now,
/// wherever it stands itself.
#[test]
fn what_an_earlier_member_has_had_does_not_come_live_to_the_next_one() {
    let assigned = AssignedRecord {
        member: "b".into(),
        from: Position { ordinal: 1, ..at(50) },
        revision: None,
        redelivered_until: None,
        names_before: Vec::new(),
        lost_from: None,
    };
    let stored = SubscriptionRecord {
        start: assigned.from,
        assigned: Some(assigned),
        ..record(asked("s0").to_stored(), at(10))
    };
    let entry = Entry {
        key: subscriptions::key(&PartitionId::new("default", 0), &key("s0")),
        value: stored.encode(),
        revision: Revision(5),
    };
    let page = CursorPage {
        cursors: [(
            member("b").to_string(),
            CursorRecord::new(
                Revision(4),
                Serial::default(),
                &Place { position: at(40), known: Revision(5), ..Place::default() },
                true,
                0,
            ),
        )]
        .into(),
        write: 1,
    };
    let gateway = GatewayRecord { incarnation: Some(Revision(4)), ..GatewayRecord::default() };
    let partition = PartitionId::new("default", 0);
    let of_store = |key, value| Entry { key, value, revision: Revision(5) };
    let stored = Stored {
        subscriptions: vec![entry],
        gateways: vec![of_store(gateways::key(&partition, &member("b")), gateway.encode())],
        cursors: vec![of_store(cursors::key(&partition, cursors::page_of(&member("b"))), page.encode())],
        revision: Revision(6),
    };
    let checkpoint = Checkpointed { position: at(40), ..Checkpointed::default() };
    let clock = Clock::manual();
    let machine = Machine::load(config(), clock.clone(), at(40), at(40), checkpoint, stored).expect("loads");
    let mut rig = Rig::of(machine, clock, 47);
    let outbox = rig.open("b", None);
    rig.write();
    rig.write();
    assert_eq!(rig.second, 51);
    assert_eq!(changes(&outbox.take(usize::MAX)), 0, "at 48 and at 50: acked by another");
    rig.write();
    assert_eq!(changes(&outbox.take(usize::MAX)), 1);
}
