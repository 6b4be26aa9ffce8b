//! Whole hubs against real servers.

mod access;
mod backtest;
mod bridge;
mod cluster;
mod consumers;
mod costly;
mod exactness;
mod exchanged;
mod failover;
mod groups;
mod history;
mod idle;
mod lifecycle;
mod moved;
mod nats;
mod outage;
mod partitions;
mod python;
mod refusals;
mod registration;
mod restart;
mod scopes;
mod servers;
mod site;
mod start_at;
mod takeover;
