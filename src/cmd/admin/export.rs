//! `streamer admin export`: a hub's subscriptions as JSON Lines.
//!
//! Owns what of an answer is the subscription itself: what a registration may say, without where it begins.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::caller::{CallError, Caller, HubArgs};
use crate::limits;
use crate::subscription::REQUEST_FIELDS;

/// Arguments of `streamer admin export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Which hub.
    #[command(flatten)]
    pub hub: HubArgs,
    /// Only this tenant's
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Only this gateway's
    #[arg(long, value_name = "NAME", conflicts_with = "group")]
    pub gateway: Option<String>,
    /// Only this group's
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Write them here rather than to standard output; the file is there once it is whole
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Writes them.
///
/// # Errors
/// A hub that does not answer, or a file that cannot be written.
pub(super) async fn run(args: ExportArgs) -> anyhow::Result<()> {
    let hub = Caller::new(&args.hub)?;
    let deliveries = deliveries(&hub).await?;
    let named = [("tenant", &args.tenant), ("gatewayId", &args.gateway), ("group", &args.group)];
    let query: Vec<(&str, &str)> = named.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let mut sink = Sink::open(args.output.as_deref())?;
    let mut count = 0_u64;
    each(&hub, &query, |subscription| {
        count += 1;
        let line = line(subscription, &deliveries);
        serde_json::to_writer(&mut sink.writer, &line).map_err(io::Error::from)?;
        sink.writer.write_all(b"\n")
    })
    .await?
    .with_context(|| sink.name())?;
    sink.finish()?;
    eprintln!("{count} subscriptions");
    Ok(())
}

/// How each gateway is served.
pub(super) async fn deliveries(hub: &Caller) -> Result<HashMap<String, String>, CallError> {
    let answer = hub.call(Method::GET, "/v1/gateways", &[], None).await?;
    let gateways = answer["gateways"].as_array().into_iter().flatten();
    let text = |gateway: &Value, name: &str| gateway[name].as_str().map(str::to_owned);
    Ok(gateways.filter_map(|gateway| text(gateway, "gatewayId").zip(text(gateway, "delivery"))).collect())
}

/// All subscriptions, page by page, until `take` fails.
pub(super) async fn each<E>(
    hub: &Caller,
    query: &[(&str, &str)],
    mut take: impl FnMut(Value) -> Result<(), E>,
) -> Result<Result<(), E>, CallError> {
    let limit = limits::page_items_max.to_string();
    let mut after: Option<String> = None;
    loop {
        let mut query = [query, &[("limit", limit.as_str())]].concat();
        query.extend(after.as_deref().map(|after| ("after", after)));
        let mut page = hub.call(Method::GET, "/v1/subscriptions", &query, None).await?;
        let Value::Array(subscriptions) = page["subscriptions"].take() else {
            return Err(CallError::Failed("the hub answered a list without subscriptions".into()));
        };
        for subscription in subscriptions {
            if let Err(error) = take(as_asked_for(subscription)) {
                return Ok(Err(error));
            }
        }
        after = page["next"].as_str().map(str::to_owned);
        if after.is_none() {
            return Ok(Ok(()));
        }
    }
}

/// Without what the hub has made of it, and without where it began: that is over.
fn as_asked_for(subscription: Value) -> Value {
    let Value::Object(members) = subscription else { return subscription };
    let is_asked = |name: &str| REQUEST_FIELDS.contains(&name) && name != "startAt";
    Value::Object(members.into_iter().filter(|(name, _)| is_asked(name)).collect())
}

fn line(subscription: Value, deliveries: &HashMap<String, String>) -> Value {
    let delivery = subscription["gatewayId"].as_str().and_then(|gateway| deliveries.get(gateway));
    let mut members = Map::new();
    let delivery = delivery.map(|delivery| json!(delivery));
    members.insert("subscription".into(), subscription);
    members.extend(delivery.map(|delivery| ("delivery".to_owned(), delivery)));
    Value::Object(members)
}

/// Where lines go.
struct Sink {
    writer: BufWriter<Box<dyn Write>>,
    /// The file that is to be, and what it is until it is whole.
    file: Option<(PathBuf, tempfile::TempPath)>,
}

impl Sink {
    fn open(output: Option<&Path>) -> anyhow::Result<Self> {
        let boxed = |writer: Box<dyn Write>| BufWriter::new(writer);
        let Some(path) = output else { return Ok(Self { writer: boxed(Box::new(io::stdout())), file: None }) };
        let at = || format!("--output {}", path.display());
        // A pipe or a device is written to as it is.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let file = File::options().write(true).open(path).with_context(at)?;
            return Ok(Self { writer: boxed(Box::new(file)), file: None });
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let part = tempfile::Builder::new().prefix(".streamer-export-").tempfile_in(folder).with_context(at)?;
        let (file, part) = part.into_parts();
        Ok(Self { writer: boxed(Box::new(file)), file: Some((path.to_owned(), part)) })
    }

    fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "standard output".into(), |(path, _)| format!("--output {}", path.display()))
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.writer.flush().with_context(|| self.name())?;
        if let Some((path, part)) = self.file {
            let at = || format!("--output {}", path.display());
            File::open(&part).and_then(|file| file.sync_all()).with_context(at)?;
            part.persist(&path).with_context(at)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_was_asked_for_and_how_its_gateway_is_served() {
        let answered = json!({
            "subscriptionId": "s", "gatewayId": "gw", "tenant": "t", "collection": "c", "filters": [], "ttlSeconds": 300,
            "startAt": {"cursor": "x"}, "state": "live", "generation": 3, "activeFrom": {}, "expiresAt": "", "plan": {},
            "warnings": [],
        });
        let deliveries = HashMap::from([("gw".to_owned(), "nats".to_owned())]);
        assert_eq!(
            line(as_asked_for(answered), &deliveries).to_string(),
            r#"{"subscription":{"subscriptionId":"s","gatewayId":"gw","tenant":"t","collection":"c","filters":[],"ttlSeconds":300},"delivery":"nats"}"#
        );
        let grouped = json!({"subscriptionId": "s", "group": "g", "tenant": "t", "collection": "c", "member": "m"});
        let of_group = line(as_asked_for(grouped), &deliveries);
        assert_eq!(
            of_group,
            json!({"subscription": {"subscriptionId": "s", "group": "g", "tenant": "t", "collection": "c"}})
        );
    }

    #[test]
    fn a_file_is_there_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let mut sink = Sink::open(Some(&path)).unwrap();
        sink.writer.write_all(b"{}\n").unwrap();
        assert!(!path.exists());
        sink.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}\n");
        drop(Sink::open(Some(&path)).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "what was not finished leaves nothing");
        assert!(Sink::open(Some(Path::new("/nowhere/at/all"))).is_err());
    }
}
