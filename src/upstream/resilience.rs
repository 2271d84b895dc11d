//! What keeps an upstream that fails from failing more: the breaker, the outliers, the budget of retries. One for all
//! endpoints of an upstream; it lives on through reloads that do not change its settings.

use std::net::SocketAddr;
use std::time::Duration;

use super::breaker::{Breaker, BreakerState};
use super::compile::Upstream;
use super::endpoint::Outcome;
use super::outliers::{Outliers, Record};
use super::retry_budget::RetryBudget;

pub(super) struct Resilience {
    breaker: Option<Breaker>,
    outliers: Option<Outliers>,
    budget: RetryBudget,
    share: f64,
}

impl Resilience {
    pub(super) fn new(upstream: &Upstream) -> Self {
        Self {
            breaker: upstream.breaker.map(|it| Breaker::new(&upstream.name, it)),
            outliers: upstream.outliers.map(|it| Outliers::new(&upstream.name, it)),
            budget: RetryBudget::new(upstream.retries.budget),
            share: upstream.retries.budget,
        }
    }

    /// Whether it is what this upstream wants.
    pub(super) fn fits(&self, upstream: &Upstream) -> bool {
        self.breaker.as_ref().map(Breaker::policy) == upstream.breaker
            && self.outliers.as_ref().map(Outliers::policy) == upstream.outliers
            && self.share == upstream.retries.budget
    }

    pub(super) fn breaker(&self) -> Option<BreakerState> {
        self.breaker.as_ref().map(Breaker::state)
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

    /// Takes in how a request to an endpoint ended.
    pub(super) fn record(&self, address: SocketAddr, record: &Record, outcome: Outcome) {
        if let Some(breaker) = &self.breaker {
            breaker.record(outcome);
        }
        if let Some(outliers) = &self.outliers {
            outliers.record(address, record, outcome);
        }
    }

    pub(super) fn retire(&self) {
        self.breaker.iter().for_each(Breaker::retire);
        self.outliers.iter().for_each(Outliers::retire);
    }
}
