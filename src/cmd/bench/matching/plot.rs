//! The cost of a change against the number of subscriptions, drawn.
//!
//! Owns a small SVG: a panel a workload, both axes logarithmic, a line a contender.

use std::fmt::Write as _;

use super::report::Row;
use super::workload::Workload;

const PANEL: (f64, f64) = (420.0, 300.0);
const MARGIN: Margin = Margin { left: 60.0, right: 110.0, top: 34.0, bottom: 40.0 };
const COLUMNS: usize = 2;
const COLOURS: [&str; 10] =
    ["#d62728", "#7f7f7f", "#2ca02c", "#1f77b4", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22"];

struct Margin {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// The powers of ten around some values.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Decades {
    first: i32,
    last: i32,
}

impl Decades {
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = values.fold((f64::MAX, 0.0), |(least, most), v| (v.min(least), v.max(most)));
        if most <= 0.0 {
            return Self { first: 0, last: 1 };
        }
        let first = least.log10().floor() as i32;
        Self { first, last: (most.log10().ceil() as i32).max(first + 1) }
    }

    /// Between 0 and 1.
    fn place(self, value: f64) -> f64 {
        (value.log10() - f64::from(self.first)) / f64::from(self.last - self.first)
    }
}

/// The whole picture.
pub(super) fn svg(rows: &[Row]) -> String {
    let mut workloads: Vec<Workload> = rows.iter().map(Row::workload).collect();
    workloads.dedup();
    let lines = workloads.len().div_ceil(COLUMNS).max(1);
    let (width, height) = (PANEL.0 * COLUMNS as f64, PANEL.1 * lines as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, workload) in workloads.into_iter().enumerate() {
        let (x, y) = (PANEL.0 * (number % COLUMNS) as f64, PANEL.1 * (number / COLUMNS) as f64);
        let rows: Vec<&Row> = rows.iter().filter(|row| row.workload() == workload).collect();
        let panel = panel(&workload.name(), &rows);
        // Writing to a text cannot fail.
        let _ = writeln!(out, "<g transform=\"translate({x} {y})\">\n{panel}</g>");
    }
    out + "</svg>\n"
}

fn panel(title: &str, rows: &[&Row]) -> String {
    let points = || rows.iter().filter_map(|row| Some((row, f64::from(row.subscriptions), row.nanos_per_change()?)));
    let across = Decades::around(points().map(|(_, x, _)| x));
    let up = Decades::around(points().map(|(.., y)| y));
    let (width, height) = (PANEL.0 - MARGIN.left - MARGIN.right, PANEL.1 - MARGIN.top - MARGIN.bottom);
    let at_x = |value| MARGIN.left + width * across.place(value);
    let at_y = |value| MARGIN.top + height * (1.0 - up.place(value));

    let mut out = String::new();
    let _ = writeln!(out, "<text x=\"{}\" y=\"18\" font-weight=\"bold\">{title}</text>", MARGIN.left);
    for decade in across.first..=across.last {
        let x = at_x(10_f64.powi(decade));
        let (top, bottom) = (MARGIN.top, MARGIN.top + height);
        let _ = writeln!(out, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#ddd\"/>");
        let label = count(decade);
        let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", bottom + 16.0);
    }
    for decade in up.first..=up.last {
        let y = at_y(10_f64.powi(decade));
        let (left, right) = (MARGIN.left, MARGIN.left + width);
        let _ = writeln!(out, "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>");
        let label = time(decade);
        let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", left - 6.0, y + 4.0);
    }
    let below = PANEL.1 - 6.0;
    let _ = writeln!(out, "<text x=\"{}\" y=\"{below}\">subscriptions; time a change</text>", MARGIN.left);

    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.contender) {
            names.push(row.contender);
        }
    }
    for (number, name) in names.into_iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let line: Vec<(f64, f64)> =
            points().filter(|(row, ..)| row.contender == name).map(|(_, x, y)| (at_x(x), at_y(y))).collect();
        let path: Vec<String> = line.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let path = path.join(" ");
        let _ = writeln!(out, "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>");
        for (x, y) in line {
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>");
        }
        let (x, y) = (MARGIN.left + width + 8.0, MARGIN.top + 12.0 + 15.0 * number as f64);
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{name}</text>");
    }
    out
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

#[cfg(test)]
mod tests {
    use super::super::contenders;
    use super::super::measure::{Figures, Outcome};
    use super::super::workload::Plan;
    use super::*;

    #[test]
    fn everybody_is_drawn() {
        let row = |subscriptions, contender: usize, rate| {
            let plan = Plan { workload: Workload::Chat, subscriptions };
            Row::new(&plan, &contenders()[contender], Outcome::Measured(Figures { rate, ..Figures::default() }))
        };
        let drawn = svg(&[row(1_000, 0, 1e6), row(1_000, 1, 1e7), row(10_000, 0, 1e5)]);
        assert!(drawn.starts_with("<svg") && drawn.ends_with("</svg>\n"), "{drawn}");
        assert_eq!((drawn.matches("<polyline").count(), drawn.matches("<circle").count()), (2, 3));
        for label in [">engine<", ">bare walk<", ">1k<", ">10k<", ">1 µs<", ">chat<"] {
            assert!(drawn.contains(label), "{label}: {drawn}");
        }
        assert!(svg(&[]).ends_with("</svg>\n"));
    }

    #[test]
    fn decades_enclose_the_values() {
        assert_eq!(Decades::around([1_000.0, 100_000.0].into_iter()), Decades { first: 3, last: 5 });
        assert_eq!(Decades::around([1_000.0].into_iter()), Decades { first: 3, last: 4 });
        assert_eq!(Decades::around([15.0, 150.0].into_iter()), Decades { first: 1, last: 3 });
    }
}
