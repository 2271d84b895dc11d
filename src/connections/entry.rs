//! One connection that lasts: what is known of it, and what others have to say to whoever serves it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;

use super::Connections;
use crate::base::RequestId;
use crate::identity::Principal;
use crate::telemetry::{LONG_LIVED_KINDS, RouteMetrics, Timestamp};

/// What kind of connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Server-sent events.
    Events,
    /// A WebSocket.
    WebSocket,
    /// A connection that changed to another protocol.
    Tunnel,
    /// A body without a length that goes on and on.
    Body,
}

impl Kind {
    /// Its word, as in metrics.
    pub fn as_str(self) -> &'static str {
        LONG_LIVED_KINDS[self as usize]
    }
}

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The process ends.
    Stopped = 1,
    /// The credentials that opened it were taken back, or count for less.
    Revoked = 2,
    /// Their time is over.
    Expired = 3,
    /// An operator wants it.
    Closed = 4,
}

/// What others have to say to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The process begins to stop; said once.
    Draining,
    /// It has to end; said for as long as it does not.
    End(Cause),
}

/// What is known of a connection when it begins.
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// The route that took it.
    pub route: Arc<str>,
    /// The series of that route.
    pub metrics: Arc<RouteMetrics>,
    /// The upstream that serves it.
    pub upstream: Option<Arc<str>>,
    /// Who has opened it.
    pub principal: Option<Arc<Principal>>,
    /// Names it in the log.
    pub request_id: RequestId,
    /// The client's address.
    pub client: IpAddr,
    /// When its request came.
    pub since: Instant,
}

/// A connection that lasts.
pub struct Entry {
    /// Its number in this process.
    pub id: u64,
    /// What was known when it began.
    pub facts: Facts,
    /// When it was registered.
    pub registered: Timestamp,
    received: AtomicU64,
    sent: AtomicU64,
    draining: AtomicBool,
    /// A [`Cause`]; 0: it goes on.
    cause: AtomicU8,
    task: AtomicWaker,
}

impl Entry {
    pub(super) fn new(id: u64, facts: Facts) -> Self {
        Self {
            id,
            facts,
            registered: Timestamp::now(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            cause: AtomicU8::new(0),
            task: AtomicWaker::new(),
        }
    }

    /// Bytes that came from its client and that went to it, since it was registered.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }

    pub(super) fn drain(self: &Arc<Self>) {
        self.draining.store(true, Ordering::Release);
        self.task.wake();
    }

    /// The first cause is the one that counts.
    pub(super) fn end(self: &Arc<Self>, cause: Cause) {
        let _ = self.cause.compare_exchange(0, cause as u8, Ordering::AcqRel, Ordering::Acquire);
        self.task.wake();
    }

    fn cause(&self) -> Option<Cause> {
        let causes = [Cause::Stopped, Cause::Revoked, Cause::Expired, Cause::Closed];
        let cause = self.cause.load(Ordering::Acquire);
        causes.into_iter().find(|it| *it as u8 == cause)
    }
}

/// A registered connection, held by the task that serves it.
pub struct Open {
    entry: Arc<Entry>,
    connections: Arc<Connections>,
    told_of_drain: bool,
}

impl Open {
    pub(super) fn new(entry: Arc<Entry>, connections: Arc<Connections>) -> Self {
        entry.facts.metrics.long_lived(entry.facts.kind as usize).inc();
        Self { entry, connections, told_of_drain: false }
    }

    /// Ready when somebody has something to say; the task is woken then.
    pub fn poll_signal(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        // Before the look: what is said behind it wakes the task.
        self.entry.task.register(cx.waker());
        if let Some(cause) = self.entry.cause() {
            return Poll::Ready(Signal::End(cause));
        }
        if !self.told_of_drain && self.entry.draining.load(Ordering::Acquire) {
            self.told_of_drain = true;
            return Poll::Ready(Signal::Draining);
        }
        Poll::Pending
    }

    /// So many bytes have passed so far, from the client and to it.
    pub fn passed(&self, received: u64, sent: u64) {
        self.entry.received.store(received, Ordering::Relaxed);
        self.entry.sent.store(sent, Ordering::Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.entry.facts.metrics.long_lived(self.entry.facts.kind as usize).dec();
        self.connections.close(self.entry.id);
    }
}
