//! Claiming a deed, waiting for another's, and leaving its answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;
use prometheus::{IntCounter, register_int_counter};

use super::record::{Kept, Record};
use super::{Idempotency, Mark, Streams};
use crate::base::Deadline;
use crate::pipeline::Refusal;
use crate::state::{Claim, Records, Unavailable};

/// How long a claim holds that nobody renews. A gateway that was killed blocks its deeds as long.
const LEASE: Duration = Duration::from_secs(10);
/// How often a claim is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Between two looks at another's claim: the first, and the longest.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_LAST: Duration = Duration::from_millis(250);
/// How often it is tried to leave an answer.
const KEEP_ATTEMPTS: u32 = 5;

fn counter(name: &str, help: &str) -> IntCounter {
    register_int_counter!(name, help).expect("the name is registered once")
}

// The names are CP2-B's.
static HIT: Lazy<IntCounter> = Lazy::new(|| {
    counter("idempotency_hit_total", "Requests whose idempotency key was known: the deed was not done again")
});
static MISS: Lazy<IntCounter> =
    Lazy::new(|| counter("idempotency_miss_total", "Requests whose idempotency key was new: the deed was done"));
static UNKEPT: Lazy<IntCounter> = Lazy::new(|| {
    counter("moongate_idempotency_unkept_total", "Answers that could not be kept because the state was not available")
});

/// What a request under an id comes to.
pub enum Begun {
    /// It has no id, and is nobody's deed.
    Nothing,
    /// It is the first: the deed is to be done.
    First(Deed),
    /// It was done: this is the answer.
    Replay(Kept),
}

/// A claimed deed. Dropped without an answer it is given up.
pub struct Deed {
    records: Arc<dyn Records>,
    mark: Mark,
    running: bytes::Bytes,
    life: Duration,
    record_max: usize,
    streams: Streams,
    settled: bool,
}

impl Idempotency {
    /// Claims the deed, or waits for the answer of who has claimed it.
    ///
    /// # Errors
    /// 422 if the id belongs to another request, 409 if the first is still under way after the wait or
    /// its answer was not kept, 503 if the state can't be reached.
    pub async fn begin(&self, records: &Arc<dyn Records>, mark: Mark) -> Result<Begun, Refusal> {
        let until = Instant::now() + self.wait;
        let running = Record::running(&mark.fingerprint, fastrand::u128(..));
        let mut pause = LOOK_FIRST;
        loop {
            let claim = records.claim(&mark.key, running.clone(), LEASE).await;
            let held = match claim.map_err(|Unavailable| Refusal::StateUnavailable)? {
                Claim::Won => {
                    MISS.inc();
                    return Ok(Begun::First(self.deed(records, mark, running)));
                }
                Claim::Held(held) => held,
            };
            match Record::read(held) {
                Some(
                    Record::Running { fingerprint }
                    | Record::NotKept { fingerprint }
                    | Record::Done { fingerprint, .. },
                ) if fingerprint != mark.fingerprint => {
                    return Err(Refusal::IdempotencyMismatch);
                }
                Some(Record::Done { kept, .. }) => {
                    HIT.inc();
                    return Ok(Begun::Replay(kept));
                }
                Some(Record::NotKept { .. }) => {
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

    fn deed(&self, records: &Arc<dyn Records>, mark: Mark, running: bytes::Bytes) -> Deed {
        let (life, record_max, streams) = (self.ttl, self.record_max, self.streams);
        Deed { records: records.clone(), mark, running, life, record_max, streams, settled: false }
    }
}

impl Deed {
    /// The largest answer that is kept, in bytes.
    pub fn record_max(&self) -> usize {
        self.record_max
    }

    /// Whether event streams are kept.
    pub fn keeps_streams(&self) -> bool {
        self.streams == Streams::Record
    }

    /// Renews the claim for as long as it is polled; never ends.
    pub async fn renew(records: Arc<dyn Records>, key: String, running: bytes::Bytes) {
        loop {
            let mut due = Deadline::after(RENEW_EVERY);
            poll_fn(|cx| due.poll_expired(cx)).await;
            let _ = records.swap(&key, &running, running.clone(), LEASE).await;
        }
    }

    /// What [`Deed::renew`] needs.
    pub fn claim(&self) -> (Arc<dyn Records>, String, bytes::Bytes) {
        (self.records.clone(), self.mark.key.clone(), self.running.clone())
    }

    /// Leaves the answer for those that come later.
    pub async fn keep(mut self, kept: &Kept) {
        let done = Record::done(&self.mark.fingerprint, kept);
        self.leave(done).await;
    }

    /// Says that it was done, and that nobody gets the answer again.
    pub async fn keep_nothing(mut self) {
        let not_kept = Record::not_kept(&self.mark.fingerprint);
        self.leave(not_kept).await;
    }

    /// The deed failed: whoever comes next may try it.
    pub async fn give_up(mut self) {
        self.settled = true;
        let _ = self.records.release(&self.mark.key, &self.running).await;
    }

    async fn leave(&mut self, record: bytes::Bytes) {
        self.settled = true;
        let mut pause = LOOK_FIRST;
        for _ in 0..KEEP_ATTEMPTS {
            // The claim may have lapsed while the state was away: what was done counts, whatever is there.
            if self.records.write(&self.mark.key, record.clone(), self.life).await.is_ok() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause *= 3;
        }
        UNKEPT.inc();
        tracing::error!(
            event = "idempotency_unkept",
            "an answer could not be kept: the state is not available, and a repetition would be done again"
        );
    }
}

impl Drop for Deed {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let (records, key, running) = self.claim();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = records.release(&key, &running).await;
            });
        }
    }
}
