//! Records about who may come in that are kept elsewhere: API keys and accounts. Looked up, remembered for a
//! little while, and never guessed: what can't be looked up lets nobody in.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::timeout;

use super::metrics::CROWDED;

/// The records can't be reached, or gave no answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the records can't be reached")]
pub struct Unavailable;

/// An API key, as far as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Whose it is.
    pub subject: String,
    /// SHA-256 of the secret part.
    pub hash: [u8; 32],
    /// For whom it counts.
    pub tenant: Option<String>,
    /// Its roles.
    pub roles: Vec<String>,
    /// What it is for, beside its roles.
    pub scopes: Vec<String>,
    /// When it ends, in seconds since 1970; none: never.
    pub expires: Option<u64>,
    /// Whether it was taken back.
    pub revoked: bool,
}

/// Somebody who may sign in, as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its roles.
    pub roles: Vec<Arc<str>>,
    /// For whom it counts.
    pub tenant: Option<Arc<str>>,
    /// Whether it may come in at all.
    pub active: bool,
}

/// Where the records are.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// The API key of this id.
    ///
    /// # Errors
    /// When it can't be looked up.
    async fn api_key(&self, id: &str) -> Result<Option<ApiKeyRecord>, Unavailable>;

    /// The account of this subject.
    ///
    /// # Errors
    /// When it can't be looked up.
    async fn account(&self, subject: &str) -> Result<Option<Account>, Unavailable>;
}

/// For one question.
const ASK_TIME: Duration = Duration::from_secs(3);
/// How long it is remembered that nothing is there, or that it could not be looked up.
const NOTHING_LIFE: Duration = Duration::from_secs(5);
const FAILURE_LIFE: Duration = Duration::from_secs(1);
/// So many records are remembered, and apart from them so many names that nobody has.
const ENTRIES_MAX: usize = 20_000;
const SHARDS: usize = 16;
/// So many questions are on their way to the store at once. Names that nobody has are each a new one.
const ASKING_MAX: usize = 32;
/// So many more may wait for theirs; beyond that nobody is looked up.
const WAITING_MAX: usize = 1024;

pub(super) type Answer<V> = Result<Option<Arc<V>>, Unavailable>;

/// Answers by name, each looked up once at a time however many wait for it.
pub(super) struct Lookups<V> {
    shards: Vec<Mutex<Shard<V>>>,
    random: RandomState,
    asking: Semaphore,
    waiting: Semaphore,
}

/// Names that somebody has and names that nobody has lie apart: who makes names up drives out others that were made
/// up, and no record.
struct Shard<V> {
    records: HashMap<String, Kept<Arc<V>>>,
    nothing: HashMap<String, Kept<Result<(), Unavailable>>>,
    /// As many as may ask and wait, at most.
    pending: HashMap<String, Arc<OnceCell<Answer<V>>>>,
}

/// Something, and until when it is remembered.
struct Kept<T>(T, Instant);

impl<T> Kept<T> {
    fn now(&self) -> Option<&T> {
        (Instant::now() < self.1).then_some(&self.0)
    }
}

impl<V> Shard<V> {
    fn known(&self, name: &str) -> Option<Answer<V>> {
        if let Some(record) = self.records.get(name).and_then(Kept::now) {
            return Some(Ok(Some(record.clone())));
        }
        let nothing = self.nothing.get(name).and_then(Kept::now)?;
        Some(nothing.map(|()| None))
    }

    fn keep(&mut self, name: &str, answer: &Answer<V>, life: Duration) {
        let until = |life| Instant::now() + life;
        match answer {
            Ok(Some(record)) => {
                make_room(&mut self.records);
                self.nothing.remove(name);
                self.records.insert(name.to_owned(), Kept(record.clone(), until(life)));
            }
            Ok(None) | Err(Unavailable) => {
                make_room(&mut self.nothing);
                self.records.remove(name);
                let (nothing, most) = match answer {
                    Ok(_) => (Ok(()), NOTHING_LIFE),
                    Err(Unavailable) => (Err(Unavailable), FAILURE_LIFE),
                };
                self.nothing.insert(name.to_owned(), Kept(nothing, until(life.min(most))));
            }
        }
    }
}

/// What is over goes first; if all still counts, all goes: it is looked up again.
fn make_room<T>(kept: &mut HashMap<String, Kept<T>>) {
    if kept.len() >= ENTRIES_MAX / SHARDS {
        kept.retain(|_, it| it.now().is_some());
    }
    if kept.len() >= ENTRIES_MAX / SHARDS {
        kept.clear();
    }
}

impl<V> Lookups<V> {
    pub(super) fn new() -> Self {
        let shard = || Shard { records: HashMap::new(), nothing: HashMap::new(), pending: HashMap::new() };
        Self {
            shards: std::iter::repeat_with(|| Mutex::new(shard())).take(SHARDS).collect(),
            random: RandomState::new(),
            asking: Semaphore::new(ASKING_MAX),
            waiting: Semaphore::new(ASKING_MAX + WAITING_MAX),
        }
    }

    /// What is remembered under this name.
    pub(super) fn known(&self, name: &str) -> Option<Answer<V>> {
        self.shard(name).lock().known(name)
    }

    /// What is remembered under this name, or what is answered now; that is remembered for `life`.
    pub(super) async fn find(
        &self,
        name: &str,
        life: Duration,
        ask: impl Future<Output = Result<Option<V>, Unavailable>>,
    ) -> Answer<V> {
        let Ok(_place) = self.waiting.try_acquire() else {
            CROWDED.inc();
            return Err(Unavailable);
        };
        let pending = {
            let mut shard = self.shard(name).lock();
            if let Some(answer) = shard.known(name) {
                return answer;
            }
            shard.pending.entry(name.to_owned()).or_default().clone()
        };
        let _pending = Pending { lookups: self, name, cell: &pending };
        pending.get_or_init(|| self.ask(name, life, &pending, ask)).await.clone()
    }

    /// Asks when it is its turn. What was forgotten meanwhile is not remembered.
    async fn ask(
        &self,
        name: &str,
        life: Duration,
        pending: &Arc<OnceCell<Answer<V>>>,
        ask: impl Future<Output = Result<Option<V>, Unavailable>>,
    ) -> Answer<V> {
        let asked = async {
            let _turn = self.asking.acquire().await.map_err(|_| Unavailable)?;
            ask.await
        };
        let answer = timeout(ASK_TIME, asked).await.unwrap_or(Err(Unavailable)).map(|it| it.map(Arc::new));
        let mut shard = self.shard(name).lock();
        if shard.pending.get(name).is_some_and(|it| Arc::ptr_eq(it, pending)) {
            shard.keep(name, &answer, life);
        }
        answer
    }

    /// Every later lookup is made anew.
    pub(super) fn forget(&self, name: &str) {
        let mut shard = self.shard(name).lock();
        shard.records.remove(name);
        shard.nothing.remove(name);
        shard.pending.remove(name);
    }

    fn shard(&self, name: &str) -> &Mutex<Shard<V>> {
        &self.shards[self.random.hash_one(name) as usize % SHARDS]
    }
}

/// A question under way, or waited for. The last one who leaves it takes it away, answered or not.
struct Pending<'l, V> {
    lookups: &'l Lookups<V>,
    name: &'l str,
    cell: &'l Arc<OnceCell<Answer<V>>>,
}

impl<V> Drop for Pending<'_, V> {
    fn drop(&mut self) {
        let mut shard = self.lookups.shard(self.name).lock();
        // In the map, and here: nobody else waits.
        let last = Arc::strong_count(self.cell) <= 2 || self.cell.initialized();
        if last && shard.pending.get(self.name).is_some_and(|it| Arc::ptr_eq(it, self.cell)) {
            shard.pending.remove(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LIFE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn cp2_d_an_answer_is_asked_for_once_and_remembered() {
        let lookups = Lookups::new();
        let asked = AtomicUsize::new(0);
        let ask = || async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(Some(asked.fetch_add(1, Ordering::Relaxed)))
        };
        let (one, other) = tokio::join!(lookups.find("a", LIFE, ask()), lookups.find("a", LIFE, ask()));
        assert_eq!((one, other), (Ok(Some(Arc::new(0))), Ok(Some(Arc::new(0)))));
        assert_eq!(lookups.known("a"), Some(Ok(Some(Arc::new(0)))));
        lookups.forget("a");
        assert_eq!(lookups.known("a"), None);
        assert_eq!(lookups.find("a", LIFE, ask()).await, Ok(Some(Arc::new(1))));
        assert_eq!(lookups.find("b", Duration::ZERO, ask()).await, Ok(Some(Arc::new(2))));
        assert_eq!(lookups.find("b", LIFE, ask()).await, Ok(Some(Arc::new(3))));
    }

    #[tokio::test(start_paused = true)]
    async fn cp2_d_what_can_not_be_asked_is_no_answer() {
        let lookups = Lookups::<()>::new();
        assert_eq!(lookups.find("a", LIFE, async { Err(Unavailable) }).await, Err(Unavailable));
        assert_eq!(lookups.find("b", LIFE, std::future::pending()).await, Err(Unavailable));
        assert_eq!(lookups.find("c", LIFE, async { Ok(None) }).await, Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_are_made_up_are_bounded_and_drive_no_record_out() {
        let lookups = Lookups::new();
        assert_eq!(lookups.find("good", LIFE, async { Ok(Some(1)) }).await, Ok(Some(Arc::new(1))));
        for number in 0..3 * ENTRIES_MAX {
            let _ = lookups.find(&number.to_string(), LIFE, async { Ok(None) }).await;
        }
        assert_eq!(lookups.known("good"), Some(Ok(Some(Arc::new(1)))));
        let sum = |of: fn(&Shard<i32>) -> usize| lookups.shards.iter().map(|it| of(&it.lock())).sum::<usize>();
        assert!(sum(|it| it.nothing.len()) <= ENTRIES_MAX);
        assert_eq!((sum(|it| it.records.len()), sum(|it| it.pending.len())), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_questions_are_asked_at_once_and_no_more() {
        let lookups = Lookups::<()>::new();
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let ask = || async {
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            now.fetch_sub(1, Ordering::Relaxed);
            Ok(None)
        };
        let names: Vec<String> = (0..2 * WAITING_MAX).map(|it| it.to_string()).collect();
        let all = names.iter().map(|it| lookups.find(it, LIFE, ask()));
        let answers = futures_util::future::join_all(all).await;
        assert_eq!(most.load(Ordering::Relaxed), ASKING_MAX);
        assert_eq!(answers.iter().filter(|it| it.is_ok()).count(), ASKING_MAX + WAITING_MAX);
        assert!(lookups.shards.iter().all(|it| it.lock().pending.is_empty()), "nothing is left behind");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_while_it_is_asked_for_is_not_remembered() {
        let lookups = Lookups::new();
        let ask = async {
            lookups.forget("a");
            Ok(Some(1))
        };
        assert_eq!(lookups.find("a", LIFE, ask).await, Ok(Some(Arc::new(1))));
        assert_eq!(lookups.known("a"), None);
    }
}
