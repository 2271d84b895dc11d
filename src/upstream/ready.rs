//! The endpoints that get requests right now, prepared for picking: all in one pool, or those of the gateway's own zone and
//! those of the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::balance::Pool;
use super::compile::Upstream;
use super::endpoint::Endpoint;
use super::metrics;
use super::zones::Zones;

/// Those that pass their checks, or all if too few do.
pub(super) struct Ready {
    spread: Spread,
    /// Those that do not pass are there because too few do.
    panics: bool,
    healthy: usize,
}

enum Spread {
    All(Pool),
    ByZone(Box<Zones>),
}

impl Ready {
    pub(super) fn new(upstream: &Upstream, all: &[Arc<Endpoint>]) -> Self {
        let passing: Vec<_> = all.iter().filter(|it| it.is_healthy()).cloned().collect();
        let healthy = passing.len();
        let panics = upstream.panic.is_some_and(|it| (healthy as f64) < it * all.len() as f64);
        let spread = match (panics, &upstream.own_zone) {
            // Zones would have to believe the checks. Meanwhile there is no share of theirs to be shown.
            (true, zone) => {
                if zone.is_some() {
                    metrics::forget_zone_share(&upstream.name);
                }
                Spread::All(Pool::new(upstream, all.to_vec(), true))
            }
            (false, Some(_)) => Spread::ByZone(Box::new(Zones::new(upstream, passing, all))),
            (false, None) => Spread::All(Pool::new(upstream, passing, false)),
        };
        Self { spread, panics, healthy }
    }

    /// Whether this is what follows from the health of `all` endpoints.
    pub(super) fn is_current(&self, endpoint: &Arc<Endpoint>, all: &[Arc<Endpoint>]) -> bool {
        match self.panics {
            true => all.iter().filter(|it| it.is_healthy()).count() == self.healthy,
            false => self.has(endpoint) == endpoint.is_healthy(),
        }
    }

    fn has(&self, endpoint: &Arc<Endpoint>) -> bool {
        match &self.spread {
            Spread::All(pool) => pool.has(endpoint),
            Spread::ByZone(zones) => zones.pools().iter().any(|it| it.has(endpoint)),
        }
    }

    /// Whether too few endpoints are healthy, so that all get requests.
    pub(super) fn panics(&self) -> bool {
        self.panics
    }

    /// How many get requests.
    pub(super) fn len(&self) -> usize {
        match &self.spread {
            Spread::All(pool) => pool.len(),
            Spread::ByZone(zones) => zones.pools().iter().map(|it| it.len()).sum(),
        }
    }

    /// How requests are spread over zones, where they are.
    pub(super) fn zones(&self) -> Option<&Zones> {
        match &self.spread {
            Spread::All(_) => None,
            Spread::ByZone(zones) => Some(zones),
        }
    }

    /// `key` is for `consistent_hash`, which picks at random without one, and for sessions without an endpoint. There is a
    /// cursor for each pool, or taking turns in one would skip endpoints of the other.
    pub(super) fn pick(
        &self,
        cursors: &[AtomicUsize; 2],
        key: Option<u64>,
        tried: &[SocketAddr],
    ) -> Option<&Arc<Endpoint>> {
        match &self.spread {
            Spread::All(pool) => pool.pick(&cursors[0], key, tried).map(|it| it.endpoint),
            Spread::ByZone(zones) => zones.pick(cursors, key, tried),
        }
    }
}
