//! Idempotent requests whose client has left. They go on without it and without its connection, so no bound of a
//! listener counts them: they are counted here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use once_cell::sync::Lazy;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};

use crate::pipeline::Refusal;

/// While so many are under way, no request with a new idempotency key is forwarded.
const MAX: usize = 1024;
/// While so many of one network are under way, none of its requests with a new key is forwarded.
const NETWORK_MAX: usize = 64;

const ONCE: &str = "a family is registered once, under a name of its own";

static UNDER_WAY: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Idempotent requests under way whose client has left";
    register_int_gauge!("moongate_idempotency_orphans", help).expect(ONCE)
});
static REFUSED: Lazy<IntCounter> = Lazy::new(|| {
    let help =
        "Requests with a new idempotency key that were refused because too many whose client has left are under way";
    register_int_counter!("moongate_idempotency_orphans_refused_total", help).expect(ONCE)
});

/// Those of this process; clones share the counts.
#[derive(Clone, Default)]
pub struct Orphans(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    all: usize,
    /// Of networks that have any.
    networks: HashMap<IpAddr, usize>,
}

/// One of them; counted until dropped.
pub(super) struct Orphan {
    orphans: Orphans,
    network: IpAddr,
}

impl Orphans {
    /// Whether a request from this network may be forwarded that would go on without its client.
    pub(super) fn admit(&self, network: IpAddr) -> Result<(), Refusal> {
        let counts = self.0.lock();
        let own = counts.networks.get(&network).copied().unwrap_or_default();
        if counts.all < MAX && own < NETWORK_MAX {
            return Ok(());
        }
        REFUSED.inc();
        Err(Refusal::IdempotencyFull("too many whose clients have left are still under way"))
    }

    /// Counts one whose client has left: it has begun, and can't be refused any more.
    pub(super) fn begin(&self, network: IpAddr) -> Orphan {
        let mut counts = self.0.lock();
        counts.all += 1;
        *counts.networks.entry(network).or_default() += 1;
        UNDER_WAY.inc();
        Orphan { orphans: self.clone(), network }
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let mut counts = self.orphans.0.lock();
        counts.all -= 1;
        if let Some(own) = counts.networks.get_mut(&self.network) {
            *own -= 1;
            if *own == 0 {
                counts.networks.remove(&self.network);
            }
        }
        UNDER_WAY.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(number: usize) -> IpAddr {
        IpAddr::from([192, 0, (number / 256) as u8, (number % 256) as u8])
    }

    #[test]
    fn neither_one_network_nor_all_of_them_have_more_than_their_places() {
        let orphans = Orphans::default();
        let own: Vec<Orphan> = (0..NETWORK_MAX).map(|_| orphans.begin(network(0))).collect();
        assert!(orphans.admit(network(0)).is_err());
        assert!(orphans.admit(network(1)).is_ok());
        let others: Vec<Orphan> = (0..MAX - NETWORK_MAX).map(|it| orphans.begin(network(it + 1))).collect();
        assert!(orphans.admit(network(MAX)).is_err());
        drop((own, others));
        assert!(orphans.admit(network(0)).is_ok());
        assert!(orphans.0.lock().networks.is_empty());
    }
}
