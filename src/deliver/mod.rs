//! The one way to a client: an answer's head and body, or a tunnel, whatever their source.
//!
//! Everything that can make progress is polled in one `poll_fn`, in an order that matters: what the client has to get
//! is written first, then the upstream's answer is read, then the client; so an answer that is already there wins over
//! the client's next bytes, or its end.

mod messages;
mod tapped;
mod tapped_tunnel;
mod tunnel;
mod websocket;

pub use tunnel::Tunnel;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use pingora::http::ResponseHeader;
use tokio::sync::watch;

use crate::base::Deadline;
use crate::client::{Client, ClientError, Part};
use crate::forward::{Frame, Pace, Policy, UploadError, UpstreamBody, UpstreamError, UpstreamResponse, progressed};
use crate::http as codec;
use crate::pipeline::{EndState, Exchange, Overflow, Refusal, Shown, Taps};
use crate::telemetry::STREAMS_OPEN;

pub use tapped::DIGESTS;
use tapped::Tapped;

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
/// answer takes. `ending` becomes true when streams have to end because the process does.
///
/// # Errors
/// Says what has to become of it instead.
pub async fn deliver<F: ResponseFilters>(
    response: UpstreamResponse,
    client: &mut Client,
    exchange: &mut Exchange,
    policy: &Policy,
    filters: &F,
    ending: &watch::Receiver<bool>,
) -> Result<Option<Box<Tunnel>>, Undelivered> {
    let UpstreamResponse { head, mut body } = response;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let websocket = codec::has_token(&head.headers, &UPGRADE, "websocket");
        let (_, tapped) = begin(head, &mut body, client, exchange, filters)?;
        let taps = (exchange.request_taps.take(), tapped.map(|it| it.taps));
        return Ok(Some(Box::new(Tunnel::new(body, taps, websocket, policy.websocket_idle, ending.clone()))));
    }
    let ended = deliver_parts(head, &mut body, client, exchange, policy, filters, ending).await;
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
    ending: &watch::Receiver<bool>,
) -> Result<(), Undelivered> {
    let length = head.headers.get(CONTENT_LENGTH).and_then(|it| codec::length(it.as_bytes())).unwrap_or(0);
    let (kind, tapped) = begin(head, body, client, exchange, filters)?;
    match kind {
        Kind::Answer => {
            Delivery { body, client, exchange, policy, tapped, length, ended: false, blocked: None }.run(None).await
        }
        Kind::Events => {
            let _open = OpenStream::new();
            let mut delivery = Delivery { body, client, exchange, policy, tapped, length, ended: false, blocked: None };
            Box::pin(delivery.run(Some(ending.clone()))).await
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

/// Queues the head, unless it has to wait for what taps make of the body.
fn begin<'a, F: ResponseFilters>(
    mut head: Box<ResponseHeader>,
    body: &mut UpstreamBody,
    client: &mut Client,
    exchange: &mut Exchange,
    filters: &'a F,
) -> Result<(Kind, Option<Box<Tapped<'a>>>), Undelivered> {
    // A stop may have begun since the request came.
    if client.connection().closing() {
        client.close_after();
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
    if let Some(taps) = filters.response_taps(exchange, &head) {
        let tapped = Tapped::begin(taps, (head, bodiless), &kind, client, exchange, filters)?;
        return Ok((kind, tapped));
    }
    filters.on_response(exchange, &mut head);
    client.queue(Part::Head(head, bodiless)).map_err(|_| EndState::ClientGone)?;
    Ok((kind, None))
}

enum Event {
    Wrote,
    Frame(Result<Frame, UpstreamError>),
    Upload(Result<(), UploadError>),
    ClientGone,
    Late,
    Ending,
}

/// The body of one answer on its way.
struct Delivery<'a> {
    body: &'a mut UpstreamBody,
    client: &'a mut Client,
    exchange: &'a mut Exchange,
    policy: &'a Policy,
    /// Those who see it first.
    tapped: Option<Box<Tapped<'a>>>,
    /// The body's, as far as it is known, in bytes.
    length: u64,
    /// All of it was handed to the client's queue.
    ended: bool,
    /// Since when the client takes no more at once, and what it had taken by then.
    blocked: Option<(Pace, u64)>,
}

impl Delivery<'_> {
    async fn run(&mut self, mut ending: Option<watch::Receiver<bool>>) -> Result<(), Undelivered> {
        if self.client.request().method == Method::HEAD {
            self.on_frame(Frame::End(None))?;
        }
        self.take_at_hand()?;
        self.release().await;
        let mut deadline = Deadline::idle();
        let mut upload_acknowledged = None;
        loop {
            if self.ended && self.client.unwritten() == 0 {
                return Ok(());
            }
            let event = match &mut ending {
                Some(ending) => self.next_of_stream(&mut deadline, ending).await,
                None => self.next(&mut deadline).await,
            };
            match event {
                Event::Wrote => self.blocked = None,
                Event::Frame(Ok(frame)) => {
                    self.on_frame(frame)?;
                    self.take_at_hand()?;
                    self.release().await;
                }
                Event::Frame(Err(error)) => return Err(self.upstream_failed(error)),
                Event::Upload(Ok(())) => {}
                Event::Upload(Err(UploadError::Stopped)) => {
                    return Err(self.broken(EndState::Stopped, Refusal::ContentStopped));
                }
                Event::Upload(Err(_)) | Event::ClientGone => return Err(EndState::ClientGone.into()),
                Event::Late if self.is_past_deadline() => {
                    if self.ended {
                        return Err(EndState::ClientGone.into()); // nobody waits for the rest
                    }
                    self.end_call()?;
                }
                Event::Late if self.blocked.is_some() => {
                    if self.client_is_lost() {
                        return Err(EndState::ClientTimeout.into());
                    }
                }
                Event::Late => {
                    let taken = self.body.upload_acknowledged();
                    if !progressed(taken, &mut upload_acknowledged) {
                        self.body.record_failure();
                        return Err(self.broken(EndState::Truncated, Refusal::UpstreamClosed));
                    }
                }
                Event::Ending => {
                    ending = None;
                    self.end_stream()?;
                }
            }
        }
    }

    /// Silence is when no byte is taken, not when the socket has no room for more.
    fn client_is_lost(&mut self) -> bool {
        let Some((pace, before)) = &mut self.blocked else { return true };
        pace.saw(self.client.taken().saturating_sub(*before));
        pace.is_lost(self.policy, true)
    }

    async fn next_of_stream(&mut self, deadline: &mut Deadline, ending: &mut watch::Receiver<bool>) -> Event {
        let mut ended = pin!(ending.wait_for(|it| *it));
        let mut next = pin!(self.next(deadline));
        poll_fn(|cx| {
            // Before anything that a busy stream could always have ready.
            if let Poll::Ready(Ok(_)) = ended.as_mut().poll(cx) {
                return Poll::Ready(Event::Ending);
            }
            next.as_mut().poll(cx)
        })
        .await
    }

    async fn next(&mut self, deadline: &mut Deadline) -> Event {
        let Self { body, client, ended, blocked, policy, exchange, length, .. } = self;
        let mut armed = false;
        poll_fn(|cx| {
            body.poll_out(cx);
            let waiting = client.unwritten() > 0;
            let taking = match () {
                () if waiting => client.poll_flush(cx),
                () if !*ended && exchange.body_received < *length => client.poll_room(cx),
                () => Poll::Ready(Ok(())),
            };
            match taking {
                Poll::Ready(Ok(())) if waiting || blocked.is_some() => return Poll::Ready(Event::Wrote),
                Poll::Ready(Ok(())) => {
                    if !*ended && let Poll::Ready(frame) = body.poll_frame(cx) {
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
                let silence = Instant::now() + policy.idle;
                let look = blocked.as_ref().map_or(silence, |(pace, _)| pace.next_look(policy));
                deadline.arm_at(exchange.deadline.map_or(look, |it| it.min(look)));
            }
            deadline.poll_expired(cx).map(|()| Event::Late)
        })
        .await
    }

    /// What has answered may answer the next one, while the client still takes this answer.
    async fn release(&mut self) {
        if self.ended {
            self.body.finish().await;
        }
    }

    /// What is there already leaves in the same write.
    fn take_at_hand(&mut self) -> Result<(), Undelivered> {
        while !self.ended && self.client.unwritten() < GATHER && self.wants_more() {
            match self.body.frame_at_hand() {
                Some(Ok(frame)) => self.on_frame(frame)?,
                Some(Err(error)) => return Err(self.upstream_failed(error)),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whether the client takes what would be fetched. Where the body may be over already, it has to be looked; and a
    /// client that takes nothing costs no more than that.
    fn wants_more(&mut self) -> bool {
        self.exchange.body_received >= self.length || self.client.has_room()
    }

    fn on_frame(&mut self, frame: Frame) -> Result<(), Undelivered> {
        let part = match frame {
            Frame::Data(piece) => {
                self.exchange.body_received += piece.len() as u64;
                if let Some(recording) = &mut self.exchange.recording {
                    recording.on_body(&piece);
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
                self.ended = true;
                Part::End(self.checked(trailers))
            }
        };
        self.queue(part)
    }

    fn queue(&mut self, part: Part) -> Result<(), Undelivered> {
        match self.client.queue(part) {
            Ok(()) => Ok(()),
            Err(ClientError::Incomplete) => Err(self.upstream_failed(UpstreamError::Protocol)),
            Err(_) => Err(EndState::ClientGone.into()),
        }
    }

    fn upstream_failed(&mut self, error: UpstreamError) -> Undelivered {
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

    /// The process stops: a stream ends whole, so that its client comes back to another gateway.
    fn end_stream(&mut self) -> Result<(), Undelivered> {
        self.exchange.end = Some(EndState::Drained);
        self.break_off();
        if self.tapped.is_some() {
            return self.end_tapped(None);
        }
        self.ended = true;
        self.client.queue(Part::End(None)).map_err(|_| EndState::Drained.into())
    }

    /// The client has given the call up by now, or is about to.
    fn is_past_deadline(&self) -> bool {
        self.exchange.deadline.is_some_and(|it| Instant::now() >= it)
    }

    /// The time of a call of gRPC is over: its client hears so in trailers, and nothing more of the answer.
    fn end_call(&mut self) -> Result<(), Undelivered> {
        self.exchange.end = Some(EndState::UpstreamError);
        self.exchange.refusal = Some(Refusal::CallDeadline);
        self.break_off();
        let mut trailers = Box::new(HeaderMap::with_capacity(2));
        trailers.insert("grpc-status", HeaderValue::from_static("4")); // DEADLINE_EXCEEDED
        trailers.insert("grpc-message", HeaderValue::from_static("the time is over that grpc-timeout allowed"));
        if self.tapped.is_some() {
            return self.end_tapped(Some(trailers));
        }
        self.ended = true;
        self.queue(Part::End(Some(trailers)))
    }

    /// Nothing more is wanted of the upstream.
    fn break_off(&mut self) {
        self.exchange.recording = None; // it is not the whole answer
        self.body.cancel();
    }
}

/// Where taps see the body.
impl Delivery<'_> {
    /// Shows them a piece, and queues what goes on.
    fn show(&mut self, step: impl FnOnce(&mut Taps) -> Result<Shown, Overflow>) -> Result<(), Undelivered> {
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
            Err(overflow) => Err(self.overflowed(overflow)),
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
            Err(overflow) => Err(self.overflowed(overflow)),
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
        self.ended = true;
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
    fn overflowed(&mut self, overflow: Overflow) -> Undelivered {
        self.broken(EndState::Truncated, Refusal::ResponseTooLarge { limit: overflow.limit as u64 })
    }
}
