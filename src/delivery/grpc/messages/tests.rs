//! What batching and cutting promise.

use std::sync::Arc;

use super::super::super::body::SharedChange;
use super::super::super::testing::{change, changes, cursor, delivery, partition, position, progress, raw};
use super::*;
use crate::change::{self, Changed as Touched, Operation, ResyncReason};
use crate::subscription::Name;
use bson::doc;
use proptest::collection::vec;
use proptest::prelude::*;

const LEAST: usize = limits::grpc_message_bytes_min;

fn sized(seq: u64, bytes: usize) -> Frame {
    let document = Some(raw(&doc! {"x": "x".repeat(bytes)}));
    Frame::Change(delivery(seq, change::Change { document, ..change(seq as u32) }))
}

fn batches(responses: &[ConsumeResponse]) -> Vec<&[Change]> {
    let changes = responses.iter().map(|response| match &response.message {
        Some(Kind::Changes(batch)) => &*batch.changes,
        other => panic!("expected changes, got {other:?}"),
    });
    changes.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn batches_are_full_in_order_and_within_the_limit(sizes in vec(prop_oneof![0usize..2_000, 0..LEAST * 2], 1..40)) {
        let frames: Vec<Frame> = (1..).zip(&sizes).map(|(seq, bytes)| sized(seq, *bytes)).collect();
        let responses = Packer::new(Format::Bson, LEAST).pack(frames);
        prop_assert!(responses.iter().all(|response| response.encoded_len() <= LEAST));
        let batches = batches(&responses);
        let seqs: Vec<u64> = batches.iter().flat_map(|batch| batch.iter().map(|change| change.seq)).collect();
        prop_assert_eq!(seqs, (1..=sizes.len() as u64).collect::<Vec<_>>());
        for two in batches.windows(2) {
            let mut together = two[0].to_vec();
            together.push(two[1][0].clone());
            let response = ConsumeResponse { message: Some(Kind::Changes(Changes { changes: together })) };
            prop_assert!(response.encoded_len() > LEAST, "another change would have fitted");
        }
        for (change, size) in batches.concat().iter().zip(&sizes) {
            // 400 bytes are more than all else that these changes carry.
            let reduced = change.flags == ["reduced"];
            prop_assert_eq!(change.document.is_none(), reduced);
            prop_assert!((reduced && *size + 400 > LEAST) || (!reduced && *size < LEAST));
        }
    }
}

#[test]
fn a_body_over_the_limit_is_left_out_and_what_fits_stays() {
    let big = || Some(raw(&doc! {"x": "x".repeat(LEAST)}));
    let touched = |bytes| Some(Touched { set: raw(&doc! {"x": "x".repeat(bytes)}), removed: vec!["y".into()] });
    let of = |changed| {
        let change =
            change::Change { document: big(), before: big(), changed, operation: Operation::Update, ..change(1) };
        let delivery = frame::Delivery { with_before: true, ..delivery(1, change) };
        let responses = Packer::new(Format::Json, LEAST).pack(vec![Frame::Change(delivery)]);
        assert!(responses[0].encoded_len() <= LEAST);
        batches(&responses)[0][0].clone()
    };
    let small = of(touched(10));
    assert_eq!((small.document, small.before, &*small.flags), (None, None, &["reduced".to_string()][..]));
    assert_eq!(small.changed.unwrap().removed, ["y"]);
    assert_eq!(of(touched(LEAST)).changed, None);
}

#[test]
fn the_longest_match_list_fits_beside_the_longest_texts() {
    let name = |index: usize| Name::new(&format!("{index:0>width$}", width = limits::name_chars_max)).unwrap();
    let matches = (0..limits::matches_per_message_max).map(|index| frame::Matched {
        subscription_id: name(index),
        generation: u64::MAX,
        transition: Some(crate::matching::Transition::Update),
        certainty: Some(crate::matching::Certainty::Unknown),
    });
    let mut delivery = delivery(1, change(1));
    delivery.cursor = CursorText("c".repeat(limits::cursor_text_bytes_max).into());
    delivery.matches = matches.collect();
    let responses = Packer::new(Format::Json, LEAST).pack(vec![Frame::Change(delivery)]);
    let change = &batches(&responses)[0][0];
    assert!(change.document.is_some() && responses[0].encoded_len() <= LEAST);
}

#[test]
fn a_notice_for_many_is_split_and_only_its_last_piece_moves_the_cursor() {
    let names: Vec<_> = (0..9_000).map(|index| Name::new(&format!("{index:0>128}")).unwrap()).collect();
    let scope = |index: usize| (Arc::from("t".repeat(256)), Arc::from(format!("{index:0>256}")));
    let resync = frame::Resync {
        cursor: cursor(9),
        partition: partition(),
        from: None,
        to: position(0),
        reason: ResyncReason::HistoryLost,
        scopes: Some((0..3_000).map(scope).collect()),
        subscription_ids: names.clone(),
    };
    let expired = frame::Expired { subscription_ids: names.clone(), reason: frame::ExpiredReason::Lease };
    let frames = vec![Frame::Progress(progress(8)), Frame::Resync(resync), Frame::Expired(expired)];
    let responses = Packer::new(Format::Json, LEAST).pack(frames);
    assert!(responses.iter().all(|response| response.encoded_len() <= LEAST));
    let (mut ids, mut scopes, mut cursors, mut parked) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for response in responses.into_iter().skip(1) {
        match response.message.unwrap() {
            Kind::Resync(piece) => {
                assert!(!piece.all);
                ids.extend(piece.subscription_ids);
                scopes.extend(piece.scopes);
                cursors.push(piece.cursor);
            }
            Kind::Expired(piece) => parked.extend(piece.subscription_ids),
            other => panic!("unexpected {other:?}"),
        }
    }
    let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
    assert_eq!((&ids, &parked, scopes.len()), (&texts, &texts, 3_000));
    let (last, others) = cursors.split_last().unwrap();
    assert_eq!(last, "cursor-9");
    assert!(!others.is_empty() && others.iter().all(|cursor| cursor == "cursor-8"));
}

#[test]
fn other_messages_keep_their_place_among_changes() {
    let mut frames = changes(1..=2);
    frames.push(Frame::Progress(progress(3)));
    frames.extend(changes(3..=3));
    let responses = Packer::new(Format::Json, LEAST).pack(frames);
    let kinds: Vec<usize> = responses
        .iter()
        .map(|response| match response.message.as_ref().unwrap() {
            Kind::Changes(batch) => batch.changes.len(),
            _ => 0,
        })
        .collect();
    assert_eq!(kinds, [2, 0, 1]);
}

#[test]
fn bodies_come_in_the_format_that_was_asked_for() {
    let shared = Arc::new(SharedChange::new(change(1)));
    let of = |format| {
        let delivery = frame::Delivery { change: Arc::clone(&shared), ..delivery(1, change(1)) };
        let responses = Packer::new(format, LEAST).pack(vec![Frame::Change(delivery)]);
        batches(&responses)[0][0].document.clone().unwrap()
    };
    assert_eq!(of(Format::Json), br#"{"chatId":"c1","stars":4}"#[..]);
    assert_eq!(of(Format::Bson), shared.document.as_ref().unwrap().as_bytes());
}
