//! A subscription as its gateway asks for it.
//!
//! Owns the validated request. `Spec::from_json` is the only way in from outside; what it returns
//! has passed every rule that needs no compiler (`matching::Filter::compile` does the rest).

use std::fmt;
use std::sync::Arc;

use bson::Bson;
use serde::{Deserialize, Serialize};

use super::names::{GatewayId, SubscriptionId, SubscriptionKey};
use crate::change::Operation;
use crate::position::{ClusterTime, Position};

/// How a gateway is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryMode {
    /// gRPC or SSE.
    Stream,
    /// NATS JetStream.
    Nats,
}

impl DeliveryMode {
    /// The name in `PUT /v1/gateways/{g}`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Nats => "nats",
        }
    }
}

/// A dotted path, in steps. A number is a key on a map and an index on an array.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Path(pub Arc<[Arc<str>]>);

impl Path {
    /// Reads names joined by dots; `None` if one of them is empty or could not be a field's name.
    pub fn parse(text: &str) -> Option<Self> {
        let steps: Vec<Arc<str>> = text.split('.').map(Arc::from).collect();
        let named = |step: &Arc<str>| !step.is_empty() && !step.contains('\0');
        steps.iter().all(named).then(|| Self(steps.into()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(".")?;
            }
            f.write_str(step)?;
        }
        Ok(())
    }
}

/// One comparison of `filters`.
#[derive(Clone, PartialEq, Debug)]
pub struct FilterTerm {
    /// What is looked at.
    pub field: Path,
    /// How it is compared.
    pub op: Operator,
    /// With what; a list for the list operators, a boolean for `exists`.
    pub value: Bson,
}

/// The operators of `filters`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `in`
    In,
    /// `not-in`
    NotIn,
    /// `array-contains`
    ArrayContains,
    /// `array-contains-any`
    ArrayContainsAny,
    /// `starts-with`
    StartsWith,
    /// `exists`
    Exists,
}

impl Operator {
    /// All, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::Equal,
        Self::NotEqual,
        Self::Less,
        Self::LessOrEqual,
        Self::Greater,
        Self::GreaterOrEqual,
        Self::In,
        Self::NotIn,
        Self::ArrayContains,
        Self::ArrayContainsAny,
        Self::StartsWith,
        Self::Exists,
    ];

    /// The reverse of [`Self::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operator| operator.name() == name)
    }

    /// The name used on every interface.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::NotIn => "not-in",
            Self::ArrayContains => "array-contains",
            Self::ArrayContainsAny => "array-contains-any",
            Self::StartsWith => "starts-with",
            Self::Exists => "exists",
        }
    }
}

/// `start <= field <= stop`.
#[derive(Clone, PartialEq, Debug)]
pub struct Interval {
    /// What is looked at.
    pub field: Path,
    /// The least value that matches.
    pub start: Bson,
    /// The greatest value that matches.
    pub stop: Bson,
}

/// A set of operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Operations(u8);

impl Operations {
    /// All four.
    pub const ALL: Self = Self(15);

    /// Exactly these.
    pub fn of(operations: impl IntoIterator<Item = Operation>) -> Self {
        Self(operations.into_iter().fold(0, |bits, operation| bits | 1 << operation as u8))
    }

    /// Whether it is among them.
    pub fn contains(self, operation: Operation) -> bool {
        self.0 & (1 << operation as u8) != 0
    }

    /// Those in the set, in the order of the documentation.
    pub fn iter(self) -> impl Iterator<Item = Operation> {
        Operation::ALL.into_iter().filter(move |operation| self.contains(*operation))
    }
}

/// Where a subscription begins, if not now.
#[derive(Clone, PartialEq, Debug)]
pub enum StartAt {
    /// Changes after this cluster time, as after a snapshot read at it.
    OperationTime(ClusterTime),
    /// Changes from this second on (seconds since 1970).
    Second(u32),
    /// Changes after the place of this cursor text, any gateway's.
    Cursor(Arc<str>),
    /// Resolved: changes after this position.
    Position(Position),
}

/// A subscription as asked for.
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    /// Its name within the gateway.
    pub subscription_id: SubscriptionId,
    /// Whose it is.
    pub gateway_id: GatewayId,
    /// Only this tenant's changes.
    pub tenant: Arc<str>,
    /// Only this collection's.
    pub collection: Arc<str>,
    /// The backend, where one was named.
    pub backend: Option<Arc<str>>,
    /// All must hold.
    pub filters: Vec<FilterTerm>,
    /// Must hold.
    pub cel: Option<Arc<str>>,
    /// Must hold.
    pub interval: Option<Interval>,
    /// The operation must be among these.
    pub operations: Operations,
    /// Whether pre-images are evaluated too.
    pub transitions: bool,
    /// The fields of the body to deliver; `None` for all.
    pub fields: Option<Vec<Path>>,
    /// Where it begins; not part of what it *is*.
    pub start_at: Option<StartAt>,
    /// Its lease; not part of what it *is*.
    pub ttl_seconds: u32,
    /// By which generation gateways know it, where another partition of its backend was asked first; not part of what
    /// it *is*, and nothing that a gateway may send.
    pub generation: Option<u64>,
}

impl Spec {
    /// Its key among all.
    pub fn key(&self) -> SubscriptionKey {
        SubscriptionKey { gateway: self.gateway_id.clone(), id: self.subscription_id.clone() }
    }
}
