//! Reading a subscription: from a gateway's request, and from the store.
//!
//! Owns every rule that needs no compiler, with the code and the field that a refusal names. What
//! comes from the store has passed the rules of its day, so limits are not held against it again.

use std::sync::Arc;

use bson::Bson;
use serde_json::Value;

use super::fields::{Fields, invalid, shown, wrong_type};
use super::model::{FilterTerm, Interval, Operations, Operator, Path, Spec, StartAt};
use super::names::{GatewayId, Name, SubscriptionId};
use super::value;
use crate::change::Operation;
use crate::error::{Code, Problem};
use crate::limits;
use crate::matching::value::Value as Meaning;
use crate::position::ClusterTime;

/// What a request may say.
pub(crate) const REQUEST_FIELDS: [&str; 14] = [
    "subscriptionId",
    "gatewayId",
    "group",
    "tenant",
    "collection",
    "backend",
    "filters",
    "cel",
    "interval",
    "operations",
    "transitions",
    "fields",
    "startAt",
    "ttlSeconds",
];

/// Where a subscription's text comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Request,
    Store,
}

impl Spec {
    /// Reads `POST`'s request.
    ///
    /// # Errors
    /// The first rule that it breaks, with the field at fault.
    pub fn from_json(request: &Value) -> Result<Self, Problem> {
        read(request, None, From::Request)
    }

    /// Reads `PUT`'s request: the path has the names, which the body may repeat but not change.
    ///
    /// # Errors
    /// As [`Self::from_json`].
    pub fn from_json_at(request: &Value, gateway: &GatewayId, subscription: &SubscriptionId) -> Result<Self, Problem> {
        read(request, Some((gateway, subscription)), From::Request)
    }

    /// Reads what [`Self::to_stored`] wrote.
    ///
    /// # Errors
    /// If it is not such a text.
    pub fn from_stored(stored: &Value) -> Result<Self, Problem> {
        read(stored, None, From::Store)
    }
}

fn read(value: &Value, names: Option<(&GatewayId, &SubscriptionId)>, from: From) -> Result<Spec, Problem> {
    let fields = match from {
        From::Request => Fields::new(value, "", &REQUEST_FIELDS)?,
        From::Store => Fields::new(value, "", &[&REQUEST_FIELDS[..], &["generation"]].concat())?,
    };
    let spec = Spec {
        subscription_id: name(&fields, "subscriptionId", names.map(|(_, subscription)| subscription))?,
        gateway_id: owner(&fields, names.map(|(gateway, _)| gateway))?,
        tenant: scope_name(&fields, "tenant")?,
        collection: scope_name(&fields, "collection")?,
        backend: backend(&fields)?,
        filters: filters(&fields, from)?,
        cel: cel(&fields, from)?,
        interval: interval(&fields, from)?,
        operations: operations(&fields)?,
        transitions: fields.boolean("transitions")?.unwrap_or(false),
        fields: projection(&fields, from)?,
        start_at: start_at(&fields, from)?,
        ttl_seconds: ttl(&fields)?,
        generation: fields.get("generation").and_then(Value::as_u64),
    };
    let bytes_max = limits::subscription_bytes_max;
    if from == From::Request && spec.to_stored().to_string().len() > bytes_max {
        return Err(too_complex(format!("a subscription has at most {bytes_max} bytes as stored")));
    }
    Ok(spec)
}

fn too_complex(detail: impl Into<String>) -> Problem {
    Problem::new(Code::FilterTooComplex, detail)
}

fn meaningless(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidFilter, detail)
}

fn name(fields: &Fields<'_>, field: &str, given: Option<&Name>) -> Result<Name, Problem> {
    match (fields.optional_text(field)?, given) {
        (None, Some(given)) => Ok(given.clone()),
        (Some(text), Some(given)) if text == given.as_str() => Ok(given.clone()),
        (Some(_), Some(given)) => Err(invalid(format!("the path says `{given}`")).at(field)),
        _ => Name::new(fields.text(field)?).map_err(|rule| invalid(rule.to_string()).at(field)),
    }
}

/// A gateway, or a group.
fn owner(fields: &Fields<'_>, given: Option<&GatewayId>) -> Result<GatewayId, Problem> {
    let group = given.and_then(GatewayId::in_group).map(|(group, _)| Name::new(group)).transpose();
    let group = group.map_err(|rule| invalid(rule.to_string()).at("group"))?;
    let (one, other) = match (fields.get("group").is_some(), given) {
        (true, None) => ("group", "gatewayId"),
        (false, None) => ("gatewayId", "group"),
        (_, Some(_)) if group.is_some() => ("group", "gatewayId"),
        (_, Some(_)) => ("gatewayId", "group"),
    };
    if fields.get(other).is_some() {
        let at = if given.is_some() { other } else { "group" };
        return Err(invalid("a subscription has a gatewayId or a group, not both").at(at));
    }
    let owner = name(fields, one, group.as_ref().or(given))?;
    Ok(if one == "group" { Name::group(&owner) } else { owner })
}

fn scope_name(fields: &Fields<'_>, field: &str) -> Result<Arc<str>, Problem> {
    let text = fields.text(field)?;
    let refuse = |detail: &str| Err(invalid(format!("`{field}` {detail}")).at(field));
    let printable = |c: char| !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    if text.is_empty() || text.len() > limits::scope_name_bytes_max {
        return refuse(&format!("has 1 to {} bytes", limits::scope_name_bytes_max));
    }
    if !text.chars().all(printable) {
        return refuse("has printable characters only");
    }
    if text.starts_with('/') || text.ends_with('/') {
        return refuse("neither starts nor ends with `/`");
    }
    Ok(text.into())
}

fn backend(fields: &Fields<'_>) -> Result<Option<Arc<str>>, Problem> {
    let Some(text) = fields.optional_text("backend")? else { return Ok(None) };
    Name::new(text).map_err(|rule| invalid(rule.to_string()).at("backend"))?;
    Ok(Some(text.into()))
}

fn filters(fields: &Fields<'_>, from: From) -> Result<Vec<FilterTerm>, Problem> {
    let Some(items) = fields.list("filters")? else { return Ok(Vec::new()) };
    if from == From::Request && items.len() > limits::filters_max {
        return Err(too_complex(format!("at most {} filters", limits::filters_max)).at("filters"));
    }
    items.iter().enumerate().map(|(number, item)| term(item, &format!("filters[{number}]"), from)).collect()
}

fn term(item: &Value, at: &str, from: From) -> Result<FilterTerm, Problem> {
    let fields = Fields::new(item, at, &["field", "op", "value"])?;
    let field = path(fields.text("field")?, &fields.path_of("field"), Code::InvalidFilter, from)?;
    let op = fields.text("op")?;
    let op = Operator::from_name(op).ok_or_else(|| {
        let all: Vec<&str> = Operator::ALL.iter().map(|op| op.name()).collect();
        meaningless(format!("unknown operator `{}`; there are {}", shown(op), all.join(" "))).at(fields.path_of("op"))
    })?;
    let at = fields.path_of("value");
    let value = value::read(fields.raw("value")?, &at)?;
    if from == From::Request {
        value::check_size(&value, &at)?;
        operand(op, &value).map_err(|detail| meaningless(detail).at(at))?;
    }
    Ok(FilterTerm { field, op, value })
}

/// Whether an operator can mean anything with this value.
fn operand(op: Operator, value: &Bson) -> Result<(), String> {
    let name = op.name();
    let dated = |value: &Bson| !Meaning::of(value).has_error();
    match (op, value) {
        (Operator::Exists, Bson::Boolean(_)) => Ok(()),
        (Operator::Exists, _) => Err(format!("`{name}` takes true or false")),
        (Operator::StartsWith, Bson::String(_) | Bson::Symbol(_) | Bson::ObjectId(_)) => Ok(()),
        (Operator::StartsWith, _) => Err(format!("`{name}` takes a string")),
        (Operator::In | Operator::NotIn | Operator::ArrayContainsAny, Bson::Array(_)) if dated(value) => Ok(()),
        (Operator::In | Operator::NotIn | Operator::ArrayContainsAny, Bson::Array(_)) => Err(OUT_OF_YEARS.to_owned()),
        (Operator::In | Operator::NotIn | Operator::ArrayContainsAny, _) => Err(format!("`{name}` takes a list")),
        (Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual, value) => {
            if Meaning::of(value).is_ordered() {
                Ok(())
            } else {
                Err(format!("`{name}` takes a value that has an order"))
            }
        }
        _ if dated(value) => Ok(()),
        _ => Err(OUT_OF_YEARS.to_owned()),
    }
}

const OUT_OF_YEARS: &str = "dates lie within the years 1 to 9999";

fn path(text: &str, at: &str, code: Code, from: From) -> Result<Path, Problem> {
    let path = Path::parse(text)
        .ok_or_else(|| Problem::new(code, "a path has names joined by dots, none of them empty").at(at))?;
    if from == From::Request && (text.len() > limits::path_bytes_max || path.0.len() > limits::path_steps_max) {
        let (bytes, steps) = (limits::path_bytes_max, limits::path_steps_max);
        return Err(too_complex(format!("a path has at most {bytes} bytes and {steps} steps")).at(at));
    }
    Ok(path)
}

fn cel(fields: &Fields<'_>, from: From) -> Result<Option<Arc<str>>, Problem> {
    let Some(source) = fields.optional_text("cel")? else { return Ok(None) };
    if from == From::Request && source.len() > limits::cel_source_bytes_max {
        return Err(too_complex(format!("CEL has at most {} bytes", limits::cel_source_bytes_max)).at("cel"));
    }
    Ok(Some(source.into()))
}

fn interval(fields: &Fields<'_>, from: From) -> Result<Option<Interval>, Problem> {
    let Some(item) = fields.get("interval") else { return Ok(None) };
    let fields = Fields::new(item, "interval", &["field", "start", "stop"])?;
    let field = path(fields.text("field")?, "interval.field", Code::InvalidFilter, from)?;
    let end = |name: &str| {
        let at = fields.path_of(name);
        let value = value::read(fields.raw(name)?, &at)?;
        if from == From::Request {
            value::check_size(&value, &at)?;
            if !Meaning::of(&value).is_ordered() {
                return Err(meaningless("an interval's end is a value that has an order").at(at));
            }
        }
        Ok(value)
    };
    let (start, stop) = (end("start")?, end("stop")?);
    if from == From::Request {
        match Meaning::of(&start).order(&Meaning::of(&stop)) {
            None => return Err(meaningless("start and stop have no common order").at("interval")),
            Some(order) if order.is_gt() => {
                return Err(meaningless("start lies after stop").at("interval.start"));
            }
            Some(_) => {}
        }
    }
    Ok(Some(Interval { field, start, stop }))
}

fn operations(fields: &Fields<'_>) -> Result<Operations, Problem> {
    let Some(items) = fields.list("operations")? else { return Ok(Operations::ALL) };
    if items.is_empty() {
        return Err(meaningless("without any operation nothing can match; leave it out for all").at("operations"));
    }
    let one = |(number, item): (usize, &Value)| {
        let at = format!("operations[{number}]");
        let text = item.as_str().ok_or_else(|| wrong_type("a string", item, &at))?;
        Operation::from_name(text)
            .ok_or_else(|| meaningless("the operations are insert, update, replace and delete").at(at))
    };
    Ok(Operations::of(items.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()?))
}

fn projection(fields: &Fields<'_>, from: From) -> Result<Option<Vec<Path>>, Problem> {
    let Some(items) = fields.list("fields")? else { return Ok(None) };
    let one = |(number, item): (usize, &Value)| {
        let at = format!("fields[{number}]");
        let text = item.as_str().ok_or_else(|| wrong_type("a string", item, &at))?;
        path(text, &at, Code::InvalidRequest, from)
    };
    items.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>().map(Some)
}

fn start_at(fields: &Fields<'_>, from: From) -> Result<Option<StartAt>, Problem> {
    let Some(item) = fields.get("startAt") else { return Ok(None) };
    let known: &[&str] =
        if from == From::Store { &["operationTime", "cursor", "position"] } else { &["operationTime", "cursor"] };
    let fields = Fields::new(item, "startAt", known)?;
    if let Some(text) = fields.optional_text("position")? {
        let position = text.parse().map_err(|rule| invalid(format!("{rule}")).at("startAt.position"))?;
        return Ok(Some(StartAt::Position(position)));
    }
    match (fields.get("operationTime"), fields.optional_text("cursor")?) {
        (Some(time), None) => operation_time(time, "startAt.operationTime").map(Some),
        (None, Some(cursor)) => {
            let fits = !cursor.is_empty()
                && cursor.len() <= limits::cursor_text_bytes_max
                && cursor.bytes().all(|b| b.is_ascii_graphic());
            if !fits {
                return Err(Problem::new(Code::InvalidCursor, "not a cursor").at("startAt.cursor"));
            }
            Ok(Some(StartAt::Cursor(cursor.into())))
        }
        _ => Err(invalid("startAt has either operationTime or cursor").at("startAt")),
    }
}

/// Reads an `operationTime`, which the caller knows as `at`.
pub(crate) fn operation_time(value: &Value, at: &str) -> Result<StartAt, Problem> {
    if let Some(text) = value.as_str() {
        let time = chrono::DateTime::parse_from_rfc3339(text)
            .map_err(|_| invalid("a time is RFC 3339 text such as 2026-11-21T10:00:00Z").at(at))?;
        let second = u32::try_from(time.timestamp()).map_err(|_| invalid("a time lies from 1970 to 2106").at(at))?;
        return Ok(StartAt::Second(second));
    }
    if !value.is_object() {
        return Err(wrong_type("RFC 3339 text or {\"t\":…,\"i\":…}", value, at));
    }
    let fields = Fields::new(value, at, &["t", "i"])?;
    let part = |name: &str| {
        let number = fields.number(name)?;
        let number = number.ok_or_else(|| invalid(format!("`{name}` is required")).at(fields.path_of(name)))?;
        u32::try_from(number).map_err(|_| invalid("a number of 32 bits").at(fields.path_of(name)))
    };
    Ok(StartAt::OperationTime(ClusterTime::new(part("t")?, part("i")?)))
}

fn ttl(fields: &Fields<'_>) -> Result<u32, Problem> {
    let Some(seconds) = fields.number("ttlSeconds")? else { return Ok(limits::ttl_seconds_default) };
    let (min, max) = (limits::ttl_seconds_min, limits::ttl_seconds_max);
    match u32::try_from(seconds) {
        Ok(seconds) if (min..=max).contains(&seconds) => Ok(seconds),
        _ => Err(invalid(format!("ttlSeconds is {min} to {max}")).at("ttlSeconds")),
    }
}
