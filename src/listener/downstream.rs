//! A client's connection: its bytes, and the deadlines that count while no request is under way.
//!
//! What speaks HTTP on it is the business of an [`App`](super::App). Here every byte passes in the clear, and nothing
//! is looked at but how the connection begins.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use http::HeaderValue;
use pingora::protocols::{Shutdown, UniqueID, UniqueIDType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::base::{Deadline, coarse_now};

use super::connection::{Connection, EarlyReject, Phase, Refuse};
use crate::transport::Transport;

/// How every HTTP/2 connection begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much is read at once while it is not clear what the client speaks.
const PREREAD: usize = 1024;
/// The turn in which a connection is when the header of its first request has begun.
const FIRST_HEADER: u32 = 1;
/// Where a deadline waits while none counts: moving it is cheaper than giving its slot back.
const PARKED: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long, and for how many bytes, what a client still sends is read after the last answer. To
/// close with unread bytes would reset the connection, and the answer with it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// A client's connection.
pub struct Downstream {
    inner: Transport,
    connection: Arc<Connection>,
    refuse: Arc<dyn Refuse>,
    deadline: Deadline,
    /// The connection's turn that `deadline` was last set for.
    timed: Option<u32>,
    /// Read while looking for the HTTP/2 preface; belongs before what is read next.
    preread: BytesMut,
    /// A refusal that waits to be written.
    unwritten: BytesMut,
    /// Bytes seen while the preface of an HTTP/2 connection is awaited; `None` on HTTP/1.
    preface_seen: Option<usize>,
    /// Its end must not look like the end of an answer.
    reset: bool,
}

impl Downstream {
    pub(super) fn new(inner: Transport, connection: Arc<Connection>, refuse: Arc<dyn Refuse>) -> Self {
        let preface_seen = connection.speaks_h2().then_some(0);
        connection.ready_at();
        Self {
            inner,
            connection,
            refuse,
            deadline: Deadline::idle(),
            timed: None,
            preread: BytesMut::new(),
            unwritten: BytesMut::new(),
            preface_seen,
            reset: false,
        }
    }

    /// What is known about the connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Our own end of it.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.inner.local_address()
    }

    /// Whether the client speaks HTTP/2; where it may do so without having said it, its first bytes are awaited.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn speaks_http2(&mut self) -> io::Result<bool> {
        if self.connection.h2c && poll_fn(|cx| self.poll_preface(cx)).await? {
            self.preface_seen = Some(0);
        }
        Ok(self.preface_seen.is_some())
    }

    /// Writes what there is, piece behind piece.
    pub fn poll_write_through(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.time_phase();
        let inner = Pin::new(&mut self.inner);
        let written = match bytes {
            [all] => ready!(inner.poll_write(cx, all)), // `send` is a shorter way through the kernel
            _ => ready!(inner.poll_write_vectored(cx, bytes)),
        }?;
        self.connection.count_written(written);
        Poll::Ready(Ok(written))
    }

    /// Queues the answer to what never became a request, once; the caller flushes.
    pub fn reject(&mut self, why: EarlyReject, origin: Option<&HeaderValue>) {
        if self.connection.refuse_once() {
            let answer = self.refuse.refuse(why, origin, &self.connection);
            self.connection.count_written(answer.len());
            self.unwritten.extend_from_slice(&answer);
        }
    }

    /// Closes with a reset: for clients that take the end of the connection for the end of an answer.
    pub fn reset_on_close(&mut self) {
        self.reset = true;
    }

    /// Sets the deadline anew if the connection has moved on since the last look. The time for the
    /// first header runs from the start, so there [`Phase::Header`] finds it running.
    fn time_phase(&mut self) {
        let turn = self.connection.turn();
        if self.timed == Some(turn) {
            return;
        }
        let limits = &self.connection.limits;
        let start = self.connection.ready_at();
        match self.connection.phase() {
            Phase::Fresh => self.deadline.arm_at(start + limits.header_timeout),
            Phase::Header if turn == FIRST_HEADER => {
                self.deadline.arm_at(start + limits.header_timeout);
            }
            Phase::Header => self.deadline.arm(limits.header_timeout),
            Phase::Idle => self.deadline.arm_at(coarse_now() + limits.keep_alive),
            Phase::Request | Phase::H2 | Phase::Cut => self.deadline.arm_at(start + PARKED),
        }
        self.timed = Some(turn);
    }

    /// Ends the connection when the client took too long. Its task then drops it.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) {
        self.time_phase();
        match self.connection.phase() {
            Phase::Fresh | Phase::Header | Phase::Idle => {}
            Phase::Request | Phase::H2 | Phase::Cut => return,
        }
        if self.deadline.poll_expired(cx).is_pending() {
            return;
        }
        // A client that sent nothing made no request, so it gets no answer either.
        if self.connection.phase() == Phase::Header && self.preface_seen.is_none() {
            self.reject(EarlyReject::Timeout, None);
        }
        self.connection.enter(Phase::Cut);
        // One attempt: a client this slow does not deserve that we wait.
        if self.poll_drain(cx).is_ready() {
            let _ = Pin::new(&mut self.inner).poll_shutdown(cx);
        }
        cx.waker().wake_by_ref();
    }

    /// What came from the client moves the connection on.
    fn note_read(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        match self.connection.phase() {
            Phase::Fresh => match &mut self.preface_seen {
                Some(seen) => {
                    *seen += bytes;
                    if *seen >= PREFACE.len() {
                        self.connection.enter(Phase::H2);
                    }
                }
                None => self.connection.enter(Phase::Header),
            },
            Phase::Idle => self.connection.enter(Phase::Header),
            Phase::Header | Phase::Request | Phase::H2 | Phase::Cut => {}
        }
    }

    /// Reads until it is clear whether the client speaks HTTP/2.
    fn poll_preface(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.preread.len() < PREFACE.len() && PREFACE.starts_with(&self.preread) {
            self.preread.reserve(PREREAD);
            let Poll::Ready(read) = pin!(self.inner.read_buf(&mut self.preread)).poll(cx)? else {
                if self.preread.is_empty() {
                    self.preread = BytesMut::new(); // who waits owns no room
                }
                self.poll_deadline(cx);
                return Poll::Pending;
            };
            if read == 0 {
                // The end: what there is goes to HTTP/1, which knows how to complain.
                break;
            }
            self.connection.count_read(read);
        }
        Poll::Ready(Ok(self.preread.starts_with(PREFACE)))
    }

    fn read_inner(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        if !self.preread.is_empty() {
            let length = self.preread.len().min(buf.remaining());
            buf.put_slice(&self.preread.split_to(length));
            if self.preread.is_empty() {
                self.preread = BytesMut::new();
            }
            return Poll::Ready(Ok(length));
        }
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let length = buf.filled().len() - before;
        self.connection.count_read(length);
        Poll::Ready(Ok(length))
    }

    /// Writes a refusal that waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unwritten.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.unwritten))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unwritten.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and forgets what the client still sends, so that it gets to read our last answer.
    async fn linger(&mut self) {
        let mut deadline = Deadline::after(LINGER);
        let mut left = LINGER_BYTES;
        poll_fn(|cx| {
            let mut room = [0; 4 * 1024];
            loop {
                let mut buf = ReadBuf::new(&mut room);
                match Pin::new(&mut self.inner).poll_read(cx, &mut buf) {
                    Poll::Ready(Ok(())) if !buf.filled().is_empty() && left > 0 => {
                        left = left.saturating_sub(buf.filled().len());
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return deadline.poll_expired(cx),
                }
            }
        })
        .await;
    }
}

impl AsyncRead for Downstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.read_inner(cx, buf) {
            Poll::Ready(Ok(length)) => {
                this.note_read(length);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                this.poll_deadline(cx);
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_through(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_through(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

impl Drop for Downstream {
    fn drop(&mut self) {
        if self.reset {
            return self.inner.reset_on_close();
        }
        // Nothing can wait here, but usually there is room in the socket. Only where no answer is
        // under way may the end be announced: else a cut answer would look whole over TLS.
        let mut cx = Context::from_waker(Waker::noop());
        let clean = self.connection.is_idle();
        if self.poll_drain(&mut cx).is_ready() && clean {
            let _ = Pin::new(&mut self.inner).poll_shutdown(&mut cx);
        }
    }
}

impl fmt::Debug for Downstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downstream").field("connection", &self.connection).finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for Downstream {
    async fn shutdown(&mut self) {
        // A client that does not read may leave no room even for the word that this is the end.
        let ended = Deadline::within(LINGER, poll_fn(|cx| Pin::new(&mut *self).poll_shutdown(cx))).await;
        if let Some(Ok(())) = ended {
            self.linger().await;
        }
    }
}

impl UniqueID for Downstream {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}
