//! Limits that live, and what operators see of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};

use once_cell::sync::Lazy;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, register_int_counter_vec};
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use super::adaptive::{ADAPT_EVERY, AdaptiveShare, AdaptiveShares};
use super::shared::{SharedCounts, SharedReport};
use super::{RateLimit, Rules, Subject};
use crate::state::{Counters, State};
use crate::upstream::Live;

/// So many limits get a series and a count of their own; the others share those of `other`.
const OWN_MAX: u16 = 1_000;
/// Under which number the others are counted.
const OTHERS: u16 = 1_023;
const OTHER: &str = "other";

static REFUSED: Lazy<IntCounterVec> = Lazy::new(|| {
    let help = "Requests that a rate limit refused, by limit";
    register_int_counter_vec!("moongate_rate_limited_total", help, &["limit"]).expect("the name is registered once")
});

/// All that is alive of rate limits: it survives every reload.
pub struct Limits {
    pub(super) counters: Arc<Counters>,
    pub(super) shared: Option<SharedCounts>,
    known: Mutex<Known>,
    adaptive_shares: AdaptiveShares,
}

/// The limits that live, by scope and name.
#[derive(Default)]
struct Known {
    limits: HashMap<Arc<str>, Weak<LiveLimit>>,
    /// Numbers that no limit has.
    free: Vec<u16>,
    /// With so many limits, those that are gone are looked for.
    tidy_at: usize,
}

impl Known {
    fn find(&self, id: &str) -> Option<Arc<LiveLimit>> {
        self.limits.get(id).and_then(Weak::upgrade)
    }

    /// A number for one more limit.
    fn number(&mut self) -> u16 {
        if self.limits.len() >= self.tidy_at {
            self.limits.retain(|_, it| it.strong_count() > 0);
            let used: HashSet<u16> = self.limits.values().filter_map(Weak::upgrade).map(|it| it.number).collect();
            self.free = (0..OWN_MAX).rev().filter(|it| !used.contains(it)).collect();
            self.tidy_at = (self.limits.len() * 2).max(64);
        }
        self.free.pop().unwrap_or(OTHERS)
    }
}

/// What is alive of one limit.
pub(super) struct LiveLimit {
    label: Arc<str>,
    /// Under which its counters are counted.
    pub(super) number: u16,
    pub(super) refused: IntCounter,
}

/// What is alive of a route's limits, in the order of the compiled ones.
pub struct LiveLimits {
    pub(super) limits: Arc<Limits>,
    pub(super) route: Arc<str>,
    pub(super) each: Vec<(Arc<LiveLimit>, Option<Arc<AdaptiveShare>>)>,
}

/// A limit, as the admin API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitReport {
    /// Scope and name.
    pub limit: String,
    /// Where it is written: `defaults`, `policy/NAME` or `route/NAME`.
    pub scope: String,
    /// Whom it counts on their own.
    pub per: String,
    /// How many requests …
    pub requests: u64,
    /// … in how many seconds.
    pub every_seconds: f64,
    /// How many of them at once.
    pub burst: u64,
    /// Counters in this process' memory.
    pub keys: u64,
    /// Requests that it refused since the process began.
    pub refused: u64,
    /// By upstream, the share of the limit that is let through now; only if it is adaptive.
    pub factors: BTreeMap<String, f64>,
}

/// All limits, and what bounds them.
#[derive(Clone, Debug, Serialize)]
pub struct LimitsReport {
    /// The limits that some route uses.
    pub limits: Vec<LimitReport>,
    /// Counters in memory: how many, how many there may be, their bytes, and those pushed out.
    pub counters: CountersReport,
    /// What is taken from Redis in advance, if counts are shared.
    pub shared: Option<SharedReport>,
}

/// How full the counters' table is.
#[derive(Clone, Debug, Serialize)]
pub struct CountersReport {
    keys: u64,
    keys_max: u64,
    bytes: u64,
    evicted: u64,
}

impl Limits {
    /// Counts in this state.
    pub fn new(state: &State) -> Arc<Self> {
        let shared = state.shared_cells.clone().map(SharedCounts::new);
        Arc::new(Self {
            counters: state.counters.clone(),
            shared,
            known: Mutex::default(),
            adaptive_shares: AdaptiveShares::default(),
        })
    }

    /// Brings the limits of a route to life, with the counts that they had; `upstream` is where the
    /// route's requests go.
    pub fn activate(
        self: &Arc<Self>,
        route: &Arc<str>,
        limits: Option<&Rules>,
        upstream: Option<&Arc<Live>>,
    ) -> LiveLimits {
        let limits = limits.map_or(&[][..], |it| &it.limits);
        let each = limits.iter().map(|limit| {
            let share = limit.adaptive.as_ref().zip(upstream);
            (
                self.live(&limit.id),
                share.map(|(adaptive, upstream)| self.adaptive_shares.of(&limit.id, adaptive, upstream)),
            )
        });
        LiveLimits { limits: self.clone(), route: route.clone(), each: each.collect() }
    }

    fn live(&self, id: &Arc<str>) -> Arc<LiveLimit> {
        let mut known = self.known.lock();
        if let Some(live) = known.find(id) {
            return live;
        }
        let number = known.number();
        let label: Arc<str> = if number == OTHERS { OTHER.into() } else { id.clone() };
        let refused = REFUSED.with_label_values(&[&*label]);
        let live = Arc::new(LiveLimit { label, number, refused });
        known.limits.insert(id.clone(), Arc::downgrade(&live));
        live
    }

    /// Lets adaptive limits follow their upstreams, for as long as there are limits.
    pub async fn adapt(limits: Weak<Self>) {
        let mut ticks = tokio::time::interval(ADAPT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(limits) = limits.upgrade() else { return };
            limits.adaptive_shares.adapt();
        }
    }

    /// What the admin API shows; `used` are the limits of the routes that serve. Looks at all counters:
    /// not for a worker.
    pub fn report<'l>(&self, used: impl Iterator<Item = &'l Rules>) -> LimitsReport {
        let mut limits: Vec<LimitReport> = used.flat_map(|it| it.limits.iter()).map(|it| self.report_of(it)).collect();
        limits.sort_by(|left, right| left.limit.cmp(&right.limit));
        limits.dedup_by(|left, right| left.limit == right.limit);
        let fill = self.counters.fill();
        LimitsReport {
            limits,
            counters: CountersReport {
                keys: fill.keys,
                keys_max: fill.keys_max,
                bytes: fill.bytes,
                evicted: fill.evicted,
            },
            shared: self.shared.as_ref().map(SharedCounts::report),
        }
    }

    fn report_of(&self, limit: &RateLimit) -> LimitReport {
        let live = self.known.lock().find(&limit.id);
        let scope = limit.id.strip_suffix(&*limit.name).map_or("", |it| it.trim_end_matches('/'));
        LimitReport {
            limit: limit.id.to_string(),
            scope: scope.to_owned(),
            per: limit.subject.to_string(),
            requests: limit.requests,
            every_seconds: limit.every.as_secs_f64(),
            burst: limit.quota.burst(),
            keys: live.as_ref().map_or(0, |it| self.counters.counted(it.number)),
            refused: live.as_ref().map_or(0, |it| it.refused.get()),
            factors: self.adaptive_shares.factors(&limit.id),
        }
    }
}

impl Drop for LiveLimit {
    fn drop(&mut self) {
        if self.number != OTHERS {
            let _ = REFUSED.remove_label_values(&[&*self.label]);
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip => f.write_str("ip"),
            Self::User => f.write_str("user"),
            Self::Key => f.write_str("key"),
            Self::Tenant => f.write_str("tenant"),
            Self::Route => f.write_str("route"),
            Self::Header(name) => write!(f, "header {name}"),
        }
    }
}
