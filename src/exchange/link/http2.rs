//! An HTTP/2 upstream through Pingora's client session.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use pingora::Result;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::client::HttpSession as ClientSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::upstreams::peer::HttpPeer;

pub(in crate::exchange) struct Http2 {
    session: Box<Http2Session>,
    /// The upload is a borrow of its own, so that both directions move at once.
    upload: Option<SendStream<Bytes>>,
    /// The piece that waits for flow control; one at a time.
    held: Bytes,
    /// The held piece is the last.
    last: bool,
    /// The end was sent, or the upload was given up.
    ended: bool,
    head_read: bool,
}

impl Http2 {
    /// Sends the head; `no_body` ends the request with it.
    pub(in crate::exchange) fn begin(
        mut session: Http2Session,
        head: Box<RequestHeader>,
        no_body: bool,
    ) -> Result<Self> {
        session.write_request_header(head, no_body)?;
        let upload = session.take_request_body_writer();
        let session = Box::new(session);
        Ok(Self { session, upload, held: Bytes::new(), last: no_body, ended: no_body, head_read: false })
    }

    pub(super) fn waiting(&self) -> usize {
        self.held.len()
    }

    pub(super) fn send(&mut self, piece: Bytes, end: bool) {
        self.held = piece;
        self.last |= end;
    }

    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) {
        let Some(upload) = &mut self.upload else { return };
        while !self.ended {
            if self.held.is_empty() {
                if self.last {
                    self.ended = true;
                    let _ = upload.send_data(Bytes::new(), true); // the read side reports a reset
                }
                return;
            }
            upload.reserve_capacity(self.held.len());
            match upload.poll_capacity(cx) {
                Poll::Ready(Some(Ok(0))) => {}
                Poll::Ready(Some(Ok(window))) => {
                    let piece = self.held.split_to(window.min(self.held.len()));
                    self.ended = self.last && self.held.is_empty();
                    if upload.send_data(piece, self.ended).is_err() {
                        self.ended = true;
                    }
                }
                Poll::Ready(_) => {
                    self.ended = true;
                    self.held.clear();
                }
                Poll::Pending => return,
            }
        }
    }

    pub(super) fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<Result<HttpTask>> {
        if !self.head_read {
            ready!(pin!(self.session.read_response_header()).poll(cx))?;
            self.head_read = true; // a second call would panic
            let head = self.session.response_header().expect("it was read just now").clone();
            return Poll::Ready(Ok(HttpTask::Header(Box::new(head), self.session.response_finished())));
        }
        let piece = ready!(pin!(self.session.read_response_body()).poll(cx))?;
        if piece.is_some() {
            let end = self.session.check_response_end_or_error()?;
            return Poll::Ready(Ok(HttpTask::Body(piece, end)));
        }
        let trailers = ready!(pin!(self.session.read_trailers()).poll(cx))?;
        Poll::Ready(Ok(match trailers {
            Some(trailers) => HttpTask::Trailer(Some(Box::new(trailers))),
            None => HttpTask::Done,
        }))
    }

    /// Ends the stream. The session's own `shutdown` does nothing once the upload was taken from it.
    pub(super) fn reset(&mut self, reason: Reason) {
        if let Some(upload) = &mut self.upload {
            upload.send_reset(reason);
        }
    }

    /// Gives the stream back; the connection stays in the pool whatever became of the stream.
    pub(in crate::exchange) async fn release(mut self, connector: &Connector, peer: &HttpPeer, idle: Duration) {
        if !self.ended {
            self.reset(Reason::NO_ERROR);
        }
        connector.release_http_session(ClientSession::H2(*self.session), peer, Some(idle)).await;
    }
}
