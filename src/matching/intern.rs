//! Shared names: a million filters of one collection keep its name, and their fields', once.

use std::hash::Hash;
use std::sync::{LazyLock, Mutex, PoisonError};

use hashbrown::HashSet;
use rustc_hash::FxBuildHasher;

use super::verdict::Home;
use crate::subscription::Path;

/// Something that is kept behind a counted pointer.
trait Counted: Clone + Eq + Hash {
    fn holders(&self) -> usize;
}

impl Counted for Path {
    fn holders(&self) -> usize {
        std::sync::Arc::strong_count(&self.0)
    }
}

impl Counted for Home {
    fn holders(&self) -> usize {
        self.holders()
    }
}

/// What is in use, and the size at which it is looked through for what is not.
struct Known<T> {
    all: HashSet<T, FxBuildHasher>,
    sweep_at: usize,
}

/// Fewer than these are not worth looking through.
const SWEEP_LEAST: usize = 1_024;

impl<T: Counted> Known<T> {
    fn new() -> Mutex<Self> {
        Mutex::new(Self { all: HashSet::default(), sweep_at: SWEEP_LEAST })
    }

    fn shared(known: &Mutex<Self>, thing: T) -> T {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.all.len() >= known.sweep_at {
            known.all.retain(|thing| thing.holders() > 1);
            known.sweep_at = SWEEP_LEAST.max(2 * known.all.len());
        }
        known.all.get_or_insert(thing).clone()
    }
}

/// The same path, held together with everyone else's.
pub(super) fn path(path: Path) -> Path {
    static PATHS: LazyLock<Mutex<Known<Path>>> = LazyLock::new(Known::new);
    Known::shared(&PATHS, path)
}

/// The same home, likewise.
pub(super) fn home(home: Home) -> Home {
    static HOMES: LazyLock<Mutex<Known<Home>>> = LazyLock::new(Known::new);
    Known::shared(&HOMES, home)
}
