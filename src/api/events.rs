//! Publishing over HTTP, where the hub has an embedded log.
//!
//! Owns these routes. What a change must look like, the log knows.

use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::request::{BatchBody, JsonBody, aside};
use super::{ApiState, Publish, answer, json as text};
use crate::error::{Code, Problem};
use crate::limits;

fn publisher(state: &ApiState) -> Result<&Publish, Problem> {
    let detail = "this hub has no embedded log: its changes come from MongoDB and are made there";
    state.publish.as_ref().ok_or_else(|| Problem::new(Code::NotFound, detail))
}

fn short_answer() -> Problem {
    Problem::new(Code::Internal, "the log answered fewer changes than it was given")
}

/// `POST /v1/events`.
pub(super) async fn publish(State(state): State<ApiState>, request: Request) -> Result<Response, Problem> {
    // Before the body is read: without a log nothing in it matters.
    let publish = publisher(&state)?;
    let JsonBody(event) = JsonBody::from_request(request, &()).await?;
    let mut results = publish(vec![event]).await?;
    let position = results.pop().unwrap_or_else(|| Err(short_answer()))?;
    Ok(answer::json_answer(StatusCode::CREATED, &json!({"position": position})))
}

/// `POST /v1/events/batch`.
pub(super) async fn publish_batch(State(state): State<ApiState>, request: Request) -> Result<Response, Problem> {
    let publish = publisher(&state)?;
    let BatchBody(body) = BatchBody::from_request(request, &()).await?;
    let read = aside(move || {
        let items = text::items(&body, "events", limits::batch_items_max)?;
        let parse = |item: &RawValue| text::parse(item.get().as_bytes());
        Ok::<_, Problem>(items.into_iter().map(parse).collect::<Vec<_>>())
    });
    let mut events = Vec::new();
    let mut refusals = Vec::new();
    for item in read.await? {
        match item {
            Ok(event) => {
                events.push(event);
                refusals.push(None);
            }
            Err(problem) => refusals.push(Some(problem)),
        }
    }
    let published = if events.is_empty() { Vec::new() } else { publish(events).await? };
    let mut published = published.into_iter();
    let mut one = |refusal: Option<Problem>| -> Value {
        let result = match refusal {
            Some(problem) => Err(problem),
            None => published.next().unwrap_or_else(|| Err(short_answer())),
        };
        match result {
            Ok(position) => json!({"status": StatusCode::CREATED.as_u16(), "position": position}),
            Err(problem) => answer::batch_problem(&problem),
        }
    };
    let results: Vec<_> = refusals.into_iter().map(&mut one).collect();
    Ok(answer::ok(&json!({"results": results})))
}
