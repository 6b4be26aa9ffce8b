//! `streamer check-config`: whether a hub of this configuration would work here, asked of all that it names.
//!
//! Owns which parts are looked at. All are, at once, and each for a bounded time, so one that is away hides no other.
//! With `--offline` nobody is asked: what the configuration comes to is printed, passwords left out.

mod machine;
mod mongo;
mod nats;
mod store;
mod table;

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use self::table::{Finding, Outcome};
use super::{ConfigArgs, Output, OutputArgs};
use crate::clock::Clock;
use crate::config::Config;
use crate::tasks::Tasks;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of `streamer check-config`.
#[derive(Args, Debug)]
pub struct CheckConfigArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Ask nobody; print what the configuration comes to
    #[arg(long, conflicts_with = "all")]
    pub offline: bool,
    /// Look at NATS, too, if no gateway's name makes it needed
    #[arg(long)]
    pub all: bool,
    /// How it is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Looks at everything and prints what was found.
///
/// # Errors
/// A bad configuration, or something that would keep a hub from working.
pub async fn run(args: &CheckConfigArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    if args.offline {
        println!("{}", render(config, args.output.output)?.trim_end());
        return Ok(());
    }
    let findings = look(&config, args.all).await;
    let text = match args.output.output {
        Output::Text => table::in_words(&findings),
        Output::Json => table::as_data(&findings),
    };
    io::stdout().write_all(text.as_bytes()).context("standard output")?;
    let failed = findings.iter().filter(|finding| finding.result == Outcome::Failed).count();
    anyhow::ensure!(failed == 0, "{failed} of {} checks failed", findings.len());
    Ok(())
}

async fn look(config: &Config, all: bool) -> Vec<Finding> {
    let (tasks, clock) = (Tasks::new(), Clock::system());
    // Whatever else is found in use is this hub's, if it runs already.
    let runs = machine::hub_runs(config, PATIENCE).await;
    let (listeners, store, backends, nats) = tokio::join!(
        machine::check(config, runs, PATIENCE),
        store::check(config, runs, &clock, PATIENCE),
        mongo::check(config, &tasks, &clock, PATIENCE),
        nats::check(config, all, PATIENCE),
    );
    [listeners, store, backends, nats].concat()
}

fn render(mut config: Config, output: Output) -> anyhow::Result<String> {
    config.hide_secrets();
    Ok(match output {
        Output::Text => toml::to_string(&config)?,
        Output::Json => serde_json::to_string_pretty(&config)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_is_printed_is_a_configuration_again_but_for_its_secrets() {
        let uri = ("STREAMER__BACKENDS__0__URI".to_owned(), "mongodb://u:s3cret@127.0.0.1:1/".to_owned());
        let config = Config::load(None, [uri]).unwrap();
        let text = render(config.clone(), Output::Text).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("printed.toml");
        std::fs::write(&file, &text).unwrap();
        let mut again = Config::load(Some(Path::new(&file)), []).unwrap();
        assert_eq!(again.backends.0[0].uri, "mongodb://u:***@127.0.0.1:1/");
        again.backends.0[0].uri.clone_from(&config.backends.0[0].uri);
        assert_eq!(again, config);
        let json = render(config, Output::Json).unwrap();
        assert!(!text.contains("s3cret") && !json.contains("s3cret"));
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
    }
}
