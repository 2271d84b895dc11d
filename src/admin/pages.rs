//! The pages of the admin listener.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::admin::fault::Fault;
use crate::admin::maintenance;
use crate::alerts::Alerts;
use crate::cache::Purge;
use crate::deliver::COMPRESSED_MAX;
use crate::filters::Basic;
use crate::forward::{Policy, Worker, mirrors_under_way};
use crate::listener::DrainPhase;
use crate::pipeline::DECODERS_MAX;
use crate::state::Backend;
use crate::telemetry::{IN_FLIGHT, exposition, figures, route_series, summary};

type Page = State<Arc<Admin>>;

/// US-014.1: the process is alive.
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// US-014.2: whether new traffic should come here; 503 from the first moment of a stop (US-013.2), and
/// while no listener could take another connection.
pub(super) async fn ready(State(admin): Page) -> Response {
    let (open, max) = (admin.drain.open(), connections_max(&admin));
    let reason = match admin.drain.phase() {
        DrainPhase::Serving if admin.started_after().is_none() => "starting",
        DrainPhase::Serving if open >= max => "connections_full",
        DrainPhase::Serving => return Json(serving(&admin)).into_response(),
        _ => "draining",
    };
    let body = json!({ "status": "not_ready", "reason": reason, "open_connections": open, "max_connections": max });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// Upstreams that can't serve are told and make nothing not ready: a gateway that is taken away for them serves the
/// others no longer, and all gateways would go at once.
fn serving(admin: &Admin) -> Value {
    match admin.configuration.upstreams().down() {
        0 => json!({ "status": "ready" }),
        down => json!({ "status": "ready", "upstreams_down": down }),
    }
}

fn connections_max(admin: &Admin) -> usize {
    admin.configuration.process().public.iter().map(|it| it.limits.connections).sum()
}

/// US-014.3: whether the start is over.
pub(super) async fn startup(State(admin): Page) -> Response {
    match admin.started_after() {
        Some(millis) => Json(json!({ "status": "started", "startup_duration_ms": millis })).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "starting" }))).into_response(),
    }
}

/// R10.3, US-012: everything that is counted, in Prometheus' text format.
pub(super) async fn metrics(State(admin): Page) -> Response {
    admin.configuration.upstreams().refresh_metrics();
    let text = tokio::task::spawn_blocking(exposition).await.unwrap_or_default();
    let media = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, media)], text).into_response()
}

/// Which configuration serves, and why the last reload was refused, if it was.
pub(super) async fn config(State(admin): Page) -> Json<Value> {
    let active = admin.configuration.active();
    let (gateway, routes) = admin.configuration.paths();
    let last_error = admin
        .configuration
        .last_error()
        .map(|(at, faults)| json!({ "at": at.as_str(), "summary": faults.summary(), "faults": faults }));
    Json(json!({
        "generation": active.generation,
        "hash": active.hash,
        "loaded_at": active.loaded_at.as_str(),
        "last_error": last_error,
        "certificates_kept": admin.configuration.certificates_kept(),
        "files": { "gateway": gateway, "routes": routes },
        "maintenance": *maintenance::shown(&admin),
        "routes": active.snapshot.written_routes().len(),
        "upstreams": active.snapshot.written_upstreams().len(),
    }))
}

/// Reads the files again: 200 with what changed, 422 with the faults.
pub(super) async fn reload(State(admin): Page) -> Response {
    let configuration = admin.configuration.clone();
    match tokio::task::spawn_blocking(move || configuration.reload()).await {
        Ok(Ok(changes)) => Json(changes).into_response(),
        Ok(Err(faults)) => {
            let action = "mend the faults and reload again; the old configuration goes on serving";
            Fault::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_configuration", faults.summary(), action)
                .with_details(json!({ "faults": faults }))
                .into_response()
        }
        Err(_) => broken("the reload broke off"),
    }
}

/// The compiled routes.
pub(super) async fn routes(State(admin): Page) -> Json<Value> {
    let active = admin.configuration.active();
    let routes: Vec<_> = active.snapshot.routes.iter().map(|it| &it.description).collect();
    Json(json!({ "generation": active.generation, "routes": routes }))
}

/// The endpoints with health, weight, requests in flight and latency.
pub(super) async fn upstreams(State(admin): Page) -> Json<Value> {
    Json(json!({ "upstreams": admin.configuration.upstreams().report() }))
}

/// What bounds the gateway, and how full it is.
pub(super) async fn limits(State(admin): Page) -> Response {
    match tokio::task::spawn_blocking(move || all_limits(&admin)).await {
        Ok(limits) => Json(limits).into_response(),
        Err(_) => broken("the list broke off"),
    }
}

fn all_limits(admin: &Admin) -> Value {
    let process = admin.configuration.process();
    let active = admin.configuration.active();
    let open = figures("moongate_connections_open");
    let written = process.written.listeners.public.iter();
    let listeners: Vec<_> = process
        .public
        .iter()
        .zip(written)
        .map(|(listener, written)| {
            let open = open.iter().find(|it| *it.0 == *listener.name).map_or(0.0, |it| it.1);
            json!({ "listener": &*listener.name, "address": written.address, "open": open as u64, "limits": written.limits })
        })
        .collect();
    let refused: BTreeMap<String, u64> =
        figures("moongate_connections_refused_total").into_iter().fold(BTreeMap::new(), |mut sums, (reason, count)| {
            *sums.entry(reason).or_default() += count as u64;
            sums
        });
    let dropped: f64 = figures("moongate_log_lines_dropped_total").iter().map(|it| it.1).sum();
    let sum = |family: &str| figures(family).iter().map(|it| it.1).sum::<f64>() as u64;
    let (routes, routes_max) = route_series();
    let bodies = active.snapshot.routes.iter().map(|it| it.policy.body_limit);
    let used = active.snapshot.routes.iter().filter_map(|it| it.chain.limits());
    json!({
        "rate_limits": admin.configuration.limits().report(used),
        "connections": { "open": admin.drain.open(), "max": connections_max(admin), "refused": refused },
        "listeners": listeners,
        "state": state(admin),
        "guard": { "addresses": admin.guard.fill().0, "addresses_max": admin.guard.fill().1 },
        "alerts": alerts(),
        "requests": { "in_flight": IN_FLIGHT.get() },
        "request_body_bytes": {
            "default": Policy::BODY_LIMIT,
            "smallest": bodies.clone().min(),
            "largest": bodies.max(),
        },
        "upstream_connections": {
            "threads": process.threads,
            "idle_max_per_thread": Worker::IDLE_CONNECTIONS,
        },
        "compression": {
            "active": sum("moongate_compression_active"),
            "active_max": COMPRESSED_MAX,
            "queue": sum("moongate_compression_queue"),
            "skipped": sum("moongate_compression_skipped_total"),
        },
        "decoders": { "active": sum("moongate_decoders_active"), "active_max": DECODERS_MAX },
        "cache": admin.cache.usage(),
        "mirrors": { "in_flight": mirrors_under_way() },
        "basic_auth": { "known": figures("moongate_basic_auth_known").iter().map(|it| it.1).sum::<f64>() as u64, "known_max": Basic::KNOWN_MAX },
        "log": { "lines_dropped": dropped as u64 },
        "metrics": { "routes": routes, "routes_max": routes_max },
        "shutdown": process.written.shutdown,
    })
}

/// Purges cached responses (R9.4): `{"tag": "player:7"}`, `{"route": "players"}`, `{"key": "/players/7"}`,
/// `{"prefix": "/players/"}` or `{"all": true}`. 200 with how many this gateway had.
pub(super) async fn purge(State(admin): Page, body: Bytes) -> Response {
    let Some(what) = purge_of(&body) else {
        let action = "send one of {\"all\": true}, {\"route\": …}, {\"tag\": …}, {\"key\": …}, {\"prefix\": …}";
        return Fault::new(StatusCode::BAD_REQUEST, "bad_request", "the body does not say what to forget", action)
            .into_response();
    };
    let purged = admin.cache.purge(what.clone()).await;
    tracing::info!(
        event = "cache_purged", what = ?what, count = purged.count, everywhere = purged.everywhere
    );
    Json(json!({ "purged": purged.count, "everywhere": purged.everywhere })).into_response()
}

fn purge_of(body: &[u8]) -> Option<Purge> {
    match serde_json::from_slice(body).ok()? {
        Value::Object(fields) if fields.len() == 1 && fields.get("all") == Some(&Value::Bool(true)) => Some(Purge::All),
        written => serde_json::from_value(written).ok().filter(|it| *it != Purge::All),
    }
}

/// What waits for webhooks, by the webhook.
fn alerts() -> Value {
    let waiting: BTreeMap<String, u64> =
        figures("moongate_alerts_waiting").into_iter().map(|(webhook, waiting)| (webhook, waiting as u64)).collect();
    json!({ "waiting": waiting, "waiting_max": Alerts::WAITING_MAX })
}

/// Where short-lived values are kept, and how full that is.
fn state(admin: &Admin) -> Value {
    let sum = |family: &str| figures(family).iter().map(|it| it.1).sum::<f64>() as u64;
    match &admin.configuration.process().state {
        Backend::Memory(bounds) => json!({
            "backend": "memory",
            "entries": sum("moongate_state_entries"),
            "entries_max": bounds.entries_max(),
            "bytes": sum("moongate_state_bytes"),
            "bytes_max": bounds.bytes_max(),
            "refused": sum("moongate_state_full_total"),
        }),
        Backend::Redis(_) => json!({
            "backend": "redis",
            "up": sum("moongate_state_up") == 1,
            "failures": sum("moongate_state_failures_total"),
        }),
    }
}

/// Totals, streams, errors by code, percentiles; and how many requests are under way.
pub(super) async fn requests(State(_): Page) -> Response {
    match tokio::task::spawn_blocking(summary).await {
        Ok(summary) => Json(summary).into_response(),
        Err(_) => broken("the summary broke off"),
    }
}

pub(super) async fn unknown() -> Fault {
    let action = "see /admin/config, /admin/routes, /admin/upstreams, /metrics";
    Fault::new(StatusCode::NOT_FOUND, "route_not_found", "the admin listener has no such page", action)
}

/// `Allow` is added where the pages' methods are known.
pub(super) async fn other_method() -> Fault {
    let (message, action) = ("this page does not accept this method", "use one of the methods in Allow");
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message, action)
}

fn broken(what: &str) -> Response {
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", what, "read the log").into_response()
}
