//! The lines above and below the tables.
//!
//! Owns how the node's health, the totals, a lost connection, keys and questions are said.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::Theme;
use crate::cmd::top::marks::{self, Level};
use crate::cmd::top::screen::{Panel, Screen};
use crate::cmd::top::text::{bytes, count, rate, shorten, since, span, time_of_day, width};

/// The lines above, at most so many; what matters most comes first.
pub(super) fn above(screen: &Screen, theme: Theme, lines_max: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if let Some(lost) = &screen.lost {
        let text = format!("no answer since {}: {}", time_of_day(lost.since), lost.reason);
        lines.push(Line::styled(text, theme.alarm()));
    }
    lines.push(node(screen, theme));
    let mut wrong = troubles(screen, theme);
    // The totals give way to what is wrong, and of that the last to a word that there is more.
    let room = lines_max.saturating_sub(lines.len());
    if wrong.len() > room && room > 0 {
        let more = wrong.len() - (room - 1);
        wrong.truncate(room - 1);
        wrong.push(Line::raw(format!("   and {more} more that are not ok")));
    }
    lines.extend(wrong);
    lines.push(totals(screen));
    lines.truncate(lines_max);
    lines
}

fn node(screen: &Screen, theme: Theme) -> Line<'static> {
    let overview = &screen.overview;
    let (health, level) = (&overview.health, marks::health(&overview.health.status));
    let status = if health.status.is_empty() { "unknown" } else { &health.status };
    let mut said = format!("{:<2} health {status}", level.sign());
    if health.live == Some(false) {
        said += ", only a restart helps";
    } else if health.ready == Some(false) {
        said += ", not ready";
    }
    let mut rest = format!("  {}  {}  up {}", overview.node, overview.version, span(overview.uptime_seconds));
    if let Some(at) = overview.at {
        rest += &format!("  {} UTC", time_of_day(at));
    }
    Line::from(vec![
        Span::styled(said, theme.level(level).patch(theme.title())),
        Span::styled(rest, dimmed(screen, theme)),
    ])
}

fn dimmed(screen: &Screen, theme: Theme) -> Style {
    if screen.lost.is_some() { theme.old() } else { Style::new() }
}

/// A line for each part that is not ok, the worst first.
fn troubles(screen: &Screen, theme: Theme) -> Vec<Line<'static>> {
    let overview = &screen.overview;
    let parts = overview.health.components.iter().map(|(name, part)| (marks::health(&part.status), name, part));
    let mut parts: Vec<_> = parts.filter(|(level, ..)| *level > Level::Fine).collect();
    parts.sort_by_key(|(level, ..)| std::cmp::Reverse(*level));
    let line = |(level, name, part): &(Level, &String, &crate::cmd::top::picture::Component)| {
        let mut text = format!("{:<2} {name} {}", level.sign(), part.status);
        if let Some(time) = part.since {
            text += &format!(" since {}", since(time, overview.at));
        }
        if let Some(reason) = &part.reason {
            text += &format!(": {reason}");
        }
        Line::styled(text, theme.level(*level))
    };
    parts.iter().map(line).collect()
}

fn totals(screen: &Screen) -> Line<'static> {
    let all = screen.rates().all();
    let per_second = |what: &str, number: Option<f64>| format!("{what} {}/s", rate(number));
    let subscriptions = screen.overview.partitions.iter().filter_map(|one| one.subscriptions.as_ref());
    let subscriptions: f64 = subscriptions.map(|counts| counts.sum() as f64).sum();
    let facts = [
        per_second("   changes", all.map(|all| all.changes)),
        per_second("matches", all.map(|all| all.matches)),
        per_second("delivered", all.map(|all| all.delivered)),
        format!("{}/s", all.map_or_else(|| "-".to_owned(), |all| bytes(all.delivered_bytes))),
        format!("subscriptions {}", count(subscriptions)),
    ];
    Line::raw(facts.join("  "))
}

/// The line below: a question, what became of a command, or the keys.
pub(super) fn below(screen: &Screen, theme: Theme, columns: usize) -> Line<'static> {
    if let Some(command) = &screen.question {
        let (verb, name) = command.words();
        let others = width(verb) + " ? (y/n)".len();
        let text = format!("{verb} {}? (y/n)", shorten(name, columns.saturating_sub(others)));
        return Line::styled(text, theme.selected());
    }
    if let Some(notice) = &screen.notice {
        return Line::styled(notice.clone(), theme.title());
    }
    let of_panel = match screen.focus {
        Panel::Partitions => "p pause  r resume  ",
        Panel::Gateways => "k park  ",
        Panel::Matching => "",
    };
    Line::styled(format!("? help  q quit  {of_panel}Tab next table  ↑↓ PgUp PgDn rows"), theme.old())
}

/// What `?` shows.
pub(super) const HELP: [&str; 12] = [
    "q Esc Ctrl-C  quit",
    "Tab 1 2 3     another table",
    "↑ ↓ PgUp PgDn another row",
    "p             pause the partition",
    "r             resume the partition",
    "k             park the gateway",
    "?             this",
    "",
    "!  look at it, !! it does not work",
    "-  unknown; rates need two pictures",
    "Counters are the owner's, since it",
    "began. Any key goes back.",
];
