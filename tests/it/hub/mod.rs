//! Whole hubs against real servers.

mod consumers;
mod exactness;
mod registration;
mod servers;
mod site;
