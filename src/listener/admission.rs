//! Who is let in at all: caps on connections, decided on the address alone, before any parsing.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pingora_limits::inflight::{Guard, Inflight};
use pingora_limits::rate::Rate;

use super::config::Limits;
use super::descriptors::{Descriptors, Held, OF_CONNECTION, OF_REQUEST};
use crate::base::network_of;

/// Why a connection was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Too many connections altogether.
    Connections,
    /// Too many from this address.
    PerAddress,
    /// Too many from this address within a second.
    Rate,
    /// The process' descriptors are needed for others.
    Descriptors,
}

impl Full {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::PerAddress => "per_address",
            Self::Rate => "rate_per_address",
            Self::Descriptors => "descriptors",
        }
    }
}

/// The counts of one socket, shared by all workers that accept from it.
pub(super) struct Admission {
    limits: Limits,
    open: Arc<AtomicUsize>,
    /// Counts are estimates that can only be too high, and that only if two addresses collide in
    /// each of several hashes; in return the size is fixed, however many clients call.
    by_address: Inflight,
    /// Requests beside the first of their connection.
    requests_by_address: Inflight,
    /// Set before anybody is let in; without it nothing is counted.
    descriptors: OnceLock<Arc<Descriptors>>,
    rate: Rate,
    since: Instant,
    /// Milliseconds since `since` at which a refusal was last logged, plus one.
    logged: AtomicU64,
}

/// A connection's place; given back when dropped.
pub(super) struct Place {
    open: Arc<AtomicUsize>,
    _address: Guard,
    _held: Option<Held>,
}

/// A request's place beside others of its connection; given back when dropped.
pub struct Room {
    _address: Guard,
    _held: Option<Held>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: Arc::new(AtomicUsize::new(0)),
            by_address: Inflight::new(),
            requests_by_address: Inflight::new(),
            descriptors: OnceLock::new(),
            rate: Rate::new(Duration::from_secs(1)),
            since: Instant::now(),
            logged: AtomicU64::new(0),
        }
    }

    pub(super) fn admit(&self, peer: IpAddr) -> Result<Place, Full> {
        let caller = network_of(peer);
        if let Some(limit) = self.limits.rate_per_address
            && self.rate.observe(&caller, 1) > limit as isize
        {
            return Err(Full::Rate);
        }
        let (address, count) = self.by_address.incr(caller, 1);
        if self.limits.per_address.is_some_and(|limit| count > limit as isize) {
            return Err(Full::PerAddress);
        }
        self.take_place(peer, address, self.limits.connections)
    }

    /// In the place of another one, which is about to leave.
    pub(super) fn admit_instead(&self, peer: IpAddr) -> Result<Place, Full> {
        let (address, _) = self.by_address.incr(network_of(peer), 1);
        self.take_place(peer, address, self.limits.connections.saturating_mul(2))
    }

    fn take_place(&self, peer: IpAddr, address: Guard, most: usize) -> Result<Place, Full> {
        let held = self.hold(peer, OF_CONNECTION)?;
        let place = Place { open: self.open.clone(), _address: address, _held: held };
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        if before >= most { Err(Full::Connections) } else { Ok(place) }
    }

    /// Lets in a request beside others of its connection: with HTTP/1 it would need a connection of its own, so there
    /// may be as many from one address.
    pub(super) fn admit_request(&self, peer: IpAddr) -> Result<Room, Full> {
        let (address, count) = self.requests_by_address.incr(network_of(peer), 1);
        if self.limits.per_address.is_some_and(|limit| count > limit as isize) {
            return Err(Full::PerAddress);
        }
        Ok(Room { _address: address, _held: self.hold(peer, OF_REQUEST)? })
    }

    /// What clients hold is counted against the process' descriptors from now on.
    pub(super) fn count_against(&self, descriptors: Arc<Descriptors>) {
        let _ = self.descriptors.set(descriptors);
    }

    fn hold(&self, peer: IpAddr, number: usize) -> Result<Option<Held>, Full> {
        let Some(descriptors) = self.descriptors.get() else { return Ok(None) };
        let held = descriptors.hold(peer, number, self.limits.per_address.is_some());
        held.map(Some).ok_or(Full::Descriptors)
    }

    /// True once a second at most: under attack the log must not be the next victim.
    pub(super) fn may_log(&self) -> bool {
        let now = self.since.elapsed().as_millis() as u64 + 1;
        let last = self.logged.load(Ordering::Relaxed);
        (last == 0 || now >= last + 1000)
            && self.logged.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{At, Diagnostics};
    use crate::listener::ListenerConfig;

    fn admission(connections: u32, per_address: u32, rate: u32) -> Admission {
        let mut config = ListenerConfig::plain("127.0.0.1:0");
        config.limits.connections = connections;
        config.limits.per_address = per_address;
        config.limits.rate_per_address = rate;
        let listener = config.compile("x", 0, &At::ROOT, &mut Diagnostics::default()).unwrap();
        Admission::new(listener.limits)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_cap_holds_and_places_are_given_back() {
        let admission = admission(2, 0, 0);
        let first = admission.admit(ip("10.0.0.1")).unwrap();
        let _second = admission.admit(ip("10.0.0.2")).unwrap();
        for _ in 0..3 {
            assert_eq!(admission.admit(ip("10.0.0.3")).err().unwrap(), Full::Connections);
        }
        drop(first);
        assert!(admission.admit(ip("10.0.0.3")).is_ok());
    }

    #[test]
    fn one_address_does_not_take_the_place_of_others() {
        let admission = admission(100, 1, 0);
        let _first = admission.admit(ip("10.0.0.1")).unwrap();
        assert_eq!(admission.admit(ip("10.0.0.1")).err().unwrap(), Full::PerAddress);
        assert_eq!(admission.admit(ip("::ffff:10.0.0.1")).err().unwrap(), Full::PerAddress);
        assert!(admission.admit(ip("10.0.0.2")).is_ok());
    }

    #[test]
    fn an_ipv6_network_of_one_customer_counts_as_one() {
        let admission = admission(100, 1, 0);
        let _first = admission.admit(ip("2001:db8:0:1::1")).unwrap();
        assert_eq!(admission.admit(ip("2001:db8:0:1:ffff::2")).err().unwrap(), Full::PerAddress);
        assert!(admission.admit(ip("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn a_burst_from_one_address_is_stopped() {
        let admission = admission(100, 0, 2);
        let results = [(); 3].map(|()| admission.admit(ip("10.0.0.1")).map(drop));
        assert_eq!(results, [Ok(()), Ok(()), Err(Full::Rate)]);
        assert!(admission.admit(ip("10.0.0.2")).is_ok());
    }

    #[test]
    fn a_flood_is_logged_once() {
        let admission = admission(1, 0, 0);
        assert!(admission.may_log());
        assert!(!admission.may_log());
    }
}
