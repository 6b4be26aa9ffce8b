//! Floors: hand-made tables that do one thing and are told the value, so without the document.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash};
use std::sync::Arc;

use anyhow::{Context, bail};
use bson::Bson;
use hashbrown::Equivalent;
use rustc_hash::{FxBuildHasher, FxHasher};

use super::contender::{Contender, Upkeep};
use super::intervals;
use super::workload::{Event, Plan, Workload};
use crate::change::Scope;
use crate::subscription::Spec;

/// Tenant, collection and chat to a list.
#[derive(Debug, Default)]
pub(super) struct HashLookUp(hashbrown::HashMap<ChatKey, Vec<u32>, BuildHasherDefault<FxHasher>>);

/// Tenant, collection and chat.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct ChatKey(Arc<str>, Arc<str>, Box<str>);

#[derive(Hash)]
struct ChatKeyRef<'a>(&'a str, &'a str, &'a str);

impl Equivalent<ChatKey> for ChatKeyRef<'_> {
    fn equivalent(&self, key: &ChatKey) -> bool {
        *self.2 == *key.2 && *self.1 == *key.1 && *self.0 == *key.0
    }
}

impl Contender for HashLookUp {
    const NAME: &'static str = "hash look-up";
    const UPKEEP: Upkeep = Upkeep::Both;
    const READS: bool = false;
    type Filter = ChatKey;

    fn fits(workload: Workload) -> bool {
        workload.is_chat()
    }

    fn new(_: &Plan) -> Self {
        Self::default()
    }

    fn compile(&self, spec: &Spec) -> anyhow::Result<ChatKey> {
        let chat = spec.filters.first().and_then(|term| term.value.as_str()).context("no chat")?;
        Ok(ChatKey(Arc::clone(&spec.tenant), Arc::clone(&spec.collection), chat.into()))
    }

    fn insert(&mut self, number: u32, key: ChatKey) -> anyhow::Result<()> {
        self.0.entry(key).or_default().push(number);
        Ok(())
    }

    fn remove(&mut self, number: u32, key: &ChatKey) {
        let Some(list) = self.0.get_mut(key) else { return };
        list.retain(|other| *other != number);
        if list.is_empty() {
            self.0.remove(key);
        }
    }

    fn look_up(&mut self, event: &Event) -> anyhow::Result<usize> {
        let Scope { tenant: Some(tenant), collection: Some(collection) } = &event.change.scope else {
            bail!("a change without a scope");
        };
        Ok(self.0.get(&ChatKeyRef(tenant, collection, &event.chat)).map_or(0, Vec::len))
    }
}

/// Cells of eight ticks, each with the intervals that touch it.
#[derive(Debug)]
pub(super) struct Grid {
    cells: Vec<Vec<(i64, i64, u32)>>,
    beyond: HashMap<usize, Vec<(i64, i64, u32)>, FxBuildHasher>,
    out: Vec<u32>,
}

const CELL_TICKS: i64 = 8;

/// The ends of a subscription's interval.
pub fn ends(spec: &Spec) -> anyhow::Result<(i64, i64)> {
    let interval = spec.interval.as_ref().context("no interval")?;
    match (&interval.start, &interval.stop) {
        (Bson::Int64(start), Bson::Int64(stop)) => Ok((*start, *stop)),
        other => bail!("{other:?} are no ticks"),
    }
}

impl Grid {
    fn cell(&mut self, number: usize) -> &mut Vec<(i64, i64, u32)> {
        match self.cells.get_mut(number) {
            Some(cell) => cell,
            None => self.beyond.entry(number).or_default(),
        }
    }

    fn touched((start, stop): (i64, i64)) -> impl Iterator<Item = usize> {
        (start / CELL_TICKS..=stop / CELL_TICKS).filter_map(|cell| usize::try_from(cell).ok())
    }
}

impl Contender for Grid {
    const NAME: &'static str = "grid";
    const UPKEEP: Upkeep = Upkeep::Both;
    const READS: bool = false;
    type Filter = (i64, i64);

    fn fits(workload: Workload) -> bool {
        workload.is_intervals()
    }

    fn new(plan: &Plan) -> Self {
        let cells = intervals::ticks(plan.subscriptions) as usize / CELL_TICKS as usize + 1;
        Self { cells: vec![Vec::new(); cells], beyond: HashMap::default(), out: Vec::new() }
    }

    fn compile(&self, spec: &Spec) -> anyhow::Result<(i64, i64)> {
        ends(spec)
    }

    fn insert(&mut self, number: u32, ends: (i64, i64)) -> anyhow::Result<()> {
        Self::touched(ends).for_each(|cell| self.cell(cell).push((ends.0, ends.1, number)));
        Ok(())
    }

    fn remove(&mut self, number: u32, ends: &(i64, i64)) {
        for cell in Self::touched(*ends) {
            let cell = self.cell(cell);
            if let Some(place) = cell.iter().position(|(.., other)| *other == number) {
                cell.swap_remove(place);
            }
        }
    }

    fn look_up(&mut self, event: &Event) -> anyhow::Result<usize> {
        self.out.clear();
        let number = usize::try_from(event.at / CELL_TICKS)?;
        let cell = self.cells.get(number).or_else(|| self.beyond.get(&number));
        let hit = cell.into_iter().flatten().filter(|(start, stop, _)| (*start..=*stop).contains(&event.at));
        self.out.extend(hit.map(|(.., number)| number));
        Ok(self.out.len())
    }
}
