//! `streamer admin import`: registers the subscriptions of a file.
//!
//! Owns how lines become batches, and what is told of each. One bad line spoils no other. Everything may be repeated:
//! what is there already is unchanged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::caller::{CallError, Caller, HubArgs, Patience, is_passing};
use super::export;
use crate::api::json::parse;
use crate::client::Rejection;
use crate::cmd::{Output, OutputArgs, WrongUsage};
use crate::error::{Code, Problem};
use crate::limits;
use crate::matching::Filter;
use crate::subscription::Spec;

/// Subscriptions in one call.
const BATCH_ITEMS_MAX: usize = 1_000;
/// Their texts together; one more may follow.
const BATCH_BYTES_MAX: usize = 8 << 20;

const _: () = assert!(BATCH_ITEMS_MAX <= limits::batch_items_max);
const _: () = assert!(BATCH_BYTES_MAX + 2 * limits::body_bytes_max < limits::batch_body_bytes_max);

/// Arguments of `streamer admin import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Which hub.
    #[command(flatten)]
    pub hub: HubArgs,
    /// Read lines from here rather than from standard input
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Change nothing; say what would be
    #[arg(long)]
    pub dry_run: bool,
    /// Where subscriptions begin that are created: an RFC 3339 time, a cursor, or what the HTTP interface takes as
    /// startAt; without it, now
    #[arg(long, value_name = "PLACE")]
    pub start_at: Option<String>,
    /// How the report is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Registers them and reports.
///
/// # Errors
/// A hub that does not answer, a file that cannot be read, or lines that were refused.
pub(super) async fn run(args: ImportArgs) -> anyhow::Result<()> {
    let hub = Caller::new(&args.hub)?;
    let start_at = args.start_at.as_deref().map(place).transpose()?;
    let (name, lines): (String, Box<dyn BufRead>) = match &args.input {
        Some(path) => {
            let name = format!("--input {}", path.display());
            let file = File::open(path).with_context(|| name.clone())?;
            (name, Box::new(BufReader::new(file)))
        }
        None => ("standard input".into(), Box::new(BufReader::new(io::stdin()))),
    };
    let mut import = Import::new(hub, args.dry_run);
    let done = import.all(lines, start_at.as_ref()).await.context(name);
    let report = import.report;
    let text = match args.output.output {
        Output::Text => report.to_string(),
        Output::Json => format!("{:#}\n", json!(report)),
    };
    io::stdout().write_all(text.as_bytes()).context("standard output")?;
    done?;
    let refused = report.refused.len();
    anyhow::ensure!(refused == 0, "{refused} refused");
    Ok(())
}

/// `startAt` as it was written on the command line.
fn place(text: &str) -> anyhow::Result<Value> {
    if text.trim_start().starts_with('{') {
        let read = serde_json::from_str(text);
        return read.map_err(|error| WrongUsage(format!("--start-at: is no JSON: {error}")).into());
    }
    let is_time = chrono::DateTime::parse_from_rfc3339(text).is_ok();
    Ok(if is_time { json!({ "operationTime": text }) } else { json!({ "cursor": text }) })
}

/// One subscription of the input.
#[derive(Debug)]
struct Line {
    number: usize,
    names: Names,
    subscription: Value,
    /// The same as it is sent.
    text: String,
    delivery: Option<String>,
}

/// As far as a line says who it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Names {
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_id: Option<String>,
}

impl Names {
    fn of(subscription: &Value) -> Self {
        let text = |name: &str| subscription[name].as_str().map(str::to_owned);
        Self { gateway_id: text("gatewayId"), group: text("group"), subscription_id: text("subscriptionId") }
    }
}

/// A line that was not taken, or whose gateway is not served as it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Refusal {
    line: usize,
    #[serde(flatten)]
    names: Names,
    code: String,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl Refusal {
    fn here(line: usize, names: Names, problem: Problem) -> Self {
        let Problem { code, detail, field, .. } = problem;
        Self { line, names, code: code.name().to_owned(), detail, field }
    }

    fn there(line: usize, names: Names, rejection: Rejection) -> Self {
        let Rejection { code, detail, field, .. } = rejection;
        Self { line, names, code, detail, field }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        let Names { gateway_id, group, subscription_id } = &self.names;
        if let (Some(owner), Some(id)) = (gateway_id.as_ref().or(group.as_ref()), subscription_id) {
            write!(f, "{owner}/{id}: ")?;
        }
        write!(f, "{}: {}", self.code, self.detail)?;
        match &self.field {
            Some(field) => write!(f, " (at {field})"),
            None => Ok(()),
        }
    }
}

/// What became of all.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    created: u64,
    unchanged: u64,
    /// Gateways that are served otherwise from now on.
    deliveries_changed: u64,
    refused: Vec<Refusal>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for refusal in &self.refused {
            writeln!(f, "{refusal}")?;
        }
        let Self { dry_run, created, unchanged, deliveries_changed, refused } = self;
        let would = if *dry_run { "dry run, so nothing was done: " } else { "" };
        write!(f, "{would}{created} created, {unchanged} unchanged, {} refused", refused.len())?;
        if *deliveries_changed > 0 {
            write!(f, ", delivery of {deliveries_changed} gateways changed")?;
        }
        writeln!(f)
    }
}

/// An import under way.
struct Import {
    hub: Caller,
    report: Report,
    /// How the input says that gateways are served, and which line said so first.
    deliveries: BTreeMap<String, (String, usize)>,
    /// Gateways that have a subscription of the input.
    gateways: BTreeSet<String>,
    /// What the hub has, by its key, where nothing is to be changed.
    known: HashMap<String, Spec>,
}

impl Import {
    fn new(hub: Caller, dry_run: bool) -> Self {
        let report = Report { dry_run, ..Report::default() };
        Self { hub, report, deliveries: BTreeMap::new(), gateways: BTreeSet::new(), known: HashMap::new() }
    }

    async fn all(&mut self, lines: impl BufRead, start_at: Option<&Value>) -> anyhow::Result<()> {
        if self.report.dry_run {
            self.known = known(&self.hub).await?;
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for (number, text) in (1..).zip(lines.split(b'\n')) {
            let text = text?;
            if text.trim_ascii().is_empty() {
                continue;
            }
            match read(number, text.trim_ascii(), start_at).and_then(|line| self.note(line)) {
                Ok(line) => {
                    bytes += line.text.len();
                    batch.push(line);
                }
                Err(refusal) => self.report.refused.push(*refusal),
            }
            if batch.len() == BATCH_ITEMS_MAX || bytes >= BATCH_BYTES_MAX {
                self.take(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        self.take(batch).await?;
        self.serve().await?;
        self.report.refused.sort_by_key(|refusal| refusal.line);
        Ok(())
    }

    /// Remembers how the line's gateway is served; two lines must not say otherwise.
    fn note(&mut self, line: Line) -> Result<Line, Box<Refusal>> {
        let (Some(gateway), Some(delivery)) = (&line.names.gateway_id, &line.delivery) else { return Ok(line) };
        let said = self.deliveries.entry(gateway.clone()).or_insert_with(|| (delivery.clone(), line.number));
        if said.0 == *delivery {
            return Ok(line);
        }
        let detail = format!("line {} says that {gateway} is served by {}", said.1, said.0);
        let problem = Problem::new(Code::InvalidRequest, detail).at("delivery");
        Err(Box::new(Refusal::here(line.number, line.names, problem)))
    }

    async fn take(&mut self, batch: Vec<Line>) -> Result<(), CallError> {
        if !self.report.dry_run {
            return self.register(batch).await;
        }
        for line in batch {
            self.compare(line);
        }
        Ok(())
    }

    /// Registers them; those that are refused for something that passes are registered again.
    async fn register(&mut self, mut batch: Vec<Line>) -> Result<(), CallError> {
        let mut patience = Patience::default();
        while !batch.is_empty() {
            let texts: Vec<&str> = batch.iter().map(|line| line.text.as_str()).collect();
            let body = format!("{{\"subscriptions\":[{}]}}", texts.join(","));
            let mut answer = self.hub.call(Method::POST, "/v1/subscriptions/batch", &[], Some(&body)).await?;
            let results = match answer["results"].take() {
                Value::Array(results) if results.len() == batch.len() => results,
                _ => return Err(CallError::Failed("the hub did not answer each of a batch's subscriptions".into())),
            };
            let (mut busy, mut again) = (Vec::new(), Vec::new());
            for (line, mut result) in batch.into_iter().zip(results) {
                match result["status"].as_u64() {
                    Some(201) => self.accept(line, true),
                    Some(200) => self.accept(line, false),
                    _ => match serde_json::from_value::<Rejection>(result["problem"].take()) {
                        Ok(rejection) if is_passing(&rejection) => {
                            again.push(line);
                            busy.push(rejection);
                        }
                        Ok(rejection) => {
                            self.report.refused.push(Refusal::there(line.number, line.names, rejection));
                        }
                        Err(_) => return Err(CallError::Failed("the hub answered no result that is one".into())),
                    },
                }
            }
            if !again.is_empty() && !self.hub.pause(&mut patience, None).await {
                let given_up = again.drain(..).zip(busy);
                let refusals = given_up.map(|(line, rejection)| Refusal::there(line.number, line.names, rejection));
                self.report.refused.extend(refusals);
            }
            batch = again;
        }
        Ok(())
    }

    fn accept(&mut self, line: Line, created: bool) {
        match created {
            true => self.report.created += 1,
            false => self.report.unchanged += 1,
        }
        self.gateways.extend(line.names.gateway_id);
    }

    /// What registering it would come to, but for what only the hub can tell: quotas, backends, places to begin at.
    fn compare(&mut self, line: Line) {
        let read = Spec::from_json(&line.subscription).and_then(|spec| Filter::compile(&spec).map(|_| spec));
        let spec = match read {
            Ok(spec) => spec,
            Err(problem) => {
                self.report.refused.push(Refusal::here(line.number, line.names, problem));
                return;
            }
        };
        let key = spec.key().to_text();
        let same = self.known.get(&key).map(|known| known.same_as(&spec));
        match same {
            Some(true) => self.accept(line, false),
            Some(false) => {
                let problem = Problem::new(Code::SubscriptionExists, "another subscription has this id");
                self.report.refused.push(Refusal::here(line.number, line.names, problem));
            }
            None => {
                self.known.insert(key, spec);
                self.accept(line, true);
            }
        }
    }

    /// Has gateways served as the input says. Those that are already are left alone.
    async fn serve(&mut self) -> Result<(), CallError> {
        let wanted: Vec<(String, String, usize)> = std::mem::take(&mut self.deliveries)
            .into_iter()
            .filter(|(gateway, _)| self.gateways.contains(gateway))
            .map(|(gateway, (delivery, line))| (gateway, delivery, line))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let served = export::deliveries(&self.hub).await?;
        for (gateway, delivery, line) in wanted {
            let is_so = match served.get(&gateway) {
                Some(served) => *served == delivery,
                // Only a hub that has not heard of it: one that the dry run has not made.
                None => delivery == "stream",
            };
            if is_so {
                continue;
            }
            if !self.report.dry_run {
                let body = json!({ "delivery": delivery }).to_string();
                match self.hub.call(Method::PUT, &format!("/v1/gateways/{gateway}"), &[], Some(&body)).await {
                    Ok(_) => {}
                    Err(CallError::Refused(rejection)) => {
                        let names = Names { gateway_id: Some(gateway), ..Names::default() };
                        self.report.refused.push(Refusal::there(line, names, rejection));
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            self.report.deliveries_changed += 1;
        }
        Ok(())
    }
}

/// What the hub has.
async fn known(hub: &Caller) -> Result<HashMap<String, Spec>, CallError> {
    let mut known = HashMap::new();
    let listed = export::each(hub, &[], |subscription| {
        let spec = Spec::from_json(&subscription)?;
        known.insert(spec.key().to_text(), spec);
        Ok::<_, Problem>(())
    });
    match listed.await? {
        Ok(()) => Ok(known),
        Err(problem) => Err(CallError::Failed(format!("the hub has a subscription that cannot be read: {problem}"))),
    }
}

/// Reads a line: a subscription with how its gateway is served, or a subscription alone.
fn read(number: usize, text: &[u8], start_at: Option<&Value>) -> Result<Line, Box<Refusal>> {
    let refused = |names: Names, problem: Problem| Err(Box::new(Refusal::here(number, names, problem)));
    let value = match parse(text) {
        Ok(value) => value,
        Err(problem) => return refused(Names::default(), problem),
    };
    let Value::Object(mut members) = value else {
        return refused(Names::default(), Problem::new(Code::InvalidRequest, "expected an object"));
    };
    let (subscription, delivery) = match members.remove("subscription") {
        None => (Value::Object(members), None),
        Some(subscription) => {
            let delivery = members.remove("delivery");
            if let Some(other) = members.keys().next() {
                let problem = Problem::new(Code::InvalidRequest, "there is only `subscription` and `delivery`");
                return refused(Names::of(&subscription), problem.at(other.clone()));
            }
            (subscription, delivery)
        }
    };
    let names = Names::of(&subscription);
    let delivery = match delivery {
        None => None,
        Some(Value::String(text)) if text == "stream" || text == "nats" => Some(text),
        Some(_) => {
            let problem = Problem::new(Code::InvalidRequest, "`delivery` is `stream` or `nats`");
            return refused(names, problem.at("delivery"));
        }
    };
    let subscription = match (subscription, start_at) {
        (Value::Object(members), Some(place)) => Value::Object(begun_at(members, place)),
        (other, _) => other,
    };
    let text = subscription.to_string();
    if text.len() > limits::body_bytes_max {
        let detail = format!("a subscription has at most {} bytes", limits::body_bytes_max);
        return refused(names, Problem::new(Code::PayloadTooLarge, detail));
    }
    Ok(Line { number, names, subscription, text, delivery })
}

fn begun_at(mut members: Map<String, Value>, place: &Value) -> Map<String, Value> {
    members.insert("startAt".into(), place.clone());
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Line, Box<Refusal>> {
        read(7, text.as_bytes(), None)
    }

    #[test]
    fn a_line_is_a_subscription_alone_or_with_its_gateways_delivery() {
        let alone = line(r#"{"subscriptionId":"s","gatewayId":"g"}"#).unwrap();
        let both = line(r#"{"subscription":{"subscriptionId":"s","gatewayId":"g"},"delivery":"nats"}"#).unwrap();
        assert_eq!((&alone.text, &alone.names), (&both.text, &both.names));
        assert_eq!((alone.delivery, both.delivery.as_deref()), (None, Some("nats")));
        assert_eq!(line(r#"{"subscription":{"group":"g"}}"#).unwrap().names.group.as_deref(), Some("g"));
    }

    #[test]
    fn what_is_no_line_is_refused_by_its_number() {
        for (text, code, field) in [
            ("nonsense", "INVALID_REQUEST", None),
            ("[]", "INVALID_REQUEST", None),
            (r#"{"subscription":{},"delivery":"mail"}"#, "INVALID_REQUEST", Some("delivery")),
            (r#"{"subscription":{},"position":1}"#, "INVALID_REQUEST", Some("position")),
            (r#"{"tenant":"a","tenant":"b"}"#, "INVALID_REQUEST", None),
        ] {
            let refusal = line(text).unwrap_err();
            assert_eq!((refusal.line, refusal.code.as_str(), refusal.field.as_deref()), (7, code, field), "{text}");
        }
        let large = format!(r#"{{"cel":"{}"}}"#, "x".repeat(limits::body_bytes_max));
        assert_eq!(line(&large).unwrap_err().code, "PAYLOAD_TOO_LARGE");
    }

    #[test]
    fn a_place_to_begin_at_is_a_time_a_cursor_or_what_the_interface_takes() {
        let time = "2026-11-21T10:00:00Z";
        assert_eq!(place(time).unwrap(), json!({ "operationTime": time }));
        assert_eq!(place(r#"{"operationTime":{"t":1,"i":2}}"#).unwrap(), json!({"operationTime": {"t": 1, "i": 2}}));
        assert_eq!(place("AbC-_9").unwrap(), json!({ "cursor": "AbC-_9" }));
        assert!(place("{").unwrap_err().is::<WrongUsage>());
        let begun = read(1, br#"{"subscriptionId":"s"}"#, Some(&json!({ "cursor": "x" }))).unwrap();
        assert_eq!(begun.text, r#"{"subscriptionId":"s","startAt":{"cursor":"x"}}"#);
    }

    #[test]
    fn a_report_names_each_refused_line() {
        let names = Names { gateway_id: Some("gw".into()), subscription_id: Some("s".into()), ..Names::default() };
        let problem = Problem::new(Code::InvalidFilter, "means nothing").at("filters[0].op");
        let refused = vec![Refusal::here(3, names, problem)];
        let report = Report { created: 2, refused, ..Report::default() };
        assert_eq!(
            report.to_string(),
            "line 3: gw/s: INVALID_FILTER: means nothing (at filters[0].op)\n2 created, 0 unchanged, 1 refused\n"
        );
        let data = json!(report);
        assert_eq!((&data["refused"][0]["line"], &data["refused"][0]["gatewayId"]), (&json!(3), &json!("gw")));
    }
}
