//! A copy of a request for another upstream, whose answer nobody gets: what a new version would do with real traffic.
//!
//! The original waits for nothing of it: the copy is sent when the request's body is there as a whole, by a task of its
//! own, and is dropped and counted when there is no place for it, or its body is too large or breaks off.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::header::{EXPECT, HeaderValue};
use once_cell::sync::Lazy;
use parking_lot::Mutex;
use pingora::http::RequestHeader;
use prometheus::{IntCounter, IntCounterVec, IntGauge, register_int_counter_vec, register_int_gauge};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::attempts::{Destination, Forwarder, RequestBody};
use super::policy::Policy;
use super::response::{Frame, UpstreamResponse};
use super::upstreams::Destinations;
use super::worker::Worker;
use crate::base::{At, ByteSize, Deadline, Diagnostics};
use crate::pipeline::{AttemptInfo, Context, X_MOONGATE_MIRROR};
use crate::upstream::Priority;

/// So many copies of a route are under way at once, unless it says otherwise.
const CONCURRENCY: u32 = 100;
/// The largest body that is copied, unless the route says otherwise.
const BODY_LIMIT: u64 = 256 * 1024;
/// So much of an answer is read, so that its connection can serve again; what has more is cut. In bytes.
const ANSWER_MAX: usize = 1024 * 1024;
/// Of a million requests.
const ALL: u32 = 1_000_000;
const ONCE: &str = "the name is registered once";

static UNDER_WAY: Lazy<IntGauge> = Lazy::new(|| {
    register_int_gauge!("moongate_mirrors_in_flight", "Copies of requests for another upstream under way").expect(ONCE)
});
static MIRRORED: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Requests that were to be copied, by what became of the copy: answered, failed, busy, body_too_large, incomplete";
    register_int_counter_vec!("moongate_mirrored_requests_total", help, &["route", "result"]).expect(ONCE)
});
static ROUTES: Lazy<Mutex<HashMap<Arc<str>, Weak<Places>>>> = Lazy::new(Mutex::default);

/// A copy of the route's requests for another upstream. Nobody gets its answers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// The upstream that gets the copies. It is not the route's own.
    pub upstream: String,
    /// The share of the requests that is copied, from 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub percent: f64,
    /// The most copies under way at once; others are dropped and counted. Default 100.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub concurrency: Option<u32>,
    /// The largest body that is copied; a request with a larger one is not. Default 256KiB.
    #[serde(default)]
    pub body_limit: Option<ByteSize>,
}

/// Compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// The number of the upstream.
    pub upstream: usize,
    of_a_million: u32,
    concurrency: usize,
    body_limit: usize,
}

impl Mirror {
    /// Reports what makes no sense; `upstream` is the number of the upstream, which was looked up.
    pub fn compile(config: &MirrorConfig, upstream: usize, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        if !(0.0..=100.0).contains(&config.percent) {
            diagnostics.error(&at.key("percent"), "not a share").help("a number from 0 to 100");
        }
        if config.concurrency == Some(0) {
            let diagnostic = diagnostics.error(&at.key("concurrency"), "no copy could ever be sent");
            diagnostic.help("at least 1; to send none, leave `mirror` out");
        }
        Self {
            upstream,
            of_a_million: (config.percent * 10_000.0).round() as u32,
            concurrency: config.concurrency.unwrap_or(CONCURRENCY) as usize,
            body_limit: config.body_limit.map_or(BODY_LIMIT, |it| it.0) as usize,
        }
    }
}

/// The copies of one route that are under way, and the counts: a reload changes none of them.
struct Places {
    route: Arc<str>,
    taken: AtomicUsize,
    answered: IntCounter,
    failed: IntCounter,
    busy: IntCounter,
    too_large: IntCounter,
    incomplete: IntCounter,
}

impl Places {
    fn of(route: &Arc<str>) -> Arc<Self> {
        let mut routes = ROUTES.lock();
        if let Some(known) = routes.get(route).and_then(Weak::upgrade) {
            return known;
        }
        let counter = |result: &str| MIRRORED.with_label_values(&[&**route, result]);
        let made = Arc::new(Self {
            route: route.clone(),
            taken: AtomicUsize::new(0),
            answered: counter("answered"),
            failed: counter("failed"),
            busy: counter("busy"),
            too_large: counter("body_too_large"),
            incomplete: counter("incomplete"),
        });
        routes.retain(|_, it| it.strong_count() > 0);
        routes.insert(route.clone(), Arc::downgrade(&made));
        made
    }

    fn take(self: &Arc<Self>, most: usize) -> Option<Place> {
        let place = Place(self.clone());
        UNDER_WAY.inc();
        (self.taken.fetch_add(1, AcqRel) < most).then_some(place)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let mut routes = ROUTES.lock();
        if routes.get(&self.route).is_some_and(|it| it.strong_count() > 0) {
            return; // the route came back meanwhile, and the series are its own
        }
        routes.remove(&self.route);
        for result in ["answered", "failed", "busy", "body_too_large", "incomplete"] {
            let _ = MIRRORED.remove_label_values(&[&*self.route, result]);
        }
    }
}

/// A place for a copy under way.
struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, AcqRel);
        UNDER_WAY.dec();
    }
}

/// How many copies are under way: a stop waits for them.
pub fn mirrors_under_way() -> usize {
    usize::try_from(UNDER_WAY.get()).unwrap_or(0)
}

/// The runtime of a route's mirror.
pub struct MirrorRuntime {
    mirror: Mirror,
    destination: Destination,
    policy: Arc<Policy>,
    places: Arc<Places>,
}

impl MirrorRuntime {
    /// Of a route with this policy.
    pub fn new(mirror: Mirror, destination: Destination, policy: &Policy, route: &Arc<str>) -> Arc<Self> {
        // Where the other upstream is at its limit, everybody else's requests come first.
        let policy = Arc::new(Policy { priority: Priority::Background, ..policy.clone() });
        Arc::new(Self { mirror, destination, policy, places: Places::of(route) })
    }

    /// What takes a request's body down for its copy, if it is to be copied. The copy is sent when the body has ended.
    pub fn copy(
        self: &Arc<Self>,
        request: &RequestHeader,
        context: &Context,
        worker: &Arc<Worker>,
        upstreams: &Arc<Destinations>,
    ) -> Option<Box<BodyCopy>> {
        if fastrand::u32(..ALL) >= self.mirror.of_a_million {
            return None;
        }
        let mut request = request.clone();
        request.remove_header(&EXPECT);
        // Where the gateway's own fields stand among the others already, the mark is put there, too.
        if context.forwarded_headers_set {
            request.insert_header(X_MOONGATE_MIRROR, HeaderValue::from_static("1")).ok()?;
        }
        let context = Context { balance_key: None, sticky: None, deadline: None, upstreams: None, ..context.clone() };
        let context = Context { mirrored: true, ..context };
        let copy = RequestCopy {
            mirror: self.clone(),
            request,
            context,
            worker: worker.clone(),
            upstreams: upstreams.clone(),
        };
        Some(Box::new(BodyCopy { copy: Some(copy), body: BytesMut::new() }))
    }
}

/// A request's copy, until its body is there.
struct RequestCopy {
    mirror: Arc<MirrorRuntime>,
    request: RequestHeader,
    context: Context,
    worker: Arc<Worker>,
    upstreams: Arc<Destinations>,
}

/// Takes a body down as it passes.
pub struct BodyCopy {
    copy: Option<RequestCopy>,
    body: BytesMut,
}

impl std::fmt::Debug for BodyCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyCopy").finish_non_exhaustive()
    }
}

impl BodyCopy {
    /// A piece goes by.
    pub(super) fn push(&mut self, piece: &[u8]) {
        let Some(copy) = &self.copy else { return };
        if self.body.len() + piece.len() > copy.mirror.mirror.body_limit {
            copy.mirror.places.too_large.inc();
            self.copy = None;
            self.body = BytesMut::new();
            return;
        }
        self.body.extend_from_slice(piece);
    }

    /// The body has ended: the copy goes out.
    pub(super) fn end(mut self) {
        let body = std::mem::take(&mut self.body).freeze();
        if let Some(copy) = self.copy.take() {
            copy.send(body);
        }
    }

    /// The body is at hand.
    pub fn whole(mut self, body: &Bytes) {
        let Some(copy) = self.copy.take() else { return };
        match body.len() > copy.mirror.mirror.body_limit {
            true => copy.mirror.places.too_large.inc(),
            false => copy.send(body.clone()),
        }
    }
}

impl Drop for BodyCopy {
    fn drop(&mut self) {
        if let Some(copy) = &self.copy {
            copy.mirror.places.incomplete.inc();
        }
    }
}

impl RequestCopy {
    fn send(self, body: Bytes) {
        let Some(place) = self.mirror.places.take(self.mirror.mirror.concurrency) else {
            self.mirror.places.busy.inc();
            return;
        };
        tokio::spawn(async move {
            let limit = self.mirror.policy.request;
            let answered = Deadline::within(limit, self.forward(body)).await.unwrap_or(false);
            let places = &place.0;
            if answered { places.answered.inc() } else { places.failed.inc() }
        });
    }

    /// Whether there was an answer, whatever its status.
    async fn forward(&self, body: Bytes) -> bool {
        let Self { mirror, request, context, worker, upstreams } = self;
        let context = Context { started: Instant::now(), ..context.clone() };
        let (destination, policy) = (&mirror.destination, &*mirror.policy);
        let forwarder = Forwarder { worker, destination, policy, upstreams };
        let mut info = AttemptInfo::default();
        let forwarded = forwarder.forward(request, RequestBody::bytes(body), &context, &mut info);
        let answer = Box::pin(forwarded).await;
        tracing::debug!(
            event = "mirrored", request_id = context.request_id.as_str(), trace_id = context.trace.trace_id.as_str(),
            route = &*mirror.places.route, upstream = %destination.name(), attempts = info.attempts,
            upstream_status = answer.as_ref().map_or(0, |it| it.head.status.as_u16()),
            duration_ms = context.started.elapsed().as_millis() as u64,
        );
        let Ok(UpstreamResponse { mut body, .. }) = answer else { return false };
        let mut read = 0;
        while read <= ANSWER_MAX {
            match body.frame(policy).await {
                Ok(Frame::Data(piece)) => read += piece.len(),
                Ok(Frame::End(_)) => return true,
                Err(_) => return false,
            }
        }
        body.cancel();
        true
    }
}
