//! Subscriptions that come and go.
//!
//! Owns which they are, and the two ways to measure them: after the look-ups, and between them.

use super::contender::{Contender, Upkeep};
use super::measure::{Figures, Limits, Steps, cpu_nanos};
use super::workload::{Event, Plan};

/// Removals and inserts measured after the look-ups, at most.
const AFTERWARDS: u32 = 100_000;
/// Changes counted again after them, at most.
const RECOUNTED: usize = 1_000;
/// Look-ups in a row between removals and inserts, at most.
const CHUNK_CHANGES_MAX: usize = 1_000;
/// A round has at least so many turns of both.
const TURNS: usize = 10;
/// Look-ups for one removal and one insert.
const CHANGES_PER_CHURN: usize = 5;

/// Visits all numbers below `end` in an order without pattern.
fn scattered(n: u64, end: u32) -> u32 {
    // A prime of which no number of subscriptions is a multiple.
    (n.wrapping_mul(2_654_435_761) % u64::from(end.max(1))) as u32
}

/// Removes some and inserts them again; says what went wrong.
pub(super) fn afterwards<C: Contender>(
    plan: &Plan,
    contender: &mut C,
    (events, counts): (&[Event], &[u32]),
    limits: &Limits,
    figures: &mut Figures,
) -> anyhow::Result<Option<String>> {
    if C::UPKEEP == Upkeep::Static {
        return Ok(None);
    }
    let began = limits.clock.now();
    let (mut removals, mut inserts) = (Steps::new(), Steps::new());
    let count = plan.subscriptions.min(AFTERWARDS);
    for n in 0..u64::from(count) {
        if limits.is_over(began, limits.seconds) {
            break;
        }
        let number = scattered(n, plan.subscriptions);
        let filter = contender.compile(&plan.spec(number)?)?;
        if C::UPKEEP == Upkeep::Both {
            removals.time(|| contender.remove(number, &filter));
        }
        inserts.time(|| contender.insert(number, filter))?;
    }
    record(figures, &removals, &inserts);
    if C::UPKEEP == Upkeep::Inserts {
        return Ok(None);
    }
    for (number, (event, count)) in events.iter().zip(counts).enumerate().take(RECOUNTED) {
        let now = contender.look_up(event)?;
        if now != *count as usize {
            let said = format!("{}: change {number} matched {count}, and {now} after removals and inserts", C::NAME);
            return Ok(Some(said));
        }
        if limits.is_over(began, 2 * limits.seconds) {
            break;
        }
    }
    Ok(None)
}

/// Look-ups with removals and inserts between them. Every removed subscription makes place for a new
/// one, with the next number's interval.
pub(super) fn interleaved<C: Contender>(
    plan: &Plan,
    contender: &mut C,
    events: &[Event],
    limits: &Limits,
    figures: &mut Figures,
) -> anyhow::Result<Vec<u32>> {
    let began = limits.clock.now();
    let (mut removals, mut inserts) = (Steps::new(), Steps::new());
    // What stands in each place.
    let mut current: Vec<u32> = (0..plan.subscriptions).collect();
    let chunk_changes = (events.len() / TURNS).clamp(1, CHUNK_CHANGES_MAX);
    let (mut counts, mut best, mut churned) = (Vec::new(), f64::MAX, 0);
    loop {
        let mut nanos = 0;
        for chunk in events.chunks(chunk_changes) {
            let before = cpu_nanos();
            let mut sum = 0;
            if figures.rounds == 0 {
                contender.look_up_all(chunk, |count| counts.push(count as u32))?;
            } else {
                contender.look_up_all(chunk, |count| sum += count)?;
            }
            std::hint::black_box(sum);
            nanos += cpu_nanos() - before;
            for _ in 0..chunk_changes.div_ceil(CHANGES_PER_CHURN) {
                let place = scattered(churned, plan.subscriptions);
                let next = plan.subscriptions.wrapping_add(churned as u32);
                let old = contender.compile(&plan.spec(std::mem::replace(&mut current[place as usize], next))?)?;
                let new = contender.compile(&plan.spec(next)?)?;
                removals.time(|| contender.remove(place, &old));
                inserts.time(|| contender.insert(place, new))?;
                churned += 1;
            }
        }
        best = best.min(nanos.max(1) as f64);
        figures.rounds += 1;
        if limits.is_over(began, limits.seconds) {
            break;
        }
    }
    record(figures, &removals, &inserts);
    figures.changes = events.len();
    figures.rate = events.len() as f64 * 1e9 / best;
    figures.matches_per_change = counts.iter().map(|count| f64::from(*count)).sum::<f64>() / counts.len().max(1) as f64;
    Ok(counts)
}

fn record(figures: &mut Figures, removals: &Steps, inserts: &Steps) {
    let longest = [figures.longest_insert_micros, inserts.longest_micros()];
    figures.longest_insert_micros = longest.into_iter().flatten().reduce(f64::max);
    figures.longest_remove_micros = removals.longest_micros();
    (figures.insert_rate, figures.remove_rate) = (inserts.rate(), removals.rate());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_visited_twice_in_a_turn() {
        for end in [1, 100, 1_000, 100_000] {
            let mut seen = vec![false; end as usize];
            (0..u64::from(end)).for_each(|n| seen[scattered(n, end) as usize] = true);
            assert!(seen.into_iter().all(|seen| seen), "{end}");
        }
    }
}
