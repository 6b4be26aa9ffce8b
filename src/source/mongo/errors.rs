//! What the driver's errors mean for a reading.
//!
//! Owns the table from error code to treatment. The codes are the server's; where each arises was
//! found by experiment and is held down by the tests against a real server.

use std::time::Duration;

use bson::Document;
use mongodb::error::{Error, ErrorKind};

use crate::source::SourceError;

/// How a reading goes on after an error.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Failure {
    /// The start lies before the oplog: tell it, never ask again.
    HistoryLost(String),
    /// What was read before is not there: tell it, and go on in another epoch.
    Exchanged(String),
    /// One event is too large for the server to hand out: step over it.
    Oversize(String),
    /// The connection ended instead of an answer: the server is gone, or the answer is one that it cannot send.
    Cut(String),
    /// No answer came for so long that the connection may be one that nothing comes through any more.
    Silent(Duration),
    /// Open the stream again, by cluster time, where it had come to; if that fails too, later.
    Passing(String),
    /// The stream was opened on a database that was dropped: it goes on after this token.
    Invalidated(Document),
    /// The user may not do it.
    Forbidden(String),
    /// Only an operator can help.
    Misconfigured(String),
}

impl Failure {
    /// Classifies an error of the driver.
    pub(super) fn of(error: &Error) -> Self {
        let text = describe(error);
        match error.kind.as_ref() {
            ErrorKind::Command(command) => Self::of_code(command.code, text),
            ErrorKind::Io(_) => Self::Cut(text),
            ErrorKind::InvalidArgument { .. }
            | ErrorKind::Authentication { .. }
            | ErrorKind::InvalidTlsConfig { .. }
            | ErrorKind::IncompatibleServer { .. } => Self::Misconfigured(text),
            _ => Self::Passing(text),
        }
    }

    fn of_code(code: i32, text: String) -> Self {
        match code {
            // ChangeStreamHistoryLost
            286 => Self::HistoryLost("the oplog no longer reaches back to where reading was to begin".into()),
            // BSONObjectTooLarge
            10334 => Self::Oversize(text),
            // Unauthorized
            13 => Self::Forbidden(format!(
                "{text}: the user needs `find` and `changeStream` on what is watched (a role with the resource \
                 {{ db: \"\", collection: \"\" }}, or the role `read` on the one database that is configured)"
            )),
            // AuthenticationFailed
            18 => Self::Misconfigured(text),
            // NoMatchingDocument: images were required and are not there. This source never requires any.
            47 => Self::Misconfigured(format!("{text}: an image was required that is not recorded")),
            // The stage is only for replica sets.
            40573 => Self::Misconfigured(format!("{text}: change streams need a replica set")),
            // CommandNotFound, and stages or options unknown to an old server.
            59 | 40324 | 40415 => Self::Misconfigured(format!("{text}: MongoDB 6.0 or later is needed")),
            // 136 CappedPositionLost (the reopening then says 286), 280 ChangeStreamFatalError, 260
            // InvalidResumeToken and 15 Overflow (the reopening is by cluster time, without a token),
            // elections, timeouts, killed cursors and whatever else there may be.
            _ => Self::Passing(text),
        }
    }

    /// What the caller of the source is told if the reading gives up.
    pub(super) fn into_source_error(self) -> SourceError {
        match self {
            Self::HistoryLost(text) => SourceError::HistoryLost(text),
            Self::Exchanged(text) => SourceError::Exchanged(text),
            Self::Oversize(text) | Self::Cut(text) | Self::Passing(text) => SourceError::Unavailable(text),
            Self::Silent(waited) => {
                SourceError::Unavailable(format!("MongoDB: no answer for {} seconds", waited.as_secs_f32()))
            }
            Self::Invalidated(_) => SourceError::Unavailable("MongoDB: the database was dropped".into()),
            Self::Forbidden(text) | Self::Misconfigured(text) => SourceError::Misconfigured(text),
        }
    }
}

/// One line for a person.
pub(super) fn describe(error: &Error) -> String {
    let text = match error.kind.as_ref() {
        ErrorKind::Command(command) => format!("{} ({} {})", command.message, command.code, command.code_name),
        ErrorKind::ServerSelection { .. } => "no MongoDB primary can be reached".to_owned(),
        other => other.to_string(),
    };
    format!("MongoDB: {}", text.replace('\n', " "))
}

/// Classifies and gives up at once: for calls that are not part of a reading.
pub(super) fn source_error(error: &Error) -> SourceError {
    Failure::of(error).into_source_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_table_is_treated_as_it_says() {
        let of = |code| Failure::of_code(code, String::new());
        assert!(matches!(of(286), Failure::HistoryLost(_)));
        assert!(matches!(of(10334), Failure::Oversize(_)));
        for code in [136, 280, 260, 15, 43, 91, 189, 10107, 11600] {
            assert!(matches!(of(code), Failure::Passing(_)), "{code}");
        }
        assert!(matches!(of(13), Failure::Forbidden(_)));
        for code in [47, 18, 40324, 40573] {
            assert!(matches!(of(code), Failure::Misconfigured(_)), "{code}");
        }
    }
}
