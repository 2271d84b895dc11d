//! Records about who may come in that are kept elsewhere: API keys and accounts. Looked up, remembered for a
//! little while, and never guessed: what can't be looked up lets nobody in.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::timeout;

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
/// So many answers are remembered, of each kind.
const ENTRIES_MAX: usize = 20_000;
const SHARDS: usize = 16;

pub(super) type Answer<V> = Result<Option<Arc<V>>, Unavailable>;

/// Answers by name, each looked up once at a time however many wait for it.
pub(super) struct Lookups<V> {
    shards: Vec<Mutex<HashMap<String, Arc<Entry<V>>>>>,
    random: RandomState,
}

type Entry<V> = OnceCell<(Answer<V>, Instant)>;

impl<V> Lookups<V> {
    pub(super) fn new() -> Self {
        let shards = std::iter::repeat_with(|| Mutex::new(HashMap::new())).take(SHARDS).collect();
        Self { shards, random: RandomState::new() }
    }

    /// What is remembered under this name.
    pub(super) fn known(&self, name: &str) -> Option<Answer<V>> {
        let shard = self.shard(name).lock();
        let (answer, until) = shard.get(name)?.get()?;
        (Instant::now() < *until).then(|| answer.clone())
    }

    /// What is remembered under this name, or what is answered now; that is remembered for `life`.
    pub(super) async fn find(
        &self,
        name: &str,
        life: Duration,
        ask: impl Future<Output = Result<Option<V>, Unavailable>>,
    ) -> Answer<V> {
        let entry = self.entry(name);
        let asked = async {
            let answer = timeout(ASK_TIME, ask).await.unwrap_or(Err(Unavailable));
            let life = match &answer {
                Ok(Some(_)) => life,
                Ok(None) => life.min(NOTHING_LIFE),
                Err(Unavailable) => life.min(FAILURE_LIFE),
            };
            (answer.map(|it| it.map(Arc::new)), Instant::now() + life)
        };
        entry.get_or_init(|| asked).await.0.clone()
    }

    /// Every later lookup is made anew.
    pub(super) fn forget(&self, name: &str) {
        self.shard(name).lock().remove(name);
    }

    fn entry(&self, name: &str) -> Arc<Entry<V>> {
        let mut shard = self.shard(name).lock();
        let over = |it: &Entry<V>| it.get().is_some_and(|(_, until)| Instant::now() >= *until);
        if let Some(entry) = shard.get(name).filter(|it| !over(it)) {
            return entry.clone();
        }
        if shard.len() >= ENTRIES_MAX / SHARDS {
            shard.retain(|_, it| !over(it));
        }
        // Names that nobody has must not push out those that somebody has for good: they end soon.
        if shard.len() >= ENTRIES_MAX / SHARDS {
            shard.clear();
        }
        let entry = Arc::new(OnceCell::new());
        shard.insert(name.to_owned(), entry.clone());
        entry
    }

    fn shard(&self, name: &str) -> &Mutex<HashMap<String, Arc<Entry<V>>>> {
        &self.shards[self.random.hash_one(name) as usize % SHARDS]
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
        for number in 0..3 * ENTRIES_MAX {
            let _ = lookups.find(&number.to_string(), LIFE, async { Ok(None) }).await;
        }
        assert!(lookups.shards.iter().map(|it| it.lock().len()).sum::<usize>() <= ENTRIES_MAX);
    }
}
