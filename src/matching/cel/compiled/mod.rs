//! Compiled expressions: what no index takes, evaluated in place over raw BSON.
//!
//! Owns the nodes that `compile` makes of the crate's tree, once, and their evaluation: without a context, without
//! copies of scalars and texts, errors and their absorption as in the crate. What is not understood has no
//! nodes, and what turns out to be beyond them while it runs stops with [`Stop::Interpreter`]: the crate's
//! interpreter is the last resort for both.

mod compile;
mod containers;
#[cfg(test)]
mod tests;
mod values;

pub(super) use compile::{exists, instant};

use std::cell::OnceCell;
use std::cmp::Ordering;

use cel_interpreter::common::ast::IdedExpr;
use regex::Regex;

use self::values::{Buffer, Conversion, Operation, Val};
use crate::matching::images::Images;
use crate::matching::path::Found;
use crate::matching::raw::Container;
use crate::matching::verdict::Image;
use crate::subscription::Path;

/// Why there is no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::matching) enum Stop {
    /// An error of the expression, which `||` and `&&` may absorb.
    Error,
    /// Only the interpreter can tell.
    Interpreter,
}

type Outcome<T> = Result<T, Stop>;

/// An expression that is evaluated without the interpreter.
#[derive(Debug)]
pub(in crate::matching) struct Compiled {
    root: Node,
    /// The paths of `doc` that are looked at.
    paths: Box<[Path]>,
    /// How many values are kept for the length of an evaluation.
    slots: usize,
}

/// `doc` or `before`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Body {
    Doc,
    Before,
}

/// What a change is, apart from its bodies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Header {
    Operation,
    Tenant,
    Collection,
    Key,
}

/// A test of two texts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TextTest {
    Contains,
    StartsWith,
    EndsWith,
}

/// What a loop comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loop {
    /// Whether it is true of any.
    Exists,
    /// Whether it is true of all.
    All,
    /// Whether it is true of exactly one.
    ExistsOne,
}

/// An expression.
#[derive(Debug)]
enum Node {
    Literal(Val<'static>),
    Whole(Body),
    Path(Body, Path),
    HasPath(Body, Path),
    Header(Header),
    /// The loop's variable.
    Item,
    Select(Box<Node>, Box<[u8]>),
    Has(Box<Node>, Box<[u8]>),
    Index(Box<[Node; 2]>),
    List(Box<[Node]>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Not(Box<Node>),
    Choice(Box<[Node; 3]>),
    /// Whether they are equal, or are not.
    Equal(Box<[Node; 2]>, bool),
    Order(Box<[Node; 2]>, fn(Ordering) -> bool),
    In(Box<[Node; 2]>),
    Calculate(Operation, Box<[Node; 2]>),
    Negate(Box<Node>),
    Size(Box<Node>),
    Text(TextTest, Box<[Node; 2]>),
    Matches(Box<Node>, Box<Regex>),
    Convert(Conversion, Box<Node>),
    Type(Box<Node>),
    /// What a loop takes from outside, in the slot of this number: the same with every turn, if it is small.
    Weighed(usize, Box<Node>),
    /// What a loop asks of outside, likewise.
    Once(usize, Box<Node>),
    /// What is gone over, and what is evaluated with every turn.
    Loop(Loop, Box<[Node; 2]>),
    /// What is gone over, which elements are wanted, and what each is made into.
    Collect(Box<[Node; 3]>),
}

/// What an evaluation sees.
struct Frame<'f, 'e> {
    images: &'f Images<'e>,
    image: Image,
    item: Option<Val<'e>>,
    slots: &'f [OnceCell<Outcome<Val<'e>>>],
}

impl Compiled {
    /// Compiles an expression; `None` for one that is not understood. Recursive: for checked trees only.
    pub(super) fn new(expression: &IdedExpr) -> Option<Self> {
        compile::compile(expression)
    }

    /// The paths of `doc` that it looks at.
    pub(super) fn paths(&self) -> &[Path] {
        &self.paths
    }

    /// The truth value.
    pub(in crate::matching) fn outcome(&self, images: &Images<'_>, image: Image) -> Outcome<bool> {
        // No memory is taken where there are none.
        let slots: Vec<_> = std::iter::repeat_with(OnceCell::new).take(self.slots).collect();
        let frame = Frame { images, image, item: None, slots: &slots };
        self.root.truth(&frame)
    }
}

impl Node {
    fn truth<'e>(&'e self, frame: &Frame<'_, 'e>) -> Outcome<bool> {
        self.value(frame)?.truth()
    }

    /// The value. Each kind has a function of its own, or frames were large without optimization.
    fn value<'e>(&'e self, frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
        match self {
            Self::Literal(value) => Ok(value.borrowed()),
            Self::Whole(body) => frame.whole(*body),
            Self::Path(body, path) => frame.at(*body, path),
            Self::HasPath(body, path) => frame.has(*body, path),
            Self::Header(header) => frame.header(*header),
            Self::Item => frame.item.clone().ok_or(Stop::Error),
            Self::Select(container, name) => containers::select(&container.value(frame)?, name),
            Self::Has(container, name) => has(container, name, frame),
            Self::Index(both) => pair(both, frame, containers::index),
            Self::List(elements) => list(elements, frame),
            Self::And(both) => connected(both, false, frame),
            Self::Or(both) => connected(both, true, frame),
            Self::Not(inner) => not(inner, frame),
            Self::Choice(three) => choice(three, frame),
            Self::Equal(both, wanted) => pair(both, frame, |a, b| Ok(Val::Bool(a.equals(b) == *wanted))),
            Self::Order(both, wanted) => pair(both, frame, |a, b| Ok(Val::Bool(wanted(a.order(b)?)))),
            Self::In(both) => pair(both, frame, |a, b| containers::contains(b, a).map(Val::Bool)),
            Self::Calculate(operation, both) => pair(both, frame, |a, b| Val::calculate(*operation, a, b)),
            Self::Negate(inner) => inner.value(frame)?.negated(),
            Self::Size(inner) => size(inner, frame),
            Self::Text(test, both) => pair(both, frame, |a, b| text(*test, a, b)),
            Self::Matches(inner, regex) => matches(inner, regex, frame),
            Self::Convert(conversion, inner) => inner.value(frame)?.converted(*conversion),
            Self::Type(inner) => type_of(inner, frame),
            Self::Weighed(slot, inner) => frame.once(*slot, || weighed(inner, frame)),
            Self::Once(slot, inner) => frame.once(*slot, || inner.value(frame)),
            Self::Loop(kind, parts) => looped(*kind, parts, frame),
            Self::Collect(parts) => collected(parts, frame),
        }
    }
}

impl<'e> Frame<'_, 'e> {
    /// `doc` or `before` itself.
    fn whole(&self, body: Body) -> Outcome<Val<'e>> {
        let change = self.images.change();
        let found = match body {
            Body::Doc => self.image.body(change),
            Body::Before => match self.image.before(change) {
                None => return Ok(Val::Null),
                before => before,
            },
        };
        found.map(|body| Val::Map(Container::of(body))).ok_or(Stop::Error)
    }

    fn find(&self, body: Body, path: &Path) -> Found<'e> {
        match body {
            Body::Doc => self.images.get(self.image, path),
            Body::Before => self.images.get_before(self.image, path),
        }
    }

    fn at(&self, body: Body, path: &Path) -> Outcome<Val<'e>> {
        match self.find(body, path) {
            Found::Value(raw) => Val::of_raw(raw),
            Found::Missing | Found::Error => Err(Stop::Error),
        }
    }

    fn has(&self, body: Body, path: &Path) -> Outcome<Val<'e>> {
        match self.find(body, path) {
            Found::Value(raw) if containers::is_error(raw) => Err(Stop::Error),
            Found::Value(_) => Ok(Val::Bool(true)),
            Found::Missing => Ok(Val::Bool(false)),
            Found::Error => Err(Stop::Error),
        }
    }

    fn header(&self, header: Header) -> Outcome<Val<'e>> {
        let change = self.images.change();
        let scope = self.image.scope(change);
        let text = match header {
            Header::Operation => change.operation.name(),
            Header::Key => &change.key,
            Header::Tenant => scope.tenant.as_deref().ok_or(Stop::Error)?,
            Header::Collection => scope.collection.as_deref().ok_or(Stop::Error)?,
        };
        Ok(Val::Text(Buffer::Borrowed(text.as_bytes())))
    }

    fn once(&self, slot: usize, make: impl FnOnce() -> Outcome<Val<'e>>) -> Outcome<Val<'e>> {
        self.slots.get(slot).ok_or(Stop::Interpreter)?.get_or_init(make).clone()
    }
}

fn pair<'e>(
    both: &'e [Node; 2],
    frame: &Frame<'_, 'e>,
    of: impl FnOnce(&Val<'e>, &Val<'e>) -> Outcome<Val<'e>>,
) -> Outcome<Val<'e>> {
    let a = both[0].value(frame)?;
    let b = both[1].value(frame)?;
    of(&a, &b)
}

fn has<'e>(container: &'e Node, name: &[u8], frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
    containers::has(&container.value(frame)?, name).map(Val::Bool)
}

fn list<'e>(elements: &'e [Node], frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
    Ok(Val::items(elements.iter().map(|element| element.value(frame)).collect::<Result<_, _>>()?))
}

/// `a && b` or `a || b`; `deciding` is the value that outweighs an error.
fn connected<'e>(both: &'e [Node; 2], deciding: bool, frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
    let left = both[0].truth(frame);
    match left {
        Ok(left) if left == deciding => Ok(Val::Bool(deciding)),
        Err(Stop::Interpreter) => Err(Stop::Interpreter),
        left => match both[1].truth(frame)? {
            right if right == deciding => Ok(Val::Bool(deciding)),
            right => left.map(|_| Val::Bool(right)),
        },
    }
}

fn not<'e>(inner: &'e Node, frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
    inner.truth(frame).map(|value| Val::Bool(!value))
}

fn choice<'e>(three: &'e [Node; 3], frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
    let [condition, yes, no] = three;
    if condition.truth(frame)? { yes.value(frame) } else { no.value(frame) }
}

fn size<'e>(inner: &'e Node, frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
    containers::size(&inner.value(frame)?).map(Val::Int)
}

fn type_of<'e>(inner: &'e Node, frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
    Ok(Val::Type(inner.value(frame)?.type_name()))
}

fn text<'e>(test: TextTest, text: &Val<'e>, part: &Val<'e>) -> Outcome<Val<'e>> {
    let (Val::Text(text), Val::Text(part)) = (text, part) else { return Err(Stop::Error) };
    Ok(Val::Bool(match test {
        TextTest::Contains => values::utf8(text)?.contains(values::utf8(part)?),
        TextTest::StartsWith => text.starts_with(part),
        TextTest::EndsWith => text.ends_with(part),
    }))
}

fn matches<'e>(inner: &'e Node, regex: &Regex, frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
    match inner.value(frame)? {
        Val::Text(text) => Ok(Val::Bool(regex.is_match(values::utf8(&text)?))),
        _ => Err(Stop::Error),
    }
}

fn weighed<'e>(inner: &'e Node, frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
    inner.value(frame).and_then(|value| if containers::is_small(&value) { Ok(value) } else { Err(Stop::Error) })
}

fn looped<'e>(kind: Loop, parts: &'e [Node; 2], frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
    let range = parts[0].value(frame)?;
    let mut inner = Frame { item: None, ..*frame };
    let mut turn = |item: Val<'e>| {
        inner.item = Some(item);
        parts[1].value(&inner)
    };
    match kind {
        Loop::Exists => folded(&range, true, |item| turn(item)?.truth()),
        Loop::All => folded(&range, false, |item| turn(item)?.truth()),
        Loop::ExistsOne => {
            let mut count = 0_u32;
            containers::each(&range, |item| {
                count += u32::from(turn(item)?.truth()?);
                Ok(true)
            })?;
            Ok(Val::Bool(count == 1))
        }
    }
}

/// `filter` and `map`.
fn collected<'e>(parts: &'e [Node; 3], frame: &Frame<'_, 'e>) -> Outcome<Val<'e>> {
    let [range, condition, made] = parts;
    let range = range.value(frame)?;
    let mut inner = Frame { item: None, ..*frame };
    let mut items = Vec::new();
    containers::each(&range, |item| {
        inner.item = Some(item);
        if condition.truth(&inner)? {
            items.push(made.value(&inner)?);
        }
        Ok(true)
    })?;
    Ok(Val::items(items))
}

/// `exists` and `all`: an element that decides outweighs the errors of the others.
fn folded<'e>(range: &Val<'e>, deciding: bool, mut turn: impl FnMut(Val<'e>) -> Outcome<bool>) -> Outcome<Val<'e>> {
    let (mut is_decided, mut failed) = (false, None);
    containers::each(range, |item| {
        match turn(item) {
            Err(Stop::Interpreter) => return Err(Stop::Interpreter),
            Err(error) => failed = Some(error),
            Ok(value) => is_decided = value == deciding,
        }
        Ok(!is_decided)
    })?;
    match failed {
        Some(error) if !is_decided => Err(error),
        _ => Ok(Val::Bool(is_decided == deciding)),
    }
}
