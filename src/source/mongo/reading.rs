//! One reading: from the server's answers to batches of numbered events.
//!
//! Owns the loop of a reading's task: it takes answers, decodes, looks up what was not recorded, hands
//! batches over, and opens the stream anew after an error that allows it. Always by cluster time and
//! counting, so that an ordinal is the same after any number of openings.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bson::{Document, RawDocument, RawDocumentBuf};
use mongodb::raw_batch_cursor::RawBatch;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Shared;
use super::decode::{Decoded, Decoder, Waiting};
use super::describe::describe;
use super::errors::{self, Failure};
use super::event::{Kind, Namespace, RawEvent};
use super::feed::{self, BATCH_CHANGES, Feed};
use super::heartbeat::HEARTBEATS;
use super::mistakes::{Mistake, PAUSE, SILENCE};
use super::pipeline::{self, Level, Start};
use super::segment::{Item, Segment};
use super::sequence::Sequence;
use crate::change::{Flags, ResyncReason, Scope};
use crate::limits;
use crate::position::{Epoch, Position};
use crate::source::{Batch, Event, Gap, SourceError};

/// How often an event of which nothing can be had is asked for, for a connection may have been cut by something else.
const BARE_TRIES: usize = 5;
/// Answers without an event after which there is none.
const ANSWERS_TO_LOOK: usize = 8;
/// However much the server has to look through.
const PATIENCE_MAX: Duration = Duration::from_secs(3_600);
/// Smaller tokens fit into an answer beside whatever an event can hold: the server allows 16 KB over a document's size.
const LARGE_TOKEN_BYTES: usize = 4 << 10;

/// Why a step of a reading did not end well.
pub(super) enum Stop {
    /// Nobody takes its batches any more.
    Unwanted,
    /// An error.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Which stages close the pipeline.
#[derive(Clone, Copy)]
enum Form {
    /// Events with their images, as far as the guard lets them be.
    Full,
    /// Events without, to step over one that is too large.
    Narrow,
    /// Nothing of an event but what it is and where.
    Bare,
}

/// Where it stands when it is read one by one.
struct Walk {
    from: Start,
    /// Whether it has moved since last looked.
    moved: bool,
}

impl Walk {
    fn on(&mut self, to: Start) {
        (self.from, self.moved) = (to, true);
    }
}

/// One reading.
pub(super) struct Reader {
    shared: Arc<Shared>,
    out: mpsc::Sender<Result<Batch, SourceError>>,
    decoder: Decoder,
    sequence: Sequence,
    segment: Segment,
    /// The last position that was handed over at which there was a change.
    witness: Option<Position>,
    /// Where it stood when the stream was last opened.
    opened_at: Position,
    /// How long an answer may take.
    patience: Duration,
}

impl Reader {
    /// A reading of everything after `after`.
    pub(super) fn new(
        shared: Arc<Shared>,
        out: mpsc::Sender<Result<Batch, SourceError>>,
        epoch: Epoch,
        after: Position,
    ) -> Self {
        let decoder = Decoder::new(shared.layout.clone());
        let sequence = Sequence::new(epoch, after);
        let patience = shared.patience;
        Self { shared, out, decoder, sequence, segment: Segment::default(), witness: None, opened_at: after, patience }
    }

    /// Opens the stream where the reading stands.
    pub(super) async fn open(&mut self) -> Result<Feed, Failure> {
        self.begin_anew();
        if self.shared.makes(Mistake::ResumeAtPresent) && self.shared.stumbled.load(Ordering::Relaxed) {
            self.leap().await?;
            self.shared.stumbled.store(false, Ordering::Relaxed);
        }
        if let Some(witness) = self.witness.filter(|witness| *witness != self.sequence.reached()) {
            self.prove(witness).await?;
        }
        let from = Start::Time(self.sequence.reached().time);
        match self.open_at(&from, Form::Full, BATCH_CHANGES).await {
            Err(Failure::HistoryLost(_)) if self.shared.makes(Mistake::SwallowLoss) => {
                self.leap().await?;
                let from = Start::Time(self.sequence.reached().time);
                self.open_at(&from, Form::Full, BATCH_CHANGES).await
            }
            opened => opened,
        }
    }

    /// Looks whether the history has a change at this position. A boundary at which a reading begins proves nothing:
    /// the clock of a deployment that was restored from a backup has run on since.
    pub(super) async fn prove(&self, witness: Position) -> Result<(), Failure> {
        let mut sequence = Sequence::new(witness.epoch, witness);
        let from = Start::Time(witness.time);
        let mut feed = match self.open_at(&from, Form::Bare, BATCH_CHANGES).await {
            // Older than the oplog, or not to be had at all: nothing can be said.
            Err(Failure::HistoryLost(_) | Failure::Oversize(_)) => return Ok(()),
            opened => opened?,
        };
        while !sequence.is_proven() {
            let answer = match self.answer(&mut feed).await {
                Err(Failure::HistoryLost(_) | Failure::Oversize(_) | Failure::Cut(_)) => return Ok(()),
                answer => answer?,
            };
            for event in events(&answer)? {
                let event = RawEvent::read(event?);
                if let Some(time) = event.cluster_time.filter(|_| event.is_change()) {
                    sequence.change(time)?;
                }
            }
            if let Some(time) = feed::read_up_to(answer.as_raw_document()) {
                sequence.show(time)?;
            }
        }
        Ok(())
    }

    /// Two of the deliberate mistakes: once the server answers, whatever has not been read is left behind.
    async fn leap(&mut self) -> Result<(), Failure> {
        let asked = async || describe(&self.shared).await.map_err(|error| Failure::Passing(error.to_string()));
        asked().await?;
        tokio::time::sleep(PAUSE).await;
        let Position { epoch, .. } = self.sequence.reached();
        self.sequence = Sequence::new(epoch, Position::boundary(epoch, asked().await?.now.next()));
        Ok(())
    }

    /// Reads until nobody wants it or it cannot go on.
    pub(super) async fn run(mut self, first: Result<Feed, Failure>) {
        let mut opened = first.map_err(Stop::Failed);
        // A connection that ends before anything has come is looked into once: there may be an answer that the
        // server cannot send, for which it has no error.
        let mut may_look = true;
        loop {
            let stop = match opened {
                Ok(mut feed) => self.follow(&mut feed).await,
                Err(stop) => stop,
            };
            let failure = match stop {
                Stop::Unwanted => return,
                Stop::Failed(failure) => failure,
            };
            if !matches!(failure, Failure::Oversize(_) | Failure::Invalidated(_)) {
                self.shared.stumbled.store(true, Ordering::Relaxed);
            }
            opened = match failure {
                Failure::Oversize(_) => self.step_over().await,
                Failure::Cut(_) if may_look && !self.has_progressed() => {
                    may_look = false;
                    self.step_over().await
                }
                // A new connection is tried. If there is nothing wrong with the old one, it takes its time.
                Failure::Silent(_) if self.out.is_closed() => return,
                Failure::Silent(waited) => {
                    tracing::warn!(position = %self.sequence.reached(), ?waited, "no answer: opening the change stream again");
                    self.patience = (self.patience * 2).min(PATIENCE_MAX);
                    self.open().await.map_err(Stop::Failed)
                }
                Failure::Invalidated(token) => {
                    let from = Start::Invalidated(token);
                    self.open_at(&from, Form::Full, BATCH_CHANGES).await.map_err(Stop::Failed)
                }
                // Once at once; if that fails before anything has come of it, the caller decides when.
                Failure::Passing(text) | Failure::Cut(text) if self.has_progressed() => {
                    may_look = true;
                    tracing::info!(position = %self.sequence.reached(), reason = text, "opening the change stream again");
                    self.open().await.map_err(Stop::Failed)
                }
                failure => {
                    // Its taker may be gone; there is nobody else to tell.
                    let _ = self.out.send(Err(failure.into_source_error())).await;
                    return;
                }
            };
        }
    }

    async fn follow(&mut self, feed: &mut Feed) -> Stop {
        loop {
            if self.out.is_closed() {
                return Stop::Unwanted;
            }
            let answer = match self.answer(feed).await {
                Ok(answer) => answer,
                Err(failure) => return Stop::Failed(failure),
            };
            if let Err(stop) = self.take(&answer).await {
                return stop;
            }
        }
    }

    /// The next answer, if it comes in time.
    async fn answer(&self, feed: &mut Feed) -> Result<RawBatch, Failure> {
        if self.shared.makes(Mistake::ResumeAtPresent) {
            let silent = |_| Err(Failure::Passing("MongoDB: it says nothing".into()));
            return timeout(SILENCE, feed.next()).await.unwrap_or_else(silent);
        }
        timeout(self.patience, feed.next()).await.unwrap_or_else(|_| {
            feed.abandon();
            Err(Failure::Silent(self.patience))
        })
    }

    /// Deals with one answer of the server, to the end.
    async fn take(&mut self, answer: &RawBatch) -> Result<(), Stop> {
        for event in events(answer)? {
            match self.accept(event?, Decoder::change) {
                Ok(()) => {}
                // It is the last one; those before it are good.
                Err(failure @ Failure::Invalidated(_)) => {
                    self.flush().await?;
                    return Err(failure.into());
                }
                Err(failure) => return Err(failure.into()),
            }
            if self.segment.is_full() {
                self.flush().await?;
            }
        }
        if let Some(time) = feed::read_up_to(answer.as_raw_document()) {
            self.sequence.show(time)?;
        }
        self.flush().await?;
        self.patience = self.shared.patience;
        Ok(())
    }

    /// Numbers an event and adds what it tells to the segment.
    fn accept(
        &mut self,
        raw: &RawDocument,
        decode: impl FnOnce(&mut Decoder, &RawEvent<'_>, Position) -> Decoded,
    ) -> Result<(), Failure> {
        let event = RawEvent::read(raw);
        let no_time = || Failure::Misconfigured("MongoDB: a change event has no cluster time".into());
        let time = event.cluster_time.ok_or_else(no_time)?;
        if let (Kind::Invalidate, Some(token)) = (event.kind, event.token) {
            let unreadable = |_| Failure::Misconfigured("MongoDB: a resume token cannot be read".into());
            return Err(Failure::Invalidated(Document::try_from(token).map_err(unreadable)?));
        }
        if !event.is_change() {
            return match self.sequence.other(time)? {
                Some(position) => self.tell_of_namespaces(&event, position),
                None => Ok(()),
            };
        }
        let Some(position) = self.sequence.change(time)? else { return Ok(()) };
        match decode(&mut self.decoder, &event, position) {
            Decoded::Change(change)
                if change.flags.contains(Flags::REDUCED) && self.shared.makes(Mistake::SkipReduced) => {}
            Decoded::Change(change) => self.segment.push(Item::Event(Event::Change(Arc::new(change)))),
            Decoded::Gap(_) if self.shared.makes(Mistake::SwallowGaps) => {}
            Decoded::Gap(gap) => self.segment.push(Item::Event(Event::Resync(gap))),
            Decoded::LookUp if self.shared.makes(Mistake::SkipLookUps) => {}
            Decoded::LookUp => self.segment.push(Item::Waiting(Waiting { position, event: raw.to_owned() })),
            Decoded::Nothing => {}
        }
        Ok(())
    }

    /// Drops and renames: what was there is gone, what is there now is another.
    fn tell_of_namespaces(&mut self, event: &RawEvent<'_>, position: Position) -> Result<(), Failure> {
        if self.shared.makes(Mistake::SwallowGaps) {
            return Ok(());
        }
        let mut told: Option<Scope> = None;
        let mut tell = |this: &mut Self, ns: Namespace<'_>, reason| {
            let scope = this.decoder.scope_of_namespace(ns.coll);
            // Where the scope cannot tell the two names apart, one word is enough.
            if told.as_ref() != Some(&scope) {
                this.segment.push(Item::Event(Event::Resync(Gap { position, scope: scope.clone(), reason })));
                told = Some(scope);
            }
        };
        let watched =
            |this: &Self, ns: Namespace<'_>| ns.coll != HEARTBEATS && this.shared.watched.covers(ns.db, ns.coll);
        match event.kind {
            Kind::Drop if watched(self, event.ns) => tell(self, event.ns, ResyncReason::Invalidated),
            Kind::Rename => {
                if watched(self, event.to) {
                    tell(self, event.to, ResyncReason::Replaced);
                }
                if watched(self, event.ns) {
                    tell(self, event.ns, ResyncReason::Invalidated);
                }
            }
            // Each collection of a dropped database has had its own drop before.
            _ => {}
        }
        Ok(())
    }

    /// Hands over what the segment holds, and how far the stream has been shown.
    async fn flush(&mut self) -> Result<(), Stop> {
        let items = self.segment.take();
        let resolving = items.resolve(&self.shared.client, &mut self.decoder);
        let events = timeout(self.patience, resolving).await.map_err(|_| Failure::Silent(self.patience))??;
        let mut batch = Batch::default();
        let mut bytes = 0;
        for event in events {
            let size = super::segment::size_of_event(&event);
            let full =
                batch.events.len() >= limits::source_batch_changes_max || bytes + size > limits::source_batch_bytes_max;
            // What one event told stays together.
            if full && batch.events.last().is_some_and(|last| last.position() < event.position()) {
                let ended = std::mem::take(&mut batch);
                let reached = ended.events.last().map(Event::position).unwrap_or_default().max(self.sequence.reached());
                self.hand_over(Batch { reached, ..ended }).await?;
                bytes = 0;
            }
            bytes += size;
            batch.events.push(event);
        }
        batch.reached = self.sequence.reach(batch.events.last().map(Event::position));
        if batch.events.is_empty() && batch.reached == self.sequence.reached() {
            return Ok(());
        }
        self.hand_over(batch).await
    }

    async fn hand_over(&mut self, batch: Batch) -> Result<(), Stop> {
        let reached = batch.reached;
        self.witness = batch.witness().or(self.witness);
        self.out.send(Ok(batch)).await.map_err(|_| Stop::Unwanted)?;
        self.sequence.hand_over(reached);
        Ok(())
    }

    /// Gets past an event that the server cannot hand out: one by one up to it, then that one without
    /// its images, then on from its token, for a start at its time would meet it again.
    async fn step_over(&mut self) -> Result<Feed, Stop> {
        self.begin_anew();
        let mut walk = Walk { from: Start::Time(self.sequence.reached().time), moved: false };
        loop {
            walk.moved = false;
            if let Some(met) = self.approach(&mut walk).await? {
                self.tell_what_can_be_had(&mut walk, met).await?;
            }
            match self.open_at(&walk.from, Form::Full, BATCH_CHANGES).await {
                Err(Failure::Oversize(_)) => {}
                // The next one may be of the kind.
                Err(Failure::Cut(_)) if walk.moved => {}
                opened => return opened.map_err(Stop::Failed),
            }
        }
    }

    /// Reads one by one. What was met where an event cannot be had, or may be one that cannot.
    async fn approach(&mut self, walk: &mut Walk) -> Result<Option<Failure>, Stop> {
        let met = |failure| match failure {
            Failure::Oversize(_) | Failure::Cut(_) => Ok(Some(failure)),
            failure => Err(Stop::Failed(failure)),
        };
        let mut feed = match self.open_at(&walk.from, Form::Full, 1).await {
            Ok(feed) => feed,
            Err(failure) => return met(failure),
        };
        let mut looks = 0;
        for _ in 0..=BATCH_CHANGES {
            let answer = match self.answer(&mut feed).await {
                Ok(answer) => answer,
                Err(failure) => return met(failure),
            };
            match self.take(&answer).await {
                // The end of a dropped database's stream lies on the way, and no time leads behind it: what lies there
                // has to be met now.
                Err(Stop::Failed(Failure::Invalidated(token))) => {
                    walk.on(Start::Invalidated(token));
                    feed = match self.open_at(&walk.from, Form::Full, 1).await {
                        Ok(feed) => feed,
                        Err(failure) => return met(failure),
                    };
                    looks = ANSWERS_TO_LOOK;
                    continue;
                }
                taken => taken?,
            }
            match last_token(&answer)? {
                Some(token) => {
                    walk.on(Start::Token(token));
                    looks = 0;
                }
                None if looks > 0 => looks -= 1,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Tells the one event ahead by what the server can hand out of it, and moves behind it. One of which not even
    /// the resume token can be had, for it holds the document's `_id`, ends what can be read: history is lost there
    /// for whoever comes to it.
    async fn tell_what_can_be_had(&mut self, walk: &mut Walk, met: Failure) -> Result<(), Stop> {
        // Of one that was refused it is known that it is there.
        let is_refused = matches!(met, Failure::Oversize(_));
        if is_refused {
            match self.next_event(&walk.from, Form::Narrow).await {
                Ok(Some(event)) => return self.tell(&event, walk).await,
                Ok(None) => return Ok(()),
                Err(Stop::Failed(Failure::Oversize(_) | Failure::Cut(_))) => {}
                Err(stop) => return Err(stop),
            }
        }
        for _ in 0..BARE_TRIES {
            match self.next_event(&walk.from, Form::Bare).await {
                Ok(Some(event)) if is_refused || has_large_token(&event) => return self.tell(&event, walk).await,
                Ok(_) => return Err(met.into()),
                Err(Stop::Failed(Failure::Oversize(_) | Failure::Cut(_))) => {}
                Err(stop) => return Err(stop),
            }
            // A network that is broken would not let this through, or not each time.
            let asked = describe(&self.shared).await;
            asked.map_err(|error| Failure::Passing(error.to_string()))?;
        }
        let detail = "MongoDB cannot hand out the next change in any form: its `_id` is too large";
        Err(Failure::HistoryLost(detail.into()).into())
    }

    /// The event after `from` in this form, if it is there already.
    async fn next_event(&mut self, from: &Start, form: Form) -> Result<Option<RawDocumentBuf>, Stop> {
        let mut feed = self.open_at(from, form, 1).await?;
        // The first answer need not have come to it.
        for _ in 0..ANSWERS_TO_LOOK {
            if let Some(event) = events(&self.answer(&mut feed).await?)?.next() {
                return Ok(Some(event?.to_owned()));
            }
        }
        Ok(None)
    }

    async fn tell(&mut self, event: &RawDocument, walk: &mut Walk) -> Result<(), Stop> {
        self.accept(event, Decoder::oversize)?;
        self.flush().await?;
        if let Some(token) = token_of(event) {
            walk.on(Start::Token(token));
        }
        tracing::warn!(position = %self.sequence.reached(), "stepped over a change too large to be read");
        Ok(())
    }

    fn begin_anew(&mut self) {
        self.sequence.restart();
        self.segment = Segment::default();
        self.opened_at = self.sequence.reached();
    }

    /// Whether anything has come of the stream since it was last opened. What was read again does not count.
    fn has_progressed(&self) -> bool {
        self.sequence.reached() > self.opened_at
    }

    /// Opens on the deployment, or where the user may not, on the database.
    async fn open_at(&self, from: &Start, form: Form, batch_changes: u32) -> Result<Feed, Failure> {
        let opened = self.open_on(self.shared.level(), from, form, batch_changes).await;
        match (opened, &self.shared.watched.database) {
            (Err(Failure::Forbidden(_)), Some(_)) if self.shared.level() == Level::Deployment => {
                self.shared.descend();
                self.open_on(Level::Database, from, form, batch_changes).await
            }
            (opened, _) => opened,
        }
    }

    async fn open_on(&self, level: Level, from: &Start, form: Form, batch_changes: u32) -> Result<Feed, Failure> {
        let shared = &self.shared;
        let mut stages = vec![pipeline::open_stage(from, level), shared.watched.match_stage(level)];
        stages.extend(match form {
            Form::Full => pipeline::guard_stages(&shared.layout, shared.image_bytes_max),
            Form::Narrow => pipeline::narrow_stages(&shared.layout),
            Form::Bare => pipeline::bare_stages(),
        });
        let database = match (level, &shared.watched.database) {
            (Level::Database, Some(database)) => shared.client.database(database),
            _ => shared.client.database("admin"),
        };
        let opening = Feed::open(&database, &shared.tasks, stages, batch_changes);
        let opened = timeout(self.patience, opening).await.map_err(|_| Failure::Silent(self.patience))?;
        opened.map_err(|error| Failure::of(&error))
    }
}

/// The events of an answer.
fn events(answer: &RawBatch) -> Result<impl Iterator<Item = Result<&RawDocument, Failure>>, Failure> {
    let events = answer.doc_slices().map_err(|error| Failure::Passing(errors::describe(&error)))?;
    let unreadable = || Failure::Passing("MongoDB: an answer cannot be read".into());
    Ok(events.into_iter().map(move |event| event.ok().and_then(|event| event.as_document()).ok_or_else(unreadable)))
}

/// The token of an answer's last event.
fn last_token(answer: &RawBatch) -> Result<Option<Document>, Failure> {
    let Some(event) = events(answer)?.last() else { return Ok(None) };
    Ok(token_of(event?))
}

fn token_of(event: &RawDocument) -> Option<Document> {
    RawEvent::read(event).token.and_then(|token| Document::try_from(token).ok())
}

/// Whether an event's token alone may be why an answer could not be sent: it holds the `_id` in hexadecimal, and
/// stands in the answer once more.
fn has_large_token(event: &RawDocument) -> bool {
    RawEvent::read(event).token.is_some_and(|token| token.as_bytes().len() >= LARGE_TOKEN_BYTES)
}
