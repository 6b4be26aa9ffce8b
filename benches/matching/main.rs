//! `cargo bench --bench matching`: `streamer bench match`, with the crates beside it that the product does
//! not need. Takes the same arguments: `cargo bench --bench matching -- --workload intervals`.

mod expressions;
mod interval_crates;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use streamer::cmd::bench::matching::{self, Entry, MatchArgs, Setting, Workload};

/// As in the product, so that memory compares.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Finding whom a change concerns, by the engine and by several crates.
#[derive(Parser, Debug)]
struct Cli {
    #[command(flatten)]
    args: MatchArgs,
    /// What cargo puts in front of everything
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut entries = matching::contenders();
    entries.push(Entry::of::<interval_crates::Superintervals>());
    entries.push(Entry::of::<interval_crates::CoiTrees>());
    entries.push(Entry::of::<interval_crates::RustLapper>());
    entries.push(Entry::of::<expressions::ATreeCrate>());
    let setting = Setting { entries: &entries, usual: Workload::value_variants(), before: &[] };
    match matching::run(&cli.args, setting) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("matching: {}", streamer::cmd::one_line(&error));
            streamer::cmd::exit_code(&error)
        }
    }
}
