//! Raw change events: their fields, read in place.
//!
//! Owns the names of a change event's fields, the server's and those that the pipeline adds. Decides
//! nothing about what they mean for a change (`decode`).

use bson::{RawBsonRef, RawDocument};

use super::token::cluster_time_of_token;
use crate::position::ClusterTime;

/// The field by which the pipeline's guard says what it took out.
pub(super) const REDUCED_FIELD: &str = "streamerReduced";
/// Value of [`REDUCED_FIELD`]: the pre-image was cut down to the fields of its scope.
pub(super) const REDUCED_BEFORE: i32 = 1;
/// Value of [`REDUCED_FIELD`]: both images were.
pub(super) const REDUCED_IMAGES: i32 = 2;

/// What kind of event it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Kind {
    /// A document was inserted.
    Insert,
    /// A document was updated by operators.
    Update,
    /// A document was replaced.
    Replace,
    /// A document was deleted.
    Delete,
    /// A collection was dropped.
    Drop,
    /// A collection got another name.
    Rename,
    /// A database was dropped, after each of its collections.
    DropDatabase,
    /// The stream ends here: what it was opened on was dropped.
    Invalidate,
    /// Anything else; of no concern.
    #[default]
    Other,
}

/// A database and a collection in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Namespace<'a> {
    pub(super) db: &'a str,
    /// Empty where only the database is meant.
    pub(super) coll: &'a str,
}

/// One change event. A field that is missing, null or of another type is `None`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawEvent<'a> {
    pub(super) kind: Kind,
    pub(super) token: Option<&'a RawDocument>,
    pub(super) cluster_time: Option<ClusterTime>,
    pub(super) ns: Namespace<'a>,
    /// The new name in a rename.
    pub(super) to: Namespace<'a>,
    pub(super) id: Option<RawBsonRef<'a>>,
    pub(super) after: Option<&'a RawDocument>,
    pub(super) before: Option<&'a RawDocument>,
    pub(super) update: Option<&'a RawDocument>,
    pub(super) wall_time_ms: Option<i64>,
    pub(super) session: Option<&'a RawDocument>,
    pub(super) transaction: Option<i64>,
    /// 0, [`REDUCED_BEFORE`] or [`REDUCED_IMAGES`].
    pub(super) reduced: i32,
}

impl<'a> RawEvent<'a> {
    /// Reads the fields in one pass. Never fails: bytes that cannot be read end the pass, and what
    /// was not reached is missing.
    pub(super) fn read(event: &'a RawDocument) -> Self {
        let mut read = Self::default();
        for element in event.iter_elements() {
            let Ok(element) = element else { break };
            let Ok(value) = element.value() else { continue };
            read.take(element.key().as_str(), value);
        }
        if read.cluster_time.is_none() {
            read.cluster_time = read.token.and_then(cluster_time_of_token);
        }
        read
    }

    fn take(&mut self, name: &str, value: RawBsonRef<'a>) {
        match name {
            "_id" => self.token = value.as_document(),
            "operationType" => self.kind = value.as_str().map_or(Kind::Other, kind),
            "clusterTime" => self.cluster_time = value.as_timestamp().map(|t| ClusterTime::new(t.time, t.increment)),
            "ns" => self.ns = value.as_document().map(namespace).unwrap_or_default(),
            "to" => self.to = value.as_document().map(namespace).unwrap_or_default(),
            "documentKey" => self.id = value.as_document().and_then(|key| key.get("_id").ok().flatten()),
            "fullDocument" => self.after = value.as_document(),
            "fullDocumentBeforeChange" => self.before = value.as_document(),
            "updateDescription" => self.update = value.as_document(),
            "wallTime" => self.wall_time_ms = value.as_datetime().map(bson::DateTime::timestamp_millis),
            "lsid" => self.session = value.as_document(),
            "txnNumber" => self.transaction = value.as_i64(),
            REDUCED_FIELD => self.reduced = value.as_i32().unwrap_or(REDUCED_IMAGES),
            _ => {}
        }
    }

    /// Whether it is a change of a document, the only thing that ordinals count.
    pub(super) fn is_change(&self) -> bool {
        matches!(self.kind, Kind::Insert | Kind::Update | Kind::Replace | Kind::Delete)
    }
}

fn kind(name: &str) -> Kind {
    match name {
        "insert" => Kind::Insert,
        "update" => Kind::Update,
        "replace" => Kind::Replace,
        "delete" => Kind::Delete,
        "drop" => Kind::Drop,
        "rename" => Kind::Rename,
        "dropDatabase" => Kind::DropDatabase,
        "invalidate" => Kind::Invalidate,
        _ => Kind::Other,
    }
}

fn namespace(document: &RawDocument) -> Namespace<'_> {
    Namespace { db: document.get_str("db").unwrap_or_default(), coll: document.get_str("coll").unwrap_or_default() }
}
