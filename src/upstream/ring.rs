//! Consistent hashing: the same key gets the same endpoint, and an endpoint that comes or goes moves its share alone.
//!
//! By several probes (Appleton and O'Reilly, "Multi-probe consistent hashing", 2015): an endpoint is on the ring once
//! for each unit of its weight, a key looks at several places of it and takes the nearest endpoint of them all. So the
//! ring is small and quick to build, and shares differ by a few percent. `pingora-load-balancing`'s ketama ring has 160
//! points for each endpoint, and is built anew, sorted, in milliseconds.

use std::net::SocketAddr;

use super::hash_on::hash;

/// So many places a key looks at: the busiest endpoint gets about a tenth more than its share.
const PROBES: u64 = 21;
/// The most points of a ring; weights that need more are rounded.
const POINTS_MAX: u64 = 10_000;

/// Indices of endpoints, around a ring.
#[derive(Default)]
pub(super) struct Ring(Vec<(u64, u16)>);

impl Ring {
    /// Of endpoints with their weights, reduced to the smallest whole numbers.
    pub(super) fn new(endpoints: impl Iterator<Item = (SocketAddr, i64)>) -> Self {
        let mut points = Vec::new();
        for (index, (address, weight)) in endpoints.enumerate() {
            let begin = hash(address.to_string().as_bytes());
            let copies = u64::try_from(weight).unwrap_or(1).clamp(1, POINTS_MAX);
            points.extend((0..copies).map(|copy| (mix(begin, copy), index as u16)));
        }
        points.sort_unstable();
        Self(points)
    }

    /// The endpoints for a key: the one that it belongs to, and those that follow on the ring. One may come twice.
    pub(super) fn from(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = (0..PROBES).map(|probe| self.nearest(mix(key, probe))).min_by_key(|it| it.0).map_or(0, |it| it.1);
        let (before, after) = self.0.split_at(start);
        after.iter().chain(before).map(|it| usize::from(it.1))
    }

    /// How far the next point is, and where.
    fn nearest(&self, place: u64) -> (u64, usize) {
        let next = self.0.partition_point(|it| it.0 < place);
        let next = if next == self.0.len() { 0 } else { next };
        (self.0.get(next).map_or(0, |it| it.0.wrapping_sub(place)), next)
    }
}

/// Another place for each number (the finalizer of SplitMix64).
pub(super) fn mix(key: u64, number: u64) -> u64 {
    let mut place = key.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    place = (place ^ (place >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    place = (place ^ (place >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    place ^ (place >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(ports: impl Iterator<Item = (u16, i64)>) -> Ring {
        Ring::new(ports.map(|(port, weight)| (SocketAddr::from(([10, 0, 0, 1], port)), weight)))
    }

    fn owners(ring: &Ring) -> Vec<usize> {
        (0..20_000).map(|key| ring.from(mix(key, 7)).next().unwrap()).collect()
    }

    #[test]
    fn shares_are_even_and_follow_weights() {
        let mut counts = [0; 10];
        owners(&ring((1..=10).map(|port| (port, 1)))).into_iter().for_each(|it| counts[it] += 1);
        assert!(counts.iter().all(|it| (1_400..=2_400).contains(it)), "{counts:?}");
        let mut counts = [0; 2];
        owners(&ring([(1, 3), (2, 1)].into_iter())).into_iter().for_each(|it| counts[it] += 1);
        assert!((12_000..=18_000).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn an_endpoint_that_goes_moves_its_share_alone() {
        let (all, fewer) = (owners(&ring((1..=10).map(|it| (it, 1)))), owners(&ring((1..=9).map(|it| (it, 1)))));
        let moved = all.iter().zip(&fewer).filter(|(before, after)| **before != 9 && before != after);
        assert_eq!(moved.count(), 0);
    }

    #[test]
    fn all_endpoints_follow() {
        let ring = ring((1..=5).map(|it| (it, 1)));
        let mut seen: Vec<usize> = ring.from(42).collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert_eq!(Ring::default().from(1).count(), 0);
    }
}
