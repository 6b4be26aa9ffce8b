//! Memory: what a subscription costs.
//!
//! Owns how it is found out: a process of its own builds one contender and compares its anonymous resident
//! memory before and after. Nothing else happens in it, so what was freed for other reasons does not
//! hide anything. What the allocator keeps for itself counts as well.

use std::process::Command;

use anyhow::Context;

use super::contender::Contender;
use super::measure::{Built, Limits, WARM_UP, build};
use super::workload::{Plan, Workload};

/// Memory comes in pages and the allocator takes many at a time: fewer subscriptions than these are built
/// several times over.
const ENOUGH: u32 = 50_000;

/// In this process. `None` if it is not built in time, or is nothing to be built, or if several of its kind
/// would share what they have.
pub(super) fn bytes_a_subscription<C: Contender>(plan: &Plan, limits: &Limits) -> anyhow::Result<Option<f64>> {
    // Equal programs are one program.
    if !C::COUNTS || plan.workload == Workload::Cel {
        return Ok(None);
    }
    let copies = ENOUGH.div_ceil(plan.subscriptions.max(1));
    // What is made once is there already.
    drop(build::<C>(&Plan { subscriptions: WARM_UP, ..*plan }, limits)?);
    let before = resident_bytes()?;
    let mut all = Vec::with_capacity(copies as usize);
    for _ in 0..copies {
        match build::<C>(plan, limits)? {
            Built::Whole(contender, _) => all.push(contender),
            Built::Part { .. } => return Ok(None),
        }
    }
    let grown = resident_bytes()?.saturating_sub(before);
    Ok(Some(grown as f64 / f64::from(plan.subscriptions) / f64::from(copies)))
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
    command.args(["--subscriptions", &plan.subscriptions.to_string(), "--build-seconds", &build_seconds.to_string()]);
    let output = command.output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(said.trim())?)
}
