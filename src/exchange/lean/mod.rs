//! The ordinary request over HTTP/1.1, with a codec of our own: a head and at most a small body go out
//! in one write, an answer of known length comes back.
//!
//! [`is_ordinary`] decides, before anything is written, whether a request may go this way. An answer
//! that is anything else than ordinary ([`answer::Shape::Other`]) is handed, with the bytes read so far,
//! to Pingora's client session, which goes on as if it had sent the request. So everything that takes
//! judgement about framing stays in one place.

mod answer;
mod request;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::base::Deadline;
use crate::client::Client;
use crate::exchange::policy::Policy;
use crate::exchange::pump::{Ended, Stopped, WayOut};
use crate::pipeline::{EndState, Exchange, Refusal};
use crate::transport::Transport;

pub(super) use request::is_ordinary;

use answer::Shape;

/// Room for an answer's head and a small body.
const READ: usize = 4 * 1024;
/// Pieces of a larger body.
const PIECE: usize = 64 * 1024;

/// What became of an ordinary request.
pub(super) enum Outcome {
    /// The answer is out; the connection, if it may serve again.
    Done(Option<Transport>),
    /// The answer is not ordinary: the connection, and what was read of it.
    Other(Transport, BytesMut),
}

/// One request on one connection.
pub(super) struct Lean<'a, 's, W> {
    pub(super) client: &'a mut Client<'s>,
    pub(super) exchange: &'a mut Exchange,
    pub(super) policy: &'a Policy,
    pub(super) way: &'a W,
}

impl<W: WayOut> Lean<'_, '_, W> {
    /// Sends the request and its whole body, and passes the answer on.
    pub(super) async fn run(&mut self, mut stream: Transport, body: &[u8], now: Instant) -> Result<Outcome, Stopped> {
        let total = self.exchange.started + self.policy.request;
        let mut deadline = Deadline::idle();
        deadline.arm_at((now + self.policy.first_byte).min(total));

        let mut buffer = BytesMut::with_capacity(READ);
        request::write(self.client.request(), self.exchange, body, &mut buffer);
        self.send(&mut stream, &buffer, &mut deadline, total).await?;
        buffer.clear();
        let shape = loop {
            if self.read(&mut stream, &mut buffer, &mut deadline, total).await? == 0 {
                return Err(unanswered(Refusal::UpstreamClosed));
            }
            match answer::read(&mut buffer, &self.client.request().method) {
                Shape::Partial => {}
                shape => break shape,
            }
        };
        match shape {
            Shape::Ordinary(head) => self.pass_on(head, stream, buffer, deadline, total).await.map(Outcome::Done),
            Shape::Other | Shape::Partial => Ok(Outcome::Other(stream, buffer)),
        }
    }

    async fn send(
        &mut self,
        stream: &mut Transport,
        bytes: &[u8],
        deadline: &mut Deadline,
        total: Instant,
    ) -> Result<(), Stopped> {
        let mut left = bytes;
        let sent = poll_fn(|cx| {
            while !left.is_empty() {
                match Pin::new(&mut *stream).poll_write(cx, left) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Some(Err(io::ErrorKind::WriteZero.into()))),
                    Poll::Ready(Ok(written)) => left = &left[written..],
                    Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                    Poll::Pending => return deadline.poll_expired(cx).map(|()| None),
                }
            }
            match Pin::new(&mut *stream).poll_flush(cx) {
                Poll::Pending => deadline.poll_expired(cx).map(|()| None),
                Poll::Ready(flushed) => Poll::Ready(Some(flushed)),
            }
        });
        match sent.await {
            Some(Ok(())) => Ok(()),
            // It may have answered before it closed, as with 413; the read side sees that.
            Some(Err(_)) => Ok(()),
            None => Err(late(total)),
        }
    }

    /// Reads some of the answer, while the client is watched: when it leaves, so do we.
    async fn read(
        &mut self,
        stream: &mut Transport,
        buffer: &mut BytesMut,
        deadline: &mut Deadline,
        total: Instant,
    ) -> Result<usize, Stopped> {
        buffer.reserve(READ);
        match self.next(stream, buffer, deadline).await {
            Event::Read(Ok(count)) => Ok(count),
            Event::Read(Err(_)) => Err(unanswered(Refusal::UpstreamClosed)),
            Event::ClientGone => Err(Stopped { why: Ended::ClientGone, untouched: false, unprocessed: false }),
            Event::Late => Err(late(total)),
        }
    }

    /// What comes first: bytes of the answer, the client's end, or ours to wait.
    async fn next(&mut self, stream: &mut Transport, buffer: &mut BytesMut, deadline: &mut Deadline) -> Event {
        let client = &mut *self.client;
        poll_fn(|cx| {
            if let Poll::Ready(read) = poll_read(stream, cx, buffer) {
                return Poll::Ready(Event::Read(read));
            }
            if client.poll_left(cx).is_ready() {
                return Poll::Ready(Event::ClientGone);
            }
            deadline.poll_expired(cx).map(|()| Event::Late)
        })
        .await
    }

    async fn pass_on(
        &mut self,
        mut head: answer::Head,
        mut stream: Transport,
        mut buffer: BytesMut,
        mut deadline: Deadline,
        total: Instant,
    ) -> Result<Option<Transport>, Stopped> {
        self.exchange.timings.first_byte = Some(self.exchange.started.elapsed());
        // A stop may have begun since the request came.
        if self.client.connection().closing() {
            self.client.close_after();
        }
        if let Some(recording) = &mut self.exchange.recording {
            recording.on_head(&head.answer);
        }
        self.way.on_response(self.exchange, &mut head.answer);
        deadline.arm_at(total);
        let mut left = head.length;
        self.write(Part::Head(head.answer, left == 0), &mut deadline).await?;
        if left > 0 && buffer.is_empty() {
            self.flush_head(&mut deadline).await?;
        }
        while left > 0 {
            if buffer.is_empty() && self.read_piece(&mut stream, &mut buffer, &mut deadline, left).await? == 0 {
                return Err(cut(EndState::Truncated));
            }
            let piece = buffer.split_to(buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            left -= piece.len() as u64;
            self.exchange.body_received += piece.len() as u64;
            if let Some(recording) = &mut self.exchange.recording {
                recording.on_body(&piece);
            }
            self.write(Part::Body(piece.freeze(), left == 0), &mut deadline).await?;
        }
        if let Some(recording) = &mut self.exchange.recording {
            recording.on_end();
        }
        // Bytes behind the answer's end are nobody's: such a connection is not to be trusted again.
        Ok((head.keep_alive && buffer.is_empty()).then_some(stream))
    }

    async fn read_piece(
        &mut self,
        stream: &mut Transport,
        buffer: &mut BytesMut,
        deadline: &mut Deadline,
        left: u64,
    ) -> Result<usize, Stopped> {
        let now = Instant::now();
        let total = self.exchange.started + self.policy.request;
        deadline.arm_at((now + self.policy.idle).min(total));
        buffer.reserve(PIECE.min(usize::try_from(left).unwrap_or(PIECE)).max(READ));
        match self.next(stream, buffer, deadline).await {
            Event::Read(Ok(count)) => {
                // The client gets its own time for what has come.
                deadline.arm_at((Instant::now() + self.policy.idle).min(total));
                Ok(count)
            }
            Event::ClientGone => Err(cut(EndState::ClientGone)),
            Event::Read(Err(_)) | Event::Late => Err(cut(EndState::Truncated)),
        }
    }

    /// A head does not wait for a body that is yet to come.
    async fn flush_head(&mut self, deadline: &mut Deadline) -> Result<(), Stopped> {
        written(self.client.flush_head(), deadline).await
    }

    /// Writes a part of the answer to the client, who may be slow only until the deadline.
    async fn write(&mut self, part: Part, deadline: &mut Deadline) -> Result<(), Stopped> {
        match part {
            Part::Head(head, end) => written(self.client.write_head(head, end), deadline).await,
            Part::Body(piece, end) => written(self.client.write_body(piece, end), deadline).await,
        }
    }
}

async fn written(writing: impl Future<Output = pingora::Result<()>>, deadline: &mut Deadline) -> Result<(), Stopped> {
    let mut writing = pin!(writing);
    let written = poll_fn(|cx| match writing.as_mut().poll(cx) {
        Poll::Ready(written) => Poll::Ready(Some(written)),
        Poll::Pending => deadline.poll_expired(cx).map(|()| None),
    });
    match written.await {
        Some(Ok(())) => Ok(()),
        Some(Err(_)) => Err(cut(EndState::ClientGone)),
        None => Err(cut(EndState::ClientTimeout)),
    }
}

enum Event {
    Read(io::Result<usize>),
    ClientGone,
    Late,
}

enum Part {
    Head(Box<pingora::http::ResponseHeader>, bool),
    Body(Bytes, bool),
}

/// Reads what there is, as far as `buffer` has room for it.
fn poll_read(stream: &mut Transport, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
    // A future made anew at each poll: nothing is lost when it is dropped.
    pin!(stream.read_buf(buffer)).poll(cx)
}

fn unanswered(refusal: Refusal) -> Stopped {
    Stopped { why: Ended::Unanswered(refusal), untouched: true, unprocessed: false }
}

fn late(total: Instant) -> Stopped {
    unanswered(if Instant::now() >= total { Refusal::ExchangeTimeout } else { Refusal::FirstByteTimeout })
}

fn cut(end: EndState) -> Stopped {
    Stopped { why: Ended::Cut(end), untouched: false, unprocessed: false }
}

/// A body that was declared empty ends in silence: whoever says one thing and sends another is not
/// passed on. HTTP/2 alone can do so (RFC 9113, section 8.1.1).
pub(super) async fn empty_body_ends(client: &mut Client<'_>, patience: Duration) -> Result<(), Ended> {
    let session = client.session().await.map_err(|_| Ended::ClientGone)?;
    match Deadline::within(patience, session.read_request_body()).await {
        Some(Ok(piece)) if piece.as_ref().is_none_or(Bytes::is_empty) => Ok(()),
        Some(_) => Err(Ended::ClientGone),
        None => Err(Ended::Unanswered(Refusal::RequestTimeout)),
    }
}

/// Whether an answer to this method has no body, whatever its head says.
fn has_no_body(method: &Method, status: u16) -> bool {
    *method == Method::HEAD || status == 204 || status == 304
}
