//! Streamer: a change-stream fan-out hub.
//!
//! Modules stand in reading order. `docs/ARCHITECTURE.md` is the map.

#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod change;
pub mod client;
pub mod clock;
pub mod cmd;
pub mod config;
pub mod cursor;
pub mod delivery;
pub mod edge;
pub mod error;
pub mod handle;
pub mod hub;
pub mod limits;
pub mod matching;
pub mod nats;
pub mod observe;
mod paged;
pub mod peer;
pub mod pipeline;
pub mod position;
pub mod proto;
pub mod ring;
pub mod sabotage;
pub mod source;
pub mod store;
pub mod subscription;
pub mod tasks;
