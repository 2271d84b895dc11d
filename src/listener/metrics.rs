//! What the listeners count. Handles are resolved once for a socket, none while it accepts.

use once_cell::sync::Lazy;
use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_int_counter_vec, register_int_gauge,
    register_int_gauge_vec,
};

use super::handshake::Cause;

const ONCE: &str = "the name is registered here only";

static OPEN: Lazy<IntGaugeVec> = Lazy::new(|| {
    register_int_gauge_vec!("moongate_connections_open", "Connections now open.", &["listener"]).expect(ONCE)
});
static TOTAL: Lazy<IntCounterVec> = Lazy::new(|| {
    register_int_counter_vec!("moongate_connections_total", "Connections let in.", &["listener"]).expect(ONCE)
});
static REFUSED: Lazy<IntCounterVec> = Lazy::new(|| {
    register_int_counter_vec!(
        "moongate_connections_refused_total",
        "Connections closed before anything was read, by reason.",
        &["listener", "reason"]
    )
    .expect(ONCE)
});
static HANDSHAKE_FAILURES: Lazy<IntCounterVec> = Lazy::new(|| {
    register_int_counter_vec!(
        "moongate_tls_handshake_failures_total",
        "TLS handshakes that failed or took too long, by cause.",
        &["listener", "cause"]
    )
    .expect(ONCE)
});

/// By listener and file: as many series as the configuration names certificates.
pub(super) static CERTIFICATE_ENDS: Lazy<IntGaugeVec> = Lazy::new(|| {
    register_int_gauge_vec!(
        "moongate_tls_certificate_expiry_timestamp_seconds",
        "When a listener's certificate that is in use ends, in seconds since 1970.",
        &["listener", "certificate"]
    )
    .expect(ONCE)
});

static REQUESTS_REFUSED: Lazy<IntCounterVec> = Lazy::new(|| {
    register_int_counter_vec!(
        "moongate_http2_requests_refused_total",
        "Requests of HTTP/2 that were given back unread (REFUSED_STREAM), by reason.",
        &["listener", "reason"]
    )
    .expect(ONCE)
});
static FLOODS: Lazy<IntCounterVec> = Lazy::new(|| {
    register_int_counter_vec!(
        "moongate_http2_floods_total",
        "Connections ended (ENHANCE_YOUR_CALM), since they brought frames and frames that move no request.",
        &["listener"]
    )
    .expect(ONCE)
});

/// Certificates, authorities and lists of revoked ones of which the files can't be used any more.
pub(super) static CERTIFICATES_KEPT: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Files of certificates that can't be used, so that what they held before is still in use.";
    register_int_gauge!("moongate_tls_certificates_kept", help).expect(ONCE)
});

/// One listener's own counters.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) open: IntGauge,
    pub(super) total: IntCounter,
    pub(super) refused_connections: IntCounter,
    pub(super) refused_per_address: IntCounter,
    pub(super) refused_rate: IntCounter,
    /// By cause, in the order of [`Cause::ALL`].
    pub(super) handshake_failures: [IntCounter; Cause::ALL.len()],
    pub(super) refused_descriptors: IntCounter,
    pub(super) requests_refused_per_address: IntCounter,
    pub(super) requests_refused_descriptors: IntCounter,
    pub(super) floods: IntCounter,
}

impl Metrics {
    pub(super) fn of(listener: &str) -> Self {
        let refused = |reason| REFUSED.with_label_values(&[listener, reason]);
        let requests_refused = |reason| REQUESTS_REFUSED.with_label_values(&[listener, reason]);
        Self {
            open: OPEN.with_label_values(&[listener]),
            total: TOTAL.with_label_values(&[listener]),
            refused_connections: refused("connections"),
            refused_per_address: refused("per_address"),
            refused_rate: refused("rate_per_address"),
            handshake_failures: Cause::ALL.map(|it| HANDSHAKE_FAILURES.with_label_values(&[listener, it.as_str()])),
            refused_descriptors: refused("descriptors"),
            requests_refused_per_address: requests_refused("per_address"),
            requests_refused_descriptors: requests_refused("descriptors"),
            floods: FLOODS.with_label_values(&[listener]),
        }
    }
}
