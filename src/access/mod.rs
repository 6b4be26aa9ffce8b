//! Who may call: tokens, roles and TLS.
//!
//! Owns the file of tokens and what each allows, the certificates, and how connections are taken with them. Which route
//! needs what is said where routes are (`api::guard`, `delivery::grpc`).

mod caller;
mod door;
mod follow;
mod tls;
mod tokens;

pub use self::caller::{Caller, Grant, Role};
pub use self::door::Door;
pub use self::tls::{Io, Tls, accepted, check_certificate, trusted};
pub use self::tokens::{Entry, RoleName, Token, check_tokens, digest, role_of};
