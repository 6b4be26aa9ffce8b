//! `streamer explain`: why a filter does or does not fire for a document.
//!
//! Owns the command's arguments and how the hub's account is printed. What it says is the hub's.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use comfy_table::{Table, presets};
use serde_json::{Map, Value};

use super::{CredentialArgs, Output, OutputArgs, WrongUsage};
use crate::client::{Registration, RegistrationError, Rejection};

/// Arguments of `streamer explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The hub's HTTP address
    #[arg(long, visible_alias = "url", default_value = "http://127.0.0.1:7700", value_name = "URL")]
    pub http: String,
    /// Whose change
    #[arg(long, value_name = "NAME")]
    pub tenant: String,
    /// Of which collection
    #[arg(long, value_name = "NAME")]
    pub collection: String,
    /// The document as Extended JSON
    #[arg(long, value_name = "JSON", conflicts_with = "file")]
    pub document: Option<String>,
    /// The document from a file; - for standard input
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The document as it was before, as Extended JSON
    #[arg(long, value_name = "JSON")]
    pub before: Option<String>,
    /// insert, update, replace or delete; guessed from the documents if absent
    #[arg(long, value_name = "NAME")]
    pub operation: Option<String>,
    /// Whose subscription is to be explained step by step
    #[arg(long, value_name = "NAME", requires = "subscription")]
    pub gateway: Option<String>,
    /// The subscription
    #[arg(long, value_name = "NAME", requires = "gateway")]
    pub subscription: Option<String>,
    /// Who asks.
    #[command(flatten)]
    pub credentials: CredentialArgs,
    /// How the account is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Asks the hub and prints what it says.
///
/// # Errors
/// A document that is no JSON, a change that the hub refuses, or a hub that cannot be reached.
pub async fn run(args: ExplainArgs) -> anyhow::Result<()> {
    let hub =
        Registration::with(&args.http, &args.credentials.read()?).map_err(|error| WrongUsage(error.to_string()))?;
    let answer = hub.explain(&question(&args)?).await.map_err(|error| match &error {
        RegistrationError::Refused(Rejection { status: 400 | 422, .. }) => WrongUsage(error.to_string()).into(),
        _ => anyhow::Error::from(error),
    })?;
    let text = match args.output.output {
        Output::Json => format!("{answer:#}\n"),
        Output::Text => in_words(&answer),
    };
    io::stdout().write_all(text.as_bytes()).context("standard output")
}

fn question(args: &ExplainArgs) -> anyhow::Result<Value> {
    let json = |name: &str, text: &str| {
        serde_json::from_str::<Value>(text).map_err(|error| WrongUsage(format!("{name}: is no JSON: {error}")))
    };
    let mut question = Map::new();
    let mut put = |name: &str, value: Option<Value>| drop(value.map(|value| question.insert(name.to_owned(), value)));
    put("tenant", Some(args.tenant.as_str().into()));
    put("collection", Some(args.collection.as_str().into()));
    put("operation", args.operation.as_deref().map(Value::from));
    put("gatewayId", args.gateway.as_deref().map(Value::from));
    put("subscriptionId", args.subscription.as_deref().map(Value::from));
    put("before", args.before.as_deref().map(|text| json("--before", text)).transpose()?);
    put("document", args.document.as_deref().map(|text| json("--document", text)).transpose()?);
    if let Some(file) = &args.file {
        let mut text = String::new();
        match file.as_os_str() == "-" {
            true => io::stdin().read_to_string(&mut text).context("standard input")?,
            false => std::fs::File::open(file)
                .and_then(|mut file| file.read_to_string(&mut text))
                .with_context(|| format!("--file {}", file.display()))?,
        };
        put("document", Some(json("--file", &text)?));
    }
    Ok(question.into())
}

fn in_words(answer: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = String::new();
    if let Some(steps) = answer["subscription"]["steps"].as_array() {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["step", "result", "detail"]);
        for step in steps {
            table.add_row([word(&step["step"]), word(&step["result"]), word(&step["detail"])]);
        }
        text += &format!("{}\n\n", table.trim_fmt());
    }
    let matches = answer["matches"].as_array().map(Vec::as_slice).unwrap_or_default();
    let cost = &answer["cost"];
    let all = matches.len() as u64 + answer["unlistedMatches"].as_u64().unwrap_or_default();
    text += &format!(
        "{all} of {} subscriptions match; {} filters evaluated in {} µs\n",
        cost["subscriptions"], cost["evaluated"], cost["micros"]
    );
    for found in matches {
        let transition = found["transition"].as_str().map(|name| format!("  {name}")).unwrap_or_default();
        text += &format!("  {}/{}{transition}\n", word(&found["gatewayId"]), word(&found["subscriptionId"]));
    }
    text
}
