//! Server-Sent Events: a session as one long HTTP answer, and acks as calls of their own.
//!
//! Owns `GET /v1/gateways/{g}/stream` and `POST /v1/gateways/{g}/ack`, and the same of a group's members. Knows nothing of how frames
//! come about; a client that goes away drops the session at once.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, stream};
use serde_json::Value;
use tokio::time::Interval;

use super::ejson::put;
use super::frame::Frame;
use super::json;
use super::receipt::{Accepted, Durable};
use super::session::Session;
use crate::clock::every;
use crate::cursor::CursorText;
use crate::edge::HubHandle;
use crate::error::{Code, Problem};
use crate::handle::{Hello, Transport};
use crate::limits;
use crate::subscription::{GatewayId, Name};

#[cfg(test)]
mod tests;

/// The routes. Other methods on them, and the limit on bodies, are the router's that takes these in.
pub fn routes(hub: HubHandle) -> Router {
    Router::new()
        .route("/v1/gateways/{gateway}/stream", get(consume))
        .route("/v1/gateways/{gateway}/ack", post(ack))
        .route("/v1/groups/{group}/stream", get(consume_as_member))
        .route("/v1/groups/{group}/ack", post(ack_as_member))
        .with_state(hub)
}

/// What an answer of events begins with: nobody on the way keeps it or holds it up.
pub(crate) const HEAD: [(header::HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "text/event-stream"),
    (header::CACHE_CONTROL, "no-store"),
    (header::HeaderName::from_static("x-accel-buffering"), "no"),
];

async fn consume(
    State(hub): State<HubHandle>,
    method: Method,
    gateway: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let gateway = name_of(gateway, "gatewayId")?;
    let asked = asked_of(&uri, false)?;
    stream_to(hub, &method, gateway, &headers, asked).await
}

async fn consume_as_member(
    State(hub): State<HubHandle>,
    method: Method,
    group: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let asked = asked_of(&uri, true)?;
    let gateway = member_of(&name_of(group, "group")?, asked.member.as_ref())?;
    stream_to(hub, &method, gateway, &headers, asked).await
}

async fn stream_to(
    hub: HubHandle,
    method: &Method,
    gateway: GatewayId,
    headers: &HeaderMap,
    asked: Asked,
) -> Result<Response, Problem> {
    // A HEAD would take the session away from whoever has it.
    if method != Method::GET {
        let mut response = Problem::new(Code::MethodNotAllowed, "a stream is opened with GET").into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return Ok(response);
    }
    let hello = Hello {
        cursor: last_event_id(headers)?.or(asked.cursor),
        auto_ack: asked.auto_ack,
        ..Hello::new(gateway.clone(), Transport::Sse)
    };
    let session = hub.open(hello).await?;
    let keeper = asked.auto_ack.then(|| Keeper::new(hub, gateway));
    Ok((HEAD, Body::from_stream(chunks(session, keeper))).into_response())
}

fn member_of(group: &Name, member: Option<&Name>) -> Result<GatewayId, Problem> {
    let missing = || Problem::new(Code::InvalidRequest, "a member of a group says which it is").at("member");
    Ok(Name::member(group, member.ok_or_else(missing)?))
}

fn name_of(named: Result<Path<String>, PathRejection>, field: &str) -> Result<Name, Problem> {
    let refused = |why: String| Problem::new(Code::InvalidRequest, why).at(field);
    let Path(text) = named.map_err(|rejection| refused(rejection.body_text()))?;
    Name::new(&text).map_err(|error| refused(error.to_string()))
}

#[derive(Default)]
struct Asked {
    cursor: Option<CursorText>,
    auto_ack: bool,
    member: Option<Name>,
}

/// What the query of a stream or of an ack says.
fn asked_of(uri: &Uri, is_member: bool) -> Result<Asked, Problem> {
    let refused = |why: String| Problem::new(Code::InvalidRequest, why);
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|e| refused(e.body_text()))?;
    let mut asked = Asked::default();
    let mut seen = Vec::new();
    for (name, value) in pairs {
        if seen.contains(&name) {
            return Err(refused(format!("`{name}` is given twice")).at(name));
        }
        match (name.as_str(), value.as_str()) {
            ("cursor", _) => asked.cursor = Some(CursorText(value.into())),
            ("ack", "auto") => asked.auto_ack = true,
            ("member", _) if is_member => {
                let name = Name::new(&value).map_err(|error| refused(error.to_string()).at("member"))?;
                asked.member = Some(name);
            }
            ("ack", _) => return Err(refused("`ack` can only be `auto`".into()).at("ack")),
            _ => {
                let known = if is_member { "`member`, `cursor` and `ack`" } else { "`cursor` and `ack`" };
                return Err(refused(format!("a stream has no parameter `{name}`, only {known}")).at(name));
            }
        }
        seen.push(name);
    }
    Ok(asked)
}

/// An empty one is none: that is how a browser resets it.
fn last_event_id(headers: &HeaderMap) -> Result<Option<CursorText>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let text = value.to_str().map_err(|_| Problem::new(Code::InvalidCursor, "`Last-Event-ID` is no cursor"))?;
    Ok((!text.is_empty()).then(|| CursorText(text.into())))
}

/// The body of the answer. Dropping it drops the session.
fn chunks(session: Session, keeper: Option<Keeper>) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let state = Writing { session, keeper, unacked: None };
    stream::unfold(state, |mut state| async move {
        let chunk = state.next().await?;
        Some((Ok(chunk), state))
    })
}

struct Writing {
    session: Session,
    keeper: Option<Keeper>,
    /// Of the chunk that the connection has been given last.
    unacked: Option<CursorText>,
}

impl Writing {
    /// The next chunk. That it is asked for says that the connection has taken the one before.
    async fn next(&mut self) -> Option<Bytes> {
        if let (Some(keeper), Some(cursor)) = (&mut self.keeper, self.unacked.take()) {
            // The connection flushes when its body has nothing: so first what it took, then the ack.
            tokio::task::yield_now().await;
            keeper.ack(Accepted::by_connection(cursor).counts_as_durable());
        }
        let taken = self.session.next(limits::transport_chunk_bytes);
        let frames = match &mut self.keeper {
            None => taken.await,
            Some(keeper) => tokio::select! {
                biased;
                never = keeper.run() => match never {},
                frames = taken => frames,
            },
        };
        let Some(frames) = frames else {
            if let Some(keeper) = &mut self.keeper {
                keeper.finish().await;
            }
            return None;
        };
        self.unacked = frames.iter().rev().find_map(Frame::cursor).cloned();
        Some(events(&frames))
    }
}

fn events(frames: &[Frame]) -> Bytes {
    let mut out = Vec::new();
    for frame in frames {
        put(&mut out, format_args!("event: {}\n", frame.name()));
        if let Some(cursor) = frame.cursor() {
            put(&mut out, format_args!("id: {cursor}\n"));
        }
        out.extend_from_slice(b"data: ");
        json::write_frame(&mut out, frame);
        out.extend_from_slice(b"\n\n");
    }
    out.into()
}

/// For `?ack=auto`: acks and renews beside the writing, one call at a time, so that a hub that is
/// slow to answer holds up no delivery.
struct Keeper {
    hub: HubHandle,
    gateway: GatewayId,
    due: Option<Durable>,
    busy: Option<BoxFuture<'static, ()>>,
    renewals: Interval,
}

impl Keeper {
    fn new(hub: HubHandle, gateway: GatewayId) -> Self {
        let renewals = every(Duration::from_secs(limits::lease_renewal_seconds.into()));
        Self { hub, gateway, due: None, busy: None, renewals }
    }

    /// A later ack covers an earlier one that has not been told yet.
    fn ack(&mut self, durable: Durable) {
        self.due = Some(durable);
    }

    /// Does what is due, for ever. Cancel-safe: a call under way goes on with the next `run`.
    async fn run(&mut self) -> Infallible {
        loop {
            if self.step().await {
                continue;
            }
            self.renewals.tick().await;
            let (hub, gateway) = (self.hub.clone(), self.gateway.clone());
            self.busy = Some(
                async move {
                    // A gateway without subscriptions has nothing to renew; a hub that cannot says so
                    // by the session.
                    if let Err(problem) = hub.renew_gateway(gateway, None).await {
                        tracing::debug!(%problem, "leases not renewed");
                    }
                }
                .boxed(),
            );
        }
    }

    /// Finishes a call, or makes the ack that is due. Says whether there was something to do.
    async fn step(&mut self) -> bool {
        if self.busy.is_none() {
            let Some(durable) = self.due.take() else { return false };
            let (hub, gateway) = (self.hub.clone(), self.gateway.clone());
            self.busy = Some(
                async move {
                    if let Err(problem) = durable.ack(&hub, &gateway).await {
                        tracing::debug!(%problem, "ack not taken");
                    }
                }
                .boxed(),
            );
        }
        if let Some(call) = &mut self.busy {
            call.await;
        }
        self.busy = None;
        true
    }

    /// At the end of a session: its last ack.
    async fn finish(&mut self) {
        while self.step().await {}
    }
}

async fn ack(
    State(hub): State<HubHandle>,
    gateway: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let gateway = name_of(gateway, "gatewayId")?;
    let cursor = cursor_in(&headers, body)?;
    Durable::said_by_gateway(cursor).ack(&hub, &gateway).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn ack_as_member(
    State(hub): State<HubHandle>,
    group: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let asked = asked_of(&uri, true)?;
    let only_member = Problem::new(Code::InvalidRequest, "an ack has no other parameter than `member`");
    if asked.cursor.is_some() || asked.auto_ack {
        return Err(only_member.at(if asked.auto_ack { "ack" } else { "cursor" }));
    }
    let gateway = member_of(&name_of(group, "group")?, asked.member.as_ref())?;
    let cursor = cursor_in(&headers, body)?;
    Durable::said_by_gateway(cursor).ack(&hub, &gateway).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn cursor_in(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<CursorText, Problem> {
    let media = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let media = media.map(|text| text.split(';').next().unwrap_or_default().trim());
    if !media.is_none_or(|media| media.eq_ignore_ascii_case("application/json")) {
        return Err(Problem::new(Code::UnsupportedMediaType, "an ack is application/json"));
    }
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::PayloadTooLarge, "the body is too large"),
        _ => Problem::malformed("the body could not be read"),
    })?;
    let value = crate::api::json::parse(&body)?;
    let refused = |why: &str| Problem::new(Code::InvalidRequest, why);
    let members = value.as_object().ok_or_else(|| refused("an ack is an object with a `cursor`"))?;
    if let Some(other) = members.keys().find(|name| *name != "cursor") {
        return Err(refused("an ack has no other field than `cursor`").at(other));
    }
    let text = members.get("cursor").and_then(Value::as_str);
    let text = text.ok_or_else(|| refused("`cursor` must be a text").at("cursor"))?;
    Ok(CursorText(text.into()))
}
