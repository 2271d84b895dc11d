//! The metric families of the guard.

use once_cell::sync::Lazy;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, register_int_counter, register_int_counter_vec, register_int_gauge,
};

use super::Stage;

const ONCE: &str = "a family is registered once, under a name of its own";

pub(super) static BLOCKED: Lazy<IntGauge> =
    Lazy::new(|| register_int_gauge!("moongate_guard_blocked", "Addresses that are blocked").expect(ONCE));

pub(super) static FULL: Lazy<IntCounter> = Lazy::new(|| {
    let help = "Blocks that could not be kept because there were too many";
    register_int_counter!("moongate_guard_full_total", help).expect(ONCE)
});

pub(super) static ALERTS_LOST: Lazy<IntCounter> = Lazy::new(|| {
    let help = "Alerts that the webhook did not take in time";
    register_int_counter!("moongate_guard_alerts_lost_total", help).expect(ONCE)
});

static BLOCKS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Addresses blocked, by reason: one of the violations, or operator";
    register_int_counter_vec!("moongate_guard_blocks_total", help, &["reason"]).expect(ONCE)
});

static TURNED_AWAY: Lazy<[IntCounter; 2]> = Lazy::new(|| {
    let help = "Connections and requests of blocked addresses";
    let family = register_int_counter_vec!("moongate_guard_turned_away_total", help, &["stage"]).expect(ONCE);
    ["connection", "request"].map(|it| family.with_label_values(&[it]))
});

/// An operator's own words are not labels.
pub(super) fn blocks(reason: &str) -> IntCounter {
    const VIOLATIONS: [&str; 4] = ["connection_flood", "request_flood", "error_flood", "slow_client"];
    let known = VIOLATIONS.into_iter().find(|it| *it == reason);
    BLOCKS.with_label_values(&[known.unwrap_or("operator")])
}

pub(super) fn turned_away(stage: Stage) {
    TURNED_AWAY[stage as usize].inc();
}
