//! Cached responses in memory: bounded in bytes, evicted by S3-FIFO (what was requested once does not push
//! out what is requested again and again).

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use crate::cache::metrics::{BYTES, METRICS, OBJECTS};
use crate::cache::object::Slot;

/// Parts of the store that are locked one by one.
const SHARDS_MAX: u64 = 32;
/// What a response takes, about: only to size the store's own tables.
const TYPICAL: u64 = 4 * 1024;

/// Cached responses by key.
pub(super) struct Memory {
    slots: Cache<Box<[u8]>, Slot, Weight, DefaultHashBuilder, Evictions>,
    capacity: u64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Box<[u8]>, Slot> for Weight {
    fn weight(&self, key: &Box<[u8]>, slot: &Slot) -> u64 {
        (key.len() + slot.weight()) as u64
    }
}

#[derive(Clone)]
struct Evictions;

impl Lifecycle<Box<[u8]>, Slot> for Evictions {
    type RequestState = Vec<(Box<[u8]>, Slot)>;

    /// Dropped when the shard's lock is.
    fn on_evict(&self, state: &mut Self::RequestState, key: Box<[u8]>, slot: Slot) {
        METRICS.evicted.inc();
        state.push((key, slot));
    }
}

impl Memory {
    /// `capacity` and `object_max` in bytes. A shard always has room for several of the largest responses.
    pub(super) fn new(capacity: u64, object_max: usize) -> Self {
        let shards = (capacity / (object_max as u64).saturating_mul(4).max(1)).clamp(1, SHARDS_MAX);
        // The store rounds up to a power of two, which would make shards too small.
        let shards = usize::try_from(1_u64 << shards.ilog2()).unwrap_or(1);
        let items = usize::try_from(capacity / TYPICAL).unwrap_or(usize::MAX).max(64);
        let mut options = OptionsBuilder::new();
        let options = options.shards(shards).estimated_items_capacity(items).weight_capacity(capacity).build();
        let options = options.expect("both sizes are given");
        Self { slots: Cache::with_options(options, Weight, DefaultHashBuilder::default(), Evictions), capacity }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Slot> {
        self.slots.get(key)
    }

    pub(super) fn put(&self, key: Box<[u8]>, slot: Slot) {
        self.slots.insert(key, slot);
        self.show();
    }

    pub(super) fn remove(&self, key: &[u8]) {
        self.slots.remove(key);
    }

    /// Removes what `goes` names, and says how many responses that were. Locks a shard at a time; not for
    /// a worker.
    pub(super) fn remove_all(&self, goes: impl Fn(&Slot) -> bool) -> u64 {
        let count = std::sync::atomic::AtomicU64::new(0);
        self.slots.retain(|_, slot| {
            let stays = !goes(slot);
            if !stays && matches!(slot, Slot::Whole(_)) {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            stays
        });
        self.show();
        count.into_inner()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.slots.weight()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) const fn capacity(&self) -> u64 {
        self.capacity
    }

    fn show(&self) {
        BYTES.set(i64::try_from(self.slots.weight()).unwrap_or(i64::MAX));
        OBJECTS.set(i64::try_from(self.slots.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    #[test]
    fn memory_stays_within_its_bound() {
        let memory = Memory::new(64 << 10, 8 << 10);
        let fields: Vec<HeaderName> = (0..16).map(|_| HeaderName::from_static("accept-language")).collect();
        for number in 0..1000_u32 {
            memory.put(number.to_be_bytes().into(), Slot::Varied(fields.clone().into()));
            assert!(memory.bytes() <= memory.capacity());
        }
        assert!(memory.len() > 10, "{}", memory.len());
        assert_eq!(memory.remove_all(|_| true), 0, "they are no answers");
        assert_eq!(memory.len(), 0);
    }
}
