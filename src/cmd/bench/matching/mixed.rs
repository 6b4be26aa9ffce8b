//! Filters of many kinds that an index can take, and 4.5 matches a change at every size: 2 by equality, 1 by
//! equality with a range, and half a match by each of the other three.

use bson::{Bson, Document, doc};

use super::random::Random;
use super::workload::Wanted;
use crate::subscription::Operator;

pub(super) const NAMED: [&str; 8] = ["chatId", "userId", "stars", "room", "kind", "path", "level", "sensor"];

/// Of twenty subscriptions: equality, with a range, `in` with equality, prefix, one-sided with `has`.
const SHARES: [u32; 5] = [12, 4, 2, 1, 1];
const KINDS: [&str; 4] = ["text", "image", "voice", "poll"];
const STARS: i32 = 100;
/// Alarms go off at levels of their own, ten apart, most of them far above what is ever measured.
const LEVEL_FIRST: i64 = 1_000;
const LEVEL_STEP: i64 = 10;

/// How many subscriptions each kind has.
fn sizes(subscriptions: u32) -> [u64; 5] {
    SHARES.map(|share| u64::from(subscriptions / 20 * share).max(1))
}

/// Rooms: as many as subscriptions name, three each, so that two name the same.
fn rooms(subscriptions: u32) -> u64 {
    sizes(subscriptions)[2] * 3 / 2
}

/// A subscription's kind, and its number among those of its kind.
fn place(number: u32) -> (usize, u64) {
    let (twenty, mut rest) = (number / 20, number % 20);
    for (kind, share) in SHARES.into_iter().enumerate() {
        if rest < share {
            return (kind, u64::from(twenty * share + rest));
        }
        rest -= share;
    }
    (0, 0)
}

pub(super) fn wanted(subscriptions: u32, number: u32, with_prefix: bool) -> Wanted {
    use Operator::{Equal, Exists, GreaterOrEqual, In, LessOrEqual, StartsWith};
    let sizes = sizes(subscriptions);
    let (kind, k) = place(number);
    // What comes after a removal asks for the same anew.
    let k = k % sizes[kind];
    let mut wanted = Wanted::default();
    match kind {
        0 => wanted.filters.push(("chatId", Equal, format!("chat-{:08}", k / 2).into())),
        1 => {
            let least = Random(11).below(k, STARS as u64 / 2 + 1) as i32;
            wanted.filters = vec![
                ("userId", Equal, format!("user-{:08}", k / 2).into()),
                ("stars", GreaterOrEqual, least.into()),
                ("stars", LessOrEqual, (least + STARS / 2 - 1).into()),
            ];
        }
        2 => {
            // Every room is named by two, but never twice by one.
            let count = rooms(subscriptions);
            let three = (0..3).map(|n| format!("room-{:08}", (k * 3 / 2 + n) % count.max(3)));
            let three: Vec<Bson> = three.map(Bson::from).collect();
            wanted.filters =
                vec![("room", In, three.into()), ("kind", Equal, KINDS[Random(12).below(k, 4) as usize].into())];
        }
        3 if with_prefix => wanted.filters.push(("path", StartsWith, format!("/p/{k}/").into())),
        3 => wanted.filters.push(("chatId", Equal, format!("nobody-{k:06}").into())),
        _ => {
            wanted.filters.push(("level", GreaterOrEqual, (LEVEL_FIRST + LEVEL_STEP * k as i64).into()));
            if k.is_multiple_of(2) {
                wanted.filters.push(("sensor", Exists, true.into()));
            } else {
                wanted.cel = Some("has(doc.sensor)".to_owned());
            }
        }
    }
    wanted
}

pub(super) fn named(subscriptions: u32, number: u64) -> Document {
    let sizes = sizes(subscriptions);
    let pick = |stream: u64, end: u64| Random(stream).below(number, end);
    let mut named = doc! {
        "chatId": format!("chat-{:08}", pick(21, sizes[0].div_ceil(2))),
        "userId": format!("user-{:08}", pick(22, sizes[1].div_ceil(2))),
        "stars": pick(23, STARS as u64) as i32,
        "room": format!("room-{:08}", pick(24, rooms(subscriptions))),
        "kind": KINDS[pick(25, 4) as usize],
        // Half of them are asked for.
        "path": format!("/p/{}/leaf", pick(26, 2 * sizes[3])),
        // Sets off none, one or two of the alarms.
        "level": LEVEL_FIRST - LEVEL_STEP + pick(27, 3 * LEVEL_STEP as u64) as i64,
    };
    if pick(28, 2) == 0 {
        named.insert("sensor", "s1");
    }
    named
}
