//! A request that no client waits for in person: a copy is brought up to date, a deed goes on though
//! its client left. Answered as a stream, which goes on being read only as fast as it is asked for.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::client::HttpSession;

use crate::base::Deadline;
use crate::exchange::dispatch::{ATTEMPTS_MAX, Destination, again, connect, connect_failed};
use crate::exchange::head;
use crate::exchange::link::{Http1, Http2, Link, Local};
use crate::exchange::policy::Policy;
use crate::exchange::pool;
use crate::exchange::pump::{Ended, interim, is_idempotent, refusal_of};
use crate::exchange::worker::Worker;
use crate::pipeline::Refusal;
use crate::upstream::{Endpoint, Live, Outcome, Picked, Protocol};

/// Who answered a call; in the answer's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Called {
    /// The endpoint; `None` for a local service.
    pub endpoint: Option<SocketAddr>,
    /// How many endpoints were tried.
    pub attempts: u8,
    /// From the call's start until the answer's head.
    pub first_byte: Duration,
}

/// Asks a destination with the whole body at hand. Interim answers and trailers are left out; there
/// are no upgrades. To be polled on the worker's own thread, the answer's body as well.
///
/// # Errors
/// Says why there is no answer.
pub async fn call(
    worker: &Arc<Worker>,
    destination: &Destination,
    request: &RequestHeader,
    body: Bytes,
    policy: &Policy,
) -> Result<http::Response<Body>, Refusal> {
    let began = Instant::now();
    let caller = Caller { worker, request, body, policy, began };
    let (answering, head, end, attempts) = match destination {
        Destination::Upstream(live) => caller.ask(live).await?,
        Destination::Local(_, service) => {
            let head = head::outgoing(request, false, !caller.body.is_empty(), head::Protocol::Http1);
            let mut answering = Answering::new(Link::Local(Local::begin(&**service, &head, false)), policy, began);
            let (head, end) = caller.head_from(&mut answering).await.map_err(|it| it.refusal)?;
            (answering, head, end, 1)
        }
    };
    let endpoint = answering.asked.as_ref().map(|it| it.endpoint.address());
    let mut answer = into_response(head, answering, end, &request.method);
    answer.extensions_mut().insert(Called { endpoint, attempts, first_byte: began.elapsed() });
    Ok(answer)
}

struct Caller<'a> {
    worker: &'a Arc<Worker>,
    request: &'a RequestHeader,
    body: Bytes,
    policy: &'a Policy,
    began: Instant,
}

/// Why there is no answer, and whether the upstream may have begun to look at the request.
struct Failed {
    refusal: Refusal,
    unprocessed: bool,
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, unprocessed: true }
    }
}

impl Caller<'_> {
    async fn ask(&self, live: &Live) -> Result<(Answering, Box<ResponseHeader>, bool, u8), Refusal> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut last = Refusal::NoHealthyEndpoint;
        for attempt in 1..=ATTEMPTS_MAX {
            let Some(picked) = live.pick(&tried).or_else(|| again(live, &tried)) else { break };
            let address = picked.endpoint().address();
            let failed = match self.attempt(live, picked).await {
                Ok((answering, head, end)) => return Ok((answering, head, end, attempt)),
                Err(failed) => failed,
            };
            let again = match &failed.refusal {
                Refusal::ConnectFailed | Refusal::ConnectTimeout => true,
                Refusal::UpstreamClosed => failed.unprocessed || is_idempotent(&self.request.method),
                _ => false,
            };
            if !again {
                return Err(failed.refusal);
            }
            last = failed.refusal;
            tried.push(address);
        }
        Err(last)
    }

    async fn attempt(&self, live: &Live, picked: Picked) -> Result<(Answering, Box<ResponseHeader>, bool), Failed> {
        let endpoint = picked.endpoint().clone();
        let link = match live.upstream().protocol {
            Protocol::Http1 => self.over_http1(&endpoint).await,
            Protocol::Http2 => self.over_http2(&endpoint).await,
        };
        let link = match link {
            Ok(link) => link,
            Err(refusal) => {
                let mut picked = picked;
                picked.record(Outcome::Failure, Duration::ZERO);
                return Err(refusal.into());
            }
        };
        let mut answering = Answering::new(link, self.policy, self.began);
        let keep = live.upstream().keep_alive.idle;
        answering.asked = Some(Asked { endpoint, picked: Some(picked), worker: self.worker.clone(), keep });
        let (head, end) = self.head_from(&mut answering).await?;
        Ok((answering, head, end))
    }

    async fn over_http1(&self, endpoint: &Endpoint) -> Result<Link, Refusal> {
        let stream = match pool::take(endpoint.key()) {
            Some(stream) => stream,
            None => {
                let connecting = self.worker.connect(endpoint);
                connect(self.policy.connect, connecting).await.map_err(|it| unanswered(it.why))?
            }
        };
        let head = head::outgoing(self.request, false, !self.body.is_empty(), head::Protocol::Http1);
        Ok(Link::Http1(Http1::begin(stream, head).await.map_err(|it| connect_failed(&it))?))
    }

    async fn over_http2(&self, endpoint: &Endpoint) -> Result<Link, Refusal> {
        let connecting = self.worker.http2.get_http_session(endpoint.peer());
        let (session, _) = connect(self.policy.connect, connecting).await.map_err(|it| unanswered(it.why))?;
        let HttpSession::H2(session) = session else { return Err(Refusal::UpstreamProtocol) };
        let head = head::outgoing(self.request, false, !self.body.is_empty(), head::Protocol::Http2);
        Ok(Link::Http2(Http2::begin(session, head, self.body.is_empty()).map_err(|it| connect_failed(&it))?))
    }

    /// Sends the body and waits for the answer's head.
    async fn head_from(&self, answering: &mut Answering) -> Result<(Box<ResponseHeader>, bool), Failed> {
        if let Err(error) = answering.link.send(self.body.clone(), true).await {
            answering.settle(Outcome::Failure, false).await;
            return Err(refusal_of(&error).into());
        }
        answering.deadline.arm_at((Instant::now() + self.policy.first_byte).min(answering.total));
        loop {
            match answering.next().await {
                Ok(HttpTask::Header(head, _)) if interim(&head) => {}
                Ok(HttpTask::Header(mut head, end)) => {
                    head::strip(&mut head);
                    return Ok((head, end));
                }
                Ok(_) => return Err(answering.failed(Refusal::UpstreamProtocol).await),
                Err(Broken::Late) if Instant::now() >= answering.total => {
                    return Err(answering.failed(Refusal::ExchangeTimeout).await);
                }
                Err(Broken::Late) => return Err(answering.failed(Refusal::FirstByteTimeout).await),
                Err(Broken::Upstream(refusal)) => return Err(answering.failed(refusal).await),
            }
        }
    }
}

fn unanswered(why: Ended) -> Refusal {
    match why {
        Ended::Unanswered(refusal) => refusal,
        Ended::Cut(_) | Ended::ClientGone => Refusal::UpstreamClosed,
    }
}

/// The endpoint that was asked, and what it is owed.
struct Asked {
    endpoint: Arc<Endpoint>,
    picked: Option<Picked>,
    worker: Arc<Worker>,
    keep: Duration,
}

/// An answer under way.
struct Answering {
    link: Link,
    asked: Option<Asked>,
    deadline: Deadline,
    idle: Duration,
    total: Instant,
    began: Instant,
}

enum Broken {
    Late,
    Upstream(Refusal),
}

impl Answering {
    fn new(link: Link, policy: &Policy, began: Instant) -> Self {
        let total = began + policy.request;
        Self { link, asked: None, deadline: Deadline::idle(), idle: policy.idle, total, began }
    }

    async fn next(&mut self) -> Result<HttpTask, Broken> {
        let Self { link, deadline, .. } = self;
        let task = poll_fn(|cx| {
            link.poll_out(cx);
            if let Poll::Ready(task) = link.poll_in(cx) {
                return Poll::Ready(Some(task));
            }
            deadline.poll_expired(cx).map(|()| None)
        });
        match task.await {
            Some(Ok(HttpTask::Failed(error)) | Err(error)) => Err(Broken::Upstream(refusal_of(&error))),
            Some(Ok(task)) => Ok(task),
            None => Err(Broken::Late),
        }
    }

    async fn failed(&mut self, refusal: Refusal) -> Failed {
        self.settle(Outcome::Failure, false).await;
        Failed { refusal, unprocessed: false }
    }

    /// Tells the endpoint's figures how it went, and gives the connection back if it may serve again.
    async fn settle(&mut self, outcome: Outcome, whole: bool) {
        let Some(mut asked) = self.asked.take() else { return };
        if let Some(mut picked) = asked.picked.take() {
            picked.record(outcome, self.began.elapsed());
        }
        let link = std::mem::replace(&mut self.link, Link::Local(Local::nothing()));
        match link {
            Link::Http1(link) if whole => {
                if let Some(stream) = link.into_stream(true).await {
                    pool::put(asked.endpoint.key(), stream, asked.keep);
                }
            }
            Link::Http2(link) => link.release(&asked.worker.http2, asked.endpoint.peer(), asked.keep).await,
            Link::Http1(_) | Link::Local(_) => {}
        }
    }

    /// The next piece of the body; `None` at its end.
    async fn piece(&mut self) -> Result<Option<Bytes>, io::Error> {
        loop {
            self.deadline.arm_at((Instant::now() + self.idle).min(self.total));
            match self.next().await {
                Ok(HttpTask::Body(piece, end)) => {
                    if end {
                        self.settle(Outcome::Success, true).await;
                    }
                    match piece.filter(|it| !it.is_empty()) {
                        Some(piece) => return Ok(Some(piece)),
                        None if end => return Ok(None),
                        None => {}
                    }
                }
                Ok(HttpTask::Done | HttpTask::Trailer(_)) => {
                    self.settle(Outcome::Success, true).await;
                    return Ok(None);
                }
                Ok(_) | Err(_) => {
                    self.settle(Outcome::Failure, false).await;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(&self.link, Link::Local(link) if link.is_nothing())
    }
}

fn into_response(head: Box<ResponseHeader>, answering: Answering, end: bool, method: &Method) -> http::Response<Body> {
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = head.status;
    *response.version_mut() = Version::HTTP_11;
    *response.headers_mut() = head.headers.clone();
    let pieces = stream::unfold(Some(answering), move |answering| async move {
        let mut answering = answering?;
        if end {
            answering.settle(Outcome::Success, true).await;
            return None;
        }
        if answering.is_over() {
            return None;
        }
        match answering.piece().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(answering))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    // A body without an end of its own would be given a length of its own.
    let bodiless = end && *method != Method::HEAD && !head.headers.contains_key(http::header::CONTENT_LENGTH);
    if bodiless {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, http::HeaderValue::from_static("0"));
    }
    *response.body_mut() = Body::from_stream(pieces);
    response
}
