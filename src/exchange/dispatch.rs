//! From an admitted request to its answer: which endpoint, which kind of link, and when to try again.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use http::Method;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::client::HttpSession;
use pingora::{Error, ErrorType};

use crate::base::Deadline;
use crate::exchange::head::{self, Protocol};
use crate::exchange::link::{Http1, Http2, Link, Local};
use crate::exchange::policy::Policy;
use crate::exchange::pump::{Ended, Pump, Stopped, WayOut};
use crate::exchange::service::LocalService;
use crate::exchange::worker::Worker;
use crate::pipeline::{Exchange, Refusal};
use crate::upstream::{Live, Outcome, Picked};

/// So many endpoints are tried at most.
const ATTEMPTS_MAX: u8 = 3;

/// Where a route's requests go.
#[derive(Clone)]
pub enum Destination {
    /// To the endpoints of an upstream.
    Upstream(Arc<Live>),
    /// To a service inside the process.
    Local(Arc<str>, Arc<dyn LocalService>),
}

/// Answers the request from its destination.
///
/// # Errors
/// Says what the client has to be told, or why it can't be told anything any more.
pub async fn exchange<W: WayOut>(
    worker: &Worker,
    session: &mut ServerSession,
    exchange: &mut Exchange,
    destination: &Destination,
    policy: &Policy,
    way: &W,
) -> Result<(), Ended> {
    if session.is_body_done() || policy.body_limit == u64::MAX || declared_length(session) <= policy.body_limit {
        let run = Dispatch { worker, session, exchange, policy, way };
        return match destination {
            Destination::Upstream(live) => run.ask_upstream(live).await,
            Destination::Local(name, service) => run.ask_service(name, &**service).await,
        };
    }
    Err(Ended::Unanswered(Refusal::BodyTooLarge { limit: policy.body_limit }))
}

fn declared_length(session: &ServerSession) -> u64 {
    let length = session.get_header(http::header::CONTENT_LENGTH).and_then(|it| it.to_str().ok());
    length.and_then(|it| it.parse().ok()).unwrap_or(0)
}

struct Dispatch<'a, W> {
    worker: &'a Worker,
    session: &'a mut ServerSession,
    exchange: &'a mut Exchange,
    policy: &'a Policy,
    way: &'a W,
}

impl<W: WayOut> Dispatch<'_, W> {
    async fn ask_service(mut self, name: &Arc<str>, service: &dyn LocalService) -> Result<(), Ended> {
        self.exchange.upstream = Some(name.clone());
        let head = head::outgoing(self.session, Protocol::Http1);
        let mut link = Link::Local(Local::begin(service, &head, self.session.is_upgrade_req()));
        self.pump(&mut link).await.0.map_err(|it| it.why)
    }

    async fn ask_upstream(mut self, live: &Live) -> Result<(), Ended> {
        self.exchange.upstream = Some(live.upstream().name.clone());
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut last = Refusal::NoHealthyEndpoint;
        while self.exchange.attempts < ATTEMPTS_MAX {
            let Some(picked) = live.pick(&tried).or_else(|| self.again(live, &tried)) else { break };
            let endpoint = picked.endpoint().clone();
            self.exchange.attempts += 1;
            self.exchange.endpoint = Some(endpoint.address());
            let stopped = match self.attempt(picked).await {
                Ok(()) => return Ok(()),
                Err(stopped) => stopped,
            };
            let Ended::Unanswered(refusal) = stopped.why else { return Err(stopped.why) };
            if !self.may_try_again(&refusal, stopped.untouched, stopped.unprocessed) {
                return Err(Ended::Unanswered(refusal));
            }
            tracing::debug!(
                event = "attempt_failed", request_id = self.exchange.request_id.as_str(),
                upstream = %live.upstream().name, endpoint = %endpoint.address(), reason = ?refusal
            );
            last = refusal;
            tried.push(endpoint.address());
        }
        Err(Ended::Unanswered(last))
    }

    /// Every healthy endpoint was tried: one of them may have been restarted just now, or the pooled
    /// connection was a dead one.
    fn again(&self, live: &Live, tried: &[SocketAddr]) -> Option<Picked> {
        if tried.is_empty() { None } else { live.pick(&[]) }
    }

    /// What never reached an upstream may go to another one. What may have reached it is repeated only
    /// if the method says that doing it twice is doing it once (RFC 9110, 9.2.2).
    fn may_try_again(&self, refusal: &Refusal, untouched: bool, unprocessed: bool) -> bool {
        let idempotent = || {
            let method = &self.session.req_header().method;
            [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
        };
        untouched
            && match refusal {
                Refusal::ConnectFailed | Refusal::ConnectTimeout => true,
                Refusal::UpstreamClosed => unprocessed || idempotent(),
                _ => false,
            }
    }

    async fn attempt(&mut self, mut picked: Picked) -> Result<(), Stopped> {
        let endpoint = picked.endpoint().clone();
        let began = self.exchange.started.elapsed();
        let connected = self.connect(endpoint.peer()).await;
        self.exchange.timings.connected = Some(self.exchange.started.elapsed());
        let result = match connected {
            Ok((mut link, reused)) => {
                self.exchange.connection_reused = reused;
                let (result, request_done) = self.pump(&mut link).await;
                if result.is_ok() {
                    self.release(link, endpoint.peer(), request_done).await;
                }
                result
            }
            Err(refusal) => Err(Stopped { why: Ended::Unanswered(refusal), untouched: true, unprocessed: true }),
        };
        let latency = self.exchange.timings.first_byte.unwrap_or_default().saturating_sub(began);
        picked.record(outcome(&result), latency);
        result
    }

    async fn pump(&mut self, link: &mut Link) -> (Result<(), Stopped>, bool) {
        let mut pump = Pump::new(self.session, link, self.exchange, self.policy, self.way, &self.worker.ending);
        let result = pump.run().await;
        (result, pump.request_done())
    }

    async fn connect(&mut self, peer: &pingora::upstreams::peer::HttpPeer) -> Result<(Link, bool), Refusal> {
        let mut deadline = Deadline::after(self.policy.connect);
        let mut session = pin!(self.worker.connector.get_http_session(peer));
        let session = poll_fn(|cx| match session.as_mut().poll(cx) {
            Poll::Ready(session) => Poll::Ready(Some(session)),
            Poll::Pending => deadline.poll_expired(cx).map(|()| None),
        })
        .await;
        let (session, reused) = session.ok_or(Refusal::ConnectTimeout)?.map_err(|it| connect_failed(&it))?;
        let link = match session {
            HttpSession::H1(session) => {
                let head = head::outgoing(self.session, Protocol::Http1);
                Http1::begin(session, head).await.map(Link::Http1)
            }
            HttpSession::H2(session) => {
                let head = head::outgoing(self.session, Protocol::Http2);
                Http2::begin(session, head, self.session.is_body_done()).map(Link::Http2)
            }
            HttpSession::Custom(_) => return Err(Refusal::Internal),
        };
        link.map(|link| (link, reused)).map_err(|it| connect_failed(&it))
    }

    async fn release(&self, link: Link, peer: &pingora::upstreams::peer::HttpPeer, request_done: bool) {
        let idle = peer.options.idle_timeout.unwrap_or(self.policy.idle);
        match link {
            Link::Http1(link) => link.release(&self.worker.connector, peer, request_done, idle).await,
            Link::Http2(link) => link.release(&self.worker.connector, peer, idle).await,
            Link::Local(_) => {}
        }
    }
}

fn connect_failed(error: &Error) -> Refusal {
    tracing::debug!(event = "connect_failed", error = %error);
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
