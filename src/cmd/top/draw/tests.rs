//! The picture, cell by cell, as a terminal would show it.

use std::time::Duration;

use chrono::DateTime;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::*;
use crate::clock::Instant;
use crate::cmd::top::picture::Overview;

fn partition(number: u16, state: &str, lag: f64, changes: u64) -> Value {
    json!({
        "partition": format!("default/{number}"), "owner": "hub-1", "epoch": 1, "state": state,
        "lag": {"seconds": lag, "changes": 7}, "oplogHeadroomSeconds": 7200.0,
        "subscriptions": {"live": 10, "catching_up": 1, "parked": 1}, "sessions": 2, "catchups": 1,
        "totals": {"changes": changes, "matches": changes / 2, "delivered": changes / 4, "deliveredBytes": changes.saturating_mul(100),
            "candidates": changes, "bloomChecks": 200, "bloomFalsePositives": 3, "shadowChecks": 12, "shadowDifferences": number},
        "costliest": [{"gatewayId": "gw-1", "subscriptionId": format!("s-{number}"), "averageMicros": 12.5, "evaluations": 1000}],
    })
}

fn overview(second: u32, changes: u64) -> Value {
    json!({
        "at": format!("2026-11-22T10:00:{second:02}.000Z"), "node": "hub-1", "version": "0.1.0", "uptimeSeconds": 90.0,
        "startedAt": "2026-11-22T09:58:30.000Z",
        "health": {"status": "degraded", "live": true, "ready": true, "components": {
            "store": {"status": "failing", "reason": "no leader", "since": "2026-11-22T09:59:00.000Z"},
            "source": {"status": "ok", "reason": null, "since": "2026-11-22T09:58:30.000Z"}}},
        "partitions": [partition(0, "reading", 0.2, changes), partition(1, "paused", 95.0, 10)],
        "gateways": {"total": 2, "states": {"live": 1, "catching_up": 0, "offline": 1, "parked": 0}, "listed": [
            {"gatewayId": "gw-2", "state": "offline", "subscriptions": 3, "lag": {"seconds": 3700.0, "changes": 5000},
             "outboxBytes": 0, "delivery": "stream", "lastAckAt": "2026-11-22T09:00:00.000Z", "session": null},
            {"gatewayId": "gw-1", "state": "live", "subscriptions": 5, "lag": {"seconds": 0.2, "changes": 0}, "outboxBytes": 2048,
             "delivery": "stream", "lastAckAt": "2026-11-22T09:59:59.500Z",
             "session": {"transport": "sse", "since": "2026-11-22T09:59:00.000Z", "node": "hub-1"}}]},
    })
}

fn of(overview: Value) -> Screen {
    let first = Overview::of(overview).unwrap();
    Screen::new(Duration::from_secs(1), first, Instant(0), DateTime::from_timestamp(1_763_805_600, 0).unwrap())
}

fn two_pictures() -> Screen {
    let mut screen = of(overview(0, 100));
    let next = Overview::of(overview(2, 340)).unwrap();
    screen.take(next, Instant(2_000_000), DateTime::from_timestamp(1_763_805_602, 0).unwrap());
    screen
}

fn shown(screen: &mut Screen, columns: u16, lines: u16) -> (Vec<String>, Buffer) {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| draw(screen, frame.area(), frame.buffer_mut())).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let mut text = String::new();
    write_lines(&buffer, &mut text);
    (text.lines().map(str::to_owned).collect(), buffer)
}

fn line<'a>(lines: &'a [String], text: &str) -> (usize, &'a str) {
    let found = lines.iter().enumerate().find(|(_, line)| line.contains(text));
    let (index, line) = found.unwrap_or_else(|| panic!("no {text} in\n{}", lines.join("\n")));
    (index, line)
}

fn press(screen: &mut Screen, key: char) {
    screen.on(&Event::Key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE)));
}

#[test]
fn what_is_wrong_stands_out_with_colours_and_without() {
    for has_colours in [true, false] {
        let mut screen = two_pictures();
        screen.has_colours = has_colours;
        let (lines, buffer) = shown(&mut screen, 130, 30);
        let (row, paused) = line(&lines, "default/1");
        assert!(paused.starts_with("!! default/1") && paused.ends_with("paused, late"), "{paused}");
        let style = buffer[(3, row as u16)].style();
        assert!(style.add_modifier.contains(Modifier::BOLD));
        assert_eq!(style.fg == Some(Color::Red), has_colours);
        let (_, fine) = line(&lines, "default/0");
        assert!(fine.starts_with("   default/0") && fine.trim_end().ends_with('1'), "{fine}");
        assert!(lines[0].starts_with("!  health degraded  hub-1  0.1.0  up 90 s  10:00:02 UTC"), "{}", lines[0]);
        assert_eq!(lines[1], "!! store failing since 09:59:00: no leader");
        line(&lines, "! 1 offline");
        line(&lines, "!! shadow differences 1 of 24");
        assert!(buffer.content.iter().all(|cell| has_colours || (cell.fg == Color::Reset && cell.bg == Color::Reset)));
    }
}

#[test]
fn numbers_stand_in_their_columns() {
    let (lines, _) = shown(&mut two_pictures(), 140, 30);
    let words = |text: &str| {
        line(&lines, text)
            .1
            .split("  ")
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        words("default/0").join("|").replace(' ', "|"),
        "default/0|hub-1|reading|0.2|s|7|2.0|h|120|60|30|12|2|1"
    );
    line(&lines, "changes 120/s  matches 60/s  delivered 30/s  12 kB/s  subscriptions 24");
    let (_, gateway) = line(&lines, "gw-1 ");
    for part in ["live", "0.2 s", "2.0 kB", "2.5 s ago", "sse", "hub-1"] {
        assert!(gateway.contains(part), "{part} in {gateway}");
    }
    line(&lines, "candidates a match 2.00");
    line(&lines, "Bloom false positives 6 of 400 (1.5 %)");
    let (_, costly) = line(&lines, "gw-1/s-0");
    assert!(costly.contains("12 µs") && costly.contains("1.0k"), "{costly}");
}

#[test]
fn little_room_shows_what_matters_first() {
    let mut screen = two_pictures();
    let (lines, _) = shown(&mut screen, 80, 24);
    for text in ["default/1", "gw-2", "store failing", "3 Matching"] {
        line(&lines, text);
    }
    let (lines, _) = shown(&mut screen, 40, 10);
    for text in ["health degraded", "store failing", "!! default/1", "paused", "95 s"] {
        line(&lines, text);
    }
    press(&mut screen, '2');
    let (lines, _) = shown(&mut screen, 40, 10);
    assert!(line(&lines, "gw-2").1.contains("offline"));
    press(&mut screen, '1');
    press(&mut screen, 'p');
    assert_eq!(shown(&mut screen, 24, 3).0.last().unwrap(), "Pause default/0? (y/n)");
    assert_eq!(shown(&mut screen, 20, 1).0.last().unwrap(), "Pause defaul…? (y/n)");
}

#[test]
fn a_lost_connection_is_said_and_what_is_old_is_dimmed() {
    let mut screen = two_pictures();
    screen.miss("Connection refused".into());
    let (lines, buffer) = shown(&mut screen, 100, 30);
    assert_eq!(lines[0], "no answer since 10:00:02: Connection refused");
    let (row, _) = line(&lines, "default/0");
    assert!(buffer[(3, row as u16)].style().add_modifier.contains(Modifier::DIM));
    let (lines, _) = shown(&mut screen, 40, 4);
    assert!(lines[0].starts_with("no answer since 10:00:02"), "{lines:?}");
    let next = Overview::of(overview(5, 400)).unwrap();
    screen.take(next, Instant(5_000_000), DateTime::default());
    let (lines, buffer) = shown(&mut screen, 100, 30);
    let (row, _) = line(&lines, "default/0");
    assert!(lines[0].contains("health") && !buffer[(3, row as u16)].style().add_modifier.contains(Modifier::DIM));
}

#[test]
fn plain_text_has_all_rows_and_nothing_selected() {
    let mut many = overview(0, 1);
    many["partitions"] = (0..300).map(|number| partition(number, "reading", 0.0, 1)).collect();
    let text = plain(&mut of(many), 100);
    for text_of in ["default/0 ", "default/299 ", "gw-1 ", "gw-1/s-299"] {
        assert!(text.contains(text_of), "{text_of}");
    }
    assert!(!text.contains('\u{1b}') && text.lines().all(|line| width(line) <= 100));
    let empty = plain(&mut of(json!({})), 80);
    assert_eq!(empty.matches("none").count(), 3, "{empty}");
}

/// Nonsense of every kind, long and wide and turned around.
fn hostile() -> Value {
    let nasty = "\u{1b}[2J\u{1b}]0;x\u{7}日本語\u{202e}e\u{301}\u{301}👩‍👩‍👧\r\n\t".repeat(20);
    let mut partitions: Vec<Value> = (0..40).map(|number| partition(number, &nasty, 1e300, u64::MAX)).collect();
    partitions.push(json!({}));
    partitions.push(json!({"partition": nasty, "lag": {"seconds": -1e300, "changes": u64::MAX}, "oplogHeadroomSeconds": -5.0,
        "subscriptions": {"live": u64::MAX, "parked": u64::MAX}, "totals": {"matches": u64::MAX, "candidates": u64::MAX}}));
    let gateway = json!({"gatewayId": nasty, "state": nasty, "lag": {"seconds": 1e300}, "outboxBytes": u64::MAX, "delivery": nasty,
        "lastAckAt": "+262142-01-01T00:00:00Z", "session": {"transport": nasty, "node": nasty}});
    let components: serde_json::Map<String, Value> = (0..30)
        .map(|number| {
            (format!("{nasty}{number}"), json!({"status": "failing", "reason": nasty, "since": "0000-01-01T00:00:00Z"}))
        })
        .collect();
    json!({"at": "-262143-01-01T00:00:00Z", "node": nasty, "version": nasty, "uptimeSeconds": 1e300,
        "health": {"status": nasty, "live": false, "components": components}, "partitions": partitions,
        "gateways": {"total": u64::MAX, "states": {"parked": u64::MAX}, "listed": vec![gateway; 50]}})
}

#[test]
fn no_size_and_no_data_break_it() {
    let pictures = [json!({}), overview(0, 100), hostile()];
    for picture in pictures {
        let mut screen = of(picture);
        let sizes = (0..=12).chain([20, 40, 79, 80, 200]);
        for columns in sizes {
            for lines in (0..=18).chain([24, 60]) {
                for step in 0..5 {
                    match step {
                        1 => press(&mut screen, '2'),
                        2 => screen.miss("reset\u{1b}".into()),
                        3 => press(&mut screen, 'k'),
                        4 => {
                            press(&mut screen, 'n');
                            press(&mut screen, '3');
                            press(&mut screen, '?');
                        }
                        _ => {
                            screen.lost = None;
                            press(&mut screen, '1');
                        }
                    }
                    let area = Rect::new(0, 0, columns, lines);
                    let mut buffer = Buffer::empty(area);
                    draw(&mut screen, area, &mut buffer);
                    let bad = buffer.content.iter().find(|cell| cell.symbol().chars().any(char::is_control));
                    assert!(bad.is_none(), "{columns}x{lines}: {bad:?}");
                }
                press(&mut screen, 'x');
            }
            let text = plain(&mut screen, columns);
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
        }
    }
}

#[test]
fn lines_are_shared_out_by_what_is_wanted() {
    assert_eq!(shares([5, 5, 5], 30), [5, 5, 5]);
    assert_eq!(shares([100, 5, 6], 30), [19, 5, 6]);
    assert_eq!(shares([100, 200, 100], 30), [10, 10, 10]);
    assert_eq!(shares([4, 200, 7], 24), [4, 13, 7]);
}
