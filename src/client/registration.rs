//! Registration over HTTP.
//!
//! Owns the calls that make, replace, renew and end subscriptions, and their answers as types. All of
//! them may be repeated. Knows nothing of deliveries.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::credentials::Credentials;
use super::error::{RegistrationError, Rejection, innermost};
use super::subscription::Subscription;
use crate::position::Position;
use crate::subscription::DeliveryMode;

/// The hub's HTTP interface, as far as a gateway needs it.
#[derive(Clone, Debug)]
pub struct Registration {
    http: reqwest::Client,
    address: String,
}

/// A subscription as the hub answers it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    /// Its name within the gateway.
    pub subscription_id: String,
    /// Whose it is.
    #[serde(default)]
    pub gateway_id: Option<String>,
    /// `live`, `catching_up`, `parked`.
    pub state: String,
    /// Rises with each PUT.
    pub generation: u64,
    /// Matches after these positions are delivered, by partition.
    #[serde(default)]
    pub active_from: BTreeMap<String, Position>,
    /// When it is parked unless renewed; RFC 3339.
    #[serde(default)]
    pub expires_at: String,
    /// How it is indexed.
    #[serde(default)]
    pub plan: Value,
    /// Such as `POSTIMAGES_OFF`.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A gateway's renewed leases.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Renewal {
    /// When the first of them ends; RFC 3339.
    pub expires_at: String,
    /// How many.
    pub renewed: u64,
    /// Named but not here: register them again.
    pub unknown: Vec<String>,
    /// Here but not named: unregister them, if they are not wanted.
    pub unlisted: Vec<String>,
}

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<BatchResult>,
}

#[derive(Deserialize)]
struct BatchResult {
    subscription: Option<Registered>,
    problem: Option<Rejection>,
}

type Result<T> = std::result::Result<T, RegistrationError>;

impl Registration {
    /// The hub at this address, such as `http://127.0.0.1:7700`.
    ///
    /// # Errors
    /// A text that is no HTTP address.
    pub fn new(address: impl Into<String>) -> Result<Self> {
        Self::with(address, &Credentials::default())
    }

    /// Likewise, of a hub that asks who calls.
    ///
    /// # Errors
    /// A text that is no HTTP address, or credentials that cannot be used.
    pub fn with(address: impl Into<String>, credentials: &Credentials) -> Result<Self> {
        let address = address.into().trim_end_matches('/').to_owned();
        let bad = || RegistrationError::Address(address.clone());
        let url = reqwest::Url::parse(&address).map_err(|_| bad())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(bad());
        }
        let http = credentials.http().and_then(|builder| builder.build().map_err(|error| error.to_string()));
        let http = http.map_err(RegistrationError::Credentials)?;
        Ok(Self { http, address })
    }

    /// Registers one. The same again renews it and changes nothing else.
    ///
    /// # Errors
    /// See [`RegistrationError`].
    pub async fn register(&self, subscription: &Subscription) -> Result<Registered> {
        self.call(Method::POST, "/v1/subscriptions", Some(subscription)).await
    }

    /// Registers up to 10,000, with an answer for each, in order. One bad one spoils no other.
    ///
    /// # Errors
    /// See [`RegistrationError`]; that of the call as a whole.
    pub async fn register_batch(
        &self,
        subscriptions: &[Subscription],
    ) -> Result<Vec<std::result::Result<Registered, Rejection>>> {
        #[derive(Serialize)]
        struct Batch<'a> {
            subscriptions: &'a [Subscription],
        }
        let answer: BatchAnswer =
            self.call(Method::POST, "/v1/subscriptions/batch", Some(&Batch { subscriptions })).await?;
        let results = answer.results.into_iter().map(|result| match (result.subscription, result.problem) {
            (Some(registered), _) => Ok(Ok(registered)),
            (None, Some(problem)) => Ok(Err(problem)),
            (None, None) => Err(self.unexpected(StatusCode::OK)),
        });
        results.collect()
    }

    /// Replaces a subscription's filter at one position, without a gap.
    ///
    /// # Errors
    /// See [`RegistrationError`].
    pub async fn replace(&self, subscription: &Subscription) -> Result<Registered> {
        let path = subscription_path(&subscription.gateway_id, &subscription.subscription_id);
        self.call(Method::PUT, &path, Some(subscription)).await
    }

    /// Ends a subscription. Whether it was there.
    ///
    /// # Errors
    /// See [`RegistrationError`].
    pub async fn unregister(&self, gateway_id: &str, subscription_id: &str) -> Result<bool> {
        let path = subscription_path(gateway_id, subscription_id);
        gone(self.send(Method::DELETE, &path, None::<&()>).await.map(drop))
    }

    /// Renews one lease; revives the subscription if it was parked.
    ///
    /// # Errors
    /// See [`RegistrationError`].
    pub async fn heartbeat_one(&self, gateway_id: &str, subscription_id: &str) -> Result<()> {
        let path = format!("{}/heartbeat", subscription_path(gateway_id, subscription_id));
        self.send(Method::PUT, &path, None::<&()>).await.map(drop)
    }

    /// Has a gateway served by NATS JetStream, or by gRPC and SSE.
    ///
    /// # Errors
    /// See [`RegistrationError`].
    pub async fn serve(&self, gateway_id: &str, mode: DeliveryMode) -> Result<()> {
        let asked = serde_json::json!({ "delivery": mode });
        self.send(Method::PUT, &gateway_path(gateway_id), Some(&asked)).await.map(drop)
    }

    /// Renews all of a gateway's leases. With the ids that the gateway believes it has, says where the
    /// hub believes otherwise.
    ///
    /// # Errors
    /// See [`RegistrationError`].
    pub async fn heartbeat(&self, gateway_id: &str, subscription_ids: Option<&[String]>) -> Result<Renewal> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Named<'a> {
            subscription_ids: &'a [String],
        }
        let named = subscription_ids.map(|subscription_ids| Named { subscription_ids });
        let path = format!("{}/heartbeat", gateway_path(gateway_id));
        self.call(Method::PUT, &path, named.as_ref()).await
    }

    /// Drops a gateway with its subscriptions and its cursor. Whether it was there.
    ///
    /// # Errors
    /// See [`RegistrationError`].
    pub async fn delete_gateway(&self, gateway_id: &str) -> Result<bool> {
        gone(self.send(Method::DELETE, &gateway_path(gateway_id), None::<&()>).await.map(drop))
    }

    /// Whom a change would concern, and why (`POST /v1/explain`): question and answer as `docs/http-api.md` has
    /// them.
    ///
    /// # Errors
    /// See [`RegistrationError`].
    pub async fn explain(&self, question: &Value) -> Result<Value> {
        self.call(Method::POST, "/v1/explain", Some(question)).await
    }

    async fn call<B: Serialize, T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&B>) -> Result<T> {
        let answer = self.send(method, path, body).await?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes).map_err(|_| self.unexpected(status))
    }

    /// An answer of success, or the error that it stands for.
    async fn send<B: Serialize>(&self, method: Method, path: &str, body: Option<&B>) -> Result<reqwest::Response> {
        let mut request = self.http.request(method, format!("{}{path}", self.address));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let retry_after_seconds =
            answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        let mut rejection: Rejection = serde_json::from_slice(&bytes).map_err(|_| self.unexpected(status))?;
        rejection.status = status.as_u16();
        rejection.retry_after_seconds = retry_after_seconds;
        Err(RegistrationError::Refused(rejection))
    }

    fn unreachable(&self, error: &reqwest::Error) -> RegistrationError {
        RegistrationError::Unreachable { address: self.address.clone(), reason: innermost(error) }
    }

    fn unexpected(&self, status: StatusCode) -> RegistrationError {
        RegistrationError::Unexpected { address: self.address.clone(), status: status.as_u16() }
    }
}

/// Names have no character that a path would have to escape; whatever else was asked for is escaped,
/// and refused by the hub.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"._:-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn gateway_path(gateway_id: &str) -> String {
    format!("/v1/gateways/{}", escaped(gateway_id))
}

fn subscription_path(gateway_id: &str, subscription_id: &str) -> String {
    format!("{}/subscriptions/{}", gateway_path(gateway_id), escaped(subscription_id))
}

fn gone(answer: Result<()>) -> Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(RegistrationError::Refused(rejection)) if rejection.status == 404 => Ok(false),
        Err(error) => Err(error),
    }
}
