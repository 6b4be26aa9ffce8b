//! What the machine holds of subscriptions, gateways, sessions and writes under way.
//!
//! Owns these types and what each can say of itself. Knows nothing of the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::lane::Lane;
use super::owed::still_owed;
use super::{Waiter, WriteId};
use crate::clock::Instant;
use crate::cursor::{Cursor, Place, Serial};
use crate::delivery::outbox::{LaneName, Outbox, Withheld};
use crate::handle::{DeliveryMode, Hello, Mark, Transport};
use crate::limits;
use crate::matching::{Filter, SubscriptionIndex};
use crate::position::Position;
use crate::store::Revision;
use crate::store::gateways::{Moved, Owed};
use crate::store::subscriptions::{AssignedRecord, ParkedReason, ParkedRecord, SubscriptionRecord, SupersededRecord};
use crate::subscription::{GatewayId, Path, Spec, SubscriptionKey};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct GatewayIndex(pub(super) usize);

/// A filter over a range of positions. `generation` is zero until it is known.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) generation: Revision,
    pub(super) spec: Arc<Spec>,
    pub(super) filter: Arc<Filter>,
    pub(super) fields: Option<Arc<[Path]>>,
    /// It applies to changes after this.
    pub(super) from: Position,
    /// And up to this; `None`: without end.
    pub(super) until: Option<Position>,
}

impl Segment {
    /// The generation by which gateways know it.
    pub(super) fn shown(&self) -> u64 {
        self.spec.generation.unwrap_or(self.generation.0)
    }
}

/// A write under way for one subscription.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    Create,
    /// The new filter, and the position from which it takes over.
    Replace(Box<Segment>),
    Revive,
    /// Why, and the floor that is stored.
    Park(ParkedReason, Position),
    Remove,
    /// Another member is to have it: this one gets nothing beyond `held`, and is waited for until then. It may have been
    /// sent more, up to `handed`.
    Revoke {
        held: Position,
        handed: Position,
        until: Instant,
    },
    /// Likewise, and that is on its way to the store.
    Assign {
        to: GatewayIndex,
        floor: Position,
        held: Position,
        assignment: Assignment,
    },
}

/// Which member of its group has a subscription.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    /// The member's name.
    pub(super) member: Arc<str>,
    /// Another may have been handed what lies up to here.
    pub(super) redelivered_until: Option<Position>,
    /// By what cursors of earlier members may name it, the last of them last.
    pub(super) names_before: Vec<Revision>,
    /// What came after this is lost up to where it was assigned, and no earlier member had been told.
    pub(super) lost_from: Option<Position>,
}

impl Assignment {
    pub(super) fn new(member: Arc<str>, redelivered_until: Option<Position>, lost_from: Option<Position>) -> Self {
        Self { member, redelivered_until, names_before: Vec::new(), lost_from }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SubLane {
    Main,
    Extra,
}

#[derive(Clone, Debug)]
pub(super) struct Sub {
    pub(super) key: SubscriptionKey,
    /// Who is served: of a group's, the member that has it.
    pub(super) gateway: GatewayIndex,
    pub(super) assigned: Option<Box<Assignment>>,
    /// Oldest first; the last is the current one. Never empty.
    pub(super) segments: Vec<Segment>,
    /// The record's last write; zero before the first.
    pub(super) revision: Revision,
    /// Where and with which revision it was created, or assigned to its member: a rewind may go back to here.
    pub(super) birth: (Position, Revision),
    /// Cursors that do not know `start_revision` serve it from here.
    pub(super) start: Position,
    pub(super) start_revision: Revision,
    /// Revisions and starts of its revivals before that, oldest first.
    pub(super) revivals: Vec<(Revision, Position)>,
    pub(super) parked: Option<(Position, ParkedReason, i64)>,
    /// While it is parked a rewind has gone back beyond the floor that is stored; until it is served
    /// again the session's cursors remember it.
    pub(super) rewound: bool,
    pub(super) pending: Option<Pending>,
    /// Callers who wait for the pending write.
    pub(super) waiters: Vec<Waiter>,
    /// Renewed while its parking was under way.
    pub(super) revive_wanted: bool,
    pub(super) lane: SubLane,
    pub(super) expires: Instant,
    pub(super) ttl_seconds: u32,
}

impl Sub {
    pub(super) fn current(&self) -> &Segment {
        self.segments.last().expect("a subscription has a filter")
    }

    /// The filter so far applies up to where the next one takes over.
    pub(super) fn replace_filter(&mut self, next: Segment) {
        if let Some(current) = self.segments.last_mut() {
            current.until = Some(next.from);
        }
        self.segments.push(next);
    }

    /// Comes back from where it was parked, if it was.
    pub(super) fn unpark(&mut self, revision: Revision) {
        let Some((floor, ..)) = self.parked.take() else { return };
        if self.start_revision != self.birth.1 {
            self.revivals.push((self.start_revision, self.start));
        }
        if self.revivals.len() > limits::revivals_max {
            // Who does not know the second begins at the lower of both: what it has comes again at worst.
            let (_, first) = self.revivals.remove(0);
            self.revivals[0].1 = self.revivals[0].1.min(first);
        }
        (self.start, self.start_revision) = (floor, revision);
    }

    /// Begins anew at another gateway, from where it has had everything.
    pub(super) fn begin_elsewhere(&mut self, floor: Position, revision: Revision, mut assignment: Assignment) {
        let mut names = self.assigned.take().map(|assigned| assigned.names_before).unwrap_or_default();
        names.extend(self.names_for(Revision(0)));
        names.drain(..names.len().saturating_sub(limits::names_before_max));
        assignment.names_before = names;
        self.segments.retain(|segment| segment.until.is_none_or(|until| until > floor));
        self.birth = (floor, revision);
        (self.start, self.start_revision) = (floor, revision);
        self.revivals.clear();
        self.rewound = false;
        self.assigned = Some(Box::new(assignment));
    }

    /// Another member may have been handed what lies here.
    pub(super) fn is_redelivered(&self, at: Position) -> bool {
        self.assigned.as_ref().is_some_and(|assigned| assigned.redelivered_until.is_some_and(|until| at <= until))
    }

    /// Nothing beyond this is for who has it now.
    pub(super) fn held(&self) -> Option<Position> {
        match &self.pending {
            Some(Pending::Revoke { held, .. } | Pending::Assign { held, .. }) => Some(*held),
            _ => None,
        }
    }

    /// Where it began when it was revived for the first time after this revision.
    pub(super) fn revived_after(&self, known: Revision) -> Position {
        let earlier = self.revivals.iter().find(|(revision, _)| *revision > known);
        earlier.map_or(self.start, |(_, start)| *start)
    }

    /// What cursors name its catch-up by: the last of its writes. One call registers many subscriptions, and they share
    /// its revision until one of them is replaced or revived.
    pub(super) fn name(&self) -> Revision {
        self.start_revision.max(self.current().generation)
    }

    /// Whether that is a filter that replaced another since it began.
    pub(super) fn is_replaced(&self) -> bool {
        self.name() != self.start_revision
    }

    /// What a cursor whose maker knew everything up to `known` may name it by. He may have known more: what he says to
    /// know may lag behind.
    pub(super) fn names_for(&self, known: Revision) -> impl Iterator<Item = Revision> {
        let replaced = self.segments.iter().map(|segment| segment.generation);
        let names = std::iter::once(self.start_revision).chain(replaced.filter(|name| *name > self.start_revision));
        let first = names.clone().filter(|name| *name <= known).max().unwrap_or_default();
        names.filter(move |name| *name >= first)
    }

    /// Whether the store has it and it is matched.
    pub(super) fn is_active(&self) -> bool {
        self.revision != Revision(0) && self.parked.is_none()
    }

    /// What the store is to keep of it. A revision that is not known yet is left out: it will be the record's own.
    pub(super) fn record(&self) -> SubscriptionRecord {
        let current = self.current();
        let stored =
            |revision: Revision| (revision != Revision(0) && revision != Revision(u64::MAX)).then_some(revision);
        let superseded = self.segments[..self.segments.len() - 1].iter().map(|segment| SupersededRecord {
            spec: segment.spec.to_stored(),
            generation: segment.generation,
            from: segment.from,
            until: segment.until.unwrap_or(segment.from),
        });
        SubscriptionRecord {
            spec: current.spec.to_stored(),
            generation: stored(current.generation),
            active_from: current.from,
            start: self.start,
            start_revision: stored(self.start_revision),
            revivals: self.revivals.clone(),
            birth: stored(self.birth.1).filter(|birth| *birth != current.generation).map(|birth| (self.birth.0, birth)),
            superseded: superseded.collect(),
            parked: self.parked.map(|(floor, reason, at_ms)| ParkedRecord { floor, reason, at_ms }),
            assigned: self.assigned.as_ref().map(|assigned| AssignedRecord {
                member: assigned.member.to_string(),
                from: self.birth.0,
                revision: stored(self.birth.1),
                redelivered_until: assigned.redelivered_until,
                names_before: assigned.names_before.clone(),
                lost_from: assigned.lost_from,
            }),
            write: 0,
        }
    }

    /// Whether a filter that was replaced still applies to what the loop has not reached.
    pub(super) fn is_unripe(&self, reached: Position) -> bool {
        self.segments.len() > 1 && self.current().from > reached
    }

    /// What its session must not claim to have served.
    pub(super) fn withheld(&self) -> Option<Withheld> {
        let position = match self.parked {
            Some((floor, ..)) => self.rewound.then_some(floor),
            None => self.replacing().map(|next| next.from).or(self.held()),
        };
        position.map(|position| Withheld { name: self.name(), position })
    }

    /// The gateway stands further back than what was stored when this was parked.
    pub(super) fn rewind_to(&mut self, place: Position) {
        if let Some((floor, ..)) = &mut self.parked
            && place < *floor
        {
            *floor = place;
            self.rewound = true;
        }
    }

    fn replacing(&self) -> Option<&Segment> {
        match &self.pending {
            Some(Pending::Replace(segment)) => Some(segment),
            _ => None,
        }
    }

    /// Whether the current filter may be delivered at this position: not beyond where a PUT that is
    /// under way may have replaced it, or where another member has it.
    pub(super) fn may_deliver(&self, at: Position) -> bool {
        self.current().from < at
            && self.replacing().is_none_or(|next| self.parked.is_some() || at <= next.from)
            && self.held().is_none_or(|held| at <= held)
            && !self.is_of_another(at)
    }

    /// An earlier member has had this.
    pub(super) fn is_of_another(&self, at: Position) -> bool {
        self.assigned.is_some() && at <= self.birth.0
    }
}

/// Whether a gateway's own record can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RecordState {
    Free,
    /// A write to it is under way.
    Busy,
    /// The store does not say what came of it.
    Doubtful,
}

#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) id: GatewayId,
    /// Zero until its first write is confirmed.
    pub(super) incarnation: Revision,
    pub(super) revision: Revision,
    pub(super) sessions: u64,
    /// The last message that was acked.
    pub(super) serial: Serial,
    /// What is durable; while `quiet`, it is at least the loop's position instead.
    pub(super) place: Place,
    /// Nothing is unacked, and everything since `place` has been matched.
    pub(super) quiet: bool,
    pub(super) subs: BTreeSet<SubscriptionIndex>,
    /// Those of which cursors must not claim what the rest of the session has had.
    pub(super) withheld: BTreeSet<SubscriptionIndex>,
    pub(super) session: Option<Session>,
    /// Its page must be written.
    pub(super) dirty: bool,
    /// Additions under way, and the greatest revision that was known when each was sent.
    pub(super) in_flight: BTreeMap<WriteId, Revision>,
    /// When its last ack came.
    pub(super) renewed: Instant,
    /// When its last session ended, and up to where it may have been sent something by then.
    pub(super) left: Option<Instant>,
    pub(super) sent: Position,
    /// Since when it has been without session and subscriptions, as far as was looked.
    pub(super) idle: Option<Instant>,
    /// A write to its own record is under way.
    pub(super) record: RecordState,
    /// Who asked for a session or a move meanwhile.
    pub(super) waiting: VecDeque<RecordRequest>,
    /// The cursor from which it was last served, until a page says as much.
    pub(super) presented: Option<String>,
    /// A loss that each of its sessions is told, unless `serial` acks it.
    pub(super) owed: Option<Owed>,
    /// Where an operator last moved it, and which move its page knows of.
    pub(super) moved: Option<Moved>,
    pub(super) page_knows: u64,
    /// How it is served, where an operator has said so.
    pub(super) delivery: Option<DeliveryMode>,
    /// What its publisher noted with its last ack.
    pub(super) mark: Option<Mark>,
    pub(super) removing: Option<Removal>,
}

impl Gateway {
    /// The last message that the gateway itself is known to have had: what a transport keeps for it has been acked
    /// before it was.
    pub(super) fn told(&self) -> Serial {
        if self.mark.is_none() {
            return self.serial;
        }
        let had = self.had_of_kept().filter(|had| had.incarnation == self.incarnation);
        had.map_or(Serial::default(), |had| had.serial)
    }

    /// Up to where it is known to have had what a transport keeps for it.
    pub(super) fn had_of_kept(&self) -> Option<Cursor> {
        Cursor::decode(self.mark.as_ref()?.floor.as_ref()?.as_str()).ok()
    }

    /// What it still has to be told was lost.
    pub(super) fn still_owed(&self, owed: Option<Owed>) -> Option<Owed> {
        owed.and_then(|owed| still_owed(Some(owed), self.told()))
    }
}

#[derive(Debug)]
pub(super) struct Removal {
    pub(super) waiters: Vec<Waiter>,
    pub(super) chunks: usize,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) outbox: Arc<Outbox>,
    pub(super) main: Lane,
    pub(super) extra: Option<Lane>,
    pub(super) transport: Transport,
    /// Which one the gateway is connected to.
    pub(super) node: Arc<str>,
    pub(super) since: chrono::DateTime<chrono::Utc>,
    pub(super) begun: Instant,
}

impl Session {
    /// Its lane of this name, if it has one now.
    pub(super) fn lane_mut(&mut self, name: LaneName) -> Option<&mut Lane> {
        if name == LaneName::Extra { self.extra.as_mut() } else { Some(&mut self.main) }
    }
}

/// What an awaited write was for.
#[derive(Debug)]
pub(super) enum WriteKind {
    Create {
        subs: Vec<SubscriptionIndex>,
        born: Option<GatewayIndex>,
    },
    Replace(SubscriptionIndex),
    Revive(Vec<SubscriptionIndex>),
    Park(Vec<SubscriptionIndex>),
    Assign(Vec<SubscriptionIndex>),
    Remove(Vec<SubscriptionIndex>),
    RemoveGateway {
        gateway: GatewayIndex,
        subs: Vec<SubscriptionIndex>,
    },
    Open(GatewayIndex, Box<OpenRequest>),
    Move {
        gateway: GatewayIndex,
        request: MoveRequest,
        moved: Moved,
        owed: Option<Owed>,
    },
    Serve(GatewayIndex, ServeRequest),
    /// A page of cursors, and the gateways of whose records it makes the presented cursor needless.
    Page(u16, Vec<GatewayIndex>),
    Checkpoint(Position),
}

/// What is to be written to a gateway's own record, one after the other.
#[derive(Debug)]
pub(super) enum RecordRequest {
    Open(OpenRequest),
    Move(MoveRequest),
    Serve(ServeRequest),
}

impl RecordRequest {
    pub(super) fn waiter(&self) -> Waiter {
        match self {
            Self::Open(request) => request.waiter,
            Self::Move(request) => request.waiter,
            Self::Serve(request) => request.waiter,
        }
    }
}

/// To be served otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServeRequest {
    pub(super) mode: DeliveryMode,
    pub(super) waiter: Waiter,
    /// The caller has been told that the store does not answer.
    pub(super) abandoned: bool,
}

/// Where a gateway is moved.
#[derive(Debug)]
pub(super) enum MoveTarget {
    Position(Position),
    Place(Place),
}

#[derive(Debug)]
pub(super) struct MoveRequest {
    pub(super) target: MoveTarget,
    /// The session's number that it takes.
    pub(super) number: u64,
    pub(super) waiter: Waiter,
    /// The caller has been told that the store does not answer.
    pub(super) abandoned: bool,
}

#[derive(Debug)]
pub(super) struct OpenRequest {
    pub(super) hello: Hello,
    pub(super) waiter: Waiter,
    pub(super) cursor: Option<crate::cursor::Cursor>,
    /// What the session will have to say was lost, as it is stored with its number.
    pub(super) owed: Option<Owed>,
    /// The caller has been told that the store does not answer.
    pub(super) abandoned: bool,
}

#[derive(Debug, Default)]
pub(super) struct PageState {
    pub(super) revision: Revision,
    /// How many gateways it holds, as stored.
    pub(super) exists: bool,
}
