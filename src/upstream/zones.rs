//! Zone preference: requests go to endpoints in the gateway's own zone, and over to the others as far as too few of those
//! are left that get requests.
//!
//! It is Envoy's rule of priorities, with two of them: the own zone, and all the others. A zone takes 1.4 times the part of
//! it that gets requests, by weight, all at the most; so one endpoint of four that fails moves nothing yet. What the own
//! zone does not take goes to the others. Shares are worked out when something changes, so that a request costs one addition.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use prometheus::Gauge;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::balance::{Choice, Pool};
use super::compile::Upstream;
use super::endpoint::Endpoint;
use super::metrics;
use super::ring::mix;
use crate::base::{At, Diagnostics};

/// How much more than its even part a zone can take: Envoy's overprovisioning factor. With it, a zone keeps all its
/// requests until fewer than 72 % of it are left.
const OVERPROVISIONED: f64 = 1.4;
/// The share that is everything, in parts of it.
const ALL: u32 = u32::MAX;
/// What decides by a key whether a request stays has to differ from what decides where it goes.
const STAYS: u64 = 1 << 32;

/// Which zone's endpoints are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("examples" = [{ "prefer": "same" }]))]
pub struct ZonesConfig {
    /// Which zone that is.
    pub prefer: ZonePreference,
}

/// A zone, as seen from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ZonePreference {
    /// The gateway's own, which is `zone` in gateway.yaml.
    Same,
}

/// The zone whose endpoints are preferred. `own` is the gateway's, empty if it has none, nothing if that is not known. A
/// gateway without one serves all the same: the file may be that of many, and of machines that are in no zone.
pub(super) fn preferred(
    config: Option<&ZonesConfig>,
    own: Option<&str>,
    at: &At<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<str>> {
    let ZonesConfig { prefer: ZonePreference::Same } = config?;
    if own == Some("") {
        diagnostics
            .warn(&at.key("prefer"), "the gateway does not know which zone it is in: all endpoints are alike")
            .help("write `zone: eu-a` into gateway.yaml, or set MOONGATE_ZONE");
        return None;
    }
    Some(own.unwrap_or_default().into())
}

/// The endpoints that get requests, by zone.
pub(super) struct Zones {
    own: Pool,
    others: Pool,
    /// Which part of the requests stays in the own zone, of [`ALL`].
    share: AtomicU32,
    /// Grows by the share with each request; one that makes it overflow stays. So shares are exact, and evenly mixed.
    turn: AtomicU32,
    gauge: Gauge,
    upstream: Arc<str>,
}

impl Zones {
    /// Of those that pass their checks, of `all` that there are.
    pub(super) fn new(upstream: &Upstream, passing: Vec<Arc<Endpoint>>, all: &[Arc<Endpoint>]) -> Self {
        let (own, others): (Vec<_>, Vec<_>) = passing.into_iter().partition(|it| it.is_in_own_zone());
        let zones = Self {
            own: Pool::new(upstream, own, false),
            others: Pool::new(upstream, others, false),
            share: AtomicU32::new(parts(share(all))),
            turn: AtomicU32::new(ALL / 2),
            gauge: metrics::ZONE_SHARE.with_label_values(&[&*upstream.name]),
            upstream: Arc::clone(&upstream.name),
        };
        zones.tell(None);
        zones
    }

    pub(super) fn pools(&self) -> [&Pool; 2] {
        [&self.own, &self.others]
    }

    /// Which part of the requests stays in the own zone, from 0 to 1.
    pub(super) fn own_share(&self) -> f64 {
        f64::from(self.share.load(Relaxed)) / f64::from(ALL)
    }

    /// Works the share out anew: what leaves an endpoint out is not only its checks.
    pub(super) fn weigh(&self, all: &[Arc<Endpoint>]) {
        let before = self.own_share();
        self.share.store(parts(share(all)), Relaxed);
        self.tell(Some(before));
    }

    /// Says how requests are spread, if that was different `before`.
    pub(super) fn tell(&self, before: Option<f64>) {
        let share = self.own_share();
        self.gauge.set(share);
        if before.is_some_and(|it| it != share) {
            tracing::info!(
                event = "zone_share", upstream = %self.upstream, share,
                "another part of the requests stays in the gateway's own zone"
            );
        }
    }

    /// One of the zone whose turn it is; of the other, if that has none, or none but one that gets requests for want of
    /// a better one.
    pub(super) fn pick(
        &self,
        cursors: &[AtomicUsize; 2],
        key: Option<u64>,
        tried: &[SocketAddr],
    ) -> Option<&Arc<Endpoint>> {
        let [own, others] = [(&self.own, &cursors[0]), (&self.others, &cursors[1])];
        let [(first, cursor), (second, second_cursor)] = if self.stays(key) { [own, others] } else { [others, own] };
        let choice = match first.pick(cursor, key, tried) {
            Some(Choice { endpoint, reluctant: false }) => return Some(endpoint),
            choice => choice,
        };
        let other = second.pick(second_cursor, key, tried).filter(|it| choice.is_none() || !it.reluctant);
        other.or(choice).map(|it| it.endpoint)
    }

    /// Whether the next request stays in the own zone; the same for the same key, as long as the share is the same.
    fn stays(&self, key: Option<u64>) -> bool {
        match (self.share.load(Relaxed), key) {
            (ALL, _) => true,
            (0, _) => false,
            (share, Some(key)) => ((mix(key, STAYS) >> 32) as u32) < share,
            (share, None) => self.turn.fetch_add(share, Relaxed).checked_add(share).is_none(),
        }
    }
}

/// The weights of endpoints: of those that get requests, and of all.
#[derive(Clone, Copy, Default)]
struct Weights {
    eligible: u32,
    all: u32,
}

impl Weights {
    /// Which part of all requests they can take.
    fn reach(self) -> f64 {
        match self.all {
            0 => 0.0,
            all => (f64::from(self.eligible) / f64::from(all) * OVERPROVISIONED).min(1.0),
        }
    }
}

/// Which part of the requests stays in the own zone.
fn share(all: &[Arc<Endpoint>]) -> f64 {
    let mut zones = [Weights::default(); 2];
    for endpoint in all {
        let zone = &mut zones[usize::from(endpoint.is_in_own_zone())];
        zone.all += endpoint.weight();
        zone.eligible += if endpoint.is_eligible() { endpoint.weight() } else { 0 };
    }
    let [others, own] = zones;
    share_of(own, others)
}

/// What neither can take is shared in the proportion of what they can.
fn share_of(own: Weights, others: Weights) -> f64 {
    let own = own.reach();
    let others = others.reach().min(1.0 - own);
    if own == 0.0 { 0.0 } else { own / (own + others) }
}

fn parts(share: f64) -> u32 {
    (share * f64::from(ALL)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(own: [u32; 2], others: [u32; 2]) -> u32 {
        let [own, others] = [own, others].map(|[eligible, all]| Weights { eligible, all });
        (share_of(own, others) * 100.0).round() as u32
    }

    #[test]
    fn a_zone_takes_more_than_its_part_and_the_rest_goes_to_the_others() {
        assert_eq!(percent([4, 4], [4, 4]), 100);
        assert_eq!(percent([3, 4], [4, 4]), 100, "1.4 times three quarters is all");
        assert_eq!(percent([2, 4], [4, 4]), 70);
        assert_eq!(percent([1, 4], [100, 100]), 35, "how many the others are does not count");
        assert_eq!(percent([0, 4], [4, 4]), 0);
        assert_eq!(percent([0, 0], [4, 4]), 0, "nobody is there");
        assert_eq!(percent([1, 4], [0, 4]), 100, "the others are worse");
        assert_eq!(percent([0, 4], [0, 4]), 0);
    }

    #[test]
    fn what_neither_can_take_is_shared() {
        assert_eq!(percent([1, 4], [1, 4]), 50);
        assert_eq!(percent([2, 4], [1, 14]), 88, "70 and 10 of 80");
    }

    #[test]
    fn parts_are_of_all() {
        assert_eq!([parts(0.0), parts(1.0)], [0, ALL]);
    }
}
