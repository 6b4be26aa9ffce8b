//! The language in which drills are written.
//!
//! Owns what a drill may need, do and expect. What the words mean is done by `course` and `stage`; the
//! drills themselves stand in `catalogue`.

use rand_chacha::ChaCha8Rng;

use super::super::rig::{Line, MongodSize};
use super::consumer::Transport;
use crate::change::ResyncReason;

/// One drill.
pub(super) struct Drill {
    pub(super) name: &'static str,
    /// In one line: what breaks.
    pub(super) does: &'static str,
    /// How long one takes, about, with the rounds it has unless told otherwise.
    pub(super) seconds: u32,
    pub(super) rounds: u32,
    pub(super) scene: Scene,
    /// One round; moments may be drawn.
    pub(super) round: fn(&mut ChaCha8Rng) -> Vec<Step>,
    pub(super) expects: Expects,
    pub(super) sabotage: Sabotage,
}

/// What a drill plays on.
#[derive(Clone, Copy)]
pub(super) struct Scene {
    /// Members of the replica set.
    pub(super) members: usize,
    pub(super) mongod: MongodSize,
    /// Which servers the drill breaks; they must be the drill's own.
    pub(super) breaks: &'static [Server],
    /// How long etcd believes in a hub that says nothing.
    pub(super) lease_seconds: u32,
    /// Which servers the hub reaches by a line that can be cut.
    pub(super) relays: &'static [Server],
    /// Whether the hub keeps little, so that a gateway that does not read is soon far behind.
    pub(super) narrow: bool,
    /// By what the gateways are served, in turns. Where NATS is among them, there is a server of the drill's own.
    pub(super) transports: &'static [Transport],
    /// Messages that NATS keeps for one gateway at most.
    pub(super) subject_messages: u32,
    /// Hubs that share one store.
    pub(super) hubs: usize,
    /// Members of etcd.
    pub(super) etcds: usize,
    /// Gateways, and numbered writes a second, unless it is told otherwise.
    pub(super) gateways: u32,
    pub(super) rate: u32,
}

impl Scene {
    pub(super) const PLAIN: Self = Self {
        members: 1,
        mongod: MongodSize { oplog_mib: 990, cache_gib: 0.5, sync_seconds: 60 },
        breaks: &[],
        lease_seconds: 15,
        relays: &[],
        narrow: false,
        transports: &[Transport::Grpc, Transport::Sse],
        subject_messages: 1_000,
        hubs: 1,
        etcds: 1,
        gateways: 2,
        rate: 500,
    };

    pub(super) fn has_nats(&self) -> bool {
        self.transports.contains(&Transport::Nats)
    }
}

/// Who can be broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Server {
    /// Where there are several, the one that was aimed at.
    Hub,
    /// Where there are several, the primary; or the one that has just stepped down, if it is to be killed.
    Mongod,
    Etcd,
    Nats,
}

/// What happens, one after the other, while numbered writes go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, for at least so many milliseconds, and less than so many.
    Wait(u64, u64),
    /// SIGKILL.
    Kill(Server),
    /// A server that was killed begins again on its data.
    Start(Server),
    /// SIGSTOP.
    Freeze(Server),
    /// SIGCONT.
    Thaw(Server),
    /// The line to a server that is reached by one.
    Line(Server, Line),
    /// From now on `Hub`, and a line, is that of the node that owns the partition now.
    Aim,
    /// Each hub in turn ends in order, begins again and is waited for.
    Roll,
    /// The hub is waited for until it says that it is ready.
    Ready,
    /// For so many milliseconds nobody gets any further: or else what should be broken is not.
    Still(u64),
    /// Everything that has been written so far is waited for, until every gateway has taken it.
    Recovered,
    /// The same for all but the gateway that is stalled.
    OthersGoOn,
    /// The same for all that are not served by NATS.
    StreamsGoOn,
    /// Writing pauses once everything written has been taken.
    Calm,
    /// Writing goes on. From `Calm` on things may be lost, if the drill loses any.
    Resume,
    /// The primary is told to step down, and another is elected.
    Elect,
    /// Writes that only the primary has are undone by the others' election.
    RollBack,
    /// The oplog is filled until what was written so far has left it.
    RollOplog,
    /// Every revision of etcd but the last is given up.
    Compact,
    /// Something that the writer does not do by itself.
    Write(Odd),
    /// The hub is killed while a great transaction is being handed over.
    KillInTransaction,
    /// The hub's next start is with another definition of what it watches.
    Redefine,
    /// The hub's next start is under another node's name, so that it must wait for the lease.
    Rename,
    /// The gateway of this number reads nothing any more; from 0, and by the round.
    Stall,
    /// It reads again.
    ReadOn,
    /// What NATS has stored now is put aside,
    BackUp,
    /// and it has stored nothing else. Only while it does not run.
    Restore,
    /// NATS has stored nothing any more. Only while it does not run.
    LoseStorage,
    /// The stream takes nothing more, from anybody; or does again.
    Fill(bool),
    /// NATS lets the hub in no more; or does again.
    Revoke(bool),
}

/// What is written, or done to the collection, beside the numbered writes that go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Odd {
    /// Images are recorded, or not.
    Images(bool),
    /// The watched collection is dropped and made anew.
    Drop,
    /// Another collection is renamed onto the watched one.
    RenameOnto,
    /// A document whose body is none.
    Undecodable,
    /// A document too large for its change to be shown whole.
    Oversize,
}

/// What must come of it, beside everything that was written.
#[derive(Clone, Copy, Default)]
pub(super) struct Expects {
    /// What each subscription is told in each round, each once.
    pub(super) resyncs: &'static [ResyncReason],
    /// Whether something must be lost between `Calm` and the next `Recovered`, and is said to be.
    pub(super) loses: bool,
    /// A flag that some deliveries must carry: without it the fault was none.
    pub(super) flag: Option<&'static str>,
    /// Whether each round raises the epoch, so that things may come again and say so.
    pub(super) epoch_rises: bool,
    /// Whether a change may be told to subscriptions that might not want it, if it says so: its body had to be left
    /// out, and nobody could look into it.
    pub(super) broadcasts: bool,
    /// Whether gateways must have lost their sessions and come back.
    pub(super) reconnects: bool,
    /// Whether something may come again, if it says that it does.
    pub(super) redelivers: bool,
}

impl Expects {
    /// Everything that was written, and nothing else.
    pub(super) const ALL: Self = Self {
        resyncs: &[],
        loses: false,
        flag: None,
        epoch_rises: false,
        broadcasts: false,
        reconnects: false,
        redelivers: false,
    };
}

/// How the drill is made to fail, and how it must show.
#[derive(Clone, Copy)]
pub(super) struct Sabotage {
    pub(super) how: How,
    /// In one line: what goes wrong then.
    pub(super) does: &'static str,
    pub(super) shows: Symptom,
}

#[derive(Clone, Copy)]
pub(super) enum How {
    /// The hub makes this mistake (`streamer serve --sabotage`).
    Hub(&'static str),
    /// The other members hear of the writes that should be undone.
    KeepWrites,
}

/// A count that is not zero when the drill has noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Symptom {
    Lost,
    Unexpected,
    MissingResyncs,
}
