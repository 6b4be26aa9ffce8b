//! Problems: what a caller is told when something cannot be done.
//!
//! Owns the codes of the HTTP and gRPC interfaces and their status. An error that no caller meets
//! stays with the module it arises in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The codes that clients rely on; each belongs to one HTTP status, but for `InvalidRequest`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub enum Code {
    /// Malformed JSON (400), or a well-formed request that says something impossible (422).
    InvalidRequest,
    /// A filter that means nothing.
    InvalidFilter,
    /// CEL that does not compile, undeclared names and functions included.
    CelCompilationFailed,
    /// Every size limit of a filter.
    FilterTooComplex,
    /// Another subscription has this id.
    SubscriptionExists,
    /// The gateway is served by another transport.
    DeliveryMismatch,
    /// No such subscription.
    SubscriptionNotFound,
    /// No such gateway.
    GatewayNotFound,
    /// No such resource.
    NotFound,
    /// The resource does not know this method.
    MethodNotAllowed,
    /// The body is over its limit.
    PayloadTooLarge,
    /// The body is not JSON.
    UnsupportedMediaType,
    /// The gateway has as many subscriptions as it may.
    GatewayQuotaExceeded,
    /// The tenant has as many subscriptions as it may.
    TenantQuotaExceeded,
    /// The hub has as many subscriptions as it may.
    GlobalQuotaExceeded,
    /// Try later.
    RateLimited,
    /// `startAt` lies before the oplog.
    StartTooOld,
    /// A cursor that is none, or another gateway's.
    InvalidCursor,
    /// The store does not answer; whether a write took effect may be unknown.
    StoreUnavailable,
    /// No node is certain to own the partition.
    OwnerUnknown,
    /// No credentials.
    Unauthenticated,
    /// Not with these credentials.
    Forbidden,
    /// A bug of the hub's: whether the call took effect is unknown.
    Internal,
}

impl Code {
    /// The text on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::InvalidFilter => "INVALID_FILTER",
            Self::CelCompilationFailed => "CEL_COMPILATION_FAILED",
            Self::FilterTooComplex => "FILTER_TOO_COMPLEX",
            Self::SubscriptionExists => "SUBSCRIPTION_EXISTS",
            Self::DeliveryMismatch => "DELIVERY_MISMATCH",
            Self::SubscriptionNotFound => "SUBSCRIPTION_NOT_FOUND",
            Self::GatewayNotFound => "GATEWAY_NOT_FOUND",
            Self::NotFound => "NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::GatewayQuotaExceeded => "GATEWAY_QUOTA_EXCEEDED",
            Self::TenantQuotaExceeded => "TENANT_QUOTA_EXCEEDED",
            Self::GlobalQuotaExceeded => "GLOBAL_QUOTA_EXCEEDED",
            Self::RateLimited => "RATE_LIMITED",
            Self::StartTooOld => "START_TOO_OLD",
            Self::InvalidCursor => "INVALID_CURSOR",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::OwnerUnknown => "OWNER_UNKNOWN",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::Internal => "INTERNAL",
        }
    }

    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidCursor => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::SubscriptionNotFound | Self::GatewayNotFound | Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::SubscriptionExists | Self::DeliveryMismatch => 409,
            Self::StartTooOld => 410,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::InvalidRequest | Self::InvalidFilter | Self::CelCompilationFailed | Self::FilterTooComplex => 422,
            Self::GatewayQuotaExceeded | Self::TenantQuotaExceeded | Self::GlobalQuotaExceeded | Self::RateLimited => {
                429
            }
            Self::Internal => 500,
            Self::StoreUnavailable | Self::OwnerUnknown => 503,
        }
    }
}

/// One answer of RFC 9457: what is wrong, in a sentence, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// The HTTP status; the code's own unless the request was not even JSON.
    pub status: u16,
    /// One sentence for a person.
    pub detail: String,
    /// The field at fault, as a path such as `filters[2].op`.
    pub field: Option<String>,
    /// When trying again makes sense.
    pub retry_after_seconds: Option<u32>,
}

impl Problem {
    /// A problem with the code's own status.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, status: code.status(), detail: detail.into(), field: None, retry_after_seconds: None }
    }

    /// The body was not JSON at all.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self { status: 400, ..Self::new(Code::InvalidRequest, detail) }
    }

    /// Names the field at fault.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.detail)?;
        if let Some(field) = &self.field {
            write!(f, " (at {field})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
