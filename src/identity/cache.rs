//! Remembers verified tokens, so that the second time a token costs a look-up and not a signature.
//!
//! Tokens themselves are not kept, only a keyed hash of each: who reads the memory, or can choose tokens, gains
//! nothing. Only good tokens get in, so that nobody fills it with others.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use aws_lc_rs::hmac;
use parking_lot::Mutex;

use super::metrics::REMEMBERED;

/// Locks are taken for some tens of nanoseconds; more than one is so that threads seldom meet.
const SHARDS: usize = 32;

/// Names a token: the keyed hash of its bytes.
pub(super) type Print = u128;

/// Values by the hash of a token, as many as fit.
#[derive(Debug)]
pub(super) struct Cache<V> {
    key: hmac::Key,
    shards: Vec<Mutex<Shard<V>>>,
    per_shard: usize,
}

#[derive(Debug)]
struct Shard<V> {
    entries: HashMap<Print, Entry<V>, BuildHasherDefault<Taken>>,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    /// In seconds since 1970.
    ends: u64,
    /// Under which keys and revocations it was looked at.
    epochs: (u64, u64),
    used: bool,
}

/// What came of a look.
#[derive(Debug)]
pub(super) enum Found<V> {
    /// It is there and was looked at under these very keys and revocations.
    Sound(Arc<V>),
    /// It is there, but something was taken back since.
    Recheck(Arc<V>),
    Nothing,
}

impl<V> Cache<V> {
    /// So many values at most.
    pub(super) fn new(capacity: usize) -> Self {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).expect("the system has randomness");
        let shard = || Mutex::new(Shard { entries: HashMap::default() });
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            per_shard: capacity.div_ceil(SHARDS),
        }
    }

    /// The name of a token.
    pub(super) fn print(&self, token: &[u8]) -> Print {
        let hash = hmac::sign(&self.key, token);
        let half: [u8; 16] = hash.as_ref()[..16].try_into().expect("the hash is longer");
        u128::from_le_bytes(half)
    }

    /// Looks for a value that has not ended and belongs to the keys of now.
    pub(super) fn find(&self, print: Print, now: u64, epochs: (u64, u64)) -> Found<V> {
        let mut shard = self.shard(print).lock();
        let Some(entry) = shard.entries.get_mut(&print) else { return Found::Nothing };
        if now >= entry.ends || entry.epochs.0 != epochs.0 {
            shard.entries.remove(&print);
            REMEMBERED.dec();
            return Found::Nothing;
        }
        entry.used = true;
        let value = entry.value.clone();
        if entry.epochs == epochs { Found::Sound(value) } else { Found::Recheck(value) }
    }

    /// Remembers a value until it ends.
    pub(super) fn put(&self, print: Print, value: Arc<V>, ends: u64, now: u64, epochs: (u64, u64)) {
        let mut shard = self.shard(print).lock();
        if self.per_shard == 0 {
            return;
        }
        if shard.entries.len() >= self.per_shard && !shard.entries.contains_key(&print) {
            shard.make_room(now, self.per_shard);
        }
        if shard.entries.insert(print, Entry { value, ends, epochs, used: false }).is_none() {
            REMEMBERED.inc();
        }
    }

    /// Forgets a value.
    pub(super) fn forget(&self, print: Print) {
        if self.shard(print).lock().entries.remove(&print).is_some() {
            REMEMBERED.dec();
        }
    }

    fn shard(&self, print: Print) -> &Mutex<Shard<V>> {
        &self.shards[(print >> 64) as usize % SHARDS]
    }
}

impl<V> Shard<V> {
    /// Lets go of what has ended and of what was not used since the last time; a sweep pays for many puts.
    fn make_room(&mut self, now: u64, capacity: usize) {
        let before = self.entries.len();
        self.entries.retain(|_, it| now < it.ends && std::mem::take(&mut it.used));
        // All of them were used: every fourth goes, by chance.
        if self.entries.len() >= capacity {
            let mut number = 0;
            self.entries.retain(|_, _| {
                number += 1;
                number % 4 != 1
            });
        }
        REMEMBERED.sub((before - self.entries.len()) as i64);
    }
}

/// A hash of a hash would gain nothing.
#[derive(Debug, Default)]
struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, print: u128) {
        self.0 = print as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCHS: (u64, u64) = (1, 1);

    #[test]
    fn a_value_is_found_until_it_ends_and_under_its_own_keys() {
        let cache = Cache::new(100);
        let print = cache.print(b"token");
        assert_ne!(print, cache.print(b"tokem"));
        let put = || cache.put(print, Arc::new(7), 50, 10, EPOCHS);
        put();
        assert!(matches!(cache.find(print, 49, EPOCHS), Found::Sound(it) if *it == 7));
        assert!(matches!(cache.find(print, 49, (1, 2)), Found::Recheck(_)));
        assert!(matches!(cache.find(print, 50, EPOCHS), Found::Nothing));
        put();
        assert!(matches!(cache.find(print, 10, (2, 1)), Found::Nothing));
        put();
        cache.forget(print);
        assert!(matches!(cache.find(print, 10, EPOCHS), Found::Nothing));
    }

    #[test]
    fn a_full_cache_keeps_what_is_used() {
        let cache = Cache::new(64);
        let prints: Vec<_> = (0..10_000_u32).map(|it| cache.print(&it.to_le_bytes())).collect();
        for print in &prints {
            cache.put(*print, Arc::new(()), 50, 10, EPOCHS);
            cache.find(prints[0], 10, EPOCHS);
        }
        let held: usize = cache.shards.iter().map(|it| it.lock().entries.len()).sum();
        assert!(held <= 64, "{held}");
        let none = Cache::new(0);
        none.put(1, Arc::new(()), 50, 10, EPOCHS);
        assert!(matches!(none.find(1, 10, EPOCHS), Found::Nothing));
    }
}
