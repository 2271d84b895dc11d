//! How many tokens are issued.

use once_cell::sync::Lazy;
use prometheus::{IntCounter, IntCounterVec, register_int_counter_vec};

static ISSUED: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Access tokens issued, by what for: session, password, provider, refresh";
    register_int_counter_vec!("moongate_tokens_issued_total", help, &["for"]).expect("the name is registered once")
});

pub(super) static SESSION: Lazy<IntCounter> = Lazy::new(|| ISSUED.with_label_values(&["session"]));
pub(super) static PASSWORD: Lazy<IntCounter> = Lazy::new(|| ISSUED.with_label_values(&["password"]));
pub(super) static PROVIDER: Lazy<IntCounter> = Lazy::new(|| ISSUED.with_label_values(&["provider"]));
pub(super) static REFRESH: Lazy<IntCounter> = Lazy::new(|| ISSUED.with_label_values(&["refresh"]));
