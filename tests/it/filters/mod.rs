//! Filters, as their users meet them: what is refused, what matches, and that the index finds
//! exactly what the reference says.

mod cel;
mod oracle;
mod refusals;
mod rules;
mod stored;

use std::sync::Arc;

use bson::{Document, RawDocumentBuf};
use proptest::test_runner::Config as ProptestConfig;
use serde_json::{Value, json};
use streamer::change::{Change, Flags, Operation, Scope};
use streamer::error::Problem;
use streamer::matching::{Filter, Matcher, SubscriptionIndex};
use streamer::position::{ClusterTime, Epoch, Position};
use streamer::subscription::Spec;

/// How many random cases: `PROPTEST_CASES` where it is set, as for a nightly run.
fn cases(ordinarily: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { ordinarily };
    // What is drawn and no valid request is drawn again; by default no oftener than some thousand cases need.
    let max_local_rejects = default.max_local_rejects.max(cases.saturating_mul(100));
    ProptestConfig { cases, max_shrink_iters: 4000, max_local_rejects, ..default }
}

/// A subscription to everything of `t`/`c`, with these fields instead.
fn request(fields: Value) -> Value {
    let mut request = json!({"subscriptionId": "s", "gatewayId": "g", "tenant": "t", "collection": "c"});
    for (name, value) in fields.as_object().expect("fields") {
        request[name] = value.clone();
    }
    request
}

fn compile(fields: Value) -> Result<Arc<Filter>, Problem> {
    Filter::compile(&Spec::from_json(&request(fields))?)
}

fn filter(fields: Value) -> Arc<Filter> {
    compile(fields.clone()).unwrap_or_else(|problem| panic!("{fields}: {problem}"))
}

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).expect("a test's document")
}

/// An update of `t`/`c` without a pre-image.
fn change(document: &Document) -> Change {
    Change {
        position: Position::new(Epoch(1), ClusterTime::new(1, 1), 1),
        scope: Scope::known("t", "c"),
        left: None,
        key: "k".into(),
        operation: Operation::Update,
        document: Some(raw(document)),
        before: None,
        changed: None,
        wall_time_ms: None,
        transaction: None,
        flags: Flags::none(),
    }
}

/// By the reference; the matcher must agree.
fn is_match(fields: Value, document: &Document) -> bool {
    let (filter, change) = (filter(fields), change(document));
    let expected = filter.evaluate(&change);
    let (mut matcher, mut out) = (Matcher::new(), Vec::new());
    matcher.insert(SubscriptionIndex(0), Arc::clone(&filter));
    matcher.matches(&change, &mut out);
    assert_eq!(out.first().map(|found| found.verdict), expected, "{filter:?} {document}");
    expected.is_some()
}
