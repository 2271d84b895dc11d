//! Reading without owning a buffer while there is nothing to read.
//!
//! Most connections of a gateway wait most of the time. So a connection that waits owns no buffer: heads are read
//! through the stack into a buffer of their very size, bodies into a large buffer that is borrowed from the thread and
//! given back as soon as a read has to wait.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// What is read at once of a head, in bytes: it is copied, and the head's values stay slices of the copy.
const HEAD_READ: usize = 4 * 1024;
/// Room for a piece of a body, in bytes.
const BODY_READ: usize = 64 * 1024;
/// Large buffers that a thread keeps for the next one who reads.
const SPARE_MAX: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Reads what there is of a head, at most 4 KiB, behind what `buffer` holds. Without anything to read, nothing is
/// allocated.
pub fn poll_read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut space = [const { MaybeUninit::uninit() }; HEAD_READ];
    let mut read = ReadBuf::uninit(&mut space);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    buffer.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

/// Reads a piece of a body behind what `buffer` holds. A buffer that is empty afterwards owns nothing.
pub fn poll_read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    if buffer.is_empty() && buffer.capacity() < BODY_READ {
        let spent = std::mem::replace(buffer, SPARE.with_borrow_mut(Vec::pop).unwrap_or_default());
        drop(spent);
    }
    buffer.reserve(BODY_READ);
    // A future made anew at each poll: nothing is lost when it is dropped.
    let read = pin!(stream.read_buf(buffer)).poll(cx);
    if buffer.is_empty() {
        let unused = std::mem::take(buffer);
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX {
                spare.push(unused);
            }
        });
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn who_waits_owns_no_buffer() {
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        let mut cx = Context::from_waker(Waker::noop());
        let mut buffer = BytesMut::new();
        assert!(poll_read_head(&mut ours, &mut cx, &mut buffer).is_pending());
        assert!(poll_read_body(&mut ours, &mut cx, &mut buffer).is_pending());
        assert_eq!(buffer.capacity(), 0);
        assert!(matches!(pin!(theirs.write_all(b"abc")).poll(&mut cx), Poll::Ready(Ok(()))));
        assert!(matches!(poll_read_body(&mut ours, &mut cx, &mut buffer), Poll::Ready(Ok(3))));
        let piece = buffer.split().freeze();
        assert!(poll_read_body(&mut ours, &mut cx, &mut buffer).is_pending());
        assert_eq!((&piece[..], buffer.capacity()), (&b"abc"[..], 0));
    }
}
