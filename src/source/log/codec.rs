//! One group commit as bytes.
//!
//! Owns the layout of a stored value: a version, then the batches that were published, each with its
//! cluster time. Knows nothing of the file.
//!
//! ```text
//! group  = version u8 · batch…
//! batch  = cluster_time u64 · wall_ms i64 · count u32 · event…
//! event  = operation u8 · present u8 (1 document, 2 before) · tenant · collection · key · document? · before?
//! ```
//! Numbers are big-endian; texts and documents start with their length as u32.

use std::sync::Arc;

use bson::RawDocumentBuf;

use super::{Place, Publication};
use crate::change::{Change, Flags, Operation, Scope};
use crate::position::{ClusterTime, Epoch, Position};

const VERSION: u8 = 1;
const DOCUMENT: u8 = 1;
const BEFORE: u8 = 2;

/// A value that is not a group commit of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a group commit cannot be read: {0}")]
pub(super) struct Damaged(&'static str);

/// An empty group, to which batches are appended.
pub(super) fn start_group() -> Vec<u8> {
    vec![VERSION]
}

/// Appends what one call published.
pub(super) fn append_batch(group: &mut Vec<u8>, time: ClusterTime, wall_ms: i64, publications: &[Publication]) {
    group.extend_from_slice(&time.0.to_be_bytes());
    group.extend_from_slice(&wall_ms.to_be_bytes());
    let count = u32::try_from(publications.len()).expect("a batch is far below 2^32 changes");
    group.extend_from_slice(&count.to_be_bytes());
    for publication in publications {
        let document = publication.document.as_ref().map(|document| document.as_bytes());
        let before = publication.before.as_ref().map(|document| document.as_bytes());
        let present = document.map_or(0, |_| DOCUMENT) | before.map_or(0, |_| BEFORE);
        group.extend_from_slice(&[publication.operation as u8, present]);
        let names = [publication.tenant.as_bytes(), publication.collection.as_bytes(), publication.key.as_bytes()];
        for part in names.into_iter().chain(document).chain(before) {
            let length = u32::try_from(part.len()).expect("parts are bounded by the document limit");
            group.extend_from_slice(&length.to_be_bytes());
            group.extend_from_slice(part);
        }
    }
}

/// Walks a group's events in order.
pub(super) struct Events<'a> {
    rest: &'a [u8],
    time: ClusterTime,
    wall_ms: i64,
    count: u32,
    ordinal: u32,
}

/// One event as it lies in the group.
pub(super) struct Stored<'a> {
    /// Its place.
    pub(super) place: Place,
    wall_ms: i64,
    operation: Operation,
    tenant: &'a str,
    collection: &'a str,
    key: &'a str,
    document: Option<&'a [u8]>,
    before: Option<&'a [u8]>,
}

impl<'a> Events<'a> {
    pub(super) fn of(group: &'a [u8]) -> Result<Self, Damaged> {
        match group.split_first() {
            Some((&VERSION, rest)) => Ok(Self { rest, time: ClusterTime(0), wall_ms: 0, count: 0, ordinal: 0 }),
            Some(_) => Err(Damaged("written by a later version")),
            None => Err(Damaged("empty")),
        }
    }

    /// The next event; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Stored<'a>>, Damaged> {
        while self.ordinal == self.count {
            if self.rest.is_empty() {
                return Ok(None);
            }
            self.time = ClusterTime(u64::from_be_bytes(self.array()?));
            self.wall_ms = i64::from_be_bytes(self.array()?);
            self.count = u32::from_be_bytes(self.array()?);
            self.ordinal = 0;
        }
        self.ordinal += 1;
        let [operation, present] = self.array()?;
        let operation =
            Operation::ALL.into_iter().find(|o| *o as u8 == operation).ok_or(Damaged("unknown operation"))?;
        Ok(Some(Stored {
            place: (self.time, self.ordinal),
            wall_ms: self.wall_ms,
            operation,
            tenant: self.text()?,
            collection: self.text()?,
            key: self.text()?,
            document: (present & DOCUMENT != 0).then(|| self.part()).transpose()?,
            before: (present & BEFORE != 0).then(|| self.part()).transpose()?,
        }))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Damaged("cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        self.take(N)?.try_into().map_err(|_| Damaged("cut short"))
    }

    fn part(&mut self) -> Result<&'a [u8], Damaged> {
        let length = u32::from_be_bytes(self.array()?);
        self.take(length as usize)
    }

    fn text(&mut self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.part()?).map_err(|_| Damaged("a name is no text"))
    }
}

/// The place of a group's last event.
pub(super) fn last_place(group: &[u8]) -> Result<Place, Damaged> {
    let mut events = Events::of(group)?;
    let mut last = None;
    while let Some(event) = events.next()? {
        last = Some(event.place);
    }
    last.ok_or(Damaged("no event"))
}

/// Shares the names of consecutive events.
#[derive(Default)]
pub(super) struct Names {
    tenant: Option<Arc<str>>,
    collection: Option<Arc<str>>,
}

fn shared(last: &mut Option<Arc<str>>, name: &str) -> Arc<str> {
    match last {
        Some(known) if &**known == name => Arc::clone(known),
        _ => Arc::clone(last.insert(name.into())),
    }
}

impl Stored<'_> {
    /// The change that everyone else speaks of.
    pub(super) fn to_change(&self, epoch: Epoch, names: &mut Names) -> Result<Change, Damaged> {
        let raw = |bytes: Option<&[u8]>| {
            bytes
                .map(|bytes| RawDocumentBuf::from_bytes(bytes.to_vec()))
                .transpose()
                .map_err(|_| Damaged("a document is no BSON"))
        };
        let (time, ordinal) = self.place;
        Ok(Change {
            position: Position::new(epoch, time, ordinal),
            scope: Scope::known(shared(&mut names.tenant, self.tenant), shared(&mut names.collection, self.collection)),
            left: None,
            key: self.key.into(),
            operation: self.operation,
            document: raw(self.document)?,
            before: raw(self.before)?,
            changed: None,
            wall_time_ms: Some(self.wall_ms),
            transaction: None,
            flags: Flags::none(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;
    use proptest::prelude::*;

    fn publication() -> impl Strategy<Value = Publication> {
        let body = prop::option::of(any::<i64>().prop_map(|n| rawdoc! { "n": n, "s": "x" }));
        (0..4usize, ".{1,8}", ".{1,8}", ".{1,8}", body.clone(), body).prop_map(
            |(operation, tenant, collection, key, document, before)| Publication {
                tenant: tenant.into(),
                collection: collection.into(),
                key: key.into(),
                operation: Operation::ALL[operation],
                document,
                before,
            },
        )
    }

    proptest! {
        #[test]
        fn a_group_comes_back_as_it_was_published(
            batches in prop::collection::vec(prop::collection::vec(publication(), 1..5), 1..5)
        ) {
            let mut group = start_group();
            for (index, batch) in batches.iter().enumerate() {
                append_batch(&mut group, ClusterTime(index as u64 * 7), -1, batch);
            }
            let mut events = Events::of(&group).unwrap();
            let mut names = Names::default();
            for (index, batch) in batches.iter().enumerate() {
                for (ordinal, publication) in batch.iter().enumerate() {
                    let change = events.next().unwrap().unwrap().to_change(Epoch(3), &mut names).unwrap();
                    let expected = Position::new(Epoch(3), ClusterTime(index as u64 * 7), ordinal as u32 + 1);
                    prop_assert_eq!(change.position, expected);
                    prop_assert_eq!(change.scope, Scope::known(&*publication.tenant, &*publication.collection));
                    prop_assert_eq!(&change.key, &publication.key);
                    prop_assert_eq!(change.operation, publication.operation);
                    prop_assert_eq!(&change.document, &publication.document);
                    prop_assert_eq!(&change.before, &publication.before);
                }
            }
            prop_assert!(events.next().unwrap().is_none());
            let last = (ClusterTime((batches.len() - 1) as u64 * 7), batches.last().unwrap().len() as u32);
            prop_assert_eq!(last_place(&group), Ok(last));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..60) {
            let walk = |bytes: &[u8]| {
                let Ok(mut events) = Events::of(bytes) else { return };
                while let Ok(Some(event)) = events.next() {
                    let _ = event.to_change(Epoch(0), &mut Names::default());
                }
            };
            walk(&bytes);
            let mut group = start_group();
            let body = Some(rawdoc! { "a": 1 });
            let publication = Publication {
                tenant: "t".into(), collection: "c".into(), key: "k".into(), operation: Operation::Insert,
                document: body, before: None,
            };
            append_batch(&mut group, ClusterTime(1), 0, &[publication]);
            walk(&group[..cut.min(group.len())]);
        }
    }
}
