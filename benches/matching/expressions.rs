//! A crate for Boolean expressions: `a-tree`. It knows equality, `in`, ranges and presence, but no prefixes.
//! It is built once: a search after a removal may panic. An insert parses the expression; that cannot
//! be told apart from outside.

use a_tree::{ATree, AttributeDefinition};
use anyhow::bail;
use bson::Bson;
use streamer::cmd::bench::matching::{Contender, Event, Plan, Upkeep, Workload};
use streamer::subscription::{FilterTerm, Operator, Spec};

/// The crate's tree.
pub(crate) struct ATreeCrate {
    tree: ATree<u32>,
}

/// The fields of the workloads that are numbers.
const NUMBERS: [&str; 2] = ["stars", "level"];

impl Contender for ATreeCrate {
    const NAME: &'static str = "a-tree";
    const UPKEEP: Upkeep = Upkeep::Static;
    const READS: bool = false;
    type Filter = String;

    fn fits(workload: Workload) -> bool {
        workload.is_chat() || workload == Workload::MixedWithoutPrefix
    }

    fn new(plan: &Plan) -> Self {
        let attribute = |name: &&str| match NUMBERS.contains(name) {
            true => AttributeDefinition::integer(name),
            false => AttributeDefinition::string(name),
        };
        let attributes: Vec<AttributeDefinition> = plan.workload.named().iter().map(attribute).collect();
        Self { tree: ATree::new(&attributes).expect("no name comes twice") }
    }

    fn compile(&self, spec: &Spec) -> anyhow::Result<String> {
        let mut parts = spec.filters.iter().map(term).collect::<anyhow::Result<Vec<_>>>()?;
        match spec.cel.as_deref() {
            None => {}
            Some("has(doc.sensor)") => parts.push("sensor is not null".to_owned()),
            Some(other) => bail!("{other}: not in this language"),
        }
        Ok(parts.join(" and "))
    }

    fn insert(&mut self, number: u32, expression: String) -> anyhow::Result<()> {
        self.tree.insert(&number, &expression).map_err(|error| anyhow::anyhow!("{expression}: {error}"))
    }

    fn look_up(&mut self, event: &Event) -> anyhow::Result<usize> {
        let mut builder = self.tree.make_event();
        // What is not named is undefined.
        for (name, value) in &event.named {
            match value {
                Bson::String(text) => builder.with_string(name, text)?,
                Bson::Int32(number) => builder.with_integer(name, i64::from(*number))?,
                Bson::Int64(number) => builder.with_integer(name, *number)?,
                other => bail!("{other} in a change"),
            }
        }
        let event = builder.build()?;
        let report = self.tree.search(&event).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(report.matches().len())
    }
}

fn term(term: &FilterTerm) -> anyhow::Result<String> {
    let FilterTerm { field, op, value } = term;
    Ok(match op {
        Operator::Equal => format!("{field} = {}", literal(value)?),
        Operator::In | Operator::GreaterOrEqual | Operator::LessOrEqual => {
            format!("{field} {} {}", op.name(), literal(value)?)
        }
        Operator::Exists => format!("{field} is not null"),
        other => bail!("{} is not in this language", other.name()),
    })
}

fn literal(value: &Bson) -> anyhow::Result<String> {
    Ok(match value {
        Bson::String(text) => format!("'{text}'"),
        Bson::Int32(number) => number.to_string(),
        Bson::Int64(number) => number.to_string(),
        Bson::Array(items) => {
            format!("[{}]", items.iter().map(literal).collect::<anyhow::Result<Vec<_>>>()?.join(", "))
        }
        other => bail!("{other} is not in this language"),
    })
}
