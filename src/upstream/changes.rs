//! What becomes of an upstream's health, told to those who have to know (R6.3): each change is a line of the log,
//! counts in a metric, and goes to the webhook of `alerts.health`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::field::display;

use super::metrics;
use crate::alerts::Alerts;
use crate::base::Period;
use crate::telemetry::Timestamp;

/// What comes and goes within this time is one alert: sources that flap are told of so often, and not more.
const TOGETHER: Duration = Duration::from_secs(5);
/// So many addresses of each kind an alert names.
const NAMED_MAX: usize = 100;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    EndpointHealthy,
    EndpointUnhealthy,
    EndpointEjected,
    EndpointReadmitted,
    EndpointBreakerOpen,
    EndpointBreakerHalfOpen,
    EndpointBreakerClosed,
    BreakerOpen,
    BreakerHalfOpen,
    BreakerClosed,
    DependencyDown,
    DependencyUp,
}

impl Event {
    const ALL: [Self; 12] = [
        Self::EndpointHealthy,
        Self::EndpointUnhealthy,
        Self::EndpointEjected,
        Self::EndpointReadmitted,
        Self::EndpointBreakerOpen,
        Self::EndpointBreakerHalfOpen,
        Self::EndpointBreakerClosed,
        Self::BreakerOpen,
        Self::BreakerHalfOpen,
        Self::BreakerClosed,
        Self::DependencyDown,
        Self::DependencyUp,
    ];

    /// The word for programs, and the sentence for people.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::EndpointHealthy => ("endpoint_healthy", "the endpoint gets requests"),
            Self::EndpointUnhealthy => ("endpoint_unhealthy", "the endpoint gets no more requests"),
            Self::EndpointEjected => ("endpoint_ejected", "the endpoint is left out for a while"),
            Self::EndpointReadmitted => ("endpoint_readmitted", "the endpoint gets requests again"),
            Self::EndpointBreakerOpen => {
                ("endpoint_breaker_open", "the endpoint failed again and again, and gets no requests for a while")
            }
            Self::EndpointBreakerHalfOpen => {
                ("endpoint_breaker_half_open", "one request finds out whether the endpoint works again")
            }
            Self::EndpointBreakerClosed => ("endpoint_breaker_closed", "the endpoint works again"),
            Self::BreakerOpen => {
                ("breaker_open", "the upstream failed again and again, and gets no requests for a while")
            }
            Self::BreakerHalfOpen => ("breaker_half_open", "one request finds out whether the upstream works again"),
            Self::BreakerClosed => ("breaker_closed", "the upstream works again"),
            Self::DependencyDown => {
                ("dependency_down", "the upstream gets no requests: one that it depends on is down")
            }
            Self::DependencyUp => ("dependency_up", "all that the upstream depends on is there again"),
        }
    }

    /// Whether it is one of health, and not of finding out about it.
    const fn is_alert(self) -> bool {
        !matches!(self, Self::BreakerHalfOpen | Self::EndpointBreakerHalfOpen)
    }

    /// Whether it is one for the worse.
    const fn is_bad(self) -> bool {
        matches!(
            self,
            Self::EndpointUnhealthy
                | Self::EndpointEjected
                | Self::EndpointBreakerOpen
                | Self::BreakerOpen
                | Self::DependencyDown
        )
    }
}

/// One change.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    pub(super) event: Event,
    /// Whose it is, if not that of the whole upstream.
    pub(super) endpoint: Option<SocketAddr>,
    /// Why, in plain words.
    pub(super) reason: Option<&'a str>,
    /// For how long.
    pub(super) time: Option<Duration>,
    /// How many endpoints get requests now.
    pub(super) eligible: Option<usize>,
    /// The upstream that is the reason.
    pub(super) dependency: Option<&'a str>,
}

impl Change<'_> {
    pub(super) fn new(event: Event, endpoint: Option<SocketAddr>) -> Self {
        Self { event, endpoint, reason: None, time: None, eligible: None, dependency: None }
    }

    /// As the webhook gets it; what there is not is left out.
    fn as_alert(&self, upstream: &str) -> Value {
        let (word, sentence) = self.event.words();
        let mut alert = json!({
            "event": word,
            "message": sentence,
            "at": Timestamp::now().as_str(),
            "upstream": upstream,
            "endpoint": self.endpoint.map(|it| it.to_string()),
            "reason": self.reason,
            "dependency": self.dependency,
            "seconds": self.time.map(|it| it.as_secs_f64()),
            "eligible": self.eligible,
        });
        alert.as_object_mut().expect("it was just made one").retain(|_, it| !it.is_null());
        alert
    }
}

/// Endpoints that came, or that went, since the last alert of them.
#[derive(Default)]
struct Passing {
    /// The first of them, each once.
    named: Vec<SocketAddr>,
    count: u64,
}

impl Passing {
    fn add(&mut self, address: SocketAddr) {
        self.count += 1;
        if self.named.len() < NAMED_MAX && !self.named.contains(&address) {
            self.named.push(address);
        }
    }

    fn names(&self) -> Vec<String> {
        self.named.iter().map(SocketAddr::to_string).collect()
    }
}

/// Tells of one upstream's changes.
pub(super) struct Changes {
    upstream: Arc<str>,
    alerts: Option<Alerts>,
    told: Notify,
    /// Those that came and those that went, for the next alert.
    passing: Mutex<[Passing; 2]>,
    passed: Notify,
}

impl Changes {
    pub(super) fn new(upstream: &Arc<str>, alerts: Option<Alerts>) -> Self {
        let (passing, passed) = (Mutex::default(), Notify::new());
        Self { upstream: Arc::clone(upstream), alerts, told: Notify::new(), passing, passed }
    }

    /// Whether anybody is told of endpoints that come and go, beside the log.
    pub(super) fn has_alerts(&self) -> bool {
        self.alerts.is_some()
    }

    /// An endpoint came, or went: the next alert of such says so.
    pub(super) fn saw_pass(&self, address: SocketAddr, came: bool) {
        if self.alerts.is_some() {
            self.passing.lock()[usize::from(!came)].add(address);
            self.passed.notify_one();
        }
    }

    /// Sends what came and went in one alert, some seconds after the first of it, again and again.
    pub(super) async fn tell_of_passing(&self, eligible: impl Fn() -> usize) {
        if self.alerts.is_none() {
            return;
        }
        loop {
            // What a predecessor of this task has heard of, and not told, is told by this one.
            while self.passing.lock().iter().all(|it| it.count == 0) {
                self.passed.notified().await;
            }
            sleep(TOGETHER).await;
            self.flush_passing(eligible());
        }
    }

    /// What came and went so far is no news.
    pub(super) fn forget_passing(&self) {
        *self.passing.lock() = Default::default();
    }

    /// Sends what came and went so far, if anything did.
    pub(super) fn flush_passing(&self, eligible: usize) {
        let [came, went] = std::mem::take(&mut *self.passing.lock());
        let Some(alerts) = self.alerts.as_ref().filter(|_| came.count + went.count > 0) else { return };
        alerts.send(json!({
            "event": "endpoints_changed",
            "message": "other endpoints than before are known",
            "at": Timestamp::now().as_str(),
            "upstream": &*self.upstream,
            "added": came.names(),
            "removed": went.names(),
            "additions": came.count,
            "removals": went.count,
            "eligible": eligible,
        }));
    }

    /// Whose changes they are.
    pub(super) fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Returns when something has been told since this was asked last: for one who listens.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    pub(super) fn tell(&self, change: &Change<'_>) {
        let Change { event, endpoint, reason, time, eligible, dependency } = *change;
        let (upstream, (word, sentence)) = (&*self.upstream, event.words());
        metrics::HEALTH_CHANGES.with_label_values(&[upstream, word]).inc();
        self.told.notify_one();
        let (endpoint, time) = (endpoint.map(display), time.map(|it| display(Period(it))));
        if event.is_bad() {
            tracing::warn!(event = word, upstream, endpoint, reason, dependency, time, eligible, "{sentence}");
        } else {
            tracing::info!(event = word, upstream, endpoint, reason, dependency, time, eligible, "{sentence}");
        }
        if let Some(alerts) = self.alerts.as_ref().filter(|_| event.is_alert()) {
            alerts.send(change.as_alert(upstream));
        }
    }

    /// Its series go with it.
    pub(super) fn retire(&self) {
        for event in Event::ALL {
            let _ = metrics::HEALTH_CHANGES.remove_label_values(&[&*self.upstream, event.words().0]);
        }
    }
}
