//! An ordinary request over HTTP/1.1 and its answer, with a codec of our own.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::Line;
use super::head::{self, Head, Ordinary};
use crate::http1::field;
use crate::listener::Downstream;

/// Room for a head and a small body.
const READ: usize = 4 * 1024;
/// What a client may send ahead while it is being answered. Whoever sends more is not watched any more.
const AHEAD_MAX: usize = 16 * 1024;
/// A piece of an answer up to this size goes into one buffer with the head.
const GATHER: usize = 4 * 1024;

/// A request that was read, and the answer to it.
pub(super) struct Lean {
    line: Line,
    raw: Bytes,
    pub(super) request: Box<RequestHeader>,
    pub(super) body: Bytes,
    /// The connection ends with the answer.
    pub(super) close: bool,
    /// The answer's; 0 until some of it was sent.
    pub(super) status: u16,
    /// The status of the head that was given.
    given: StatusCode,
    /// Bytes of the answer's body.
    pub(super) sent: u64,
    left: bool,
}

/// Reads until there is a request; `None` at the end of the connection.
pub(super) async fn read(stream: &mut Downstream, buffer: &mut BytesMut) -> io::Result<Option<Head>> {
    if buffer.is_empty() {
        buffer.reserve(READ);
        if poll_fn(|cx| poll_read(stream, cx, buffer)).await? == 0 {
            return Ok(None);
        }
    }
    loop {
        let missing = match head::read(buffer) {
            Head::Part(missing) => missing,
            head => return Ok(Some(head)),
        };
        buffer.reserve(missing);
        // The rest is waited for only if it is there already.
        let more = poll_fn(|cx| match poll_read(stream, cx, buffer) {
            Poll::Ready(read) => Poll::Ready(Some(read)),
            Poll::Pending => Poll::Ready(None),
        });
        if !matches!(more.await.transpose()?, Some(1..)) {
            return Ok(Some(Head::Other));
        }
    }
}

/// Reads what there is, as far as `buffer` has room for it.
fn poll_read(stream: &mut Downstream, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
    // A future made anew at each poll: nothing is lost when it is dropped.
    pin!(stream.read_buf(buffer)).poll(cx)
}

impl Lean {
    pub(super) fn new(line: Line, request: Ordinary) -> Self {
        let Ordinary { request, raw, body_at, close } = request;
        let body = raw.slice(body_at..);
        Self { line, raw, request, body, close, status: 0, given: StatusCode::OK, sent: 0, left: false }
    }

    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Line { stream, read, .. } = &mut self.line;
        while !self.left {
            if read.len() >= AHEAD_MAX {
                return Poll::Pending;
            }
            if read.capacity() == read.len() {
                read.reserve(READ);
            }
            self.left = !matches!(ready!(poll_read(stream, cx, read)), Ok(1..));
        }
        Poll::Ready(())
    }

    pub(super) async fn write_head(&mut self, head: &ResponseHeader, end: bool) -> io::Result<()> {
        self.given = head.status;
        let out = &mut self.line.out;
        out.clear();
        out.reserve(GATHER);
        write_head(head, self.close, out);
        if end { self.flush(&[]).await } else { Ok(()) }
    }

    /// Writes a piece of the body, with the head if that has not been written yet.
    pub(super) async fn write_body(&mut self, piece: &[u8]) -> io::Result<()> {
        let bodiless = self.request.method == Method::HEAD
            || matches!(self.given, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let piece = if bodiless { &[] } else { piece };
        self.sent += piece.len() as u64;
        if self.line.out.len() + piece.len() <= GATHER {
            self.line.out.put_slice(piece);
            return self.flush(&[]).await;
        }
        self.flush(piece).await
    }

    /// Gives what was gathered, and `piece` behind it, to the stream.
    pub(super) async fn flush(&mut self, mut piece: &[u8]) -> io::Result<()> {
        let (status, given) = (&mut self.status, self.given.as_u16());
        let Line { stream, out, .. } = &mut self.line;
        poll_fn(|cx| {
            while !out.is_empty() || !piece.is_empty() {
                let both = [IoSlice::new(out), IoSlice::new(piece)];
                let both = match (out.is_empty(), piece.is_empty()) {
                    (true, _) => &both[1..],
                    (_, true) => &both[..1],
                    _ => &both[..],
                };
                let written = ready!(stream.poll_write_through(cx, both))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                *status = given;
                let of_head = written.min(out.len());
                out.advance(of_head);
                piece = &piece[written - of_head..];
            }
            Pin::new(&mut **stream).poll_flush(cx)
        })
        .await
    }

    /// The stream, with all that was read of it in front again.
    pub(super) fn into_stream(self) -> Box<Downstream> {
        let Line { mut stream, read, .. } = self.line;
        let mut bytes = BytesMut::from(&self.raw[..]);
        bytes.unsplit(read);
        stream.hand_over(bytes);
        stream
    }

    pub(super) async fn finish(self) -> Option<Line> {
        let Self { mut line, close, left, .. } = self;
        if close || left {
            line.stream.shutdown().await;
            return None;
        }
        line.stream.connection().answered();
        Some(line)
    }
}

/// Writes an answer's head as HTTP/1.1.
fn write_head(head: &ResponseHeader, close: bool, out: &mut BytesMut) {
    match head.status {
        StatusCode::OK => out.put_slice(b"HTTP/1.1 200 OK\r\n"),
        status => {
            out.put_slice(b"HTTP/1.1 ");
            out.put_slice(status.as_str().as_bytes());
            out.put_u8(b' ');
            out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
            out.put_slice(b"\r\n");
        }
    }
    for (name, value) in &head.headers {
        field(out, name.as_str(), &[value.as_bytes()]);
    }
    if close {
        out.put_slice(b"connection: close\r\n");
    }
    out.put_slice(b"\r\n");
}
