//! Gateway groups: which member has which subscription, and how one goes from one member to another.
//!
//! Owns the members that live, the ring over them and the moves. A member is a gateway like any other
//! (`Name::member`); what no member has lies with the group's own, which never connects. A move is one write of the
//! subscription's record: it leaves one gateway and begins anew at the other, as a catch-up from where the first has had
//! everything. A member that is connected is told first (`revoked`), gets nothing more of it, and has a bounded time to
//! ack what it got; of what it may have and has not acked the other's copy is flagged `redelivered`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::compose::resync_item;
use super::registry::{busy, packed};
use super::state::{Assignment, GatewayIndex, Pending, RecordState, Removal, Sub, SubLane, WriteKind};
use super::{Answer, Machine, Mistake, Waiter};
use crate::change::ResyncReason;
use crate::delivery::frame::Reassigned;
use crate::delivery::outbox::{Item, LaneName, Withheld};
use crate::error::{Code, Problem};
use crate::limits;
use crate::matching::SubscriptionIndex;
use crate::position::Position;
use crate::ring::{Ring, point_of};
use crate::store::Revision;
use crate::subscription::{GatewayId, SubscriptionKey};

/// One group, by the name of its own gateway.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Where each of its subscriptions lies on the ring.
    subs: BTreeMap<SubscriptionIndex, u64>,
    /// Those that live.
    members: BTreeMap<Arc<str>, GatewayIndex>,
    /// Of these members, once it is asked for.
    ring: Option<Ring>,
    /// Some subscription may be elsewhere than where the ring has it.
    is_stale: bool,
    removing: Option<Removal>,
}

impl Group {
    fn member_at(&self, point: u64) -> Option<(&Arc<str>, GatewayIndex)> {
        let name = self.ring.as_ref()?.member_at(point)?;
        self.members.get(name).map(|index| (name, *index))
    }

    /// Others live now.
    fn changed(&mut self) {
        self.ring = None;
        self.is_stale = true;
    }

    fn lay_out(&mut self) {
        if self.ring.is_none() {
            self.ring = Some(Ring::new(self.members.keys().cloned()));
        }
    }

    /// How many subscriptions it has.
    pub(super) fn len(&self) -> usize {
        self.subs.len()
    }

    /// Those who live.
    pub(super) fn members(&self) -> impl Iterator<Item = GatewayIndex> {
        self.members.values().copied()
    }

    /// All of its subscriptions.
    pub(super) fn subs(&self) -> impl Iterator<Item = SubscriptionIndex> {
        self.subs.keys().copied()
    }
}

/// A subscription that may go: from where the next member is to serve it, and up to where another may have had it.
struct Ready {
    sub: SubscriptionIndex,
    floor: Position,
    /// Nothing beyond this is handed to the member that still has it.
    held: Position,
    handed_until: Option<Position>,
}

fn point(key: &SubscriptionKey) -> u64 {
    point_of(&format!("{}{}", key.gateway, key.id))
}

impl Machine {
    /// Which gateway is to have a new subscription.
    pub(super) fn home_of(&mut self, key: &SubscriptionKey) -> (GatewayId, Option<Box<Assignment>>) {
        let member = self.groups.get_mut(&key.gateway).and_then(|group| {
            group.lay_out();
            group.member_at(point(key))
        });
        match member {
            None => (key.gateway.clone(), None),
            Some((name, index)) => {
                let assigned = Assignment::new(Arc::clone(name), None, None);
                (self.gateways[index.0].id.clone(), Some(Box::new(assigned)))
            }
        }
    }

    /// A subscription is there; if it is a group's, the group knows.
    pub(super) fn enlist(&mut self, index: SubscriptionIndex) {
        let key = &self.subs[index.0].key;
        if key.gateway.in_group().is_some() {
            let at = point(key);
            self.groups.entry(key.gateway.clone()).or_default().subs.insert(index, at);
        }
    }

    /// By which names cursors of a member may know what has gone to others since.
    pub(super) fn gone_elsewhere(&self, index: GatewayIndex) -> HashSet<Revision> {
        let group = self.groups.get(&self.gateways[index.0].id.owner());
        let subs = group.into_iter().flat_map(Group::subs).map(|sub| &self.subs[sub.0]);
        subs.filter_map(|sub| sub.assigned.as_ref())
            .flat_map(|assigned| assigned.names_before.iter().copied())
            .collect()
    }

    /// It is gone.
    pub(super) fn strike(&mut self, owner: &GatewayId, of: GatewayIndex, index: SubscriptionIndex) {
        self.revoking.remove(&(of, index));
        if let Some(group) = self.groups.get_mut(owner) {
            group.subs.remove(&index);
        }
    }

    /// Whether it is with whom the ring says is looked at again.
    pub(super) fn look_again(&mut self, index: SubscriptionIndex) {
        let owner = &self.subs[index.0].key.gateway;
        if let Some(group) = self.groups.get_mut(owner) {
            group.is_stale = true;
        }
    }

    /// A gateway has a session: if it is a member, it lives.
    pub(super) fn member_is_here(&mut self, index: GatewayIndex) {
        let id = self.gateways[index.0].id.clone();
        let Some((_, name)) = id.in_group().filter(|(_, name)| !name.is_empty()) else { return };
        let group = self.groups.entry(id.owner()).or_default();
        if group.members.insert(name.into(), index).is_none() {
            group.changed();
        }
    }

    /// It lives no longer.
    pub(super) fn member_leaves(&mut self, id: &GatewayId) {
        let Some((_, name)) = id.in_group() else { return };
        if let Some(group) = self.groups.get_mut(&id.owner())
            && group.members.remove(name).is_some()
        {
            group.changed();
        }
    }

    /// Whether it is a member that lives.
    pub(super) fn is_member(&self, id: &GatewayId) -> bool {
        let group = self.groups.get(&id.owner());
        id.in_group().is_some_and(|(_, name)| group.is_some_and(|group| group.members.contains_key(name)))
    }

    /// At loading: who has subscriptions may be about to come back, and what it was sent nobody knows.
    pub(super) fn load_member(&mut self, index: GatewayIndex) {
        let (now, horizon) = (self.clock.now(), self.horizon);
        let gateway = &mut self.gateways[index.0];
        if gateway.id.in_group().is_some_and(|(_, member)| !member.is_empty()) && !gateway.subs.is_empty() {
            gateway.left = Some(now);
            gateway.sent = horizon;
            self.member_is_here(index);
        }
    }

    /// Finds members that are lost, and moves what is not where it should be. Call once a second or so.
    pub(super) fn tend_groups(&mut self) {
        self.finish_revocations(None);
        let ids: Vec<GatewayId> = self.groups.keys().cloned().collect();
        for id in ids {
            self.forget_lost(&id);
            self.reassign(&id);
        }
        self.groups.retain(|_, group| !group.subs.is_empty() || !group.members.is_empty() || group.removing.is_some());
    }

    fn forget_lost(&mut self, id: &GatewayId) {
        let (now, grace) = (self.clock.now(), Duration::from_secs(self.config.member_grace_seconds));
        let Some(group) = self.groups.get_mut(id) else { return };
        let gateways = &self.gateways;
        let count = group.members.len();
        group.members.retain(|_, index| {
            let gateway = &gateways[index.0];
            gateway.session.is_some() || gateway.left.is_some_and(|left| left.after(grace) > now)
        });
        if group.members.len() < count {
            group.changed();
        }
    }

    fn reassign(&mut self, id: &GatewayId) {
        let Some(group) = self.groups.get_mut(id).filter(|group| group.is_stale && group.removing.is_none()) else {
            return;
        };
        group.lay_out();
        let Some(group) = self.groups.get(id) else { return };
        let live: HashSet<GatewayIndex> = group.members().collect();
        let mut revoked: BTreeMap<GatewayIndex, Vec<SubscriptionIndex>> = BTreeMap::new();
        let (mut free, mut told, mut later) = (Vec::new(), 0, false);
        for (index, point) in &group.subs {
            let sub = &self.subs[index.0];
            let Some((_, to)) = group.member_at(*point).filter(|(_, to)| *to != sub.gateway) else { continue };
            debug_assert!(live.contains(&to));
            if sub.pending.is_some() {
                later = true;
                continue;
            }
            // What is parked moves when it has come back.
            if !sub.is_active() {
                continue;
            }
            if self.gateways[sub.gateway.0].session.is_some() {
                // Cursors of a member name each of them until it has gone.
                if told == limits::group_revokes_at_once_max {
                    later = true;
                    continue;
                }
                revoked.entry(sub.gateway).or_default().push(*index);
                told += 1;
            } else if free.len() == limits::group_moves_at_once_max {
                later = true;
            } else if live.contains(&sub.gateway) {
                // It may come back and ack what it has.
                later = true;
            } else {
                free.push(*index);
            }
        }
        if let Some(group) = self.groups.get_mut(id) {
            group.is_stale = later;
        }
        for (from, subs) in revoked {
            self.revoke(from, &subs);
        }
        let mut ready = Vec::new();
        for sub in free {
            let from = self.subs[sub.0].gateway;
            let floor = self.floor(&self.subs[sub.0], &self.effective(from));
            let sent = self.gateways[from.0].sent;
            let floor = if self.broken(Mistake::LostMemberAcked) { floor.max(sent) } else { floor };
            ready.push(Ready { sub, floor, held: floor, handed_until: Some(sent) });
        }
        self.assign(ready);
        self.finish_revocations(None);
    }

    /// Tells a member that these go elsewhere. It gets nothing more of them.
    fn revoke(&mut self, from: GatewayIndex, subs: &[SubscriptionIndex]) {
        let until = self.clock.now().after(Duration::from_secs(limits::revoke_seconds_max));
        let (reached, was_quiet) = (self.reached, self.gateways[from.0].quiet);
        if was_quiet {
            self.freeze(from, reached);
        }
        let mut items = Vec::new();
        for index in subs {
            let held = self.handed_up_to(*index);
            // Who catches up may have had more than its lane says, which begins again where it must.
            let is_live = self.is_live(&self.subs[index.0]);
            let handed = if is_live { held } else { self.horizon.max(self.reached) };
            let sub = &mut self.subs[index.0];
            sub.pending = Some(Pending::Revoke { held, handed, until });
            let name = sub.name();
            items.push(Item::Blocked(*index, Withheld { name, position: held }));
            self.revoking.insert((from, *index));
            self.note_withheld(*index);
            if was_quiet {
                self.hold(from, name, held.min(reached));
            }
        }
        let subscription_ids = subs.iter().map(|sub| self.subs[sub.0].key.id.clone()).collect();
        items.push(Item::Revoked(Reassigned { subscription_ids }));
        self.push_all(from, items);
    }

    fn is_live(&self, sub: &Sub) -> bool {
        let session = self.gateways[sub.gateway.0].session.as_ref();
        session.is_some_and(|session| sub.lane == SubLane::Main && session.main.is_live())
    }

    /// Everything of a subscription up to here has been put into its session's outbox.
    fn handed_up_to(&self, index: SubscriptionIndex) -> Position {
        let sub = &self.subs[index.0];
        let Some(session) = &self.gateways[sub.gateway.0].session else { return Position::default() };
        let lane = session.extra.as_ref().filter(|_| sub.lane == SubLane::Extra).unwrap_or(&session.main);
        if lane.is_live() {
            return lane.at.max(self.reached);
        }
        let floors = lane.by_sub.get(&index).into_iter().flatten().map(|member| lane.members[*member].floor);
        floors.min().map_or(lane.at, |floor| floor.max(lane.at))
    }

    /// What waits for acks: of one gateway, or of all.
    fn revoking_of(&self, of: Option<GatewayIndex>) -> impl Iterator<Item = &(GatewayIndex, SubscriptionIndex)> {
        let (first, last) = (of.unwrap_or(GatewayIndex(0)), of.unwrap_or(GatewayIndex(usize::MAX)));
        self.revoking.range((first, SubscriptionIndex(0))..=(last, SubscriptionIndex(u32::MAX)))
    }

    /// What was revoked and is acked, or has waited long enough, goes: of one gateway, or of all.
    pub(super) fn finish_revocations(&mut self, of: Option<GatewayIndex>) {
        let mut by_gateway: BTreeMap<GatewayIndex, Vec<SubscriptionIndex>> = BTreeMap::new();
        for (gateway, index) in self.revoking_of(of) {
            by_gateway.entry(*gateway).or_default().push(*index);
        }
        let now = self.clock.now();
        let mut ready = Vec::new();
        for (from, subs) in by_gateway {
            let durable = self.effective(from);
            let gateway = &self.gateways[from.0];
            let has_acked_all = gateway.session.as_ref().is_some_and(|session| {
                let (last, waiting) = session.outbox.outstanding();
                !waiting && (last == 0 || (gateway.serial.session == session.number && gateway.serial.written >= last))
            });
            let is_live = self.is_member(&gateway.id);
            for index in subs {
                let sub = &self.subs[index.0];
                let Some(Pending::Revoke { held, handed, until }) = sub.pending else { continue };
                let floor = self.floor(sub, &durable).min(held);
                let is_acked = floor >= held || (has_acked_all && self.handed_up_to(index) >= held);
                let is_acked = is_acked || self.broken(Mistake::RevokedIsAcked);
                let floor = if is_acked { held } else { floor };
                if is_acked || until <= now || !is_live {
                    // An earlier session may have been sent more than this one.
                    ready.push(Ready { sub: index, floor, held, handed_until: Some(handed.max(gateway.sent)) });
                }
            }
        }
        self.assign(ready);
    }

    /// Has the next member have them, once that is stored.
    fn assign(&mut self, ready: Vec<Ready>) {
        let unflagged = self.broken(Mistake::ReassignedUnflagged);
        let mut by_target: BTreeMap<GatewayIndex, Vec<(SubscriptionIndex, crate::store::Write)>> = BTreeMap::new();
        for Ready { sub: index, floor, held, handed_until } in ready {
            let birth = self.subs[index.0].birth.0;
            // A gateway may stand before where this one began.
            let floor = floor.max(birth);
            // A cursor may be ahead of the loop, after a restart: it is there in a moment.
            if floor > self.reached.max(birth) {
                self.look_again(index);
                continue;
            }
            let from = self.subs[index.0].gateway;
            self.revoking.remove(&(from, index));
            if let Some(group) = self.groups.get_mut(&self.subs[index.0].key.gateway) {
                group.lay_out();
            }
            let lost_from = self.lost_before(from).filter(|_| self.is_from_break(floor));
            let sub = &self.subs[index.0];
            // Not heard yet by who had it until now.
            let unheard = sub.assigned.as_ref().and_then(|assigned| assigned.lost_from).filter(|_| floor <= birth);
            let lost_from = unheard.or(lost_from);
            let group = self.groups.get(&sub.key.gateway);
            let to = group.and_then(|group| group.member_at(*group.subs.get(&index)?));
            let Some((member, to)) = to.filter(|(_, to)| *to != sub.gateway) else {
                self.keep(index);
                continue;
            };
            let earlier = sub.assigned.as_ref().and_then(|assigned| assigned.redelivered_until);
            let until = [earlier, handed_until].into_iter().flatten().filter(|until| *until > floor).max();
            let member = Arc::clone(member);
            let assignment = Assignment::new(member, until.filter(|_| !unflagged), lost_from);
            let mut moved = sub.clone();
            moved.begin_elsewhere(floor, Revision(u64::MAX), assignment.clone());
            let record = moved.record();
            let sub = &mut self.subs[index.0];
            sub.pending = Some(Pending::Assign { to, floor, held, assignment });
            self.note_withheld(index);
            let write = self.record_write(index, record);
            by_target.entry(to).or_default().push((index, write));
        }
        for (to, writes) in by_target {
            for (part, writes) in packed(writes) {
                self.write_addition(to, WriteKind::Assign(part), writes);
            }
        }
    }

    /// What comes before where history goes on after a break is lost, and this gateway has not been told so yet.
    fn lost_before(&self, index: GatewayIndex) -> Option<Position> {
        let gateway = &self.gateways[index.0];
        if self.is_broken_off(gateway.place.position) {
            return Some(gateway.place.position);
        }
        // Since then it stands after the break: from where is not known any more.
        let owed = gateway.still_owed(gateway.owed).filter(|owed| owed.reason == ResyncReason::Restored);
        owed.map(|_| Position::default())
    }

    /// Whether whoever is served from here has had nothing since history broke off.
    fn is_from_break(&self, floor: Position) -> bool {
        self.checkpoint.stored.restored.is_some_and(|restored| floor <= restored)
    }

    /// What its new member is told of a subscription, again until it is known to have had something of it.
    pub(super) fn lost_with(&self, index: SubscriptionIndex) -> Option<Item> {
        let sub = &self.subs[index.0];
        let from = sub.assigned.as_ref()?.lost_from?;
        let reason = (ResyncReason::HistoryLost, None);
        let mut item = resync_item(&self.subs, LaneName::Joining, (from, sub.birth.0), reason, [index]);
        if let Item::Resync(resync) = &mut item {
            resync.from = resync.from.filter(|from| *from != Position::default());
        }
        Some(item)
    }

    /// What goes elsewhere, to a session that has not been told: the one before may not have heard it.
    pub(super) fn say_revoked(&mut self, index: GatewayIndex) {
        let ids = self.revoking_of(Some(index)).map(|(_, sub)| self.subs[sub.0].key.id.clone());
        let subscription_ids: Vec<_> = ids.collect();
        if !subscription_ids.is_empty() {
            self.push_all(index, vec![Item::Revoked(Reassigned { subscription_ids })]);
        }
    }

    /// It stays with the member that has it.
    pub(super) fn keep(&mut self, index: SubscriptionIndex) {
        let sub = &mut self.subs[index.0];
        let Some(Pending::Revoke { held, .. } | Pending::Assign { held, .. }) = sub.pending.take() else { return };
        let (gateway, id) = (sub.gateway, sub.key.id.clone());
        self.push_all(gateway, vec![Item::Assigned(Reassigned { subscription_ids: vec![id] })]);
        self.look_again(index);
        self.admit(gateway, &[(index, held)]);
    }

    /// It is stored that another member has them.
    pub(super) fn on_assigned(&mut self, subs: Vec<SubscriptionIndex>, revision: Revision) {
        let mut by_target: BTreeMap<GatewayIndex, Vec<(SubscriptionIndex, Position)>> = BTreeMap::new();
        for index in subs {
            let sub = &mut self.subs[index.0];
            let Some(Pending::Assign { to, floor, assignment, .. }) = sub.pending.take() else { continue };
            let from = sub.gateway;
            self.note_withheld(index);
            self.leave_lanes(index);
            self.gateways[from.0].subs.remove(&index);
            // Acks of the one before have renewed it, and the next one needs time to.
            let expires = self.expiry(self.subs[index.0].ttl_seconds);
            let sub = &mut self.subs[index.0];
            sub.begin_elsewhere(floor, revision, assignment);
            sub.expires = expires;
            sub.gateway = to;
            sub.revision = revision;
            sub.lane = SubLane::Main;
            self.gateways[to.0].subs.insert(index);
            // Others may live by now.
            self.look_again(index);
            by_target.entry(to).or_default().push((index, floor));
        }
        for (to, subs) in by_target {
            let subscription_ids = subs.iter().map(|(sub, _)| self.subs[sub.0].key.id.clone()).collect();
            let lost: Vec<Item> = subs.iter().filter_map(|(sub, _)| self.lost_with(*sub)).collect();
            if !lost.is_empty() {
                // Not heard before something later is acked.
                self.freeze_and_hold(to, &subs);
            }
            self.push_all(to, [Item::Assigned(Reassigned { subscription_ids })].into_iter().chain(lost).collect());
            self.admit(to, &subs);
        }
    }

    /// Drops a group: its subscriptions, its members' cursors and itself.
    pub(super) fn on_remove_group(&mut self, id: &GatewayId, waiter: Waiter) {
        let all: Vec<GatewayIndex> = self
            .gateways
            .iter()
            .filter(|(_, gateway)| gateway.id.owner() == *id)
            .map(|(index, _)| GatewayIndex(index))
            .collect();
        if all.is_empty() {
            return self.answer(waiter, Err(no_group(id)));
        }
        let group = self.groups.entry(id.clone()).or_default();
        if let Some(removal) = &mut group.removing {
            return removal.waiters.push(waiter);
        }
        let is_writing = |index: &GatewayIndex| {
            let gateway = &self.gateways[index.0];
            let pending = |sub: &SubscriptionIndex| {
                let pending = &self.subs[sub.0].pending;
                pending.as_ref().is_some_and(|pending| !matches!(pending, Pending::Revoke { .. }))
            };
            let is_busy = gateway.record != RecordState::Free || gateway.removing.is_some();
            is_busy || gateway.subs.iter().any(pending) || !gateway.in_flight.is_empty()
        };
        if all.iter().any(is_writing) {
            return self.answer(waiter, Err(busy()));
        }
        if let Some(group) = self.groups.get_mut(id) {
            group.removing = Some(Removal { waiters: vec![waiter], chunks: all.len() });
        }
        for index in all {
            self.remove_gateway(index, Vec::new());
        }
    }

    /// A gateway has been removed.
    pub(super) fn member_is_gone(&mut self, id: &GatewayId) {
        let Some(group) = self.groups.get_mut(&id.owner()).filter(|_| id.in_group().is_some()) else { return };
        let Some(removal) = &mut group.removing else { return };
        removal.chunks -= 1;
        if removal.chunks == 0 {
            let waiters = std::mem::take(&mut removal.waiters);
            // A member may have come meanwhile, which the group goes on with.
            group.removing = None;
            if group.members.is_empty() && group.subs.is_empty() {
                self.groups.remove(&id.owner());
            }
            for waiter in waiters {
                self.answer(waiter, Ok(Answer::Done));
            }
        }
    }

    /// Whether nothing may be added to it at present.
    pub(super) fn is_group_removing(&self, owner: &GatewayId) -> bool {
        self.groups.get(owner).is_some_and(|group| group.removing.is_some())
    }

    /// Who waits for a group's removal that the store does not answer.
    pub(super) fn waiting_for_group(&mut self, id: &GatewayId) -> Vec<Waiter> {
        let removal = self.groups.get_mut(&id.owner()).and_then(|group| group.removing.as_mut());
        removal.map(|removal| std::mem::take(&mut removal.waiters)).unwrap_or_default()
    }
}

pub(super) fn no_group(id: &GatewayId) -> Problem {
    let name = id.in_group().map_or(id.as_str(), |(group, _)| group);
    Problem::new(Code::GatewayNotFound, format!("no group {name}"))
}
