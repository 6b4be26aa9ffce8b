//! A gateway: what a client library and the application behind it do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use streamer::change::{Flags, ResyncReason};
use streamer::cursor::Cursor;
use streamer::delivery::frame::{CloseReason, Frame};
use streamer::delivery::outbox::Outbox;
use streamer::position::Position;
use streamer::store::Revision;
use streamer::subscription::SubscriptionId;

/// A range that the hub has said is lost: for these subscriptions, or for all (`None`).
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) subscriptions: Option<Vec<SubscriptionId>>,
    pub(super) from: Option<Position>,
    pub(super) to: Position,
    pub(super) reason: ResyncReason,
}

/// One match as handed to the application.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Handed {
    pub(super) subscription: SubscriptionId,
    pub(super) generation: u64,
    pub(super) position: Position,
    pub(super) redelivered: bool,
}

#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) connection: Option<Connection>,
    /// The last cursor that the application has acked.
    pub(super) acked: Option<String>,
    /// The client library's table; saved with the application's own state, so it survives everything.
    last: BTreeMap<(SubscriptionId, u64), Position>,
    pub(super) handed: Vec<Handed>,
    pub(super) lost: Vec<Lost>,
    /// Cursors of messages that were processed and not yet acked.
    pub(super) processed: VecDeque<String>,
    pub(super) progress: Option<(Position, u64)>,
    /// Progress for everyone: until where, and what its cursor knows of.
    pub(super) claims: Vec<(Position, Revision)>,
    pub(super) broken: Option<String>,
    backup: Option<Backup>,
    /// Restored, and not connected since: it must present its own cursor, or the hub cannot know.
    pub(super) is_restored: bool,
    pub(super) was_restored: bool,
    /// It has presented a cursor that the gateway of this incarnation never had: until it has acked that
    /// it is told so, each session must say it before anything that could be acked in its stead.
    pub(super) forgotten_by: Option<Revision>,
    /// The cursor of the last `welcome`.
    welcome: String,
    /// What an operator has moved its cursor to.
    pub(super) moves: Vec<Moved>,
}

/// An operator's move: where to, for filters up to which revision, and how much had been handed over by then.
#[derive(Debug, Clone)]
pub(super) struct Moved {
    pub(super) position: Position,
    pub(super) known: u64,
    /// `None`: the application went back to a backup since, and with it what it had taken after the move.
    pub(super) handed: Option<usize>,
}

/// The application's state at some moment, the client library's table with it.
#[derive(Debug, Clone)]
struct Backup {
    acked: Option<String>,
    last: BTreeMap<(SubscriptionId, u64), Position>,
    handed: usize,
    lost: usize,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) outbox: Arc<Outbox>,
    pub(super) number: u64,
    /// Written by the hub and not yet read by the gateway.
    pub(super) pipe: VecDeque<Frame>,
    seq: u64,
    /// It has been told that what it presented, or a session before it, is forgotten.
    told: bool,
}

impl Client {
    /// Keeps a backup of what the application holds when it acks.
    pub(super) fn back_up(&mut self) {
        let (acked, last) = (self.acked.clone(), self.last.clone());
        self.backup = Some(Backup { acked, last, handed: self.handed.len(), lost: self.lost.len() });
    }

    /// The ack that is on its way when the application goes back to its backup. What it acks need not
    /// be said again, though the restored one has not heard it: its own cursor is older, or forgotten.
    pub(super) fn last_words(&mut self) -> Option<String> {
        let cursor = self.processed.back().cloned()?;
        if cursor != self.welcome {
            self.forgotten_by = None;
        }
        Some(cursor)
    }

    /// Goes back to the backup, as an application restored after a disaster does: what it has taken
    /// since must come again, whatever its former self has acked.
    pub(super) fn restore(&mut self) {
        let Some(backup) = self.backup.clone().filter(|backup| backup.acked.is_some()) else { return };
        self.acked = backup.acked;
        self.last = backup.last;
        self.handed.truncate(backup.handed);
        self.lost.truncate(backup.lost);
        // What its former self was told is none of its business.
        self.claims.clear();
        self.processed.clear();
        self.connection = None;
        self.moves.iter_mut().for_each(|moved| moved.handed = None);
        self.is_restored = true;
        self.was_restored = true;
    }

    pub(super) fn connected(&mut self, outbox: Arc<Outbox>, number: u64) {
        self.connection = Some(Connection { outbox, number, pipe: VecDeque::new(), seq: 0, told: false });
        self.processed.clear();
        self.is_restored = false;
    }

    /// Moves what the hub has written into the pipe.
    pub(super) fn pump(&mut self, bytes: usize) {
        if let Some(connection) = &mut self.connection {
            connection.pipe.extend(connection.outbox.take(bytes));
        }
    }

    /// Reads some messages. Whether the connection has ended.
    pub(super) fn read(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let Some(frame) = self.connection.as_mut().and_then(|connection| connection.pipe.pop_front()) else {
                return false;
            };
            if std::env::var_os("STREAMER_SIM_TRACE").is_some() {
                match &frame {
                    Frame::Change(d) => {
                        let matches: Vec<_> =
                            d.matches.iter().map(|m| format!("{}/{}", m.subscription_id, m.generation)).collect();
                        let cursor = streamer::cursor::Cursor::decode(d.cursor.as_str()).unwrap();
                        eprintln!("    reads {:?} {matches:?} {:?} {:?}", d.change.position, d.flags, cursor.places);
                    }
                    other => eprintln!("    reads {other:?}"),
                }
            }
            self.check_told(&frame);
            match frame {
                Frame::Welcome(welcome) => {
                    // Browsers present it, and an application may ack it.
                    self.welcome = welcome.cursor.to_string();
                    self.processed.push_back(welcome.cursor.to_string());
                }
                Frame::Expired(_) | Frame::Revoked(_) | Frame::Assigned(_) => {}
                Frame::Change(delivery) => {
                    let connection = self.connection.as_mut().expect("read from it");
                    connection.seq += 1;
                    if delivery.seq != connection.seq {
                        self.broken = Some(format!("a hole: seq {} after {}", delivery.seq, connection.seq - 1));
                    }
                    for matched in delivery.matches {
                        let position = delivery.change.position;
                        let key = (matched.subscription_id.clone(), matched.generation);
                        let is_old = self.last.get(&key).is_some_and(|last| position <= *last);
                        let redelivered = delivery.flags.contains(Flags::REDELIVERED);
                        if is_old && !redelivered {
                            continue;
                        }
                        self.last.insert(key, position);
                        let subscription = matched.subscription_id;
                        let generation = matched.generation;
                        self.handed.push(Handed { subscription, generation, position, redelivered });
                    }
                    self.processed.push_back(delivery.cursor.to_string());
                }
                Frame::Progress(progress) => {
                    self.progress = Some((progress.positions[0].1, progress.catching_up));
                    if progress.catching_up == 0 {
                        let cursor = Cursor::decode(progress.cursor.as_str()).expect("the hub's own");
                        let place = cursor.places.values().next().expect("one partition");
                        self.claims.push((progress.positions[0].1, place.known));
                    }
                    if !progress.positions[0].1.is_boundary() {
                        self.broken = Some("progress that is no boundary".into());
                    }
                    self.processed.push_back(progress.cursor.to_string());
                }
                Frame::Resync(resync) => {
                    let subscriptions = resync.scopes.is_some().then_some(resync.subscription_ids);
                    self.lost.push(Lost { subscriptions, from: resync.from, to: resync.to, reason: resync.reason });
                    self.processed.push_back(resync.cursor.to_string());
                }
                Frame::Closed(closed) => {
                    if closed.reason == CloseReason::Rewound {
                        // What it holds says nothing any more.
                        self.acked = None;
                        self.processed.clear();
                    }
                    self.connection = None;
                    return true;
                }
            }
        }
        false
    }

    /// The application acks some of what it has processed; the cursor to send.
    pub(super) fn ack(&mut self, count: usize) -> Option<String> {
        let count = count.min(self.processed.len());
        if let Some(cursor) = self.processed.drain(..count).next_back() {
            if cursor != self.welcome {
                self.forgotten_by = None;
            }
            self.acked = Some(cursor);
        }
        // Said again where there is nothing new: it may have been lost, and the hub waits for it.
        self.acked.clone()
    }

    fn check_told(&mut self, frame: &Frame) {
        let Some(connection) = &mut self.connection else { return };
        match frame {
            Frame::Resync(resync) if resync.reason == ResyncReason::Forgotten => connection.told = true,
            Frame::Change(_) | Frame::Progress(_) | Frame::Resync(_) if !connection.told => {
                let cursor = frame.cursor().and_then(|text| Cursor::decode(text.as_str()).ok()).expect("the hub's own");
                if self.forgotten_by == Some(cursor.incarnation) {
                    self.broken = Some(format!("nobody said that its cursor is forgotten before {frame:?}"));
                }
            }
            _ => {}
        }
    }
}
