//! Structured logs.
//!
//! Owns how log lines are filtered and written. Lines go to standard error, so that a command's data
//! can be piped.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Reads a filter such as `info,streamer::delivery=debug`.
///
/// # Errors
/// One line that says what is wrong.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter)
        .map_err(|error| format!("{filter:?} is no log filter such as info,streamer=debug: {error}"))
}

/// Sets up logging for this process. A second call changes nothing.
///
/// # Errors
/// If the filter is none.
pub fn init(format: LogFormat, filter: &str) -> Result<(), String> {
    // Somebody's earlier subscriber, a test's for example, is as good.
    let _ = subscriber(format, filter, std::io::stderr)?.try_init();
    Ok(())
}

fn subscriber<W>(format: LogFormat, filter: &str, writer: W) -> Result<tracing::Dispatch, String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = parse_filter(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        LogFormat::Text => builder.with_ansi(false).into(),
        LogFormat::Json => builder.json().flatten_event(true).into(),
    })
}
