//! The metric families of upstreams. Handles are resolved when an endpoint or upstream comes to
//! life; its series go when it goes.

use once_cell::sync::Lazy;
use prometheus::{
    GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, register_gauge_vec, register_int_counter_vec,
    register_int_gauge, register_int_gauge_vec,
};

const ONCE: &str = "a family is registered once, under a name of its own";

pub(super) static HEALTHY: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help =
        "Whether an endpoint gets requests: 1 if healthy or not checked, 0 if unhealthy, none before its first check.";
    register_int_gauge_vec!("moongate_endpoint_healthy", help, &["upstream", "endpoint"]).expect(ONCE)
});

pub(super) static IN_FLIGHT: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "Requests that an endpoint is working on, as of this scrape.";
    register_int_gauge_vec!("moongate_endpoint_in_flight", help, &["upstream", "endpoint"]).expect(ONCE)
});

pub(super) static CHECKS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Health checks by their result, pass or fail.";
    register_int_counter_vec!("moongate_health_checks_total", help, &["upstream", "result"]).expect(ONCE)
});

pub(super) static CHANGES: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Endpoints that became healthy or unhealthy, came or went.";
    register_int_counter_vec!("moongate_endpoint_changes_total", help, &["upstream"]).expect(ONCE)
});

pub(super) static REQUESTS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Requests sent to an endpoint by their result: success, failure or abandoned.";
    let labels = &["upstream", "endpoint", "result"];
    register_int_counter_vec!("moongate_upstream_requests_total", help, labels).expect(ONCE)
});

pub(super) static DISCOVERIES: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Answers of sources of endpoints (DNS, files, the registry) by their result, success or failure.";
    register_int_counter_vec!("moongate_discovery_answers_total", help, &["result"]).expect(ONCE)
});

pub(super) static INSTANCES: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Instances that registered and did not end.";
    register_int_gauge!("moongate_registry_instances", help).expect(ONCE)
});

pub(super) static BREAKER: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "The breaker of an upstream: 0 closed, 1 half open, 2 open.";
    register_int_gauge_vec!("moongate_breaker_state", help, &["upstream"]).expect(ONCE)
});

pub(super) static ENDPOINT_BREAKER: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "The breaker of an endpoint: 0 closed, 1 half open, 2 open.";
    register_int_gauge_vec!("moongate_endpoint_breaker_state", help, &["upstream", "endpoint"]).expect(ONCE)
});

pub(super) static HEALTH_CHANGES: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Changes of the health of upstreams and their endpoints, by the event that the log has for them.";
    register_int_counter_vec!("moongate_health_changes_total", help, &["upstream", "event"]).expect(ONCE)
});

pub(super) static DEPENDENCIES: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "Whether all that an upstream depends on can serve: 1 if so, 0 if its requests get 503.";
    register_int_gauge_vec!("moongate_upstream_dependencies_up", help, &["upstream"]).expect(ONCE)
});

/// US-015.3: the name that dashboards know.
pub(super) static CSP_BREAKER: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "The breaker of an upstream: 0 closed, 1 half open, 2 open.";
    register_int_gauge_vec!("csp_circuit_breaker_state", help, &["upstream"]).expect(ONCE)
});

pub(super) static EJECTIONS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Endpoints that were left out because they failed requests.";
    register_int_counter_vec!("moongate_endpoint_ejections_total", help, &["upstream"]).expect(ONCE)
});

pub(super) static RETRIES: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Requests that would be sent again, by what came of it: sent, or over_budget.";
    register_int_counter_vec!("moongate_upstream_retries_total", help, &["upstream", "result"]).expect(ONCE)
});

pub(super) static PANIC: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "Whether so few endpoints are healthy that requests go to all of them.";
    register_int_gauge_vec!("moongate_upstream_panic", help, &["upstream"]).expect(ONCE)
});

pub(super) static ZONE_SHARE: Lazy<GaugeVec> = Lazy::new(|| {
    let help = "Which part of an upstream's requests stays in the gateway's own zone, from 0 to 1.";
    register_gauge_vec!("moongate_upstream_zone_share", help, &["upstream"]).expect(ONCE)
});

static ZONE_REQUESTS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Requests sent to endpoints in the gateway's own zone (own), and to those in others (other).";
    register_int_counter_vec!("moongate_upstream_zone_requests_total", help, &["upstream", "zone"]).expect(ONCE)
});

const fn zone_label(own: bool) -> &'static str {
    if own { "own" } else { "other" }
}

/// The requests of an upstream inside or outside the gateway's own zone.
pub(super) fn zone_requests(upstream: &str, own: bool) -> IntCounter {
    ZONE_REQUESTS.with_label_values(&[upstream, zone_label(own)])
}

/// There is no share of zones while checks are not believed.
pub(super) fn forget_zone_share(upstream: &str) {
    let _ = ZONE_SHARE.remove_label_values(&[upstream]);
}

/// Removes what an upstream has for zones.
pub(super) fn retire_zones(upstream: &str) {
    forget_zone_share(upstream);
    for own in [true, false] {
        let _ = ZONE_REQUESTS.remove_label_values(&[upstream, zone_label(own)]);
    }
}

/// CP2-A: the name that dashboards know.
pub(super) static STICKY_HITS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Requests of sticky sessions that went to the endpoint of their session.";
    register_int_counter_vec!("sticky_hits_total", help, &["upstream"]).expect(ONCE)
});

/// CP2-A: the name that dashboards know.
pub(super) static STICKY_MISSES: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Requests of sticky sessions that had no endpoint yet, or one that gets no requests.";
    register_int_counter_vec!("sticky_miss_total", help, &["upstream"]).expect(ONCE)
});

pub(super) static STICKY_SESSIONS: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "Sticky sessions that the gateway remembers; those with a cookie are remembered by clients.";
    register_int_gauge_vec!("moongate_sticky_sessions", help, &["upstream"]).expect(ONCE)
});

pub(super) static HEDGES: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Requests that were sent to a second endpoint while the first had not answered, by which answer came first: won (the second's) or lost.";
    register_int_counter_vec!("moongate_upstream_hedges_total", help, &["upstream", "result"]).expect(ONCE)
});

pub(super) static CONCURRENCY_LIMIT: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "How many requests at once an upstream may work on, as of this scrape.";
    register_int_gauge_vec!("moongate_upstream_concurrency_limit", help, &["upstream"]).expect(ONCE)
});

pub(super) static CONCURRENCY_IN_USE: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "How many requests count against the concurrency limit of an upstream, as of this scrape.";
    register_int_gauge_vec!("moongate_upstream_concurrency_in_use", help, &["upstream"]).expect(ONCE)
});

pub(super) static CONCURRENCY_WAITING: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "How many requests wait for an upstream that is at its concurrency limit, as of this scrape.";
    register_int_gauge_vec!("moongate_upstream_concurrency_waiting", help, &["upstream"]).expect(ONCE)
});

pub(super) static SHED: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Requests that got 503 because an upstream is at its concurrency limit, by the priority of their route.";
    register_int_counter_vec!("moongate_upstream_shed_total", help, &["upstream", "priority"]).expect(ONCE)
});
