//! Who fills the memory, and how far.
//!
//! There are two rooms. Values that anybody can have kept for a day (idempotency records) are in one, and each network
//! may fill a share of it; nonces, sign-ins and what else the gateway itself needs are in the other. Neither takes from
//! the other.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;

/// What an entry takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charge {
    /// Of its key and value, and of what holds them.
    pub(super) bytes: usize,
    /// From whose share; `None` for what the gateway keeps for itself.
    pub(super) network: Option<IpAddr>,
}

impl Charge {
    /// Whether an entry of this charge has room enough for one of the other.
    fn covers(&self, other: &Self) -> bool {
        self.network == other.network && self.bytes >= other.bytes
    }
}

/// Entries, and the bytes that they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) entries: usize,
    pub(super) bytes: usize,
}

impl Usage {
    fn add(&mut self, charge: &Charge) {
        self.entries += 1;
        self.bytes += charge.bytes;
    }

    fn sub(&mut self, charge: &Charge) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(charge.bytes);
    }

    fn has_room(&self, charge: &Charge, bounds: &Self) -> bool {
        self.entries < bounds.entries && self.bytes.saturating_add(charge.bytes) <= bounds.bytes
    }

    /// So many percent of it, and one entry at least.
    pub(super) fn percent(&self, percent: u8) -> Self {
        let of = |whole: usize| (whole as u128 * u128::from(percent) / 100) as usize;
        Self { entries: of(self.entries).max(1), bytes: of(self.bytes) }
    }
}

/// How far each room may be filled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Idempotency records.
    pub(super) idempotency: Usage,
    /// Those of one network.
    pub(super) network: Usage,
    /// Everything else.
    pub(super) other: Usage,
}

/// What there was no room in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// The share of the network.
    Network,
    /// The room of the idempotency records.
    Idempotency,
    /// The room of everything else.
    Other,
}

/// What is in use, of each room and each share.
pub(super) struct Rooms {
    bounds: Bounds,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    idempotency: Usage,
    other: Usage,
    /// Of networks that have entries: no more of them than entries.
    networks: HashMap<IpAddr, Usage>,
}

impl Used {
    fn lack(&self, charge: &Charge, bounds: &Bounds) -> Option<Lack> {
        let Some(network) = &charge.network else {
            return (!self.other.has_room(charge, &bounds.other)).then_some(Lack::Other);
        };
        let share = self.networks.get(network).copied().unwrap_or_default();
        if !share.has_room(charge, &bounds.network) {
            return Some(Lack::Network);
        }
        (!self.idempotency.has_room(charge, &bounds.idempotency)).then_some(Lack::Idempotency)
    }

    fn add(&mut self, charge: &Charge) {
        let Some(network) = charge.network else { return self.other.add(charge) };
        self.idempotency.add(charge);
        self.networks.entry(network).or_default().add(charge);
    }

    fn sub(&mut self, charge: &Charge) {
        let Some(network) = charge.network else { return self.other.sub(charge) };
        self.idempotency.sub(charge);
        let Some(share) = self.networks.get_mut(&network) else { return };
        share.sub(charge);
        if share.entries == 0 {
            self.networks.remove(&network);
        }
    }
}

impl Rooms {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, used: Mutex::default() }
    }

    /// Takes room for an entry, in place of what `old` took. What `old` covers always fits.
    ///
    /// # Errors
    /// What is full; then nothing has changed.
    pub(super) fn take(&self, new: &Charge, old: Option<&Charge>) -> Result<(), Lack> {
        let mut used = self.used.lock();
        old.into_iter().for_each(|it| used.sub(it));
        let covered = old.is_some_and(|it| it.covers(new));
        match used.lack(new, &self.bounds).filter(|_| !covered) {
            Some(lack) => {
                old.into_iter().for_each(|it| used.add(it));
                Err(lack)
            }
            None => {
                used.add(new);
                Ok(())
            }
        }
    }

    pub(super) fn give_back(&self, charge: &Charge) {
        self.used.lock().sub(charge);
    }

    /// What is in use: of the idempotency records, and of everything else.
    pub(super) fn used(&self) -> (Usage, Usage) {
        let used = self.used.lock();
        (used.idempotency, used.other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms() -> Rooms {
        let of = |entries, bytes| Usage { entries, bytes };
        Rooms::new(Bounds { idempotency: of(10, 1_000), network: of(4, 400), other: of(2, 200) })
    }

    fn charge(network: Option<u8>, bytes: usize) -> Charge {
        Charge { bytes, network: network.map(|it| IpAddr::from([192, 0, 2, it])) }
    }

    #[test]
    fn one_network_fills_its_share_and_all_of_them_nothing_but_their_room() {
        let rooms = rooms();
        for network in [1, 2] {
            assert_eq!(rooms.take(&charge(Some(network), 400), None), Ok(()));
            assert_eq!(rooms.take(&charge(Some(network), 1), None), Err(Lack::Network));
        }
        assert_eq!(rooms.take(&charge(Some(3), 201), None), Err(Lack::Idempotency));
        assert_eq!(rooms.take(&charge(None, 200), None), Ok(()));
        assert_eq!(rooms.take(&charge(None, 1), None), Err(Lack::Other));
        assert_eq!(rooms.take(&charge(Some(3), 200), None), Ok(()));
        for given in [charge(Some(1), 400), charge(Some(2), 400), charge(Some(3), 200), charge(None, 200)] {
            rooms.give_back(&given);
        }
        assert_eq!(rooms.used(), Default::default());
        assert!(rooms.used.lock().networks.is_empty(), "a network without entries is forgotten");
    }

    #[test]
    fn what_takes_no_more_than_before_fits_however_full_it_is() {
        let rooms = rooms();
        let (old, other) = (charge(Some(1), 100), charge(Some(1), 300));
        rooms.take(&old, None).unwrap();
        rooms.take(&other, None).unwrap();
        assert_eq!(rooms.take(&charge(Some(1), 101), Some(&old)), Err(Lack::Network));
        assert_eq!(rooms.used().0, Usage { entries: 2, bytes: 400 }, "a refusal changes nothing");
        assert_eq!(rooms.take(&charge(Some(1), 100), Some(&old)), Ok(()));
        assert_eq!(rooms.take(&charge(Some(1), 90), Some(&old)), Ok(()));
        assert_eq!(rooms.used().0, Usage { entries: 2, bytes: 390 });
    }
}
