//! `streamer token`: a token for somebody who calls a hub.
//!
//! Owns the command's arguments. The hub finds the new line by itself.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;

use super::WrongUsage;
use crate::access::{Entry, RoleName, Token, check_tokens, digest};

/// Arguments of `streamer token`.
#[derive(Args, Debug)]
pub struct TokenArgs {
    /// The file of `auth.tokens`, to which the token's hash is added; without it the lines are printed
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Whose it is
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// For what
    #[arg(long, value_enum, value_name = "ROLE")]
    pub role: RoleName,
    /// Role gateway: a name pattern (* and ?) of gateways; may be given again
    #[arg(long, value_name = "PATTERN")]
    pub gateways: Vec<String>,
    /// Role gateway: a name pattern of gateway groups; may be given again
    #[arg(long, value_name = "PATTERN")]
    pub groups: Vec<String>,
    /// Role gateway: a name pattern of tenants; may be given again
    #[arg(long, value_name = "PATTERN")]
    pub tenants: Vec<String>,
    /// From when on it is no longer good, as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub expires: Option<DateTime<Utc>>,
}

/// Prints a new token, the only time that anybody sees it.
///
/// # Errors
/// Something that the file cannot say, or a file that cannot be written.
pub fn run(args: TokenArgs) -> anyhow::Result<()> {
    let token = Token::new();
    let TokenArgs { file, name, role, gateways, groups, tenants, expires } = args;
    let entry = Entry { name, role, sha256: digest(token.reveal()), gateways, groups, tenants, expires };
    let lines = entry.to_toml().map_err(WrongUsage)?;
    let Some(file) = file else {
        eprintln!("{lines}");
        println!("{}", token.reveal());
        return Ok(());
    };
    let named = || format!("--file {}", file.display());
    let mut text = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.with_context(named)?,
    };
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(&lines);
    // What the hub would refuse must not get there.
    check_tokens(&text).map_err(|error| WrongUsage(format!("{}: {error}", named())))?;
    // All at once: the hub may look at any moment.
    let beside = file.with_extension("new");
    let written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside);
    let written = written.and_then(|mut open| {
        // Who may read it stays as it was.
        if let Ok(before) = std::fs::metadata(&file) {
            open.set_permissions(before.permissions())?;
        }
        open.write_all(text.as_bytes()).and_then(|()| open.sync_all())
    });
    written.and_then(|()| std::fs::rename(&beside, &file)).with_context(named)?;
    println!("{}", token.reveal());
    Ok(())
}
