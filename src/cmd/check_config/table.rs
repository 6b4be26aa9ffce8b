//! What was found, and how it is printed.
//!
//! Owns the outcomes. The names of checks are for programs to go by and do not change. Knows nothing of how anything
//! was found.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;

/// How a check went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// As it should be.
    Ok,
    /// A hub works with it, and worse than it could.
    Warning,
    /// No hub works with it.
    Failed,
    /// It could not be looked at, or there is nothing to look at.
    Skipped,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Ok, Self::Warning, Self::Failed, Self::Skipped];

    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Finding {
    /// What was looked at, such as `mongodb.oplog`.
    pub(super) check: &'static str,
    /// Of what.
    pub(super) target: String,
    /// How it went.
    pub(super) result: Outcome,
    /// One sentence.
    pub(super) detail: String,
    /// What to do about it, a command wherever one does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    fn new(check: &'static str, target: impl Into<String>, result: Outcome, detail: impl Into<String>) -> Self {
        Self { check, target: target.into(), result, detail: detail.into(), remedy: None }
    }

    pub(super) fn ok(check: &'static str, target: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(check, target, Outcome::Ok, detail)
    }

    pub(super) fn warning(check: &'static str, target: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(check, target, Outcome::Warning, detail)
    }

    pub(super) fn failed(check: &'static str, target: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(check, target, Outcome::Failed, detail)
    }

    pub(super) fn skipped(check: &'static str, target: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(check, target, Outcome::Skipped, detail)
    }

    /// With what to do about it.
    pub(super) fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

/// A line a check, what to do on a line of its own below: commands are too long for a column, and are there to be
/// copied.
pub(super) fn in_words(findings: &[Finding]) -> String {
    let width = |length: fn(&Finding) -> usize, heading: &str| {
        findings.iter().map(length).chain([heading.len()]).max().unwrap_or_default()
    };
    let checks = width(|finding| finding.check.len(), "check");
    let targets = width(|finding| finding.target.chars().count(), "target");
    let mut text = format!("{:7}  {:checks$}  {:targets$}  detail\n", "result", "check", "target");
    for Finding { check, target, result, detail, remedy } in findings {
        let result = result.name();
        // Writing to a text does not fail.
        let _ = writeln!(text, "{result:7}  {check:checks$}  {target:targets$}  {detail}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:7}  remedy: {remedy}", "");
        }
    }
    let count = |outcome: Outcome| findings.iter().filter(|finding| finding.result == outcome).count();
    let sums: Vec<String> =
        Outcome::ALL.into_iter().map(|outcome| format!("{} {}", count(outcome), outcome.name())).collect();
    let _ = writeln!(text, "\n{}", sums.join(", "));
    text
}

/// The same for programs.
pub(super) fn as_data(findings: &[Finding]) -> String {
    let has = |outcome: Outcome| findings.iter().any(|finding| finding.result == outcome);
    let result = [Outcome::Failed, Outcome::Warning].into_iter().find(|outcome| has(*outcome)).unwrap_or(Outcome::Ok);
    format!("{:#}\n", json!({ "result": result, "checks": findings }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("a.b", "one", "as it should be"),
            Finding::warning("long.check", "another", "not so good").remedy("do(this)"),
        ]
    }

    #[test]
    fn a_remedy_stands_below_its_check_as_it_is() {
        let text = in_words(&findings());
        assert_eq!(
            text,
            "result   check       target   detail\n\
             ok       a.b         one      as it should be\n\
             warning  long.check  another  not so good\n         remedy: do(this)\n\n\
             1 ok, 1 warning, 0 failed, 0 skipped\n"
        );
    }

    #[test]
    fn the_worst_finding_is_the_result() {
        let result = |findings: &[Finding]| {
            serde_json::from_str::<serde_json::Value>(&as_data(findings)).unwrap()["result"].clone()
        };
        assert_eq!(result(&findings()[..1]), "ok");
        assert_eq!(result(&findings()), "warning");
        assert_eq!(result(&[findings(), vec![Finding::failed("c", "d", "e")]].concat()), "failed");
        assert_eq!(result(&[Finding::skipped("c", "d", "e")]), "ok");
    }
}
