//! A stream whose writes never wait.
//!
//! An exchange reads the client, writes the upstream, reads the upstream and writes the client in
//! one task. If writing a piece of the request to the upstream could wait, an upstream that waits for
//! its answer to be read would stop both for ever. So the client session of an HTTP/1 upstream writes
//! into an [`Outbox`], which the pump drains whenever the socket takes more; the pump stops reading
//! the client while [`Outbox::pending`] is high, which bounds it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::Transport;

/// The stream, and the handle to what waits in it. Clones share both.
#[derive(Clone)]
pub(super) struct Outbox(Arc<Mutex<Inner>>);

struct Inner {
    stream: Transport,
    /// What was read before the outbox was put on the stream; it is read first.
    read_ahead: BytesMut,
    /// Writes go nowhere: their bytes are on the wire already.
    muted: bool,
    waiting: BytesMut,
    /// A write failed: what was written since is gone. The read side decides what that means, because
    /// an upstream may refuse a request early, answer, and close.
    failed: Option<io::ErrorKind>,
}

impl Outbox {
    pub(super) fn new(stream: Transport) -> Self {
        Self::resumed(stream, BytesMut::new(), false)
    }

    /// On a stream of which some was read already. While it is muted, a session can be led to where
    /// it would be if it had sent the request itself.
    pub(super) fn resumed(stream: Transport, read_ahead: BytesMut, muted: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner { stream, read_ahead, muted, waiting: BytesMut::new(), failed: None })))
    }

    /// From here on writes are written.
    pub(super) fn unmute(&self) {
        self.0.lock().muted = false;
    }

    /// Gives the stream back; `None` if something is left in the box, or another handle is.
    pub(super) fn into_stream(self) -> Option<Transport> {
        let inner = Arc::try_unwrap(self.0).ok()?.into_inner();
        let clean = inner.waiting.is_empty() && inner.read_ahead.is_empty() && inner.failed.is_none();
        clean.then_some(inner.stream)
    }

    /// Pushes out what waits, as far as the socket takes it.
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().drain(cx)
    }

    /// Bytes that wait for the socket.
    pub(super) fn pending(&self) -> usize {
        self.0.lock().waiting.len()
    }
}

impl Inner {
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(kind.into()));
        }
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting)) {
                Ok(0) => return Poll::Ready(Err(self.fail(io::ErrorKind::WriteZero.into()))),
                Ok(written) => self.waiting.advance(written),
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        self.failed = Some(error.kind());
        self.waiting.clear();
        error
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}

impl AsyncRead for Outbox {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if !inner.read_ahead.is_empty() {
            let count = inner.read_ahead.len().min(buf.remaining());
            buf.put_slice(&inner.read_ahead.split_to(count));
            return Poll::Ready(Ok(()));
        }
        if !inner.waiting.is_empty() {
            let _ = inner.drain(cx); // a failed write must not hide an early answer
        }
        Pin::new(&mut inner.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Outbox {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if inner.failed.is_none() && !inner.muted {
            inner.waiting.extend_from_slice(buf);
            let _ = inner.drain(cx);
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Outbox {
    async fn shutdown(&mut self) {
        let _ = tokio::io::AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for Outbox {
    fn id(&self) -> UniqueIDType {
        self.0.lock().stream.id()
    }
}

impl Ssl for Outbox {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.0.lock().stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.0.lock().stream.selected_alpn_proto()
    }
}

#[async_trait]
impl Peek for Outbox {}

impl GetTimingDigest for Outbox {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.0.lock().stream.get_timing_digest()
    }

    fn get_write_pending_time(&self) -> Duration {
        Duration::ZERO
    }
}

impl GetProxyDigest for Outbox {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.0.lock().stream.get_proxy_digest()
    }
}

impl GetSocketDigest for Outbox {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.0.lock().stream.get_socket_digest()
    }
}
