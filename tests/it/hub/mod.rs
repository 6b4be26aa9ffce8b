//! Whole hubs against real servers.

mod consumers;
mod exactness;
mod history;
mod lifecycle;
mod python;
mod refusals;
mod registration;
mod restart;
mod servers;
mod site;
mod start_at;
mod takeover;
