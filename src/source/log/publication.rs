//! A change as its publisher states it.
//!
//! Owns the request's shape on `POST /v1/events` and its validation. Where it will stand in the log
//! is not known yet.

use std::sync::Arc;

use bson::RawDocumentBuf;
use serde_json::{Map, Value};

use crate::change::Operation;
use crate::error::{Code, Problem};
use crate::limits;

/// One change to publish.
#[derive(Clone, PartialEq, Debug)]
pub struct Publication {
    /// Whose document.
    pub tenant: Arc<str>,
    /// In which collection.
    pub collection: Arc<str>,
    /// Which document.
    pub key: Box<str>,
    /// What happened to it.
    pub operation: Operation,
    /// Its body now; `None` exactly for a delete.
    pub document: Option<RawDocumentBuf>,
    /// Its body before, if the publisher tells; never for an insert.
    pub before: Option<RawDocumentBuf>,
}

const FIELDS: [&str; 6] = ["tenant", "collection", "key", "operation", "document", "before"];

impl Publication {
    /// Reads `{"tenant","collection","key","operation","document","before"?}`; both documents are
    /// relaxed Extended JSON.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, with the field at fault.
    pub fn from_json(value: &Value) -> Result<Self, Problem> {
        let object = value.as_object().ok_or_else(|| invalid("a change is a JSON object"))?;
        if let Some(unknown) = object.keys().find(|key| !FIELDS.contains(&key.as_str())) {
            return Err(invalid(format!("unknown field; those known are {}", FIELDS.join(", "))).at(unknown));
        }
        let operation = text(object, "operation")?;
        let operation = Operation::from_name(operation).ok_or_else(|| {
            invalid(format!("{operation:?} is not one of insert, update, replace, delete")).at("operation")
        })?;
        let publication = Self {
            tenant: scope_name(object, "tenant")?.into(),
            collection: scope_name(object, "collection")?.into(),
            key: key(object)?.into(),
            operation,
            document: document(object, "document")?,
            before: document(object, "before")?,
        };
        match (operation, &publication.document, &publication.before) {
            (Operation::Delete, Some(_), _) => {
                Err(invalid("a delete has no document; what was there goes in before").at("document"))
            }
            (Operation::Insert | Operation::Update | Operation::Replace, None, _) => {
                Err(invalid(format!("an {operation} needs the document as it is now")).at("document"))
            }
            (Operation::Insert, _, Some(_)) => Err(invalid("an insert has nothing before it").at("before")),
            _ => Ok(publication),
        }
    }

    /// What it takes in a queue and on disk, roughly.
    pub(super) fn size_bytes(&self) -> usize {
        let raw = |document: &Option<RawDocumentBuf>| document.as_ref().map_or(0, |d| d.as_bytes().len());
        let names = self.tenant.len() + self.collection.len() + self.key.len();
        64 + names + raw(&self.document) + raw(&self.before)
    }
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Result<&'a str, Problem> {
    match object.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(invalid("must be a string").at(field)),
        None => Err(invalid("is required").at(field)),
    }
}

fn scope_name<'a>(object: &'a Map<String, Value>, field: &str) -> Result<&'a str, Problem> {
    let name = text(object, field)?;
    let fits = !name.is_empty()
        && name.len() <= limits::scope_name_bytes_max
        && !name.chars().any(char::is_control)
        && !name.starts_with('/')
        && !name.ends_with('/');
    if fits {
        return Ok(name);
    }
    let rule = format!(
        "must be 1 to {} bytes of printable characters, not starting or ending with /",
        limits::scope_name_bytes_max
    );
    Err(invalid(rule).at(field))
}

fn key(object: &Map<String, Value>) -> Result<&str, Problem> {
    let key = text(object, "key")?;
    if key.is_empty() || key.len() > limits::event_key_bytes_max {
        let rule = format!("must be 1 to {} bytes", limits::event_key_bytes_max);
        return Err(invalid(rule).at("key"));
    }
    Ok(key)
}

fn document(object: &Map<String, Value>, field: &str) -> Result<Option<RawDocumentBuf>, Problem> {
    let value = match object.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(value @ Value::Object(_)) => value,
        Some(_) => return Err(invalid("must be a document").at(field)),
    };
    let not_extended = |reason: &dyn std::fmt::Display| invalid(format!("is not Extended JSON: {reason}")).at(field);
    let bson = bson::Bson::try_from(value.clone()).map_err(|error| not_extended(&error))?;
    // `{"$oid": …}` at the top is a value, not a document.
    let bson::Bson::Document(document) = bson else { return Err(invalid("must be a document").at(field)) };
    let raw = RawDocumentBuf::try_from(&document).map_err(|error| not_extended(&error))?;
    if raw.as_bytes().len() > limits::document_bytes_max {
        return Err(invalid(format!("is over {} bytes as BSON", limits::document_bytes_max)).at(field));
    }
    Ok(Some(raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_is_read_with_its_types() {
        let publication = Publication::from_json(&json!({
            "tenant": "acme", "collection": "messages", "key": "m-1", "operation": "update",
            "document": {"n": 1, "at": {"$date": "2026-01-01T00:00:00Z"}, "_id": {"$oid": "0123456789abcdef01234567"}},
            "before": {"n": 0}
        }))
        .unwrap();
        let document = publication.document.unwrap();
        assert_eq!(document.get_i32("n").unwrap(), 1);
        assert_eq!(document.get_datetime("at").unwrap().timestamp_millis(), 1_767_225_600_000);
        assert!(document.get_object_id("_id").is_ok());
        assert_eq!(publication.before.unwrap().get_i32("n").unwrap(), 0);
    }

    #[test]
    fn every_fault_names_its_field() {
        let good = json!({"tenant": "t", "collection": "c", "key": "k", "operation": "insert", "document": {}});
        assert!(Publication::from_json(&good).is_ok());
        let delete = json!({"tenant": "t", "collection": "c", "key": "k", "operation": "delete", "document": null});
        assert!(Publication::from_json(&delete).is_ok());
        for (field, value, at) in [
            ("tenant", json!(1), "tenant"),
            ("tenant", json!("/t"), "tenant"),
            ("tenant", json!("a\nb"), "tenant"),
            ("tenant", json!("t".repeat(257)), "tenant"),
            ("collection", json!(""), "collection"),
            ("collection", json!("c/"), "collection"),
            ("key", json!(""), "key"),
            ("key", json!("k".repeat(2000)), "key"),
            ("operation", json!("upsert"), "operation"),
            ("operation", json!("delete"), "document"),
            ("document", json!(null), "document"),
            ("document", json!([1]), "document"),
            ("document", json!({"$oid": "0123456789abcdef01234567"}), "document"),
            ("document", json!({"a": {"$oid": "short"}}), "document"),
            ("before", json!({"a": 1}), "before"),
            ("extra", json!(1), "extra"),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let problem = Publication::from_json(&bad).expect_err(field);
            assert_eq!((problem.code, problem.status), (Code::InvalidRequest, 422));
            assert_eq!(problem.field.as_deref(), Some(at), "{problem}");
        }
        for field in ["tenant", "collection", "key", "operation", "document"] {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(field);
            assert_eq!(Publication::from_json(&bad).expect_err(field).field.as_deref(), Some(field));
        }
        assert!(Publication::from_json(&json!([])).is_err());
    }
}
