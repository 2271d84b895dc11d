//! How many requests may be repeated, in proportion to those that come: so that a total outage multiplies nothing.
//!
//! What a request costs is nothing: it is counted already, and looked at when one is to be repeated.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Retries and requests count for so long.
const WINDOW: Duration = Duration::from_secs(10);
/// So many a second are there for those that send little.
const FLOOR: f64 = 3.0;

/// What was repeated lately.
pub(super) struct RetryBudget {
    share: f64,
    window: Mutex<Window>,
}

struct Window {
    began: Instant,
    /// Requests at its begin.
    requests: u64,
    retries: u64,
    /// What is left of the window before, as it slides.
    before: (f64, f64),
}

impl RetryBudget {
    /// Of this share of requests, 0 to 1.
    pub(super) fn new(share: f64) -> Self {
        let window = Window { began: Instant::now(), requests: 0, retries: 0, before: (0.0, 0.0) };
        Self { share, window: Mutex::new(window) }
    }

    /// Whether one more may be repeated, after so many requests in all.
    pub(super) fn take(&self, requests: u64) -> bool {
        self.take_at(requests, Instant::now())
    }

    fn take_at(&self, requests: u64, now: Instant) -> bool {
        let mut window = self.window.lock();
        let passed = now.saturating_duration_since(window.began);
        if passed >= WINDOW {
            // What came while nobody looked is spread evenly over the time since.
            let part = WINDOW.as_secs_f64() / passed.as_secs_f64();
            let came = requests.saturating_sub(window.requests) as f64 * part;
            let repeated = if passed < WINDOW * 2 { window.retries as f64 * part } else { 0.0 };
            *window = Window { began: now, requests, retries: 0, before: (came, repeated) };
        }
        let rest = 1.0 - now.saturating_duration_since(window.began).as_secs_f64() / WINDOW.as_secs_f64();
        let came = requests.saturating_sub(window.requests) as f64 + window.before.0 * rest;
        let repeated = window.retries as f64 + window.before.1 * rest;
        let allowed = came * self.share + FLOOR * WINDOW.as_secs_f64();
        let granted = repeated + 1.0 <= allowed;
        window.retries += u64::from(granted);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_what_comes_and_a_floor() {
        let (budget, begin) = (RetryBudget::new(0.2), Instant::now());
        // Retries are requests, too: of an outage in which all fail.
        let mut granted = 0;
        for request in 0..10_000_u64 {
            let at = begin + Duration::from_millis(request);
            granted += u64::from(budget.take_at(request + granted, at));
        }
        assert!((2_000..=2_700).contains(&granted), "{granted}");
    }

    #[test]
    fn those_that_send_little_may_repeat() {
        let (budget, begin) = (RetryBudget::new(0.2), Instant::now());
        let granted = (0..100).filter(|it| budget.take_at(*it, begin)).count();
        assert!((30..=60).contains(&granted), "{granted}");
        assert!(budget.take_at(100, begin + WINDOW * 3), "and again later");
    }
}
