//! What is compiled, and what is left to the interpreter. That both say the same is `tests/it/filters`' business.

use super::Compiled;
use crate::matching::cel::Program;

fn compiled(source: &str) -> Option<Compiled> {
    Compiled::new(&Program::compile(source).unwrap_or_else(|problem| panic!("{source}: {problem}")).expression)
}

#[test]
fn common_conditions_do_without_the_interpreter() {
    for source in [
        "doc.a + doc.b > 10",
        "size(doc.tags) > 2 && doc.n % 7 == 3",
        "doc.name.endsWith('x')",
        "doc.name.contains('x') || doc.name.matches('^a+$')",
        "doc.tags.exists(t, t.startsWith('ab'))",
        "doc.a < doc.b",
        "before.a != doc.a",
        "doc.tags.all(t, t in ['a', 'b'] || t == doc.main)",
        "doc.items.exists(i, has(i.price) && i.price * i.count > 100.0 && has(doc.paid))",
        "doc.items.filter(i, i.price > 5).size() >= 2",
        "doc.items.map(i, i.price).exists_one(p, p == 1)",
        "doc.list[0] == doc.map['0'] && doc[key] != before[doc.name]",
        "type(doc.a) == int && double(doc.a) / 2.0 < 1.5 && string(doc.a) + 'x' == doc.b",
        "doc.at > timestamp('2025-01-01T00:00:00Z') && type(doc.at) != google.protobuf.Timestamp",
        "doc.a in doc.list && doc.b in before && !(op in ['insert', key, tenant, collection])",
        "-dyn(doc.a) == (doc.flag ? 1 : 2u)",
    ] {
        assert!(compiled(source).is_some(), "{source}");
    }
}

#[test]
fn what_is_not_understood_is_left_to_the_interpreter() {
    for source in [
        "doc.a == {'a': 1}",
        "doc.at.getFullYear() == 2025",
        "doc.at - before.at > duration('1h')",
        "doc.names.exists(x, doc[x] == 5)",
        "doc.names.exists(x, has(doc[x].y))",
        "timestamp('x') == doc.at",
    ] {
        assert!(compiled(source).is_none(), "{source}");
    }
}

#[test]
fn the_paths_of_doc_are_told_each_once_and_only_as_far_as_they_mean_the_same() {
    for (source, expected) in [
        ("doc.a.b + doc['a'].b > doc.c", vec!["a.b", "c"]),
        ("before.a != doc.a", vec!["a"]),
        ("doc.tags.exists(t, t.x == doc.main)", vec!["main", "tags"]),
        ("doc.l[0].x == doc.m['0'].x || has(doc.p.q)", vec!["l", "m", "p.q"]),
        ("doc['0'].a == doc['0']['1']", vec!["0", "0.a"]),
        ("size(doc) > 1", vec![]),
        ("doc.names.exists(doc, doc.a == 1)", vec!["names"]),
    ] {
        let paths: Vec<String> = compiled(source).expect(source).paths().iter().map(ToString::to_string).collect();
        assert_eq!(paths, expected, "{source}");
    }
}
