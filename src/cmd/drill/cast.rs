//! Those who act in a drill: one writer, and gateways by gRPC and by Server-Sent Events.
//!
//! Owns their entrance, what others can see of them, and their end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::DrillArgs;
use super::consumer::Transport;
use super::gateway::{Gateway, Outcome, Recovery, Standing};
use super::stage::Stage;
use super::writer::{Write, Writer, write};
use crate::position::ClusterTime;
use crate::tasks::{Kind, Tasks};

/// Of a numbered write, unless a drill says otherwise.
pub(super) const BODY_BYTES: usize = 200;

/// An actor's result, when it has ended.
pub(super) type Ended<T> = oneshot::Receiver<anyhow::Result<T>>;

/// Those who act.
pub(super) struct Cast {
    tasks: Tasks,
    stop_writing: CancellationToken,
    stop_taking: CancellationToken,
    /// Somebody gave up.
    pub(super) failed: CancellationToken,
    pub(super) writer: Arc<Mutex<Writer>>,
    pub(super) recovery: Arc<Recovery>,
    writing: Ended<()>,
    gateways: Vec<Actor>,
}

struct Actor {
    transport: Transport,
    taking: Ended<Outcome>,
    standing: watch::Receiver<Standing>,
    stalled: watch::Sender<bool>,
}

/// What there is to judge.
pub(super) struct Finale {
    pub(super) written: Vec<Write>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) first_deliveries: Vec<Duration>,
    /// Gateways that were never told that everything was sent.
    pub(super) behind: u64,
}

impl Cast {
    pub(super) async fn enter(
        stage: &Stage,
        names: &[(String, Transport)],
        args: &DrillArgs,
        random: &mut ChaCha8Rng,
    ) -> anyhow::Result<Self> {
        let (tasks, failed) = (Tasks::new(), CancellationToken::new());
        let (stop_writing, stop_taking) = (CancellationToken::new(), CancellationToken::new());
        let recovery = Arc::new(Recovery::default());
        let mut gateways = Vec::new();
        for (name, transport) in names {
            let transport = *transport;
            let ((told, standing), (stalled, is_stalled)) =
                (watch::channel(Standing::default()), watch::channel(false));
            let number = gateways.len();
            let gateway = Gateway {
                name: name.clone(),
                transport,
                endpoints: stage.endpoints().from(number),
                file: stage.folder.join(format!("{name}.json")),
                random: ChaCha8Rng::from_rng(random),
                recovery: Arc::clone(&recovery),
                standing: told,
                stalled: is_stalled,
                stop: stop_taking.clone(),
            };
            let taking = act(&tasks, name, &failed, gateway.run());
            gateways.push(Actor { transport, taking, standing, stalled });
        }
        let writer = Writer::begin(stage.database.clone(), ChaCha8Rng::from_rng(random), BODY_BYTES).await?;
        let writer = Arc::new(Mutex::new(writer));
        let going_on = write(Arc::clone(&writer), args.rate.unwrap_or(stage.rate), stop_writing.clone());
        let writing = act(&tasks, "writer", &failed, going_on);
        Ok(Self { tasks, stop_writing, stop_taking, failed, writer, recovery, writing, gateways })
    }

    /// How each gateway stands.
    pub(super) fn standings(&self) -> Vec<Standing> {
        self.gateways.iter().map(|gateway| *gateway.standing.borrow()).collect()
    }

    /// The same, to look at again and again.
    pub(super) fn watches(&self) -> Vec<watch::Receiver<Standing>> {
        self.gateways.iter().map(|gateway| gateway.standing.clone()).collect()
    }

    /// From now on the gateway of this number reads nothing; or it does again.
    pub(super) fn stall(&self, number: usize, stalled: bool) {
        self.gateways[number % self.gateways.len()].stalled.send_replace(stalled);
    }

    /// Waits until every gateway that reads has been told that everything up to `time` was sent. Returns how many
    /// were not, at the deadline.
    pub(super) async fn all_past(&self, time: ClusterTime, deadline: Instant) -> u64 {
        self.past(time, deadline, |_| true).await
    }

    /// The same for those that are not served by NATS.
    pub(super) async fn streams_past(&self, time: ClusterTime, deadline: Instant) -> u64 {
        self.past(time, deadline, |transport| transport != Transport::Nats).await
    }

    async fn past(&self, time: ClusterTime, deadline: Instant, of: impl Fn(Transport) -> bool) -> u64 {
        let mut behind = 0;
        let reads = |gateway: &&Actor| of(gateway.transport) && !*gateway.stalled.borrow();
        for gateway in self.gateways.iter().filter(reads) {
            let mut standing = gateway.standing.clone();
            let passed = standing.wait_for(|standing| standing.progress > time);
            // A gateway that is gone says why at the end.
            behind += u64::from(!matches!(timeout_at(deadline, passed).await, Ok(Ok(_))));
        }
        behind
    }

    /// Waits until some gateway has been handed this number, or a later one.
    pub(super) async fn some_has(&self, number: u64) {
        let each = self.gateways.iter().map(|gateway| {
            let mut standing = gateway.standing.clone();
            Box::pin(async move {
                if standing.wait_for(|standing| standing.latest >= number).await.is_err() {
                    // It has ended; others may have it.
                    std::future::pending::<()>().await;
                }
            })
        });
        futures::future::select_all(each).await;
    }

    /// Stops writing, waits until every gateway has been told that all of it was sent, and stops taking.
    pub(super) async fn leave(mut self, stage: &Stage, patience: Duration) -> anyhow::Result<Finale> {
        self.stop_writing.cancel();
        for gateway in &self.gateways {
            gateway.stalled.send_replace(false);
        }
        let mut behind = 0;
        if self.failed.is_cancelled() {
            // It may be who failed; else it need not end.
            if let Ok(Err(error)) = self.writing.try_recv() {
                return Err(error.context("the writer"));
            }
        } else {
            self.writing.await.context("the writer is gone")?.context("the writer")?;
            stage.database.settle().await?;
            let last = stage.database.now().await?;
            stage.database.mark().await?;
            let deadline = Instant::now() + patience;
            for gateway in &self.gateways {
                let mut standing = gateway.standing.clone();
                let passed = standing.wait_for(|standing| standing.progress > last);
                tokio::select! {
                    passed = timeout_at(deadline, passed) => behind += u64::from(passed.is_err()),
                    () = self.failed.cancelled() => break,
                }
            }
        }
        self.stop_taking.cancel();
        let mut outcomes = Vec::new();
        for gateway in self.gateways {
            outcomes.push(gateway.taking.await.context("a gateway is gone")??);
        }
        self.tasks.drain(Duration::from_secs(5)).await;
        let written = self.writer.lock().await.written().to_vec();
        Ok(Finale { written, outcomes, first_deliveries: self.recovery.took(), behind })
    }
}

/// Starts an actor; its result comes when it ends, and a failure is told at once.
pub(super) fn act<T: Send + 'static>(
    tasks: &Tasks,
    name: &str,
    failed: &CancellationToken,
    work: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> Ended<T> {
    let (sender, receiver) = oneshot::channel();
    let failed = failed.clone();
    tasks.spawn(Kind::Rig, name, async move {
        let result = work.await;
        if result.is_err() {
            failed.cancel();
        }
        let _ = sender.send(result);
    });
    receiver
}
