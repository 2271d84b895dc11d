//! Invalidations: which cached responses no longer count, without looking for them.
//!
//! Every response knows the fingerprints of what it depends on (its target, its route, its tags), and up to
//! which change it knows of the world. A change only writes down the fingerprint and the next number. An
//! response that is older than a change of something it depends on is useless, also one that was requested
//! for before the change and arrives after it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

/// So many changes are remembered; what is older than the oldest of them counts as changed.
const INVALIDATIONS_MAX: usize = 65_536;
/// Bits of the filter that says which targets were ever stored.
const FILTER_BITS: u64 = 1 << 20;

/// The changes.
pub(super) struct Invalidations {
    /// The number of the last change.
    last: AtomicU64,
    /// Responses that know less than this are useless, whatever they depend on.
    floor: AtomicU64,
    /// What was requested before this change must not be stored; what is stored already stays.
    barrier: AtomicU64,
    table: RwLock<Table>,
    /// Whether anything was ever kept.
    any: AtomicBool,
    /// Targets that may have been kept: a change of any other is not worth writing down.
    kept: Box<[AtomicU64]>,
}

#[derive(Default)]
struct Table {
    changed: HashMap<u64, u64>,
    order: VecDeque<(u64, u64)>,
}

impl Default for Invalidations {
    fn default() -> Self {
        let kept = (0..FILTER_BITS / 64).map(|_| AtomicU64::new(0)).collect();
        let zero = || AtomicU64::new(0);
        Self {
            last: zero(),
            floor: zero(),
            barrier: zero(),
            table: RwLock::default(),
            any: AtomicBool::new(false),
            kept,
        }
    }
}

impl Invalidations {
    /// The last change: what is requested now knows of it.
    pub(super) fn now(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Writes down that what these fingerprints name has changed.
    pub(super) fn changed(&self, fingerprints: &[u64]) {
        let mut table = self.table.write();
        // Under the lock: a reader that sees the new number and then looks into the table finds it there.
        let number = self.last.load(Ordering::Relaxed) + 1;
        for fingerprint in fingerprints {
            table.changed.insert(*fingerprint, number);
            table.order.push_back((*fingerprint, number));
        }
        while table.order.len() > INVALIDATIONS_MAX {
            let Some((fingerprint, number)) = table.order.pop_front() else { break };
            if table.changed.get(&fingerprint) == Some(&number) {
                table.changed.remove(&fingerprint);
                self.floor.store(number, Ordering::Release);
            }
        }
        self.last.store(number, Ordering::Release);
    }

    /// Everything has changed.
    pub(super) fn all_changed(&self) {
        let mut table = self.table.write();
        *table = Table::default();
        let number = self.last.load(Ordering::Relaxed) + 1;
        self.floor.store(number, Ordering::Release);
        self.last.store(number, Ordering::Release);
    }

    /// Something has changed that no fingerprint names: what is under way must not be kept.
    pub(super) fn unnamed_change(&self) {
        let _table = self.table.write();
        let number = self.last.load(Ordering::Relaxed) + 1;
        self.barrier.store(number, Ordering::Release);
        self.last.store(number, Ordering::Release);
    }

    /// Whether a response no longer counts that knew of the changes up to `known`.
    pub(super) fn outdated(&self, known: u64, depends: &[u64]) -> bool {
        if known >= self.now() {
            return false; // nothing has changed since
        }
        known < self.floor.load(Ordering::Acquire) || {
            let table = self.table.read();
            depends.iter().any(|it| table.changed.get(it).is_some_and(|number| known < *number))
        }
    }

    /// Whether a response that was requested when `known` was the last change may be kept.
    pub(super) fn may_keep(&self, known: u64, depends: &[u64]) -> bool {
        known >= self.barrier.load(Ordering::Acquire) && !self.outdated(known, depends)
    }

    /// Remembers that this target has been kept.
    pub(super) fn keep(&self, target: u64) {
        self.any.store(true, Ordering::Relaxed);
        let (word, bit) = place(target);
        self.kept[word].fetch_or(bit, Ordering::Relaxed);
    }

    /// Whether anything was ever kept.
    pub(super) fn any_kept(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Whether this target may have been kept; false is certain.
    pub(super) fn was_kept(&self, target: u64) -> bool {
        let (word, bit) = place(target);
        self.kept[word].load(Ordering::Relaxed) & bit != 0
    }
}

fn place(target: u64) -> (usize, u64) {
    let bit = target % FILTER_BITS;
    (usize::try_from(bit / 64).unwrap_or_default(), 1 << (bit % 64))
}

/// Names something by 64 bits, the same on every gateway and after every start. Two things with the same
/// name only make more useless than had to be.
pub(super) fn fingerprint(parts: &[&[u8]]) -> u64 {
    // FNV-1a, with a stir at the end (that of SplitMix64), since its high bits are weak.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in *part {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = (hash ^ 0xff).wrapping_mul(0x0100_0000_01b3); // parts do not run into one another
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_9111_an_answer_that_was_under_way_during_a_change_is_useless() {
        let invalidations = Invalidations::default();
        let before = invalidations.now();
        invalidations.changed(&[7]);
        assert!(invalidations.outdated(before, &[1, 7]) && !invalidations.outdated(before, &[1, 2]));
        assert!(!invalidations.may_keep(before, &[7]) && invalidations.may_keep(before, &[1]));
        assert!(!invalidations.outdated(invalidations.now(), &[7]));
    }

    #[test]
    fn r9_4_a_change_without_a_name_stops_what_is_under_way_alone() {
        let invalidations = Invalidations::default();
        let before = invalidations.now();
        invalidations.unnamed_change();
        assert!(!invalidations.may_keep(before, &[1]) && !invalidations.outdated(before, &[1]));
        invalidations.all_changed();
        assert!(invalidations.outdated(before, &[1]));
    }

    #[test]
    fn what_was_forgotten_counts_as_changed() {
        let invalidations = Invalidations::default();
        invalidations.changed(&[0]);
        let before = invalidations.now();
        invalidations.changed(&[1]);
        for number in 0..INVALIDATIONS_MAX as u64 {
            invalidations.changed(&[number + 100]);
        }
        assert!(invalidations.outdated(before, &[5]), "the change of 1 is forgotten: nobody knows any more");
        assert!(!invalidations.outdated(invalidations.now(), &[5]));
    }

    #[test]
    fn only_targets_that_were_kept_are_worth_a_mark() {
        let invalidations = Invalidations::default();
        let (kept, other) = (fingerprint(&[b"h", b"/a"]), fingerprint(&[b"h", b"/b"]));
        invalidations.keep(kept);
        assert!(invalidations.was_kept(kept) && !invalidations.was_kept(other));
        assert_ne!(fingerprint(&[b"ab", b"c"]), fingerprint(&[b"a", b"bc"]));
    }
}
