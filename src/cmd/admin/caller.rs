//! Calls to a hub that wait out what passes by itself.
//!
//! Owns which answers are asked for again, when, and for how long. Every call made here may be repeated.

use std::time::Duration;

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use crate::client::{Rejection, innermost};
use crate::cmd::{CredentialArgs, WrongUsage};
use crate::error::Code;

/// For one answer; a large batch takes its time.
const ANSWER: Duration = Duration::from_secs(60);
/// Before a call is repeated for which the hub has named no time.
const PAUSE: Duration = Duration::from_secs(1);

/// Which hub, and as whom.
#[derive(Args, Debug)]
pub struct HubArgs {
    /// The hub's HTTP address
    #[arg(long, visible_alias = "http", default_value = "http://127.0.0.1:7700", value_name = "URL")]
    pub url: String,
    /// Who asks: an operator.
    #[command(flatten)]
    pub credentials: CredentialArgs,
    /// How long a hub is waited for that is away or too busy
    #[arg(long, default_value_t = 60, value_name = "N")]
    pub retry_seconds: u64,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The hub said no.
    #[error("the hub refuses: {0}")]
    Refused(Rejection),
    /// Nobody answered, or not as a hub does.
    #[error("{0}")]
    Failed(String),
}

/// How long has been waited.
#[derive(Default)]
pub(super) struct Patience(Duration);

/// Calls one hub.
pub(super) struct Caller {
    http: reqwest::Client,
    url: String,
    wait_max: Duration,
}

impl Caller {
    pub(super) fn new(args: &HubArgs) -> anyhow::Result<Self> {
        let url = args.url.trim_end_matches('/').to_owned();
        let parsed = reqwest::Url::parse(&url).ok().filter(|url| url.scheme().starts_with("http") && url.has_host());
        parsed.ok_or_else(|| WrongUsage(format!("--url: {url:?} is no HTTP address")))?;
        let http = args.credentials.read()?.http().map_err(WrongUsage)?.timeout(ANSWER).build()?;
        Ok(Self { http, url, wait_max: Duration::from_secs(args.retry_seconds) })
    }

    /// The answer to a call, null where it is empty. What passes by itself is waited out.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<Value, CallError> {
        let mut patience = Patience::default();
        loop {
            let (error, asked) = match self.once(method.clone(), path, query, body).await {
                Err(CallError::Refused(refused)) if is_passing(&refused) => {
                    let asked = refused.retry_after_seconds.map(Duration::from_secs);
                    (CallError::Refused(refused), asked)
                }
                Err(error @ CallError::Failed(_)) => (error, None),
                answer => return answer,
            };
            if !self.pause(&mut patience, asked).await {
                return Err(error);
            }
        }
    }

    /// Waits before something is asked for again. Whether it may be.
    pub(super) async fn pause(&self, patience: &mut Patience, asked: Option<Duration>) -> bool {
        let left = self.wait_max.saturating_sub(patience.0);
        let wait = asked.unwrap_or(PAUSE).max(PAUSE);
        if left < wait {
            return false;
        }
        patience.0 += wait;
        tokio::time::sleep(wait).await;
        true
    }

    async fn once(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<Value, CallError> {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).query(query);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let asked = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        let unexpected = || CallError::Failed(format!("{} answered status {status}, and not as a hub does", self.url));
        if status.is_success() {
            return match bytes.is_empty() {
                true => Ok(Value::Null),
                false => serde_json::from_slice(&bytes).map_err(|_| unexpected()),
            };
        }
        let mut refused: Rejection = serde_json::from_slice(&bytes).map_err(|_| unexpected())?;
        refused.status = status.as_u16();
        refused.retry_after_seconds = asked;
        Err(CallError::Refused(refused))
    }

    fn unreachable(&self, error: &reqwest::Error) -> CallError {
        CallError::Failed(format!("the hub at {} cannot be reached: {}", self.url, innermost(error)))
    }
}

/// Whether a refusal may be over without anybody's doing. A quota that is used up is not.
pub(super) fn is_passing(refused: &Rejection) -> bool {
    refused.status == 503 || refused.is(Code::RateLimited)
}
