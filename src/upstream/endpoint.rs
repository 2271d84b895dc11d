//! One endpoint that lives: its health, its counters, and the prepared way to connect to it.
//!
//! The request's way touches atomics only. What an operator wants to know about the checks stands
//! behind a lock that only the checker and the admin API take.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use pingora::upstreams::peer::{HttpPeer, Peer};
use prometheus::{IntCounter, IntGauge};
use serde::Serialize;

use super::breaker::{Breaker, BreakerPolicy, BreakerState};
use super::changes::Changes;
use super::compile::{EndpointSpec, HealthPolicy, Upstream};
use super::config::{Balance, Protocol};
use super::metrics;
use super::outliers::Record;
use super::peak::{Peak, millis_now};
use super::resilience::Resilience;

/// A connection that takes longer to open, TLS included, will not be of use to anybody. Routes set
/// shorter limits of their own.
const CONNECT_MAX: Duration = Duration::from_secs(10);
const H2_STREAMS: usize = 100;
/// How much the newest latency moves the average.
const LATENCY_SHARE: f64 = 0.1;
/// How long others are preferred after a connection failed, in milliseconds.
const REFUSING_FOR: u64 = 1_000;
/// What an endpoint that starts slowly gets at least of its share.
const SLOW_SHARE_MIN: f64 = 0.1;
/// What a failure counts as, where balancing goes by latency.
const FAILURE_COUNTS_AS: Duration = Duration::from_secs(1);
/// The longest reason of a failed check that is kept, in characters.
const REASON_MAX: usize = 200;

/// What is known about an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It is not checked, or not yet. It gets requests.
    Unknown,
    /// Its checks pass.
    Healthy,
    /// Its checks fail. It gets no requests.
    Unhealthy,
}

/// How a request to an endpoint ended, as far as the endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Success,
    /// It could not be reached, broke off, took too long or answered with its own failure.
    Failure,
    /// We or the client gave up for a reason that is none of the endpoint's business.
    Abandoned,
}

/// What all endpoints of an upstream have in common.
#[derive(Clone)]
pub(super) struct Shared {
    /// Outside and inside the gateway's own zone, where that is preferred.
    pub(super) in_flight: [Arc<AtomicU32>; 2],
    pub(super) resilience: Arc<Resilience>,
    pub(super) changes: Arc<Changes>,
}

/// One address of an upstream, with its live state.
pub struct Endpoint {
    spec: EndpointSpec,
    peer: HttpPeer,
    key: u64,
    /// Requests in flight at it and those that it shares them with, where balancing has to know.
    group: Option<Arc<AtomicU32>>,
    /// The requests of its zone, where the gateway's own is preferred.
    zone: Option<IntCounter>,
    own_zone: bool,
    /// Balancing goes by how soon it answers.
    timed: bool,
    slow_start: Option<Duration>,
    resilience: Arc<Resilience>,
    /// Its own, beside the upstream's.
    breaker: Option<Arc<Breaker>>,
    pub(super) state: Arc<State>,
}

impl Endpoint {
    pub(super) fn new(upstream: &Upstream, spec: &EndpointSpec, state: Arc<State>, shared: &Shared) -> Self {
        let peer = peer(upstream, spec.address);
        let own_zone = upstream.own_zone.is_some() && upstream.own_zone == spec.zone;
        let zone = upstream.own_zone.as_ref().map(|_| metrics::zone_requests(&upstream.name, own_zone));
        let group = upstream.goes_by_key().then(|| Arc::clone(&shared.in_flight[usize::from(own_zone)]));
        let timed = upstream.balance == Balance::PeakEwma;
        let resilience = Arc::clone(&shared.resilience);
        let policy = upstream.breaker.and_then(BreakerPolicy::of_endpoint);
        let breaker = state.breaker(policy, spec.address, &shared.changes);
        Self {
            spec: spec.clone(),
            key: peer.reuse_hash(),
            peer,
            group,
            zone,
            own_zone,
            timed,
            resilience,
            breaker,
            slow_start: upstream.slow_start,
            state,
        }
    }

    /// What it was made of.
    pub(super) fn spec(&self) -> &EndpointSpec {
        &self.spec
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.spec.address
    }

    /// Its share of the requests, in relation to the others.
    pub fn weight(&self) -> u32 {
        self.spec.weight
    }

    /// The zone that it stands in.
    pub fn zone(&self) -> Option<&str> {
        self.spec.zone.as_deref()
    }

    /// How to connect to it, prepared once. Its limits are the outermost; the caller that connects has a
    /// deadline of its own.
    pub fn peer(&self) -> &HttpPeer {
        &self.peer
    }

    /// Connections under the same key may stand for one another.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// What is known about it.
    pub fn health(&self) -> Health {
        self.state.health()
    }

    /// Whether its checks let it have requests: healthy, or not found to be otherwise.
    pub fn is_healthy(&self) -> bool {
        self.health() != Health::Unhealthy
    }

    /// Whether it is left out because it failed too many requests.
    pub fn is_ejected(&self) -> bool {
        self.state.record.is_ejected()
    }

    /// Whether it gets requests.
    pub fn is_eligible(&self) -> bool {
        self.is_healthy() && !self.is_ejected() && self.closed_for().is_none()
    }

    /// Whether it gets less than its share for now.
    pub(super) fn starts_slowly(&self) -> bool {
        self.slow_start.is_some_and(|it| self.state.warm(it) < 1.0)
    }

    /// As [`Endpoint::starts_slowly`], and this request is not for it.
    pub(super) fn is_held_back(&self) -> bool {
        self.slow_start.is_some_and(|it| {
            let warm = self.state.warm(it);
            warm < 1.0 && fastrand::f64() >= warm.max(SLOW_SHARE_MIN)
        })
    }

    /// What its breaker does, if it has one.
    pub fn breaker(&self) -> Option<BreakerState> {
        self.breaker.as_ref().map(|it| it.state())
    }

    /// How long its breaker lets nothing through, if it does.
    pub(super) fn closed_for(&self) -> Option<Duration> {
        self.breaker.as_ref().and_then(|it| it.closed_for())
    }

    pub(super) fn record(&self) -> &Record {
        &self.state.record
    }

    fn take_in(&self, outcome: Outcome, latency: Duration, probes: bool) {
        self.resilience.record(self.address(), &self.state.record, outcome, latency);
        // While it is not closed the probe alone decides, and not what was sent before it opened.
        if let Some(breaker) = &self.breaker
            && (probes || breaker.state() == BreakerState::Closed)
        {
            breaker.record(outcome);
        }
    }

    /// Whether a connection to it failed a moment ago: others are better, as long as there are any.
    pub fn is_refusing(&self) -> bool {
        let until = self.state.refusing_until.load(Relaxed);
        until != 0 && millis_now() < until
    }

    /// Takes down why a request could not be connected to it.
    pub fn note_connect_failure(&self, reason: Arc<str>) {
        self.state.refusing_until.store(millis_now() + REFUSING_FOR, Relaxed);
        self.note_failure(reason);
    }

    /// Takes down why a new connection to it was of no use.
    pub fn note_failure(&self, reason: Arc<str>) {
        self.state.notes.lock().connect_failure = Some((SystemTime::now(), reason));
    }

    /// Another one answered sooner: it takes at least so long, which balancing must not miss.
    pub(super) fn note_outrun(&self, waited: Duration) {
        self.state.average(waited);
        if self.timed {
            self.state.peak.saw(waited);
        }
    }

    /// Requests that it is working on.
    pub fn in_flight(&self) -> u32 {
        self.state.in_flight.load(Relaxed)
    }

    /// Requests in flight at it and those that it shares them with, where balancing looks at it.
    pub(super) fn group(&self) -> Option<&Arc<AtomicU32>> {
        self.group.as_ref()
    }

    /// Whether it stands in the gateway's own zone, and that is preferred.
    pub(super) fn is_in_own_zone(&self) -> bool {
        self.own_zone
    }

    /// How long one more request would wait, by its latency and what it is working on; for comparison alone.
    pub(super) fn expected_wait(&self) -> f32 {
        self.state.peak.now() * (self.in_flight() + 1) as f32
    }

    /// The moving average of what its answers took; `None` before the first.
    pub fn latency(&self) -> Option<Duration> {
        let micros = f64::from_bits(self.state.latency.load(Relaxed));
        (micros > 0.0).then(|| Duration::from_secs_f64(micros / 1e6))
    }
}

/// The template of every connection to `address`.
pub(super) fn peer(upstream: &Upstream, address: SocketAddr) -> HttpPeer {
    let sni = upstream.tls.as_ref().map_or_else(String::new, |it| it.sni.to_string());
    let mut peer = HttpPeer::new(address, upstream.tls.is_some(), sni);
    peer.group_key = upstream.connection_group();
    if let Some(tls) = &upstream.tls {
        peer.client_cert_key.clone_from(&tls.client);
        peer.options.ca.clone_from(&tls.ca);
    }
    match upstream.protocol {
        Protocol::Http1 => peer.options.set_http_version(1, 1),
        Protocol::Http2 => peer.options.set_http_version(2, 2),
    }
    peer.options.max_h2_streams = H2_STREAMS;
    peer.options.idle_timeout = Some(upstream.keep_alive.idle);
    peer.options.connection_timeout = Some(CONNECT_MAX);
    peer.options.total_connection_timeout = Some(CONNECT_MAX);
    peer
}

/// What lives on when weights or settings change around an endpoint.
pub(super) struct State {
    health: AtomicU8,
    in_flight: AtomicU32,
    latency: AtomicU64,
    peak: Peak,
    record: Record,
    breaker: Mutex<Option<Arc<Breaker>>>,
    /// Milliseconds; 0 if no connection failed yet.
    refusing_until: AtomicU64,
    /// When it came, or became healthy again, in milliseconds; 0 if that is long ago.
    fresh_since: AtomicU64,
    notes: Mutex<Notes>,
    labels: [String; 2],
    /// Whether its series are gone for good.
    retired: Mutex<bool>,
    in_flight_gauge: IntGauge,
    success: IntCounter,
    failure: IntCounter,
    abandoned: IntCounter,
}

/// What an operator wants to know about checks and connections.
#[derive(Clone)]
pub(super) struct Notes {
    pub(super) since: SystemTime,
    pub(super) last_check: Option<SystemTime>,
    /// Why the last check failed; nothing if it passed.
    pub(super) last_error: Option<String>,
    /// When a request could not be connected last, and why.
    pub(super) connect_failure: Option<(SystemTime, Arc<str>)>,
    /// Checks in a row that speak against the present health.
    streak: u32,
}

impl Notes {
    fn new() -> Self {
        Self { since: SystemTime::now(), last_check: None, last_error: None, connect_failure: None, streak: 0 }
    }
}

impl State {
    pub(super) fn new(upstream: &str, address: SocketAddr) -> Self {
        let labels = [upstream.to_owned(), address.to_string()];
        let pair = [labels[0].as_str(), labels[1].as_str()];
        let requests = |outcome| metrics::REQUESTS.with_label_values(&[pair[0], pair[1], label(outcome)]);
        let state = Self {
            health: AtomicU8::new(Health::Unknown as u8),
            in_flight: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            peak: Peak::default(),
            record: Record::default(),
            breaker: Mutex::default(),
            refusing_until: AtomicU64::new(0),
            fresh_since: AtomicU64::new(0),
            notes: Mutex::new(Notes::new()),
            retired: Mutex::new(false),
            in_flight_gauge: metrics::IN_FLIGHT.with_label_values(&pair),
            success: requests(Outcome::Success),
            failure: requests(Outcome::Failure),
            abandoned: requests(Outcome::Abandoned),
            labels,
        };
        state.show_health(Some(1));
        state
    }

    /// It is going to be checked: until it was, nobody knows whether it is healthy.
    pub(super) fn await_check(&self) {
        if self.health() == Health::Unknown {
            self.show_health(None);
        }
    }

    fn show_health(&self, healthy: Option<i64>) {
        let retired = self.retired.lock();
        if *retired {
            return;
        }
        let pair = [self.labels[0].as_str(), self.labels[1].as_str()];
        match healthy {
            Some(healthy) => metrics::HEALTHY.with_label_values(&pair).set(healthy),
            // There may be none.
            None => _ = metrics::HEALTHY.remove_label_values(&pair),
        }
    }

    pub(super) fn health(&self) -> Health {
        match self.health.load(Relaxed) {
            0 => Health::Unknown,
            1 => Health::Healthy,
            _ => Health::Unhealthy,
        }
    }

    /// From now on it counts as new.
    pub(super) fn start_slowly(&self) {
        self.fresh_since.store(millis_now().max(1), Relaxed);
    }

    /// Which part of `slow_start` is over.
    fn warm(&self, slow_start: Duration) -> f64 {
        let since = self.fresh_since.load(Relaxed);
        if since == 0 { 1.0 } else { millis_now().saturating_sub(since) as f64 / slow_start.as_millis().max(1) as f64 }
    }

    /// The breaker that it had, if that is what is wanted; else another one.
    fn breaker(
        &self,
        policy: Option<BreakerPolicy>,
        address: SocketAddr,
        changes: &Arc<Changes>,
    ) -> Option<Arc<Breaker>> {
        let mut breaker = self.breaker.lock();
        if breaker.as_ref().map(|it| it.policy()) != policy {
            breaker.take().iter().for_each(|it| it.retire());
            *breaker = policy.map(|it| Arc::new(Breaker::new(it, Some(address), changes)));
        }
        breaker.clone()
    }

    pub(super) fn notes(&self) -> Notes {
        self.notes.lock().clone()
    }

    pub(super) fn requests(&self) -> u64 {
        self.success.get() + self.failure.get() + self.abandoned.get()
    }

    pub(super) fn failures(&self) -> u64 {
        self.failure.get()
    }

    /// Takes in the result of a check; the new health if that changed it.
    pub(super) fn observe(&self, policy: &HealthPolicy, result: Result<(), &str>) -> Option<Health> {
        let mut notes = self.notes.lock();
        let now = SystemTime::now();
        notes.last_check = Some(now);
        notes.last_error = result.err().map(|it| it.chars().take(REASON_MAX).collect());
        let health = judge(self.health(), result.is_ok(), &mut notes.streak, policy)?;
        notes.since = now;
        self.set(health);
        Some(health)
    }

    /// Nobody checks it any more, so nothing may be held against it.
    pub(super) fn forget_health(&self) {
        if self.health() != Health::Unknown {
            *self.notes.lock() = Notes::new();
            self.set(Health::Unknown);
        }
    }

    fn set(&self, health: Health) {
        self.health.store(health as u8, Relaxed);
        self.show_health(Some(i64::from(health != Health::Unhealthy)));
    }

    pub(super) fn refresh_metrics(&self) {
        self.in_flight_gauge.set(self.in_flight.load(Relaxed).into());
    }

    /// Removes its series. What still holds the state counts on, unseen.
    pub(super) fn retire(&self) {
        let pair = [self.labels[0].as_str(), self.labels[1].as_str()];
        // A series may be gone already if two fleets in one process share a name, as in tests.
        self.breaker.lock().iter().for_each(|it| it.retire());
        let mut retired = self.retired.lock();
        *retired = true;
        let _ = metrics::HEALTHY.remove_label_values(&pair);
        let _ = metrics::IN_FLIGHT.remove_label_values(&pair);
        for outcome in [Outcome::Success, Outcome::Failure, Outcome::Abandoned] {
            let _ = metrics::REQUESTS.remove_label_values(&[pair[0], pair[1], label(outcome)]);
        }
    }

    fn count(&self, outcome: Outcome) {
        match outcome {
            Outcome::Success => self.success.inc(),
            Outcome::Failure => self.failure.inc(),
            Outcome::Abandoned => self.abandoned.inc(),
        }
    }

    fn average(&self, latency: Duration) {
        let newest = (latency.as_secs_f64() * 1e6).max(1.0);
        let blend = |bits| {
            let known = f64::from_bits(bits);
            let average = if known == 0.0 { newest } else { known + LATENCY_SHARE * (newest - known) };
            Some(average.to_bits())
        };
        // The closure never refuses, so neither does the update.
        let _ = self.latency.fetch_update(Relaxed, Relaxed, blend);
    }
}

fn label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::Failure => "failure",
        Outcome::Abandoned => "abandoned",
    }
}

/// The health that follows from one more check, if it is another. The first check of an endpoint
/// decides at once: there is no good record yet for thresholds to protect.
fn judge(health: Health, passed: bool, streak: &mut u32, policy: &HealthPolicy) -> Option<Health> {
    let (next, needed) = match passed {
        true => (Health::Healthy, policy.pass_after),
        false => (Health::Unhealthy, policy.fail_after),
    };
    if health == next {
        *streak = 0;
        return None;
    }
    *streak = streak.saturating_add(1);
    if health != Health::Unknown && *streak < needed {
        return None;
    }
    *streak = 0;
    Some(next)
}

/// An endpoint that was picked for a request: counts as in flight until it is dropped.
pub struct Picked {
    endpoint: Arc<Endpoint>,
    /// Its outcome decides what becomes of the endpoint's breaker.
    probes: bool,
    counted: bool,
}

impl Picked {
    /// `None` if the endpoint's breaker waits for a probe, and somebody else's request was quicker to become it.
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Option<Self> {
        let guarded = endpoint.breaker.as_ref().filter(|it| it.state() != BreakerState::Closed);
        let probes = guarded.is_some();
        if guarded.is_some_and(|it| it.admit().is_err()) {
            return None;
        }
        endpoint.state.in_flight.fetch_add(1, Relaxed);
        if let Some(group) = &endpoint.group {
            group.fetch_add(1, Relaxed);
        }
        if let Some(zone) = &endpoint.zone {
            zone.inc();
        }
        Some(Self { endpoint, probes, counted: false })
    }

    /// Which one it is.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Records how the request ended. `latency` is the time to the answer's head; only that of a
    /// success counts, because a refused connection is quick, too.
    pub fn done(mut self, outcome: Outcome, latency: Duration) {
        self.record(outcome, latency);
    }

    /// Records the end as seen at the answer's head, while a stream or socket keeps the endpoint
    /// in flight. Only the first record counts.
    pub fn record(&mut self, outcome: Outcome, latency: Duration) {
        if std::mem::replace(&mut self.counted, true) {
            return;
        }
        self.endpoint.state.count(outcome);
        self.endpoint.take_in(outcome, latency, self.probes);
        if outcome == Outcome::Success {
            self.endpoint.state.average(latency);
        }
        if self.endpoint.timed {
            match outcome {
                Outcome::Success => self.endpoint.state.peak.saw(latency),
                // Or one that refuses everything at once would be the quickest of all.
                Outcome::Failure => self.endpoint.state.peak.saw(FAILURE_COUNTS_AS),
                Outcome::Abandoned => {}
            }
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        if !self.counted {
            self.endpoint.state.count(Outcome::Abandoned);
            self.endpoint.take_in(Outcome::Abandoned, Duration::ZERO, self.probes);
        }
        self.endpoint.state.in_flight.fetch_sub(1, Relaxed);
        if let Some(group) = &self.endpoint.group {
            group.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compile::Probe;
    use super::*;

    #[test]
    fn thresholds_count_checks_in_a_row() {
        let policy = HealthPolicy {
            probe: Probe::Tcp,
            every: Duration::from_secs(1),
            timeout: Duration::from_millis(100),
            fail_after: 3,
            pass_after: 2,
            jitter: 0.0,
        };
        let mut health = Health::Unknown;
        let mut streak = 0;
        let mut after = |checks: &str| {
            for check in checks.chars() {
                health = judge(health, check == '+', &mut streak, &policy).unwrap_or(health);
            }
            health
        };
        assert_eq!(after("-"), Health::Unhealthy, "the first check decides");
        assert_eq!(after("+-+"), Health::Unhealthy, "passes must come in a row");
        assert_eq!(after("+"), Health::Healthy);
        assert_eq!(after("--+--"), Health::Healthy, "failures must come in a row");
        assert_eq!(after("-"), Health::Unhealthy);
    }
}
