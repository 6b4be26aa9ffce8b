//! One `--filter`, as a person writes it: `stars >= 3`, `chatId == "c1"`, `kind in ["a", "b"]`.
//!
//! Owns that small syntax. What it means is for the hub to say.

use serde_json::Value;

use crate::client::Filter;

/// Longer ones first, so that `<=` is not taken for `<`.
const SYMBOLS: [&str; 6] = ["==", "!=", "<=", ">=", "<", ">"];
const WORDS: [&str; 6] = ["in", "not-in", "array-contains", "array-contains-any", "starts-with", "exists"];

/// Reads `<field> <op> <value>`. The value is JSON; what is no JSON is taken as a string.
pub(super) fn parse(text: &str) -> Result<Filter, String> {
    let wrong = |why: &str| Err(format!("--filter '{text}': {why}; write such as 'stars >= 3'"));
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| c.is_whitespace() || "=!<>".contains(c)).unwrap_or(trimmed.len());
    let (field, rest) = trimmed.split_at(end);
    let rest = rest.trim_start();
    if field.is_empty() {
        return wrong("it begins with a field");
    }
    let symbol = SYMBOLS.into_iter().find_map(|symbol| Some((symbol, rest.strip_prefix(symbol)?)));
    let word = || {
        let (word, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        WORDS.into_iter().find(|known| *known == word).map(|known| (known, value))
    };
    let Some((op, value)) = symbol.or_else(word) else {
        return wrong(
            "after the field comes one of == != < <= > >= in not-in array-contains array-contains-any starts-with exists",
        );
    };
    let value = match value.trim() {
        "" if op == "exists" => Value::Bool(true),
        "" => return wrong("it ends with a value"),
        value => serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned())),
    };
    Ok(Filter { field: field.to_owned(), op: op.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms_are_read_as_people_write_them() {
        let cases = [
            ("stars >= 3", "stars", ">=", json!(3)),
            ("stars>=3", "stars", ">=", json!(3)),
            (" chatId == \"c1\" ", "chatId", "==", json!("c1")),
            ("chatId == c1", "chatId", "==", json!("c1")),
            ("a.b < 1.5", "a.b", "<", json!(1.5)),
            ("kind in [\"a\", \"b\"]", "kind", "in", json!(["a", "b"])),
            ("tags array-contains x", "tags", "array-contains", json!("x")),
            ("at > {\"$date\": \"2026-11-21T10:00:00Z\"}", "at", ">", json!({"$date": "2026-11-21T10:00:00Z"})),
            ("flag exists", "flag", "exists", json!(true)),
            ("flag exists false", "flag", "exists", json!(false)),
            ("text == a == b", "text", "==", json!("a == b")),
        ];
        for (text, field, op, value) in cases {
            let expected = Filter { field: field.into(), op: op.into(), value };
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_term_is_refused_in_one_line() {
        for text in ["", "stars", "stars =", "stars ~ 3", "stars >=", ">= 3", "kind inside x"] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("--filter '") && error.lines().count() == 1, "{error}");
        }
    }
}
