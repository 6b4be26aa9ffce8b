//! The client's rules under random sessions, redeliveries, acks and crashes, against a plain model.
//!
//! The model's hub delivers from any cursor that it is given, and sometimes from further back. The
//! model's application saves what it has taken together with the client's state, now and then, and
//! crashes between. Whatever happens, it must have taken every match once and in order, and no cursor may
//! be acked or presented that stands for something untaken.

use std::collections::{HashMap, HashSet};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::config::BodyFormat;
use super::item::{Cursor, Item};
use super::keeper::Keeper;
use super::state::State;
use crate::position::{ClusterTime, Epoch, Position};
use crate::proto;
use crate::proto::consume_response::Message;

const PARTITION: &str = "default/0";

/// A match as the application knows it.
type Taken = (String, Position);

struct World {
    random: ChaCha8Rng,
    /// For each change the subscriptions that it concerns.
    log: Vec<Vec<u8>>,
    /// The hub's end: what has been acked, and where the session stands.
    durable: usize,
    sent: usize,
    connection: u64,
    /// The application's end.
    keeper: Keeper,
    taken: Vec<Taken>,
    unacked: Vec<(Cursor, usize)>,
    /// So many of `taken` have been acked, or had been saved when this client started.
    acked: usize,
    saved: (usize, State),
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let log = (0..60)
            .map(|_| (0..4).filter(|_| random.random_bool(0.4)).collect::<Vec<u8>>())
            .filter(|subscriptions| !subscriptions.is_empty())
            .collect();
        let keeper = Keeper::new(0, BodyFormat::Bson, State::default());
        let saved = (0, State::default());
        let (taken, unacked) = (Vec::new(), Vec::new());
        Self { random, log, durable: 0, sent: 0, connection: 1, keeper, taken, unacked, acked: 0, saved }
    }

    fn position(index: usize) -> Position {
        Position::new(Epoch(1), ClusterTime(index as u64 / 3), index as u32 % 3 + 1)
    }

    /// A cursor that stands for the first `upto` changes.
    fn cursor(&self, upto: usize) -> String {
        format!("{}/{upto}", self.connection)
    }

    /// What the change of this index means to the application, by the log.
    fn expected(&self, upto: usize) -> impl Iterator<Item = Taken> + '_ {
        let one = |(index, subscriptions): (usize, &Vec<u8>)| {
            subscriptions.iter().map(move |s| (format!("s{s}"), Self::position(index))).collect::<Vec<_>>()
        };
        self.log[..upto].iter().enumerate().flat_map(one)
    }

    /// A cursor is safe if everything it stands for has been taken for good.
    fn assert_safe(&self, cursor: &str) -> (u64, usize) {
        let (connection, upto) = cursor.split_once('/').unwrap();
        let upto: usize = upto.parse().unwrap();
        let acked: HashSet<_> = self.taken[..self.acked].iter().collect();
        for expected in self.expected(upto) {
            assert!(acked.contains(&expected), "cursor {cursor} stands for untaken {expected:?}");
        }
        (connection.parse().unwrap(), upto)
    }

    fn message(&mut self, index: usize, subscriptions: &[u8], cursor: String) {
        let matches = subscriptions
            .iter()
            .map(|s| proto::Match { subscription_id: format!("s{s}"), generation: 1, ..Default::default() })
            .collect();
        let change = proto::Change {
            partition: PARTITION.into(),
            position: Self::position(index).to_string(),
            operation: "insert".into(),
            cursor,
            matches,
            ..Default::default()
        };
        let item = self.keeper.change(self.connection, change).unwrap();
        if let Some(Item::Change(change)) = item {
            for m in &change.matches {
                let later = |(id, at): &Taken| *id == m.subscription_id && *at >= change.position;
                assert!(!self.taken.iter().any(later), "{m:?} at {:?} again or too late", change.position);
                self.taken.push((m.subscription_id.clone(), change.position));
            }
            self.unacked.push((change.cursor, self.taken.len()));
        }
        self.settle();
    }

    fn deliver(&mut self) {
        if self.sent == self.log.len() {
            return self.progress();
        }
        let (index, subscriptions) = (self.sent, self.log[self.sent].clone());
        self.sent += 1;
        // A long list of matches is split, and only the last message moves the cursor.
        let at = self.random.random_range(0..=subscriptions.len());
        let (head, tail) = subscriptions.split_at(at);
        if !head.is_empty() && !tail.is_empty() {
            self.message(index, head, self.cursor(index));
            self.message(index, tail, self.cursor(index + 1));
        } else {
            self.message(index, &subscriptions, self.cursor(index + 1));
        }
    }

    fn progress(&mut self) {
        let progress = proto::Progress { cursor: self.cursor(self.sent), ..Default::default() };
        self.keeper.message(self.connection, Message::Progress(progress)).unwrap();
        self.settle();
    }

    fn settle(&mut self) {
        if let Some(place) = self.keeper.settle() {
            let (connection, upto) = self.assert_safe(&place.text);
            assert_eq!(connection, place.connection);
            // The hub ignores acks of a superseded session; some are lost on the way.
            if connection == self.connection && self.random.random_bool(0.8) {
                self.durable = self.durable.max(upto);
            }
        }
    }

    fn ack(&mut self) {
        if self.unacked.is_empty() {
            return;
        }
        let (cursor, taken) = self.unacked[self.random.random_range(0..self.unacked.len())].clone();
        self.acked = self.acked.max(taken);
        self.keeper.ack(&cursor);
        self.settle();
    }

    fn reconnect(&mut self) {
        let start = match self.keeper.state().cursor().map(str::to_owned) {
            Some(cursor) => self.assert_safe(&cursor).1,
            None => self.durable,
        };
        self.durable = start;
        self.connection += 1;
        // "An id no longer known means all subscriptions from the lowest position": the hub may say more.
        let back = if self.random.random_bool(0.3) { self.random.random_range(0..20) } else { 0 };
        self.sent = start.saturating_sub(back);
    }

    fn save(&mut self) {
        // As an application would: through the saved form.
        let text = serde_json::to_string(self.keeper.state()).unwrap();
        self.saved = (self.taken.len(), serde_json::from_str(&text).unwrap());
    }

    fn crash(&mut self) {
        let (len, state) = self.saved.clone();
        self.taken.truncate(len);
        self.unacked.clear();
        self.acked = len;
        self.keeper = Keeper::new(self.connection, BodyFormat::Bson, state);
        self.reconnect();
    }

    /// Whoever acks before saving may lose; so the application saves first.
    fn run(&mut self) {
        for _ in 0..600 {
            match self.random.random_range(0..100) {
                0..60 => self.deliver(),
                60..70 => self.progress(),
                70..85 => {
                    self.save();
                    self.ack();
                }
                85..90 => self.save(),
                90..96 => self.reconnect(),
                _ => self.crash(),
            }
        }
    }

    fn finish(&mut self) {
        while self.sent < self.log.len() {
            self.deliver();
        }
        self.save();
        if let Some((last, taken)) = self.unacked.last().cloned() {
            self.acked = taken;
            self.keeper.ack(&last);
        }
        self.progress();
        let by_subscription = |taken: Vec<Taken>| {
            let mut map: HashMap<String, Vec<Position>> = HashMap::new();
            for (id, position) in taken {
                map.entry(id).or_default().push(position);
            }
            map
        };
        assert_eq!(by_subscription(self.taken.clone()), by_subscription(self.expected(self.log.len()).collect()));
        let resumes = self.keeper.state().cursor().unwrap().to_owned();
        assert_eq!(self.assert_safe(&resumes).1, self.log.len(), "nothing is left to come again");
    }
}

#[test]
fn every_match_is_taken_once_in_order_and_no_ack_runs_ahead() {
    for seed in 0..150 {
        let mut world = World::new(seed);
        world.run();
        world.finish();
    }
}
