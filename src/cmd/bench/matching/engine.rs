//! The product itself: compiled filters in a matcher, raw documents in.

use std::sync::Arc;

use super::contender::{Contender, Upkeep};
use super::workload::{Event, Plan, Workload};
use crate::matching::{BloomUse, Filter, Match, Matcher, SubscriptionIndex};
use crate::subscription::Spec;

/// The matcher; with a Bloom filter at every size to see what that brings.
#[derive(Debug)]
pub(super) struct Engine<const BLOOM: bool> {
    matcher: Matcher,
    out: Vec<Match>,
}

impl<const BLOOM: bool> Contender for Engine<BLOOM> {
    const NAME: &'static str = if BLOOM { "with Bloom" } else { "engine" };
    const UPKEEP: Upkeep = Upkeep::Both;
    type Filter = Arc<Filter>;

    fn fits(workload: Workload) -> bool {
        !BLOOM || workload.is_chat()
    }

    fn new(_: &Plan) -> Self {
        let matcher = if BLOOM { Matcher::with_bloom(BloomUse::From(1)) } else { Matcher::new() };
        Self { matcher, out: Vec::new() }
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
}
