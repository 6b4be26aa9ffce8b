//! All tests that need the outside: real servers, whole hubs, the simulation. One binary, a module a
//! behaviour, so that it links once.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

// modules are listed here, one a line, with `mod name;` (files under tests/it/)
mod command_line;
mod embedded_log;
mod filters;
mod simulation;
