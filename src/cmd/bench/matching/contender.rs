//! Contenders: ways of finding whom a change concerns.
//!
//! Owns what each must be able to do to be measured, and what a measurement asks of it.

use super::alone;
use super::measure::{self, Figures, Limits, Measured};
use super::workload::{Event, Plan, Workload};
use crate::subscription::Spec;

/// What comes and goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Upkeep {
    /// Built once.
    Static,
    /// Takes more, but lets none go, or not soundly.
    Inserts,
    /// Takes more and lets go.
    Both,
}

/// One way of finding whom a change concerns.
pub trait Contender: Sized {
    /// The name in reports.
    const NAME: &'static str;
    /// What becomes of it after building.
    const UPKEEP: Upkeep;
    /// Whether its matches are counted; a part of the work, measured by itself, has none.
    const COUNTS: bool = true;
    /// Whether it is given documents, as opposed to the values in them.
    const READS: bool = true;
    /// Whether its cost is that of every subscription on every change, in the same way.
    const EVALUATES_ALL: bool = false;
    /// A subscription as it takes it.
    type Filter;

    /// Whether it can express every subscription of a workload.
    fn fits(workload: Workload) -> bool;

    /// Without subscriptions.
    fn new(plan: &Plan) -> Self;

    /// Makes a subscription ready to be inserted; not part of what an insert costs.
    ///
    /// # Errors
    /// A subscription that it cannot express.
    fn compile(&self, spec: &Spec) -> anyhow::Result<Self::Filter>;

    /// Adds a subscription.
    ///
    /// # Errors
    /// One that it does not take after all.
    fn insert(&mut self, number: u32, filter: Self::Filter) -> anyhow::Result<()>;

    /// All have been inserted; measured as part of the inserts.
    fn finish(&mut self) {}

    /// Takes one out again, inserted as `filter`.
    fn remove(&mut self, _number: u32, _filter: &Self::Filter) {}

    /// How many subscriptions a change concerns.
    ///
    /// # Errors
    /// A change that it cannot read.
    fn look_up(&mut self, event: &Event) -> anyhow::Result<usize>;

    /// The same of several at once, for those to whom that makes a difference.
    ///
    /// # Errors
    /// A change that it cannot read.
    fn look_up_all(&mut self, events: &[Event], mut each: impl FnMut(usize)) -> anyhow::Result<()> {
        events.iter().try_for_each(|event| {
            each(self.look_up(event)?);
            Ok(())
        })
    }
}

/// A contender as a measurement calls it.
#[derive(Clone, Copy)]
pub struct Entry {
    pub(super) name: &'static str,
    pub(super) reads: bool,
    pub(super) evaluates_all: bool,
    pub(super) fits: fn(Workload) -> bool,
    pub(super) measure: fn(&Plan, &[Event], &Limits) -> anyhow::Result<Measured>,
    pub(super) alone: fn(&Plan, &Limits) -> anyhow::Result<Option<Figures>>,
}

impl Entry {
    /// The entry of a contender.
    pub fn of<C: Contender>() -> Self {
        Self {
            name: C::NAME,
            reads: C::READS,
            evaluates_all: C::EVALUATES_ALL,
            fits: |workload| C::fits(workload) && (!workload.is_churn() || !C::COUNTS || C::UPKEEP == Upkeep::Both),
            measure: measure::measure::<C>,
            alone: alone::figures::<C>,
        }
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Entry").field(&self.name).finish()
    }
}
