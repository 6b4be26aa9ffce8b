//! Subscriptions: what a gateway asks for.
//!
//! Owns the request's shape and its validation, the filter language's texts, names and stored form.
//! Does not evaluate anything (`matching`) and keeps no state of who is served (`delivery`).

pub(crate) mod fields;
mod model;
mod names;
mod read;
mod value;
mod write;

pub use model::{DeliveryMode, FilterTerm, Interval, Operations, Operator, Path, Spec, StartAt};
pub use names::{GatewayId, Name, SubscriptionId, SubscriptionKey};
pub(crate) use read::{REQUEST_FIELDS, operation_time};
