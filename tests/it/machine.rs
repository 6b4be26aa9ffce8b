//! The session machine by itself: what it makes of what it finds in the store.

use serde_json::{Value, json};
use streamer::clock::Clock;
use streamer::delivery::machine::{Checkpointed, Effect, Machine, MachineConfig, Outcome, Stored};
use streamer::handle::SubscriptionState;
use streamer::matching::BloomUse;
use streamer::position::{ClusterTime, Epoch, PartitionId, Position};
use streamer::store::subscriptions::{self, ParkedReason, SubscriptionRecord};
use streamer::store::{Entry, Revision};
use streamer::subscription::{Name, Spec, SubscriptionKey};

fn config() -> MachineConfig {
    MachineConfig {
        partition: PartitionId::new("default", 0),
        node: "hub-1".into(),
        window_bytes_max: 1 << 20,
        outbox_bytes_max: 1 << 20,
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

/// A filter may have been fine for the version that stored it. One partition must not stand still for it, nor
/// the subscription go on in silence.
#[test]
fn a_stored_filter_that_does_not_compile_any_more_is_parked_as_too_costly() {
    let at = Position::boundary(Epoch(1), ClusterTime::new(10, 0));
    let asked = |id: &str| json!({"subscriptionId": id, "gatewayId": "gw", "tenant": "acme", "collection": "messages", "cel": "doc.a == 1"});
    let stored = |id: &str| Spec::from_json(&asked(id)).unwrap().to_stored();
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
    let mut machine = Machine::load(config(), Clock::manual(), at, at, checkpoint, stored).expect("loads");
    machine.expire();
    let writes: Vec<_> = machine
        .take_effects()
        .into_iter()
        .filter_map(|effect| if let Effect::Write(id, writes) = effect { Some((id, writes)) } else { None })
        .collect();
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
