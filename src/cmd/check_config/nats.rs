//! NATS: whether deliveries can go through it.
//!
//! Owns the judgement; what the stream must be is `nats`' own to say.

use std::time::Duration;

use tokio::time::timeout;

use super::table::Finding;
use crate::config::{Config, without_password};
use crate::hub;
use crate::nats::{Flaw, Found, Server, Trouble};

/// Looks at it if a gateway's name can make it needed, or if asked to.
pub(super) async fn check(config: &Config, all: bool, patience: Duration) -> Vec<Finding> {
    let url = without_password(&config.nats.url);
    if config.nats.gateways.is_empty() && !all {
        let detail = "not looked at: no gateway is served by it by its name; --all looks all the same";
        return vec![Finding::skipped("nats.reachable", url, detail)];
    }
    let (endpoint, stream) = hub::nats_config(&config.nats);
    let silent = || Trouble::Unanswered(format!("no answer within {} s", patience.as_secs_f32()));
    let server = match timeout(patience, Server::connect(&endpoint, stream)).await.unwrap_or_else(|_| Err(silent())) {
        Ok(server) => server,
        Err(trouble) => {
            let remedy = match &trouble {
                Trouble::Misconfigured(_) => {
                    "correct nats.user and nats.password, nats.token, nats.nkey or nats.credentials, \
                     and nats.ca for tls://"
                }
                _ => "nats-server --jetstream --store_dir DIR   # or correct nats.url",
            };
            return vec![Finding::failed("nats.reachable", url, trouble.to_string()).remedy(remedy)];
        }
    };
    let bytes = server.message_bytes_max();
    let mut findings =
        vec![Finding::ok("nats.reachable", &url, format!("answers; takes messages of up to {} KiB", bytes >> 10))];
    let name = &config.nats.stream;
    let jetstream = |detail: &str| Finding::ok("nats.jetstream", &url, detail);
    let enabled = "is switched on";
    findings.extend(match timeout(patience, server.look()).await.unwrap_or_else(|_| Err(silent())) {
        Ok(Found::Absent) => {
            vec![jetstream(enabled), Finding::ok("nats.stream", name, "is not there yet; the hub makes it")]
        }
        Ok(Found::Fit(state)) => {
            let detail = format!("is as the hub needs it; {} messages so far", state.last_sequence);
            vec![jetstream(enabled), Finding::ok("nats.stream", name, detail)]
        }
        Ok(Found::Unfit(Flaw { what, mend })) => {
            vec![jetstream(enabled), Finding::failed("nats.stream", name, what).remedy(mend)]
        }
        Err(Trouble::Misconfigured(detail)) => {
            let remedy = "nats-server --jetstream --store_dir DIR   # or jetstream {} in its configuration, for the \
                          hub's account";
            vec![Finding::failed("nats.jetstream", &url, detail).remedy(remedy)]
        }
        Err(trouble) => vec![
            Finding::failed("nats.jetstream", &url, trouble.to_string())
                .remedy("nats server report jetstream   # a cluster without a leader answers nobody"),
        ],
    });
    findings
}
