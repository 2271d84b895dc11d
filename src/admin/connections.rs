//! The connections that last: to list, and to end.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::fault::Fault;
use crate::connections::{Entry, Wanted};

/// So many are shown unless somebody wants more, and at most.
const SHOWN: usize = 100;
const SHOWN_MAX: usize = 1_000;

/// Which connections are meant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    kind: Option<String>,
    route: Option<String>,
    principal: Option<String>,
    tenant: Option<String>,
    token: Option<String>,
    session: Option<String>,
    limit: Option<usize>,
}

impl Which {
    fn wanted(self) -> (Wanted, Option<usize>) {
        let Self { kind, route, principal, tenant, token, session, limit } = self;
        (Wanted { kind, route, principal, tenant, token, session }, limit)
    }
}

type Question = Result<Query<Which>, axum::extract::rejection::QueryRejection>;

/// `GET /admin/connections?route=chat&principal=ada&limit=100`: the oldest first.
pub(super) async fn list(State(admin): State<Arc<Admin>>, question: Question) -> Response {
    let Ok(Query(which)) = question else { return unreadable() };
    let (wanted, limit) = which.wanted();
    if wanted.names_no_kind() {
        return unreadable();
    }
    let limit = limit.unwrap_or(SHOWN).min(SHOWN_MAX);
    let (found, count) = admin.connections.list(&wanted, limit);
    let shown: Vec<Value> = found.iter().map(|it| shown(it)).collect();
    Json(json!({ "connections": shown, "matching": count, "open": admin.connections.len() })).into_response()
}

/// `DELETE /admin/connections?principal=ada`: ends all that are meant. Everything is never meant by saying nothing.
pub(super) async fn end(State(admin): State<Arc<Admin>>, question: Question) -> Response {
    let Ok(Query(which)) = question else { return unreadable() };
    let (wanted, limit) = which.wanted();
    if wanted.names_no_kind() || limit.is_some() {
        return unreadable();
    }
    if wanted.is_everything() {
        let action = "say which: ?route=, ?principal=, ?tenant=, ?token=, ?session=, ?kind=";
        return Fault::new(StatusCode::BAD_REQUEST, "bad_request", "this would end every connection", action)
            .into_response();
    }
    let ended = admin.connections.end(&wanted);
    tracing::info!(event = "connections_ended", wanted = ?wanted, count = ended);
    Json(json!({ "ended": ended })).into_response()
}

/// `DELETE /admin/connections/7`.
pub(super) async fn end_one(State(admin): State<Arc<Admin>>, Path(id): Path<String>) -> Response {
    let ended = id.parse().is_ok_and(|it| admin.connections.end_one(it));
    if ended {
        return StatusCode::NO_CONTENT.into_response();
    }
    let action = "see /admin/connections; it may have ended by itself";
    Fault::new(StatusCode::NOT_FOUND, "no_such_connection", "there is no such connection", action).into_response()
}

fn unreadable() -> Response {
    let action = "ask by kind (events, websocket, tunnel, body), route, principal, tenant, token, session; and limit";
    Fault::new(StatusCode::BAD_REQUEST, "bad_request", "the query does not say which connections", action)
        .into_response()
}

fn shown(entry: &Entry) -> Value {
    let facts = &entry.facts;
    let (received, sent) = entry.bytes();
    let principal = facts.principal.as_deref();
    let who = principal.map(|it| {
        json!({
            "subject": &*it.subject,
            "auth": it.kind.as_str(),
            "issuer": it.issuer.as_deref(),
            "tenant": it.tenant.as_deref(),
            "token": it.credential.as_deref(),
            "session": it.session.as_deref(),
            "ends": it.validity.ends,
        })
    });
    json!({
        "id": entry.id.to_string(),
        "kind": facts.kind.as_str(),
        "route": &*facts.route,
        "upstream": facts.upstream.as_deref(),
        "principal": who,
        "client": facts.client,
        "request_id": facts.request_id.as_str(),
        "since": entry.registered.as_str(),
        "seconds": facts.since.elapsed().as_secs(),
        "bytes_received": received,
        "bytes_sent": sent,
    })
}
