//! Changes: one normalized event of a partition.
//!
//! Owns the shape that every part of the data path speaks of. Knows neither which source made a
//! change nor who will receive it.

use std::fmt;
use std::sync::Arc;

use bson::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use crate::position::Position;

/// What happened to the document.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// A new document.
    Insert,
    /// An update by operators or pipeline.
    Update,
    /// A replacement of the whole document.
    Replace,
    /// A removal.
    Delete,
}

impl Operation {
    /// All four, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Insert, Self::Update, Self::Replace, Self::Delete];

    /// The name used on every interface.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }

    /// The reverse of [`Self::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name() == name)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose document it is and in which collection; `None` is what could not be told.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Scope {
    /// `None` only for a delete without pre-image whose `_id` does not carry it.
    pub tenant: Option<Arc<str>>,
    /// Likewise.
    pub collection: Option<Arc<str>>,
}

impl Scope {
    /// A scope of which both parts are known.
    pub fn known(tenant: impl Into<Arc<str>>, collection: impl Into<Arc<str>>) -> Self {
        Self { tenant: Some(tenant.into()), collection: Some(collection.into()) }
    }
}

/// Fields that an update set and removed; paths are relative to the body.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Changed {
    /// Dotted path to new value.
    pub set: RawDocumentBuf,
    /// Dotted paths that are gone.
    pub removed: Vec<String>,
}

/// The transaction that a change was part of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transaction {
    /// The logical session's id as canonical UUID text.
    pub id: Box<str>,
    /// The transaction's number within that session.
    pub number: i64,
}

/// What the receiver must know about how a change was made. A small set of bits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct Flags(u8);

impl Flags {
    /// The document was looked up after the change and may be later than it.
    pub const LOOKUP: Self = Self(1);
    /// The body was left out.
    pub const REDUCED: Self = Self(2);
    /// Delivered by a catch-up.
    pub const REPLAYED: Self = Self(4);
    /// May have been handed over before, and is to be handed over again.
    pub const REDELIVERED: Self = Self(8);
    /// It may concern those in `matches`, who must look for themselves.
    pub const BROADCAST: Self = Self(16);

    const NAMES: [(Self, &'static str); 5] = [
        (Self::LOOKUP, "lookup"),
        (Self::REDUCED, "reduced"),
        (Self::REPLAYED, "replayed"),
        (Self::REDELIVERED, "redelivered"),
        (Self::BROADCAST, "broadcast"),
    ];

    /// No flag.
    pub const fn none() -> Self {
        Self(0)
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names used on every interface, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// One normalized event. Shared by everyone it is delivered to; never changed once made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    /// Its place; never a boundary.
    pub position: Position,
    /// Where the document is now (for a delete: where it was).
    pub scope: Scope,
    /// Where the document was before, if its tenant or collection changed with this change. Known
    /// only with a pre-image.
    pub left: Option<Scope>,
    /// The document's `_id` as text (`docs/filters.md`).
    pub key: Box<str>,
    /// What happened.
    pub operation: Operation,
    /// The body of the post-image. `None` for a delete, and where it was left out (`REDUCED`).
    pub document: Option<RawDocumentBuf>,
    /// The body of the pre-image, where one was recorded.
    pub before: Option<RawDocumentBuf>,
    /// For an update: what it touched.
    pub changed: Option<Changed>,
    /// The server's wall clock at the change, in milliseconds since 1970.
    pub wall_time_ms: Option<i64>,
    /// The transaction it was part of.
    pub transaction: Option<Transaction>,
    /// How it was made.
    pub flags: Flags,
}

impl Change {
    /// What keeping this change costs in memory, in bytes; an estimate from above.
    pub fn size_bytes(&self) -> usize {
        let raw = |document: &Option<RawDocumentBuf>| document.as_ref().map_or(0, |d| d.as_bytes().len());
        let changed = self
            .changed
            .as_ref()
            .map_or(0, |c| c.set.as_bytes().len() + c.removed.iter().map(|path| path.len() + 24).sum::<usize>());
        size_of::<Self>() + self.key.len() + raw(&self.document) + raw(&self.before) + changed
    }
}

/// Why a range of changes cannot be produced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Hash)]
#[serde(rename_all = "snake_case")]
pub enum ResyncReason {
    /// The oplog no longer reaches back far enough.
    HistoryLost,
    /// The watched collection or database was dropped or renamed away.
    Invalidated,
    /// Another collection was renamed onto a watched one.
    Replaced,
    /// A change too large for the server to hand out.
    Oversize,
    /// A change that could not be read.
    Undecodable,
    /// The deployment was restored from a backup, or is another one.
    Restored,
    /// The hub no longer knows the gateway or its cursor.
    Forgotten,
}

impl ResyncReason {
    /// The name used on every interface.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HistoryLost => "history_lost",
            Self::Invalidated => "invalidated",
            Self::Replaced => "replaced",
            Self::Oversize => "oversize",
            Self::Undecodable => "undecodable",
            Self::Restored => "restored",
            Self::Forgotten => "forgotten",
        }
    }
}
