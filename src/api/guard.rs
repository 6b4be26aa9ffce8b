//! Around the routes: what no route answers, panics, counting.
//!
//! Owns the answers to requests that reach no route or break one. Knows nothing of the routes.

use std::any::Any;
use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use metrics::{counter, histogram};

use super::request::query;
use crate::access::{Caller, Door};
use crate::clock::Clock;
use crate::error::{Code, Problem};
use crate::observe::metrics::{HTTP_REQUESTS, HTTP_TIME, REFUSED_CALLERS};

/// Parts of the interface that this version does not have.
const LATER: [(&str, &str); 1] = [("/v1/aggregations", "aggregations")];

/// No such path.
pub(super) async fn not_found(uri: Uri) -> Problem {
    let below = |root: &str| uri.path().strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match LATER.iter().find(|(root, _)| below(root)) {
        Some((_, what)) => Problem::new(Code::NotFound, format!("this version does not have {what}")),
        None => Problem::new(Code::NotFound, "no such path; /v1/openapi.json lists them"),
    }
}

/// No such method there. `Allow` is added by whoever knows the others.
pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(Code::MethodNotAllowed, "this path does not know this method; `Allow` lists those it does")
}

/// Routes whose handlers read the query themselves.
const WITH_PARAMETERS: [(Method, &str); 4] = [
    (Method::GET, "/v1/subscriptions"),
    (Method::GET, "/v1/gateways/{gateway}/stream"),
    (Method::GET, "/v1/groups/{group}/stream"),
    (Method::POST, "/v1/groups/{group}/ack"),
];

/// A parameter that nobody reads is a mistake that should not go unseen.
pub(super) async fn no_stray_parameters(request: Request, next: Next) -> Response {
    match stray_parameter(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn stray_parameter(request: &Request) -> Result<(), Problem> {
    let Some(route) = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) else { return Ok(()) };
    // Probes of `/health` may add to it what they like.
    let reads = |(method, of): &(Method, &str)| request.method() == method && *of == route;
    let open = !route.starts_with("/v1/") || WITH_PARAMETERS.iter().any(reads);
    if open { Ok(()) } else { query(request.uri().query(), &[]).map(|_| ()) }
}

/// Who may call a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// Anybody; an operator may be told more.
    Everybody,
    /// Those who may serve the gateway or the group that the path names.
    Owner,
    /// Clients; what they may do depends on more than the path, and the handler looks.
    Client,
    /// Operators.
    Operator,
}

/// What a route needs. A new one is the operator's until somebody says otherwise.
pub(super) fn access(route: &str) -> Access {
    const CLIENT: [&str; 3] = ["/v1/subscriptions", "/v1/subscriptions/batch", "/v1/backtest"];
    const OF_OPERATORS: [&str; 2] = ["/cursor", "/park"];
    let is_owned = |root: &str| route.strip_prefix(root).is_some_and(|rest| !OF_OPERATORS.contains(&rest));
    match route {
        "/" | "/dashboard/{file}" | "/v1/openapi.json" | "/health" | "/health/live" | "/health/ready" => {
            Access::Everybody
        }
        _ if CLIENT.contains(&route) => Access::Client,
        _ if is_owned("/v1/gateways/{gateway}") || is_owned("/v1/groups/{group}") => Access::Owner,
        _ => Access::Operator,
    }
}

/// Asks who calls, and whether he may.
pub(super) async fn admit(State(door): State<Door>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let path = RawPathParams::from_request_parts(&mut parts, &()).await.ok();
    let mut request = Request::from_parts(parts, body);
    // What reaches no route tells nothing.
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let access = route.map_or(Access::Everybody, access);
    let is_stream = route.is_some_and(|route| STREAMS.contains(&route));
    if !door.asks() && !is_local(request.headers(), request.uri()) {
        let detail = "this hub asks nobody who he is, and so answers to `localhost` and to addresses only: \
                      pages of other origins must not reach it";
        return Problem::new(Code::Forbidden, detail).into_response();
    }
    let admitted = door.caller(request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes));
    let admitted = match (admitted, access) {
        (Err(_), Access::Everybody) => Ok(Caller::Nobody),
        (admitted, _) => admitted.and_then(|caller| allowed(&caller, access, path.as_ref()).map(|()| caller)),
    };
    let caller = match admitted {
        Ok(caller) => caller,
        Err(problem) => {
            let reason = if problem.code == Code::Forbidden { "forbidden" } else { "unauthenticated" };
            counter!(REFUSED_CALLERS, "listener" => "http", "reason" => reason).increment(1);
            return problem.into_response();
        }
    };
    // Where nobody is asked who he is, a gateway's own calls are anybody's.
    let is_operator = access == Access::Operator || (matches!(caller, Caller::Known(_)) && caller.is_operator());
    let mut word = (is_operator && changes_something(request.method(), route)).then(|| Word {
        caller: caller.clone(),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        status: None,
    });
    request.extensions_mut().insert(caller.clone());
    let response = next.run(request).await;
    if let Some(word) = &mut word {
        word.status = Some(response.status().as_u16());
    }
    drop(word);
    if !is_stream {
        return response;
    }
    // What a token has opened ends with it.
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(caller.revoked())))
}

/// A call by which an operator changes something. It is logged when it ends, also if its caller does not wait for that.
struct Word {
    caller: Caller,
    method: Method,
    path: String,
    status: Option<u16>,
}

impl Drop for Word {
    fn drop(&mut self) {
        let Self { caller, method, path, status } = self;
        // Without a status nobody has waited for the answer; it may be done all the same.
        tracing::info!(caller = caller.name(), %method, path, status, "an operator's call");
    }
}

/// Changes that are ingested, registrations and what renews them are no word about the hub, and would fill the log; what
/// is asked by POST changes nothing.
fn changes_something(method: &Method, route: Option<&str>) -> bool {
    const OTHERS: [&str; 7] = [
        "/v1/events",
        "/v1/events/batch",
        "/v1/explain",
        "/v1/backtest",
        "/v1/subscriptions",
        "/v1/subscriptions/batch",
        "/v1/gateways/{gateway}/subscriptions/{subscription}",
    ];
    let is_said =
        |route: &str| !OTHERS.contains(&route) && !["/heartbeat", "/ack"].iter().any(|end| route.ends_with(end));
    !method.is_safe() && route.is_some_and(is_said)
}

/// Whether it was sent by a program, or by a page of this hub: browsers send what any page wants to whatever listens on
/// their machine, under any name that the page's owner has lead there.
fn is_local(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).unwrap_or_default();
    let host = uri.authority().map(ToString::to_string).or_else(|| headers.get(HOST).map(text));
    let Some(host) = host else { return true };
    let name = host.parse::<Authority>().map(|authority| authority.host().to_owned()).unwrap_or_default();
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let origin = headers.get(ORIGIN).map(text);
    let is_own = origin.is_none_or(|origin| origin.split_once("://").is_some_and(|(_, from)| from == host));
    (is_address || name.eq_ignore_ascii_case("localhost")) && is_own
}

fn allowed(caller: &Caller, access: Access, path: Option<&RawPathParams>) -> Result<(), Problem> {
    match access {
        Access::Everybody => Ok(()),
        Access::Operator => caller.operator(),
        Access::Client => caller.client(),
        Access::Owner => match path.and_then(|path| path.iter().next()) {
            Some(("group", name)) => caller.serves_group(name),
            Some((_, name)) => caller.serves_gateway(name),
            None => caller.operator(),
        },
    }
}

/// A handler broke. Whoever asked learns no more than that; the log has the rest.
pub(super) fn panicked(reason: Box<dyn Any + Send>) -> Response {
    let text = reason.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| reason.downcast_ref::<&str>().copied()).unwrap_or("no text");
    tracing::error!(reason = text, "a request's handler panicked");
    Problem::new(Code::Internal, "a bug in the hub; its log says more").into_response()
}

const STREAMS: [&str; 3] = ["/v1/gateways/{gateway}/stream", "/v1/groups/{group}/stream", "/v1/overview/stream"];

/// Counts and times every answer.
pub(super) async fn count(State(clock): State<Clock>, request: Request, next: Next) -> Response {
    let began = clock.now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = known(request.method());
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str).to_owned();
    let status = response.status().as_str().to_owned();
    counter!(HTTP_REQUESTS, "route" => route.clone(), "method" => method, "status" => status).increment(1);
    if !STREAMS.contains(&route.as_str()) {
        histogram!(HTTP_TIME, "route" => route).record(clock.now().since(began).as_secs_f64());
    }
    response
}

/// A label must not be of the client's making.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Whoever was admitted.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let missing = || Problem::new(Code::Internal, "nobody has asked who calls");
        parts.extensions.get::<Self>().cloned().ok_or_else(missing)
    }
}
