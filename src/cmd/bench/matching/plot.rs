//! The cost of a change against the number of subscriptions, drawn: a panel a workload, a line a contender.

use super::super::plot::{self, Line, Panel, Scale};
use super::report::Row;
use super::workload::Workload;

/// The whole picture.
pub(super) fn svg(rows: &[Row]) -> String {
    let mut workloads: Vec<Workload> = rows.iter().map(Row::workload).collect();
    workloads.dedup();
    let panels: Vec<Panel> = workloads.into_iter().map(|workload| panel(workload, rows)).collect();
    plot::svg(&panels)
}

fn panel(workload: Workload, rows: &[Row]) -> Panel {
    let mut lines: Vec<Line> = Vec::new();
    for row in rows.iter().filter(|row| row.workload() == workload) {
        let point = row.nanos_per_change().map(|nanos| (f64::from(row.subscriptions), nanos));
        match lines.iter_mut().find(|line| line.name == row.contender) {
            Some(line) => line.points.extend(point),
            None => lines.push(Line { name: row.contender.to_owned(), points: point.into_iter().collect() }),
        }
    }
    let caption = "subscriptions; time a change";
    Panel { title: workload.name(), caption, across: Scale::Count, up: Scale::Nanos, lines }
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
}
