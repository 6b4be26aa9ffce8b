//! Random writes: every kind, in batches, some in transactions.

use bson::{Bson, Document, doc};
use mongodb::{Client, ClientSession, Database};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{COLLECTIONS, TENANTS};
use crate::hub::site::document;

/// Statements of one command.
const BATCH: usize = 40;

/// One of several that write at the same time, each to keys of its own.
pub(super) struct Writer {
    pub(super) number: u64,
    random: ChaCha8Rng,
    client: Client,
    database: Database,
    /// `_id`s of documents that are there.
    keys: Vec<String>,
    made: u64,
}

impl Writer {
    pub(super) fn new(seed: u64, number: u64, client: Client, database: &str) -> Self {
        let random = ChaCha8Rng::seed_from_u64(seed ^ (number + 1));
        let database = client.database(database);
        Self { number, random, client, database, keys: Vec::new(), made: 0 }
    }

    /// Writes until so many documents have been written.
    pub(super) async fn run(mut self, count: usize) -> usize {
        let mut written = self.insert(None, 150).await;
        while written < count {
            written += match self.random.random_range(0..10) {
                0 | 1 => self.insert(None, BATCH).await,
                2..=6 => self.update(None, BATCH).await,
                7 => self.delete(None, 25).await,
                _ => self.transact().await,
            };
        }
        written
    }

    async fn transact(&mut self) -> usize {
        let mut session = self.client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let before = self.keys.clone();
        let mut written = 0;
        for _ in 0..self.random.random_range(1..4) {
            let size = self.random.random_range(1..12);
            written += match self.random.random_range(0..4) {
                0 => self.insert(Some(&mut session), size).await,
                1 => self.delete(Some(&mut session), size).await,
                _ => self.update(Some(&mut session), size).await,
            };
        }
        if self.random.random_ratio(1, 8) {
            // What is taken back is never seen.
            session.abort_transaction().await.unwrap();
            self.keys = before;
            return 0;
        }
        session.commit_transaction().await.unwrap();
        written
    }

    async fn command(&self, session: Option<&mut ClientSession>, command: Document) {
        let run = self.database.run_command(command);
        let answer = match session {
            Some(session) => run.session(session).await.unwrap(),
            None => run.await.unwrap(),
        };
        assert!(!answer.contains_key("writeErrors"), "{answer}");
    }

    async fn insert(&mut self, session: Option<&mut ClientSession>, count: usize) -> usize {
        let mut documents = Vec::new();
        for _ in 0..count {
            self.made += 1;
            let tenant = TENANTS.choose(&mut self.random).unwrap();
            let collection = format!("c{}", self.random.random_range(0..COLLECTIONS));
            let (key, body) = (format!("{}-{}", self.number, self.made), body(&mut self.random));
            documents.push(document(tenant, &collection, &key, body));
        }
        self.keys.extend(documents.iter().map(|document| document.get_str("_id").unwrap().to_owned()));
        self.command(session, doc! { "insert": "documents", "documents": documents }).await;
        count
    }

    async fn update(&mut self, session: Option<&mut ClientSession>, count: usize) -> usize {
        let mut updates = Vec::new();
        for _ in 0..count {
            let Some(id) = self.keys.choose(&mut self.random) else { continue };
            let tenant = id.split(':').next().unwrap();
            let change = change(&mut self.random, id, tenant);
            updates.push(doc! { "q": { "_id": id }, "u": change });
        }
        let count = updates.len();
        if count > 0 {
            self.command(session, doc! { "update": "documents", "updates": updates }).await;
        }
        count
    }

    async fn delete(&mut self, session: Option<&mut ClientSession>, count: usize) -> usize {
        let mut deletes = Vec::new();
        while self.keys.len() > 100 && deletes.len() < count {
            let at = self.random.random_range(0..self.keys.len());
            deletes.push(doc! { "q": { "_id": self.keys.swap_remove(at) }, "limit": 1 });
        }
        let count = deletes.len();
        if count > 0 {
            self.command(session, doc! { "delete": "documents", "deletes": deletes }).await;
        }
        count
    }
}

/// An update that is sure to change something, or a replacement.
fn change(random: &mut ChaCha8Rng, id: &str, tenant: &str) -> Document {
    let fresh = body(random);
    let collection = format!("c{}", random.random_range(0..COLLECTIONS));
    let (stars, kind) = (fresh.get("stars").cloned(), fresh.get("kind").cloned());
    let mut set = doc! { "data.rev": random.random::<i64>() };
    match random.random_range(0..20) {
        // The document goes to another collection, or to another tenant altogether.
        0 => set.insert("collection", collection),
        1 => set.insert("tenant_id", *TENANTS.choose(random).unwrap()),
        2..=5 => {
            let mut replaced = doc! { "_id": id, "tenant_id": tenant, "collection": collection, "data": fresh };
            replaced.get_document_mut("data").unwrap().insert("rev", random.random::<i64>());
            return replaced;
        }
        6..=9 => set.insert("data.stars", stars.unwrap_or(Bson::Null)),
        10..=12 => set.insert("data.kind", kind.unwrap_or(Bson::Null)),
        13 => set.insert("data.nested", fresh.get("nested").cloned().unwrap_or(Bson::Null)),
        14 => set.insert("data.at", random.random_range(0..30)),
        15 => return doc! { "$set": set, "$unset": { "data.opt": "", "data.nested": "" } },
        16 => return doc! { "$set": set, "$push": { "data.tags": tag(random) } },
        _ => return doc! { "$set": set, "$inc": { "data.n": 1 } },
    };
    doc! { "$set": set }
}

fn tag(random: &mut ChaCha8Rng) -> &'static str {
    ["red", "blue", "green", "teal"].choose(random).unwrap()
}

fn body(random: &mut ChaCha8Rng) -> Document {
    let stars = random.random_range(0..7);
    let stars = match random.random_range(0..8) {
        0..=2 => Bson::Int32(stars),
        3 | 4 => Bson::Int64(stars.into()),
        5 => Bson::Double(f64::from(stars) + 0.5),
        6 => Bson::Decimal128(stars.to_string().parse().unwrap()),
        _ => Bson::String(stars.to_string()),
    };
    // The driver's own text, which the test compares with, drops zeros at a fraction's end.
    let when = 1_767_225_600_000 + 1_000 * random.random_range(0..8) + [0, 123].choose(random).unwrap();
    let tags: Vec<&str> = (0..random.random_range(0..4)).map(|_| tag(random)).collect();
    let mut body = doc! {
        "kind": *["post", "mail", "draft"].choose(random).unwrap(),
        "author": *["ann", "bob", "cid", "eve", "αβγ \"quoted\"\n"].choose(random).unwrap(),
        "stars": stars,
        "at": random.random_range(0..30),
        "when": bson::DateTime::from_millis(when),
        "tags": tags,
        "n": 0_i64,
    };
    if random.random_ratio(2, 3) {
        body.insert("nested", doc! { "a": random.random_range(0..3), "b": { "c": "x" } });
    }
    match random.random_range(0..4) {
        0 => body.insert("opt", Bson::Null),
        1 => body.insert("opt", "x"),
        _ => None,
    };
    body
}
