//! Names: the paths that the programs of a scope look at, and the one walk over a body that finds them.
//!
//! Owns the tree of their steps and what a walk found. A walk goes over a body's bytes once, descends
//! only where a path leads, and stops when nothing is left to find. It keeps places, not values.

use std::cell::Cell;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::path::{Found, array_index};
use super::raw::{Place, Raw};
use super::table::Table;
use crate::subscription::Path;

/// A step of a path within its tree; reused when nothing names it any more.
pub(super) type NodeId = u32;

const ROOT: NodeId = 0;
/// The parent of nodes that are not in use.
const FREE: NodeId = NodeId::MAX;

/// The paths of a scope as a tree of steps.
#[derive(Debug)]
pub(super) struct Names {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    hashing: DefaultHashBuilder,
}

#[derive(Debug)]
struct Node {
    name: Arc<str>,
    /// What the name is in a list.
    index: Option<usize>,
    parent: NodeId,
    /// How many programs name the path that ends here; once for each time.
    uses: u32,
    children: HashTable<NodeId>,
    /// How many of the children could be in a list.
    indexes: u32,
    /// A bit for each child's name, so that most other names are passed over at a glance.
    mask: u64,
    table: Table,
}

impl Node {
    fn new(name: Arc<str>, parent: NodeId) -> Self {
        let index = array_index(&name);
        Self { name, index, parent, uses: 0, children: HashTable::new(), indexes: 0, mask: 0, table: Table::default() }
    }
}

/// One of 64 bits for a name.
#[inline]
fn bit(name: &[u8]) -> u64 {
    let ends = name.first().zip(name.last()).map_or(0, |(first, last)| u32::from(*first) * 7 + u32::from(*last));
    1 << ((ends + name.len() as u32 * 13) % 64)
}

impl Default for Names {
    fn default() -> Self {
        let root = Node::new("".into(), ROOT);
        Self { nodes: vec![root], free: Vec::new(), hashing: DefaultHashBuilder::default() }
    }
}

impl Names {
    /// How many steps its paths have ever had at a time.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node of a path that is named.
    pub(super) fn find(&self, path: &Path) -> Option<NodeId> {
        path.0.iter().try_fold(ROOT, |node, step| self.child(node, step.as_bytes()))
    }

    /// What is filed under a node.
    pub(super) fn table(&self, node: NodeId) -> &Table {
        &self.nodes[node as usize].table
    }

    /// What is filed under a node.
    pub(super) fn table_mut(&mut self, node: NodeId) -> &mut Table {
        &mut self.nodes[node as usize].table
    }

    #[inline]
    fn child(&self, node: NodeId, name: &[u8]) -> Option<NodeId> {
        let node = &self.nodes[node as usize];
        if node.mask & bit(name) == 0 {
            return None;
        }
        let is = |child: &NodeId| self.nodes[*child as usize].name.as_bytes() == name;
        node.children.find(self.hashing.hash_one(name), is).copied()
    }

    /// Whether a node, which may have been freed or be another tree's, is this child of another.
    #[inline]
    fn is_child(&self, node: NodeId, parent: NodeId, name: &[u8]) -> bool {
        let is = |known: &Node| known.parent == parent && known.name.as_bytes() == name && node != ROOT;
        self.nodes.get(node as usize).is_some_and(is)
    }

    /// Has a path walked to from now on, once more.
    pub(super) fn add(&mut self, path: &Path) -> NodeId {
        let node = path.0.iter().fold(ROOT, |node, step| match self.child(node, step.as_bytes()) {
            Some(child) => child,
            None => self.add_child(node, step),
        });
        self.nodes[node as usize].uses += 1;
        node
    }

    fn add_child(&mut self, parent: NodeId, name: &Arc<str>) -> NodeId {
        let node = Node::new(Arc::clone(name), parent);
        let child = match self.free.pop() {
            Some(child) => {
                self.nodes[child as usize] = node;
                child
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as NodeId
            }
        };
        let mut children = std::mem::take(&mut self.nodes[parent as usize].children);
        let hash = |node: &NodeId| self.hashing.hash_one(self.nodes[*node as usize].name.as_bytes());
        children.insert_unique(hash(&child), child, hash);
        let parent = &mut self.nodes[parent as usize];
        parent.children = children;
        parent.indexes += u32::from(array_index(name).is_some());
        parent.mask |= bit(name.as_bytes());
        child
    }

    /// Undoes one [`Self::add`].
    pub(super) fn remove(&mut self, path: &Path) {
        let Some(mut at) = self.find(path) else { return };
        self.nodes[at as usize].uses -= 1;
        while at != ROOT && self.nodes[at as usize].uses == 0 && self.nodes[at as usize].children.is_empty() {
            let (name, parent) = (Arc::clone(&self.nodes[at as usize].name), self.nodes[at as usize].parent);
            let hash = self.hashing.hash_one(name.as_bytes());
            if let Ok(entry) = self.nodes[parent as usize].children.find_entry(hash, |child| *child == at) {
                entry.remove();
            }
            let children = &self.nodes[parent as usize].children;
            // Of many names the mask is full anyway, and they need not be gone through for each that goes.
            let mask = match children.len() {
                0..64 => {
                    children.iter().map(|child| bit(self.nodes[*child as usize].name.as_bytes())).fold(0, |a, b| a | b)
                }
                _ => u64::MAX,
            };
            self.nodes[parent as usize].mask = mask;
            self.nodes[parent as usize].indexes -= u32::from(self.nodes[at as usize].index.is_some());
            self.nodes[at as usize].parent = FREE;
            self.free.push(at);
            at = parent;
        }
    }
}

/// What a walk found; to be reused for the next.
#[derive(Default, Debug)]
pub(super) struct Walk {
    slots: Vec<Slot>,
    walks: u32,
    /// The nodes found, in the body's order.
    found: Vec<NodeId>,
}

/// What a walk knows of a node.
#[derive(Clone, Default, Debug)]
struct Slot {
    /// The number of the walk that found it last, and where it did.
    walk: u32,
    place: Option<Place>,
    /// The nodes that were found after it and first in it, last time: documents of a collection have their fields in
    /// one order.
    next: NodeId,
    first: NodeId,
    /// Whether a text there is UTF-8, once somebody has asked: many programs look at it.
    is_text: Cell<Option<bool>>,
}

impl Walk {
    /// Goes over a body. What an earlier walk found is forgotten.
    pub(super) fn run(&mut self, names: &Names, body: &[u8]) {
        self.found.clear();
        self.walks = self.walks.wrapping_add(1);
        if self.walks == 0 {
            self.slots.clear();
            self.walks = 1;
        }
        if self.slots.len() < names.nodes.len() {
            self.slots.resize(names.nodes.len(), Slot::default());
        }
        if let Some(whole) = Place::whole(body) {
            self.descend(names, ROOT, whole, body);
        }
    }

    fn descend(&mut self, names: &Names, node: NodeId, container: Place, body: &[u8]) {
        let parent = &names.nodes[node as usize];
        if container.is_list() {
            let mut left = parent.indexes;
            for (at, (_, place)) in container.fields(body).enumerate() {
                if left == 0 {
                    break;
                }
                if let Some(child) = names.child(node, decimal(at, &mut [0; 20])) {
                    self.put(names, child, place, body);
                    left -= 1;
                }
            }
            return;
        }
        let mut left = parent.children.len();
        if left == 0 {
            return;
        }
        let mut last = None;
        for (name, place) in container.fields(body) {
            if parent.mask & bit(name) == 0 {
                continue;
            }
            let guess = match last {
                None => &mut self.slots[node as usize].first,
                Some(last) => &mut self.slots[last as usize].next,
            };
            if !names.is_child(*guess, node, name) {
                let Some(child) = names.child(node, name) else { continue };
                *guess = child;
            }
            let child = *guess;
            last = Some(child);
            if self.put(names, child, place, body) {
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
    }

    /// Of fields with one name the first counts. Whether this is it.
    fn put(&mut self, names: &Names, node: NodeId, place: Place, body: &[u8]) -> bool {
        let slot = &mut self.slots[node as usize];
        if slot.walk == self.walks {
            return false;
        }
        (slot.walk, slot.place) = (self.walks, Some(place));
        slot.is_text.set(None);
        self.found.push(node);
        if place.is_container() {
            self.descend(names, node, place, body);
        }
        true
    }

    /// The nodes found, with what stands there.
    pub(super) fn found<'a>(&'a self, body: &'a [u8]) -> impl Iterator<Item = (NodeId, Raw<'a>)> {
        self.found.iter().filter_map(move |node| Some((*node, self.place(*node)?.read(body)?)))
    }

    #[inline]
    fn place(&self, node: NodeId) -> Option<Place> {
        let slot = self.slots.get(node as usize)?;
        if slot.walk == self.walks { slot.place } else { None }
    }

    /// Where a path leads in the body that was walked; a text is UTF-8.
    pub(super) fn get<'a>(&self, names: &Names, path: &Path, body: &'a [u8]) -> Found<'a> {
        names.find(path).map_or(Found::Error, |node| self.checked_at(names, node, body))
    }

    /// What stands at a node in the body that was walked; a text is UTF-8.
    pub(super) fn checked_at<'a>(&self, names: &Names, node: NodeId, body: &'a [u8]) -> Found<'a> {
        match (self.at(names, node, body), self.slots.get(node as usize)) {
            (Found::Value(text @ Raw::Text(_)), Some(slot)) => {
                let is_text = slot.is_text.get().unwrap_or_else(|| text.checked() != Raw::Error);
                slot.is_text.set(Some(is_text));
                Found::Value(if is_text { text } else { Raw::Error })
            }
            (found, _) => found.checked(),
        }
    }

    /// What stands at a node in the body that was walked.
    #[inline]
    pub(super) fn at<'a>(&self, names: &Names, node: NodeId, body: &'a [u8]) -> Found<'a> {
        if let Some(place) = self.place(node) {
            return place.read(body).map_or(Found::Error, Found::Value);
        }
        // Not there: that is one thing in a container that could hold it, and an error elsewhere.
        let Some(&Node { parent, index, .. }) = names.nodes.get(node as usize) else { return Found::Error };
        match self.place(parent) {
            _ if parent == ROOT => Found::Missing,
            Some(place) if place.is_list() && index.is_none() => Found::Error,
            Some(place) if place.is_container() => Found::Missing,
            _ => Found::Error,
        }
    }
}

/// A number's decimal digits.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 || at == 0 {
            return &digits[at..];
        }
    }
}
