//! An HTTP/1.1 upstream through Pingora's client session, on an [`Outbox`].

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use pingora::Result;
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::v1::client::HttpSession;

use crate::exchange::outbox::Outbox;

pub(in crate::exchange) struct Http1 {
    session: Box<HttpSession>,
    outbox: Outbox,
}

impl Http1 {
    /// Sends the head on a connection.
    pub(in crate::exchange) async fn begin(stream: Stream, head: Box<RequestHeader>) -> Result<Self> {
        Self::on(Outbox::new(stream), head).await
    }

    /// Goes on where others sent the whole request and read some of the answer.
    pub(in crate::exchange) async fn resume(
        stream: Stream,
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
        pin!(self.session.read_response_task()).poll(cx)
    }

    pub(super) fn upgrade(&mut self) -> bool {
        self.session.maybe_upgrade_body_writer();
        self.session.was_upgraded()
    }

    /// The connection, for the next request, if this one left nothing behind on it: an unfinished
    /// body would swallow the head of the next request.
    pub(in crate::exchange) async fn into_stream(mut self, request_done: bool) -> Option<Stream> {
        if !request_done || self.session.was_upgraded() {
            return None;
        }
        self.session.respect_keepalive();
        drop(self.session.reuse().await?);
        self.outbox.into_stream()
    }
}
