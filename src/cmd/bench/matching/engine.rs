//! The product itself: compiled filters in a matcher, raw documents in.

use std::sync::Arc;

use super::contender::{Contender, Upkeep};
use super::workload::{Event, Plan, Workload};
use crate::matching::{Filter, Match, Matcher, SubscriptionIndex};
use crate::subscription::Spec;

/// The matcher.
#[derive(Debug)]
pub(super) struct Engine {
    matcher: Matcher,
    out: Vec<Match>,
}

impl Contender for Engine {
    const NAME: &'static str = "engine";
    const UPKEEP: Upkeep = Upkeep::Both;
    type Filter = Arc<Filter>;

    fn fits(_: Workload) -> bool {
        true
    }

    fn new(_: &Plan) -> Self {
        Self { matcher: Matcher::new(), out: Vec::new() }
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
