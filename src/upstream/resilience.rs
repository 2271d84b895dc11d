//! What keeps an upstream that fails from failing more: the breaker, the outliers, the budget of retries. One for all
//! endpoints of an upstream; it lives on through reloads that do not change its settings.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::breaker::{Breaker, BreakerPolicy, BreakerState};
use super::changes::Changes;
use super::compile::Upstream;
use super::endpoint::{Endpoint, Outcome};
use super::outliers::{Outliers, Record};
use super::retry_budget::RetryBudget;

pub(super) struct Resilience {
    breaker: Option<Breaker>,
    outliers: Option<Outliers>,
    budget: RetryBudget,
    share: f64,
}

impl Resilience {
    pub(super) fn new(upstream: &Upstream, changes: &Arc<Changes>) -> Self {
        let breaker = upstream.breaker.and_then(BreakerPolicy::of_upstream);
        Self {
            breaker: breaker.map(|it| Breaker::new(it, None, changes)),
            outliers: upstream.outliers.map(|it| Outliers::new(it, changes)),
            budget: RetryBudget::new(upstream.retries.budget),
            share: upstream.retries.budget,
        }
    }

    /// Whether it is what this upstream wants.
    pub(super) fn fits(&self, upstream: &Upstream) -> bool {
        self.breaker.as_ref().map(Breaker::policy) == upstream.breaker.and_then(BreakerPolicy::of_upstream)
            && self.outliers.as_ref().map(Outliers::policy) == upstream.outliers
            && self.share == upstream.retries.budget
    }

    pub(super) fn breaker(&self) -> Option<BreakerState> {
        self.breaker.as_ref().map(Breaker::state)
    }

    /// How long the breaker lets nothing through, if it does.
    pub(super) fn closed_for(&self) -> Option<Duration> {
        self.breaker.as_ref().and_then(Breaker::closed_for)
    }

    pub(super) fn admit(&self) -> Result<(), Duration> {
        self.breaker.as_ref().map_or(Ok(()), Breaker::admit)
    }

    pub(super) fn may_retry(&self, requests: u64) -> bool {
        self.breaker().is_none_or(|it| it == BreakerState::Closed) && self.budget.take(requests)
    }

    /// So many endpoints there are now, and so many of them are left out.
    pub(super) fn endpoints(&self, all: usize, ejected: usize) {
        if let Some(outliers) = &self.outliers {
            outliers.of(all, ejected);
        }
    }

    /// Takes in how a request to an endpoint ended, and what its answer's head took.
    pub(super) fn record(&self, address: SocketAddr, record: &Record, outcome: Outcome, latency: Duration) {
        if let Some(breaker) = &self.breaker {
            breaker.record(outcome);
        }
        if let Some(outliers) = &self.outliers {
            outliers.record(address, record, outcome, latency);
        }
    }

    /// Lets those in whose time is over, and judges the endpoints by the windows that ended: that of failures, and that
    /// of latencies.
    pub(super) fn judge(&self, endpoints: &[Arc<Endpoint>], [errors, latencies]: [bool; 2]) {
        let Some(outliers) = &self.outliers else { return };
        endpoints.iter().for_each(|it| outliers.readmit(it.address(), it.record()));
        if errors {
            outliers.judge_errors(endpoints);
        }
        if latencies {
            outliers.judge_latencies(endpoints);
        }
    }

    pub(super) fn retire(&self) {
        self.breaker.iter().for_each(Breaker::retire);
        self.outliers.iter().for_each(Outliers::retire);
    }
}
