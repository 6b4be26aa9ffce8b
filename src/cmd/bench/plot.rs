//! Measurements, drawn.
//!
//! Owns a small SVG: panels side by side, each with two axes and a line for everyone who was measured.

use std::fmt::Write as _;

const PANEL: (f64, f64) = (420.0, 300.0);
const MARGIN: Margin = Margin { left: 60.0, right: 110.0, top: 34.0, bottom: 40.0 };
const COLUMNS: usize = 2;
const COLOURS: [&str; 10] =
    ["#d62728", "#7f7f7f", "#2ca02c", "#1f77b4", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22"];
/// Steps of an even axis.
const STEPS: f64 = 5.0;

struct Margin {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// One picture among others.
pub(super) struct Panel {
    pub(super) title: String,
    /// What the axes are: across, then up.
    pub(super) caption: &'static str,
    pub(super) across: Scale,
    pub(super) up: Scale,
    pub(super) lines: Vec<Line>,
}

/// What was measured of one.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// What an axis counts, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scale {
    /// Things, by powers of ten.
    Count,
    /// Nanoseconds, by powers of ten.
    Nanos,
    /// How many there are for each that is later, by powers of ten: 100 is the 99th percentile.
    Percentile,
    /// Seconds, evenly from 0.
    Seconds,
    /// Thousands, evenly from 0.
    Thousands,
}

/// An axis from one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    scale: Scale,
    /// Of logarithms, where it goes by powers of ten.
    first: f64,
    last: f64,
}

impl Axis {
    /// Around some values.
    fn around(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = values.fold((f64::MAX, 0.0), |(least, most), v| (v.min(least), v.max(most)));
        let (first, last) = match (scale.is_even(), most > 0.0) {
            (_, false) => (0.0, 1.0),
            (true, true) => (0.0, most),
            (false, true) => {
                let first = least.log10().floor();
                (first, most.log10().ceil().max(first + 1.0))
            }
        };
        Self { scale, first, last }
    }

    /// Between 0 and 1.
    fn place(self, value: f64) -> f64 {
        let value = if self.scale.is_even() { value } else { value.log10() };
        (value - self.first) / (self.last - self.first)
    }

    /// Between 0 and 1, with what is written there.
    fn marks(self) -> Vec<(f64, String)> {
        let step = if self.scale.is_even() { (self.last - self.first) / STEPS } else { 1.0 };
        let count = ((self.last - self.first) / step).round() as i32;
        let mark = |number: i32| {
            let at = self.first + step * f64::from(number);
            (f64::from(number) / f64::from(count), self.scale.label(at))
        };
        (0..=count).map(mark).collect()
    }
}

impl Scale {
    fn is_even(self) -> bool {
        matches!(self, Self::Seconds | Self::Thousands)
    }

    /// Of a value, or of a power of ten.
    fn label(self, at: f64) -> String {
        match self {
            Self::Count => count(at as i32),
            Self::Nanos => time(at as i32),
            Self::Percentile => percentile(at as i32),
            Self::Seconds => format!("{at:.0} s"),
            Self::Thousands => format!("{at:.0}k"),
        }
    }
}

/// The whole picture.
pub(super) fn svg(panels: &[Panel]) -> String {
    let columns = COLUMNS.min(panels.len().max(1));
    let lines = panels.len().div_ceil(columns).max(1);
    let (width, height) = (PANEL.0 * columns as f64, PANEL.1 * lines as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let (x, y) = (PANEL.0 * (number % columns) as f64, PANEL.1 * (number / columns) as f64);
        // Writing to a text cannot fail.
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">\n{}</g>", panel.drawn());
    }
    out + "</svg>\n"
}

impl Panel {
    fn drawn(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let across = Axis::around(self.across, points().map(|point| point.0));
        let up = Axis::around(self.up, points().map(|point| point.1));
        let (width, height) = (PANEL.0 - MARGIN.left - MARGIN.right, PANEL.1 - MARGIN.top - MARGIN.bottom);
        let (top, bottom, left, right) = (MARGIN.top, MARGIN.top + height, MARGIN.left, MARGIN.left + width);

        let mut out = String::new();
        let _ = writeln!(out, "<text x=\"{left}\" y=\"18\" font-weight=\"bold\">{}</text>", self.title);
        for (place, label) in across.marks() {
            let x = left + width * place;
            let _ = writeln!(out, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#ddd\"/>");
            let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", bottom + 16.0);
        }
        for (place, label) in up.marks() {
            let y = bottom - height * place;
            let _ = writeln!(out, "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>");
            let (x, y) = (left - 6.0, y + 4.0);
            let _ = writeln!(out, "<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>");
        }
        let _ = writeln!(out, "<text x=\"{left}\" y=\"{}\">{}</text>", PANEL.1 - 6.0, self.caption);

        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let at = |(x, y): &(f64, f64)| (left + width * across.place(*x), bottom - height * up.place(*y));
            let points: Vec<(f64, f64)> = line.points.iter().map(at).collect();
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let path = path.join(" ");
            let _ =
                writeln!(out, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>");
            for (x, y) in points {
                let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>");
            }
            let (x, y) = (right + 8.0, top + 12.0 + 15.0 * number as f64);
            let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{}</text>", line.name);
        }
        out
    }
}

/// 10 to this power.
fn count(decade: i32) -> String {
    match decade {
        6.. => format!("{}M", 10_i64.pow(decade.unsigned_abs() - 6)),
        3..6 => format!("{}k", 10_i64.pow(decade.unsigned_abs() - 3)),
        0..3 => 10_i64.pow(decade.unsigned_abs()).to_string(),
        _ => format!("1e{decade}"),
    }
}

/// 10 to this power, in nanoseconds.
fn time(decade: i32) -> String {
    let (unit, above) = match decade {
        9.. => ("s", 9),
        6..9 => ("ms", 6),
        3..6 => ("µs", 3),
        _ => ("ns", 0),
    };
    format!("{} {unit}", 10_f64.powi(decade - above))
}

/// Of which one in 10 to this power is later.
fn percentile(decade: i32) -> String {
    match decade {
        ..=0 => "0 %".into(),
        1 => "90 %".into(),
        2.. => format!("99{}{} %", if decade > 2 { "." } else { "" }, "9".repeat(decade.unsigned_abs() as usize - 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_enclose_the_values() {
        let ends = |scale, values: &[f64]| {
            let axis = Axis::around(scale, values.iter().copied());
            (axis.first, axis.last)
        };
        assert_eq!(ends(Scale::Count, &[1_000.0, 100_000.0]), (3.0, 5.0));
        assert_eq!(ends(Scale::Count, &[1_000.0]), (3.0, 4.0));
        assert_eq!(ends(Scale::Count, &[15.0, 150.0]), (1.0, 3.0));
        assert_eq!(ends(Scale::Seconds, &[15.0, 20.0]), (0.0, 20.0));
        assert_eq!(ends(Scale::Seconds, &[]), (0.0, 1.0));
    }

    #[test]
    fn every_scale_says_what_it_is() {
        let labels = |scale, values: &[f64]| -> Vec<String> {
            Axis::around(scale, values.iter().copied()).marks().into_iter().map(|(_, label)| label).collect()
        };
        assert_eq!(labels(Scale::Count, &[10.0, 1e6]), ["10", "100", "1k", "10k", "100k", "1M"]);
        assert_eq!(labels(Scale::Nanos, &[500.0, 5e6]), ["100 ns", "1 µs", "10 µs", "100 µs", "1 ms", "10 ms"]);
        assert_eq!(labels(Scale::Percentile, &[1.0, 1e4]), ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert_eq!(labels(Scale::Seconds, &[20.0]), ["0 s", "4 s", "8 s", "12 s", "16 s", "20 s"]);
        assert_eq!(labels(Scale::Thousands, &[50.0]), ["0k", "10k", "20k", "30k", "40k", "50k"]);
    }
}
