//! The request's way, from a request that was read to the line in the log.
//!
//! `shell` brings requests, `arrival` says how they came, `way` is the order of the steps, `reply` writes the gateway's
//! own answers, `strict` refuses what could be read in two ways, `access_log` reports every request.

mod access_log;
mod arrival;
mod cached;
mod client_ip;
mod error_pages;
mod forwarded;
mod idempotent;
mod orphans;
mod reply;
mod shell;
mod strangers;
mod strict;
mod upgrade;
mod way;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::base::{Deadline, RequestId, shown_millis};
use crate::cache::Cache;
use crate::client::Client;
use crate::config::Configuration;
use crate::connections::Connections;
use crate::deliver::{ResponseFilters, Tunnel, Undelivered, deliver};
use crate::forward::{
    BodyCopy, Collected, Destination, ForwardError, Forwarder, RequestBody, UpstreamResponse, Worker,
};
use crate::guard::{Guard, Stage, Violation};
use crate::http as codec;
use crate::identity::Identity;
use crate::listener::{Connection, EarlyReject, Refuse};
use crate::maintenance::Maintenance;
use crate::pipeline::{AnswerCoding, EndState, ErrorBody, Exchange, Refusal, Scheme};
use crate::proxy::arrival::Arrival;
use crate::proxy::way::{Admitted, Decision, DefaultResponse, Stopped, Way, request_filters};
use crate::state::State;
use crate::telemetry::{IN_FLIGHT, refused};

pub use crate::proxy::orphans::Orphans;
pub use crate::proxy::reply::{ErrorCode, error_codes};
pub use crate::proxy::shell::Front;
pub use crate::proxy::upgrade::missing_setting;

/// How long a client may take to read a refusal that no route stands behind.
const TAKE_REFUSAL: Duration = Duration::from_secs(10);

/// How long the body of an error is read that nobody gets, and how much of it: then its connection can serve again.
const WRAP_READ: Duration = Duration::from_millis(250);
const WRAP_READ_MAX: usize = 64 * 1024;

/// Why an answer is not over when all steps are.
enum Unfinished {
    /// It did not go out whole: the connection or stream has to be cut.
    Cut,
    /// It has made a tunnel of its connection.
    Tunnel(Box<Tunnel>),
}

/// What comes after a request.
enum After {
    /// The client's next one.
    Next,
    /// The rest of it, which may take hours and needs nothing of what has led to it.
    Rest(Box<Rest>),
    /// Nothing.
    Over,
}

/// What is left of an exchange that has become a tunnel.
struct Rest {
    proxy: Arc<Proxy>,
    request: Request,
    tunnel: Box<Tunnel>,
}

/// What all workers share.
pub struct Shared {
    /// Who is watched for floods, and who is blocked.
    pub guard: Arc<Guard>,
    /// Short-lived values: claims, cached responses, counters.
    pub state: State,
    /// Who is who.
    pub identity: Arc<Identity>,
    /// Cached responses.
    pub cache: Arc<Cache>,
    /// Idempotent requests whose client has left.
    pub orphans: Orphans,
    /// The connections that last.
    pub connections: Arc<Connections>,
    /// Whether clients are turned away.
    pub maintenance: Arc<Maintenance>,
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
struct Request {
    exchange: Exchange,
    admitted: Option<Admitted>,
    under_way: Option<UnderWay>,
}

impl Request {
    fn new(exchange: Exchange) -> Self {
        Self { exchange, admitted: None, under_way: Some(UnderWay::new()) }
    }
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
        if self.under_way.is_none() {
            return;
        }
        let exchange = &self.exchange;
        let duration = exchange.started.elapsed();
        EndState::Drained.count();
        let metrics = self.admitted.as_ref().map_or(&*UNROUTED, |it| &it.active.routes[it.route].metrics);
        metrics.record(StatusCode::SERVICE_UNAVAILABLE.as_u16(), duration, 0, 0);
        tracing::warn!(
            event = "request",
            request_id = exchange.request_id.as_str(),
            trace_id = exchange.trace.trace_id.as_str(),
            span_id = exchange.trace.span_id.as_str(),
            route = exchange.route.as_deref().unwrap_or_default(),
            upstream = exchange.attempt.upstream.as_deref().unwrap_or_default(),
            endpoint = exchange.attempt.endpoint.map(|it| it.to_string()).unwrap_or_default(),
            client = %exchange.client_ip,
            status = 0,
            end = EndState::Drained.as_str(),
            duration_ms = shown_millis(duration.as_secs_f64()),
        );
    }
}

impl Proxy {
    /// To be made on the thread that uses it.
    pub fn new(configuration: Arc<Configuration>, shared: Arc<Shared>, worker: Worker) -> Self {
        Self { configuration, shared, worker: Arc::new(worker) }
    }

    /// Answers a request.
    async fn serve(&self, client: &mut Client, request: &mut Request, arrival: &Arrival<'_>) -> Result<(), Unfinished> {
        let exchange = &mut request.exchange;
        let active = self.configuration.active();
        match request_filters(active, &self.shared, exchange, client, arrival).await {
            Ok(Decision::Forward(admitted)) => {
                let admitted = request.admitted.insert(admitted);
                if cached::begin(exchange, admitted) {
                    return Box::pin(self.fetch_for_cache(client, exchange, admitted)).await;
                }
                self.forward(client, exchange, admitted).await
            }
            Ok(Decision::Cached(admitted, cached, reservation)) => {
                let admitted = request.admitted.insert(admitted);
                // What is not ordinary is boxed: the future of every request is as large as the largest of them.
                Box::pin(self.send_cached(client, exchange, admitted, *cached, reservation)).await
            }
            Ok(Decision::Idempotent(admitted, reservation)) => {
                let admitted = request.admitted.insert(admitted);
                cached::begin(exchange, admitted);
                Box::pin(self.forward_idempotent(client, exchange, admitted, reservation)).await
            }
            Ok(Decision::Replayed(admitted, head, body)) => {
                let admitted = request.admitted.insert(admitted);
                Box::pin(self.give_again(client, exchange, admitted, (head, body))).await
            }
            Ok(Decision::Respond(admitted, mut head, body)) => {
                admitted.on_response(exchange, &mut head);
                let patience = admitted.route().policy.request;
                request.admitted = Some(admitted);
                Box::pin(answer(client, exchange, (head, body), patience, EndState::Done)).await
            }
            Err(Stopped { admitted: Some(admitted), why }) => {
                let stopped = Box::pin(stopped(client, exchange, &admitted, why)).await;
                request.admitted = Some(admitted);
                stopped
            }
            Err(Stopped { admitted: None, why }) => {
                let way = DefaultResponse::new(self.configuration.active(), client.request());
                Box::pin(stopped(client, exchange, &way, why)).await
            }
        }
    }

    /// Has the request answered by its route's destination.
    async fn forward(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
    ) -> Result<(), Unfinished> {
        let request = client.shared_request();
        let interim = |head: &mut ResponseHeader| admitted.on_interim(head);
        let taps = exchange.request_taps.take_if(|_| !client.wants_upgrade()); // else the tunnel takes them
        let edited = exchange.edited.request.clone();
        let copy = self.copy(client, exchange, admitted);
        let body = RequestBody::of(client, exchange.body.clone());
        let body = body.with_taps(taps).with_copy(copy).with_edited(edited).with_interim(&interim);
        let Exchange { context, attempt, .. } = &mut *exchange;
        match self.forwarder(admitted).forward(&request, body, context, attempt).await {
            Ok(response) => self.deliver(response, client, exchange, admitted).await,
            Err(why) => Box::pin(stopped(client, exchange, admitted, why)).await,
        }
    }

    /// What takes the request's body down for a copy of it, if the route has one made. Not of what becomes a tunnel.
    fn copy(&self, client: &Client, exchange: &Exchange, admitted: &Admitted) -> Option<Box<BodyCopy>> {
        let mirror = admitted.active.routes[admitted.route].mirror.as_ref()?;
        if client.wants_upgrade() {
            return None;
        }
        mirror.copy(client.request(), &exchange.context, &self.worker, &admitted.active.upstreams)
    }

    /// The way to a route's destination.
    fn forwarder<'a>(&'a self, admitted: &'a Admitted) -> Forwarder<'a> {
        let policy = &admitted.route().policy;
        let upstreams = &admitted.active.upstreams;
        Forwarder { worker: &self.worker, destination: admitted.destination(), policy, upstreams }
    }

    /// An upstream's error as our own. What is in our shape already, calls of gRPC, and streams
    /// stay as they are. Nothing of it is cached.
    async fn wrapped(
        &self,
        response: UpstreamResponse,
        client: &Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
    ) -> UpstreamResponse {
        let status = response.head.status;
        let ours = matches!(admitted.destination(), Destination::Local(..));
        let stays = ours || codec::is_grpc(&client.request().headers) || codec::is_event_stream(&response.head.headers);
        if stays || !(status.is_client_error() || status.is_server_error()) {
            return response;
        }
        cached::abandon(exchange, admitted);
        let UpstreamResponse { head, mut body } = response;
        let until = std::time::Instant::now() + WRAP_READ;
        let rest = body.collect(WRAP_READ_MAX, &admitted.route().policy, until);
        if !matches!(Deadline::within(WRAP_READ, rest).await, Some(Ok(Collected::Whole(_)))) {
            body.cancel();
        }
        let (head, body) = reply::wrapped(head, &exchange.request_id, client.request());
        UpstreamResponse::of(head, body)
    }

    /// Passes an answer on to the client.
    async fn deliver(
        &self,
        response: UpstreamResponse,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
    ) -> Result<(), Unfinished> {
        if let Some(page) = admitted.page_instead(response.head.status, client) {
            return Box::pin(self.send_page(&page, response, client, exchange, admitted)).await;
        }
        let response = match admitted.route().wraps_errors {
            true => Box::pin(self.wrapped(response, client, exchange, admitted)).await,
            false => response,
        };
        let policy = &admitted.route().policy;
        match deliver(response, client, exchange, policy, admitted, &admitted.streaming(&self.shared)).await {
            Ok(Some(tunnel)) => {
                cached::finish(exchange, admitted);
                Err(Unfinished::Tunnel(tunnel))
            }
            Ok(None) => {
                cached::finish(exchange, admitted);
                exchange.end.get_or_insert(EndState::Done);
                Ok(())
            }
            Err(why) => undelivered(client, exchange, admitted, why).await,
        }
    }

    /// Gives a client what an upstream said before; taps see it as they see everything that upstreams say, and it is
    /// compressed as all of it is.
    async fn give_again(
        &self,
        client: &mut Client,
        exchange: &mut Exchange,
        admitted: &Admitted,
        (mut head, body): (Box<ResponseHeader>, Bytes),
    ) -> Result<(), Unfinished> {
        let chain = &admitted.route().chain;
        let is_wrapped = admitted.route().wraps_errors && head.status.as_u16() >= 400;
        let is_plain = !chain.taps_responses() && chain.compress.is_none() && chain.error_pages.is_none();
        if is_plain && !is_wrapped {
            admitted.on_response(exchange, &mut head);
            return answer(client, exchange, (head, body), admitted.route().policy.request, EndState::Done).await;
        }
        reply::say_length(&mut head, &body);
        Box::pin(self.deliver(UpstreamResponse::of(head, body), client, exchange, admitted)).await
    }
}

/// An answer did not go out, or not whole.
async fn undelivered(
    client: &mut Client,
    exchange: &mut Exchange,
    admitted: &Admitted,
    why: Undelivered,
) -> Result<(), Unfinished> {
    match why {
        Undelivered::Cut(end) => cut(exchange, end),
        Undelivered::Refused(refusal) => Box::pin(refuse(client, exchange, admitted, *refusal)).await,
    }
}

impl Proxy {
    async fn turn_away(&self, client: &mut Client, exchange: &mut Exchange, left: Duration) -> Result<(), Unfinished> {
        self.shared.guard.turned_away(Stage::Request);
        client.close_after();
        let retry_after = left.as_secs().max(1);
        let way = DefaultResponse::new(self.configuration.active(), client.request());
        refuse(client, exchange, &way, Refusal::AddressBlocked { retry_after }).await
    }

    /// What a request came to may be a violation.
    fn watch(&self, exchange: &Exchange, status: u16, end: EndState) {
        if end == EndState::ClientTimeout {
            self.shared.guard.note(exchange.client_ip, Violation::Slow);
        } else if (400..500).contains(&status) {
            self.shared.guard.note(exchange.client_ip, Violation::Errors);
        }
    }
}

/// Sends the client why there is no response, if that can still be sent.
async fn stopped(
    client: &mut Client,
    exchange: &mut Exchange,
    way: &impl Way,
    why: ForwardError,
) -> Result<(), Unfinished> {
    match why {
        ForwardError::Refused(refusal) => refuse(client, exchange, way, refusal).await,
        ForwardError::ClientGone => cut(exchange, EndState::ClientGone),
    }
}

/// Answers with a refusal; what it looks like is `reply`'s business.
async fn refuse(
    client: &mut Client,
    exchange: &mut Exchange,
    way: &impl Way,
    refusal: Refusal,
) -> Result<(), Unfinished> {
    way.on_refusal(exchange);
    exchange.answer_coding = AnswerCoding::Unchanged; // whatever was meant to become of another answer
    let (mut head, mut body) = reply::refusal(&refusal, &exchange.request_id, client.request());
    if let Some(pages) = way.chain().error_pages.as_ref() {
        let message = ErrorBody::of(&refusal).message;
        let headers = &client.request().headers;
        error_pages::put_page(pages, headers, exchange, &message, (&mut head, &mut body));
    }
    way.on_response(exchange, &mut head);
    if ends_connection(&refusal) {
        client.close_after();
    }
    let end = match refusal {
        Refusal::NoHealthyEndpoint
        | Refusal::ConnectFailed
        | Refusal::ConnectTimeout
        | Refusal::UpstreamClosed
        | Refusal::UpstreamProtocol
        | Refusal::FirstByteTimeout
        | Refusal::ExchangeTimeout
        | Refusal::CallDeadline => EndState::UpstreamError,
        Refusal::RequestTimeout => EndState::ClientTimeout,
        Refusal::ContentStopped => EndState::Stopped,
        _ => EndState::Refused,
    };
    exchange.refusal = Some(refusal);
    answer(client, exchange, (head, body), TAKE_REFUSAL, end).await
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

/// Sends an answer of our own. A client that does not take it in time is cut.
async fn answer(
    client: &mut Client,
    exchange: &mut Exchange,
    (head, body): (Box<ResponseHeader>, Bytes),
    patience: Duration,
    end: EndState,
) -> Result<(), Unfinished> {
    if client.connection().closing() {
        client.close_after(); // a stop may have begun since the request came
    }
    match Deadline::within(patience, reply::send(client, head, body)).await {
        Some(Ok(())) => {
            exchange.end = Some(end);
            Ok(())
        }
        Some(Err(_)) => cut(exchange, EndState::ClientGone),
        None => cut(exchange, EndState::ClientTimeout),
    }
}

fn cut(exchange: &mut Exchange, end: EndState) -> Result<(), Unfinished> {
    exchange.end = Some(end);
    Err(Unfinished::Cut)
}

impl Proxy {
    /// Answers a request and writes its line. Who did not get a whole answer is cut: nobody shall take half for whole.
    async fn handle(self: &Arc<Self>, client: &mut Client) -> After {
        let connection = client.connection();
        let peer = connection.peer().ip();
        let scheme = if connection.tls().is_some() { Scheme::Https } else { Scheme::Http };
        if connection.closing() {
            client.close_after();
        }
        let arrival = Arrival::of(peer, scheme, &client.request().headers, self.configuration.process());
        let mut request = Request::new(Exchange::new(arrival.client_ip, arrival.scheme));
        request.exchange.proxied.clone_from(&arrival.proxied);
        let handled = match self.shared.guard.blocked(request.exchange.client_ip) {
            // Of a blocked client nothing more is read.
            Some(left) => Box::pin(self.turn_away(client, &mut request.exchange, left)).await,
            None => {
                self.shared.guard.note(request.exchange.client_ip, Violation::Requests);
                self.serve(client, &mut request, &arrival).await
            }
        };
        if let Err(Unfinished::Tunnel(tunnel)) = handled {
            return After::Rest(Box::new(Rest { proxy: self.clone(), request, tunnel }));
        }
        self.tell(client, &request);
        request.under_way = None;
        if handled.is_ok() {
            return After::Next;
        }
        Box::pin(client.abort()).await;
        After::Over
    }

    /// Counts the request, and writes its line.
    fn tell(&self, client: &Client, request: &Request) {
        let Request { exchange, admitted, .. } = request;
        let head = client.request();
        let end = exchange.end.unwrap_or(EndState::ClientGone);
        let status = client.status();
        let error = exchange.refusal.as_ref().map(|it| ErrorBody::of(it).code);
        self.watch(exchange, status, end);
        let duration = exchange.started.elapsed();
        let (received, sent) = client.bytes();
        end.count();
        if let Some(code) = error {
            refused(code);
        }
        let metrics = admitted.as_ref().map_or(&*UNROUTED, |it| &it.active.routes[it.route].metrics);
        metrics.record(status, duration, received, sent);
        let grpc_status = client.grpc_status();
        if let Some(status) = grpc_status {
            metrics.record_call(status);
        }
        let target = exchange.target_received.as_ref().unwrap_or(&head.uri);
        let facts = access_log::Facts {
            method: &head.method,
            path: target.path().as_bytes(),
            host: host(head),
            http: match head.version {
                Version::HTTP_2 => "2",
                Version::HTTP_10 => "1.0",
                _ => "1.1",
            },
            listener: client.connection().listener(),
            status,
            grpc_status,
            bytes_received: received,
            bytes_sent: sent,
            duration,
            end,
            cache: admitted.as_ref().and_then(|it| it.lookup().as_ref()?.word),
            error,
        };
        access_log::write(exchange, &facts);
    }
}

impl Rest {
    /// Brings the tunnel to its end. A future of its own: while it is silent, it is all that there is of its request.
    async fn run(self: Box<Self>, mut client: Client) {
        let Self { proxy, mut request, mut tunnel } = *self;
        let ended = tunnel.run(&mut client, &mut request.exchange).await;
        drop(tunnel);
        match ended {
            Ok(()) => _ = request.exchange.end.get_or_insert(EndState::Done),
            Err(end) => request.exchange.end = Some(end),
        }
        proxy.tell(&client, &request);
        request.under_way = None;
        match ended {
            Ok(()) => drop(client.finish().await),
            Err(_) => client.abort().await,
        }
    }
}

fn host(head: &RequestHeader) -> &[u8] {
    let field = head.headers.get(http::header::HOST).map(|it| it.as_bytes());
    field.or_else(|| head.uri.authority().map(|it| it.as_str().as_bytes())).unwrap_or_default()
}

/// The series of requests that no route took.
static UNROUTED: once_cell::sync::Lazy<Arc<crate::telemetry::RouteMetrics>> =
    once_cell::sync::Lazy::new(|| crate::telemetry::RouteMetrics::of("none"));

/// Answers what never became a request, in the same shape and with the same fields as every refusal.
pub struct EarlyResponses {
    /// Who is watched for floods.
    pub guard: Arc<Guard>,
    /// What an answer that no route stands behind is like.
    pub configuration: Arc<Configuration>,
}

impl Refuse for EarlyResponses {
    fn refuse(&self, why: EarlyReject, origin: Option<&HeaderValue>, connection: &Connection) -> Vec<u8> {
        let refusal = match why {
            EarlyReject::Timeout => Refusal::RequestTimeout,
            EarlyReject::Malformed(why) => Refusal::BadRequest(why),
            EarlyReject::TargetTooLong => Refusal::UriTooLong,
            EarlyReject::FieldsTooLarge => Refusal::HeadersTooLarge,
        };
        let scheme = if connection.tls().is_some() { Scheme::Https } else { Scheme::Http };
        let mut exchange = Exchange::new(connection.peer().ip(), scheme);
        let request_id: RequestId = exchange.request_id;
        let error = ErrorBody::of(&refusal);
        let mut fields = reply::head(error.status);
        let _ = fields.insert_header(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        DefaultResponse::of(self.configuration.active(), origin.cloned()).on_response(&mut exchange, &mut fields);
        fields.remove_header(&http::header::DATE); // `raw` writes its own
        let answer = reply::raw(&refusal, &request_id, &fields);
        let slow = refusal == Refusal::RequestTimeout;
        let end = if slow { EndState::ClientTimeout } else { EndState::Refused };
        self.guard.note(connection.peer().ip(), if slow { Violation::Slow } else { Violation::Errors });
        let (duration, sent) = (exchange.started.elapsed(), answer.len() as u64);
        end.count();
        refused(error.code);
        UNROUTED.record(error.status.as_u16(), duration, 0, 0);
        // The same line as for every request, as far as anything is known.
        tracing::info!(
            event = "request",
            request_id = request_id.as_str(),
            trace_id = exchange.trace.trace_id.as_str(),
            span_id = exchange.trace.span_id.as_str(),
            listener = %connection.listener(),
            route = "",
            client = %connection.peer().ip(),
            status = error.status.as_u16(),
            end = end.as_str(),
            error = error.code,
            bytes_received = 0,
            bytes_sent = sent,
            duration_ms = shown_millis(duration.as_secs_f64()),
        );
        answer
    }
}
