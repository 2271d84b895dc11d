//! An HTTP/1.1 upstream through Pingora's client session, on an [`Outbox`].

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::{Error, ErrorType, Result};

use crate::exchange::outbox::Outbox;
use crate::transport::Transport;

/// The largest head of an answer, in bytes. Pingora has the same limit, but looks at it between two
/// reads only.
const HEAD_MAX: usize = 1 << 20;

pub(in crate::exchange) struct Http1 {
    session: Box<HttpSession>,
    outbox: Outbox,
}

impl Http1 {
    /// Sends the head on a connection.
    pub(in crate::exchange) async fn begin(stream: Transport, head: Box<RequestHeader>) -> Result<Self> {
        Self::on(Outbox::new(stream), head).await
    }

    /// Goes on where others sent the whole request and read some of the answer.
    pub(in crate::exchange) async fn resume(
        stream: Transport,
        read_ahead: BytesMut,
        head: Box<RequestHeader>,
        body: &[u8],
    ) -> Result<Self> {
        let mut link = Self::on(Outbox::resumed(stream, read_ahead, true), head).await?;
        if !body.is_empty() {
            link.session.write_body(body).await?;
        }
        link.outbox.unmute();
        Ok(link)
    }

    async fn on(outbox: Outbox, head: Box<RequestHeader>) -> Result<Self> {
        // No timeouts of the session: they would begin anew at every poll. Deadlines are the pump's.
        let mut session = Box::new(HttpSession::new(Box::new(outbox.clone())));
        session.write_request_header(head).await?;
        Ok(Self { session, outbox })
    }

    pub(super) fn waiting(&self) -> usize {
        self.outbox.pending()
    }

    pub(super) async fn send(&mut self, piece: Bytes, end: bool) -> Result<()> {
        // An empty chunk would be the last one, and `finish_body` writes another (Pingora #935).
        if !piece.is_empty() {
            self.session.write_body(&piece).await?;
        }
        if end && !self.session.was_upgraded() {
            self.session.finish_body().await?;
        }
        Ok(())
    }

    pub(super) fn poll_out(&mut self, cx: &mut Context<'_>) {
        let _ = self.outbox.poll_drain(cx); // a failure shows on the read side
    }

    pub(super) fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<Result<HttpTask>> {
        let task = ready!(pin!(self.session.read_response_task()).poll(cx))?;
        if let HttpTask::Header(head, _) = &task {
            check(head, &self.session.get_headers_raw_bytes())?;
        }
        Poll::Ready(Ok(task))
    }

    pub(super) fn upgrade(&mut self) -> bool {
        self.session.maybe_upgrade_body_writer();
        self.session.was_upgraded()
    }

    /// The connection, for the next request, if this one left nothing behind on it: an unfinished
    /// body would swallow the head of the next request.
    pub(in crate::exchange) async fn into_stream(mut self, request_done: bool) -> Option<Transport> {
        if !request_done || self.session.was_upgraded() {
            return None;
        }
        self.session.respect_keepalive();
        drop(self.session.reuse().await?);
        self.outbox.into_stream()
    }
}

/// What Pingora lets pass. It drops the length of an answer that has chunks, too, and would use the
/// connection again; whoever sends both may mean another end of the answer than we (RFC 9112, section 6.3).
fn check(head: &ResponseHeader, raw: &[u8]) -> Result<()> {
    if raw.len() > HEAD_MAX {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "the answer's head is too large");
    }
    let name = CONTENT_LENGTH.as_str().as_bytes();
    let is_length = |line: &[u8]| line.get(..name.len()).is_some_and(|it| it.eq_ignore_ascii_case(name));
    if head.headers.contains_key(TRANSFER_ENCODING) && raw.split(|it| *it == b'\n').any(is_length) {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "the answer has chunks and a length");
    }
    Ok(())
}
