//! Ids: a set of numbers, small while they are few.
//!
//! Nearly every set of the matcher has one or two members and a few have a hundred thousand. So up to three
//! stand where the set stands, and more in a tree, which takes and gives one in logarithmic time.

use std::collections::BTreeSet;

/// A set of numbers. Never empty.
#[derive(Debug)]
pub(super) enum Ids {
    One([u32; 1]),
    Two([u32; 2]),
    Three([u32; 3]),
    #[allow(clippy::box_collection, reason = "a set of few is to be small")]
    Many(Box<BTreeSet<u32>>),
}

impl Ids {
    /// A set of one.
    pub(super) const fn one(id: u32) -> Self {
        Self::One([id])
    }

    pub(super) fn insert(&mut self, id: u32) {
        if let Self::Many(many) = self {
            many.insert(id);
            return;
        }
        if self.few().contains(&id) {
            return;
        }
        *self = match *self {
            Self::One([a]) => Self::Two([a, id]),
            Self::Two([a, b]) => Self::Three([a, b, id]),
            Self::Three([a, b, c]) => Self::Many(Box::new([a, b, c, id].into())),
            Self::Many(_) => return,
        };
    }

    /// Takes one out; whether none is left, in which case the last stays where it is.
    pub(super) fn remove(&mut self, id: u32) -> bool {
        let rest = match self {
            Self::Many(many) => {
                many.remove(&id);
                if many.len() > 3 {
                    return false;
                }
                many.iter().copied().collect::<Vec<u32>>()
            }
            _ => self.few().iter().copied().filter(|known| *known != id).collect(),
        };
        *self = match rest.as_slice() {
            [] => return true,
            [a] => Self::One([*a]),
            [a, b] => Self::Two([*a, *b]),
            [a, b, c, ..] => Self::Three([*a, *b, *c]),
        };
        false
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Many(many) => many.len(),
            _ => self.few().len(),
        }
    }

    /// The only one.
    pub(super) const fn only(&self) -> Option<u32> {
        match self {
            Self::One([only]) => Some(*only),
            _ => None,
        }
    }

    /// Any of them.
    pub(super) fn any(&self) -> Option<u32> {
        match self {
            Self::Many(many) => many.first().copied(),
            _ => self.few().first().copied(),
        }
    }

    /// All of them; a loop here and not an iterator, as few are the rule.
    #[inline]
    pub(super) fn each(&self, mut each: impl FnMut(u32)) {
        match self {
            Self::Many(many) => many.iter().for_each(|id| each(*id)),
            _ => self.few().iter().for_each(|id| each(*id)),
        }
    }

    /// All of them, if they are few; else none.
    #[inline]
    pub(super) fn few(&self) -> &[u32] {
        match self {
            Self::One(few) => few,
            Self::Two(few) => few,
            Self::Three(few) => few,
            Self::Many(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(steps in vec((any::<bool>(), 0_u32..8), 0..60)) {
            let (mut set, mut model) = (Ids::one(0), BTreeSet::from([0]));
            for (adds, id) in steps {
                if adds {
                    set.insert(id);
                    model.insert(id);
                } else {
                    let was_last = model.remove(&id) && model.is_empty();
                    prop_assert_eq!(set.remove(id), was_last);
                    if was_last {
                        model.insert(id);
                    }
                }
                let mut found = Vec::new();
                set.each(|id| found.push(id));
                found.sort_unstable();
                prop_assert!(found.iter().eq(&model), "{:?} {:?}", found, model);
                prop_assert_eq!((set.len(), set.only().is_some()), (model.len(), model.len() == 1));
                prop_assert!(set.any().is_some_and(|any| model.contains(&any)));
            }
        }
    }
}
