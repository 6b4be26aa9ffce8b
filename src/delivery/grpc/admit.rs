//! Who may call by gRPC, and how connections are taken.
//!
//! Owns the way from a call's metadata to a caller, and the listener's handshakes. The rules are `access`'s.

use std::io;

use futures::Stream;
use metrics::counter;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Interceptor;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::{Request, Status};

use super::status::status;
use crate::access::{Caller, Door, Io, Tls, accepted};
use crate::error::{Code, Problem};
use crate::observe::metrics::REFUSED_CALLERS;
use crate::tasks::{Kind, Tasks};

/// Connections that wait to be served.
const WAITING_MAX: usize = 64;

/// Lets those pass who may, and says to the service who they are.
pub(super) fn admit(door: &Door, may: fn(&Caller) -> Result<(), Problem>) -> impl Interceptor + Clone + use<> {
    let door = door.clone();
    move |mut request: Request<()>| -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization").map(|value| value.as_bytes());
        let admitted = door.caller(header).and_then(|caller| may(&caller).map(|()| caller));
        let caller = admitted.map_err(refused)?;
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

/// Counts it, and says so.
pub(super) fn refused(problem: Problem) -> Status {
    let reason = if problem.code == Code::Forbidden { "forbidden" } else { "unauthenticated" };
    counter!(REFUSED_CALLERS, "listener" => "grpc", "reason" => reason).increment(1);
    status(problem)
}

/// Whoever was admitted.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let found = request.extensions().get::<Caller>().cloned();
    found.ok_or_else(|| Status::internal("nobody has asked who calls"))
}

impl Connected for Io {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: None, remote_addr: None }
    }
}

/// Connections once they can be spoken over. One that is slow to shake hands holds nobody up.
pub(super) fn incoming(listener: TcpListener, tls: Tls, tasks: &Tasks) -> impl Stream<Item = io::Result<Io>> + use<> {
    let (ready, taken) = mpsc::channel(WAITING_MAX);
    let (all, of_each) = (tasks.clone(), tasks.clone());
    all.spawn(Kind::Housekeeping, "grpc connections", async move {
        loop {
            // Both are cancel-safe. Nobody takes them any more once the server has ended.
            let (stream, _) = tokio::select! {
                accepted = accepted(&listener) => accepted,
                () = ready.closed() => return,
            };
            let (ready, tls) = (ready.clone(), tls.clone());
            of_each.spawn(Kind::Session, "grpc handshake", async move {
                tokio::select! {
                    accepted = async { tls.accept(stream).await?.speaking_http2().await } => match accepted {
                        Ok(io) => drop(ready.send(Ok(io)).await),
                        Err(error) => tracing::debug!(%error, "a connection came to nothing"),
                    },
                    () = ready.closed() => {}
                }
            });
        }
    });
    ReceiverStream::new(taken)
}
