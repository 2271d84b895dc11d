//! What the cache counts.

use once_cell::sync::Lazy;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, register_int_counter, register_int_counter_vec, register_int_gauge,
};

const ONCE: &str = "the name is registered once";

pub(super) static METRICS: Lazy<Metrics> = Lazy::new(Metrics::register);

pub(super) struct Metrics {
    pub(super) hits: IntCounter,
    pub(super) misses: IntCounter,
    pub(super) stale: IntCounter,
    pub(super) revalidated: IntCounter,
    pub(super) bypassed: IntCounter,
    pub(super) collapsed: IntCounter,
    pub(super) stored: IntCounter,
    pub(super) evicted: IntCounter,
    pub(super) purged: IntCounter,
    pub(super) refreshes: IntGauge,
    pub(super) shared_hits: IntCounter,
    pub(super) shared_misses: IntCounter,
    pub(super) shared_failed: IntCounter,
    pub(super) shared_skipped: IntCounter,
    pub(super) shared_written: IntCounter,
}

impl Metrics {
    fn register() -> Self {
        let help = "Requests on routes with a cache, by what the cache could do for them";
        let requests: IntCounterVec =
            register_int_counter_vec!("moongate_cache_requests_total", help, &["result"]).expect(ONCE);
        let help = "Reads and writes of cached responses in the shared state, by result";
        let shared_tier: IntCounterVec =
            register_int_counter_vec!("moongate_cache_shared_total", help, &["result"]).expect(ONCE);
        let counter = |name: &str, help: &str| register_int_counter!(name, help).expect(ONCE);
        Self {
            hits: requests.with_label_values(&["hit"]),
            misses: requests.with_label_values(&["miss"]),
            stale: requests.with_label_values(&["stale"]),
            revalidated: requests.with_label_values(&["revalidated"]),
            bypassed: requests.with_label_values(&["bypass"]),
            collapsed: counter("moongate_cache_collapsed_total", "Requests that waited for another one's response"),
            stored: counter("moongate_cache_stored_total", "Responses that were stored"),
            evicted: counter("moongate_cache_evicted_total", "Cached responses that had to make room"),
            purged: counter("moongate_cache_purged_total", "Cached responses that were purged"),
            refreshes: register_int_gauge!(
                "moongate_cache_refreshes_in_flight",
                "Responses that are fetched anew while stale ones are served"
            )
            .expect(ONCE),
            shared_hits: shared_tier.with_label_values(&["hit"]),
            shared_misses: shared_tier.with_label_values(&["miss"]),
            shared_failed: shared_tier.with_label_values(&["failed"]),
            shared_skipped: shared_tier.with_label_values(&["skipped"]),
            shared_written: shared_tier.with_label_values(&["written"]),
        }
    }
}

pub(super) static BYTES: Lazy<IntGauge> =
    Lazy::new(|| register_int_gauge!("moongate_cache_bytes", "What cached responses take in memory").expect(ONCE));
pub(super) static OBJECTS: Lazy<IntGauge> =
    Lazy::new(|| register_int_gauge!("moongate_cache_objects", "Cached responses in memory").expect(ONCE));
