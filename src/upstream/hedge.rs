//! When a request that has no answer yet is sent to a second endpoint (tail latency, R9.5): after what most answers took.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus::IntCounter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::metrics;
use super::outlier_window::Latencies;
use super::peak::millis_now;
use crate::base::{At, Diagnostics, Period};

/// What is told of latencies is told of the last so many answers, or of what came in so many milliseconds if that is
/// enough to tell anything.
const SAMPLES: u32 = 100;
const SAMPLES_MIN: u32 = 20;
const WINDOW: u64 = 5_000;
/// Nobody is hurried sooner.
const AFTER_MIN: Duration = Duration::from_millis(1);

/// Sends a request that has no answer yet to a second endpoint, and takes the answer that comes first. GET, HEAD and
/// OPTIONS alone, once each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [{ "after": "p95" }]))]
pub struct HedgeConfig {
    /// When: after what this share of answers took lately, `p50`, `p90`, `p95` or `p99`; or a time, such as `50ms`.
    pub after: HedgeAfter,
    /// What it is paid from: the budget of `retries`, which it shares.
    #[serde(default)]
    pub budget: HedgeBudget,
}

/// When a second endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum HedgeAfter {
    /// After what this share of answers took.
    Quantile(Quantile),
    /// After this time.
    Time(Period),
}

/// A share of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quantile {
    /// Half of them.
    P50,
    /// Nine of ten.
    P90,
    /// 95 of a hundred.
    P95,
    /// 99 of a hundred.
    P99,
}

impl Quantile {
    fn share(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P90 => 0.9,
            Self::P95 => 0.95,
            Self::P99 => 0.99,
        }
    }
}

/// What hedging is paid from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HedgeBudget {
    /// From the budget of `retries`.
    #[default]
    Shared,
}

/// Compiled: when a second endpoint is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgePolicy {
    after: HedgeAfter,
}

impl HedgePolicy {
    /// Reports what makes no sense.
    pub(super) fn compile(config: &HedgeConfig, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        if let HedgeAfter::Time(Period(time)) = config.after
            && time < AFTER_MIN
        {
            diagnostics
                .error(&at.key("after"), format!("must be at least {}", Period(AFTER_MIN)))
                .help("`p95` sends one of twenty requests twice");
        }
        Self { after: config.after }
    }
}

/// When a second endpoint is asked, as of now.
pub(super) struct Hedge {
    policy: HedgePolicy,
    latencies: Latencies,
    samples: AtomicU32,
    window_ends: AtomicU64,
    /// In microseconds; 0 while too little is known.
    after: AtomicU64,
    results: [IntCounter; 2],
    upstream: Box<str>,
}

const RESULTS: [&str; 2] = ["won", "lost"];

impl Hedge {
    pub(super) fn new(upstream: &str, policy: HedgePolicy) -> Self {
        let after = match policy.after {
            HedgeAfter::Time(Period(time)) => time.as_micros() as u64,
            HedgeAfter::Quantile(_) => 0,
        };
        Self {
            policy,
            latencies: Latencies::default(),
            samples: AtomicU32::new(0),
            window_ends: AtomicU64::new(millis_now() + WINDOW),
            after: AtomicU64::new(after),
            results: RESULTS.map(|it| metrics::HEDGES.with_label_values(&[upstream, it])),
            upstream: upstream.into(),
        }
    }

    pub(super) fn policy(&self) -> &HedgePolicy {
        &self.policy
    }

    /// How long the first endpoint has to itself; `None` while that is not known.
    pub(super) fn after(&self) -> Option<Duration> {
        let micros = self.after.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros).max(AFTER_MIN))
    }

    /// Takes in what the answer of a first endpoint took; or, where the second was quicker, how long it was waited for.
    pub(super) fn saw(&self, latency: Duration) {
        let HedgeAfter::Quantile(quantile) = self.policy.after else { return };
        self.latencies.count(latency);
        let samples = self.samples.fetch_add(1, Relaxed) + 1;
        let (now, ends) = (millis_now(), self.window_ends.load(Relaxed));
        if samples < SAMPLES_MIN || (samples < SAMPLES && now < ends) {
            return;
        }
        // Of those that see the end of a window, one takes it.
        let mine = self.samples.fetch_update(Relaxed, Relaxed, |it| (it >= SAMPLES_MIN).then_some(0));
        if mine.is_ok()
            && let Some(after) = self.latencies.take_quantile(quantile.share(), SAMPLES_MIN)
        {
            self.window_ends.store(now + WINDOW, Relaxed);
            self.after.store(after.as_micros() as u64, Relaxed);
        }
    }

    /// A second endpoint was asked, and answered first or not.
    pub(super) fn count(&self, won: bool) {
        self.results[usize::from(!won)].inc();
    }

    /// Removes its series.
    pub(super) fn retire(&self) {
        for result in RESULTS {
            let _ = metrics::HEDGES.remove_label_values(&[&*self.upstream, result]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_for_what_most_answers_took_once_enough_are_known() {
        let hedge = Hedge::new("hedge", HedgePolicy { after: HedgeAfter::Quantile(Quantile::P95) });
        (0..90).for_each(|_| hedge.saw(Duration::from_millis(10)));
        assert_eq!(hedge.after(), None);
        (0..10).for_each(|_| hedge.saw(Duration::from_millis(400)));
        let after = hedge.after().expect("a hundred are enough").as_millis();
        assert!((350..=450).contains(&after), "{after}");
        (0..100).for_each(|_| hedge.saw(Duration::from_millis(10)));
        let after = hedge.after().expect("a hundred more").as_millis();
        assert!((8..=12).contains(&after), "{after}: what was is forgotten");
    }

    #[test]
    fn a_time_is_a_time() {
        let hedge = Hedge::new("hedge", HedgePolicy { after: HedgeAfter::Time(Period::millis(50)) });
        hedge.saw(Duration::from_secs(5));
        assert_eq!(hedge.after(), Some(Duration::from_millis(50)));
    }
}
