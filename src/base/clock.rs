//! The time of day, which does not go back.
//!
//! A system's clock that is set back would bring credentials to life that have ended. Which of the two times is the
//! right one nobody can know, so the later one counts until the process ends or the clock has caught up: what
//! this denies by mistake is seen at once, what the other would let in is not.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// By how many seconds we are ahead of a clock that was set back.
static AHEAD: AtomicU64 = AtomicU64::new(0);
/// The latest time that was returned, for the moments until a step back is seen.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// A clock that is slowed down or sped up differs by less between two looks.
const STEP_MIN: Duration = Duration::from_secs(1);

/// Seconds since 1970; never less than what was returned before.
pub fn unix_seconds() -> u64 {
    let system = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let now = system.saturating_add(AHEAD.load(Relaxed));
    let latest = LATEST.load(Relaxed);
    if now > latest {
        LATEST.fetch_max(now, Relaxed);
    }
    now.max(latest)
}

/// Compares the system's clock with one that can't be set.
#[derive(Debug)]
pub struct ClockWatch {
    system: SystemTime,
    steady: Instant,
}

impl ClockWatch {
    /// Begins with the time of now.
    pub fn begin() -> Self {
        Self { system: SystemTime::now(), steady: Instant::now() }
    }

    /// To be called every second or so. If the clock was set back since the last time: by how much. From then on
    /// [`unix_seconds`] stays ahead of it.
    pub fn look(&mut self) -> Option<Duration> {
        let (system, steady) = (SystemTime::now(), Instant::now());
        let expected = self.system + steady.saturating_duration_since(self.steady);
        *self = Self { system, steady };
        let step = ahead_of(AHEAD.load(Relaxed), expected, system);
        AHEAD.store(step.0, Relaxed);
        step.1
    }
}

/// How far ahead to be from now on, and by how much the clock was set back.
fn ahead_of(ahead: u64, expected: SystemTime, system: SystemTime) -> (u64, Option<Duration>) {
    match (expected.duration_since(system), system.duration_since(expected)) {
        (Ok(back), _) if back >= STEP_MIN => (ahead.saturating_add(back.as_secs_f64().ceil() as u64), Some(back)),
        (_, Ok(forth)) if forth >= STEP_MIN => (ahead.saturating_sub(forth.as_secs()), None),
        _ => (ahead, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_back_is_made_up_for_until_the_clock_has_caught_up() {
        let noon = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let seconds = Duration::from_secs;
        assert_eq!(ahead_of(0, noon, noon - seconds(60)), (60, Some(seconds(60))));
        assert_eq!(ahead_of(60, noon, noon - seconds(1)), (61, Some(seconds(1))));
        assert_eq!(ahead_of(60, noon, noon + seconds(40)), (20, None));
        assert_eq!(ahead_of(60, noon, noon + seconds(100)), (0, None));
        // A clock that is slewed is followed.
        let little = Duration::from_millis(900);
        assert_eq!([ahead_of(7, noon, noon - little), ahead_of(7, noon, noon + little)], [(7, None); 2]);
    }
}
