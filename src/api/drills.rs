//! `GET /v1/drills`: how the last drills went.
//!
//! Owns the reading of their reports, which `streamer drill --report-dir` leaves in a folder.

use std::path::PathBuf;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::ApiState;
use super::answer;
use super::request::aside;
use crate::limits;

/// `GET /v1/drills`.
pub(super) async fn list(State(state): State<ApiState>) -> Response {
    let reports = match state.drills {
        Some(folder) => aside(move || read(&folder)).await,
        None => Vec::new(),
    };
    answer::ok(&json!({"reports": reports}))
}

/// The newest first. What is no report is somebody else's file.
fn read(folder: &PathBuf) -> Vec<Value> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let report = |file: PathBuf| {
        let is_report = file.extension().is_some_and(|extension| extension == "json");
        let is_small =
            std::fs::metadata(&file).is_ok_and(|it| it.is_file() && it.len() <= limits::drill_report_bytes_max);
        let text = (is_report && is_small).then(|| std::fs::read(&file).ok()).flatten()?;
        let report: Value = serde_json::from_slice(&text).ok()?;
        let is_whole = report["name"].is_string() && report["at"].is_string() && report["passed"].is_boolean();
        let keep = |name: &str| report[name].clone();
        is_whole.then(
            || json!({"name": keep("name"), "at": keep("at"), "passed": keep("passed"), "summary": keep("summary")}),
        )
    };
    let mut reports: Vec<Value> = entries.filter_map(|entry| report(entry.path())).collect();
    reports.sort_by(|a, b| b["at"].as_str().cmp(&a["at"].as_str()));
    reports.truncate(limits::drill_reports_max);
    reports
}
