//! From the store: a machine as it was, as far as it was durable.
//!
//! Owns what a new owner makes of the records: full leases for all, positions of an earlier epoch
//! translated, quiet gateways brought to the checkpoint.

use std::sync::Arc;

use super::state::{Assignment, GatewayIndex, PageState, Segment, Sub, SubLane};
use super::{Checkpointed, Machine, MachineConfig};
use crate::clock::Clock;
use crate::cursor::{Cursor, CursorText, Place, Serial};
use crate::error::Problem;
use crate::handle::Mark;
use crate::matching::{Filter, SubscriptionIndex};
use crate::position::{PartitionId, Position};
use crate::store::cursors::{self, CursorPage};
use crate::store::gateways::{self, GatewayRecord};
use crate::store::subscriptions::{self, SubscriptionRecord};
use crate::store::{Entry, Key, Revision};
use crate::subscription::{GatewayId, Path, Spec, SubscriptionKey};

/// What a partition's owner reads from the store before it reads anything else.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// `store::subscriptions::prefix`.
    pub subscriptions: Vec<Entry>,
    /// `store::gateways::prefix`.
    pub gateways: Vec<Entry>,
    /// `store::cursors::prefix`.
    pub cursors: Vec<Entry>,
    /// The revision at which all this was read.
    pub revision: Revision,
}

/// A record that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not a record of this version.
    #[error("the stored record {} cannot be read: {detail}", key.0)]
    Undecodable {
        /// Which.
        key: Key,
        /// Why.
        detail: String,
    },
}

impl LoadError {
    fn new(key: &Key, detail: impl ToString) -> Self {
        Self::Undecodable { key: key.clone(), detail: detail.to_string() }
    }
}

impl Machine {
    /// A machine whose loop stands at `reached` (the stored checkpoint's position in the present epoch,
    /// or past it where history was lost). `horizon` is the source's present: nobody can have been sent
    /// anything beyond it.
    pub fn load(
        config: MachineConfig,
        clock: Clock,
        reached: Position,
        horizon: Position,
        checkpoint: Checkpointed,
        stored: Stored,
    ) -> Result<Self, LoadError> {
        let mut machine = Self::new(config, clock, reached, checkpoint);
        machine.confirmed = stored.revision;
        machine.horizon = horizon.max(reached);
        for entry in &stored.gateways {
            machine.load_gateway(entry)?;
        }
        let partition = machine.config.partition.clone();
        for part in stored.subscriptions.chunks(READ_AT_ONCE) {
            for (entry, read) in part.iter().zip(read_all(&partition, part)?) {
                machine.load_subscription(entry.revision, read);
            }
        }
        for entry in &stored.cursors {
            machine.load_page(entry)?;
        }
        let indices: Vec<_> = machine.gateways.iter().map(|(index, _)| GatewayIndex(index)).collect();
        for index in indices {
            machine.load_moved(index);
            machine.load_presented(index);
            machine.settle_loaded(index);
            machine.load_member(index);
        }
        Ok(machine)
    }

    fn load_gateway(&mut self, entry: &Entry) -> Result<(), LoadError> {
        let error = |detail: &dyn ToString| LoadError::new(&entry.key, detail.to_string());
        let id = gateways::parse_key(&self.config.partition, &entry.key).ok_or_else(|| error(&"bad key"))?;
        let record = GatewayRecord::decode(&entry.value).map_err(|e| error(&e))?;
        let index = self.gateway_or_new(&id);
        let gateway = &mut self.gateways[index.0];
        gateway.revision = entry.revision;
        gateway.incarnation = record.incarnation.unwrap_or(entry.revision);
        gateway.sessions = record.sessions;
        gateway.presented = record.presented;
        gateway.owed = record.owed;
        gateway.moved = record.moved;
        gateway.delivery = record.delivery;
        // Until a cursor says otherwise nothing is known to have been taken.
        gateway.place = Place::default();
        gateway.quiet = false;
        Ok(())
    }

    fn load_subscription(&mut self, revision: Revision, read: Read) {
        let Read { key, record, superseded, current } = read;
        let home =
            record.assigned.as_ref().and_then(|it| GatewayId::stored(&format!("{}{}", key.gateway, it.member)).ok());
        let gateway = self.gateway_or_new(home.as_ref().unwrap_or(&key.gateway));
        if self.gateways[gateway.0].incarnation == Revision(0) {
            self.gateways[gateway.0].incarnation = revision;
            self.gateways[gateway.0].place = Place::default();
            self.gateways[gateway.0].quiet = false;
        }
        // Without a stored cursor it is told of a break with history by where its subscriptions began.
        let place = &self.gateways[gateway.0].place;
        if self.is_broken_off(record.start) && (*place == Place::default() || record.start < place.position) {
            self.gateways[gateway.0].place = Place { position: record.start, ..Place::default() };
        }
        let (mut segments, mut refused) = (Vec::new(), false);
        for (old, (spec, filter)) in record.superseded.iter().zip(superseded) {
            refused |= filter.is_none();
            let filter = filter.unwrap_or_else(|| Filter::never(&spec));
            let (from, until) = (self.translated(old.from), Some(self.translated(old.until)));
            segments.push(segment(spec, filter, old.generation, from, until));
        }
        let (spec, filter) = current;
        refused |= filter.is_none();
        let filter = filter.unwrap_or_else(|| Filter::never(&spec));
        let generation = record.generation.unwrap_or(revision);
        let (tenant, ttl_seconds) = (Arc::clone(&spec.tenant), spec.ttl_seconds);
        segments.push(segment(spec, Arc::clone(&filter), generation, self.translated(record.active_from), None));
        let (born_at, birth) = match &record.assigned {
            Some(assigned) => (assigned.from, assigned.revision.unwrap_or(revision)),
            None => record.birth.unwrap_or((record.active_from, generation)),
        };
        let assigned = record.assigned.map(|it| Assignment {
            member: it.member.into(),
            redelivered_until: it.redelivered_until.map(|until| self.translated(until)),
            names_before: it.names_before,
            lost_from: it.lost_from,
        });
        let parked = record.parked.map(|parked| (self.translated(parked.floor), parked.reason, parked.at_ms));
        let sub = Sub {
            key: key.clone(),
            gateway,
            assigned: assigned.map(Box::new),
            segments,
            revision,
            birth: (self.translated(born_at), birth),
            start: self.translated(record.start),
            start_revision: record.start_revision.unwrap_or(revision),
            revivals: record.revivals.iter().map(|(revision, start)| (*revision, self.translated(*start))).collect(),
            parked,
            rewound: false,
            pending: None,
            waiters: Vec::new(),
            revive_wanted: false,
            lane: SubLane::Main,
            expires: self.clock.now().after(std::time::Duration::from_secs(u64::from(ttl_seconds))),
            ttl_seconds,
        };
        let index = self.insert_loaded(key, sub, tenant, filter);
        if refused {
            self.too_costly.push(index);
        }
    }

    fn insert_loaded(
        &mut self,
        key: SubscriptionKey,
        sub: Sub,
        tenant: Arc<str>,
        filter: Arc<Filter>,
    ) -> SubscriptionIndex {
        let (gateway, is_parked) = (sub.gateway, sub.parked.is_some());
        let index = SubscriptionIndex(self.subs.insert(sub));
        self.by_key.insert(key, index);
        self.gateways[gateway.0].subs.insert(index);
        self.enlist(index);
        self.tenants.count(&tenant);
        if !is_parked {
            self.matcher.insert(index, filter);
        }
        index
    }

    fn load_page(&mut self, entry: &Entry) -> Result<(), LoadError> {
        let page = CursorPage::decode(&entry.value).map_err(|e| LoadError::new(&entry.key, e))?;
        let number = entry.key.0.strip_prefix(&cursors::prefix(&self.config.partition));
        let number: u16 =
            number.and_then(|text| text.parse().ok()).ok_or_else(|| LoadError::new(&entry.key, "bad key"))?;
        if let Some(state) = self.pages.get_mut(usize::from(number)) {
            *state = PageState { revision: entry.revision, exists: true };
        }
        for (name, record) in page.cursors {
            let known = GatewayId::stored(&name).ok().and_then(|id| self.gateway_ids.get(&id));
            let Some(index) = known.copied() else { continue };
            let gateway = &mut self.gateways[index.0];
            if gateway.incarnation != record.incarnation {
                continue;
            }
            gateway.serial = Serial { session: record.session, written: record.written };
            gateway.place = record.place();
            gateway.quiet = record.quiet;
            gateway.page_knows = record.moved;
            let floor = record.floor.map(|floor| CursorText(floor.into()));
            gateway.mark = record.mark.map(|note| Mark { note: note.into(), floor });
        }
        Ok(())
    }

    /// A cursor that was presented, and that no page knew of yet.
    fn load_presented(&mut self, index: GatewayIndex) {
        let gateway = &self.gateways[index.0];
        let Some(cursor) = gateway.presented.as_ref().and_then(|text| Cursor::decode(text).ok()) else { return };
        let Some(place) = cursor.places.get(&self.config.partition) else { return };
        if gateway.quiet && cursor.serial >= gateway.serial && place.position <= gateway.place.position {
            return;
        }
        let place = self.place_of(index, cursor.serial, place);
        let gateway = &mut self.gateways[index.0];
        gateway.serial = cursor.serial;
        gateway.place = place;
        gateway.quiet = false;
        gateway.dirty = true;
    }

    /// A quiet gateway has taken everything up to the checkpoint. It stays quiet if everything of it
    /// is served from where the loop begins, or later.
    fn settle_loaded(&mut self, index: GatewayIndex) {
        let (checkpoint, reached) = (self.checkpoint.stored.position, self.reached);
        let active = self.gateways[index.0].subs.iter().map(|sub| &self.subs[sub.0]);
        let first_start = active.filter(|sub| sub.parked.is_none()).map(|sub| sub.start).min();
        // Even one that had taken everything is told that it goes on somewhere else.
        let is_broken_off = self.is_broken_off(self.gateways[index.0].place.position);
        let gateway = &mut self.gateways[index.0];
        let was_quiet = gateway.quiet;
        if gateway.place == Place::default() {
            // No cursor was ever stored: everyone is served from its own start.
            gateway.place.position = first_start.unwrap_or(reached);
            gateway.quiet = true;
        } else if gateway.quiet && !is_broken_off {
            gateway.place.position = gateway.place.position.max(checkpoint);
        }
        let place = gateway.place.clone();
        let all_served = self.gateways[index.0].subs.iter().all(|sub| {
            let sub = &self.subs[sub.0];
            let floor = self.floor(sub, &place);
            let is_unheard = floor <= sub.birth.0 && sub.assigned.as_ref().is_some_and(|it| it.lost_from.is_some());
            sub.parked.is_some() || (floor >= place.position && !sub.is_unripe(reached) && !is_unheard)
        });
        let gateway = &mut self.gateways[index.0];
        let is_continuous = place.position >= reached && place.position.epoch == reached.epoch;
        gateway.quiet = gateway.quiet && all_served && is_continuous;
        gateway.dirty = gateway.quiet != was_quiet;
    }

    /// A position of an earlier epoch counts from the start of its cluster time; one from before a break
    /// with history, from that break.
    fn translated(&self, position: Position) -> Position {
        let epoch = self.reached.epoch;
        let position = self.broken_off_at(position).unwrap_or(position);
        if position.epoch >= epoch { position } else { Position::boundary(epoch, position.time) }
    }
}

/// A stored subscription as far as it can be read without the machine, which is most of the work.
struct Read {
    key: SubscriptionKey,
    record: SubscriptionRecord,
    superseded: Vec<Compiled>,
    current: Compiled,
}

/// What was asked for, and its filter unless this version refuses it, as too complex perhaps, though an
/// earlier one did not.
type Compiled = (Spec, Option<Arc<Filter>>);

/// So many are held beside what is made of them.
const READ_AT_ONCE: usize = 16_000;
/// Fewer are not worth a thread.
const READ_ALONE_MAX: usize = 1_000;

/// Reads them on all cores; they come in order.
fn read_all(partition: &PartitionId, entries: &[Entry]) -> Result<Vec<Read>, LoadError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = entries.len().div_ceil(cores).max(READ_ALONE_MAX);
    let read_part = |part: &[Entry]| part.iter().map(|entry| read(partition, entry)).collect::<Result<Vec<_>, _>>();
    if entries.len() <= share {
        return read_part(entries);
    }
    std::thread::scope(|scope| {
        let parts: Vec<_> = entries.chunks(share).map(|part| scope.spawn(|| read_part(part))).collect();
        let mut all = Vec::with_capacity(entries.len());
        for part in parts {
            all.extend(part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(all)
    })
}

fn read(partition: &PartitionId, entry: &Entry) -> Result<Read, LoadError> {
    let error = |detail: &dyn ToString| LoadError::new(&entry.key, detail.to_string());
    let key = subscriptions::parse_key(partition, &entry.key).ok_or_else(|| error(&"bad key"))?;
    let record = SubscriptionRecord::decode(&entry.value).map_err(|e| error(&e))?;
    let superseded = record.superseded.iter().map(|old| compiled(&old.spec)).collect::<Result<Vec<_>, _>>();
    let superseded = superseded.map_err(|e| error(&e))?;
    let current = compiled(&record.spec).map_err(|e| error(&e))?;
    Ok(Read { key, record, superseded, current })
}

fn compiled(stored: &serde_json::Value) -> Result<Compiled, Problem> {
    let spec = Spec::from_stored(stored)?;
    let filter = Filter::compile(&spec).ok();
    Ok((spec, filter))
}

fn segment(spec: Spec, filter: Arc<Filter>, generation: Revision, from: Position, until: Option<Position>) -> Segment {
    let fields = spec.fields.clone().map(|fields: Vec<Path>| fields.into());
    Segment { generation, spec: Arc::new(spec), filter, fields, from, until }
}
