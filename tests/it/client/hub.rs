//! A hub that says what a test tells it to, over real gRPC.

use std::collections::HashMap;
use std::time::Duration;

use streamer::position::{ClusterTime, Epoch, Position};
use streamer::proto;
use streamer::proto::consume_request::Request as Said;
use streamer::proto::consume_response::Message;
use streamer::proto::delivery_server::{Delivery, DeliveryServer};
use streamer::proto::{ConsumeRequest, ConsumeResponse};
use streamer::tasks::{Kind, Tasks};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Long enough that only something that never comes meets it.
const PATIENCE: Duration = Duration::from_secs(20);
const PARTITION: &str = "default/0";

type Answers = mpsc::Sender<Result<ConsumeResponse, Status>>;

/// One session, from the hub's end. Dropping it ends the stream.
pub(super) struct Session {
    requests: Streaming<ConsumeRequest>,
    answers: Option<Answers>,
    begin: Option<oneshot::Sender<Result<(), Status>>>,
}

pub(super) struct FakeHub {
    port: u16,
    sessions: mpsc::Receiver<Session>,
    tasks: Tasks,
}

struct Service {
    sessions: mpsc::Sender<Session>,
}

#[tonic::async_trait]
impl Delivery for Service {
    type ConsumeStream = ReceiverStream<Result<ConsumeResponse, Status>>;

    async fn consume(
        &self,
        request: Request<Streaming<ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (answers, stream) = mpsc::channel(64);
        let (begin, begun) = oneshot::channel();
        let session = Session { requests: request.into_inner(), answers: Some(answers), begin: Some(begin) };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        begun.await.map_err(|_| Status::unavailable("the test is over"))??;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl FakeHub {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, sessions) = mpsc::channel(8);
        let server = tonic::transport::Server::builder()
            .add_service(DeliveryServer::new(Service { sessions: sender }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let tasks = Tasks::new();
        let stopped = tasks.shutdown_token();
        tasks.spawn(Kind::Listener, "fake hub", async move {
            // Cut off, as a hub that is killed.
            let _ = stopped.run_until_cancelled(server).await;
        });
        Self { port, sessions, tasks }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The next session that a client asks for.
    pub(super) async fn session(&mut self) -> Session {
        within(self.sessions.recv()).await.unwrap()
    }

    /// Whether nobody has asked for another session.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.sessions.try_recv().is_err()
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.tasks.shutdown_token().cancel();
    }
}

impl Session {
    pub(super) async fn hello(&mut self) -> proto::Hello {
        match self.said().await {
            Some(Said::Hello(hello)) => hello,
            other => panic!("{other:?} instead of hello"),
        }
    }

    /// The next ack; it must come before any heartbeat.
    pub(super) async fn ack(&mut self) -> String {
        match self.said().await {
            Some(Said::Ack(ack)) => ack.cursor,
            other => panic!("{other:?} instead of an ack"),
        }
    }

    pub(super) async fn heartbeat(&mut self) {
        match self.said().await {
            Some(Said::Heartbeat(_)) => {}
            other => panic!("{other:?} instead of a heartbeat"),
        }
    }

    /// The client says no more.
    pub(super) async fn ended(&mut self) {
        assert!(self.said().await.is_none());
    }

    pub(super) async fn send(&self, message: Message) {
        self.begin_once();
        let response = ConsumeResponse { message: Some(message) };
        // The client may be gone: then the test asks something else.
        let _ = self.answers.as_ref().unwrap().send(Ok(response)).await;
    }

    /// Answers the call with an error.
    pub(super) async fn refuse(mut self, status: Status) {
        self.begin.take().unwrap().send(Err(status)).unwrap();
    }

    async fn said(&mut self) -> Option<Said> {
        self.begin_now();
        within(self.requests.message()).await.ok().flatten().and_then(|request| request.request)
    }

    fn begin_once(&self) {
        assert!(self.begin.is_none(), "hello is read first");
    }

    fn begin_now(&mut self) {
        if let Some(begin) = self.begin.take() {
            let _ = begin.send(Ok(()));
        }
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("something that never comes")
}

fn at(time: u64) -> String {
    Position::new(Epoch(1), ClusterTime(time), 1).to_string()
}

pub(super) fn welcome(heartbeat_seconds: u32) -> Message {
    Message::Welcome(proto::Welcome { session: 1, node: "hub-1".into(), heartbeat_seconds, ..Default::default() })
}

pub(super) fn raw_change(seq: u64, time: u64, cursor: &str, ids: &[&str]) -> proto::Change {
    let matches =
        ids.iter().map(|id| proto::Match { subscription_id: (*id).into(), generation: 1, ..Default::default() });
    proto::Change {
        partition: PARTITION.into(),
        seq,
        cursor: cursor.into(),
        position: at(time),
        id: format!("{PARTITION}/{}", at(time)),
        key: "k".into(),
        operation: "insert".into(),
        document: Some(bson::serialize_to_vec(&bson::doc! { "n": time as i64 }).unwrap().into()),
        matches: matches.collect(),
        ..Default::default()
    }
}

pub(super) fn changes(changes: Vec<proto::Change>) -> Message {
    Message::Changes(proto::Changes { changes })
}

pub(super) fn change(seq: u64, time: u64, cursor: &str, ids: &[&str]) -> Message {
    changes(vec![raw_change(seq, time, cursor, ids)])
}

pub(super) fn progress(cursor: &str, time: u64) -> Message {
    let boundary = Position::boundary(Epoch(1), ClusterTime(time)).to_string();
    let positions = HashMap::from([(PARTITION.to_owned(), boundary)]);
    Message::Progress(proto::Progress { cursor: cursor.into(), positions, catching_up: 0 })
}

pub(super) fn resync(cursor: &str, reason: &str, to: u64) -> Message {
    Message::Resync(proto::Resync {
        cursor: cursor.into(),
        partition: PARTITION.into(),
        to: at(to),
        reason: reason.into(),
        all: true,
        ..Default::default()
    })
}

pub(super) fn closed(reason: &str, retry_after_ms: u64) -> Message {
    Message::Closed(proto::Closed { reason: reason.into(), retry_after_ms })
}
