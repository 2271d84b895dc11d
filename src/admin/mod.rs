//! The listener for operators: probes, metrics, and what the gateway knows about itself.
//!
//! It runs on a runtime of its own, so that a scrape of many series costs no request a moment, and has connections and
//! deadlines of its own. Away from loopback every call but the probes' needs a token or an API key; everywhere, pages
//! of other sites are kept out.

mod auth;
mod blocks;
mod connections;
mod fault;
mod front;
mod maintenance;
mod pages;
mod registry;
mod sites;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post, put};

use crate::admin::front::Front;
use crate::admin::sites::Sites;
use crate::cache::Cache;
use crate::config::Configuration;
use crate::connections::Connections;
use crate::guard::Guard;
use crate::listener::{self, Drain, Refuse, Socket};
use crate::maintenance::Maintenance;

/// What the pages show.
pub struct Admin {
    pub(super) configuration: Arc<Configuration>,
    pub(super) drain: Drain,
    pub(super) guard: Arc<Guard>,
    pub(super) cache: Arc<Cache>,
    pub(super) connections: Arc<Connections>,
    pub(super) maintenance: Arc<Maintenance>,
    pub(super) began: Instant,
    /// Milliseconds from the process' start until it served; 0 until then.
    started_after: AtomicU64,
}

impl Admin {
    /// Shows this configuration.
    pub fn new(
        configuration: Arc<Configuration>,
        drain: Drain,
        guard: Arc<Guard>,
        cache: Arc<Cache>,
        connections: Arc<Connections>,
        maintenance: Arc<Maintenance>,
    ) -> Arc<Self> {
        let (began, started_after) = (Instant::now(), AtomicU64::new(0));
        Arc::new(Self { configuration, drain, guard, cache, connections, maintenance, began, started_after })
    }

    /// All listeners serve: the startup probe says so from now on.
    pub fn started(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.started_after.store(millis.max(1), Ordering::Release);
    }

    fn started_after(&self) -> Option<u64> {
        match self.started_after.load(Ordering::Acquire) {
            0 => None,
            millis => Some(millis),
        }
    }
}

/// Serves until the process ends: probes say that it stops for as long as it does. `refuse` answers what never became
/// a request.
///
/// # Errors
/// When the socket can't be used.
pub async fn serve(socket: Socket, admin: Arc<Admin>, refuse: Arc<dyn Refuse>) -> std::io::Result<()> {
    let guard = auth::Guard::new(socket.address(), &admin);
    let sites = Sites::new(&admin.configuration.process().written.listeners.admin.hosts);
    let front = Front::new(pages(admin, guard, sites));
    listener::serve(socket, Arc::new(front), refuse, Drain::new()).await
}

fn pages(admin: Arc<Admin>, guard: auth::Guard, sites: Sites) -> Router {
    let probes = Router::new()
        .route("/api/v1/health/live", get(pages::live))
        .route("/api/v1/health/ready", get(pages::ready))
        .route("/api/v1/health/startup", get(pages::startup));
    let pages = Router::new()
        .route("/metrics", get(pages::metrics))
        .route("/admin/config", get(pages::config))
        .route("/admin/reload", post(pages::reload))
        .route("/admin/routes", get(pages::routes))
        .route("/admin/upstreams", get(pages::upstreams))
        .route("/admin/limits", get(pages::limits))
        .route("/admin/cache/purge", post(pages::purge))
        .route("/admin/requests", get(pages::requests))
        .route("/admin/connections", get(connections::list).delete(connections::end))
        .route("/admin/connections/{id}", delete(connections::end_one))
        .route("/admin/maintenance", get(maintenance::show).put(maintenance::begin).delete(maintenance::end))
        .route("/admin/registry", get(registry::list))
        .route("/admin/registry/{service}/{instance}", put(registry::register).delete(registry::leave))
        .route("/admin/blocks", get(blocks::list))
        .route("/admin/blocks/{address}", put(blocks::add).delete(blocks::lift))
        .route("/admin/blocks/{address}/{length}", put(blocks::no_network).delete(blocks::no_network))
        .layer(from_fn_with_state(Arc::new(guard), auth::check));
    probes
        .merge(pages)
        .fallback(pages::unknown)
        .method_not_allowed_fallback(pages::other_method)
        .layer(from_fn_with_state(Arc::new(sites), sites::check))
        .with_state(admin)
}
