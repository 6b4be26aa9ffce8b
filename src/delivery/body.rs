//! A change as it is shared by everyone it is delivered to, with its encoded bodies.
//!
//! Owns the promise that a body is encoded once for each (format, projection), however many sessions
//! need it, and the rule which bodies a delivery carries. Knows nothing of sessions.

use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bson::{RawDocument, RawDocumentBuf};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ejson::{self, Undecodable};
use super::frame::Delivery;
use super::projection;
use crate::change::{Change, Flags, Operation, Scope};
use crate::limits;
use crate::subscription::Path;

/// How bodies are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Relaxed Extended JSON v2, as text.
    Json,
    /// BSON, as it came.
    Bson,
}

/// The documents that a change holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Document = 0,
    Before = 1,
    Set = 2,
}

/// A change with room for its encoded forms. Whoever needs a form first encodes it, outside the
/// partition's loop; the others take it from here.
#[derive(Debug)]
pub struct SharedChange {
    change: Change,
    json: Forms,
    projected: Mutex<Vec<Arc<Projected>>>,
}

type Encoded = Result<Bytes, Undecodable>;
/// One encoding of each [`Part`].
type Forms = [OnceLock<Encoded>; 3];

#[derive(Debug)]
struct Projected {
    fields: Arc<[Path]>,
    raw: Forms,
    json: Forms,
}

/// Bytes that live in a change: BSON is handed over without a copy.
struct Held(Arc<SharedChange>, Part);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.part(self.1).map_or(&[], |raw| raw.as_bytes())
    }
}

/// Between nodes only the change itself travels: each encodes for its own clients.
impl Serialize for SharedChange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.change.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Change::deserialize(deserializer).map(Self::new)
    }
}

impl SharedChange {
    /// Takes a change that is about to be shared.
    pub fn new(change: Change) -> Self {
        Self { change, json: Forms::default(), projected: Mutex::default() }
    }

    /// What the encoded forms that are kept take in memory, in bytes, beside `Change::size_bytes`.
    pub fn encoded_bytes(&self) -> usize {
        let sum = |forms: &Forms| -> usize {
            forms.iter().filter_map(|form| form.get()?.as_ref().ok()).map(Bytes::len).sum()
        };
        let projected = self.projected.lock().unwrap_or_else(PoisonError::into_inner);
        sum(&self.json) + projected.iter().map(|p| sum(&p.raw) + sum(&p.json)).sum::<usize>()
    }

    fn part(&self, part: Part) -> Option<&RawDocumentBuf> {
        match part {
            Part::Document => self.change.document.as_ref(),
            Part::Before => self.change.before.as_ref(),
            Part::Set => self.change.changed.as_ref().map(|changed| &changed.set),
        }
    }

    fn encoded(self: &Arc<Self>, part: Part, format: Format, fields: Option<&Arc<[Path]>>) -> Option<Encoded> {
        let raw = self.part(part)?;
        let at = part as usize;
        Some(match (fields, format) {
            (None, Format::Bson) => Ok(Bytes::from_owner(Held(Arc::clone(self), part))),
            (None, Format::Json) => self.json[at].get_or_init(|| json_of(raw)).clone(),
            (Some(fields), format) => {
                let projected = self.projected(fields);
                let raw = projected.raw[at].get_or_init(|| self.cut(part, raw, fields));
                match (raw, format) {
                    (Ok(raw), Format::Json) => projected.json[at]
                        .get_or_init(|| json_of(RawDocument::from_bytes(raw).map_err(|_| Undecodable)?))
                        .clone(),
                    (raw, _) => raw.clone(),
                }
            }
        })
    }

    fn cut(&self, part: Part, raw: &RawDocument, fields: &[Path]) -> Encoded {
        let cut = match part {
            Part::Set => projection::cut_set(raw, self.change.document.as_deref(), fields)?,
            Part::Document | Part::Before => projection::cut(raw, fields)?,
        };
        Ok(cut.into_bytes().into())
    }

    /// The place of a projection's forms. Encoding happens outside the lock.
    fn projected(&self, fields: &Arc<[Path]>) -> Arc<Projected> {
        let mut kept = self.projected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept.iter().find(|p| Arc::ptr_eq(&p.fields, fields) || p.fields == *fields) {
            return Arc::clone(found);
        }
        let made = Arc::new(Projected { fields: Arc::clone(fields), raw: Forms::default(), json: Forms::default() });
        if kept.len() < limits::projections_kept_max {
            kept.push(Arc::clone(&made));
        }
        made
    }
}

fn json_of(raw: &RawDocument) -> Encoded {
    let mut out = Vec::with_capacity(raw.as_bytes().len() * 2);
    ejson::write_document(&mut out, raw)?;
    out.shrink_to_fit();
    Ok(out.into())
}

impl Deref for SharedChange {
    type Target = Change;

    fn deref(&self) -> &Change {
        &self.change
    }
}

/// The bodies of one delivery, encoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bodies {
    /// The post-image.
    pub document: Option<Bytes>,
    /// The pre-image.
    pub before: Option<Bytes>,
    /// What an update touched: a document of new values and the paths that are gone.
    pub changed: Option<(Bytes, Vec<String>)>,
    /// A body was left out that is there.
    pub reduced: bool,
}

impl Delivery {
    /// Whose document it is said to be: for a document that moved, where it was.
    pub fn scope(&self) -> &Scope {
        let left = if self.left_scope { self.change.left.as_ref() } else { None };
        left.unwrap_or(&self.change.scope)
    }

    /// The bodies that this delivery carries. What cannot be decoded is left out and said.
    pub fn bodies(&self, format: Format) -> Bodies {
        let mut bodies = Bodies { reduced: self.flags.contains(Flags::REDUCED), ..Bodies::default() };
        if self.left_scope {
            return bodies;
        }
        let fields = self.fields.as_ref();
        let mut undecodable = false;
        let mut take = |part: Part| match self.change.encoded(part, format, fields)? {
            Ok(bytes) => Some(bytes),
            Err(Undecodable) => {
                undecodable = true;
                None
            }
        };
        bodies.changed = take(Part::Set).map(|set| (set, self.removed()));
        if self.change.operation != Operation::Delete {
            bodies.document = take(Part::Document);
        }
        if self.with_before || self.change.operation == Operation::Delete {
            bodies.before = take(Part::Before);
        }
        if undecodable {
            bodies = Bodies { document: None, before: None, reduced: true, ..bodies };
        }
        bodies
    }

    /// The flags, given what became of the bodies.
    pub fn flags_with(&self, bodies: &Bodies) -> Flags {
        if bodies.reduced { self.flags.with(Flags::REDUCED) } else { self.flags }
    }

    fn removed(&self) -> Vec<String> {
        let Some(changed) = &self.change.changed else { return Vec::new() };
        match &self.fields {
            None => changed.removed.clone(),
            Some(fields) => {
                let document = self.change.document.as_deref();
                projection::cut_removed(&changed.removed, document, fields).map(str::to_owned).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{change, delivery, raw};
    use super::*;
    use crate::change::Changed;
    use bson::doc;

    fn text(bytes: &Option<Bytes>) -> Option<&str> {
        bytes.as_ref().map(|bytes| std::str::from_utf8(bytes).unwrap())
    }

    fn fields(names: &[&str]) -> Option<Arc<[Path]>> {
        Some(names.iter().map(|name| Path(name.split('.').map(Arc::from).collect())).collect())
    }

    #[test]
    fn each_form_is_made_once_for_all() {
        let first = delivery(1, change(1));
        let mut second = delivery(2, change(1));
        second.change = Arc::clone(&first.change);
        let pointer = |d: &Delivery, format| d.bodies(format).document.unwrap().as_ptr();
        assert_eq!(pointer(&first, Format::Json), pointer(&second, Format::Json));
        assert_eq!(pointer(&first, Format::Bson), first.change.document.as_ref().unwrap().as_bytes().as_ptr());
        let whole = first.change.encoded_bytes();
        let (a, b) = (fields(&["stars"]), fields(&["stars"]));
        let [first, second] = [(first, a), (second, b)].map(|(d, fields)| Delivery { fields, ..d });
        assert_eq!(pointer(&first, Format::Json), pointer(&second, Format::Json));
        assert_eq!(pointer(&first, Format::Bson), pointer(&second, Format::Bson));
        assert!(first.change.encoded_bytes() > whole);
    }

    #[test]
    fn sessions_that_race_get_the_same_bytes() {
        let delivery = Arc::new(Delivery { fields: fields(&["stars"]), ..delivery(1, change(1)) });
        let one = |_| {
            let delivery = Arc::clone(&delivery);
            std::thread::spawn(move || delivery.bodies(Format::Json).document.unwrap().as_ptr() as usize)
        };
        let threads: Vec<_> = (0..8).map(one).collect();
        let pointers: Vec<usize> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(pointers.iter().all(|p| *p == pointers[0]));
    }

    #[test]
    fn projections_past_the_kept_ones_are_right_too() {
        let delivery = delivery(1, change(1));
        for index in 0..limits::projections_kept_max + 3 {
            let cut = Delivery { fields: fields(&["stars", &format!("f{index}")]), ..delivery.clone() };
            assert_eq!(text(&cut.bodies(Format::Json).document), Some(r#"{"stars":4}"#));
        }
        assert_eq!(delivery.change.projected.lock().unwrap().len(), limits::projections_kept_max);
    }

    #[test]
    fn which_bodies_a_delivery_carries() {
        let both = || Change { before: Some(raw(&doc! {"stars": 3})), ..change(1) };
        let plain = delivery(1, both()).bodies(Format::Json);
        assert_eq!((text(&plain.document), plain.before), (Some(r#"{"chatId":"c1","stars":4}"#), None));
        let asked = Delivery { with_before: true, ..delivery(1, both()) }.bodies(Format::Json);
        assert_eq!(text(&asked.before), Some(r#"{"stars":3}"#));
        let gone = delivery(1, Change { operation: Operation::Delete, document: None, ..both() });
        let gone = gone.bodies(Format::Json);
        assert_eq!((gone.document.is_none(), text(&gone.before)), (true, Some(r#"{"stars":3}"#)));
        let left = Change { left: Some(Scope::known("old", "things")), ..both() };
        let left = Delivery { left_scope: true, with_before: true, ..delivery(1, left) };
        assert_eq!(left.scope(), &Scope::known("old", "things"));
        assert_eq!(left.bodies(Format::Json), Bodies::default());
    }

    #[test]
    fn before_and_changed_are_cut_like_the_document() {
        let changed =
            Changed { set: raw(&doc! {"stars": 4, "chatId": "c1"}), removed: vec!["a".into(), "stars.x".into()] };
        let change = Change { before: Some(raw(&doc! {"stars": 3, "a": 1})), changed: Some(changed), ..change(1) };
        let cut = Delivery { with_before: true, fields: fields(&["stars"]), ..delivery(1, change) };
        let bodies = cut.bodies(Format::Json);
        assert_eq!(text(&bodies.document), Some(r#"{"stars":4}"#));
        assert_eq!(text(&bodies.before), Some(r#"{"stars":3}"#));
        let (set, removed) = bodies.changed.unwrap();
        assert_eq!((&*set, &*removed), (&br#"{"stars":4}"#[..], &["stars.x".to_string()][..]));
    }

    #[test]
    fn what_cannot_be_decoded_is_reduced() {
        let broken = RawDocumentBuf::from_bytes(b"\x0c\0\0\0\x02a\0\xff\0\0\0\0".to_vec()).unwrap();
        let delivery = delivery(1, Change { document: Some(broken), before: Some(raw(&doc! {})), ..change(1) });
        for fields in [None, fields(&["a"])] {
            let delivery = Delivery { fields, with_before: true, ..delivery.clone() };
            let bodies = delivery.bodies(Format::Json);
            assert_eq!(bodies, Bodies { reduced: true, ..Bodies::default() });
            assert_eq!(delivery.flags_with(&bodies).names().collect::<Vec<_>>(), ["reduced"]);
        }
    }
}
