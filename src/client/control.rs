//! Frames of HTTP/2 that move no request: each is cheap, but nothing bounds how many a client sends (CVE-2019-9512,
//! CVE-2019-9515 and their kin). So they are counted against those that do, in front of h2, which does not show them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::base::coarse_now;
use crate::listener::Downstream;

/// How every connection begins (RFC 9113, section 3.4); what follows are frames.
const PREFACE_LENGTH: usize = 24;
/// A frame's head, in bytes (RFC 9113, section 4.1).
const HEAD_LENGTH: usize = 9;
/// Frames that carry messages (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// So many frames without use are open to everybody: a client may begin with dozens.
const FREE: u32 = 2_000;
/// So many come with each frame of a message, in either direction: each piece that a client takes may open two windows.
const EACH: u32 = 4;
/// So many come with each second: a quiet connection is kept alive with PINGs.
const A_SECOND: u32 = 10;

/// Follows the frames in a stream of bytes.
#[derive(Debug)]
struct Frames {
    /// Bytes of what is under way that are no head.
    skip: usize,
    head: [u8; HEAD_LENGTH],
    filled: usize,
}

impl Frames {
    fn after(skip: usize) -> Self {
        Self { skip, head: [0; HEAD_LENGTH], filled: 0 }
    }

    /// Calls `saw` with the type and the length of each frame that begins.
    fn pass(&mut self, mut bytes: &[u8], mut saw: impl FnMut(u8, usize)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = bytes.len().min(HEAD_LENGTH - self.filled);
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEAD_LENGTH {
                let [high, middle, low, kind, ..] = self.head;
                let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                saw(kind, length);
                (self.skip, self.filled) = (length, 0);
            }
        }
    }
}

/// What a connection's frames came to.
#[derive(Debug)]
struct Account {
    idle: u32,
    since: Instant,
}

impl Account {
    /// A frame that carries a part of a message.
    fn useful(&mut self) {
        self.idle = self.idle.saturating_sub(EACH);
    }

    /// Another one; false if it is one too many.
    fn idle(&mut self) -> bool {
        self.idle += 1;
        if self.idle <= FREE {
            return true;
        }
        let seconds = coarse_now().saturating_duration_since(self.since).as_secs();
        self.since += Duration::from_secs(seconds);
        self.idle = self.idle.saturating_sub(u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(A_SECOND));
        self.idle <= FREE
    }
}

/// A client's connection of which the frames are counted. When there are too many without use, it brings no more.
pub(super) struct Counted {
    inner: Box<Downstream>,
    incoming: Frames,
    outgoing: Frames,
    account: Account,
    flooded: Arc<AtomicBool>,
}

impl Counted {
    pub(super) fn new(inner: Box<Downstream>) -> Self {
        Self {
            inner,
            incoming: Frames::after(PREFACE_LENGTH),
            outgoing: Frames::after(0),
            account: Account { idle: 0, since: coarse_now() },
            flooded: Arc::default(),
        }
    }

    /// Becomes true when it brings no more.
    pub(super) fn flooded(&self) -> Arc<AtomicBool> {
        self.flooded.clone()
    }

    fn saw_incoming(&mut self, bytes: &[u8]) {
        let Self { incoming, account, flooded, .. } = self;
        incoming.pass(bytes, |kind, length| match kind {
            HEADERS | CONTINUATION => account.useful(),
            DATA if length > 0 => account.useful(),
            DATA => {} // h2 bounds them
            _ if account.idle() => {}
            _ => flooded.store(true, Relaxed),
        });
    }

    fn saw_outgoing<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>, mut written: usize) {
        let Self { outgoing, account, .. } = self;
        for piece in pieces {
            let part = &piece[..piece.len().min(written)];
            written -= part.len();
            outgoing.pass(part, |kind, _| {
                if matches!(kind, DATA | HEADERS) {
                    account.useful();
                }
            });
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.flooded.load(Relaxed) {
            return Poll::Pending; // its task ends it in this very turn
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut *this.inner).poll_read(cx, buf))?;
        this.saw_incoming(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut *this.inner).poll_write(cx, buf))?;
        this.saw_outgoing(std::iter::once(buf), written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut *this.inner).poll_write_vectored(cx, bufs))?;
        this.saw_outgoing(bufs.iter().map(|it| &**it), written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, 0];
        frame.resize(HEAD_LENGTH + length, 0xff);
        frame
    }

    #[test]
    fn frames_are_seen_however_their_bytes_are_cut() {
        let bytes = [vec![b'P'; PREFACE_LENGTH], frame(4, 0), frame(6, 8), frame(0, 300), frame(8, 4)].concat();
        for cut in 1..bytes.len() {
            let mut frames = Frames::after(PREFACE_LENGTH);
            let mut seen = Vec::new();
            bytes.chunks(cut).for_each(|it| frames.pass(it, |kind, length| seen.push((kind, length))));
            assert_eq!(seen, [(4, 0), (6, 8), (0, 300), (8, 4)], "in pieces of {cut}");
        }
    }

    #[test]
    fn what_moves_messages_pays_for_what_does_not() {
        let mut account = Account { idle: 0, since: coarse_now() };
        for _ in 0..FREE * 10 {
            account.useful();
            assert!((0..EACH).all(|_| account.idle()));
        }
        assert!((0..FREE * 2).any(|_| !account.idle()));
    }
}
