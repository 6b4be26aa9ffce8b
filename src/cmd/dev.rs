//! `streamer dev`: a whole hub on the embedded log.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{ConfigArgs, Output, OutputArgs, WrongUsage, serve};
use crate::clock::Clock;
use crate::config::{Config, StoreKind};
use crate::delivery::frame::Frame;
use crate::delivery::json;
use crate::edge::HubHandle;
use crate::handle::{Hello, Transport};
use crate::hub::{self, Backend, Hub};
use crate::observe;
use crate::observe::metrics::Metrics;
use crate::source::log::{Demo, DemoConfig};
use crate::subscription::{GatewayId, Spec};
use crate::tasks::{Kind, Tasks};

/// Arguments of `streamer dev`.
#[derive(Args, Debug)]
pub struct DevArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Keep the log and the store here; without it in a new temporary folder
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Changes the demo writer makes a second; 0 for no demo writer
    #[arg(long, default_value_t = 2.0, value_name = "N")]
    pub rate: f64,
    /// The same seed writes the same changes; without it each run writes others
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How matches are printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A folder that goes when the program ends as it should.
struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary {
            // What remains in the system's temporary folder harms nobody.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Runs the hub, the demo writer and a printing subscriber until it is told to end.
///
/// # Errors
/// A bad configuration, or a part that failed for good.
pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    let mut config = args.config.load()?;
    // Only what matters unless the operator asks for more: the terminal belongs to the matches.
    let is_default = config.log.filter == Config::default().log.filter;
    let filter = if is_default { "warn" } else { config.log.filter.as_str() };
    observe::log::init(config.log.format, filter).map_err(WrongUsage)?;
    let folder = folder(args.data)?;
    config.store.kind = StoreKind::Redb;
    config.store.path = folder.path.join("store.redb");
    config.embedded.path = folder.path.join("log.redb");
    let (tasks, clock) = (Tasks::new(), Clock::system());
    let log = hub::open_log(&config, &tasks, &clock).await.map_err(serve::for_exit)?;
    let backend = Backend::Log(log.clone());
    let hub = Hub::start(&config, backend, tasks.clone(), clock.clone(), Metrics::install(), None).await;
    let hub = hub.map_err(serve::for_exit)?;
    greet(hub.http, hub.grpc, &folder);
    if args.rate > 0.0 {
        let demo = DemoConfig { rate_per_second: args.rate, seed: args.seed.unwrap_or_else(rand::random) };
        let (handle, of_printer, output) = (hub.handle.clone(), tasks.clone(), args.output.output);
        tasks.spawn(Kind::Demo, "printer", async move {
            if let Err(error) = print_matches(handle, of_printer, output).await {
                tracing::warn!(%error, "the demo subscription has ended");
            }
        });
        Demo::start(log, demo, &tasks, clock);
    }
    hub.run(hub::signalled()).await.map_err(serve::for_exit)?;
    drop(folder);
    Ok(())
}

fn folder(data: Option<PathBuf>) -> anyhow::Result<Folder> {
    let is_temporary = data.is_none();
    let path = data.unwrap_or_else(|| std::env::temp_dir().join(format!("streamer-dev-{}", std::process::id())));
    std::fs::create_dir_all(&path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    Ok(Folder { path, is_temporary })
}

fn greet(http: SocketAddr, grpc: SocketAddr, folder: &Folder) {
    eprintln!("Streamer is up on its embedded log in {}", folder.path.display());
    eprintln!("  HTTP  http://{http}   (try {http}/v1/partitions, {http}/health, {http}/metrics)");
    eprintln!("  gRPC  {grpc}");
    eprintln!("Matches of the demo subscription, stars >= 3, follow. Another one, from a second terminal:");
    eprintln!("  streamer tail --tenant demo --collection messages --filter 'chatId == \"c1\"'");
    eprintln!("Ctrl-C ends it.\n");
}

async fn print_matches(hub: HubHandle, tasks: Tasks, output: Output) -> anyhow::Result<()> {
    let gateway = GatewayId::new("dev-terminal")?;
    let spec = Spec::from_json(&serde_json::json!({
        "subscriptionId": "demo", "gatewayId": gateway.as_str(), "tenant": "demo", "collection": "messages",
        "filters": [{"field": "stars", "op": ">=", "value": 3}], "transitions": true,
    }))?;
    while let Err(problem) = register(&hub, spec.clone()).await {
        tracing::debug!(%problem, "not ready yet");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let hello = Hello { auto_ack: true, ..Hello::new(gateway.clone(), Transport::Grpc) };
    let mut session = hub.open(hello).await?;
    let shutdown = tasks.shutdown_token();
    loop {
        let frames = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            frames = session.next(1 << 20) => frames,
        };
        let Some(frames) = frames else { return Ok(()) };
        for frame in frames {
            let cursor = frame.cursor().cloned();
            if let Frame::Change(change) = &frame {
                let mut line = Vec::new();
                json::write_frame(&mut line, &frame);
                let line = String::from_utf8_lossy(&line);
                match output {
                    Output::Json => println!("{line}"),
                    Output::Text => println!("{}", readable(change, &line)),
                }
            }
            if let Some(cursor) = cursor {
                hub.ack(gateway.clone(), cursor).await?;
            }
        }
    }
}

async fn register(hub: &HubHandle, spec: Spec) -> Result<(), crate::error::Problem> {
    hub.register(vec![spec]).await?.pop().map_or(Ok(()), |result| result.map(|_| ()))
}

fn readable(change: &crate::delivery::frame::Delivery, line: &str) -> String {
    let transition = change.matches.first().and_then(|matched| matched.transition).map_or("", |t| t.name());
    let parsed: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let body = if parsed["document"].is_null() { &parsed["before"] } else { &parsed["document"] };
    let wall = parsed["wallTime"].as_str().unwrap_or("");
    format!("{wall} {:7} {transition:6} {} {body}", change.change.operation, change.change.key)
}
