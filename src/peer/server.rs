//! The owner's end: questions and sessions of other nodes.

use futures::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{decode, encode, question};
use crate::access::Caller;
use crate::delivery::session::Session;
use crate::edge::HubHandle;
use crate::error::Problem;
use crate::handle::{Hello, PartitionHandle};
use crate::proto::peer::peer_server::Peer;
use crate::proto::peer::serve_request::Request as Asked;
use crate::proto::peer::serve_response::Response as Said;
use crate::proto::peer::{AskRequest, AskResponse, ServeRequest, ServeResponse};

/// Answers other nodes.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Whom it asks.
    pub hub: HubHandle,
}

fn refused(problem: &Problem) -> Status {
    Status::invalid_argument(problem.to_string())
}

impl Answers {
    /// Refuses what would have to be passed on: two nodes with old views would send it in circles.
    fn owned(&self, partition: &str) -> Result<&PartitionHandle, Status> {
        let found = partition.parse().ok().and_then(|id| self.hub.partition(&id));
        let owned = found.filter(|partition| partition.is_owner());
        owned.ok_or_else(|| Status::unavailable(format!("this node does not own {partition}")))
    }
}

#[async_trait]
impl Peer for Answers {
    type ServeStream = BoxStream<'static, Result<ServeResponse, Status>>;

    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        let AskRequest { partition, question } = request.into_inner();
        let partition = self.owned(&partition)?;
        let question = decode(&question).map_err(|problem| refused(&problem))?;
        let answer = question::answer(partition, question).await.map_err(|problem| refused(&problem))?;
        Ok(Response::new(AskResponse { answer: answer.into() }))
    }

    async fn serve(&self, request: Request<Streaming<ServeRequest>>) -> Result<Response<Self::ServeStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::internal("nobody has asked who calls"))?;
        let mut requests = request.into_inner();
        let Some(ServeRequest { request: Some(Asked::Open(open)) }) = requests.message().await? else {
            return Err(Status::invalid_argument("the first request is `open`"));
        };
        let partition = self.owned(&open.partition)?;
        let hello: Hello = decode(&open.hello).map_err(|problem| refused(&problem))?;
        let opened = partition.open(hello).await;
        let number = opened.as_ref().map(Session::number).map_err(Clone::clone);
        let opened_text = encode(&number).map_err(|problem| refused(&problem))?;
        let first = stream::once(async move { Ok(said(Said::Opened(opened_text.into()))) });
        let Ok(session) = opened else { return Ok(Response::new(first.boxed())) };
        let serving = Serving { session, requests };
        // What a token has opened ends with it.
        let frames = stream::unfold(serving, Serving::next).take_until(caller.revoked());
        Ok(Response::new(first.chain(frames).boxed()))
    }
}

fn said(response: Said) -> ServeResponse {
    ServeResponse { response: Some(response) }
}

/// One session and the node that asks for its frames; it ends with either.
struct Serving {
    session: Session,
    requests: Streaming<ServeRequest>,
}

impl Serving {
    async fn next(mut self) -> Option<(Result<ServeResponse, Status>, Self)> {
        let Ok(Some(ServeRequest { request: Some(Asked::Take(take)) })) = self.requests.message().await else {
            return None;
        };
        let bytes_max = usize::try_from(take.bytes_max).unwrap_or(usize::MAX);
        let frames = tokio::select! {
            frames = self.session.next(bytes_max) => frames?,
            // Nothing is asked for while an answer is awaited: the asking node has ended the session, or is gone.
            _ = self.requests.message() => return None,
        };
        let response = encode(&frames).map(|frames| said(Said::Frames(frames.into()))).map_err(|problem| {
            tracing::error!(%problem, "frames cannot be handed to another node");
            refused(&problem)
        });
        Some((response, self))
    }
}
