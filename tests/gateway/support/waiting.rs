//! Waiting for what becomes true a moment after its cause.

use std::thread;
use std::time::{Duration, Instant};

use super::gateway::Gateway;
use super::process::DEADLINE;

/// Looks again and again until it sees it; panics after the deadline with what it was about.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "it does not come to this: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// Lets a time pass that is itself the subject: the life of something, a pace. Never for what may come true meanwhile,
/// which a busy machine would make come later.
pub fn let_pass(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|it| !it.is_zero()) {
        thread::park_timeout(left);
    }
}

/// The value of a series on `/metrics`, named with its labels as it stands there.
#[track_caller]
pub fn figure(gateway: &Gateway, series: &str) -> Option<f64> {
    let text = gateway.admin_get("/metrics").text();
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
    value.map(|it| it.parse().unwrap())
}
