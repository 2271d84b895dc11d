//! The cache itself: what is kept, what is being fetched, what has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, StatusCode};
use quick_cache::sync::Cache as Table;
use serde::Serialize;

use crate::cache::config::{Room, Rules};
use crate::cache::in_flight::InFlightFills;
use crate::cache::invalidations::{Invalidations, fingerprint};
use crate::cache::key::Target;
use crate::cache::memory::Memory;
use crate::cache::metrics::METRICS;
use crate::cache::object::{Object, Slot};
use crate::cache::shared_tier::SharedTier;
use crate::routing::Params;
use crate::state::{PubSub, State};

/// How long a key counts as one whose responses can't be stored (hit-for-miss), so that no request waits for the next
/// one.
const ALONE: Duration = Duration::from_secs(10);
/// So many of these keys are remembered.
const ALONE_MAX: usize = 16_384;
/// How long a stale response is served without another attempt, after the upstream has failed.
const FAILING: Duration = Duration::from_secs(1);
/// So many of these keys are remembered.
const FAILING_MAX: usize = 16_384;
/// A stale response with a validator stays this long: a 304 makes it fresh again.
pub(super) const GRACE: Duration = Duration::from_secs(3600);

/// A shared HTTP cache (RFC 9111); one for all workers.
pub struct Cache {
    pub(super) memory: Memory,
    pub(super) shared_tier: Option<SharedTier>,
    pub(super) in_flight: InFlightFills,
    pub(super) invalidations: Invalidations,
    pub(super) pubsub: PubSub,
    /// The sender of this gateway's messages, by which those of others are known.
    pub(super) id: u64,
    alone: Table<Box<[u8]>, Instant>,
    failing: Table<Box<[u8]>, Instant>,
    object_max: usize,
    /// What responses that are being taken down may come to, in bytes.
    taken_down: AtomicU64,
}

/// How full the cache is, for operators.
#[derive(Clone, Debug, Serialize)]
pub struct CacheUsage {
    /// What cached responses take, in bytes.
    pub bytes: u64,
    /// What they may take.
    pub bytes_max: u64,
    /// The largest response that is kept, in bytes.
    pub object_bytes_max: usize,
    /// Entries.
    pub objects: usize,
    /// Requests answered from the cache.
    pub hits: u64,
    /// Requests that were forwarded to the upstream.
    pub misses: u64,
    /// Requests answered with something stale.
    pub stale: u64,
    /// Requests answered with something that the upstream had confirmed.
    pub revalidated: u64,
    /// Requests that were none for the cache.
    pub bypassed: u64,
    /// Requests that waited for another one's response.
    pub collapsed: u64,
    /// Entries that had to make room.
    pub evicted: u64,
    /// Whether the shared state keeps responses, too.
    pub shared: bool,
}

impl Cache {
    /// An empty cache. `shared` says that other gateways, and this one after a restart, see the same state.
    pub fn new(room: Room, state: &State, shared: bool) -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::new(room.memory, room.max_object),
            shared_tier: (shared && room.shared).then(|| SharedTier::new(state.records.clone())),
            pubsub: state.pubsub.clone(),
            id: fastrand::u64(..),
            in_flight: InFlightFills::default(),
            invalidations: Invalidations::default(),
            alone: Table::new(ALONE_MAX),
            failing: Table::new(FAILING_MAX),
            object_max: room.max_object,
            taken_down: AtomicU64::new(0),
        })
    }

    /// The largest body that is kept for a route with these rules, in bytes.
    pub(super) fn object_max(&self, rules: &Rules) -> usize {
        rules.max_object.unwrap_or(self.object_max).min(self.object_max)
    }

    /// What a request that changes something makes useless, if it went well (RFC 9111, section 4.4): its
    /// target, what its response names beside it, and what has its route's tags.
    pub(super) fn changes(
        &self,
        target: &Target,
        tags: &[u64],
        on_cached_route: bool,
        status: StatusCode,
        answer: &HeaderMap,
    ) -> Vec<u64> {
        let failed = !(status.is_success() || status.is_redirection());
        if failed {
            return Vec::new();
        }
        let beside = [LOCATION, CONTENT_LOCATION].into_iter().filter_map(|field| {
            let reference = answer.get(field)?.to_str().ok()?;
            target.beside(reference)
        });
        let targets = beside.chain([target.clone()]).map(|it| of_target(it.host(), it.path()));
        let mut changed: Vec<u64> = targets.filter(|it| on_cached_route || self.invalidations.was_kept(*it)).collect();
        changed.extend_from_slice(tags);
        changed
    }

    /// How full the cache is.
    pub fn usage(&self) -> CacheUsage {
        CacheUsage {
            bytes: self.memory.bytes(),
            bytes_max: self.memory.capacity(),
            object_bytes_max: self.object_max,
            objects: self.memory.len(),
            hits: METRICS.hits.get(),
            misses: METRICS.misses.get(),
            stale: METRICS.stale.get(),
            revalidated: METRICS.revalidated.get(),
            bypassed: METRICS.bypassed.get(),
            collapsed: METRICS.collapsed.get(),
            evicted: METRICS.evicted.get(),
            shared: self.shared_tier.is_some(),
        }
    }

    /// What is kept under a key and still counts.
    pub(super) fn get(&self, key: &[u8]) -> Option<Slot> {
        let slot = self.memory.get(key)?;
        if let Slot::Whole(object) = &slot
            && self.invalidations.outdated(object.known, &object.depends)
        {
            self.memory.remove(key);
            return None;
        }
        Some(slot)
    }

    /// Keeps a response in memory, if nothing that it depends on has changed meanwhile.
    pub(super) fn put(&self, key: &[u8], object: &Arc<Object>) -> bool {
        if !self.invalidations.may_keep(object.known, &object.depends) {
            return false;
        }
        self.invalidations.keep(of_target(object.target.host(), object.target.path()));
        self.memory.put(key.into(), Slot::Whole(object.clone()));
        // A change may have come between the check and the write; its purge, before the write.
        if self.invalidations.may_keep(object.known, &object.depends) {
            METRICS.stored.inc();
            return true;
        }
        self.memory.remove(key);
        false
    }

    pub(super) fn goes_alone(&self, key: &[u8]) -> bool {
        holds(&self.alone, key)
    }

    /// The upstream has failed to answer this just now.
    pub(super) fn is_failing(&self, key: &[u8]) {
        self.failing.insert(key.into(), Instant::now() + FAILING);
    }

    pub(super) fn has_failed(&self, key: &[u8]) -> bool {
        holds(&self.failing, key)
    }

    pub(super) fn go_alone(&self, key: &[u8]) {
        self.alone.insert(key.into(), Instant::now() + ALONE);
    }

    pub(super) fn go_together(&self, key: &[u8]) {
        self.alone.remove(key);
    }

    /// Room to take one more response down, of so many bytes at most.
    pub(super) fn take_down(self: &Arc<Self>, bytes: usize) -> Option<TakenDown> {
        let bytes = bytes as u64;
        let taken = TakenDown { cache: self.clone(), bytes };
        let under_way = self.taken_down.fetch_add(bytes, Ordering::Relaxed);
        (under_way + bytes <= self.memory.capacity()).then_some(taken)
    }
}

/// Whether a key's time is not over.
fn holds(table: &Table<Box<[u8]>, Instant>, key: &[u8]) -> bool {
    let Some(until) = table.get(key) else { return false };
    let holds = Instant::now() < until;
    if !holds {
        table.remove(key);
    }
    holds
}

/// Counts a response that is being taken down.
pub(super) struct TakenDown {
    cache: Arc<Cache>,
    bytes: u64,
}

impl Drop for TakenDown {
    fn drop(&mut self) {
        self.cache.taken_down.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A token of everything: all that the shared state keeps depends on it.
pub(super) const EVERYTHING: u64 = 0;

/// Fingerprints of what a response depends on.
pub(super) fn depends(rules: &Rules, target: &Target, tags: &[u64]) -> Arc<[u64]> {
    let (host, path) = (target.host(), target.path());
    let fixed = [EVERYTHING, of_route(&rules.route), of_target(host, path), of_path(path)];
    fixed.into_iter().chain(tags.iter().copied()).collect()
}

impl Rules {
    /// The fingerprints of a request's tags.
    pub fn tags(&self, params: &Params, path: &str) -> Vec<u64> {
        self.tags.iter().map(|it| of_tag(&it.of(params, path))).collect()
    }
}

pub(super) fn of_route(name: &str) -> u64 {
    fingerprint(&[b"route", name.as_bytes()])
}

pub(super) fn of_tag(tag: &str) -> u64 {
    fingerprint(&[b"tag", tag.as_bytes()])
}

pub(super) fn of_target(host: &str, path: &str) -> u64 {
    fingerprint(&[b"target", host.as_bytes(), path.as_bytes()])
}

pub(super) fn of_path(path: &str) -> u64 {
    fingerprint(&[b"path", path.as_bytes()])
}

/// The time now, as responses count it.
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}
