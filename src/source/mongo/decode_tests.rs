//! What events come to under the layouts, and that no event stops the decoder.

use bson::{Bson, DateTime, Document, RawDocumentBuf, Timestamp, doc};
use proptest::prelude::*;

use super::*;
use crate::position::{ClusterTime, Epoch};
use crate::source::layout::{CollectionPlace, Place, TenantPlace};

fn position() -> Position {
    Position::new(Epoch(1), ClusterTime::new(9, 1), 1)
}

fn raw(document: Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).expect("a document")
}

fn decode(layout: Layout, event: Document) -> Decoded {
    Decoder::new(layout).change(&RawEvent::read(&raw(event)), position())
}

fn told(layout: Layout, event: Document) -> Change {
    match decode(layout, event) {
        Decoded::Change(change) => change,
        other => panic!("not told: {other:?}"),
    }
}

fn event(kind: &str, id: &str, more: Document) -> Document {
    let mut event = doc! {
        "_id": { "_data": "82" }, "operationType": kind, "ns": { "db": "app", "coll": "documents" },
        "documentKey": { "_id": id }, "clusterTime": Timestamp { time: 9, increment: 1 },
    };
    event.extend(more);
    event
}

fn stored(tenant: &str, collection: &str, data: Document) -> Document {
    doc! { "_id": format!("{tenant}:1"), "tenant_id": tenant, "collection": collection, "data": data }
}

fn body(document: &Option<RawDocumentBuf>) -> Option<Document> {
    document.as_ref().map(|document| Document::try_from(document.as_ref()).expect("readable"))
}

#[test]
fn an_insert_is_told_with_its_body_time_and_transaction() {
    let uuid = bson::Uuid::from_bytes([7; 16]);
    let more = doc! {
        "fullDocument": stored("acme", "messages", doc! { "x": 1 }), "wallTime": DateTime::from_millis(1234),
        "lsid": { "id": uuid, "uid": "" }, "txnNumber": 5_i64,
    };
    let change = told(Layout::syntrix(), event("insert", "acme:1", more));
    assert_eq!(change.scope, Scope::known("acme", "messages"));
    assert_eq!((&*change.key, change.operation, change.wall_time_ms), ("1", Operation::Insert, Some(1234)));
    assert_eq!((body(&change.document), body(&change.before)), (Some(doc! { "x": 1 }), None));
    assert_eq!(change.transaction, Some(Transaction { id: uuid.to_string().into(), number: 5 }));
    assert_eq!((change.position, change.flags, change.left), (position(), Flags::none(), None));
}

#[test]
fn an_update_is_told_with_both_images_and_what_changed() {
    let more = doc! {
        "fullDocument": stored("acme", "messages", doc! { "x": 2 }),
        "fullDocumentBeforeChange": stored("acme", "messages", doc! { "x": 1 }),
        "updateDescription": { "updatedFields": { "data.x": 2, "rev": 9 }, "removedFields": [] },
    };
    let change = told(Layout::syntrix(), event("update", "acme:1", more));
    assert_eq!((body(&change.document), body(&change.before)), (Some(doc! { "x": 2 }), Some(doc! { "x": 1 })));
    assert_eq!(body(&change.changed.map(|changed| changed.set)), Some(doc! { "x": 2 }));
    assert_eq!(change.left, None);
}

#[test]
fn a_move_says_what_was_left() {
    let more = doc! {
        "fullDocument": stored("b", "messages", doc! {}), "fullDocumentBeforeChange": stored("a", "messages", doc! {}),
    };
    let change = told(Layout::syntrix(), event("replace", "a:1", more));
    assert_eq!((change.scope, change.left), (Scope::known("b", "messages"), Some(Scope::known("a", "messages"))));
}

#[test]
fn a_document_exists_while_it_is_somebodys() {
    let nobodys = || doc! { "_id": "a:1", "data": { "x": 1 } };
    let change = |after: Document, before: Document| {
        event("replace", "a:1", doc! { "fullDocument": after, "fullDocumentBeforeChange": before })
    };
    let begun = told(Layout::syntrix(), change(stored("a", "c", doc! {}), nobodys()));
    assert_eq!((begun.operation, begun.before, begun.left), (Operation::Insert, None, None));
    let ended = told(Layout::syntrix(), change(nobodys(), stored("a", "c", doc! { "x": 7 })));
    assert_eq!(
        (ended.operation, ended.scope, ended.document.is_none()),
        (Operation::Delete, Scope::known("a", "c"), true)
    );
    assert_eq!(body(&ended.before), Some(doc! { "x": 7 }));
    assert!(matches!(decode(Layout::syntrix(), change(nobodys(), nobodys())), Decoded::Nothing));
    let insert = event("insert", "a:1", doc! { "fullDocument": nobodys() });
    assert!(matches!(decode(Layout::syntrix(), insert), Decoded::Nothing));
}

#[test]
fn a_delete_knows_of_its_scope_what_the_layout_can_tell() {
    let with = event("delete", "x:1", doc! { "fullDocumentBeforeChange": stored("acme", "messages", doc! { "x": 1 }) });
    let change = told(Layout::syntrix(), with);
    assert_eq!((change.scope, body(&change.before)), (Scope::known("acme", "messages"), Some(doc! { "x": 1 })));
    let bare = || event("delete", "acme:1", doc! { "fullDocumentBeforeChange": Bson::Null });
    let change = told(Layout::syntrix(), bare());
    assert_eq!(change.scope, Scope { tenant: Some("acme".into()), collection: None });
    let change = told(Layout::plain(), bare());
    assert_eq!((change.scope, &*change.key), (Scope { tenant: None, collection: Some("documents".into()) }, "acme:1"));
}

#[test]
fn an_update_without_post_image_is_to_be_looked_up() {
    let update = raw(event("update", "acme:1", doc! { "fullDocument": Bson::Null, "updateDescription": {} }));
    let mut decoder = Decoder::new(Layout::syntrix());
    let update = RawEvent::read(&update);
    assert!(matches!(decoder.change(&update, position()), Decoded::LookUp));
    let found = raw(stored("acme", "messages", doc! { "x": 3 }));
    let Decoded::Change(change) = decoder.looked_up(&update, position(), &found) else { panic!("not told") };
    assert_eq!((change.flags, body(&change.document)), (Flags::LOOKUP, Some(doc! { "x": 3 })));
}

#[test]
fn images_cut_by_the_guard_still_tell_the_scope() {
    let scope = |tenant: &str| doc! { "tenant_id": tenant, "collection": "messages" };
    let cut = |level: i32, after: Document| {
        doc! { "fullDocument": after, "fullDocumentBeforeChange": scope("a"), "streamerReduced": level }
    };
    let change = told(Layout::syntrix(), event("update", "a:1", cut(2, scope("b"))));
    assert_eq!((change.flags, change.document, change.before), (Flags::REDUCED, None, None));
    assert_eq!((change.scope, change.left), (Scope::known("b", "messages"), Some(Scope::known("a", "messages"))));
    let change = told(Layout::syntrix(), event("update", "a:1", cut(1, stored("a", "messages", doc! { "x": 1 }))));
    assert_eq!((change.flags, body(&change.document), change.before), (Flags::none(), Some(doc! { "x": 1 }), None));
    let deleted = doc! { "fullDocumentBeforeChange": scope("a"), "streamerReduced": 1 };
    let change = told(Layout::syntrix(), event("delete", "a:1", deleted));
    assert_eq!((change.flags, change.before), (Flags::REDUCED, None));
}

#[test]
fn what_cannot_be_told_is_a_gap_for_the_scope_that_is_known() {
    let odd = doc! { "fullDocument": { "tenant_id": "a", "collection": "c", "data": 7 } };
    let Decoded::Gap(gap) = decode(Layout::syntrix(), event("insert", "a:1", odd)) else { panic!("no gap") };
    assert_eq!((gap.scope, gap.reason), (Scope::known("a", "c"), ResyncReason::Undecodable));
    let mut keyless = event("insert", "a:1", doc! { "fullDocument": stored("a", "c", doc! {}) });
    keyless.remove("documentKey");
    assert!(matches!(decode(Layout::syntrix(), keyless), Decoded::Gap(_)));
    let update = raw(event("update", "a:1", doc! {}));
    let oversize = |layout| Decoder::new(layout).oversize(&RawEvent::read(&update), position());
    let Decoded::Gap(gap) = oversize(Layout::syntrix()) else { panic!("no gap") };
    assert_eq!((gap.scope.tenant.as_deref(), gap.reason), (Some("a"), ResyncReason::Oversize));
    let prefixed = Layout { id_prefix: true, ..Layout::plain() };
    let Decoded::Change(change) = oversize(prefixed) else { panic!("not told") };
    assert_eq!((change.scope, change.flags), (Scope::known("a", "documents"), Flags::REDUCED));
}

#[test]
fn a_missing_body_has_no_fields() {
    let empty = doc! { "fullDocument": { "tenant_id": "a", "collection": "c" } };
    assert_eq!(body(&told(Layout::syntrix(), event("insert", "a:1", empty)).document), Some(doc! {}));
}

fn value() -> impl Strategy<Value = Bson> {
    let text =
        prop::sample::select(vec!["a", "a:b", "", "messages", "insert", "update", "delete", "data.x", "data", "."]);
    let leaf = prop_oneof![
        Just(Bson::Null),
        Just(Bson::Undefined),
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        any::<f64>().prop_map(Bson::Double),
        any::<i64>().prop_map(|ms| Bson::DateTime(DateTime::from_millis(ms))),
        any::<[u8; 16]>().prop_map(|b| Bson::Decimal128(bson::Decimal128::from_bytes(b))),
        any::<(u32, u32)>().prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
        prop::collection::vec(any::<u8>(), 0..20)
            .prop_map(|bytes| { Bson::Binary(bson::Binary { subtype: BinarySubtype::Uuid, bytes }) }),
        text.prop_map(Bson::from),
    ];
    let name = prop::sample::select(vec![
        "_id",
        "_data",
        "db",
        "coll",
        "tenant_id",
        "tenant",
        "collection",
        "data",
        "updatedFields",
        "removedFields",
        "truncatedArrays",
        "field",
        "data.x",
        "id",
        "0",
    ]);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
            prop::collection::vec((name.clone(), inner), 0..6)
                .prop_map(|fields| Bson::Document(fields.into_iter().map(|(n, v)| (n.to_owned(), v)).collect())),
        ]
    })
}

fn any_event() -> impl Strategy<Value = Document> {
    let name = prop::sample::select(vec![
        "_id",
        "operationType",
        "ns",
        "to",
        "documentKey",
        "clusterTime",
        "fullDocument",
        "fullDocumentBeforeChange",
        "updateDescription",
        "wallTime",
        "lsid",
        "txnNumber",
        "streamerReduced",
    ]);
    let kind = prop::sample::select(vec!["insert", "update", "replace", "delete", "drop", "rename", "odd"]);
    (kind, prop::collection::vec((name, value()), 0..12)).prop_map(|(kind, fields)| {
        let mut event = event(kind, "a:1", doc! {});
        event.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        event
    })
}

fn layouts() -> Vec<Layout> {
    let place = |text: &str| Place::new(text).expect("a place");
    vec![
        Layout::syntrix(),
        Layout::plain(),
        Layout {
            tenant: TenantPlace::Constant("t".into()),
            collection: CollectionPlace::Field(place("data.collection")),
            body: Some(place("data.data")),
            id_prefix: true,
        },
    ]
}

proptest! {
    /// No event, however odd, stops the decoder, and what it tells keeps the position it was given.
    #[test]
    fn no_event_stops_the_decoder(event in any_event(), cut in any::<prop::sample::Index>()) {
        let event = raw(event);
        let bytes = event.as_bytes();
        // The same event with one byte changed: no server sends it, but a wire may.
        let mut damaged = bytes.to_vec();
        let at = cut.index(damaged.len());
        damaged[at] = damaged[at].wrapping_add(1);
        for layout in layouts() {
            let mut decoder = Decoder::new(layout);
            for event in [Some(&*event), RawDocument::from_bytes(&damaged).ok()].into_iter().flatten() {
                let read = RawEvent::read(event);
                let found = raw(stored("a", "c", doc! {}));
                for decoded in [
                    decoder.change(&read, position()),
                    decoder.looked_up(&read, position(), &found),
                    decoder.oversize(&read, position()),
                ] {
                    match decoded {
                        Decoded::Change(change) => prop_assert_eq!(change.position, position()),
                        Decoded::Gap(gap) => prop_assert_eq!(gap.position, position()),
                        Decoded::LookUp | Decoded::Nothing => {}
                    }
                }
            }
        }
    }
}
