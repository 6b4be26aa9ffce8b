//! How long messages take from the queue to the transport, and from there to their ack.
//!
//! Owns the measuring: of each session one message at a time is followed, so that it costs next to nothing however many
//! there are; and besides those that traces are told of. Knows nothing of what is in them.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use metrics::{Histogram, histogram};

use crate::clock::{Clock, Instant};
use crate::observe::metrics as names;
use crate::observe::trace::{Part, Tracer, tracer};
use crate::position::{PartitionId, Position};
use crate::subscription::GatewayId;

/// What a partition's outboxes share.
pub(super) struct Latency {
    clock: Clock,
    sent: Histogram,
    acked: Histogram,
    tracer: Option<Tracer>,
    partition: String,
}

impl std::fmt::Debug for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Latency")
    }
}

impl Latency {
    pub(super) fn new(clock: Clock, partition: &PartitionId) -> Self {
        let partition = partition.to_string();
        Self {
            clock,
            sent: histogram!(names::LATENCY_SENT, "partition" => partition.clone()),
            acked: histogram!(names::LATENCY_ACKED, "partition" => partition.clone()),
            tracer: tracer(),
            partition,
        }
    }

    fn wall(&self, at: Instant) -> DateTime<Utc> {
        self.clock.wall() - self.clock.now().since(at)
    }
}

/// Messages of a session that traces are told of, until they are acked.
#[derive(Debug, Default)]
pub(super) struct Traced(VecDeque<Delivery>);

#[derive(Debug)]
struct Delivery {
    position: Position,
    queued: Instant,
    sent: Option<(u64, Instant)>,
}

/// More are not waited for: who acks late is not told of in full.
const TRACED_MAX: usize = 64;

impl Traced {
    /// A change is put into the queue.
    pub(super) fn queued(&mut self, latency: &Latency, position: Position) {
        if latency.tracer.as_ref().is_some_and(|tracer| tracer.follows(position)) {
            if self.0.len() == TRACED_MAX {
                self.0.pop_front();
            }
            self.0.push_back(Delivery { position, queued: latency.clock.now(), sent: None });
        }
    }

    /// It is taken, under this serial.
    pub(super) fn taken(&mut self, latency: &Latency, position: Position, serial: u64) {
        let now = || latency.clock.now();
        for one in self.0.iter_mut().filter(|one| one.position == position && one.sent.is_none()) {
            one.sent = Some((serial, now()));
        }
    }

    /// Everything up to this serial has been acked.
    pub(super) fn acked(&mut self, latency: &Latency, gateway: &GatewayId, up_to: u64) {
        let Some(tracer) = &latency.tracer else { return };
        self.0.retain(|one| {
            let Some((_, sent)) = one.sent.filter(|(serial, _)| *serial <= up_to) else { return true };
            let (queued, sent, acked) = (latency.wall(one.queued), latency.wall(sent), latency.clock.wall());
            let parts = [
                Part { name: "queue", metric: names::LATENCY_SENT, from: queued, to: sent },
                Part { name: "ack", metric: names::LATENCY_ACKED, from: sent, to: acked },
            ];
            tracer.delivery(one.position, &latency.partition, gateway.as_str(), &parts);
            false
        });
    }

    /// What was in the queue is gone.
    pub(super) fn cut(&mut self) {
        self.0.retain(|one| one.sent.is_some());
    }
}

/// The message of a session that is followed, if one is.
#[derive(Debug, Default)]
pub(super) enum Followed {
    #[default]
    Nobody,
    /// So many are before it in the queue.
    Queued { before: usize, since: Instant },
    /// It has been taken, under this serial.
    Sent { serial: u64, since: Instant },
}

impl Followed {
    /// A message is put into the queue behind so many.
    pub(super) fn queued(&mut self, latency: &Latency, before: usize) {
        if matches!(self, Self::Nobody) {
            *self = Self::Queued { before, since: latency.clock.now() };
        }
    }

    /// The first of the queue is taken, under this serial if it is a message.
    pub(super) fn taken(&mut self, latency: &Latency, serial: u64) {
        match self {
            Self::Queued { before: 0, since } => {
                let now = latency.clock.now();
                latency.sent.record(now.since(*since));
                *self = Self::Sent { serial, since: now };
            }
            Self::Queued { before, .. } => *before -= 1,
            Self::Nobody | Self::Sent { .. } => {}
        }
    }

    /// Everything up to this serial has been acked.
    pub(super) fn acked(&mut self, latency: &Latency, up_to: u64) {
        if let Self::Sent { serial, since } = self
            && *serial <= up_to
        {
            latency.acked.record(latency.clock.now().since(*since));
            *self = Self::Nobody;
        }
    }

    /// What was in the queue is gone.
    pub(super) fn cut(&mut self) {
        if matches!(self, Self::Queued { .. }) {
            *self = Self::Nobody;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn one_message_is_followed_to_its_ack_and_then_the_next() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let clock = Clock::manual();
        let latency =
            metrics::with_local_recorder(&recorder, || Latency::new(clock.clone(), &PartitionId::new("a", 0)));
        let mut followed = Followed::default();
        // Behind two others; the one behind it is not followed.
        followed.queued(&latency, 2);
        followed.queued(&latency, 3);
        for serial in 1..=4 {
            clock.advance(Duration::from_millis(10));
            followed.taken(&latency, serial);
        }
        followed.acked(&latency, 2);
        clock.advance(Duration::from_millis(100));
        followed.acked(&latency, 3);
        followed.acked(&latency, 4);
        // Cut before it was taken.
        followed.queued(&latency, 0);
        followed.cut();
        followed.taken(&latency, 5);
        followed.acked(&latency, 9);
        let text = handle.render();
        for line in [
            "streamer_latency_matched_to_sent_seconds_sum{partition=\"a/0\"} 0.03",
            "streamer_latency_matched_to_sent_seconds_count{partition=\"a/0\"} 1",
            "streamer_latency_sent_to_acked_seconds_sum{partition=\"a/0\"} 0.11",
            "streamer_latency_sent_to_acked_seconds_count{partition=\"a/0\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
