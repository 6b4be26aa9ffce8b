//! Gateways that live through a hub's deaths: with the client library, and with their own means.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use streamer::client::{Backoff, Client, ClientConfig, Item, State};
use streamer::position::{ClusterTime, Position};
use tokio::sync::{mpsc, watch};

use super::Outcome;
use crate::hub::consumers::{Body, Change, Said, Session, Transport};
use crate::hub::site::{PARTITION, is_past};

/// One match that was taken.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) generation: u64,
    pub(super) position: Position,
    pub(super) transition: String,
}

/// With the client library.
pub(super) struct Library {
    pub(super) name: &'static str,
    pub(super) grpc: String,
    /// Changes from one ack to the next.
    pub(super) ack_every: usize,
    /// Whether it dies with the hub, and begins anew from what it has saved.
    pub(super) crashes: bool,
    pub(super) seed: u64,
    pub(super) end: watch::Receiver<Option<ClusterTime>>,
}

impl Library {
    pub(super) async fn run(self) -> (&'static str, Outcome) {
        let (mut outcome, mut changes) = (Outcome::default(), 0);
        let mut saved = (0, State::default());
        let mut client = self.connect(State::default());
        loop {
            match client.next().await.expect("a client goes on").unwrap() {
                Item::Change(change) => {
                    let number = change.document.as_ref().unwrap().document().unwrap().get_i64("n").unwrap();
                    outcome.delivered.insert((change.position, number));
                    outcome.taken.extend(change.matches.iter().map(|matched| Taken {
                        id: matched.subscription_id.clone(),
                        generation: matched.generation,
                        position: change.position,
                        transition: matched.transition.clone(),
                    }));
                    changes += 1;
                    if changes % self.ack_every == 0 {
                        saved = (outcome.taken.len(), client.state().clone());
                        client.ack(&change.cursor);
                    }
                }
                Item::Connected(welcome) => {
                    outcome.resumed.extend(welcome.positions.iter().map(|(_, position)| *position));
                }
                Item::Disconnected(_) if self.crashes => {
                    outcome.taken.truncate(saved.0);
                    client = self.connect(saved.1.clone());
                }
                Item::Disconnected(_) => {}
                Item::Progress(progress) => {
                    let end = *self.end.borrow();
                    let (_, reached) = progress.positions.iter().find(|(name, _)| name == PARTITION).unwrap();
                    if progress.catching_up == 0 && end.is_some_and(|end| reached.time > end) {
                        return (self.name, outcome);
                    }
                }
                other => panic!("{}: {other:?}", self.name),
            }
        }
    }

    fn connect(&self, state: State) -> Client {
        let backoff = Backoff { first: Duration::from_millis(10), most: Duration::from_millis(100) };
        let config = ClientConfig { backoff, seed: Some(self.seed), ..ClientConfig::new(&self.grpc, self.name) };
        Client::connect(config, state).unwrap()
    }
}

/// What it says when it comes back.
pub(super) enum Resume {
    /// The cursor of the last change that it got. It leaves in the middle of what was written at once,
    /// and says so.
    Presents(Leaves, mpsc::Sender<()>),
    /// Nothing: the hub knows.
    Asks,
}

/// In the middle of what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    InTransaction,
    InBatch,
}

/// With its own means: it keeps the last position of each subscription, and that is all.
pub(super) struct Raw {
    pub(super) name: &'static str,
    pub(super) http: String,
    pub(super) grpc: String,
    pub(super) transport: Transport,
    pub(super) resume: Resume,
    /// Changes from one ack to the next; 0 for none ever.
    pub(super) ack_every: usize,
    pub(super) end: watch::Receiver<Option<ClusterTime>>,
}

/// What it remembers.
#[derive(Default)]
struct Memory {
    outcome: Outcome,
    last: HashMap<(String, u64), Position>,
    cursor: Option<String>,
    changes: usize,
}

impl Raw {
    pub(super) async fn run(self) -> (&'static str, Outcome) {
        let mut memory = Memory::default();
        loop {
            let cursor = memory.cursor.clone().filter(|_| matches!(self.resume, Resume::Presents(..)));
            let opened = Session::try_open(self.transport, &self.http, &self.grpc, self.name, cursor).await;
            let Some(session) = opened else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if self.consume(session, &mut memory).await {
                return (self.name, memory.outcome);
            }
        }
    }

    /// Whether everything has come; else the session is over.
    async fn consume(&self, mut session: Session, memory: &mut Memory) -> bool {
        let mut is_first = true;
        while let Some(said) = session.next().await {
            match said {
                Said::Change(change) => {
                    let presents = matches!(self.resume, Resume::Presents(..));
                    let previous = memory.last.values().max().filter(|_| presents && is_first).copied();
                    memory.outcome.resumed.extend(previous);
                    is_first = false;
                    let left = self.take(&change, memory);
                    if self.ack_every > 0 && memory.changes.is_multiple_of(self.ack_every) {
                        session.try_ack(&change.cursor).await;
                    }
                    if left > 0 && self.leaves(&change, memory) {
                        return false;
                    }
                }
                Said::Progress(positions, behind) => {
                    let end = *self.end.borrow();
                    if behind == 0 && end.is_some_and(|end| is_past(&positions, end)) {
                        return true;
                    }
                }
                Said::Welcome => {}
                other => panic!("{}: {other:?}", self.name),
            }
        }
        false
    }

    /// Whether it goes here, in the middle, and somebody has heard it.
    fn leaves(&self, change: &Change, memory: &Memory) -> bool {
        let Resume::Presents(place, middle) = &self.resume else { return false };
        let here = if change.transaction { Leaves::InTransaction } else { Leaves::InBatch };
        here == *place && memory.changes % 100 == 50 && middle.try_send(()).is_ok()
    }

    /// Takes what it has not had. Returns how many more were written with it.
    fn take(&self, change: &Change, memory: &mut Memory) -> i64 {
        let document: bson::Document = match change.document.as_ref().unwrap() {
            Body::Text(text) => serde_json::from_str(text).unwrap(),
            Body::Bson(bytes) => bson::deserialize_from_slice(bytes).unwrap(),
        };
        let number = |name: &str| match document.get(name) {
            Some(bson::Bson::Int32(number)) => i64::from(*number),
            Some(bson::Bson::Int64(number)) => *number,
            other => panic!("{other:?}"),
        };
        memory.outcome.delivered.insert((change.position, number("n")));
        for matched in &change.matches {
            let key = (matched.subscription_id.clone(), matched.generation);
            if memory.last.get(&key).is_some_and(|last| *last >= change.position) {
                continue;
            }
            memory.last.insert(key, change.position);
            memory.outcome.taken.push(Taken {
                id: matched.subscription_id.clone(),
                generation: matched.generation,
                position: change.position,
                transition: matched.transition.clone(),
            });
        }
        memory.cursor = Some(change.cursor.clone());
        memory.changes += 1;
        number("left")
    }
}
