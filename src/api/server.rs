//! The listener: connections, their timeouts and their end.
//!
//! Owns how connections are accepted and served, HTTP/1.1 and HTTP/2 on one port. Knows nothing of routes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::access::{Tls, accepted};
use crate::tasks::{Kind, Tasks};

/// A request's head must have arrived within this; an idle connection is closed after it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// An HTTP/2 peer that is gone without a word is found out by pings.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests at once on one HTTP/2 connection; streams of gateways among them.
const HTTP2_STREAMS_MAX: u32 = 256;

/// Serves until the tasks' shutdown. Each connection is a task of its own and, told to end, finishes
/// the requests that it has; streams end when the hub ends their sessions.
pub async fn serve(listener: TcpListener, tls: Tls, router: Router, tasks: &Tasks) {
    let shutdown = tasks.shutdown_token();
    let builder = builder(tasks);
    loop {
        // Both are cancel-safe.
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = accepted(&listener) => accepted,
        };
        let (builder, router, shutdown, tls) = (builder.clone(), router.clone(), shutdown.clone(), tls.clone());
        let serving = connection(stream, tls, builder, router, shutdown);
        tasks.spawn(Kind::Session, format!("http {peer}"), serving);
    }
}

fn builder(tasks: &Tasks) -> Builder<InTasks> {
    let mut builder = Builder::new(InTasks(tasks.clone()));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(HTTP2_STREAMS_MAX);
    builder
}

async fn connection(
    stream: TcpStream,
    tls: Tls,
    builder: Builder<InTasks>,
    router: Router,
    shutdown: CancellationToken,
) {
    let accepted = shutdown.run_until_cancelled(tls.accept(stream)).await;
    let stream = match accepted {
        None => return,
        Some(Ok(stream)) => stream,
        Some(Err(error)) => return tracing::debug!(%error, "a connection came to nothing"),
    };
    // Whoever connects and asks nothing holds a descriptor, and a drain.
    let has_asked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&has_asked);
    let service = TowerToHyperService::new(router.map_request(move |request: hyper::Request<_>| {
        asked.store(true, Ordering::Relaxed);
        request.map(Body::new)
    }));
    let mut silence = std::pin::pin!(tokio::time::sleep(HEAD_TIMEOUT));
    let mut is_silent = true;
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut ending = false;
    let result = loop {
        // Both are cancel-safe: a connection goes on where it was.
        tokio::select! {
            result = serving.as_mut() => break result,
            () = silence.as_mut(), if is_silent => {
                if !has_asked.load(Ordering::Relaxed) {
                    return;
                }
                is_silent = false;
            }
            () = shutdown.cancelled(), if !ending => {
                if !has_asked.load(Ordering::Relaxed) {
                    return;
                }
                ending = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(error = %error, "a connection ended");
    }
}

/// HTTP/2 serves each request in a task of its own.
#[derive(Clone)]
struct InTasks(Tasks);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for InTasks {
    fn execute(&self, work: F) {
        self.0.spawn(Kind::Session, "http/2 request", work);
    }
}
