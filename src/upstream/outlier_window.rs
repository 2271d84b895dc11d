//! What endpoints did within a time, and which of them stand out by it. Requests count in atomics; the looks at them
//! come at the ends of the windows, off the requests' way.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::endpoint::Outcome;

/// Latencies are told apart from 64 µs on: two to the power of this.
const FIRST: u32 = 6;
/// Four buckets double a latency, so that what is told is an eighth too long or too short at most; the last ones are for
/// more than a minute.
const BUCKETS: usize = 84;

/// How many answers took how long.
pub(super) struct Latencies([AtomicU32; BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl Latencies {
    pub(super) fn count(&self, latency: Duration) {
        self.0[bucket(latency)].fetch_add(1, Relaxed);
    }

    /// The median of what was counted, which is forgotten; `None` if that were fewer than `least`.
    pub(super) fn take_median(&self, least: u32) -> Option<Duration> {
        self.take_quantile(0.5, least)
    }

    /// As [`Latencies::take_median`]: what this share of all took at most, 0 to 1.
    pub(super) fn take_quantile(&self, share: f64, least: u32) -> Option<Duration> {
        let counts: Vec<u32> = self.0.iter().map(|it| it.swap(0, Relaxed)).collect();
        let all: u32 = counts.iter().sum();
        if all == 0 || all < least {
            return None;
        }
        let mut before = 0;
        let bucket = counts.iter().position(|it| {
            before += it;
            f64::from(before) >= f64::from(all) * share
        })?;
        Some(middle_of(bucket))
    }
}

/// By the highest bit, and the two after it.
fn bucket(latency: Duration) -> usize {
    let micros = latency.as_micros().clamp(1 << FIRST, u128::from(u64::MAX)) as u64;
    let power = micros.ilog2();
    let quarter = (micros >> (power - 2)) & 3;
    ((power - FIRST) as usize * 4 + quarter as usize).min(BUCKETS - 1)
}

fn middle_of(bucket: usize) -> Duration {
    let (power, quarter) = (FIRST + bucket as u32 / 4, bucket as u64 % 4);
    Duration::from_micros((9 + 2 * quarter) << (power - 3))
}

/// Requests that ended, and those of them that failed.
#[derive(Default)]
pub(super) struct Errors {
    requests: AtomicU32,
    failures: AtomicU32,
}

impl Errors {
    pub(super) fn count(&self, outcome: Outcome) {
        match outcome {
            Outcome::Success => drop(self.requests.fetch_add(1, Relaxed)),
            Outcome::Failure => {
                self.failures.fetch_add(1, Relaxed);
                self.requests.fetch_add(1, Relaxed);
            }
            Outcome::Abandoned => {}
        }
    }

    /// Failures and requests, which are forgotten.
    pub(super) fn take(&self) -> (u32, u32) {
        (self.failures.swap(0, Relaxed), self.requests.swap(0, Relaxed))
    }
}

/// Of failures and requests, those whose share is over `over`, the worst first; who had fewer than `least` is no proof.
pub(super) fn failing(counts: &[(u32, u32)], over: f64, least: u32) -> Vec<usize> {
    let share = |it: &usize| f64::from(counts[*it].0) / f64::from(counts[*it].1.max(1));
    let mut out: Vec<usize> = (0..counts.len()).filter(|it| counts[*it].1 >= least && share(it) > over).collect();
    out.sort_by(|a, b| share(b).total_cmp(&share(a)));
    out
}

/// An endpoint that is slow, and the median of its peers.
pub(super) struct Slow {
    pub(super) index: usize,
    pub(super) own: Duration,
    pub(super) peers: Duration,
}

/// Those that take more than `factor` times the median of the others' medians, the slowest first. What takes less than
/// `at_least` is quick, whatever others take.
pub(super) fn slow(medians: &[Option<Duration>], factor: f64, at_least: Duration) -> Vec<Slow> {
    let mut sorted: Vec<(Duration, usize)> =
        medians.iter().enumerate().filter_map(|(index, it)| it.map(|it| (it, index))).collect();
    sorted.sort_unstable();
    let count = sorted.len();
    let mut out: Vec<Slow> = (0..count)
        .filter(|_| count > 1)
        .map(|place| {
            // The lower middle of all but this one: of two endpoints, each is measured by the other.
            let middle = (count - 2) / 2;
            let peers = sorted[if place <= middle { middle + 1 } else { middle }].0;
            Slow { index: sorted[place].1, own: sorted[place].0, peers }
        })
        .filter(|it| it.own >= at_least && it.own.as_secs_f64() > factor * it.peers.as_secs_f64())
        .collect();
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Option<Duration> {
        Some(Duration::from_millis(millis))
    }

    #[test]
    fn a_latency_is_told_within_an_eighth() {
        for micros in [64, 79, 80, 100, 127, 128, 1_000, 54_321, 1_000_000, 60_000_000] {
            let told = middle_of(bucket(Duration::from_micros(micros))).as_micros() as f64;
            assert!((told / micros as f64 - 1.0).abs() <= 0.125, "{micros}: {told}");
        }
        assert_eq!((bucket(Duration::ZERO), bucket(Duration::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn a_median_is_told_and_forgotten() {
        let latencies = Latencies::default();
        assert_eq!(latencies.take_median(0), None);
        (0..10).for_each(|_| latencies.count(Duration::from_millis(20)));
        (0..9).for_each(|_| latencies.count(Duration::from_secs(500)));
        let median = latencies.take_median(19).unwrap().as_secs_f64();
        assert!((0.016..=0.024).contains(&median), "{median}");
        assert_eq!(latencies.take_median(1), None, "it was forgotten");
        latencies.count(Duration::ZERO);
        assert_eq!(latencies.take_median(2), None, "one is no proof");
    }

    #[test]
    fn a_share_of_failures_counts_only_with_enough_requests() {
        let counts = [(5, 20), (12, 20), (9, 9), (20, 20), (10, 20)];
        assert_eq!(failing(&counts, 0.5, 20), [3, 1]);
        let errors = Errors::default();
        [Outcome::Failure, Outcome::Success, Outcome::Abandoned].into_iter().for_each(|it| errors.count(it));
        assert_eq!((errors.take(), errors.take()), ((1, 2), (0, 0)));
    }

    #[test]
    fn slow_is_who_takes_a_multiple_of_what_the_others_take() {
        let out = |medians: &[Option<Duration>]| -> Vec<usize> {
            slow(medians, 3.0, Duration::from_millis(10)).iter().map(|it| it.index).collect()
        };
        assert_eq!(out(&[ms(10), ms(100), ms(12)]), [1]);
        assert_eq!(out(&[ms(100), ms(20)]), [0], "of two, each is measured by the other");
        assert_eq!(out(&[ms(50), ms(400), ms(10), ms(12), ms(11)]), [1, 0]);
        assert_eq!(out(&[ms(100), None, None]), [0_usize; 0], "nobody to compare with");
        assert_eq!(out(&[ms(9), ms(1)]), [0_usize; 0], "quick enough, whatever others take");
        assert_eq!(out(&[ms(500), ms(500), ms(500)]), [0_usize; 0], "all are slow: nobody stands out");
    }
}
