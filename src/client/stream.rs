//! The client itself: a stream of items, and acks.
//!
//! Owns how the two sides fit together: the task that keeps the connection, and the rules that are
//! applied only when the application asks for the next item, so that the saved state is at every moment
//! that of what has been handed over.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::config::{BodyFormat, ClientConfig};
use super::connection::Route;
use super::error::Error;
use super::item::{Cursor, Item};
use super::keeper::Keeper;
use super::ledger::Place;
use super::runner::{Acked, Inbound, Runner};
use super::state::State;
use crate::limits;
use crate::proto;
use crate::proto::consume_response::Message;
use crate::tasks::{Kind, Tasks};

/// A gateway's connection to the hub, kept up by itself.
///
/// A `Stream` of items. It ends when the hub has said that reconnecting is pointless (a newer session
/// of the same gateway, or the gateway was deleted), or with an [`Error`]. Everything else passes: the
/// client reconnects from the last cursor that was acked.
///
/// Dropping it ends the session; [`Self::close`] does so after the last ack is out.
#[derive(Debug)]
pub struct Client {
    inbound: mpsc::Receiver<Inbound>,
    acks: watch::Sender<Acked>,
    keeper: Keeper,
    /// The changes of one message, and the connection it came by.
    changes: VecDeque<proto::Change>,
    connection: u64,
    ended: bool,
    tasks: Tasks,
    shutdown: DropGuard,
}

impl Client {
    /// Begins to connect, from the cursor of `state`. Returns at once; what happens comes as items.
    ///
    /// # Errors
    /// An endpoint that is no address.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn connect(config: ClientConfig, state: State) -> Result<Self, Error> {
        let tasks = Tasks::new();
        let route = Route::new(&config, &tasks)?;
        let mut random = match config.seed {
            Some(seed) => ChaCha8Rng::seed_from_u64(seed),
            None => ChaCha8Rng::from_os_rng(),
        };
        let (sender, inbound) = mpsc::channel(limits::client_queue_messages_max);
        let resumed = state.cursor_text().map(|text| Place { connection: 0, text });
        let (acks, acked) = watch::channel(Acked { place: resumed, urgent: 0 });
        let shutdown = CancellationToken::new();
        // NATS carries text.
        let format = if config.nats.is_some() { BodyFormat::ExtendedJson } else { config.body };
        let name = config.gateway_id.clone();
        let keeper = Keeper::new(random.random(), format, state);
        let runner = Runner {
            route,
            config,
            inbound: sender,
            acks: acked,
            random,
            shutdown: shutdown.clone(),
            connection: 0,
            void_before: 0,
            failures: 0,
        };
        tasks.spawn(Kind::Client, name, runner.run());
        let shutdown = shutdown.drop_guard();
        Ok(Self { inbound, acks, keeper, changes: VecDeque::new(), connection: 0, ended: false, tasks, shutdown })
    }

    /// The application has durably taken everything up to here. Renews the leases as well. Acks may be
    /// left out: a later one stands for all before it.
    pub fn ack(&mut self, cursor: &Cursor) {
        self.keeper.ack(cursor);
        self.settle(true);
    }

    /// What to save with the application's own state. It stands for everything that has been handed over
    /// so far, so take it after the last change has been dealt with and before the next is asked for.
    pub fn state(&self) -> &State {
        self.keeper.state()
    }

    /// To forget subscriptions that are gone for good.
    pub fn state_mut(&mut self) -> &mut State {
        self.keeper.state_mut()
    }

    /// Ends the session once the last ack is out, within seconds. Returns the state to save.
    pub async fn close(self) -> State {
        let Self { mut inbound, keeper, tasks, shutdown, .. } = self;
        shutdown.disarm().cancel();
        // Nobody asks for what still comes; reading it lets the task end.
        while inbound.recv().await.is_some() {}
        tasks.drain(CLOSE_GRACE).await;
        keeper.state().clone()
    }

    /// Tells the connection of a newly free cursor. What the application acked goes out at once, what
    /// became free without it (progress, dropped repetitions) with the next heartbeat.
    fn settle(&mut self, urgent: bool) {
        if let Some(place) = self.keeper.settle() {
            self.acks.send_modify(|acked| {
                acked.place = Some(place);
                acked.urgent += u64::from(urgent);
            });
        }
    }

    fn take(&mut self, inbound: Inbound) -> Result<Option<Item>, Error> {
        match inbound {
            Inbound::Message(connection, Message::Changes(changes)) => {
                self.connection = connection;
                self.changes = changes.changes.into();
                Ok(None)
            }
            Inbound::Message(connection, message) => {
                let item = self.keeper.message(connection, message);
                self.settle(false);
                item
            }
            Inbound::Disconnected(disconnected) => Ok(Some(Item::Disconnected(disconnected))),
            Inbound::Failed(error) => Err(error),
        }
    }

    fn ready_change(&mut self) -> Option<Result<Item, Error>> {
        while let Some(change) = self.changes.pop_front() {
            match self.keeper.change(self.connection, change) {
                // A limit on unacked bytes counts what was dropped, too: its ack must not wait.
                Ok(None) => self.settle(true),
                Ok(Some(item)) => return Some(Ok(item)),
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }
}

/// For the session's own last words.
const CLOSE_GRACE: std::time::Duration = std::time::Duration::from_secs(5);

impl Stream for Client {
    type Item = Result<Item, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.ended {
            let next = match this.ready_change() {
                Some(next) => Some(next),
                None => match ready!(this.inbound.poll_recv(cx)) {
                    Some(inbound) => this.take(inbound).transpose(),
                    None => {
                        this.ended = true;
                        None
                    }
                },
            };
            if let Some(next) = next {
                this.ended = next.is_err();
                return Poll::Ready(Some(next));
            }
        }
        Poll::Ready(None)
    }
}
