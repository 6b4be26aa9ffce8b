//! A drill's course: what its steps do, and what they leave for the verdict.
//!
//! Owns the order of things: the hub, the subscriptions, the cast; the rounds; the end, which is not a
//! matter of time but of progress: when every gateway has been told that everything up to the last write
//! was sent, what has not come is lost.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::DrillArgs;
use super::cast::{BODY_BYTES, Cast};
use super::conclusion::{Tally, conclude};
use super::consumer::Transport;
use super::report::Report;
use super::schedule::Schedule;
use super::script::{Drill, How, Odd, Server, Step};
use super::soak::Company;
use super::stage::{NATS_PREFIX, Stage};
use super::writer::Writer;
use crate::change::ResyncReason;
use crate::hub::signalled;
use crate::position::ClusterTime;

/// What is already under way when something breaks still comes.
const SETTLING: Duration = Duration::from_millis(700);
/// How long a gateway may go on after the hub was killed with what has reached it.
const DRAINING: Duration = Duration::from_millis(300);
/// Great transactions that are tried until a kill hits the middle of one.
const TRIES_MAX: u32 = 10;
/// Of a write while a gateway is stalled: more than sockets and clients keep for it.
const STALL_BODY_BYTES: usize = 16_000;
/// Writes that are made to be undone.
const WRITES_IN_VAIN: u32 = 50;

/// Somebody wants it to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// Plays a drill on servers of its own, in `folder`.
pub(super) async fn play(
    drill: &'static Drill,
    args: &DrillArgs,
    schedule: Option<Schedule>,
    folder: &Path,
) -> anyhow::Result<Report> {
    // Servers die with their handles, and so not with a process that is told to end.
    let stage = tokio::select! {
        stage = Stage::set(drill, args, folder) => stage?,
        () = signalled() => return Err(Interrupted.into()),
    };
    let mut course = Course {
        drill,
        args,
        random: ChaCha8Rng::seed_from_u64(args.seed),
        stage,
        schedule,
        paused: None,
        round: 0,
        tally: Tally::default(),
    };
    let report = tokio::select! {
        report = course.run() => report,
        () = signalled() => Err(Interrupted.into()),
    };
    let cleared = course.stage.clear().await;
    let report = report?;
    cleared?;
    Ok(report)
}

struct Course<'a> {
    drill: &'static Drill,
    args: &'a DrillArgs,
    random: ChaCha8Rng,
    stage: Stage,
    /// Of a soak.
    schedule: Option<Schedule>,
    /// While this is held nothing is written.
    paused: Option<OwnedMutexGuard<Writer>>,
    round: u32,
    tally: Tally,
}

impl Course<'_> {
    async fn run(&mut self) -> anyhow::Result<Report> {
        let began = Instant::now();
        self.stage.start_hubs().await?;
        let transports = self.drill.scene.transports.iter().copied().cycle();
        let gateways: Vec<_> = (1..=self.args.gateways.unwrap_or(self.drill.scene.gateways))
            .zip(transports)
            .map(|(n, by)| (name(n, by), by))
            .collect();
        let names: Vec<String> = gateways.iter().map(|(name, _)| name.clone()).collect();
        self.stage.register(&names).await?;
        let cast = Cast::enter(&self.stage, &gateways, self.args, &mut self.random).await?;
        let company = match &self.schedule {
            Some(schedule) => Some(Company::join(&self.stage, &cast, &names, schedule)?),
            None => None,
        };
        let failed = cast.failed.clone();
        let played = tokio::select! {
            played = self.rounds(&cast) => played,
            () = failed.cancelled() => Err(anyhow::anyhow!("a writer or a gateway gave up")),
        };
        self.paused = None;
        if played.is_err() {
            // Nothing more is waited for, but whoever failed first says why.
            failed.cancel();
        }
        let patience = Duration::from_secs(self.args.patience);
        let legacy = match company {
            Some(company) => Some(company.leave(patience).await),
            None => None,
        };
        let finale = cast.leave(&self.stage, patience).await?;
        let legacy = match (legacy.transpose(), played) {
            (legacy, Ok(())) if self.tally.unrecovered == 0 => legacy?,
            // That is to be told, whatever came of it.
            (legacy, Ok(())) => legacy.ok().flatten(),
            (Ok(_), Err(error)) => return Err(error),
            (Err(of_company), Err(error)) => return Err(of_company.context(error)),
        };
        self.stage.end_hubs().await?;
        let soak = self.schedule.as_ref().zip(legacy.as_ref());
        let tally = std::mem::take(&mut self.tally);
        Ok(conclude(self.drill, self.args, self.round, &finale, soak, tally, began.elapsed()))
    }

    async fn rounds(&mut self, cast: &Cast) -> anyhow::Result<()> {
        let (began, acts) = (Instant::now(), self.schedule.as_ref().map(|schedule| schedule.acts.len() as u32));
        let rounds = acts.or(self.args.rounds).unwrap_or(self.drill.rounds);
        let bar = bar(rounds);
        while self.round < rounds {
            for step in self.next_steps(began).await {
                bar.set_message(format!("{} {step:?}", self.drill.name));
                self.step(cast, step).await.with_context(|| format!("at {step:?}"))?;
                if self.tally.unrecovered > 0 {
                    // What there is will be judged; nothing more is broken.
                    return Ok(());
                }
            }
            self.round += 1;
            bar.inc(1);
        }
        bar.finish_and_clear();
        if let Some(schedule) = &self.schedule {
            sleep_until(began + Duration::from_secs(schedule.seconds.into())).await;
        }
        self.stage.hub()?.ready().await
    }

    /// A drill's next round; a soak's next fault, at its second.
    async fn next_steps(&mut self, began: Instant) -> Vec<Step> {
        let Some(schedule) = &self.schedule else { return (self.drill.round)(&mut self.random) };
        let act = &schedule.acts[self.round as usize];
        sleep_until(began + Duration::from_secs(act.second.into())).await;
        eprintln!("{:>5} s  {}", began.elapsed().as_secs(), act.fault);
        act.steps.clone()
    }

    async fn step(&mut self, cast: &Cast, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Wait(least, most) => sleep(Duration::from_millis(self.random.random_range(least..most))).await,
            Step::Kill(server) => {
                self.stage.kill(server).await?;
                self.tally.kills += u32::from(server == Server::Hub);
            }
            Step::Start(server) => {
                if server == Server::Hub {
                    cast.recovery.started();
                }
                self.mended();
                self.stage.start(server).await?;
            }
            Step::Freeze(server) => self.stage.freeze(server).await?,
            Step::Thaw(server) => {
                self.mended();
                self.stage.thaw(server).await?;
            }
            Step::Line(to, line) => {
                self.mended();
                self.stage.line(to, line)?;
            }
            Step::Aim => self.stage.aim(self.deadline()).await?,
            Step::Roll => {
                self.mended();
                self.stage.roll().await?;
            }
            Step::Ready => self.stage.hub()?.ready().await?,
            Step::Still(milliseconds) => self.still(cast, milliseconds).await,
            Step::Recovered => self.recovered(cast).await?,
            Step::OthersGoOn => self.others_go_on(cast).await?,
            Step::StreamsGoOn => {
                let now = self.written_by_now().await?;
                self.tally.unrecovered += cast.streams_past(now, self.deadline()).await;
            }
            Step::Calm => self.calm(cast).await?,
            Step::Resume => self.paused = None,
            Step::Elect => {
                self.stage.mongod()?.step_down().await?;
                self.mended();
            }
            Step::RollBack => self.roll_back(cast).await?,
            Step::RollOplog => {
                let now = self.stage.database.now().await?;
                self.stage.database.roll(now).await?;
            }
            Step::Compact => self.stage.etcd()?.compact().await?,
            Step::Write(odd) => {
                self.write(&mut *cast.writer.lock().await, odd).await?;
                if self.schedule.is_some() && odd == Odd::Undecodable {
                    self.tally.resyncs.push(ResyncReason::Undecodable);
                }
                // There is nothing to mend: it is behind us at once.
                self.mended();
            }
            Step::KillInTransaction => self.kill_in_transaction(cast).await?,
            Step::Redefine => self.stage.reconfigure(|config| {
                config.backends.0[0].collections = vec!["documents".into()];
            })?,
            Step::Rename => {
                let name = format!("drill-hub-{}", self.round + 2);
                self.stage.reconfigure(|config| config.node.id = name)?;
            }
            Step::Stall => {
                cast.writer.lock().await.body_bytes(STALL_BODY_BYTES);
                cast.stall(self.round as usize, true);
            }
            Step::ReadOn => {
                self.mended();
                cast.writer.lock().await.body_bytes(BODY_BYTES);
                cast.stall(self.round as usize, false);
            }
            Step::BackUp => self.stage.nats()?.back_up().map(drop)?,
            Step::Restore => self.stage.nats()?.restore()?,
            Step::LoseStorage => self.stage.nats()?.lose_storage()?,
            Step::Fill(full) => {
                self.mended();
                self.stage.fill(full).await?;
            }
            Step::Revoke(revoked) => {
                self.mended();
                self.stage.revoke(revoked).await?;
            }
        }
        Ok(())
    }

    /// Nothing else is written meanwhile.
    async fn write(&self, writer: &mut Writer, odd: Odd) -> anyhow::Result<()> {
        match odd {
            Odd::Images(recorded) => {
                self.stage.database.record_images(recorded).await?;
                writer.images(recorded);
                Ok(())
            }
            Odd::Drop => {
                self.stage.database.drop_collection().await?;
                writer.begin_anew().await
            }
            Odd::RenameOnto => writer.rename_onto().await,
            Odd::Undecodable => writer.undecodable().await,
            Odd::Oversize => writer.oversize().await,
        }
    }

    fn mended(&mut self) {
        self.tally.mended = Some(Instant::now());
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.args.patience)
    }

    /// A cluster time at or after everything that has been written.
    async fn written_by_now(&self) -> anyhow::Result<ClusterTime> {
        self.stage.database.settle().await?;
        let now = self.stage.database.now().await?;
        self.stage.database.mark().await?;
        Ok(now)
    }

    async fn recovered(&mut self, cast: &Cast) -> anyhow::Result<()> {
        let now = self.written_by_now().await?;
        let behind = cast.all_past(now, self.deadline()).await;
        self.tally.unrecovered += behind;
        if let Some((_, end @ None)) = self.tally.losses.last_mut() {
            *end = Some(self.stage.database.now().await?);
        }
        if let Some(mended) = self.tally.mended.take() {
            self.tally.recoveries.push(mended.elapsed());
        }
        Ok(())
    }

    async fn others_go_on(&mut self, cast: &Cast) -> anyhow::Result<()> {
        let now = self.written_by_now().await?;
        let behind = cast.all_past(now, self.deadline()).await;
        self.tally.unrecovered += behind;
        Ok(())
    }

    async fn still(&mut self, cast: &Cast, milliseconds: u64) {
        sleep(SETTLING).await;
        let before = cast.standings();
        sleep(Duration::from_millis(milliseconds)).await;
        if cast.standings() != before {
            self.tally.idle.push("gateways went on while nothing should have come through".into());
        }
    }

    /// Nothing that was written so far can be lost any more, whatever happens then.
    async fn calm(&mut self, cast: &Cast) -> anyhow::Result<()> {
        let mut writer = Arc::clone(&cast.writer).lock_owned().await;
        let now = self.written_by_now().await?;
        writer.rest().await?;
        self.paused = Some(writer);
        let behind = cast.all_past(now, self.deadline()).await;
        anyhow::ensure!(behind == 0, "{behind} gateways are behind before anything was broken");
        self.tally.losses.push((now, None));
        Ok(())
    }

    /// With sabotage the other members hear of it, and the writes stay.
    async fn roll_back(&mut self, cast: &Cast) -> anyhow::Result<()> {
        let is_kept = self.args.sabotage && matches!(self.drill.sabotage.how, How::KeepWrites);
        let mut writer = cast.writer.lock().await;
        let leader = self.stage.mongod()?.leader().await?;
        if !is_kept {
            self.stage.mongod()?.isolate(leader).await?;
        }
        let mut keys = Vec::new();
        for _ in 0..WRITES_IN_VAIN {
            keys.push(writer.in_vain().await?);
        }
        // What the hub should not have been shown it would have been shown by now.
        sleep(SETTLING).await;
        if is_kept {
            self.stage.database.settle().await?;
            self.stage.mongod()?.isolate(leader).await?;
        }
        self.stage.mongod()?.depose(leader).await?;
        self.mended();
        self.stage.database.settle().await?;
        for (key, number) in keys {
            if !is_kept && self.stage.database.has(&key, "number", number).await? {
                self.tally.idle.push(format!("the write of {key} was not undone"));
            }
        }
        Ok(())
    }

    /// Some gateway has a part of it and not all.
    async fn kill_in_transaction(&mut self, cast: &Cast) -> anyhow::Result<()> {
        for attempt in 0..TRIES_MAX {
            let deadline = self.deadline();
            if attempt > 0 {
                self.stage.start(Server::Hub).await?;
                self.stage.hub()?.ready().await?;
                self.recovered(cast).await?;
            }
            let (hub, mut writer) = (self.stage.hub()?, cast.writer.lock().await);
            let first = writer.next();
            let kill = async {
                let handed_over = timeout_at(deadline, cast.some_has(first)).await;
                handed_over.context("nobody is handed anything of a transaction")?;
                hub.kill().await
            };
            let (bounds, killed) = tokio::join!(writer.great_transaction(), kill);
            let (_, last) = bounds?;
            killed?;
            drop(writer);
            self.tally.kills += 1;
            sleep(DRAINING).await;
            if cast.standings().iter().any(|standing| (first..last).contains(&standing.latest)) {
                return Ok(());
            }
        }
        self.tally.idle.push(format!("none of {TRIES_MAX} kills hit a transaction in its middle"));
        Ok(())
    }
}

/// By the name the hub knows whom NATS serves.
fn name(number: u32, transport: Transport) -> String {
    match transport {
        Transport::Nats => format!("{NATS_PREFIX}{number}"),
        Transport::Grpc | Transport::Sse => format!("drill-gw-{number}"),
    }
}

/// Drawn on standard error, and only on a terminal.
fn bar(rounds: u32) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(rounds.into());
    match indicatif::ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
