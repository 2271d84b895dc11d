//! Values in this process.
//!
//! A value that is there is never pushed out by another one: a nonce or an idempotency record that
//! vanished early would let a replay pass. When the memory is full, new values are refused. Who may fill which part
//! of it is said in `room`.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ahash::RandomState;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use crate::state::config::MemoryBounds;
use crate::state::metrics;
use crate::state::records::{Insert, NotTaken, Records, Unavailable};
use crate::state::room::{Charge, Lack, Rooms};

/// Many, so that two threads seldom want the same.
const SHARDS: usize = 64;
/// What an entry takes beside its key and value: two map nodes, the counts of the key, and its network's share.
const OVERHEAD: usize = 256;
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
    rooms: Rooms,
}

#[derive(Default)]
struct Shard {
    /// Keys are chosen by clients: the hasher has a secret.
    values: HashMap<Arc<str>, Entry, RandomState>,
    /// The same keys, those that end first in front.
    ends: BTreeSet<(Instant, Arc<str>)>,
}

struct Entry {
    value: Bytes,
    end: Instant,
    /// From whose share its room is.
    network: Option<IpAddr>,
}

impl Entry {
    fn charge(&self, key: &str) -> Charge {
        Charge { bytes: cost(key, &self.value), network: self.network }
    }
}

/// What is to be put under a key, for how long, and from whose share.
struct New<'a> {
    key: &'a str,
    value: &'a [u8],
    life: Duration,
    network: Option<IpAddr>,
}

/// What came of putting a value there.
type Put<T> = Result<Option<T>, Lack>;

impl Shard {
    fn live(&self, key: &str, now: Instant) -> Option<&Bytes> {
        self.values.get(key).filter(|it| it.end > now).map(|it| &it.value)
    }

    /// Removes an entry, expired or not; returns what that frees.
    fn remove(&mut self, key: &str) -> Option<Charge> {
        let (key, entry) = self.values.remove_entry(key)?;
        let freed = entry.charge(&key);
        self.ends.remove(&(entry.end, key));
        Some(freed)
    }

    /// For a key that is not there.
    fn put(&mut self, new: &New<'_>, end: Instant) {
        let key: Arc<str> = new.key.into();
        self.ends.insert((end, key.clone()));
        // A copy: what was passed may be a small part of something large, and would keep all of it.
        let value = Bytes::copy_from_slice(new.value);
        self.values.insert(key, Entry { value, end, network: new.network });
    }

    /// Gives an entry that is there another end.
    fn extend(&mut self, key: &str, end: Instant) {
        let Some(key) = self.values.get_key_value(key).map(|(key, _)| key.clone()) else { return };
        let Some(entry) = self.values.get_mut(&key) else { return };
        self.ends.remove(&(entry.end, key.clone()));
        entry.end = end;
        self.ends.insert((end, key));
    }

    fn first_expired(&self, now: Instant) -> Option<Arc<str>> {
        self.ends.first().filter(|(end, _)| *end <= now).map(|(_, key)| key.clone())
    }
}

fn end_of(life: Duration, now: Instant) -> Instant {
    now + life.clamp(Duration::from_millis(1), LIFE_MAX)
}

fn cost(key: &str, value: &[u8]) -> usize {
    OVERHEAD + key.len() + value.len()
}

impl Memory {
    pub(super) fn new(bounds: &MemoryBounds) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            rooms: Rooms::new(bounds.rooms()),
        }
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let number = self.hasher.hash_one(key) as usize % SHARDS;
        self.shards[number].lock()
    }

    /// Puts a value there unless `objects` has something to say about what is there now.
    fn put_unless<T>(&self, new: &New<'_>, objects: impl Fn(Option<&Bytes>) -> Option<T>) -> Put<T> {
        let now = Instant::now();
        let mut attempt = 0;
        let lack = loop {
            let mut shard = self.shard(new.key);
            if let Some(objection) = objects(shard.live(new.key, now)) {
                return Ok(Some(objection));
            }
            let old = shard.values.get(new.key).map(|it| it.charge(new.key));
            let charge = Charge { bytes: cost(new.key, new.value), network: new.network };
            match self.rooms.take(&charge, old.as_ref()) {
                Ok(()) => {
                    shard.remove(new.key);
                    shard.put(new, end_of(new.life, now));
                    return Ok(None);
                }
                Err(lack) if attempt > 0 => break lack,
                Err(_) => drop(shard),
            }
            attempt += 1;
            self.sweep(now);
        };
        metrics::full(lack).inc();
        Err(lack)
    }

    fn remove(&self, key: &str) -> bool {
        let freed = self.shard(key).remove(key);
        freed.iter().for_each(|it| self.rooms.give_back(it));
        freed.is_some()
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
                self.rooms.give_back(&freed);
            }
        }
        SWEPT_AT_ONCE
    }

    fn show(&self) {
        let (idempotency, other) = self.rooms.used();
        metrics::show_used("idempotency", &idempotency);
        metrics::show_used("other", &other);
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
        let new = New { key, value: &value, life, network: None };
        self.put_unless(&new, |_| None::<()>).map(|_| ()).map_err(|_| Unavailable)
    }

    async fn insert_if_absent(&self, key: &str, value: Bytes, life: Duration) -> Result<Insert, Unavailable> {
        let new = New { key, value: &value, life, network: None };
        let held = self.put_unless(&new, |there| there.cloned()).map_err(|_| Unavailable)?;
        Ok(held.map_or(Insert::Inserted, Insert::Exists))
    }

    async fn claim(&self, key: &str, value: Bytes, life: Duration, network: IpAddr) -> Result<Insert, NotTaken> {
        let new = New { key, value: &value, life, network: Some(network) };
        let held = self.put_unless(&new, |there| there.cloned()).map_err(|_| NotTaken::Full)?;
        Ok(held.map_or(Insert::Inserted, Insert::Exists))
    }

    async fn settle(&self, key: &str, value: Bytes, life: Duration, network: IpAddr) -> Result<(), NotTaken> {
        let new = New { key, value: &value, life, network: Some(network) };
        self.put_unless(&new, |_| None::<()>).map(|_| ()).map_err(|_| NotTaken::Full)
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: &[u8],
        value: Bytes,
        life: Duration,
    ) -> Result<bool, Unavailable> {
        let differs = |there: Option<&Bytes>| there.is_none_or(|it| it != expected).then_some(());
        let new = New { key, value: &value, life, network: None };
        self.put_unless(&new, differs).map(|it| it.is_none()).map_err(|_| Unavailable)
    }

    async fn extend(&self, key: &str, expected: &[u8], life: Duration) -> Result<bool, Unavailable> {
        let (mut shard, now) = (self.shard(key), Instant::now());
        let there = shard.live(key, now).is_some_and(|it| it == expected);
        if there {
            shard.extend(key, end_of(life, now));
        }
        Ok(there)
    }

    async fn compare_and_delete(&self, key: &str, expected: &[u8]) -> Result<bool, Unavailable> {
        let mut shard = self.shard(key);
        if shard.live(key, Instant::now()).is_none_or(|it| it != expected) {
            return Ok(false);
        }
        let freed = shard.remove(key);
        freed.iter().for_each(|it| self.rooms.give_back(it));
        Ok(freed.is_some())
    }

    async fn delete(&self, key: &str) -> Result<(), Unavailable> {
        self.remove(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(60);

    fn memory(entries_max: usize, bytes_max: usize) -> Memory {
        // A quarter of it is the room of what these tests put there.
        let (entries_max, bytes_max) = (entries_max * 4, bytes_max * 4);
        Memory::new(&MemoryBounds { entries_max, bytes_max, keys_max: 1, network_share: 25 })
    }

    fn held(memory: &Memory) -> (usize, usize) {
        let other = memory.rooms.used().1;
        (other.entries, other.bytes)
    }

    fn put(memory: &Memory, key: &str, value: &[u8], life: Duration) -> Result<(), Lack> {
        memory.put_unless(&New { key, value, life, network: None }, |_| None::<()>).map(|_| ())
    }

    #[test]
    fn a_full_memory_refuses_new_values_and_keeps_the_old() {
        let memory = memory(2, 10_000);
        put(&memory, "a", b"1", LIFE).unwrap();
        put(&memory, "b", b"2", LIFE).unwrap();
        assert_eq!(put(&memory, "c", b"3", LIFE), Err(Lack::Other));
        // One that is there can still be replaced.
        put(&memory, "a", b"4", LIFE).unwrap();
        assert_eq!(memory.shard("a").live("a", Instant::now()), Some(&Bytes::from_static(b"4")));
        assert_eq!(held(&memory).0, 2);
    }

    #[test]
    fn bytes_are_bounded_too_and_come_free() {
        let memory = memory(100, 1_000);
        put(&memory, "a", &[0; 600], LIFE).unwrap();
        assert_eq!(put(&memory, "b", &[0; 600], LIFE), Err(Lack::Other));
        put(&memory, "a", b"", LIFE).unwrap();
        put(&memory, "b", &[0; 400], LIFE).unwrap();
        assert!(memory.remove("a") && memory.remove("b"));
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

    #[test]
    fn a_new_life_needs_no_room_and_moves_the_end() {
        let memory = memory(1, 1_000);
        put(&memory, "a", b"1", Duration::from_secs(1)).unwrap();
        let before = held(&memory);
        memory.shard("a").extend("a", Instant::now() + LIFE);
        memory.sweep(Instant::now() + Duration::from_secs(2));
        assert_eq!(held(&memory), before);
        memory.sweep(Instant::now() + LIFE);
        assert_eq!(held(&memory), (0, 0));
    }
}
