//! Observing: what an operator sees of a running hub.
//!
//! Owns logging, metrics and health. Is told things; asks nobody and decides nothing.

mod exemplars;
pub mod health;
pub mod log;
pub mod metrics;
pub mod trace;
