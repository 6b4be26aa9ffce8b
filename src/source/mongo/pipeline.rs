//! The change stream's pipeline.
//!
//! Owns what the server is asked for: the scope's `$match`, on which positions depend and of which
//! the definition is the digest, and the stages that keep events below the server's limit, on which
//! nothing depends.

use bson::{Bson, Document, Timestamp, doc};
use sha2::{Digest, Sha256};

use super::event::{REDUCED_BEFORE, REDUCED_FIELD, REDUCED_IMAGES};
use crate::position::ClusterTime;
use crate::source::layout::Layout;

/// Which collections are watched.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Watched {
    /// `None` for the whole deployment.
    pub(super) database: Option<String>,
    /// `None` for all.
    pub(super) collections: Option<Vec<String>>,
    /// Which share of the documents; `None` for all.
    pub(super) split: Option<Split>,
}

impl Watched {
    /// Sorted and without repetitions, so that equal sets have equal definitions.
    pub(super) fn new(database: Option<String>, collections: Option<Vec<String>>, split: Option<Split>) -> Self {
        let collections = collections.map(|mut names| {
            names.sort_unstable();
            names.dedup();
            names
        });
        Self { database, collections, split: split.filter(|split| split.count > 1) }
    }

    /// Whether a collection is among them.
    pub(super) fn covers(&self, db: &str, coll: &str) -> bool {
        self.database.as_deref().is_none_or(|database| database == db)
            && self.collections.as_deref().is_none_or(|names| names.iter().any(|name| name == coll))
    }

    /// The one stage on which positions depend. A rename onto a watched name passes by `to`; the end
    /// of a database's stream, which has no `ns`, by its type.
    pub(super) fn match_stage(&self, level: Level) -> Document {
        let mut sides = self.sides();
        if level == Level::Database {
            sides.push(doc! { "operationType": "invalidate" });
        }
        let scope = doc! { "$or": sides };
        match self.split {
            None => doc! { "$match": scope },
            Some(split) => doc! { "$match": { "$and": [scope, split.condition()] } },
        }
    }

    fn sides(&self) -> Vec<Document> {
        let own = ["admin", "config", "local"];
        let side = |prefix: &str| {
            let mut side = Document::new();
            match &self.database {
                Some(database) => side.insert(format!("{prefix}.db"), database),
                None if prefix == "ns" => side.insert("ns.db", doc! { "$nin": own.map(Bson::from).to_vec() }),
                None => side.insert("to.db", doc! { "$exists": true }),
            };
            if let Some(names) = &self.collections {
                side.insert(format!("{prefix}.coll"), doc! { "$in": names });
            }
            side
        };
        vec![side("ns"), side("to")]
    }

    /// Hex digest of all that positions depend on.
    pub(super) fn definition(&self) -> String {
        let text = format!("deployment stream\n{}", self.match_stage(Level::Deployment));
        Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// One of several streams that share a scope's documents out among themselves by the hash of their `_id`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Split {
    /// Which one, from 0.
    pub number: u16,
    /// How many there are.
    pub count: u16,
}

impl Split {
    /// What is in this stream. Events that concern no document, drops and renames, are in all.
    fn condition(self) -> Document {
        let (number, count) = (i32::from(self.number), i32::from(self.count));
        let hash = doc! { "$toHashedIndexKey": "$documentKey._id" };
        // The hash is signed, and so is what is left of it.
        let is_here = doc! { "$in": [{ "$mod": [hash, count] }, [number, number - count]] };
        doc! { "$or": [{ "documentKey": { "$exists": false } }, { "$expr": is_here }] }
    }
}

/// Where a stream begins.
#[derive(Clone, Debug)]
pub(super) enum Start {
    /// With every event at this time and later.
    Time(ClusterTime),
    /// After the event with this token.
    Token(Document),
    /// After the end of a stream whose last event had this token.
    Invalidated(Document),
}

/// What a stream is opened on. It shows the same changes in the same order either way, so positions
/// do not depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Level {
    /// The deployment: nothing that is dropped ends the stream.
    Deployment,
    /// The database, where privileges allow no more.
    Database,
}

/// The `$changeStream` stage.
pub(super) fn open_stage(from: &Start, level: Level) -> Document {
    let mut options = doc! {
        "allChangesForCluster": level == Level::Deployment,
        "fullDocument": "whenAvailable",
        "fullDocumentBeforeChange": "whenAvailable",
    };
    match from {
        Start::Time(time) => {
            // The server refuses a start at zero; nothing can lie there.
            let time = (*time).max(ClusterTime::new(1, 1));
            let time = Timestamp { time: time.seconds(), increment: time.increment() };
            options.insert("startAtOperationTime", time)
        }
        Start::Token(token) => options.insert("resumeAfter", token.clone()),
        Start::Invalidated(token) => options.insert("startAfter", token.clone()),
    };
    doc! { "$changeStream": options }
}

const AFTER: &str = "fullDocument";
const BEFORE: &str = "fullDocumentBeforeChange";

/// The last stages: they cut images that would push an event over `bytes_max` down to the fields that
/// decide on its scope, first the pre-image, then the post-image too, and leave a mark.
pub(super) fn guard_stages(layout: &Layout, bytes_max: i64) -> Vec<Document> {
    let size = |field: &str| doc! { "$ifNull": [{ "$bsonSize": format!("${field}") }, 0] };
    let too_large = |fields: &[&str]| {
        let sizes: Vec<Bson> = fields.iter().map(|field| size(field).into()).collect();
        doc! { "$gt": [{ "$add": sizes }, bytes_max] }
    };
    let cut = |image: &str| {
        let is_document = doc! { "$eq": [{ "$type": format!("${image}") }, "object"] };
        doc! { "$cond": [is_document, scope_of_image(layout, image), Bson::Null] }
    };
    let verdict = doc! { "$cond": [
        { "$not": [too_large(&[AFTER, BEFORE, "updateDescription"])] },
        "$$REMOVE",
        { "$cond": [too_large(&[AFTER, "updateDescription"]), REDUCED_IMAGES, REDUCED_BEFORE] },
    ] };
    let marked = format!("${REDUCED_FIELD}");
    let unless = |least: i32, image: &str| {
        doc! { "$cond": [{ "$gte": [&marked, least] }, cut(image), format!("${image}")] }
    };
    vec![
        doc! { "$set": { REDUCED_FIELD: verdict } },
        doc! { "$set": { BEFORE: unless(REDUCED_BEFORE, BEFORE), AFTER: unless(REDUCED_IMAGES, AFTER) } },
    ]
}

/// The last stage of the narrow reading that steps over one event which even the guard could not
/// make small enough.
pub(super) fn narrow_stages(layout: &Layout) -> Vec<Document> {
    let mut fields = doc! {
        "ns": 1, "to": 1, "documentKey": 1, "clusterTime": 1, "operationType": 1, "wallTime": 1, "lsid": 1,
        "txnNumber": 1,
    };
    for image in [AFTER, BEFORE] {
        // The key is in every image, so that one without scope fields is still seen to be there.
        fields.insert(format!("{image}._id"), 1);
        for place in layout.scope_places() {
            fields.insert(format!("{image}.{place}"), 1);
        }
    }
    vec![doc! { "$project": fields }, doc! { "$set": { REDUCED_FIELD: REDUCED_IMAGES } }]
}

/// The last stage where not even the narrow reading will do, because of a very large `_id`: an event may hold it
/// four times over.
pub(super) fn bare_stages() -> Vec<Document> {
    vec![doc! { "$project": { "ns": 1, "to": 1, "clusterTime": 1, "operationType": 1, "wallTime": 1 } }]
}

/// The fields of an image that decide on its scope, nested as they are in it.
fn scope_of_image(layout: &Layout, image: &str) -> Document {
    let mut out = Document::new();
    for place in layout.scope_places() {
        let mut steps = place.steps().rev();
        let Some(last) = steps.next() else { continue };
        let mut value: Document = doc! { last: format!("${image}.{place}") };
        for step in steps {
            value = doc! { step: value };
        }
        merge(&mut out, value);
    }
    out
}

fn merge(into: &mut Document, from: Document) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(Bson::Document(inner)), Bson::Document(value)) => merge(inner, value),
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::layout::{CollectionPlace, Place, TenantPlace};

    #[test]
    fn the_definition_depends_on_the_scope_and_nothing_else() {
        let names = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect());
        let watched = |db: Option<&str>, colls| Watched::new(db.map(str::to_owned), colls, None).definition();
        assert_eq!(watched(Some("app"), names(&["b", "a", "b"])), watched(Some("app"), names(&["a", "b"])));
        let all = [watched(None, None), watched(Some("app"), None), watched(Some("app"), names(&["a"]))];
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
        assert!(all.iter().all(|digest| digest.len() == 64));
        let split = |number, count| Watched::new(None, None, Some(Split { number, count })).definition();
        assert_eq!(split(0, 1), watched(None, None));
        assert!(split(0, 2) != split(1, 2) && split(0, 2) != split(0, 3) && split(0, 2) != watched(None, None));
    }

    #[test]
    fn a_scope_covers_what_it_names() {
        let watched = Watched::new(Some("app".into()), Some(vec!["a".into()]), None);
        assert!(watched.covers("app", "a") && !watched.covers("app", "b") && !watched.covers("other", "a"));
        assert!(Watched::default().covers("any", "thing"));
    }

    #[test]
    fn nested_scope_fields_of_one_parent_are_kept_together() {
        let place = |text: &str| Place::new(text).expect("a place");
        let layout = Layout {
            tenant: TenantPlace::Field(place("m.t")),
            collection: CollectionPlace::Field(place("m.c")),
            ..Layout::plain()
        };
        let expected = doc! { "m": { "t": "$fullDocument.m.t", "c": "$fullDocument.m.c" } };
        assert_eq!(scope_of_image(&layout, "fullDocument"), expected);
    }
}
