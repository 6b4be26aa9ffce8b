//! `streamer drill all`: one drill after the other, each on servers of its own.
//!
//! Owns which are chosen, the summary, and the JUnit file. With sabotage a drill has done well if it has
//! failed, and as it must.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::super::{Output, WrongUsage};
use super::catalogue::DRILLS;
use super::course::Interrupted;
use super::report::Report;
use super::script::Drill;
use super::{AllArgs, DrillArgs, ServerArgs, StoreChoice, find, play};

/// What became of one drill.
pub(super) struct Row {
    pub(super) drill: &'static Drill,
    /// What it found, or why it could not be carried through.
    pub(super) result: Result<Report, String>,
    /// What is wrong with that, if anything is.
    pub(super) complaint: Option<String>,
}

/// Runs the chosen drills and prints what became of them.
pub(super) async fn run(args: AllArgs) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for drill in chosen(&args.only, &args.skip)? {
        eprintln!("drill {}, about {} s: {}", drill.name, drill.seconds, drill.does);
        let of_drill = DrillArgs {
            report_dir: None,
            rounds: None,
            rate: args.rate,
            gateways: args.gateways,
            seed: args.seed,
            sabotage: args.sabotage,
            store: StoreChoice::Etcd,
            patience: args.patience,
            servers: ServerArgs { mongodb: None, etcd: None, programs: args.programs.clone() },
            output: args.output,
        };
        let played = play(drill, &of_drill, None).await;
        if let Err(error) = &played
            && error.is::<Interrupted>()
        {
            bail!("interrupted at drill {}", drill.name);
        }
        let result = played.map(|(report, _)| report).map_err(|error| super::super::one_line(&error));
        let complaint = complaint(drill, &result, args.sabotage);
        eprintln!("drill {}: {}", drill.name, complaint.as_deref().unwrap_or("as it should be"));
        rows.push(Row { drill, result, complaint });
    }
    match args.output.output {
        Output::Text => println!("{}", table(&rows)),
        Output::Json => println!("{}", json!({ "drills": rows.iter().map(row_json).collect::<Vec<_>>() })),
    }
    if let Some(path) = &args.junit {
        write_junit(path, &rows)?;
    }
    let bad: Vec<&str> = rows.iter().filter(|row| row.complaint.is_some()).map(|row| row.drill.name).collect();
    if bad.is_empty() {
        return Ok(());
    }
    bail!("{} of {} drills are not as they should be: {}", bad.len(), rows.len(), bad.join(", "))
}

fn chosen(only: &[String], skip: &[String]) -> Result<Vec<&'static Drill>, WrongUsage> {
    for name in only.iter().chain(skip) {
        find(name)?;
    }
    let is_chosen = |drill: &&Drill| {
        (only.is_empty() || only.iter().any(|name| name == drill.name)) && !skip.iter().any(|name| name == drill.name)
    };
    Ok(DRILLS.iter().filter(is_chosen).collect())
}

fn complaint(drill: &Drill, result: &Result<Report, String>, sabotage: bool) -> Option<String> {
    match (result, sabotage) {
        (Err(error), _) => Some(error.clone()),
        (Ok(report), false) => report.fault(),
        (Ok(report), true) if report.shows(drill.sabotage.shows) => None,
        (Ok(report), true) => {
            let found = report.fault().unwrap_or_else(|| "nothing".into());
            Some(format!("sabotaged it must show {:?}, and shows {found}", drill.sabotage.shows))
        }
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["drill", "writes", "matches", "resyncs", "recovery, ms", "took, s", "result"]);
    for Row { drill, result, complaint } in rows {
        let summary = result.as_ref().map(Report::summary).unwrap_or_default();
        let verdict = match (complaint, result) {
            (Some(complaint), _) => format!("NOT AS IT SHOULD BE: {complaint}"),
            (None, Ok(report)) => report.fault().map_or_else(|| "passed".into(), |fault| format!("noticed: {fault}")),
            (None, Err(error)) => error.clone(),
        };
        table.add_row([vec![drill.name.to_owned()], summary.to_vec(), vec![verdict]].concat());
    }
    table
}

fn row_json(row: &Row) -> Value {
    let report = match &row.result {
        Ok(report) => json!(report),
        Err(error) => json!({ "drill": row.drill.name, "error": error, "passed": false }),
    };
    json!({ "name": row.drill.name, "asItShouldBe": row.complaint.is_none(), "complaint": row.complaint, "report": report })
}

/// Says there what became of these.
pub(super) fn write_junit(path: &Path, rows: &[Row]) -> anyhow::Result<()> {
    std::fs::write(path, junit(rows)).with_context(|| format!("--junit: {}", path.display()))
}

/// The format that continuous integration reads: one case a drill.
fn junit(rows: &[Row]) -> String {
    let seconds = |row: &Row| row.result.as_ref().map_or(0.0, |report| report.took_seconds);
    let failures = rows.iter().filter(|row| row.complaint.is_some()).count();
    let total: f64 = rows.iter().map(seconds).sum();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"streamer drill\" tests=\"{}\" failures=\"{failures}\" time=\"{total:.1}\">\n",
        rows.len()
    );
    for row in rows {
        let case = format!("  <testcase classname=\"drill\" name=\"{}\" time=\"{:.1}\"", row.drill.name, seconds(row));
        let _ = match &row.complaint {
            None => writeln!(out, "{case}/>"),
            Some(complaint) => {
                writeln!(out, "{case}>\n    <failure message=\"{}\"/>\n  </testcase>", escaped(complaint))
            }
        };
    }
    out + "</testsuite>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drills_are_chosen_by_name_and_unknown_names_refused() {
        let names = |only: &[&str], skip: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
            let chosen = chosen(&owned(only), &owned(skip));
            chosen.map(|drills| drills.iter().map(|drill| drill.name).collect::<Vec<_>>()).map_err(|error| error.0)
        };
        assert_eq!(names(&[], &[]).unwrap().len(), DRILLS.len());
        assert_eq!(names(&["drop", "restart"], &["restart"]).unwrap(), ["drop"]);
        assert!(names(&["dorp"], &[]).unwrap_err().contains("drop"));
        assert!(names(&[], &["nothing-like-it"]).is_err());
    }

    #[test]
    fn a_failure_is_told_in_the_junit_file() {
        let row = |name, complaint: Option<&str>| Row {
            drill: find(name).unwrap(),
            result: Err("it broke".into()),
            complaint: complaint.map(str::to_owned),
        };
        let text = junit(&[row("drop", None), row("rename", Some("3 < 4 & \"so\""))]);
        assert!(text.contains("tests=\"2\" failures=\"1\""), "{text}");
        assert!(text.contains("name=\"drop\" time=\"0.0\"/>"), "{text}");
        assert!(text.contains("message=\"3 &lt; 4 &amp; &quot;so&quot;\""), "{text}");
    }
}
