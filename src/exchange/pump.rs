//! Both directions of one exchange in one task.
//!
//! Everything that can make progress is asked in one `poll_fn`, in an order that matters: what the
//! client has to get is written first, then the upstream's answer is read, then the client; so an
//! answer that is already there wins over the client's next bytes, or its end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, EXPECT};
use http::{Method, StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::{Error, ErrorType, Result as PingoraResult, RetryType};
use tokio::sync::watch;

use crate::base::Deadline;
use crate::client::write_http2;
use crate::exchange::head::{self, Framing};
use crate::exchange::link::Link;
use crate::exchange::policy::Policy;
use crate::exchange::websocket::{self, Frames};
use crate::listener::Connection;
use crate::pipeline::{EndState, Exchange, Refusal};
use crate::telemetry::STREAMS_OPEN;

/// How long what is left of a request's body is read and dropped after an early answer, so that the
/// client gets to read that answer and may go on with the connection.
const DRAIN_BODY: Duration = Duration::from_secs(2);

/// The names of Pingora's errors for a body whose chunks, or what follows them, are malformed.
pub(super) const INVALID_CHUNKS: [&str; 2] = ["InvalidChunk", "InvalidTrailerEnd"];

/// The way out: what happens to an answer's head before the client gets it.
pub trait WayOut {
    /// Called once for every final head, upgrades included.
    fn on_response(&self, exchange: &mut Exchange, head: &mut ResponseHeader);
}

/// Why an exchange did not end with a whole answer.
#[derive(Debug)]
pub enum Ended {
    /// Nothing was sent to the client yet: it can be told why.
    Unanswered(Refusal),
    /// The answer had begun: the connection or stream has to be cut, so that nobody takes it for whole.
    Cut(EndState),
    /// The client left before an answer.
    ClientGone,
}

/// As [`Ended`], and whether another endpoint may be asked.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) why: Ended,
    /// No part of an answer was seen, and what was taken of the client's body can be sent once more.
    pub(super) untouched: bool,
    /// The upstream said that it did not even look at the request.
    pub(super) unprocessed: bool,
}

/// What the exchange waits for; decides which deadline is next and whose fault a missed one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The request's body.
    Request,
    /// The answer's head.
    Head,
    /// The answer's body.
    Body,
    /// An event stream or an upgraded connection, which only silence ends.
    Stream,
}

enum Event {
    Wrote(PingoraResult<bool>),
    Upstream(PingoraResult<HttpTask>),
    Client(PingoraResult<Option<Bytes>>),
    Late,
    Ending,
}

pub(super) struct Pump<'a, W> {
    session: &'a mut ServerSession,
    link: &'a mut Link,
    exchange: &'a mut Exchange,
    policy: &'a Policy,
    way: &'a W,
    ending: &'a watch::Receiver<bool>,
    deadline: Deadline,
    total: Instant,
    phase: Phase,
    request_done: bool,
    answer_done: bool,
    answered: bool,
    upgraded: bool,
    /// The client's bytes are not wanted any more.
    quiet: bool,
    body_taken: u64,
    resumed: bool,
    stream: Option<OpenStream>,
    /// Where frames end in an upgraded connection.
    from_client: Frames,
    from_upstream: Frames,
}

/// Counts a stream for as long as it is open.
struct OpenStream;

impl OpenStream {
    fn new() -> Self {
        STREAMS_OPEN.inc();
        Self
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        STREAMS_OPEN.dec();
    }
}

impl<'a, W: WayOut> Pump<'a, W> {
    pub(super) fn new(
        session: &'a mut ServerSession,
        link: &'a mut Link,
        exchange: &'a mut Exchange,
        policy: &'a Policy,
        way: &'a W,
        ending: &'a watch::Receiver<bool>,
    ) -> Self {
        let request_done = session.is_body_done();
        let total = exchange.started + policy.request;
        Self {
            session,
            link,
            exchange,
            policy,
            way,
            ending,
            deadline: Deadline::idle(),
            total,
            phase: if request_done { Phase::Head } else { Phase::Request },
            request_done,
            answer_done: false,
            answered: false,
            upgraded: false,
            quiet: false,
            body_taken: 0,
            resumed: false,
            stream: None,
            from_client: Frames::default(),
            from_upstream: Frames::default(),
        }
    }

    /// The link was resumed: the whole body is on the wire already.
    pub(super) fn resumed(mut self) -> Self {
        self.resumed = true;
        self
    }

    /// Whether the whole request was handed to the link.
    pub(super) fn request_done(&self) -> bool {
        self.request_done
    }

    /// Pumps until the answer is out, or it has become clear that there will be none.
    pub(super) async fn run(&mut self) -> Result<(), Stopped> {
        self.session.set_read_timeout(None); // deadlines are ours
        self.session.set_proxy_tasks_enabled(true);
        self.begin_body().await?;
        if self.awaits_continue() {
            let go_on = ResponseHeader::build(StatusCode::CONTINUE, None).map_err(|it| self.upstream_failed(&it))?;
            self.on_interim(Box::new(go_on)).await?;
        }
        self.progress();
        loop {
            let busy = self.session.has_pending_downstream_proxy_tasks();
            if self.answer_done && !busy {
                self.recorded();
                return Ok(());
            }
            match self.next(busy).await {
                Event::Wrote(Ok(_)) => self.progress(),
                Event::Wrote(Err(_)) => return Err(self.client_gone()),
                Event::Upstream(Ok(task)) => self.on_answer(task).await?,
                Event::Upstream(Err(error)) if self.upgraded => {
                    tracing::debug!(
                        event = "tunnel_left",
                        kind = error.etype().as_str(),
                        "the upstream left its tunnel"
                    );
                    return Ok(());
                }
                Event::Upstream(Err(error)) => return Err(self.upstream_failed(&error)),
                Event::Client(Ok(piece)) => self.on_request_body(piece).await?,
                Event::Client(Err(_)) if self.upgraded => {
                    self.exchange.end = Some(EndState::Done);
                    return Ok(());
                }
                Event::Client(Err(error)) => return Err(self.client_failed(&error)),
                Event::Late => return Err(self.too_late()),
                Event::Ending => self.end_stream().await?,
            }
        }
    }

    /// Whether the client waits for a word that nobody but us can say.
    fn awaits_continue(&self) -> bool {
        !self.request_done && !self.link.relays_continue() && self.session.req_header().headers.contains_key(EXPECT)
    }

    async fn next(&mut self, busy: bool) -> Event {
        let Self { session, link, deadline, ending, stream, .. } = self;
        let (request_done, answer_done, quiet) = (self.request_done, self.answer_done, self.quiet);
        // Only streams outlive the time that a stop gives; for others the wait would be wasted work.
        let mut ending = stream.is_some().then(|| (*ending).clone());
        let mut ended = pin!(async {
            match &mut ending {
                Some(ending) => drop(ending.wait_for(|it| *it).await),
                None => std::future::pending().await,
            }
        });
        poll_fn(|cx| {
            link.poll_out(cx);
            // Before anything that a busy stream could always have ready.
            if ended.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Ending);
            }
            if session.has_pending_downstream_proxy_tasks()
                && let Poll::Ready(wrote) = pin!(session.write_downstream_proxy_tasks()).poll(cx)
            {
                return Poll::Ready(Event::Wrote(wrote));
            }
            if !busy
                && !answer_done
                && let Poll::Ready(task) = link.poll_in(cx)
            {
                return Poll::Ready(Event::Upstream(task));
            }
            if !quiet
                && (request_done || link.room())
                && let Poll::Ready(piece) = pin!(session.read_body_or_idle(request_done)).poll(cx)
            {
                return Poll::Ready(Event::Client(piece));
            }
            deadline.poll_expired(cx).map(|()| Event::Late)
        })
        .await
    }

    /// Something moved: silence is measured from here.
    fn progress(&mut self) {
        let now = Instant::now();
        let next = match self.phase {
            Phase::Stream if self.upgraded => return self.deadline.arm_at(now + self.policy.websocket_idle),
            Phase::Stream => return self.deadline.arm_at(now + self.policy.idle),
            Phase::Request | Phase::Body => now + self.policy.idle,
            Phase::Head => now + self.policy.first_byte,
        };
        self.deadline.arm_at(next.min(self.total));
    }

    // ── The request ─────────────────────────────────────────────────────────────────────────────

    /// What an attempt before this one has taken of the body goes out again. It is kept, as far as
    /// Pingora keeps it (64 KiB), for requests that may be asked twice.
    async fn begin_body(&mut self) -> Result<(), Stopped> {
        if !self.request_done && is_idempotent(&self.session.req_header().method) {
            self.session.enable_retry_buffering();
        }
        let again = match &self.exchange.body {
            _ if self.resumed => None,
            Some(held) => Some(held.clone()),
            None => self.session.get_retry_buffer(),
        };
        let again = again.unwrap_or_default();
        self.body_taken = again.len() as u64;
        let end = self.request_done && !self.session.is_upgrade_req();
        if end || !again.is_empty() {
            self.send(again, end).await?;
        }
        Ok(())
    }

    async fn on_request_body(&mut self, piece: Option<Bytes>) -> Result<(), Stopped> {
        let end = piece.is_none() || (!self.upgraded && self.session.is_body_done());
        let piece = piece.unwrap_or_default();
        if self.upgraded {
            self.from_client.pass(&piece);
        } else {
            self.body_taken += piece.len() as u64;
            if self.body_taken > self.policy.body_limit {
                self.link.cancel();
                return Err(self.refused(Refusal::BodyTooLarge { limit: self.policy.body_limit }));
            }
        }
        self.send(piece, end).await?;
        if end {
            self.request_done = true;
            self.answer_done |= self.upgraded; // a tunnel ends with either side
            if self.phase == Phase::Request {
                self.phase = Phase::Head;
            }
        }
        self.progress();
        Ok(())
    }

    async fn send(&mut self, piece: Bytes, end: bool) -> Result<(), Stopped> {
        match self.link.send(piece, end).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.upstream_failed(&error)),
        }
    }

    // ── The answer ──────────────────────────────────────────────────────────────────────────────

    async fn on_answer(&mut self, task: HttpTask) -> Result<(), Stopped> {
        let task = match task {
            HttpTask::Header(head, _) if interim(&head) => return self.on_interim(head).await,
            HttpTask::Header(head, end) => self.on_head(head, end)?,
            HttpTask::Body(piece, end) => {
                self.exchange.body_received += piece.as_ref().map_or(0, |it| it.len() as u64);
                if let (Some(recording), Some(piece)) = (&mut self.exchange.recording, &piece) {
                    recording.on_body(piece);
                }
                self.answer_done = end;
                HttpTask::Body(piece, end)
            }
            HttpTask::UpgradedBody(piece, end) => {
                self.exchange.body_received += piece.as_ref().map_or(0, |it| it.len() as u64);
                self.from_upstream.pass(piece.as_deref().unwrap_or_default());
                self.answer_done = end;
                HttpTask::UpgradedBody(piece, end)
            }
            HttpTask::Trailer(trailers) => {
                self.answer_done = true;
                // Pingora can't write trailers of HTTP/1.
                if self.session.is_http2() { HttpTask::Trailer(trailers) } else { HttpTask::Done }
            }
            HttpTask::Done => {
                self.answer_done = true;
                HttpTask::Done
            }
            HttpTask::Failed(error) => return Err(self.upstream_failed(&error)),
        };
        self.put(task).await?;
        self.progress();
        Ok(())
    }

    /// 100 and 103 pass to HTTP/1.1 clients. HTTP/1.0 does not know them (RFC 9110, 15.2), and Pingora
    /// can't send them over HTTP/2.
    async fn on_interim(&mut self, head: Box<ResponseHeader>) -> Result<(), Stopped> {
        if self.session.req_header().version != Version::HTTP_11 {
            return Ok(());
        }
        // Pingora would take any head that goes out before the body is read for a reason to close.
        self.session.set_close_on_response_before_downstream_finish(false);
        self.put(HttpTask::Header(head, false)).await?;
        self.progress();
        Ok(())
    }

    fn on_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<HttpTask, Stopped> {
        let since = self.exchange.started.elapsed();
        self.exchange.timings.first_byte = Some(since);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.on_upgrade(head);
        }
        self.settle_early_answer();
        let request = self.session.req_header();
        let framing = head::incoming(&mut head, request.version, &request.method, end);
        if let Some(recording) = &mut self.exchange.recording {
            recording.on_head(&head);
        }
        if framing == Framing::UntilClose || Connection::of(self.session.digest()).is_some_and(|it| it.closing()) {
            self.session.set_keepalive(None);
        }
        let events = head.headers.get(CONTENT_TYPE).is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream"));
        self.way.on_response(self.exchange, &mut head);
        self.phase = if events { Phase::Stream } else { Phase::Body };
        if events && !end {
            self.exchange.streaming = true;
            self.stream = Some(OpenStream::new());
        }
        self.answered = true;
        self.answer_done = end;
        Ok(HttpTask::Header(head, end))
    }

    /// An answer that comes before the request's end: what is left of the body is drained, so that the
    /// client reads the answer instead of a reset. Not after `Expect`: the client may leave the body out.
    fn settle_early_answer(&mut self) {
        let expects = self.session.req_header().headers.contains_key(EXPECT);
        self.session.set_close_on_response_before_downstream_finish(expects && !self.request_done);
        if !self.request_done {
            self.session.set_total_drain_timeout(Some(DRAIN_BODY));
        }
    }

    fn on_upgrade(&mut self, mut head: Box<ResponseHeader>) -> Result<HttpTask, Stopped> {
        if !self.session.is_upgrade_req() || !self.link.upgrade() {
            return Err(self.refused(Refusal::UpstreamProtocol)); // a 101 that nobody asked for
        }
        head.set_version(Version::HTTP_11);
        self.way.on_response(self.exchange, &mut head);
        self.upgraded = true;
        self.answered = true;
        self.request_done = false; // from here on the client's bytes are the tunnel's
        self.phase = Phase::Stream;
        self.exchange.streaming = true;
        self.stream = Some(OpenStream::new());
        Ok(HttpTask::Header(head, false))
    }

    /// Hands a part of the answer to the client's session.
    async fn put(&mut self, task: HttpTask) -> Result<(), Stopped> {
        if self.session.supports_proxy_task_api() {
            self.session.send_downstream_proxy_task(task);
            return Ok(());
        }
        // HTTP/2: the write keeps the session; meanwhile the upload and the clock must go on.
        let written = {
            let Self { session, link, deadline, .. } = self;
            let mut write = pin!(write_http2(session, task));
            poll_fn(|cx: &mut Context<'_>| {
                link.poll_out(cx);
                if let Poll::Ready(written) = write.as_mut().poll(cx) {
                    return Poll::Ready(Some(written));
                }
                deadline.poll_expired(cx).map(|()| None)
            })
            .await
        };
        match written {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(self.client_gone()),
            None => Err(self.stopped(Ended::Cut(EndState::ClientTimeout))),
        }
    }

    /// The process stops: a stream ends whole, so that its client comes back to another gateway.
    async fn end_stream(&mut self) -> Result<(), Stopped> {
        self.exchange.end = Some(EndState::Drained);
        self.stream = None;
        self.answer_done = true;
        if !self.upgraded {
            self.link.cancel();
            return self.put(HttpTask::Done).await;
        }
        self.quiet = true;
        if self.from_client.may_close() {
            // It goes out at the next turn; whether it arrives is no longer our business.
            let _ = self.link.send(websocket::close_to_upstream(), false).await;
        }
        let farewell = self.from_upstream.may_close().then(websocket::close_to_client);
        self.put(HttpTask::UpgradedBody(farewell, true)).await
    }

    fn recorded(&mut self) {
        // A stream that a stop has ended is not the whole answer.
        if let (Some(recording), None) = (&mut self.exchange.recording, self.exchange.end) {
            recording.on_end();
        }
    }

    // ── The ways to fail ────────────────────────────────────────────────────────────────────────

    fn stopped(&self, why: Ended) -> Stopped {
        let repeatable = self.body_taken == 0 || self.keeps_body();
        Stopped { why, untouched: repeatable && !self.answered, unprocessed: false }
    }

    /// Whether all that was taken of the body is at hand for another attempt.
    fn keeps_body(&self) -> bool {
        self.exchange.body.is_some()
            || (!self.session.retry_buffer_truncated() && self.session.get_retry_buffer().is_some())
    }

    fn refused(&self, refusal: Refusal) -> Stopped {
        if self.answered {
            return self.stopped(Ended::Cut(EndState::Truncated));
        }
        self.stopped(Ended::Unanswered(refusal))
    }

    fn client_gone(&mut self) -> Stopped {
        self.link.cancel();
        self.stopped(if self.answered { Ended::Cut(EndState::ClientGone) } else { Ended::ClientGone })
    }

    fn client_failed(&mut self, error: &Error) -> Stopped {
        if !self.request_done && INVALID_CHUNKS.contains(&error.etype().as_str()) {
            self.link.cancel();
            return self.refused(Refusal::BadRequest("the body's chunks are malformed"));
        }
        self.client_gone()
    }

    fn upstream_failed(&mut self, error: &Error) -> Stopped {
        // The kind alone: the error's text may quote what the upstream sent (R10.2).
        tracing::debug!(event = "upstream_failed", kind = error.etype().as_str());
        self.link.cancel();
        if self.answered {
            return self.stopped(Ended::Cut(EndState::Truncated));
        }
        let mut stopped = self.stopped(Ended::Unanswered(refusal_of(error)));
        // Pingora decides so for REFUSED_STREAM and for a connection that was going away.
        stopped.unprocessed = matches!(error.retry, RetryType::Decided(true));
        stopped
    }

    fn too_late(&mut self) -> Stopped {
        let client_is_slow = match self.phase {
            Phase::Request => self.link.room(),
            Phase::Head => false,
            Phase::Body | Phase::Stream => self.session.has_pending_downstream_proxy_tasks(),
        };
        self.link.cancel();
        if self.answered {
            let end = if client_is_slow { EndState::ClientTimeout } else { EndState::Truncated };
            return self.stopped(Ended::Cut(end));
        }
        let in_all = Instant::now() >= self.total;
        self.stopped(Ended::Unanswered(match self.phase {
            Phase::Request if client_is_slow => Refusal::RequestTimeout,
            _ if in_all => Refusal::ExchangeTimeout,
            _ => Refusal::FirstByteTimeout,
        }))
    }
}

/// What an upstream's failure before its answer is for the client.
pub(super) fn refusal_of(error: &Error) -> Refusal {
    match error.etype() {
        ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2 => Refusal::UpstreamProtocol,
        ErrorType::InternalError => Refusal::Internal,
        _ => Refusal::UpstreamClosed,
    }
}

/// Doing it twice is doing it once (RFC 9110, section 9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

pub(super) fn interim(head: &ResponseHeader) -> bool {
    head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS
}
