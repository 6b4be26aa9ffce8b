//! CEL programs that no index can take, in four shapes; of the first 1,200 no two are the same.

use bson::{Document, doc};

use super::random::Random;
use super::workload::Wanted;

pub(super) const NAMED: [&str; 5] = ["a", "b", "n", "name", "tags"];

pub(super) fn wanted(number: u32) -> Wanted {
    let k = number / 4;
    let cel = match number % 4 {
        0 => format!("doc.a + doc.b > {}", 1_500 + k % 400),
        1 => format!("size(doc.tags) > 2 && doc.n % {} == {}", 7 + k, k % 7),
        2 => format!("doc.name.endsWith(\"x{}\") || doc.a * 3 < doc.b - {k}", k % 100),
        _ => format!("doc.tags.exists(t, t.startsWith(\"ab{}\"))", k % 300),
    };
    Wanted { cel: Some(cel), ..Wanted::default() }
}

pub(super) fn named(number: u64) -> Document {
    let pick = |stream: u64, end: u64| Random(stream).below(number, end);
    let tags = (0..1 + pick(31, 5)).map(|tag| format!("a{}{}", ["b", "c"][tag as usize % 2], pick(32 + tag, 300)));
    doc! {
        "a": pick(41, 1_000) as i32,
        "b": pick(42, 1_000) as i64,
        "n": pick(43, 100_000) as i64,
        "name": format!("name-x{}", pick(44, 100)),
        "tags": tags.collect::<Vec<String>>(),
    }
}
