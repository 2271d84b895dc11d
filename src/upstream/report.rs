//! What the admin API shows of upstreams.

use serde::Serialize;

use super::breaker::BreakerState;
use super::compile::UpstreamKind;
use super::concurrency::ConcurrencyReport;
use super::config::Balance;
use super::discovery::Feed;
use super::endpoint::{Endpoint, Health};
use super::live::Live;
use crate::base::shown_millis;
use crate::telemetry::Timestamp;

/// An upstream, as the admin API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UpstreamReport {
    /// Its name.
    pub name: String,
    /// `remote` or `local`.
    pub kind: &'static str,
    /// The local service that answers, if it is local.
    pub local: Option<String>,
    /// How requests are spread; nothing if it is local.
    pub balance: Option<Balance>,
    /// What its breaker does, if it has one.
    pub breaker: Option<BreakerState>,
    /// What it depends on, those of its dependencies too, and whether each can serve.
    pub depends_on: Vec<DependencyReport>,
    /// The dependency for lack of which its requests get 503.
    pub blocked_by: Option<String>,
    /// Whether so few endpoints are healthy that requests go to all of them.
    pub panic: bool,
    /// How many requests at once there may be, if that has a limit, and how many there are.
    pub concurrency: Option<ConcurrencyReport>,
    /// After how long a request goes to a second endpoint as well; nothing if it does not, or too little is known yet.
    pub hedge_after_ms: Option<f64>,
    /// How requests are spread over zones, if one is preferred.
    pub zones: Option<ZonesReport>,
    /// How many endpoints get requests.
    pub eligible: usize,
    /// Where they come from, beside those that are listed.
    pub discovery: Vec<SourceReport>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointReport>,
}

/// How requests are spread over zones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ZonesReport {
    /// The gateway's own.
    pub own: String,
    /// Which part of the requests stays there, from 0 to 1; nothing while checks are not believed, and zones with them.
    pub own_share: Option<f64>,
}

/// An upstream that another one depends on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DependencyReport {
    /// Its name.
    pub upstream: String,
    /// Whether it can serve: an endpoint of its own gets requests, and its breaker is not open.
    pub available: bool,
}

/// A source of endpoints, as the admin API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceReport {
    /// Such as `dns backend.internal:8080`.
    pub source: String,
    /// How many endpoints its last good answer has.
    pub endpoints: usize,
    /// When that was confirmed last; nothing if there never was one.
    pub confirmed: Option<Timestamp>,
    /// Why the newest look-up came to nothing, if it did; the last good answer goes on serving.
    pub error: Option<String>,
}

/// An endpoint, as the admin API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointReport {
    /// Where it is.
    pub address: String,
    /// Its share, in relation to the others.
    pub weight: u32,
    /// The zone that it stands in.
    pub zone: Option<String>,
    /// What is known about it.
    pub health: Health,
    /// Whether it is left out for now because it failed too many requests.
    pub ejected: bool,
    /// The last time that it was left out.
    pub ejection: Option<EjectionReport>,
    /// What its own breaker does, if it has one.
    pub breaker: Option<BreakerState>,
    /// Whether it gets less than its share, because it is new or healthy again.
    pub slow_start: bool,
    /// Whether its first check is still to come.
    pub pending: bool,
    /// Since when its health is as it is.
    pub since: Timestamp,
    /// When it was checked last.
    pub last_check: Option<Timestamp>,
    /// Why the last check failed; nothing if it passed.
    pub last_error: Option<String>,
    /// The last time that a request could not be connected.
    pub connect_failure: Option<ConnectFailure>,
    /// Requests that it is working on.
    pub in_flight: u32,
    /// Requests that it got and that ended.
    pub requests: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// The moving average of the time to an answer's head.
    pub latency_ms: Option<f64>,
}

/// That an endpoint was left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EjectionReport {
    /// When.
    pub at: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Why, in plain words.
    pub reason: String,
}

/// A request that could not be connected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConnectFailure {
    /// When.
    pub at: Timestamp,
    /// Why, in plain words.
    pub reason: String,
}

impl UpstreamReport {
    pub(super) fn new(live: &Live) -> Self {
        let upstream = live.upstream();
        let checked = upstream.health.is_some();
        let (kind, local) = match &upstream.kind {
            UpstreamKind::Remote => ("remote", None),
            UpstreamKind::Local(local) => ("local", Some(local.service.to_string())),
        };
        Self {
            name: upstream.name.to_string(),
            kind,
            balance: local.is_none().then_some(upstream.balance),
            local,
            breaker: live.breaker(),
            depends_on: dependencies(live),
            blocked_by: live.missing_dependency().map(|it| it.to_string()),
            panic: live.panics(),
            concurrency: live.concurrency().map(|it| it.report()),
            hedge_after_ms: live.hedge_after().map(|it| shown_millis(it.as_secs_f64())),
            zones: upstream.own_zone.as_ref().map(|own| ZonesReport {
                own: own.to_string(),
                own_share: live.own_zone_share().map(|it| (it * 1e3).round() / 1e3),
            }),
            eligible: live.eligible(),
            discovery: live.feeds().iter().map(|it| SourceReport::new(it)).collect(),
            endpoints: live.endpoints().iter().map(|it| EndpointReport::new(it, checked)).collect(),
        }
    }
}

fn dependencies(live: &Live) -> Vec<DependencyReport> {
    let each = live.dependencies().map(|it| it.each()).unwrap_or_default();
    each.into_iter().map(|(name, available)| DependencyReport { upstream: name.to_string(), available }).collect()
}

impl SourceReport {
    fn new(feed: &Feed) -> Self {
        let found = feed.found();
        Self {
            source: feed.source().to_string(),
            endpoints: found.endpoints.len(),
            confirmed: found.confirmed.map(Timestamp::of),
            error: found.error,
        }
    }
}

impl EndpointReport {
    fn new(endpoint: &Endpoint, checked: bool) -> Self {
        let notes = endpoint.state.notes();
        Self {
            address: endpoint.address().to_string(),
            weight: endpoint.weight(),
            zone: endpoint.zone().map(str::to_owned),
            health: endpoint.health(),
            ejected: endpoint.is_ejected(),
            ejection: endpoint.record().last_ejection().map(|it| EjectionReport {
                at: Timestamp::of(it.at),
                until: Timestamp::of(it.at + it.time),
                reason: it.reason,
            }),
            breaker: endpoint.breaker(),
            slow_start: endpoint.starts_slowly(),
            pending: checked && endpoint.health() == Health::Unknown,
            since: Timestamp::of(notes.since),
            last_check: notes.last_check.map(Timestamp::of),
            last_error: notes.last_error,
            connect_failure: notes
                .connect_failure
                .map(|(at, reason)| ConnectFailure { at: Timestamp::of(at), reason: reason.to_string() }),
            in_flight: endpoint.in_flight(),
            requests: endpoint.state.requests(),
            failures: endpoint.state.failures(),
            latency_ms: endpoint.latency().map(|it| shown_millis(it.as_secs_f64())),
        }
    }
}
