//! The HTTP interface.
//!
//! Owns routes, problem documents and the JSON of the interface. Asks the hub through `HubHandle`;
//! knows nothing of how it serves.

pub mod problem;
