//! An HTTP/1.1 upstream through Pingora's client session, on an [`Outbox`].

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::client::HttpSession as ClientSession;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

use crate::exchange::outbox::Outbox;

/// The largest head of an answer, in bytes. Pingora has the same limit, but looks at it between two
/// reads only.
const HEAD_MAX: usize = 1 << 20;

pub(in crate::exchange) struct Http1 {
    session: Box<HttpSession>,
    outbox: Outbox,
}

impl Http1 {
    /// Puts the session on an outbox, unless it comes from the pool and has one, and sends the head.
    pub(in crate::exchange) async fn begin(session: HttpSession, head: Box<RequestHeader>) -> Result<Self> {
        let known = (**session.stream()).as_any().downcast_ref::<Outbox>().cloned();
        let (outbox, mut session) = match known {
            Some(outbox) => (outbox, session),
            None => {
                let outbox = Outbox::new(session.into_inner());
                (outbox.clone(), HttpSession::new(Box::new(outbox)))
            }
        };
        // Deadlines are the pump's: a timeout of the session would begin anew at every poll.
        session.read_timeout = None;
        session.write_timeout = None;
        session.write_request_header(head).await?;
        Ok(Self { session: Box::new(session), outbox })
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

    /// Keeps the connection for the next request, if this one left nothing behind on it: an
    /// unfinished body would swallow the head of the next request.
    pub(in crate::exchange) async fn release(
        self,
        connector: &Connector,
        peer: &HttpPeer,
        request_done: bool,
        idle: Duration,
    ) {
        let clean =
            request_done && self.outbox.pending() == 0 && !self.outbox.write_failed() && !self.session.was_upgraded();
        if clean {
            connector.release_http_session(ClientSession::H1(*self.session), peer, Some(idle)).await;
        }
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
