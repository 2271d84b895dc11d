//! Answers that are whole at once: health, any status, and the echo of a request.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::{BODY_BYTES_MAX, Backend};

/// `in_progress` counts slow answers, streams and sockets that somebody still holds.
pub(super) async fn health(State(backend): State<Backend>) -> Json<Value> {
    let in_progress = backend.in_progress.load(Ordering::Relaxed);
    Json(json!({ "status": "ok", "name": &*backend.name, "in_progress": in_progress }))
}

/// The request's body is read and dropped, so that the connection can be used again.
pub(super) async fn status(State(backend): State<Backend>, Path(code): Path<String>, body: Body) -> Response {
    if let Err(refusal) = whole(body).await {
        return refusal;
    }
    // Below 200 there are only interim answers, which a handler cannot give.
    match code.parse::<u16>().ok().and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(StatusCode::NO_CONTENT) => StatusCode::NO_CONTENT.into_response(),
        Some(StatusCode::NOT_MODIFIED) => StatusCode::NOT_MODIFIED.into_response(),
        Some(code) if (200..=599).contains(&code.as_u16()) => {
            (code, Json(json!({ "name": &*backend.name, "status": code.as_u16() }))).into_response()
        }
        _ => refuse("a status is a number from 200 to 599"),
    }
}

/// Everything that arrived, as JSON; bytes that are no UTF-8 show as U+FFFD.
pub(super) async fn echo(
    State(backend): State<Backend>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let body = match whole(body).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    Json(json!({
        "name": &*backend.name,
        "method": method.as_str(),
        "path": uri.path(),
        "query": uri.query().unwrap_or_default(),
        "headers": headers_as_json(&headers),
        "body_bytes": body.len(),
        "body": String::from_utf8_lossy(&body),
    }))
    .into_response()
}

/// The whole body; one that announces too much is refused before any of it is read.
async fn whole(body: Body) -> Result<Bytes, Response> {
    let too_large = || (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large").into_response();
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    // Cut or ill-framed bodies end here too, with nobody left to read the answer.
    to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| too_large())
}

pub(super) fn refuse(message: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": message }))).into_response()
}

/// A header that came once is its value, one that came several times the list of its values.
fn headers_as_json(headers: &HeaderMap) -> Map<String, Value> {
    let mut shown = Map::new();
    for name in headers.keys() {
        let mut values: Vec<Value> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into()).collect();
        let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
        shown.insert(name.as_str().to_owned(), value);
    }
    shown
}
