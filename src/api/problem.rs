//! Problem documents: `application/problem+json` of RFC 9457.
//!
//! Owns how a [`Problem`] looks over HTTP, and inside an answer to a batch. Knows nothing of what
//! went wrong.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::error::{Code, Problem};

/// The members of the problem document, in the documentation's order.
pub fn document(problem: &Problem) -> Value {
    let mut members = Map::new();
    // `code` tells problems apart, so the type says no more than the status does (RFC 9457, 4.2.1).
    members.insert("type".into(), json!("about:blank"));
    members.insert("title".into(), json!(status(problem).canonical_reason().unwrap_or("Error")));
    members.insert("status".into(), json!(problem.status));
    members.insert("detail".into(), json!(problem.detail));
    members.insert("code".into(), json!(problem.code.name()));
    if let Some(field) = &problem.field {
        members.insert("field".into(), json!(field));
    }
    Value::Object(members)
}

fn status(problem: &Problem) -> StatusCode {
    StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (status(&self), document(&self).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_problem_is_a_problem_document() {
        let problem = Problem::new(Code::RateLimited, "too fast").at("filters[2].op").retry_after(7);
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["retry-after"], "7");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            r#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"too fast","code":"RATE_LIMITED","field":"filters[2].op"}"#
        );
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let problem = Problem::malformed("expected a value");
        let document = document(&problem);
        assert_eq!(document["status"], 400);
        assert_eq!(document["code"], "INVALID_REQUEST");
        assert!(document.get("field").is_none());
        assert!(!problem.into_response().headers().contains_key("retry-after"));
    }
}
