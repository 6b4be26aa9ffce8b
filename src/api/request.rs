//! Requests: names in paths, parameters, bodies.
//!
//! Owns how a request's parts are read, and the problem that each unreadable part becomes. Knows
//! nothing of what the routes do with them.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde_json::Value;

use super::json;
use crate::error::{Code, Problem};
use crate::limits;
use crate::position::PartitionId;
use crate::subscription::fields::{invalid, shown};
use crate::subscription::{GatewayId, Name, SubscriptionKey};

/// Within this a body must have arrived, whole.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// `{gateway}` of a path.
pub(super) struct InGateway(pub(super) GatewayId);

/// `{gateway}` and `{subscription}` of a path.
pub(super) struct InSubscription(pub(super) SubscriptionKey);

/// `{backend}` and `{number}` of a path; `None` if that can be no partition.
pub(super) struct InPartition(pub(super) Option<PartitionId>);

impl<S: Send + Sync> FromRequestParts<S> for InGateway {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = params(parts, state).await?;
        Ok(Self(owner(&params)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for InSubscription {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = params(parts, state).await?;
        let gateway = owner(&params)?;
        Ok(Self(SubscriptionKey { gateway, id: name(&params, "subscription", "subscriptionId")? }))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for InPartition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = params(parts, state).await?;
        Ok(Self(partition(&format!("{}/{}", param(&params, "backend"), param(&params, "number")))))
    }
}

async fn params<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<RawPathParams, Problem> {
    // What does not decode to UTF-8 cannot be a name.
    RawPathParams::from_request_parts(parts, state).await.map_err(|rejection| invalid(rejection.body_text()))
}

fn param<'a>(params: &'a RawPathParams, wanted: &str) -> &'a str {
    params.iter().find(|(name, _)| *name == wanted).map_or("", |(_, text)| text)
}

/// The gateway or the group that a path names.
fn owner(params: &RawPathParams) -> Result<GatewayId, Problem> {
    match params.iter().any(|(name, _)| name == "group") {
        true => Ok(Name::group(&name(params, "group", "group")?)),
        false => name(params, "gateway", "gatewayId"),
    }
}

fn name(params: &RawPathParams, wanted: &str, field: &str) -> Result<Name, Problem> {
    Name::new(param(params, wanted)).map_err(|rule| invalid(rule.to_string()).at(field))
}

/// Reads `<backend>/<number>` in the one form in which it is written.
pub(super) fn partition(text: &str) -> Option<PartitionId> {
    let (backend, number) = text.rsplit_once('/')?;
    let partition = PartitionId::new(Name::new(backend).ok()?.as_str(), number.parse().ok()?);
    (partition.to_string() == text).then_some(partition)
}

/// The parameters of a query, each of which may be there once, out of those `known`.
pub(super) fn query(parts: Option<&str>, known: &[&str]) -> Result<Vec<(String, String)>, Problem> {
    let mut read: Vec<(String, String)> = Vec::new();
    for pair in parts.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name).unwrap_or_else(|| name.to_owned());
        let field = shown(&name);
        if !known.contains(&name.as_str()) {
            let detail = match known {
                [] => "this call has no parameters".to_owned(),
                _ => format!("unknown parameter; there are {}", known.join(", ")),
            };
            return Err(invalid(detail).at(field));
        }
        if read.iter().any(|(other, _)| *other == name) {
            return Err(invalid("given twice").at(field));
        }
        let value = decoded(value).ok_or_else(|| invalid("not percent-encoded UTF-8").at(field))?;
        read.push((name, value));
    }
    Ok(read)
}

/// Undoes `application/x-www-form-urlencoded`; `None` where that cannot be undone.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let (pair, tail) = rest.split_at_checked(2)?;
                rest = tail;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (digit(pair[0])? * 16 + digit(pair[1])?) as u8
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A JSON body that must be there.
pub(super) struct JsonBody(pub(super) Value);

/// A JSON body that may be missing.
pub(super) struct OptionalJsonBody(pub(super) Option<Value>);

/// A batch's body, not read yet.
pub(super) struct BatchBody(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = body(request, limits::body_bytes_max).await?;
        if bytes.is_empty() {
            return Err(Problem::malformed("this call needs a JSON body"));
        }
        parsed(bytes).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequest<S> for OptionalJsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = body(request, limits::body_bytes_max).await?;
        if bytes.is_empty() { Ok(Self(None)) } else { parsed(bytes).await.map(|value| Self(Some(value))) }
    }
}

impl<S: Send + Sync> FromRequest<S> for BatchBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        body(request, limits::batch_body_bytes_max).await.map(Self)
    }
}

/// Above this, reading a text would hold up the thread's other work.
const INLINE_BYTES_MAX: usize = 64 << 10;

async fn parsed(bytes: Bytes) -> Result<Value, Problem> {
    if bytes.len() <= INLINE_BYTES_MAX { json::parse(&bytes) } else { aside(move || json::parse(&bytes)).await }
}

/// Does long work where it holds up nothing else.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // A panic is caught and told as if it had happened here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn body(request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    check_media_type(request.headers())?;
    whole(request.into_body(), bytes_max, BODY_TIMEOUT).await
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedMediaType, "a body is application/json"))
}

/// The whole body. One over the limit is still taken in up to twice the limit, and dropped: a client
/// that is cut off while it writes does not get to read the answer.
async fn whole(body: Body, bytes_max: usize, timeout: Duration) -> Result<Bytes, Problem> {
    let reading = async {
        let (mut body, mut kept, mut seen) = (body, BytesMut::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::malformed("the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            seen += data.len();
            if seen <= bytes_max {
                kept.extend_from_slice(&data);
            } else if seen > 2 * bytes_max {
                break;
            }
        }
        if seen > bytes_max {
            return Err(Problem::new(Code::PayloadTooLarge, format!("a body here has at most {bytes_max} bytes")));
        }
        Ok(kept.freeze())
    };
    let late = |_| Problem::malformed(format!("the body did not arrive within {} s", timeout.as_secs()));
    tokio::time::timeout(timeout, reading).await.map_err(late)?
}

/// For routes that read their bodies themselves: the same limits on size and time.
pub(super) async fn bounded_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match whole(body, limits::body_bytes_max, BODY_TIMEOUT).await {
        Ok(bytes) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use std::convert::Infallible;

    #[test]
    fn a_query_is_read_strictly() {
        let read = |text| query(Some(text), &["a", "b"]);
        assert_eq!(read("a=x+y%2Fz&b=").unwrap(), [("a".into(), "x y/z".into()), ("b".into(), String::new())]);
        assert_eq!(query(None, &[]).unwrap(), []);
        assert_eq!(read("&").unwrap(), []);
        for (text, field) in [
            ("c=1", "c"),
            ("a=1&a=1", "a"),
            ("a=%", "a"),
            ("a=%g0", "a"),
            ("a=%+1", "a"),
            ("b=%FF", "b"),
            ("%FF=1", "%FF"),
        ] {
            let problem = read(text).expect_err(text);
            assert_eq!((problem.status, problem.field.as_deref()), (422, Some(field)), "{text}");
        }
        assert!(query(Some("a=1"), &[]).is_err());
    }

    #[test]
    fn a_partition_has_one_written_form() {
        assert_eq!(partition("default/0"), Some(PartitionId::new("default", 0)));
        for text in ["default", "default/", "/0", "default/00", "default/+1", "default/65536", "a b/0", "a/b/0"] {
            assert_eq!(partition(text), None, "{text}");
        }
    }

    fn chunks(count: usize) -> Body {
        Body::from_stream(stream::iter((0..count).map(|_| Ok::<_, Infallible>(Bytes::from_static(b"0123456789")))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_bounded_in_size_and_time() {
        let second = Duration::from_secs(1);
        assert_eq!(whole(chunks(2), 20, second).await.unwrap().len(), 20);
        for count in [3, 4, 5, 100] {
            assert_eq!(whole(chunks(count), 20, second).await.unwrap_err().code, Code::PayloadTooLarge);
        }
        let silent = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(whole(silent, 20, second).await.unwrap_err().status, 400);
    }
}
