//! What compression does, and what it leaves alone because there is too much of it.

use once_cell::sync::Lazy;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, register_int_counter, register_int_counter_vec, register_int_gauge,
};

use crate::http::Coding;

const ONCE: &str = "a family is registered once, under a name of its own";

/// The series of one coding.
pub(super) struct Series {
    pub(super) responses: IntCounter,
    pub(super) input: IntCounter,
    pub(super) output: IntCounter,
}

static SERIES: Lazy<[Series; 3]> = Lazy::new(|| {
    let help = "Responses that were compressed, by coding.";
    let responses: IntCounterVec =
        register_int_counter_vec!("moongate_compressed_responses_total", help, &["coding"]).expect(ONCE);
    let help = "Bytes that were compressed, by coding, as upstreams sent them.";
    let input: IntCounterVec =
        register_int_counter_vec!("moongate_compression_input_bytes_total", help, &["coding"]).expect(ONCE);
    let help = "Bytes that were compressed, by coding, as clients got them.";
    let output: IntCounterVec =
        register_int_counter_vec!("moongate_compression_output_bytes_total", help, &["coding"]).expect(ONCE);
    Coding::ALL.map(|coding| Series {
        responses: responses.with_label_values(&[coding.name()]),
        input: input.with_label_values(&[coding.name()]),
        output: output.with_label_values(&[coding.name()]),
    })
});

/// Responses that went out as they were, because too much was being compressed.
pub(super) static SKIPPED: Lazy<IntCounter> = Lazy::new(|| {
    let help = "Responses that went out as they were, because too much was being compressed.";
    register_int_counter!("moongate_compression_skipped_total", help).expect(ONCE)
});

/// Responses that are being compressed.
pub(super) static ACTIVE: Lazy<IntGauge> = Lazy::new(|| {
    register_int_gauge!("moongate_compression_active", "Responses that are being compressed, 512 at most.").expect(ONCE)
});

/// Pieces that wait for a thread.
pub(super) static QUEUED: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Pieces of responses that wait for a thread that compresses them.";
    register_int_gauge!("moongate_compression_queue", help).expect(ONCE)
});

/// Those of a coding.
pub(super) fn of(coding: Coding) -> &'static Series {
    &SERIES[coding as usize]
}
