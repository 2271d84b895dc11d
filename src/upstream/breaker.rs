//! The circuit breaker of an upstream or of an endpoint (US-015): when it fails again and again, it gets no requests for
//! a while, then one, whose outcome decides. Whoever asks an upstream meanwhile has an answer at once; an endpoint is
//! left out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::IntGauge;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::changes::{Change, Changes, Event};
use super::endpoint::Outcome;
use super::metrics;
use super::peak::millis_now;
use crate::base::{At, Diagnostics, Period};

/// When an upstream, or an endpoint, that fails gets no more requests. Default: 5 failures in a row within 60s, one request after 60s.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// So many failures in a row open it: answers of 5xx, connections that fail or break off, answers that do not come.
    #[schemars(range(min = 1))]
    pub open_after: u32,
    /// They count if they happened within this time.
    pub within: Period,
    /// An open breaker lets one request through after this time; until then all get 503 at once.
    pub retry_after: Period,
    /// What has a breaker: the upstream as a whole, each of its endpoints for itself, or both.
    pub per: BreakerScope,
}

/// What has a breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BreakerScope {
    /// The upstream: failures in a row count whichever endpoints they are of, and all requests get 503.
    #[default]
    Upstream,
    /// Each endpoint: its own failures in a row count, and it is left out.
    Endpoint,
    /// Both.
    Both,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { open_after: 5, within: Period::secs(60), retry_after: Period::secs(60), per: BreakerScope::default() }
    }
}

/// Compiled: when a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    open_after: u32,
    within: Duration,
    retry_after: Duration,
    per: BreakerScope,
}

impl BreakerPolicy {
    /// Reports what makes no sense.
    pub(super) fn compile(config: &BreakerConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        if config.open_after == 0 {
            diagnostics.error(&at.key("open_after"), "a breaker can't open after no failure").help("5 is the default");
        }
        for (key, period) in [("within", config.within), ("retry_after", config.retry_after)] {
            if period.0.is_zero() {
                diagnostics.error(&at.key(key), "must be longer than nothing").help("60s is the default");
            }
        }
        Self {
            open_after: config.open_after,
            within: config.within.0,
            retry_after: config.retry_after.0,
            per: config.per,
        }
    }

    /// This, if the upstream has a breaker.
    pub(super) fn of_upstream(self) -> Option<Self> {
        (self.per != BreakerScope::Endpoint).then_some(self)
    }

    /// This, if each endpoint has a breaker.
    pub(super) fn of_endpoint(self) -> Option<Self> {
        (self.per != BreakerScope::Upstream).then_some(self)
    }
}

/// What a breaker does with requests. The numbers are those of US-015's gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// All pass.
    Closed = 0,
    /// One is under way, and decides.
    HalfOpen = 1,
    /// None passes.
    Open = 2,
}

/// A breaker at work.
pub(super) struct Breaker {
    policy: BreakerPolicy,
    changes: Arc<Changes>,
    /// Whose it is, if not that of the whole upstream.
    endpoint: Option<SocketAddr>,
    state: AtomicU8,
    /// Failures in a row.
    failures: AtomicU32,
    /// When the first of them was, or when it was opened, or the probe sent.
    since: AtomicU64,
    gauges: Vec<IntGauge>,
}

impl Breaker {
    pub(super) fn new(policy: BreakerPolicy, endpoint: Option<SocketAddr>, changes: &Arc<Changes>) -> Self {
        let upstream = changes.upstream();
        let gauges = match endpoint {
            None => [&metrics::BREAKER, &metrics::CSP_BREAKER].map(|it| it.with_label_values(&[upstream])).into(),
            Some(it) => vec![metrics::ENDPOINT_BREAKER.with_label_values(&[upstream, &it.to_string()])],
        };
        gauges.iter().for_each(|it| it.set(0));
        let (state, failures, since) = (AtomicU8::new(0), AtomicU32::new(0), AtomicU64::new(0));
        Self { policy, changes: Arc::clone(changes), endpoint, state, failures, since, gauges }
    }

    pub(super) fn policy(&self) -> BreakerPolicy {
        self.policy
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state.load(Relaxed) {
            0 => BreakerState::Closed,
            1 => BreakerState::HalfOpen,
            _ => BreakerState::Open,
        }
    }

    /// How long no request passes; nothing if one would: it is closed, or it is time for a probe.
    pub(super) fn closed_for(&self) -> Option<Duration> {
        if self.state() == BreakerState::Closed {
            return None;
        }
        let waited = Duration::from_millis(millis_now().saturating_sub(self.since.load(Relaxed)));
        self.policy.retry_after.checked_sub(waited).filter(|it| !it.is_zero())
    }

    /// Whether a request may go on.
    ///
    /// # Errors
    /// When to come again, if not.
    pub(super) fn admit(&self) -> Result<(), Duration> {
        let state = self.state();
        if state == BreakerState::Closed {
            return Ok(());
        }
        // A probe that nobody heard of again is lost: another one takes its turn.
        let (now, since) = (millis_now(), self.since.load(Relaxed));
        let waited = Duration::from_millis(now.saturating_sub(since));
        if waited < self.policy.retry_after {
            return Err(self.policy.retry_after - waited);
        }
        if self.since.compare_exchange(since, now, Relaxed, Relaxed).is_err() {
            return Err(self.policy.retry_after); // somebody else probes
        }
        self.enter(BreakerState::HalfOpen);
        Ok(())
    }

    /// Takes in how a request ended.
    pub(super) fn record(&self, outcome: Outcome) {
        match (outcome, self.state()) {
            (Outcome::Success, BreakerState::Closed) => {
                if self.failures.load(Relaxed) != 0 {
                    self.failures.store(0, Relaxed);
                }
            }
            (Outcome::Success, BreakerState::HalfOpen) => {
                self.failures.store(0, Relaxed);
                self.enter(BreakerState::Closed);
            }
            (Outcome::Failure, BreakerState::Closed) => self.count_failure(),
            (Outcome::Failure, BreakerState::HalfOpen) => self.open(),
            // A probe that was given up proves nothing: the next request is one.
            (Outcome::Abandoned, BreakerState::HalfOpen) => {
                let long_ago = millis_now().saturating_sub(self.policy.retry_after.as_millis() as u64);
                self.since.store(long_ago, Relaxed);
                self.enter(BreakerState::Open);
            }
            // What was sent before it opened.
            (_, BreakerState::Open) | (Outcome::Abandoned, BreakerState::Closed) => {}
        }
    }

    fn count_failure(&self) {
        let now = millis_now();
        let count = self.failures.fetch_add(1, Relaxed) + 1;
        let first = self.since.load(Relaxed);
        if count == 1 || Duration::from_millis(now.saturating_sub(first)) > self.policy.within {
            self.since.store(now, Relaxed);
            self.failures.store(1, Relaxed);
        }
        if self.failures.load(Relaxed) >= self.policy.open_after {
            self.open();
        }
    }

    fn open(&self) {
        self.since.store(millis_now(), Relaxed);
        self.enter(BreakerState::Open);
    }

    fn enter(&self, state: BreakerState) {
        if self.state.swap(state as u8, Relaxed) == state as u8 {
            return;
        }
        self.gauges.iter().for_each(|it| it.set(state as i64));
        let event = match (state, self.endpoint) {
            (BreakerState::Open, None) => Event::BreakerOpen,
            (BreakerState::HalfOpen, None) => Event::BreakerHalfOpen,
            (BreakerState::Closed, None) => Event::BreakerClosed,
            (BreakerState::Open, Some(_)) => Event::EndpointBreakerOpen,
            (BreakerState::HalfOpen, Some(_)) => Event::EndpointBreakerHalfOpen,
            (BreakerState::Closed, Some(_)) => Event::EndpointBreakerClosed,
        };
        let time = (state == BreakerState::Open).then_some(self.policy.retry_after);
        self.changes.tell(&Change { time, ..Change::new(event, self.endpoint) });
    }

    /// Its series go with it.
    pub(super) fn retire(&self) {
        let upstream = self.changes.upstream();
        match self.endpoint {
            None => {
                let _ = metrics::BREAKER.remove_label_values(&[upstream]);
                let _ = metrics::CSP_BREAKER.remove_label_values(&[upstream]);
            }
            Some(it) => drop(metrics::ENDPOINT_BREAKER.remove_label_values(&[upstream, &it.to_string()])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(name: &str, retry_after: Duration) -> Breaker {
        let config = BreakerConfig { retry_after: Period(retry_after), ..BreakerConfig::default() };
        let policy =
            BreakerPolicy { retry_after, ..BreakerPolicy::compile(&config, &At::ROOT, &mut Diagnostics::default()) };
        Breaker::new(policy, None, &Arc::new(Changes::new(&name.into(), None)))
    }

    #[test]
    fn us_015_1_five_failures_in_a_row_open_it() {
        let breaker = breaker("five", Duration::from_secs(60));
        for _ in 0..4 {
            breaker.record(Outcome::Failure);
        }
        breaker.record(Outcome::Success);
        for _ in 0..4 {
            breaker.record(Outcome::Failure);
            assert!(breaker.admit().is_ok());
        }
        breaker.record(Outcome::Failure);
        let wait = breaker.admit().unwrap_err();
        assert!(wait <= Duration::from_secs(60) && wait > Duration::from_secs(1));
        assert_eq!(metrics::CSP_BREAKER.with_label_values(&["five"]).get(), 2);
    }

    #[test]
    fn us_015_2_one_probe_decides() {
        let breaker = breaker("probe", Duration::ZERO);
        for _ in 0..5 {
            breaker.record(Outcome::Failure);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.admit().is_ok());
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.record(Outcome::Failure);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.admit().is_ok());
        breaker.record(Outcome::Abandoned);
        assert_eq!(breaker.state(), BreakerState::Open, "what was given up proves nothing");
        assert!(breaker.admit().is_ok());
        breaker.record(Outcome::Success);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
