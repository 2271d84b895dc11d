//! The metric families of the state.

use once_cell::sync::Lazy;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, register_int_counter, register_int_counter_vec, register_int_gauge,
};

const ONCE: &str = "a family is registered once, under a name of its own";

pub(super) static UP: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Whether the state can be reached: 1 or 0";
    register_int_gauge!("moongate_state_up", help).expect(ONCE)
});

pub(super) static FAILURES: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Calls of the state that failed, by reason: down, timeout, broken, refused or crowded";
    register_int_counter_vec!("moongate_state_failures_total", help, &["reason"]).expect(ONCE)
});

pub(super) static ENTRIES: Lazy<IntGauge> =
    Lazy::new(|| register_int_gauge!("moongate_state_entries", "Values in memory").expect(ONCE));

pub(super) static BYTES: Lazy<IntGauge> = Lazy::new(|| {
    register_int_gauge!("moongate_state_bytes", "Bytes of the values in memory and their keys").expect(ONCE)
});

pub(super) static COUNTERS: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Counters of rate limits in memory, those included whose time is over";
    register_int_gauge!("moongate_rate_limit_counters", help).expect(ONCE)
});

pub(super) static COUNTERS_EVICTED: Lazy<IntCounter> = Lazy::new(|| {
    let help = "Counters of rate limits that were pushed out by others before their time was over";
    register_int_counter!("moongate_rate_limit_counters_evicted_total", help).expect(ONCE)
});

pub(super) static FULL: Lazy<IntCounter> = Lazy::new(|| {
    let help = "Values that were refused because the memory for them was full";
    register_int_counter!("moongate_state_full_total", help).expect(ONCE)
});

pub(super) static PUBSUB: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Messages between gateways, by what became of them: sent, received or missed";
    register_int_counter_vec!("moongate_state_notices_total", help, &["result"]).expect(ONCE)
});

/// Shows the series of values in memory from the start: a scrape finds zeros, not gaps.
pub(super) fn begin_memory() {
    ENTRIES.set(0);
    BYTES.set(0);
    FULL.inc_by(0);
}

/// The counters of failed calls, each resolved once.
pub(super) struct Failures {
    pub(super) down: IntCounter,
    pub(super) timeout: IntCounter,
    pub(super) broken: IntCounter,
    pub(super) refused: IntCounter,
    pub(super) crowded: IntCounter,
}

impl Failures {
    pub(super) fn new() -> Self {
        let of = |reason: &str| FAILURES.with_label_values(&[reason]);
        Self {
            down: of("down"),
            timeout: of("timeout"),
            broken: of("broken"),
            refused: of("refused"),
            crowded: of("crowded"),
        }
    }
}
