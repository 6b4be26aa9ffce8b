//! `streamer admin bump-revision`: what has to be done to a store that was restored from a copy.
//!
//! Cursors that gateways hold name revisions of the store and numbers of sessions that it gave. Those that it has given
//! since the copy it would give again, to others. Owns the step that leaves them out, which etcd's own restore has too.

use std::path::PathBuf;

use clap::Args;

use crate::clock::Clock;
use crate::store;

/// Arguments of `streamer admin bump-revision`.
#[derive(Args, Debug)]
pub struct BumpArgs {
    /// The file, while no hub runs on it
    #[arg(long, value_name = "FILE")]
    pub store: PathBuf,
}

/// Raises it by the milliseconds since 1970: more than it can have gone on since any copy, also one that was restored and
/// raised before.
///
/// # Errors
/// A file that is not there, that a hub holds, or that is no store.
pub(super) fn run(args: &BumpArgs) -> anyhow::Result<()> {
    let by = Clock::system().wall().timestamp_millis().unsigned_abs();
    let (from, to) = store::bump(&args.store, by)?;
    println!("revision {from} is {to} now");
    Ok(())
}
