//! The demo writer of `streamer dev`: people writing and liking messages.
//!
//! Owns a small world in which everything that a filter can ask about happens: inserts, updates with
//! what was before, some deletes. The same seed makes the same world.

use std::sync::Arc;
use std::time::Duration;

use bson::{DateTime, RawDocumentBuf, rawdoc};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;

use super::{EventLog, Publication};
use crate::change::Operation;
use crate::clock::{Clock, every};
use crate::tasks::{Kind, Tasks};

/// Whose changes the demo writes.
const TENANT: &str = "demo";
const COLLECTION: &str = "messages";
/// Past this the oldest message is deleted before a new one is written.
const LIVE_MESSAGES_MAX: usize = 200;
/// Writes are bundled to at most so many wake-ups a second.
const WAKE_UPS_PER_SECOND: f64 = 20.0;

const CHATS: [&str; 5] = ["general", "random", "rust", "lunch", "music"];
const AUTHORS: [&str; 6] = ["ada", "grace", "linus", "margaret", "dennis", "radia"];
const OPENINGS: [&str; 6] = [
    "Has anyone seen",
    "I just finished",
    "Tomorrow we try",
    "Nobody told me about",
    "Remember",
    "I cannot stop thinking about",
];
const SUBJECTS: [&str; 8] = [
    "the new coffee machine",
    "the talk on consistent hashing",
    "a bug that only shows on Fridays",
    "the soup place round the corner",
    "that old tape drive",
    "the release notes",
    "a proof in two lines",
    "the bridge in the fog",
];

/// How the demo writes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DemoConfig {
    /// Changes a second, on average; not more than zero means none at all.
    pub rate_per_second: f64,
    /// The same seed makes the same changes; it is part of every key.
    pub seed: u64,
}

struct Message {
    key: String,
    chat: &'static str,
    author: &'static str,
    text: String,
    stars: i32,
    at: DateTime,
}

impl Message {
    fn document(&self) -> RawDocumentBuf {
        rawdoc! {
            "chatId": self.chat, "author": self.author, "stars": self.stars, "text": self.text.as_str(), "at": self.at
        }
    }

    fn publication(&self, operation: Operation, before: Option<RawDocumentBuf>) -> Publication {
        Publication {
            tenant: TENANT.into(),
            collection: COLLECTION.into(),
            key: self.key.as_str().into(),
            operation,
            document: (operation != Operation::Delete).then(|| self.document()),
            before,
        }
    }
}

/// The demo's world.
pub struct Demo {
    seed: u64,
    random: ChaCha8Rng,
    written: u64,
    live: Vec<Message>,
}

impl Demo {
    /// An empty world.
    pub fn new(seed: u64) -> Self {
        Self { seed, random: ChaCha8Rng::seed_from_u64(seed), written: 0, live: Vec::new() }
    }

    /// What happens next, at `now_ms` milliseconds since 1970.
    pub fn next(&mut self, now_ms: i64) -> Publication {
        match self.random.random_range(0..100) {
            _ if self.live.is_empty() => self.write(now_ms),
            _ if self.live.len() > LIVE_MESSAGES_MAX => self.delete(0),
            0..45 => self.write(now_ms),
            45..92 => self.star(),
            _ => {
                let any = self.random.random_range(0..self.live.len());
                self.delete(any)
            }
        }
    }

    fn write(&mut self, now_ms: i64) -> Publication {
        self.written += 1;
        let random = &mut self.random;
        let mut pick = |from: &[&'static str]| *from.choose(random).expect("the lists above are not empty");
        let message = Message {
            key: format!("m-{}-{}", self.seed, self.written),
            chat: pick(&CHATS),
            author: pick(&AUTHORS),
            text: format!("{} {}.", pick(&OPENINGS), pick(&SUBJECTS)),
            stars: 0,
            at: DateTime::from_millis(now_ms),
        };
        let publication = message.publication(Operation::Insert, None);
        self.live.push(message);
        publication
    }

    /// Newer messages are liked more.
    fn star(&mut self) -> Publication {
        let recent = self.live.len().saturating_sub(20);
        let index = self.random.random_range(recent..self.live.len());
        let message = &mut self.live[index];
        let before = message.document();
        message.stars += 1;
        message.publication(Operation::Update, Some(before))
    }

    fn delete(&mut self, index: usize) -> Publication {
        let message = self.live.remove(index);
        message.publication(Operation::Delete, Some(message.document()))
    }

    /// Starts a task that publishes until shutdown or until the log takes no more.
    pub fn start(log: Arc<EventLog>, config: DemoConfig, tasks: &Tasks, clock: Clock) {
        if config.rate_per_second > 0.0 {
            let token = tasks.shutdown_token();
            tasks.spawn(Kind::Demo, "demo writer", publish(log, config, clock, token));
        }
    }
}

async fn publish(log: Arc<EventLog>, config: DemoConfig, clock: Clock, shutdown: CancellationToken) {
    let mut demo = Demo::new(config.seed);
    let wake_ups = config.rate_per_second.min(WAKE_UPS_PER_SECOND);
    let mut ticks = every(Duration::from_secs_f64((1.0 / wake_ups).min(3600.0)));
    let mut due = 0.0;
    loop {
        // Both are cancel-safe.
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        due += config.rate_per_second / wake_ups;
        let now_ms = clock.wall().timestamp_millis();
        // What is due at once is one call, and so has an order of its own in the log.
        let mut changes = Vec::new();
        while due >= 1.0 {
            due -= 1.0;
            changes.push(demo.next(now_ms));
        }
        if let Err(error) = log.publish(changes).await {
            tracing::info!(%error, "the demo writer ends");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_same_seed_makes_the_same_world() {
        let world = |seed| {
            let mut demo = Demo::new(seed);
            (0..500).map(|n| demo.next(n)).collect::<Vec<_>>()
        };
        assert_eq!(world(7), world(7));
        assert_ne!(world(7), world(8));
    }

    #[test]
    fn the_world_is_consistent_and_varied() {
        let mut demo = Demo::new(1);
        let mut documents: HashMap<Box<str>, RawDocumentBuf> = HashMap::new();
        let mut seen: HashMap<Operation, u32> = HashMap::new();
        for n in 0..20_000 {
            let p = demo.next(n);
            *seen.entry(p.operation).or_default() += 1;
            assert_eq!(p.before, documents.remove(&p.key), "before is what was there");
            if let Some(document) = p.document {
                documents.insert(p.key, document);
            }
        }
        assert!(documents.len() <= LIVE_MESSAGES_MAX + 1);
        assert!(seen[&Operation::Insert] > 5_000 && seen[&Operation::Update] > 5_000);
        assert!(seen[&Operation::Delete] > 500);
    }
}
