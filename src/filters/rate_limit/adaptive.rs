//! Limits that become narrower while an upstream struggles (R5.4).
//!
//! Once a second each adaptive limit looks at its upstream. When answers are slow or fail, the share of
//! the limit that is let through shrinks by three tenths; when they are fine, it grows by five
//! points: fast down, slowly up, as TCP does. It is never larger than the share of healthy endpoints,
//! and never smaller than the floor.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use once_cell::sync::Lazy;
use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, register_gauge_vec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, Percent, Period, shown_millis};
use crate::upstream::Live;

/// From one look to the next.
pub(super) const ADAPT_EVERY: Duration = Duration::from_secs(1);
/// What is left of a share, in tenths, after a look at an upstream that struggles.
const SHRINK_TENTHS: u32 = 7;
/// What a share grows by, in thousandths, after a look at one that does not.
const GROW: u32 = 50;
/// Fewer requests between two looks say nothing about failures.
const TELLING: u64 = 5;
/// A change of so many thousandths is logged.
const REPORTED: u32 = 100;

static FACTOR: Lazy<GaugeVec> = Lazy::new(|| {
    let help = "Share of an adaptive rate limit that is let through now, by upstream and limit";
    let labels = &["upstream", "limit"];
    register_gauge_vec!("moongate_rate_limit_factor", help, labels).expect("the name is registered once")
});

/// Lets fewer requests through while the upstream struggles.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveConfig {
    /// The smallest share of the limit. Default 25%.
    pub floor: Percent,
    /// It struggles when its answers take longer than this on average. Default 1s.
    pub latency: Period,
    /// It struggles when more than this share of its requests fail. Default 10%.
    pub failures: Percent,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        Self { floor: Percent(0.25), latency: Period::secs(1), failures: Percent(0.1) }
    }
}

/// Compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Adaptive {
    /// Thousandths.
    floor: u32,
    latency: Duration,
    failures: f64,
}

impl AdaptiveConfig {
    pub(super) fn compile(&self, at: &At<'_>, diagnostics: &mut Diagnostics) -> Adaptive {
        let floor = (self.floor.0 * 1_000.0).round() as u32;
        if floor == 0 {
            diagnostics.error(&at.key("floor"), "a floor of nothing").help("at least 0.1%; what stops all is no limit");
        }
        Adaptive { floor: floor.clamp(1, 1_000), latency: self.latency.0, failures: self.failures.0 }
    }
}

/// The share of a limit that is let through for one upstream.
pub(super) struct AdaptiveShare {
    limit: Arc<str>,
    upstream: Arc<str>,
    thousandths: AtomicU32,
    gauge: Gauge,
    watched: Mutex<Watched>,
}

/// What is watched, and what was seen last.
struct Watched {
    adaptive: Adaptive,
    live: Weak<Live>,
    requests: u64,
    failures: u64,
    reported: u32,
}

/// What a look at an upstream shows.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// The share of endpoints that get requests.
    healthy: f64,
    latency: Option<Duration>,
    /// Requests since the last look, and those of them that failed.
    requests: u64,
    failures: u64,
}

impl Adaptive {
    /// The decision: a plain function.
    fn next(&self, thousandths: u32, look: &Look) -> u32 {
        // An average that no request has moved is an old one.
        let slow = look.requests > 0 && look.latency.is_some_and(|it| it > self.latency);
        let failing = look.requests >= TELLING && look.failures as f64 > self.failures * look.requests as f64;
        let next = if slow || failing { thousandths * SHRINK_TENTHS / 10 } else { thousandths + GROW };
        let healthy = (look.healthy * 1_000.0) as u32;
        next.min(healthy).clamp(self.floor, 1_000)
    }
}

impl AdaptiveShare {
    fn new(limit: &Arc<str>, adaptive: &Adaptive, live: &Arc<Live>) -> Self {
        let upstream = live.upstream().name.clone();
        let gauge = FACTOR.with_label_values(&[&*upstream, &**limit]);
        gauge.set(1.0);
        let (requests, failures) = live.totals();
        let watched =
            Watched { adaptive: adaptive.clone(), live: Arc::downgrade(live), requests, failures, reported: 1_000 };
        Self { limit: limit.clone(), upstream, thousandths: AtomicU32::new(1_000), gauge, watched: Mutex::new(watched) }
    }

    pub(super) fn thousandths(&self) -> u32 {
        self.thousandths.load(Relaxed)
    }

    fn adapt(&self) {
        let mut watched = self.watched.lock();
        let Some(live) = watched.live.upgrade() else { return };
        let look = watched.look(&live);
        let next = watched.adaptive.next(self.thousandths(), &look);
        self.thousandths.store(next, Relaxed);
        self.gauge.set(f64::from(next) / 1_000.0);
        let ends = next != watched.reported && (next == 1_000 || next == watched.adaptive.floor);
        if next.abs_diff(watched.reported) > REPORTED || ends {
            watched.reported = next;
            tracing::warn!(
                event = "rate_limit_adapted",
                limit = %self.limit,
                upstream = %self.upstream,
                percent = f64::from(next) / 10.0,
                healthy_percent = look.healthy * 100.0,
                latency_ms = look.latency.map(|it| shown_millis(it.as_secs_f64())),
                failures = look.failures,
                requests = look.requests,
            );
        }
    }
}

impl Watched {
    fn look(&mut self, live: &Live) -> Look {
        let endpoints = live.endpoints();
        let eligible: Vec<_> = endpoints.iter().filter(|it| it.is_eligible()).collect();
        let latencies: Vec<Duration> = eligible.iter().filter_map(|it| it.latency()).collect();
        let count = u32::try_from(latencies.len()).unwrap_or(u32::MAX);
        // A changed upstream may have begun to count anew.
        let (requests, failures) = live.totals();
        let before = (std::mem::replace(&mut self.requests, requests), std::mem::replace(&mut self.failures, failures));
        Look {
            healthy: if endpoints.is_empty() { 1.0 } else { eligible.len() as f64 / endpoints.len() as f64 },
            latency: latencies.iter().sum::<Duration>().checked_div(count),
            requests: requests.saturating_sub(before.0),
            failures: failures.saturating_sub(before.1),
        }
    }
}

impl Drop for AdaptiveShare {
    fn drop(&mut self) {
        let _ = FACTOR.remove_label_values(&[&*self.upstream, &*self.limit]);
    }
}

/// The shares of all adaptive limits, by limit and upstream.
#[derive(Default)]
pub(super) struct AdaptiveShares {
    known: Mutex<HashMap<Place, Weak<AdaptiveShare>>>,
}

/// Limit and upstream.
type Place = (Arc<str>, Arc<str>);

impl AdaptiveShares {
    /// The one of this limit and upstream, with the share that it had.
    pub(super) fn of(&self, limit: &Arc<str>, adaptive: &Adaptive, live: &Arc<Live>) -> Arc<AdaptiveShare> {
        let mut known = self.known.lock();
        known.retain(|_, it| it.strong_count() > 0);
        let place = known.entry((limit.clone(), live.upstream().name.clone())).or_default();
        if let Some(share) = place.upgrade() {
            let mut watched = share.watched.lock();
            (watched.adaptive, watched.live) = (adaptive.clone(), Arc::downgrade(live));
            drop(watched);
            return share;
        }
        let share = Arc::new(AdaptiveShare::new(limit, adaptive, live));
        *place = Arc::downgrade(&share);
        share
    }

    pub(super) fn adapt(&self) {
        let all: Vec<_> = self.known.lock().values().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|it| it.adapt());
    }

    pub(super) fn factors(&self, limit: &str) -> BTreeMap<String, f64> {
        let known = self.known.lock();
        let of_limit = known.values().filter_map(Weak::upgrade).filter(|it| &*it.limit == limit);
        of_limit.map(|it| (it.upstream.to_string(), f64::from(it.thousandths()) / 1_000.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Look = Look { healthy: 1.0, latency: Some(Duration::from_millis(5)), requests: 100, failures: 0 };

    fn adaptive() -> Adaptive {
        AdaptiveConfig::default().compile(&At::ROOT, &mut Diagnostics::default())
    }

    #[test]
    fn r5_4_a_share_shrinks_fast_grows_slowly_and_keeps_to_its_floor() {
        let slow = Look { latency: Some(Duration::from_secs(2)), ..FINE };
        let shares: Vec<u32> =
            std::iter::successors(Some(1_000), |it| Some(adaptive().next(*it, &slow))).take(6).collect();
        assert_eq!(shares, [1_000, 700, 490, 343, 250, 250]);
        assert_eq!(adaptive().next(250, &FINE), 300);
        assert_eq!(adaptive().next(980, &FINE), 1_000);
    }

    #[test]
    fn failures_and_sick_endpoints_count_and_old_averages_do_not() {
        let next = |look: Look| adaptive().next(1_000, &look);
        assert_eq!(next(Look { failures: 10, ..FINE }), 1_000);
        assert_eq!(next(Look { failures: 11, ..FINE }), 700);
        assert_eq!(next(Look { requests: 4, failures: 4, ..FINE }), 1_000);
        assert_eq!(next(Look { healthy: 0.5, ..FINE }), 500);
        assert_eq!(next(Look { healthy: 0.0, ..FINE }), 250);
        assert_eq!(next(Look { latency: Some(Duration::from_secs(9)), requests: 0, ..FINE }), 1_000);
    }
}
