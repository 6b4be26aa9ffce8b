//! The workloads: who subscribes to what, and what changes.
//!
//! Owns every subscription and change of a measurement, each by its number alone, so that all
//! contenders in all processes get the same. Knows no contender.

use std::sync::Arc;

use bson::{Bson, Document};
use clap::ValueEnum;

use super::document::document;
use super::{cel_set, chat, intervals, mixed};
use crate::change::{Change, Flags, Operation, Scope};
use crate::position::{ClusterTime, Epoch, Position};
use crate::subscription::{FilterTerm, Interval, Name, Operations, Operator, Path, Spec};

const TENANT: &str = "acme";
const COLLECTION: &str = "messages";

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, ValueEnum)]
pub enum Workload {
    /// Equality on a chat; each change has two matches
    Chat,
    /// The same, but nine of ten changes concern nobody
    ChatNobody,
    /// Equality on a chat that nobody else asks for; one match a change
    ChatSingle,
    /// Intervals of up to 10 ticks, six matches a change
    Intervals,
    /// The same, with one subscription to everything among them
    IntervalsEverything,
    /// The same intervals, and changes that carry nothing but their time
    IntervalsLight,
    /// The light changes, with removals and inserts between them
    IntervalsChurn,
    /// Equality 60 %, with a range 20 %, `in` with equality 10 %, prefix 5 %, one-sided range with `has` 5 %
    Mixed,
    /// The same without the prefixes, for those who know none
    MixedWithoutPrefix,
    /// CEL programs that no index can take
    Cel,
}

impl Workload {
    /// Those measured where none is named.
    pub const USUAL: [Self; 9] = [
        Self::Chat,
        Self::ChatNobody,
        Self::ChatSingle,
        Self::Intervals,
        Self::IntervalsEverything,
        Self::IntervalsLight,
        Self::IntervalsChurn,
        Self::Mixed,
        Self::Cel,
    ];

    /// The name on the command line and in reports.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it is about equality on a chat.
    pub const fn is_chat(self) -> bool {
        matches!(self, Self::Chat | Self::ChatNobody | Self::ChatSingle)
    }

    /// Whether it is about intervals.
    pub const fn is_intervals(self) -> bool {
        matches!(self, Self::Intervals | Self::IntervalsEverything | Self::IntervalsLight | Self::IntervalsChurn)
    }

    /// Whether subscriptions come and go while changes are matched.
    pub const fn is_churn(self) -> bool {
        matches!(self, Self::IntervalsChurn)
    }

    /// The fields that its filters name.
    pub const fn named(self) -> &'static [&'static str] {
        match self {
            Self::Chat | Self::ChatNobody | Self::ChatSingle => &chat::NAMED,
            Self::Intervals | Self::IntervalsEverything | Self::IntervalsLight | Self::IntervalsChurn => {
                &intervals::NAMED
            }
            Self::Mixed | Self::MixedWithoutPrefix => &mixed::NAMED,
            Self::Cel => &cel_set::NAMED,
        }
    }
}

/// A workload of a size.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Which.
    pub workload: Workload,
    /// How many at a time; churn goes on to higher numbers.
    pub subscriptions: u32,
}

/// The conditions of one subscription.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) filters: Vec<(&'static str, Operator, Bson)>,
    pub(super) interval: Option<(&'static str, i64, i64)>,
    pub(super) cel: Option<String>,
}

/// One change, and what those who do not read documents are told of it.
#[derive(Debug)]
pub struct Event {
    /// For those who do.
    pub change: Change,
    /// The fields that filters name.
    pub named: Document,
    /// `chatId`, where it is a matter of chats.
    pub chat: Box<str>,
    /// `at`, where it is a matter of intervals.
    pub at: i64,
}

impl Plan {
    /// The subscription of this number.
    ///
    /// # Errors
    /// None, unless a workload is written wrongly.
    pub fn spec(&self, number: u32) -> anyhow::Result<Spec> {
        let wanted = match self.workload {
            Workload::Chat | Workload::ChatNobody => chat::wanted(self.subscriptions, number),
            Workload::ChatSingle => chat::wanted_single(self.subscriptions, number),
            Workload::Intervals | Workload::IntervalsLight | Workload::IntervalsChurn => {
                intervals::wanted(self.subscriptions, number)
            }
            Workload::IntervalsEverything if number == 0 => intervals::everything(self.subscriptions),
            Workload::IntervalsEverything => intervals::wanted(self.subscriptions, number),
            Workload::Mixed => mixed::wanted(self.subscriptions, number, true),
            Workload::MixedWithoutPrefix => mixed::wanted(self.subscriptions, number, false),
            Workload::Cel => cel_set::wanted(number),
        };
        let filters =
            wanted.filters.into_iter().map(|(field, op, value)| Ok(FilterTerm { field: path(field)?, op, value }));
        let interval = wanted.interval.map(|(field, start, stop)| {
            anyhow::Ok(Interval { field: path(field)?, start: Bson::Int64(start), stop: Bson::Int64(stop) })
        });
        // Nothing is shared between two of them, as nothing is between two registrations.
        Ok(Spec {
            subscription_id: Name::new("s")?,
            gateway_id: Name::new("bench")?,
            tenant: TENANT.into(),
            collection: COLLECTION.into(),
            backend: None,
            filters: filters.collect::<anyhow::Result<_>>()?,
            cel: wanted.cel.map(Arc::from),
            interval: interval.transpose()?,
            operations: Operations::ALL,
            transitions: false,
            fields: None,
            start_at: None,
            ttl_seconds: crate::limits::ttl_seconds_max,
            generation: None,
        })
    }

    /// The change of this number.
    ///
    /// # Errors
    /// None, unless a workload is written wrongly.
    pub fn event(&self, number: u64) -> anyhow::Result<Event> {
        let named = match self.workload {
            Workload::Chat => chat::named(self.subscriptions, number, false),
            Workload::ChatNobody => chat::named(self.subscriptions, number, true),
            Workload::ChatSingle => chat::named_single(self.subscriptions, number),
            workload if workload.is_intervals() => intervals::named(self.subscriptions, number),
            Workload::Cel => cel_set::named(number),
            _ => mixed::named(self.subscriptions, number),
        };
        let light = matches!(self.workload, Workload::IntervalsLight | Workload::IntervalsChurn);
        let chat = named.get_str("chatId").unwrap_or_default().into();
        let at = named.get_i64("at").unwrap_or_default();
        let change = Change {
            position: Position::new(Epoch(1), ClusterTime::new(1_763_690_000, number as u32), 0),
            scope: Scope::known(TENANT, COLLECTION),
            left: None,
            key: format!("m-{number}").into(),
            operation: Operation::Insert,
            document: Some(document(number, &named, light)?),
            before: None,
            changed: None,
            wall_time_ms: None,
            transaction: None,
            flags: Flags::none(),
        };
        Ok(Event { change, named, chat, at })
    }
}

fn path(text: &str) -> anyhow::Result<Path> {
    Path::parse(text).ok_or_else(|| anyhow::anyhow!("`{text}` is no path"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::Filter;

    /// By the reference evaluator, which no index has touched.
    fn matches_a_change(workload: Workload, subscriptions: u32, changes: u64) -> f64 {
        let plan = Plan { workload, subscriptions };
        let filters: Vec<_> =
            (0..subscriptions).map(|number| Filter::compile(&plan.spec(number).unwrap()).unwrap()).collect();
        let count = |number| {
            let event = plan.event(number).unwrap();
            filters.iter().filter(|filter| filter.evaluate(&event.change).is_some()).count()
        };
        (0..changes).map(count).sum::<usize>() as f64 / changes as f64
    }

    #[test]
    fn changes_match_as_many_as_is_said() {
        let cases = [
            (Workload::Chat, 2.0..=2.0),
            (Workload::ChatNobody, 0.1..=0.3),
            (Workload::ChatSingle, 1.0..=1.0),
            (Workload::Intervals, 5.0..=7.0),
            (Workload::IntervalsEverything, 6.0..=8.0),
            (Workload::IntervalsLight, 5.0..=7.0),
            (Workload::IntervalsChurn, 5.0..=7.0),
            (Workload::Mixed, 4.0..=5.0),
            (Workload::MixedWithoutPrefix, 3.5..=4.5),
        ];
        for (workload, expected) in cases {
            for subscriptions in [200, 600] {
                let found = matches_a_change(workload, subscriptions, 200);
                assert!(expected.contains(&found), "{workload:?} at {subscriptions}: {found}");
            }
        }
        let share = matches_a_change(Workload::Cel, 40, 100) / 40.0;
        assert!((0.02..0.4).contains(&share), "{share}");
    }

    #[test]
    fn workloads_name_the_fields_that_they_use() {
        for workload in Workload::value_variants() {
            let plan = Plan { workload: *workload, subscriptions: 100 };
            for number in 0..100 {
                let event = plan.event(number).unwrap();
                assert!(event.named.keys().all(|name| workload.named().contains(&name.as_str())), "{workload:?}");
            }
        }
    }

    #[test]
    fn programs_that_no_index_can_take_have_none() {
        let plan = Plan { workload: Workload::Cel, subscriptions: 100 };
        for number in 0..100 {
            let filter = Filter::compile(&plan.spec(number).unwrap()).unwrap();
            assert_eq!(filter.plan()["indexes"][0]["kind"], "scan", "{:?}", plan.spec(number).unwrap().cel);
        }
    }
}
