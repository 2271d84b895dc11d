//! Counters of rate limits in this process: GCRA, the "generic cell rate algorithm" of ITU-T I.371.
//!
//! A counter is one number, the theoretical arrival time: when its allowance would be whole again if
//! nothing more came. A cell moves it by the time that one cell takes to come back; where it would end up
//! too far ahead of now, the cell is refused. So a counter is exact, needs no timer, and is worth nothing
//! once its time is over. 24 bytes hold it, with a keyed hash in place of what it counts for.
//!
//! Time is counted in nanoseconds since the process began, by a clock that never goes back.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::state::metrics;

/// So many counters of one shard, at most: small enough that moving all of them takes microseconds.
const SHARD_MAX: usize = 2_048;
const SHARDS_MAX: usize = 4_096;
/// So many limits are distinguished when counters are counted; the rest share the last place.
const LIMITS_MAX: usize = 1_024;
/// The whole table is looked through once in this time, a little every [`SWEEP_EVERY`].
const SWEEP_ALL: Duration = Duration::from_secs(60);
const SWEEP_EVERY: Duration = Duration::from_millis(100);
/// A full shard loses one in so many of its counters at once, so that it is not full again at once.
const EVICTED_SHARE: usize = 16;

/// How many cells a counter lets through: one comes back every `emission`, and of those that came back
/// a `tolerance` full is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Nanoseconds.
    emission: u64,
    /// Nanoseconds.
    tolerance: u64,
}

/// A moment by the counters' clock, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// Stands for what is counted: a hash that nobody outside can foresee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CounterKey([u64; 2]);

/// What a counter said to cells that were requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether they were granted. If not, the counter is what it was.
    pub granted: bool,
    /// How many more would be granted right now.
    pub remaining: u64,
    /// How long until the allowance is whole.
    pub full_in: Duration,
    /// How long until as many cells would be granted; zero if they were.
    pub retry_in: Duration,
}

/// How full the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Counters in memory.
    pub keys: u64,
    /// How many there may be.
    pub keys_max: u64,
    /// What the table takes.
    pub bytes: u64,
    /// Counters that were pushed out before their time.
    pub evicted: u64,
}

/// Counters by key.
pub struct Counters {
    shards: Box<[Mutex<HashTable<Entry>>]>,
    shard_max: usize,
    epoch: Instant,
    hashers: [RandomState; 2],
    by_limit: Box<[AtomicU64]>,
}

struct Entry {
    key: CounterKey,
    /// The theoretical arrival time.
    tat: u64,
}

impl Moment {
    /// The time from an earlier moment to this one; none if that one is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// So much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Quota {
    /// So many requests in a time, of which `burst` may come at once. `None` if that is more than one a
    /// nanosecond, nothing at all, or takes longer than a century to come back.
    pub fn new(requests: u64, every: Duration, burst: u64) -> Option<Self> {
        const CENTURY: u64 = 100 * 365 * 86_400 * 1_000_000_000;
        let every = u64::try_from(every.as_nanos()).ok()?;
        let emission = every.checked_div(requests).filter(|it| *it > 0)?;
        let tolerance = emission.checked_mul(burst).filter(|it| (1..=CENTURY).contains(it))?;
        Some(Self { emission, tolerance })
    }

    /// The same with only a share of the requests, in thousandths. Times stay what they mean, so that
    /// counters go on.
    #[must_use]
    pub fn slowed(self, thousandths: u32) -> Self {
        if thousandths >= 1_000 {
            return self;
        }
        let emission = self.emission.saturating_mul(1_000) / u64::from(thousandths.max(1));
        Self { emission, tolerance: self.tolerance.max(emission) }
    }

    /// How many cells a whole allowance holds.
    pub fn burst(self) -> u64 {
        self.tolerance / self.emission
    }

    /// How long one cell takes to come back.
    pub fn emission(self) -> Duration {
        Duration::from_nanos(self.emission)
    }

    /// The length of a whole allowance.
    pub fn tolerance(self) -> Duration {
        Duration::from_nanos(self.tolerance)
    }

    /// How long until a counter whose allowance is whole in this time lets one more cell through than now.
    pub fn more_in(self, full_in: Duration) -> Duration {
        let full_in = u64::try_from(full_in.as_nanos()).unwrap_or(u64::MAX);
        if full_in == 0 {
            return Duration::ZERO;
        }
        let there = self.tolerance.saturating_sub(full_in);
        Duration::from_nanos(self.emission - there % self.emission)
    }

    /// The decision: a plain function of numbers. Gives the new arrival time, too.
    fn decide(self, tat: u64, cells: u64, now: u64) -> (u64, Taken) {
        let horizon = now + self.tolerance;
        // A limit that was made smaller may have left a time beyond what can be reached now. A moment that
        // comes late gains no more by this than it is late.
        let tat = tat.clamp(now, horizon);
        let next = tat.saturating_add(self.emission.saturating_mul(cells));
        let granted = next <= horizon;
        let kept = if granted { next } else { tat };
        let taken = Taken {
            granted,
            remaining: (horizon - kept) / self.emission,
            full_in: Duration::from_nanos(kept - now),
            retry_in: Duration::from_nanos(next.saturating_sub(horizon)),
        };
        (kept, taken)
    }
}

impl Counters {
    /// So many counters at most; each takes between 29 and 57 bytes.
    pub fn new(keys_max: usize) -> Self {
        let shards = (keys_max / SHARD_MAX).next_power_of_two().clamp(1, SHARDS_MAX);
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            shard_max: keys_max.div_ceil(shards).max(1),
            epoch: Instant::now(),
            hashers: [RandomState::new(), RandomState::new()],
            by_limit: (0..LIMITS_MAX).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX / 2))
    }

    /// The key of a subject under a limit. Limits of different `scope` never share a counter; `limit`
    /// is under which number [`Counters::counted`] counts it.
    pub fn key(&self, scope: &str, limit: u16, kind: u8, subject: [&[u8]; 4]) -> CounterKey {
        let [first, second] = self.hashers.each_ref().map(|it| {
            let mut hasher = it.build_hasher();
            // Lengths in front: no two subjects are the same bytes.
            for part in std::iter::once(scope.as_bytes()).chain(subject) {
                hasher.write_usize(part.len());
                hasher.write(part);
            }
            hasher.write_u8(kind);
            hasher.finish()
        });
        CounterKey([first, second & !0xffff | u64::from(limit)])
    }

    /// Takes cells, all of them or none.
    pub fn take(&self, key: CounterKey, quota: Quota, cells: u64, now: Moment) -> Taken {
        let mut shard = self.shard(key).lock();
        if let Some(entry) = shard.find_mut(key.0[0], |it| it.key == key) {
            let (tat, taken) = quota.decide(entry.tat, cells, now.0);
            entry.tat = tat;
            return taken;
        }
        let (tat, taken) = quota.decide(0, cells, now.0);
        if taken.granted && cells > 0 {
            self.make_room(&mut shard, now);
            shard.insert_unique(key.0[0], Entry { key, tat }, |it| it.key.0[0]);
            self.slot(key).fetch_add(1, Relaxed);
        }
        taken
    }

    /// What [`Counters::take`] would say; nothing is taken.
    pub fn look(&self, key: CounterKey, quota: Quota, cells: u64, now: Moment) -> Taken {
        let shard = self.shard(key).lock();
        let tat = shard.find(key.0[0], |it| it.key == key).map_or(0, |it| it.tat);
        quota.decide(tat, cells, now.0).1
    }

    /// Gives cells back that were taken and not used.
    pub fn give_back(&self, key: CounterKey, quota: Quota, cells: u64) {
        let mut shard = self.shard(key).lock();
        if let Some(entry) = shard.find_mut(key.0[0], |it| it.key == key) {
            entry.tat = entry.tat.saturating_sub(quota.emission.saturating_mul(cells));
        }
    }

    /// How many counters there are of the limit of this number.
    pub fn counted(&self, limit: u16) -> u64 {
        self.by_limit[usize::from(limit).min(LIMITS_MAX - 1)].load(Relaxed)
    }

    /// How full the table is. Looks at every shard: not for a worker.
    pub fn fill(&self) -> Fill {
        let (keys, bytes) = self.shards.iter().fold((0, 0), |(keys, bytes), shard| {
            let shard = shard.lock();
            (keys + shard.len(), bytes + shard.allocation_size() + size_of::<Mutex<HashTable<Entry>>>())
        });
        Fill {
            keys: keys as u64,
            keys_max: (self.shard_max * self.shards.len()) as u64,
            bytes: bytes as u64,
            evicted: metrics::COUNTERS_EVICTED.get(),
        }
    }

    fn shard(&self, key: CounterKey) -> &Mutex<HashTable<Entry>> {
        // Not of the half that the table places by.
        &self.shards[(key.0[1] >> 32) as usize & (self.shards.len() - 1)]
    }

    fn slot(&self, key: CounterKey) -> &AtomicU64 {
        &self.by_limit[((key.0[1] & 0xffff) as usize).min(LIMITS_MAX - 1)]
    }

    /// Room for one more: first what is over goes, then the table grows, and where it may not, those
    /// go whose allowance is nearest to whole, as dropping them gives away the least.
    fn make_room(&self, shard: &mut HashTable<Entry>, now: Moment) {
        if shard.len() < shard.capacity().min(self.shard_max) {
            return;
        }
        self.keep(shard, |entry| entry.tat > now.0);
        if shard.len() >= self.shard_max {
            self.evict(shard);
        } else if shard.len() >= shard.capacity() / 8 * 7 {
            // Else the next few would look through all of it again.
            shard.reserve(shard.capacity(), |it| it.key.0[0]);
        }
    }

    fn evict(&self, shard: &mut HashTable<Entry>) {
        let count = (shard.len() / EVICTED_SHARE).max(1);
        let mut times: Vec<u64> = shard.iter().map(|it| it.tat).collect();
        let (_, &mut border, _) = times.select_nth_unstable(count - 1);
        let mut left = count;
        self.keep(shard, |entry| {
            let goes = left > 0 && entry.tat <= border;
            left -= usize::from(goes);
            !goes
        });
        metrics::COUNTERS_EVICTED.inc_by(count as u64);
    }

    fn keep(&self, shard: &mut HashTable<Entry>, mut keep: impl FnMut(&Entry) -> bool) {
        shard.retain(|entry| {
            let kept = keep(entry);
            if !kept {
                self.slot(entry.key).fetch_sub(1, Relaxed);
            }
            kept
        });
    }

    fn sweep(&self, number: usize) {
        let now = self.now();
        let mut shard = self.shards[number].lock();
        self.keep(&mut shard, |entry| entry.tat > now.0);
        // After a flood the memory goes back. The table's capacity says too little: places of those who left count as
        // taken until it is made anew.
        let room = shard.allocation_size() / size_of::<Entry>();
        if room > 64 && shard.len() < room / 4 {
            let wanted = shard.len() * 2;
            shard.shrink_to(wanted, |it| it.key.0[0]);
        }
    }
}

/// Removes what is over for as long as the counters are there.
pub(super) async fn sweep_forever(counters: Weak<Counters>) {
    let rounds = (SWEEP_ALL.as_millis() / SWEEP_EVERY.as_millis()) as usize;
    let mut next = 0;
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(counters) = counters.upgrade() else { return };
        let count = counters.shards.len();
        for _ in 0..count.div_ceil(rounds) {
            counters.sweep(next % count);
            next = (next + 1) % count;
        }
        metrics::COUNTERS.set(counters.by_limit.iter().map(|it| it.load(Relaxed) as i64).sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const MINUTE: Duration = Duration::from_secs(60);

    fn at(millis: u64) -> Moment {
        Moment(SECOND * 1_000 + millis * 1_000_000)
    }

    fn key(counters: &Counters, subject: u64) -> CounterKey {
        counters.key("defaults/ip", 0, 1, [&subject.to_le_bytes(), b"", b"", b""])
    }

    /// How many of so many requests in a row pass.
    fn passed(counters: &Counters, quota: Quota, requests: usize, now: Moment) -> usize {
        let key = key(counters, 1);
        (0..requests).filter(|_| counters.take(key, quota, 1, now).granted).count()
    }

    #[test]
    fn s2s_33_sixty_a_minute_are_sixty_at_once_and_then_one_a_second() {
        let counters = Counters::new(1_000);
        let quota = Quota::new(60, MINUTE, 60).unwrap();
        assert_eq!(passed(&counters, quota, 100, at(0)), 60);
        assert_eq!(passed(&counters, quota, 100, at(999)), 0);
        assert_eq!(passed(&counters, quota, 100, at(1_000)), 1);
        assert_eq!(passed(&counters, quota, 100, at(11_000)), 10);
        assert_eq!(passed(&counters, quota, 100, at(11_000 + 3_600_000)), 60);
    }

    #[test]
    fn what_is_left_and_when_more_comes_is_told_exactly() {
        let counters = Counters::new(1_000);
        let quota = Quota::new(60, MINUTE, 2).unwrap();
        let take = |now| counters.take(key(&counters, 1), quota, 1, now);
        let seconds = Duration::from_secs;
        let given = |remaining, full| Taken { granted: true, remaining, full_in: seconds(full), retry_in: seconds(0) };
        assert_eq!(take(at(0)), given(1, 1));
        assert_eq!(take(at(0)), given(0, 2));
        let refused = Taken { granted: false, remaining: 0, full_in: seconds(2), retry_in: seconds(1) };
        assert_eq!(take(at(0)), refused);
        assert_eq!(counters.look(key(&counters, 1), quota, 1, at(0)), refused);
        assert_eq!(take(at(250)).retry_in, Duration::from_millis(750));
        assert!(take(at(1_000)).granted);
    }

    #[test]
    fn what_was_given_back_can_be_taken_again() {
        let counters = Counters::new(1_000);
        let quota = Quota::new(1, MINUTE, 1).unwrap();
        let key = key(&counters, 1);
        assert!(counters.take(key, quota, 1, at(0)).granted);
        assert!(!counters.take(key, quota, 1, at(0)).granted);
        counters.give_back(key, quota, 1);
        assert!(counters.take(key, quota, 1, at(0)).granted);
        assert!(!counters.take(key, quota, 1, at(0)).granted);
    }

    #[test]
    fn a_moment_that_lies_back_gives_nothing_away_and_blocks_nobody() {
        let counters = Counters::new(1_000);
        let quota = Quota::new(60, MINUTE, 3).unwrap();
        assert_eq!(passed(&counters, quota, 9, at(5_000)), 3);
        // Threads look at the clock one after the other, and come in any order.
        assert_eq!(passed(&counters, quota, 9, at(4_990)), 0);
        assert_eq!(passed(&counters, quota, 9, at(5_000)), 0);
        assert_eq!(passed(&counters, quota, 9, at(6_000)), 1);
        // A limit that got smaller: at once what it allows, not after what the old one would have taken.
        let large = Quota::new(1, Duration::from_secs(3_600), 100).unwrap();
        assert_eq!(passed(&counters, large, 100, at(7_000)), 99);
        assert_eq!(passed(&counters, quota, 9, at(7_000)), 0);
        assert_eq!(passed(&counters, quota, 9, at(8_000)), 1);
    }

    #[test]
    fn a_slowed_quota_gives_its_share_and_never_nothing() {
        let counters = Counters::new(1_000);
        let quota = Quota::new(60, MINUTE, 60).unwrap().slowed(250);
        assert_eq!(quota.burst(), 15);
        assert_eq!(passed(&counters, quota, 100, at(0)), 15);
        assert_eq!(passed(&counters, quota, 100, at(60_000)), 15);
        let single = Quota::new(1, MINUTE, 1).unwrap().slowed(250);
        assert_eq!(passed(&Counters::new(1), single, 9, at(0)), 1);
    }

    #[test]
    fn quotas_beyond_the_clock_are_none() {
        for (requests, every, burst) in [
            (0, MINUTE, 1),
            (1, MINUTE, 0),
            (1, Duration::ZERO, 1),
            (2, Duration::from_nanos(1), 1),
            (1, Duration::MAX, 1),
            (1, MINUTE, u64::MAX),
        ] {
            assert_eq!(Quota::new(requests, every, burst), None, "{requests} {every:?} {burst}");
        }
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_those_under_limit_stay() {
        let counters = Counters::new(10_000);
        let quota = Quota::new(60, MINUTE, 60).unwrap();
        // One that has used up its allowance.
        assert_eq!(passed(&counters, quota, 60, at(0)), 60);
        let evicted = metrics::COUNTERS_EVICTED.get();
        for subject in 10..1_000_000 {
            assert!(counters.take(key(&counters, subject), quota, 1, at(0)).granted);
        }
        let fill = counters.fill();
        assert!(fill.keys <= fill.keys_max && fill.keys_max <= 10_000 + 8, "{fill:?}");
        assert!(fill.keys > 8_000, "{fill:?}");
        assert_eq!(fill.keys, counters.counted(0));
        assert!(metrics::COUNTERS_EVICTED.get() - evicted >= 980_000);
        // The flood did not set it free.
        assert_eq!(passed(&counters, quota, 1, at(0)), 0);
    }

    #[test]
    fn a_million_addresses_take_less_than_a_hundred_bytes_each_and_go_when_their_time_is_over() {
        let counters = Counters::new(14_000_000);
        // An hour is longer than any machine takes for what follows.
        let quota = Quota::new(1, Duration::from_secs(3_600), 1).unwrap();
        let now = counters.now();
        for subject in 0..1_000_000 {
            counters.take(key(&counters, subject), quota, 1, now);
        }
        let fill = counters.fill();
        assert_eq!((fill.keys, counters.counted(0)), (1_000_000, 1_000_000));
        assert!(fill.bytes < 1_000_000 * 60, "{fill:?}");
        // Then each is whole again: nothing of them is worth keeping.
        let later = Moment(now.0 + 3_601 * SECOND);
        for shard in &counters.shards {
            counters.keep(&mut shard.lock(), |it| it.tat > later.0);
        }
        assert_eq!((counters.fill().keys, counters.counted(0)), (0, 0));
        (0..counters.shards.len()).for_each(|it| counters.sweep(it));
        assert!(counters.fill().bytes < 1_000_000, "{:?}", counters.fill());
    }

    #[test]
    fn threads_share_one_allowance() {
        let counters = Counters::new(1_000);
        let quota = Quota::new(1_000, Duration::from_secs(86_400), 1_000).unwrap();
        let now = counters.now();
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| passed(&counters, quota, 500, now))).collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(passed, 1_000);
    }
}
