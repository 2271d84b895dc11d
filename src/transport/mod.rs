//! A connection's bytes, with as little in between as there can be.
//!
//! Pingora puts buffers and clocks over every socket. What is buffered here already, and timed by deadlines of our
//! own, needs neither.

mod buffers;
mod unfit;
mod write_queue;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pingora::protocols::l4::ext::get_tcp_info;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{SslDigest, TlsRef};
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, SocketDigest, Ssl, Stream, TimingDigest, UniqueID,
    UniqueIDType,
};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub use buffers::{poll_read_body, poll_read_head};
pub use unfit::unfit;
pub use write_queue::WriteQueue;

/// One connection, a client's or an upstream's.
#[derive(Debug)]
pub enum Transport {
    /// In the clear; with its addresses, if they are wanted.
    Plain(TcpStream, Option<Arc<SocketDigest>>),
    /// With TLS, or something else of Pingora's, on it.
    Layered(Stream),
}

/// Bytes that the other side has acknowledged so far; `None` if the kernel does not report it. It is what shows whether
/// a peer takes anything: a socket may be writable again only when megabytes have gone.
pub fn acknowledged(stream: &impl UniqueID) -> Option<u64> {
    get_tcp_info(stream.id()).ok().map(|it| it.tcpi_bytes_acked)
}

/// Whether bytes that were written have not been acknowledged yet.
pub fn has_unacknowledged(stream: &impl UniqueID) -> bool {
    get_tcp_info(stream.id()).is_ok_and(|it| it.tcpi_unacked > 0 || it.tcpi_notsent_bytes > 0)
}

impl Transport {
    /// Our own end of it.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(socket, _) => socket.local_addr().ok(),
            Self::Layered(stream) => stream.get_socket_digest()?.local_addr()?.as_inet().copied(),
        }
    }

    /// When it is dropped, the other side sees a reset instead of an end in good order. Over TLS the end is not
    /// announced, which says the same.
    pub fn reset_on_close(&mut self) {
        if let Self::Plain(socket, _) = self {
            let _ = SockRef::from(&*socket).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket, _) => Pin::new(socket).poll_read(cx, buf),
            Self::Layered(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket, _) => Pin::new(socket).poll_write(cx, buf),
            Self::Layered(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket, _) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Layered(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket, _) => socket.is_write_vectored(),
            Self::Layered(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket, _) => Pin::new(socket).poll_flush(cx),
            Self::Layered(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket, _) => Pin::new(socket).poll_shutdown(cx),
            Self::Layered(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl UniqueID for Transport {
    fn id(&self) -> UniqueIDType {
        match self {
            Self::Plain(socket, _) => socket.as_raw_fd(),
            Self::Layered(stream) => stream.id(),
        }
    }
}

impl Ssl for Transport {
    fn get_ssl(&self) -> Option<&TlsRef> {
        match self {
            Self::Plain(..) => None,
            Self::Layered(stream) => stream.get_ssl(),
        }
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        match self {
            Self::Plain(..) => None,
            Self::Layered(stream) => stream.get_ssl_digest(),
        }
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match self {
            Self::Plain(..) => None,
            Self::Layered(stream) => stream.selected_alpn_proto(),
        }
    }
}

impl GetTimingDigest for Transport {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        match self {
            Self::Plain(..) => Vec::new(),
            Self::Layered(stream) => stream.get_timing_digest(),
        }
    }

    fn get_read_pending_time(&self) -> Duration {
        match self {
            Self::Plain(..) => Duration::ZERO,
            Self::Layered(stream) => stream.get_read_pending_time(),
        }
    }

    fn get_write_pending_time(&self) -> Duration {
        match self {
            Self::Plain(..) => Duration::ZERO,
            Self::Layered(stream) => stream.get_write_pending_time(),
        }
    }
}

impl GetProxyDigest for Transport {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        match self {
            Self::Plain(..) => None,
            Self::Layered(stream) => stream.get_proxy_digest(),
        }
    }
}

impl GetSocketDigest for Transport {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        match self {
            Self::Plain(_, digest) => digest.clone(),
            Self::Layered(stream) => stream.get_socket_digest(),
        }
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        match self {
            Self::Plain(_, it) => *it = Some(Arc::new(digest)),
            Self::Layered(stream) => stream.set_socket_digest(digest),
        }
    }
}
