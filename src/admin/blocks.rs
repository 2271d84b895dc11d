//! Addresses that are blocked: to list, to add, to lift.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::fault::Fault;
use crate::base::Period;
use crate::guard::Block;

/// The longest reason that an operator may write, in bytes.
const REASON_MAX: usize = 200;

/// What a new block may say.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BlockSettings {
    /// For how long.
    time: Period,
    /// Why.
    reason: String,
}

impl Default for BlockSettings {
    fn default() -> Self {
        Self { time: Period(Duration::from_secs(3600)), reason: "operator".to_owned() }
    }
}

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let (addresses, max) = admin.guard.fill();
    let blocks: Vec<Value> = admin.guard.blocks().iter().map(shown).collect();
    Json(json!({ "blocks": blocks, "remembered": addresses, "remembered_max": max }))
}

/// `PUT /admin/blocks/203.0.113.9` with nothing, or `{"time": "10m", "reason": "…"}`.
pub(super) async fn add(
    State(admin): State<Arc<Admin>>,
    Path(address): Path<String>,
    body: axum::body::Bytes,
) -> Response {
    let Ok(address) = address.parse::<IpAddr>() else { return no_address() };
    let settings =
        if body.is_empty() { Ok(BlockSettings::default()) } else { serde_json::from_slice::<BlockSettings>(&body) };
    let settings = settings.ok().filter(|it| !it.time.0.is_zero() && it.reason.len() <= REASON_MAX);
    let Some(settings) = settings else {
        let action = r#"send nothing, or {"time": "10m", "reason": "…"} with at most 200 bytes of reason"#;
        return Fault::new(StatusCode::BAD_REQUEST, "invalid_body", "the body is no block", action).into_response();
    };
    match admin.guard.block(address, settings.time.0, &settings.reason) {
        Ok(block) => (StatusCode::CREATED, Json(shown(&block))).into_response(),
        Err(full) => {
            Fault::new(StatusCode::CONFLICT, "guard_full", full.to_string(), "lift others, or raise guard.block.max")
                .into_response()
        }
    }
}

pub(super) async fn lift(State(admin): State<Arc<Admin>>, Path(address): Path<String>) -> Response {
    let Ok(address) = address.parse::<IpAddr>() else { return no_address() };
    if admin.guard.lift(address) {
        return StatusCode::NO_CONTENT.into_response();
    }
    Fault::new(StatusCode::NOT_FOUND, "not_blocked", "this address is not blocked", "see /admin/blocks").into_response()
}

/// `203.0.113.0/24`.
pub(super) async fn no_network() -> Response {
    let action = "block each address by itself; whole networks are for a firewall to keep out";
    Fault::new(StatusCode::BAD_REQUEST, "bad_request", "networks can't be blocked", action).into_response()
}

fn no_address() -> Response {
    let action = "write it as 203.0.113.9 or 2001:db8::1";
    Fault::new(StatusCode::BAD_REQUEST, "bad_request", "this is not an address", action).into_response()
}

fn shown(block: &Block) -> Value {
    json!({
        "address": block.address.to_string(),
        "reason": block.reason,
        "seconds": block.time.as_secs(),
        "seconds_left": block.left.as_secs(),
        "strikes": block.strikes,
    })
}
