//! The matcher: all live subscriptions of a partition, filed so that a change meets few of them.
//!
//! Owns the scopes, and what becomes of what a search finds there. Whoever is found is evaluated in whatever finding it does not
//! decide, so the tables only ever save work: results are exactly those of evaluating every filter.

use std::sync::Arc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::bloom::{BloomCounts, BloomUse};
use super::filter::Filter;
use super::images::{Images, Shared};
use super::keys::Keys;
use super::meter::Meter;
use super::programs::{Programs, ShelfId};
use super::search::{Found, Search, Searching, Visit};
use super::shadow::{Difference, Shadow, ShadowCounts};
use super::shelf::Shelf;
use super::verdict::Side;
use super::{Match, Matches, ProgramId, SubscriptionIndex, Verdict};
use crate::change::{Change, Scope};
use crate::clock::Clock;

/// The live subscriptions of one partition.
#[derive(Default, Debug)]
pub struct Matcher {
    tenants: Tenants,
    programs: Programs,
    keys: Keys,
    search: Search,
    shelves_made: u32,
    counts: Counts,
    /// Where nobody watches, nothing is timed.
    meter: Option<Meter>,
    /// Of programs that were found too dear.
    too_costly: Vec<SubscriptionIndex>,
    shadow: Shadow,
}

/// What matching came to since the matcher was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Changes matched.
    pub changes: u64,
    /// Programs evaluated.
    pub candidates: u64,
    /// Subscriptions matched.
    pub matches: u64,
    /// The Bloom filter's part.
    pub bloom: BloomCounts,
    /// The shadow check's part.
    pub shadow: ShadowCounts,
}

impl Matcher {
    /// Without subscriptions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Without subscriptions, and with another use of the Bloom filter than the ordinary one.
    pub fn with_bloom(bloom: BloomUse) -> Self {
        Self { keys: Keys::new(bloom), ..Self::default() }
    }

    /// Without subscriptions, as it serves live traffic: programs that are too dear are found out, and every so
    /// manyth change is matched a second time by the reference (none if 0).
    pub fn watched(bloom: BloomUse, clock: Clock, shadow_every: u32) -> Self {
        Self { meter: Some(Meter::new(clock)), shadow: Shadow::new(shadow_every), ..Self::with_bloom(bloom) }
    }

    /// Those whose programs have taken more time than one may, since this was asked last.
    pub fn take_too_costly(&mut self) -> Vec<SubscriptionIndex> {
        std::mem::take(&mut self.too_costly)
    }

    /// What the shadow check has found since this was asked last; not all, if it was much.
    pub fn take_differences(&mut self) -> Vec<Difference> {
        self.shadow.take()
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.programs.subscriptions()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this subscription is here.
    pub fn contains(&self, subscription: SubscriptionIndex) -> bool {
        self.programs.of(subscription).is_some()
    }

    /// What matching came to so far.
    pub fn counts(&self) -> Counts {
        Counts { bloom: self.keys.bloom_counts(), shadow: self.shadow.counts, ..self.counts }
    }

    /// Adds a subscription, or replaces its filter.
    pub fn insert(&mut self, subscription: SubscriptionIndex, filter: Arc<Filter>) {
        self.remove(subscription);
        let (program, is_new) = self.programs.add(subscription, Arc::clone(&filter));
        if !is_new {
            self.share(program);
            return;
        }
        let home = &filter.concern.home;
        let tenant = self.tenants.entry(Arc::clone(home.tenant())).or_default();
        let shelf = tenant.entry(Arc::clone(home.collection())).or_insert_with(|| {
            self.shelves_made = self.shelves_made.wrapping_add(1);
            Shelf::new(ShelfId(self.shelves_made), home.clone())
        });
        let filed = shelf.file(&mut self.keys, (program, subscription), &filter);
        if let Some(program) = self.programs.get_mut(program) {
            program.filed(shelf.id, filed);
        }
    }

    /// Another has this program, too.
    fn share(&mut self, id: ProgramId) {
        let Some(program) = self.programs.get_mut(id) else { return };
        if !program.was_direct() {
            return;
        }
        let home = &program.filter.concern.home;
        let shelf = self.tenants.get_mut(&**home.tenant()).and_then(|shelves| shelves.get_mut(&**home.collection()));
        if let Some(shelf) = shelf {
            shelf.lead_to_program(&mut self.keys, id, &program.filter, program.conjunct());
        }
    }

    /// Takes all subscriptions out.
    pub fn clear(&mut self) {
        let (mut meter, shadow) = (self.meter.take(), std::mem::take(&mut self.shadow));
        meter.iter_mut().for_each(Meter::forget_all);
        *self = Self { meter, shadow, counts: self.counts, ..Self::with_bloom(self.keys.bloom_use()) };
    }

    /// Takes a subscription out; whether it was here.
    pub fn remove(&mut self, subscription: SubscriptionIndex) -> bool {
        let Some((program, last)) = self.programs.remove(subscription) else { return false };
        // What has been found too costly is gone; its number may be another's next.
        self.too_costly.retain(|costly| *costly != subscription);
        let Some(last) = last else { return true };
        if let Some(meter) = &mut self.meter {
            meter.forget(program);
        }
        let home = &last.filter.concern.home;
        if let Some(shelves) = self.tenants.get_mut(&**home.tenant()) {
            if let Some(shelf) = shelves.get_mut(&**home.collection()) {
                shelf.unfile(&mut self.keys, program, &last.filter, last.conjunct());
                if shelf.all.is_empty() {
                    shelves.remove(&**home.collection());
                }
            }
            if shelves.is_empty() {
                self.tenants.remove(&**home.tenant());
            }
        }
        true
    }

    /// Whom a change concerns, and how, in the order of the subscriptions' numbers. `out` is cleared.
    pub fn matches(&mut self, change: &Change, out: &mut Vec<Match>) {
        out.clear();
        self.run([change], out, |_| ());
    }

    /// The same of several changes, which is quicker than one by one. `out` is cleared.
    pub fn matches_of<'c>(&mut self, changes: impl IntoIterator<Item = &'c Change>, out: &mut Matches) {
        out.clear();
        let Matches { all, ends } = out;
        self.run(changes, all, |end| ends.push(end));
    }

    /// Adds whom each change concerns, and calls `ended` with where that ends.
    fn run<'c>(
        &mut self,
        changes: impl IntoIterator<Item = &'c Change>,
        out: &mut Vec<Match>,
        ended: impl FnMut(usize),
    ) {
        let (mut meter, mut shadow) = (self.meter.take(), std::mem::take(&mut self.shadow));
        let began = meter.as_ref().map(Meter::now);
        let mut counts = self.counts;
        let mut ledger = Ledger { number: 0, start: out.len(), out, ended };
        let (mut checked, mut shared) = (None, Shared::default());
        let each = |visit: &Visit<'_>, programs: &Programs, found: Found<'_>| {
            let Visit { number, change, shelf, side, .. } = *visit;
            if checked.is_none_or(|(last, _)| last != number) {
                ledger.begin(number);
                checked = Some((number, shadow.is_due(change)));
                shared = Shared::default();
            }
            counts.candidates += found.len() as u64;
            let matched = found.matched.iter().map(|it| Match { subscription: *it, verdict: Verdict::MATCH });
            ledger.out.extend(matched);
            let images = &mut Images::new(change, Some((&shelf.names, found.walks)), &mut shared);
            for id in found.programs {
                let Some(program) = programs.get(*id) else { continue };
                let timed = meter.as_mut().filter(|meter| meter.is_close());
                let began = timed.as_ref().map(|meter| meter.now());
                let verdict = program.asks.verdict(change, side, |image| program.holds(image, images));
                if let (Some(meter), Some(began)) = (timed, began) {
                    meter.ran(*id, began);
                }
                if let Some(verdict) = verdict {
                    program.subscriptions(|subscription| ledger.out.push(Match { subscription, verdict }));
                }
            }
            if checked.is_some_and(|(_, is_checked)| is_checked) {
                shelf.check(programs, &found, change, &ledger.out[ledger.start..], &mut shadow);
            }
        };
        let passed = self.search(changes, each);
        ledger.begin(passed);
        counts.changes += passed as u64;
        counts.matches += ledger.out.len() as u64;
        (self.counts, self.shadow) = (counts, shadow);
        if let (Some(mut meter), Some(began)) = (meter, began) {
            for program in meter.matched(began).into_iter().filter_map(|program| self.programs.get(program)) {
                program.subscriptions(|subscription| self.too_costly.push(subscription));
            }
            self.meter = Some(meter);
        }
    }

    /// The programs that cost the most, by one subscription of each: microseconds of one evaluation on average, and how
    /// many were timed.
    pub fn costliest(&self, max: usize) -> Vec<(SubscriptionIndex, f64, u64)> {
        let timed = self.meter.iter().flat_map(|meter| meter.costliest(max));
        let of_one = |(program, micros, runs)| {
            let mut first = None;
            self.programs.get(program)?.subscriptions(|subscription| first = first.or(Some(subscription)));
            Some((first?, micros, runs))
        };
        timed.filter_map(of_one).collect()
    }

    /// The same for a change that only might have been: it is neither counted nor timed nor checked. How many programs
    /// were evaluated.
    pub fn trial(&mut self, change: &Change, out: &mut Vec<Match>) -> usize {
        let (counts, bloom) = (self.counts, self.keys.bloom_counts());
        let (meter, shadow) = (self.meter.take(), std::mem::take(&mut self.shadow));
        self.matches(change, out);
        let evaluated = self.counts.candidates - counts.candidates;
        (self.meter, self.shadow, self.counts) = (meter, shadow, counts);
        self.keys.set_bloom_counts(bloom);
        evaluated as usize
    }

    /// How many programs have to be evaluated for a change: what the tables leave over.
    pub fn candidates(&mut self, change: &Change) -> usize {
        let mut candidates = 0;
        self.search([change], |_, _, found| candidates += found.len());
        candidates
    }

    /// Calls `each` for every shelf that one of the changes may concern, in the order of the changes, with the programs
    /// there that may be true, each once, and what was found in its bodies. How many changes there were.
    fn search<'c>(
        &mut self,
        changes: impl IntoIterator<Item = &'c Change>,
        each: impl FnMut(&Visit<'_>, &Programs, Found<'_>),
    ) -> usize {
        let Self { tenants, programs, keys, search, .. } = self;
        let mut searching = Searching { search, keys, programs, visits: Vec::new(), each };
        let mut passed = 0;
        for (number, change) in changes.into_iter().enumerate() {
            each_shelf(tenants, &change.scope, &mut |shelf| searching.visit(number, change, shelf, Side::Here));
            if let Some(left) = &change.left {
                each_shelf(tenants, left, &mut |shelf| {
                    if !shelf.home.is(&change.scope) {
                        searching.visit(number, change, shelf, Side::Left);
                    }
                });
            }
            passed = number + 1;
        }
        searching.end();
        passed
    }
}

/// Matches as they come, change by change.
struct Ledger<'a, E> {
    /// The change whose matches come, and where they start.
    number: usize,
    start: usize,
    out: &'a mut Vec<Match>,
    ended: E,
}

impl<E: FnMut(usize)> Ledger<'_, E> {
    /// Those of this change come next.
    fn begin(&mut self, number: usize) {
        while self.number < number {
            self.out[self.start..].sort_unstable_by_key(|found| found.subscription);
            self.start = self.out.len();
            self.number += 1;
            (self.ended)(self.start);
        }
    }
}

type Tenants = HashMap<Arc<str>, Shelves, FxBuildHasher>;
type Shelves = HashMap<Arc<str>, Shelf, FxBuildHasher>;

/// Calls `each` with the shelves that a scope is, or may be.
fn each_shelf<'a>(tenants: &'a Tenants, scope: &Scope, each: &mut impl FnMut(&'a Shelf)) {
    let mut of_tenant = |shelves: &'a Shelves| match &scope.collection {
        Some(collection) => shelves.get(&**collection).into_iter().for_each(&mut *each),
        None => shelves.values().for_each(&mut *each),
    };
    match &scope.tenant {
        Some(tenant) => tenants.get(&**tenant).into_iter().for_each(of_tenant),
        None => tenants.values().for_each(&mut of_tenant),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::change::{Flags, Operation};
    use crate::position::{ClusterTime, Epoch, Position};
    use crate::subscription::Spec;

    fn filter(cel: &str) -> Arc<Filter> {
        let spec = json!({"subscriptionId": "s", "gatewayId": "g", "tenant": "t", "collection": "c", "cel": cel});
        Filter::compile(&Spec::from_json(&spec).unwrap()).unwrap()
    }

    fn change(document: &bson::Document) -> Change {
        Change {
            position: Position::new(Epoch(1), ClusterTime::new(1, 1), 1),
            scope: Scope::known("t", "c"),
            left: None,
            key: "k".into(),
            operation: Operation::Insert,
            document: Some(bson::RawDocumentBuf::try_from(document).unwrap()),
            before: None,
            changed: None,
            wall_time_ms: None,
            transaction: None,
            flags: Flags::none(),
        }
    }

    #[test]
    fn the_shadow_check_notices_a_lost_key() {
        let mut matcher = Matcher::watched(BloomUse::Off, Clock::manual(), 2);
        for number in 0..100 {
            matcher.insert(SubscriptionIndex(number), filter(&format!("doc.a == {number} && doc.text != 'secret'")));
        }
        let (one, mut out) = (change(&bson::doc! {"a": 7, "text": "private"}), Vec::new());
        for _ in 0..20 {
            matcher.matches(&one, &mut out);
            assert_eq!(out.len(), 1);
        }
        let counts = matcher.counts().shadow;
        assert!(counts.checks >= 250 && counts.differences == 0, "{counts:?}");
        assert!(matcher.take_differences().is_empty());
        matcher.keys = Keys::new(BloomUse::Off);
        for _ in 0..8 {
            matcher.matches(&one, &mut out);
            assert!(out.is_empty());
        }
        assert!(matcher.counts().shadow.differences >= 1);
        let found = matcher.take_differences();
        assert_eq!(found[0].program, "(doc.a == 7 && doc.text != \"secret\")");
        assert_eq!((found[0].shape.as_str(), found[0].found), ("{a: Int32, text: String}", None));
        assert!(found[0].expected.is_some());
    }

    /// An interval leads to its one subscription, and if that is wrong the next check says so, however many there are.
    #[test]
    fn the_shadow_check_notices_a_wrong_direct_match() {
        let mut matcher = Matcher::watched(BloomUse::Off, Clock::manual(), 1);
        for number in 0..1_000 {
            matcher.insert(SubscriptionIndex(number), filter(&format!("doc.a >= {number} && doc.a <= {number}")));
        }
        let (one, mut out) = (change(&bson::doc! {"a": 900}), Vec::new());
        matcher.matches(&one, &mut out);
        assert_eq!((out.len(), matcher.counts().shadow.differences), (1, 0));
        // The program of the interval that is found says something else.
        let id = matcher.programs.of(SubscriptionIndex(900)).unwrap();
        matcher.programs.get_mut(id).unwrap().filter = filter("doc.a == 1");
        matcher.matches(&one, &mut out);
        assert_eq!((out.len(), matcher.counts().shadow.differences), (1, 1));
    }

    #[test]
    fn changes_of_a_crowd_are_matched_one_by_one() {
        let mut matcher = Matcher::new();
        for number in 0..70_000 {
            matcher.insert(SubscriptionIndex(number), filter("doc.a == 1"));
        }
        let (changes, mut out) = (vec![change(&bson::doc! {"a": 1}); 2], Matches::default());
        assert!(out.together() > 1);
        matcher.matches_of(&changes, &mut out);
        assert_eq!(out.iter_mut().map(|found| found.len()).collect::<Vec<_>>(), [70_000; 2]);
        assert_eq!(out.together(), 1);
        matcher.matches_of(&[change(&bson::doc! {"a": 2})], &mut out);
        assert!(out.together() > 1);
    }

    /// Of a million keys two meet now and then; here nearly all do, within tenants and between them.
    #[test]
    fn whoever_is_found_by_a_key_that_met_another_is_evaluated_as_what_it_is() {
        let mut matcher = Matcher::new();
        matcher.keys.all_meet = true;
        let mut filters = Vec::new();
        for number in 0..60_u32 {
            let (tenant, field) =
                (["t", "u", "v"][number as usize % 3], ["a", "b", "c", "d.e", "f"][number as usize % 5]);
            // One tenant names one path, another many.
            let field = if tenant == "t" { "a" } else { field };
            let mut asked = json!({"subscriptionId": "s", "gatewayId": "g", "tenant": tenant, "collection": "c",
                                   "filters": [{"field": field, "op": "==", "value": format!("x{}", number % 4)}]});
            if number % 7 == 0 {
                asked["filters"][0] = json!({"field": field, "op": "array-contains", "value": "x1"});
            }
            if number % 8 == 1 {
                asked["filters"][0] = json!({"field": field, "op": "in", "value": ["x1", "another"]});
            }
            if number % 6 == 0 {
                asked["transitions"] = json!(true);
            }
            let filter = Filter::compile(&Spec::from_json(&asked).unwrap()).unwrap();
            matcher.insert(SubscriptionIndex(number), Arc::clone(&filter));
            filters.push(filter);
        }
        let bodies = [
            bson::doc! {"a": "x1"},
            bson::doc! {"a": ["x1"], "b": "x2", "c": "x3", "d": {"e": "x0"}, "f": "x1"},
            bson::doc! {"f": "x1", "b": {"x1": 1}},
        ];
        let (mut out, mut found) = (Vec::new(), 0);
        for tenant in ["t", "u", "v"] {
            for (body, before) in bodies.iter().zip(bodies.iter().cycle().skip(1)) {
                for left in [None, Some(Scope::known("u", "c")), Some(Scope::known("t", "c"))] {
                    let mut one = change(body);
                    one.before = Some(bson::RawDocumentBuf::try_from(before).unwrap());
                    one.operation = Operation::Update;
                    (one.scope, one.left) = (Scope::known(tenant, "c"), left);
                    matcher.matches(&one, &mut out);
                    let expected: Vec<Match> = (0..)
                        .zip(&filters)
                        .filter_map(|(number, filter)| {
                            let verdict = filter.evaluate(&one)?;
                            Some(Match { subscription: SubscriptionIndex(number), verdict })
                        })
                        .collect();
                    assert_eq!(out, expected, "{tenant} {body}");
                    found += out.len();
                }
            }
        }
        assert!(found > 50, "{found}");
    }

    /// Each of many elements leads to each of many programs.
    #[test]
    fn a_value_that_stands_there_a_million_times_is_looked_up_once() {
        let mut matcher = Matcher::new();
        for number in 0..300_u32 {
            let asked = json!({"subscriptionId": "s", "gatewayId": "g", "tenant": "t", "collection": "c",
                "filters": [{"field": "tags", "op": "array-contains-any", "value": [1, number + 2]}]});
            let filter = Filter::compile(&Spec::from_json(&asked).unwrap()).unwrap();
            matcher.insert(SubscriptionIndex(number), filter);
        }
        let (one, mut out) = (change(&bson::doc! {"tags": vec![1; 5_000]}), Vec::new());
        matcher.matches(&one, &mut out);
        assert_eq!(out.len(), 300);
        let kept = matcher.search.kept();
        assert!(kept <= 4_700, "{kept}");
        // All their programs are under each of these keys, too.
        matcher.matches(&change(&bson::doc! {"tags": (0..5_000).map(|n| n % 302).collect::<Vec<i32>>()}), &mut out);
        assert!(out.len() == 300 && matcher.search.kept() <= 20_000);
    }

    #[test]
    fn a_trial_is_neither_counted_nor_checked_nor_timed() {
        let clock = Clock::manual();
        let mut matcher = Matcher::watched(BloomUse::From(1), clock.clone(), 2);
        for number in 0..10 {
            matcher.insert(SubscriptionIndex(number), filter(&format!("doc.a == {number}")));
        }
        let (one, mut out) = (change(&bson::doc! {"a": 1}), Vec::new());
        matcher.matches(&one, &mut out);
        let counts = matcher.counts();
        for _ in 0..10 {
            assert_eq!(matcher.trial(&one, &mut out), 1);
            assert_eq!(out.len(), 1);
        }
        assert_eq!(matcher.counts(), counts);
        matcher.matches(&one, &mut out);
        assert!(matcher.counts().shadow.checks > 0, "it was the second that counts");
    }

    /// The reference reads a body anew for each program: a large one is left to the next change.
    #[test]
    fn a_large_body_is_not_checked_and_the_next_is() {
        let mut matcher = Matcher::watched(BloomUse::Off, Clock::manual(), 1);
        matcher.insert(SubscriptionIndex(0), filter("doc.a == 1"));
        let mut out = Vec::new();
        matcher.matches(&change(&bson::doc! {"a": 1, "text": "x".repeat(100_000)}), &mut out);
        assert_eq!((out.len(), matcher.counts().shadow.checks), (1, 0));
        matcher.matches(&change(&bson::doc! {"a": 1}), &mut out);
        assert!(matcher.counts().shadow.checks > 0);
    }

    /// Numbers are reused: what the last holder cost is not the next one's fault.
    #[test]
    fn whoever_comes_after_a_costly_one_has_cost_nothing() {
        let mut matcher = Matcher::new();
        for number in 0..3 {
            matcher.insert(SubscriptionIndex(number), filter(&format!("doc.a == {number}")));
        }
        matcher.too_costly = (0..3).map(SubscriptionIndex).collect();
        matcher.remove(SubscriptionIndex(1));
        matcher.insert(SubscriptionIndex(1), filter("doc.b == 1"));
        matcher.insert(SubscriptionIndex(2), filter("doc.b == 2"));
        assert_eq!(matcher.take_too_costly(), [SubscriptionIndex(0)]);
    }

    #[test]
    fn searches_may_be_counted_round() {
        let mut matcher = Matcher::new();
        matcher.insert(SubscriptionIndex(0), filter("doc.a == 1"));
        let (one, mut out) = (change(&bson::doc! {"a": 1}), Vec::new());
        matcher.search.number = u32::MAX - 2;
        for _ in 0..6 {
            matcher.matches(&one, &mut out);
            assert_eq!(out.len(), 1);
        }
    }
}
