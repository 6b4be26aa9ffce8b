//! Problems as gRPC statuses.
//!
//! Owns which status a code becomes. The code itself travels in `google.rpc.ErrorInfo.reason`.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code as Grpc, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::error::{Code, Problem};

/// The `domain` of `ErrorInfo`.
const DOMAIN: &str = "streamer";

/// The status that follows the HTTP one, with everything that the problem document would say.
pub(super) fn status(problem: Problem) -> Status {
    let mut details = ErrorDetails::new();
    let mut metadata = HashMap::from([("status".to_owned(), problem.status.to_string())]);
    if let Some(field) = problem.field {
        details.add_bad_request_violation(field.clone(), problem.detail.clone());
        metadata.insert("field".to_owned(), field);
    }
    details.set_error_info(problem.code.name(), DOMAIN, metadata);
    if let Some(seconds) = problem.retry_after_seconds {
        details.set_retry_info(Some(Duration::from_secs(seconds.into())));
    }
    Status::with_error_details(grpc_code(problem.code), problem.detail, details)
}

/// The request said something that cannot be.
pub(super) fn invalid(field: &str, detail: impl Into<String>) -> Status {
    status(Problem::new(Code::InvalidRequest, detail).at(field))
}

const fn grpc_code(code: Code) -> Grpc {
    match code {
        Code::InvalidRequest
        | Code::InvalidFilter
        | Code::CelCompilationFailed
        | Code::FilterTooComplex
        | Code::InvalidCursor
        | Code::UnsupportedMediaType => Grpc::InvalidArgument,
        Code::SubscriptionExists => Grpc::AlreadyExists,
        Code::DeliveryMismatch => Grpc::FailedPrecondition,
        Code::SubscriptionNotFound | Code::GatewayNotFound | Code::NotFound => Grpc::NotFound,
        Code::MethodNotAllowed => Grpc::Unimplemented,
        Code::StartTooOld => Grpc::OutOfRange,
        Code::PayloadTooLarge
        | Code::GatewayQuotaExceeded
        | Code::TenantQuotaExceeded
        | Code::GlobalQuotaExceeded
        | Code::RateLimited => Grpc::ResourceExhausted,
        Code::StoreUnavailable | Code::OwnerUnknown => Grpc::Unavailable,
        Code::Unauthenticated => Grpc::Unauthenticated,
        Code::Forbidden => Grpc::PermissionDenied,
        Code::Internal => Grpc::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_the_field_and_the_time_to_wait_travel() {
        let status = status(Problem::new(Code::RateLimited, "slowly").at("filters[2].op").retry_after(3));
        assert_eq!((status.code(), status.message()), (Grpc::ResourceExhausted, "slowly"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("RATE_LIMITED", DOMAIN));
        assert_eq!((&*info.metadata["status"], &*info.metadata["field"]), ("429", "filters[2].op"));
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(3)));
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "filters[2].op");
    }
}
