//! `streamer check-config`: what a configuration comes to.
//!
//! Owns the print of the effective configuration, with passwords left out. The servers that it names
//! are not asked.

use clap::Args;

use super::{ConfigArgs, Output, OutputArgs};
use crate::config::Config;

/// Arguments of `streamer check-config`.
#[derive(Args, Debug)]
pub struct CheckConfigArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How the configuration is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Prints the effective configuration.
///
/// # Errors
/// A bad configuration.
pub fn run(args: &CheckConfigArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    println!("{}", render(config, args.output.output)?.trim_end());
    Ok(())
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
