//! The meter: which programs cost more than one may.
//!
//! Owns the watch over CEL in operation. What a program may do is bounded when it is registered, but not by
//! how large documents are and how many of them come. As long as matching as a whole is quick, nothing is
//! measured but that; after a slow second each program is timed for another, and those that took an undue
//! part of it are named, to be parked. Terms need no meter: what they cost is bounded by the walk.

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

#[derive(Debug)]
pub(super) struct Meter {
    clock: Clock,
    window: Instant,
    spent: Duration,
    /// In the second after a slow one: what each program took, and how often it ran.
    programs: Option<HashMap<ProgramId, (Duration, u32), FxBuildHasher>>,
}

impl Meter {
    pub(super) fn new(clock: Clock) -> Self {
        Self { window: clock.now(), clock, spent: Duration::ZERO, programs: None }
    }

    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Whether each program is to be timed.
    pub(super) fn is_close(&self) -> bool {
        self.programs.is_some()
    }

    /// A program took this long.
    pub(super) fn ran(&mut self, program: ProgramId, began: Instant) {
        let took = self.clock.now().since(began);
        if let Some(programs) = &mut self.programs {
            let (spent, runs) = programs.entry(program).or_default();
            *spent += took;
            *runs += 1;
        }
    }

    /// The number may be another's from now on.
    pub(super) fn forget(&mut self, program: ProgramId) {
        if let Some(programs) = &mut self.programs {
            programs.remove(&program);
        }
    }

    /// A change has been matched. Names the programs that were too dear in the second that has ended with it.
    pub(super) fn matched(&mut self, began: Instant) -> Vec<ProgramId> {
        let now = self.clock.now();
        self.spent += now.since(began);
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
