//! From an admitted request to the head of its answer: which endpoint, over which link, and when to try again.

mod hedge;
mod turn;

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{HOST, HeaderName, HeaderValue, RETRY_AFTER, UPGRADE};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::client::HttpSession;
use pingora::{Error, ErrorType};
use smallvec::SmallVec;
use tokio::time::sleep;

use super::call_deadline::{self, GRPC_TIMEOUT};
use super::classify::classify;
use super::hold::{UNDECODABLE, client_failed, show_whole};
use super::http1::Http1;
use super::http2::Http2;
use super::local::Local;
use super::mirror::BodyCopy;
use super::policy::{Pace, Policy};
use super::pool;
use super::request_head::{self, BodyPlan};
use super::response::{Attempt, Link, UpstreamError, UpstreamResponse};
use super::upload::{Upload, UploadError};
use super::upstreams::{Calls, Destinations};
use super::worker::Worker;
use crate::base::{Deadline, Period};
use crate::client::Client;
use crate::http as codec;
use crate::pipeline::{AttemptInfo, Context, LocalService, Refusal, Scheme, Taps};
use crate::transport::Transport;
use crate::upstream::{Endpoint, Live, Outcome, Permit, Picked, Protocol, RetryPolicy, in_words, reading_in_words};

/// Tells clients how often a request was sent.
const ATTEMPTS: HeaderName = HeaderName::from_static("x-moongate-attempts");
/// An endpoint that says to wait longer is not waited for, in seconds.
const RETRY_AFTER_MAX: u64 = 1;

/// Where a route's requests go.
#[derive(Clone)]
pub enum Destination {
    /// To the endpoints of an upstream.
    Upstream(Arc<Live>),
    /// To a service inside the process.
    Local(Arc<str>, Arc<dyn LocalService>),
}

impl Destination {
    /// The name of the upstream or local service.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Upstream(live) => &live.upstream().name,
            Self::Local(name, _) => name,
        }
    }
}

/// Why there is no answer. Nothing but interim answers has gone to the client yet.
#[derive(Debug)]
pub enum ForwardError {
    /// The client can get a refusal that says why.
    Refused(Refusal),
    /// The client left.
    ClientGone,
}

/// Where a request's body comes from, and who waits for the answer.
pub struct RequestBody<'a> {
    client: Option<&'a mut Client>,
    whole: Option<Bytes>,
    taps: Option<Box<Taps>>,
    copy: Option<Box<BodyCopy>>,
    edited: Option<Arc<[HeaderName]>>,
    interim: Option<&'a (dyn Fn(&mut ResponseHeader) + Send + Sync)>,
    report: Option<&'a Mutex<AttemptInfo>>,
}

impl<'a> RequestBody<'a> {
    /// All of it is at hand, and no client waits for it.
    pub fn bytes(body: Bytes) -> Self {
        Self { client: None, whole: Some(body), taps: None, copy: None, edited: None, interim: None, report: None }
    }

    /// It comes from a client, who gets interim answers, and whose leaving ends the attempt; `whole` if all of it has
    /// been read.
    pub fn of(client: &'a mut Client, whole: Option<Bytes>) -> Self {
        Self { client: Some(client), whole, taps: None, copy: None, edited: None, interim: None, report: None }
    }

    /// Those who see what comes from the client before it goes on; what has been read has been seen.
    pub fn with_taps(self, taps: Option<Box<Taps>>) -> Self {
        Self { taps, ..self }
    }

    /// What takes it down for a copy of the request, as it goes on.
    pub fn with_copy(self, copy: Option<Box<BodyCopy>>) -> Self {
        Self { copy, ..self }
    }

    /// Fields that the request's head has the last word about: no trailer takes their place.
    pub fn with_edited(self, edited: Option<Arc<[HeaderName]>>) -> Self {
        Self { edited, ..self }
    }

    /// What happens to the heads of interim answers before the client gets them.
    pub fn with_interim(self, filter: &'a (dyn Fn(&mut ResponseHeader) + Send + Sync)) -> Self {
        Self { interim: Some(filter), ..self }
    }

    /// Where a caller that may stop waiting for the attempts can read how far they are.
    pub fn reporting_to(self, report: &'a Mutex<AttemptInfo>) -> Self {
        Self { report: Some(report), ..self }
    }
}

/// Forwards requests to one destination, under one policy.
#[derive(Clone, Copy)]
pub struct Forwarder<'a> {
    /// The thread's ways to upstreams.
    pub worker: &'a Arc<Worker>,
    /// Where requests go.
    pub destination: &'a Destination,
    /// What bounds them.
    pub policy: &'a Policy,
    /// What a local service may call in its turn.
    pub upstreams: &'a Arc<Destinations>,
}

impl Forwarder<'_> {
    /// Sends a request, to other endpoints too where that is safe, until one answers. What became of the attempts is
    /// reported in `info`, whatever comes of them.
    ///
    /// # Errors
    /// The refusal that the client has to get, or that it left.
    pub async fn forward(
        &self,
        request: &RequestHeader,
        body: RequestBody<'_>,
        context: &Context,
        info: &mut AttemptInfo,
    ) -> Result<UpstreamResponse, ForwardError> {
        info.upstream = Some(self.destination.name().clone());
        let Self { worker, policy, .. } = *self;
        let RequestBody { mut client, mut whole, mut taps, copy, edited, interim, report } = body;
        let (mut declared, mut upgrade) = (None, false);
        if let Some(client) = &mut client
            && whole.is_none()
        {
            upgrade = client.wants_upgrade();
            declared = client.declared_length().filter(|_| !upgrade);
            let too_large = |length: u64| length > policy.body_limit;
            if !client.expects() && !upgrade && !declared.is_some_and(too_large) {
                whole = client.body_at_hand();
            }
            let length = whole.as_ref().map_or(declared.unwrap_or(0), |it| it.len() as u64);
            if too_large(length) {
                return Err(ForwardError::Refused(Refusal::BodyTooLarge { limit: policy.body_limit }));
            }
            if declared == Some(0) && whole.is_none() {
                Box::pin(ends_in_silence(client, policy.idle)).await?;
                whole = Some(Bytes::new());
            }
            if let Some(mut taps) = taps.take_if(|_| whole.is_some()) {
                whole = Some(show_whole(&mut taps, whole.unwrap_or_default())?);
            }
            declared = declared.filter(|_| taps.is_none());
        }
        let upload = match whole {
            _ if upgrade => Upload::none(),
            Some(whole) => {
                if let Some(copy) = copy {
                    copy.whole(&whole);
                }
                Upload::whole(whole)
            }
            None => Upload::streaming(policy.body_limit, taps, edited).with_copy(copy),
        };
        let interims = None;
        let call = Call {
            worker,
            policy,
            request,
            context,
            info,
            report,
            client,
            upload,
            declared,
            upgrade,
            interim,
            interims,
            permit: None,
            outrun: None,
        };
        let response = match self.destination {
            Destination::Upstream(live) => call.ask_upstream(live).await,
            Destination::Local(_, service) => Box::pin(call.ask_service(&**service, self.upstreams)).await,
        };
        match policy.response_limit {
            Some(limit) => response?.within(limit),
            None => response,
        }
    }
}

/// One request on its way.
struct Call<'a> {
    worker: &'a Arc<Worker>,
    policy: &'a Policy,
    request: &'a RequestHeader,
    context: &'a Context,
    info: &'a mut AttemptInfo,
    report: Option<&'a Mutex<AttemptInfo>>,
    client: Option<&'a mut Client>,
    upload: Upload,
    /// The length of a body that streams, if it is known.
    declared: Option<u64>,
    /// The client wants to change protocols.
    upgrade: bool,
    interim: Option<&'a (dyn Fn(&mut ResponseHeader) + Send + Sync)>,
    /// The attempt whose interim answers the client has got: it gets those of no other.
    interims: Option<u8>,
    /// Its place among the requests that the upstream works on, where those have a limit.
    permit: Option<Permit>,
    /// Set once another endpoint has answered first.
    outrun: Option<Arc<AtomicBool>>,
}

/// The endpoints that a request was sent to: seldom more than one.
type Tried = SmallVec<[SocketAddr; 2]>;

/// An endpoint's answer, of which the head is there.
type Answered = (Box<ResponseHeader>, Link, Attempt);

/// An attempt that came to nothing.
struct Failed {
    why: ForwardError,
    /// No part of the request was looked at.
    unprocessed: bool,
}

impl Failed {
    fn unsent(refusal: Refusal) -> Self {
        Self { why: ForwardError::Refused(refusal), unprocessed: true }
    }

    /// The endpoint took longer than anybody waits.
    fn came_too_late(&self) -> bool {
        matches!(self.why, ForwardError::Refused(Refusal::FirstByteTimeout | Refusal::ExchangeTimeout))
    }
}

impl From<ForwardError> for Failed {
    fn from(why: ForwardError) -> Self {
        Self { why, unprocessed: false }
    }
}

impl From<UpstreamError> for Failed {
    fn from(error: UpstreamError) -> Self {
        let unprocessed = error == UpstreamError::Unprocessed;
        Self { why: ForwardError::Refused(error.refusal()), unprocessed }
    }
}

enum Event {
    Head(Result<(Box<ResponseHeader>, bool), UpstreamError>),
    Upload(Result<(), UploadError>),
    ClientGone,
    Late,
}

impl Call<'_> {
    async fn ask_service(
        mut self,
        service: &dyn LocalService,
        upstreams: &Arc<Destinations>,
    ) -> Result<UpstreamResponse, ForwardError> {
        let head = request_head::for_local(self.request, self.context, self.plan());
        let link = Local::begin(service, &head, self.context_of_service(&head, upstreams), self.upgrade);
        let mut link = Link::Local(Box::new(link));
        let began = Instant::now();
        match self.head_from(&mut link, began).await {
            Ok(head) => Ok(UpstreamResponse::new(head, link, self.upload, None)),
            Err(failed) => match link.take_refusal() {
                Some(refusal) => Err(ForwardError::Refused(refusal)),
                None => Err(failed.why),
            },
        }
    }

    /// Whether the protocol that begins is one that the client has named (RFC 9110, section 7.8).
    fn asked_for(&self, head: &ResponseHeader) -> bool {
        let named = |protocol: &[u8]| {
            let mut wanted = codec::tokens(&self.request.headers, &UPGRADE);
            wanted.any(|it| it.eq_ignore_ascii_case(protocol))
        };
        self.upgrade && codec::tokens(&head.headers, &UPGRADE).all(named)
    }

    /// A service can call upstreams; they learn which host the client named, whatever host the service calls.
    fn context_of_service(&self, head: &RequestHeader, upstreams: &Arc<Destinations>) -> Context {
        let calls = Calls {
            worker: self.worker.clone(),
            upstreams: upstreams.clone(),
            policy: Arc::new(self.policy.clone()),
            depth: self.context.depth,
        };
        let mut context = Context { upstreams: Some(Arc::new(calls)), ..self.context.clone() };
        if context.host_received.is_none() {
            context.host_received = head.headers.get(HOST).cloned();
        }
        context
    }

    async fn ask_upstream(mut self, live: &Live) -> Result<UpstreamResponse, ForwardError> {
        if let Some(dependency) = live.missing_dependency() {
            self.info.cause = Some(format!("`{dependency}` is down, which it depends on").into());
            return Err(ForwardError::Refused(Refusal::DependencyDown { dependency }));
        }
        if let Some(limit) = live.concurrency() {
            self.permit = Some(self.turn(live, limit).await?);
        }
        live.admit().map_err(breaker_open)?;
        let retries = &live.upstream().retries;
        let key = self.context.balance_key;
        let mut tried = Tried::new();
        let mut last = Refusal::NoHealthyEndpoint;
        let of_session = self.context.sticky.as_ref().and_then(|it| live.pick_for(it));
        let mut next = of_session.or_else(|| live.pick(key, &tried));
        if next.is_none()
            && let Some(wait) = live.closed_for()
        {
            return Err(breaker_open(wait));
        }
        while let Some(picked) = next.take() {
            if self.is_past_deadline() {
                return Err(ForwardError::Refused(Refusal::CallDeadline));
            }
            let address = picked.endpoint().address();
            self.info.attempts += 1;
            self.info.endpoint = Some(address);
            self.report();
            tried.push(address);
            match self.first_of_two(live, picked, &mut tried).await {
                Ok((mut head, link, mut attempt)) => {
                    if self.info.attempts < retries.attempts
                        && let Some(pause) = self.pause_after_status(live, &head)
                        && let Some(other) = live.pick(key, &tried)
                        && live.may_retry()
                    {
                        attempt.picked.record(attempt.outcome, attempt.latency);
                        self.permit = attempt.permit.take();
                        self.release(link, &attempt.endpoint, live).await;
                        drop(attempt);
                        sleep(pause).await;
                        next = Some(other);
                    } else {
                        self.stick(live, attempt.endpoint.address());
                        if retries.report {
                            let _ = head.insert_header(ATTEMPTS, HeaderValue::from(u16::from(self.info.attempts)));
                        }
                        return Ok(UpstreamResponse::new(head, link, self.upload, Some(attempt)));
                    }
                }
                Err(failed) => {
                    let ForwardError::Refused(refusal) = failed.why else { return Err(failed.why) };
                    if self.info.attempts >= retries.attempts || !self.may_try_again(live, &refusal, failed.unprocessed)
                    {
                        return Err(ForwardError::Refused(refusal));
                    }
                    self.tell_of_failure(live, address, &refusal);
                    next = self.another(live, &tried, &refusal, failed.unprocessed);
                    last = refusal;
                    if self.info.attempts > 1 {
                        sleep(retries.pause_after(self.info.attempts - 1)).await;
                    }
                }
            }
            self.upload.rewind();
        }
        Err(ForwardError::Refused(last))
    }

    /// Another endpoint for a request that failed; the one that did only if it did not look at the request. What reached
    /// nobody costs upstreams nothing and needs no budget, as long as the other one is not known to refuse as well: so
    /// an endpoint that dies costs no request, and a total outage multiplies nothing.
    fn another(&self, live: &Live, tried: &[SocketAddr], refusal: &Refusal, unprocessed: bool) -> Option<Picked> {
        let key = self.context.balance_key;
        let old_connection = self.info.reused && matches!(refusal, Refusal::UpstreamClosed);
        if let Some(other) = live.pick(key, tried) {
            let reached_nobody = unprocessed || matches!(refusal, Refusal::ConnectFailed | Refusal::ConnectTimeout);
            let free = (reached_nobody && !other.endpoint().is_refusing()) || (old_connection && unprocessed);
            return (free || live.may_retry()).then_some(other);
        }
        if !unprocessed && !old_connection {
            return None;
        }
        let same = live.pick(key, &[])?;
        ((old_connection && unprocessed) || live.may_retry()).then_some(same)
    }

    /// The request's session stays with the endpoint that answered.
    fn stick(&mut self, live: &Live, address: SocketAddr) {
        if let Some(session) = &self.context.sticky {
            self.info.sticky_cookie = live.stick(session, address, self.context.scheme == Scheme::Https);
        }
    }

    fn tell_of_failure(&self, live: &Live, address: SocketAddr, refusal: &Refusal) {
        tracing::debug!(
            event = "attempt_failed", request_id = self.context.request_id.as_str(),
            upstream = %live.upstream().name, endpoint = %address, reason = ?refusal,
            cause = self.info.cause.as_deref().unwrap_or_default()
        );
    }

    /// What never reached an upstream may go to another one. What may have reached it is repeated only
    /// if the method says that doing it twice is doing it once (RFC 9110, 9.2.2), or a key does.
    fn may_try_again(&self, live: &Live, refusal: &Refusal, unprocessed: bool) -> bool {
        let retries = &live.upstream().retries;
        self.upload.can_be_sent_again()
            && match refusal {
                Refusal::ConnectFailed | Refusal::ConnectTimeout => retries.on_connect_failure,
                Refusal::UpstreamClosed if unprocessed => retries.on_connect_failure,
                Refusal::UpstreamClosed => retries.on_reset && self.is_idempotent(retries),
                _ => false,
            }
    }

    /// How long to wait before the request is sent again because of its answer's status; `None` if it is not.
    fn pause_after_status(&self, live: &Live, head: &ResponseHeader) -> Option<Duration> {
        let retries = &live.upstream().retries;
        if !retries.on_status(head.status) || !self.upload.can_be_sent_again() || !self.is_idempotent(retries) {
            return None;
        }
        match head.headers.get(RETRY_AFTER) {
            None => Some(retries.pause_after(self.info.attempts)),
            Some(wait) => {
                let seconds: u64 = wait.to_str().ok()?.trim().parse().ok()?;
                (seconds <= RETRY_AFTER_MAX).then(|| Duration::from_secs(seconds))
            }
        }
    }

    fn is_idempotent(&self, retries: &RetryPolicy) -> bool {
        let fields = &self.request.headers;
        let keyed = || fields.contains_key("idempotency-key") || fields.contains_key("x-idempotency-key");
        is_idempotent(&self.request.method) || (retries.keyed && keyed())
    }

    async fn attempt(&mut self, live: &Live, mut picked: Picked) -> Result<Answered, Failed> {
        let began = Instant::now();
        let endpoint = picked.endpoint().clone();
        let link = match live.upstream().protocol {
            Protocol::Http1 => self.over_http1(&endpoint, began).await,
            Protocol::Http2 => Box::pin(self.over_http2(&endpoint)).await,
        };
        let answered = match link {
            Ok(mut link) => match self.head_from(&mut link, began).await {
                Ok(head) => Ok((head, link)),
                Err(failed) => {
                    if let Some(cause) = self.cause_of(&failed, &link, live) {
                        let cause: Arc<str> = cause.into();
                        if !self.info.reused {
                            endpoint.note_failure(cause.clone());
                        }
                        self.info.cause = Some(cause);
                        self.info.failed_endpoint = Some(endpoint.address());
                    }
                    link.cancel();
                    self.release(link, &endpoint, live).await;
                    Err(failed)
                }
            },
            Err(failed) => Err(failed),
        };
        let (head, link) = match answered {
            Ok(answered) => answered,
            Err(failed) => {
                if let (Some(permit), true) = (&self.permit, failed.came_too_late()) {
                    permit.saw(began.elapsed());
                }
                picked.record(classify(Err(&failed.why)), Duration::ZERO);
                return Err(failed);
            }
        };
        let outcome = classify(Ok(head.status));
        let (worker, keep) = (self.worker.clone(), live.upstream().keep_alive.idle);
        let latency = self.info.first_byte.unwrap_or_default().saturating_sub(self.since_start(began));
        let permit = self.permit.take();
        if outcome == Outcome::Success {
            permit.iter().for_each(|it| it.saw(latency));
        }
        Ok((head, link, Attempt { endpoint, picked, worker, keep, latency, outcome, permit }))
    }

    /// Why an endpoint that took the connection gave no answer, in plain words for operators.
    fn cause_of(&self, failed: &Failed, link: &Link, live: &Live) -> Option<String> {
        let ForwardError::Refused(refusal) = &failed.why else { return None };
        let (over_http1, tls) = (matches!(link, Link::Http1(_)), live.upstream().tls.is_some());
        Some(match refusal {
            Refusal::UpstreamClosed if failed.unprocessed => "it says that it did not look at the request".to_owned(),
            Refusal::UpstreamClosed => match link.read_error() {
                Some(error) => reading_in_words(error),
                None if self.info.reused => "it ends the connection before it answers".to_owned(),
                None if !over_http1 => "it ends the connection before it answers: does it speak HTTP/2?".to_owned(),
                None if tls => "it ends a new connection before it answers: is `protocol` right?".to_owned(),
                None => "it ends a new connection before it answers: does it want `tls`?".to_owned(),
            },
            Refusal::UpstreamProtocol if over_http1 => "what it answers is not HTTP/1.1".to_owned(),
            Refusal::UpstreamProtocol => "what it answers is not HTTP/2".to_owned(),
            Refusal::FirstByteTimeout => {
                format!("it does not begin to answer within {}", Period(self.policy.first_byte))
            }
            Refusal::ExchangeTimeout => format!("it does not answer within {}", Period(self.policy.request)),
            _ => return None,
        })
    }

    /// A stream of HTTP/2 that failed leaves its connection whole.
    async fn release(&self, link: Link, endpoint: &Endpoint, live: &Live) {
        if let Link::Http2(link) = link {
            let keep = live.upstream().keep_alive.idle;
            Box::pin(link.release(&self.worker.http2, endpoint.peer(), keep)).await;
        }
    }

    fn report(&self) {
        if let Some(report) = self.report {
            report.lock().clone_from(self.info);
        }
    }

    fn plan(&self) -> BodyPlan<'_> {
        match self.upload.whole_body() {
            Some(whole) => BodyPlan::Whole(whole),
            None if self.upgrade => BodyPlan::Upgrade,
            None => BodyPlan::Streams(self.declared),
        }
    }

    async fn over_http1(&mut self, endpoint: &Endpoint, began: Instant) -> Result<Link, Failed> {
        let stream = self.connection(endpoint, began).await?;
        let plan = self.plan();
        let request = self.request_to_send();
        let head = |out: &mut BytesMut| request_head::write_http1(&request, self.context, plan, out);
        Ok(Link::Http1(Http1::begin(stream, head)))
    }

    async fn connection(&mut self, endpoint: &Endpoint, began: Instant) -> Result<Transport, Failed> {
        let pooled = pool::take(endpoint.key());
        self.info.reused = pooled.is_some();
        if let Some(stream) = pooled {
            self.info.connected = Some(self.since_start(began)); // it takes no time that a clock could tell
            return Ok(stream);
        }
        let worker = self.worker;
        let stream = Box::pin(self.connect(endpoint, worker.connect(endpoint))).await?;
        self.info.connected = Some(self.context.started.elapsed());
        Ok(stream)
    }

    /// A moment as the log has it: from the request's begin.
    fn since_start(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.context.started)
    }

    async fn over_http2(&mut self, endpoint: &Endpoint) -> Result<Link, Failed> {
        if self.upgrade {
            return Err(Failed::unsent(Refusal::UpstreamProtocol)); // it can't change protocols
        }
        let worker = self.worker;
        let (session, reused) = self.connect(endpoint, worker.http2.get_http_session(endpoint.peer())).await?;
        self.info.reused = reused;
        self.info.connected = Some(self.context.started.elapsed());
        let HttpSession::H2(session) = session else { return Err(Failed::unsent(Refusal::UpstreamProtocol)) };
        let head = request_head::for_http2(&self.request_to_send(), self.context, self.plan());
        let no_body = self.upload.whole_body().is_some_and(Bytes::is_empty);
        match Http2::begin(session, head, no_body) {
            Ok(link) => Ok(Link::Http2(Box::new(link))),
            Err(error) => Err(self.not_connected(endpoint, connect_failed(&error), in_words(&error))),
        }
    }

    /// Connects within the route's limit, and the call's.
    async fn connect<T>(
        &mut self,
        endpoint: &Endpoint,
        connecting: impl Future<Output = pingora::Result<T>>,
    ) -> Result<T, Failed> {
        let left = self.context.deadline.map(|it| it.saturating_duration_since(Instant::now()));
        let limit = left.map_or(self.policy.connect, |it| it.min(self.policy.connect));
        match Deadline::within(limit, connecting).await {
            Some(Ok(connected)) => Ok(connected),
            Some(Err(error)) => Err(self.not_connected(endpoint, connect_failed(&error), in_words(&error))),
            None if self.is_past_deadline() => Err(Failed::unsent(Refusal::CallDeadline)),
            None => {
                let what = if endpoint.peer().is_tls() { "connection and TLS handshake" } else { "the connection" };
                let cause = format!("it does not take {what} within {}", Period(limit));
                Err(self.not_connected(endpoint, Refusal::ConnectTimeout, cause))
            }
        }
    }

    /// Why there is no connection is noted where operators look: with the request, and with the endpoint.
    fn not_connected(&mut self, endpoint: &Endpoint, refusal: Refusal, cause: String) -> Failed {
        let cause: Arc<str> = cause.into();
        endpoint.note_connect_failure(cause.clone());
        self.info.cause = Some(cause);
        self.info.failed_endpoint = Some(endpoint.address());
        Failed::unsent(refusal)
    }

    /// The client has given the call up by now.
    fn is_past_deadline(&self) -> bool {
        self.context.deadline.is_some_and(|it| Instant::now() >= it)
    }

    /// The request as its client sent it, but for the time that is left of a call's.
    fn request_to_send(&self) -> Cow<'_, RequestHeader> {
        match self.context.deadline {
            Some(deadline) if self.request.headers.contains_key(GRPC_TIMEOUT) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let mut request = self.request.clone();
                let _ = request.insert_header(GRPC_TIMEOUT, call_deadline::written(left));
                Cow::Owned(request)
            }
            _ => Cow::Borrowed(self.request),
        }
    }

    /// Sends the body, and waits for the final head.
    async fn head_from(&mut self, link: &mut Link, began: Instant) -> Result<Box<ResponseHeader>, Failed> {
        self.report();
        self.upload.begin(link);
        // An HTTP/1 upstream says by itself that it wants the body.
        if !self.upload.done
            && !matches!(link, Link::Http1(_))
            && let Some(client) = &mut self.client
        {
            client.say_continue();
        }
        let mut deadline = Deadline::idle();
        let mut sent_at = self.upload.done.then_some(began);
        let mut pace = Pace::since(began);
        let mut acknowledged = None;
        loop {
            let look = match sent_at {
                // While a body moves, only its pace counts; from its end on the upstream has its time to answer.
                None => pace.next_look(self.policy),
                Some(sent) => (sent + self.policy.first_byte).min(self.last_moment(sent)),
            };
            deadline.arm_at(self.context.deadline.map_or(look, |it| it.min(look)));
            match self.next(link, &mut deadline).await {
                Event::Head(Ok((head, true))) => self.on_interim(head),
                Event::Head(Ok((head, false))) => {
                    self.info.first_byte = Some(self.context.started.elapsed());
                    // A change of protocols that was not requested.
                    if head.status == StatusCode::SWITCHING_PROTOCOLS && !self.asked_for(&head) {
                        return Err(UpstreamError::Protocol.into());
                    }
                    return Ok(head);
                }
                Event::Head(Err(error)) => return Err(error.into()),
                Event::Upload(Ok(())) => {
                    pace.saw(self.upload.taken());
                    sent_at = self.upload.done.then(Instant::now);
                    if sent_at.is_none()
                        && link.room()
                        && pace.is_lost(self.policy, !codec::is_grpc(&self.request.headers))
                    {
                        return Err(ForwardError::Refused(Refusal::RequestTimeout).into());
                    }
                }
                Event::Upload(Err(error)) => return Err(self.upload_failed(error).into()),
                Event::ClientGone => return Err(ForwardError::ClientGone.into()),
                Event::Late if self.is_past_deadline() => {
                    return Err(ForwardError::Refused(Refusal::CallDeadline).into());
                }
                // An upstream that is slow to take the request is not one that is slow to answer it.
                Event::Late if link.is_sending() && progressed(link.acknowledged(), &mut acknowledged) => {
                    sent_at = sent_at.map(|_| Instant::now());
                    pace = Pace::since(Instant::now());
                }
                Event::Late
                    if sent_at.is_none() && !pace.is_lost(self.policy, !codec::is_grpc(&self.request.headers)) => {}
                Event::Late => return Err(self.too_late(link, sent_at).into()),
            }
        }
    }

    async fn next(&mut self, link: &mut Link, deadline: &mut Deadline) -> Event {
        let Self { client, upload, request, outrun, .. } = self;
        poll_fn(|cx| {
            if outrun.as_ref().is_some_and(|it| it.load(Relaxed)) {
                return Poll::Ready(Event::ClientGone); // nobody waits for this answer
            }
            link.poll_out(cx);
            let head = match link {
                Link::Http1(link) => link.poll_head(&request.method, cx),
                Link::Http2(link) => link.poll_head(cx),
                Link::Local(link) => link.poll_head(cx),
                Link::Nothing => Poll::Ready(Err(UpstreamError::Internal)),
            };
            if let Poll::Ready(head) = head {
                return Poll::Ready(Event::Head(head.map(|it| {
                    let interim = is_interim(&it);
                    (it, interim)
                })));
            }
            let Some(client) = client else { return deadline.poll_expired(cx).map(|()| Event::Late) };
            if client.unwritten() > 0
                && let Poll::Ready(Err(_)) = client.poll_flush(cx)
            {
                return Poll::Ready(Event::ClientGone);
            }
            if upload.done {
                if client.body_is_done() && client.poll_gone(cx).is_ready() {
                    return Poll::Ready(Event::ClientGone);
                }
            } else if let Poll::Ready(moved) = upload.poll(client, link, cx) {
                return Poll::Ready(Event::Upload(moved));
            }
            deadline.poll_expired(cx).map(|()| Event::Late)
        })
        .await
    }

    /// When all attempts have to be over: from the request's begin, unless sending it took that time.
    fn last_moment(&self, sent: Instant) -> Instant {
        let streamed = self.upload.whole_body().is_none() && !self.upgrade;
        (if streamed { sent } else { self.context.started }) + self.policy.request
    }

    fn too_late(&self, link: &Link, sent_at: Option<Instant>) -> ForwardError {
        ForwardError::Refused(match sent_at {
            None if link.room() => Refusal::RequestTimeout, // the client is slow, not the upstream
            Some(sent) if Instant::now() >= self.last_moment(sent) => Refusal::ExchangeTimeout,
            _ => Refusal::FirstByteTimeout,
        })
    }

    fn upload_failed(&self, error: UploadError) -> ForwardError {
        match error {
            UploadError::TooLarge => ForwardError::Refused(Refusal::BodyTooLarge { limit: self.policy.body_limit }),
            UploadError::Client(error) => client_failed(error),
            UploadError::Undecodable => ForwardError::Refused(UNDECODABLE),
            UploadError::Stopped => ForwardError::Refused(Refusal::ContentStopped),
        }
    }

    fn on_interim(&mut self, mut head: Box<ResponseHeader>) {
        let attempt = self.info.attempts;
        if *self.interims.get_or_insert(attempt) == attempt
            && let Some(client) = &mut self.client
        {
            if let Some(filter) = self.interim {
                filter(&mut head);
            }
            client.queue_interim(&head);
        }
    }
}

/// A body that was declared empty ends in silence: a client that declares one thing and sends another is not passed on.
/// HTTP/2 alone can do so (RFC 9113, section 8.1.1).
async fn ends_in_silence(client: &mut Client, patience: Duration) -> Result<(), ForwardError> {
    match Deadline::within(patience, poll_fn(|cx| client.poll_body(cx))).await {
        Some(Ok(piece)) if piece.as_ref().is_none_or(Bytes::is_empty) => Ok(()),
        Some(_) => Err(ForwardError::ClientGone),
        None => Err(ForwardError::Refused(Refusal::RequestTimeout)),
    }
}

/// Whether more was acknowledged than at the last look. The first look counts as progress: there is nothing to compare
/// it with.
pub fn progressed(now: Option<u64>, before: &mut Option<u64>) -> bool {
    let Some(now) = now else { return false };
    before.replace(now).is_none_or(|before| now > before)
}

fn breaker_open(wait: Duration) -> ForwardError {
    let retry_after = wait.as_secs_f64().ceil().max(1.0) as u64;
    ForwardError::Refused(Refusal::BreakerOpen { retry_after })
}

/// What the client gets to hear of it.
fn connect_failed(error: &Error) -> Refusal {
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Refusal::ConnectTimeout,
        ErrorType::InternalError => Refusal::Internal,
        _ => Refusal::ConnectFailed,
    }
}

/// Doing it twice is doing it once (RFC 9110, section 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

fn is_interim(head: &ResponseHeader) -> bool {
    head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS
}
