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
    // The driver's own words for what its caller says as well, unless they are asked for.
    EnvFilter::try_new(format!("async_nats=off,{filter}"))
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
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, filter, move || writer.clone()).unwrap();
        tracing::dispatcher::with_default(&subscriber, || {
            tracing::info!(partition = "default/0", changes = 3, "read");
            tracing::debug!("detail");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_for_people() {
        let text = logged(LogFormat::Text, "info");
        assert!(text.contains("INFO") && text.contains("read partition=\"default/0\" changes=3"), "{text}");
        assert_eq!(text.lines().count(), 1);
        assert_eq!(logged(LogFormat::Text, "info,streamer=debug").lines().count(), 2);
        assert_eq!(logged(LogFormat::Text, "off"), "");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let line: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json, "info")).unwrap();
        assert_eq!(
            (&line["level"], &line["message"], &line["partition"], &line["changes"]),
            (&"INFO".into(), &"read".into(), &"default/0".into(), &3.into())
        );
    }

    #[tokio::test]
    async fn what_a_partition_starts_says_which_it_is() {
        for (format, partition) in [
            (LogFormat::Text, r#" in{partition="default/1"}: "#),
            (LogFormat::Json, r#""span":{"partition":"default/1","name":"in"}"#),
        ] {
            let lines = Lines::default();
            let writer = lines.clone();
            let subscriber = subscriber(format, "warn", move || writer.clone()).unwrap();
            let _default = tracing::dispatcher::set_default(&subscriber);
            let tasks = crate::tasks::Tasks::new();
            tracing::error_span!("in", partition = "default/1").in_scope(|| {
                tasks.spawn(crate::tasks::Kind::Reading, "a task of its own", async { tracing::warn!("said there") });
            });
            tasks.drain(std::time::Duration::from_secs(5)).await;
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert!(text.contains("said there") && text.contains(partition), "{text}");
        }
    }

    #[test]
    fn a_filter_that_is_none_is_refused_in_one_line() {
        let reason = parse_filter("a=b=c").unwrap_err();
        assert!(reason.contains("\"a=b=c\"") && !reason.contains('\n'), "{reason}");
        assert!(init(LogFormat::Text, "=x=").is_err());
    }
}
