//! What a contender costs by itself: memory, inserts, removals.
//!
//! Owns how it is found out: in a process of its own, which builds one contender and nothing else. It compares
//! its anonymous resident memory before and after, so nothing that was freed for other reasons hides
//! anything, and what the allocator keeps for itself counts as well; and no insert has to wait until the
//! allocator has given back what the measurement itself left behind.

use std::process::Command;

use anyhow::Context;

use super::churn;
use super::contender::Contender;
use super::measure::{Built, Figures, Limits, WARM_UP, build};
use super::workload::{Plan, Workload};

/// Memory comes in pages and the allocator takes many at a time: fewer subscriptions than these are built
/// several times over. Without optimization nobody takes the figure for one.
const ENOUGH: u32 = if cfg!(debug_assertions) { 60_000 } else { 200_000 };

/// The longest step is the shortest of so many turns: what a contender does to itself it does in each of them, and
/// what a busy machine does to it, in some.
const TURNS: u32 = if cfg!(debug_assertions) { 2 } else { 5 };

/// In this process. `None` if it is not built in time, or is nothing to be built.
pub(super) fn figures<C: Contender>(plan: &Plan, limits: &Limits) -> anyhow::Result<Option<Figures>> {
    if !C::COUNTS {
        return Ok(None);
    }
    // Of equal programs there is only one, however often it is built.
    let is_shared = plan.workload == Workload::Cel;
    let copies = if is_shared { 1 } else { ENOUGH.div_ceil(plan.subscriptions.max(1)) };
    // What is made once is there already.
    drop(build::<C>(&Plan { subscriptions: WARM_UP, ..*plan }, limits)?);
    let before = resident_bytes()?;
    let Built::Whole(mut first, steps) = build::<C>(plan, limits)? else { return Ok(None) };
    let others = (1..copies).map(|_| build::<C>(plan, limits)).collect::<anyhow::Result<Vec<_>>>()?;
    let grown = resident_bytes()?.saturating_sub(before) as f64;
    drop(others);
    let mut figures = Figures::built::<C>(&steps);
    if !is_shared {
        figures.bytes_per_subscription = Some(grown / f64::from(plan.subscriptions) / f64::from(copies));
    }
    churn::afterwards(plan, &mut first, (&[], &[]), limits, &mut figures)?;
    drop(first);
    for _ in 1..TURNS {
        let Built::Whole(mut contender, steps) = build::<C>(plan, limits)? else { break };
        let mut again = Figures::built::<C>(&steps);
        churn::afterwards(plan, &mut contender, (&[], &[]), limits, &mut again)?;
        figures.keep_shorter_pauses(&again);
    }
    Ok(Some(figures))
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon in /proc")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}

/// Asks a process of its own. `before` stands in front of the arguments.
pub(super) fn ask(before: &[&str], contender: &str, plan: &Plan, limits: &Limits) -> anyhow::Result<Option<Figures>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(before).args(["--alone", contender, "--workload", &plan.workload.name()]);
    let size = plan.subscriptions.to_string();
    command.args([if plan.workload == Workload::Cel { "--programs" } else { "--subscriptions" }, &size]);
    command.args(["--seconds", &limits.seconds.as_secs_f64().to_string()]);
    command.args(["--build-seconds", &limits.build_seconds.as_secs().to_string()]);
    let output = command.output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(said.trim())?)
}
