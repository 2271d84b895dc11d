//! How the store is doing.

use once_cell::sync::Lazy;
use prometheus::{Histogram, IntCounter, IntCounterVec, register_histogram, register_int_counter_vec};

const ONCE: &str = "the name is registered once";

static CALLS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Calls to the store, by result: ok, conflict, unavailable";
    register_int_counter_vec!("moongate_store_calls_total", help, &["result"]).expect(ONCE)
});

pub(super) static DURATION: Lazy<Histogram> = Lazy::new(|| {
    let help = "Time that a call to the store took";
    let buckets = vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
    register_histogram!("moongate_store_call_duration_seconds", help, buckets).expect(ONCE)
});

pub(super) static OK: Lazy<IntCounter> = Lazy::new(|| CALLS.with_label_values(&["ok"]));
pub(super) static CONFLICT: Lazy<IntCounter> = Lazy::new(|| CALLS.with_label_values(&["conflict"]));
pub(super) static UNAVAILABLE: Lazy<IntCounter> = Lazy::new(|| CALLS.with_label_values(&["unavailable"]));
