//! Stopping without cutting a client off: serving, draining, closed, over.
//!
//! Who starts it and how long each phase lasts is for the app to say; this only carries the word
//! to accept loops and connections, which live on several runtimes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use pingora::server::ShutdownWatch;
use tokio::sync::{Notify, watch};

/// How far the way to the end has been gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum DrainPhase {
    /// As always.
    Serving,
    /// Not ready any more, for load balancers to notice; new connections are still let in.
    Draining,
    /// Sockets are closed, idle connections too; requests under way may finish.
    Closed,
    /// What is left is cut.
    Over,
}

/// The handle that the app drives and that listeners and connections obey. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The same as in `phases`, for those who only look.
    phase: AtomicU8,
    phases: watch::Sender<DrainPhase>,
    /// Pingora's own word for it: true from `Closed` on.
    stop: watch::Sender<bool>,
    open: AtomicUsize,
    emptied: Notify,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// Serving.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            phase: AtomicU8::new(DrainPhase::Serving as u8),
            phases: watch::Sender::new(DrainPhase::Serving),
            stop: watch::Sender::new(false),
            open: AtomicUsize::new(0),
            emptied: Notify::new(),
        }))
    }

    /// From now on not ready; answers should end their connections.
    pub fn begin(&self) {
        self.advance(DrainPhase::Draining);
    }

    /// Closes sockets and idle connections; HTTP/2 clients receive GOAWAY.
    pub fn close_listeners(&self) {
        self.advance(DrainPhase::Closed);
    }

    /// Waits until no connection is open, but no longer than `grace`, then cuts what is left.
    /// Returns how many had to be cut.
    pub async fn wait_empty(&self, grace: Duration) -> usize {
        let emptied = tokio::time::timeout(grace, self.emptied()).await;
        let left = if emptied.is_ok() { 0 } else { self.open() };
        self.advance(DrainPhase::Over);
        left
    }

    /// How far it has come.
    pub fn phase(&self) -> DrainPhase {
        match self.0.phase.load(Ordering::Acquire) {
            0 => DrainPhase::Serving,
            1 => DrainPhase::Draining,
            2 => DrainPhase::Closed,
            _ => DrainPhase::Over,
        }
    }

    /// Connections open now, on all listeners.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }

    /// What Pingora's apps watch.
    pub fn shutdown_watch(&self) -> ShutdownWatch {
        self.0.stop.subscribe()
    }

    /// Waits for `phase` or a later one.
    pub async fn reached(&self, phase: DrainPhase) {
        let mut phases = self.0.phases.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = phases.wait_for(|now| *now >= phase).await;
    }

    pub(super) fn enter(&self) -> OpenConnection {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        OpenConnection(self.clone())
    }

    async fn emptied(&self) {
        loop {
            let notified = self.0.emptied.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            notified.await;
        }
    }

    fn advance(&self, phase: DrainPhase) {
        let before = self.0.phase.fetch_max(phase as u8, Ordering::AcqRel);
        if before >= phase as u8 {
            return;
        }
        if phase >= DrainPhase::Closed {
            self.0.stop.send_replace(true);
        }
        // Never back: two callers may come here in either order.
        self.0.phases.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }
}

/// Counts one connection for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenConnection(Drain);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if self.0.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.0.emptied.notify_waiters();
        }
    }
}
