//! Calls to the hub: its overview, and the few commands that a key stands for.
//!
//! Owns requests, the token they carry, and what can go wrong, in words for people.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode, Url};
use serde_json::Value;

use super::text::clean;
use crate::client::{Credentials, innermost};
use crate::cmd::WrongUsage;
use crate::cmd::credentials::TOKEN_VARIABLE;

/// A hub that takes longer is shown as one that does not answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Room for thousands of partitions; what is longer is no overview.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What an operator can have done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Command {
    /// Stop reading a partition.
    Pause(String),
    /// Read it again.
    Resume(String),
    /// Park a gateway.
    ParkGateway(String),
    /// Park a group, all its members.
    ParkGroup(String),
}

impl Command {
    /// What is done, and to whom.
    pub(super) fn words(&self) -> (&'static str, &str) {
        match self {
            Self::Pause(partition) => ("Pause", partition),
            Self::Resume(partition) => ("Resume", partition),
            Self::ParkGateway(gateway) => ("Park", gateway),
            Self::ParkGroup(group) => ("Park the whole group", group),
        }
    }

    /// The path below the hub's address, in parts. A partition's name is two of them.
    fn path(&self) -> Vec<&str> {
        let (root, name, verb) = match self {
            Self::Pause(partition) => ("partitions", partition, "pause"),
            Self::Resume(partition) => ("partitions", partition, "resume"),
            Self::ParkGateway(gateway) => ("gateways", gateway, "park"),
            Self::ParkGroup(group) => ("groups", group, "park"),
        };
        let mut path = vec!["v1", root];
        match name.rsplit_once('/') {
            Some((backend, number)) if root == "partitions" => path.extend([backend, number]),
            _ => path.push(name),
        }
        path.push(verb);
        path
    }
}

/// A call that came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("the hub at {address} cannot be reached: {reason}")]
    Unreachable { address: String, reason: String },
    #[error("the hub at {0} wants an operator's token: name its file by --token-file, or set {TOKEN_VARIABLE}")]
    NoToken(String),
    #[error("the hub at {0} does not know this token, or it has expired: see --token-file and {TOKEN_VARIABLE}")]
    BadToken(String),
    #[error("the hub at {0} has no overview: it is of an older version")]
    NoOverview(String),
    #[error("the hub at {address} says {status}: {detail}")]
    Refused { address: String, status: u16, detail: String },
    #[error("{address} does not answer as a hub does: {reason}")]
    NoHub { address: String, reason: String },
}

impl CallError {
    /// What is wrong, where it is clear with whom.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Unreachable { reason, .. } => clean(reason),
            Self::Refused { status, detail, .. } => format!("{status} {detail}"),
            other => other.to_string(),
        }
    }
}

/// A hub, and as whom it is called.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    http: reqwest::Client,
    base: Url,
    has_token: bool,
}

impl Caller {
    /// The hub at this address.
    ///
    /// # Errors
    /// An address that is none, or credentials that are none.
    pub(super) fn new(url: &str, credentials: &Credentials) -> Result<Self, WrongUsage> {
        let wrong = || WrongUsage(format!("--url: `{}` is no HTTP address", clean(url)));
        let base = Url::parse(url).ok().filter(|base| matches!(base.scheme(), "http" | "https") && base.has_host());
        let http = credentials.http().map_err(WrongUsage)?.timeout(ANSWER_TIMEOUT).build().map_err(|_| wrong())?;
        Ok(Self { http, base: base.ok_or_else(wrong)?, has_token: credentials.token.is_some() })
    }

    /// `GET /v1/overview`.
    ///
    /// # Errors
    /// As [`CallError`].
    pub(super) async fn overview(&self) -> Result<Value, CallError> {
        let answer = self.send(Method::GET, &["v1", "overview"]).await.map_err(|error| match error {
            CallError::Refused { status: 404, address, .. } => CallError::NoOverview(address),
            error => error,
        })?;
        let body = self.body(answer).await?;
        serde_json::from_slice(&body).map_err(|error| self.no_hub(&error))
    }

    /// Has a command done. All of them may be repeated.
    ///
    /// # Errors
    /// As [`CallError`].
    pub(super) async fn command(&self, command: &Command) -> Result<(), CallError> {
        self.send(Method::POST, &command.path()).await.map(drop)
    }

    /// An answer that is no overview.
    pub(super) fn no_hub(&self, error: &serde_json::Error) -> CallError {
        CallError::NoHub { address: self.address(), reason: clean(&error.to_string()) }
    }

    async fn send(&self, method: Method, path: &[&str]) -> Result<Response, CallError> {
        let mut url = self.base.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(path);
        }
        let answer = self.http.request(method, url).send().await.map_err(|error| self.unreachable(&error))?;
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED if !self.has_token => Err(CallError::NoToken(self.address())),
            StatusCode::UNAUTHORIZED => Err(CallError::BadToken(self.address())),
            status => {
                // A problem document; without one the status has to do.
                let problem: Value = serde_json::from_slice(&self.body(answer).await?).unwrap_or_default();
                let usual = status.canonical_reason().unwrap_or("no more than that");
                let detail = clean(problem["detail"].as_str().unwrap_or(usual));
                Err(CallError::Refused { address: self.address(), status: status.as_u16(), detail })
            }
        }
    }

    async fn body(&self, mut answer: Response) -> Result<Vec<u8>, CallError> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(CallError::NoHub { address: self.address(), reason: "far too long an answer".into() });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn address(&self) -> String {
        clean(self.base.as_str().trim_end_matches('/'))
    }

    fn unreachable(&self, error: &reqwest::Error) -> CallError {
        let reason = if error.is_timeout() {
            format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())
        } else {
            innermost(error)
        };
        CallError::Unreachable { address: self.address(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_place_in_the_path() {
        let hub = Caller::new("http://127.0.0.1:7700/behind/", &Credentials::default()).unwrap();
        let path = |command: Command| {
            let mut url = hub.base.clone();
            url.path_segments_mut().unwrap().pop_if_empty().extend(command.path());
            url.path().to_owned()
        };
        assert_eq!(path(Command::Pause("default/0".into())), "/behind/v1/partitions/default/0/pause");
        assert_eq!(path(Command::ParkGateway("a/../b?c#d".into())), "/behind/v1/gateways/a%2F..%2Fb%3Fc%23d/park");
        assert_eq!(path(Command::ParkGroup("g".into())), "/behind/v1/groups/g/park");
    }

    #[test]
    fn an_address_is_one() {
        for url in ["hub:7700", "ftp://hub", "nonsense"] {
            assert!(Caller::new(url, &Credentials::default()).is_err(), "{url}");
        }
    }
}
