//! Intervals, as a service that pushes events to customers by time has them: 100,000 customers with spans
//! of up to 10 over 100,000 ticks. Other sizes have as many ticks as customers, so that a change has
//! six matches at each.

use bson::{Document, doc};

use super::random::Random;
use super::workload::Wanted;

pub(super) const NAMED: [&str; 1] = ["at"];
const SPAN_MAX: u64 = 10;

/// The number of ticks.
pub(super) fn ticks(subscriptions: u32) -> u64 {
    u64::from(subscriptions)
}

pub(super) fn wanted(subscriptions: u32, number: u32) -> Wanted {
    let number = u64::from(number);
    let start = Random(3).below(number, ticks(subscriptions)) as i64;
    let stop = start + Random(4).below(number, SPAN_MAX + 1) as i64;
    Wanted { interval: Some(("at", start, stop)), ..Wanted::default() }
}

pub(super) fn everything(subscriptions: u32) -> Wanted {
    let stop = (ticks(subscriptions) + SPAN_MAX) as i64;
    Wanted { interval: Some(("at", 0, stop)), ..Wanted::default() }
}

pub(super) fn named(subscriptions: u32, number: u64) -> Document {
    doc! { "at": Random(5).below(number, ticks(subscriptions)) as i64 }
}
