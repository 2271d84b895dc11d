//! What checking bodies comes to, and what it costs.

use once_cell::sync::Lazy;
use prometheus::{IntCounter, IntCounterVec, register_int_counter, register_int_counter_vec};

const ONCE: &str = "the name is registered once";

static CHECKS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Bodies that were checked by a schema, by what came of it: fits, unfit, too_much_work or busy";
    register_int_counter_vec!("moongate_schema_checks_total", help, &["result"]).expect(ONCE)
});
pub(super) static FITS: Lazy<IntCounter> = Lazy::new(|| CHECKS.with_label_values(&["fits"]));
pub(super) static UNFIT: Lazy<IntCounter> = Lazy::new(|| CHECKS.with_label_values(&["unfit"]));
pub(super) static TOO_MUCH: Lazy<IntCounter> = Lazy::new(|| CHECKS.with_label_values(&["too_much_work"]));
pub(super) static BUSY: Lazy<IntCounter> = Lazy::new(|| CHECKS.with_label_values(&["busy"]));
/// The work that it was.
pub(super) static LOOKS_TAKEN: Lazy<IntCounter> = Lazy::new(|| {
    let help = "Looks at values of bodies that checking them by schemas took";
    register_int_counter!("moongate_schema_looks_total", help).expect(ONCE)
});
