//! Text for a terminal: made harmless, made short.
//!
//! Owns what may reach a terminal of a text that came from elsewhere, and how numbers, spans and times
//! are written where there is little room.

use chrono::{DateTime, Utc};
use ratatui::text::Span;

/// Nothing that is shown is longer; a name has at most a few dozen characters.
const CHARS_MAX: usize = 300;

/// A text without what a terminal would obey or a reader could be misled by: control characters, and
/// those that turn the direction of writing, take no room or break lines.
pub(super) fn clean(text: &str) -> String {
    text.chars().take(CHARS_MAX).map(|c| if is_harmless(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

fn is_harmless(c: char) -> bool {
    let misleads = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    !c.is_control() && !misleads
}

/// JSON in which no control character stands as itself. JSON writers escape those below space only, and
/// some terminals obey the ones above 0x7f.
pub(super) fn clean_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // In JSON a character that is not ASCII stands in texts only, where it may be escaped; those that
        // this meets all have four digits or are left as they are.
        if c != '\n' && u32::from(c) <= 0xffff && !is_harmless(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// How many columns a text takes.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// A text in so many columns, with … where it was cut.
pub(super) fn shorten(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    // Character by character first; some take more room together than each for itself.
    let (mut out, mut taken) = (String::new(), 0);
    for c in text.chars() {
        taken += width(c.encode_utf8(&mut [0; 4]));
        if taken > room {
            break;
        }
        out.push(c);
    }
    while width(&out) > room {
        out.pop();
    }
    out.push('…');
    out
}

/// `999`, `1.2k`, `34M`.
pub(super) fn count(number: f64) -> String {
    let mut rest = number;
    for unit in ["", "k", "M", "G", "T"] {
        if rest < 999.5 {
            let digits = if rest < 9.95 && !unit.is_empty() { 1 } else { 0 };
            return format!("{rest:.digits$}{unit}");
        }
        rest /= 1000.0;
    }
    ">999T".to_owned()
}

/// A rate: with a digit after the point where it is small.
pub(super) fn rate(number: Option<f64>) -> String {
    match number {
        None => "-".to_owned(),
        Some(number) if number > 0.0 && number < 9.95 => format!("{number:.1}"),
        Some(number) => count(number),
    }
}

/// `512 B`, `1.5 MB`.
pub(super) fn bytes(number: f64) -> String {
    let short = count(number);
    match short.strip_suffix(['k', 'M', 'G', 'T']) {
        Some(digits) => format!("{digits} {}B", &short[digits.len()..]),
        None => format!("{short} B"),
    }
}

/// A span of time: `0.2 s`, `95 s`, `12 min`, `3.4 h`, `12 d`.
pub(super) fn span(seconds: f64) -> String {
    const HOUR: f64 = 3600.0;
    if seconds < 0.0 {
        return format!("-{}", span(-seconds));
    }
    match seconds {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        _ if seconds < 119.5 => format!("{seconds:.0} s"),
        _ if seconds < 2.0 * HOUR - 30.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds < 48.0 * HOUR => format!("{:.1} h", seconds / HOUR),
        _ if seconds < 9999.5 * 24.0 * HOUR => format!("{:.0} d", seconds / HOUR / 24.0),
        _ => ">9999 d".to_owned(),
    }
}

/// What there may be none of.
pub(super) fn or_dash<T>(value: Option<T>, write: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), write)
}

/// The time of day.
pub(super) fn time_of_day(time: DateTime<Utc>) -> String {
    time.format("%H:%M:%S").to_string()
}

/// When something began, seen from now: the time of day, with the date if that is another.
pub(super) fn since(time: DateTime<Utc>, now: Option<DateTime<Utc>>) -> String {
    match now {
        Some(now) if now.date_naive() == time.date_naive() => time_of_day(time),
        _ => time.format("%Y-%m-%d %H:%M:%S").to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_passes() {
        assert_eq!(clean("gw\u{1b}[2J-1\r\n\u{9b}31m"), "gw\u{fffd}[2J-1\u{fffd}\u{fffd}\u{fffd}31m");
        assert_eq!(clean("a\u{202e}b\u{200b}c\u{e0041}"), "a\u{fffd}b\u{fffd}c\u{fffd}");
        assert_eq!(clean("tenant-ü/日本"), "tenant-ü/日本");
        assert_eq!(clean(&"x".repeat(10_000)).len(), CHARS_MAX);
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({ "a\u{7f}": "\u{9b}31m\u{202e} ü \u{1b}" });
        let text = clean_json(&format!("{value:#}"));
        assert!(!text.chars().any(|c| c != '\n' && !is_harmless(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn long_names_are_cut_to_the_columns_they_take() {
        assert_eq!(shorten("default/0", 9), "default/0");
        assert_eq!(shorten("default/0", 5), "defa…");
        assert_eq!(shorten("日本語", 4), "日…");
        assert_eq!(shorten("ab", 0), "");
    }

    #[test]
    fn numbers_and_spans_are_short() {
        let counts = [0.0, 999.0, 1000.0, 1234.0, 12_345.0, 999_999.0, f64::MAX].map(count);
        assert_eq!(counts, ["0", "999", "1.0k", "1.2k", "12k", "1.0M", ">999T"]);
        assert_eq!([None, Some(0.0), Some(0.25), Some(120.4)].map(rate), ["-", "0", "0.2", "120"]);
        assert_eq!([0.0, 1_500_000.0].map(bytes), ["0 B", "1.5 MB"]);
        let spans = [0.2, 95.0, 119.6, 7199.0, 86_400.0, 400_000.0, -3.0, f64::MAX].map(span);
        assert_eq!(spans, ["0.2 s", "95 s", "2 min", "2.0 h", "24.0 h", "5 d", "-3.0 s", ">9999 d"]);
    }
}
