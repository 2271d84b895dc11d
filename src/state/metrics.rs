//! The metric families of the state.

use once_cell::sync::Lazy;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_int_counter, register_int_counter_vec,
    register_int_gauge, register_int_gauge_vec,
};

use crate::state::room::{Lack, Usage};

const ONCE: &str = "a family is registered once, under a name of its own";

pub(super) static UP: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Whether the state can be reached: 1 or 0";
    register_int_gauge!("moongate_state_up", help).expect(ONCE)
});

pub(super) static FAILURES: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Calls of the state that failed, by reason: down, timeout, broken, refused or crowded";
    register_int_counter_vec!("moongate_state_failures_total", help, &["reason"]).expect(ONCE)
});

static ENTRIES: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "Values in memory, by room: idempotency or other";
    register_int_gauge_vec!("moongate_state_entries", help, &["room"]).expect(ONCE)
});

static BYTES: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "Bytes of the values in memory and their keys, by room: idempotency or other";
    register_int_gauge_vec!("moongate_state_bytes", help, &["room"]).expect(ONCE)
});

pub(super) static COUNTERS: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Counters of rate limits in memory, those included whose time is over";
    register_int_gauge!("moongate_rate_limit_counters", help).expect(ONCE)
});

pub(super) static COUNTERS_EVICTED: Lazy<IntCounter> = Lazy::new(|| {
    let help = "Counters of rate limits that were pushed out by others before their time was over";
    register_int_counter!("moongate_rate_limit_counters_evicted_total", help).expect(ONCE)
});

static FULL: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Values that were refused because there was no room in memory, by what was full: network (the share of one \
                network in the idempotency records), idempotency (their room) or other (that of everything else)";
    register_int_counter_vec!("moongate_state_full_total", help, &["room"]).expect(ONCE)
});

/// The values that were refused for this lack.
pub(super) fn full(lack: Lack) -> IntCounter {
    FULL.with_label_values(&[match lack {
        Lack::Network => "network",
        Lack::Idempotency => "idempotency",
        Lack::Other => "other",
    }])
}

pub(super) fn show_used(room: &str, used: &Usage) {
    let figure = |it: usize| i64::try_from(it).unwrap_or(i64::MAX);
    ENTRIES.with_label_values(&[room]).set(figure(used.entries));
    BYTES.with_label_values(&[room]).set(figure(used.bytes));
}

pub(super) static PUBSUB: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Messages between gateways, by what became of them: sent, received or missed";
    register_int_counter_vec!("moongate_state_notices_total", help, &["result"]).expect(ONCE)
});

/// Shows the series of values in memory from the start: a scrape finds zeros, not gaps.
pub(super) fn begin_memory() {
    ["idempotency", "other"].iter().for_each(|it| show_used(it, &Usage::default()));
    [Lack::Network, Lack::Idempotency, Lack::Other].into_iter().for_each(|it| full(it).inc_by(0));
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
