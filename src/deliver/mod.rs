//! The one way to a client: an answer's head and body, or a tunnel, whatever their source.
//!
//! Everything that can make progress is polled in one `poll_fn`, in an order that matters: what the client has to get
//! is written first, then the upstream's answer is read, then the client; so an answer that is already there wins over
//! the client's next bytes, or its end.

mod compress;
mod compressed;
mod event_stream;
mod messages;
mod stream_error;
mod streaming;
mod tapped;
mod tapped_tunnel;
mod tunnel;
mod websocket;

pub use compress::{COMPRESSED_MAX, CompressConfig, CompressRules};
pub use event_stream::{EventRules, SseConfig};
pub use streaming::Streaming;
pub use tunnel::Tunnel;
pub use websocket::{SHUTDOWN_PROTOCOL, WebSocketConfig, WebSocketRules};

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use pingora::http::ResponseHeader;

use crate::base::Deadline;
use crate::client::{Client, ClientError, Part};
use crate::connections::{Cause, Kind as LongLived, LONG_AFTER, Open, Signal};
use crate::forward::{Frame, Pace, Policy, UploadError, UpstreamBody, UpstreamError, UpstreamResponse, progressed};
use crate::http as codec;
use crate::pipeline::{EndState, Exchange, Refusal, Shown, TapError, Taps};
use crate::telemetry::STREAMS_OPEN;

pub use tapped::DIGESTS;

use compress::Stage;
use event_stream::{Due, EventStream, HEARTBEAT};
use stream_error::{StreamError, end_state};
use tapped::{Tapped, as_text};
use websocket::choose_shutdown_protocol;

/// A client gets what is there in one write, up to this size, in bytes.
const GATHER: usize = 64 * 1024;

/// What happens to an answer's head before the client gets it.
pub trait ResponseFilters: Sync {
    /// The client gets a refusal: there is no answer of an upstream. Called before [`ResponseFilters::on_response`].
    fn on_refusal(&self, exchange: &mut Exchange) {
        let _ = exchange;
    }

    /// Called once for every final head, upgrades included.
    fn on_response(&self, exchange: &mut Exchange, head: &mut ResponseHeader);

    /// Those who are to see the answer's body, or what comes through the tunnel that it opens. They get the head as it
    /// came, and are collected before `on_response`.
    fn response_taps(&self, exchange: &Exchange, head: &ResponseHeader) -> Option<Box<Taps>> {
        let _ = (exchange, head);
        None
    }
}

/// Why an answer did not go out.
#[derive(Debug)]
pub enum Undelivered {
    /// The connection or stream has to be cut, so that nobody takes the answer for whole.
    Cut(EndState),
    /// Nothing of it has gone to the client, which can get a refusal.
    Refused(Box<Refusal>),
}

impl Undelivered {
    fn refused(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<EndState> for Undelivered {
    fn from(end: EndState) -> Self {
        Self::Cut(end)
    }
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

/// Writes an answer to its client; what an answer 101 begins is left to the caller, who needs less for it than an
/// answer takes.
///
/// # Errors
/// Says what has to become of it instead.
pub async fn deliver<F: ResponseFilters>(
    response: UpstreamResponse,
    client: &mut Client,
    exchange: &mut Exchange,
    policy: &Policy,
    filters: &F,
    streaming: &Streaming<'_>,
) -> Result<Option<Box<Tunnel>>, Undelivered> {
    let UpstreamResponse { mut head, mut body } = response;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let websocket = codec::has_token(&head.headers, &UPGRADE, "websocket");
        if exchange.wants_shutdown_message {
            choose_shutdown_protocol(&mut head);
        }
        let Begun { tapped, .. } = begin(head, &mut body, client, exchange, filters, None)?;
        let taps = (exchange.request_taps.take(), tapped.map(|it| it.taps));
        let rules = streaming.websocket.copied().unwrap_or_default().asked(exchange.wants_shutdown_message);
        let rules = websocket.then_some(rules);
        let open = streaming.open(if websocket { LongLived::WebSocket } else { LongLived::Tunnel }, exchange);
        return Ok(Some(Box::new(Tunnel::new(body, taps, rules, policy.websocket_idle, open))));
    }
    let ended = deliver_parts(head, &mut body, client, exchange, policy, filters, streaming).await;
    if ended.is_err() {
        body.cancel();
    }
    body.finish().await;
    ended.map(|()| None)
}

/// As [`deliver`], for callers that have a use for what is left of the body when the client has gone. It is never an
/// answer 101.
///
/// # Errors
/// As [`deliver`].
pub async fn deliver_parts<F: ResponseFilters>(
    head: Box<ResponseHeader>,
    body: &mut UpstreamBody,
    client: &mut Client,
    exchange: &mut Exchange,
    policy: &Policy,
    filters: &F,
    streaming: &Streaming<'_>,
) -> Result<(), Undelivered> {
    let length = head.headers.get(CONTENT_LENGTH).and_then(|it| codec::length(it.as_bytes()));
    let rules = streaming.events.filter(|_| event_stream::follows_rules(&head));
    let speaks = rules.is_some() || (length.is_none() && event_stream::follows_rules(&head));
    let head = if rules.is_some() { event_stream::without_length(head) } else { head };
    let Begun { kind, tapped, compressed } = begin(head, body, client, exchange, filters, streaming.compress)?;
    let (lasts, length) = (length.is_none(), length.unwrap_or(0));
    let mut delivery = Delivery {
        body,
        client,
        exchange,
        policy,
        streaming,
        tapped,
        compressed,
        length,
        lasts,
        ended: None,
        blocked: None,
        open: None,
        events: None,
        between_events: speaks.then_some(true),
    };
    match kind {
        Kind::Answer => delivery.run().await,
        Kind::Events => {
            let _open = OpenStream::new();
            delivery.begin_events(rules);
            delivery.run().await
        }
        Kind::Tunnel => Err(EndState::Truncated.into()),
    }
}

/// What an answer's head begins.
enum Kind {
    Answer,
    /// A stream of events, which only silence ends.
    Events,
    Tunnel,
}

/// What a head has begun, and what is between its body and the client.
struct Begun<'a> {
    kind: Kind,
    tapped: Option<Box<Tapped<'a>>>,
    compressed: Option<Box<Stage>>,
}

/// Queues the head, unless it has to wait for what taps make of the body.
fn begin<'a, F: ResponseFilters>(
    mut head: Box<ResponseHeader>,
    body: &mut UpstreamBody,
    client: &mut Client,
    exchange: &mut Exchange,
    filters: &'a F,
    compress: Option<&CompressRules>,
) -> Result<Begun<'a>, Undelivered> {
    // A stop may have begun since the request came.
    if client.connection().closing() {
        client.close_after();
    }
    if !client.may_be_answered(&head) {
        body.record_failure();
        return Err(Undelivered::refused(Refusal::UpstreamProtocol));
    }
    let upgrades = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let bodiless = !upgrades && (client.request().method == Method::HEAD || body.has_ended());
    let kind = match () {
        () if upgrades => Kind::Tunnel,
        () if !bodiless && codec::is_event_stream(&head.headers) => Kind::Events,
        () => Kind::Answer,
    };
    if let Some(recording) = &mut exchange.recording
        && !upgrades
    {
        recording.on_head(&head);
    }
    if !matches!(kind, Kind::Answer) {
        exchange.streaming = true;
        body.record_head();
    }
    let mut taps = filters.response_taps(exchange, &head);
    if let Some(taps) = &mut taps {
        as_text(taps, &mut head, &kind, bodiless, exchange)?;
    }
    // Before the filters: one of them says in the head what is decided here.
    let compressed = compress.and_then(|it| it.begin(&head, bodiless, &client.request().method, exchange));
    if let Some(taps) = taps {
        let tapped = Tapped::begin(taps, (head, bodiless), &kind, client, exchange, filters)?;
        return Ok(Begun { kind, tapped, compressed });
    }
    filters.on_response(exchange, &mut head);
    client.queue(Part::Head(head, bodiless)).map_err(|_| EndState::ClientGone)?;
    Ok(Begun { kind, tapped: None, compressed })
}

enum Event {
    Wrote,
    Frame(Result<Frame, UpstreamError>),
    Compressed(io::Result<Bytes>),
    Upload(Result<(), UploadError>),
    ClientGone,
    Late,
    Signal(Signal),
}

/// The body of one answer on its way.
struct Delivery<'a> {
    body: &'a mut UpstreamBody,
    client: &'a mut Client,
    exchange: &'a mut Exchange,
    policy: &'a Policy,
    streaming: &'a Streaming<'a>,
    /// Those who see it first.
    tapped: Option<Box<Tapped<'a>>>,
    /// What compresses it, behind them.
    compressed: Option<Box<Stage>>,
    /// The body's, as far as it is known, in bytes.
    length: u64,
    /// Its length is not known: it may last.
    lasts: bool,
    /// All of it was handed to the client's queue, and what is to be made of the connection behind it.
    ended: Option<Ending>,
    /// Since when the client takes no more at once, and what it had taken by then.
    blocked: Option<(Pace, u64)>,
    /// Its place among the connections that last, once it does.
    open: Option<Box<Open>>,
    /// How its events are kept, if the route says so.
    events: Option<Box<EventStream<'a>>>,
    /// Of other event streams: whether the last piece ended an event. `None` where no word of ours may stand.
    between_events: Option<bool>,
}

/// How a body that was handed over ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Whole,
    /// The client was told why in its stream, and nobody shall take it for whole.
    Cut(EndState),
}

impl<'a> Delivery<'a> {
    async fn run(&mut self) -> Result<(), Undelivered> {
        if self.client.request().method == Method::HEAD {
            self.on_frame(Frame::End(None))?;
        }
        self.take_at_hand()?;
        self.compress()?;
        self.release().await;
        let mut deadline = Deadline::idle();
        let mut upload_acknowledged = None;
        loop {
            if let Some(ending) = self.ended
                && self.client.unwritten() == 0
            {
                return match ending {
                    Ending::Whole => Ok(()),
                    Ending::Cut(end) => Err(end.into()),
                };
            }
            match self.next(&mut deadline).await {
                Event::Wrote => self.blocked = None,
                Event::Frame(Ok(frame)) => {
                    self.on_frame(frame)?;
                    self.take_at_hand()?;
                    self.compress()?;
                    self.release().await;
                }
                Event::Compressed(output) => {
                    self.on_compressed(output)?;
                    self.take_at_hand()?;
                    self.compress()?;
                    self.release().await;
                }
                Event::Frame(Err(error)) => self.upstream_failed(error)?,
                Event::Upload(Ok(())) => {}
                Event::Upload(Err(UploadError::Stopped)) => {
                    return Err(self.broken(EndState::Stopped, Refusal::ContentStopped));
                }
                Event::Upload(Err(_)) | Event::ClientGone => return Err(EndState::ClientGone.into()),
                Event::Late => self.on_late(&mut upload_acknowledged)?,
                Event::Signal(Signal::Draining) => {}
                Event::Signal(Signal::End(cause)) => {
                    self.open = None;
                    self.lasts = false;
                    self.end_for(cause)?;
                }
            }
            if let Some(open) = &self.open {
                let (received, sent) = self.client.bytes();
                open.passed(received, sent);
            }
        }
    }

    /// A time is over: whose, is to be found out.
    fn on_late(&mut self, upload_acknowledged: &mut Option<u64>) -> Result<(), Undelivered> {
        if self.is_past_deadline() {
            if self.ended.is_some() {
                return Err(EndState::ClientGone.into()); // nobody waits for the rest
            }
            return self.end_call(CALL_IS_LATE);
        }
        if self.next_long().is_some_and(|it| Instant::now() >= it) {
            self.open = Some(Box::new(self.streaming.open(LongLived::Body, self.exchange)));
            return Ok(());
        }
        if self.blocked.is_some() {
            return if self.client_is_lost() { Err(EndState::ClientTimeout.into()) } else { Ok(()) };
        }
        match self.events.as_mut().map(|it| it.due()) {
            Some(Due::Nothing) => return Ok(()),
            Some(Due::Heartbeat) => return self.client.queue(Part::Data(HEARTBEAT)).map_err(|_| gone()),
            Some(Due::End) | None => {}
        }
        let taken = self.body.upload_acknowledged();
        if progressed(taken, upload_acknowledged) {
            return Ok(());
        }
        self.body.record_failure();
        self.fail(StreamError::Idle, Refusal::UpstreamClosed)
    }

    /// When a body becomes one that lasts, if it is none yet.
    fn next_long(&self) -> Option<Instant> {
        let may = self.lasts && self.open.is_none() && self.ended.is_none();
        may.then(|| self.exchange.started + LONG_AFTER)
    }

    /// Silence is when no byte is taken, not when the socket has no room for more.
    fn client_is_lost(&mut self) -> bool {
        let Some((pace, before)) = &mut self.blocked else { return true };
        pace.saw(self.client.taken().saturating_sub(*before));
        pace.is_lost(self.policy, true)
    }

    async fn next(&mut self, deadline: &mut Deadline) -> Event {
        let long = self.next_long();
        let Self { body, client, ended, blocked, policy, exchange, length, open, events, compressed, .. } = self;
        let ended = ended.is_some();
        let mut armed = false;
        poll_fn(|cx| {
            // Before anything that a busy stream could always have ready.
            if let Some(open) = open
                && let Poll::Ready(signal) = open.poll_signal(cx)
            {
                return Poll::Ready(Event::Signal(signal));
            }
            body.poll_out(cx);
            let waiting = client.unwritten() > 0;
            let taking = match () {
                () if waiting => client.poll_flush(cx),
                () if !ended && exchange.body_received < *length => client.poll_room(cx),
                () => Poll::Ready(Ok(())),
            };
            match taking {
                Poll::Ready(Ok(())) if waiting || blocked.is_some() => return Poll::Ready(Event::Wrote),
                Poll::Ready(Ok(())) => {
                    if let Some(stage) = compressed
                        && let Poll::Ready(output) = stage.poll(cx)
                    {
                        return Poll::Ready(Event::Compressed(output));
                    }
                    let wanted = !ended && compressed.as_ref().is_none_or(|it| it.has_room());
                    if wanted && let Poll::Ready(frame) = body.poll_frame(cx) {
                        return Poll::Ready(Event::Frame(frame));
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Event::ClientGone),
                Poll::Pending if blocked.is_none() => {
                    *blocked = Some((Pace::since(Instant::now()), client.taken()));
                }
                Poll::Pending => {}
            }
            if !body.upload_is_done() {
                if let Poll::Ready(moved) = body.poll_upload(client, cx) {
                    return Poll::Ready(Event::Upload(moved));
                }
            } else if client.body_is_done() && client.poll_gone(cx).is_ready() {
                return Poll::Ready(Event::ClientGone);
            }
            // What is ready at once, as most of an ordinary answer is, needs no deadline.
            if !std::mem::replace(&mut armed, true) {
                let quiet = || match events {
                    Some(events) => events.next_look(),
                    None => Instant::now() + policy.idle,
                };
                let look = blocked.as_ref().map_or_else(quiet, |(pace, _)| pace.next_look(policy));
                let look = long.map_or(look, |it| it.min(look));
                deadline.arm_at(exchange.deadline.map_or(look, |it| it.min(look)));
            }
            deadline.poll_expired(cx).map(|()| Event::Late)
        })
        .await
    }

    /// What has answered may answer the next one, while the client still takes this answer.
    async fn release(&mut self) {
        if self.ended.is_some() {
            self.body.finish().await;
        }
    }

    /// What is there already leaves in the same write.
    fn take_at_hand(&mut self) -> Result<(), Undelivered> {
        while self.ended.is_none() && self.client.unwritten() < GATHER && self.wants_more() {
            match self.body.frame_at_hand() {
                Some(Ok(frame)) => self.on_frame(frame)?,
                Some(Err(error)) => return self.upstream_failed(error),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whether the client takes what would be fetched. Where the body may be over already, it has to be looked; and a
    /// client that takes nothing costs no more than that.
    fn wants_more(&mut self) -> bool {
        self.compressed.as_ref().is_none_or(|it| it.has_room())
            && (self.exchange.body_received >= self.length || self.client.has_room())
    }

    fn on_frame(&mut self, frame: Frame) -> Result<(), Undelivered> {
        let part = match frame {
            Frame::Data(piece) => {
                self.exchange.body_received += piece.len() as u64;
                if let Some(recording) = &mut self.exchange.recording {
                    recording.on_body(&piece);
                }
                if let Some(events) = &mut self.events {
                    events.heard();
                }
                if self.tapped.is_some() {
                    return self.show(|taps| taps.piece(piece));
                }
                Part::Data(piece)
            }
            Frame::End(trailers) => {
                if let Some(recording) = &mut self.exchange.recording {
                    recording.on_end();
                }
                if self.tapped.is_some() {
                    return self.end_tapped(trailers);
                }
                Part::End(self.checked(trailers))
            }
        };
        self.queue(part)
    }

    fn queue(&mut self, part: Part) -> Result<(), Undelivered> {
        let part = match part {
            part if self.events.is_some() => match self.next_of_events(part)? {
                Some(part) => part,
                None => return Ok(()),
            },
            part => part,
        };
        match &mut self.compressed {
            Some(stage) => {
                stage.take(part);
                Ok(())
            }
            None => self.pass(part),
        }
    }

    /// Hands a part to the client's queue.
    fn pass(&mut self, part: Part) -> Result<(), Undelivered> {
        match &part {
            Part::End(_) => self.ended = Some(Ending::Whole),
            Part::Data(piece) if self.between_events.is_some() => {
                self.between_events = Some(event_stream::ends_event(piece));
            }
            _ => {}
        }
        match self.client.queue(part) {
            Ok(()) => Ok(()),
            Err(ClientError::Incomplete) => Err(self.truncated(UpstreamError::Protocol)),
            Err(_) => Err(gone()),
        }
    }

    fn upstream_failed(&mut self, error: UpstreamError) -> Result<(), Undelivered> {
        if self.events.is_some() {
            self.body.record_failure();
            return self.fail(StreamError::Truncated, Refusal::UpstreamClosed);
        }
        Err(self.truncated(error))
    }

    fn truncated(&mut self, error: UpstreamError) -> Undelivered {
        tracing::debug!(event = "answer_broke_off", reason = ?error);
        self.body.record_failure();
        let refusal =
            if error == UpstreamError::Protocol { Refusal::UpstreamProtocol } else { Refusal::UpstreamClosed };
        self.broken(EndState::Truncated, refusal)
    }

    /// Only where a head waits for its body can the client still get a refusal.
    fn broken(&self, end: EndState, refusal: Refusal) -> Undelivered {
        match &self.tapped {
            Some(tapped) if tapped.head_waits() => Undelivered::refused(refusal),
            _ => Undelivered::Cut(end),
        }
    }

    /// Others end it: in good order where the client can be told, or comes back by itself.
    fn end_for(&mut self, cause: Cause) -> Result<(), Undelivered> {
        if self.ended.is_some() {
            return Ok(()); // the rest of it is on its way
        }
        if self.exchange.streaming {
            self.exchange.end = Some(end_state(cause));
            self.break_off();
            let told = (self.events.is_some() || cause != Cause::Stopped) && self.tell(StreamError::Ended(cause))?;
            return match cause {
                Cause::Stopped if self.tapped.is_some() && self.events.is_none() => self.end_tapped(None),
                Cause::Stopped => self.end_whole(),
                _ if told => self.end_whole(),
                _ => Err(end_state(cause).into()),
            };
        }
        match cause {
            Cause::Stopped => Ok(()), // it has the rest of the grace
            Cause::Revoked | Cause::Expired if codec::is_grpc(&self.client.request().headers) => {
                self.end_call(CALL_IS_REVOKED)
            }
            cause => Err(end_state(cause).into()),
        }
    }

    fn end_whole(&mut self) -> Result<(), Undelivered> {
        self.ended = Some(Ending::Whole);
        self.client.queue(Part::End(None)).map_err(|_| gone())
    }

    /// The client has given the call up by now, or is about to.
    fn is_past_deadline(&self) -> bool {
        self.exchange.deadline.is_some_and(|it| Instant::now() >= it)
    }

    /// A call of gRPC is over before its time: its client hears so in trailers, and nothing more of the answer.
    fn end_call(&mut self, (end, refusal, status, message): CallEnd) -> Result<(), Undelivered> {
        self.exchange.end = Some(end);
        self.exchange.refusal = refusal;
        self.break_off();
        let mut trailers = Box::new(HeaderMap::with_capacity(2));
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        trailers.insert("grpc-message", HeaderValue::from_static(message));
        if self.tapped.is_some() {
            return self.end_tapped(Some(trailers));
        }
        self.queue(Part::End(Some(trailers)))
    }

    /// Nothing more is wanted of the upstream.
    fn break_off(&mut self) {
        self.exchange.recording = None; // it is not the whole answer
        self.body.cancel();
    }
}

/// Where the route says how event streams are kept.
impl<'a> Delivery<'a> {
    fn begin_events(&mut self, rules: Option<&'a EventRules>) {
        self.open = Some(Box::new(self.streaming.open(LongLived::Events, self.exchange)));
        if self.tapped.as_ref().is_none_or(|it| !it.head_waits()) {
            self.events = rules.map(|it| Box::new(EventStream::new(it)));
        }
    }

    /// What of a part may go out now.
    fn next_of_events(&mut self, part: Part) -> Result<Option<Part>, Undelivered> {
        let Some(events) = &mut self.events else { return Ok(Some(part)) };
        let rest = match part {
            Part::Data(piece) => return Ok(events.pass(piece).map(Part::Data)),
            // Whoever has ended it before its time has said so, or had no word for it.
            part if self.exchange.end.is_some() => return Ok(Some(part)),
            Part::End(trailers) => events.end().map(|it| (it, trailers)),
            part => return Ok(Some(part)),
        };
        let Some((rest, trailers)) = rest else {
            self.streaming.metrics.unterminated().inc();
            self.fail(StreamError::Unterminated, Refusal::UpstreamClosed)?;
            return Ok(None);
        };
        self.client.queue(Part::Data(rest)).map_err(|_| gone())?;
        Ok(Some(Part::End(trailers)))
    }

    /// The stream has failed: its client is told in it, where the route says how, and it never looks whole.
    fn fail(&mut self, why: StreamError, refusal: Refusal) -> Result<(), Undelivered> {
        if self.events.is_none() {
            return Err(self.broken(why.end_state(), refusal));
        }
        self.break_off();
        self.tell(why)?;
        self.ended = Some(Ending::Cut(why.end_state()));
        Ok(())
    }

    /// Says why it ends, where that does not get into an event; whether it could be said.
    fn tell(&mut self, why: StreamError) -> Result<bool, Undelivered> {
        let request_id = self.exchange.request_id;
        tracing::info!(event = "stream_ended", request_id = request_id.as_str(), reason = why.body().code);
        let may = match &self.events {
            Some(events) => events.is_at_border(),
            None => self.between_events == Some(true),
        };
        if may {
            self.client.queue(Part::Data(why.event(request_id.as_str()))).map_err(|_| gone())?;
        }
        Ok(may)
    }
}

/// How a call of gRPC ends before its time: its state, its refusal, its status and what is said to people.
type CallEnd = (EndState, Option<Refusal>, &'static str, &'static str);

/// DEADLINE_EXCEEDED.
const CALL_IS_LATE: CallEnd =
    (EndState::UpstreamError, Some(Refusal::CallDeadline), "4", "the time is over that grpc-timeout allowed");
/// UNAUTHENTICATED.
const CALL_IS_REVOKED: CallEnd =
    (EndState::Revoked, None, "16", "the credential that opened this call does not count any more");

fn gone() -> Undelivered {
    EndState::ClientGone.into()
}

/// Where taps see the body.
impl Delivery<'_> {
    /// Shows them a piece, and queues what goes on.
    fn show(&mut self, step: impl FnOnce(&mut Taps) -> Result<Shown, TapError>) -> Result<(), Undelivered> {
        let Some(tapped) = &mut self.tapped else { return Ok(()) };
        match step(&mut tapped.taps) {
            Ok(Shown { units, ended: None }) => {
                for (_, unit) in units {
                    self.queue(Part::Data(unit))?;
                }
                Ok(())
            }
            Ok(shown) => {
                self.break_off();
                self.end_with(shown, None)
            }
            Err(error) => Err(self.unseen(error)),
        }
    }

    /// The upstream has sent all of it.
    fn end_tapped(&mut self, trailers: Option<Box<HeaderMap>>) -> Result<(), Undelivered> {
        let Some(tapped) = &mut self.tapped else { return Ok(()) };
        match tapped.taps.end() {
            Ok(shown) => {
                let trailers = tapped.trailers(trailers);
                self.end_with(shown, trailers)
            }
            Err(error) => Err(self.unseen(error)),
        }
    }

    /// Queues the last of it.
    fn end_with(&mut self, shown: Shown, trailers: Option<Box<HeaderMap>>) -> Result<(), Undelivered> {
        let Some(tapped) = &mut self.tapped else { return Ok(()) };
        let Shown { units, ended } = shown;
        if ended.is_some() {
            self.exchange.end = Some(EndState::Stopped);
        }
        let length = units.iter().map(|it| it.1.len()).sum();
        tapped.release_head(length, trailers.is_some(), self.client, self.exchange)?;
        for (_, unit) in units {
            self.queue(Part::Data(unit))?;
        }
        let trailers = self.checked(trailers);
        self.queue(Part::End(trailers))
    }

    /// Trailers that may stand behind the answer, about whose fields its head has the last word.
    fn checked(&self, trailers: Option<Box<HeaderMap>>) -> Option<Box<HeaderMap>> {
        let mut trailers = trailers?;
        codec::retain_response_trailers(&mut trailers, self.exchange.edited.response.as_deref());
        (!trailers.is_empty()).then_some(trailers)
    }

    /// What a tap can't look through does not pass.
    fn unseen(&mut self, error: TapError) -> Undelivered {
        let refusal = match error {
            TapError::TooLong { limit } => Refusal::ResponseTooLarge { limit: limit as u64 },
            TapError::Malformed => Refusal::UpstreamProtocol,
        };
        self.broken(EndState::Truncated, refusal)
    }
}
