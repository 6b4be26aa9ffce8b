//! What is on the screen, and what a key does.
//!
//! Owns the last picture, the panel and the row that are selected, the question that is open. Knows
//! neither terminals nor the hub: it is told what came and says what is to be done.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::widgets::TableState;

use super::call::Command;
use super::picture::Overview;
use super::rates::{Pace, Rates};
use super::text::clean;
use crate::clock::Instant;

/// One of three tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Panel {
    Partitions,
    Gateways,
    Matching,
}

/// In the order of their numbers.
pub(super) const PANELS: [Panel; 3] = [Panel::Partitions, Panel::Gateways, Panel::Matching];

/// Which row of a table is selected, by name: rows change places from picture to picture, and a
/// command must not meet the one that came in between.
#[derive(Debug, Default)]
pub(super) struct Selection {
    name: Option<String>,
    index: usize,
    /// The table's own, for what it shows of a long one.
    pub(super) table: TableState,
    /// As many rows as were to be seen.
    pub(super) page: usize,
}

/// What the loop has to do.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Action {
    None,
    Quit,
    Call(Command),
}

/// The hub does not answer.
#[derive(Clone, Debug)]
pub(super) struct Lost {
    /// Of its last answer.
    pub(super) since: DateTime<Utc>,
    pub(super) reason: String,
}

/// All that is drawn.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) overview: Overview,
    pace: Pace,
    heard: DateTime<Utc>,
    pub(super) lost: Option<Lost>,
    pub(super) focus: Panel,
    selections: [Selection; 3],
    pub(super) question: Option<Command>,
    pub(super) notice: Option<String>,
    pub(super) is_help_open: bool,
    pub(super) has_colours: bool,
}

impl Screen {
    /// With its first picture; `interval` is about how far apart the next ones will be.
    pub(super) fn new(interval: Duration, first: Overview, now: Instant, wall: DateTime<Utc>) -> Self {
        let mut screen = Self {
            overview: Overview::default(),
            pace: Pace::new(interval),
            heard: wall,
            lost: None,
            focus: Panel::Partitions,
            selections: Default::default(),
            question: None,
            notice: None,
            is_help_open: false,
            has_colours: false,
        };
        screen.take(first, now, wall);
        screen
    }

    /// The next picture, and when it came by both clocks.
    pub(super) fn take(&mut self, overview: Overview, now: Instant, wall: DateTime<Utc>) {
        self.pace.take(&overview, now);
        self.overview = overview;
        self.heard = wall;
        self.lost = None;
    }

    /// There was no picture.
    pub(super) fn miss(&mut self, reason: String) {
        self.lost = Some(Lost { since: self.heard, reason: clean(&reason) });
    }

    /// What became of a command.
    pub(super) fn told(&mut self, command: &Command, outcome: Result<(), String>) {
        let (verb, name) = command.words();
        self.notice = Some(match outcome {
            Ok(()) => format!("{verb} {name}: done"),
            Err(reason) => format!("{verb} {name}: {}", clean(&reason)),
        });
    }

    /// What there is a second of.
    pub(super) fn rates(&self) -> &Rates {
        &self.pace.rates
    }

    /// The names of a panel's rows.
    fn names(&self, panel: Panel) -> Vec<String> {
        match panel {
            Panel::Partitions => self.overview.partitions.iter().map(|one| one.partition.clone()).collect(),
            Panel::Gateways => self.overview.gateways.listed.iter().map(|one| one.name()).collect(),
            Panel::Matching => {
                let rows = self.overview.partitions.iter().map(|one| one.costliest.len()).sum();
                (0..rows).map(|row| row.to_string()).collect()
            }
        }
    }

    /// A panel's selection, brought in line with the rows there are.
    pub(super) fn selection(&mut self, panel: Panel) -> &mut Selection {
        let names = self.names(panel);
        let selection = &mut self.selections[panel as usize];
        // Whoever has gone leaves the selection at his place; nobody moves into it by name alone.
        let by_name = selection.name.as_ref().and_then(|name| names.iter().position(|one| one == name));
        selection.index = by_name.unwrap_or(selection.index).min(names.len().saturating_sub(1));
        if selection.name.is_some() && by_name.is_none() {
            selection.name = names.get(selection.index).cloned();
        }
        selection.table.select((!names.is_empty()).then_some(selection.index));
        selection
    }

    fn step(&mut self, by: isize) {
        let names = self.names(self.focus);
        let selection = self.selection(self.focus);
        let index = selection.index.saturating_add_signed(by).min(names.len().saturating_sub(1));
        selection.index = index;
        selection.name = names.get(index).cloned();
    }

    /// What came from the keyboard.
    pub(super) fn on(&mut self, event: &Event) -> Action {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.on_key(*key),
            _ => Action::None,
        }
    }

    fn on_key(&mut self, key: KeyEvent) -> Action {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Action::Quit;
        }
        if let Some(command) = self.question.take() {
            // Anything but a clear yes is a no.
            return match key.code {
                KeyCode::Char('y' | 'Y') => Action::Call(command),
                _ => Action::None,
            };
        }
        self.notice = None;
        if std::mem::take(&mut self.is_help_open) {
            return Action::None;
        }
        let page = isize::try_from(self.selection(self.focus).page).unwrap_or(1).max(1);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char('?' | 'h') => self.is_help_open = true,
            KeyCode::Tab => self.focus = PANELS[(self.focus as usize + 1) % PANELS.len()],
            KeyCode::BackTab => self.focus = PANELS[(self.focus as usize + PANELS.len() - 1) % PANELS.len()],
            KeyCode::Char('1') => self.focus = Panel::Partitions,
            KeyCode::Char('2') => self.focus = Panel::Gateways,
            KeyCode::Char('3') => self.focus = Panel::Matching,
            KeyCode::Up => self.step(-1),
            KeyCode::Down => self.step(1),
            KeyCode::PageUp => self.step(-page),
            KeyCode::PageDown => self.step(page),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Char('p') => self.ask(Panel::Partitions, |screen| screen.partition().map(Command::Pause)),
            KeyCode::Char('r') => self.ask(Panel::Partitions, |screen| screen.partition().map(Command::Resume)),
            KeyCode::Char('k') => self.ask(Panel::Gateways, Self::park),
            _ => {}
        }
        Action::None
    }

    /// Asks before anything is done, and only of what is in the panel that one looks at.
    fn ask(&mut self, panel: Panel, command: impl FnOnce(&mut Self) -> Option<Command>) {
        if self.focus != panel {
            let what = if panel == Panel::Gateways { "gateway" } else { "partition" };
            self.notice = Some(format!("{} shows the {what}s, of which this key concerns one", panel as usize + 1));
            return;
        }
        self.question = command(self);
    }

    fn partition(&mut self) -> Option<String> {
        let index = self.selection(Panel::Partitions).index;
        self.overview.partitions.get(index).map(|one| one.partition.clone())
    }

    fn park(&mut self) -> Option<Command> {
        let index = self.selection(Panel::Gateways).index;
        let gateway = self.overview.gateways.listed.get(index)?;
        let own = gateway.gateway_id.clone().map(Command::ParkGateway);
        own.or_else(|| gateway.group.clone().map(Command::ParkGroup))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn overview(partitions: &[&str], gateways: &[&str]) -> Overview {
        let partitions: Vec<_> = partitions.iter().map(|name| json!({"partition": name})).collect();
        let gateways: Vec<_> = gateways.iter().map(|name| json!({"gatewayId": name})).collect();
        Overview::of(json!({"partitions": partitions, "gateways": {"listed": gateways}})).unwrap()
    }

    fn screen(partitions: &[&str], gateways: &[&str]) -> Screen {
        Screen::new(Duration::from_secs(1), overview(partitions, gateways), Instant(0), DateTime::default())
    }

    fn press(screen: &mut Screen, keys: &[KeyCode]) -> Action {
        let press = |code: &KeyCode| screen.on(&Event::Key(KeyEvent::new(*code, KeyModifiers::NONE)));
        keys.iter().map(press).last().unwrap()
    }

    const DOWN: KeyCode = KeyCode::Down;
    const Y: KeyCode = KeyCode::Char('y');

    #[test]
    fn a_command_is_asked_about_and_meets_whom_it_named() {
        let mut screen = screen(&["a/0", "a/1"], &[]);
        assert_eq!(press(&mut screen, &[DOWN, KeyCode::Char('p')]), Action::None);
        assert_eq!(screen.question, Some(Command::Pause("a/1".into())));
        screen.take(overview(&["a/1", "a/2"], &[]), Instant(0), DateTime::default());
        assert_eq!(press(&mut screen, &[Y]), Action::Call(Command::Pause("a/1".into())));
        for no in [KeyCode::Char('n'), KeyCode::Esc, KeyCode::Enter, KeyCode::Char('q')] {
            assert_eq!(press(&mut screen, &[KeyCode::Char('r'), no]), Action::None);
            assert_eq!(screen.question, None);
        }
        assert_eq!(press(&mut screen, &[Y]), Action::None, "nothing is asked any more");
    }

    #[test]
    fn a_row_stays_selected_wherever_it_goes() {
        let mut screen = screen(&[], &["g1", "g2", "g3"]);
        press(&mut screen, &[KeyCode::Char('2'), DOWN]);
        screen.take(overview(&[], &["g2", "g3", "g1"]), Instant(0), DateTime::default());
        assert_eq!(screen.park(), Some(Command::ParkGateway("g2".into())));
        screen.take(overview(&[], &["g3", "g1"]), Instant(0), DateTime::default());
        assert_eq!(screen.park(), Some(Command::ParkGateway("g3".into())), "the one at its place");
        press(&mut screen, &[KeyCode::End]);
        assert_eq!(screen.park(), Some(Command::ParkGateway("g1".into())));
        screen.take(overview(&[], &[]), Instant(0), DateTime::default());
        assert_eq!(press(&mut screen, &[KeyCode::Char('k'), Y]), Action::None, "there is nobody");
        press(&mut screen, &[KeyCode::PageDown, KeyCode::Home, KeyCode::Up]);
    }

    #[test]
    fn keys_concern_the_panel_that_one_looks_at() {
        let mut screen = screen(&["a/0"], &["g1"]);
        press(&mut screen, &[KeyCode::Char('k')]);
        assert!(screen.question.is_none() && screen.notice.as_ref().unwrap().starts_with("2 shows"));
        press(&mut screen, &[KeyCode::Tab, KeyCode::Char('k')]);
        assert_eq!(screen.question, Some(Command::ParkGateway("g1".into())));
        assert_eq!(press(&mut screen, &[KeyCode::Esc]), Action::None);
        press(&mut screen, &[KeyCode::BackTab, KeyCode::BackTab]);
        assert_eq!(screen.focus, Panel::Matching);
        let member = json!({"gateways": {"listed": [{"group": "g", "member": "m"}]}});
        screen.take(Overview::of(member).unwrap(), Instant(0), DateTime::default());
        assert_eq!(screen.park(), Some(Command::ParkGroup("g".into())), "a member has no park of his own");
    }

    #[test]
    fn escape_closes_what_is_open_before_it_ends_the_program() {
        let mut screen = screen(&["a/0"], &[]);
        assert_eq!(press(&mut screen, &[KeyCode::Char('?'), KeyCode::Esc]), Action::None);
        assert_eq!(press(&mut screen, &[KeyCode::Char('p'), KeyCode::Esc]), Action::None);
        assert_eq!(press(&mut screen, &[KeyCode::Esc]), Action::Quit);
        assert_eq!(press(&mut screen, &[KeyCode::Char('q')]), Action::Quit);
        screen.question = Some(Command::Pause("a/0".into()));
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(screen.on(&Event::Key(ctrl_c)), Action::Quit);
    }
}
