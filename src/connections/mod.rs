//! The connections that last: event streams, tunnels, and bodies without a length that go on for more than
//! [`LONG_AFTER`]. Who has opened them is asked again while they do, and they can be listed and ended.
//!
//! A request that is answered at once never comes here. What does holds a place of its listener
//! (`limits.connections`), so that there are never more entries than that. Whoever serves a connection holds an
//! [`Open`], and polls it for what others have to say to it; nobody else touches the connection.

mod entry;
mod filter;
mod standing;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::identity::Identity;

pub use entry::{Cause, Entry, Facts, Kind, Open, Signal};
pub use filter::Wanted;

/// A body without a length that goes on for longer is a connection that lasts. No longer than what a revocation may
/// take: what began with a good token and ends before this needs no second look.
pub const LONG_AFTER: Duration = Duration::from_secs(1);

/// Entries lie apart by their number, so that two threads seldom wait for each other.
const SHARDS: usize = 64;

/// Where the process stands.
const SERVING: u8 = 0;
const DRAINING: u8 = 1;
const ENDING: u8 = 2;

/// The one registry of connections that last.
pub struct Connections {
    shards: [Mutex<HashMap<u64, Arc<Entry>>>; SHARDS],
    next: AtomicU64,
    open: AtomicUsize,
    phase: AtomicU8,
    identity: Arc<Identity>,
}

impl Connections {
    /// An empty one, whose entries' credentials are `identity`'s business.
    pub fn new(identity: Arc<Identity>) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            next: AtomicU64::new(1),
            open: AtomicUsize::new(0),
            phase: AtomicU8::new(SERVING),
            identity,
        })
    }

    /// Registers a connection, for as long as what is returned lives.
    pub fn open(self: &Arc<Self>, facts: Facts) -> Open {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry::new(id, facts));
        self.shard(id).lock().insert(id, entry.clone());
        self.open.fetch_add(1, Ordering::Relaxed);
        // Behind its entry: what changed before is seen here, what changes now sees the entry.
        match self.phase.load(Ordering::SeqCst) {
            SERVING => {}
            DRAINING => entry.drain(),
            _ => entry.end(Cause::Stopped),
        }
        self.look_at(&entry);
        Open::new(entry, self.clone())
    }

    fn close(&self, id: u64) {
        if self.shard(id).lock().remove(&id).is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The process begins to stop: those who want to know hear of it, and everything goes on for a while.
    pub fn drain(&self) {
        self.phase.store(DRAINING, Ordering::SeqCst);
        self.each(Entry::drain);
    }

    /// The process is about to end, and so does everything here.
    pub fn end_all(&self) {
        self.phase.store(ENDING, Ordering::SeqCst);
        self.each(|it| it.end(Cause::Stopped));
    }

    /// Those that are wanted, the oldest first, at most so many; and how many there are of them.
    pub fn list(&self, wanted: &Wanted, limit: usize) -> (Vec<Arc<Entry>>, usize) {
        let mut found = Vec::new();
        self.each(|it| {
            if wanted.fits(it) {
                found.push(it.clone());
            }
        });
        let count = found.len();
        found.sort_unstable_by_key(|it| it.id);
        found.truncate(limit);
        (found, count)
    }

    /// Ends those that are wanted; how many they were.
    pub fn end(&self, wanted: &Wanted) -> usize {
        let (found, count) = self.list(wanted, usize::MAX);
        found.iter().for_each(|it| it.end(Cause::Closed));
        count
    }

    /// Ends the one of this number; whether there is one.
    pub fn end_one(&self, id: u64) -> bool {
        let found = self.shard(id).lock().get(&id).cloned();
        found.is_some_and(|it| {
            it.end(Cause::Closed);
            true
        })
    }

    /// Visits all of them, a shard at a time, and holds no lock meanwhile.
    fn each(&self, mut visit: impl FnMut(&Arc<Entry>)) {
        for shard in &self.shards {
            let entries: Vec<Arc<Entry>> = shard.lock().values().cloned().collect();
            entries.iter().for_each(&mut visit);
        }
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Arc<Entry>>> {
        &self.shards[id as usize % SHARDS]
    }
}
