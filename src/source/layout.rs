//! Layouts: where a stored document keeps its tenant, its collection and its body.
//!
//! Owns the places, how they are written in the configuration, and the text of a key. Works on raw
//! BSON alone: knows no driver, no stream and no position.
//!
//! A document exists for the hub only while both its tenant and its collection are strings at their
//! places: no subscription could name it otherwise. Such a document is *nobody's*.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bson::{Bson, RawBsonRef, RawDocument};
use rustc_hash::FxBuildHasher;
use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::change::Scope;

/// A dotted path through maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place(Box<[Box<str>]>);

/// A text that is no dotted path.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a place is a dotted path such as `meta.tenant`; its steps are not empty and do not begin with `$`")]
pub struct NotAPlace;

impl Place {
    /// Checks and takes a dotted path.
    pub fn new(text: &str) -> Result<Self, NotAPlace> {
        let steps: Box<[Box<str>]> = text.split('.').map(Box::from).collect();
        let fits = |step: &str| !step.is_empty() && !step.starts_with('$') && !step.contains('\0');
        if steps.iter().all(|step| fits(step)) { Ok(Self(steps)) } else { Err(NotAPlace) }
    }

    /// The steps, outermost first; at least one.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &str> + DoubleEndedIterator {
        self.0.iter().map(|step| &**step)
    }

    /// What lies there; `None` also where the bytes cannot be read.
    pub fn find<'a>(&self, document: &'a RawDocument) -> Option<RawBsonRef<'a>> {
        let (last, maps) = self.0.split_last()?;
        let mut inner = document;
        for step in maps {
            inner = inner.get(&**step).ok()??.as_document()?;
        }
        inner.get(&**last).ok()?
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            f.write_str(step)?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(de::Error::custom)
    }
}

/// Where the tenant comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TenantPlace {
    /// A field of the document.
    Field(Place),
    /// Every document has this one.
    Constant(Arc<str>),
}

/// Where the collection comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CollectionPlace {
    /// A field of the document.
    Field(Place),
    /// The name of the MongoDB collection.
    Namespace,
}

/// The places of one backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Whose a document is.
    pub tenant: TenantPlace,
    /// In which collection it is.
    pub collection: CollectionPlace,
    /// The document within the document; `None` for the whole.
    pub body: Option<Place>,
    /// Whether `_id` is `<tenant>:<rest>`.
    pub id_prefix: bool,
}

/// What lies at a layout's body.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// A document.
    Document(&'a RawDocument),
    /// Nothing, or null: a body without fields.
    Absent,
    /// Something that is no document.
    Other,
}

impl Layout {
    /// `_id` is `<tenant>:<rest>`, tenant in `tenant_id`, collection in `collection`, body in `data`.
    pub fn syntrix() -> Self {
        let place = |name: &str| Place(Box::new([name.into()]));
        Self {
            tenant: TenantPlace::Field(place("tenant_id")),
            collection: CollectionPlace::Field(place("collection")),
            body: Some(place("data")),
            id_prefix: true,
        }
    }

    /// Tenant in the field `tenant`, collection is the MongoDB collection, body is the whole document.
    pub fn plain() -> Self {
        Self {
            tenant: TenantPlace::Field(Place(Box::new(["tenant".into()]))),
            collection: CollectionPlace::Namespace,
            body: None,
            id_prefix: false,
        }
    }

    /// The scope of a document stored in the MongoDB collection `stored_in`; `None` if it is nobody's.
    pub fn scope_of(&self, document: &RawDocument, stored_in: &str, names: &mut Names) -> Option<Scope> {
        let text = |place: &Place| place.find(document).and_then(RawBsonRef::as_str);
        let tenant = match &self.tenant {
            TenantPlace::Constant(tenant) => Arc::clone(tenant),
            TenantPlace::Field(place) => names.share(text(place)?),
        };
        let collection = match &self.collection {
            CollectionPlace::Namespace => names.share(stored_in),
            CollectionPlace::Field(place) => names.share(text(place)?),
        };
        Some(Scope { tenant: Some(tenant), collection: Some(collection) })
    }

    /// What can be told of the scope without the document.
    pub fn scope_of_id(&self, id: RawBsonRef<'_>, stored_in: &str, names: &mut Names) -> Scope {
        let mut scope = self.scope_of_namespace(stored_in, names);
        if scope.tenant.is_none() && self.id_prefix {
            scope.tenant = id.as_str().and_then(|id| id.rsplit_once(':')).map(|(tenant, _)| names.share(tenant));
        }
        scope
    }

    /// What a whole MongoDB collection holds.
    pub fn scope_of_namespace(&self, stored_in: &str, names: &mut Names) -> Scope {
        let tenant = match &self.tenant {
            TenantPlace::Constant(tenant) => Some(Arc::clone(tenant)),
            TenantPlace::Field(_) => None,
        };
        let collection = match &self.collection {
            CollectionPlace::Namespace => Some(names.share(stored_in)),
            CollectionPlace::Field(_) => None,
        };
        Scope { tenant, collection }
    }

    /// The body of a document.
    pub fn body_of<'a>(&self, document: &'a RawDocument) -> Body<'a> {
        let Some(place) = &self.body else { return Body::Document(document) };
        match place.find(document) {
            Some(RawBsonRef::Document(body)) => Body::Document(body),
            None | Some(RawBsonRef::Null | RawBsonRef::Undefined) => Body::Absent,
            Some(_) => Body::Other,
        }
    }

    /// The fields that decide on a document's scope.
    pub fn scope_places(&self) -> impl Iterator<Item = &Place> {
        let tenant = match &self.tenant {
            TenantPlace::Field(place) => Some(place),
            TenantPlace::Constant(_) => None,
        };
        let collection = match &self.collection {
            CollectionPlace::Field(place) => Some(place),
            CollectionPlace::Namespace => None,
        };
        tenant.into_iter().chain(collection)
    }

    /// An `_id` as text: without the tenant prefix where there is one, object ids in hex, integers in
    /// decimal, other types as canonical Extended JSON.
    pub fn key_of(&self, id: RawBsonRef<'_>) -> Box<str> {
        match id {
            RawBsonRef::String(text) if self.id_prefix => text.rsplit_once(':').map_or(text, |(_, key)| key).into(),
            RawBsonRef::String(text) => text.into(),
            RawBsonRef::ObjectId(id) => id.to_hex().into(),
            RawBsonRef::Int32(number) => number.to_string().into(),
            RawBsonRef::Int64(number) => number.to_string().into(),
            other => match Bson::try_from(other) {
                Ok(value) => value.into_canonical_extjson().to_string().into(),
                // A value that the server itself could not have stored: its bytes still name it.
                Err(_) => format!("{other:?}").into(),
            },
        }
    }
}

/// Shares equal names among changes, so that a window of them holds each once.
#[derive(Debug, Default)]
pub struct Names(HashSet<Arc<str>, FxBuildHasher>);

/// Past this the table starts anew: what is in use lives on in the changes.
const NAMES_MAX: usize = 8_192;

impl Names {
    /// The one shared text that equals `name`.
    pub fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(shared) = self.0.get(name) {
            return Arc::clone(shared);
        }
        if self.0.len() >= NAMES_MAX {
            self.0.clear();
        }
        let shared: Arc<str> = name.into();
        self.0.insert(Arc::clone(&shared));
        shared
    }
}

/// The forms in which a configuration names a layout.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Named(String),
    Places(Places),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Places {
    tenant: WrittenTenant,
    collection: Option<Place>,
    body: Option<Place>,
    #[serde(default)]
    id_prefix: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenTenant {
    Field(Place),
    Constant { constant: String },
}

impl<'de> Deserialize<'de> for Layout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer).map_err(|_| {
            de::Error::custom(
                "a layout is \"syntrix\", \"plain\", or a table of `tenant` (a dotted path or { constant = \"…\" }) \
                 and optionally `collection`, `body` (dotted paths) and `id_prefix`",
            )
        })?;
        match written {
            Written::Named(name) if name == "syntrix" => Ok(Self::syntrix()),
            Written::Named(name) if name == "plain" => Ok(Self::plain()),
            Written::Named(name) => Err(de::Error::unknown_variant(&name, &["syntrix", "plain"])),
            Written::Places(places) => Ok(Self {
                tenant: match places.tenant {
                    WrittenTenant::Field(place) => TenantPlace::Field(place),
                    WrittenTenant::Constant { constant } => TenantPlace::Constant(constant.into()),
                },
                collection: places.collection.map_or(CollectionPlace::Namespace, CollectionPlace::Field),
                body: places.body,
                id_prefix: places.id_prefix,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{DateTime, RawDocumentBuf, doc, oid::ObjectId};

    fn raw(document: bson::Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(document).expect("a document")
    }

    fn scope(layout: &Layout, document: bson::Document, stored_in: &str) -> Option<Scope> {
        layout.scope_of(&raw(document), stored_in, &mut Names::default())
    }

    fn key(layout: &Layout, id: impl Into<Bson>) -> String {
        let document = raw(doc! { "_id": id.into() });
        layout.key_of(document.get("_id").expect("read").expect("there")).into()
    }

    #[test]
    fn the_tenant_comes_from_the_field_even_where_the_prefix_says_otherwise() {
        let document = doc! { "_id": "a:1", "tenant_id": "b", "collection": "c", "data": {} };
        assert_eq!(scope(&Layout::syntrix(), document, "documents"), Some(Scope::known("b", "c")));
    }

    #[test]
    fn a_document_without_tenant_or_collection_is_nobodys() {
        let syntrix = Layout::syntrix();
        assert_eq!(scope(&syntrix, doc! { "_id": "a:1", "collection": "c" }, "d"), None);
        assert_eq!(scope(&syntrix, doc! { "_id": "a:1", "tenant_id": "a" }, "d"), None);
        assert_eq!(scope(&syntrix, doc! { "tenant_id": 1, "collection": "c" }, "d"), None);
        assert_eq!(scope(&Layout::plain(), doc! { "x": 1 }, "d"), None);
        assert_eq!(scope(&Layout::plain(), doc! { "tenant": "t" }, "d"), Some(Scope::known("t", "d")));
    }

    #[test]
    fn an_id_tells_the_prefix_and_a_namespace_the_collection() {
        let mut names = Names::default();
        let of_id = |layout: &Layout, names: &mut Names| layout.scope_of_id(RawBsonRef::String("a:b:1"), "d", names);
        let syntrix = of_id(&Layout::syntrix(), &mut names);
        assert_eq!(syntrix, Scope { tenant: Some("a:b".into()), collection: None });
        assert_eq!(of_id(&Layout::plain(), &mut names), Scope { tenant: None, collection: Some("d".into()) });
        let constant = Layout { tenant: TenantPlace::Constant("acme".into()), ..Layout::plain() };
        assert_eq!(of_id(&constant, &mut names), Scope::known("acme", "d"));
    }

    #[test]
    fn keys_are_text() {
        let (syntrix, plain) = (Layout::syntrix(), Layout::plain());
        assert_eq!(key(&syntrix, "acme:x:m-9"), "m-9");
        assert_eq!(key(&syntrix, "bare"), "bare");
        assert_eq!(key(&plain, "acme:m-9"), "acme:m-9");
        let id = ObjectId::from_bytes([1; 12]);
        assert_eq!(key(&plain, id), "01".repeat(12));
        assert_eq!((key(&plain, 7), key(&plain, -7_i64)), ("7".into(), "-7".into()));
        assert_eq!(key(&plain, doc! { "a": 1, "b": "x" }), r#"{"a":{"$numberInt":"1"},"b":"x"}"#);
        assert_eq!(key(&plain, DateTime::from_millis(5)), r#"{"$date":{"$numberLong":"5"}}"#);
        assert_eq!(key(&plain, true), "true");
    }

    #[test]
    fn bodies_lie_where_the_layout_says() {
        let document = raw(doc! { "data": { "x": 1 }, "odd": 7 });
        let with = |body: &str| Layout { body: Some(Place::new(body).expect("a place")), ..Layout::plain() };
        assert!(matches!(Layout::syntrix().body_of(&document), Body::Document(body) if body.get("x").is_ok()));
        assert!(matches!(Layout::plain().body_of(&document), Body::Document(body) if body == &*document));
        assert!(matches!(with("none").body_of(&document), Body::Absent));
        assert!(matches!(with("odd").body_of(&document), Body::Other));
    }

    #[test]
    fn configurations_name_a_layout_or_its_places() {
        #[derive(Deserialize)]
        struct Config {
            layout: Layout,
        }
        let parse = |text: &str| toml::from_str::<Config>(text).map(|config| config.layout);
        assert_eq!(parse("layout = 'syntrix'").expect("known"), Layout::syntrix());
        assert_eq!(parse("layout = 'plain'").expect("known"), Layout::plain());
        let custom = parse("layout = { tenant = { constant = 'acme' }, body = 'a.b', id_prefix = true }");
        let custom = custom.expect("places");
        assert_eq!(custom.tenant, TenantPlace::Constant("acme".into()));
        assert_eq!(custom.body.expect("there").to_string(), "a.b");
        assert!(parse("layout = 'plian'").is_err());
        assert!(parse("layout = { tenant = 't', bodi = 'b' }").is_err());
        assert!(parse("layout = { tenant = 'a..b' }").is_err());
    }
}
