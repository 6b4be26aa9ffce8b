//! A session at the edge: its frames are asked for, one batch after the other.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::forward::Asker;
use super::{Directory, decode, encode, unreachable};
use crate::delivery::frame::{CloseReason, Closed, Frame};
use crate::delivery::session::Session;
use crate::error::Problem;
use crate::handle::Hello;
use crate::proto::peer::serve_request::Request;
use crate::proto::peer::serve_response::Response;
use crate::proto::peer::{Open, ServeRequest, ServeResponse, Take};
use crate::store::owners::Holder;

/// The edge's end of a session. Dropping it ends the session.
#[derive(Debug)]
pub struct Remote {
    requests: mpsc::Sender<ServeRequest>,
    responses: Streaming<ServeResponse>,
    directory: Directory,
    owner: Holder,
    shutdown: CancellationToken,
    /// More has been asked for and has not come yet.
    is_asked: bool,
}

/// Opens a session at the owner.
pub(super) async fn open(asker: &Asker, mut hello: Hello) -> Result<Session, Problem> {
    hello.node = Some(Arc::clone(&asker.directory.node));
    let open = Open { partition: asker.directory.partition.to_string(), hello: encode(&hello)?.into() };
    let (requests, receiver) = mpsc::channel(1);
    let first = ServeRequest { request: Some(Request::Open(open)) };
    requests.try_send(first).map_err(unreachable)?;
    let mut client = asker.owner.client().ok_or_else(|| unreachable("it has no address"))?;
    let opening = async {
        let responses = client.serve(ReceiverStream::new(receiver)).await;
        let mut responses = responses.map_err(|status| unreachable(status.message()))?.into_inner();
        match responses.message().await {
            Ok(Some(ServeResponse { response: Some(Response::Opened(opened)) })) => {
                Ok((decode::<Result<u64, Problem>>(&opened)??, responses))
            }
            Ok(_) => Err(unreachable("it opens no session")),
            Err(status) => Err(unreachable(status.message())),
        }
    };
    let (number, responses) = tokio::select! {
        opened = opening => opened?,
        () = asker.directory.gone(&asker.owner.holder) => return Err(unreachable("it is not the owner any more")),
    };
    let (directory, owner) = (asker.directory.clone(), asker.owner.holder.clone());
    let shutdown = directory.tasks.shutdown_token();
    Ok(Session::remote(number, Remote { requests, responses, directory, owner, shutdown, is_asked: false }))
}

impl Remote {
    /// The next frames, at least one. Without the owner the session is over: the gateway comes back with its cursor.
    /// Cancel-safe.
    pub(crate) async fn next(&mut self, bytes_max: usize) -> Vec<Frame> {
        let over = || vec![Frame::Closed(Closed { reason: CloseReason::Draining })];
        if !self.is_asked {
            let take = ServeRequest { request: Some(Request::Take(Take { bytes_max: bytes_max as u64 })) };
            // There is room: the one before has been answered.
            if self.requests.try_send(take).is_err() {
                return over();
            }
            self.is_asked = true;
        }
        let response = tokio::select! {
            biased;
            response = self.responses.message() => response,
            () = self.directory.gone(&self.owner) => return over(),
            () = self.shutdown.cancelled() => return over(),
        };
        self.is_asked = false;
        let Ok(Some(ServeResponse { response: Some(Response::Frames(frames)) })) = response else { return over() };
        match decode::<Vec<Frame>>(&frames) {
            Ok(frames) if !frames.is_empty() => frames,
            Ok(_) => over(),
            Err(problem) => {
                tracing::error!(owner = %self.owner.node, %problem, "frames of another node cannot be read");
                over()
            }
        }
    }

    /// Waits until the session's end has been decided.
    pub(crate) async fn ending(&self) {
        tokio::select! {
            () = self.directory.gone(&self.owner) => {}
            () = self.shutdown.cancelled() => {}
            () = self.requests.closed() => {}
        }
    }
}
