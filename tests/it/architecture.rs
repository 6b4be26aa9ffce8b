//! The rules of the code's structure, checked over `src/`: who may import what, who may read clocks,
//! start tasks or make queues, and how a file opens.
//!
//! Comments, texts and code under `#[cfg(test)]` do not count. A failure says where, and what to do
//! instead; a place with a good reason goes on that rule's `except` list, with the reason.

use std::fmt::Write as _;
use std::path::Path;

use regex::Regex;

/// Something that only some files may contain.
struct Rule {
    name: &'static str,
    /// What is looked for, line by line.
    pattern: &'static str,
    /// The files that the rule is about; all where none is named. A path, or the beginning of one.
    within: &'static [&'static str],
    /// Where the pattern is at home.
    home: &'static [&'static str],
    /// Files and folders (with `/` at the end) where it may stand besides, and why.
    except: &'static [(&'static str, &'static str)],
    instead: &'static str,
}

/// Synchronous rooms: everything that decides what is delivered.
const PURE: &[&str] = &[
    "src/matching/",
    "src/subscription/",
    "src/position.rs",
    "src/cursor.rs",
    "src/change.rs",
    "src/delivery/machine/",
    "src/delivery/window.rs",
];

const RUNTIME_TIMER: &str = "deadlines of the runtime's timers, which tests pause together with them";
const OUTSIDE: &str = "measures a real system from outside it, by the runtime's clock; nothing is decided by it";

const RULES: &[Rule] = &[
    Rule {
        name: "the MongoDB driver has one home",
        pattern: r"(^|[^:\w])(::)?mongodb(::|\s*;|\s+as\b)",
        within: &[],
        home: &["src/source/mongo/", "src/cmd/rig/"],
        except: &[],
        instead: "ask through source::ChangeSource; BSON types come from the crate `bson`",
    },
    Rule {
        name: "the etcd client has one home",
        pattern: r"(^|[^:\w])(::)?etcd_client(::|\s*;|\s+as\b)",
        within: &[],
        home: &["src/store/etcd", "src/cmd/rig/etcd.rs"],
        except: &[],
        instead: "ask through store::Store",
    },
    Rule {
        name: "redb has two homes",
        pattern: r"(^|[^:\w])(::)?redb::|use redb\b",
        within: &[],
        home: &["src/store/redb", "src/source/log/"],
        except: &[],
        instead: "ask through store::Store, or source::log for changes",
    },
    Rule {
        name: "tonic stays with gRPC",
        pattern: r"(^|[^:\w])(::)?tonic(_\w+)?(::|\s*;|\s+as\b)",
        within: &[],
        home: &["src/delivery/grpc/", "src/client/", "src/peer/", "src/proto.rs"],
        except: &[],
        instead: "answer with error::Problem and delivery::frame; delivery::grpc makes messages of them",
    },
    Rule {
        name: "axum stays with HTTP",
        pattern: r"(^|[^:\w])(::)?axum(::|\s*;|\s+as\b)",
        within: &[],
        home: &["src/api/", "src/delivery/sse"],
        except: &[],
        instead: "answer with error::Problem and plain values; src/api makes responses of them",
    },
    Rule {
        name: "reqwest is for those who call a hub",
        pattern: r"(^|[^:\w])(::)?reqwest(::|\s*;|\s+as\b)",
        within: &[],
        home: &["src/client/", "src/cmd/"],
        except: &[],
        instead: "the hub itself calls nobody over HTTP",
    },
    Rule {
        name: "the NATS client has one home",
        pattern: r"(^|[^:\w])(::)?async_nats\b",
        within: &[],
        home: &["src/nats/"],
        except: &[],
        instead: "ask through nats::Server",
    },
    Rule {
        name: "every queue is bounded",
        pattern: r"unbounded|mpsc::channel(::<.*>)?\(\s*\)|std::sync::mpsc::(\{.*)?\bchannel\b",
        within: &[],
        home: &[],
        except: &[],
        instead: "use a channel with a capacity from limits.rs and decide what happens when it is full",
    },
    Rule {
        name: "tasks start in one place",
        pattern: r"\btokio::(task::)?spawn(_local)?\b|\btask::spawn(_local)?\b|\bJoinSet\b",
        within: &[],
        home: &["src/tasks.rs"],
        except: &[],
        instead: "start it with tasks::Tasks::spawn under a Kind, so that its end is handled and shutdown can name it",
    },
    Rule {
        name: "time is passed in",
        pattern: r"\b(Instant|SystemTime|Utc|Local)::now\b",
        within: &[],
        home: &["src/clock.rs"],
        except: &[
            ("src/pipeline.rs", RUNTIME_TIMER),
            ("src/pipeline/tenure.rs", RUNTIME_TIMER),
            ("src/client/runner.rs", RUNTIME_TIMER),
            ("src/cmd/rig/", OUTSIDE),
            ("src/cmd/drill/", OUTSIDE),
            ("src/cmd/bench/", OUTSIDE),
        ],
        instead: "take a clock::Clock as an argument",
    },
    Rule {
        name: "no clock but the runtime's and ours",
        pattern: r"\bstd::time::(\{[^}]*)?\b(Instant|SystemTime)\b",
        within: &[],
        home: &["src/clock.rs"],
        except: &[("src/observe/trace.rs", "spans are told with the system's kind of time; it reads no clock")],
        instead: "take a clock::Clock, or tokio::time::Instant for a timer's deadline; tests can stop both",
    },
    Rule {
        name: "what decides is synchronous",
        pattern: r"\basync\s+(fn|move|\{)|\.await\b",
        within: PURE,
        home: &[],
        except: &[],
        instead: "take the value as an argument, or return what is to be done (see delivery::machine::Effect)",
    },
    Rule {
        name: "what decides knows no runtime",
        pattern: r"\btokio::",
        within: PURE,
        home: &[],
        except: &[("src/delivery/machine/mod.rs", "tokio::sync::Notify wakes a session; nothing waits on it here")],
        instead: "move what needs the runtime to the pipeline; only tokio::sync::Notify may be held",
    },
];

impl Rule {
    fn applies_to(&self, path: &str) -> bool {
        let begins = |list: &[&str]| list.iter().any(|start| path.starts_with(start));
        (self.within.is_empty() || begins(self.within))
            && !begins(self.home)
            && !self.except.iter().any(|(place, _)| is_in(path, place))
    }

    /// The numbers of the lines of `code` (as [`product_code`] leaves it) that break the rule.
    fn broken_at(&self, path: &str, code: &str) -> Vec<usize> {
        if !self.applies_to(path) {
            return Vec::new();
        }
        let pattern = Regex::new(self.pattern).unwrap();
        let lines = code.lines().enumerate();
        lines.filter(|(_, line)| pattern.is_match(line)).map(|(index, _)| index + 1).collect()
    }
}

/// A source file with comments, texts and tests blanked out; lines keep their numbers.
fn product_code(source: &str) -> String {
    blank_tests(&blank_comments_and_texts(source))
}

fn blank_comments_and_texts(source: &str) -> String {
    // In this order: whatever begins first ends the others' chance. A lifetime is no character.
    let patterns = [
        r"//[^\n]*",
        r"(?s)/\*.*?\*/",
        r##"(?s)\bb?r#".*?"#"##,
        r#"(?s)\bb?r"[^"]*""#,
        r#"(?s)"(\\.|[^"\\])*""#,
        r"'(\\[^u\n]|\\u\{\w+\}|\\x\w\w|[^'\\\n])'",
    ];
    let all = Regex::new(&patterns.join("|")).unwrap();
    all.replace_all(source, |found: &regex::Captures<'_>| blank(&found[0])).into_owned()
}

fn blank(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect()
}

fn blank_tests(code: &str) -> String {
    let marker = Regex::new(r"#\[cfg\((all\()?test\b[^\]]*\]").unwrap();
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(found) = marker.find(rest) {
        out.push_str(&rest[..found.start()]);
        let end = found.start() + item_length(&rest[found.start()..]);
        out.push_str(&blank(&rest[found.start()..end]));
        rest = &rest[end..];
    }
    out + rest
}

/// How far the item at the start of `code` reaches: to the brace that closes it, or a `;` before any.
fn item_length(code: &str) -> usize {
    let mut depth = 0;
    for (index, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return index + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return index + 1,
            _ => {}
        }
    }
    code.len()
}

/// Whether a file is this one, or below this folder (with `/` at its end).
fn is_in(path: &str, place: &str) -> bool {
    path == place || (place.ends_with('/') && path.starts_with(place))
}

/// Files that are tests as a whole; their parents include them under `#[cfg(test)]`.
fn is_test_file(path: &str) -> bool {
    let test_stem = |part: &str| matches!(part, "tests" | "testing" | "simulation") || part.ends_with("_tests");
    path.trim_end_matches(".rs").split('/').any(test_stem)
}

/// Every file below `src/`: its path from the root with `/`, and its text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = walkdir::WalkDir::new(root.join("src")).sort_by_file_name().into_iter().map(Result::unwrap);
    let files = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "rs"));
    files
        .map(|file| {
            let path = file.path().strip_prefix(root).unwrap().components();
            let path: Vec<_> = path.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
            (path.join("/"), std::fs::read_to_string(file.path()).unwrap())
        })
        .collect()
}

#[test]
fn the_rules_hold() {
    let mut failures = String::new();
    for (path, source) in sources().iter().filter(|(path, _)| !is_test_file(path)) {
        let code = product_code(source);
        for rule in RULES {
            for line in rule.broken_at(path, &code) {
                let text = source.lines().nth(line - 1).unwrap_or_default().trim();
                writeln!(failures, "{path}:{line}: {}: `{text}`\n    {}", rule.name, rule.instead).unwrap();
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources().into_iter().filter(|(_, source)| !source.starts_with("//! "));
    let silent: Vec<String> = silent.map(|(path, _)| format!("{path}:1")).collect();
    assert!(silent.is_empty(), "begin these with a //! comment: what it owns, what it must not know: {silent:?}");
}

#[test]
fn exceptions_are_still_needed() {
    let sources = sources();
    for rule in RULES {
        let pattern = Regex::new(rule.pattern).unwrap();
        for (place, reason) in rule.except {
            let mut sources = sources.iter().filter(|(path, _)| is_in(path, place));
            let used = sources.any(|(_, source)| product_code(source).lines().any(|line| pattern.is_match(line)));
            assert!(used, "{place} no longer needs its exception from '{}' ({reason}): remove it", rule.name);
        }
    }
}

#[test]
fn the_machine_holds_notify_and_nothing_else_of_the_runtime() {
    let sources = sources();
    let (path, machine) = sources.iter().find(|(path, _)| path == "src/delivery/machine/mod.rs").unwrap();
    for (index, line) in product_code(machine).lines().enumerate() {
        let rest = line.replace("tokio::sync::Notify", "");
        assert!(!rest.contains("tokio::"), "{path}:{}: only tokio::sync::Notify may stand here: {line}", index + 1);
    }
}

fn broken(path: &str, source: &str) -> Vec<(&'static str, usize)> {
    let code = product_code(source);
    let of = |rule: &'static Rule| rule.broken_at(path, &code).into_iter().map(|line| (rule.name, line));
    RULES.iter().flat_map(of).collect()
}

#[test]
fn the_checker_finds_what_is_forbidden() {
    let cases = [
        ("src/store/redb.rs", "use mongodb::Client;", "the MongoDB driver has one home"),
        ("src/api/mod.rs", "fn f(c: ::etcd_client::Client) {}", "the etcd client has one home"),
        ("src/api/mod.rs", "use redb::{Database};", "redb has two homes"),
        ("src/api/mod.rs", "fn f() -> tonic_types::Status {}", "tonic stays with gRPC"),
        ("src/hub.rs", "use axum as web;", "axum stays with HTTP"),
        ("src/hub.rs", "let c = reqwest::Client::new();", "reqwest is for those who call a hub"),
        ("src/client/mod.rs", "use async_nats;", "the NATS client has one home"),
        ("src/hub.rs", "let (a, b) = mpsc::unbounded_channel();", "every queue is bounded"),
        ("src/hub.rs", "let (a, b) = mpsc::channel::<Vec<u8>>();", "every queue is bounded"),
        ("src/hub.rs", "tokio::spawn(work);", "tasks start in one place"),
        ("src/hub.rs", "tokio::task::spawn(work);", "tasks start in one place"),
        ("src/cmd/dev.rs", "let t = Instant::now();", "time is passed in"),
        ("src/client/mod.rs", "let t = chrono::Utc::now;", "time is passed in"),
        ("src/pipeline.rs", "use std::time::{Duration, Instant};", "no clock but the runtime's and ours"),
        ("src/cursor.rs", "pub async fn load() {}", "what decides is synchronous"),
        ("src/matching/index.rs", "use tokio::sync::Mutex;", "what decides knows no runtime"),
    ];
    for (path, line, rule) in cases {
        let source = format!("//! A file.\n\n{line}\n");
        assert_eq!(broken(path, &source), [(rule, 3)], "{path}: {line}");
    }
}

#[test]
fn the_checker_leaves_alone_what_is_allowed() {
    let cases = [
        ("src/source/mongo/feed.rs", "use mongodb::Client;"),
        ("src/hub.rs", "use crate::source::mongo::MongoSource; mod redb; use crate::store::redb::RedbStore;"),
        ("src/hub.rs", "let (a, b) = mpsc::channel(4);"),
        ("src/hub.rs", "// tokio::spawn(work)"),
        ("src/hub.rs", "/* a\n tokio::spawn(work) */"),
        ("src/hub.rs", "let text = \"use mongodb::Client; \\\" tokio::spawn\";"),
        ("src/hub.rs", "let text = r#\"a \" tokio::spawn\"#;"),
        ("src/tasks.rs", "tokio::spawn(work);"),
        ("src/hub.rs", "#[cfg(test)]\nmod tests {\n fn f() { tokio::spawn(async {}); }\n}"),
        ("src/hub.rs", "#[cfg(test)]\nmod tests;"),
    ];
    for (path, source) in cases {
        assert_eq!(broken(path, source), [], "{path}: {source}");
    }
}

#[test]
fn the_checker_sees_past_tests_texts_and_characters() {
    let source = "#[cfg(test)]\nmod tests {\n let brace = '}'; let text = \"}\";\n}\nfn f<'a>() {\n let q = '\"';\n tokio::spawn(x);\n}\n";
    assert_eq!(broken("src/hub.rs", source), [("tasks start in one place", 7)]);
}
