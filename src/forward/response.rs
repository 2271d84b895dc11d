//! An upstream's answer: its head, and a body that is still on its way.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use pingora::http::ResponseHeader;
use tokio::io::DuplexStream;

use super::attempts::ForwardError;
use super::http1::Http1;
use super::http2::Http2;
use super::local::Local;
use super::policy::Policy;
use super::pool;
use super::upload::{Upload, UploadError};
use super::worker::Worker;
use crate::base::Deadline;
use crate::client::Client;
use crate::http as codec;
use crate::pipeline::Refusal;
use crate::transport::Transport;
use crate::upstream::{Endpoint, Outcome, Permit, Picked};

/// A part of an answer's body.
#[derive(Debug)]
pub enum Frame {
    /// A piece of it.
    Data(Bytes),
    /// It has ended as it should.
    End(Option<Box<HeaderMap>>),
}

/// Why there is no answer, or no more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// The connection or stream ended too early.
    Closed,
    /// The upstream said that it did not even look at the request.
    Unprocessed,
    /// What came is not HTTP, or not framed as it has to be.
    Protocol,
    /// A local service broke.
    Internal,
    /// The answer is larger than this limit, in bytes.
    TooLarge(u64),
}

impl UpstreamError {
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::Closed | Self::Unprocessed => Refusal::UpstreamClosed,
            Self::Protocol => Refusal::UpstreamProtocol,
            Self::Internal => Refusal::Internal,
            Self::TooLarge(limit) => Refusal::ResponseTooLarge { limit },
        }
    }
}

/// A request's connection to whatever answers it. Nothing here waits: what is sent goes into a bounded queue (check
/// [`Link::room`] first).
#[expect(clippy::large_enum_variant, reason = "the ordinary upstream is the large one; a box would cost an allocation")]
pub(super) enum Link {
    Http1(Http1),
    Http2(Box<Http2>),
    Local(Box<Local>),
    /// Everything is there already.
    Nothing,
}

impl Link {
    pub(super) fn room(&self) -> bool {
        match self {
            Self::Http1(link) => link.has_room(),
            Self::Http2(link) => link.has_room(),
            Self::Local(link) => link.has_room(),
            Self::Nothing => false,
        }
    }

    pub(super) fn send(&mut self, piece: Bytes) {
        match self {
            Self::Http1(link) => link.send(piece),
            Self::Http2(link) => link.send(piece),
            Self::Local(link) => link.send(piece),
            Self::Nothing => {}
        }
    }

    pub(super) fn end(&mut self, trailers: Option<Box<HeaderMap>>) {
        match self {
            Self::Http1(link) => link.end(trailers.as_deref()),
            Self::Http2(link) => link.end(trailers),
            Self::Local(link) => link.end(),
            Self::Nothing => {}
        }
    }

    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Http1(link) => link.poll_out(cx),
            Self::Http2(link) => link.poll_out(cx),
            Self::Local(_) | Self::Nothing => {}
        }
    }

    /// Whether something of the request waits for the upstream to take it.
    pub(super) fn is_sending(&self) -> bool {
        match self {
            Self::Http1(link) => link.is_sending(),
            Self::Http2(link) => !link.has_room(),
            Self::Local(link) => !link.has_room(),
            Self::Nothing => false,
        }
    }

    /// Bytes that the upstream has acknowledged, if the kernel reports them.
    pub(super) fn acknowledged(&self) -> Option<u64> {
        match self {
            Self::Http1(link) => link.acknowledged(),
            Self::Http2(_) | Self::Local(_) | Self::Nothing => None,
        }
    }

    /// Why nothing more could be read, if the other side did not just close.
    pub(super) fn read_error(&self) -> Option<&std::io::Error> {
        if let Self::Http1(link) = self { link.read_error() } else { None }
    }

    /// What a local service says instead of answering.
    pub(super) fn take_refusal(&mut self) -> Option<Refusal> {
        if let Self::Local(link) = self { link.take_refusal() } else { None }
    }

    fn frame_at_hand(&mut self) -> Option<Result<Frame, UpstreamError>> {
        match self {
            Self::Http1(link) => link.frame_at_hand(),
            Self::Http2(_) | Self::Local(_) => None,
            Self::Nothing => Some(Ok(Frame::End(None))),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, UpstreamError>> {
        match self {
            Self::Http1(link) => link.poll_frame(cx),
            Self::Http2(link) => link.poll_frame(cx),
            Self::Local(link) => link.poll_frame(cx),
            Self::Nothing => Poll::Ready(Ok(Frame::End(None))),
        }
    }

    /// The client is gone, or the exchange was given up: signals that to the upstream at once.
    pub(super) fn cancel(&mut self) {
        match self {
            Self::Http1(_) | Self::Nothing => {} // dropping the connection says it
            Self::Http2(link) => link.reset(h2::Reason::CANCEL),
            Self::Local(link) => link.cut(),
        }
    }
}

/// The endpoint that answers, and what it is owed.
pub(super) struct Attempt {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) picked: Picked,
    pub(super) worker: Arc<Worker>,
    pub(super) keep: Duration,
    /// From the attempt's begin until the answer's head.
    pub(super) latency: Duration,
    /// What the head says of the endpoint.
    pub(super) outcome: Outcome,
    /// Its place among the requests that the upstream works on, where those have a limit.
    pub(super) permit: Option<Permit>,
}

/// The raw byte stream behind an answer 101.
pub enum Upgraded {
    /// A connection, and what was read of it already.
    Remote(Transport, BytesMut),
    /// A local service's end.
    Local(DuplexStream),
}

/// What a whole body comes to.
pub enum Collected {
    /// All of it.
    Whole(Bytes),
    /// It is larger than the limit of the caller; the answer is as it was.
    TooLarge,
}

/// An answer of which nothing has gone to a client yet.
pub struct UpstreamResponse {
    /// Its head, without the fields of its connection.
    pub head: Box<ResponseHeader>,
    /// Its body, on its way.
    pub body: UpstreamBody,
}

impl UpstreamResponse {
    /// One that is there already.
    pub fn of(head: Box<ResponseHeader>, body: Bytes) -> Self {
        let ahead = if body.is_empty() { VecDeque::new() } else { VecDeque::from([body]) };
        let body = UpstreamBody { ahead, limit: None, link: Link::Nothing, upload: Upload::none(), attempt: None };
        Self { head, body }
    }

    pub(super) fn new(head: Box<ResponseHeader>, link: Link, upload: Upload, attempt: Option<Attempt>) -> Self {
        Self { head, body: UpstreamBody { ahead: VecDeque::new(), limit: None, link, upload, attempt } }
    }

    /// The same, if it is not larger than `limit`, in bytes; streams last and have none.
    ///
    /// # Errors
    /// When it says that it is.
    pub(super) fn within(mut self, limit: u64) -> Result<Self, ForwardError> {
        let lasts = self.head.status == StatusCode::SWITCHING_PROTOCOLS || codec::is_event_stream(&self.head.headers);
        if lasts || self.body.has_ended() {
            return Ok(self);
        }
        let length = self.head.headers.get(CONTENT_LENGTH).and_then(|it| codec::length(it.as_bytes()));
        if length.is_some_and(|it| it > limit) {
            self.body.record_head();
            self.body.cancel();
            return Err(ForwardError::Refused(Refusal::ResponseTooLarge { limit }));
        }
        self.body.limit = Some(Limit { left: limit, limit });
        Ok(self)
    }
}

/// The body of an answer, and what is left of its request's. Dropped before its end, it breaks off.
pub struct UpstreamBody {
    /// Read already, in front of what the link has.
    ahead: VecDeque<Bytes>,
    /// How much more may come, where that has a limit.
    limit: Option<Limit>,
    link: Link,
    upload: Upload,
    attempt: Option<Attempt>,
}

/// A limit of a body, in bytes.
struct Limit {
    left: u64,
    limit: u64,
}

impl UpstreamBody {
    /// What the link brings counts.
    fn counted(&mut self, frame: Result<Frame, UpstreamError>) -> Result<Frame, UpstreamError> {
        if let (Some(limit), Ok(Frame::Data(piece))) = (&mut self.limit, &frame) {
            limit.left = limit.left.checked_sub(piece.len() as u64).ok_or(UpstreamError::TooLarge(limit.limit))?;
        }
        frame
    }

    /// Whether nothing of the body is to come.
    pub fn has_ended(&mut self) -> bool {
        self.ahead.is_empty()
            && match &self.link {
                Link::Http1(link) => link.has_ended(),
                Link::Http2(link) => link.has_ended(),
                Link::Local(link) => link.has_ended(),
                Link::Nothing => true,
            }
    }

    /// Moves what waits towards the upstream.
    pub fn poll_out(&mut self, cx: &mut Context<'_>) {
        self.link.poll_out(cx);
    }

    /// What of the body is there already.
    pub fn frame_at_hand(&mut self) -> Option<Result<Frame, UpstreamError>> {
        match self.ahead.pop_front() {
            Some(piece) => Some(Ok(Frame::Data(piece))),
            None => {
                let frame = self.link.frame_at_hand()?;
                Some(self.counted(frame))
            }
        }
    }

    /// The next part of the body. Not to be polled after its end, or an error.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, UpstreamError>> {
        match self.ahead.pop_front() {
            Some(piece) => Poll::Ready(Ok(Frame::Data(piece))),
            None => {
                let frame = ready!(self.link.poll_frame(cx));
                Poll::Ready(self.counted(frame))
            }
        }
    }

    /// Whether the request's body has been handed over.
    pub fn upload_is_done(&self) -> bool {
        self.upload.done
    }

    /// Moves a piece of the request's body; ready when one was moved.
    pub fn poll_upload(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        self.upload.poll(client, &mut self.link, cx)
    }

    /// Bytes of the request that the upstream has acknowledged, while some wait for it.
    pub fn upload_acknowledged(&self) -> Option<u64> {
        if self.link.is_sending() { self.link.acknowledged() } else { None }
    }

    /// The client is gone: the upstream gets a signal at once.
    pub fn cancel(&mut self) {
        self.link.cancel();
    }

    /// Records how it went, as far as that shows before the end: for streams, which may last for hours.
    /// They do not count against the upstream's `concurrency` from there on.
    pub fn record_head(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.picked.record(attempt.outcome, attempt.latency);
            attempt.permit = None;
        }
    }

    /// The answer broke off: that is a failure, whatever its head said.
    pub fn record_failure(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.picked.record(Outcome::Failure, attempt.latency);
        }
    }

    /// The body has ended: the connection may serve again.
    pub async fn finish(&mut self) {
        self.record_head();
        let link = std::mem::replace(&mut self.link, Link::Nothing);
        let Some(attempt) = self.attempt.take() else { return };
        match link {
            Link::Http1(link) if self.upload.done => {
                if let Some(stream) = link.into_stream() {
                    pool::put(attempt.endpoint.key(), stream, attempt.keep);
                }
            }
            Link::Http2(link) => {
                // Boxed: it is far larger than what all others need, and would lie in the future of each.
                Box::pin(link.release(&attempt.worker.http2, attempt.endpoint.peer(), attempt.keep)).await;
            }
            Link::Http1(_) | Link::Local(_) | Link::Nothing => {}
        }
    }

    /// After a 101: the raw byte stream. The endpoint stays in flight for as long as `self` lives.
    pub fn upgraded(&mut self) -> Option<Upgraded> {
        self.record_head();
        match std::mem::replace(&mut self.link, Link::Nothing) {
            Link::Http1(link) => {
                let (stream, read) = link.into_tunnel();
                Some(Upgraded::Remote(stream, read))
            }
            Link::Local(link) => link.into_stream().map(Upgraded::Local),
            Link::Http2(_) | Link::Nothing => None,
        }
    }

    /// The next part of the body, where there is no client to write to.
    ///
    /// # Errors
    /// When it breaks off, or is silent for longer than the policy allows.
    pub async fn frame(&mut self, policy: &Policy) -> Result<Frame, UpstreamError> {
        let mut deadline = Deadline::after(policy.idle);
        let frame = poll_fn(|cx| {
            self.poll_out(cx);
            if let Poll::Ready(frame) = self.poll_frame(cx) {
                return Poll::Ready(frame);
            }
            ready!(deadline.poll_expired(cx));
            Poll::Ready(Err(UpstreamError::Closed))
        })
        .await;
        match &frame {
            Ok(Frame::Data(_)) => {}
            Ok(Frame::End(_)) => self.finish().await,
            Err(_) => self.record_failure(),
        }
        frame
    }

    /// Reads the whole body, if it has at most `most` bytes; a larger one can still be read piece by piece.
    ///
    /// # Errors
    /// As [`UpstreamBody::frame`], and when all of it takes longer than `until`.
    pub async fn collect(&mut self, most: usize, policy: &Policy, until: Instant) -> Result<Collected, UpstreamError> {
        let mut pieces: VecDeque<Bytes> = VecDeque::new();
        let mut length = 0;
        loop {
            match self.frame(policy).await? {
                Frame::Data(piece) => {
                    length += piece.len();
                    pieces.push_back(piece);
                }
                Frame::End(_) => return Ok(Collected::Whole(joined(pieces))),
            }
            if length > most {
                self.ahead = pieces;
                return Ok(Collected::TooLarge);
            }
            if Instant::now() > until {
                self.record_failure();
                return Err(UpstreamError::Closed);
            }
        }
    }
}

fn joined(mut pieces: VecDeque<Bytes>) -> Bytes {
    match pieces.len() {
        0 => Bytes::new(),
        1 => pieces.pop_front().unwrap_or_default(),
        _ => {
            let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
            pieces.iter().for_each(|it| whole.extend_from_slice(it));
            whole.freeze()
        }
    }
}

/// Takes away what belongs to the upstream's connection, or must not be there.
pub(super) fn strip(head: &mut ResponseHeader) {
    let named: Vec<_> = head.headers.keys().filter(|it| codec::is_hop_by_hop(it)).cloned().collect();
    for name in &named {
        head.remove_header(name);
    }
    if head.status == http::StatusCode::NO_CONTENT {
        head.remove_header(&http::header::CONTENT_LENGTH); // RFC 9110, section 8.6
    }
}
