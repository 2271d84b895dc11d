//! The cache itself: what is kept, what is being fetched, what has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use quick_cache::sync::Cache as Table;
use serde::{Deserialize, Serialize};

use crate::cache::config::{Room, Rules};
use crate::cache::flights::Flights;
use crate::cache::key::Target;
use crate::cache::marks::{Marks, fingerprint};
use crate::cache::memory::Memory;
use crate::cache::metrics::METRICS;
use crate::cache::object::{Object, Slot};
use crate::cache::second::Second;
use crate::routing::Params;
use crate::state::Records;

/// How long a key is taken for one whose answers can't be kept, so that nobody waits for the next one.
const ALONE: Duration = Duration::from_secs(10);
/// So many of these keys are remembered.
const ALONE_MAX: usize = 16_384;
/// A stale answer with a validator stays this long: a 304 makes it fresh again.
pub(super) const GRACE: Duration = Duration::from_secs(3600);

/// A shared HTTP cache (RFC 9111); one for all workers.
pub struct Cache {
    pub(super) memory: Memory,
    pub(super) second: Option<Second>,
    pub(super) flights: Flights,
    pub(super) marks: Marks,
    alone: Table<Box<[u8]>, Instant>,
    object_max: usize,
    /// Answers that are being taken down, and how many may be.
    taken_down: AtomicUsize,
    taken_down_max: usize,
}

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purge {
    /// Everything.
    All,
    /// All answers of a route.
    Route(String),
    /// All answers that depend on this.
    Tag(String),
    /// The answers to one target, in all variants: `/players/7?x=1` on every host, or with a host before it.
    Key(String),
    /// The answers to all targets that begin so.
    Prefix(String),
}

/// How full the cache is, for operators.
#[derive(Clone, Debug, Serialize)]
pub struct Fill {
    /// What kept answers take, in bytes.
    pub bytes: u64,
    /// What they may take.
    pub bytes_max: u64,
    /// The largest answer that is kept, in bytes.
    pub object_bytes_max: usize,
    /// Entries.
    pub objects: usize,
    /// Requests answered from the cache.
    pub hits: u64,
    /// Requests for which the upstream was asked.
    pub misses: u64,
    /// Requests answered with something stale.
    pub stale: u64,
    /// Requests answered with something that the upstream had confirmed.
    pub revalidated: u64,
    /// Requests that were none for the cache.
    pub bypassed: u64,
    /// Requests that waited for another one's answer.
    pub collapsed: u64,
    /// Entries that had to make room.
    pub evicted: u64,
    /// Whether the shared state keeps answers, too.
    pub shared: bool,
}

impl Cache {
    /// An empty cache. `records` is the shared state, if answers are to be kept there, too.
    pub fn new(room: Room, records: Option<Arc<dyn Records>>) -> Arc<Self> {
        let taken_down_max = usize::try_from(room.memory / room.max_object.max(1) as u64).unwrap_or(usize::MAX);
        Arc::new(Self {
            memory: Memory::new(room.memory, room.max_object),
            second: records.filter(|_| room.shared).map(Second::new),
            flights: Flights::default(),
            marks: Marks::default(),
            alone: Table::new(ALONE_MAX),
            object_max: room.max_object,
            taken_down: AtomicUsize::new(0),
            taken_down_max,
        })
    }

    /// The largest body that is kept for a route with these rules, in bytes.
    pub(super) fn object_max(&self, rules: &Rules) -> usize {
        rules.max_object.unwrap_or(self.object_max).min(self.object_max)
    }

    /// Forgets, and says how many answers that were in this gateway's memory. Looks at everything: not for
    /// a worker.
    pub fn purge(&self, what: &Purge) -> u64 {
        match (what, &self.named(what)[..]) {
            (Purge::All, _) => self.marks.all_changed(),
            (_, []) => self.marks.unnamed_change(),
            (_, names) => self.marks.changed(names),
        }
        let count = self.memory.remove_all(|slot| match slot {
            Slot::Varied(_) => *what == Purge::All,
            Slot::Whole(object) => names(what, object),
        });
        METRICS.purged.inc_by(count);
        count
    }

    /// Voids what the shared state keeps of it; false if that can't be known to be done.
    pub async fn purge_shared(&self, what: &Purge) -> bool {
        let Some(second) = &self.second else { return true };
        match &self.named(what)[..] {
            // What has no fingerprint is a part of everything.
            [] => second.void(&[EVERYTHING]).await,
            names => second.void(names).await,
        }
    }

    fn named(&self, what: &Purge) -> Vec<u64> {
        match what {
            Purge::Route(name) => vec![of_route(name)],
            Purge::Tag(tag) => vec![of_tag(tag)],
            Purge::Key(key) if key.starts_with('/') => vec![fingerprint(&[b"path", key.as_bytes()])],
            Purge::Key(key) => {
                key.find('/').map(|at| of_target(&key[..at].to_ascii_lowercase(), &key[at..])).into_iter().collect()
            }
            Purge::All | Purge::Prefix(_) => Vec::new(),
        }
    }

    /// What a request that changes something makes useless, if it went well (RFC 9111, section 4.4): its
    /// target, what its answer names beside it, and what has its route's tags. For methods that are not safe.
    /// Give what comes of it to [`Cache::changed`].
    pub fn changes(
        &self,
        method: &Method,
        target: &Target,
        tags: &[u64],
        on_cached_route: bool,
        status: StatusCode,
        answer: &HeaderMap,
    ) -> Vec<u64> {
        let failed = !(status.is_success() || status.is_redirection());
        if method.is_safe() || failed {
            return Vec::new();
        }
        let beside = [LOCATION, CONTENT_LOCATION].into_iter().filter_map(|field| {
            let reference = answer.get(field)?.to_str().ok()?;
            target.beside(reference)
        });
        let targets = beside.chain([target.clone()]).map(|it| of_target(it.host(), it.path()));
        let mut changed: Vec<u64> = targets.filter(|it| on_cached_route || self.marks.was_kept(*it)).collect();
        changed.extend_from_slice(tags);
        changed
    }

    /// Makes useless whatever depends on one of these.
    pub fn changed(&self, fingerprints: &[u64]) {
        if fingerprints.is_empty() {
            return;
        }
        self.marks.changed(fingerprints);
        if let Some(second) = self.second.clone() {
            let fingerprints = fingerprints.to_vec();
            tokio::spawn(async move {
                if !second.void(&fingerprints).await {
                    tracing::warn!(event = "cache_void_failed", "the shared state may give an outdated answer");
                }
            });
        }
    }

    /// How full it is.
    pub fn fill(&self) -> Fill {
        Fill {
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
            shared: self.second.is_some(),
        }
    }

    /// What is kept under a key and still counts.
    pub(super) fn get(&self, key: &[u8]) -> Option<Slot> {
        let slot = self.memory.get(key)?;
        if let Slot::Whole(object) = &slot
            && self.marks.outdated(object.known, &object.depends)
        {
            self.memory.remove(key);
            return None;
        }
        Some(slot)
    }

    /// Keeps an answer in memory, if nothing that it depends on has changed meanwhile.
    pub(super) fn put(&self, key: &[u8], object: &Arc<Object>) -> bool {
        if !self.marks.may_keep(object.known, &object.depends) {
            return false;
        }
        self.marks.keep(of_target(object.target.host(), object.target.path()));
        self.memory.put(key.into(), Slot::Whole(object.clone()));
        // A change may have come between the question and the deed; its purge, before the deed.
        if self.marks.may_keep(object.known, &object.depends) {
            METRICS.stored.inc();
            return true;
        }
        self.memory.remove(key);
        false
    }

    pub(super) fn goes_alone(&self, key: &[u8]) -> bool {
        let Some(until) = self.alone.get(key) else { return false };
        let alone = Instant::now() < until;
        if !alone {
            self.alone.remove(key);
        }
        alone
    }

    pub(super) fn go_alone(&self, key: &[u8]) {
        self.alone.insert(key.into(), Instant::now() + ALONE);
    }

    pub(super) fn go_together(&self, key: &[u8]) {
        self.alone.remove(key);
    }

    /// Room to take one more answer down.
    pub(super) fn take_down(self: &Arc<Self>) -> Option<TakenDown> {
        let taken = TakenDown(self.clone());
        let under_way = self.taken_down.fetch_add(1, Ordering::Relaxed);
        (under_way < self.taken_down_max).then_some(taken)
    }
}

/// Counts an answer that is being taken down.
pub(super) struct TakenDown(Arc<Cache>);

impl Drop for TakenDown {
    fn drop(&mut self) {
        self.0.taken_down.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A token of everything: all that the shared state keeps depends on it.
pub(super) const EVERYTHING: u64 = 0;

/// Fingerprints of what an answer depends on.
pub(super) fn depends(rules: &Rules, target: &Target, tags: &[u64]) -> Arc<[u64]> {
    let path = fingerprint(&[b"path", target.path().as_bytes()]);
    let fixed = [EVERYTHING, of_route(&rules.route), of_target(target.host(), target.path()), path];
    fixed.into_iter().chain(tags.iter().copied()).collect()
}

impl Rules {
    /// The fingerprints of a request's tags.
    pub fn tags(&self, params: &Params, path: &str) -> Vec<u64> {
        self.tags.iter().map(|it| of_tag(&it.of(params, path))).collect()
    }
}

fn of_route(name: &str) -> u64 {
    fingerprint(&[b"route", name.as_bytes()])
}

fn of_tag(tag: &str) -> u64 {
    fingerprint(&[b"tag", tag.as_bytes()])
}

fn of_target(host: &str, path: &str) -> u64 {
    fingerprint(&[b"target", host.as_bytes(), path.as_bytes()])
}

fn names(what: &Purge, object: &Object) -> bool {
    let (whole, path) = (object.target.as_str(), object.target.path());
    match what {
        Purge::All => true,
        Purge::Route(name) => *object.route == **name,
        Purge::Tag(tag) => object.depends.contains(&of_tag(tag)),
        Purge::Key(key) => path == key || whole.eq_ignore_ascii_case(key) && whole.ends_with(path_of(key)),
        Purge::Prefix(prefix) => path.starts_with(prefix.as_str()) || whole.starts_with(prefix.as_str()),
    }
}

/// Hosts mean the same in any case, paths do not.
fn path_of(key: &str) -> &str {
    key.find('/').map_or("", |at| &key[at..])
}

/// The time now, as answers count it.
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}
