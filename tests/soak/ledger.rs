//! What everybody who loads the gateway writes down: requests, messages, latencies, faults.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many faults are kept word for word; all are counted.
const FAULTS_MAX: usize = 40;
/// Steps of a latency's power of two.
const STEPS: u32 = 8;

/// Shared by all tasks.
pub struct Ledger {
    pub requests: AtomicU64,
    pub messages: AtomicU64,
    pub events: AtomicU64,
    latencies: Vec<AtomicU64>,
    slowest_micros: AtomicU64,
    faults: Mutex<(u64, Vec<String>)>,
}

impl Ledger {
    pub fn new() -> Self {
        Self {
            requests: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            events: AtomicU64::new(0),
            latencies: (0..64 * STEPS).map(|_| AtomicU64::new(0)).collect(),
            slowest_micros: AtomicU64::new(0),
            faults: Mutex::default(),
        }
    }

    pub fn request(&self, took: Duration) {
        let micros = (took.as_micros() as u64).max(1);
        self.requests.fetch_add(1, Relaxed);
        self.latencies[bucket(micros)].fetch_add(1, Relaxed);
        self.slowest_micros.fetch_max(micros, Relaxed);
    }

    /// Something that must not happen.
    pub fn fault(&self, what: String) {
        let mut faults = self.faults.lock().unwrap();
        faults.0 += 1;
        if faults.1.len() < FAULTS_MAX {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            faults.1.push(format!("{:.3}: {what}", now.as_secs_f64() % 1000.0));
        }
    }

    /// How many faults there were, and the first of them.
    pub fn faults(&self) -> (u64, Vec<String>) {
        self.faults.lock().unwrap().clone()
    }

    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest_micros.load(Relaxed))
    }

    /// The latency that this share of the requests did not exceed, to within an eighth.
    pub fn percentile(&self, share: f64) -> Duration {
        let counts: Vec<u64> = self.latencies.iter().map(|it| it.load(Relaxed)).collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * share) as u64;
        let mut seen = 0;
        let found = counts.iter().position(|count| {
            seen += count;
            seen > wanted
        });
        Duration::from_micros(upper_end(found.unwrap_or(0)))
    }
}

fn bucket(micros: u64) -> usize {
    let power = micros.ilog2();
    let step = ((micros - (1 << power)) * u64::from(STEPS)) >> power;
    (power * STEPS) as usize + step as usize
}

fn upper_end(bucket: usize) -> u64 {
    let (power, step) = (bucket as u32 / STEPS, bucket as u64 % u64::from(STEPS));
    (1 << power) + (((step + 1) << power) / u64::from(STEPS))
}

#[test]
fn a_percentile_is_within_an_eighth() {
    let ledger = Ledger::new();
    (1..=1000).for_each(|millis| ledger.request(Duration::from_millis(millis)));
    let median = ledger.percentile(0.5).as_millis();
    assert!((500..=563).contains(&median), "{median}");
    assert_eq!(ledger.slowest(), Duration::from_secs(1));
}
