//! `streamer top`: a running hub, drawn in the terminal.
//!
//! Owns the command's arguments, and the one picture for whoever has no terminal. Everything shown is
//! the hub's overview (`docs/decisions/0008-operations.md`); rates are worked out here, from two of them.

mod call;
mod draw;
mod live;
mod marks;
mod picture;
mod rates;
mod screen;
mod text;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use ratatui::crossterm::terminal;
use serde_json::Value;

use super::{CredentialArgs, Output, OutputArgs};
use crate::clock::Clock;
use call::{CallError, Caller};
use picture::Overview;
use screen::Screen;

/// How wide plain text is where there is no terminal to ask.
const PLAIN_COLUMNS: u16 = 120;

/// Arguments of `streamer top`.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// The hub's HTTP address
    #[arg(long, visible_alias = "http", default_value = "http://127.0.0.1:7700", value_name = "URL")]
    pub url: String,
    /// Who asks: an operator.
    #[command(flatten)]
    pub credentials: CredentialArgs,
    /// Seconds from one picture to the next
    #[arg(long, default_value = "1", value_parser = interval, value_name = "SECONDS")]
    pub interval: Duration,
    /// Print one picture and end, as if standard output were no terminal
    #[arg(long)]
    pub once: bool,
    /// How the picture is printed; json ends after one, and has whatever the hub says.
    #[command(flatten)]
    pub output: OutputArgs,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "seconds are 0.1 to 3600".to_owned())
}

/// Draws the hub until it is told to end, or prints it once.
///
/// # Errors
/// A hub that cannot be reached at first, or that refuses; a terminal that cannot be used.
pub async fn run(args: TopArgs) -> anyhow::Result<()> {
    let hub = Caller::new(&args.url, &args.credentials.read()?)?;
    let clock = Clock::system();
    let (answer, first) = overview(&hub).await?;
    if args.output.output == Output::Json {
        return print(&text::clean_json(&format!("{answer:#}\n")));
    }
    let mut screen = Screen::new(args.interval, first, clock.now(), clock.wall());
    if !args.once && io::stdout().is_terminal() {
        // https://no-color.org
        screen.has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        return live::run(hub, screen, args.interval, clock).await;
    }
    // Rates need a second picture. Without it there are none, and the first one still says much.
    tokio::time::sleep(args.interval).await;
    match overview(&hub).await {
        Ok((_, second)) => screen.take(second, clock.now(), clock.wall()),
        Err(error) => screen.miss(error.reason()),
    }
    let terminal_columns = io::stdout().is_terminal().then(|| terminal::size().ok()).flatten();
    let columns = terminal_columns.map_or(PLAIN_COLUMNS, |(columns, _)| columns.max(1));
    print(&draw::plain(&mut screen, columns))
}

/// The hub's overview, as it was answered and as it is drawn.
async fn overview(hub: &Caller) -> Result<(Value, Overview), CallError> {
    let answer = hub.overview().await?;
    let overview = Overview::of(answer.clone()).map_err(|error| hub.no_hub(&error))?;
    Ok((answer, overview))
}

/// A reader that has gone away (`| head`) wants no more.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output"),
    }
}
