//! Idle HTTP/1 connections to endpoints: thread-local, newest first, no task and no timer each.
//!
//! The newest idle connection is the one least likely to have been closed. A pool that threads share
//! would make every wake-up cross threads, because a socket stays with the thread that made it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::io::AsyncReadExt;

use crate::base::coarse_now;
use crate::transport::Transport;

/// Idle connections that one thread keeps at most, all endpoints together. A pool smaller than the
/// concurrency would double the cost of a request.
const ALL_MAX: usize = 4096;
/// How often connections that idled too long are closed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

struct Idle {
    stream: Transport,
    since: Instant,
    keep: Duration,
}

/// Keys are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[derive(Default)]
struct Pool {
    idle: HashMap<u64, Vec<Idle>, BuildHasherDefault<AsIs>>,
    count: usize,
    swept: bool,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// The newest idle connection under this key that is still open.
pub(super) fn take(key: u64) -> Option<Transport> {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.idle.get_mut(&key)?;
        while let Some(Idle { mut stream, .. }) = idle.pop() {
            pool.count -= 1;
            if is_open(&mut stream) {
                return Some(stream);
            }
        }
        None
    })
}

/// Keeps a connection, so long, for the next request to the same endpoint.
pub(super) fn put(key: u64, stream: Transport, keep: Duration) {
    let first = POOL.with_borrow_mut(|pool| {
        if pool.count >= ALL_MAX {
            return false;
        }
        pool.idle.entry(key).or_default().push(Idle { stream, since: coarse_now(), keep });
        pool.count += 1;
        !std::mem::replace(&mut pool.swept, true)
    });
    if first {
        sweep_this_thread();
    }
}

/// What an endpoint sends without a request is its goodbye, or nothing that a next request could use.
/// The runtime answers from what it knows of the socket: this costs no system call.
fn is_open(stream: &mut Transport) -> bool {
    let mut byte = [0];
    tokio::task::unconstrained(stream.read(&mut byte)).now_or_never().is_none()
}

fn sweep_this_thread() {
    struct Stopped;
    impl Drop for Stopped {
        fn drop(&mut self) {
            // The runtime ended, as those of tests do: its sockets are of no use to the next one.
            let _ = POOL.try_with(|pool| pool.take());
        }
    }
    let stopped = Stopped;
    tokio::spawn(async move {
        let _stopped = stopped;
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            POOL.with_borrow_mut(Pool::sweep);
        }
    });
}

impl Pool {
    fn sweep(&mut self) {
        let now = Instant::now();
        self.idle.retain(|_, idle| {
            idle.retain_mut(|it| now.saturating_duration_since(it.since) < it.keep && is_open(&mut it.stream));
            !idle.is_empty()
        });
        self.count = self.idle.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::protocols::UniqueID;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair(listener: &TcpListener) -> (Transport, TcpStream) {
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        (Transport::Plain(ours, None), theirs)
    }

    #[tokio::test]
    async fn the_newest_open_connection_comes_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (old, _old_peer) = pair(&listener).await;
        let (new, new_peer) = pair(&listener).await;
        let old_id = old.id();
        put(7, old, Duration::from_secs(60));
        put(7, new, Duration::from_secs(60));
        drop(new_peer);
        // The end has to have reached our side; then the newer connection is passed over.
        while POOL.with_borrow_mut(|pool| is_open(&mut pool.idle.get_mut(&7).unwrap()[1].stream)) {
            tokio::task::yield_now().await;
        }
        assert_eq!(take(7).unwrap().id(), old_id);
        assert!(take(7).is_none() && take(8).is_none());
    }
}
