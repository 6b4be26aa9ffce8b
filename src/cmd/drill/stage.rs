//! What a drill plays on: its servers, the lines between them, and the hub's plan.
//!
//! Owns the servers, and what is done to them. Knows nothing of who writes and who receives.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::super::WrongUsage;
use super::super::rig::{self, Database, Etcd, Hub, HubPlan, Line, MongodSize, Nats, Pid, Relay, ReplicaSet};
use super::consumer::Endpoints;
use super::script::{Drill, How, Scene, Server};
use super::{DrillArgs, StoreChoice, rules};
use crate::client::Registration;
use crate::config::{Config, StoreKind};
use crate::nats::{self, Endpoint, Login, StreamConfig};
use crate::tasks::Tasks;

/// Shorter than the default, so that a drill need not wait for it so long.
const ANSWER_SECONDS: u32 = 3;
/// A hub says something every second. Where there are others, a gateway that hears nothing for so long goes to one.
const SILENCE: Duration = Duration::from_secs(30);
const SILENCE_AMONG_SEVERAL: Duration = Duration::from_secs(4);
/// How long a hub may take to say who owns the partition.
const ASKING: Duration = Duration::from_secs(2);
/// What a hub with little room keeps: so little that a gateway which does not read for seconds is far behind.
const NARROW_WINDOW_BYTES: u64 = 2 << 20;
const NARROW_OUTBOX_BYTES: u64 = 512 << 10;
/// How the names of those begin whom NATS serves.
pub(super) const NATS_PREFIX: &str = "drill-nats-";
/// Who NATS knows; passwords are the same.
const HUB: &str = "hub";
const GATEWAYS: &str = "gateways";

/// Everything but the cast.
pub(super) struct Stage {
    pub(super) database: Database,
    pub(super) folder: PathBuf,
    /// Numbered writes a second, unless told otherwise.
    pub(super) rate: u32,
    nodes: Vec<Node>,
    /// The node that is broken next, or is broken.
    aimed: usize,
    sabotage: Option<&'static str>,
    mongod: Option<ReplicaSet>,
    etcd: Option<Etcd>,
    nats: Option<Nats>,
    /// Each node's own.
    relays: Vec<(usize, Server, Relay)>,
    /// The hub that runs, or ran last.
    hub_pid: watch::Sender<Option<Pid>>,
    tasks: Tasks,
}

/// A hub, and what it is started with.
struct Node {
    plan: HubPlan,
    config: Config,
    hub: Option<Hub>,
}

impl Node {
    fn hub(&mut self) -> anyhow::Result<&mut Hub> {
        self.hub.as_mut().context("the hub has not been started")
    }
}

impl Stage {
    /// Starts the servers.
    pub(super) async fn set(drill: &Drill, args: &DrillArgs, folder: &Path) -> anyhow::Result<Self> {
        let scene = drill.scene;
        check(&scene, args)?;
        let (tasks, name) = (Tasks::new(), format!("streamer_drill_{:08x}", rand::random::<u32>()));
        let mongod = match &args.servers.mongodb {
            Some(_) => None,
            None => {
                let binary = rig::find("mongod", args.servers.programs.mongod.as_deref(), "STREAMER_MONGOD")?;
                // Members share what one server alone may have.
                let cache_gib = (scene.mongod.cache_gib / scene.members as f64).max(0.25);
                let size = MongodSize { cache_gib, ..scene.mongod };
                Some(ReplicaSet::start(&binary, folder, scene.members, size).await?)
            }
        };
        let etcd = match (args.store, &args.servers.etcd) {
            (StoreChoice::Etcd, None) => {
                let binary = rig::find("etcd", args.servers.programs.etcd_program.as_deref(), "STREAMER_ETCD")?;
                Some(Etcd::start_all(&binary, folder, scene.etcds).await?)
            }
            _ => None,
        };
        let nats = if scene.has_nats() {
            let binary = rig::find("nats-server", args.servers.programs.nats_server.as_deref(), "STREAMER_NATS")?;
            Some(Nats::start(&binary, folder, &nats_users(false)).await?)
        } else {
            None
        };
        let uri = args.servers.mongodb.clone().or_else(|| mongod.as_ref().map(ReplicaSet::uri)).context("a MongoDB")?;
        let database = Database::connect(&uri, &name, rules::TENANT, rules::COLLECTION).await?;
        database.create(true).await?;

        let mut config = config(&scene, args, folder, &name);
        config.backends.0[0].uri = uri;
        let given = args.servers.etcd.clone().map(|url| vec![url]);
        if let Some(urls) = given.or_else(|| etcd.as_ref().map(Etcd::urls)) {
            config.store.endpoints = urls;
        }
        if let Some(nats) = &nats {
            config.nats.url = nats.url();
            config.nats.gateways = vec![format!("{NATS_PREFIX}*")];
            config.nats.subject_messages = scene.subject_messages;
            (config.nats.user, config.nats.password) = (Some(HUB.into()), Some(HUB.into()));
        }
        let mut nodes = Vec::new();
        for number in 0..scene.hubs {
            let (mut config, mut folder) = (config.clone(), folder.to_owned());
            if scene.hubs > 1 {
                config.node.id = node_name(number);
                folder = folder.join(node_name(number));
                std::fs::create_dir(&folder)?;
            }
            nodes.push(Node { plan: HubPlan::new(&folder, config.clone())?, config, hub: None });
        }
        let mut this = Self {
            database,
            folder: folder.to_owned(),
            rate: scene.rate,
            nodes,
            aimed: 0,
            sabotage: sabotage(drill, args),
            mongod,
            etcd,
            nats,
            relays: Vec::new(),
            hub_pid: watch::Sender::new(None),
            tasks,
        };
        for server in scene.relays {
            for node in 0..scene.hubs {
                this.lay_lines(node, *server).await?;
            }
        }
        Ok(this)
    }

    /// A hub reaches this server by relays, one to each member.
    async fn lay_lines(&mut self, node: usize, to: Server) -> anyhow::Result<()> {
        let ports = match to {
            Server::Mongod => vec![self.mongod()?.port()],
            Server::Etcd => self.etcd()?.ports().collect(),
            Server::Nats => vec![self.nats()?.port()],
            Server::Hub => return Ok(()),
        };
        let mut at = Vec::new();
        for port in ports {
            let relay = Relay::open(&self.tasks, port).await?;
            at.push(format!("127.0.0.1:{}", relay.port()));
            self.relays.push((node, to, relay));
        }
        let Node { plan, config, .. } = &mut self.nodes[node];
        match to {
            // Or the driver would ask the set for its members, and go there itself.
            Server::Mongod => config.backends.0[0].uri = format!("mongodb://{}/?directConnection=true", at[0]),
            // The gateways go there themselves.
            Server::Nats => config.nats.url = format!("nats://{}", at[0]),
            _ => config.store.endpoints = at.iter().map(|at| format!("http://{at}")).collect(),
        }
        plan.configure(config.clone())
    }

    /// Starts all hubs and waits until they are ready.
    pub(super) async fn start_hubs(&mut self) -> anyhow::Result<()> {
        for number in 0..self.nodes.len() {
            self.aimed = number;
            self.start(Server::Hub).await?;
            self.hub()?.ready().await?;
        }
        Ok(())
    }

    /// All of them run, and end in order.
    pub(super) async fn end_hubs(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            let hub = node.hub()?;
            hub.check()?;
            hub.terminate().await?;
        }
        Ok(())
    }

    /// One after the other.
    pub(super) async fn roll(&mut self) -> anyhow::Result<()> {
        for number in 0..self.nodes.len() {
            self.aimed = number;
            self.hub()?.terminate().await?;
            self.start(Server::Hub).await?;
            self.hub()?.ready().await?;
        }
        Ok(())
    }

    /// The owner of the partition is who is broken next.
    pub(super) async fn aim(&mut self, deadline: Instant) -> anyhow::Result<()> {
        let http = reqwest::Client::builder().no_proxy().timeout(ASKING).build()?;
        for node in self.nodes.iter().cycle() {
            anyhow::ensure!(Instant::now() < deadline, "nobody owns the partition");
            let asked = http.get(format!("{}/v1/partitions/default/0", node.plan.http_url())).send().await;
            let view: Value = match asked {
                Ok(answer) => answer.json().await.unwrap_or_default(),
                Err(_) => Value::Null,
            };
            let owner = self.nodes.iter().position(|node| view["owner"] == node.config.node.id.as_str());
            if let Some(owner) = owner {
                self.aimed = owner;
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Where a hub is.
    pub(super) fn http_url(&self) -> String {
        self.nodes[0].plan.http_url()
    }

    /// Where the hubs are.
    pub(super) fn endpoints(&self) -> Endpoints {
        let login = || Login::User { name: GATEWAYS.into(), password: GATEWAYS.into() };
        let nats = self.nats.as_ref().map(|nats| Endpoint { url: nats.url(), login: login(), ..Endpoint::default() });
        let of_all = |url: fn(&HubPlan) -> String| self.nodes.iter().map(|node| url(&node.plan)).collect();
        let silence = if self.nodes.len() > 1 { SILENCE_AMONG_SEVERAL } else { SILENCE };
        Endpoints { grpc: of_all(HubPlan::grpc_url), http: of_all(HubPlan::http_url), nats, silence }
    }

    /// The subscriptions of these gateways.
    pub(super) async fn register(&self, gateways: &[String]) -> anyhow::Result<()> {
        let registration = Registration::new(self.http_url())?;
        for gateway in gateways {
            for answer in registration.register_batch(&rules::subscriptions(gateway)).await? {
                answer.map_err(|rejection| anyhow::anyhow!("a registration is refused: {rejection}"))?;
            }
        }
        Ok(())
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self, server: Server) -> anyhow::Result<()> {
        match server {
            Server::Hub => self.hub()?.kill().await,
            Server::Mongod => self.mongod()?.kill().await,
            Server::Etcd => self.etcd()?.kill().await,
            Server::Nats => self.nats()?.kill().await,
        }
    }

    /// A server begins, or begins again on its data. A hub need not be ready yet.
    pub(super) async fn start(&mut self, server: Server) -> anyhow::Result<()> {
        match server {
            Server::Hub => {
                let node = &mut self.nodes[self.aimed];
                let hub = node.plan.start(self.sabotage)?;
                self.hub_pid.send_replace(Some(hub.pid()));
                node.hub = Some(hub);
                Ok(())
            }
            Server::Mongod => self.mongod()?.restart().await,
            Server::Etcd => self.etcd()?.restart().await,
            Server::Nats => self.nats()?.restart().await,
        }
    }

    /// SIGSTOP.
    pub(super) async fn freeze(&mut self, server: Server) -> anyhow::Result<()> {
        match server {
            Server::Hub => self.hub()?.freeze().await,
            Server::Mongod => self.mongod()?.freeze().await,
            Server::Etcd => self.etcd()?.freeze().await,
            Server::Nats => self.nats()?.freeze().await,
        }
    }

    /// SIGCONT.
    pub(super) async fn thaw(&mut self, server: Server) -> anyhow::Result<()> {
        match server {
            Server::Hub => self.hub()?.thaw().await,
            Server::Mongod => self.mongod()?.thaw().await,
            Server::Etcd => self.etcd()?.thaw().await,
            Server::Nats => self.nats()?.thaw().await,
        }
    }

    /// What becomes of the line to this server.
    pub(super) fn line(&self, to: Server, line: Line) -> anyhow::Result<()> {
        let is_meant = |(node, server, _): &&(usize, Server, Relay)| *node == self.aimed && *server == to;
        let mut lines = self.relays.iter().filter(is_meant).peekable();
        anyhow::ensure!(lines.peek().is_some(), "there is no line to cut");
        lines.for_each(|(.., relay)| relay.set(line));
        Ok(())
    }

    /// The hub's next start is with this changed.
    pub(super) fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) -> anyhow::Result<()> {
        let Node { plan, config, .. } = &mut self.nodes[self.aimed];
        change(config);
        plan.configure(config.clone())
    }

    /// The process that is the hub; it changes with each start.
    pub(super) fn hub_pid(&self) -> watch::Receiver<Option<Pid>> {
        self.hub_pid.subscribe()
    }

    pub(super) fn hub(&mut self) -> anyhow::Result<&mut Hub> {
        self.nodes[self.aimed].hub()
    }

    pub(super) fn mongod(&mut self) -> anyhow::Result<&mut ReplicaSet> {
        self.mongod.as_mut().context("this MongoDB is not the drill's own")
    }

    pub(super) fn etcd(&mut self) -> anyhow::Result<&mut Etcd> {
        self.etcd.as_mut().context("this etcd is not the drill's own")
    }

    pub(super) fn nats(&mut self) -> anyhow::Result<&mut Nats> {
        self.nats.as_mut().context("this drill has no NATS")
    }

    /// The stream takes nothing more; or does again.
    pub(super) async fn fill(&self, full: bool) -> anyhow::Result<()> {
        let endpoint = self.endpoints().nats.context("this drill has no NATS")?;
        let config =
            StreamConfig { name: self.nodes[0].config.nats.stream.clone(), subject_messages_max: 1, replicas: 1 };
        Ok(nats::Server::connect(&endpoint, config).await?.limit(full.then_some(1)).await?)
    }

    /// NATS knows the hub no more, but the gateways; or both again.
    pub(super) async fn revoke(&mut self, revoked: bool) -> anyhow::Result<()> {
        self.nats()?.reconfigure(&nats_users(revoked)).await
    }

    /// A borrowed MongoDB is left as it was found.
    pub(super) async fn clear(self) -> anyhow::Result<()> {
        let cleared = if self.mongod.is_none() { self.database.drop_all().await } else { Ok(()) };
        drop(self.relays);
        self.tasks.drain(Duration::from_secs(1)).await;
        cleared
    }
}

fn node_name(number: usize) -> String {
    format!("drill-hub-{}", number + 1)
}

fn check(scene: &Scene, args: &DrillArgs) -> Result<(), WrongUsage> {
    let touched = |server| scene.breaks.contains(&server) || scene.relays.contains(&server);
    if (touched(Server::Mongod) || scene.members > 1) && args.servers.mongodb.is_some() {
        return Err(WrongUsage("--mongodb: this drill breaks MongoDB, and so starts one of its own".into()));
    }
    let of_etcd = touched(Server::Etcd) || scene.hubs > 1 || scene.lease_seconds != Scene::PLAIN.lease_seconds;
    if of_etcd && args.store != StoreChoice::Etcd {
        return Err(WrongUsage("--store: this drill is about etcd".into()));
    }
    if touched(Server::Etcd) && args.servers.etcd.is_some() {
        return Err(WrongUsage("--etcd: this drill breaks etcd, and so starts one of its own".into()));
    }
    Ok(())
}

/// Whom NATS lets in.
fn nats_users(revoked: bool) -> String {
    let user = |name: &str, is_in: bool| {
        let password = if is_in { name } else { "another" };
        format!("{{ user: {name}, password: {password} }}")
    };
    format!("authorization {{ users: [ {}, {} ] }}", user(HUB, !revoked), user(GATEWAYS, true))
}

fn config(scene: &Scene, args: &DrillArgs, folder: &Path, name: &str) -> Config {
    let mut config = Config::default();
    config.node.id = "drill-hub".into();
    config.backends.0[0].database = Some(name.into());
    config.backends.0[0].answer_seconds = ANSWER_SECONDS;
    config.store.path = folder.join("store.redb");
    config.store.prefix = format!("/{name}");
    config.store.lease_seconds = scene.lease_seconds;
    config.store.kind = match args.store {
        StoreChoice::Etcd => StoreKind::Etcd,
        StoreChoice::Redb => StoreKind::Redb,
    };
    if scene.narrow {
        config.window.bytes = NARROW_WINDOW_BYTES;
        config.sessions.outbox_bytes = NARROW_OUTBOX_BYTES;
    }
    config
}

fn sabotage(drill: &Drill, args: &DrillArgs) -> Option<&'static str> {
    match drill.sabotage.how {
        How::Hub(mistake) if args.sabotage => Some(mistake),
        _ => None,
    }
}
