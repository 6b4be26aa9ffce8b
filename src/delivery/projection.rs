//! Projections: the part of a body that somebody asked for.
//!
//! Owns the rule for `fields`: dotted paths select subtrees, an array on the way is delivered whole,
//! parents that would be empty are left out; `before` and `changed` are cut alike. Synchronous; knows
//! nothing of formats or sessions.

use std::sync::Arc;

use bson::raw::CStr;
use bson::{RawBsonRef, RawDocument, RawDocumentBuf};

use super::ejson::Undecodable;
use crate::subscription::Path;

type Steps<'a> = &'a [Arc<str>];

/// The fields of a body, or of a part of it.
pub(super) fn cut(document: &RawDocument, fields: &[Path]) -> Result<RawDocumentBuf, Undecodable> {
    let fields: Vec<Steps<'_>> = fields.iter().map(|path| &*path.0).collect();
    cut_level(document, &fields)
}

/// Goes no deeper than the paths are long.
fn cut_level(document: &RawDocument, fields: &[Steps<'_>]) -> Result<RawDocumentBuf, Undecodable> {
    let mut out = RawDocumentBuf::new();
    for element in document.iter() {
        let (key, value) = element.map_err(|_| Undecodable)?;
        let below: Vec<Steps<'_>> =
            fields.iter().filter(|steps| *steps[0] == *key.as_str()).map(|steps| &steps[1..]).collect();
        append_cut(&mut out, key, value, &below)?;
    }
    Ok(out)
}

/// Appends what the rest of the paths, none of them in vain, select of one value.
fn append_cut(
    out: &mut RawDocumentBuf,
    key: &CStr,
    value: RawBsonRef<'_>,
    below: &[Steps<'_>],
) -> Result<(), Undecodable> {
    if below.is_empty() {
        return Ok(());
    }
    let whole = below.iter().any(|steps| steps.is_empty());
    match value {
        RawBsonRef::Document(inner) if !whole => {
            let inner = cut_level(inner, below)?;
            if !inner.is_empty() {
                out.append(key, &inner);
            }
        }
        RawBsonRef::Array(_) => out.append(key, value),
        _ if whole => out.append(key, value),
        _ => {}
    }
    Ok(())
}

/// The fields of an update's `set`, whose keys are themselves dotted paths.
///
/// `document` is the body after the change, where there is one: it tells which of the paths lead into
/// arrays, which are delivered whole.
pub(super) fn cut_set(
    set: &RawDocument,
    document: Option<&RawDocument>,
    fields: &[Path],
) -> Result<RawDocumentBuf, Undecodable> {
    let fields = up_to_arrays(document, fields);
    let mut out = RawDocumentBuf::new();
    for element in set.iter() {
        let (key, value) = element.map_err(|_| Undecodable)?;
        let below: Vec<Steps<'_>> = fields.iter().filter_map(|field| below(field, key.as_str())).collect();
        append_cut(&mut out, key, value, &below)?;
    }
    Ok(out)
}

/// Those removed paths that a projection shows: of a field, of something in it, or of a parent of it.
pub(super) fn cut_removed<'a>(
    removed: &'a [String],
    document: Option<&RawDocument>,
    fields: &[Path],
) -> impl Iterator<Item = &'a str> {
    let fields = up_to_arrays(document, fields);
    removed.iter().map(String::as_str).filter(move |path| fields.iter().any(|field| below(field, path).is_some()))
}

/// What is left of a field's steps below a dotted path: nothing where the path lies in the field.
/// `None` where neither contains the other.
fn below<'a>(field: Steps<'a>, dotted: &str) -> Option<Steps<'a>> {
    let mut rest = field;
    for step in dotted.split('.') {
        match rest.split_first() {
            None => return Some(rest),
            Some((first, tail)) if **first == *step => rest = tail,
            Some(_) => return None,
        }
    }
    Some(rest)
}

/// Each field, cut short at the first array on its way.
fn up_to_arrays<'a>(document: Option<&RawDocument>, fields: &'a [Path]) -> Vec<Steps<'a>> {
    let short = |path: &'a Path| {
        let mut level = document;
        for (index, step) in path.0.iter().enumerate() {
            match level.and_then(|document| document.get(&**step).ok().flatten()) {
                Some(RawBsonRef::Document(inner)) => level = Some(inner),
                Some(RawBsonRef::Array(_)) => return &path.0[..=index],
                _ => break,
            }
        }
        &path.0[..]
    };
    fields.iter().map(short).collect()
}

#[cfg(test)]
mod tests {
    use super::super::ejson::tests::{documents, raw};
    use super::*;
    use bson::{Bson, Document, doc};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn path(text: &str) -> Path {
        Path(text.split('.').map(Arc::from).collect())
    }

    fn paths(texts: &[&str]) -> Vec<Path> {
        texts.iter().map(|text| path(text)).collect()
    }

    fn cut_of(document: Document, fields: &[&str]) -> Document {
        Document::try_from(&*cut(&raw(&document), &paths(fields)).unwrap()).unwrap()
    }

    #[test]
    fn subtrees_arrays_and_parents() {
        let body = doc! {"a": {"b": 1, "c": {"d": 2}, "e": [1, {"x": 1}]}, "f": [{"g": 1, "h": 2}], "s": 1, "n": {}};
        assert_eq!(cut_of(body.clone(), &["s", "a.b"]), doc! {"a": {"b": 1}, "s": 1});
        assert_eq!(cut_of(body.clone(), &["a.c.d", "a.c.nope"]), doc! {"a": {"c": {"d": 2}}});
        assert_eq!(cut_of(body.clone(), &["f.0.g"]), doc! {"f": [{"g": 1, "h": 2}]});
        assert_eq!(cut_of(body.clone(), &["a.e.1"]), doc! {"a": {"e": [1, {"x": 1}]}});
        assert_eq!(cut_of(body.clone(), &["a.zz.d", "s.t"]), doc! {});
        assert_eq!(cut_of(body.clone(), &["n", "a.c", "a.c.d"]), doc! {"a": {"c": {"d": 2}}, "n": {}});
    }

    #[test]
    fn changed_is_cut_alike() {
        let body = doc! {"a": {"b": 1, "c": 5}, "list": [1, 2], "m": {"0": 1, "1": 2}};
        let set = doc! {"a": {"b": 1, "c": 5}, "list.1": 2, "m.1": 2, "z": 1};
        let removed = ["a.x".to_string(), "a.b.y".into(), "m".into(), "list.9".into(), "q".into()];
        let fields = paths(&["a.b", "list.0", "m.0"]);
        let (body, set) = (raw(&body), raw(&set));
        let shown = cut_set(&set, Some(&body), &fields).unwrap();
        assert_eq!(Document::try_from(&*shown).unwrap(), doc! {"a": {"b": 1}, "list.1": 2});
        let shown: Vec<_> = cut_removed(&removed, Some(&body), &fields).collect();
        assert_eq!(shown, ["a.b.y", "m", "list.9"]);
    }

    /// The rule once more, naively, over trees.
    fn model(document: &Document, fields: &[Vec<String>]) -> Document {
        let mut out = Document::new();
        for (key, value) in document {
            let tails: Vec<Vec<String>> = fields.iter().filter(|f| f[0] == *key).map(|f| f[1..].to_vec()).collect();
            match value {
                _ if tails.is_empty() => {}
                _ if tails.contains(&Vec::new()) => drop(out.insert(key, value.clone())),
                Bson::Array(_) => drop(out.insert(key, value.clone())),
                Bson::Document(inner) => {
                    let inner = model(inner, &tails);
                    if !inner.is_empty() {
                        out.insert(key, inner);
                    }
                }
                _ => {}
            }
        }
        out
    }

    proptest! {
        #[test]
        fn equals_the_naive_rule(document in documents(), fields in vec(vec("[a-d]", 1..4), 1..4)) {
            let wanted: Vec<Path> =
                fields.iter().map(|steps| Path(steps.iter().map(|s| Arc::from(&**s)).collect())).collect();
            let ours = cut(&raw(&document), &wanted).unwrap();
            let expected = raw(&model(&document, &fields));
            prop_assert_eq!(ours.as_bytes(), expected.as_bytes());
        }

        #[test]
        fn damaged_bytes_never_panic(document in documents(), at: prop::sample::Index, to: u8) {
            let mut bytes = raw(&document).into_bytes();
            let inner = bytes.len() - 5;
            bytes[4 + at.index(inner)] = to;
            let damaged = RawDocumentBuf::from_bytes(bytes).unwrap();
            let fields = paths(&["a", "b.c", "d.a.b"]);
            let _ = cut(&damaged, &fields);
            let _ = cut_set(&damaged, Some(&damaged), &fields);
        }
    }
}
