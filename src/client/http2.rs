//! A request over HTTP/2 and the way back: a stream of a client's connection.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, EXPECT, HeaderName};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};

use super::{ClientError, DRAIN_BODY, Part};
use crate::base::Deadline;
use crate::http as codec;
use crate::listener::Connection;

/// So much of a body that nobody waits for is read and dropped, in bytes: who sends more is told to stop.
const DRAIN_MAX: u64 = 64 * 1024;

/// Fields that make a message malformed in HTTP/2 (RFC 9113, section 8.2.2).
fn is_of_http1(name: &HeaderName) -> bool {
    codec::is_hop_by_hop(name)
}

/// How many of `wanted` bytes the client takes at once; not zero.
fn poll_window(
    writer: &mut SendStream<Bytes>,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, ClientError>> {
    writer.reserve_capacity(wanted);
    loop {
        // What was told once is not told again.
        match writer.capacity() {
            0 => {}
            window => return Poll::Ready(Ok(window)),
        }
        match ready!(writer.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(Err(ClientError::Gone)),
        }
    }
}

/// A request that was read, and the answer to it.
pub(super) struct Http2 {
    connection: Arc<Connection>,
    pub(super) request: Arc<RequestHeader>,
    body: RecvStream,
    /// Read already, and not yet handed out.
    ahead: VecDeque<Bytes>,
    trailers: Option<Box<HeaderMap>>,
    body_done: bool,
    /// It ended with its head.
    pub(super) has_no_body: bool,
    expects_continue: bool,
    respond: SendResponse<Bytes>,
    writer: Option<SendStream<Bytes>>,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// The end of the answer, which waits behind the queue.
    end: Option<Option<Box<HeaderMap>>>,
    ended: bool,
    /// The answer's; 0 until its head was sent.
    pub(super) status: u16,
    /// Bytes of the answer's body.
    pub(super) sent: u64,
    /// Bytes of the request's body.
    pub(super) received: u64,
    gone: bool,
}

impl Http2 {
    pub(super) fn new(connection: Arc<Connection>, request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Self {
        let (parts, body) = request.into_parts();
        let request = Arc::new(RequestHeader::from(parts));
        // A stream that was reset looks as if its body had ended: only a head that says no other is believed.
        let declares = request.headers.get(CONTENT_LENGTH).is_some_and(|it| it != "0");
        let has_no_body = body.is_end_stream() && !declares;
        let expects_continue = request.headers.contains_key(EXPECT);
        Self {
            connection,
            request,
            body,
            ahead: VecDeque::new(),
            trailers: None,
            body_done: has_no_body,
            has_no_body,
            expects_continue,
            respond,
            writer: None,
            queue: VecDeque::new(),
            queued: 0,
            end: None,
            ended: false,
            status: 0,
            sent: 0,
            received: 0,
            gone: false,
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    // ── The request's body ──────────────────────────────────────────────────────────────────────

    pub(super) fn body_is_done(&self) -> bool {
        self.body_done && self.ahead.is_empty()
    }

    pub(super) fn take_trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }

    /// The whole body, if all of it is there already. If not, nothing is lost of what is.
    pub(super) fn body_at_hand(&mut self, most: usize) -> Option<Bytes> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut held: usize = self.ahead.iter().map(Bytes::len).sum();
        while !self.body_done && held <= most {
            match self.poll_received(&mut cx) {
                Poll::Ready(Ok(Some(piece))) => {
                    held += piece.len();
                    self.ahead.push_back(piece);
                }
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return None,
            }
        }
        if !self.body_done || self.trailers.is_some() {
            return None;
        }
        let mut pieces = std::mem::take(&mut self.ahead);
        match pieces.len() {
            0 => Some(Bytes::new()),
            1 => pieces.pop_front(),
            _ => Some(pieces.iter().flat_map(|it| it.iter().copied()).collect()),
        }
    }

    /// The next piece of the body; `None` at its end.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ClientError>> {
        match self.ahead.pop_front() {
            Some(piece) => Poll::Ready(Ok(Some(piece))),
            None => self.poll_received(cx),
        }
    }

    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ClientError>> {
        if self.body_done {
            return Poll::Ready(Ok(None));
        }
        match ready!(self.body.poll_data(cx)) {
            Some(Ok(piece)) => {
                self.received += piece.len() as u64;
                let _ = self.body.flow_control().release_capacity(piece.len()); // the stream may be over by now
                Poll::Ready(Ok(Some(piece)))
            }
            Some(Err(_)) => Poll::Ready(Err(self.lost())),
            None => match ready!(self.body.poll_trailers(cx)) {
                Ok(trailers) => {
                    self.trailers = trailers.filter(|it| !it.keys().any(is_of_http1)).map(Box::new);
                    self.body_done = true;
                    Poll::Ready(Ok(None))
                }
                Err(_) => Poll::Ready(Err(self.lost())),
            },
        }
    }

    fn lost(&mut self) -> ClientError {
        self.gone = true;
        ClientError::Gone
    }

    /// Says 100 to a client that waits for it (RFC 9110, section 10.1.1).
    pub(super) fn say_continue(&mut self) {
        if std::mem::take(&mut self.expects_continue) && self.status == 0 {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::CONTINUE;
            let _ = self.respond.send_informational(response); // that it left shows where its body is read
        }
    }

    /// Ready when the client has given the stream up.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.gone {
            let reset = match &mut self.writer {
                Some(writer) => writer.poll_reset(cx),
                None => self.respond.poll_reset(cx),
            };
            let _ = ready!(reset);
            self.gone = true;
        }
        Poll::Ready(())
    }

    // ── The answer ──────────────────────────────────────────────────────────────────────────────

    pub(super) fn queue_interim(&mut self, head: &ResponseHeader) {
        if head.status == StatusCode::CONTINUE {
            self.expects_continue = false;
        }
        let response = Response::from_parts(head.as_owned_parts(), ());
        let _ = self.respond.send_informational(response); // that it left shows elsewhere
    }

    /// Puts a part of the answer into the queue; a head is on its way at once.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) fn queue(&mut self, part: Part) -> Result<(), ClientError> {
        match part {
            Part::Head(head, end) => return self.send_head(&head, end),
            Part::Data(piece) => {
                let bodiless = self.ended || self.request.method == Method::HEAD;
                if !piece.is_empty() && !bodiless {
                    self.sent += piece.len() as u64;
                    self.queued += piece.len();
                    self.queue.push_back(piece);
                }
            }
            Part::End(trailers) => {
                if !self.ended {
                    self.end = Some(trailers);
                }
            }
        }
        Ok(())
    }

    fn send_head(&mut self, head: &ResponseHeader, end: bool) -> Result<(), ClientError> {
        let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let end = end || bodiless || self.request.method == Method::HEAD;
        let mut parts = head.as_owned_parts();
        parts.version = http::Version::HTTP_2;
        let sent = self.respond.send_response(Response::from_parts(parts, ()), end);
        let writer = sent.map_err(|_| ClientError::Gone)?;
        self.status = head.status.as_u16();
        self.ended = end;
        self.writer = Some(writer);
        Ok(())
    }

    /// Bytes that have left the queue.
    pub(super) fn flushed(&self) -> u64 {
        self.sent - self.queued as u64
    }

    /// Bytes that wait for the client.
    pub(super) fn unwritten(&self) -> usize {
        self.queued + usize::from(self.end.is_some())
    }

    /// Where nothing more can be sent, all of it can.
    pub(super) fn has_room(&mut self) -> bool {
        let Some(writer) = self.writer.as_mut().filter(|_| !self.ended) else { return true };
        if self.queued == 0 && writer.capacity() == 0 {
            writer.reserve_capacity(1);
        }
        writer.capacity() > 0
    }

    /// Ready when its client opens the stream's window, or has taken what waits in h2.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        let Some(writer) = self.writer.as_mut().filter(|_| !self.ended) else { return Poll::Ready(Ok(())) };
        poll_window(writer, 1, cx).map_ok(|_| ())
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        let Some(writer) = &mut self.writer else { return Poll::Ready(Ok(())) };
        let gone = |_| ClientError::Gone;
        while let Some(piece) = self.queue.front_mut() {
            let window = ready!(poll_window(writer, piece.len(), cx))?;
            let now = piece.split_to(window.min(piece.len()));
            if piece.is_empty() {
                self.queue.pop_front();
            }
            self.queued -= now.len();
            let last = self.queue.is_empty() && matches!(self.end, Some(None));
            if !now.is_empty() {
                writer.send_data(now, last).map_err(gone)?;
            }
            if last {
                self.end = None;
                self.ended = true;
            }
        }
        match self.end.take() {
            Some(Some(trailers)) => writer.send_trailers(*trailers).map_err(gone)?,
            Some(None) => writer.send_data(Bytes::new(), true).map_err(gone)?,
            None => return Poll::Ready(Ok(())),
        }
        self.ended = true;
        Poll::Ready(Ok(()))
    }

    // ── What comes after it ─────────────────────────────────────────────────────────────────────

    /// Whether the answer is out, and the rest of a body on its way here. Who waits for a 100 sends none.
    pub(super) fn awaits_body(&self) -> bool {
        self.ended && !self.body_done && !self.gone && !self.expects_continue
    }

    /// Reads and drops what is left of a small body. A stream that is dropped before is reset without an error, as RFC
    /// 9113, section 8.1, has it; but there are clients that throw away the answer with it.
    pub(super) async fn finish(mut self) {
        let most = self.received + DRAIN_MAX;
        let rest = async {
            while self.received < most {
                match poll_fn(|cx| self.poll_received(cx)).await {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return,
                }
            }
        };
        Deadline::within(DRAIN_BODY, rest).await;
    }

    /// Gives the stream up, so that nobody takes what was sent for a whole answer.
    pub(super) fn abort(&mut self) {
        if !self.ended {
            match &mut self.writer {
                Some(writer) => writer.send_reset(Reason::INTERNAL_ERROR),
                None => self.respond.send_reset(Reason::INTERNAL_ERROR),
            }
            self.ended = true;
        }
    }
}
