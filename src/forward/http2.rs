//! An HTTP/2 upstream through Pingora's client session.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::client::HttpSession as ClientSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result, RetryType};

use super::response::{Frame, UpstreamError, strip};

/// A client is read only while less than this waits for the upstream, in bytes.
const HIGH_WATER: usize = 64 * 1024;

/// One request on one stream.
pub(super) struct Http2 {
    session: Http2Session,
    /// The upload is a borrow of its own, so that both directions move at once.
    upload: Option<SendStream<Bytes>>,
    /// Pieces that wait for flow control.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// The end of the request, which waits behind the queue.
    end: Option<Option<Box<HeaderMap>>>,
    /// The end was sent, or the upload was given up.
    ended: bool,
    head_read: bool,
}

impl Http2 {
    /// Sends the head; `no_body` ends the request with it.
    pub(super) fn begin(mut session: Http2Session, head: Box<RequestHeader>, no_body: bool) -> Result<Self> {
        session.write_request_header(head, no_body)?;
        let upload = session.take_request_body_writer();
        let (queue, end) = (VecDeque::new(), None);
        Ok(Self { session, upload, queue, queued: 0, end, ended: no_body, head_read: false })
    }

    pub(super) fn has_room(&self) -> bool {
        self.queued < HIGH_WATER
    }

    pub(super) fn send(&mut self, piece: Bytes) {
        if !piece.is_empty() && !self.ended {
            self.queued += piece.len();
            self.queue.push_back(piece);
        }
    }

    pub(super) fn end(&mut self, trailers: Option<Box<HeaderMap>>) {
        if !self.ended {
            self.end = Some(trailers);
        }
    }

    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) {
        let Some(upload) = &mut self.upload else { return };
        while let Some(piece) = self.queue.front_mut() {
            upload.reserve_capacity(piece.len());
            match upload.poll_capacity(cx) {
                Poll::Ready(Some(Ok(window))) => {
                    let now = piece.split_to(window.min(piece.len()));
                    if piece.is_empty() {
                        self.queue.pop_front();
                    }
                    self.queued -= now.len();
                    let last = self.queue.is_empty() && matches!(self.end, Some(None));
                    if !now.is_empty() && upload.send_data(now, last).is_err() {
                        return self.give_up();
                    }
                    if last {
                        self.end = None;
                        self.ended = true;
                    }
                }
                Poll::Ready(_) => return self.give_up(), // the read side reports a reset
                Poll::Pending => return,
            }
        }
        let Some(end) = self.end.take() else { return };
        self.ended = true;
        let _ = match end {
            Some(trailers) => upload.send_trailers(*trailers),
            None => upload.send_data(Bytes::new(), true),
        };
    }

    fn give_up(&mut self) {
        self.queue.clear();
        (self.queued, self.ended, self.end) = (0, true, None);
    }

    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Box<ResponseHeader>, UpstreamError>> {
        debug_assert!(!self.head_read, "a second call would panic");
        ready!(pin!(self.session.read_response_header()).poll(cx)).map_err(|it| failed(&it))?;
        self.head_read = true;
        let mut head = Box::new(self.session.response_header().expect("it was read just now").clone());
        strip(&mut head);
        Poll::Ready(Ok(head))
    }

    /// Whether the answer ended with its head.
    pub(super) fn has_ended(&self) -> bool {
        self.session.response_finished()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, UpstreamError>> {
        let piece = ready!(pin!(self.session.read_response_body()).poll(cx)).map_err(|it| failed(&it))?;
        if let Some(piece) = piece {
            self.session.check_response_end_or_error().map_err(|it| failed(&it))?;
            return Poll::Ready(Ok(Frame::Data(piece)));
        }
        let trailers = ready!(pin!(self.session.read_trailers()).poll(cx)).map_err(|it| failed(&it))?;
        Poll::Ready(Ok(Frame::End(trailers.map(Box::new))))
    }

    /// Ends the stream. The session's own `shutdown` does nothing once the upload was taken from it.
    pub(super) fn reset(&mut self, reason: Reason) {
        if let Some(upload) = &mut self.upload {
            upload.send_reset(reason);
        }
    }

    /// Gives the stream back; the connection stays in the pool whatever became of the stream.
    pub(super) async fn release(mut self: Box<Self>, connector: &Connector, peer: &HttpPeer, idle: Duration) {
        if !self.ended {
            self.reset(Reason::NO_ERROR);
        }
        connector.release_http_session(ClientSession::H2(self.session), peer, Some(idle)).await;
    }
}

/// What Pingora makes of a failed stream. The kind alone is logged: its text may quote what the upstream sent (R10.2).
fn failed(error: &Error) -> UpstreamError {
    tracing::debug!(event = "upstream_failed", kind = error.etype().as_str());
    match error.etype() {
        // So it is for REFUSED_STREAM and for a connection that was going away.
        _ if matches!(error.retry, RetryType::Decided(true)) && *error.etype() != ErrorType::InvalidH2 => {
            UpstreamError::Unprocessed
        }
        ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2 => UpstreamError::Protocol,
        ErrorType::InternalError => UpstreamError::Internal,
        _ => UpstreamError::Closed,
    }
}
