//! Counting together with other gateways, without a call to Redis for every request.
//!
//! A gateway takes several requests of a key in advance (a lease) and spends them by itself. Keys that are
//! seldom used get one at a time; where a lease was spent within its life, the next one is twice as
//! large, up to an eighth of the burst. What was not spent when the life is over is returned with the
//! next call. So all gateways together never let more through than the limit says; what one has taken and
//! not spent is missing elsewhere for as long as a lease lives. A refusal holds, without another call,
//! until the next request comes back, at most a second.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;
use parking_lot::{Mutex, MutexGuard};
use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::timeout_at;

use crate::state::{CounterKey, Counters, Granted, Moment, Quota, SharedCells, Taken, Unavailable};

/// How long a lease may be spent.
const LIFE: Duration = Duration::from_millis(200);
/// A lease is at most one in so many of the burst …
const SHARE: u64 = 8;
/// … and never larger than this.
const LEASE_MAX: u64 = 1_000;
/// A refusal is not checked again for so long: other gateways may give back.
const REFUSAL_MAX: Duration = Duration::from_secs(1);
/// So many requests wait for the same answer of Redis; more are counted here.
const WAITING_MAX: u32 = 1_024;
/// How long a request waits in all, though others may be calling in its stead.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// So many keys are remembered; for others Redis is called for every request.
const KEYS_MAX: usize = 1 << 18;
const SHARDS: usize = 64;
/// A key that was not used in this time is forgotten when room is needed.
const FORGET: Duration = Duration::from_secs(10);
/// The same trouble is logged once in this time.
const TOLD_EVERY: Duration = Duration::from_secs(10);

const ONCE: &str = "the name is registered once";

static LOCAL: Lazy<IntGauge> = Lazy::new(|| {
    let help = "1 while rate limits are counted by each gateway alone, because the shared counts can't be reached";
    register_int_gauge!("moongate_rate_limit_local_fallback", help).expect(ONCE)
});

static LOCAL_TOTAL: Lazy<IntCounter> = Lazy::new(|| {
    let help = "Times that a request's shared count could not be reached";
    register_int_counter!("moongate_rate_limit_local_fallback_total", help).expect(ONCE)
});

static LEASES: Lazy<IntCounter> = Lazy::new(|| {
    let help = "Calls for shared counts, each for one request or several";
    register_int_counter!("moongate_rate_limit_leases_total", help).expect(ONCE)
});

/// Counts that gateways share, and what this one has taken of them in advance.
pub(super) struct SharedCounts {
    cells: Arc<SharedCells>,
    shards: Box<[Mutex<HashMap<CounterKey, Lease>>]>,
    hasher: RandomState,
    keys: AtomicUsize,
    local: AtomicBool,
    told_at: Mutex<Option<Instant>>,
}

/// What is known about one key.
struct Lease {
    /// Taken and not spent.
    left: u64,
    /// When it was taken, and until when it may be spent.
    taken_at: Moment,
    /// How large it was.
    size: u64,
    /// How many more Redis had.
    remaining: u64,
    /// When the allowance will be whole.
    full_at: Moment,
    /// When the next request comes back, if the last one was refused.
    refused_until: Option<Moment>,
    /// Notified when Redis has answered, while a call is under way.
    caller: Option<Arc<Notify>>,
    /// Requests that wait for it now, and that waited the last time.
    waiting: u32,
    waited: u32,
}

/// What is taken from Redis in advance, as the admin API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct SharedReport {
    /// Whether each gateway counts alone right now.
    local: bool,
    keys: usize,
    keys_max: usize,
    /// Requests that were taken and not spent.
    leased: u64,
}

enum Next {
    Done(Taken),
    Wait(OwnedNotified),
    Ask { wanted: u64, unused: u64, known: bool },
}

impl Lease {
    fn new(now: Moment) -> Self {
        Self {
            left: 0,
            taken_at: now,
            size: 0,
            remaining: 0,
            full_at: now,
            refused_until: None,
            caller: None,
            waiting: 0,
            waited: 0,
        }
    }

    fn alive(&self, now: Moment) -> bool {
        now.since(self.taken_at) < LIFE
    }

    /// What can be said without a call.
    fn answer(&mut self, now: Moment) -> Option<Taken> {
        let full_in = self.full_at.since(now);
        if self.left > 0 && self.alive(now) {
            self.left -= 1;
            let remaining = self.remaining + self.left;
            return Some(Taken { granted: true, remaining, full_in, retry_in: Duration::ZERO });
        }
        let until = self.refused_until.filter(|it| *it > now && now.since(self.taken_at) < REFUSAL_MAX)?;
        Some(Taken { granted: false, remaining: 0, full_in, retry_in: until.since(now) })
    }

    /// How many to lease next: as fast as they went.
    fn wanted(&self, quota: Quota, now: Moment) -> u64 {
        let largest = (quota.burst() / SHARE).clamp(1, LEASE_MAX);
        let spent = self.size.saturating_sub(self.left);
        let pace = match (self.refused_until, self.alive(now)) {
            (Some(_), _) => 1,
            (None, true) => spent * 2,
            (None, false) if now.since(self.taken_at) < FORGET => spent / 2,
            (None, false) => 1,
        };
        pace.max(u64::from(self.waited)).max(1).min(largest)
    }
}

/// Calls Redis for a key; requests that wait for the answer are notified, even if the call is given up.
struct Ask<'s> {
    counts: &'s SharedCounts,
    key: CounterKey,
}

impl Drop for Ask<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.counts.shard(self.key).get_mut(&self.key) {
            lease.waited = std::mem::take(&mut lease.waiting);
            lease.caller.take().into_iter().for_each(|it| it.notify_waiters());
        }
    }
}

impl SharedCounts {
    pub(super) fn new(cells: Arc<SharedCells>) -> Self {
        LOCAL.set(0);
        Self {
            cells,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            keys: AtomicUsize::new(0),
            local: AtomicBool::new(false),
            told_at: Mutex::default(),
        }
    }

    /// Takes one request of a key; `name` is what Redis knows it by.
    pub(super) async fn take(
        &self,
        key: CounterKey,
        quota: Quota,
        name: impl Fn() -> String,
        clock: &Counters,
    ) -> Result<Taken, Unavailable> {
        let end = tokio::time::Instant::now() + WAIT_MAX;
        loop {
            match self.next(key, quota, clock.now())? {
                Next::Done(taken) => return Ok(taken),
                Next::Wait(answered) => {
                    let reported = timeout_at(end, answered).await;
                    reported.map_err(|_| LOCAL_TOTAL.inc()).map_err(|()| Unavailable)?;
                }
                Next::Ask { wanted, unused, known } => {
                    let _ask = known.then_some(Ask { counts: self, key });
                    LEASES.inc();
                    let granted = self.cells.take(&name(), quota, wanted, unused).await;
                    self.note(granted.is_ok());
                    let granted = granted?;
                    let now = clock.now();
                    if let Some(lease) = self.shard(key).get_mut(&key) {
                        lease.keep(&granted, now);
                    }
                    return Ok(Taken {
                        granted: granted.cells > 0,
                        remaining: granted.remaining + granted.cells.saturating_sub(1),
                        full_in: granted.full_in,
                        retry_in: if granted.cells > 0 { Duration::ZERO } else { granted.next_in },
                    });
                }
            }
        }
    }

    /// Gives one request back that was taken and not used.
    pub(super) fn give_back(&self, key: CounterKey) {
        if let Some(lease) = self.shard(key).get_mut(&key) {
            lease.left += 1;
        }
    }

    /// Whether the shared counts could not be reached at the last call.
    fn counts_locally(&self) -> bool {
        self.local.load(Relaxed)
    }

    pub(super) fn report(&self) -> SharedReport {
        let leased = self.shards.iter().map(|it| it.lock().values().map(|it| it.left).sum::<u64>()).sum();
        SharedReport { local: self.counts_locally(), keys: self.keys.load(Relaxed), keys_max: KEYS_MAX, leased }
    }

    fn shard(&self, key: CounterKey) -> MutexGuard<'_, HashMap<CounterKey, Lease>> {
        self.shards[self.hasher.hash_one(key) as usize % SHARDS].lock()
    }

    fn next(&self, key: CounterKey, quota: Quota, now: Moment) -> Result<Next, Unavailable> {
        let mut shard = self.shard(key);
        if !shard.contains_key(&key) && !self.make_room(&mut shard, now) {
            return Ok(Next::Ask { wanted: 1, unused: 0, known: false });
        }
        let lease = shard.entry(key).or_insert_with(|| Lease::new(now));
        if let Some(taken) = lease.answer(now) {
            return Ok(Next::Done(taken));
        }
        if let Some(caller) = &lease.caller {
            if lease.waiting >= WAITING_MAX {
                LOCAL_TOTAL.inc();
                return Err(Unavailable);
            }
            lease.waiting += 1;
            // Made under the lock: notified even if the answer comes before it is waited for.
            return Ok(Next::Wait(caller.clone().notified_owned()));
        }
        let wanted = lease.wanted(quota, now);
        lease.caller = Some(Arc::default());
        // Redis may keep them although it does not answer: they are returned once, or not at all.
        Ok(Next::Ask { wanted, unused: std::mem::take(&mut lease.left), known: true })
    }

    fn make_room(&self, shard: &mut HashMap<CounterKey, Lease>, now: Moment) -> bool {
        if shard.len() >= KEYS_MAX / SHARDS {
            let before = shard.len();
            shard.retain(|_, it| it.caller.is_some() || now.since(it.taken_at) < FORGET);
            self.keys.fetch_sub(before - shard.len(), Relaxed);
        }
        let room = shard.len() < KEYS_MAX / SHARDS;
        self.keys.fetch_add(usize::from(room), Relaxed);
        room
    }

    /// Tells once when counting becomes local, and when it is shared again.
    fn note(&self, reached: bool) {
        if !reached {
            LOCAL_TOTAL.inc();
        }
        if self.local.swap(!reached, Relaxed) != reached {
            return;
        }
        LOCAL.set(i64::from(!reached));
        let mut told_at = self.told_at.lock();
        if reached {
            tracing::info!(event = "rate_limits_shared", "gateways count together again");
        } else if told_at.is_none_or(|it| it.elapsed() > TOLD_EVERY) {
            *told_at = Some(Instant::now());
            tracing::warn!(event = "rate_limits_local", "shared counts can't be reached: each gateway counts alone");
        }
    }
}

impl Lease {
    /// Redis has answered; one of what it gave is spent already.
    fn keep(&mut self, granted: &Granted, now: Moment) {
        // What was returned meanwhile stays.
        self.left += granted.cells.saturating_sub(1);
        self.size = granted.cells;
        self.taken_at = now;
        self.remaining = granted.remaining;
        self.full_at = now.after(granted.full_in);
        self.refused_until = (granted.cells == 0).then(|| now.after(granted.next_in));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(cells: u64) -> Granted {
        let second = Duration::from_secs(1);
        Granted { cells, remaining: 0, full_in: second, next_in: second }
    }

    #[test]
    fn a_lease_is_spent_within_its_life_and_grows_with_the_pace() {
        let counters = Counters::new(1);
        let now = counters.now();
        let quota = Quota::new(1_000, Duration::from_secs(60), 1_000).unwrap();
        let mut lease = Lease::new(now);
        let mut sizes = Vec::new();
        for _ in 0..10 {
            let wanted = lease.wanted(quota, now);
            sizes.push(wanted);
            lease.keep(&granted(wanted), now);
            while lease.answer(now).is_some() {}
        }
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 125, 125, 125]);
        // Later the same key is seldom used.
        lease.keep(&granted(100), now);
        assert!(lease.answer(now).is_some_and(|it| it.granted));
        let later = now.after(LIFE);
        assert_eq!(lease.answer(later), None);
        assert_eq!(lease.left, 98);
        assert_eq!(lease.wanted(quota, later), 1);
        // A small burst is never leased away.
        assert_eq!(lease.wanted(Quota::new(5, LIFE, 5).unwrap(), now), 1);
    }

    #[test]
    fn a_refusal_holds_until_the_next_comes_back_but_not_longer_than_a_second() {
        let counters = Counters::new(1);
        let now = counters.now();
        let mut lease = Lease::new(now);
        lease.keep(&granted(0), now);
        let refused = lease.answer(now.after(Duration::from_millis(900))).unwrap();
        assert_eq!((refused.granted, refused.retry_in), (false, Duration::from_millis(100)));
        assert_eq!(lease.answer(now.after(Duration::from_millis(1_000))), None);
        lease.keep(&Granted { next_in: Duration::from_secs(60), ..granted(0) }, now);
        assert!(lease.answer(now.after(Duration::from_millis(999))).is_some());
        assert_eq!(lease.answer(now.after(Duration::from_millis(1_000))), None);
    }
}
