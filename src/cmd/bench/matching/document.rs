//! The documents of the workloads.
//!
//! Owns their shape: what a chat message usually carries, and the fields that filters name at its very
//! end, where they cost most to find.

use bson::{Document, RawDocumentBuf, doc};

use super::random::Random;

/// Of every document but the light ones.
pub const BODY_BYTES: usize = 495;
/// Fields of every document but the light ones.
const FIELDS: usize = 14;

/// A document with these fields at its end; without anything else if `light`.
pub(super) fn document(number: u64, named: &Document, light: bool) -> anyhow::Result<RawDocumentBuf> {
    if light {
        return Ok(RawDocumentBuf::try_from(named)?);
    }
    let random = Random(7_001);
    let front = doc! {
        "author": format!("user-{}", random.below(number, 997)),
        "createdAt": bson::DateTime::from_millis(1_763_690_000_000 + number as i64),
        "lang": "en",
        "edited": number.is_multiple_of(11),
        "likes": (number % 83) as i32,
        "score": (number % 1_009) as f64 / 8.0,
        "client": { "os": "android", "version": "14.2.1" },
        "thread": format!("t{:08x}", random.at(number) as u32),
        "mentions": [format!("user-{}", number % 13), "all"],
        "attachments": 0_i64,
        "device": "Pixel 9 Pro",
        "replyTo": format!("m-{}", number / 2),
        "silent": false,
    };
    // The text stands first and takes a place as well.
    let places = FIELDS - 1 - named.len();
    let mut front: Document = front.into_iter().take(places).collect();
    front.extend(named.clone());
    // A string costs its type, name, length and two closing zeros besides its characters.
    let so_far = bson::serialize_to_vec(&front)?.len() + "text".len() + 7;
    let text: String = "lorem ipsum ".chars().cycle().take(BODY_BYTES.saturating_sub(so_far)).collect();
    let mut whole = doc! { "text": text };
    whole.extend(front);
    Ok(RawDocumentBuf::try_from(&whole)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_their_size_and_end_with_what_filters_name() {
        for number in [0, 1, 999_999] {
            for named in [doc! { "chatId": "c1" }, doc! { "a": 1, "b": 2, "n": 3, "tags": ["x", "y"], "name": "n" }] {
                let body = document(number, &named, false).unwrap();
                assert_eq!(body.as_bytes().len(), BODY_BYTES);
                let names: Vec<String> = body.iter().map(|field| field.unwrap().0.to_string()).collect();
                assert_eq!(names.len(), FIELDS);
                assert!(named.keys().eq(&names[FIELDS - named.len()..]), "{names:?}");
            }
        }
    }
}
