//! The client's end of a tunnel: the connection behind an answer 101, or the stream behind its like of HTTP/2.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http2::Http2;
use crate::listener::Downstream;
use crate::transport::acknowledged;

/// Bytes from a client and to it, of which HTTP knows nothing any more.
pub struct Wire<'a>(pub(super) End<'a>);

pub(super) enum End<'a> {
    Http1(&'a mut Downstream),
    Http2(&'a mut Http2),
}

impl Wire<'_> {
    /// Bytes that the client has taken so far, as well as that is known: what its side of the connection acknowledged,
    /// or what the window of its stream let through.
    pub fn taken(&self) -> Option<u64> {
        match &self.0 {
            End::Http1(stream) => acknowledged(&**stream),
            End::Http2(stream) => Some(stream.flushed()),
        }
    }
}

impl AsyncRead for Wire<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            End::Http1(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
            End::Http2(stream) => stream.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            End::Http1(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
            End::Http2(stream) => stream.poll_write(cx, buf),
        }
    }

    /// What was written to a stream of HTTP/2 is its connection's business.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            End::Http1(stream) => Pin::new(&mut **stream).poll_flush(cx),
            End::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            End::Http1(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            End::Http2(stream) => {
                stream.end_tunnel();
                Poll::Ready(Ok(()))
            }
        }
    }
}
