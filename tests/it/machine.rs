//! The session machine by itself: what it makes of what it finds in the store.

use std::sync::Arc;

use serde_json::{Value, json};
use streamer::clock::Clock;
use streamer::delivery::machine::{Checkpointed, Effect, Machine, MachineConfig, Outcome, Stored, Waiter, WriteId};
use streamer::handle::SubscriptionState;
use streamer::matching::{BloomUse, Filter};
use streamer::position::{ClusterTime, Epoch, PartitionId, Position};
use streamer::store::subscriptions::{self, ParkedReason, SubscriptionRecord};
use streamer::store::{Entry, Revision, Write};
use streamer::subscription::{Name, Spec, SubscriptionKey};

fn config() -> MachineConfig {
    MachineConfig {
        partition: PartitionId::new("default", 0),
        node: "hub-1".into(),
        window_bytes_max: 1 << 20,
        outbox_bytes_max: 1 << 20,
        memory_bytes_max: 1 << 20,
        outbox_bytes_soft: 1 << 18,
        turn_changes_max: 1_000,
        sessions_max: 100,
        quota_gateway: 10,
        quota_tenant: 10,
        quota_global: 10,
        park_seconds: 60,
        bloom: BloomUse::default(),
        shadow_every: 0,
        seed: 1,
        mistake: None,
    }
}

fn key(id: &str) -> SubscriptionKey {
    SubscriptionKey { gateway: Name::new("gw").unwrap(), id: Name::new(id).unwrap() }
}

fn record(spec: Value, at: Position) -> SubscriptionRecord {
    SubscriptionRecord {
        spec,
        generation: None,
        active_from: at,
        start: at,
        start_revision: None,
        birth: None,
        superseded: Vec::new(),
        parked: None,
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
        key: subscriptions::key("default", &key(id)),
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
    assert_eq!((view.state, view.parked_reason), (SubscriptionState::Parked, Some("too_costly")));
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
