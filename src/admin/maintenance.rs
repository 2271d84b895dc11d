//! The maintenance switch: to look, to put on, to put off.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::fault::Fault;
use crate::base::Period;

/// The longest message, in bytes.
const MESSAGE_MAX: usize = 500;
/// The longest time after which clients may look again, in seconds: a week.
const RETRY_MAX: u64 = 7 * 24 * 3600;

/// What clients are to be told.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NoticeSettings {
    message: String,
    retry_after: Period,
}

impl Default for NoticeSettings {
    fn default() -> Self {
        let message = "the service is being maintained".to_owned();
        Self { message, retry_after: Period::secs(60) }
    }
}

pub(super) async fn show(State(admin): State<Arc<Admin>>) -> Json<Value> {
    Json(json!({ "maintenance": *shown(&admin) }))
}

/// For the pages: null while there is none.
pub(super) fn shown(admin: &Admin) -> Box<Value> {
    Box::new(json!(admin.maintenance.notice().as_deref()))
}

/// `PUT /admin/maintenance` with `{"message": "…", "retry_after": "10m"}`, each of which may be left out.
pub(super) async fn begin(State(admin): State<Arc<Admin>>, body: Bytes) -> Response {
    let settings =
        if body.is_empty() { Ok(NoticeSettings::default()) } else { serde_json::from_slice::<NoticeSettings>(&body) };
    let plain = |it: &NoticeSettings| {
        (1..=MESSAGE_MAX).contains(&it.message.len())
            && !it.message.contains(char::is_control)
            && (1..=RETRY_MAX).contains(&it.retry_after.0.as_secs())
    };
    let Some(settings) = settings.ok().filter(plain) else {
        let action = r#"send {"message": "…"} with one line of at most 500 bytes; {"retry_after": "10m"} beside it if clients are to wait for longer than a minute"#;
        return Fault::new(StatusCode::BAD_REQUEST, "invalid_body", "the body is no notice", action).into_response();
    };
    match admin.maintenance.begin(&settings.message, settings.retry_after.0.as_secs()).await {
        Ok(notice) => Json(json!({ "maintenance": *notice })).into_response(),
        Err(_) => unavailable(),
    }
}

pub(super) async fn end(State(admin): State<Arc<Admin>>) -> Response {
    match admin.maintenance.end().await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(), // also if there was none: it is off
        Err(_) => unavailable(),
    }
}

fn unavailable() -> Response {
    let message = "the other gateways can't learn of it, so nothing has changed here either";
    let action = "see that the state (`state` in gateway.yaml) can be reached, and try again";
    Fault::new(StatusCode::SERVICE_UNAVAILABLE, "state_unavailable", message, action).into_response()
}
