//! The few figures that `GET /api/metrics` shows (S2S-6), read off the same series that Prometheus sees.

use std::collections::BTreeMap;

use prometheus::core::Collector;
use serde::Serialize;

use crate::base::shown_millis;
use crate::telemetry::metrics::{DURATION, IN_FLIGHT, REFUSED, STREAMS_OPEN};
use crate::telemetry::status::requests_by_class;

/// Totals since the start of the process.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Requests that ended.
    pub requests: Requests,
    /// Streams.
    pub streams: Streams,
    /// Answers that the gateway gave by itself, by error code.
    pub errors: BTreeMap<String, u64>,
    /// Percentiles of the time from a request's head to the end of its answer.
    pub latency_ms: Latency,
}

/// Requests, in all and by class of status.
#[derive(Debug, Serialize)]
pub struct Requests {
    /// All that ended.
    pub total: u64,
    /// Under way now.
    pub in_flight: i64,
    /// By class: `2xx`, `4xx` and so on.
    pub by_class: BTreeMap<&'static str, u64>,
}

/// Event streams and upgraded connections.
#[derive(Debug, Serialize)]
pub struct Streams {
    /// Open now.
    pub open: i64,
    /// All that began.
    pub total: u64,
}

/// Milliseconds, interpolated within the histogram's buckets.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Half of the requests took no longer.
    pub p50: f64,
    /// 95 of 100 took no longer.
    pub p95: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
}

/// The figures of this moment.
pub fn summary() -> Summary {
    let by_class = requests_by_class();
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    let buckets = durations();
    Summary {
        requests: Requests {
            total: by_class.iter().sum(),
            in_flight: IN_FLIGHT.get(),
            by_class: classes.into_iter().zip(by_class).collect(),
        },
        streams: Streams { open: STREAMS_OPEN.open(), total: STREAMS_OPEN.total() },
        errors: errors(),
        latency_ms: Latency {
            p50: percentile(&buckets, 0.50),
            p95: percentile(&buckets, 0.95),
            p99: percentile(&buckets, 0.99),
        },
    }
}

fn errors() -> BTreeMap<String, u64> {
    let families = REFUSED.collect();
    let metrics = families.iter().flat_map(|family| family.get_metric());
    let code = |labels: &[prometheus::proto::LabelPair]| labels.first().map(|it| it.value().to_owned());
    metrics.filter_map(|it| Some((code(it.get_label())?, it.get_counter().get_value() as u64))).collect()
}

/// The cumulative buckets of all routes together: (upper bound in seconds, requests up to it).
fn durations() -> Vec<(f64, u64)> {
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    for family in DURATION.collect() {
        for metric in family.get_metric() {
            let histogram = metric.get_histogram();
            buckets.resize(buckets.len().max(histogram.get_bucket().len()), (0.0, 0));
            for (sum, bucket) in buckets.iter_mut().zip(histogram.get_bucket()) {
                *sum = (bucket.upper_bound(), sum.1 + bucket.cumulative_count());
            }
        }
    }
    buckets
}

/// Linear within the bucket that the rank falls into; the last bound if it lies beyond.
fn percentile(buckets: &[(f64, u64)], share: f64) -> f64 {
    let total = buckets.last().map_or(0, |it| it.1);
    let rank = total as f64 * share;
    let mut below = (0.0, 0);
    for &(bound, count) in buckets {
        if total > 0 && count as f64 >= rank {
            let inside = (rank - below.1 as f64) / ((count - below.1).max(1) as f64);
            return shown_millis(below.0 + (bound - below.0) * inside);
        }
        below = (bound, count);
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_interpolated_within_its_bucket() {
        let buckets = [(0.001, 50), (0.002, 100)];
        assert!((percentile(&buckets, 0.50) - 1.0).abs() < 1e-9);
        assert!((percentile(&buckets, 0.75) - 1.5).abs() < 1e-9);
        assert!((percentile(&[], 0.5)).abs() < 1e-9);
    }
}
