//! `streamer bench partitions`: the same backlog through hubs whose backend is split into more and fewer partitions.
//!
//! Owns the comparison's course and its table. A turn is that of `streamer bench drain`; the hubs take turns.

use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::json;

use super::super::Output;
use super::super::rig::{self, Machine};
use super::DrainArgs;
use super::drain::Bench;
use super::table::{HubSide, middle};

/// Arguments of `streamer bench partitions`.
#[derive(Args, Debug)]
pub struct PartitionsArgs {
    /// Into how many partitions the backend is split, one hub for each number
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 2, 4], value_parser = clap::value_parser!(u16).range(1..=16))]
    pub partitions: Vec<u16>,
    /// What is drained.
    #[command(flatten)]
    pub drain: DrainArgs,
}

/// One hub's turns.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Split {
    partitions: u16,
    rounds: Vec<HubSide>,
    /// Changes a second; the median.
    rate: f64,
    /// By the rate of the first hub.
    ratio: f64,
}

impl Split {
    fn of(&self, what: fn(&HubSide) -> f64) -> f64 {
        middle(self.rounds.iter().map(what))
    }
}

/// Measures and prints.
pub(super) async fn run(args: PartitionsArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.drain.plot.is_none(), "this comparison draws nothing");
    let folder = rig::folder()?;
    let bench = Bench::set(&args.drain, folder.path(), &args.partitions).await?;
    let splits = tokio::select! {
        splits = measure(&bench, &args.drain) => splits?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    let machine = Machine::here();
    let (mongod, streamer) = (bench.version().await?, env!("CARGO_PKG_VERSION"));
    let DrainArgs { changes, body_bytes, subscriptions, matches, .. } = args.drain;
    match args.drain.output.output {
        Output::Json => println!(
            "{}",
            json!({
                "bench": "partitions", "changes": changes, "bodyBytes": body_bytes, "subscriptions": subscriptions,
                "matches": matches, "splits": splits, "machine": machine, "mongod": mongod, "streamer": streamer,
                "debugBuild": cfg!(debug_assertions),
            })
        ),
        Output::Text => {
            println!("{}", table(&splits, changes));
            println!(
                "{changes} changes of {body_bytes} bytes, {subscriptions} subscriptions, {matches} matches a change\n\
                 {machine}; mongod {mongod}, streamer {streamer}{}",
                if cfg!(debug_assertions) { ", DEBUG BUILD" } else { "" },
            );
        }
    }
    Ok(())
}

async fn measure(bench: &Bench, args: &DrainArgs) -> anyhow::Result<Vec<Split>> {
    bench.prepare(args).await?;
    let mut turns: Vec<Vec<HubSide>> = bench.hubs.iter().map(|_| Vec::new()).collect();
    for round in 1..=args.rounds {
        for (side, turns) in bench.hubs.iter().zip(&mut turns) {
            let what = format!("round {round}, {} partitions", side.partitions);
            turns.push(bench.hub(args, side, &what).await?);
        }
    }
    let rates: Vec<f64> = turns.iter().map(|rounds| middle(rounds.iter().map(|turn| turn.rate))).collect();
    let split = |((side, rounds), rate): ((&super::drain::Side, Vec<HubSide>), &f64)| Split {
        partitions: side.partitions,
        rounds,
        rate: *rate,
        ratio: rate / rates[0],
    };
    Ok(bench.hubs.iter().zip(turns).zip(&rates).map(split).collect())
}

fn table(splits: &[Split], changes: u64) -> Table {
    let micros = |seconds: f64| format!("{:.2} µs", seconds * 1e6 / changes as f64);
    let row = |what: &str, cell: &dyn Fn(&Split) -> String| -> Vec<String> {
        std::iter::once(what.to_owned()).chain(splits.iter().map(cell)).collect()
    };
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(row("median, partitions", &|split| split.partitions.to_string()));
    table.add_row(row("changes/s", &|split| format!("{:.0}", split.rate)));
    table.add_row(row("by the first", &|split| format!("{:.2}", split.ratio)));
    table.add_row(row("hub's CPU a change", &|split| micros(split.of(|turn| turn.hub_cpu_seconds))));
    table.add_row(row("mongod's CPU a change", &|split| micros(split.of(|turn| turn.mongod_cpu_seconds))));
    table.add_row(row("consumer's CPU a change", &|split| micros(split.of(|turn| turn.consumer_cpu_seconds))));
    table.add_row(row("hub's start", &|split| format!("{:.2} s", split.of(|turn| turn.startup_seconds))));
    table
}
