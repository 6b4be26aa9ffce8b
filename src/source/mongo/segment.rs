//! A segment: decoded events on their way into a batch.
//!
//! Owns their order while some of them still wait for a look-up, and how much may gather.

use std::sync::Arc;

use bson::RawBsonRef;
use mongodb::Client;
use rustc_hash::FxHashMap;

use super::decode::{Decoded, Decoder, Waiting};
use super::errors::Failure;
use super::event::RawEvent;
use super::lookup::{self, LOOKUP_DOCUMENTS_MAX};
use crate::limits;
use crate::source::Event;

/// What a document that is yet to be looked up counts for: it bounds how many are asked for at once.
const LOOKUP_BYTES_ASSUMED: usize = 32 << 10;

/// One place in a segment.
#[derive(Debug)]
pub(super) enum Item {
    /// Can be handed over.
    Event(Event),
    /// Can be handed over once its document is known.
    Waiting(Waiting),
}

/// Events in order.
#[derive(Debug, Default)]
pub(super) struct Segment {
    items: Vec<Item>,
    bytes: usize,
    waiting: usize,
}

impl Segment {
    pub(super) fn push(&mut self, item: Item) {
        self.bytes += match &item {
            Item::Event(event) => size_of_event(event),
            Item::Waiting(waiting) => waiting.event.as_bytes().len() + LOOKUP_BYTES_ASSUMED,
        };
        self.waiting += usize::from(matches!(item, Item::Waiting(_)));
        self.items.push(item);
    }

    /// Whether it is time to hand over what is there.
    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= limits::source_batch_changes_max || self.bytes >= limits::source_batch_bytes_max
    }

    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Looks up what is to be looked up. An update whose document is gone is left out: its delete
    /// follows.
    pub(super) async fn resolve(self, client: &Client, decoder: &mut Decoder) -> Result<Vec<Event>, Failure> {
        let mut events: Vec<Option<Event>> = Vec::with_capacity(self.items.len());
        let mut waiting: Vec<(usize, Waiting)> = Vec::with_capacity(self.waiting);
        for (index, item) in self.items.into_iter().enumerate() {
            match item {
                Item::Event(event) => events.push(Some(event)),
                Item::Waiting(one) => {
                    events.push(None);
                    waiting.push((index, one));
                }
            }
        }
        if !waiting.is_empty() {
            let waiting: Vec<_> =
                waiting.iter().map(|(index, one)| (*index, one, RawEvent::read(&one.event))).collect();
            let mut namespaces: FxHashMap<(&str, &str), Vec<usize>> = FxHashMap::default();
            for (place, (_, _, event)) in waiting.iter().enumerate() {
                namespaces.entry((event.ns.db, event.ns.coll)).or_default().push(place);
            }
            for (namespace, places) in namespaces {
                for group in places.chunks(LOOKUP_DOCUMENTS_MAX) {
                    let group = group.iter().map(|place| &waiting[*place]);
                    let group: Vec<(usize, &Waiting, RawEvent<'_>)> = group.copied().collect();
                    look_up(client, decoder, namespace, &group, &mut events).await?;
                }
            }
        }
        Ok(events.into_iter().flatten().collect())
    }
}

async fn look_up(
    client: &Client,
    decoder: &mut Decoder,
    namespace: (&str, &str),
    group: &[(usize, &Waiting, RawEvent<'_>)],
    events: &mut [Option<Event>],
) -> Result<(), Failure> {
    let ids: Vec<RawBsonRef<'_>> = group.iter().filter_map(|(_, _, event)| event.id).collect();
    let at = group.iter().map(|(_, one, _)| one.position.time).max().unwrap_or_default();
    let found = lookup::find(client, namespace, &ids, at).await.map_err(|error| Failure::of(&error))?;
    for (index, one, event) in group {
        let document = event.id.and_then(|id| found.get(&lookup::id_bytes(id)));
        events[*index] = match document.map(|document| decoder.looked_up(event, one.position, document)) {
            Some(Decoded::Change(change)) => Some(Event::Change(Arc::new(change))),
            Some(Decoded::Gap(gap)) => Some(Event::Resync(gap)),
            Some(Decoded::LookUp | Decoded::Nothing) | None => None,
        };
    }
    Ok(())
}

/// What an event counts for in a batch.
pub(super) fn size_of_event(event: &Event) -> usize {
    match event {
        Event::Change(change) => change.size_bytes(),
        Event::Resync(_) => size_of::<Event>(),
    }
}
