//! Reserving a key, waiting for another request's reservation, and storing the response.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;
use prometheus::{IntCounter, register_int_counter};

use super::record::{Record, StoredResponse};
use super::{Idempotency, IdempotencyKey, Streams};
use crate::base::Deadline;
use crate::pipeline::Refusal;
use crate::state::{Insert, Records, Unavailable};

/// How long a reservation holds that is not renewed. A gateway that was killed blocks its requests as long.
const LEASE: Duration = Duration::from_secs(10);
/// How often a reservation is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Between two looks at another request's reservation: the first, and the longest.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_LAST: Duration = Duration::from_millis(250);
/// How often it is tried to store a response.
const STORE_ATTEMPTS: u32 = 5;

fn counter(name: &str, help: &str) -> IntCounter {
    register_int_counter!(name, help).expect("the name is registered once")
}

// The names are CP2-B's.
static HIT: Lazy<IntCounter> = Lazy::new(|| {
    counter("idempotency_hit_total", "Requests whose idempotency key was known: it was not forwarded again")
});
static MISS: Lazy<IntCounter> =
    Lazy::new(|| counter("idempotency_miss_total", "Requests whose idempotency key was new: it was forwarded"));
static NOT_STORED: Lazy<IntCounter> = Lazy::new(|| {
    counter(
        "moongate_idempotency_unkept_total",
        "Responses that could not be stored because the state was not available",
    )
});

/// What [`Idempotency::reserve`] comes to.
pub enum ReserveOutcome {
    /// It has no key, and is forwarded as any other.
    NoKey,
    /// It is the first: it is to be forwarded.
    First(Reservation),
    /// It was done: this is the stored response.
    Replay(StoredResponse),
}

/// A reserved key. Dropped without a response it is released.
pub struct Reservation {
    records: Arc<dyn Records>,
    key: IdempotencyKey,
    running: bytes::Bytes,
    life: Duration,
    record_max: usize,
    streams: Streams,
    settled: bool,
}

impl Idempotency {
    /// Reserves the key, or waits for the response of the request that has reserved it.
    ///
    /// # Errors
    /// 422 if the key belongs to another request, 409 if the first is still under way after the wait or
    /// its response was not stored, 503 if the state can't be reached.
    pub async fn reserve(&self, records: &Arc<dyn Records>, key: IdempotencyKey) -> Result<ReserveOutcome, Refusal> {
        let until = Instant::now() + self.wait;
        let running = Record::running(&key.fingerprint, fastrand::u128(..));
        let mut pause = LOOK_FIRST;
        loop {
            let claim = records.insert_if_absent(&key.record_key, running.clone(), LEASE).await;
            let held = match claim.map_err(|Unavailable| Refusal::StateUnavailable)? {
                Insert::Inserted => {
                    MISS.inc();
                    return Ok(ReserveOutcome::First(self.reservation(records, key, running)));
                }
                Insert::Exists(held) => held,
            };
            match Record::read(held) {
                Some(
                    Record::Running { fingerprint }
                    | Record::NotStored { fingerprint }
                    | Record::Done { fingerprint, .. },
                ) if fingerprint != key.fingerprint => {
                    return Err(Refusal::IdempotencyMismatch);
                }
                Some(Record::Done { response, .. }) => {
                    HIT.inc();
                    return Ok(ReserveOutcome::Replay(response));
                }
                Some(Record::NotStored { .. }) => {
                    HIT.inc();
                    return Err(Refusal::IdempotencyNotKept);
                }
                // What can't be read is another version's: it may be a claim, and lapses like one.
                Some(Record::Running { .. }) | None => {}
            }
            if Instant::now() + pause > until {
                return Err(Refusal::IdempotencyRunning);
            }
            // Those who wait for the same do not all look at once.
            tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    fn reservation(&self, records: &Arc<dyn Records>, key: IdempotencyKey, running: bytes::Bytes) -> Reservation {
        let (life, record_max, streams) = (self.ttl, self.record_max, self.streams);
        Reservation { records: records.clone(), key, running, life, record_max, streams, settled: false }
    }
}

impl Reservation {
    /// The largest response that is stored, in bytes.
    pub fn record_max(&self) -> usize {
        self.record_max
    }

    /// Whether event streams are stored.
    pub fn stores_streams(&self) -> bool {
        self.streams == Streams::Record
    }

    /// Renews the reservation for as long as it is polled; never ends.
    pub async fn renew(records: Arc<dyn Records>, key: String, running: bytes::Bytes) {
        loop {
            let mut due = Deadline::after(RENEW_EVERY);
            poll_fn(|cx| due.poll_expired(cx)).await;
            let _ = records.compare_and_swap(&key, &running, running.clone(), LEASE).await;
        }
    }

    /// What [`Reservation::renew`] needs.
    pub fn claim(&self) -> (Arc<dyn Records>, String, bytes::Bytes) {
        (self.records.clone(), self.key.record_key.clone(), self.running.clone())
    }

    /// Stores the response for repetitions.
    pub async fn store(mut self, response: &StoredResponse) {
        let done = Record::done(&self.key.fingerprint, response);
        self.leave(done).await;
    }

    /// Records that it was done, and that its response is not replayed.
    pub async fn store_nothing(mut self) {
        let not_stored = Record::not_stored(&self.key.fingerprint);
        self.leave(not_stored).await;
    }

    /// The request failed: the next one under its key may try it.
    pub async fn release(mut self) {
        self.settled = true;
        let _ = self.records.compare_and_delete(&self.key.record_key, &self.running).await;
    }

    async fn leave(&mut self, record: bytes::Bytes) {
        self.settled = true;
        let mut pause = LOOK_FIRST;
        for _ in 0..STORE_ATTEMPTS {
            // The reservation may have lapsed while the state was away: what was done counts, whatever is there.
            if self.records.write(&self.key.record_key, record.clone(), self.life).await.is_ok() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause *= 3;
        }
        NOT_STORED.inc();
        tracing::error!(
            event = "idempotency_unkept",
            "a response could not be stored: the state is not available, and a repetition would be done again"
        );
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let (records, key, running) = self.claim();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = records.compare_and_delete(&key, &running).await;
            });
        }
    }
}
