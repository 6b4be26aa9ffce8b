//! The meter: which programs cost more than one may.
//!
//! Owns the watch over programs in operation. What one may do is bounded when it is registered, but not by
//! how large documents are and how many of them come. As long as matching as a whole is quick, nothing is
//! measured but that; after a slow second each program is timed for another, and those that took an undue
//! part of it are named, to be parked.

use std::time::Duration;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::ProgramId;
use crate::clock::{Clock, Instant};
use crate::limits;

/// Over so much time it is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// A slow second has this much matching in it.
const SLOW: Duration = Duration::from_millis(limits::program_millis_per_second_max as u64 / 2);

/// Every so manyth change each program that it leads to is timed.
const SAMPLE_EVERY: u32 = 63;
/// Programs that are kept in mind; what is rare enough to come later is not dear.
const SAMPLES_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct Meter {
    clock: Clock,
    window: Instant,
    spent: Duration,
    /// In the second after a slow one: what each program took, and how often it ran.
    programs: Option<HashMap<ProgramId, (Duration, u32), FxBuildHasher>>,
    /// The same of every so manyth change, for people.
    samples: HashMap<ProgramId, (Duration, u64), FxBuildHasher>,
    until_sample: u32,
}

impl Meter {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            window: clock.now(),
            clock,
            spent: Duration::ZERO,
            programs: None,
            samples: HashMap::default(),
            until_sample: SAMPLE_EVERY,
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Whether each program is to be timed.
    pub(super) fn is_close(&self) -> bool {
        self.programs.is_some() || self.until_sample == 0
    }

    /// A program took this long.
    pub(super) fn ran(&mut self, program: ProgramId, began: Instant) {
        let took = self.clock.now().since(began);
        if let Some(programs) = &mut self.programs {
            let (spent, runs) = programs.entry(program).or_default();
            *spent += took;
            *runs += 1;
        }
        if self.until_sample > 0 {
            return;
        }
        if let Some((spent, runs)) = self.samples.get_mut(&program) {
            *spent += took;
            *runs += 1;
            return;
        }
        if self.samples.len() >= SAMPLES_MAX {
            // What was long ago counts for less, and makes room in the end.
            self.samples.retain(|_, (spent, runs)| {
                *spent /= 2;
                *runs /= 2;
                *runs > 0
            });
        }
        if self.samples.len() < SAMPLES_MAX {
            self.samples.insert(program, (took, 1));
        }
    }

    /// The programs that took most of what was sampled: what one evaluation took on average, in microseconds, and how
    /// many there were. The clock's microseconds are coarse for one evaluation, not for the mean of many.
    pub(super) fn costliest(&self, max: usize) -> Vec<(ProgramId, f64, u64)> {
        let mut all: Vec<_> = self.samples.iter().map(|(program, (spent, runs))| (*spent, *program, *runs)).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let average = |(spent, program, runs): (Duration, ProgramId, u64)| {
            (program, spent.as_secs_f64() * 1e6 / runs as f64, runs)
        };
        all.into_iter().take(max).map(average).collect()
    }

    /// The number may be another's from now on.
    pub(super) fn forget(&mut self, program: ProgramId) {
        if let Some(programs) = &mut self.programs {
            programs.remove(&program);
        }
        self.samples.remove(&program);
    }

    /// All numbers may be others' from now on.
    pub(super) fn forget_all(&mut self) {
        self.programs.iter_mut().for_each(HashMap::clear);
        self.samples.clear();
    }

    /// A change has been matched. Names the programs that were too dear in the second that has ended with it.
    pub(super) fn matched(&mut self, began: Instant) -> Vec<ProgramId> {
        let now = self.clock.now();
        self.spent += now.since(began);
        self.until_sample = self.until_sample.checked_sub(1).unwrap_or(SAMPLE_EVERY);
        if now.since(self.window) < WINDOW {
            return Vec::new();
        }
        let spent = std::mem::take(&mut self.spent);
        self.window = now;
        let timed = self.programs.take();
        if spent > SLOW {
            self.programs = Some(HashMap::default());
        }
        let is_too_dear = |(_, (spent, runs)): &(ProgramId, (Duration, u32))| {
            spent.as_millis() > u128::from(limits::program_millis_per_second_max)
                && spent.as_micros() > u128::from(limits::program_micros_max) * u128::from(*runs)
        };
        let mut costly: Vec<_> = timed.into_iter().flatten().filter(is_too_dear).map(|(program, _)| program).collect();
        costly.sort_unstable();
        costly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change that takes each of these programs this long.
    fn change(meter: &mut Meter, clock: &Clock, programs: &[(u32, u64)]) -> Vec<ProgramId> {
        let began = meter.now();
        for (program, micros) in programs {
            let timed = meter.is_close();
            let before = meter.now();
            clock.advance(Duration::from_micros(*micros));
            if timed {
                meter.ran(ProgramId(*program), before);
            }
        }
        meter.matched(began)
    }

    /// What is named over some seconds in which so many such changes come.
    fn named(seconds: u32, changes: u32, programs: &[(u32, u64)]) -> Vec<u32> {
        let clock = Clock::manual();
        let mut meter = Meter::new(clock.clone());
        let mut named = Vec::new();
        for _ in 0..seconds * changes {
            named.extend(change(&mut meter, &clock, programs).into_iter().map(|program| program.0));
            let spent: u64 = programs.iter().map(|(_, micros)| micros).sum();
            clock.advance(Duration::from_micros((1_000_000 / u64::from(changes)).saturating_sub(spent)));
        }
        named.dedup();
        named
    }

    #[test]
    fn a_program_that_takes_too_much_of_a_second_is_named_and_no_other() {
        // 100 changes a second: 5 ms each are half of it, 1 ms each is a tenth.
        assert_eq!(named(5, 100, &[(1, 5_000), (2, 1_000), (3, 10)]), [1]);
        assert_eq!(named(5, 100, &[(2, 1_000)]), [] as [u32; 0]);
        // Quick, but asked very often: that is the load and not the program.
        assert_eq!(named(3, 20_000, &[(1, 15), (2, 15)]), [] as [u32; 0]);
    }

    #[test]
    fn one_slow_change_is_no_slow_program() {
        let clock = Clock::manual();
        let mut meter = Meter::new(clock.clone());
        assert!(change(&mut meter, &clock, &[(1, 900_000)]).is_empty());
        for _ in 0..3_000 {
            clock.advance(Duration::from_millis(1));
            assert!(change(&mut meter, &clock, &[(1, 30)]).is_empty());
        }
    }

    #[test]
    fn a_number_that_passed_on_is_not_blamed() {
        let clock = Clock::manual();
        let mut meter = Meter::new(clock.clone());
        for _ in 0..3 {
            change(&mut meter, &clock, &[(1, 500_000)]);
        }
        assert!(meter.is_close());
        change(&mut meter, &clock, &[(1, 500_000)]);
        meter.forget(ProgramId(1));
        assert!(change(&mut meter, &clock, &[(1, 1_000), (2, 600_000)]).iter().all(|program| program.0 == 2));
    }
}
