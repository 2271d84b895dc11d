//! The way to the database: opened once, and every call with a deadline, on a runtime of its own.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use sqlx::any::AnyPoolOptions;
use sqlx::{AnyPool, Transaction};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore};

use crate::store::config::Place;
use crate::store::{metrics, migrations, purge, sql};

/// How long a call may take, the wait for a connection included.
const DEADLINE: Duration = Duration::from_secs(5);
/// So many calls may be under way or wait for a connection; later ones are refused at once.
const CALLS_MAX: usize = 256;
/// Each is a thread; SQLite has one writer at a time anyway.
const SQLITE_CONNECTIONS: u32 = 4;

/// What did not work, as far as a caller can act on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store can't be reached, is locked or full, or gave no answer in time. Whether a change
    /// took effect is then not known.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// There is such a record already.
    #[error("there is such a record already")]
    Conflict,
}

/// The records that last. Clones share one database.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    place: Place,
    /// Where the calls run: the threads that serve requests have no time for them.
    runtime: Handle,
    database: OnceCell<Database>,
    calls: Arc<Semaphore>,
    /// When a failure was last logged, in seconds since 1970.
    logged: AtomicI64,
}

/// An open database.
#[derive(Clone)]
pub(super) struct Database {
    pub(super) pool: AnyPool,
    begin: &'static str,
}

impl Database {
    /// Begins what takes effect as a whole or not at all.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, sqlx::Any>, sqlx::Error> {
        self.pool.begin_with(self.begin).await
    }
}

impl Store {
    /// A store that is opened by its first call, or by [`Store::open`]. Its calls run on `runtime`,
    /// which needs a thread of its own.
    pub fn new(place: Place, runtime: Handle) -> Self {
        let inner = Inner {
            place,
            runtime,
            database: OnceCell::new(),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            logged: AtomicI64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Opens the database and brings its tables up to date, if that has not been done.
    ///
    /// # Errors
    /// When it can't be reached, written to, or was made by a later version.
    pub async fn open(&self) -> Result<(), StoreError> {
        self.call(|_| async { Ok(()) }).await
    }

    /// Whether it has been opened.
    pub fn is_open(&self) -> bool {
        self.inner.database.initialized()
    }

    /// Removes records whose lifetime has ended, and returns how many. An open store does so by itself, every
    /// few minutes.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn purge(&self) -> Result<u64, StoreError> {
        self.call(move |database| async move { purge::purge(&database, sql::now()).await }).await
    }

    /// Runs `work` where it may wait. It goes on even if the caller is dropped, up to the deadline.
    pub(super) async fn call<T, W, F>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(Database) -> F + Send + 'static,
        F: Future<Output = Result<T, sqlx::Error>> + Send + 'static,
    {
        let begun = Instant::now();
        let done = self.run(work).await;
        metrics::DURATION.observe(begun.elapsed().as_secs_f64());
        match &done {
            Ok(_) => metrics::OK.inc(),
            Err(StoreError::Conflict) => metrics::CONFLICT.inc(),
            Err(error @ StoreError::Unavailable(_)) => {
                metrics::UNAVAILABLE.inc();
                self.tell(error);
            }
        }
        done
    }

    async fn run<T, W, F>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(Database) -> F + Send + 'static,
        F: Future<Output = Result<T, sqlx::Error>> + Send + 'static,
    {
        let Ok(permit) = self.inner.calls.clone().try_acquire_owned() else {
            return Err(StoreError::Unavailable(format!("{CALLS_MAX} calls are waiting already")));
        };
        let inner = self.inner.clone();
        let bounded = async move {
            let _permit = permit;
            let work = async {
                let database = inner.database.get_or_try_init(|| inner.open()).await?.clone();
                work(database).await
            };
            match tokio::time::timeout(DEADLINE, work).await {
                Ok(done) => done.map_err(|error| sorted(error, &inner.place)),
                Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", DEADLINE.as_secs()))),
            }
        };
        match self.inner.runtime.spawn(bounded).await {
            Ok(done) => done,
            Err(_) => Err(StoreError::Unavailable("the gateway is stopping".to_owned())),
        }
    }

    /// At most once a second: a store that is gone fails every call.
    fn tell(&self, error: &StoreError) {
        let now = sql::now();
        if self.inner.logged.swap(now, Ordering::Relaxed) != now {
            tracing::error!(event = "store_unavailable", error = %error);
        }
    }
}

impl Inner {
    async fn open(&self) -> Result<Database, sqlx::Error> {
        let options = sql::options(&self.place)?;
        migrations::run(&self.place, &options).await?;
        let connections = match self.place {
            Place::Sqlite(_) => SQLITE_CONNECTIONS,
            Place::Postgres(_, connections) => connections,
        };
        let place = self.place.clone();
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(DEADLINE)
            .after_connect(move |connection, _| {
                let place = place.clone();
                Box::pin(async move { sql::prepare(&place, connection).await })
            })
            .connect_lazy_with(options);
        let database = Database { pool, begin: sql::begin(&self.place) };
        tokio::spawn(purge::run(database.clone(), self.place.clone()));
        Ok(database)
    }
}

/// What a caller can distinguish. The text of a database's error names tables, never values; but it may name who
/// could not sign in where, which is a part of the secret that a server's URL is.
pub(super) fn sorted(error: sqlx::Error, place: &Place) -> StoreError {
    let why = match error {
        sqlx::Error::Database(error) if error.is_unique_violation() => return StoreError::Conflict,
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::PoolTimedOut => "no connection within the deadline".to_owned(),
        error => error.to_string(),
    };
    StoreError::Unavailable(match place {
        Place::Postgres(url, _) => url.out_of(&why),
        Place::Sqlite(_) => why,
    })
}
