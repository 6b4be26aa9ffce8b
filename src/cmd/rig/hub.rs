//! A hub as a child process: this same program, told to `serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;

use super::process::{Pid, Process, free_port};
use crate::config::Config;

/// How long it may take to be ready, with 100,000 subscriptions on a busy machine.
const READY: Duration = Duration::from_secs(120);
/// How long SIGTERM may take; the hub's own grace is shorter.
const END: Duration = Duration::from_secs(30);

/// What a hub is started with, again and again.
#[derive(Debug)]
pub struct HubPlan {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    http: SocketAddr,
    grpc: SocketAddr,
}

impl HubPlan {
    /// This same program as the hub: see [`Self::of`].
    ///
    /// # Errors
    /// A folder that cannot be written, or a program that does not know itself.
    pub fn new(folder: &Path, config: Config) -> anyhow::Result<Self> {
        Self::of(std::env::current_exe()?, folder, config)
    }

    /// Writes the configuration into `folder`, with listeners on free ports.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn of(program: PathBuf, folder: &Path, config: Config) -> anyhow::Result<Self> {
        let (http, grpc) = (loopback(free_port()?), loopback(free_port()?));
        let plan = Self { program, config: folder.join("hub.toml"), log: folder.join("hub.log"), http, grpc };
        plan.configure(config)?;
        Ok(plan)
    }

    /// Starts a hub. It is not ready yet. `sabotage` names a mistake that it is to make.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, sabotage: Option<&str>) -> anyhow::Result<Hub> {
        let mut command = Command::new(&self.program);
        command.args(["serve", "--config"]).arg(&self.config);
        if let Some(sabotage) = sabotage {
            command.args(["--sabotage", sabotage]);
        }
        let process = Process::start("the hub", command, &self.log)?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Hub { process, http, ready: format!("{}/health/ready", self.http_url()), log: self.log.clone() })
    }

    /// From its next start on it has this configuration; its listeners stay where they are.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn configure(&self, mut config: Config) -> anyhow::Result<()> {
        config.http.listen = self.http;
        config.grpc.listen = self.grpc;
        let text = toml::to_string(&config).context("a configuration that TOML cannot say")?;
        Ok(std::fs::write(&self.config, text)?)
    }

    /// Its HTTP address.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Its gRPC address.
    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// What it wrote.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    process: Process,
    http: reqwest::Client,
    ready: String,
    log: PathBuf,
}

impl Hub {
    /// Its process.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// It ended, or takes too long.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let (http, url) = (&self.http, &self.ready);
        let is_ready = async || match http.get(url).send().await {
            Ok(answer) => answer.status().is_success(),
            Err(_) => false,
        };
        self.process.until(READY, &self.log, is_ready).await
    }

    /// Whether it still runs, though nobody has ended it.
    ///
    /// # Errors
    /// It does not; with its last words.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.process.check(&self.log)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It had ended by itself, or the system refuses.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.check()?;
        self.process.kill().await
    }

    /// SIGHUP: it reads its configuration again.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn reload(&self) -> anyhow::Result<()> {
        self.process.reload().await
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// It had ended by itself, or the system refuses.
    pub async fn freeze(&mut self) -> anyhow::Result<()> {
        self.check()?;
        self.process.freeze().await
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn thaw(&self) -> anyhow::Result<()> {
        self.process.thaw().await
    }

    /// SIGTERM, and until it has drained. Returns how it ended.
    ///
    /// # Errors
    /// It does not end.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.terminate(END).await
    }
}
