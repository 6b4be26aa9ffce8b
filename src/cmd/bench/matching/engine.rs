//! The product itself: compiled filters in a matcher, raw documents in.

use std::sync::Arc;

use super::contender::{Contender, Upkeep};
use super::workload::{Event, Plan, Workload};
use crate::matching::{BloomUse, Filter, Match, Matcher, Matches, SubscriptionIndex};
use crate::subscription::Spec;

/// As MongoDB's batches bring changes: all at once, with a Bloom filter at every size to see what that brings, or one
/// by one.
pub(super) const BATCHES: u8 = 0;
pub(super) const BLOOM: u8 = 1;
pub(super) const SINGLY: u8 = 2;

/// Changes that are matched at once.
const BATCH: usize = 1_000;

/// The matcher.
#[derive(Debug)]
pub(super) struct Engine<const HOW: u8> {
    matcher: Matcher,
    out: Vec<Match>,
    all: Matches,
}

impl<const HOW: u8> Contender for Engine<HOW> {
    const NAME: &'static str = match HOW {
        BLOOM => "with Bloom",
        SINGLY => "one by one",
        _ => "engine",
    };
    const UPKEEP: Upkeep = Upkeep::Both;
    type Filter = Arc<Filter>;

    fn fits(workload: Workload) -> bool {
        HOW != BLOOM || workload.is_chat()
    }

    fn new(_: &Plan) -> Self {
        let matcher = if HOW == BLOOM { Matcher::with_bloom(BloomUse::From(1)) } else { Matcher::new() };
        Self { matcher, out: Vec::new(), all: Matches::default() }
    }

    fn compile(&self, spec: &Spec) -> anyhow::Result<Arc<Filter>> {
        Filter::compile(spec).map_err(|problem| anyhow::anyhow!("a filter is refused: {problem:?}"))
    }

    fn insert(&mut self, number: u32, filter: Arc<Filter>) -> anyhow::Result<()> {
        self.matcher.insert(SubscriptionIndex(number), filter);
        Ok(())
    }

    fn remove(&mut self, number: u32, _: &Arc<Filter>) {
        self.matcher.remove(SubscriptionIndex(number));
    }

    fn look_up(&mut self, event: &Event) -> anyhow::Result<usize> {
        self.matcher.matches(&event.change, &mut self.out);
        Ok(self.out.len())
    }

    fn look_up_all(&mut self, events: &[Event], mut each: impl FnMut(usize)) -> anyhow::Result<()> {
        if HOW == SINGLY {
            return events.iter().try_for_each(|event| {
                each(self.look_up(event)?);
                Ok(())
            });
        }
        for batch in events.chunks(BATCH) {
            self.matcher.matches_of(batch.iter().map(|event| &event.change), &mut self.all);
            self.all.iter_mut().for_each(|found| each(found.len()));
        }
        Ok(())
    }
}
