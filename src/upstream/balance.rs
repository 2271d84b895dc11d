//! Which endpoint a request gets. Pure decisions over what is prepared when health or weights
//! change, so that a pick takes no lock, allocates nothing, and looks at few endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use super::compile::Upstream;
use super::config::Balance;
use super::endpoint::Endpoint;
use super::ring::Ring;

/// The longest turn of a round robin; weights that need more are rounded.
const TURN_MAX: u32 = 10_000;
/// Endpoints whose credits are looked at together while a turn is made.
const PART: usize = 64;
/// How much more than its share an endpoint gets by its keys, before others take them over.
const LOAD_MAX: f64 = 1.25;
/// How many draws or steps may hit an endpoint that will not do, before all are looked at in turn.
const MISSES: usize = 16;

/// Endpoints that get requests, prepared for picking.
pub(super) struct Pool {
    balance: Balance,
    endpoints: Vec<Arc<Endpoint>>,
    /// Those of `endpoints` that are not healthy are there because too few are.
    panics: bool,
    /// Indices in the order of service, for all that is not at random.
    turn: Vec<u16>,
    /// For what is at random: the sum of the weights up to and with each.
    sums: Vec<u32>,
    /// For what goes by a key.
    ring: Ring,
    /// The requests in flight at them, where that goes by a key.
    in_flight: Vec<Arc<AtomicU32>>,
}

/// What a pick came to.
pub(super) struct Choice<'a> {
    pub(super) endpoint: &'a Arc<Endpoint>,
    /// It starts slowly and it was not its turn, or connections to it failed a moment ago; there is no better one here.
    pub(super) reluctant: bool,
}

impl Pool {
    pub(super) fn new(upstream: &Upstream, endpoints: Vec<Arc<Endpoint>>, panics: bool) -> Self {
        let balance = upstream.balance;
        let weights: Vec<u32> = endpoints.iter().map(|it| it.weight()).collect();
        let turn = match balance {
            Balance::RoundRobin | Balance::LeastRequest => smooth_turn(&weights),
            Balance::Random | Balance::PeakEwma | Balance::ConsistentHash => Vec::new(),
        };
        let ring = match upstream.goes_by_key() {
            true => Ring::new(endpoints.iter().map(|it| it.address()).zip(reduced(&weights))),
            false => Ring::default(),
        };
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        let mut in_flight: Vec<Arc<AtomicU32>> = Vec::new();
        for group in endpoints.iter().filter_map(|it| it.group()) {
            if !in_flight.iter().any(|it| Arc::ptr_eq(it, group)) {
                in_flight.push(Arc::clone(group));
            }
        }
        Self { balance, turn, ring, sums: sums.collect(), panics, in_flight, endpoints }
    }

    pub(super) fn has(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.endpoints.iter().any(|it| Arc::ptr_eq(it, endpoint))
    }

    pub(super) fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// `key` is for `consistent_hash`, which picks at random without one, and for sessions without an endpoint.
    pub(super) fn pick(&self, cursor: &AtomicUsize, key: Option<u64>, tried: &[SocketAddr]) -> Option<Choice<'_>> {
        if self.endpoints.is_empty() {
            return None;
        }
        let index = match (key, self.balance) {
            (Some(key), _) => self.by_key(key, tried),
            (None, Balance::RoundRobin) => self.in_turn(cursor.fetch_add(1, Relaxed), tried),
            (None, Balance::Random | Balance::ConsistentHash) => self.draw(None, tried),
            (None, Balance::PeakEwma) => self.sooner_of_two(tried),
            (None, Balance::LeastRequest) => self.less_busy_of_two(cursor.fetch_add(1, Relaxed), tried),
        }?;
        let (mut index, mut reluctant) = (index, false);
        if key.is_none() && self.endpoints[index].is_held_back() {
            let warm = self.one_that_is_warm(tried);
            (index, reluctant) = (warm.unwrap_or(index), warm.is_none());
        }
        if self.endpoints[index].is_refusing() {
            let connects = self.one_that_connects(index, tried);
            (index, reluctant) = (connects.unwrap_or(index), connects.is_none());
        }
        Some(Choice { endpoint: &self.endpoints[index], reluctant })
    }

    /// One that does not start slowly.
    fn one_that_is_warm(&self, tried: &[SocketAddr]) -> Option<usize> {
        let count = self.endpoints.len();
        let start = fastrand::usize(..count);
        let warm = |it: &usize| self.will_do(*it, tried) && !self.endpoints[*it].starts_slowly();
        (start..count).chain(0..start).find(warm)
    }

    /// Another one, to which connections did not fail a moment ago.
    fn one_that_connects(&self, index: usize, tried: &[SocketAddr]) -> Option<usize> {
        let connects = |it: &usize| self.will_do(*it, tried) && !self.endpoints[*it].is_refusing();
        let count = self.endpoints.len();
        (index + 1..count).chain(0..index).find(connects)
    }

    fn in_turn(&self, position: usize, tried: &[SocketAddr]) -> Option<usize> {
        let step = |offset| usize::from(self.turn[position.wrapping_add(offset) % self.turn.len()]);
        let near = (0..MISSES.min(self.turn.len())).map(step).find(|it| self.will_do(*it, tried));
        near.or_else(|| self.any_from(position, tried))
    }

    /// One at random by weight, other than `besides`.
    fn draw(&self, besides: Option<usize>, tried: &[SocketAddr]) -> Option<usize> {
        let (start, width) = besides.map_or((0, 0), |it| (self.sum_before(it), self.endpoints[it].weight()));
        let range = self.sums.last()? - width;
        if range == 0 {
            return None;
        }
        for _ in 0..MISSES {
            let drawn = fastrand::u32(..range);
            let drawn = if besides.is_some() && drawn >= start { drawn + width } else { drawn };
            let index = self.sums.partition_point(|sum| *sum <= drawn);
            if self.will_do(index, tried) {
                return Some(index);
            }
        }
        self.any_from(fastrand::usize(..self.endpoints.len()), tried).filter(|it| Some(*it) != besides)
    }

    /// The next in turn, unless another one at random has less to do for its weight. So among equals weights count as
    /// in a round robin: compared by what they would have with one more, the heaviest would always win.
    fn less_busy_of_two(&self, position: usize, tried: &[SocketAddr]) -> Option<usize> {
        let first = self.in_turn(position, tried)?;
        let Some(second) = self.draw(Some(first), tried) else { return Some(first) };
        let busier = |a: usize, b: usize| {
            let (a, b) = (&self.endpoints[a], &self.endpoints[b]);
            u64::from(a.in_flight()) * u64::from(b.weight()) > u64::from(b.in_flight()) * u64::from(a.weight())
        };
        Some(if busier(first, second) { second } else { first })
    }

    /// Weights count in the draw already: what counts here is who answers sooner.
    fn sooner_of_two(&self, tried: &[SocketAddr]) -> Option<usize> {
        let first = self.draw(None, tried)?;
        let Some(second) = self.draw(Some(first), tried) else { return Some(first) };
        let cost = |it: usize| self.endpoints[it].expected_wait();
        Some(if cost(second) < cost(first) { second } else { first })
    }

    /// The endpoint that the key belongs to, or the next one on the ring that has no more to do than [`LOAD_MAX`] of its
    /// share (Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", 2016).
    fn by_key(&self, key: u64, tried: &[SocketAddr]) -> Option<usize> {
        let total = *self.sums.last()?;
        let in_flight: u32 = self.in_flight.iter().map(|it| it.load(Relaxed)).sum();
        let has_room = |it: &usize| {
            let endpoint = &self.endpoints[*it];
            let share = f64::from(in_flight + 1) * f64::from(endpoint.weight()) / f64::from(total);
            f64::from(endpoint.in_flight()) < (share * LOAD_MAX).ceil()
        };
        let mut in_order = self.ring.from(key).filter(|it| self.will_do(*it, tried));
        let own = in_order.next()?;
        if has_room(&own) {
            return Some(own);
        }
        Some(in_order.find(has_room).unwrap_or(own))
    }

    fn any_from(&self, start: usize, tried: &[SocketAddr]) -> Option<usize> {
        let count = self.endpoints.len();
        let start = start % count;
        (start..count).chain(0..start).find(|it| self.will_do(*it, tried))
    }

    /// Health may have changed since this was prepared.
    fn will_do(&self, index: usize, tried: &[SocketAddr]) -> bool {
        let endpoint = &self.endpoints[index];
        (endpoint.is_eligible() || self.panics) && !tried.contains(&endpoint.address())
    }

    fn sum_before(&self, index: usize) -> u32 {
        self.sums[index] - self.endpoints[index].weight()
    }
}

/// One turn of the smooth weighted round robin, as nginx serves it: the endpoint that gained the most credit
/// is next and pays the total for it. So 5, 1, 1 is served as `a a b a c a a`, not `a a a a a b c`.
fn smooth_turn(weights: &[u32]) -> Vec<u16> {
    let weights = reduced(weights);
    if weights.iter().all(|it| *it == 1) {
        return (0..weights.len() as u16).collect();
    }
    // No credit is beyond the total, which a turn's length bounds. Plain loops over parts, which the compiler makes look at
    // many at once: a turn of a thousand endpoints is made in a third of the time.
    let weights: Vec<i32> = weights.into_iter().map(|it| it as i32).collect();
    let total: i32 = weights.iter().sum();
    let mut credits = vec![0_i32; weights.len()];
    let mut turn = Vec::with_capacity(total as usize);
    for _ in 0..total {
        let (mut most, mut begin) = (i32::MIN, 0);
        for (number, (credits, weights)) in credits.chunks_mut(PART).zip(weights.chunks(PART)).enumerate() {
            credits.iter_mut().zip(weights).for_each(|(credit, weight)| *credit += weight);
            let highest = credits.iter().fold(i32::MIN, |highest, it| highest.max(*it));
            if highest > most {
                (most, begin) = (highest, number * PART);
            }
        }
        let best = begin + credits[begin..].iter().position(|it| *it == most).unwrap_or_default();
        credits[best] -= total;
        turn.push(best as u16);
    }
    turn
}

/// The same proportions in the smallest whole numbers, rounded if a turn were too long.
fn reduced(weights: &[u32]) -> Vec<i64> {
    let shared = weights.iter().fold(0, |a, b| gcd(a, *b)).max(1);
    let total: u64 = weights.iter().map(|it| u64::from(it / shared)).sum();
    let limit = u64::from(TURN_MAX);
    let fit = |weight: &u32| {
        let weight = u64::from(weight / shared);
        let fitting = if total > limit { (weight * limit / total).max(1) } else { weight };
        fitting as i64
    };
    weights.iter().map(fit).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_smooth_and_as_short_as_can_be() {
        assert_eq!(smooth_turn(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(smooth_turn(&[10, 2, 2]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(smooth_turn(&[7, 7, 7]), [0, 1, 2]);
        assert_eq!(smooth_turn(&[]), [0u16; 0]);
    }

    #[test]
    fn a_turn_is_bounded_and_serves_everyone() {
        let mut weights = vec![999; 500];
        weights[7] = 1;
        let turn = smooth_turn(&weights);
        assert!(turn.len() <= TURN_MAX as usize + weights.len());
        assert!(turn.contains(&7));
    }
}
