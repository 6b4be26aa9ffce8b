//! Raw BSON to relaxed Extended JSON v2, as text.
//!
//! Owns the encoding that every transport but BSON over gRPC delivers bodies in. Reads the bytes in
//! place and builds no tree. Follows the MongoDB specification "Extended JSON"; dates carry three
//! fractional digits or none. Knows nothing of changes or sessions.

use std::io::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bson::{Bson, RawArray, RawBsonRef, RawDocument};
use chrono::{DateTime, Datelike, Timelike};
use serde::Serialize;

use crate::limits;

/// Bytes that are no BSON, or nest deeper than `limits::body_depth_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body cannot be decoded")]
pub struct Undecodable;

/// Appends a document. On failure `out` is as it was.
pub fn write_document(out: &mut Vec<u8>, document: &RawDocument) -> Result<(), Undecodable> {
    let before = out.len();
    let written = put_document(out, document, 0);
    if written.is_err() {
        out.truncate(before);
    }
    written
}

/// Appends a JSON string.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    write_json(out, text);
}

/// Appends whatever `serde_json` writes in one token: numbers and strings.
pub(super) fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("plain values have a JSON text, and memory takes it");
}

fn put_document(out: &mut Vec<u8>, document: &RawDocument, depth: usize) -> Result<(), Undecodable> {
    if depth > limits::body_depth_max {
        return Err(Undecodable);
    }
    out.push(b'{');
    for (index, element) in document.iter().enumerate() {
        let (key, value) = element.map_err(|_| Undecodable)?;
        if index > 0 {
            out.push(b',');
        }
        write_json(out, key.as_str());
        out.push(b':');
        put_value(out, value, depth)?;
    }
    out.push(b'}');
    Ok(())
}

fn put_array(out: &mut Vec<u8>, array: &RawArray, depth: usize) -> Result<(), Undecodable> {
    if depth > limits::body_depth_max {
        return Err(Undecodable);
    }
    out.push(b'[');
    for (index, value) in array.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_value(out, value.map_err(|_| Undecodable)?, depth)?;
    }
    out.push(b']');
    Ok(())
}

fn put_value(out: &mut Vec<u8>, value: RawBsonRef<'_>, depth: usize) -> Result<(), Undecodable> {
    match value {
        RawBsonRef::String(text) => write_json(out, text),
        RawBsonRef::Int32(number) => write_json(out, &number),
        RawBsonRef::Int64(number) => write_json(out, &number),
        RawBsonRef::Double(number) => put_double(out, number),
        RawBsonRef::Boolean(truth) => write_json(out, &truth),
        RawBsonRef::Null => out.extend_from_slice(b"null"),
        RawBsonRef::Document(document) => put_document(out, document, depth + 1)?,
        RawBsonRef::Array(array) => put_array(out, array, depth + 1)?,
        RawBsonRef::ObjectId(id) => wrap_text(out, "$oid", &id.to_hex()),
        RawBsonRef::DateTime(date) => put_date(out, date.timestamp_millis()),
        RawBsonRef::Binary(binary) => {
            out.extend_from_slice(br#"{"$binary":{"base64":""#);
            out.extend_from_slice(STANDARD.encode(binary.bytes).as_bytes());
            put(out, format_args!(r#"","subType":"{:02x}"}}}}"#, u8::from(binary.subtype)));
        }
        RawBsonRef::Decimal128(number) => wrap_text(out, "$numberDecimal", &number.to_string()),
        RawBsonRef::Timestamp(at) => {
            put(out, format_args!(r#"{{"$timestamp":{{"t":{},"i":{}}}}}"#, at.time, at.increment));
        }
        RawBsonRef::RegularExpression(regex) => {
            let mut options: Vec<char> = regex.options.as_str().chars().collect();
            options.sort_unstable();
            out.extend_from_slice(br#"{"$regularExpression":{"pattern":"#);
            write_json(out, regex.pattern.as_str());
            out.extend_from_slice(br#","options":"#);
            write_json(out, &String::from_iter(options));
            out.extend_from_slice(b"}}");
        }
        RawBsonRef::JavaScriptCode(code) => wrap_text(out, "$code", code),
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            out.extend_from_slice(br#"{"$code":"#);
            write_json(out, code.code);
            out.extend_from_slice(br#","$scope":"#);
            put_document(out, code.scope, depth + 1)?;
            out.push(b'}');
        }
        RawBsonRef::Symbol(text) => wrap_text(out, "$symbol", text),
        RawBsonRef::Undefined => out.extend_from_slice(br#"{"$undefined":true}"#),
        RawBsonRef::MinKey => out.extend_from_slice(br#"{"$minKey":1}"#),
        RawBsonRef::MaxKey => out.extend_from_slice(br#"{"$maxKey":1}"#),
        // The crate keeps the parts of this long deprecated type to itself.
        RawBsonRef::DbPointer(_) => {
            let pointer = Bson::try_from(value).map_err(|_| Undecodable)?;
            write_json(out, &pointer.into_relaxed_extjson());
        }
    }
    Ok(())
}

fn put_double(out: &mut Vec<u8>, number: f64) {
    if number.is_finite() {
        write_json(out, &number);
    } else {
        let name = match (number.is_nan(), number > 0.0) {
            (true, _) => "NaN",
            (_, true) => "Infinity",
            _ => "-Infinity",
        };
        wrap_text(out, "$numberDouble", name);
    }
}

fn put_date(out: &mut Vec<u8>, millis: i64) {
    out.extend_from_slice(br#"{"$date":"#);
    match DateTime::from_timestamp_millis(millis) {
        Some(date) if millis >= 0 && date.year() <= 9999 => {
            out.push(b'"');
            put(out, format_args!("{}", date.format("%Y-%m-%dT%H:%M:%S")));
            let fraction = date.nanosecond() / 1_000_000;
            if fraction > 0 {
                put(out, format_args!(".{fraction:03}"));
            }
            out.extend_from_slice(br#"Z""#);
        }
        _ => put(out, format_args!(r#"{{"$numberLong":"{millis}"}}"#)),
    }
    out.push(b'}');
}

/// `{"name":"text"}`
fn wrap_text(out: &mut Vec<u8>, name: &str, text: &str) {
    put(out, format_args!(r#"{{"{name}":"#));
    write_json(out, text);
    out.push(b'}');
}

pub(super) fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes it");
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bson::oid::ObjectId;
    use bson::spec::BinarySubtype;
    use bson::{
        Binary, DbPointer, Decimal128, Document, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp, doc,
    };
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::Value;

    pub(crate) fn text(document: &RawDocument) -> Result<String, Undecodable> {
        let mut out = Vec::new();
        write_document(&mut out, document)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn scalars() -> impl Strategy<Value = Bson> {
        let special = prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(1.0), Just(-0.0)];
        // Later dates the crate clamps to the last of the year 9999; the fixed texts below have one.
        let last = 253_402_300_799_999i64;
        let millis = prop_oneof![i64::MIN..=last, -2_000i64..2_000, last - 2_000..=last];
        prop_oneof![
            any::<i32>().prop_map(Bson::Int32),
            any::<i64>().prop_map(Bson::Int64),
            prop_oneof![any::<f64>(), special].prop_map(Bson::Double),
            ".{0,8}".prop_map(Bson::String),
            any::<bool>().prop_map(Bson::Boolean),
            any::<[u8; 12]>().prop_map(|b| Bson::ObjectId(ObjectId::from_bytes(b))),
            millis.prop_map(|m| Bson::DateTime(bson::DateTime::from_millis(m))),
            (any::<u32>(), any::<u32>()).prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
            any::<[u8; 16]>().prop_map(|b| Bson::Decimal128(Decimal128::from_bytes(b))),
            (any::<u8>(), vec(any::<u8>(), 0..9))
                .prop_map(|(subtype, bytes)| Bson::Binary(Binary { subtype: BinarySubtype::from(subtype), bytes })),
            ("[a-z\"\\\\/]{0,6}", "[imxs]{0,3}").prop_map(|(pattern, options)| Bson::RegularExpression(Regex {
                pattern: pattern.try_into().unwrap(),
                options: options.try_into().unwrap()
            })),
            ".{0,8}".prop_map(Bson::JavaScriptCode),
            ".{0,8}".prop_map(|code| Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                code,
                scope: doc! {"x": 1.0}
            })),
            ".{0,8}".prop_map(Bson::Symbol),
            prop_oneof![Just(Bson::Null), Just(Bson::Undefined), Just(Bson::MinKey), Just(Bson::MaxKey)],
        ]
    }

    fn values() -> impl Strategy<Value = Bson> {
        scalars().prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Bson::Array),
                vec(("[a-c$.\"é]{0,3}", inner), 0..6).prop_map(|fields| Bson::Document(fields.into_iter().collect())),
            ]
        })
    }

    pub(crate) fn documents() -> impl Strategy<Value = Document> {
        vec(("[a-d]", values()), 1..6).prop_map(|fields| fields.into_iter().collect())
    }

    pub(crate) fn raw(document: &Document) -> RawDocumentBuf {
        RawDocumentBuf::from_bytes(bson::serialize_to_vec(document).unwrap()).unwrap()
    }

    /// Where the specification and the crate differ, the specification's form: no sign on NaN, three
    /// fractional digits or none.
    fn as_specified(value: Value) -> Value {
        match value {
            Value::Array(items) => items.into_iter().map(as_specified).collect(),
            Value::Object(members) => {
                let fixed = members.into_iter().map(|(key, value)| match (key.as_str(), value) {
                    ("$numberDouble", Value::String(text)) if text == "-NaN" => (key, "NaN".into()),
                    ("$date", Value::String(text)) => {
                        let date = DateTime::parse_from_rfc3339(&text).unwrap().to_utc();
                        let whole = date.timestamp_subsec_millis() == 0;
                        let form = if whole { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%.3fZ" };
                        (key, date.format(form).to_string().into())
                    }
                    (_, value) => (key, as_specified(value)),
                });
                Value::Object(fixed.collect())
            }
            other => other,
        }
    }

    proptest! {
        #[test]
        fn equals_the_crates_own_conversion(document in documents()) {
            let ours: Value = serde_json::from_str(&text(&raw(&document)).unwrap()).unwrap();
            let theirs = Bson::Document(document).into_relaxed_extjson();
            // Through text as well, so that both have been parsed once.
            let theirs: Value = serde_json::from_str(&theirs.to_string()).unwrap();
            prop_assert_eq!(ours, as_specified(theirs));
        }

        #[test]
        fn damaged_bytes_never_panic_and_leave_nothing_behind(
            document in documents(),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = raw(&document).into_bytes();
            let inner = bytes.len() - 5;
            for (at, to) in damage {
                bytes[4 + at.index(inner)] = to;
            }
            let damaged = RawDocumentBuf::from_bytes(bytes).unwrap();
            let mut out = b"kept".to_vec();
            match write_document(&mut out, &damaged) {
                Ok(()) => prop_assert!(serde_json::from_slice::<Value>(&out[4..]).is_ok()),
                Err(Undecodable) => prop_assert_eq!(out, b"kept"),
            }
        }
    }

    #[test]
    fn the_texts_of_the_specification() {
        let document = doc! {
            "one": 1.0, "int": 1, "long": 5_000_000_000_i64, "big": 1e300, "nan": f64::NAN, "down": f64::NEG_INFINITY,
            "at": bson::DateTime::from_millis(1_356_351_330_501), "whole": bson::DateTime::from_millis(0),
            "early": bson::DateTime::from_millis(-1), "late": bson::DateTime::from_millis(253_402_300_800_000),
            "regex": Regex { pattern: "a\"".to_string().try_into().unwrap(), options: "xi".to_string().try_into().unwrap() },
            "bin": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 255] },
            "stamp": Timestamp { time: 123_456_789, increment: 42 }, "text": "tab\t\u{1}é",
        };
        let expected = concat!(
            r#"{"one":1.0,"int":1,"long":5000000000,"big":1e+300,"nan":{"$numberDouble":"NaN"},"down":{"$numberDouble":"-Infinity"},"#,
            r#""at":{"$date":"2012-12-24T12:15:30.501Z"},"whole":{"$date":"1970-01-01T00:00:00Z"},"#,
            r#""early":{"$date":{"$numberLong":"-1"}},"late":{"$date":{"$numberLong":"253402300800000"}},"#,
            r#""regex":{"$regularExpression":{"pattern":"a\"","options":"ix"}},"#,
            r#""bin":{"$binary":{"base64":"AQL/","subType":"00"}},"stamp":{"$timestamp":{"t":123456789,"i":42}},"text":"tab\t\u0001é"}"#,
        );
        assert_eq!(text(&raw(&document)).unwrap(), expected);
    }

    #[test]
    fn a_db_pointer_is_written_too() {
        let pointer: DbPointer = serde_json::from_value(serde_json::json!(
            {"$dbPointer": {"$ref": "db.c", "$id": {"$oid": "57e193d7a9cc81b4027498b1"}}}
        ))
        .unwrap();
        assert_eq!(
            text(&raw(&doc! {"p": Bson::DbPointer(pointer)})).unwrap(),
            r#"{"p":{"$dbPointer":{"$ref":"db.c","$id":{"$oid":"57e193d7a9cc81b4027498b1"}}}}"#
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let nest = |levels: usize| (0..levels).fold(doc! {}, |inner, _| doc! {"a": inner});
        assert!(text(&raw(&nest(limits::body_depth_max))).is_ok());
        assert_eq!(text(&raw(&nest(limits::body_depth_max + 1))), Err(Undecodable));
    }
}
