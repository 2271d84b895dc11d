//! From an admitted request to its answer: which endpoint, which kind of link, and when to try again.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::{Error, ErrorType};

use crate::base::Deadline;
use crate::client::{BODY_MAX, Client};
use crate::exchange::head;
use crate::exchange::lean::{self, Lean};
use crate::exchange::link::{Http1, Http2, Link, Local};
use crate::exchange::policy::Policy;
use crate::exchange::pool;
use crate::exchange::pump::{Ended, Pump, Stopped, WayOut, is_idempotent};
use crate::exchange::service::{Caller, LocalService};
use crate::exchange::worker::Worker;
use crate::pipeline::{Exchange, Refusal};
use crate::transport::Transport;
use crate::upstream::{Endpoint, Live, Outcome, Picked, Protocol};

/// So many endpoints are tried at most.
pub(super) const ATTEMPTS_MAX: u8 = 3;

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
    pub fn name(&self) -> Arc<str> {
        match self {
            Self::Upstream(live) => live.upstream().name.clone(),
            Self::Local(name, _) => name.clone(),
        }
    }
}

/// Answers the request from its destination.
///
/// # Errors
/// Says what the client has to be told, or why it can't be told anything any more.
pub async fn exchange<W: WayOut>(
    worker: &Worker,
    client: &mut Client<'_>,
    exchange: &mut Exchange,
    destination: &Destination,
    policy: &Policy,
    way: &W,
) -> Result<(), Ended> {
    if exchange.body.is_none() && client.broke_off() {
        return Err(Ended::ClientGone);
    }
    if client.body_is_read() || policy.body_limit == u64::MAX || client.declared_length() <= policy.body_limit {
        let run = Dispatch { worker, client, exchange, policy, way };
        return match destination {
            Destination::Upstream(live) => run.ask_upstream(live).await,
            Destination::Local(name, service) => Box::pin(run.ask_service(name, &**service)).await,
        };
    }
    Err(Ended::Unanswered(Refusal::BodyTooLarge { limit: policy.body_limit }))
}

/// Answers the request with what somebody else has made: a copy, or the answer to a
/// [`call`](crate::exchange::call).
///
/// # Errors
/// As [`exchange`]: only that the client left, or took its answer too slowly, or that a body broke off.
pub async fn respond<W: WayOut>(
    worker: &Worker,
    client: &mut Client<'_>,
    exchange: &mut Exchange,
    answer: http::Response<Body>,
    policy: &Policy,
    way: &W,
) -> Result<(), Ended> {
    let mut link = Link::Local(Local::answered(answer, &client.request().method));
    let mut run = Dispatch { worker, client, exchange, policy, way };
    run.pump(&mut link).await.0.map_err(|it| it.why)
}

fn declares_nothing(client: &Client<'_>) -> bool {
    client.is_http2() && client.request().headers.get(http::header::CONTENT_LENGTH).is_some_and(|it| it == "0")
}

struct Dispatch<'a, 's, W> {
    worker: &'a Worker,
    client: &'a mut Client<'s>,
    exchange: &'a mut Exchange,
    policy: &'a Policy,
    way: &'a W,
}

impl<W: WayOut> Dispatch<'_, '_, W> {
    async fn ask_service(mut self, name: &Arc<str>, service: &dyn LocalService) -> Result<(), Ended> {
        self.exchange.upstream = Some(name.clone());
        let mut head = self.outgoing(head::Protocol::Http1);
        head.extensions_mut().insert(Caller::of(self.exchange));
        let mut link = Link::Local(Local::begin(service, &head, self.client.wants_upgrade()));
        self.pump(&mut link).await.0.map_err(|it| it.why)
    }

    async fn ask_upstream(mut self, live: &Live) -> Result<(), Ended> {
        self.exchange.upstream = Some(live.upstream().name.clone());
        if declares_nothing(self.client) && !self.client.body_is_read() {
            Box::pin(lean::empty_body_ends(self.client, self.policy.idle)).await?;
        }
        let small = self.small_body(live)?;
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut last = Refusal::NoHealthyEndpoint;
        while self.exchange.attempts < ATTEMPTS_MAX {
            let Some(picked) = live.pick(&tried).or_else(|| again(live, &tried)) else { break };
            let address = picked.endpoint().address();
            self.exchange.attempts += 1;
            self.exchange.endpoint = Some(address);
            let stopped = match self.attempt(live, picked, small.as_deref()).await {
                Ok(()) => return Ok(()),
                Err(stopped) => stopped,
            };
            let Ended::Unanswered(refusal) = stopped.why else { return Err(stopped.why) };
            if !self.may_try_again(&refusal, stopped.untouched, stopped.unprocessed) {
                return Err(Ended::Unanswered(refusal));
            }
            tracing::debug!(
                event = "attempt_failed", request_id = self.exchange.request_id.as_str(),
                upstream = %live.upstream().name, endpoint = %address, reason = ?refusal
            );
            last = refusal;
            tried.push(address);
        }
        Err(Ended::Unanswered(last))
    }

    /// The body of an ordinary request, whole; `None` if the request has to stream.
    fn small_body(&mut self, live: &Live) -> Result<Option<Bytes>, Ended> {
        if live.upstream().protocol != Protocol::Http1 || !lean::is_ordinary(self.client) {
            return Ok(None);
        }
        if let Some(held) = &self.exchange.body {
            return Ok((held.len() as u64 <= BODY_MAX).then(|| held.clone()));
        }
        self.client.body_at_hand().map_err(|_| Ended::ClientGone)
    }

    /// What never reached an upstream may go to another one. What may have reached it is repeated only
    /// if the method says that doing it twice is doing it once (RFC 9110, 9.2.2).
    fn may_try_again(&self, refusal: &Refusal, untouched: bool, unprocessed: bool) -> bool {
        let idempotent = || is_idempotent(&self.client.request().method);
        untouched
            && match refusal {
                Refusal::ConnectFailed | Refusal::ConnectTimeout => true,
                Refusal::UpstreamClosed => unprocessed || idempotent(),
                _ => false,
            }
    }

    async fn attempt(&mut self, live: &Live, mut picked: Picked, small: Option<&[u8]>) -> Result<(), Stopped> {
        let began = self.exchange.started.elapsed();
        let endpoint = picked.endpoint().clone();
        let result = match live.upstream().protocol {
            Protocol::Http1 => self.over_http1(live, &endpoint, small).await,
            Protocol::Http2 => Box::pin(self.over_http2(&endpoint)).await,
        };
        let latency = self.exchange.timings.first_byte.unwrap_or_default().saturating_sub(began);
        picked.record(outcome(&result), latency);
        result
    }

    async fn over_http1(&mut self, live: &Live, endpoint: &Endpoint, small: Option<&[u8]>) -> Result<(), Stopped> {
        let stream = match pool::take(endpoint.key()) {
            Some(stream) => {
                self.exchange.connection_reused = true;
                stream
            }
            None => {
                let connecting = self.worker.connect(endpoint);
                Box::pin(connect(self.policy.connect, connecting)).await?
            }
        };
        let connected = Instant::now();
        self.exchange.timings.connected = Some(connected - self.exchange.started);
        let kept = match small {
            Some(body) => self.lean(stream, body, connected).await?,
            None => Box::pin(self.pumped(stream)).await?,
        };
        if let Some(stream) = kept {
            pool::put(endpoint.key(), stream, live.upstream().keep_alive.idle);
        }
        Ok(())
    }

    /// The ordinary way; an answer that is not ordinary goes on through the pump. What is not ordinary
    /// is boxed, here and above: the future of an ordinary request stays small, and so cheap to make.
    async fn lean(&mut self, stream: Transport, body: &[u8], now: Instant) -> Result<Option<Transport>, Stopped> {
        let Self { client, exchange, policy, way, .. } = self;
        match (Lean { client, exchange, policy, way: *way }).run(stream, body, now).await? {
            lean::Outcome::Done(stream) => Ok(stream),
            lean::Outcome::Other(stream, read_ahead) => Box::pin(self.resumed(stream, read_ahead, body)).await,
        }
    }

    async fn resumed(
        &mut self,
        stream: Transport,
        read_ahead: BytesMut,
        body: &[u8],
    ) -> Result<Option<Transport>, Stopped> {
        let head = self.outgoing(head::Protocol::Http1);
        let link = Http1::resume(stream, read_ahead, head, body).await;
        let mut link = Link::Http1(link.map_err(|it| unsent(connect_failed(&it)))?);
        self.pump_of(&mut link).await?.resumed().run().await?;
        Ok(left_over(link, true).await)
    }

    async fn pumped(&mut self, stream: Transport) -> Result<Option<Transport>, Stopped> {
        let head = self.outgoing(head::Protocol::Http1);
        let link = Http1::begin(stream, head).await;
        let mut link = Link::Http1(link.map_err(|it| unsent(connect_failed(&it)))?);
        let (result, request_done) = self.pump(&mut link).await;
        result?;
        Ok(left_over(link, request_done).await)
    }

    async fn over_http2(&mut self, endpoint: &Endpoint) -> Result<(), Stopped> {
        let peer = endpoint.peer();
        let connecting = self.worker.http2.get_http_session(peer);
        let (session, reused) = connect(self.policy.connect, connecting).await?;
        self.exchange.connection_reused = reused;
        self.exchange.timings.connected = Some(self.exchange.started.elapsed());
        let HttpSession::H2(session) = session else { return Err(unsent(Refusal::UpstreamProtocol)) };
        let head = self.outgoing(head::Protocol::Http2);
        let link = Http2::begin(session, head, self.client.body_is_read());
        let mut link = Link::Http2(link.map_err(|it| unsent(connect_failed(&it)))?);
        let (result, _) = self.pump(&mut link).await;
        if let Link::Http2(link) = link {
            // Also after a failure: the stream is over, the connection is not.
            let idle = peer.options.idle_timeout.unwrap_or(self.policy.idle);
            link.release(&self.worker.http2, peer, idle).await;
        }
        result
    }

    async fn pump(&mut self, link: &mut Link) -> (Result<(), Stopped>, bool) {
        let mut pump = match self.pump_of(link).await {
            Ok(pump) => pump,
            Err(stopped) => return (Err(stopped), false),
        };
        let result = pump.run().await;
        (result, pump.request_done())
    }

    /// The request as the upstream gets it.
    fn outgoing(&mut self, protocol: head::Protocol) -> Box<RequestHeader> {
        let (upgrade, has_body) = (self.client.wants_upgrade(), !self.client.has_no_body());
        let mut head = head::outgoing(self.client.request(), upgrade, has_body, protocol);
        self.exchange.introduce_in(&mut head);
        head
    }

    async fn pump_of<'p>(&'p mut self, link: &'p mut Link) -> Result<Pump<'p, W>, Stopped> {
        let session = self.client.session().await.map_err(|_| left())?;
        Ok(Pump::new(session, link, self.exchange, self.policy, self.way, &self.worker.ending))
    }
}

/// The connection of an exchange that went well, if it may serve again.
async fn left_over(link: Link, request_done: bool) -> Option<Transport> {
    match link {
        Link::Http1(link) => link.into_stream(request_done).await,
        Link::Http2(_) | Link::Local(_) => None,
    }
}

/// Every healthy endpoint was tried: one of them may have been restarted just now, or the pooled
/// connection was a dead one.
pub(super) fn again(live: &Live, tried: &[SocketAddr]) -> Option<Picked> {
    if tried.is_empty() { None } else { live.pick(&[]) }
}

/// Connects within `limit`.
pub(super) async fn connect<T>(
    limit: Duration,
    connecting: impl Future<Output = pingora::Result<T>>,
) -> Result<T, Stopped> {
    match Deadline::within(limit, connecting).await {
        Some(Ok(connected)) => Ok(connected),
        Some(Err(error)) => Err(unsent(connect_failed(&error))),
        None => Err(unsent(Refusal::ConnectTimeout)),
    }
}

fn left() -> Stopped {
    Stopped { why: Ended::ClientGone, untouched: false, unprocessed: false }
}

/// Nothing of the request has left.
fn unsent(refusal: Refusal) -> Stopped {
    Stopped { why: Ended::Unanswered(refusal), untouched: true, unprocessed: true }
}

pub(super) fn connect_failed(error: &Error) -> Refusal {
    tracing::debug!(event = "connect_failed", kind = error.etype().as_str());
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Refusal::ConnectTimeout,
        ErrorType::InternalError => Refusal::Internal,
        _ => Refusal::ConnectFailed,
    }
}

/// What the end says about the endpoint: a client that leaves is none of its business.
fn outcome(result: &Result<(), Stopped>) -> Outcome {
    use crate::pipeline::EndState;
    match result {
        Ok(()) => Outcome::Success,
        Err(stopped) => match &stopped.why {
            Ended::ClientGone | Ended::Cut(EndState::ClientGone | EndState::ClientTimeout | EndState::Drained) => {
                Outcome::Abandoned
            }
            Ended::Unanswered(Refusal::BadRequest(_) | Refusal::BodyTooLarge { .. } | Refusal::RequestTimeout) => {
                Outcome::Abandoned
            }
            Ended::Cut(_) | Ended::Unanswered(_) => Outcome::Failure,
        },
    }
}
