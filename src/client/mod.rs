//! The client's side of one exchange: its request's head and body, and where its answer goes.
//!
//! An ordinary request over HTTP/1.1 is read and answered by a codec of our own (`lean.rs`), which takes nothing
//! that leaves any doubt. Everything else is Pingora's: what `head.rs` does not take for ordinary is handed to
//! Pingora's session byte for byte before anything has happened to it, and an ordinary request whose answer is
//! not (chunked, streamed, from a local service) becomes one on its way ([`Client::session`]). So everything
//! that takes judgement about framing stays in one place.

mod head;
mod lean;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::Method;
use http::header::{CONTENT_LENGTH, EXPECT};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::{Error, ErrorType, Result};

use crate::base::Deadline;
use crate::listener::{Connection, Downstream};

pub use head::BODY_MAX;

use head::Head;
use lean::Lean;

/// How long a request's body is read and dropped after an answer that did not wait for it, so that the client
/// reads the answer and can go on with the connection.
const DRAIN_BODY: Duration = Duration::from_secs(1);

/// How long a client may take to read a refusal that no route stands behind.
pub const TAKE_REFUSAL: Duration = Duration::from_secs(10);

/// One request and the way back to whoever sent it.
pub struct Client<'s> {
    connection: Arc<Connection>,
    side: Side<'s>,
}

enum Side<'s> {
    /// Ordinary, over HTTP/1.1.
    Lean(Lean),
    /// Anything else over HTTP/1.
    Session(Box<ServerSession>),
    /// A stream of an HTTP/2 connection, which is Pingora's.
    Stream(&'s mut ServerSession),
    /// It was lost on its way from one to the other.
    Lost(Box<RequestHeader>),
}

/// A connection between two requests.
pub struct Line {
    stream: Box<Downstream>,
    /// What was read and belongs to no request yet.
    read: BytesMut,
    /// Room for answers' heads, used again and again.
    out: BytesMut,
}

impl Line {
    /// A connection that speaks HTTP/1, at its beginning.
    pub fn new(stream: Box<Downstream>) -> Self {
        Self { stream, read: BytesMut::new(), out: BytesMut::new() }
    }

    /// The next request; `None` if there is none: the client left, or sent what can't be read, in which case
    /// it was told so.
    pub async fn next(mut self) -> Option<Client<'static>> {
        self.stream.leave_unwatched();
        let connection = self.stream.connection().clone();
        let head = match lean::read(&mut self.stream, &mut self.read).await {
            Ok(Some(head)) => head,
            Ok(None) | Err(_) => return None,
        };
        let side = match head {
            Head::Ordinary(request) => Side::Lean(Lean::new(self, request)),
            Head::Part(_) | Head::Other => {
                self.stream.hand_over(self.read);
                Side::Session(read_session(self.stream).await?)
            }
        };
        connection.admitted();
        Some(Client { connection, side })
    }
}

/// Lets Pingora read a request. What it can't read it answers, and the listener words the answer.
async fn read_session(stream: Box<Downstream>) -> Option<Box<ServerSession>> {
    let mut session = Box::new(ServerSession::new_http1(stream));
    let status = match session.read_request().await {
        // Its framing is another one (RFC 9112, section 6.3), so that nothing is looked at any more.
        Ok(true) if session.req_header().method == Method::CONNECT => 405,
        Ok(true) => {
            session.set_pipelining_enabled(true);
            return Some(session);
        }
        Err(error) if matches!(error.etype(), ErrorType::InvalidHTTPHeader) => 400,
        Ok(false) | Err(_) => return None,
    };
    let told = async {
        let _ = session.respond_error(status).await;
        session.shutdown().await;
    };
    Deadline::within(TAKE_REFUSAL, told).await;
    None
}

impl<'s> Client<'s> {
    /// A request that Pingora has read, over HTTP/2.
    ///
    /// # Errors
    /// If it did not come through a listener.
    pub fn stream(session: &'s mut ServerSession) -> Result<Self> {
        let connection = Connection::of(session.digest()).cloned();
        let connection = connection.ok_or_else(|| Error::explain(ErrorType::InternalError, "no connection"))?;
        connection.admitted();
        Ok(Self { connection, side: Side::Stream(session) })
    }

    /// What is known about the connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether it was ordinary when it was read: then its framing leaves no doubt, it names one host, and it asks nothing
    /// of the connection but to be kept or closed.
    pub fn is_ordinary(&self) -> bool {
        matches!(self.side, Side::Lean(_))
    }

    /// The request's head.
    pub fn request(&self) -> &RequestHeader {
        match &self.side {
            Side::Lean(lean) => &lean.request,
            Side::Session(session) => session.req_header(),
            Side::Stream(session) => session.req_header(),
            Side::Lost(request) => request,
        }
    }

    /// The request's head, for filters that change it.
    pub fn request_mut(&mut self) -> &mut RequestHeader {
        match &mut self.side {
            Side::Lean(lean) => &mut lean.request,
            Side::Session(session) => session.req_header_mut(),
            Side::Stream(session) => session.req_header_mut(),
            Side::Lost(request) => request,
        }
    }

    /// The head's bytes as they were received, if it is Pingora's of HTTP/1; others have none, or there is no doubt about
    /// them.
    pub fn raw_head(&self) -> Option<Bytes> {
        match &self.side {
            Side::Session(session) => session.as_http1().map(|it| it.get_headers_raw_bytes()),
            Side::Lean(_) | Side::Stream(_) | Side::Lost(_) => None,
        }
    }

    /// Whether it came over HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.side, Side::Stream(_))
    }

    /// The address that the request came to, as a value of `Host`.
    pub fn server_address(&self) -> String {
        match &self.side {
            Side::Session(session) => session.server_addr().map(ToString::to_string),
            Side::Stream(session) => session.server_addr().map(ToString::to_string),
            Side::Lean(_) | Side::Lost(_) => None, // they have a host
        }
        .unwrap_or_default()
    }

    /// Whether the client wants to talk another protocol.
    pub fn wants_upgrade(&self) -> bool {
        match &self.side {
            Side::Session(session) => session.is_upgrade_req(),
            Side::Stream(session) => session.is_upgrade_req(),
            Side::Lean(_) | Side::Lost(_) => false,
        }
    }

    /// Whether the request has no body.
    pub fn has_no_body(&mut self) -> bool {
        match &mut self.side {
            Side::Lean(lean) => lean.body.is_empty(),
            Side::Session(session) => session.is_body_empty(),
            Side::Stream(session) => session.is_body_empty(),
            Side::Lost(_) => true,
        }
    }

    /// Whether nothing is left to be read of the request's body.
    pub fn body_is_read(&mut self) -> bool {
        match &mut self.side {
            Side::Lean(lean) => lean.body.is_empty(),
            Side::Session(session) => session.is_body_done(),
            Side::Stream(session) => session.is_body_done(),
            Side::Lost(_) => true,
        }
    }

    /// The body of a request that was read in one with its head.
    pub fn whole_body(&self) -> Option<Bytes> {
        match &self.side {
            Side::Lean(lean) => Some(lean.body.clone()),
            Side::Session(_) | Side::Stream(_) | Side::Lost(_) => None,
        }
    }

    /// The request's body, if all of it has been received with the head, as small bodies are. `None` if the rest
    /// is yet to come; then what has come can be read once more from the session.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn body_at_hand(&mut self) -> Result<Option<Bytes>> {
        let session = match &mut self.side {
            Side::Lean(lean) => return Ok(Some(lean.body.clone())),
            Side::Session(session) => &mut **session,
            Side::Stream(session) => session,
            Side::Lost(_) => return Err(lost()),
        };
        session.set_read_timeout(None); // deadlines are ours
        session.enable_retry_buffering();
        let mut body = BytesMut::new();
        while !session.is_body_done() {
            match session.read_request_body().now_or_never() {
                Some(Ok(Some(piece))) if body.is_empty() && session.is_body_done() => return Ok(Some(piece)),
                Some(Ok(Some(piece))) => body.extend_from_slice(&piece),
                Some(Ok(None)) => break,
                Some(Err(error)) => return Err(error),
                None => return Ok(None),
            }
        }
        Ok(Some(body.freeze()))
    }

    /// The length that the request's head declares for its body, 0 without one.
    pub fn declared_length(&self) -> u64 {
        let length = self.request().headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok());
        length.and_then(|it| it.parse().ok()).unwrap_or(0)
    }

    /// Whether the client has reset its stream, or broken its own word about the length, before anybody read
    /// of its body: in HTTP/2 such a body looks as if it had ended.
    pub fn broke_off(&mut self) -> bool {
        let Side::Stream(session) = &mut self.side else { return false };
        session.is_body_done()
            && session.get_header(CONTENT_LENGTH).is_some()
            && matches!(session.read_request_body().now_or_never(), Some(Err(_)))
    }

    /// Ready when the client has left. Its body has to have been read; what it sends meanwhile is kept for the next
    /// request.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.side {
            Side::Lean(lean) => lean.poll_left(cx),
            Side::Session(session) => pin!(session.read_body_or_idle(true)).poll(cx).map(drop),
            Side::Stream(session) => pin!(session.read_body_or_idle(true)).poll(cx).map(drop),
            Side::Lost(_) => Poll::Ready(()),
        }
    }

    /// The answer is the last one of this connection.
    pub fn close_after(&mut self) {
        match &mut self.side {
            Side::Lean(lean) => lean.close = true,
            Side::Session(session) => session.set_keepalive(None),
            Side::Stream(session) => session.set_keepalive(None),
            Side::Lost(_) => {}
        }
    }

    /// What is left of the request's body is drained after an answer that did not wait for it. Not after
    /// `Expect`: the client may leave the body out, and its next request would be taken for it.
    pub fn settle_body(&mut self) {
        let session = match &mut self.side {
            Side::Session(session) => &mut **session,
            Side::Stream(session) => session,
            Side::Lean(_) | Side::Lost(_) => return, // nothing is left
        };
        if session.is_body_done() || session.req_header().headers.contains_key(EXPECT) {
            return;
        }
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(DRAIN_BODY));
    }

    /// Begins the answer. It may be sent with the first piece of the body only.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn write_head(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        match &mut self.side {
            Side::Lean(lean) => lean.write_head(&head, end).await.map_err(|_| lost()),
            Side::Session(session) => session.write_response_header(head).await,
            Side::Stream(session) => write_http2(session, HttpTask::Header(head, end)).await,
            Side::Lost(_) => Err(lost()),
        }
    }

    /// Sends a head that waits for its body, since that is yet to come.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn flush_head(&mut self) -> Result<()> {
        match &mut self.side {
            Side::Lean(lean) => lean.flush(&[]).await.map_err(|_| lost()),
            Side::Session(_) | Side::Stream(_) => Ok(()), // the listener, and HTTP/2, hold nothing back
            Side::Lost(_) => Err(lost()),
        }
    }

    /// Sends a piece of the answer's body.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn write_body(&mut self, piece: Bytes, end: bool) -> Result<()> {
        match &mut self.side {
            Side::Lean(lean) => lean.write_body(&piece).await.map_err(|_| lost()),
            Side::Session(session) => session.write_response_body(piece, end).await,
            Side::Stream(session) => write_http2(session, HttpTask::Body(Some(piece), end)).await,
            Side::Lost(_) => Err(lost()),
        }
    }

    /// The answer's status; 0 if nothing was answered.
    pub fn status(&self) -> u16 {
        let written = match &self.side {
            Side::Lean(lean) => return lean.status,
            Side::Session(session) => session.response_written(),
            Side::Stream(session) => session.response_written(),
            Side::Lost(_) => None,
        };
        written.map_or(0, |it| it.status.as_u16())
    }

    /// Bytes of the request's body that were read, and of the answer's body that were sent.
    pub fn bytes(&self) -> (u64, u64) {
        let session = match &self.side {
            Side::Lean(lean) => return (lean.body.len() as u64, lean.sent),
            Side::Session(session) => &**session,
            Side::Stream(session) => session,
            Side::Lost(_) => return (0, 0),
        };
        (session.body_bytes_read() as u64, session.body_bytes_sent() as u64)
    }

    /// Pingora's session for the request, for whatever is not ordinary: it reads the same bytes once more, and goes on
    /// with the head as it is now. Of a lean request the body has been read then, and can be read again.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn session(&mut self) -> Result<&mut ServerSession> {
        if let Side::Lean(lean) = &mut self.side {
            let blank = Box::new(RequestHeader::build_no_case(Method::GET, b"/", None)?);
            let request = std::mem::replace(&mut lean.request, blank);
            let Side::Lean(lean) = std::mem::replace(&mut self.side, Side::Lost(request)) else { return Err(lost()) };
            let session = Box::pin(become_session(lean)).await?;
            if let Side::Lost(request) = std::mem::replace(&mut self.side, Side::Session(session)) {
                *self.request_mut() = *request;
            }
        }
        match &mut self.side {
            Side::Session(session) => Ok(session),
            Side::Stream(session) => Ok(session),
            Side::Lean(_) | Side::Lost(_) => Err(lost()),
        }
    }

    /// The connection for the next request, when the answer is out and there may be one.
    pub async fn finish(self) -> Option<Line> {
        match self.side {
            Side::Lean(lean) => lean.finish().await,
            Side::Session(session) => {
                let (stream, read) = session.finish().await.ok()??.into_parts();
                let stream = Downstream::of(stream).ok()?;
                self.connection.answered();
                Some(Line { stream, read: read.unwrap_or_default(), out: BytesMut::new() })
            }
            Side::Stream(_) | Side::Lost(_) => None,
        }
    }
}

async fn become_session(lean: Lean) -> Result<Box<ServerSession>> {
    let close = lean.close;
    let mut session = Box::new(ServerSession::new_http1(lean.into_stream()));
    if !session.read_request().await? {
        return Err(lost());
    }
    session.set_pipelining_enabled(true);
    if close {
        session.set_keepalive(None);
    }
    session.enable_retry_buffering();
    while !session.is_body_done() && session.read_request_body().await?.is_some() {}
    Ok(session)
}

fn lost() -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, "the client is gone")
}

/// Writes a part of an answer to a stream of HTTP/2.
///
/// # Errors
/// When the client is gone.
pub async fn write_http2(session: &mut ServerSession, task: HttpTask) -> Result<()> {
    match task {
        // The end has to be in the very frame: a 304 may name a length that no body follows.
        HttpTask::Header(head, true) => session.response_duplex_vec(vec![HttpTask::Header(head, true)]).await.map(drop),
        HttpTask::Header(head, false) => session.write_response_header(head).await,
        HttpTask::Body(piece, end) | HttpTask::UpgradedBody(piece, end) => {
            let piece = piece.unwrap_or_default();
            if piece.is_empty() && !end {
                return Ok(());
            }
            session.write_response_body(piece, end).await
        }
        HttpTask::Trailer(Some(trailers)) => session.write_response_trailers(*trailers).await,
        HttpTask::Trailer(None) | HttpTask::Done => session.finish_body().await,
        HttpTask::Failed(error) => Err(error),
    }
}
