//! The process' descriptors: each listener's caps may allow more than there are, so what clients hold is counted
//! against them, too. A part stays free, so that operators get in and connections can be accepted and turned away.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pingora_limits::inflight::{Guard, Inflight};

use super::config::Listener;
use crate::base::network_of;

/// What a connection may hold: its socket, and one towards an upstream or a file for the request under way.
pub(super) const OF_CONNECTION: usize = 2;
/// What a further request of the same connection may hold beside it.
pub(super) const OF_REQUEST: usize = 1;
/// What the process itself holds: files, watches, queues of the threads, stores, discovery, health checks.
const OWN: usize = 128;

/// The process' descriptors, shared by its public listeners.
pub struct Descriptors {
    /// The process' limit.
    limit: usize,
    /// What clients may hold of it.
    most: usize,
    held: AtomicUsize,
    by_address: Inflight,
}

/// Descriptors held for a client; given back when dropped.
pub(super) struct Held {
    of: Arc<Descriptors>,
    number: usize,
    _address: Option<Guard>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.number, AcqRel);
    }
}

impl Descriptors {
    /// Raises the process' limit as far as it may be raised; `admin` needs its part of it.
    ///
    /// # Errors
    /// When the system does not say what the limit is.
    pub fn raise(admin: &Listener) -> io::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft, // what there is may be enough
        };
        Ok(Self::of(usize::try_from(limit).unwrap_or(usize::MAX), admin))
    }

    /// A process that may hold so many.
    pub(super) fn of(limit: usize, admin: &Listener) -> Self {
        let reserved = (admin.limits.connections + OWN).min(limit / 4);
        Self { limit, most: limit - reserved, held: AtomicUsize::new(0), by_address: Inflight::new() }
    }

    /// Says what the limit is, and warns if these listeners let in more than it allows.
    pub fn tell(&self, listeners: &[Listener]) {
        let connections: usize = listeners.iter().map(|it| it.limits.connections).sum();
        let needed = (self.limit - self.most).saturating_add(connections.saturating_mul(OF_CONNECTION));
        if needed <= self.limit {
            return tracing::info!(event = "open_files", limit = self.limit, "the limit of open files");
        }
        tracing::warn!(
            event = "open_files",
            limit = self.limit,
            needed,
            "the listeners let in {connections} connections, which may need {needed} open files, and {} are allowed: \
             raise the limit (ulimit -n, LimitNOFILE=), or lower limits.connections; until then some are refused earlier",
            self.limit
        );
    }

    /// So many for this client; `None` when there are no more for it. With `shared`, a client's network gets half of
    /// them at most, so that one alone does not keep out all others.
    pub(super) fn hold(self: &Arc<Self>, client: IpAddr, number: usize, shared: bool) -> Option<Held> {
        let before = self.held.fetch_add(number, AcqRel);
        let mut held = Held { of: self.clone(), number, _address: None };
        if before + number > self.most {
            return None;
        }
        if shared {
            let (address, count) = self.by_address.incr(network_of(client), number as isize);
            held._address = Some(address);
            if count as usize > self.most / 2 {
                return None;
            }
        }
        Some(held)
    }

    /// How many clients hold now.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.held.load(std::sync::atomic::Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptors(limit: usize) -> Arc<Descriptors> {
        Arc::new(Descriptors::of(limit, &Listener::plain("admin", ([127, 0, 0, 1], 0).into())))
    }

    #[test]
    fn one_client_gets_half_of_what_clients_may_hold_and_gives_it_back() {
        let descriptors = descriptors(400);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held: Vec<_> = std::iter::from_fn(|| descriptors.hold(one, OF_CONNECTION, true)).collect();
        assert_eq!(held.len(), 75, "a quarter of 400 is kept free, and half of the rest is one's share");
        assert!(descriptors.hold(other, OF_CONNECTION, true).is_some());
        drop(held);
        assert_eq!(descriptors.held(), 0);
        assert!(descriptors.hold(one, OF_CONNECTION, true).is_some());
    }

    #[test]
    fn all_together_leave_free_what_is_kept_free() {
        let descriptors = descriptors(400);
        let one = IpAddr::from([10, 0, 0, 1]);
        let held: Vec<_> = std::iter::from_fn(|| descriptors.hold(one, OF_REQUEST, false)).collect();
        assert_eq!((held.len(), descriptors.held()), (300, 300));
    }
}
