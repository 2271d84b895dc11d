//! An upstream that lives: its endpoints, and those of them that get requests right now.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus::IntCounter;

use super::balance::Ready;
use super::compile::Upstream;
use super::endpoint::{Endpoint, Health, Picked, State};
use super::metrics;

const PASS: &str = "pass";
const FAIL: &str = "fail";

/// The live state under an upstream's name.
///
/// The set of endpoints never changes: a changed upstream gets a new `Live`, in which endpoints
/// that stay keep their health, counters and requests in flight.
pub struct Live {
    upstream: Arc<Upstream>,
    endpoints: Vec<Arc<Endpoint>>,
    ready: ArcSwap<Ready>,
    /// Held while `ready` is prepared anew, so that an older view never replaces a newer one.
    preparing: Mutex<()>,
    cursor: AtomicUsize,
    passed: IntCounter,
    failed: IntCounter,
    changes: IntCounter,
}

impl Live {
    /// Takes over from `old` what goes on living.
    pub(super) fn new(upstream: Arc<Upstream>, old: Option<&Live>) -> Self {
        let name: &str = &upstream.name;
        let state = |address| {
            let kept = old.and_then(|old| old.endpoints.iter().find(|it| it.address() == address));
            let state = kept.map(|it| Arc::clone(&it.state));
            state.unwrap_or_else(|| Arc::new(State::new(name, address)))
        };
        let alive = |spec| Arc::new(Endpoint::new(&upstream, spec, state(spec.address)));
        let endpoints: Vec<_> = upstream.endpoints.iter().map(alive).collect();
        if upstream.health.is_none() {
            endpoints.iter().for_each(|it| it.state.forget_health());
        }
        Self {
            ready: ArcSwap::from_pointee(Ready::new(upstream.balance, &endpoints)),
            endpoints,
            preparing: Mutex::new(()),
            cursor: AtomicUsize::new(0),
            passed: metrics::CHECKS.with_label_values(&[name, PASS]),
            failed: metrics::CHECKS.with_label_values(&[name, FAIL]),
            changes: metrics::CHANGES.with_label_values(&[name]),
            upstream,
        }
    }

    /// What it was compiled from.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// All endpoints, in the order of the file.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// How many endpoints get requests right now.
    pub fn eligible(&self) -> usize {
        self.ready.load().len()
    }

    /// Requests that its endpoints got and that ended, and those of them that failed.
    pub fn totals(&self) -> (u64, u64) {
        let totals = self.endpoints.iter().map(|it| (it.state.requests(), it.state.failures()));
        totals.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1))
    }

    /// An endpoint for a request that has `tried` those already.
    ///
    /// `None` if no healthy one is left. There is no panic mode: when all endpoints are unhealthy,
    /// the request is answered with 503 instead of being sent where it can not succeed, so that a
    /// struggling upstream gets the quiet it needs.
    pub fn pick(&self, tried: &[SocketAddr]) -> Option<Picked> {
        let ready = self.ready.load();
        ready.pick(&self.cursor, tried).map(|it| Picked::new(Arc::clone(it)))
    }

    /// Takes in the result of a check of the endpoint at `index`.
    pub(super) fn observe(&self, index: usize, result: Result<(), &str>) {
        let Some(policy) = &self.upstream.health else { return };
        let endpoint = &self.endpoints[index];
        if result.is_ok() {
            self.passed.inc()
        } else {
            self.failed.inc()
        }
        let change = endpoint.state.observe(policy, result);
        // Compared on every check: the checker of this upstream's former self may have had a last word.
        if self.ready.load().holds(index) != endpoint.is_eligible() {
            self.prepare();
        }
        if let Some(health) = change {
            self.changes.inc();
            self.announce(endpoint, health, result.err().unwrap_or_default());
        }
    }

    fn announce(&self, endpoint: &Endpoint, health: Health, reason: &str) {
        let (upstream, address) = (&self.upstream.name, endpoint.address());
        match health {
            Health::Unhealthy => tracing::warn!(
                event = "endpoint_unhealthy", upstream = %upstream, endpoint = %address, reason = %reason,
                eligible = self.eligible(), "the endpoint gets no more requests"
            ),
            Health::Healthy | Health::Unknown => tracing::info!(
                event = "endpoint_healthy", upstream = %upstream, endpoint = %address,
                eligible = self.eligible(), "the endpoint gets requests"
            ),
        }
    }

    fn prepare(&self) {
        let _one_at_a_time = self.preparing.lock();
        self.ready.store(Arc::new(Ready::new(self.upstream.balance, &self.endpoints)));
    }

    /// Endpoints that `other` has not.
    pub(super) fn missing_in<'a>(&'a self, other: Option<&'a Live>) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        let known = move |endpoint: &Endpoint| {
            other.is_some_and(|other| other.endpoints.iter().any(|it| it.address() == endpoint.address()))
        };
        self.endpoints.iter().filter(move |it| !known(it))
    }

    pub(super) fn count_change(&self) {
        self.changes.inc();
    }

    /// Removes the upstream's own series; its endpoints' are removed one by one.
    pub(super) fn retire(&self) {
        let name: &str = &self.upstream.name;
        let _ = metrics::CHANGES.remove_label_values(&[name]);
        let _ = metrics::CHECKS.remove_label_values(&[name, PASS]);
        let _ = metrics::CHECKS.remove_label_values(&[name, FAIL]);
    }
}
