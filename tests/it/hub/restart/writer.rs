//! Numbered writes, most of them many at once.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::{Client, Collection};
use streamer::change::Change;
use tokio::sync::watch;

use crate::hub::site::{Site, document};

/// Documents of one transaction or batch: several messages to a gateway.
const AT_ONCE: i64 = 400;

/// Between rounds: the test is about where a hub is cut off, not about how much it can carry.
const PAUSE: Duration = Duration::from_millis(300);

/// Writes one thing after the other; each document carries its number and how many more were written
/// with it.
pub(super) struct Writer {
    client: Client,
    documents: Collection<Document>,
    next: i64,
}

/// The number of a write.
pub(super) fn number_of(change: &Change) -> i64 {
    let body = change.document.as_ref().expect("every write leaves a document");
    body.get_i64("n").unwrap()
}

fn body(number: i64, left: i64) -> Document {
    doc! { "n": number, "odd": number % 2, "left": left, "text": "x".repeat(900) }
}

impl Writer {
    pub(super) fn new(site: &Site) -> Self {
        Self { client: site.client.clone(), documents: site.documents(), next: 0 }
    }

    /// Until told to stop. Returns how much was written.
    pub(super) async fn run(mut self, stopped: watch::Receiver<bool>) -> usize {
        while !*stopped.borrow() {
            let first = self.next;
            self.insert_many().await;
            self.transact(first).await;
            for _ in 0..20 {
                let number = self.take();
                self.documents.insert_one(made(number, 0)).await.unwrap();
            }
            tokio::time::sleep(PAUSE).await;
        }
        usize::try_from(self.next).unwrap()
    }

    async fn insert_many(&mut self) {
        let documents: Vec<_> = (0..AT_ONCE).rev().map(|left| made(self.take(), left)).collect();
        self.documents.insert_many(documents).await.unwrap();
    }

    /// Inserts, and updates of what was inserted from number `first` on.
    async fn transact(&mut self, first: i64) {
        let mut session = self.client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let updates = 30;
        let inserts: Vec<_> = (updates..AT_ONCE).rev().map(|left| made(self.take(), left)).collect();
        self.documents.insert_many(inserts).session(&mut session).await.unwrap();
        for left in (0..updates).rev() {
            let fresh = body(self.take(), left);
            let change = doc! { "$set": { "data": fresh } };
            let which = doc! { "_id": format!("acme:{}", first + left) };
            let updated = self.documents.update_one(which, change).session(&mut session).await.unwrap();
            assert_eq!(updated.modified_count, 1);
        }
        session.commit_transaction().await.unwrap();
    }

    fn take(&mut self) -> i64 {
        self.next += 1;
        self.next - 1
    }
}

fn made(number: i64, left: i64) -> Document {
    document("acme", "messages", &number.to_string(), body(number, left))
}
