//! How many requests an upstream can work on at once, found by the latency of its answers.
//!
//! As long as latency stays near its best, the limit grows by its square root; beyond that it shrinks in proportion, and
//! grows by half of that (the gradient of Netflix' concurrency-limits). The best is the least mean of the last half minute, so that it follows
//! an upstream that changed; and since a limit at which requests wait at the upstream would poison it, the limit is
//! cut to a third for two short windows each half minute, of which the second is measured: nobody is stopped for that.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use super::peak::millis_now;

/// The limit before anything is known.
pub(super) const LIMIT_FIRST: u32 = 20;
const LIMIT_MIN: f64 = 4.0;
const LIMIT_MAX: f64 = 1_000.0;
/// A window is at least so long, in milliseconds, and has at least so many answers.
const WINDOW: u64 = 100;
const SAMPLES_MIN: u32 = 10;
/// Latency may be so many times its best. What is important waits at the upstream as long as everybody else: so more would be
/// what makes it twice as slow at twice the load.
const TOLERANCE: f64 = 1.25;
/// How much of its square root the limit grows by while latency is beyond that: the requests that wait at the upstream.
const BEYOND: f64 = 0.5;
/// By how much the limit is cut for a look at the best latency: what is beyond, at the most that follows from the others, is
/// more than half of it.
const PROBE: f64 = 3.0;
/// How much of the way to a new limit is gone at once.
const SMOOTHING: f64 = 0.2;
/// How long the best latency counts, in milliseconds; it varies by a tenth, so that gateways do not look at once.
const PERIOD: u64 = 30_000;

/// What is known of an upstream's latency.
#[derive(Default)]
pub(super) struct Gradient {
    window_ends: AtomicU64,
    samples: AtomicU32,
    micros: AtomicU64,
    /// The most requests at once in this window.
    peak: AtomicU32,
    trend: Mutex<Trend>,
}

/// What the windows say together.
#[derive(Default)]
struct Trend {
    /// The limit, not rounded; 0 before the first window.
    limit: f64,
    /// The best mean that counts, and the best of the period that runs, in microseconds; 0 if there is none yet.
    best: f64,
    best_of_period: f64,
    period_ends: u64,
    probe: Probe,
}

/// The look at what latency is with fewer requests.
#[derive(Clone, Copy, Default, PartialEq)]
enum Probe {
    #[default]
    None,
    /// What was sent before is still being answered.
    Settles,
    Measures,
}

impl Gradient {
    /// So many requests are under way.
    pub(super) fn saw_in_use(&self, in_use: u32) {
        if in_use > self.peak.load(Relaxed) {
            self.peak.fetch_max(in_use, Relaxed);
        }
    }

    /// Takes in an answer; the new limit, if a window ended with it.
    pub(super) fn saw(&self, latency: Duration, limit: u32) -> Option<u32> {
        self.micros.fetch_add(latency.as_micros().clamp(1, u128::from(u32::MAX)) as u64, Relaxed);
        let samples = self.samples.fetch_add(1, Relaxed) + 1;
        let (now, ends) = (millis_now(), self.window_ends.load(Relaxed));
        if samples < SAMPLES_MIN || now < ends {
            return None;
        }
        // Of those that see its end, one takes the window.
        self.window_ends.compare_exchange(ends, now + WINDOW, Relaxed, Relaxed).ok()?;
        let (samples, micros) = (self.samples.swap(0, Relaxed), self.micros.swap(0, Relaxed));
        let peak = self.peak.swap(0, Relaxed);
        Some(self.trend.lock().take_in(micros as f64 / f64::from(samples.max(1)), peak, limit, now))
    }
}

impl Trend {
    /// A window ended: the mean of its latencies, the most requests at once in it, the limit that it had. The next limit.
    fn take_in(&mut self, mean: f64, peak: u32, limit: u32, now: u64) -> u32 {
        if self.limit == 0.0 {
            (self.limit, self.best, self.best_of_period) = (f64::from(limit), mean, mean);
            self.period_ends = now + period();
        }
        self.best = self.best.min(mean);
        self.best_of_period = if self.best_of_period == 0.0 { mean } else { self.best_of_period.min(mean) };
        match self.probe {
            Probe::Settles => self.probe = Probe::Measures,
            Probe::Measures => {
                self.probe = Probe::None;
                (self.best, self.best_of_period) = (self.best_of_period, 0.0);
                self.period_ends = now + period();
            }
            Probe::None => {
                self.follow(mean, peak);
                if now >= self.period_ends {
                    self.probe = Probe::Settles;
                }
            }
        }
        let shown = if self.probe == Probe::None { self.limit } else { (self.limit / PROBE).max(LIMIT_MIN) };
        shown.round() as u32
    }

    fn follow(&mut self, mean: f64, peak: u32) {
        let gradient = (TOLERANCE * self.best / mean).clamp(0.5, 1.0);
        let headroom = if gradient < 1.0 { BEYOND } else { 1.0 };
        let target = self.limit * gradient + self.limit.sqrt() * headroom;
        // What was not made use of says nothing about more.
        if target > self.limit && f64::from(peak) * 2.0 < self.limit {
            return;
        }
        self.limit = (self.limit + SMOOTHING * (target - self.limit)).clamp(LIMIT_MIN, LIMIT_MAX);
    }
}

fn period() -> u64 {
    PERIOD - PERIOD / 20 + fastrand::u64(0..PERIOD / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An upstream that works on `capacity` requests at once, each for `micros`; what is more waits there.
    struct Upstream {
        trend: Trend,
        limit: u32,
        now: u64,
    }

    impl Upstream {
        fn new() -> Self {
            Self { trend: Trend::default(), limit: LIMIT_FIRST, now: 0 }
        }

        /// Works at its limit for a time; the limit at the end of it, outside the probes.
        fn under_load(&mut self, seconds: u64, capacity: f64, micros: f64) -> u32 {
            let ends = self.now + seconds * 1_000;
            while self.now < ends || self.trend.probe != Probe::None {
                let waits = (f64::from(self.limit) / capacity).max(1.0);
                self.limit = self.trend.take_in(micros * waits, self.limit, self.limit, self.now);
                self.now += WINDOW;
            }
            self.limit
        }
    }

    #[test]
    fn it_finds_what_an_upstream_can_do_and_stays_there() {
        for capacity in [8.0, 60.0, 400.0] {
            let mut upstream = Upstream::new();
            for seconds in [120, 600, 3_600] {
                let limit = f64::from(upstream.under_load(seconds, capacity, 10_000.0));
                assert!((capacity * 0.9..capacity * 1.5 + 2.0).contains(&limit), "{capacity}, {seconds}: {limit}");
            }
        }
    }

    #[test]
    fn it_follows_an_upstream_that_changes() {
        let mut upstream = Upstream::new();
        upstream.under_load(300, 100.0, 10_000.0);
        let less = upstream.under_load(120, 20.0, 10_000.0);
        assert!(less < 50, "it can do less now: {less}");
        let slower = upstream.under_load(300, 100.0, 30_000.0);
        assert!(slower > 90, "it takes longer for everybody now, and does as many at once: {slower}");
    }

    #[test]
    fn a_limit_that_nobody_reaches_does_not_grow_and_none_falls_to_nothing() {
        let mut trend = Trend::default();
        for at in 0..1_000 {
            trend.take_in(10_000.0, 3, LIMIT_FIRST, at * WINDOW);
        }
        assert!(trend.limit <= f64::from(LIMIT_FIRST), "{}", trend.limit);
        let mut trend = Trend::default();
        trend.take_in(10.0, 20, LIMIT_FIRST, 0);
        let least = (1..200).map(|at| trend.take_in(1e9, 20, 4, at * WINDOW)).min();
        assert!(least >= Some(LIMIT_MIN as u32), "{least:?}");
    }

    #[test]
    fn a_window_needs_answers() {
        let gradient = Gradient::default();
        let limits: Vec<_> = (1..=10).map(|_| gradient.saw(Duration::from_millis(10), 20)).collect();
        assert!(limits[..9].iter().all(Option::is_none) && limits[9].is_some(), "{limits:?}");
    }
}
