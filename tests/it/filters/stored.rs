//! The stored form: what is read back is exactly what was written, to the type of every number.

use proptest::prelude::*;
use serde_json::{Value, json};
use streamer::position::Position;
use streamer::subscription::{Spec, StartAt};

use super::oracle::{bson, request_of};

proptest! {
    #![proptest_config(super::cases(2000))]

    #[test]
    fn stored_and_read_again_is_the_same(request in request_of(bson(3))) {
        // Not every random request is allowed; those that are must survive.
        if let Ok(spec) = Spec::from_json(&request) {
            let stored = spec.to_stored();
            let text = stored.to_string();
            let again = Spec::from_stored(&serde_json::from_str::<Value>(&text).expect("JSON")).expect("readable");
            prop_assert!(again.same_as(&spec), "{text}");
            prop_assert_eq!(again.to_stored(), stored);
            prop_assert_eq!(again.start_at, spec.start_at);
            prop_assert_eq!(again.ttl_seconds, spec.ttl_seconds);
        }
    }

    #[test]
    fn an_answer_can_be_sent_again(request in request_of(bson(2))) {
        if let Ok(spec) = Spec::from_json(&request) {
            let again = Spec::from_json(&spec.to_json()).expect("an answer is a request");
            prop_assert_eq!(again.to_json().to_string(), spec.to_json().to_string());
        }
    }
}

#[test]
fn numbers_keep_their_type_and_their_last_bit() {
    let values = [
        json!({"$numberInt": "1"}),
        json!({"$numberLong": "1"}),
        json!({"$numberDouble": "1.0"}),
        json!({"$numberDouble": "-0.0"}),
        json!({"$numberDouble": "5e-324"}),
        json!({"$numberDouble": "-Infinity"}),
        json!({"$numberDouble": "0.1"}),
        json!({"$numberDouble": "1.7976931348623157e308"}),
        json!({"$numberDecimal": "1.0"}),
        json!({"$numberLong": "9007199254740993"}),
        json!({"$date": {"$numberLong": "-1"}}),
        json!({"$symbol": "a"}),
    ];
    let filters: Vec<Value> = values.iter().map(|v| json!({"field": "a", "op": "==", "value": v})).collect();
    let spec = Spec::from_json(&super::request(json!({"filters": filters}))).expect("valid");
    let again = Spec::from_stored(&spec.to_stored()).expect("readable");
    for (a, b) in spec.filters.iter().zip(&again.filters) {
        assert_eq!(a.value.element_type(), b.value.element_type());
        assert_eq!(a.value, b.value);
    }
}

#[test]
fn a_resolved_start_is_stored_and_not_answered() {
    let mut spec = Spec::from_json(&super::request(json!({}))).expect("valid");
    let position: Position = "00000001000000070000000300000002".parse().expect("position");
    spec.start_at = Some(StartAt::Position(position));
    assert_eq!(Spec::from_stored(&spec.to_stored()).expect("readable"), spec);
    assert_eq!(spec.to_json().get("startAt"), None);
}
