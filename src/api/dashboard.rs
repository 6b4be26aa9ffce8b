//! The dashboard: a page and its parts, from the binary.
//!
//! Owns the files, their types and what they may do in a browser. What they show comes from the interface like anybody's.

use axum::extract::{Path, rejection::PathRejection};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::error::{Code, Problem};

const PAGE: &str = include_str!("dashboard/index.html");

/// Name, media type, text.
const FILES: [(&str, &str, &str); 9] = [
    ("style.css", "text/css; charset=utf-8", include_str!("dashboard/style.css")),
    ("icon.svg", "image/svg+xml", include_str!("dashboard/icon.svg")),
    ("app.js", SCRIPT, include_str!("dashboard/app.js")),
    ("api.js", SCRIPT, include_str!("dashboard/api.js")),
    ("dom.js", SCRIPT, include_str!("dashboard/dom.js")),
    ("forms.js", SCRIPT, include_str!("dashboard/forms.js")),
    ("overview.js", SCRIPT, include_str!("dashboard/overview.js")),
    ("tail.js", SCRIPT, include_str!("dashboard/tail.js")),
    ("tools.js", SCRIPT, include_str!("dashboard/tools.js")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Everything comes from here: what a document says can neither run nor call anybody.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";

fn file(media: &'static str, text: &'static str) -> Response {
    let head = [
        (header::CONTENT_TYPE, media),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version's parts do not fit this one's page.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (head, text).into_response()
}

/// `GET /`.
pub(super) async fn page() -> Response {
    file("text/html; charset=utf-8", PAGE)
}

/// `GET /dashboard/{file}`.
pub(super) async fn part(name: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let missing = || Problem::new(Code::NotFound, "the dashboard has no such part");
    let Path(name) = name.map_err(|_| missing())?;
    let (_, media, text) = FILES.iter().find(|(known, ..)| *known == name).ok_or_else(missing)?;
    Ok(file(media, text))
}
