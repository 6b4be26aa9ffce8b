//! All tests that need the outside: real servers, whole hubs, the simulation. One binary, a module a
//! behaviour, so that it links once.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod admin;
mod architecture;
mod bench;
mod check_config;
mod client;
mod command_line;
mod dashboard;
mod drill;
mod embedded_log;
mod filters;
mod groups;
mod hub;
mod machine;
mod nats;
mod operator;
mod python_consumer;
mod simulation;
mod source_mongo;
mod store;
mod support;
mod tail;
mod top;
