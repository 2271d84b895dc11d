//! Who is blocked until when, and who was before.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use super::metrics::{BLOCKED, FULL};

/// How long after a block its strikes still count.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// A block.
#[derive(Clone, Debug)]
pub struct Block {
    /// The address, or the first one of an IPv6 network.
    pub address: IpAddr,
    /// Why.
    pub reason: String,
    /// For how long it was blocked.
    pub time: Duration,
    /// How much of that is left.
    pub left: Duration,
    /// The how-many-th block of this address it is, as far as remembered.
    pub strikes: u32,
}

/// No more blocks can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more blocks can be kept")]
pub struct Full;

pub(super) struct Blocklist {
    first: Duration,
    longest: Duration,
    max: usize,
    entries: RwLock<HashMap<IpAddr, Entry>>,
    /// How many entries may hold: while it is zero nobody is looked up.
    holding: AtomicUsize,
}

struct Entry {
    until: Instant,
    time: Duration,
    reason: String,
    strikes: u32,
    /// Its end was noticed.
    over: bool,
}

impl Blocklist {
    pub(super) fn new(first: Duration, longest: Duration, max: usize) -> Self {
        Self { first, longest, max, entries: RwLock::default(), holding: AtomicUsize::new(0) }
    }

    pub(super) fn blocked(&self, network: IpAddr) -> Option<Duration> {
        if self.holding.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let left = self.entries.read().get(&network)?.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// `None` if it is blocked already, by a violation. `time` is the operator's; violations make their own.
    pub(super) fn block(
        &self,
        network: IpAddr,
        time: Option<Duration>,
        reason: &str,
        keep: bool,
    ) -> Result<Option<Block>, Full> {
        let now = Instant::now();
        let mut entries = self.entries.write();
        let former = entries.get(&network);
        let holds = former.is_some_and(|it| it.until > now);
        if holds && keep {
            return Ok(None);
        }
        if former.is_none() && entries.len() >= self.max && !make_room(&mut entries, now) {
            FULL.inc();
            return Err(Full);
        }
        let strikes = entries.get(&network).map_or(0, |it| it.strikes) + 1;
        let time = time.unwrap_or_else(|| self.first.saturating_mul(1 << (strikes - 1).min(20)).min(self.longest));
        entries.insert(network, Entry { until: now + time, time, reason: reason.to_owned(), strikes, over: false });
        self.recount(&entries);
        Ok(Some(Block { address: network, reason: reason.to_owned(), time, left: time, strikes }))
    }

    pub(super) fn lift(&self, network: IpAddr) -> bool {
        let mut entries = self.entries.write();
        let holds = entries.remove(&network).is_some_and(|it| it.until > Instant::now());
        self.recount(&entries);
        holds
    }

    pub(super) fn blocks(&self) -> Vec<Block> {
        let now = Instant::now();
        let entries = self.entries.read();
        let holding = entries.iter().filter(|(_, it)| it.until > now);
        let mut blocks: Vec<Block> = holding
            .map(|(address, it)| Block {
                address: *address,
                reason: it.reason.clone(),
                time: it.time,
                left: it.until.duration_since(now),
                strikes: it.strikes,
            })
            .collect();
        blocks.sort_by_key(|it| std::cmp::Reverse(it.left));
        blocks
    }

    pub(super) fn fill(&self) -> (usize, usize) {
        (self.entries.read().len(), self.max)
    }

    /// Notices what is over, and forgets what was long ago. The addresses whose blocks have just ended.
    pub(super) fn sweep(&self) -> Vec<IpAddr> {
        if self.holding.load(Ordering::Relaxed) == 0 && self.entries.read().is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let mut entries = self.entries.write();
        let mut ended = Vec::new();
        for (address, entry) in entries.iter_mut().filter(|(_, it)| !it.over && it.until <= now) {
            entry.over = true;
            ended.push(*address);
        }
        entries.retain(|_, it| now.saturating_duration_since(it.until) < REMEMBERED);
        self.recount(&entries);
        ended
    }

    fn recount(&self, entries: &HashMap<IpAddr, Entry>) {
        let holding = entries.values().filter(|it| !it.over).count();
        self.holding.store(holding, Ordering::Relaxed);
        BLOCKED.set(i64::try_from(holding).unwrap_or(i64::MAX));
    }

    #[cfg(test)]
    pub(super) fn end_now(&self, network: IpAddr) {
        if let Some(entry) = self.entries.write().get_mut(&network) {
            entry.until = Instant::now();
        }
    }
}

/// Of what is over the oldest goes; what holds stays.
fn make_room(entries: &mut HashMap<IpAddr, Entry>, now: Instant) -> bool {
    let over = entries.iter().filter(|(_, it)| it.until <= now).min_by_key(|(_, it)| it.until);
    let Some(address) = over.map(|(address, _)| *address) else { return false };
    entries.remove(&address).is_some()
}
