//! JSON as requests bring it.
//!
//! Owns the reading of a request's text: duplicate names are refused, for two readers may take
//! different ones, and batches are taken apart before their items are read, so that one bad item
//! spoils no other and a hostile text costs no more memory than its own size. Knows nothing of what
//! the values mean.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use crate::error::Problem;
use crate::subscription::fields::{invalid, shown};

/// Reads one whole text.
///
/// # Errors
/// `INVALID_REQUEST` with status 400, in one line.
pub(crate) fn parse(text: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice::<Strict>(text).map(|strict| strict.0).map_err(|error| malformed(&error))
}

/// The items of `{"<name>": […]}`, not read yet. `count_max` is the greatest number of them.
///
/// # Errors
/// `INVALID_REQUEST`: 400 if it is not JSON, 422 if it is anything but such an object.
pub(super) fn items<'a>(text: &'a [u8], name: &str, count_max: usize) -> Result<Vec<&'a RawValue>, Problem> {
    let whole: &RawValue = serde_json::from_slice(text).map_err(|error| malformed(&error))?;
    if !whole.get().starts_with('{') {
        return Err(invalid(format!("expected an object with `{name}`")));
    }
    let Members(members) = serde_json::from_str(whole.get()).map_err(|error| malformed(&error))?;
    if let Some((other, _)) = members.iter().find(|(key, _)| key != name) {
        return Err(invalid(format!("unknown field; there is only `{name}`")).at(shown(other)));
    }
    let Some((_, list)) = members.first() else {
        return Err(invalid(format!("`{name}` is required")).at(name));
    };
    if !list.get().starts_with('[') {
        return Err(invalid("expected an array").at(name));
    }
    let mut reader = serde_json::Deserializer::from_str(list.get());
    let items = reader.deserialize_seq(ItemsUpTo { count_max }).map_err(|error| malformed(&error))?;
    items.ok_or_else(|| invalid(format!("a batch has at most {count_max} items")).at(name))
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::malformed(format!("not JSON that can be read: {error}"))
}

/// A value without duplicate names anywhere.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if map.contains_key(&name) {
                return Err(A::Error::custom(format_args!("`{}` is there twice", shown(&name))));
            }
            let Strict(value) = members.next_value()?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

/// An object's first few members, their values not read.
struct Members<'a>(Vec<(String, &'a RawValue)>);

/// An envelope has one; more are refused anyway, whatever they are.
const MEMBERS_KEPT: usize = 2;

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut kept: Vec<(String, &'de RawValue)> = Vec::new();
                while let Some(name) = members.next_key::<String>()? {
                    if kept.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom(format_args!("`{}` is there twice", shown(&name))));
                    }
                    if kept.len() < MEMBERS_KEPT {
                        kept.push((name, members.next_value()?));
                    } else {
                        members.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Members(kept))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// Reads a list whose items stay unread; `None` if there are too many.
struct ItemsUpTo {
    count_max: usize,
}

impl<'de> Visitor<'de> for ItemsUpTo {
    type Value = Option<Vec<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < self.count_max {
            match list.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(Some(items)),
            }
        }
        let mut over = false;
        while list.next_element::<IgnoredAny>()?.is_some() {
            over = true;
        }
        Ok((!over).then_some(items))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_value_is_read_as_it_is_written() {
        let text = br#"{"b":[1,-2,3.5,"x",null,true],"a":{"c":18446744073709551615}}"#;
        assert_eq!(parse(text).unwrap(), serde_json::from_slice::<Value>(text).unwrap());
        assert_eq!(parse(text).unwrap().as_object().unwrap().keys().collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        let deep = "[".repeat(100_000);
        for text in
            ["", "{", "nul", "1 2", "{\"a\":1,\"a\":1}", "{\"x\":{\"a\":1,\"a\":2}}", "1e999", "\u{feff}1", &deep]
        {
            let problem = parse(text.as_bytes()).expect_err(text);
            assert_eq!((problem.code, problem.status), (Code::InvalidRequest, 400));
            assert!(problem.detail.len() < 200 && !problem.detail.contains('\n'), "{}", problem.detail);
        }
        assert!(parse(b"\"\xff\"").is_err());
    }

    #[test]
    fn a_batch_is_taken_apart_without_reading_its_items() {
        let take = |text: &str, max| {
            items(text.as_bytes(), "xs", max)
                .map(|items| items.iter().map(|raw| raw.get().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(take(r#" {"xs": [1, {"a":1,"a":2} ,[]]} "#, 3).unwrap(), ["1", r#"{"a":1,"a":2}"#, "[]"]);
        assert_eq!(take(r#"{"xs":[]}"#, 0).unwrap(), [""; 0]);
        for (text, status, field) in [
            (r#"{"xs":[1,2,3,4]}"#, 422, Some("xs")),
            (r#"{"xs":1}"#, 422, Some("xs")),
            (r#"{"xs":[],"y":1}"#, 422, Some("y")),
            (r#"{"y":1}"#, 422, Some("y")),
            ("{}", 422, Some("xs")),
            ("[]", 422, None),
            (r#"{"xs":[],"xs":[]}"#, 400, None),
            (r#"{"xs":[1,}"#, 400, None),
            (r#"{"xs":[1]"#, 400, None),
            (r#"{"xs":[1]}}"#, 400, None),
            ("", 400, None),
        ] {
            let problem = take(text, 3).expect_err(text);
            assert_eq!((problem.status, problem.field.as_deref()), (status, field), "{text}");
        }
        assert!(items(b"{\"xs\":[\"\xff\"]}", "xs", 3).is_err());
    }

    proptest! {
        #[test]
        fn what_one_reader_takes_the_other_takes_alike(text in r#"[\[\]{}:,"a-b0-9.e \\]{0,24}"#) {
            if let Ok(value) = parse(text.as_bytes()) {
                prop_assert_eq!(serde_json::from_str::<Value>(&text).ok(), Some(value));
            }
            let _ = items(text.as_bytes(), "a", 2);
        }
    }

    #[test]
    fn nesting_in_an_item_is_the_items_own_fault() {
        let text = format!(
            r#"{{"xs":[{},1]}}"#,
            json!([[]]).to_string().replace("[]", &("[".repeat(9_000) + &"]".repeat(9_000)))
        );
        let items = items(text.as_bytes(), "xs", 3).unwrap();
        assert_eq!(parse(items[0].get().as_bytes()).unwrap_err().status, 400);
        assert_eq!(parse(items[1].get().as_bytes()).unwrap(), json!(1));
    }
}
