//! All tests that need the outside: real servers, whole hubs, the simulation. One binary, a module a
//! behaviour, so that it links once.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod filters;
mod simulation;
