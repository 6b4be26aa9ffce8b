//! The picture that lives: a terminal, its keys, and the hub asked again and again.
//!
//! Owns the terminal while the program runs, and gives it back as it was, whatever ends it. What is
//! drawn and what keys mean is the screen's.

use std::io;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::EventStream;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::call::{CallError, Caller, Command};
use super::draw::draw;
use super::picture::Overview;
use super::screen::{Action, Screen};
use crate::clock::{self, Clock};

/// The terminal, ours until this is dropped. A panic gives it back before it says why.
struct Lent(DefaultTerminal);

impl Lent {
    fn take() -> io::Result<Self> {
        // What was done before it failed is undone.
        ratatui::try_init().map(Self).inspect_err(|_| drop(ratatui::try_restore()))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // A terminal that has gone away needs nothing back.
        drop(self.0.show_cursor());
        drop(ratatui::try_restore());
    }
}

/// What a call to the hub came to.
enum Outcome {
    Picture(Result<Overview, CallError>),
    Command(Command, Result<(), CallError>),
}

/// Draws until it is told to end.
pub(super) async fn run(hub: Caller, mut screen: Screen, interval: Duration, clock: Clock) -> anyhow::Result<()> {
    // First: a signal must not find the terminal taken and nobody to give it back.
    let mut ends = Ends::listen().context("signals")?;
    let mut terminal = Lent::take().context("the terminal cannot be used")?;
    let mut events = EventStream::new();
    let mut ticks = clock::every(interval);
    // The first picture is there already.
    ticks.reset();
    let mut calls: FuturesUnordered<BoxFuture<'static, Outcome>> = FuturesUnordered::new();
    let mut is_asked = false;
    loop {
        terminal.0.draw(|frame| draw(&mut screen, frame.area(), frame.buffer_mut())).context("the terminal")?;
        tokio::select! {
            () = ends.recv() => return Ok(()),
            event = events.next() => match event {
                Some(event) => match screen.on(&event.context("the terminal's keys")?) {
                    Action::None => {}
                    Action::Quit => return Ok(()),
                    Action::Call(command) => calls.push(commanded(hub.clone(), command)),
                },
                None => return Ok(()),
            },
            Some(outcome) = calls.next() => match outcome {
                Outcome::Picture(result) => {
                    is_asked = false;
                    match result {
                        Ok(overview) => screen.take(overview, clock.now(), clock.wall()),
                        Err(error) => screen.miss(error.reason()),
                    }
                }
                Outcome::Command(command, result) => {
                    screen.told(&command, result.map_err(|error| error.reason()));
                    // What it changed is seen at once.
                    ticks.reset_immediately();
                }
            },
            // One question at a time: to a hub that is slow, more of them would be no help.
            _ = ticks.tick(), if !is_asked => {
                is_asked = true;
                calls.push(picture(hub.clone()));
            }
        }
    }
}

fn picture(hub: Caller) -> BoxFuture<'static, Outcome> {
    async move { Outcome::Picture(super::overview(&hub).await.map(|(_, overview)| overview)) }.boxed()
}

fn commanded(hub: Caller, command: Command) -> BoxFuture<'static, Outcome> {
    async move {
        let result = hub.command(&command).await;
        Outcome::Command(command, result)
    }
    .boxed()
}

/// What ends the program from outside: SIGINT, SIGTERM, and SIGHUP, with which the terminal itself ends.
struct Ends([Signal; 3]);

impl Ends {
    /// From here on they no longer end the process by themselves.
    fn listen() -> io::Result<Self> {
        let [terminate, hangup] = [SignalKind::terminate(), SignalKind::hangup()];
        Ok(Self([signal(SignalKind::interrupt())?, signal(terminate)?, signal(hangup)?]))
    }

    /// Cancel-safe.
    async fn recv(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
