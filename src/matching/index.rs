//! The matcher: all live subscriptions of a partition, filed so that a change meets few of them.
//!
//! A subscription stands in the list of its tenant and collection, and there either in tables of
//! paths, under the values of its cover (`access`), or in a list that every change of the scope goes
//! through. A change looks up the fields that have tables. Whoever is found
//! is evaluated in full, so the tables only ever save work: results are exactly those of evaluating
//! every filter.

use std::hash::BuildHasherDefault;
use std::sync::Arc;

use bson::RawDocument;
use hashbrown::{HashMap, HashSet};
use rustc_hash::FxHasher;

use super::access::{By, Key, with_key};
use super::filter::{Filter, Shared};
use super::path::{self, Found};
use super::ranges::{Ranges, number_key, time_key};
use super::raw::Raw;
use super::value::Value;
use super::{Match, SubscriptionIndex};
use crate::change::{Change, Operation, Scope};
use crate::limits;
use crate::subscription::Path;

type Hashing = BuildHasherDefault<FxHasher>;
type Members = HashSet<SubscriptionIndex, Hashing>;

/// The live subscriptions of one partition.
#[derive(Default, Debug)]
pub struct Matcher {
    filters: Vec<Option<Arc<Filter>>>,
    len: usize,
    tenants: HashMap<Arc<str>, HashMap<Arc<str>, Shelf, Hashing>, Hashing>,
    found: Vec<SubscriptionIndex>,
}

/// The subscriptions of one tenant and collection.
#[derive(Default, Debug)]
struct Shelf {
    all: Members,
    tables: HashMap<Path, Table, Hashing>,
    /// Those in no table.
    scanned: Members,
}

/// Subscriptions that are found by what lies at one path.
#[derive(Default, Debug)]
struct Table {
    equal: ByKey,
    member: ByKey,
    numbers: Ranges<u64>,
    times: Ranges<u64>,
    texts: Ranges<Box<[u8]>>,
    present: Members,
}

/// So many subscriptions are found before it is looked whether some were found twice.
const FOUND_COMPACT: usize = 1_024;

/// A text is told from every end by no more of it than the longest end and one byte has.
fn stab_text(texts: &Ranges<Box<[u8]>>, text: &[u8], found: &mut impl FnMut(SubscriptionIndex)) {
    if !texts.is_empty() {
        texts.stab(&text[..text.len().min(limits::string_value_bytes_max + 2)].into(), found);
    }
}

#[derive(Default, Debug)]
struct ByKey(HashMap<Key, Members, Hashing>);

impl ByKey {
    fn insert(&mut self, key: &Key, subscription: SubscriptionIndex) {
        self.0.entry(key.clone()).or_default().insert(subscription);
    }

    fn remove(&mut self, key: &Key, subscription: SubscriptionIndex) {
        if self.0.get_mut(key).is_some_and(|members| members.remove(&subscription) && members.is_empty()) {
            self.0.remove(key);
        }
    }

    fn find(&self, value: Raw<'_>, found: &mut Vec<SubscriptionIndex>) {
        if !self.0.is_empty() {
            with_key(value, |key| found.extend(self.0.get(&key).into_iter().flatten()));
        }
    }
}

impl Table {
    fn is_empty(&self) -> bool {
        let ranges = self.numbers.is_empty() && self.times.is_empty() && self.texts.is_empty();
        ranges && self.equal.0.is_empty() && self.member.0.is_empty() && self.present.is_empty()
    }

    fn insert(&mut self, by: &By, subscription: SubscriptionIndex) {
        match by {
            By::Equal(key) => self.equal.insert(key, subscription),
            By::In(keys) => keys.iter().for_each(|key| self.equal.insert(key, subscription)),
            By::Member(keys) => keys.iter().for_each(|key| self.member.insert(key, subscription)),
            By::Numbers(start, stop) => self.numbers.insert(start, stop, subscription),
            By::Times(start, stop) => self.times.insert(start, stop, subscription),
            By::Texts(start, stop) => self.texts.insert(start, stop, subscription),
            By::Present => drop(self.present.insert(subscription)),
        }
    }

    fn remove(&mut self, by: &By, subscription: SubscriptionIndex) {
        match by {
            By::Equal(key) => self.equal.remove(key, subscription),
            By::In(keys) => keys.iter().for_each(|key| self.equal.remove(key, subscription)),
            By::Member(keys) => keys.iter().for_each(|key| self.member.remove(key, subscription)),
            By::Numbers(start, stop) => self.numbers.remove(start, stop, subscription),
            By::Times(start, stop) => self.times.remove(start, stop, subscription),
            By::Texts(start, stop) => self.texts.remove(start, stop, subscription),
            By::Present => drop(self.present.remove(&subscription)),
        }
    }

    fn find(&self, path: &Path, body: &RawDocument, found: &mut Vec<SubscriptionIndex>) {
        let Found::Value(value) = path::find(body, path) else { return };
        found.extend(&self.present);
        self.equal.find(value, found);
        let mut compact_at = found.len() + FOUND_COMPACT;
        if !self.member.0.is_empty()
            && let Raw::List(container) | Raw::Map(container) = value
        {
            for (name, item) in container.fields().map_while(Result::ok) {
                let member = if matches!(value, Raw::List(_)) { item } else { Raw::Text(name) };
                self.member.find(member, found);
                // Equal elements find the same again and again.
                if found.len() > compact_at {
                    found.sort_unstable();
                    found.dedup();
                    compact_at = 2 * found.len() + FOUND_COMPACT;
                }
            }
        }
        let mut found = |subscription| found.push(subscription);
        match value {
            Raw::Time(time) => self.times.stab(&time_key(time), &mut found),
            Raw::Int(number) => self.numbers.stab(&number_key(number as f64).unwrap_or_default(), &mut found),
            Raw::Double(number) => number_key(number).iter().for_each(|key| self.numbers.stab(key, &mut found)),
            Raw::Text(text) => stab_text(&self.texts, text, &mut found),
            // Some of the rarer types count as numbers or as texts.
            Raw::Other(..) if !self.texts.is_empty() || !self.numbers.is_empty() => match value.value() {
                Ok(Value::Double(number)) => {
                    number_key(number).iter().for_each(|key| self.numbers.stab(key, &mut found))
                }
                Ok(Value::Text(text)) => stab_text(&self.texts, text.as_bytes(), &mut found),
                _ => {}
            },
            Raw::Null | Raw::Bool(_) | Raw::List(_) | Raw::Map(_) | Raw::Other(..) => {}
        }
    }
}

impl Matcher {
    /// Without subscriptions.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this subscription is here.
    pub fn contains(&self, subscription: SubscriptionIndex) -> bool {
        self.filter(subscription).is_some()
    }

    /// The filter of a subscription.
    pub fn filter(&self, subscription: SubscriptionIndex) -> Option<&Arc<Filter>> {
        self.filters.get(subscription.0 as usize)?.as_ref()
    }

    /// Adds a subscription, or replaces its filter.
    pub fn insert(&mut self, subscription: SubscriptionIndex, filter: Arc<Filter>) {
        self.remove(subscription);
        let slot = subscription.0 as usize;
        if self.filters.len() <= slot {
            self.filters.resize(slot + 1, None);
        }
        let tenant = self.tenants.entry(Arc::clone(&filter.concern.tenant)).or_default();
        tenant.entry(Arc::clone(&filter.concern.collection)).or_default().insert(subscription, &filter);
        self.filters[slot] = Some(filter);
        self.len += 1;
    }

    /// Takes a subscription out; whether it was here.
    pub fn remove(&mut self, subscription: SubscriptionIndex) -> bool {
        let Some(filter) = self.filters.get_mut(subscription.0 as usize).and_then(Option::take) else { return false };
        self.len -= 1;
        let (tenant, collection) = (&*filter.concern.tenant, &*filter.concern.collection);
        if let Some(shelves) = self.tenants.get_mut(tenant) {
            if let Some(shelf) = shelves.get_mut(collection) {
                shelf.remove(subscription, &filter);
                if shelf.all.is_empty() {
                    shelves.remove(collection);
                }
            }
            if shelves.is_empty() {
                self.tenants.remove(tenant);
            }
        }
        true
    }

    /// Whom a change concerns, and how, in the order of the subscriptions' numbers. `out` is cleared.
    pub fn matches(&mut self, change: &Change, out: &mut Vec<Match>) {
        out.clear();
        let mut found = std::mem::take(&mut self.found);
        self.find(change, &mut found);
        let mut shared = Shared::default();
        out.extend(found.iter().filter_map(|&subscription| {
            let verdict = self.filter(subscription)?.verdict(change, &mut shared)?;
            Some(Match { subscription, verdict })
        }));
        self.found = found;
    }

    /// How many subscriptions have to be evaluated for a change: what the tables leave over.
    pub fn candidates(&self, change: &Change) -> usize {
        let mut found = Vec::new();
        self.find(change, &mut found);
        found.len()
    }

    /// All that a change may concern, each once and in order.
    fn find(&self, change: &Change, found: &mut Vec<SubscriptionIndex>) {
        found.clear();
        let (document, before) = (change.document.as_deref(), change.before.as_deref());
        // Not to be evaluated: it goes to everyone in its scope.
        let unseen = if change.operation == Operation::Delete { before.is_none() } else { document.is_none() };
        for shelf in self.shelves(&change.scope) {
            if unseen {
                found.extend(&shelf.all);
            } else {
                shelf.find([document, before], found);
            }
        }
        if let Some(left) = &change.left {
            self.shelves(left).for_each(|shelf| shelf.find([None, before], found));
        }
        found.sort_unstable();
        found.dedup();
    }

    /// The shelves that a scope is, or may be.
    fn shelves<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a Shelf> {
        let one = scope.tenant.as_ref().map(|tenant| self.tenants.get(&**tenant));
        let tenants = one.is_none().then(|| self.tenants.values()).into_iter().flatten().chain(one.flatten());
        tenants.flat_map(|shelves| {
            let one = scope.collection.as_ref().map(|collection| shelves.get(&**collection));
            one.is_none().then(|| shelves.values()).into_iter().flatten().chain(one.flatten())
        })
    }
}

impl Shelf {
    fn insert(&mut self, subscription: SubscriptionIndex, filter: &Filter) {
        self.all.insert(subscription);
        let Some(cover) = &filter.cover else {
            self.scanned.insert(subscription);
            return;
        };
        for access in cover {
            self.tables.entry(access.path.clone()).or_default().insert(&access.by, subscription);
        }
    }

    fn remove(&mut self, subscription: SubscriptionIndex, filter: &Filter) {
        self.all.remove(&subscription);
        let Some(cover) = &filter.cover else {
            self.scanned.remove(&subscription);
            return;
        };
        for access in cover {
            let Some(table) = self.tables.get_mut(&access.path) else { continue };
            table.remove(&access.by, subscription);
            if table.is_empty() {
                self.tables.remove(&access.path);
            }
        }
    }

    fn find(&self, bodies: [Option<&RawDocument>; 2], found: &mut Vec<SubscriptionIndex>) {
        found.extend(&self.scanned);
        for body in bodies.into_iter().flatten() {
            for (path, table) in &self.tables {
                table.find(path, body, found);
            }
        }
    }
}
