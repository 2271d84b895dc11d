//! Metric families of requests and of the configuration, and the handles that are resolved once.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use once_cell::sync::Lazy;
use parking_lot::Mutex;
use prometheus::{
    Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, TextEncoder,
    register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};

use super::process;
use super::status::{StatusCounts, register_status_counts};

/// So many routes get series of their own; the others share those of `other`.
const ROUTES_MAX: usize = 1_000;
/// Stands for the routes beyond the bound.
const OTHER: &str = "other";
/// Stands for no route at all; the bound does not count it.
const NONE: &str = "none";

/// Seconds; from what a local answer takes to the longest request.
const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

pub(super) static DURATION: Lazy<HistogramVec> = Lazy::new(|| {
    let help = "Time from a request's head to the end of its answer";
    let buckets = BUCKETS.to_vec();
    register_histogram_vec!("moongate_request_duration_seconds", help, &["route"], buckets).expect(ONCE)
});
static RECEIVED: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Bytes of request bodies";
    register_int_counter_vec!("moongate_request_body_bytes_total", help, &["route"]).expect(ONCE)
});
static SENT: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Bytes of answer bodies";
    register_int_counter_vec!("moongate_response_body_bytes_total", help, &["route"]).expect(ONCE)
});
pub(super) static REFUSED: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Answers that the gateway gave by itself, by error code";
    register_int_counter_vec!("moongate_refusals_total", help, &["code"]).expect(ONCE)
});
/// Requests under way.
pub static IN_FLIGHT: Lazy<IntGauge> =
    Lazy::new(|| register_int_gauge!("moongate_requests_in_flight", "Requests under way").expect(ONCE));
/// Server-sent event streams and upgraded connections under way.
pub static STREAMS_OPEN: Lazy<Streams> = Lazy::new(|| Streams {
    open: register_int_gauge!("moongate_streams_open", "Event streams and upgraded connections under way").expect(ONCE),
    total: register_int_counter!("moongate_streams_total", "Event streams and upgraded connections that began")
        .expect(ONCE),
});
static LONG_LIVED: Lazy<IntGaugeVec> = Lazy::new(|| {
    let help = "Connections that last and are under way, by kind: events, websocket, tunnel, body";
    register_int_gauge_vec!("moongate_long_lived_connections", help, &["route", "kind"]).expect(ONCE)
});
static UNTERMINATED: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Event streams that their upstream ended without the marker that the route names";
    register_int_counter_vec!("moongate_streams_unterminated_total", help, &["route"]).expect(ONCE)
});
static CALLS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Calls of gRPC and gRPC-Web, by the status that their client was told";
    register_int_counter_vec!("moongate_grpc_calls_total", help, &["route", "grpc_status"]).expect(ONCE)
});
static RELOAD_SUCCESS: Lazy<IntGauge> = Lazy::new(|| {
    let help = "1 if the last load of the configuration succeeded, 0 if it was refused";
    register_int_gauge!("moongate_config_last_reload_success", help).expect(ONCE)
});
static RELOAD_TIME: Lazy<IntGauge> = Lazy::new(|| {
    let help = "When the serving configuration was loaded, in seconds since 1970";
    register_int_gauge!("moongate_config_last_reload_success_timestamp_seconds", help).expect(ONCE)
});
/// Configurations in memory: the one that serves, and those that requests and sockets under way keep.
pub static GENERATIONS_ALIVE: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Configurations in memory: the one that serves, and those that requests under way keep";
    register_int_gauge!("moongate_config_generations_alive", help).expect(ONCE)
});
/// Loads of the configuration, by result: `ok` or `refused`.
pub static RELOADS: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Loads of the configuration, by result";
    register_int_counter_vec!("moongate_config_reloads_total", help, &["result"]).expect(ONCE)
});
static ROUTES: Lazy<Mutex<HashMap<Arc<str>, Weak<RouteMetrics>>>> = Lazy::new(Mutex::default);

/// The kinds of connections that last, as the label `kind` names them.
pub const LONG_LIVED_KINDS: [&str; 4] = ["events", "websocket", "tunnel", "body"];

/// The statuses of gRPC, as the label `grpc_status` names them, and what no status of it is.
const CALL_STATUSES: [&str; 18] =
    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "other"];

const ONCE: &str = "the name is registered once";

/// Counts streams.
pub struct Streams {
    open: IntGauge,
    total: IntCounter,
}

impl Streams {
    /// One begins.
    pub fn inc(&self) {
        self.open.inc();
        self.total.inc();
    }

    /// One ends.
    pub fn dec(&self) {
        self.open.dec();
    }

    pub(super) fn open(&self) -> i64 {
        self.open.get()
    }

    pub(super) fn total(&self) -> u64 {
        self.total.get()
    }
}

/// The series of one route, resolved when a snapshot with the route comes to life.
#[derive(Debug)]
pub struct RouteMetrics {
    /// The value of the `route` label.
    label: Arc<str>,
    by_status: StatusCounts,
    duration: Histogram,
    received: IntCounter,
    sent: IntCounter,
    /// Those of connections that last, a series a kind; few routes have any.
    long_lived: [OnceLock<IntGauge>; LONG_LIVED_KINDS.len()],
    unterminated: OnceLock<IntCounter>,
    /// Those of calls, a series a status; few routes have any.
    calls: OnceLock<Box<[OnceLock<IntCounter>; CALL_STATUSES.len()]>>,
}

impl RouteMetrics {
    /// What stands in the label `route`.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// How many requests ended with each status.
    pub(super) fn by_status(&self) -> &StatusCounts {
        &self.by_status
    }

    /// The series of the route of this name: those that it had before a reload, or new ones; beyond
    /// the bound, the shared ones of `other`.
    pub fn of(name: &str) -> Arc<Self> {
        register_families();
        let mut routes = ROUTES.lock();
        if let Some(known) = routes.get(name).and_then(Weak::upgrade) {
            return known;
        }
        routes.retain(|_, it| it.strong_count() > 0);
        let label: Arc<str> = if routes.len() < ROUTES_MAX || name == NONE { name.into() } else { OTHER.into() };
        if let Some(shared) = routes.get(&label).and_then(Weak::upgrade) {
            return shared;
        }
        let made = Arc::new(Self::resolve(label.clone()));
        routes.insert(label, Arc::downgrade(&made));
        made
    }

    fn resolve(label: Arc<str>) -> Self {
        Self {
            by_status: StatusCounts::new(),
            duration: DURATION.with_label_values(&[&*label]),
            received: RECEIVED.with_label_values(&[&*label]),
            sent: SENT.with_label_values(&[&*label]),
            long_lived: Default::default(),
            unterminated: OnceLock::new(),
            calls: OnceLock::new(),
            label,
        }
    }

    /// How many connections of one of the [`LONG_LIVED_KINDS`] are under way.
    pub fn long_lived(&self, kind: usize) -> &IntGauge {
        self.long_lived[kind].get_or_init(|| LONG_LIVED.with_label_values(&[&*self.label, LONG_LIVED_KINDS[kind]]))
    }

    /// Event streams that ended without their marker.
    pub fn unterminated(&self) -> &IntCounter {
        self.unterminated.get_or_init(|| UNTERMINATED.with_label_values(&[&*self.label]))
    }

    /// Counts a call of gRPC that ended with this status.
    pub fn record_call(&self, status: u16) {
        let place = usize::from(status).min(CALL_STATUSES.len() - 1);
        let counter = &self.calls.get_or_init(Box::default)[place];
        counter.get_or_init(|| CALLS.with_label_values(&[&*self.label, CALL_STATUSES[place]])).inc();
    }

    /// Counts a request that ended; of status 0, if nothing could be answered.
    pub fn record(&self, status: u16, duration: Duration, received: u64, sent: u64) {
        self.by_status.count(status);
        self.duration.observe(duration.as_secs_f64());
        if received > 0 {
            self.received.inc_by(received);
        }
        if sent > 0 {
            self.sent.inc_by(sent);
        }
    }
}

/// Makes the families of routes known before the lock of the routes is taken, by whoever makes or drops one: whoever gathers
/// holds the registry while the counts of routes are asked for, which takes that lock. A family that is registered within it
/// would wait for the registry, and both for one another.
fn register_families() {
    static REGISTERED: Lazy<()> = Lazy::new(|| {
        Lazy::force(&DURATION);
        for family in [&RECEIVED, &SENT, &UNTERMINATED, &CALLS] {
            Lazy::force(family);
        }
        Lazy::force(&LONG_LIVED);
    });
    Lazy::force(&REGISTERED);
}

impl Drop for RouteMetrics {
    fn drop(&mut self) {
        // A route of the same name may have come back meanwhile: then the series are its own.
        let mut routes = ROUTES.lock();
        if routes.get(&self.label).is_some_and(|it| it.strong_count() > 0) {
            return;
        }
        routes.remove(&self.label);
        let label = &[&*self.label];
        let _ = DURATION.remove_label_values(label);
        let _ = RECEIVED.remove_label_values(label);
        let _ = SENT.remove_label_values(label);
        let _ = UNTERMINATED.remove_label_values(label);
        if self.calls.get().is_some() {
            for status in CALL_STATUSES {
                let _ = CALLS.remove_label_values(&[&*self.label, status]);
            }
        }
        for kind in LONG_LIVED_KINDS {
            let _ = LONG_LIVED.remove_label_values(&[&*self.label, kind]);
        }
    }
}

/// How many routes have series of their own, and how many may.
pub fn route_series() -> (usize, usize) {
    let routes = ROUTES.lock();
    let own = routes.iter().filter(|(name, it)| it.strong_count() > 0 && ![OTHER, NONE].contains(&&***name));
    (own.count(), ROUTES_MAX)
}

/// The counters and gauges of one family now, each with the value of its last label. Walks all
/// families: not for a worker.
pub fn figures(family: &str) -> Vec<(String, f64)> {
    let families = prometheus::gather();
    let metrics = families.iter().filter(|it| it.name() == family).flat_map(|it| it.get_metric());
    let figure = |it: &prometheus::proto::Metric| {
        let label = it.get_label().last().map(|it| it.value().to_owned()).unwrap_or_default();
        (label, it.get_counter().get_value() + it.get_gauge().get_value())
    };
    metrics.map(figure).collect()
}

/// Counts an answer that the gateway gave by itself, by its error code.
pub fn refused(code: &'static str) {
    REFUSED.with_label_values(&[code]).inc();
}

/// A new configuration serves.
pub fn last_reload_succeeded() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    RELOAD_SUCCESS.set(1);
    RELOAD_TIME.set(now.as_secs().try_into().unwrap_or(i64::MAX));
    RELOADS.with_label_values(&["ok"]).inc();
}

/// A new configuration was refused; the old one goes on serving.
pub fn last_reload_failed() {
    RELOAD_SUCCESS.set(0);
    RELOADS.with_label_values(&["refused"]).inc();
}

/// A gauge that nobody has touched is 0, not missing: alerts and dashboards rely on it.
fn complete() {
    Lazy::force(&IN_FLIGHT);
    Lazy::force(&STREAMS_OPEN);
    register_status_counts();
    process::refresh();
}

/// All metrics in Prometheus' text format. Takes as long as there are series: not for a worker.
pub fn exposition() -> Vec<u8> {
    complete();
    let mut text = Vec::with_capacity(16 * 1024);
    // The encoder fails on families without a series only, which `gather` leaves out.
    let _ = TextEncoder::new().encode(&prometheus::gather(), &mut text);
    text
}

/// The counts of all routes that live, with their labels. Walks all of them: not for a worker.
pub(super) fn status_counts() -> Vec<Arc<RouteMetrics>> {
    // The last one to let go of a route's series takes the lock: not within it.
    ROUTES.lock().values().filter_map(Weak::upgrade).collect()
}
