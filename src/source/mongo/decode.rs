//! Decoding: from a raw change event to a change.
//!
//! Owns what a change event means under a layout: scope, operation, bodies, flags. Synchronous; knows
//! no driver, and positions only as given.
//!
//! A document that is nobody's (`layout`) does not exist for the hub. So a change by which it comes to
//! have a tenant and a collection is an insert, one by which it loses them is a delete there, and a
//! change that finds and leaves it without them is not told at all; its position stays used.

use bson::spec::BinarySubtype;
use bson::{RawDocument, RawDocumentBuf};

use super::changed::changed;
use super::event::{Kind, REDUCED_BEFORE, REDUCED_IMAGES, RawEvent};
use super::heartbeat::HEARTBEATS;
use crate::change::{Change, Flags, Operation, ResyncReason, Scope, Transaction};
use crate::position::Position;
use crate::source::Gap;
use crate::source::layout::{Body, Layout, Names};

/// What a document change came to.
#[derive(Debug)]
pub(super) enum Decoded {
    /// A change to deliver.
    Change(Change),
    /// An update without post-image: it can be told once its document has been looked up.
    LookUp,
    /// It cannot be told.
    Gap(Gap),
    /// It concerns nobody.
    Nothing,
}

/// Decodes the events of one backend.
#[derive(Debug)]
pub(super) struct Decoder {
    layout: Layout,
    names: Names,
}

/// The images of an event with what the layout says of them.
struct Images<'a> {
    after: Option<&'a RawDocument>,
    now: Option<Scope>,
    before: Option<&'a RawDocument>,
    was: Option<Scope>,
    flags: Flags,
    /// Whether the guard cut the post-image, or the pre-image, down to its scope.
    cut_after: bool,
    cut_before: bool,
}

impl Decoder {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, names: Names::default() }
    }

    /// Decodes a document change at `position`.
    pub(super) fn change(&mut self, event: &RawEvent<'_>, position: Position) -> Decoded {
        // Not left out on the server, or positions would depend on it.
        if event.ns.coll == HEARTBEATS {
            return Decoded::Nothing;
        }
        let images = self.images(event, event.after, Flags::none());
        self.decode(event, position, images)
    }

    /// Decodes an update whose document was looked up.
    pub(super) fn looked_up(&mut self, event: &RawEvent<'_>, position: Position, found: &RawDocument) -> Decoded {
        let images = self.images(event, Some(found), Flags::LOOKUP);
        self.decode(event, position, images)
    }

    /// Decodes a change of which the server could hand out no more than `event`.
    pub(super) fn oversize(&mut self, event: &RawEvent<'_>, position: Position) -> Decoded {
        match self.change(event, position) {
            // Nothing about it was small enough but its key.
            Decoded::LookUp => self.without_image(event, position, ResyncReason::Oversize),
            Decoded::Gap(gap) => Decoded::Gap(Gap { reason: ResyncReason::Oversize, ..gap }),
            decoded => decoded,
        }
    }

    /// What a whole MongoDB collection holds.
    pub(super) fn scope_of_namespace(&mut self, collection: &str) -> Scope {
        self.layout.scope_of_namespace(collection, &mut self.names)
    }

    fn images<'a>(&mut self, event: &RawEvent<'a>, after: Option<&'a RawDocument>, flags: Flags) -> Images<'a> {
        let mut scope_of = |image: &RawDocument| self.layout.scope_of(image, event.ns.coll, &mut self.names);
        Images {
            now: after.and_then(&mut scope_of),
            was: event.before.and_then(&mut scope_of),
            after,
            before: event.before,
            flags,
            cut_after: event.reduced >= REDUCED_IMAGES && !flags.contains(Flags::LOOKUP),
            cut_before: event.reduced >= REDUCED_BEFORE,
        }
    }

    fn decode(&mut self, event: &RawEvent<'_>, position: Position, mut images: Images<'_>) -> Decoded {
        let operation = match event.kind {
            Kind::Update => Operation::Update,
            Kind::Replace => Operation::Replace,
            Kind::Delete => return self.delete(event, position, images),
            _ => Operation::Insert,
        };
        if images.after.is_none() {
            return match operation {
                Operation::Update if event.id.is_some() => Decoded::LookUp,
                _ => self.without_image(event, position, ResyncReason::Undecodable),
            };
        }
        match (images.now.take(), images.was.take()) {
            (None, None) => Decoded::Nothing,
            // It ceases to be anybody's.
            (None, was) => self.delete(event, position, Images { was, after: None, ..images }),
            // It begins to be somebody's.
            (Some(now), None) if images.before.is_some() => {
                let images = Images { before: None, ..images };
                self.write(event, position, Operation::Insert, now, None, images)
            }
            (Some(now), was) => {
                let left = was.filter(|was| *was != now);
                self.write(event, position, operation, now, left, images)
            }
        }
    }

    fn write(
        &mut self,
        event: &RawEvent<'_>,
        position: Position,
        operation: Operation,
        scope: Scope,
        left: Option<Scope>,
        images: Images<'_>,
    ) -> Decoded {
        let mut change = match self.bare(event, position, operation, scope) {
            Ok(change) => Change { left, flags: images.flags, ..change },
            Err(gap) => return Decoded::Gap(gap),
        };
        let after = images.after.filter(|_| !images.cut_after).map(|image| self.layout.body_of(image));
        let before = images.before.filter(|_| !images.cut_before).map(|image| self.layout.body_of(image));
        let before = before.and_then(present);
        let after = match after {
            None => None,
            Some(body) => match present(body) {
                Some(body) => Some(body),
                None => return Decoded::Gap(gap(position, change.scope, ResyncReason::Undecodable)),
            },
        };
        if let (Operation::Update, Some(update)) = (operation, event.update) {
            change.changed = Some(changed(update, self.layout.body.as_ref(), after, before));
        }
        if after.is_none() {
            change.flags = change.flags.with(Flags::REDUCED);
        }
        change.document = after.map(ToOwned::to_owned);
        change.before = before.map(ToOwned::to_owned);
        Decoded::Change(change)
    }

    fn delete(&mut self, event: &RawEvent<'_>, position: Position, images: Images<'_>) -> Decoded {
        let scope = match (images.was, images.before, event.id) {
            (Some(was), _, _) => was,
            (None, Some(_), _) => return Decoded::Nothing,
            (None, None, Some(id)) => self.layout.scope_of_id(id, event.ns.coll, &mut self.names),
            (None, None, None) => return self.without_image(event, position, ResyncReason::Undecodable),
        };
        let mut change = match self.bare(event, position, Operation::Delete, scope) {
            Ok(change) => change,
            Err(gap) => return Decoded::Gap(gap),
        };
        if images.cut_before {
            change.flags = change.flags.with(Flags::REDUCED);
        } else {
            change.before = images.before.and_then(|image| present(self.layout.body_of(image))).map(ToOwned::to_owned);
        }
        Decoded::Change(change)
    }

    /// A change of which only the key is known: it is told without body if the key says whose it is.
    fn without_image(&mut self, event: &RawEvent<'_>, position: Position, reason: ResyncReason) -> Decoded {
        let scope = match event.id {
            Some(id) => self.layout.scope_of_id(id, event.ns.coll, &mut self.names),
            None => self.scope_of_namespace(event.ns.coll),
        };
        if scope.tenant.is_none() || scope.collection.is_none() {
            return Decoded::Gap(gap(position, scope, reason));
        }
        let operation = match event.kind {
            Kind::Update => Operation::Update,
            Kind::Replace => Operation::Replace,
            Kind::Delete => Operation::Delete,
            _ => Operation::Insert,
        };
        match self.bare(event, position, operation, scope) {
            Ok(change) => Decoded::Change(Change { flags: Flags::REDUCED, ..change }),
            Err(gap) => Decoded::Gap(gap),
        }
    }

    /// A change without bodies.
    fn bare(
        &self,
        event: &RawEvent<'_>,
        position: Position,
        operation: Operation,
        scope: Scope,
    ) -> Result<Change, Gap> {
        let Some(id) = event.id else { return Err(gap(position, scope, ResyncReason::Undecodable)) };
        Ok(Change {
            position,
            scope,
            left: None,
            key: self.layout.key_of(id),
            operation,
            document: None,
            before: None,
            changed: None,
            wall_time_ms: event.wall_time_ms,
            transaction: transaction(event),
            flags: Flags::none(),
        })
    }
}

fn gap(position: Position, scope: Scope, reason: ResyncReason) -> Gap {
    Gap { position, scope, reason }
}

/// A body that can be handed on: the document there, or one without fields where there is none.
fn present(body: Body<'_>) -> Option<&RawDocument> {
    const EMPTY: &[u8] = &[5, 0, 0, 0, 0];
    match body {
        Body::Document(body) => Some(body),
        Body::Absent => RawDocument::from_bytes(EMPTY).ok(),
        Body::Other => None,
    }
}

fn transaction(event: &RawEvent<'_>) -> Option<Transaction> {
    let id = event.session?.get_binary("id").ok()?;
    if id.subtype != BinarySubtype::Uuid {
        return None;
    }
    let id = bson::Uuid::from_bytes(id.bytes.try_into().ok()?);
    Some(Transaction { id: id.to_string().into(), number: event.transaction? })
}

/// An event kept until its document has been looked up.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) position: Position,
    pub(super) event: RawDocumentBuf,
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
