//! An HTTP/1.1 upstream: our codec on a connection of this thread's pool.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, StatusCode};
use pingora::http::ResponseHeader;
use tokio::io::AsyncWrite;

use super::response::{Frame, UpstreamError};
use crate::http::{self as codec, BodyDecoder, Decoded, Framing, HeadScan, ResponseHead};
use crate::transport::{self, Transport, WriteQueue, poll_read_body, poll_read_head};

/// A client is read only while less than this waits for the upstream, in bytes.
const HIGH_WATER: usize = 64 * 1024;
/// Interim answers that one request may get.
const INTERIM_MAX: u8 = 32;

/// How the body of a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UploadFraming {
    /// As its bytes: the head says their number, or there is none.
    Bare,
    Chunked,
}

/// One request on one connection.
pub(super) struct Http1 {
    stream: Transport,
    queue: WriteQueue,
    /// A write failed. The read side decides what that means: an upstream may refuse a request early, answer and close.
    write_failed: bool,
    upload: UploadFraming,
    request_done: bool,
    read: BytesMut,
    scan: HeadScan,
    body: BodyDecoder,
    persistent: bool,
    interims: u8,
    /// Why nothing more could be read before the head was there, if the other side did not just close.
    read_error: Option<Box<std::io::Error>>,
}

impl Http1 {
    /// Queues what `head` writes; what is queued behind it leaves in the same write, if it is small.
    pub(super) fn begin(stream: Transport, head: impl FnOnce(&mut BytesMut) -> UploadFraming) -> Self {
        let mut queue = WriteQueue::default();
        let upload = queue.append(head);
        Self {
            stream,
            queue,
            write_failed: false,
            upload,
            request_done: false,
            read: BytesMut::new(),
            scan: HeadScan::default(),
            body: BodyDecoder::new(Framing::Empty),
            persistent: false,
            interims: 0,
            read_error: None,
        }
    }

    /// Why nothing more could be read, if the other side did not just close.
    pub(super) fn read_error(&self) -> Option<&std::io::Error> {
        self.read_error.as_deref()
    }

    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < HIGH_WATER
    }

    /// Whether something of the request waits for the upstream to take it.
    pub(super) fn is_sending(&self) -> bool {
        !self.queue.is_empty() || transport::has_unacknowledged(&self.stream)
    }

    pub(super) fn acknowledged(&self) -> Option<u64> {
        transport::acknowledged(&self.stream)
    }

    pub(super) fn send(&mut self, piece: Bytes) {
        if self.write_failed || piece.is_empty() {
            return; // an empty chunk would be the last one
        }
        if self.upload == UploadFraming::Chunked {
            self.queue.append(|out| codec::chunk_head(piece.len(), out));
        }
        self.queue.push(piece);
        if self.upload == UploadFraming::Chunked {
            self.queue.append(|out| out.extend_from_slice(b"\r\n"));
        }
    }

    pub(super) fn end(&mut self, trailers: Option<&HeaderMap>) {
        self.request_done = true;
        if self.upload == UploadFraming::Chunked && !self.write_failed {
            self.queue.append(|out| codec::write_last_chunk(trailers, out));
        }
    }

    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) {
        if self.queue.is_empty() {
            return;
        }
        let stream = &mut self.stream;
        let flushed = self.queue.poll_flush(cx, |cx, slices| match slices {
            [all] => Pin::new(&mut *stream).poll_write(cx, all),
            _ => Pin::new(&mut *stream).poll_write_vectored(cx, slices),
        });
        let flushed = match flushed {
            Poll::Ready(Ok(())) => Pin::new(stream).poll_flush(cx),
            waits => waits,
        };
        if let Poll::Ready(Err(_)) = flushed {
            self.write_failed = true;
            self.queue.clear();
        }
    }

    /// The next head: interim ones, then the final one.
    pub(super) fn poll_head(
        &mut self,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Box<ResponseHeader>, UpstreamError>> {
        loop {
            match codec::read_response(&mut self.read, &mut self.scan, method) {
                Ok(Some(head)) => return Poll::Ready(self.on_head(head)),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(event = "upstream_malformed", reason = ?error);
                    return Poll::Ready(Err(UpstreamError::Protocol));
                }
            }
            match ready!(poll_read_head(&mut self.stream, cx, &mut self.read)) {
                Ok(1..) => {}
                Ok(0) => return Poll::Ready(Err(UpstreamError::Closed)),
                Err(error) => {
                    self.read_error = Some(Box::new(error));
                    return Poll::Ready(Err(UpstreamError::Closed));
                }
            }
        }
    }

    fn on_head(&mut self, head: ResponseHead) -> Result<Box<ResponseHeader>, UpstreamError> {
        let ResponseHead { mut response, framing, persistent, upgrade } = head;
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            let upgrade = upgrade.ok_or(UpstreamError::Protocol)?; // it has to say to which (RFC 9110, section 15.2.2)
            let _ = response.insert_header(CONNECTION, HeaderValue::from_static("upgrade"));
            let _ = response.insert_header(UPGRADE, upgrade);
        } else if response.status.is_informational() {
            self.interims += 1;
            return if self.interims > INTERIM_MAX { Err(UpstreamError::Protocol) } else { Ok(response) };
        }
        self.body = BodyDecoder::new(framing);
        self.persistent = persistent;
        Ok(response)
    }

    /// Whether nothing of the body is to come.
    pub(super) fn has_ended(&self) -> bool {
        self.body.is_done()
    }

    /// What of the body is there already.
    pub(super) fn frame_at_hand(&mut self) -> Option<Result<Frame, UpstreamError>> {
        if self.body.is_done() {
            return Some(Ok(Frame::End(None)));
        }
        Some(match self.body.decode(&mut self.read) {
            Ok(Decoded::Data(piece)) => Ok(Frame::Data(piece)),
            Ok(Decoded::End(trailers)) => Ok(Frame::End(trailers)),
            Ok(Decoded::More) => return None,
            Err(error) => {
                tracing::debug!(event = "upstream_malformed", reason = ?error);
                Err(UpstreamError::Protocol)
            }
        })
    }

    /// The next part of the body.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, UpstreamError>> {
        loop {
            if let Some(frame) = self.frame_at_hand() {
                return Poll::Ready(frame);
            }
            match ready!(poll_read_body(&mut self.stream, cx, &mut self.read)) {
                Ok(1..) => {}
                Ok(0) if self.body.on_eof().is_ok() => return Poll::Ready(Ok(Frame::End(None))),
                Ok(0) | Err(_) => return Poll::Ready(Err(UpstreamError::Closed)),
            }
        }
    }

    /// The raw connection behind an answer 101, and what was read of it.
    pub(super) fn into_tunnel(self) -> (Transport, BytesMut) {
        (self.stream, self.read)
    }

    /// The connection, for the next request, if this one left nothing behind on it: an unfinished body would swallow
    /// the head of the next request, and bytes behind the answer's end belong to no request.
    pub(super) fn into_stream(self) -> Option<Transport> {
        let clean = self.request_done && self.queue.is_empty() && !self.write_failed;
        let whole = self.body.is_done() && self.read.is_empty();
        (clean && whole && self.persistent).then_some(self.stream)
    }
}
