//! Memory: what a subscription costs.
//!
//! Owns how it is found out: a process of its own builds one contender and compares its anonymous resident
//! memory before and after. Nothing else happens in it, so what was freed for other reasons does not
//! hide anything. What the allocator keeps for itself counts as well.

use std::process::Command;

use anyhow::Context;

use super::contender::Contender;
use super::measure::{Built, Limits, build};
use super::workload::{Plan, Workload};

/// Built and dropped beforehand, so that what is made once is there.
const WARM_UP: u32 = 100;

/// In this process. `None` if it is not built in time, or is nothing to be built.
pub(super) fn bytes_a_subscription<C: Contender>(plan: &Plan, limits: &Limits) -> anyhow::Result<Option<f64>> {
    if !C::COUNTS {
        return Ok(None);
    }
    drop(build::<C>(&Plan { subscriptions: WARM_UP, ..*plan }, limits)?);
    let before = resident_bytes()?;
    let built = build::<C>(plan, limits)?;
    let after = resident_bytes()?;
    let whole = matches!(built, Built::Whole(..));
    Ok(whole.then(|| after.saturating_sub(before) as f64 / f64::from(plan.subscriptions.max(1))))
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon in /proc")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}

/// Asks a process of its own. `before` stands in front of the arguments.
pub(super) fn ask(before: &[&str], contender: &str, plan: &Plan, build_seconds: u64) -> anyhow::Result<Option<f64>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(before).args(["--memory-of", contender, "--workload", &plan.workload.name()]);
    // Sizes of programs go by another option.
    let size = if plan.workload == Workload::Cel { "--programs" } else { "--subscriptions" };
    command.args([size, &plan.subscriptions.to_string(), "--build-seconds", &build_seconds.to_string()]);
    let output = command.output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(said.trim())?)
}
