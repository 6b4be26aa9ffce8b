//! The edge's end: commands for a partition that another node owns.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};

use super::directory::{Directory, Owner};
use super::question::{self, Question};
use super::{decode, encode, unreachable};
use crate::error::Problem;
use crate::handle::Command;
use crate::limits;
use crate::observe::health::Component;
use crate::proto::peer::AskRequest;
use crate::tasks::Kind;

/// Passes commands on to the partition's owner.
#[derive(Clone, Debug)]
pub struct Forward {
    directory: Directory,
    places: Arc<Semaphore>,
    /// Sessions may have to wait for their turn at the owner: that must not hold up acks.
    openings: Arc<Semaphore>,
}

impl Forward {
    /// To whom the directory says.
    pub fn new(directory: Directory) -> Self {
        let places = || Arc::new(Semaphore::new(limits::peer_questions_max));
        Self { directory, places: places(), openings: places() }
    }

    /// Passes on what comes; without an owner it is dropped, which answers it. Says in `health` that this node serves
    /// the partition through another. Returns when nothing can come any more. Cancel-safe.
    pub async fn run(&self, commands: &mut mpsc::Receiver<Command>, health: &Component) {
        let mut owners = self.directory.owners();
        if owners.borrow().is_some() {
            owners.mark_changed();
        }
        loop {
            let command = tokio::select! {
                command = commands.recv() => command,
                Ok(()) = owners.changed() => {
                    match &*owners.borrow_and_update() {
                        Some(owner) => {
                            tracing::info!(owner = %owner.holder.node, "another node owns the partition");
                            health.ok();
                        }
                        None => health.failing("no node owns the partition"),
                    }
                    continue;
                }
            };
            let Some(command) = command else { return };
            let Some(owner) = self.directory.owner() else { continue };
            let places = if matches!(command, Command::Open(..)) { &self.openings } else { &self.places };
            // More than that are not kept waiting, but told to come again.
            let Ok(place) = Arc::clone(places).try_acquire_owned() else { continue };
            let asker = Asker { directory: self.directory.clone(), owner };
            let name = format!("question to {}", asker.owner.holder.node);
            self.directory.tasks.spawn(Kind::Session, name, async move {
                question::pass_on(&asker, command).await;
                drop(place);
            });
        }
    }
}

/// Asks one owner.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) directory: Directory,
    pub(super) owner: Owner,
}

impl Asker {
    /// The owner's answer, or its problem; or that it does not answer.
    pub(super) async fn ask<T: DeserializeOwned>(&self, question: &Question) -> Result<T, Problem> {
        let request =
            AskRequest { partition: self.directory.partition.to_string(), question: encode(question)?.into() };
        let mut client = self.owner.client().ok_or_else(|| unreachable("it has no address"))?;
        let asking = async { client.ask(request).await.map_err(|status| unreachable(status.message())) };
        let answer = tokio::select! {
            answer = asking => answer?,
            () = self.directory.gone(&self.owner.holder) => return Err(unreachable("it is not the owner any more")),
        };
        decode::<Result<T, Problem>>(&answer.into_inner().answer)?
    }
}
