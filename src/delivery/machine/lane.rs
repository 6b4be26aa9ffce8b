//! A lane: a part of a session that moves on together, with a matcher of its own while it catches up.
//!
//! Owns its members, their floors and what an entry of the stream makes for them. Who is in which
//! lane is for others to say (`sessions`, `admission`); what moves it is in `catchup`.

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use super::ReplayId;
use super::compose::{advancing, compose, concerned, resync_item};
use super::state::Sub;
use crate::change::Flags;
use crate::clock::Clock;
use crate::delivery::body::SharedChange;
use crate::delivery::outbox::{Item, LaneName};
use crate::delivery::window::Entry;
use crate::matching::{BloomUse, Match, Matcher, SubscriptionIndex};
use crate::paged::Paged;
use crate::position::Position;
use crate::source::Gap;
use crate::store::Revision;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// Takes what the live path finds.
    Live,
    /// Waits for the main lane to be live.
    Waiting,
    /// Reads the window, or wants a reading of the source where the window does not reach back.
    Window,
    /// Rides a reading of the source.
    Riding(ReplayId),
}

/// One filter of one subscription in a catch-up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) sub: SubscriptionIndex,
    pub(super) generation: Revision,
    /// Nothing at or before this is delivered again.
    pub(super) floor: Position,
}

/// A part of a session that moves on together.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) mode: Mode,
    /// Everything up to here is in the outbox; for a live lane, the loop's position if that is later.
    pub(super) at: Position,
    pub(super) matcher: Matcher,
    pub(super) members: Slab<Member>,
    pub(super) by_sub: HashMap<SubscriptionIndex, Vec<usize>>,
    /// Somebody has left it whom cursors still name.
    pub(super) is_misnamed: bool,
}

impl Lane {
    pub(super) fn new(mode: Mode, at: Position, clock: &Clock) -> Self {
        let (members, by_sub) = (Slab::new(), HashMap::new());
        let matcher = Matcher::watched(BloomUse::Off, clock.clone(), 0);
        Self { mode, at, matcher, members, by_sub, is_misnamed: false }
    }

    /// Those whose filters took more time than one may.
    pub(super) fn take_too_costly(&mut self) -> impl Iterator<Item = SubscriptionIndex> {
        let members = self.matcher.take_too_costly().into_iter();
        members.filter_map(|member| Some(self.members.get(member.0 as usize)?.sub))
    }

    pub(super) fn is_live(&self) -> bool {
        self.mode == Mode::Live
    }

    /// How many subscriptions are in it; a live lane does not count them.
    pub(super) fn len(&self) -> usize {
        self.by_sub.len()
    }

    pub(super) fn is_riding(&self) -> bool {
        matches!(self.mode, Mode::Riding(_))
    }

    /// Adds all filters of a subscription that may still apply after `floor`. One that is here already
    /// is served from there again.
    pub(super) fn add(&mut self, index: SubscriptionIndex, sub: &Sub, floor: Position) {
        for segment in &sub.segments {
            if segment.until.is_none_or(|until| until > floor) {
                let here = self.by_sub.get(&index).into_iter().flatten();
                let here = here.copied().find(|member| self.members[*member].generation == segment.generation);
                if let Some(member) = here {
                    let member = &mut self.members[member];
                    member.floor = member.floor.min(floor);
                    continue;
                }
                let member = self.members.insert(Member { sub: index, generation: segment.generation, floor });
                self.matcher.insert(SubscriptionIndex(member as u32), Arc::clone(&segment.filter));
                self.by_sub.entry(index).or_default().push(member);
            }
        }
    }

    /// Removes a subscription; whether it was here.
    pub(super) fn remove(&mut self, index: SubscriptionIndex) -> bool {
        let Some(members) = self.by_sub.remove(&index) else { return false };
        for member in members {
            self.matcher.remove(SubscriptionIndex(member as u32));
            self.members.remove(member);
        }
        true
    }

    pub(super) fn become_live(&mut self) {
        self.mode = Mode::Live;
        self.matcher.clear();
        (self.members, self.by_sub) = (Slab::new(), HashMap::new());
    }

    /// The messages that an entry of the stream makes for its members.
    pub(super) fn items(&mut self, name: LaneName, entry: &Entry, subs: &Paged<Sub>, flags: Flags) -> Vec<Item> {
        match entry {
            Entry::Change(change) => self.change_items(name, change, subs, flags),
            Entry::Gap(gap, is_last) => {
                let items = self.gap_items(name, gap, subs).into_iter();
                items.map(|item| advancing(item, *is_last)).collect()
            }
        }
    }

    fn change_items(
        &mut self,
        name: LaneName,
        change: &Arc<SharedChange>,
        subs: &Paged<Sub>,
        flags: Flags,
    ) -> Vec<Item> {
        let mut matches = Vec::new();
        self.matcher.matches(change, &mut matches);
        let at = change.position;
        let mut eligible: Vec<(SubscriptionIndex, Match)> = Vec::new();
        let mut found = Vec::new();
        for hit in matches {
            let member = self.members[hit.subscription.0 as usize];
            let sub = &subs[member.sub.0];
            let Some(segment) = sub.segments.iter().find(|segment| segment.generation == member.generation) else {
                continue;
            };
            let is_current = sub.current().generation == segment.generation;
            let in_range = segment.from < at && segment.until.is_none_or(|until| at <= until);
            let is_due = if is_current { sub.may_deliver(at) } else { sub.held().is_none_or(|held| at <= held) };
            if at > member.floor && in_range && is_due {
                eligible.push((member.sub, hit));
                found.push((segment, hit.verdict));
            }
        }
        compose(name, change, subs, &eligible, &found, flags)
    }

    fn gap_items(&self, name: LaneName, gap: &Gap, subs: &Paged<Sub>) -> Vec<Item> {
        let range = (gap.from(), gap.position);
        self.lost_items(name, gap, range, None, subs)
    }

    /// Says to whom it concerns that a range is lost; with `before`, only to those that began before that.
    pub(super) fn lost_items(
        &self,
        name: LaneName,
        gap: &Gap,
        range: (Position, Position),
        before: Option<Position>,
        subs: &Paged<Sub>,
    ) -> Vec<Item> {
        let began = |members: &[usize]| {
            before.is_none_or(|before| members.iter().any(|member| self.members[*member].floor < before))
        };
        let of = self.by_sub.iter().filter(|(_, members)| began(members)).map(|(index, _)| *index);
        // Of what lies in part beyond where it is held the next member is told as well.
        let is_due = |sub: &Sub| sub.held().is_none_or(|held| range.0 < held) && concerned(gap, sub).is_some();
        let of: Vec<_> = of.filter(|index| is_due(&subs[index.0])).collect();
        if of.is_empty() {
            return Vec::new();
        }
        vec![resync_item(subs, name, range, (gap.reason, Some(gap)), of)]
    }
}
