//! Writing a subscription: the answer to its gateway and the form in the store.
//!
//! Both are JSON with the same field names; they differ in how values are written (relaxed against
//! exact) and in that only the store's has a resolved start. `read` reads both.

use serde_json::{Map, Value, json};

use super::model::{FilterTerm, Interval, Path, Spec, StartAt};
use super::value;

impl Spec {
    /// The subscription as an answer repeats it: defaults filled in, values as relaxed Extended JSON.
    pub fn to_json(&self) -> Value {
        self.write(value::to_relaxed, false)
    }

    /// The subscription as it is stored; [`Spec::from_stored`] makes exactly this one again.
    pub fn to_stored(&self) -> Value {
        self.write(value::to_exact, true)
    }

    /// Whether asking for `other` is asking for this again: all but the lease and the start is equal.
    pub fn same_as(&self, other: &Self) -> bool {
        let term =
            |a: &FilterTerm, b: &FilterTerm| a.field == b.field && a.op == b.op && value::same(&a.value, &b.value);
        let interval = |a: &Interval, b: &Interval| {
            a.field == b.field && value::same(&a.start, &b.start) && value::same(&a.stop, &b.stop)
        };
        self.subscription_id == other.subscription_id
            && self.gateway_id == other.gateway_id
            && self.tenant == other.tenant
            && self.collection == other.collection
            && self.backend == other.backend
            && self.filters.len() == other.filters.len()
            && self.filters.iter().zip(&other.filters).all(|(a, b)| term(a, b))
            && self.cel == other.cel
            && match (&self.interval, &other.interval) {
                (None, None) => true,
                (Some(a), Some(b)) => interval(a, b),
                _ => false,
            }
            && self.operations == other.operations
            && self.transitions == other.transitions
            && self.fields == other.fields
    }

    fn write(&self, value: fn(&bson::Bson) -> Value, stored: bool) -> Value {
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| {
            out.insert(name.to_owned(), value);
        };
        put("subscriptionId", json!(self.subscription_id.as_str()));
        match self.gateway_id.in_group() {
            Some((group, _)) => put("group", json!(group)),
            None => put("gatewayId", json!(self.gateway_id.as_str())),
        }
        put("tenant", json!(&*self.tenant));
        put("collection", json!(&*self.collection));
        if let Some(backend) = &self.backend {
            put("backend", json!(&**backend));
        }
        let term = |term: &FilterTerm| json!({"field": term.field.to_string(), "op": term.op.name(), "value": value(&term.value)});
        put("filters", self.filters.iter().map(term).collect());
        if let Some(cel) = &self.cel {
            put("cel", json!(&**cel));
        }
        if let Some(Interval { field, start, stop }) = &self.interval {
            put("interval", json!({"field": field.to_string(), "start": value(start), "stop": value(stop)}));
        }
        put("operations", self.operations.iter().map(|operation| operation.name()).collect());
        put("transitions", json!(self.transitions));
        if let Some(fields) = &self.fields {
            put("fields", fields.iter().map(Path::to_string).collect());
        }
        if let Some(start) = self.start_at.as_ref().and_then(|start| start.write(stored)) {
            put("startAt", start);
        }
        put("ttlSeconds", json!(self.ttl_seconds));
        if let Some(generation) = self.generation.filter(|_| stored) {
            put("generation", json!(generation));
        }
        Value::Object(out)
    }
}

impl StartAt {
    fn write(&self, stored: bool) -> Option<Value> {
        Some(match self {
            Self::OperationTime(time) => json!({"operationTime": {"t": time.seconds(), "i": time.increment()}}),
            Self::Second(second) => {
                let time = chrono::DateTime::from_timestamp(i64::from(*second), 0).unwrap_or_default();
                json!({"operationTime": time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)})
            }
            Self::Cursor(cursor) => json!({"cursor": &**cursor}),
            // What a start came to is the answer's `activeFrom`, not something a gateway may send.
            Self::Position(position) if stored => json!({"position": position.to_string()}),
            Self::Position(_) => return None,
        })
    }
}
