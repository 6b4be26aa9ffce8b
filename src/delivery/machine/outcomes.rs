//! What comes of writes, and who is told.
//!
//! Owns the way from an outcome to what waits for it. A write of unknown outcome leaves everything as it
//! is until the outcome is known: the caller is told, the machine waits.

use super::registry::store_problem;
use super::state::{RecordState, Sub, WriteKind};
use super::{Answer, Effect, Machine, Mistake, WriteId};
use crate::error::{Code, Problem};
use crate::matching::SubscriptionIndex;
use crate::store::{CommitError, Revision};

/// What came of a write, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Done(Revision),
    /// It did not, and never will.
    Failed(CommitError),
    /// The store has not answered in time; `Done` or `Failed` will follow.
    Unknown,
}

pub(super) fn unanswered() -> Problem {
    let detail = "the store does not answer; the outcome is not known yet";
    Problem::new(Code::StoreUnavailable, detail).retry_after(1)
}

impl Machine {
    /// The outcome of a write, or that it is not known yet.
    ///
    /// # Panics
    /// If the store contradicts its single owner: another writer has been at work under this fence.
    pub fn on_outcome(&mut self, id: WriteId, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Unknown if self.broken(Mistake::UnknownIsFailed) => {
                Outcome::Failed(CommitError::Unknown("taken for failed".into()))
            }
            other => other,
        };
        let result = match outcome {
            Outcome::Unknown => return self.tell_unknown(id),
            Outcome::Done(revision) => {
                self.confirmed = self.confirmed.max(revision);
                Ok(revision)
            }
            Outcome::Failed(error) => Err(error),
        };
        let Some(kind) = self.writes.remove(&id) else { return };
        if let Some(gateway) = self.additions.remove(&id) {
            self.gateways[gateway.0].in_flight.remove(&id);
        }
        match (kind, result) {
            (WriteKind::Replace(index), result) => self.on_replaced(index, result),
            (kind, Ok(revision)) => self.on_written(kind, revision),
            (kind, Err(error)) => self.on_refused(kind, &error),
        }
    }

    fn on_written(&mut self, kind: WriteKind, revision: Revision) {
        match kind {
            WriteKind::Create { subs, born } => self.on_created(subs, born, revision),
            WriteKind::Revive(subs) => self.on_revived(subs, revision),
            WriteKind::Park(subs) => self.on_parked(subs, revision),
            WriteKind::Assign(subs) => self.on_assigned(subs, revision),
            WriteKind::Remove(subs) => {
                for index in subs {
                    self.settle_waiters(index, |_| Ok(Answer::Done));
                    self.drop_sub(index);
                }
            }
            WriteKind::RemoveGateway { gateway, subs } => self.on_gateway_chunk_removed(gateway, subs),
            WriteKind::Open(index, request) => self.on_opened(index, *request, revision),
            WriteKind::Move { gateway, request, moved, owed } => {
                self.on_moved(gateway, &request, (moved, owed), revision);
            }
            WriteKind::Serve(index, request) => self.on_served(index, request, revision),
            WriteKind::Page(page, presented) => self.on_page_written(page, &presented, revision),
            WriteKind::Checkpoint(position) => self.on_checkpoint_written(position, revision),
            WriteKind::Replace(_) => unreachable!("handled by its caller"),
        }
    }

    fn on_refused(&mut self, kind: WriteKind, error: &CommitError) {
        match kind {
            WriteKind::Create { subs, born } => {
                if let Some(index) = born {
                    self.gateways[index.0].record = RecordState::Free;
                    self.next_request(index);
                }
                for index in subs {
                    self.settle_waiters(index, |_| Err(store_problem(error)));
                    self.drop_sub(index);
                }
            }
            WriteKind::Revive(subs) | WriteKind::Park(subs) | WriteKind::Remove(subs) => {
                for index in subs {
                    self.subs[index.0].pending = None;
                    self.settle_waiters(index, |_| Err(store_problem(error)));
                }
            }
            WriteKind::Assign(subs) => subs.into_iter().for_each(|index| self.keep(index)),
            WriteKind::Open(index, request) => {
                self.gateways[index.0].record = RecordState::Free;
                if !request.abandoned {
                    self.answer(request.waiter, Err(store_problem(error)));
                }
                self.next_request(index);
            }
            WriteKind::Move { gateway, request, .. } => self.on_move_refused(gateway, &request, error),
            WriteKind::Serve(index, request) => self.on_serve_refused(index, request, error),
            WriteKind::RemoveGateway { .. } | WriteKind::Page(..) | WriteKind::Checkpoint(_) => {
                assert!(
                    matches!(error, CommitError::Fenced | CommitError::Unknown(_)),
                    "another writer has been at work under this owner's fence: {error}"
                );
            }
            WriteKind::Replace(_) => unreachable!("handled by its caller"),
        }
    }

    pub(super) fn settle_waiters(
        &mut self,
        index: SubscriptionIndex,
        mut result: impl FnMut(&Sub) -> Result<Answer, Problem>,
    ) {
        let sub = &mut self.subs[index.0];
        for waiter in std::mem::take(&mut sub.waiters) {
            let result = result(&self.subs[index.0]);
            self.effects.push(Effect::Answer(waiter, result));
        }
    }

    /// The store takes its time: callers are told, everything else waits.
    fn tell_unknown(&mut self, id: WriteId) {
        let problem = unanswered();
        let of_records = match self.writes.get(&id) {
            Some(
                WriteKind::Open(index, _)
                | WriteKind::Move { gateway: index, .. }
                | WriteKind::Serve(index, _)
                | WriteKind::Create { born: Some(index), .. },
            ) => vec![*index],
            Some(WriteKind::Page(_, presented)) => presented.clone(),
            _ => Vec::new(),
        };
        for index in of_records {
            self.doubt_record(index);
        }
        let of_record = match self.writes.get_mut(&id) {
            Some(WriteKind::Open(_, request)) => Some((request.waiter, &mut request.abandoned)),
            Some(WriteKind::Move { request, .. }) => Some((request.waiter, &mut request.abandoned)),
            Some(WriteKind::Serve(_, request)) => Some((request.waiter, &mut request.abandoned)),
            _ => None,
        };
        if let Some((waiter, abandoned)) = of_record {
            if !std::mem::replace(abandoned, true) {
                self.answer(waiter, Err(problem));
            }
            return;
        }
        let subs = match self.writes.get_mut(&id) {
            Some(WriteKind::Create { subs, .. } | WriteKind::Revive(subs) | WriteKind::Remove(subs)) => subs.clone(),
            Some(WriteKind::Replace(index)) => vec![*index],
            Some(WriteKind::RemoveGateway { gateway, subs }) => {
                let (removal, subs) = (self.gateways[gateway.0].removing.as_mut(), subs.clone());
                let waiters = removal.map(|removal| std::mem::take(&mut removal.waiters)).unwrap_or_default();
                let of_group = self.gateways[gateway.0].id.clone();
                for waiter in waiters.into_iter().chain(self.waiting_for_group(&of_group)) {
                    self.answer(waiter, Err(problem.clone()));
                }
                subs
            }
            _ => return,
        };
        for index in subs {
            self.settle_waiters(index, |_| Err(problem.clone()));
        }
    }
}
