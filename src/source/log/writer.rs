//! The one who writes the log.
//!
//! Owns the order of publications, their cluster times and group commit. Readers learn of its
//! progress through `Head` alone.
//!
//! Cluster times must never repeat or go back, not even after a crash with the wall clock set back,
//! and not before a boundary that readers were told of. So the writer keeps a *reservation* on disk:
//! every time that it gives out or announces lies before it, and after a restart it begins there.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::{counter, histogram};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::disk::{Disk, DiskError, Start};
use super::{Head, Place, Publication, PublishError, codec};
use crate::clock::{Clock, every};
use crate::limits;
use crate::observe::metrics;
use crate::position::ClusterTime;

/// How often the boundary moves while nothing is published.
const IDLE_ADVANCE: Duration = Duration::from_millis(200);
/// How far ahead times are reserved: an idle log writes this often, and after a crash times may run
/// this far ahead of the wall clock.
const RESERVE_SECONDS: u32 = 10;

/// What one call wants written.
pub(super) struct Request {
    pub(super) publications: Vec<Publication>,
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<Vec<Place>, PublishError>>,
    /// Its share of the queue, given back when the request is done with.
    pub(super) _room: OwnedSemaphorePermit,
}

/// The wall clock as a cluster time: seconds, and milliseconds as increment.
pub(super) fn wall_time(clock: &Clock) -> ClusterTime {
    let millis = clock.wall().timestamp_millis().max(0);
    let seconds = u32::try_from(millis / 1000).unwrap_or(u32::MAX);
    ClusterTime::new(seconds, (millis % 1000) as u32 + 1)
}

pub(super) struct Writer {
    disk: Arc<Disk>,
    clock: Clock,
    head: watch::Sender<Head>,
    /// The least time that the next publication may get.
    next: ClusterTime,
    reserved: ClusterTime,
}

impl Writer {
    pub(super) fn new(disk: Arc<Disk>, start: Start, head: watch::Sender<Head>, clock: Clock) -> Self {
        Self { disk, clock, head, next: start.reserved, reserved: start.reserved }
    }

    /// Writes until `shutdown`, then what is still queued.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Request>, shutdown: CancellationToken) {
        let mut idle = every(IDLE_ADVANCE);
        let mut closing = false;
        loop {
            // All three are cancel-safe.
            let outcome = tokio::select! {
                biased;
                () = shutdown.cancelled(), if !closing => {
                    closing = true;
                    queue.close();
                    Ok(())
                }
                request = queue.recv() => match request {
                    Some(first) => self.write(gather(first, &mut queue)).await,
                    None => break,
                },
                _ = idle.tick() => self.advance().await,
            };
            if let Err(DiskError(reason)) = outcome {
                // What a failed write left on disk may show up after a restart. Announcing a boundary
                // past it, or writing after it, would then hide it: so nothing moves any more.
                tracing::error!(%reason, "the embedded log cannot be written");
                self.head.send_modify(|head| head.broken = Some(reason));
                return;
            }
        }
        // A clean end gives the rest of the reservation back.
        if let Err(DiskError(reason)) = self
            .on_disk({
                let until = self.next;
                move |disk| disk.reserve(until)
            })
            .await
        {
            tracing::warn!(%reason, "the embedded log's last reservation stays");
        }
    }

    async fn write(&mut self, requests: Vec<Request>) -> Result<(), DiskError> {
        let mut group = codec::start_group();
        let mut places: Vec<Vec<Place>> = Vec::with_capacity(requests.len());
        let wall_ms = self.clock.wall().timestamp_millis();
        let first = self.next.max(wall_time(&self.clock));
        let mut time = first;
        for request in &requests {
            codec::append_batch(&mut group, time, wall_ms, &request.publications);
            let count = u32::try_from(request.publications.len()).expect("a batch is far below 2^32 changes");
            places.push((1..=count).map(|ordinal| (time, ordinal)).collect());
            time = time.next();
        }
        self.next = time;
        let reserve = (time > self.reserved).then(|| ahead(time));
        self.reserved = reserve.unwrap_or(self.reserved);
        let began = self.clock.now();
        let written = self.on_disk(move |disk| disk.append(first, &group, reserve)).await;
        if written.is_ok() {
            histogram!(metrics::LOG_COMMIT_TIME).record(self.clock.now().since(began));
            counter!(metrics::LOG_PUBLISHED).increment(places.iter().map(|places| places.len() as u64).sum());
            // Readers first: whoever is answered can already be read.
            self.head.send_modify(|head| {
                head.written = ClusterTime(time.0 - 1);
                head.boundary = time;
            });
        }
        for (request, places) in requests.into_iter().zip(places) {
            let answer = written.as_ref().map(|()| places).map_err(|error| PublishError::Broken(error.0.clone()));
            // A publisher that no longer waits has still published.
            let _ = request.answer.send(answer);
        }
        written
    }

    /// Tells readers that time has passed. The boundary moves even where the wall clock does not.
    async fn advance(&mut self) -> Result<(), DiskError> {
        let boundary = wall_time(&self.clock).max(self.next.next());
        if boundary > self.reserved {
            let until = ahead(boundary);
            self.on_disk(move |disk| disk.reserve(until)).await?;
            self.reserved = until;
        }
        self.next = boundary;
        self.head.send_modify(|head| head.boundary = boundary);
        Ok(())
    }

    async fn on_disk(
        &self,
        work: impl FnOnce(&Disk) -> Result<(), DiskError> + Send + 'static,
    ) -> Result<(), DiskError> {
        let disk = Arc::clone(&self.disk);
        let done = tokio::task::spawn_blocking(move || work(&disk)).await;
        done.unwrap_or_else(|error| Err(DiskError(error.to_string())))
    }
}

fn ahead(time: ClusterTime) -> ClusterTime {
    ClusterTime::new(time.seconds().saturating_add(RESERVE_SECONDS), 0).max(time)
}

/// Everything that waits, up to the size of one group commit.
fn gather(first: Request, queue: &mut mpsc::Receiver<Request>) -> Vec<Request> {
    let mut bytes = first.bytes;
    let mut requests = vec![first];
    while bytes < limits::log_group_bytes_max
        && let Ok(request) = queue.try_recv()
    {
        bytes += request.bytes;
        requests.push(request);
    }
    requests
}
