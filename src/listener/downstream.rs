//! The stream between a client and Pingora: deadlines, byte counts, our own words for refusals.
//!
//! Pingora answers what it cannot parse by itself, reads headers without a total deadline, and
//! peeks for HTTP/2 in a way that blocks on short requests. All three are put right here, below
//! it, where every byte passes in the clear. What a header says is not looked at.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::base::{Deadline, coarse_now};

use super::connection::{Connection, Phase, Refuse};
use super::wire::{Verdict, Wire};
use crate::transport::Transport;

/// How every HTTP/2 connection begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much is read at once while it is not clear what the client speaks.
const PREREAD: usize = 4096;
/// Small writes are gathered up to this size, so that a header and its body leave in one packet.
const GATHER: usize = 4096;
/// The turn in which a connection is when the header of its first request has begun.
const FIRST_HEADER: u32 = 1;
/// Where a deadline waits while none counts: moving it is cheaper than giving its slot back.
const PARKED: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long, and for how many bytes, what a client still sends is read after the last answer. To
/// close with unread bytes would reset the connection, and the answer with it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;
/// What Pingora gets in place of chunks that are none: within a chunk's size, an extension or a
/// trailer, nobody takes it for anything.
const NO_CHUNK: &[u8] = b"\rX";

/// A client's connection as Pingora sees it.
pub struct Downstream {
    inner: Transport,
    connection: Arc<Connection>,
    digest: Arc<ProxyDigest>,
    refuse: Arc<dyn Refuse>,
    deadline: Deadline,
    /// The connection's turn that `deadline` was last set for.
    timed: Option<u32>,
    /// Read while looking for the HTTP/2 preface; belongs before what is read next.
    preread: BytesMut,
    /// Given to us and not yet to `inner`.
    unwritten: BytesMut,
    /// Something was written since the last flush.
    unflushed: bool,
    /// Bytes seen while the preface of an HTTP/2 connection is awaited; `None` on HTTP/1.
    preface_seen: Option<usize>,
    /// Pingora's answer was replaced; whatever it writes from now on is dropped.
    silenced: bool,
    /// Watches the framing of HTTP/1, while Pingora reads it.
    wire: Option<Wire>,
}

impl Downstream {
    pub(super) fn new(inner: Transport, connection: Arc<Connection>, refuse: Arc<dyn Refuse>) -> pingora::Result<Self> {
        // The only slot that HTTP/1 and HTTP/2 sessions alike carry through Pingora; the header in
        // it is a formality.
        let header = Box::new(ResponseHeader::build_no_case(200, Some(0))?);
        let digest = ProxyDigest::new(header, Some(Box::new(connection.clone())));
        let preface_seen = connection.speaks_h2().then_some(0);
        connection.ready_at();
        Ok(Self {
            inner,
            connection,
            digest: Arc::new(digest),
            refuse,
            deadline: Deadline::idle(),
            timed: None,
            preread: BytesMut::new(),
            unwritten: BytesMut::new(),
            unflushed: false,
            preface_seen,
            silenced: false,
            wire: Some(Wire::default()),
        })
    }

    /// The stream that a [`ServerApp`](pingora::apps::ServerApp) was given by [`serve`](super::serve).
    ///
    /// # Errors
    /// Gives it back if it is another.
    pub fn of(stream: Stream) -> Result<Box<Self>, Stream> {
        if !stream.as_any().is::<Self>() {
            return Err(stream);
        }
        Ok(stream.into_any().downcast().expect("it was looked at"))
    }

    /// What is known about the connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether the client speaks HTTP/2; where it may do so without having said it, its first bytes are awaited.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn speaks_http2(&mut self) -> io::Result<bool> {
        if self.connection.h2c {
            return poll_fn(|cx| self.poll_preface(cx)).await;
        }
        Ok(self.connection.speaks_h2())
    }

    /// From here on bytes are read by somebody who is no kinder to them than we.
    pub fn leave_unwatched(&mut self) {
        self.wire = None;
    }

    /// Puts bytes that were read in front of those that are read next. From here on Pingora reads them, and
    /// what it gets is watched; `bytes` begin with a request.
    pub fn hand_over(&mut self, mut bytes: BytesMut) {
        bytes.unsplit(std::mem::take(&mut self.preread));
        self.preread = bytes;
        self.wire = Some(Wire::default());
    }

    /// Writes without gathering: this is all that there is for now.
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

    /// Ends the connection when the client took too long. Its task then drops it, so that Pingora
    /// never sees an error that it would log.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) {
        self.time_phase();
        match self.connection.phase() {
            Phase::Fresh | Phase::Header | Phase::Idle => {}
            Phase::Request | Phase::H2 | Phase::Cut => return,
        }
        if self.deadline.poll_expired(cx).is_pending() {
            return;
        }
        // A client that sent nothing did not ask for anything, so it gets no answer either.
        if self.connection.phase() == Phase::Header && self.preface_seen.is_none() {
            self.say_no(408);
        }
        self.connection.enter(Phase::Cut);
        // One attempt: whoever is this slow does not deserve that we wait.
        if self.poll_drain(cx).is_ready() {
            let _ = Pin::new(&mut self.inner).poll_shutdown(cx);
        }
        cx.waker().wake_by_ref();
    }

    /// Puts our answer where Pingora's would have gone.
    fn say_no(&mut self, status: u16) {
        self.silenced = true;
        if self.connection.refuse_once() {
            let answer = self.refuse.refuse(status, &self.connection);
            self.connection.count_written(answer.len());
            self.unwritten.extend_from_slice(&answer);
        }
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
            return Poll::Ready(Ok(length));
        }
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let length = buf.filled().len() - before;
        self.connection.count_read(length);
        Poll::Ready(Ok(length))
    }

    /// Looks at what Pingora is about to get, and keeps from it what it would read too kindly.
    fn watch(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let Some(wire) = &mut self.wire else { return };
        match wire.read(&buf.filled()[before..]) {
            Verdict::Fine => {}
            Verdict::BadRequestLine => self.connection.set_malformed(),
            Verdict::BadChunks(at) => {
                buf.set_filled(before + at);
                let now = NO_CHUNK.len().min(buf.remaining());
                buf.put_slice(&NO_CHUNK[..now]);
                self.preread.clear();
                self.preread.extend_from_slice(&NO_CHUNK[now..]);
            }
        }
    }

    /// Gives what was gathered to the stream below.
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

    /// Pingora flushes an answer of known length at its end only. Where its task comes to wait for the
    /// client, there is nothing more to gather for now, and what there is goes out.
    fn poll_uncork(&mut self, cx: &mut Context<'_>) {
        if self.unflushed
            && let Poll::Ready(flushed) = self.poll_drain(cx)
            && (flushed.is_err() || Pin::new(&mut self.inner).poll_flush(cx).is_ready())
        {
            self.unflushed = false; // an error shows at the next read or write
        }
    }

    /// Gathers, or writes through, in front of it what was gathered before.
    fn poll_gather(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.unwritten.len() + buf.len() <= GATHER {
            self.unwritten.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        loop {
            let before = self.unwritten.len();
            let both = [IoSlice::new(&self.unwritten), IoSlice::new(buf)];
            let both = if before == 0 { &both[1..] } else { &both[..] };
            let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, both))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unwritten.advance(written.min(before));
            if written > before {
                return Poll::Ready(Ok(written - before));
            }
        }
    }

    /// Pingora answers a request that no app has seen: the app's own words go out instead.
    fn is_pingoras_own(&self, buf: &[u8]) -> bool {
        matches!(self.connection.phase(), Phase::Fresh | Phase::Header | Phase::Idle)
            && self.preface_seen.is_none()
            && buf.starts_with(b"HTTP/1.")
    }

    /// Reads and forgets what the client still sends, so that it gets to read our last answer.
    async fn linger(&mut self) {
        let mut room = vec![0; 16 * 1024];
        let mut deadline = Deadline::after(LINGER);
        let mut left = LINGER_BYTES;
        poll_fn(|cx| {
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
        let before = buf.filled().len();
        match this.read_inner(cx, buf) {
            Poll::Ready(Ok(length)) => {
                this.note_read(length);
                if this.preface_seen.is_none() {
                    this.watch(buf, before);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                this.poll_deadline(cx);
                this.poll_uncork(cx);
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.silenced && this.is_pingoras_own(buf) {
            this.say_no(status_of(buf).unwrap_or(400));
        }
        if this.silenced {
            return Poll::Ready(Ok(buf.len()));
        }
        // A deadline left standing where nothing is read would wake the task again and again.
        this.time_phase();
        // h2 gathers by itself.
        let written = match this.preface_seen {
            Some(_) => ready!(Pin::new(&mut this.inner).poll_write(cx, buf)),
            None => {
                this.unflushed = true;
                ready!(this.poll_gather(cx, buf))
            }
        }?;
        this.connection.count_written(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.preface_seen.is_none() {
            let first = bufs.iter().find(|it| !it.is_empty());
            return self.poll_write(cx, first.map_or(&[], |it| it));
        }
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, bufs))?;
        this.connection.count_written(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.preface_seen.is_some() && self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        this.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

impl Drop for Downstream {
    fn drop(&mut self) {
        // Nobody can wait here, but usually there is room in the socket. Only where no answer is
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

#[async_trait]
impl Peek for Downstream {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        buf.fill(0);
        // "Looked, and it is not HTTP/2" is what keeps a listener without h2c at HTTP/1, whatever
        // the app allows for others.
        if !self.connection.h2c {
            return Ok(true);
        }
        if poll_fn(|cx| self.poll_preface(cx)).await? {
            self.preface_seen = Some(0);
        }
        let length = self.preread.len().min(buf.len());
        buf[..length].copy_from_slice(&self.preread[..length]);
        Ok(true)
    }
}

impl UniqueID for Downstream {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Downstream {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for Downstream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.inner.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.inner.get_write_pending_time()
    }
}

impl GetProxyDigest for Downstream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for Downstream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.inner.set_socket_digest(digest);
    }
}

/// The status in `HTTP/1.1 400 Bad Request`.
fn status_of(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}
