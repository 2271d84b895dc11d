//! A request over HTTP/1 and the way back: our codec on a client's connection.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Shutdown;
use tokio::io::AsyncWrite;

use super::{ClientError, DRAIN_BODY, Part};
use crate::base::Deadline;
use crate::http::{self as codec, BodyDecoder, BodyError, Decoded, Framing, HeadError, HeadScan, RequestHead};
use crate::listener::{Connection, Downstream, EarlyReject};
use crate::transport::{WriteQueue, poll_read_body, poll_read_head};

/// What a client may send ahead while it is being answered, in bytes. A client that sends more is not watched any more.
const AHEAD_MAX: usize = 16 * 1024;
/// How long a client may take to read a refusal of what could not be read.
const TAKE_REJECT: Duration = Duration::from_secs(10);

/// A connection that speaks HTTP/1, between two requests.
pub struct H1Connection {
    stream: Box<Downstream>,
    /// What was read and belongs to no request yet.
    read: BytesMut,
    scan: HeadScan,
}

impl H1Connection {
    /// At its beginning.
    pub fn new(stream: Box<Downstream>) -> Self {
        Self { stream, read: BytesMut::new(), scan: HeadScan::default() }
    }

    /// The next request; `None` if there is none: the client left, or sent what can't be read, in which case
    /// it got a refusal.
    pub(super) async fn next(mut self) -> Option<Http1> {
        if self.read.is_empty() {
            self.read = BytesMut::new(); // an idle connection owns no room
        }
        loop {
            let head = match codec::read_request(&mut self.read, &mut self.scan) {
                Ok(Some(head)) => head,
                Ok(None) => {
                    let Self { stream, read, .. } = &mut self;
                    match poll_fn(|cx| poll_read_head(stream, cx, read)).await {
                        Ok(1..) => continue,
                        Ok(0) | Err(_) => return None,
                    }
                }
                Err(error) => {
                    self.reject(error).await;
                    return None;
                }
            };
            return Some(Http1::new(self, head));
        }
    }

    async fn reject(mut self, error: HeadError) {
        let reject = match error {
            HeadError::Malformed(why) => EarlyReject::Malformed(why),
            HeadError::TargetTooLong => EarlyReject::TargetTooLong,
            HeadError::FieldsTooLarge => EarlyReject::FieldsTooLarge,
        };
        let origin = origin(&self.read);
        self.stream.reject(reject, origin.as_ref());
        let told = async {
            let _ = poll_fn(|cx| Pin::new(&mut *self.stream).poll_flush(cx)).await;
            self.stream.shutdown().await;
        };
        Deadline::within(TAKE_REJECT, told).await;
    }
}

/// The page that calls, as far as it can be seen in a head that can't be read: without it browsers would not show the
/// refusal.
fn origin(head: &[u8]) -> Option<HeaderValue> {
    let mut lines = head.split(|it| *it == b'\n');
    let value = lines.find_map(|line| {
        let (name, value) = line.split_at_checked("origin:".len())?;
        name.eq_ignore_ascii_case(b"origin:").then(|| value.trim_ascii())
    });
    HeaderValue::from_bytes(value?).ok()
}

/// How the body of an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// The head has not been written yet.
    Head,
    /// So many bytes are to come.
    Length(u64),
    Chunked,
    /// The body ends with the connection.
    UntilClose,
    /// There is no body, whatever the head says: HEAD, 204, 304.
    Bodiless,
    /// The answer is out.
    Done,
}

/// A request that was read, and the answer to it.
pub(super) struct Http1 {
    connection: H1Connection,
    pub(super) request: Arc<RequestHeader>,
    body: BodyDecoder,
    trailers: Option<Box<HeaderMap>>,
    pub(super) framing: Framing,
    /// It requests a change of protocols.
    pub(super) upgrade: bool,
    /// It waits for `100 Continue`, and has not got one.
    expects_continue: bool,
    /// There is a field `Expect`.
    pub(super) expects: bool,
    takes_trailers: bool,
    /// The connection goes on with the next request.
    pub(super) persistent: bool,
    queue: WriteQueue,
    writer: Writer,
    /// Of the head that was queued.
    queued_status: u16,
    /// The answer's; 0 until some of it was sent.
    pub(super) status: u16,
    /// Bytes of the answer's body.
    pub(super) sent: u64,
    /// Bytes of the request's body.
    pub(super) received: u64,
    gone: bool,
}

impl Http1 {
    fn new(connection: H1Connection, head: RequestHead) -> Self {
        let RequestHead { request, framing, persistent, upgrade, expects_continue, expects, takes_trailers } = head;
        Self {
            connection,
            request: Arc::new(request),
            body: BodyDecoder::new(framing),
            trailers: None,
            framing,
            upgrade,
            expects_continue,
            expects,
            takes_trailers,
            persistent,
            queue: WriteQueue::default(),
            writer: Writer::Head,
            queued_status: 0,
            status: 0,
            sent: 0,
            received: 0,
            gone: false,
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        self.connection.stream.connection()
    }

    pub(super) fn server_address(&self) -> Option<String> {
        self.connection.stream.local_address().map(|it| it.to_string())
    }

    // ── The request's body ──────────────────────────────────────────────────────────────────────

    pub(super) fn body_is_done(&self) -> bool {
        self.body.is_done()
    }

    pub(super) fn take_trailers(&mut self) -> Option<Box<HeaderMap>> {
        self.trailers.take()
    }

    /// Whether a body of known length has come with its head, whole.
    pub(super) fn body_at_hand(&mut self) -> Option<Bytes> {
        match self.framing {
            Framing::Empty => Some(Bytes::new()),
            Framing::Length(length) if self.received == 0 && self.connection.read.len() as u64 >= length => {
                match self.body.decode(&mut self.connection.read) {
                    Ok(Decoded::Data(piece)) => {
                        self.received += piece.len() as u64;
                        Some(piece)
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The next piece of the body; `None` at its end.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ClientError>> {
        loop {
            if self.body.is_done() {
                return Poll::Ready(Ok(None));
            }
            let H1Connection { stream, read, .. } = &mut self.connection;
            match self.body.decode(read) {
                Ok(Decoded::Data(piece)) => {
                    self.received += piece.len() as u64;
                    return Poll::Ready(Ok(Some(piece)));
                }
                Ok(Decoded::End(trailers)) => {
                    self.trailers = trailers;
                    return Poll::Ready(Ok(None));
                }
                Ok(Decoded::More) => {}
                Err(error) => return Poll::Ready(Err(self.body_failed(error))),
            }
            if self.gone || !matches!(ready!(poll_read_body(stream, cx, read)), Ok(1..)) {
                self.gone = true;
                return Poll::Ready(Err(ClientError::Gone));
            }
        }
    }

    /// After this nobody knows where the next request begins.
    fn body_failed(&mut self, error: BodyError) -> ClientError {
        self.persistent = false;
        match error {
            BodyError::Malformed(why) => ClientError::Malformed(why),
            BodyError::TooMuchOverhead => ClientError::Malformed("the body's chunks carry too much beside its bytes"),
            BodyError::Truncated => ClientError::Gone,
        }
    }

    /// Says `100 Continue` to a client that waits for it (RFC 9110, section 10.1.1).
    pub(super) fn say_continue(&mut self) {
        if std::mem::take(&mut self.expects_continue) && self.writer == Writer::Head {
            self.queue.append(|out| out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"));
        }
    }

    /// Ready when the client has left. Its body has to have been read; what it sends meanwhile is kept for the next
    /// request.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let H1Connection { stream, read, .. } = &mut self.connection;
        while !self.gone {
            if read.len() >= AHEAD_MAX {
                return Poll::Pending;
            }
            self.gone = !matches!(ready!(poll_read_head(stream, cx, read)), Ok(1..));
        }
        Poll::Ready(())
    }

    // ── The answer ──────────────────────────────────────────────────────────────────────────────

    /// Whether interim answers may be sent: HTTP/1.0 does not know them (RFC 9110, section 15.2).
    pub(super) fn takes_interim(&self) -> bool {
        self.request.version == Version::HTTP_11 && self.writer == Writer::Head
    }

    pub(super) fn queue_interim(&mut self, head: &ResponseHeader) {
        if head.status == StatusCode::CONTINUE {
            self.expects_continue = false;
        }
        self.queue.append(|out| codec::write_response_head(head, out));
    }

    /// Puts a part of the answer into the queue.
    ///
    /// # Errors
    /// When the body is not of the length that its head said.
    pub(super) fn queue(&mut self, part: Part) -> Result<(), ClientError> {
        match part {
            Part::Head(head, end) => self.queue_head(head, end),
            Part::Data(piece) => return self.queue_data(piece),
            Part::End(trailers) => return self.queue_end(trailers.as_deref()),
        }
        Ok(())
    }

    fn queue_head(&mut self, mut head: Box<ResponseHeader>, end: bool) {
        self.queued_status = head.status.as_u16();
        if self.expects_continue && !self.body.is_done() {
            self.persistent = false; // the client may leave the body out: its next request would be taken for it
        }
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        self.writer = if switches { Writer::UntilClose } else { self.writer_for(&mut head, end) };
        if self.writer == Writer::UntilClose {
            self.persistent = false;
        }
        if switches {
            // Its `Connection` says `upgrade`.
        } else if !self.persistent {
            let _ = head.insert_header(CONNECTION, HeaderValue::from_static("close"));
        } else if self.request.version == Version::HTTP_10 {
            let _ = head.insert_header(CONNECTION, HeaderValue::from_static("keep-alive"));
        }
        self.queue.append(|out| codec::write_response_head(&head, out));
    }

    fn writer_for(&self, head: &mut ResponseHeader, end: bool) -> Writer {
        let bodiless = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if bodiless || self.request.method == Method::HEAD {
            return Writer::Bodiless;
        }
        if let Some(length) = head.headers.get(CONTENT_LENGTH).and_then(|it| codec::length(it.as_bytes())) {
            return Writer::Length(length);
        }
        if end {
            let _ = head.insert_header(CONTENT_LENGTH, HeaderValue::from_static("0"));
            return Writer::Length(0);
        }
        if self.request.version != Version::HTTP_11 {
            return Writer::UntilClose;
        }
        let _ = head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        Writer::Chunked
    }

    fn queue_data(&mut self, piece: Bytes) -> Result<(), ClientError> {
        let length = piece.len() as u64;
        match &mut self.writer {
            Writer::Bodiless | Writer::Head | Writer::Done => return Ok(()),
            _ if length == 0 => return Ok(()), // an empty chunk would be the last one
            Writer::Length(left) => *left = left.checked_sub(length).ok_or(ClientError::Incomplete)?,
            Writer::Chunked => self.queue.append(|out| codec::chunk_head(piece.len(), out)),
            Writer::UntilClose => {}
        }
        self.sent += length;
        self.queue.push(piece);
        if self.writer == Writer::Chunked {
            self.queue.append(|out| out.extend_from_slice(b"\r\n"));
        }
        Ok(())
    }

    fn queue_end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), ClientError> {
        match std::mem::replace(&mut self.writer, Writer::Done) {
            Writer::Length(1..) => return Err(ClientError::Incomplete),
            Writer::Chunked => {
                let trailers = trailers.filter(|_| self.takes_trailers);
                self.queue.append(|out| codec::write_last_chunk(trailers, out));
            }
            Writer::Length(0) | Writer::Bodiless | Writer::UntilClose | Writer::Head | Writer::Done => {}
        }
        Ok(())
    }

    /// Bytes that wait for the client.
    pub(super) fn unwritten(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.queue.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let (status, queued) = (&mut self.status, self.queued_status);
        let stream = &mut self.connection.stream;
        ready!(self.queue.poll_flush(cx, |cx, slices| {
            let written = ready!(stream.poll_write_through(cx, slices))?;
            if queued > 0 {
                *status = queued;
            }
            Poll::Ready(Ok(written))
        }))?;
        Pin::new(&mut **stream).poll_flush(cx)
    }

    /// Bytes that the client's side of the connection has acknowledged, if the kernel reports them.
    pub(super) fn acknowledged(&self) -> Option<u64> {
        crate::transport::acknowledged(&*self.connection.stream)
    }

    // ── What comes after it ─────────────────────────────────────────────────────────────────────

    /// The raw connection behind an answer 101, and what the client sent behind its request.
    pub(super) fn tunnel(&mut self) -> (&mut Downstream, &mut BytesMut) {
        (&mut self.connection.stream, &mut self.connection.read)
    }

    /// Takes note of bytes that passed through the tunnel.
    pub(super) fn count_tunnel(&mut self, received: u64, sent: u64) {
        self.received += received;
        self.sent += sent;
    }

    /// Breaks the connection off, so that nobody takes what was sent for a whole answer: an answer that ends with its
    /// connection looks whole wherever the connection ends in good order.
    pub(super) fn abort(&mut self) {
        if self.writer == Writer::UntilClose {
            self.connection.stream.reset_on_close();
        }
    }

    /// Whether nothing is left to be done before the next request.
    pub(super) fn is_settled(&self) -> bool {
        self.persistent && !self.gone && self.body.is_done()
    }

    /// The connection for the next request, of a request that is settled.
    pub(super) fn into_connection(self) -> H1Connection {
        self.connection.stream.connection().answered();
        self.connection
    }

    /// The connection for the next request, when the answer is out and there may be one.
    pub(super) async fn finish(mut self) -> Option<H1Connection> {
        if self.persistent && !self.gone && !self.body.is_done() {
            self.persistent = Deadline::within(DRAIN_BODY, self.drain_body()).await == Some(true);
        }
        let Self { mut connection, persistent, gone, .. } = self;
        if !persistent || gone {
            connection.stream.shutdown().await;
            return None;
        }
        connection.stream.connection().answered();
        Some(connection)
    }

    async fn drain_body(&mut self) -> bool {
        loop {
            match poll_fn(|cx| self.poll_body(cx)).await {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }
}
