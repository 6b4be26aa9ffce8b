//! Messages: what one change, or one lost range, says to one gateway.
//!
//! Owns how matches become items. Knows nothing of sessions or of their progress.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::state::{Segment, Sub};
use crate::change::{Flags, ResyncReason};
use crate::delivery::body::SharedChange;
use crate::delivery::frame::Matched;
use crate::delivery::outbox::{ChangeItem, Item, LaneName, ResyncItem};
use crate::limits;
use crate::matching::{Match, SubscriptionIndex};
use crate::paged::Paged;
use crate::position::Position;
use crate::source::Gap;
use crate::subscription::{Path, Spec};

/// The messages that one change makes for one gateway: what left a scope first, then what matches,
/// split where the list is very long. Only the last moves the cursor.
pub(super) fn compose(
    lane: LaneName,
    change: &Arc<SharedChange>,
    subs: &Paged<Sub>,
    eligible: &[(SubscriptionIndex, Match)],
    found: &[(&Segment, crate::matching::Verdict)],
    flags: Flags,
) -> Vec<Item> {
    let mut items = Vec::new();
    let kind = |i: usize| {
        let verdict = &found[i].1;
        let is_redelivered = subs[eligible[i].0.0].is_redelivered(change.position);
        (verdict.left_scope, verdict.broadcast, is_redelivered)
    };
    for left_scope in [true, false] {
        for (broadcast, redelivered) in [(true, true), (true, false), (false, true), (false, false)] {
            let chosen: Vec<usize> =
                (0..found.len()).filter(|i| kind(*i) == (left_scope, broadcast, redelivered)).collect();
            for part in chosen.chunks(limits::matches_per_message_max) {
                let matches = part.iter().map(|i| {
                    let (segment, verdict) = &found[*i];
                    Matched {
                        subscription_id: subs[eligible[*i].0.0].key.id.clone(),
                        generation: segment.shown(),
                        transition: verdict.transition,
                        certainty: verdict.certainty,
                    }
                });
                let segments: Vec<&Segment> = part.iter().map(|i| found[*i].0).collect();
                let extra = if broadcast { Flags::BROADCAST } else { Flags::none() };
                let extra = if redelivered { extra.with(Flags::REDELIVERED) } else { extra };
                items.push(ChangeItem {
                    lane,
                    change: Arc::clone(change),
                    matches: matches.collect(),
                    flags: change.flags.with(flags).with(extra),
                    left_scope,
                    fields: union_of_fields(&segments),
                    with_before: segments.iter().any(|segment| segment.spec.transitions),
                    advance: false,
                    owned: false,
                });
            }
        }
    }
    if let Some(last) = items.last_mut() {
        last.advance = true;
    }
    items.into_iter().map(|item| Item::Change(Box::new(item))).collect()
}

/// Says to these subscriptions that a range is lost; if there was a gap, for what it concerns of them.
pub(super) fn resync_item(
    subs: &Paged<Sub>,
    lane: LaneName,
    (from, to): (Position, Position),
    (reason, gap): (ResyncReason, Option<&Gap>),
    of: impl IntoIterator<Item = SubscriptionIndex>,
) -> Item {
    let mut scopes = BTreeSet::new();
    let mut subscription_ids = BTreeSet::new();
    for sub in of {
        let sub = &subs[sub.0];
        let spec = gap.and_then(|gap| concerned(gap, sub)).unwrap_or(&sub.current().spec);
        scopes.insert((Arc::clone(&spec.tenant), Arc::clone(&spec.collection)));
        subscription_ids.insert(sub.key.id.clone());
    }
    let (scopes, subscription_ids) = (Some(scopes.into_iter().collect()), subscription_ids.into_iter().collect());
    let from = Some(from);
    Item::Resync(Box::new(ResyncItem { lane, advance: true, from, to, reason, scopes, subscription_ids }))
}

/// A change that came by a reading of its own is nobody else's.
pub(super) fn owned(mut item: Item) -> Item {
    if let Item::Change(change) = &mut item {
        change.owned = true;
    }
    item
}

/// Where more is to be said at the same position, the cursor must not have passed it.
pub(super) fn advancing(mut item: Item, advance: bool) -> Item {
    if let Item::Resync(resync) = &mut item {
        resync.advance = advance;
    }
    item
}

/// What of a subscription a gap concerned, if anything: what it asks for now, or what it asked for when it happened.
pub(super) fn concerned<'a>(gap: &Gap, sub: &'a Sub) -> Option<&'a Spec> {
    let covers = |known: &Option<Arc<str>>, name: &Arc<str>| known.as_ref().is_none_or(|known| known == name);
    let is_its_time =
        |segment: &&Segment| segment.from <= gap.position && segment.until.is_none_or(|until| gap.position <= until);
    let specs = sub.segments.iter().filter(is_its_time).map(|segment| &*segment.spec);
    let mut specs =
        specs.filter(|spec| covers(&gap.scope.tenant, &spec.tenant) && covers(&gap.scope.collection, &spec.collection));
    specs.next()
}

/// The fields that any of them asks for; `None` if one asks for all.
fn union_of_fields(segments: &[&Segment]) -> Option<Arc<[Path]>> {
    let first = segments.first()?.fields.as_ref()?;
    let mut all: Option<BTreeSet<Path>> = None;
    for segment in &segments[1..] {
        let fields = segment.fields.as_ref()?;
        if !Arc::ptr_eq(first, fields) && first != fields {
            all.get_or_insert_with(|| first.iter().cloned().collect()).extend(fields.iter().cloned());
        }
    }
    Some(all.map_or_else(|| Arc::clone(first), |all| all.into_iter().collect()))
}
