//! Values in this process.
//!
//! A value that is there is never pushed out by another one: a nonce or an idempotency record that
//! vanished early would let a replay pass. When the memory is full, new values are refused.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use crate::state::config::MemoryBounds;
use crate::state::metrics;
use crate::state::records::{Insert, Records, Unavailable};

/// Many, so that two threads seldom want the same.
const SHARDS: usize = 64;
/// What an entry takes beside its key and value: two map nodes and the counts of the key.
const OVERHEAD: usize = 192;
/// So many expired entries are removed under one hold of a shard's lock.
const SWEPT_AT_ONCE: usize = 256;
/// How often what has expired is removed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// A century is forever, and an instant can still hold it.
const LIFE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Values in this process.
pub(super) struct Memory {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    entries: AtomicUsize,
    bytes: AtomicUsize,
    bounds: MemoryBounds,
}

#[derive(Default)]
struct Shard {
    values: HashMap<Arc<str>, Entry>,
    /// The same keys, those that end first in front.
    ends: BTreeSet<(Instant, Arc<str>)>,
}

struct Entry {
    value: Bytes,
    end: Instant,
}

impl Shard {
    fn live(&self, key: &str, now: Instant) -> Option<&Bytes> {
        self.values.get(key).filter(|it| it.end > now).map(|it| &it.value)
    }

    /// Removes an entry, expired or not; returns how many bytes that frees.
    fn remove(&mut self, key: &str) -> Option<usize> {
        let (key, entry) = self.values.remove_entry(key)?;
        let freed = cost(&key, &entry.value);
        self.ends.remove(&(entry.end, key));
        Some(freed)
    }

    /// For a key that is not there.
    fn put(&mut self, key: &str, value: &[u8], end: Instant) {
        let key: Arc<str> = key.into();
        self.ends.insert((end, key.clone()));
        // A copy: what was passed may be a small part of something large, and would keep all of it.
        self.values.insert(key, Entry { value: Bytes::copy_from_slice(value), end });
    }

    fn first_expired(&self, now: Instant) -> Option<Arc<str>> {
        self.ends.first().filter(|(end, _)| *end <= now).map(|(_, key)| key.clone())
    }
}

fn cost(key: &str, value: &[u8]) -> usize {
    OVERHEAD + key.len() + value.len()
}

impl Memory {
    pub(super) fn new(bounds: &MemoryBounds) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            entries: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            bounds: bounds.clone(),
        }
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let number = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[number].lock()
    }

    /// Takes room for an entry, in place of one that took `old`; false, and nothing is taken, if there
    /// is none.
    fn reserve(&self, bytes: usize, old: Option<usize>) -> bool {
        let (more, freed) = (usize::from(old.is_none()), old.unwrap_or(0));
        let entries = self.entries.fetch_add(more, Ordering::Relaxed) + more;
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if entries <= self.bounds.entries_max && held.saturating_sub(freed) <= self.bounds.bytes_max {
            self.bytes.fetch_sub(freed, Ordering::Relaxed);
            return true;
        }
        self.entries.fetch_sub(more, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        false
    }

    fn give_back(&self, bytes: usize) {
        self.entries.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Puts a value there unless `objects` has something to say about what is there now.
    fn put_unless<T>(
        &self,
        (key, value, life): (&str, &[u8], Duration),
        objects: impl Fn(Option<&Bytes>) -> Option<T>,
    ) -> Result<Option<T>, Unavailable> {
        let now = Instant::now();
        let end = now + life.clamp(Duration::from_millis(1), LIFE_MAX);
        for attempt in 0..2 {
            let mut shard = self.shard(key);
            if let Some(objection) = objects(shard.live(key, now)) {
                return Ok(Some(objection));
            }
            let old = shard.values.get(key).map(|it| cost(key, &it.value));
            if self.reserve(cost(key, value), old) {
                shard.remove(key);
                shard.put(key, value, end);
                return Ok(None);
            }
            drop(shard);
            if attempt == 0 {
                self.sweep(now);
            }
        }
        metrics::FULL.inc();
        Err(Unavailable)
    }

    /// Removes what has expired, a few entries under each hold of a lock.
    fn sweep(&self, now: Instant) {
        for shard in &self.shards {
            while self.sweep_some(&mut shard.lock(), now) == SWEPT_AT_ONCE {}
        }
    }

    fn sweep_some(&self, shard: &mut Shard, now: Instant) -> usize {
        for swept in 0..SWEPT_AT_ONCE {
            let Some(key) = shard.first_expired(now) else { return swept };
            if let Some(freed) = shard.remove(&key) {
                self.give_back(freed);
            }
        }
        SWEPT_AT_ONCE
    }

    fn show(&self) {
        let figure = |it: &AtomicUsize| i64::try_from(it.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        metrics::ENTRIES.set(figure(&self.entries));
        metrics::BYTES.set(figure(&self.bytes));
    }
}

/// Removes what has expired for as long as the memory is there.
pub(super) async fn sweep_forever(memory: Weak<Memory>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(memory) = memory.upgrade() else { return };
        memory.sweep(Instant::now());
        memory.show();
    }
}

#[async_trait]
impl Records for Memory {
    async fn read(&self, key: &str) -> Result<Option<Bytes>, Unavailable> {
        Ok(self.shard(key).live(key, Instant::now()).cloned())
    }

    async fn write(&self, key: &str, value: Bytes, life: Duration) -> Result<(), Unavailable> {
        self.put_unless((key, &value, life), |_| None::<()>).map(|_| ())
    }

    async fn insert_if_absent(&self, key: &str, value: Bytes, life: Duration) -> Result<Insert, Unavailable> {
        let held = self.put_unless((key, &value, life), |there| there.cloned())?;
        Ok(held.map_or(Insert::Inserted, Insert::Exists))
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: &[u8],
        value: Bytes,
        life: Duration,
    ) -> Result<bool, Unavailable> {
        let differs = |there: Option<&Bytes>| there.is_none_or(|it| it != expected).then_some(());
        self.put_unless((key, &value, life), differs).map(|it| it.is_none())
    }

    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, Unavailable> {
        let mut shard = self.shard(key);
        if shard.live(key, Instant::now()).is_none_or(|it| it != expected) {
            return Ok(false);
        }
        let freed = shard.remove(key);
        freed.into_iter().for_each(|it| self.give_back(it));
        Ok(freed.is_some())
    }

    async fn delete(&self, key: &str) -> Result<(), Unavailable> {
        let freed = self.shard(key).remove(key);
        freed.into_iter().for_each(|it| self.give_back(it));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    fn memory(entries_max: usize, bytes_max: usize) -> Memory {
        Memory::new(&MemoryBounds { entries_max, bytes_max, keys_max: 1 })
    }

    fn held(memory: &Memory) -> (usize, usize) {
        (memory.entries.load(Ordering::Relaxed), memory.bytes.load(Ordering::Relaxed))
    }

    fn put(memory: &Memory, key: &str, value: &[u8], life: Duration) -> Result<(), Unavailable> {
        memory.put_unless((key, value, life), |_| None::<()>).map(|_| ())
    }

    #[test]
    fn a_full_memory_refuses_new_values_and_keeps_the_old() {
        let memory = memory(2, 10_000);
        put(&memory, "a", b"1", LIFE).unwrap();
        put(&memory, "b", b"2", LIFE).unwrap();
        assert_eq!(put(&memory, "c", b"3", LIFE), Err(Unavailable));
        // One that is there can still be replaced.
        put(&memory, "a", b"4", LIFE).unwrap();
        assert_eq!(memory.shard("a").live("a", Instant::now()), Some(&Bytes::from_static(b"4")));
        assert_eq!(held(&memory).0, 2);
    }

    #[test]
    fn bytes_are_bounded_too_and_come_free() {
        let memory = memory(100, 1_000);
        put(&memory, "a", &[0; 600], LIFE).unwrap();
        assert_eq!(put(&memory, "b", &[0; 600], LIFE), Err(Unavailable));
        put(&memory, "a", b"", LIFE).unwrap();
        put(&memory, "b", &[0; 400], LIFE).unwrap();
        memory.shard("a").remove("a").into_iter().for_each(|it| memory.give_back(it));
        memory.shard("b").remove("b").into_iter().for_each(|it| memory.give_back(it));
        assert_eq!(held(&memory), (0, 0));
    }

    #[test]
    fn what_has_expired_makes_room_without_a_sweeper() {
        let memory = memory(1_000, 1_000_000);
        for number in 0..1_000 {
            put(&memory, &number.to_string(), b"", Duration::from_millis(1)).unwrap();
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(2) {
            std::thread::yield_now();
        }
        put(&memory, "new", b"", LIFE).unwrap();
        assert_eq!(held(&memory).0, 1);
        let left: usize = memory.shards.iter().map(|it| it.lock().ends.len()).sum();
        assert_eq!(left, 1);
    }
}
