//! Where tenant, collection and body are in a MongoDB document.
//!
//! Owns the three ways in which `backends[n].layout` may be written. Reads no documents.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `layout`: a name, or a table of places.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Layout {
    /// `_id` is `<tenant>:<rest>`, tenant in `tenant_id`, collection in `collection`, body in `data`.
    Syntrix,
    /// The MongoDB collection's name, tenant in `tenant`, the whole document as body.
    Plain,
    /// Said place by place.
    Places(Places),
}

/// A table of places; what is not named is as in `plain`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Places {
    /// Where the tenant's name is.
    pub tenant: Place,
    /// Where the collection's name is; `None` for the MongoDB collection's own.
    pub collection: Option<Place>,
    /// The field that holds the body; `None` for the whole document.
    pub body: Option<String>,
    /// Whether `_id` starts with the tenant's name and a colon.
    pub id_prefix: bool,
}

impl Default for Places {
    fn default() -> Self {
        Self { tenant: Place::Field("tenant".into()), collection: None, body: None, id_prefix: false }
    }
}

/// Where a name is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the field of this dotted path.
    Field(String),
    /// It is always this one: `{ constant = "acme" }`.
    Constant(String),
}

impl Layout {
    /// What the layout means, place by place.
    pub fn places(&self) -> Places {
        match self {
            Self::Syntrix => Places {
                tenant: Place::Field("tenant_id".into()),
                collection: Some(Place::Field("collection".into())),
                body: Some("data".into()),
                id_prefix: true,
            },
            Self::Plain => Places::default(),
            Self::Places(places) => places.clone(),
        }
    }
}

impl Serialize for Layout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Syntrix => serializer.serialize_str("syntrix"),
            Self::Plain => serializer.serialize_str("plain"),
            Self::Places(places) => places.serialize(serializer),
        }
    }
}

// By hand, for an untagged enum would lose the path of an error inside the table.
impl<'de> Deserialize<'de> for Layout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Layout;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"syntrix\", \"plain\" or a table of places")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Layout, E> {
                match name {
                    "syntrix" => Ok(Layout::Syntrix),
                    "plain" => Ok(Layout::Plain),
                    other => Err(E::unknown_variant(other, &["syntrix", "plain"])),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Layout, A::Error> {
                Places::deserialize(MapAccessDeserializer::new(map)).map(Layout::Places)
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConstantTable {
    constant: String,
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Field(path) => serializer.serialize_str(path),
            Self::Constant(constant) => ConstantTable { constant: constant.clone() }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Place;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's path or { constant = \"name\" }")
            }

            fn visit_str<E: Error>(self, path: &str) -> Result<Place, E> {
                Ok(Place::Field(path.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Place, A::Error> {
                let table = ConstantTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Place::Constant(table.constant))
            }
        }
        deserializer.deserialize_any(Shape)
    }
}
