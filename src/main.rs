//! The command line, nothing else.

use std::process::ExitCode;

use clap::Parser;
use streamer::cmd;

/// Changes are allocated by the thread that reads and freed by those that send, megabytes at a time; the
/// system's allocator gives such memory back and fetches it again with every batch.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Wrong usage ends here, with clap's own message and status 2.
    let cli = cmd::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        // Never dropped: what has to end in order has ended when the command returns, and drivers' own
        // tasks, torn down under one another's feet, would panic into the log.
        Ok(runtime) => std::mem::ManuallyDrop::new(runtime),
        Err(error) => {
            eprintln!("streamer: the runtime cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    match runtime.block_on(cmd::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("streamer: {}", cmd::one_line(&error));
            cmd::exit_code(&error)
        }
    }
}
