//! This machine: the listeners' addresses, where other nodes find this one, memory.
//!
//! Owns the judgement of them. Whether an address may be listened on without authentication is the configuration's own
//! rule, checked as it is read.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;

use super::table::Finding;
use crate::access::{self, RoleName};
use crate::config::{Config, StoreKind};

/// Whether a hub answers where this one is to listen.
pub(super) async fn hub_runs(config: &Config, patience: Duration) -> bool {
    // Nothing is said that a stranger might not hear: who it is shows in what he says.
    let http = reqwest::Client::builder().no_proxy().timeout(patience).danger_accept_invalid_certs(true).build();
    let Ok(http) = http else { return false };
    let scheme = if config.tls.certificate.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/health/live", reachable(config.http.listen));
    let Ok(answer) = http.get(url).send().await else { return false };
    let text = answer.text().await.unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|health| health.get("status").is_some())
}

/// Who listens everywhere is asked here.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let here: std::net::IpAddr = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(here);
    }
    address
}

/// Looks at all of it. `runs` says that a hub of this configuration seems to run already.
pub(super) async fn check(config: &Config, runs: bool, patience: Duration) -> Vec<Finding> {
    vec![
        listener("http.listen", config.http.listen, runs).await,
        listener("grpc.listen", config.grpc.listen, runs).await,
        address(config, patience).await,
        memory(config.memory.bytes, memory_bytes()),
    ]
    .into_iter()
    .chain(tokens(config))
    .chain(certificate(config))
    .collect()
}

/// Who may call, and whether this node is among those who may ask others.
fn tokens(config: &Config) -> Vec<Finding> {
    let Some(file) = &config.auth.tokens else { return Vec::new() };
    let target = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string());
    let roles = text.as_ref().map_err(Clone::clone).and_then(|text| access::check_tokens(text));
    let make = format!("streamer token --file {target} --name ops --role operator");
    let of_file = match &roles {
        Err(error) => Finding::failed("auth.tokens", &target, error).remedy(make),
        Ok(roles) if !roles.contains(&RoleName::Operator) => {
            Finding::warning("auth.tokens", &target, "nobody in it is an operator").remedy(make)
        }
        Ok(roles) => Finding::ok("auth.tokens", &target, format!("{} tokens", roles.len())),
    };
    let Some(token) = &config.auth.node_token else { return vec![of_file] };
    let role = text.ok().and_then(|text| access::role_of(&text, token));
    let remedy = format!(
        "streamer token --file {target} --name nodes --role node   # and its output in STREAMER__AUTH__NODE_TOKEN"
    );
    let of_node = match role {
        Some(RoleName::Node) => Finding::ok("auth.node_token", &target, "this node may ask others"),
        Some(_) => Finding::failed("auth.node_token", &target, "it is in the file, and not for nodes").remedy(remedy),
        None => Finding::failed("auth.node_token", &target, "it is not in the file").remedy(remedy),
    };
    vec![of_file, of_node]
}

fn certificate(config: &Config) -> Vec<Finding> {
    let tls = &config.tls;
    let mut findings = Vec::new();
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        let target = certificate.display().to_string();
        findings.push(match access::check_certificate(certificate, key) {
            Ok(()) => Finding::ok("tls.certificate", target, "it and its key belong together"),
            Err(error) => Finding::failed("tls.certificate", target, error),
        });
    }
    if let Some(ca) = &tls.ca {
        let target = ca.display().to_string();
        findings.push(match access::trusted(ca) {
            Ok(_) => Finding::ok("tls.ca", target, "holds certificates"),
            Err(error) => Finding::failed("tls.ca", target, error),
        });
    }
    findings
}

async fn listener(setting: &'static str, address: SocketAddr, runs: bool) -> Finding {
    let target = address.to_string();
    match TcpListener::bind(address).await {
        Ok(_) => Finding::ok(setting, target, "can be listened on"),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && runs => {
            Finding::ok(setting, target, "a hub listens there")
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let port = address.port();
            Finding::failed(setting, target, "another process listens there, and it is no hub")
                .remedy(format!("ss -ltnp 'sport = :{port}'   # whose it is; end that, or set {setting}"))
        }
        Err(error) => Finding::failed(setting, target, format!("cannot be listened on: {error}"))
            .remedy(format!("set {setting} to an address of this machine")),
    }
}

/// Where other nodes find this one.
async fn address(config: &Config, patience: Duration) -> Finding {
    let check = "node.address";
    let Some(address) = &config.node.address else {
        let detail = match config.store.kind {
            StoreKind::Etcd => format!("not set; other nodes reach this one at grpc.listen, {}", config.grpc.listen),
            StoreKind::Redb => "not set; there are no other nodes with this store".into(),
        };
        return Finding::skipped(check, "-", detail);
    };
    let remedy = "set node.address to the host:port at which other nodes reach grpc.listen";
    match timeout(patience, tokio::net::lookup_host(address.as_str())).await {
        Ok(Ok(mut found)) => match found.next() {
            Some(found) => Finding::ok(check, address, format!("is {found}")),
            None => Finding::failed(check, address, "has no address").remedy(remedy),
        },
        Ok(Err(error)) => Finding::failed(check, address, format!("cannot be resolved: {error}")).remedy(remedy),
        Err(_) => {
            let detail = format!("cannot be resolved: no answer within {} s", patience.as_secs_f32());
            Finding::failed(check, address, detail).remedy(remedy)
        }
    }
}

fn memory(budget: u64, there: Option<u64>) -> Finding {
    let (check, target) = ("memory.bytes", mib(budget));
    match there {
        None => Finding::skipped(check, target, "this system does not say how much memory it has"),
        Some(there) if budget <= there => Finding::ok(check, target, format!("of {}", mib(there))),
        Some(there) => {
            let detail =
                format!("there are only {}, so the hub would be killed before its budget is used up", mib(there));
            // What is not in the budget, above all subscriptions, needs room, too.
            Finding::warning(check, target, detail).remedy(format!("set memory.bytes to {} or less", there / 2))
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// What the machine has, or what this container may have of it.
fn memory_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).map(str::to_owned)?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    });
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits.into_iter().find_map(|path| read(path)?.trim().parse::<u64>().ok());
    [machine, limit].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::check_config::table::Outcome;

    #[test]
    fn a_budget_above_what_there_is_is_warned_of() {
        assert_eq!(memory(1 << 30, Some(1 << 30)).result, Outcome::Ok);
        let over = memory(2 << 30, Some(1 << 30));
        assert_eq!(
            (over.result, over.remedy.as_deref()),
            (Outcome::Warning, Some("set memory.bytes to 536870912 or less"))
        );
        assert_eq!(memory(1, None).result, Outcome::Skipped);
        assert!(memory_bytes().is_none_or(|bytes| bytes > 1 << 20));
    }

    #[tokio::test]
    async fn an_address_in_use_is_a_hubs_or_a_fault() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(listener("http.listen", address, true).await.result, Outcome::Ok);
        let fault = listener("http.listen", address, false).await;
        assert_eq!(fault.result, Outcome::Failed);
        assert!(fault.remedy.unwrap().contains(&address.port().to_string()));
        drop(taken);
        assert_eq!(listener("http.listen", address, false).await.result, Outcome::Ok);
        let elsewhere = listener("http.listen", "192.0.2.1:0".parse().unwrap(), false).await;
        assert_eq!(elsewhere.result, Outcome::Failed);
    }

    #[tokio::test]
    async fn an_address_for_other_nodes_must_be_one() {
        let mut config = Config::default();
        let patience = Duration::from_secs(5);
        assert_eq!(address(&config, patience).await.result, Outcome::Skipped);
        config.node.address = Some("127.0.0.1:7701".into());
        assert_eq!(address(&config, patience).await.result, Outcome::Ok);
        config.node.address = Some("no port".into());
        assert_eq!(address(&config, patience).await.result, Outcome::Failed);
    }
}
