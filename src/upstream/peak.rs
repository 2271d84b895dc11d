//! Latency as peak EWMA: a slow answer counts at once and in full, and is forgotten slowly.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::base::coarse_now;

/// After this time, what was known weighs a third.
const DECAY: f32 = 10_000.0;

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A latency in milliseconds, and when it was updated: both in one word, so that no reader sees half of it.
#[derive(Debug, Default)]
pub(super) struct Peak(AtomicU64);

impl Peak {
    /// The latency in milliseconds as of now: what nobody has asked for a while is worth a try again.
    pub(super) fn now(&self) -> f32 {
        let (known, at) = unpack(self.0.load(Relaxed));
        decayed(known, millis(coarse_now()).saturating_sub(at))
    }

    /// Takes in an answer.
    pub(super) fn saw(&self, latency: Duration) {
        let (newest, now) = (latency.as_secs_f32() * 1e3, millis(coarse_now()));
        let update = |word| {
            let (known, at) = unpack(word);
            let rest = decayed(1.0, now.saturating_sub(at));
            let blended = if newest > known { newest } else { known * rest + newest * (1.0 - rest) };
            Some(pack(blended, now.max(at)))
        };
        // The closure never refuses, so neither does the update.
        let _ = self.0.fetch_update(Relaxed, Relaxed, update);
    }
}

fn decayed(value: f32, millis: u32) -> f32 {
    value * (-(millis as f32) / DECAY).exp()
}

/// Milliseconds since the process began to count them: for moments that atomics hold.
pub(super) fn millis_now() -> u64 {
    u64::try_from(coarse_now().saturating_duration_since(*BEGIN).as_millis()).unwrap_or(u64::MAX)
}

fn millis(at: Instant) -> u32 {
    u32::try_from(at.saturating_duration_since(*BEGIN).as_millis()).unwrap_or(u32::MAX)
}

fn pack(value: f32, at: u32) -> u64 {
    u64::from(value.to_bits()) << 32 | u64::from(at)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_what_is_quick_does_not_hide_it() {
        let peak = Peak::default();
        peak.saw(Duration::from_millis(10));
        peak.saw(Duration::from_millis(500));
        assert!(peak.now() > 450.0);
        peak.saw(Duration::from_millis(1));
        assert!(peak.now() > 300.0, "one quick answer is no proof: {}", peak.now());
    }

    #[test]
    fn what_is_known_fades() {
        assert!(decayed(100.0, 10_000) < 37.0 && decayed(100.0, 0) == 100.0);
        assert_eq!(unpack(pack(1.5, 7)), (1.5, 7));
    }
}
