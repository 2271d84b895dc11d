//! An upstream that lives: its endpoints, and those of them that get requests right now.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use parking_lot::Mutex;
use pingora::http::RequestHeader;
use prometheus::IntCounter;
use tokio::sync::watch;

use super::breaker::BreakerState;
use super::changes::{Change, Changes, Event};
use super::compile::{ENDPOINTS_MAX, EndpointSpec, Upstream, UpstreamKind};
use super::concurrency::Concurrency;
use super::dependencies::Dependencies;
use super::discovery::Feed;
use super::endpoint::{Endpoint, Health, Picked, Shared, State};
use super::hedge::Hedge;
use super::metrics;
use super::ready::Ready;
use super::resilience::Resilience;
use super::sticky::{Sticky, StickySession};
use crate::alerts::Alerts;

const PASS: &str = "pass";
const FAIL: &str = "fail";

/// The live state under an upstream's name.
///
/// A changed upstream gets a new `Live`, in which endpoints that stay keep their health, counters and requests in
/// flight; so do those that stay when a source finds others.
pub struct Live {
    upstream: Arc<Upstream>,
    feeds: Vec<Arc<Feed>>,
    view: ArcSwap<View>,
    /// Held while another view is prepared, so that an older one never replaces a newer one.
    preparing: Mutex<()>,
    /// Counts the sets of endpoints.
    generation: watch::Sender<u64>,
    cursors: [AtomicUsize; 2],
    shared: Shared,
    sticky: Option<Arc<Sticky>>,
    dependencies: Option<Dependencies>,
    hedge: Option<Arc<Hedge>>,
    concurrency: Option<Arc<Concurrency>>,
    passed: IntCounter,
    failed: IntCounter,
    changes: IntCounter,
}

/// All endpoints, and what is prepared for picking one.
struct View {
    endpoints: Vec<Arc<Endpoint>>,
    ready: Ready,
    /// Where sticky sessions' endpoints are in the list.
    of_sessions: HashMap<u64, usize>,
}

impl View {
    fn new(upstream: &Upstream, sticky: Option<&Arc<Sticky>>, endpoints: Vec<Arc<Endpoint>>) -> Self {
        let ready = Ready::new(upstream, &endpoints);
        let named = |sticky: &Arc<Sticky>| {
            endpoints.iter().enumerate().map(|(index, it)| (sticky.endpoint_id(it.address()), index)).collect()
        };
        Self { ready, of_sessions: sticky.map(named).unwrap_or_default(), endpoints }
    }

    /// The endpoint that a session belongs to, if it is still there.
    fn of_session(&self, session: &StickySession) -> Option<&Arc<Endpoint>> {
        self.of_sessions.get(&session.endpoint?).map(|it| &self.endpoints[*it])
    }
}

impl Live {
    /// Takes over from `old` what goes on living.
    pub(super) fn new(
        upstream: Arc<Upstream>,
        feeds: Vec<Arc<Feed>>,
        old: Option<&Live>,
        alerts: Option<&Alerts>,
    ) -> Self {
        let name: &str = &upstream.name;
        // What is in flight goes on, and is counted down where it was counted up.
        let in_flight = old.map(|it| it.shared.in_flight.clone()).unwrap_or_default();
        let changes = old.map(|it| Arc::clone(&it.shared.changes));
        let changes = changes.unwrap_or_else(|| Arc::new(Changes::new(&upstream.name, alerts.cloned())));
        let shared = Shared { in_flight, resilience: resilience(&upstream, &changes, old), changes };
        let endpoints = {
            let former = old.map(Live::endpoints).unwrap_or_default();
            let former: HashMap<SocketAddr, &Arc<Endpoint>> = former.iter().map(|it| (it.address(), it)).collect();
            let alive = |spec: &EndpointSpec| {
                let state = former.get(&spec.address).map(|it| Arc::clone(&it.state));
                let state = state.unwrap_or_else(|| {
                    let state = Arc::new(State::new(name, spec.address));
                    if old.is_some() {
                        state.start_slowly();
                    }
                    state
                });
                Arc::new(Endpoint::new(&upstream, spec, state, &shared))
            };
            wanted(&upstream, &feeds).iter().map(alive).collect::<Vec<_>>()
        };
        if upstream.health.is_none() {
            endpoints.iter().for_each(|it| it.state.forget_health());
        }
        if upstream.outliers.is_none() {
            endpoints.iter().for_each(|it| it.record().forget());
        }
        if upstream.own_zone.is_none() {
            metrics::retire_zones(name);
        }
        let sticky = sticky(&upstream, old);
        count(&shared, &endpoints);
        let former = old.and_then(|it| it.dependencies.as_ref());
        let dependencies = Dependencies::of(&upstream, &shared.changes, former);
        Self {
            view: ArcSwap::from_pointee(View::new(&upstream, sticky.as_ref(), endpoints)),
            sticky,
            feeds,
            preparing: Mutex::new(()),
            generation: watch::Sender::new(0),
            cursors: Default::default(),
            shared,
            dependencies,
            hedge: hedge(&upstream, old),
            concurrency: concurrency(&upstream, old),
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

    /// All endpoints of now: those that are listed, in the order of the file, then those that were found.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.view.load().endpoints.clone()
    }

    /// The sources that its endpoints come from, beside those that are listed.
    pub(super) fn feeds(&self) -> &[Arc<Feed>] {
        &self.feeds
    }

    /// Tells when the set of endpoints is another one.
    pub(super) fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Whether this very endpoint is one of now.
    pub(super) fn has(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.view.load().endpoints.iter().any(|it| Arc::ptr_eq(it, endpoint))
    }

    /// How many endpoints get requests right now.
    pub fn eligible(&self) -> usize {
        self.view.load().ready.len()
    }

    /// Requests that its endpoints got and that ended, and those of them that failed.
    pub fn totals(&self) -> (u64, u64) {
        let view = self.view.load();
        let totals = view.endpoints.iter().map(|it| (it.state.requests(), it.state.failures()));
        totals.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1))
    }

    /// An endpoint for a request that has `tried` those already, by the request's `key` if there is one.
    ///
    /// `None` if no healthy one is left. Unless the upstream has a panic threshold, a request is then answered
    /// with 503 instead of being sent where it can not succeed, so that a struggling upstream gets the quiet it needs.
    pub fn pick(&self, key: Option<u64>, tried: &[SocketAddr]) -> Option<Picked> {
        let view = self.view.load();
        loop {
            let endpoint = view.ready.pick(&self.cursors, key, tried)?;
            // One whose probe somebody else sends is not picked again before that is lost.
            if let Some(picked) = Picked::new(Arc::clone(endpoint)) {
                return Some(picked);
            }
        }
    }

    /// The session of a request, where they are sticky. What carries it for the gateway alone is taken out.
    pub fn session(&self, request: &mut RequestHeader) -> Option<StickySession> {
        self.sticky.as_ref()?.session(request)
    }

    /// The endpoint that a session belongs to, if that gets requests.
    pub fn pick_for(&self, session: &StickySession) -> Option<Picked> {
        let view = self.view.load();
        let endpoint = view.of_session(session).filter(|it| it.is_eligible() && !it.is_refusing());
        let picked = endpoint.and_then(|it| Picked::new(Arc::clone(it)));
        if let Some(sticky) = &self.sticky {
            sticky.count(picked.is_some());
        }
        picked
    }

    /// Remembers that a session belongs to this endpoint: the cookie that its client has to get, if it has to.
    pub fn stick(&self, session: &StickySession, address: SocketAddr, secure: bool) -> Option<HeaderValue> {
        let moved = self.view.load().of_session(session).is_none_or(|it| it.address() != address);
        self.sticky.as_ref()?.remember(session, address, moved, secure)
    }

    /// When to come again, if no endpoint can be picked because their breakers are open.
    pub fn closed_for(&self) -> Option<Duration> {
        let view = self.view.load();
        view.endpoints.iter().filter(|it| it.is_healthy()).filter_map(|it| it.closed_for()).min()
    }

    /// What bounds its requests at once, if anything does.
    pub fn concurrency(&self) -> Option<&Arc<Concurrency>> {
        self.concurrency.as_ref()
    }

    /// When a request is sent to a second endpoint as well, if it is.
    pub fn hedge_after(&self) -> Option<Duration> {
        self.hedge.as_ref()?.after()
    }

    /// Takes in what the answer of a first endpoint took, for the time that is given to others.
    pub fn saw_first(&self, latency: Duration) {
        self.hedge.iter().for_each(|it| it.saw(latency));
    }

    /// A second endpoint was asked because this one had no answer after `waited`; and that of the second came first, or
    /// not.
    pub fn count_hedge(&self, first: &Endpoint, waited: Duration, won: bool) {
        self.hedge.iter().for_each(|it| it.count(won));
        if won {
            first.note_outrun(waited);
            self.saw_first(waited);
        }
    }

    /// What it depends on, if it depends on anything.
    pub(super) fn dependencies(&self) -> Option<&Dependencies> {
        self.dependencies.as_ref()
    }

    /// An upstream that this one depends on, and that can serve nothing: requests would be in vain.
    pub fn missing_dependency(&self) -> Option<Arc<str>> {
        self.dependencies.as_ref()?.missing()
    }

    /// Whether a request could be sent: some endpoint gets requests, and no breaker is against it.
    pub(super) fn can_serve(&self) -> bool {
        let local = matches!(self.upstream.kind, UpstreamKind::Local(_));
        local || (!self.breaker_is_open() && self.has_eligible())
    }

    fn has_eligible(&self) -> bool {
        let view = self.view.load();
        view.ready.panics() || view.endpoints.iter().any(|it| it.is_eligible())
    }

    /// How long its breaker lets nothing through, if it is open; one that waits for its probe does.
    pub fn breaker_closed_for(&self) -> Option<Duration> {
        self.shared.resilience.closed_for()
    }

    pub(super) fn breaker_is_open(&self) -> bool {
        self.breaker_closed_for().is_some()
    }

    /// Whether its requests can't be served, for lack of endpoints or of what it depends on.
    pub fn is_down(&self) -> bool {
        !self.can_serve() || self.missing_dependency().is_some()
    }

    /// Judges the endpoints by the windows that ended: that of failures, and that of latencies.
    pub(super) fn judge(&self, ended: [bool; 2]) {
        self.shared.resilience.judge(&self.endpoints(), ended);
    }

    /// Whether a request may go on: the breaker, if there is one, is closed, or the request is its probe.
    ///
    /// # Errors
    /// In how long to come again.
    pub fn admit(&self) -> Result<(), Duration> {
        let closed = self.breaker().is_none_or(|it| it == BreakerState::Closed);
        // A probe that could be sent to nobody would be lost, and nothing let through for as long again.
        if !closed && !self.breaker_is_open() && !self.has_eligible() {
            return Err(self.closed_for().unwrap_or_default());
        }
        self.shared.resilience.admit()
    }

    /// Whether one more request may be sent again: there is budget for it, and no breaker is against it.
    pub fn may_retry(&self) -> bool {
        let granted = self.shared.resilience.may_retry(self.totals().0);
        let result = if granted { "sent" } else { "over_budget" };
        metrics::RETRIES.with_label_values(&[&*self.upstream.name, result]).inc();
        granted
    }

    /// What the breaker does, if there is one.
    pub fn breaker(&self) -> Option<BreakerState> {
        self.shared.resilience.breaker()
    }

    /// Takes in what the sources have found by now.
    pub(super) fn take_in_found(&self) {
        let wanted = wanted(&self.upstream, &self.feeds);
        let _one_at_a_time = self.preparing.lock();
        let view = self.view.load();
        if view.endpoints.iter().map(|it| it.spec()).eq(wanted.iter()) {
            return;
        }
        let known: HashMap<SocketAddr, &Arc<Endpoint>> = view.endpoints.iter().map(|it| (it.address(), it)).collect();
        let (mut endpoints, mut fresh) = (Vec::with_capacity(wanted.len()), Vec::new());
        for spec in &wanted {
            match known.get(&spec.address) {
                Some(same) if same.spec() == spec => endpoints.push(Arc::clone(same)),
                Some(other) => {
                    endpoints.push(Arc::new(Endpoint::new(
                        &self.upstream,
                        spec,
                        Arc::clone(&other.state),
                        &self.shared,
                    )));
                }
                None => {
                    let state = Arc::new(State::new(&self.upstream.name, spec.address));
                    state.start_slowly();
                    endpoints.push(Arc::new(Endpoint::new(&self.upstream, spec, state, &self.shared)));
                    fresh.push(spec.address);
                }
            }
        }
        let stay: HashSet<SocketAddr> = wanted.iter().map(|it| it.address).collect();
        let gone: Vec<_> = view.endpoints.iter().filter(|it| !stay.contains(&it.address())).cloned().collect();
        count(&self.shared, &endpoints);
        self.store(View::new(&self.upstream, self.sticky.as_ref(), endpoints));
        fresh.into_iter().for_each(|it| self.announce_added(it));
        gone.iter().for_each(|it| self.announce_removed(it));
        self.generation.send_modify(|it| *it += 1);
    }

    /// Takes in the result of a check of an endpoint.
    pub(super) fn observe(&self, endpoint: &Arc<Endpoint>, result: Result<(), &str>) {
        let Some(policy) = &self.upstream.health else { return };
        if result.is_ok() {
            self.passed.inc()
        } else {
            self.failed.inc()
        }
        let change = endpoint.state.observe(policy, result);
        // Compared on every check: the checker of this upstream's former self may have had a last word.
        if change == Some(Health::Healthy) {
            endpoint.state.start_slowly();
        }
        let view = self.view.load();
        if !view.ready.is_current(endpoint, &view.endpoints) {
            self.prepare();
        }
        if let Some(health) = change {
            self.changes.inc();
            self.announce(endpoint, health, result.err().unwrap_or_default());
        }
    }

    fn announce(&self, endpoint: &Endpoint, health: Health, reason: &str) {
        let (event, reason) = match health {
            Health::Unhealthy => (Event::EndpointUnhealthy, Some(reason)),
            Health::Healthy | Health::Unknown => (Event::EndpointHealthy, None),
        };
        let eligible = Some(self.eligible());
        self.shared.changes.tell(&Change { reason, eligible, ..Change::new(event, Some(endpoint.address())) });
    }

    fn prepare(&self) {
        let _one_at_a_time = self.preparing.lock();
        let endpoints = self.view.load().endpoints.clone();
        self.store(View::new(&self.upstream, self.sticky.as_ref(), endpoints));
    }

    fn store(&self, view: View) {
        let (panics, eligible) = (view.ready.panics(), view.ready.len());
        let before = self.view.swap(Arc::new(view));
        if panics != before.ready.panics() {
            self.tell_of_panic(panics, eligible);
        }
        if let Some(zones) = self.view.load().ready.zones() {
            zones.tell(before.ready.zones().map(|it| it.own_share()));
        }
    }

    fn tell_of_panic(&self, panics: bool, eligible: usize) {
        let upstream = &self.upstream.name;
        metrics::PANIC.with_label_values(&[&**upstream]).set(panics.into());
        if panics {
            tracing::warn!(
                event = "upstream_panic", upstream = %upstream, eligible,
                "so few endpoints are healthy that requests go to all of them"
            );
        } else {
            tracing::info!(
                event = "upstream_panic_over", upstream = %upstream, eligible, "requests go to healthy endpoints alone"
            );
        }
    }

    /// Whether so few endpoints are healthy that requests go to all of them.
    pub(super) fn panics(&self) -> bool {
        self.view.load().ready.panics()
    }

    /// Which part of the requests stays in the gateway's own zone, where that is preferred and checks are believed.
    pub(super) fn own_zone_share(&self) -> Option<f64> {
        self.view.load().ready.zones().map(|it| it.own_share())
    }

    /// Works out anew how requests are spread over zones.
    pub(super) fn weigh_zones(&self) {
        let view = self.view.load();
        view.ready.zones().iter().for_each(|it| it.weigh(&view.endpoints));
    }

    /// Returns when an endpoint's state changed.
    pub(super) async fn changed(&self) {
        self.shared.changes.told().await;
    }

    /// Endpoints that `other` has not.
    pub(super) fn missing_in(&self, other: Option<&Live>) -> Vec<Arc<Endpoint>> {
        let known: HashSet<SocketAddr> =
            other.map(Live::endpoints).unwrap_or_default().iter().map(|it| it.address()).collect();
        self.endpoints().into_iter().filter(|it| !known.contains(&it.address())).collect()
    }

    /// Whether alerts tell of endpoints that come and go.
    pub(super) fn alerts(&self) -> bool {
        self.shared.changes.has_alerts()
    }

    /// Sends alerts of endpoints that come and go, until it is dropped.
    pub(super) async fn tell_of_passing(&self) {
        self.shared.changes.tell_of_passing(|| self.eligible()).await;
    }

    /// Likewise, at once.
    pub(super) fn flush_passing(&self) {
        self.shared.changes.flush_passing(self.eligible());
    }

    /// The endpoints of its beginning are no news.
    pub(super) fn forget_passing(&self) {
        self.shared.changes.forget_passing();
    }

    /// An endpoint came.
    pub(super) fn announce_added(&self, address: SocketAddr) {
        self.changes.inc();
        self.shared.changes.saw_pass(address, true);
        let upstream = &self.upstream.name;
        tracing::info!(event = "endpoint_added", upstream = %upstream, endpoint = %address, "the endpoint is new");
    }

    /// An endpoint went; requests under way go on.
    pub(super) fn announce_removed(&self, endpoint: &Endpoint) {
        self.changes.inc();
        self.shared.changes.saw_pass(endpoint.address(), false);
        endpoint.state.retire();
        let (upstream, address) = (&self.upstream.name, endpoint.address());
        tracing::info!(event = "endpoint_removed", upstream = %upstream, endpoint = %address, "the endpoint is gone");
    }

    /// Removes the upstream's own series; its endpoints' are removed one by one.
    pub(super) fn retire(&self) {
        let name: &str = &self.upstream.name;
        self.shared.resilience.retire();
        self.sticky.iter().for_each(|it| it.retire());
        self.hedge.iter().for_each(|it| it.retire());
        self.concurrency.iter().for_each(|it| it.retire());
        self.shared.changes.retire();
        self.dependencies.iter().for_each(Dependencies::retire);
        for result in ["sent", "over_budget"] {
            let _ = metrics::RETRIES.remove_label_values(&[name, result]);
        }
        metrics::retire_zones(name);
        let _ = metrics::PANIC.remove_label_values(&[name]);
        let _ = metrics::CHANGES.remove_label_values(&[name]);
        let _ = metrics::CHECKS.remove_label_values(&[name, PASS]);
        let _ = metrics::CHECKS.remove_label_values(&[name, FAIL]);
    }
}

/// As [`resilience`]: what is remembered stays.
fn sticky(upstream: &Upstream, old: Option<&Live>) -> Option<Arc<Sticky>> {
    match old.and_then(|it| it.sticky.as_ref()) {
        Some(same) if Some(same.policy()) == upstream.sticky.as_ref() => Some(Arc::clone(same)),
        other => {
            other.into_iter().for_each(|it| it.retire());
            upstream.sticky.as_ref().map(|it| Arc::new(Sticky::new(&upstream.name, it)))
        }
    }
}

/// As [`resilience`]: what is known of latencies stays.
fn hedge(upstream: &Upstream, old: Option<&Live>) -> Option<Arc<Hedge>> {
    match old.and_then(|it| it.hedge.as_ref()) {
        Some(same) if Some(same.policy()) == upstream.hedge.as_ref() => Some(Arc::clone(same)),
        other => {
            other.into_iter().for_each(|it| it.retire());
            upstream.hedge.map(|it| Arc::new(Hedge::new(&upstream.name, it)))
        }
    }
}

/// What is under way and who waits goes on, under another limit too.
fn concurrency(upstream: &Upstream, old: Option<&Live>) -> Option<Arc<Concurrency>> {
    match (old.and_then(|it| it.concurrency.as_ref()), upstream.concurrency) {
        (Some(same), Some(policy)) => {
            same.adopt(policy);
            Some(Arc::clone(same))
        }
        (former, wanted) => {
            former.into_iter().for_each(|it| it.retire());
            wanted.map(|it| Arc::new(Concurrency::new(&upstream.name, it)))
        }
    }
}

/// What the upstream had before, if that is what it wants.
fn resilience(upstream: &Upstream, changes: &Arc<Changes>, old: Option<&Live>) -> Arc<Resilience> {
    match old.map(|it| &it.shared.resilience) {
        Some(same) if same.fits(upstream) => Arc::clone(same),
        other => {
            other.into_iter().for_each(|it| it.retire());
            Arc::new(Resilience::new(upstream, changes))
        }
    }
}

fn count(shared: &Shared, endpoints: &[Arc<Endpoint>]) {
    shared.resilience.endpoints(endpoints.len(), endpoints.iter().filter(|it| it.record().is_counted()).count());
}

/// The endpoints that there should be now: of an address that is there twice, the first counts.
fn wanted(upstream: &Upstream, feeds: &[Arc<Feed>]) -> Vec<EndpointSpec> {
    let found: Vec<Arc<[EndpointSpec]>> = feeds.iter().map(|it| it.found().endpoints).collect();
    let all = upstream.endpoints.iter().chain(found.iter().flat_map(|it| it.iter()));
    let mut known = HashSet::new();
    all.filter(|it| known.insert(it.address)).take(ENDPOINTS_MAX).cloned().collect()
}
