//! A subscription as a client asks for it.
//!
//! Owns its JSON form. Whether it means anything is for the hub to say.

use serde::Serialize;
use serde_json::Value;

use crate::change::Operation;

/// What to register; the fields and their defaults are those of the HTTP interface.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// Its name within the gateway.
    pub subscription_id: String,
    /// Whose it is.
    pub gateway_id: String,
    /// Only this tenant's changes.
    pub tenant: String,
    /// Only this collection's.
    pub collection: String,
    /// The backend, where several are configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// All must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// Must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cel: Option<String>,
    /// Must hold: `{"field", "start", "stop"}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Value>,
    /// Only these; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<Operation>>,
    /// Whether to be told `enter`, `update` and `leave`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub transitions: bool,
    /// The fields of the body to deliver; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// Where to begin; `None` for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Value>,
    /// The lease; `None` for the hub's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Filter {
    /// A dotted path.
    pub field: String,
    /// `==`, `!=`, `<`, `in`, `starts-with` and so on.
    pub op: String,
    /// In relaxed Extended JSON.
    pub value: Value,
}

impl Subscription {
    /// Every change of a collection.
    pub fn new(
        gateway_id: impl Into<String>,
        subscription_id: impl Into<String>,
        tenant: impl Into<String>,
        collection: impl Into<String>,
    ) -> Self {
        Self {
            subscription_id: subscription_id.into(),
            gateway_id: gateway_id.into(),
            tenant: tenant.into(),
            collection: collection.into(),
            backend: None,
            filters: Vec::new(),
            cel: None,
            interval: None,
            operations: None,
            transitions: false,
            fields: None,
            start_at: None,
            ttl_seconds: None,
        }
    }

    /// And this comparison holds.
    #[must_use]
    pub fn filter(mut self, field: impl Into<String>, op: impl Into<String>, value: impl Into<Value>) -> Self {
        self.filters.push(Filter { field: field.into(), op: op.into(), value: value.into() });
        self
    }

    /// And this expression holds.
    #[must_use]
    pub fn cel(mut self, source: impl Into<String>) -> Self {
        self.cel = Some(source.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_asked_for_is_not_said() {
        let asked = Subscription::new("g", "s", "t", "c").filter("stars", ">=", 3).cel("doc.kind != 'draft'");
        let expected = json!({
            "subscriptionId": "s", "gatewayId": "g", "tenant": "t", "collection": "c",
            "filters": [{"field": "stars", "op": ">=", "value": 3}], "cel": "doc.kind != 'draft'",
        });
        assert_eq!(serde_json::to_value(&asked).unwrap(), expected);
    }
}
