//! Passive health: an endpoint that fails requests is left out for a while, whatever its checks say.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoint::Outcome;
use super::metrics;
use super::peak::millis_now;
use crate::base::{At, Diagnostics, Percent, Period};

/// The longest time that an endpoint is left out, however often it was before.
const EJECTED_MAX: Duration = Duration::from_secs(300);

/// When an endpoint that fails requests is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutliersConfig {
    /// So many failures in a row: answers of 5xx, connections that fail or break off. Default 5.
    #[schemars(range(min = 1))]
    pub consecutive_5xx: u32,
    /// For how long the first time; the second time twice as long, and so on, up to 5m. A success between begins anew.
    pub eject_for: Period,
    /// The most endpoints that are left out at a time, of all. Default 50%.
    pub max_ejected: Percent,
}

impl Default for OutliersConfig {
    fn default() -> Self {
        Self { consecutive_5xx: 5, eject_for: Period::secs(30), max_ejected: Percent(0.5) }
    }
}

/// Compiled: when an endpoint is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierPolicy {
    consecutive: u32,
    eject_for: Duration,
    max_ejected: f64,
}

impl OutlierPolicy {
    /// Reports what makes no sense.
    pub(super) fn compile(config: &OutliersConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        if config.consecutive_5xx == 0 {
            diagnostics.error(&at.key("consecutive_5xx"), "must be at least 1").help("5 is the default");
        }
        if config.eject_for.0.is_zero() {
            diagnostics.error(&at.key("eject_for"), "must be longer than nothing").help("30s is the default");
        }
        Self { consecutive: config.consecutive_5xx, eject_for: config.eject_for.0, max_ejected: config.max_ejected.0 }
    }
}

/// What is known of the outliers of an upstream.
pub(super) struct Outliers {
    policy: OutlierPolicy,
    upstream: Box<str>,
    endpoints: AtomicUsize,
    ejected: AtomicUsize,
}

/// An endpoint's record.
#[derive(Default)]
pub(super) struct Record {
    failures: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds; 0 if it is not left out.
    until: AtomicU64,
}

impl Record {
    /// Whether it is left out now.
    pub(super) fn is_ejected(&self) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && millis_now() < until
    }
}

impl Outliers {
    pub(super) fn new(upstream: &str, policy: OutlierPolicy) -> Self {
        let (endpoints, ejected) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { policy, upstream: upstream.into(), endpoints, ejected }
    }

    pub(super) fn policy(&self) -> OutlierPolicy {
        self.policy
    }

    /// So many endpoints there are now, and so many of them are left out.
    pub(super) fn of(&self, endpoints: usize, ejected: usize) {
        self.endpoints.store(endpoints, Relaxed);
        self.ejected.store(ejected, Relaxed);
    }

    /// Takes in how a request to an endpoint ended.
    pub(super) fn record(&self, address: SocketAddr, record: &Record, outcome: Outcome) {
        self.readmit(address, record);
        match outcome {
            Outcome::Success => {
                if record.failures.load(Relaxed) != 0 {
                    record.failures.store(0, Relaxed);
                    record.ejections.store(0, Relaxed);
                }
            }
            Outcome::Failure => {
                if record.failures.fetch_add(1, Relaxed) + 1 >= self.policy.consecutive {
                    self.eject(address, record);
                }
            }
            Outcome::Abandoned => {}
        }
    }

    /// Its time is over: it counts as one of those that get requests.
    pub(super) fn readmit(&self, address: SocketAddr, record: &Record) {
        let until = record.until.load(Relaxed);
        if until == 0 || millis_now() < until || record.until.compare_exchange(until, 0, Relaxed, Relaxed).is_err() {
            return;
        }
        let _ = self.ejected.fetch_update(Relaxed, Relaxed, |it| it.checked_sub(1));
        let upstream = &self.upstream;
        tracing::info!(event = "endpoint_readmitted", upstream = %upstream, endpoint = %address, "the endpoint gets requests again");
    }

    fn eject(&self, address: SocketAddr, record: &Record) {
        let most = (self.endpoints.load(Relaxed) as f64 * self.policy.max_ejected) as usize;
        let one_more = |ejected: usize| (ejected < most).then_some(ejected + 1);
        if record.until.load(Relaxed) != 0 || self.ejected.fetch_update(Relaxed, Relaxed, one_more).is_err() {
            return;
        }
        let times = record.ejections.fetch_add(1, Relaxed) + 1;
        let time = (self.policy.eject_for * times).min(EJECTED_MAX.max(self.policy.eject_for));
        record.failures.store(0, Relaxed);
        if record.until.compare_exchange(0, (millis_now() + time.as_millis() as u64).max(1), Relaxed, Relaxed).is_err()
        {
            self.ejected.fetch_sub(1, Relaxed); // somebody else was quicker
            return;
        }
        metrics::EJECTIONS.with_label_values(&[&self.upstream]).inc();
        tracing::warn!(
            event = "endpoint_ejected", upstream = %self.upstream, endpoint = %address, failures = self.policy.consecutive,
            time = %Period(time), "the endpoint failed too many requests in a row and is left out for a while"
        );
    }

    /// Its series go with it.
    pub(super) fn retire(&self) {
        let _ = metrics::EJECTIONS.remove_label_values(&[&self.upstream]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outliers(name: &str, endpoints: usize, eject_for: Duration) -> Outliers {
        let outliers = Outliers::new(name, OutlierPolicy { consecutive: 3, eject_for, max_ejected: 0.5 });
        outliers.of(endpoints, 0);
        outliers
    }

    fn fail(outliers: &Outliers, record: &Record, times: usize) {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        (0..times).for_each(|_| outliers.record(address, record, Outcome::Failure));
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_begins_anew() {
        let (outliers, record) = (outliers("row", 2, Duration::from_secs(30)), Record::default());
        fail(&outliers, &record, 2);
        outliers.record(SocketAddr::from(([127, 0, 0, 1], 1)), &record, Outcome::Success);
        fail(&outliers, &record, 2);
        assert!(!record.is_ejected());
        fail(&outliers, &record, 1);
        assert!(record.is_ejected());
    }

    #[test]
    fn never_more_than_the_part_that_may_be() {
        let outliers = outliers("part", 3, Duration::from_secs(30));
        let records: Vec<Record> = (0..3).map(|_| Record::default()).collect();
        records.iter().for_each(|it| fail(&outliers, it, 9));
        assert_eq!(records.iter().filter(|it| it.is_ejected()).count(), 1);
        let alone = self::outliers("alone", 1, Duration::from_secs(30));
        let record = Record::default();
        fail(&alone, &record, 9);
        assert!(!record.is_ejected(), "the only one is not left out");
    }

    #[test]
    fn the_time_is_over_and_counts_for_others() {
        let outliers = outliers("time", 2, Duration::ZERO);
        let records: Vec<Record> = (0..2).map(|_| Record::default()).collect();
        fail(&outliers, &records[0], 3);
        assert!(!records[0].is_ejected(), "no time at all");
        fail(&outliers, &records[0], 1);
        assert_eq!(outliers.ejected.load(Relaxed), 0, "it was let in again");
    }
}
