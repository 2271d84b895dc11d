//! The one way to a client: an answer's head and body, or a tunnel, whoever made them.
//!
//! Everything that can make progress is asked in one `poll_fn`, in an order that matters: what the client has to get is
//! written first, then the upstream's answer is read, then the client; so an answer that is already there wins over the
//! client's next bytes, or its end.

mod tunnel;
mod websocket;

pub use tunnel::Tunnel;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use http::{Method, StatusCode};
use pingora::http::ResponseHeader;
use tokio::sync::watch;

use crate::base::Deadline;
use crate::client::{Client, ClientError, Part};
use crate::forward::{Frame, Pace, Policy, UploadError, UpstreamBody, UpstreamError, UpstreamResponse, progressed};
use crate::http as codec;
use crate::pipeline::{EndState, Exchange};
use crate::telemetry::STREAMS_OPEN;

/// A client gets what is there in one write, up to this size, in bytes.
const GATHER: usize = 64 * 1024;

/// What happens to an answer's head before the client gets it.
pub trait ResponseFilters {
    /// Called once for every final head, upgrades included.
    fn on_response(&self, exchange: &mut Exchange, head: &mut ResponseHeader);
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
/// Says how it ended instead: the connection or stream has to be cut, so that nobody takes the answer for whole.
pub async fn deliver<F: ResponseFilters>(
    response: UpstreamResponse,
    client: &mut Client,
    exchange: &mut Exchange,
    policy: &Policy,
    filters: &F,
    ending: &watch::Receiver<bool>,
) -> Result<Option<Box<Tunnel>>, EndState> {
    let UpstreamResponse { head, mut body } = response;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        begin(head, &mut body, client, exchange, filters)?;
        return Ok(Some(Box::new(Tunnel::new(body, policy.websocket_idle, ending.clone()))));
    }
    let ended = deliver_parts(head, &mut body, client, exchange, policy, filters, ending).await;
    if ended.is_err() {
        body.cancel();
    }
    body.finish().await;
    ended.map(|()| None)
}

/// As [`deliver`], for whoever has a use for what is left of the body when the client has gone. It is never an answer
/// 101.
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
) -> Result<(), EndState> {
    match begin(head, body, client, exchange, filters)? {
        Kind::Answer => Delivery { body, client, exchange, policy, ended: false, blocked: None }.run(None).await,
        Kind::Events => {
            let _open = OpenStream::new();
            let mut delivery = Delivery { body, client, exchange, policy, ended: false, blocked: None };
            Box::pin(delivery.run(Some(ending.clone()))).await
        }
        Kind::Tunnel => Err(EndState::Truncated),
    }
}

/// What an answer's head begins.
enum Kind {
    Answer,
    /// A stream of events, which only silence ends.
    Events,
    Tunnel,
}

/// Queues the head.
fn begin<F: ResponseFilters>(
    mut head: Box<ResponseHeader>,
    body: &mut UpstreamBody,
    client: &mut Client,
    exchange: &mut Exchange,
    filters: &F,
) -> Result<Kind, EndState> {
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
    filters.on_response(exchange, &mut head);
    if !matches!(kind, Kind::Answer) {
        exchange.streaming = true;
        body.record_head();
    }
    client.queue(Part::Head(head, bodiless)).map_err(|_| EndState::ClientGone)?;
    Ok(kind)
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
    /// All of it was handed to the client's queue.
    ended: bool,
    /// Since when the client takes no more at once, and what it had taken by then.
    blocked: Option<(Pace, u64)>,
}

impl Delivery<'_> {
    async fn run(&mut self, mut ending: Option<watch::Receiver<bool>>) -> Result<(), EndState> {
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
                Event::Upload(Err(_)) | Event::ClientGone => return Err(EndState::ClientGone),
                Event::Late if self.client.unwritten() > 0 => {
                    if self.client_is_lost() {
                        return Err(EndState::ClientTimeout);
                    }
                }
                Event::Late => {
                    let taken = self.body.upload_acknowledged();
                    if !progressed(taken, &mut upload_acknowledged) {
                        self.body.record_failure();
                        return Err(EndState::Truncated);
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
        let Self { body, client, ended, blocked, policy, .. } = self;
        let mut armed = false;
        poll_fn(|cx| {
            body.poll_out(cx);
            if client.unwritten() > 0 {
                match client.poll_flush(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Event::Wrote),
                    Poll::Ready(Err(_)) => return Poll::Ready(Event::ClientGone),
                    Poll::Pending if blocked.is_none() => {
                        *blocked = Some((Pace::since(Instant::now()), client.taken()));
                    }
                    Poll::Pending => {}
                }
            } else if !*ended && let Poll::Ready(frame) = body.poll_frame(cx) {
                return Poll::Ready(Event::Frame(frame));
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
                deadline.arm_at(blocked.as_ref().map_or(silence, |(pace, _)| pace.next_look(policy)));
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
    fn take_at_hand(&mut self) -> Result<(), EndState> {
        while !self.ended && self.client.unwritten() < GATHER {
            match self.body.frame_at_hand() {
                Some(Ok(frame)) => self.on_frame(frame)?,
                Some(Err(error)) => return Err(self.upstream_failed(error)),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn on_frame(&mut self, frame: Frame) -> Result<(), EndState> {
        let part = match frame {
            Frame::Data(piece) => {
                self.exchange.body_received += piece.len() as u64;
                if let Some(recording) = &mut self.exchange.recording {
                    recording.on_body(&piece);
                }
                Part::Data(piece)
            }
            Frame::End(trailers) => {
                self.ended = true;
                if let Some(recording) = &mut self.exchange.recording {
                    recording.on_end();
                }
                Part::End(trailers)
            }
        };
        match self.client.queue(part) {
            Ok(()) => Ok(()),
            Err(ClientError::Incomplete) => Err(self.upstream_failed(UpstreamError::Protocol)),
            Err(_) => Err(EndState::ClientGone),
        }
    }

    fn upstream_failed(&mut self, error: UpstreamError) -> EndState {
        tracing::debug!(event = "answer_broke_off", reason = ?error);
        self.body.record_failure();
        EndState::Truncated
    }

    /// The process stops: a stream ends whole, so that its client comes back to another gateway.
    fn end_stream(&mut self) -> Result<(), EndState> {
        self.exchange.end = Some(EndState::Drained);
        self.exchange.recording = None; // it is not the whole answer
        self.ended = true;
        self.body.cancel();
        self.client.queue(Part::End(None)).map_err(|_| EndState::Drained)
    }
}
