//! The request's way: Pingora's callbacks, each a handful of lines that hand over.
//!
//! `way` is the order of the steps, `reply` words what the gateway says itself, `strict` refuses
//! what could be read in two ways, `access_log` tells of every request.

mod access_log;
mod cached;
mod client_ip;
mod once;
mod reply;
mod strict;
mod way;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use crate::base::{Deadline, RequestId};
use crate::cache::Cache;
use crate::config::Configuration;
use crate::exchange::{Called, Caller, Ended, WayOut, Worker, exchange, respond, unless_left};
use crate::filters::Deed;
use crate::guard::{Guard, Offence, Stage};
use crate::identity::Identity;
use crate::listener::{Connection, Refuse};
use crate::pipeline::{EndState, Exchange, Refusal, Scheme};
use crate::proxy::way::{Admitted, Arrival, Routeless, Stopped, way_in};

pub use crate::proxy::reply::{ErrorCode, error_codes};
use crate::state::State;
use crate::telemetry::{IN_FLIGHT, refused};

/// How long a request's body is read and dropped after a refusal, so that the client reads the answer
/// and can go on with the connection.
const DRAIN_BODY: Duration = Duration::from_secs(1);

/// How long a client may take to read the refusal of a request that no route took.
const TAKE_REFUSAL: Duration = Duration::from_secs(10);

/// What all workers share.
pub struct Shared {
    /// Who is watched for floods, and who is blocked.
    pub guard: Arc<Guard>,
    /// Short-lived values: claims, kept answers, counters.
    pub state: State,
    /// Who is who.
    pub identity: Arc<Identity>,
    /// Kept answers.
    pub cache: Arc<Cache>,
    /// Whether special words in bodies trigger what clients want to be prepared for.
    pub mocks: bool,
}

/// The gateway as Pingora sees it; one on each worker thread.
pub struct Proxy {
    configuration: Arc<Configuration>,
    shared: Arc<Shared>,
    worker: Arc<Worker>,
}

/// What is known about a request from its head to the line in the log.
#[derive(Default)]
pub struct Request {
    exchange: Option<Exchange>,
    admitted: Option<Admitted>,
    under_way: Option<UnderWay>,
}

/// Counts a request for as long as it is under way.
struct UnderWay;

impl UnderWay {
    fn new() -> Self {
        IN_FLIGHT.inc();
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        IN_FLIGHT.dec();
    }
}

/// A request that is dropped before its line was written was cut at the end of a stop's grace; nothing
/// but what its exchange knows is left of it.
impl Drop for Request {
    fn drop(&mut self) {
        let (Some(exchange), true) = (&self.exchange, self.under_way.is_some()) else { return };
        let duration = exchange.started.elapsed();
        EndState::Drained.count();
        let metrics = self.admitted.as_ref().map_or(&*UNROUTED, |it| &it.serving.alive[it.route].metrics);
        metrics.record(StatusCode::SERVICE_UNAVAILABLE.as_u16(), duration, 0, 0);
        tracing::warn!(
            event = "request",
            request_id = exchange.request_id.as_str(),
            trace_id = exchange.trace.trace_id.as_str(),
            span_id = exchange.trace.span_id.as_str(),
            route = self.admitted.as_ref().map_or("", |it| &it.route().name),
            upstream = exchange.upstream.as_deref().unwrap_or_default(),
            endpoint = exchange.endpoint.map(|it| it.to_string()).unwrap_or_default(),
            client = %exchange.client_ip,
            status = 0,
            end = EndState::Drained.as_str(),
            duration_ms = duration.as_secs_f64() * 1e3,
        );
    }
}

impl Proxy {
    /// To be made on the thread that uses it.
    pub fn new(configuration: Arc<Configuration>, shared: Arc<Shared>, worker: Worker) -> Self {
        Self { configuration, shared, worker: Arc::new(worker) }
    }

    /// Answers a request; an error means that the connection or stream has to be cut.
    async fn serve(&self, session: &mut ServerSession, request: &mut Request, peer_trusted: bool) -> Result<()> {
        let exchange_state = request.exchange.as_mut().expect("it was made just now");
        let serving = self.configuration.serving();
        match way_in(serving, &self.shared, exchange_state, session, peer_trusted).await {
            Ok(Arrival::Admitted(admitted)) => {
                let admitted = request.admitted.insert(admitted);
                if exchange_state.cache.is_some() && cached::begin(exchange_state) {
                    return Box::pin(self.ask(session, exchange_state, admitted)).await;
                }
                let destination = admitted.destination();
                let policy = &admitted.serving.snapshot.routes[admitted.route].policy;
                let ended = exchange(&self.worker, session, exchange_state, destination, policy, &*admitted).await;
                match ended {
                    Ok(()) => {
                        cached::finish(exchange_state);
                        exchange_state.end.get_or_insert(EndState::Done);
                        Ok(())
                    }
                    Err(why) => Box::pin(stopped(session, exchange_state, &*admitted, why)).await,
                }
            }
            Ok(Arrival::Kept(admitted, given, deed)) => {
                let admitted = request.admitted.insert(admitted);
                // What is not ordinary is boxed: the future of every request is as large as the largest of them.
                Box::pin(self.give(session, exchange_state, admitted, *given, deed)).await
            }
            Ok(Arrival::Deed(admitted, deed)) => {
                let admitted = request.admitted.insert(admitted);
                cached::begin(exchange_state);
                Box::pin(self.once(session, exchange_state, admitted, deed)).await
            }
            Ok(Arrival::Answered(admitted, mut head, body)) => {
                admitted.on_response(exchange_state, &mut head);
                let patience = admitted.route().policy.request;
                request.admitted = Some(admitted);
                settle_body(session);
                Box::pin(answer(session, exchange_state, (head, body), patience, EndState::Done)).await
            }
            Err(Stopped { admitted: Some(admitted), why }) => {
                let stopped = Box::pin(stopped(session, exchange_state, &admitted, why)).await;
                request.admitted = Some(admitted);
                stopped
            }
            Err(Stopped { admitted: None, why }) => {
                let way = Routeless::new(self.configuration.serving(), session.req_header());
                Box::pin(stopped(session, exchange_state, &way, why)).await
            }
        }
    }
}

impl Proxy {
    /// Of somebody who is blocked nothing more is read.
    async fn turn_away(&self, session: &mut ServerSession, exchange: &mut Exchange, left: Duration) -> Result<()> {
        self.shared.guard.turned_away(Stage::Request);
        session.set_keepalive(None);
        let retry_after = left.as_secs().max(1);
        let way = Routeless::new(self.configuration.serving(), session.req_header());
        refuse(session, exchange, &way, Refusal::AddressBlocked { retry_after }).await
    }

    /// What a request came to may be an offence.
    fn watch(&self, exchange: &Exchange, status: u16, end: EndState) {
        if end == EndState::ClientTimeout {
            self.shared.guard.note(exchange.client_ip, Offence::Slow);
        } else if (400..500).contains(&status) {
            self.shared.guard.note(exchange.client_ip, Offence::Errors);
        }
    }

    /// Has a deed done, and gives its client the answer.
    async fn once(
        &self,
        session: &mut ServerSession,
        exchange: &mut Exchange,
        admitted: &Admitted,
        deed: Deed,
    ) -> Result<()> {
        let destination = admitted.destination();
        let policy = &admitted.route().policy;
        exchange.upstream = Some(destination.name());
        let mut request = session.req_header().clone();
        request.extensions_mut().insert(Caller::of(exchange));
        let order = once::Order {
            worker: self.worker.clone(),
            destination: destination.clone(),
            request,
            body: exchange.body.clone().unwrap_or_default(),
            policy: policy.clone(),
        };
        let told = once::begin(deed, order);
        let answer = match unless_left(session, told).await {
            Ok(Ok(Ok(answer))) => answer,
            Ok(Ok(Err(refusal))) => return refuse(session, exchange, admitted, refusal).await,
            Ok(Err(_)) => return refuse(session, exchange, admitted, Refusal::Internal).await,
            Err(why) => return stopped(session, exchange, admitted, why).await,
        };
        if let Some(called) = answer.extensions().get::<Called>() {
            exchange.endpoint = called.endpoint;
            exchange.attempts = called.attempts;
        }
        match respond(&self.worker, session, exchange, answer, policy, admitted).await {
            Ok(()) => {
                cached::finish(exchange);
                exchange.end.get_or_insert(EndState::Done);
                Ok(())
            }
            Err(why) => stopped(session, exchange, admitted, why).await,
        }
    }
}

/// Tells the client why there is no answer, if it can still be told.
async fn stopped(session: &mut ServerSession, exchange: &mut Exchange, way: &impl WayOut, why: Ended) -> Result<()> {
    match why {
        Ended::Unanswered(refusal) => refuse(session, exchange, way, refusal).await,
        Ended::Cut(end) => cut(exchange, end),
        Ended::ClientGone => cut(exchange, EndState::ClientGone),
    }
}

/// Answers with a refusal; what it looks like is `reply`'s business.
async fn refuse(
    session: &mut ServerSession,
    exchange: &mut Exchange,
    way: &impl WayOut,
    refusal: Refusal,
) -> Result<()> {
    cached::forsake(exchange); // whoever waits for this answer waits in vain
    let (mut head, body) = reply::refusal(&refusal, &exchange.request_id);
    way.on_response(exchange, &mut head);
    if ends_connection(&refusal) {
        session.set_keepalive(None);
    } else {
        settle_body(session);
    }
    let end = match refusal {
        Refusal::NoHealthyEndpoint
        | Refusal::ConnectFailed
        | Refusal::ConnectTimeout
        | Refusal::UpstreamClosed
        | Refusal::UpstreamProtocol
        | Refusal::FirstByteTimeout
        | Refusal::ExchangeTimeout => EndState::UpstreamError,
        Refusal::RequestTimeout => EndState::ClientTimeout,
        _ => EndState::Refused,
    };
    exchange.refusal = Some(refusal);
    answer(session, exchange, (head, body), TAKE_REFUSAL, end).await
}

/// After these nobody knows where the next request begins, or whether the client means well.
fn ends_connection(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::BadRequest(_)
            | Refusal::MethodNotSupported
            | Refusal::ExpectationFailed
            | Refusal::UriTooLong
            | Refusal::HeadersTooLarge
            | Refusal::RequestTimeout
            | Refusal::AddressBlocked { .. }
    )
}

/// What is left of a request's body is drained after an answer that did not wait for it. Not after
/// `Expect`: the client may leave the body out, and its next request would be taken for it.
fn settle_body(session: &mut ServerSession) {
    if session.is_body_done() || session.req_header().headers.contains_key(http::header::EXPECT) {
        return;
    }
    session.set_close_on_response_before_downstream_finish(false);
    session.set_total_drain_timeout(Some(DRAIN_BODY));
}

/// Sends an answer of our own. A client that does not take it in time is cut.
async fn answer(
    session: &mut ServerSession,
    exchange: &mut Exchange,
    (head, body): (Box<ResponseHeader>, Bytes),
    patience: Duration,
    end: EndState,
) -> Result<()> {
    if Connection::of(session.digest()).is_some_and(|it| it.closing()) {
        session.set_keepalive(None); // a stop may have begun since the request came
    }
    let mut deadline = Deadline::after(patience);
    let mut sent = pin!(reply::send(session, head, body));
    let sent = poll_fn(|cx| match sent.as_mut().poll(cx) {
        Poll::Ready(sent) => Poll::Ready(Some(sent)),
        Poll::Pending => deadline.poll_expired(cx).map(|()| None),
    });
    match sent.await {
        Some(Ok(())) => {
            exchange.end = Some(end);
            Ok(())
        }
        Some(Err(_)) => cut(exchange, EndState::ClientGone),
        None => cut(exchange, EndState::ClientTimeout),
    }
}

fn cut(exchange: &mut Exchange, end: EndState) -> Result<()> {
    exchange.end = Some(end);
    Error::e_explain(ErrorType::ConnectionClosed, end.as_str())
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request { exchange: None, admitted: None, under_way: Some(UnderWay::new()) }
    }

    async fn request_filter(&self, session: &mut Session, request: &mut Request) -> Result<bool> {
        let session = &mut session.downstream_session;
        let connection = Connection::of(session.digest()).cloned();
        let connection = connection.ok_or_else(|| Error::explain(ErrorType::InternalError, "no connection"))?;
        connection.admitted();
        session.set_pipelining_enabled(true);
        if connection.closing() {
            session.set_keepalive(None);
        }
        let peer = connection.peer().ip();
        let trusted = &self.configuration.process().trusted_proxies;
        let client = client_ip::client_ip(peer, &session.req_header().headers, trusted);
        let scheme = if connection.tls().is_some() { Scheme::Https } else { Scheme::Http };
        request.exchange = Some(Exchange::new(client, scheme));
        if let Some(left) = self.shared.guard.blocked(client) {
            let exchange = request.exchange.as_mut().expect("it was made just now");
            return Box::pin(self.turn_away(session, exchange, left)).await.map(|()| true);
        }
        self.shared.guard.note(client, Offence::Requests);
        if connection.malformed() {
            let exchange = request.exchange.as_mut().expect("it was made just now");
            let why = "the request line is not method, target and version, each once";
            let way = Routeless::new(self.configuration.serving(), session.req_header());
            return Box::pin(refuse(session, exchange, &way, Refusal::BadRequest(why))).await.map(|()| true);
        }
        self.serve(session, request, trusted.hold(peer)).await.map(|()| true)
    }

    /// Not reached: `request_filter` answers every request.
    async fn upstream_peer(&self, _: &mut Session, _: &mut Request) -> Result<Box<HttpPeer>> {
        Error::e_explain(ErrorType::InternalError, "the exchange connects by itself")
    }

    /// What deserved an answer got one: the connection is cut, so that nobody takes half for whole.
    async fn fail_to_proxy(&self, _: &mut Session, _: &Error, _: &mut Request) -> FailToProxy {
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _: &Session, _: &Request, _: &Error) -> bool {
        true // the access log says it better
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, request: &mut Request) {
        let Some(exchange) = &request.exchange else { return };
        let session = &session.downstream_session;
        let head = session.req_header();
        let end = exchange.end.unwrap_or(EndState::ClientGone);
        let status = session.response_written().map_or(0, |it| it.status.as_u16());
        let error = exchange.refusal.as_ref().map(|it| reply::Wording::of(it).code);
        self.watch(exchange, status, end);
        let duration = exchange.started.elapsed();
        let (received, sent) = (session.body_bytes_read() as u64, session.body_bytes_sent() as u64);
        end.count();
        if let Some(code) = error {
            refused(code);
        }
        if let Some(admitted) = &request.admitted {
            admitted.serving.alive[admitted.route].metrics.record(status, duration, received, sent);
        } else {
            UNROUTED.record(status, duration, received, sent);
        }
        let target = exchange.target_received.as_ref().unwrap_or(&head.uri);
        let connection = Connection::of(session.digest());
        let facts = access_log::Facts {
            method: &head.method,
            path: target.path().as_bytes(),
            host: host(head),
            http: match head.version {
                Version::HTTP_2 => "2",
                Version::HTTP_10 => "1.0",
                _ => "1.1",
            },
            listener: connection.map_or("", |it| it.listener()),
            route: request.admitted.as_ref().map_or("", |it| &it.route().name),
            status,
            bytes_received: received,
            bytes_sent: sent,
            duration,
            end,
            error,
        };
        access_log::write(exchange, &facts);
        request.under_way = None;
    }
}

fn host(head: &pingora::http::RequestHeader) -> &[u8] {
    let field = head.headers.get(http::header::HOST).map(|it| it.as_bytes());
    field.or_else(|| head.uri.authority().map(|it| it.as_str().as_bytes())).unwrap_or_default()
}

/// The series of requests that no route took.
static UNROUTED: once_cell::sync::Lazy<Arc<crate::telemetry::RouteMetrics>> =
    once_cell::sync::Lazy::new(|| crate::telemetry::RouteMetrics::of("none"));

/// Answers what never became a request, in the same shape and with the same fields as every refusal.
pub struct Unread(pub Arc<Guard>);

impl Refuse for Unread {
    fn refuse(&self, status: u16, connection: &Connection) -> Vec<u8> {
        let refusal = match StatusCode::from_u16(status) {
            Ok(StatusCode::REQUEST_TIMEOUT) => Refusal::RequestTimeout,
            Ok(StatusCode::METHOD_NOT_ALLOWED) => Refusal::MethodNotSupported,
            _ => Refusal::BadRequest("it could not be read"),
        };
        let scheme = if connection.tls().is_some() { Scheme::Https } else { Scheme::Http };
        let exchange = Exchange::new(connection.peer().ip(), scheme);
        let request_id: RequestId = exchange.request_id;
        let wording = reply::Wording::of(&refusal);
        let mut fields = reply::head(wording.status);
        let _ = fields.insert_header(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        Security(&exchange).add_to(&mut fields);
        let answer = reply::raw(&refusal, &request_id, &fields);
        let slow = refusal == Refusal::RequestTimeout;
        let end = if slow { EndState::ClientTimeout } else { EndState::Refused };
        self.0.note(connection.peer().ip(), if slow { Offence::Slow } else { Offence::Errors });
        let (duration, sent) = (exchange.started.elapsed(), answer.len() as u64);
        end.count();
        refused(wording.code);
        UNROUTED.record(wording.status.as_u16(), duration, 0, 0);
        // The same line as for every request, as far as anything is known.
        tracing::info!(
            event = "request",
            request_id = request_id.as_str(),
            trace_id = exchange.trace.trace_id.as_str(),
            span_id = exchange.trace.span_id.as_str(),
            listener = %connection.listener(),
            route = "",
            client = %connection.peer().ip(),
            status = wording.status.as_u16(),
            end = end.as_str(),
            error = wording.code,
            bytes_received = 0,
            bytes_sent = sent,
            duration_ms = duration.as_secs_f64() * 1e3,
        );
        answer
    }
}

/// The fields of an answer that no route stands behind.
struct Security<'a>(&'a Exchange);

impl Security<'_> {
    fn add_to(&self, head: &mut ResponseHeader) {
        way::unread(self.0, head);
        head.remove_header(&http::header::DATE); // `raw` writes its own
    }
}
