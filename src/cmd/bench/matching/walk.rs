//! The bare walk: a document's bytes are gone through once, and the fields that filters name are read.
//!
//! The floor under everything that takes raw documents. Skips by length and checks nothing that it need
//! not, as the engine does.

use std::hint::black_box;

use super::contender::{Contender, Upkeep};
use super::workload::{Event, Plan, Workload};
use crate::subscription::Spec;

/// Nothing but the walk.
#[derive(Debug)]
pub(super) struct BareWalk {
    named: &'static [&'static str],
    marks: u64,
}

impl Contender for BareWalk {
    const NAME: &'static str = "bare walk";
    const UPKEEP: Upkeep = Upkeep::Static;
    const COUNTS: bool = false;
    type Filter = ();

    fn fits(_: Workload) -> bool {
        true
    }

    fn new(plan: &Plan) -> Self {
        let named = plan.workload.named();
        Self { named, marks: marks(named) }
    }

    fn compile(&self, _: &Spec) -> anyhow::Result<()> {
        Ok(())
    }

    fn insert(&mut self, _: u32, (): ()) -> anyhow::Result<()> {
        Ok(())
    }

    fn look_up(&mut self, event: &Event) -> anyhow::Result<usize> {
        let body = event.change.document.as_ref().map_or(&[][..], |body| body.as_bytes());
        Ok(walk(body, self.named, self.marks))
    }
}

/// By its length and first byte, a name is one of 64: most fields are told from all that are wanted
/// by it.
fn mark(name: &[u8]) -> u64 {
    let first = name.first().copied().unwrap_or_default();
    1 << ((usize::from(first) ^ (name.len() << 3)) % 64)
}

fn marks(named: &[&str]) -> u64 {
    named.iter().fold(0, |marks, name| marks | mark(name.as_bytes()))
}

/// Goes through a document until every named field is found; how many were.
fn walk(body: &[u8], named: &[&str], marks: u64) -> usize {
    let (mut rest, mut found) = (body.get(4..).unwrap_or_default(), 0);
    while let Some((kind, behind)) = rest.split_first()
        && *kind != 0
        && let Some((name, value)) = split(behind)
        && let Some(len) = length(*kind, value)
        && let Some((value, behind)) = value.split_at_checked(len)
    {
        if marks & mark(name) != 0 && named.iter().any(|wanted| wanted.as_bytes() == name) {
            black_box((*kind, value));
            found += 1;
            if found == named.len() {
                break;
            }
        }
        rest = behind;
    }
    found
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Of a value of this type. The rarer types are in no document of a workload.
fn length(kind: u8, value: &[u8]) -> Option<usize> {
    let counted = || value.first_chunk().and_then(|bytes| usize::try_from(i32::from_le_bytes(*bytes)).ok());
    Some(match kind {
        0x01 | 0x09 | 0x12 => 8,
        0x02 => counted()? + 4,
        0x03 | 0x04 => counted()?,
        0x08 => 1,
        0x0a => 0,
        0x10 => 4,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_named_field_is_found() {
        for workload in Workload::value_variants() {
            let plan = Plan { workload: *workload, subscriptions: 100 };
            for number in 0..20 {
                let event = plan.event(number).unwrap();
                let body = event.change.document.as_ref().unwrap().as_bytes();
                assert_eq!(walk(body, workload.named(), marks(workload.named())), event.named.len(), "{workload:?}");
            }
        }
        assert_eq!(walk(&[], &["a"], u64::MAX), 0);
    }
}
