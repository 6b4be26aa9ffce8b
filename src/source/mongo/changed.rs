//! What an update touched, relative to the body.
//!
//! Owns the translation of an `updateDescription`, whose paths start at the stored document. Knows
//! only documents and the body's place.

use bson::raw::CStr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use crate::change::Changed;
use crate::source::layout::Place;

/// How a path of the stored document lies to the body.
enum Reach<'a> {
    /// Inside: the path from the body on.
    Inside(&'a str),
    /// At the body, or above it: the body as a whole.
    Whole,
    /// Elsewhere.
    Outside,
}

/// Translates `update`. `after` and `before` are bodies, where they are known: a truncated array is
/// told by its final value, and fields that vanished with a replaced body by comparing the two.
pub(super) fn changed(
    update: &RawDocument,
    body: Option<&Place>,
    after: Option<&RawDocument>,
    before: Option<&RawDocument>,
) -> Changed {
    let body = body.map(ToString::to_string);
    let body = body.as_deref();
    let mut out = Changed::default();
    let fields = update.get_document("updatedFields").ok();
    for (path, value) in fields.into_iter().flat_map(|fields| fields.iter().flatten()) {
        match reach(path.as_str(), body) {
            Reach::Inside(path) => set(&mut out.set, path, value),
            Reach::Whole => whole(&mut out, after, before),
            Reach::Outside => {}
        }
    }
    let arrays = update.get_array("truncatedArrays").ok();
    for array in arrays.into_iter().flat_map(|arrays| arrays.into_iter().flatten()) {
        let path = array.as_document().and_then(|array| array.get_str("field").ok());
        let Some(Reach::Inside(path)) = path.map(|path| reach(path, body)) else { continue };
        if let Some(value) = after.and_then(|after| find(after, path)) {
            set(&mut out.set, path, value);
        }
    }
    let removed = update.get_array("removedFields").ok();
    for path in removed.into_iter().flat_map(|removed| removed.into_iter().flatten()) {
        match path.as_str().map(|path| reach(path, body)) {
            Some(Reach::Inside(path)) => out.removed.push(path.to_owned()),
            Some(Reach::Whole) => whole(&mut out, after, before),
            Some(Reach::Outside) | None => {}
        }
    }
    out
}

fn reach<'a>(path: &'a str, body: Option<&str>) -> Reach<'a> {
    let Some(body) = body else { return Reach::Inside(path) };
    let below = |outer: &str, inner: &'a str| inner.strip_prefix(outer).and_then(|rest| rest.strip_prefix('.'));
    if let Some(inside) = below(body, path) {
        Reach::Inside(inside)
    } else if path == body || (body.len() > path.len() && body.starts_with(path) && body.as_bytes()[path.len()] == b'.')
    {
        Reach::Whole
    } else {
        Reach::Outside
    }
}

/// The body was written as a whole, which servers also do where the difference would be no shorter:
/// every field that is not as it was is set, every one that is no more is removed.
fn whole(out: &mut Changed, after: Option<&RawDocument>, before: Option<&RawDocument>) {
    let was = |name: &CStr| before.and_then(|before| before.get(name.as_str()).ok().flatten());
    for (name, value) in after.into_iter().flat_map(|after| after.iter().flatten()) {
        if was(name) != Some(value) {
            out.set.append(name, value);
        }
    }
    let gone = |name: &CStr| !after.is_some_and(|after| after.get(name.as_str()).is_ok_and(|value| value.is_some()));
    for (name, _) in before.into_iter().flat_map(|before| before.iter().flatten()) {
        if gone(name) {
            out.removed.push(name.as_str().to_owned());
        }
    }
}

fn set(out: &mut RawDocumentBuf, path: &str, value: RawBsonRef<'_>) {
    // A path that came out of a document has no NUL.
    if let Ok(path) = <&CStr>::try_from(path) {
        out.append(path, value);
    }
}

/// What lies at a dotted path, in which numbers are also indexes of arrays.
fn find<'a>(document: &'a RawDocument, path: &str) -> Option<RawBsonRef<'a>> {
    let mut steps = path.split('.');
    let mut value = document.get(steps.next()?).ok()??;
    for step in steps {
        value = match value {
            RawBsonRef::Document(inner) => inner.get(step).ok()??,
            RawBsonRef::Array(array) => array.get(step.parse().ok()?).ok()??,
            _ => return None,
        };
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Document, doc};

    fn told(update: Document, body: Option<&str>, after: Document, before: Document) -> (Document, Vec<String>) {
        let raw = |document| RawDocumentBuf::try_from(document).expect("a document");
        let place = body.map(|body| Place::new(body).expect("a place"));
        let changed = changed(&raw(update), place.as_ref(), Some(&raw(after)), Some(&raw(before)));
        (Document::try_from(changed.set).expect("readable"), changed.removed)
    }

    #[test]
    fn paths_are_relative_to_the_body_and_the_rest_is_left_out() {
        let update = doc! {
            "updatedFields": { "data.a": 1, "data.b.c": 2, "database": 3, "other": 4 },
            "removedFields": ["data.x", "y", "data.z.0"],
            "truncatedArrays": [],
        };
        let (set, removed) = told(update.clone(), Some("data"), doc! {}, doc! {});
        assert_eq!(set, doc! { "a": 1, "b.c": 2 });
        assert_eq!(removed, ["x", "z.0"]);
        let (set, removed) = told(update, None, doc! {}, doc! {});
        assert_eq!(set, doc! { "data.a": 1, "data.b.c": 2, "database": 3, "other": 4 });
        assert_eq!(removed, ["data.x", "y", "data.z.0"]);
    }

    #[test]
    fn a_truncated_array_is_told_by_its_final_value() {
        let update =
            doc! { "truncatedArrays": [{ "field": "data.m.tags", "newSize": 1 }, { "field": "no", "newSize": 0 }] };
        let (set, _) = told(update, Some("data"), doc! { "m": { "tags": ["a"] } }, doc! {});
        assert_eq!(set, doc! { "m.tags": ["a"] });
    }

    #[test]
    fn a_replaced_body_sets_what_is_new_and_removes_what_is_no_more() {
        for update in [
            doc! { "updatedFields": { "data": { "a": 1, "b": 2 } } },
            doc! { "updatedFields": { "data.in": { "a": 1, "b": 2 } } },
        ] {
            let (set, removed) =
                told(update.clone(), Some("data.in"), doc! { "a": 1, "b": 2 }, doc! { "b": 0, "c": 0 });
            assert_eq!(set, doc! { "a": 1, "b": 2 });
            assert_eq!(removed, ["c"]);
            let (set, _) = told(update, Some("data.in"), doc! { "a": 1, "b": 2 }, doc! { "a": 1 });
            assert_eq!(set, doc! { "b": 2 });
        }
        let mut update = doc! { "removedFields": ["data"] };
        let (set, removed) = told(update.clone(), Some("data"), doc! {}, doc! { "b": 0 });
        assert_eq!((set, removed), (doc! {}, vec!["b".to_owned()]));
        update.insert("updatedFields", doc! { "dat": 1 });
        assert_eq!(told(update, Some("data"), doc! {}, doc! {}).0, doc! {});
    }
}
