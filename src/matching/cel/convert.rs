//! From values to the CEL crate's.
//!
//! Owns containers that hold an error: CEL has no value for a date outside the years 1 to 9999, so a
//! container with one in it must fail where that one is looked at, and nowhere else.

use std::collections::HashMap;

use cel_interpreter::ExecutionError;
use cel_interpreter::common::traits::{Container, Indexer, Iterable, Sizer};
use cel_interpreter::common::types::{
    self, CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelTimestamp, CelUInt,
    Type,
};
use cel_interpreter::common::value::{CowVal, Val};

use crate::matching::value::Value;

/// The CEL value. Must not be asked for a bare error, which only a container can hold.
pub(in crate::matching) fn to_cel(value: &Value) -> Box<dyn Val> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Int(value) => Box::new(CelInt::from(*value)),
        Value::Double(value) => Box::new(CelDouble::from(*value)),
        Value::Text(text) => Box::new(CelString::from(text.to_string())),
        Value::Bytes(bytes) => Box::new(CelBytes::from(bytes.to_vec())),
        Value::Time(milliseconds) => {
            let time = chrono::DateTime::from_timestamp_millis(*milliseconds).unwrap_or_default();
            Box::new(CelTimestamp::from(time.fixed_offset()))
        }
        Value::List(items) => {
            let list: CelList<'static> = items.iter().map(to_cel).collect::<Vec<_>>().into();
            let errors = items.iter().map(|item| matches!(item, Value::Error)).collect::<Vec<_>>();
            if errors.contains(&true) { Box::new(MarredList { list, errors }) } else { Box::new(list) }
        }
        Value::Map(fields) => {
            let entries = fields.iter().map(|(name, value)| (CelMapKey::from(name.to_string()), to_cel(value)));
            let map: CelMap<'static> = entries.collect::<HashMap<_, _>>().into();
            let marred = fields.iter().filter(|(_, value)| matches!(value, Value::Error));
            let errors: Vec<Box<str>> = marred.map(|(name, _)| name.clone()).collect();
            if errors.is_empty() { Box::new(map) } else { Box::new(MarredMap { map, errors }) }
        }
        // In its place stands a null that the marred container around it never hands out.
        Value::Error => Box::new(CelNull),
    }
}

fn out_of_years() -> ExecutionError {
    ExecutionError::function_error("timestamp", "outside the years 1 to 9999")
}

/// A map some of whose values are errors. Its keys are all there; it equals nothing.
#[derive(Clone, Debug)]
struct MarredMap {
    map: CelMap<'static>,
    errors: Vec<Box<str>>,
}

impl Val for MarredMap {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &types::MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(&self.map)
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_iterable<'b, 'w>(&'b self) -> Option<&'b (dyn Iterable + 'w)>
    where
        Self: 'w,
    {
        Some(&self.map)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(&self.map)
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(self.clone())
    }
}

impl Indexer for MarredMap {
    fn get<'b, 'w>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        match key.downcast_ref::<CelString>() {
            Some(name) if self.errors.iter().any(|error| **error == *name.inner()) => Err(out_of_years()),
            _ => self.map.get(key),
        }
    }

    fn steal<'w>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(key).map(|value| value.clone_as_boxed())
    }
}

/// A list some of whose elements are errors. It can be indexed and counted; to search it, to iterate
/// over it or to add to it is an error.
#[derive(Clone, Debug)]
struct MarredList {
    list: CelList<'static>,
    errors: Vec<bool>,
}

impl Val for MarredList {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &types::LIST_TYPE
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(&self.list)
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(self.clone())
    }
}

impl Indexer for MarredList {
    fn get<'b, 'w>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        let value = self.list.get(index)?;
        // Only a null can be one that stands in for an error; which one, the index tells.
        let number = (index.downcast_ref::<CelInt>().map(|i| *i.inner() as usize))
            .or_else(|| index.downcast_ref::<CelUInt>().map(|i| *i.inner() as usize))
            .or_else(|| index.downcast_ref::<CelDouble>().map(|i| *i.inner() as usize));
        if number.is_none_or(|number| self.errors.get(number).copied().unwrap_or(true)) {
            return Err(out_of_years());
        }
        Ok(value)
    }

    fn steal<'w>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(index).map(|value| value.clone_as_boxed())
    }
}
