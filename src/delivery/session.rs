//! A session as its transport sees it: frames out, and its end by dropping it.
//!
//! Owns the transport's end of a session. The loop's end is `delivery::machine`; between them lies the
//! outbox, here or at another node, or several of them. Knows nothing of the transport.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::frame::{CloseReason, Closed, Frame};
use super::outbox::Outbox;
use crate::edge::Merged;
use crate::handle::PartitionHandle;
use crate::peer::Remote;
use crate::subscription::GatewayId;

/// One connected consumer. Dropping it ends the session.
#[derive(Debug)]
pub struct Session {
    number: u64,
    feed: Feed,
    finished: bool,
}

#[derive(Debug)]
enum Feed {
    Outbox { outbox: Arc<Outbox>, hub: PartitionHandle, gateway: GatewayId },
    Remote(Box<Remote>),
    Merged(Box<Merged>),
    Over(CloseReason),
    Script(mpsc::Receiver<Vec<Frame>>),
}

impl Session {
    /// A session of this gateway that takes from `outbox`.
    pub fn new(hub: PartitionHandle, gateway: GatewayId, number: u64, outbox: Arc<Outbox>) -> Self {
        Self { number, feed: Feed::Outbox { outbox, hub, gateway }, finished: false }
    }

    /// A session that another node serves.
    pub(crate) fn remote(number: u64, remote: Remote) -> Self {
        Self { number, feed: Feed::Remote(Box::new(remote)), finished: false }
    }

    /// Sessions of several partitions as one.
    pub(crate) fn merged(number: u64, merged: Merged) -> Self {
        Self { number, feed: Feed::Merged(Box::new(merged)), finished: false }
    }

    /// A session that has ended before it began.
    pub(crate) fn over(number: u64, reason: CloseReason) -> Self {
        Self { number, feed: Feed::Over(reason), finished: false }
    }

    /// A session that hands over whatever is sent into the other end: for tests of transports.
    pub fn scripted(number: u64) -> (mpsc::Sender<Vec<Frame>>, Self) {
        let (sender, frames) = mpsc::channel(1);
        (sender, Self { number, feed: Feed::Script(frames), finished: false })
    }

    /// The session's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Waits until the session's end has been decided, whatever is still to be taken. Cancel-safe.
    pub async fn ending(&self) {
        match &self.feed {
            Feed::Outbox { outbox, .. } => outbox.ending().await,
            Feed::Remote(remote) => remote.ending().await,
            Feed::Merged(merged) => merged.ending().await,
            Feed::Over(_) => {}
            Feed::Script(frames) => {
                while !frames.is_closed() {
                    tokio::task::yield_now().await
                }
            }
        }
    }

    /// The next frames, at least one and about `bytes_max` of bodies at most; waits until there are
    /// some. `None` once the session is over (after its `Closed` frame). Cancel-safe. What has been
    /// returned counts as written: call again only when it has been handed to the connection.
    pub async fn next(&mut self, bytes_max: usize) -> Option<Vec<Frame>> {
        if self.finished {
            return None;
        }
        let frames = match &mut self.feed {
            Feed::Script(frames) => frames.recv().await?,
            Feed::Remote(remote) => remote.next(bytes_max).await,
            Feed::Merged(merged) => merged.next(bytes_max).await,
            Feed::Over(reason) => vec![Frame::Closed(Closed { reason: *reason })],
            Feed::Outbox { outbox, .. } => loop {
                outbox.ready().await;
                let frames = outbox.take(bytes_max);
                if !frames.is_empty() {
                    break frames;
                }
            },
        };
        self.finished = matches!(frames.last(), Some(Frame::Closed(_)));
        Some(frames)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Feed::Outbox { outbox, hub, gateway } = &self.feed {
            // Whichever the loop sees first; the command may find the queue full.
            outbox.abandon();
            hub.disconnected(gateway.clone(), self.number);
        }
    }
}
