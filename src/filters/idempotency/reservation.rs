//! Reserving a key, waiting for another request's reservation, and storing the response.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use once_cell::sync::Lazy;
use prometheus::{IntCounter, register_int_counter};
use tokio::task::JoinHandle;

use super::record::{Record, StoredResponse};
use super::{Idempotency, IdempotencyKey, Streams};
use crate::base::Deadline;
use crate::pipeline::Refusal;
use crate::state::{Insert, NotTaken, Records};

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
        "Responses that could not be stored because the state was full or not available",
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
    running: Bytes,
    life: Duration,
    record_max: usize,
    streams: Streams,
    settled: bool,
    renewal: JoinHandle<()>,
}

impl Idempotency {
    /// Reserves the key, or waits for the response of the request that has reserved it.
    ///
    /// # Errors
    /// 422 if the key belongs to another request, 409 if the first is still under way after the wait or
    /// its response was not stored, 503 if the state can't be reached or has no room.
    pub async fn reserve(&self, records: &Arc<dyn Records>, key: IdempotencyKey) -> Result<ReserveOutcome, Refusal> {
        let until = Instant::now() + self.wait;
        let running = Record::running(&key.fingerprint, fastrand::u128(..));
        let mut pause = LOOK_FIRST;
        loop {
            let claim = records.claim(&key.record_key, running.clone(), LEASE, key.network).await;
            let held = match claim.map_err(refusal)? {
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

    fn reservation(&self, records: &Arc<dyn Records>, key: IdempotencyKey, running: Bytes) -> Reservation {
        let (life, record_max, streams) = (self.ttl, self.record_max, self.streams);
        let renewal = tokio::spawn(renew(records.clone(), key.record_key.clone(), running.clone()));
        Reservation { records: records.clone(), key, running, life, record_max, streams, settled: false, renewal }
    }
}

fn refusal(why: NotTaken) -> Refusal {
    match why {
        NotTaken::Unavailable(_) => Refusal::StateUnavailable,
        NotTaken::Full => Refusal::IdempotencyFull("responses to requests with a key take all the room there is"),
    }
}

/// Renews a reservation; never ends.
async fn renew(records: Arc<dyn Records>, key: String, running: Bytes) {
    loop {
        let mut due = Deadline::after(RENEW_EVERY);
        poll_fn(|cx| due.poll_expired(cx)).await;
        let _ = records.extend(&key, &running, LEASE).await;
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

    /// From whose share the record is.
    pub fn network(&self) -> IpAddr {
        self.key.network
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

    /// Leaves what repetitions get. Where that does not fit they learn at least that it was done: this takes no more
    /// room than the reservation did, so nobody can keep it out. Where not even that can be written, the reservation
    /// stays for as long as the response would have.
    async fn leave(&mut self, record: Bytes) {
        self.settled = true;
        self.end_renewal().await;
        if self.settle(record).await.is_ok() {
            return;
        }
        NOT_STORED.inc();
        let marked = self.settle(Record::not_stored(&self.key.fingerprint)).await.is_ok()
            || self.records.extend(&self.key.record_key, &self.running, self.life).await == Ok(true);
        if marked {
            tracing::warn!(
                event = "idempotency_unkept",
                "a response could not be stored: the state has no room for it, and a repetition gets 409; give the state \
                 more room, or look who fills it"
            );
        } else {
            tracing::error!(
                event = "idempotency_unkept",
                "a response could not be stored: the state is not available, and a repetition would be done again"
            );
        }
    }

    /// Tries again while the state is away, but not where it is full. The reservation may have lapsed meanwhile: what
    /// was done counts, whatever is there.
    async fn settle(&self, record: Bytes) -> Result<(), NotTaken> {
        let (key, network) = (&self.key.record_key, self.key.network);
        let mut pause = LOOK_FIRST;
        for _ in 1..STORE_ATTEMPTS {
            match self.records.settle(key, record.clone(), self.life, network).await {
                Err(NotTaken::Unavailable(_)) => tokio::time::sleep(pause).await,
                settled => return settled,
            }
            pause *= 3;
        }
        self.records.settle(key, record, self.life, network).await
    }

    /// Afterwards none is on its way that would cut the life of what is written next.
    async fn end_renewal(&mut self) {
        self.renewal.abort();
        let _ = (&mut self.renewal).await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.renewal.abort();
        if self.settled {
            return;
        }
        let (records, key, running) = (self.records.clone(), self.key.record_key.clone(), self.running.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = records.compare_and_delete(&key, &running).await;
            });
        }
    }
}
