//! What one would write first: every subscription a CEL program, each run on every change.
//!
//! Owns the CEL that a subscription comes to. The change's body becomes an owned value, and a context,
//! once; one tenant and collection are all there is, so nothing is asked of them.

use anyhow::bail;
use bson::{Bson, Document};
use cel_interpreter::{Context, Env, Program, Value};
use std::sync::Arc;

use super::contender::{Contender, Upkeep};
use super::workload::{Event, Plan, Workload};
use crate::subscription::{FilterTerm, Operator, Spec};

/// The crate's interpreter over all subscriptions.
pub(super) struct NaiveCel {
    env: Arc<Env>,
    programs: Vec<Option<Program>>,
}

impl Contender for NaiveCel {
    const NAME: &'static str = "naive CEL";
    const UPKEEP: Upkeep = Upkeep::Both;
    const EVALUATES_ALL: bool = true;
    type Filter = Option<Program>;

    fn fits(workload: Workload) -> bool {
        // A removal costs it nothing, and a chunk of changes between two of them minutes.
        !workload.is_churn()
    }

    fn new(_: &Plan) -> Self {
        Self { env: Arc::new(Env::stdlib()), programs: Vec::new() }
    }

    fn compile(&self, spec: &Spec) -> anyhow::Result<Option<Program>> {
        let source = source(spec)?;
        let program = Program::compile(&source).map_err(|errors| anyhow::anyhow!("{source}: {errors}"))?;
        Ok(Some(program))
    }

    fn insert(&mut self, number: u32, filter: Option<Program>) -> anyhow::Result<()> {
        let slot = number as usize;
        if self.programs.len() <= slot {
            self.programs.resize_with(slot + 1, || None);
        }
        self.programs[slot] = filter;
        Ok(())
    }

    fn remove(&mut self, number: u32, _: &Option<Program>) {
        if let Some(program) = self.programs.get_mut(number as usize) {
            *program = None;
        }
    }

    fn look_up(&mut self, event: &Event) -> anyhow::Result<usize> {
        let mut context = Context::with_env(Arc::clone(&self.env));
        if let Some(body) = &event.change.document {
            let body: Document = bson::deserialize_from_slice(body.as_bytes())?;
            context.add_variable_from_value("doc", cel_interpreter::to_value(&body)?);
        }
        // An error is no match.
        let is_true = |program: &&Program| matches!(program.execute(&context), Ok(Value::Bool(true)));
        Ok(self.programs.iter().flatten().filter(is_true).count())
    }
}

/// The CEL that says the same as a subscription.
pub(super) fn source(spec: &Spec) -> anyhow::Result<String> {
    let mut parts = spec.filters.iter().map(term).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(interval) = &spec.interval {
        let (field, start, stop) = (&interval.field, literal(&interval.start)?, literal(&interval.stop)?);
        parts.push(format!("doc.{field} >= {start} && doc.{field} <= {stop}"));
    }
    parts.extend(spec.cel.as_ref().map(|cel| if parts.is_empty() { cel.to_string() } else { format!("({cel})") }));
    Ok(if parts.is_empty() { "true".to_owned() } else { parts.join(" && ") })
}

fn term(term: &FilterTerm) -> anyhow::Result<String> {
    let FilterTerm { field, op, value } = term;
    Ok(match op {
        Operator::Exists if value == &Bson::Boolean(true) => format!("has(doc.{field})"),
        Operator::StartsWith => format!("doc.{field}.startsWith({})", literal(value)?),
        Operator::In | Operator::Equal | Operator::Less | Operator::LessOrEqual => compare(term, op.name())?,
        Operator::Greater | Operator::GreaterOrEqual => compare(term, op.name())?,
        other => bail!("no workload uses {}", other.name()),
    })
}

fn compare(term: &FilterTerm, op: &str) -> anyhow::Result<String> {
    Ok(format!("doc.{} {op} {}", term.field, literal(&term.value)?))
}

fn literal(value: &Bson) -> anyhow::Result<String> {
    Ok(match value {
        // The workloads' texts need no escaping in either language.
        Bson::String(text) => format!("'{text}'"),
        Bson::Int32(number) => number.to_string(),
        Bson::Int64(number) => number.to_string(),
        Bson::Array(items) => {
            format!("[{}]", items.iter().map(literal).collect::<anyhow::Result<Vec<_>>>()?.join(", "))
        }
        other => bail!("no workload has {other}"),
    })
}
