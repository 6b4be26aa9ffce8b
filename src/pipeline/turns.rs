//! Whose turn it is: letting go of a partition that another node should own, and taking it if that one does not.
//!
//! Owns the times between. Advice only: two nodes that see it differently cannot both own the partition.

use std::sync::Arc;
use std::time::Duration;

use super::tenure::PartitionConfig;
use crate::clock::{Clock, Instant};
use crate::peer::{Members, View};
use crate::position::PartitionId;
use crate::store::Store;

/// Another node has this long to take what was let go for it.
const HOLD_OFF: Duration = Duration::from_secs(2);
/// What is won so soon after that has been declined: it stays here.
const DECLINED_AFTER: Duration = Duration::from_secs(5);
/// And is not offered to that node again for this long.
const DECLINED_FOR: Duration = Duration::from_secs(60);
/// A node that has just joined may as well go again: nothing moves to it before.
const SETTLED: Duration = Duration::from_secs(5);

/// One partition's turns at this node.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    clock: Clock,
    partition: PartitionId,
    node: Arc<str>,
    members: Option<Members>,
    /// For whom it was let go, and when.
    let_go: Option<(Arc<str>, Instant)>,
    /// Who did not take it, and when.
    declined: Option<(Arc<str>, Instant)>,
    /// Who should have it instead, and since when.
    instead: Option<(Arc<str>, Instant)>,
}

impl Turns {
    pub(super) fn new(config: &PartitionConfig) -> Self {
        Self {
            clock: config.clock.clone(),
            partition: config.machine.partition.clone(),
            node: Arc::clone(&config.holder.node),
            members: config.members.clone(),
            let_go: None,
            declined: None,
            instead: None,
        }
    }

    /// It has been let go for this node.
    pub(super) fn let_go(&mut self, node: Arc<str>) {
        self.let_go = Some((node, self.clock.now()));
    }

    /// Waits until it may be taken again.
    pub(super) async fn wait(&self) {
        if let Some((_, at)) = &self.let_go {
            tokio::time::sleep(HOLD_OFF.saturating_sub(self.clock.now().since(*at))).await;
        }
    }

    /// Just won: the node for which it is to be let go, if there is one.
    pub(super) async fn whose_turn(&self, store: &dyn Store) -> Option<Arc<str>> {
        let members = self.members.as_ref()?;
        if self.is_declined() {
            return None;
        }
        // As it is now: who has just left would be waited for in vain.
        let view = View::read(store).await.unwrap_or_else(|_| View::clone(&members.view()));
        self.other(&view).map(|(node, _)| node)
    }

    /// It was won again at once: for whom it was let go has not taken it.
    fn is_declined(&self) -> bool {
        self.let_go.as_ref().is_some_and(|(_, at)| self.clock.now().since(*at) < DECLINED_AFTER)
    }

    /// A tenure begins.
    pub(super) fn taken(&mut self) {
        if self.is_declined() {
            let now = self.clock.now();
            self.declined = self.let_go.take().map(|(node, _)| (node, now));
        }
        self.let_go = None;
        self.instead = None;
    }

    /// An operator has just said where it is to be: whoever did not take it before may now.
    pub(super) fn asked(&mut self) {
        self.declined = None;
    }

    /// In a tenure, regularly: the node that is to have it, if it is time.
    pub(super) fn hand_over(&mut self) -> Option<Arc<str>> {
        let view = self.members.as_ref()?.view();
        let now = self.clock.now();
        let Some((node, is_wanted)) = self.other(&view) else {
            self.instead = None;
            return None;
        };
        let since = match &self.instead {
            Some((before, since)) if *before == node => *since,
            _ => {
                self.instead = Some((Arc::clone(&node), now));
                now
            }
        };
        (is_wanted || now.since(since) >= SETTLED).then_some(node)
    }

    /// The other node that should own it, and whether an operator wants it there.
    fn other(&self, view: &View) -> Option<(Arc<str>, bool)> {
        let choice = view.choice(&self.partition).filter(|choice| choice.node != self.node)?;
        let now = self.clock.now();
        let is_declined = |(node, at): &(Arc<str>, Instant)| *node == choice.node && now.since(*at) < DECLINED_FOR;
        if self.declined.as_ref().is_some_and(is_declined) {
            return None;
        }
        Some((choice.node, choice.is_wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At hub-a, where the ring would have it at hub-b.
    fn turns(clock: &Clock, wanted: Option<&str>) -> Turns {
        let partition = PartitionId::new("default", 0);
        let view = View::of(&["hub-a", "hub-b"], wanted.map(|node| (&partition, node)));
        assert_eq!(view.choice(&partition).unwrap().node, wanted.unwrap_or("hub-b").into());
        Turns {
            clock: clock.clone(),
            partition,
            node: "hub-a".into(),
            members: Some(Members::fixed(view)),
            let_go: None,
            declined: None,
            instead: None,
        }
    }

    #[test]
    fn to_who_has_just_joined_it_goes_when_that_node_has_settled() {
        let clock = Clock::manual();
        let mut turns = turns(&clock, None);
        turns.taken();
        assert_eq!(turns.hand_over(), None);
        clock.advance(SETTLED - Duration::from_millis(1));
        assert_eq!(turns.hand_over(), None);
        clock.advance(Duration::from_millis(1));
        assert_eq!(turns.hand_over(), Some("hub-b".into()));
    }

    #[test]
    fn what_an_operator_wants_happens_at_once() {
        let clock = Clock::manual();
        assert_eq!(turns(&clock, Some("hub-b")).hand_over(), Some("hub-b".into()));
        let mut here = turns(&clock, Some("hub-a"));
        clock.advance(SETTLED * 10);
        assert_eq!(here.hand_over(), None, "whatever the ring says");
    }

    #[test]
    fn who_does_not_take_it_is_not_offered_it_again_for_a_while() {
        let clock = Clock::manual();
        let mut turns = turns(&clock, Some("hub-b"));
        turns.let_go("hub-b".into());
        clock.advance(HOLD_OFF);
        assert!(turns.is_declined());
        turns.taken();
        for _ in 0..59 {
            assert_eq!(turns.hand_over(), None);
            clock.advance(Duration::from_secs(1));
        }
        let mut asked = turns.clone();
        asked.asked();
        assert_eq!(asked.hand_over(), Some("hub-b".into()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(turns.hand_over(), Some("hub-b".into()));
        // It took it, and is gone long after.
        turns.let_go("hub-b".into());
        clock.advance(DECLINED_AFTER);
        assert!(!turns.is_declined());
    }
}
