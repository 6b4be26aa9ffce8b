//! A child process that dies with its handle.

use std::fs::File;
use std::net::TcpListener;
use std::ops::Range;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How often something that is starting is asked whether it is there.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(20);

/// How long the threads of a process may take to stop.
const STAND: Duration = Duration::from_secs(10);

/// A process's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pid(pub u32);

/// A running program.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    pid: Pid,
}

impl Process {
    /// Starts it with its output appended to `log`.
    pub(super) fn start(name: &'static str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log).with_context(|| format!("{}", log.display()))?;
        let errors = out.try_clone()?;
        command.stdin(Stdio::null()).stdout(out).stderr(errors).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let pid = Pid(child.id().with_context(|| format!("{name} ended at once"))?);
        Ok(Self { name, child, pid })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// SIGKILL, and until it is gone.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("{} cannot be killed", self.name))
    }

    /// SIGTERM, and until it is gone.
    pub(super) async fn terminate(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.signal("TERM").await?;
        match tokio::time::timeout(within, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} does not end within {} s of SIGTERM", self.name, within.as_secs()),
        }
    }

    /// SIGSTOP, and until every thread of it stands: it answers nothing and closes nothing.
    pub(super) async fn freeze(&self) -> anyhow::Result<()> {
        self.signal("STOP").await?;
        let deadline = Instant::now() + STAND;
        while !self.stands()? {
            if Instant::now() > deadline {
                bail!("{} does not stop", self.name);
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// SIGCONT.
    pub(super) async fn thaw(&self) -> anyhow::Result<()> {
        self.signal("CONT").await
    }

    fn stands(&self) -> anyhow::Result<bool> {
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat"))).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        };
        Ok(std::fs::read_dir(format!("/proc/{}/task", self.pid.0))?.all(is_stopped))
    }

    /// SIGHUP.
    pub(super) async fn reload(&self) -> anyhow::Result<()> {
        self.signal("HUP").await
    }

    async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let told = Command::new("kill").args(["-s", name, &self.pid.0.to_string()]).status().await?;
        if !told.success() {
            bail!("{} cannot be sent SIG{name}", self.name);
        }
        Ok(())
    }

    /// Whether it still runs.
    pub(super) fn check(&mut self, log: &Path) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended by itself ({status}); its last words: {}", self.name, last_words(log)),
            None => Ok(()),
        }
    }

    /// Waits until `is_up` says so.
    pub(super) async fn until<F: AsyncFnMut() -> bool>(
        &mut self,
        within: Duration,
        log: &Path,
        mut is_up: F,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        while !is_up().await {
            self.check(log)?;
            if Instant::now() > deadline {
                bail!("{} is not up after {} s; its last words: {}", self.name, within.as_secs(), last_words(log));
            }
            sleep(ASK_AGAIN).await;
        }
        Ok(())
    }
}

/// The last line of a log.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("(none)").to_owned()
}

/// Below the ports that the system gives to outgoing connections: one of those could take the port of a
/// server that is being restarted.
const PORTS: Range<u16> = 10_000..30_000;
/// Ports that are looked at; most are free.
const LOOKS_MAX: usize = 1_000;

/// A port of loopback that was free a moment ago.
pub(super) fn free_port() -> anyhow::Result<u16> {
    let mut looks = (0..LOOKS_MAX).map(|_| rand::random_range(PORTS));
    let free = looks.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.context("no port of loopback is free")
}
