//! Commands in, answers out.
//!
//! Owns which command becomes which call of the machine, and who waits for what. Decides nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Openings, Partition, backtest};
use crate::cursor::{Cursor, CursorText};
use crate::delivery::machine::{Answer, Target, Waiter};
use crate::delivery::session::Session;
use crate::error::{Code, Problem};
use crate::handle::{
    Backtest, BacktestPart, Command, Compiled, CursorTarget, DeliveryMode, Lag, Mark, PartitionView, Registered, Reply,
    SubscriptionView,
};
use crate::limits;
use crate::matching::{Difference, Filter};
use crate::position::{ClusterTime, Epoch, Position};
use crate::store::placements::{self, PlacementRecord};
use crate::store::{CommitError, Expect, Write};
use crate::subscription::{GatewayId, StartAt};
use crate::tasks::Kind;

/// Callers whose answer waits for the store.
#[derive(Default)]
pub(super) struct Waiting {
    next: u64,
    callers: HashMap<u64, Caller>,
}

enum Caller {
    Register {
        results: Vec<Option<Result<Registered, Problem>>>,
        left: usize,
        reply: Reply<Vec<Result<Registered, Problem>>>,
    },
    Replace(Reply<Result<SubscriptionView, Problem>>),
    Done(Reply<Result<(), Problem>>),
    Open(GatewayId, Reply<Result<Session, Problem>>),
}

impl Waiting {
    fn add(&mut self, caller: Caller) -> Waiter {
        self.next += 1;
        self.callers.insert(self.next, caller);
        Waiter { token: self.next, slot: 0 }
    }
}

impl Partition {
    pub(super) fn on_command(&mut self, command: Command) {
        if self.ownership != crate::store::Ownership::Held {
            // Dropping the command answers OWNER_UNKNOWN; what only looks is answered all the same.
            match command {
                Command::View(reply) => drop(reply.send(self.partition_view())),
                Command::Disconnect { gateway, session } => self.machine.on_disconnect(&gateway, session),
                Command::Ack(gateway, cursor, mark, reply) => {
                    drop(reply.send(self.acked(&gateway, &cursor, mark)));
                }
                _ => {}
            }
            return;
        }
        match command {
            Command::Register(ref items, _) if items.iter().any(|item| item.spec.start_at.is_some()) => {
                self.describe_then(command);
            }
            Command::SetCursor(..) => self.describe_then(command),
            Command::Register(items, reply) => self.register(items, reply),
            Command::Replace(compiled, reply) => {
                let waiter = self.waiting.add(Caller::Replace(reply));
                self.machine.on_replace(compiled.spec, compiled.filter, waiter);
            }
            Command::Unregister(key, reply) => {
                let waiter = self.waiting.add(Caller::Done(reply));
                self.machine.on_unregister(&key, waiter);
            }
            Command::DeleteGateway(gateway, reply) => {
                let waiter = self.waiting.add(Caller::Done(reply));
                self.machine.on_remove_gateway(&gateway, waiter);
            }
            Command::SetDelivery(gateway, mode, reply) => {
                let waiter = self.waiting.add(Caller::Done(reply));
                self.machine.on_serve(&gateway, mode, waiter);
            }
            Command::Open(hello, reply) => {
                self.openings_of(hello.transport.mode()).push((hello, reply));
                self.open_next();
            }
            other => self.on_immediate(other),
        }
    }

    /// Opens the sessions whose turn has come.
    pub(super) fn open_next(&mut self) {
        while let Some((hello, reply)) = self.openings.iter_mut().find_map(Openings::next) {
            let waiter = self.waiting.add(Caller::Open(hello.gateway.clone(), reply));
            self.machine.on_open(hello, waiter);
        }
    }

    fn openings_of(&mut self, mode: DeliveryMode) -> &mut Openings {
        &mut self.openings[usize::from(mode == DeliveryMode::Nats)]
    }

    /// What an operator wants takes effect here at once, and is answered when it is stored: the next owner must know it.
    fn place(&mut self, wanted: PlacementRecord, reply: Reply<Result<PartitionView, Problem>>) {
        if self.placing.swap(true, Ordering::Relaxed) {
            let detail = "another pause, resume or move of this partition is being stored";
            return drop(reply.send(Err(Problem::new(Code::RateLimited, detail).retry_after(1))));
        }
        let write = Write {
            key: placements::key(self.machine.partition()),
            expect: Expect::Anything,
            value: Some(wanted.encode()),
        };
        let (position, paused, node) = (self.machine.reached(), wanted.paused, wanted.node.as_deref());
        tracing::info!(%position, paused, node, "an operator's word on this partition");
        self.placement = wanted;
        let (store, fence, view) = (Arc::clone(&self.store), self.fence.clone(), self.partition_view());
        let placing = Arc::clone(&self.placing);
        self.tasks.spawn(Kind::StoreWriter, "writing a placement", async move {
            let written = store.commit(&fence, &[write]).await;
            placing.store(false, Ordering::Relaxed);
            let unwritten = |error: CommitError| {
                Problem::new(Code::StoreUnavailable, format!("whether it is stored is unknown: {error}")).retry_after(1)
            };
            drop(reply.send(written.map(|_| view).map_err(unwritten)));
        });
    }

    /// Commands that depend on what the source has just said of itself.
    pub(super) fn on_command_described(&mut self, command: Command) {
        match command {
            Command::Register(items, reply) => self.register(items, reply),
            Command::SetCursor(gateway, target, number, reply) => match self.target_of(&target) {
                Ok(target) => {
                    let waiter = self.waiting.add(Caller::Done(reply));
                    self.machine.on_move(&gateway, &target, number, waiter);
                }
                Err(problem) => drop(reply.send(Err(problem))),
            },
            other => self.on_command(other),
        }
    }

    /// Where an operator wants a cursor.
    fn target_of(&self, target: &CursorTarget) -> Result<Target, Problem> {
        match target {
            // If the source does not reach back that far, the session that begins there says so.
            CursorTarget::Cursor(cursor) => Ok(Target::Cursor(cursor.clone())),
            CursorTarget::Now => {
                let epoch = self.machine.reached().epoch;
                Ok(Target::Position(self.machine.reached().max(self.now(epoch)?)))
            }
            CursorTarget::OperationTime(time) => self.boundary_of(time.next()),
            CursorTarget::Second(second) => self.boundary_of(ClusterTime::new(*second, 0)),
            CursorTarget::Positions(places) => {
                let own = places.iter().find(|(partition, _)| partition == self.machine.partition());
                let (_, position) = own.filter(|_| places.len() == 1).ok_or_else(|| {
                    let detail = format!("this backend has one partition, {}", self.machine.partition());
                    Problem::new(Code::InvalidRequest, detail).at("positions")
                })?;
                let position = self.machine.position_today(*position).map_err(|problem| problem.at("positions"))?;
                self.in_reach(position, "positions")
            }
        }
    }

    fn boundary_of(&self, time: ClusterTime) -> Result<Target, Problem> {
        self.in_reach(Position::boundary(self.machine.reached().epoch, time), "operationTime")
    }

    fn in_reach(&self, position: Position, at: &'static str) -> Result<Target, Problem> {
        if self.oldest().is_some_and(|oldest| position.time < oldest) {
            let detail = "the oplog does not reach back that far";
            return Err(Problem::new(Code::StartTooOld, detail).at(at));
        }
        // Nobody would miss what is skipped by a mistyped year before it is too late.
        if position > self.machine.reached().max(self.now(position.epoch)?) {
            return Err(Problem::new(Code::InvalidRequest, "this lies in the future").at(at));
        }
        Ok(Target::Position(position))
    }

    /// What comes after everything that the source has.
    fn now(&self, epoch: Epoch) -> Result<Position, Problem> {
        let described = self.described.as_ref().map(|(described, _)| Position::boundary(epoch, described.now.next()));
        described
            .ok_or_else(|| Problem::new(Code::OwnerUnknown, "the backend has not said yet where it is").retry_after(1))
    }

    /// Commands that are answered at once. A caller who has gone away needs no answer.
    fn on_immediate(&mut self, command: Command) {
        let wall = |end: crate::clock::Instant| self.clock.wall() + end.since(self.clock.now());
        match command {
            Command::Subscription(key, reply) => {
                let view = self.machine.subscription(&key).map(|view| self.warned(view));
                drop(reply.send(view));
            }
            Command::Subscriptions(query, reply) => {
                let mut page = self.machine.subscriptions(&query);
                page.subscriptions = page.subscriptions.into_iter().map(|view| self.warned(view)).collect();
                drop(reply.send(page));
            }
            Command::Renew(key, reply) => drop(reply.send(self.machine.on_renew(&key).map(wall))),
            Command::RenewGateway(gateway, named, reply) => {
                let renewed = self.machine.on_renew_gateway(&gateway, named);
                drop(reply.send(renewed.map(|(renewed, _)| renewed)));
            }
            Command::Gateways(reply) => drop(reply.send(self.machine.gateways())),
            Command::Gateway(gateway, reply) => drop(reply.send(self.machine.gateway(&gateway))),
            Command::ParkGateway(gateway, reply) => drop(reply.send(self.machine.on_park_gateway(&gateway))),
            Command::Ack(gateway, cursor, mark, reply) => drop(reply.send(self.acked(&gateway, &cursor, mark))),
            Command::Unserved(max, reply) => drop(reply.send(self.machine.unserved(max))),
            Command::Removed(reply) => drop(reply.send(self.machine.take_removed())),
            Command::Marks(reply) => drop(reply.send(self.machine.marks())),
            Command::Record(key, reply) => {
                let store = Arc::clone(&self.store);
                self.tasks.spawn(Kind::StoreWriter, "reading a record", async move {
                    drop(reply.send(store.get(&key).await));
                });
            }
            Command::PutRecord(write, reply) => {
                let (store, fence) = (Arc::clone(&self.store), self.fence.clone());
                self.tasks.spawn(Kind::StoreWriter, "writing a record", async move {
                    drop(reply.send(store.commit(&fence, &[write]).await));
                });
            }
            Command::Explain(query, reply) => drop(reply.send(self.machine.explain(&query))),
            Command::Furthest(max, reply) => drop(reply.send(self.machine.furthest(max))),
            Command::Backtest(asked, filter, reply) => self.backtest(*asked, filter, reply),
            Command::Known(mut keys, reply) => {
                keys.retain(|key| self.machine.knows(key));
                drop(reply.send(keys));
            }
            Command::View(reply) => drop(reply.send(self.partition_view())),
            Command::Pause(paused, reply) => {
                self.place(PlacementRecord { paused, ..self.placement.clone() }, reply);
            }
            Command::Move(node, reply) => {
                self.turns.asked();
                self.place(PlacementRecord { node: Some(node), ..self.placement.clone() }, reply);
            }
            Command::Disconnect { gateway, session } => self.machine.on_disconnect(&gateway, session),
            Command::Register(..)
            | Command::Replace(..)
            | Command::Unregister(..)
            | Command::DeleteGateway(..)
            | Command::SetCursor(..)
            | Command::SetDelivery(..)
            | Command::Open(..) => unreachable!("handled by its caller"),
        }
    }

    fn acked(&mut self, gateway: &GatewayId, cursor: &CursorText, mark: Option<Mark>) -> Result<(), Problem> {
        match mark {
            Some(mark) => self.machine.on_ack_kept(gateway, cursor.as_str(), mark),
            None => self.machine.on_ack(gateway, cursor.as_str()),
        }
    }

    pub(super) fn register(&mut self, items: Vec<Compiled>, reply: Reply<Vec<Result<Registered, Problem>>>) {
        let oldest = self.oldest();
        let mut results: Vec<Option<Result<Registered, Problem>>> = Vec::new();
        let mut good = Vec::new();
        for (slot, item) in items.into_iter().enumerate() {
            let too_old = oldest.and_then(|oldest| {
                let time = match item.spec.start_at.as_ref()? {
                    StartAt::OperationTime(time) => *time,
                    StartAt::Second(second) => ClusterTime::new(*second, 0),
                    StartAt::Position(position) => position.time,
                    // What is no cursor is refused by the machine.
                    StartAt::Cursor(text) => Cursor::decode(text).ok()?.start(self.machine.partition())?.time,
                };
                // Where one begins is not part of what it is: the same again is answered as ever.
                let is_new = || self.machine.subscription(&item.spec.key()).is_err();
                (time < oldest && is_new()).then(|| {
                    let detail = "the oplog does not reach back to startAt: read the data anew and start from there";
                    Problem::new(Code::StartTooOld, detail).at("startAt")
                })
            });
            match too_old {
                Some(problem) => results.push(Some(Err(problem))),
                None => {
                    results.push(None);
                    good.push((slot, item.spec, item.filter));
                }
            }
        }
        let left = good.len();
        if left == 0 {
            drop(reply.send(results.into_iter().flatten().collect()));
            return;
        }
        let waiter = self.waiting.add(Caller::Register { results, left, reply });
        self.machine.on_register(waiter.token, good);
    }

    pub(super) fn answer(&mut self, waiter: Waiter, result: Result<Answer, Problem>) {
        let Some(caller) = self.waiting.callers.remove(&waiter.token) else { return };
        match caller {
            Caller::Register { mut results, mut left, reply } => {
                let registered = result.map(|answer| match answer {
                    Answer::Registered(registered) => {
                        Registered { view: self.warned(registered.view), created: registered.created }
                    }
                    other => unreachable!("a registration is answered by one, not by {other:?}"),
                });
                if let Some(slot) = results.get_mut(waiter.slot)
                    && slot.is_none()
                {
                    *slot = Some(registered);
                    left -= 1;
                }
                if left == 0 {
                    drop(reply.send(results.into_iter().flatten().collect()));
                } else {
                    self.waiting.callers.insert(waiter.token, Caller::Register { results, left, reply });
                }
            }
            Caller::Replace(reply) => {
                let view = result.map(|answer| match answer {
                    Answer::Replaced(view) => self.warned(*view),
                    other => unreachable!("a PUT is answered by a view, not by {other:?}"),
                });
                drop(reply.send(view));
            }
            Caller::Done(reply) => drop(reply.send(result.map(|_| ()))),
            Caller::Open(gateway, reply) => {
                let session = result.map(|answer| match answer {
                    Answer::Session(outbox, number) => {
                        self.outboxes.push(Arc::downgrade(&outbox));
                        Session::new(self.handle.clone(), gateway, number, outbox)
                    }
                    Answer::Over(reason, number) => Session::over(number, reason),
                    other => unreachable!("a hello is answered by a session, not by {other:?}"),
                });
                // If the caller is gone, the session ends by being dropped here.
                drop(reply.send(session));
            }
        }
    }

    fn warned(&self, mut view: SubscriptionView) -> SubscriptionView {
        view.warnings = self.warnings();
        view
    }

    /// Not on the loop's time.
    fn backtest(&self, asked: Backtest, filter: Arc<Filter>, reply: Reply<Result<BacktestPart, Problem>>) {
        let Ok(permit) = Arc::clone(&self.backtests).try_acquire_owned() else {
            let busy = format!("{} backtests of this partition are under way", limits::backtests_max);
            return drop(reply.send(Err(Problem::new(Code::RateLimited, busy).retry_after(5))));
        };
        let (past, shutdown) = (self.past(&asked), self.tasks.shutdown_token());
        self.tasks.spawn(Kind::Reading, "backtest", async move {
            let mut reply = reply;
            tokio::select! {
                part = backtest::run(asked, filter, past, permit) => drop(reply.send(part)),
                () = shutdown.cancelled() => {}
                () = reply.closed() => {}
            }
        });
    }

    /// For people: with the filters that cost the most, which Prometheus is not told.
    fn partition_view(&self) -> PartitionView {
        let mut view = self.plain_view();
        if let Some(work) = &mut view.work {
            work.costliest = self.machine.costliest();
        }
        view
    }

    pub(super) fn plain_view(&self) -> PartitionView {
        let lag = self.lag_seconds();
        let state = match &self.live {
            _ if self.placement.paused => "paused",
            _ if self.history_lost => "history_lost",
            super::Live::Backoff(..) | super::Live::Opening(..) => "backoff",
            super::Live::Reading(_) if lag.is_some_and(|seconds| seconds > 2.0) => "catching_up",
            super::Live::Reading(_) => "reading",
        };
        let checkpoint = self.machine.checkpoint();
        PartitionView {
            partition: self.machine.partition().clone(),
            owner: (self.ownership == crate::store::Ownership::Held).then(|| Arc::clone(&self.node)),
            epoch: self.machine.reached().epoch.0,
            state: state.into(),
            position: self.machine.reached(),
            lag: Lag { seconds: lag, changes: None },
            oplog_headroom_seconds: self.headroom_seconds(),
            checkpoint,
            work: Some(self.machine.workload()),
        }
    }

    /// What the reference has found: each is a bug.
    pub(super) fn tell_differences(&mut self) {
        for difference in self.machine.take_differences() {
            let Difference { program, shape, expected, found } = difference;
            tracing::error!(
                program,
                shape,
                ?expected,
                ?found,
                "the index and the reference disagree: a bug, please report"
            );
        }
    }

    fn headroom_seconds(&self) -> Option<f64> {
        let checkpoint = f64::from(self.machine.checkpoint().time.seconds());
        self.oldest().map(|oldest| checkpoint - f64::from(oldest.seconds()))
    }
}
