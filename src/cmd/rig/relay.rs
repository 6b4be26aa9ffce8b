//! A network between two programs, which can be cut.
//!
//! Owns a port of loopback and hands on what comes there. Knows nothing of what is said over it.

use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::process::free_port;
use crate::tasks::{Kind, Tasks};

/// Bytes handed on at a time.
const CHUNK_BYTES: usize = 16 << 10;

/// What becomes of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// Everything is handed on.
    Open,
    /// Nothing is, and nobody is told. A connection that has lived through this is reset at its end, as by a
    /// firewall that has forgotten it.
    Silent,
    /// Connections that are there are silent for good, as if a firewall had forgotten them and told nobody; what is
    /// said on new ones is handed on.
    Forgotten,
    /// Every connection is reset, also those to come.
    Reset,
    /// So much is handed on in a second, in each direction of each connection.
    Slow {
        /// How much.
        bytes_per_second: u32,
    },
}

/// A relay; its connections end with it.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    line: watch::Sender<Line>,
}

impl Relay {
    /// Hands on to this port of loopback whatever comes to [`Self::port`].
    ///
    /// # Errors
    /// No port is free.
    pub async fn open(tasks: &Tasks, to: u16) -> anyhow::Result<Self> {
        let port = free_port()?;
        let listener = TcpListener::bind(("127.0.0.1", port)).await.context("a relay cannot listen")?;
        let (line, mut watched) = watch::channel(Line::Open);
        let of_connections = tasks.clone();
        tasks.spawn(Kind::Rig, format!("relay to {to}"), async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    // Nobody can cut it any more: it is over.
                    () = gone(&mut watched) => return,
                };
                if let Ok((client, _)) = accepted {
                    of_connections.spawn(
                        Kind::Rig,
                        format!("a connection to {to}"),
                        serve(client, to, watched.clone()),
                    );
                }
            }
        });
        Ok(Self { port, line })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn gone(line: &mut watch::Receiver<Line>) {
    while line.changed().await.is_ok() {}
}

/// Waits until the connection is to be reset, or the relay is gone.
async fn until_reset(mut line: watch::Receiver<Line>) {
    let mut was_silent = false;
    loop {
        match *line.borrow_and_update() {
            Line::Reset => return,
            Line::Silent => was_silent = true,
            Line::Open | Line::Slow { .. } | Line::Forgotten if was_silent => return,
            Line::Open | Line::Slow { .. } | Line::Forgotten => {}
        }
        if line.changed().await.is_err() {
            return;
        }
    }
}

async fn serve(mut client: TcpStream, to: u16, mut line: watch::Receiver<Line>) {
    let is_new = *line.borrow() == Line::Forgotten;
    let until_forgotten = {
        let mut line = line.clone();
        async move { line.wait_for(|line| *line == Line::Forgotten).await.map(drop) }
    };
    let handing_on = async {
        pass(&mut line.clone()).await?;
        let mut server = TcpStream::connect(("127.0.0.1", to)).await.ok()?;
        // Small questions and answers must not wait for one another.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = futures::future::join(
            pump(from_client, to_server, line.clone()),
            pump(from_server, to_client, line.clone()),
        );
        both.await;
        Some(())
    };
    tokio::select! {
        _ = handing_on => {}
        () = until_reset(line.clone()) => {
            // What is not said in order is said by a reset.
            let _ = client.set_zero_linger();
        }
        // Held, and never spoken on again.
        Ok(()) = until_forgotten, if !is_new => gone(&mut line).await,
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut line: watch::Receiver<Line>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let Some(pause) = pass(&mut line).await else { return };
        tokio::time::sleep(pause.saturating_mul(u32::try_from(length).unwrap_or(u32::MAX))).await;
        if to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Waits while nothing is handed on. Returns how long a byte takes; `None` where the relay is gone.
async fn pass(line: &mut watch::Receiver<Line>) -> Option<Duration> {
    let open = line.wait_for(|line| !matches!(line, Line::Silent | Line::Reset)).await.ok()?;
    Some(match *open {
        Line::Slow { bytes_per_second } => Duration::from_secs(1) / bytes_per_second.max(1),
        _ => Duration::ZERO,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says back what it hears, and a relay to it.
    async fn echo() -> (Relay, Tasks) {
        let (tasks, listener) = (Tasks::new(), TcpListener::bind(("127.0.0.1", 0)).await.unwrap());
        let port = listener.local_addr().unwrap().port();
        tasks.spawn(Kind::Rig, "echo", async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut heard = [0; 4];
                while stream.read_exact(&mut heard).await.is_ok() && stream.write_all(&heard).await.is_ok() {}
            }
        });
        (Relay::open(&tasks, port).await.unwrap(), tasks)
    }

    async fn ask(stream: &mut TcpStream) -> std::io::Result<[u8; 4]> {
        let mut heard = [0; 4];
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut heard).await?;
        Ok(heard)
    }

    #[tokio::test]
    async fn a_reset_ends_a_connection_and_the_next_one_works_again() {
        let (relay, _tasks) = echo().await;
        let mut stream = TcpStream::connect(("127.0.0.1", relay.port())).await.unwrap();
        assert_eq!(&ask(&mut stream).await.unwrap(), b"ping");
        relay.set(Line::Reset);
        assert!(ask(&mut stream).await.is_err());
        relay.set(Line::Open);
        let mut stream = TcpStream::connect(("127.0.0.1", relay.port())).await.unwrap();
        assert_eq!(&ask(&mut stream).await.unwrap(), b"ping");
    }

    #[tokio::test]
    async fn a_forgotten_connection_is_silent_for_good_and_a_new_one_works() {
        let (relay, _tasks) = echo().await;
        let mut stream = TcpStream::connect(("127.0.0.1", relay.port())).await.unwrap();
        assert_eq!(&ask(&mut stream).await.unwrap(), b"ping");
        relay.set(Line::Forgotten);
        let mut new = TcpStream::connect(("127.0.0.1", relay.port())).await.unwrap();
        for line in [Line::Forgotten, Line::Open] {
            relay.set(line);
            assert_eq!(&ask(&mut new).await.unwrap(), b"ping");
            let silent = tokio::time::timeout(Duration::from_millis(100), ask(&mut stream)).await;
            assert!(silent.is_err(), "{silent:?}");
        }
    }

    #[tokio::test]
    async fn silence_lasts_and_ends_in_a_reset() {
        let (relay, _tasks) = echo().await;
        let mut stream = TcpStream::connect(("127.0.0.1", relay.port())).await.unwrap();
        assert_eq!(&ask(&mut stream).await.unwrap(), b"ping");
        relay.set(Line::Silent);
        let silent = tokio::time::timeout(Duration::from_millis(100), ask(&mut stream)).await;
        assert!(silent.is_err(), "{silent:?}");
        relay.set(Line::Open);
        assert!(ask(&mut stream).await.is_err());
    }
}
