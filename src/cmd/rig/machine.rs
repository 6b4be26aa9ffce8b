//! What a measurement ran on, and what it cost.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::process::Pid;

/// The machine and the versions, for the table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Logical processors.
    pub cores: usize,
    /// As the processor calls itself.
    pub cpu: String,
    /// Memory in GiB.
    pub memory_gib: u64,
    /// The kernel.
    pub kernel: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, memory_gib, kernel } = self;
        write!(f, "{cores} cores of {cpu}, {memory_gib} GiB, Linux {kernel}")
    }
}

impl Machine {
    /// This one. What cannot be told is empty.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal");
        let kib = memory.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: value(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            memory_gib: kib.unwrap_or_default() >> 20,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// The kernel's clock ticks a second; fixed on Linux as seen from programs.
const TICKS: f64 = 100.0;

/// Processor time that a process has used so far, user and system, in seconds. `None` is this process.
pub fn cpu_seconds(pid: Option<Pid>) -> f64 {
    let of = pid.map_or_else(|| "self".to_owned(), |pid| pid.0.to_string());
    let stat = std::fs::read_to_string(PathBuf::from("/proc").join(of).join("stat")).unwrap_or_default();
    ticks_of(&stat).unwrap_or_default() / TICKS
}

/// Memory of a process that is resident, in KiB; `None` if there is no such process.
pub fn resident_kib(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(PathBuf::from("/proc").join(pid.0.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `utime` and `stime`: fields 14 and 15, counted behind the name, which may hold anything.
fn ticks_of(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a ) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100 1000 10";
        assert_eq!(ticks_of(stat), Some(300.0));
        assert_eq!(ticks_of("nonsense"), None);
        assert!(cpu_seconds(None) >= 0.0);
    }

    #[test]
    fn this_process_has_memory_and_one_that_is_not_there_has_none() {
        assert!(resident_kib(Pid(std::process::id())) > Some(0));
        assert_eq!(resident_kib(Pid(u32::MAX)), None);
    }
}
