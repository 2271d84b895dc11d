//! Bytes that wait to be written, so that the writer never waits for the other side.
//!
//! A request's body is sent and its answer read in one task. If sending a piece could wait, a peer that waits for its
//! own answer to be read would stop both for ever. So pieces go into a queue, which is flushed whenever the socket
//! takes more; what fills the queue checks [`WriteQueue::len`] first, which bounds it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

/// Pieces up to this size are copied behind one another, in bytes: one write instead of two is worth it.
const GATHER: usize = 4 * 1024;
/// Pieces that one write takes.
const SLICES: usize = 16;

/// What waits to be written.
#[derive(Debug, Default)]
pub struct WriteQueue {
    pieces: VecDeque<Bytes>,
    /// Small pieces, behind all others.
    small: BytesMut,
    len: usize,
}

impl WriteQueue {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lets `write` append to the small pieces.
    pub fn append<T>(&mut self, write: impl FnOnce(&mut BytesMut) -> T) -> T {
        let before = self.small.len();
        let written = write(&mut self.small);
        self.len += self.small.len() - before;
        written
    }

    /// Appends a piece, large ones without copying them.
    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.len += piece.len();
        if self.small.len() + piece.len() <= GATHER {
            return self.small.extend_from_slice(&piece);
        }
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
        self.pieces.push_back(piece);
    }

    /// Drops what waits, and the room for it.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes as much as `write` takes; ready when nothing is left. An empty queue owns no room.
    ///
    /// # Errors
    /// Those of `write`, and one for a writer that takes nothing.
    pub fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&mut Context<'_>, &[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        while self.len > 0 {
            let written = if self.pieces.is_empty() {
                ready!(write(cx, &[IoSlice::new(&self.small)]))?
            } else {
                let mut slices: SmallVec<[IoSlice<'_>; SLICES]> =
                    self.pieces.iter().take(SLICES - 1).map(|it| IoSlice::new(it)).collect();
                if self.pieces.len() < SLICES && !self.small.is_empty() {
                    slices.push(IoSlice::new(&self.small));
                }
                ready!(write(cx, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        if self.small.capacity() > 0 {
            self.small = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(first) = self.pieces.front_mut() {
            let now = written.min(first.len());
            first.advance(now);
            written -= now;
            if !first.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
        self.small.advance(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// What comes out if each write takes at most `step` bytes.
    fn written(queue: &mut WriteQueue, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        let flushed = queue.poll_flush(&mut cx, |_, slices| {
            let all: Vec<u8> = slices.iter().flat_map(|it| it.iter().copied()).collect();
            out.extend_from_slice(&all[..all.len().min(step)]);
            Poll::Ready(Ok(all.len().min(step)))
        });
        assert!(matches!(flushed, Poll::Ready(Ok(()))));
        out
    }

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came_whatever_their_size() {
        let large = Bytes::from(vec![b'x'; GATHER + 1]);
        for step in [1, 7, GATHER, usize::MAX] {
            let mut queue = WriteQueue::default();
            let mut expected = Vec::new();
            for piece in [&b"head"[..], &large, b"tail", &large, &large, b"", b"end"] {
                queue.push(Bytes::copy_from_slice(piece));
                queue.append(|out| out.extend_from_slice(b"|"));
                expected.extend_from_slice(piece);
                expected.push(b'|');
            }
            assert_eq!(queue.len(), expected.len());
            assert_eq!(written(&mut queue, step), expected);
            assert!(queue.is_empty() && queue.small.capacity() == 0);
        }
    }

    #[test]
    fn a_writer_that_takes_nothing_is_an_error() {
        let mut queue = WriteQueue::default();
        queue.push(Bytes::from_static(b"a"));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(queue.poll_flush(&mut cx, |_, _| Poll::Ready(Ok(0))), Poll::Ready(Err(_))));
    }
}
