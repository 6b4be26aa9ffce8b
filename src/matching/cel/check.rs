//! Static limits on CEL.
//!
//! Owns what is refused before a program may run: names and functions that nobody declares, trees
//! too deep for a small stack, nested loops, and growth of strings and lists. The crate has no
//! deadline, so what passes here must be bounded by the size of the document. The walk itself is
//! iterative: it is what finds the trees that are too deep.

use cel_interpreter::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use crate::error::{Code, Problem};
use crate::limits;

/// The variables of every program.
const VARIABLES: [&str; 6] = ["doc", "before", "op", "tenant", "collection", "key"];

/// Names of types, as `type(doc.a) == int` has them.
const TYPES: [&str; 10] = ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];

/// Functions with the least and the greatest number of their arguments.
const FUNCTIONS: [(&str, usize, usize); 13] = [
    ("size", 1, 1),
    ("int", 1, 1),
    ("uint", 1, 1),
    ("double", 1, 1),
    ("string", 1, 1),
    ("bytes", 1, 1),
    ("bool", 1, 1),
    ("type", 1, 1),
    ("dyn", 1, 1),
    ("timestamp", 1, 1),
    ("duration", 1, 1),
    ("matches", 2, 2),
    (operators::NOT_STRICTLY_FALSE, 1, 1),
];

/// Methods likewise, the receiver not counted.
const METHODS: [(&str, usize, usize); 15] = [
    ("size", 0, 0),
    ("contains", 1, 1),
    ("startsWith", 1, 1),
    ("endsWith", 1, 1),
    ("matches", 1, 1),
    ("getFullYear", 0, 1),
    ("getMonth", 0, 1),
    ("getDate", 0, 1),
    ("getDayOfMonth", 0, 1),
    ("getDayOfWeek", 0, 1),
    ("getDayOfYear", 0, 1),
    ("getHours", 0, 1),
    ("getMinutes", 0, 1),
    ("getSeconds", 0, 1),
    ("getMilliseconds", 0, 1),
];

const OPERATORS: [(&str, usize); 18] = [
    (operators::CONDITIONAL, 3),
    (operators::LOGICAL_AND, 2),
    (operators::LOGICAL_OR, 2),
    (operators::LOGICAL_NOT, 1),
    (operators::SUBSTRACT, 2),
    (operators::ADD, 2),
    (operators::MULTIPLY, 2),
    (operators::DIVIDE, 2),
    (operators::MODULO, 2),
    (operators::EQUALS, 2),
    (operators::NOT_EQUALS, 2),
    (operators::GREATER_EQUALS, 2),
    (operators::LESS_EQUALS, 2),
    (operators::GREATER, 2),
    (operators::LESS, 2),
    (operators::NEGATE, 1),
    (operators::INDEX, 2),
    (operators::IN, 2),
];

/// Refuses what must not run.
pub(super) fn check(root: &IdedExpr) -> Result<(), Problem> {
    if !may_be_boolean(root) {
        return Err(failed("a filter is true or false, this is neither"));
    }
    let mut walk = Walk { todo: Vec::new(), joins: 0, copies: 0 };
    walk.todo.push(Node { expression: root, depth: 1, place: Place::default() });
    while let Some(node) = walk.todo.pop() {
        if node.depth > limits::cel_depth_max {
            return Err(too_complex(format!("CEL has at most {} levels of depth", limits::cel_depth_max)));
        }
        walk.visit(&node)?;
    }
    Ok(())
}

fn too_complex(detail: impl Into<String>) -> Problem {
    Problem::new(Code::FilterTooComplex, detail).at("cel")
}

fn failed(detail: impl Into<String>) -> Problem {
    Problem::new(Code::CelCompilationFailed, detail).at("cel")
}

/// Where a node stands.
#[derive(Clone, Copy, Default)]
struct Place<'a> {
    /// In the body of this loop.
    comprehension: Option<&'a ComprehensionExpr>,
    /// In what a loop adds to its result with every turn.
    grows: bool,
}

#[derive(Clone, Copy)]
struct Node<'a> {
    expression: &'a IdedExpr,
    depth: usize,
    place: Place<'a>,
}

struct Walk<'a> {
    todo: Vec<Node<'a>>,
    joins: usize,
    copies: usize,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, node: &Node<'a>) -> Result<(), Problem> {
        match &node.expression.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => name_is_declared(name, node.place),
            Expr::Select(select) => {
                if !is_type_name(&node.expression.expr) {
                    self.push(node, &select.operand);
                }
                Ok(())
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.member(node, element)),
            Expr::Map(map) => {
                for entry in &map.entries {
                    match &entry.expr {
                        EntryExpr::MapEntry(entry) => {
                            self.member(node, &entry.key)?;
                            self.member(node, &entry.value)?;
                        }
                        EntryExpr::StructField(_) => return Err(failed("a map with a field of a message")),
                    }
                }
                Ok(())
            }
            Expr::Call(call) => self.call(node, call),
            Expr::Comprehension(comprehension) => self.comprehension(node, comprehension),
            Expr::Struct(message) => Err(failed(format!("undeclared type `{}`", message.type_name))),
            Expr::Unspecified => Err(failed("an empty expression")),
        }
    }

    fn push(&mut self, parent: &Node<'a>, expression: &'a IdedExpr) {
        self.push_at(parent, expression, parent.place);
    }

    fn push_at(&mut self, parent: &Node<'a>, expression: &'a IdedExpr, place: Place<'a>) {
        self.todo.push(Node { expression, depth: parent.depth + 1, place });
    }

    fn call(&mut self, node: &Node<'a>, call: &'a CallExpr) -> Result<(), Problem> {
        is_declared(call)?;
        if call.func_name == "matches" {
            pattern(call, node.place)?;
        }
        if call.func_name == operators::ADD {
            if let (Some(comprehension), [accumulator, added]) = (node.place.comprehension, call.args.as_slice())
                && is_name(accumulator, &comprehension.accu_var)
            {
                self.push_at(node, added, Place { grows: true, ..node.place });
                return Ok(());
            }
            self.join(node, call)?;
        }
        call.target.iter().for_each(|target| self.push(node, target));
        call.args.iter().for_each(|argument| self.push(node, argument));
        Ok(())
    }

    /// A list or map that is written out copies what is put into it, be it the whole document.
    fn member(&mut self, node: &Node<'a>, member: &'a IdedExpr) -> Result<(), Problem> {
        self.copies += usize::from(!is_slight(member));
        if self.copies > limits::cel_copies_max {
            let max = limits::cel_copies_max;
            return Err(too_complex(format!("lists and maps take at most {max} values from the document")));
        }
        self.push(node, member);
        Ok(())
    }

    /// `+` copies strings and lists, and the document may make them as long as it likes.
    fn join(&mut self, node: &Node<'a>, call: &CallExpr) -> Result<(), Problem> {
        if call.args.iter().any(is_number) {
            return Ok(());
        }
        if node.place.comprehension.is_some() {
            return Err(too_complex("inside a loop `+` needs an operand that is plainly a number"));
        }
        self.joins += 1;
        if self.joins > limits::cel_joins_max {
            let max = limits::cel_joins_max;
            return Err(too_complex(format!("at most {max} `+` without an operand that is plainly a number")));
        }
        Ok(())
    }

    fn comprehension(&mut self, node: &Node<'a>, comprehension: &'a ComprehensionExpr) -> Result<(), Problem> {
        const _: () = assert!(limits::cel_comprehensions_max == 1, "the walk knows one enclosing loop");
        if node.place.comprehension.is_some() {
            return Err(too_complex("no loop (all, exists, exists_one, map, filter) inside a loop"));
        }
        self.push(node, &comprehension.iter_range);
        self.push(node, &comprehension.accu_init);
        let inside = Place { comprehension: Some(comprehension), grows: false };
        self.push_at(node, &comprehension.loop_cond, inside);
        self.push_at(node, &comprehension.loop_step, inside);
        self.push_at(node, &comprehension.result, inside);
        Ok(())
    }
}

fn name_is_declared(name: &str, place: Place<'_>) -> Result<(), Problem> {
    if let Some(comprehension) = place.comprehension {
        let second = comprehension.iter_var2.as_deref();
        if name == comprehension.iter_var || name == comprehension.accu_var || Some(name) == second {
            return Ok(());
        }
    }
    // A loop that adds a whole document with every turn makes a result as large as its square.
    if place.grows && matches!(name, "doc" | "before" | "key") {
        return Err(too_complex("what `map` yields may use the loop's variable, not `doc`, `before` or `key`"));
    }
    if VARIABLES.contains(&name) || TYPES.contains(&name) {
        return Ok(());
    }
    Err(failed(format!("undeclared name `{name}`; there are {}", VARIABLES.join(", "))))
}

fn is_declared(call: &CallExpr) -> Result<(), Problem> {
    let (name, count) = (call.func_name.as_str(), call.args.len());
    let fits = |table: &[(&str, usize, usize)]| {
        table.iter().find(|(known, ..)| *known == name).map(|(_, least, most)| (*least..=*most).contains(&count))
    };
    let known = match &call.target {
        Some(_) => fits(&METHODS),
        None if OPERATORS.contains(&(name, count)) => Some(true),
        None => fits(&FUNCTIONS),
    };
    match known {
        Some(true) => Ok(()),
        Some(false) => Err(failed(format!("`{name}` does not take {count} arguments"))),
        None => Err(failed(format!("undeclared function `{name}`"))),
    }
}

/// A pattern is known beforehand and small.
fn pattern(call: &CallExpr, place: Place<'_>) -> Result<(), Problem> {
    if place.comprehension.is_some() {
        return Err(too_complex("no `matches` inside a loop"));
    }
    let Some(Expr::Literal(LiteralValue::String(pattern))) = call.args.last().map(|argument| &argument.expr) else {
        return Err(too_complex("`matches` takes a literal pattern"));
    };
    let pattern = pattern.inner();
    if pattern.len() > limits::cel_pattern_bytes_max {
        return Err(too_complex(format!("a pattern has at most {} bytes", limits::cel_pattern_bytes_max)));
    }
    match super::pattern::compile(pattern) {
        Ok(_) => Ok(()),
        Err(regex::Error::CompiledTooBig(_)) => Err(too_complex("the pattern is too large when compiled")),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn is_name(expression: &IdedExpr, name: &str) -> bool {
    matches!(&expression.expr, Expr::Ident(ident) if ident == name)
}

/// Whether an expression cannot be a string or a list, whatever the document.
fn is_number(expression: &IdedExpr) -> bool {
    use operators::{DIVIDE, MODULO, MULTIPLY, NEGATE, SUBSTRACT};
    match &expression.expr {
        Expr::Literal(literal) => !matches!(literal, LiteralValue::String(_) | LiteralValue::Bytes(_)),
        Expr::Call(call) => matches!(
            call.func_name.as_str(),
            SUBSTRACT
                | MULTIPLY
                | DIVIDE
                | MODULO
                | NEGATE
                | "size"
                | "int"
                | "uint"
                | "double"
                | "duration"
                | "timestamp"
        ),
        _ => false,
    }
}

/// Whether an expression copies nothing of the document, but for what is counted by itself.
fn is_slight(expression: &IdedExpr) -> bool {
    use operators::{
        EQUALS, GREATER, GREATER_EQUALS, IN, LESS, LESS_EQUALS, LOGICAL_AND, LOGICAL_NOT, LOGICAL_OR, NOT_EQUALS,
    };
    let is_truth = |name: &str| {
        let compares = [EQUALS, NOT_EQUALS, GREATER, GREATER_EQUALS, LESS, LESS_EQUALS, IN].contains(&name);
        compares || [LOGICAL_AND, LOGICAL_OR, LOGICAL_NOT].contains(&name)
    };
    match &expression.expr {
        Expr::Literal(_) | Expr::List(_) | Expr::Map(_) => true,
        Expr::Select(select) => select.test,
        Expr::Call(call) => is_truth(&call.func_name) || is_number(expression),
        _ => false,
    }
}

/// Whether an expression can come to true or false at all.
fn may_be_boolean(expression: &IdedExpr) -> bool {
    use operators::{ADD, DIVIDE, MODULO, MULTIPLY, NEGATE, SUBSTRACT};
    match &expression.expr {
        Expr::Literal(literal) => matches!(literal, LiteralValue::Boolean(_)),
        Expr::List(_) | Expr::Map(_) => false,
        Expr::Call(call) => {
            let name = call.func_name.as_str();
            let number = matches!(name, ADD | SUBSTRACT | MULTIPLY | DIVIDE | MODULO | NEGATE);
            let conversion = matches!(
                name,
                "size" | "int" | "uint" | "double" | "string" | "bytes" | "type" | "timestamp" | "duration"
            );
            !number && !conversion && !name.starts_with("get")
        }
        Expr::Comprehension(comprehension) => !matches!(comprehension.accu_init.expr, Expr::List(_)),
        _ => true,
    }
}

/// `google.protobuf.Timestamp` and `google.protobuf.Duration`, the types whose names have dots.
fn is_type_name(expression: &Expr) -> bool {
    let Expr::Select(outer) = expression else { return false };
    let Expr::Select(inner) = &outer.operand.expr else { return false };
    !outer.test
        && !inner.test
        && matches!(outer.field.as_str(), "Timestamp" | "Duration")
        && inner.field == "protobuf"
        && is_name(&inner.operand, "google")
}
