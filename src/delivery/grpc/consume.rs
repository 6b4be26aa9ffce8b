//! `Delivery.Consume`: one session.
//!
//! Owns the stream's two directions. They run beside each other: a client that reads nothing can
//! still ack, and one that says nothing is still served. Knows nothing of how frames come about.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::super::body::Format;
use super::super::receipt::Durable;
use super::super::session::Session;
use super::admit::{caller, refused};
use super::messages::Packer;
use super::status::{invalid, status};
use crate::cursor::CursorText;
use crate::edge::HubHandle;
use crate::handle::{self, Transport};
use crate::limits;
use crate::proto::consume_request::Request as Kind;
use crate::proto::delivery_server::Delivery;
use crate::proto::{Body, ConsumeRequest, ConsumeResponse, Hello};
use crate::subscription::{GatewayId, Name};
use crate::tasks::{self, Tasks};

pub(super) struct Deliveries {
    pub(super) hub: HubHandle,
    pub(super) tasks: Tasks,
}

#[async_trait]
impl Delivery for Deliveries {
    type ConsumeStream = BoxStream<'static, Result<ConsumeResponse, Status>>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let caller = caller(&request)?;
        let mut requests = request.into_inner();
        let first = in_time(requests.message()).await?;
        let Some(ConsumeRequest { request: Some(Kind::Hello(hello)) }) = first else {
            return Err(invalid("hello", "the first request of a session is `hello`"));
        };
        let (hello, packer) = asked(hello)?;
        caller.still().and_then(|()| caller.serves(&hello.gateway)).map_err(refused)?;
        let gateway = hello.gateway.clone();
        let session = self.hub.open(hello).await.map_err(status)?;

        let ended = CancellationToken::new();
        let (failed, failure) = oneshot::channel();
        let writing = Writing {
            session: Some(session),
            packer,
            ready: VecDeque::new(),
            failure: Some(failure),
            _ended: ended.clone().drop_guard(),
        };
        let reading = Reading { hub: self.hub.clone(), gateway, requests };
        let name = format!("grpc {}", reading.gateway);
        self.tasks.spawn(tasks::Kind::Session, name, async move {
            let failing = async {
                match reading.run().await {
                    Ok(()) => pending().await,
                    Err(status) => status,
                }
            };
            let revoked = async {
                caller.clone().revoked().await;
                caller.still().map_err(refused).err().unwrap_or_else(|| Status::unauthenticated("revoked"))
            };
            let status = tokio::select! {
                biased;
                () = ended.cancelled() => return,
                // What a token has opened ends with it.
                status = revoked => status,
                status = failing => status,
            };
            // The stream may have ended meanwhile; then nobody needs to know.
            let _ = failed.send(status);
        });
        Ok(Response::new(stream::unfold(writing, Writing::next).boxed()))
    }
}

/// A stream that says nothing is no session.
async fn in_time<T>(first: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let limit = Duration::from_secs(limits::grpc_hello_seconds_max);
    tokio::time::timeout(limit, first).await.map_err(|_| Status::deadline_exceeded("no `hello` came"))?
}

fn asked(hello: Hello) -> Result<(handle::Hello, Packer), Status> {
    let gateway = gateway_of(&hello)?;
    let format = match Body::try_from(hello.body) {
        Ok(Body::Unspecified | Body::ExtendedJson) => Format::Json,
        Ok(Body::Bson) => Format::Bson,
        Err(_) => return Err(invalid("body", "`body` is EXTENDED_JSON or BSON")),
    };
    let bytes_max = match usize::try_from(hello.max_message_bytes).unwrap_or(usize::MAX) {
        0 => limits::grpc_message_bytes_default,
        less if less < limits::grpc_message_bytes_min => {
            let why = format!("`max_message_bytes` is at least {}, or 0", limits::grpc_message_bytes_min);
            return Err(invalid("max_message_bytes", why));
        }
        given => given.min(limits::grpc_message_bytes_max),
    };
    let hello = handle::Hello {
        cursor: hello.cursor.map(|text| CursorText(text.into())),
        unacked_bytes_max: hello.max_unacked_bytes.min(limits::unacked_bytes_max),
        ..handle::Hello::new(gateway, Transport::Grpc)
    };
    Ok((hello, Packer::new(format, bytes_max)))
}

/// A gateway, or a member of a group.
fn gateway_of(hello: &Hello) -> Result<GatewayId, Status> {
    let name = |text: &str, field: &str| Name::new(text).map_err(|error| invalid(field, error.to_string()));
    match (hello.gateway_id.is_empty(), hello.group.is_empty(), hello.member.is_empty()) {
        (_, true, true) => name(&hello.gateway_id, "gateway_id"),
        (true, ..) => Ok(Name::member(&name(&hello.group, "group")?, &name(&hello.member, "member")?)),
        (false, ..) => Err(invalid("group", "a session has a `gateway_id`, or a `group` and a `member`")),
    }
}

/// The client's direction.
struct Reading {
    hub: HubHandle,
    gateway: GatewayId,
    requests: Streaming<ConsumeRequest>,
}

impl Reading {
    /// Until the client says no more, which ends only its acks, or says something that cannot be.
    async fn run(mut self) -> Result<(), Status> {
        while let Some(request) = self.requests.message().await? {
            match request.request {
                Some(Kind::Ack(ack)) => {
                    let durable = Durable::said_by_gateway(CursorText(ack.cursor.into()));
                    match durable.ack(&self.hub, &self.gateway).await {
                        // A later ack covers this one; if the hub is going down the session says so.
                        Err(problem) if problem.status >= 500 => tracing::debug!(%problem, "ack not taken"),
                        answer => answer.map_err(status)?,
                    }
                }
                Some(Kind::Heartbeat(_)) => {
                    // A gateway without subscriptions has nothing to renew.
                    if let Err(problem) = self.hub.renew_gateway(self.gateway.clone(), None).await {
                        tracing::debug!(%problem, "leases not renewed");
                    }
                }
                Some(Kind::Hello(_)) => return Err(invalid("hello", "a session has one `hello`")),
                None => return Err(invalid("request", "a request is `hello`, `ack` or `heartbeat`")),
            }
        }
        Ok(())
    }
}

/// The hub's direction. Dropping it drops the session and ends the reading.
struct Writing {
    session: Option<Session>,
    packer: Packer,
    ready: VecDeque<ConsumeResponse>,
    failure: Option<oneshot::Receiver<Status>>,
    _ended: DropGuard,
}

impl Writing {
    /// The next message; more frames are asked for when the connection has taken all of the last ones.
    async fn next(mut self) -> Option<(Result<ConsumeResponse, Status>, Self)> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some((Ok(message), self));
            }
            let session = self.session.as_mut()?;
            tokio::select! {
                biased;
                status = failed(&mut self.failure) => {
                    self.session = None;
                    return Some((Err(status), self));
                }
                frames = session.next(limits::transport_chunk_bytes) => {
                    self.ready = self.packer.pack(frames?).into();
                }
            }
        }
    }
}

/// Why the reading failed; for ever silent where it ended well.
async fn failed(failure: &mut Option<oneshot::Receiver<Status>>) -> Status {
    if let Some(waiting) = failure {
        if let Ok(status) = waiting.await {
            return status;
        }
        *failure = None;
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_says_nothing_ends() {
        assert_eq!(in_time(pending::<Result<(), Status>>()).await.unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }
}
