//! Whole hubs against real servers.

mod consumers;
mod exactness;
mod servers;
mod site;
