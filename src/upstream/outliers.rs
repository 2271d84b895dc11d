//! Passive health: an endpoint that fails requests, or is slow, is left out for a while, whatever its checks say.
//!
//! Failures in a row count at once. Shares of failures and latencies are looked at when their window ends, by
//! [`watch`](super::watch), so that a request costs a few atomic additions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::changes::{Change, Changes, Event};
use super::endpoint::{Endpoint, Outcome};
use super::metrics;
use super::outlier_window::{Errors, Latencies, Slow, failing, slow};
use super::peak::millis_now;
use crate::base::{At, Diagnostics, Percent, Period};

/// The longest time that an endpoint is left out, however often it was before.
const EJECTED_MAX: Duration = Duration::from_secs(300);
/// A window that is shorter has seen nothing.
const WITHIN_MIN: Duration = Duration::from_millis(100);

/// When an endpoint that fails requests, or is slow, is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutliersConfig {
    /// So many failures in a row: answers of 5xx, connections that fail or break off. Default 5.
    #[schemars(range(min = 1))]
    pub consecutive_5xx: u32,
    /// Too large a share of failures, in a row or not: `{}` for the defaults. Default: not looked at.
    pub error_rate: Option<ErrorRateConfig>,
    /// Answers that take much longer than those of the other endpoints: `{}` for the defaults. Default: not looked at.
    pub latency: Option<LatencyConfig>,
    /// For how long the first time; the second time twice as long, the third three times, and so on, up to 5m. One that
    /// then holds out for as long as it was left out begins anew.
    pub eject_for: Period,
    /// The most endpoints that are left out at a time, of all. Default 50%.
    pub max_ejected: Percent,
}

impl Default for OutliersConfig {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            error_rate: None,
            latency: None,
            eject_for: Period::secs(30),
            max_ejected: Percent(0.5),
        }
    }
}

/// Too large a share of failures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorRateConfig {
    /// A larger share of failures leads to ejection.
    pub over: Percent,
    /// An endpoint that had fewer requests in the time is not judged.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// The time over which requests count; endpoints are judged at its end.
    pub within: Period,
}

impl Default for ErrorRateConfig {
    fn default() -> Self {
        Self { over: Percent(0.5), requests: 20, within: Period::secs(10) }
    }
}

/// Answers that take much longer than those of the other endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyConfig {
    /// An endpoint whose median time to an answer's head is more than so many times that of its peers, as the median of
    /// their medians.
    pub factor: f64,
    /// An endpoint that gave fewer answers in the time is not judged, and is nobody's peer.
    #[schemars(range(min = 1))]
    pub requests: u32,
    /// The time over which answers count; endpoints are judged at its end.
    pub within: Period,
    /// A median that is shorter is quick, whatever that of the peers is.
    pub at_least: Period,
}

impl Default for LatencyConfig {
    fn default() -> Self {
        let at_least = Period(Duration::from_millis(10));
        Self { factor: 3.0, requests: 20, within: Period::secs(10), at_least }
    }
}

/// Compiled: when an endpoint is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierPolicy {
    consecutive: u32,
    error_rate: Option<ErrorRate>,
    latency: Option<Latency>,
    eject_for: Duration,
    max_ejected: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct ErrorRate {
    over: f64,
    requests: u32,
    within: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Latency {
    factor: f64,
    requests: u32,
    within: Duration,
    at_least: Duration,
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
        let error_rate = config.error_rate.as_ref().map(|it| error_rate(it, &at.key("error_rate"), diagnostics));
        let latency = config.latency.as_ref().map(|it| latency(it, &at.key("latency"), diagnostics));
        Self {
            consecutive: config.consecutive_5xx,
            error_rate,
            latency,
            eject_for: config.eject_for.0,
            max_ejected: config.max_ejected.0,
        }
    }

    /// The windows at whose ends endpoints are judged: that of failures, and that of latencies.
    pub(super) fn windows(&self) -> [Option<Duration>; 2] {
        [self.error_rate.map(|it| it.within), self.latency.map(|it| it.within)]
    }
}

fn error_rate(config: &ErrorRateConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> ErrorRate {
    if config.over.0 >= 1.0 {
        diagnostics.error(&at.key("over"), "no share is over 100%").help("50% is the default");
    }
    window(config.requests, config.within, at, diagnostics);
    ErrorRate { over: config.over.0, requests: config.requests, within: config.within.0 }
}

fn latency(config: &LatencyConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Latency {
    if config.factor.is_nan() || config.factor <= 1.0 {
        let message = format!("{} times what others take is not slower", config.factor);
        diagnostics.error(&at.key("factor"), message).help("more than 1; 3 is the default");
    }
    window(config.requests, config.within, at, diagnostics);
    Latency { factor: config.factor, requests: config.requests, within: config.within.0, at_least: config.at_least.0 }
}

fn window(requests: u32, within: Period, at: &At<'_>, diagnostics: &mut Diagnostics) {
    if requests == 0 {
        diagnostics.error(&at.key("requests"), "nobody can be judged by no request").help("20 is the default");
    }
    if within.0 < WITHIN_MIN {
        diagnostics.error(&at.key("within"), format!("{within} is too short")).help("at least 100ms");
    }
}

/// What is known of the outliers of an upstream.
pub(super) struct Outliers {
    policy: OutlierPolicy,
    changes: Arc<Changes>,
    endpoints: AtomicUsize,
    ejected: AtomicUsize,
}

/// An endpoint's record.
#[derive(Default)]
pub(super) struct Record {
    failures: AtomicU32,
    /// How often it was left out without holding out between.
    ejections: AtomicU32,
    /// Milliseconds; 0 if it is not left out.
    until: AtomicU64,
    /// Milliseconds: when it begins anew.
    forgiven: AtomicU64,
    errors: Errors,
    latencies: Latencies,
    last: Mutex<Option<Ejection>>,
}

/// That an endpoint was left out, for an operator's eyes.
#[derive(Clone)]
pub(super) struct Ejection {
    pub(super) at: SystemTime,
    pub(super) time: Duration,
    pub(super) reason: String,
}

impl Record {
    /// The last time that it was left out.
    pub(super) fn last_ejection(&self) -> Option<Ejection> {
        self.last.lock().clone()
    }

    /// Nobody judges it any more, so nothing may be held against it.
    pub(super) fn forget(&self) {
        [&self.until, &self.forgiven].iter().for_each(|it| it.store(0, Relaxed));
        self.last.lock().take();
    }

    /// Whether it is left out now.
    pub(super) fn is_ejected(&self) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && millis_now() < until
    }

    /// Whether it counts as one that is left out: until it is let in, even if its time is over.
    pub(super) fn is_counted(&self) -> bool {
        self.until.load(Relaxed) != 0
    }

    /// How often it was left out in a row by now.
    fn times(&self, now: u64) -> u32 {
        if now >= self.forgiven.load(Relaxed) {
            self.ejections.store(0, Relaxed);
        }
        self.ejections.fetch_add(1, Relaxed) + 1
    }
}

impl Outliers {
    pub(super) fn new(policy: OutlierPolicy, changes: &Arc<Changes>) -> Self {
        let (endpoints, ejected) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { policy, changes: Arc::clone(changes), endpoints, ejected }
    }

    pub(super) fn policy(&self) -> OutlierPolicy {
        self.policy
    }

    /// So many endpoints there are now, and so many of them are left out.
    pub(super) fn of(&self, endpoints: usize, ejected: usize) {
        self.endpoints.store(endpoints, Relaxed);
        self.ejected.store(ejected, Relaxed);
    }

    /// Takes in how a request to an endpoint ended, and what its answer's head took.
    pub(super) fn record(&self, address: SocketAddr, record: &Record, outcome: Outcome, latency: Duration) {
        self.readmit(address, record);
        if self.policy.error_rate.is_some() {
            record.errors.count(outcome);
        }
        if self.policy.latency.is_some() && outcome == Outcome::Success {
            record.latencies.count(latency);
        }
        match outcome {
            Outcome::Success => {
                if record.failures.load(Relaxed) != 0 {
                    record.failures.store(0, Relaxed);
                }
            }
            Outcome::Failure => {
                if record.failures.fetch_add(1, Relaxed) + 1 >= self.policy.consecutive {
                    self.eject(address, record, || format!("it failed {} requests in a row", self.policy.consecutive));
                }
            }
            Outcome::Abandoned => {}
        }
    }

    /// Leaves out those that failed too large a share of their requests since the last look.
    pub(super) fn judge_errors(&self, endpoints: &[Arc<Endpoint>]) {
        let Some(ErrorRate { over, requests, within }) = self.policy.error_rate else { return };
        let counts: Vec<(u32, u32)> = endpoints.iter().map(|it| it.record().errors.take()).collect();
        for index in failing(&counts, over, requests) {
            let (endpoint, (failures, all)) = (&endpoints[index], counts[index]);
            self.eject(endpoint.address(), endpoint.record(), || {
                format!("it failed {failures} of {all} requests within {}", Period(within))
            });
        }
    }

    /// Leaves out those that are much slower than their peers since the last look.
    pub(super) fn judge_latencies(&self, endpoints: &[Arc<Endpoint>]) {
        let Some(Latency { factor, requests, at_least, .. }) = self.policy.latency else { return };
        let medians: Vec<Option<Duration>> =
            endpoints.iter().map(|it| it.record().latencies.take_median(requests)).collect();
        for Slow { index, own, peers } in slow(&medians, factor, at_least) {
            let endpoint = &endpoints[index];
            self.eject(endpoint.address(), endpoint.record(), || {
                let times = own.as_secs_f64() / peers.as_secs_f64();
                format!("its answers take {own:.0?}, {times:.1} times those of its peers")
            });
        }
    }

    /// Its time is over: it counts as one of those that get requests.
    pub(super) fn readmit(&self, address: SocketAddr, record: &Record) {
        let until = record.until.load(Relaxed);
        if until == 0 || millis_now() < until || record.until.compare_exchange(until, 0, Relaxed, Relaxed).is_err() {
            return;
        }
        let _ = self.ejected.fetch_update(Relaxed, Relaxed, |it| it.checked_sub(1));
        self.changes.tell(&Change::new(Event::EndpointReadmitted, Some(address)));
    }

    fn eject(&self, address: SocketAddr, record: &Record, reason: impl FnOnce() -> String) {
        let most = (self.endpoints.load(Relaxed) as f64 * self.policy.max_ejected) as usize;
        let one_more = |ejected: usize| (ejected < most).then_some(ejected + 1);
        if record.until.load(Relaxed) != 0 || self.ejected.fetch_update(Relaxed, Relaxed, one_more).is_err() {
            return;
        }
        let now = millis_now();
        let time = (self.policy.eject_for * record.times(now)).min(EJECTED_MAX.max(self.policy.eject_for));
        let millis = time.as_millis() as u64;
        record.failures.store(0, Relaxed);
        if record.until.compare_exchange(0, (now + millis).max(1), Relaxed, Relaxed).is_err() {
            self.ejected.fetch_sub(1, Relaxed); // somebody else was quicker
            return;
        }
        record.forgiven.store(now + 2 * millis, Relaxed);
        metrics::EJECTIONS.with_label_values(&[self.changes.upstream()]).inc();
        let reason = reason();
        let change = Change::new(Event::EndpointEjected, Some(address));
        self.changes.tell(&Change { reason: Some(&reason), time: Some(time), ..change });
        *record.last.lock() = Some(Ejection { at: SystemTime::now(), time, reason });
    }

    /// Its series go with it.
    pub(super) fn retire(&self) {
        let _ = metrics::EJECTIONS.remove_label_values(&[self.changes.upstream()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outliers(name: &str, endpoints: usize, eject_for: Duration) -> Outliers {
        let policy = OutlierPolicy { consecutive: 3, error_rate: None, latency: None, eject_for, max_ejected: 0.5 };
        let outliers = Outliers::new(policy, &Arc::new(Changes::new(&name.into(), None)));
        outliers.of(endpoints, 0);
        outliers
    }

    fn fail(outliers: &Outliers, record: &Record, times: usize) {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        (0..times).for_each(|_| outliers.record(address, record, Outcome::Failure, Duration::ZERO));
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_begins_anew() {
        let (outliers, record) = (outliers("row", 2, Duration::from_secs(30)), Record::default());
        fail(&outliers, &record, 2);
        outliers.record(SocketAddr::from(([127, 0, 0, 1], 1)), &record, Outcome::Success, Duration::ZERO);
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

    #[test]
    fn the_next_time_is_longer_unless_it_held_out_between() {
        let record = Record::default();
        record.forgiven.store(1_000, Relaxed);
        assert_eq!([record.times(0), record.times(10), record.times(999)], [1, 2, 3]);
        assert_eq!(record.times(1_000), 1);
    }
}
