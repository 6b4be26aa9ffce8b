//! Searches: from changes to the programs that may be true of them.
//!
//! Owns the steps and their order: the walk over the bodies, the keys of what stands there, what is filed under those, the
//! programs. What a step looks up lies far apart in memory, so each is taken for several changes before the next is
//! taken for the first: looked up together, one need not wait for the other.

use super::keys::{Filed, KeyHash, Keys};
use super::names::{NodeId, Walk};
use super::programs::{EVERYWHERE, Lead, Program, Programs};
use super::shelf::Shelf;
use super::table::{Kind, Spot, Table};
use super::verdict::{Image, Side};
use super::{ProgramId, SubscriptionIndex};
use crate::change::{Change, Operation};

/// Changes whose steps are taken together.
pub(super) const TOGETHER: usize = 16;
/// Or fewer, where so much was found for them or is to be looked up.
const KEYS_MANY: usize = 4_096;
/// What a walk remembers is as large as the tree of names, and of a large one it is remembered once.
const NAMES_MANY: usize = 4_096;
/// Keys of one body that are worth sorting.
const REPEATED: usize = 1_024;

/// What is reused from one search to the next.
#[derive(Default, Debug)]
pub(super) struct Search {
    pub(super) number: u32,
    lanes: Vec<Lane>,
    finds: Finds,
    found: Vec<ProgramId>,
}

/// What one visit has found so far.
#[derive(Default, Debug)]
struct Lane {
    walks: [Walk; 2],
    /// Programs, and in which image each was found: a bit for it.
    leads: Vec<(ProgramId, u8)>,
    /// The same of keys with many programs.
    crowds: Vec<(Filed, u8)>,
    matched: Vec<SubscriptionIndex>,
}

/// What values have led to.
#[derive(Default, Debug)]
pub(super) struct Finds {
    /// Whose they are: lane and image.
    of: Of,
    /// To be looked up.
    keys: Vec<(KeyHash, Of)>,
    spans: Vec<(NodeId, Kind, u64, Of)>,
    filed: Vec<(Filed, Of)>,
    /// Subscriptions that matter if the image does.
    only: Vec<(SubscriptionIndex, Of)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Of(u8, Image);

impl Default for Of {
    fn default() -> Self {
        Self(0, Image::Post)
    }
}

impl Finds {
    /// To be looked up.
    #[inline]
    pub(super) fn key(&mut self, key: KeyHash) {
        self.keys.push((key, self.of));
    }

    /// To be looked up among the intervals of a node.
    #[inline]
    pub(super) fn span(&mut self, node: NodeId, kind: Kind, key: u64) {
        self.spans.push((node, kind, key, self.of));
    }

    /// It is filed where the value is.
    #[inline]
    pub(super) fn lead(&mut self, lead: Lead) {
        match lead.subscription() {
            Some(subscription) => self.only.push((subscription, self.of)),
            None => self.filed.push((lead.program.into(), self.of)),
        }
    }

    /// Looks up what is to be looked up among intervals; `table` is whose they are.
    fn look_up_spans<'a>(&mut self, table: impl Fn(usize, NodeId) -> &'a Table) {
        let spans = std::mem::take(&mut self.spans);
        let mut leaves = Vec::with_capacity(spans.len());
        for (node, kind, key, of) in &spans {
            let Some(spans) = table(usize::from(of.0), *node).spans(*kind) else { continue };
            self.of = *of;
            leaves.push((spans.descend(*key, &mut |lead| self.lead(lead)), *of));
        }
        leaves.iter().for_each(|(leaf, _)| leaf.fetch());
        for (leaf, of) in leaves {
            self.of = of;
            leaf.stab(&mut |lead| self.lead(lead));
        }
        self.spans = spans;
        self.spans.clear();
    }

    fn len(&self) -> usize {
        self.keys.len() + self.filed.len()
    }

    /// A document may have a value a million times.
    fn forget_repeated_keys(&mut self, start: usize) {
        if self.keys.len() - start > REPEATED {
            let mut keys = self.keys.split_off(start);
            keys.sort_unstable();
            keys.dedup();
            self.keys.append(&mut keys);
        }
    }
}

#[cfg(test)]
impl Search {
    /// For how many things memory is kept.
    pub(super) fn kept(&self) -> usize {
        let finds = self.finds.keys.capacity() + self.finds.filed.capacity() + self.finds.only.capacity();
        let of_lane = |lane: &Lane| lane.leads.capacity() + lane.crowds.capacity() + lane.matched.capacity();
        finds + self.lanes.iter().map(of_lane).sum::<usize>()
    }
}

/// A change at a shelf that it concerns.
pub(super) struct Visit<'a> {
    /// Which of the changes it is.
    pub(super) number: usize,
    pub(super) change: &'a Change,
    pub(super) shelf: &'a Shelf,
    pub(super) side: Side,
    /// There is no body to go by: it goes to everyone there.
    is_unseen: bool,
}

impl Visit<'_> {
    /// The image that decides about a filter that asks for nothing but the document.
    fn decisive(&self) -> Option<Image> {
        let image = if self.change.operation == Operation::Delete { Image::Pre } else { Image::Post };
        (self.side == Side::Here && !self.is_unseen).then_some(image)
    }
}

/// What a visit found.
pub(super) struct Found<'a> {
    /// To be evaluated, each once.
    pub(super) programs: &'a [ProgramId],
    /// Those that nothing is left to evaluate of, each once.
    pub(super) matched: &'a [SubscriptionIndex],
    pub(super) walks: &'a [Walk; 2],
}

impl Found<'_> {
    /// How many programs it led to.
    pub(super) fn len(&self) -> usize {
        self.programs.len() + self.matched.len()
    }
}

/// A search under way: visits are taken in, and `each` is called for them, in their order, with what was found; for some
/// at once, for the others at the end.
pub(super) struct Searching<'s, 'a, E> {
    pub(super) search: &'s mut Search,
    pub(super) keys: &'s mut Keys,
    pub(super) programs: &'s mut Programs,
    pub(super) visits: Vec<Visit<'a>>,
    pub(super) each: E,
}

impl<'a, E> Searching<'_, 'a, E>
where
    E: FnMut(&Visit<'a>, &Programs, Found<'_>),
{
    /// A change, the one of this number, may concern a shelf.
    pub(super) fn visit(&mut self, number: usize, change: &'a Change, shelf: &'a Shelf, side: Side) {
        let (document, before) = (change.document.as_deref(), change.before.as_deref());
        let (is_here, is_delete) = (side == Side::Here, change.operation == Operation::Delete);
        let is_unseen = is_here && if is_delete { before.is_none() } else { document.is_none() };
        let is_large = shelf.names.len() > NAMES_MANY;
        if is_large && !self.visits.is_empty() {
            self.end();
        }
        if self.search.lanes.len() <= self.visits.len() {
            self.search.lanes.push(Lane::default());
        }
        if !is_unseen {
            let bodies = [document.filter(|_| is_here), before.filter(|_| is_delete || shelf.transitions > 0)];
            self.walk(shelf, bodies.map(|body| body.map(|body| body.as_bytes())));
        }
        self.visits.push(Visit { number, change, shelf, side, is_unseen });
        if is_large || self.visits.len() >= TOGETHER || self.search.finds.len() > KEYS_MANY {
            self.end();
        }
    }

    /// Goes over the bodies for what is named on the shelf.
    fn walk(&mut self, shelf: &Shelf, bodies: [Option<&[u8]>; 2]) {
        let (lane, Search { lanes, finds, .. }) = (self.visits.len(), &mut *self.search);
        for ((walk, body), image) in lanes[lane].walks.iter_mut().zip(bodies).zip([Image::Post, Image::Pre]) {
            let Some(body) = body else { continue };
            finds.of = Of(lane as u8, image);
            let start = finds.keys.len();
            walk.run(&shelf.names, body);
            for (node, value) in walk.found(body) {
                shelf.names.table(node).find(self.keys, Spot(shelf.id, node), value, finds);
            }
            finds.forget_repeated_keys(start);
        }
    }

    /// Takes all other steps for the visits so far.
    pub(super) fn end(&mut self) {
        let Self { search: Search { number, lanes, finds, found }, keys, programs, visits, each } = self;
        if !finds.spans.is_empty() {
            finds.look_up_spans(|lane, node| visits[lane].shelf.names.table(node));
        }
        let filed = finds.keys.drain(..).filter_map(|(key, of)| Some((keys.find(key)?, of)));
        finds.filed.extend(filed);
        for (filed, Of(lane, image)) in finds.filed.drain(..) {
            let lane = &mut lanes[usize::from(lane)];
            let image = 1 << image as u8;
            if !keys.few(filed, |program| lane.leads.push((program, image))) {
                lane.crowds.push((filed, image));
            }
        }
        for (subscription, Of(lane, image)) in finds.only.drain(..) {
            let lane = usize::from(lane);
            if visits[lane].decisive() == Some(image) {
                lanes[lane].matched.push(subscription);
            }
        }
        // What another shelf's programs have filed under a key that meets one of ours goes, and all others are at hand.
        for (visit, lane) in visits.iter().zip(&mut *lanes) {
            let shelf = visit.shelf.id;
            lane.leads.retain(|(program, _)| programs.get(*program).is_some_and(|program| program.is_on(shelf)));
        }
        for (program, _) in lanes.iter().flat_map(|lane| &lane.leads) {
            programs.get(*program).into_iter().for_each(Program::fetch);
        }
        for (visit, lane) in visits.drain(..).zip(&mut *lanes) {
            *number = number.wrapping_add(1);
            if *number == 0 {
                programs.forget_searches();
                *number = 1;
            }
            found.clear();
            let mut note = |program: ProgramId, images: u8| {
                if programs.get_mut(program).is_some_and(|known| known.found_by(*number, visit.shelf.id, images)) {
                    found.push(program);
                }
            };
            // Programs that are to be evaluated, or not to be, whatever the bodies.
            let all = if visit.is_unseen { &visit.shelf.all } else { &visit.shelf.scanned };
            all.iter().for_each(|program| note(*program, EVERYWHERE));
            lane.leads.drain(..).for_each(|(program, image)| note(program, image));
            // A value that stands there a hundred times leads to its crowd once.
            lane.crowds.sort_unstable();
            lane.crowds.dedup();
            for (filed, image) in lane.crowds.drain(..) {
                keys.programs(filed, |program| note(program, image));
            }
            each(&visit, programs, Found { programs: found, matched: &lane.matched, walks: &lane.walks });
            lane.give_back();
        }
        // What a large document took is not kept for small ones.
        finds.keys.shrink_to(4 * REPEATED);
        finds.filed.shrink_to(4 * REPEATED);
        finds.only.shrink_to(4 * REPEATED);
        finds.spans.shrink_to(4 * REPEATED);
    }
}

impl Lane {
    fn give_back(&mut self) {
        self.leads.shrink_to(4 * REPEATED);
        self.crowds.shrink_to(4 * REPEATED);
        self.matched.clear();
        self.matched.shrink_to(4 * REPEATED);
    }
}
