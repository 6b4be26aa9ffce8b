//! `streamer bench scale`: how a great installation lies on its nodes, what its store has to bear, and its storms.
//!
//! Owns the sum. Rings, pages of cursors and sizes of transactions are the product's own code; what a store can take is
//! measured on an etcd that this starts; what a node can take stands in `docs/scaling.md` with its own commands.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use super::super::rig::{self, Etcd, Machine};
use super::super::{Output, OutputArgs};
use crate::cursor::{Place, Serial};
use crate::limits;
use crate::position::{ClusterTime, Epoch, PartitionId, Position};
use crate::ring::{Ring, point_of};
use crate::store::Revision;
use crate::store::cursors::{self, CursorPage, CursorRecord};
use crate::subscription::GatewayId;

/// What a subscription's record takes, with a filter of one term.
const RECORD_BYTES: usize = 400;

/// Arguments of `streamer bench scale`.
#[derive(Args, Debug)]
pub struct ScaleArgs {
    /// Client connections, each with one subscription
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub clients: u32,
    /// Gateways that hold them, members of one group
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub gateways: u32,
    /// Backends, of one partition each
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub backends: u32,
    /// Hubs that share them
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100))]
    pub hubs: u32,
    /// How long the store is measured
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    pub seconds: u64,
    /// The etcd to start; without it the one on the PATH
    #[arg(long, env = "STREAMER_ETCD", value_name = "FILE")]
    pub etcd_program: Option<PathBuf>,
    /// How the table is printed.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How keys lie on a ring.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Spread {
    least: u32,
    most: u32,
    /// Of the mean.
    deviation_percent: f64,
}

/// What becomes of it when one member is lost.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Loss {
    moved: u32,
    /// Keys that moved though their member lives. There must be none.
    moved_of_others: u32,
    most_gained: u32,
    /// To look up all keys anew.
    look_up_ms: f64,
}

/// What the store bears each second while everything is in motion.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Writes {
    pages: usize,
    page_bytes: usize,
    checkpoints: u32,
    lease_renewals: f64,
}

/// What an etcd of one member on this machine took.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Store {
    /// Transactions a second that write a page under a fence.
    pages: f64,
    /// Transactions a second that write 126 subscriptions' records.
    batches: f64,
    /// Single small records a second.
    records: f64,
}

/// How long a storm lasts as far as the store decides.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Storm {
    name: &'static str,
    transactions: u64,
    seconds: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    bench: &'static str,
    clients: u32,
    gateways: u32,
    backends: u32,
    hubs: u32,
    machine: Machine,
    members: Spread,
    member_lost: Loss,
    partitions: Spread,
    hub_lost: Loss,
    writes: Writes,
    store: Store,
    storms: Vec<Storm>,
}

/// Works it out and prints it.
pub(super) async fn run(args: ScaleArgs) -> anyhow::Result<()> {
    let gateways: Vec<Arc<str>> = (1..=args.gateways).map(|n| format!("edge-{n}").into()).collect();
    let hubs: Vec<Arc<str>> = (1..=args.hubs).map(|n| format!("hub-{n}").into()).collect();
    let clients: Vec<u64> = (0..args.clients).map(|n| point_of(&format!("edge/client-{n}"))).collect();
    let partitions: Vec<u64> = (1..=args.backends).map(|n| point_of(&format!("backend-{n}/0"))).collect();
    let (members, member_lost) = shares(&gateways, &clients);
    let (partitions, hub_lost) = shares(&hubs, &partitions);
    let writes = writes(&args, &gateways)?;
    let folder = rig::folder()?;
    let etcd = Etcd::start(&rig::find("etcd", args.etcd_program.as_deref(), "STREAMER_ETCD")?, folder.path()).await?;
    let measured = Duration::from_secs(args.seconds.max(1));
    let store = Store {
        pages: etcd.rate(measured, 1, writes.page_bytes).await?,
        batches: etcd.rate(measured, limits::store_txn_operations_max - 1, RECORD_BYTES).await?,
        records: etcd.rate(measured, 1, RECORD_BYTES).await?,
    };
    let storms = storms(&args, &member_lost, &hub_lost, &store);
    let (machine, bench) = (Machine::here(), "scale");
    let ScaleArgs { clients, gateways, backends, hubs, .. } = args;
    let report = Report {
        bench,
        clients,
        gateways,
        backends,
        hubs,
        machine,
        members,
        member_lost,
        partitions,
        hub_lost,
        writes,
        store,
        storms,
    };
    match args.output.output {
        Output::Json => println!("{}", json!(report)),
        Output::Text => print(&report),
    }
    Ok(())
}

/// How many keys each member has, and what becomes of them when the first one is lost.
fn shares(members: &[Arc<str>], keys: &[u64]) -> (Spread, Loss) {
    let (before, after) = (Ring::new(members.iter().cloned()), Ring::new(members[1..].iter().cloned()));
    let mut counts: BTreeMap<&str, (u32, u32)> = members.iter().map(|member| (&**member, (0, 0))).collect();
    let (mut moved, mut moved_of_others) = (0, 0);
    let began = Instant::now();
    let now: Vec<_> = keys.iter().map(|key| after.member_at(*key)).collect();
    let look_up_ms = began.elapsed().as_secs_f64() * 1_000.0;
    for (key, has) in keys.iter().zip(now) {
        let (had, has) = (before.member_at(*key).map_or("", |it| it), has.map_or("", |it| it));
        if let Some(count) = counts.get_mut(had) {
            count.0 += 1;
        }
        if had != has {
            moved += 1;
            moved_of_others += u32::from(*had != *members[0]);
            if let Some(count) = counts.get_mut(has) {
                count.1 += 1;
            }
        }
    }
    let had = counts.values().map(|(had, _)| *had);
    let mean = keys.len() as f64 / members.len() as f64;
    let variance = had.clone().map(|had| (f64::from(had) - mean).powi(2)).sum::<f64>() / members.len() as f64;
    let spread = Spread {
        least: had.clone().min().unwrap_or_default(),
        most: had.max().unwrap_or_default(),
        deviation_percent: variance.sqrt() / mean * 100.0,
    };
    let most_gained = counts.values().map(|(_, gained)| *gained).max().unwrap_or_default();
    (spread, Loss { moved, moved_of_others, most_gained, look_up_ms })
}

/// Each second at most: every page on which a cursor has moved, in every partition.
fn writes(args: &ScaleArgs, gateways: &[Arc<str>]) -> anyhow::Result<Writes> {
    let mut pages: BTreeMap<u16, CursorPage> = BTreeMap::new();
    for name in gateways {
        let gateway = GatewayId::stored(&format!("edge/{name}"))?;
        let position = Position::new(Epoch(1), ClusterTime::new(1_763_000_000, 1), 1);
        let place = Place { position, known: Revision(1_000_000), ..Place::default() };
        let record = CursorRecord::new(Revision(1_000), Serial { session: 1, written: 1_000_000 }, &place, false, 0);
        pages.entry(cursors::page_of(&gateway)).or_default().cursors.insert(gateway.to_string(), record);
    }
    let partition = PartitionId::new("backend-1", 0);
    let keys: BTreeSet<_> = pages.keys().map(|page| cursors::key(&partition, *page)).collect();
    let page_bytes = pages.values().map(|page| page.encode().len()).max().unwrap_or_default();
    Ok(Writes {
        pages: keys.len() * args.backends as usize,
        page_bytes,
        checkpoints: args.backends,
        // A node's own lease and those of its partitions, three times in a lease of 15 s.
        lease_renewals: f64::from(args.hubs + args.backends) / 5.0,
    })
}

/// What each asks of the store, and how long that takes it.
fn storms(args: &ScaleArgs, member: &Loss, hub: &Loss, store: &Store) -> Vec<Storm> {
    let backends = u64::from(args.backends);
    // A session's number, and its gateway's record in each partition.
    let opening = |sessions: u64| sessions * (1 + backends);
    let batches = |records: u64| records.div_ceil(limits::store_txn_operations_max as u64 - 1);
    let storm = |name, records: u64, batches: u64| {
        let seconds = records as f64 / store.records + batches as f64 / store.batches;
        Storm { name, transactions: records + batches, seconds }
    };
    // A client's subscription is of one backend.
    vec![
        storm("a gateway is lost: its clients' subscriptions move", 0, batches(member.moved.into())),
        storm("it comes back: they move again", opening(1), batches(member.moved.into())),
        storm(
            "a hub is lost: every gateway opens its session anew",
            u64::from(hub.moved) + opening(args.gateways.into()),
            0,
        ),
        storm("all clients register at once", 0, batches(args.clients.into())),
    ]
}

fn print(report: &Report) {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["what", "figure"]);
    let Report { members, member_lost, partitions, hub_lost, writes, store, .. } = report;
    let spread = |spread: &Spread| {
        format!("{} to {}, standard deviation {:.1} %", spread.least, spread.most, spread.deviation_percent)
    };
    let loss = |loss: &Loss| {
        format!("{} move, {} of others; nobody gains more than {}", loss.moved, loss.moved_of_others, loss.most_gained)
    };
    let mut row = |what: &str, figure: String| {
        table.add_row([what.to_owned(), figure]);
    };
    row("subscriptions of a gateway", spread(members));
    row("one gateway is lost", loss(member_lost));
    row("to look up all subscriptions anew", format!("{:.0} ms", member_lost.look_up_ms));
    row("partitions of a hub", spread(partitions));
    row("one hub is lost", loss(hub_lost));
    row("pages of cursors a second, at most", format!("{}, up to {} bytes", writes.pages, writes.page_bytes));
    row("checkpoints a second", writes.checkpoints.to_string());
    row("renewals of leases a second", format!("{:.1}", writes.lease_renewals));
    row("etcd: such pages a second", format!("{:.0}", store.pages));
    row("etcd: records a second, one by one", format!("{:.0}", store.records));
    row("etcd: transactions of 126 records a second", format!("{:.0}", store.batches));
    for storm in &report.storms {
        row(storm.name, format!("{} transactions, {:.1} s of etcd", storm.transactions, storm.seconds));
    }
    println!("{table}");
    println!(
        "\n{} clients, {} gateways, {} backends of one partition, {} hubs  ",
        report.clients, report.gateways, report.backends, report.hubs
    );
    println!("{}; etcd of one member", report.machine);
}
