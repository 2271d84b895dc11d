//! Cached responses in the shared state: a restarted gateway is warm, and gateways have each other's.
//!
//! Never waited for longer than [`PATIENCE`], and left alone for a while when it does not answer: without
//! it, there is the memory. What lies there carries a stamp over tokens of everything that it depends on. A
//! change gives its fingerprint a new token, and every stamp over the old one is void.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use futures_util::future::{join, join_all};
use parking_lot::Mutex;

use crate::cache::invalidations::fingerprint;
use crate::cache::metrics::METRICS;
use crate::cache::object::{Slot, decode, encode};
use crate::state::Records;

/// How long a response from the shared state is waited for.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long it is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(1);
/// So many writes may be under way; further ones are left out.
const WRITES_MAX: usize = 256;
/// The longest that anything lies there, and the life of tokens: they outlive what was stamped with them.
pub(super) const LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Cached responses in the shared state; clones share it.
#[derive(Clone)]
pub(super) struct SharedTier {
    records: Arc<dyn Records>,
    writes: Arc<AtomicUsize>,
    /// Until when it is left alone.
    paused: Arc<Mutex<Option<Instant>>>,
}

impl SharedTier {
    pub(super) fn new(records: Arc<dyn Records>) -> Self {
        Self { records, writes: Arc::default(), paused: Arc::default() }
    }

    /// What lies under a key and still counts, and the stamp that something new would get. No stamp:
    /// nobody knows, and nothing is to be written.
    pub(super) async fn read(&self, key: &[u8], depends: &[u64], known: u64) -> (Option<Slot>, Option<u64>) {
        if self.is_paused() {
            METRICS.shared_skipped.inc();
            return (None, None);
        }
        let name = name(key);
        let both = join(self.records.read(&name), self.stamp(depends));
        let Ok((Ok(found), Some(stamp))) = tokio::time::timeout(PATIENCE, both).await else {
            self.pause();
            return (None, None);
        };
        let slot = found.and_then(|it| decode(key, &it, known)).filter(|it| it.1 == stamp).map(|it| it.0);
        if slot.is_some() {
            METRICS.shared_hits.inc()
        } else {
            METRICS.shared_misses.inc()
        }
        (slot, Some(stamp))
    }

    /// Writes in the background.
    pub(super) fn write(&self, key: &[u8], slot: &Slot, stamp: u64, life: Duration) {
        let under_way = self.writes.fetch_add(1, Ordering::Relaxed);
        if life.is_zero() || under_way >= WRITES_MAX || self.is_paused() {
            METRICS.shared_skipped.inc();
            self.writes.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let (name, bytes) = (name(key), encode(key, slot, stamp));
        let shared_tier = self.clone();
        tokio::spawn(async move {
            let written =
                tokio::time::timeout(PAUSE, shared_tier.records.write(&name, bytes, life.min(LIFE_MAX))).await;
            match written {
                Ok(Ok(())) => METRICS.shared_written.inc(),
                Ok(Err(_)) | Err(_) => shared_tier.pause(),
            }
            shared_tier.writes.fetch_sub(1, Ordering::Relaxed);
        });
    }

    /// Voids everything that depends on one of these. False if that can't be known to be done.
    pub(super) async fn void(&self, fingerprints: &[u64]) -> bool {
        let token = fastrand::u64(1..).to_be_bytes();
        let writes = fingerprints.iter().map(|it| {
            let name = token_name(*it);
            async move { self.records.write(&name, Bytes::copy_from_slice(&token), LIFE_MAX).await }
        });
        match tokio::time::timeout(PAUSE, join_all(writes)).await {
            Ok(written) => written.iter().all(Result::is_ok),
            Err(_) => false,
        }
    }

    async fn stamp(&self, depends: &[u64]) -> Option<u64> {
        let reads = depends.iter().map(|it| {
            let name = token_name(*it);
            async move { self.records.read(&name).await }
        });
        let mut tokens = Vec::new();
        for token in join_all(reads).await {
            tokens.push(token.ok()?.unwrap_or_default());
        }
        let tokens: Vec<&[u8]> = tokens.iter().map(Bytes::as_ref).collect();
        Some(fingerprint(&tokens))
    }

    fn is_paused(&self) -> bool {
        self.paused.lock().is_some_and(|until| Instant::now() < until)
    }

    fn pause(&self) {
        METRICS.shared_failed.inc();
        *self.paused.lock() = Some(Instant::now() + PAUSE);
    }
}

fn name(key: &[u8]) -> String {
    let mut name = String::from("cache:a:");
    for byte in digest(&SHA256, key).as_ref() {
        use std::fmt::Write;
        let _ = write!(name, "{byte:02x}");
    }
    name
}

fn token_name(fingerprint: u64) -> String {
    format!("cache:t:{fingerprint:016x}")
}
