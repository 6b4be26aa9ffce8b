//! The three tables: partitions, gateways, matching.
//!
//! Owns what stands in them. Knows nothing of where they are put.

use chrono::{DateTime, Utc};

use super::grid::{Column, Grid};
use crate::cmd::top::marks::{self, Level, Mark};
use crate::cmd::top::picture::{Costly, Gateway, Overview, Partition, Totals};
use crate::cmd::top::rates::Rates;
use crate::cmd::top::screen::{Panel, Screen};
use crate::cmd::top::text::{self, bytes, count, or_dash, rate, span};

/// A table with what stands above it.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) title: String,
    /// Facts that stand one after the other, as many as fit into a line.
    pub(super) facts: Vec<(Level, String)>,
    pub(super) grid: Grid,
}

/// What a panel is called.
pub(super) const fn name(panel: Panel) -> &'static str {
    match panel {
        Panel::Partitions => "1 Partitions",
        Panel::Gateways => "2 Gateways",
        Panel::Matching => "3 Matching",
    }
}

/// What stands in a panel.
pub(super) fn content(screen: &Screen, panel: Panel) -> Content {
    match panel {
        Panel::Partitions => partitions(&screen.overview, screen.rates()),
        Panel::Gateways => gateways(&screen.overview),
        Panel::Matching => matching(&screen.overview),
    }
}

fn partitions(overview: &Overview, rates: &Rates) -> Content {
    let columns = vec![
        Column::text("", 0, 2),
        Column::text("partition", 1, 8),
        Column::text("owner", 9, 6),
        Column::text("state", 2, 7),
        Column::number("lag", 3),
        Column::number("behind", 10),
        Column::number("oplog", 4),
        Column::number("changes/s", 5),
        Column::number("matches/s", 8),
        Column::number("delivered/s", 6),
        Column::number("subs", 11),
        Column::number("sessions", 12),
        Column::number("catchups", 13),
        Column::text("note", 7, 10),
    ];
    let rows: Vec<_> = overview.partitions.iter().map(|one| partition(one, rates)).collect();
    let marked = rows.iter().filter(|(level, _)| *level > Level::Fine).count();
    let title = match (rows.len(), marked) {
        (all, 0) => all.to_string(),
        (all, marked) => format!("{all}, {marked} to look at"),
    };
    Content { title, facts: Vec::new(), grid: Grid { columns, rows } }
}

fn partition(partition: &Partition, rates: &Rates) -> (Level, Vec<String>) {
    let mark = marks::partition(partition);
    let rates = rates.of(&partition.partition);
    let whole = |number: u64| count(number as f64);
    let cells = vec![
        sign(mark.level),
        partition.partition.clone(),
        or_dash(partition.owner.clone(), |owner| owner),
        partition.state.clone(),
        or_dash(partition.lag.seconds, span),
        or_dash(partition.lag.changes, whole),
        or_dash(partition.oplog_headroom_seconds, span),
        rate(rates.map(|rates| rates.changes)),
        rate(rates.map(|rates| rates.matches)),
        rate(rates.map(|rates| rates.delivered)),
        or_dash(partition.subscriptions.as_ref(), |counts| whole(counts.sum())),
        or_dash(partition.sessions, whole),
        or_dash(partition.catchups, whole),
        mark.note(),
    ];
    (mark.level, cells)
}

/// Its column keeps its width when nothing is marked: else all would move when something is.
fn sign(level: Level) -> String {
    format!("{:<2}", level.sign())
}

fn gateways(overview: &Overview) -> Content {
    let columns = vec![
        Column::text("", 0, 2),
        Column::text("gateway", 1, 8),
        Column::text("state", 2, 7),
        Column::number("lag", 3),
        Column::number("behind", 8),
        Column::number("outbox", 4),
        Column::number("last ack", 5),
        Column::number("subs", 10),
        Column::text("by", 6, 4),
        Column::text("node", 9, 5),
        Column::text("note", 7, 8),
    ];
    let all = &overview.gateways;
    let rows: Vec<_> = all.listed.iter().map(|one| gateway(one, overview.at)).collect();
    let of = |level, number: u64, what: &str| {
        (if number == 0 { Level::Fine } else { level }, format!("{} {what}", count(number as f64)))
    };
    let facts = vec![
        of(Level::Fine, all.states.live, "live"),
        of(Level::Fine, all.states.catching_up, "catching up"),
        of(Level::Look, all.states.offline, "offline"),
        of(Level::Wrong, all.states.parked, "parked"),
    ];
    let title = match all.listed.len() as u64 {
        listed if listed < all.total => format!("{}, the {listed} furthest behind", count(all.total as f64)),
        _ => format!("{}, furthest behind first", count(all.total as f64)),
    };
    Content { title, facts, grid: Grid { columns, rows } }
}

fn gateway(gateway: &Gateway, now: Option<DateTime<Utc>>) -> (Level, Vec<String>) {
    let mark: Mark = marks::gateway(gateway);
    let since_ack = now.zip(gateway.last_ack_at).map(|(now, ack)| (now - ack).as_seconds_f64().max(0.0));
    let session = gateway.session.as_ref();
    let by = match session {
        Some(session) => session.transport.clone(),
        // Who is served by NATS JetStream needs no connection to be so.
        None if gateway.delivery == "nats" => "nats".to_owned(),
        None => "-".to_owned(),
    };
    let cells = vec![
        sign(mark.level),
        gateway.name(),
        gateway.state.clone(),
        or_dash(gateway.lag.seconds, span),
        or_dash(gateway.lag.changes, |changes| count(changes as f64)),
        bytes(gateway.outbox_bytes as f64),
        or_dash(since_ack, |seconds| format!("{} ago", span(seconds))),
        count(gateway.subscriptions as f64),
        by,
        or_dash(session, |session| session.node.clone()),
        mark.note(),
    ];
    (mark.level, cells)
}

fn matching(overview: &Overview) -> Content {
    let columns = vec![
        Column::text("subscription", 0, 12),
        Column::number("average", 1),
        Column::number("evaluations", 2),
        Column::text("partition", 3, 8),
    ];
    let of = |partition: &Partition, costly: &Costly| {
        let cells = vec![
            costly.name(),
            format!("{} µs", text::rate(Some(costly.average_micros))),
            count(costly.evaluations as f64),
            partition.partition.clone(),
        ];
        (costly.average_micros, (Level::Fine, cells))
    };
    let mut rows: Vec<_> =
        overview.partitions.iter().flat_map(|one| one.costliest.iter().map(move |costly| of(one, costly))).collect();
    rows.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
    let grid = Grid { columns, rows };
    Content { title: "costliest subscriptions".to_owned(), facts: matching_facts(overview), grid }
}

/// Of all partitions, since each one's owner began.
fn matching_facts(overview: &Overview) -> Vec<(Level, String)> {
    let totals = || overview.partitions.iter().filter_map(|partition| partition.totals.as_ref());
    let sum = |of: fn(&Totals) -> u64| totals().map(|totals| of(totals) as f64).sum::<f64>();
    let (candidates, matches) = (sum(|one| one.candidates), sum(|one| one.matches));
    let (checks, passes) = (sum(|one| one.bloom_checks), sum(|one| one.bloom_false_positives));
    let (shadows, differences) = (sum(|one| one.shadow_checks), sum(|one| one.shadow_differences));
    let per_match = (matches > 0.0).then(|| candidates / matches);
    // Nothing that the matcher does may differ from the reference: one difference is a bug.
    let level = if differences > 0.0 { Level::Wrong } else { Level::Fine };
    let share = if checks > 0.0 { format!(" ({:.1} %)", passes / checks * 100.0) } else { String::new() };
    vec![
        (Level::Fine, format!("candidates a match {}", or_dash(per_match, |each| format!("{each:.2}")))),
        (level, format!("shadow differences {} of {}", count(differences), count(shadows))),
        (Level::Fine, format!("Bloom false positives {} of {}{share}", count(passes), count(checks))),
    ]
}
