//! The client's side of one exchange: its request's head and body, and where its answer goes.
//!
//! Over HTTP/1 our own codec reads and writes ([`crate::http`]), over HTTP/2 the h2 crate does; what stands above
//! knows neither. Nothing here waits: parts of an answer go into a queue that [`Client::poll_flush`] empties, so that
//! one task can move both directions of an exchange.

mod connection;
mod control;
mod extended;
mod grpc_web;
mod http1;
mod http2;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};

use crate::http as codec;
use crate::listener::Connection;

pub use connection::{Busy, H2Connection};
pub use http1::H1Connection;
pub use session::{Handover, carried};
pub use wire::Wire;

use extended::Extended;
use grpc_web::GrpcWeb;
use http1::Http1;
use http2::Http2;
use wire::End;

/// The largest body that is taken for one that is at hand, in bytes.
pub const BODY_AT_HAND_MAX: usize = 16 * 1024;

/// How long what is left of a request's body is read and dropped after an answer that did not wait for it, so that
/// the client reads the answer and can go on with the connection.
const DRAIN_BODY: Duration = Duration::from_secs(2);

/// Why nothing more comes from a client, or goes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// It left, or gave its stream up.
    Gone,
    /// Its body is not framed as RFC 9112 says.
    Malformed(&'static str),
    /// The answer's body is not of the length that its head says.
    Incomplete,
}

/// A part of an answer.
#[derive(Debug)]
pub enum Part {
    /// The final head, and whether nothing follows. Framing fields of the connection are the client's business.
    Head(Box<ResponseHeader>, bool),
    /// A piece of the body.
    Data(Bytes),
    /// The end of the body.
    End(Option<Box<HeaderMap>>),
}

/// One request and the way back to its client.
pub struct Client {
    side: Side,
    /// How a call is written that came over the web.
    web: Option<Box<GrpcWeb>>,
    /// What a call of gRPC has come to, as its client was told.
    grpc_status: Option<u16>,
}

enum Side {
    Http1(Http1),
    Http2(Http2),
}

/// The same call to either side.
macro_rules! either {
    ($client:expr, $side:ident => $call:expr) => {
        match &$client.side {
            Side::Http1($side) => $call,
            Side::Http2($side) => $call,
        }
    };
    (mut $client:expr, $side:ident => $call:expr) => {
        match &mut $client.side {
            Side::Http1($side) => $call,
            Side::Http2($side) => $call,
        }
    };
}

impl H1Connection {
    /// The next request; `None` if there is none: the client left, or sent what can't be read, in which case
    /// it got a refusal.
    pub async fn request(self) -> Option<Client> {
        let request = self.next().await?;
        request.connection().admitted();
        Some(Client::of(Side::Http1(request)))
    }
}

impl Client {
    fn of(side: Side) -> Self {
        Self { side, web: None, grpc_status: None }
    }

    /// What is known about the connection.
    pub fn connection(&self) -> &Arc<Connection> {
        either!(self, side => side.connection())
    }

    /// The request's head.
    pub fn request(&self) -> &RequestHeader {
        either!(self, side => &side.request)
    }

    /// The request's head, to be held beside the client.
    pub fn shared_request(&self) -> Arc<RequestHeader> {
        either!(self, side => side.request.clone())
    }

    /// The request's head, for filters that change it.
    pub fn request_mut(&mut self) -> &mut RequestHeader {
        either!(mut self, side => Arc::make_mut(&mut side.request))
    }

    /// Whether it came over HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.side, Side::Http2(_))
    }

    /// The address that the request came to, as a value of `Host`.
    pub fn server_address(&self) -> Option<String> {
        match &self.side {
            Side::Http1(side) => side.server_address(),
            Side::Http2(_) => None,
        }
    }

    /// Whether the client wants to talk another protocol (RFC 9110, section 7.8; RFC 8441).
    pub fn wants_upgrade(&self) -> bool {
        match &self.side {
            Side::Http1(side) => side.upgrade,
            Side::Http2(side) => side.extended.as_ref().is_some_and(Extended::is_websocket),
        }
    }

    /// Whether the client wants to talk a protocol over HTTP/2 that nobody speaks here.
    pub fn wants_unknown_protocol(&self) -> bool {
        matches!(&self.side, Side::Http2(side) if matches!(side.extended, Some(Extended::Unknown)))
    }

    /// Writes the handshake of HTTP/1.1 for a client that asks for a WebSocket over HTTP/2.
    ///
    /// # Errors
    /// When what it sends can't become one.
    pub fn write_handshake(&mut self) -> Result<(), &'static str> {
        match &mut self.side {
            Side::Http1(_) => Ok(()),
            Side::Http2(side) => side.write_handshake(),
        }
    }

    /// Whether the client can get an answer with this head: a client of HTTP/2 that asks for a WebSocket would take any
    /// success for one, and can't verify that it was understood.
    pub fn may_be_answered(&self, head: &ResponseHeader) -> bool {
        match &self.side {
            Side::Http2(Http2 { extended: Some(it), .. }) => it.may_be_answered(head.status, &head.headers),
            Side::Http1(_) | Side::Http2(_) => true,
        }
    }

    /// A call of gRPC-Web becomes the call of gRPC that it stands for, and its answer is going to be written for the web.
    pub fn take_grpc_web(&mut self) {
        self.web = GrpcWeb::take(self.request_mut()).map(Box::new);
    }

    /// The wish for another protocol is ignored, as it may be: the request is like any other.
    pub fn ignore_upgrade(&mut self) {
        if let Side::Http1(side) = &mut self.side {
            side.upgrade = false;
        }
        self.request_mut().remove_header(&UPGRADE);
    }

    /// Whether its head and body are there, and need nothing of the connection but an answer.
    pub fn is_plain(&self) -> bool {
        if self.request().method == Method::CONNECT {
            return true; // nothing but a refusal comes of it
        }
        if self.expects() || self.wants_upgrade() {
            return false;
        }
        self.has_no_body() || self.declared_length().is_some_and(|it| it <= BODY_AT_HAND_MAX as u64)
    }

    // ── The request's body ──────────────────────────────────────────────────────────────────────

    /// Whether the request has no body.
    pub fn has_no_body(&self) -> bool {
        match &self.side {
            Side::Http1(side) => matches!(side.framing, codec::Framing::Empty | codec::Framing::Length(0)),
            Side::Http2(side) => side.has_no_body,
        }
    }

    /// Whether nothing is left to be read of the request's body.
    pub fn body_is_done(&self) -> bool {
        either!(self, side => side.body_is_done())
    }

    /// The length that the request's head declares for its body.
    pub fn declared_length(&self) -> Option<u64> {
        if self.web.as_ref().is_some_and(|it| it.reads_text()) {
            return None; // what it declares is the text's
        }
        match &self.side {
            Side::Http1(Http1 { framing: codec::Framing::Length(length), .. }) => Some(*length),
            Side::Http1(_) => None,
            Side::Http2(side) => side.request.headers.get(CONTENT_LENGTH).and_then(|it| codec::length(it.as_bytes())),
        }
    }

    /// The request's small body, if all of it is there already: then it counts as read. `None` if the rest is yet to
    /// come, and nothing is lost.
    pub fn body_at_hand(&mut self) -> Option<Bytes> {
        if self.body_is_done() {
            return Some(Bytes::new());
        }
        if self.web.is_some() || self.declared_length().is_some_and(|it| it > BODY_AT_HAND_MAX as u64) {
            return None;
        }
        match &mut self.side {
            Side::Http1(side) => side.body_at_hand(),
            Side::Http2(side) => side.body_at_hand(BODY_AT_HAND_MAX),
        }
    }

    /// The next piece of the request's body; `None` at its end.
    ///
    /// # Errors
    /// When the client is gone, or its chunks are malformed.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ClientError>> {
        let Some(web) = &mut self.web else { return either!(mut self, side => side.poll_body(cx)) };
        loop {
            let piece = ready!(either!(mut self, side => side.poll_body(cx)))?;
            match web.received(piece)? {
                Some(piece) if piece.is_empty() => {}
                piece => return Poll::Ready(Ok(piece)),
            }
        }
    }

    /// What came behind the request's body, and may stand there: nothing in the place of an `edited` field.
    pub fn take_trailers(&mut self, edited: Option<&[HeaderName]>) -> Option<Box<HeaderMap>> {
        let mut trailers = either!(mut self, side => side.take_trailers())?;
        codec::retain_request_trailers(&mut trailers, edited);
        (!trailers.is_empty()).then_some(trailers)
    }

    /// Says `100 Continue` to a client that waits for it before it sends its body, once.
    pub fn say_continue(&mut self) {
        either!(mut self, side => side.say_continue());
    }

    /// Whether it has a field `Expect`.
    pub fn expects(&self) -> bool {
        match &self.side {
            Side::Http1(side) => side.expects,
            Side::Http2(side) => side.request.headers.contains_key(EXPECT),
        }
    }

    /// Later steps need not know that the client waited.
    pub fn forget_expectation(&mut self) {
        if let Side::Http1(side) = &mut self.side {
            side.expects = false;
        }
        self.request_mut().remove_header(&EXPECT);
    }

    /// Ready when the client has left. Its body has to have been read; what it sends meanwhile is kept for the next
    /// request.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        either!(mut self, side => side.poll_gone(cx))
    }

    // ── The answer ──────────────────────────────────────────────────────────────────────────────

    /// The answer is the last one of this connection.
    pub fn close_after(&mut self) {
        if let Side::Http1(side) = &mut self.side {
            side.persistent = false;
        }
    }

    /// Queues an interim answer, where the client knows such (RFC 9110, section 15.2).
    pub fn queue_interim(&mut self, head: &ResponseHeader) {
        match &mut self.side {
            Side::Http1(side) if side.takes_interim() => side.queue_interim(head),
            Side::Http1(_) => {}
            Side::Http2(side) => side.queue_interim(head),
        }
    }

    /// Queues a part of the answer.
    ///
    /// # Errors
    /// When the client is gone, or the body is not of the length that the head said.
    pub fn queue(&mut self, part: Part) -> Result<(), ClientError> {
        match &part {
            Part::Head(head, true) => self.note_status(&head.headers),
            Part::End(Some(trailers)) => self.note_status(trailers),
            _ => {}
        }
        let Some(web) = &mut self.web else { return either!(mut self, side => side.queue(part)) };
        let (last, part) = web.sent(part)?;
        if let Some(last) = last {
            either!(mut self, side => side.queue(Part::Data(last)))?;
        }
        either!(mut self, side => side.queue(part))
    }

    fn note_status(&mut self, fields: &HeaderMap) {
        let Some(status) = fields.get("grpc-status") else { return };
        self.grpc_status = status.to_str().ok().and_then(|it| it.parse().ok());
    }

    /// Whether the client takes more of the answer at once, as far as that is known: what it would not take needs not be
    /// fetched.
    pub fn has_room(&mut self) -> bool {
        match &mut self.side {
            Side::Http1(_) => true,
            Side::Http2(side) => side.has_room(),
        }
    }

    /// Ready when [`Client::has_room`].
    ///
    /// # Errors
    /// When the client is gone.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        match &mut self.side {
            Side::Http1(_) => Poll::Ready(Ok(())),
            Side::Http2(side) => side.poll_room(cx),
        }
    }

    /// Bytes that wait for the client.
    pub fn unwritten(&self) -> usize {
        either!(self, side => side.unwritten())
    }

    /// Writes what waits; ready when nothing is left.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        match &mut self.side {
            Side::Http1(side) => side.poll_flush(cx).map_err(|_| ClientError::Gone),
            Side::Http2(side) => side.poll_flush(cx),
        }
    }

    /// Queues parts of an answer and writes them.
    ///
    /// # Errors
    /// As [`Client::queue`] and [`Client::poll_flush`].
    pub async fn send(&mut self, parts: impl IntoIterator<Item = Part>) -> Result<(), ClientError> {
        for part in parts {
            self.queue(part)?;
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Bytes that the client has taken so far, as well as that is known: what its side of the connection acknowledged,
    /// or what the window of its stream let through.
    pub fn taken(&self) -> u64 {
        match &self.side {
            Side::Http1(side) => side.acknowledged().unwrap_or(0),
            Side::Http2(side) => side.flushed(),
        }
    }

    /// The status of gRPC that the client was told; `None` if it was told none.
    pub fn grpc_status(&self) -> Option<u16> {
        self.grpc_status
    }

    /// The answer's status; 0 if nothing was answered.
    pub fn status(&self) -> u16 {
        either!(self, side => side.status)
    }

    /// Bytes of the request's body that were read, and of the answer's body that were sent.
    pub fn bytes(&self) -> (u64, u64) {
        either!(self, side => (side.received, side.sent))
    }

    /// The version of HTTP that the client speaks.
    pub fn version(&self) -> Version {
        self.request().version
    }

    /// The raw connection behind an answer 101, or the stream behind its like, and what the client sent behind its
    /// request.
    pub fn tunnel(&mut self) -> Option<(Wire<'_>, BytesMut)> {
        match &mut self.side {
            Side::Http1(side) => {
                let (stream, read) = side.tunnel();
                Some((Wire(End::Http1(stream)), std::mem::take(read)))
            }
            Side::Http2(side) => Some((Wire(End::Http2(side.begin_tunnel()?)), BytesMut::new())),
        }
    }

    /// Takes note of bytes that passed through the tunnel, from the client and to it. A stream has counted them.
    pub fn count_tunnel(&mut self, received: u64, sent: u64) {
        if let Side::Http1(side) = &mut self.side {
            side.count_tunnel(received, sent);
        }
    }

    /// Breaks off, so that nobody takes what was sent for a whole answer. What was queued before goes out first, as far
    /// as the client takes it at once: half an answer says more than none.
    pub async fn abort(&mut self) {
        poll_fn(|cx| {
            let _ = self.poll_flush(cx);
            Poll::Ready(())
        })
        .await;
        if self.is_http2() {
            // A reset throws away what waits in h2 for the connection's task: that one has its turn before.
            tokio::task::yield_now().await;
        }
        either!(mut self, side => side.abort());
    }

    /// The connection for the next request, when the answer is out and there may be one. A stream of HTTP/2 is over
    /// with it.
    pub async fn finish(self) -> Option<H1Connection> {
        match self.side {
            Side::Http1(side) if side.is_settled() => Some(side.into_connection()),
            // Boxed: most connections never come here.
            Side::Http1(side) => Box::pin(side.finish()).await,
            Side::Http2(mut side) => {
                side.end_tunnel();
                if side.awaits_body() {
                    Box::pin(side.finish()).await;
                }
                None
            }
        }
    }
}
