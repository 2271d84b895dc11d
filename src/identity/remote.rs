//! Keys of another issuer that are fetched: in the background before they are too old, and once when a token
//! names a key that is not known or has a signature that no key fits, with a pause between. An issuer that is down keeps nobody out as long as its
//! last keys count.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, CACHE_CONTROL};
use reqwest::{Certificate, Client};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::keyset::KeySet;
use super::metrics::RemoteMetrics;
use super::trust::Fetch;
use crate::base::unix_seconds;

/// The largest key set in bytes.
const BODY_MAX: usize = 256 * 1024;
/// For one fetch as a whole.
const FETCH_TIME: Duration = Duration::from_secs(5);
/// How long a request waits for keys at most.
const WAIT: Duration = Duration::from_secs(3);
/// So many requests wait at once; the others are refused.
const WAITING_MAX: usize = 1_024;
/// Bounds of how long keys are kept before they are fetched anew, whatever the issuer says.
const LIFE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
/// If the issuer says nothing.
const LIFE_DEFAULT: Duration = Duration::from_secs(600);
/// The first pause after a fetch that failed; it doubles up to a minute.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Keys that are fetched.
pub(super) struct Remote {
    settings: Fetch,
    keys: ArcSwapOption<Fetched>,
    /// A token does not fit the keys that are known.
    wanted: Notify,
    fetching: AtomicBool,
    /// When the last fetch began.
    began: Mutex<Option<Instant>>,
    /// Fetches that ended.
    ended: watch::Sender<u64>,
    waiting: AtomicUsize,
    metrics: RemoteMetrics,
}

struct Fetched {
    keys: KeySet,
    at: Instant,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("url", &self.settings.url.as_str()).finish_non_exhaustive()
    }
}

impl Remote {
    pub(super) fn new(settings: Fetch) -> Self {
        Self {
            metrics: RemoteMetrics::of(&settings.name),
            settings,
            keys: ArcSwapOption::empty(),
            wanted: Notify::new(),
            fetching: AtomicBool::new(true), // the first fetch is about to begin
            began: Mutex::new(None),
            ended: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn settings(&self) -> &Fetch {
        &self.settings
    }

    /// Looks at the keys, if there are any that still count.
    pub(super) fn with_keys<T>(&self, look: impl FnOnce(&KeySet) -> T) -> Option<T> {
        let fetched = self.keys.load();
        let fetched = fetched.as_ref().filter(|it| it.at.elapsed() < self.settings.stale)?;
        Some(look(&fetched.keys))
    }

    /// Waits for a fetch to end: the one under way, or one that is asked for now. False, and at once, if the last
    /// one is too recent.
    pub(super) async fn refreshed(&self) -> bool {
        let mut ended = self.ended.subscribe(); // before anything is asked for, so that its end is not missed
        if !self.ask() {
            return false;
        }
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        waiting < WAITING_MAX && timeout(WAIT, ended.changed()).await.is_ok()
    }

    fn ask(&self) -> bool {
        if self.fetching.load(Ordering::Acquire) {
            return true;
        }
        let may = self.began.lock().is_none_or(|it| it.elapsed() >= self.settings.refetch_after);
        if may {
            self.wanted.notify_one();
        }
        may
    }

    /// Fetches again and again, until it is aborted. `epoch` goes up when there are other keys.
    pub(super) async fn keep(self: Arc<Self>, epoch: Arc<AtomicU64>) {
        let mut retry = RETRY_MIN;
        loop {
            self.fetching.store(true, Ordering::Release);
            *self.began.lock() = Some(Instant::now());
            let outcome = timeout(FETCH_TIME, self.fetch()).await.unwrap_or(Err(FetchError::TooSlow));
            self.fetching.store(false, Ordering::Release);
            let pause = match outcome {
                Ok((keys, life)) => {
                    retry = RETRY_MIN;
                    self.take(keys, &epoch);
                    life
                }
                Err(error) => {
                    self.tell(&error);
                    let pause = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    pause
                }
            };
            self.ended.send_modify(|it| *it += 1);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    fn take(&self, keys: KeySet, epoch: &AtomicU64) {
        let changed = self.keys.load().as_ref().is_none_or(|it| it.keys != keys);
        let number = keys.len();
        self.keys.store(Some(Arc::new(Fetched { keys, at: Instant::now() })));
        self.metrics.fetched(number, unix_seconds());
        if changed {
            // After the store: whoever sees the new number sees the new keys.
            epoch.fetch_add(1, Ordering::AcqRel);
            tracing::info!(event = "issuer_keys_changed", issuer = %self.settings.name, keys = number);
        }
    }

    fn tell(&self, error: &FetchError) {
        self.metrics.failed();
        let age = self.keys.load().as_ref().map(|it| it.at.elapsed().as_secs());
        tracing::warn!(
            event = "issuer_keys_failed", issuer = %self.settings.name, reason = %error, keys_age_s = age,
            "an issuer's keys can't be fetched; the last ones count on for a while"
        );
    }

    async fn fetch(&self) -> Result<(KeySet, Duration), FetchError> {
        let mut answer =
            self.client()?.get(self.settings.url.clone()).header(ACCEPT, "application/json").send().await?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let life = life(answer.headers().get(CACHE_CONTROL).and_then(|it| it.to_str().ok()));
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            if body.len() + piece.len() > BODY_MAX {
                return Err(FetchError::TooLong);
            }
            body.extend_from_slice(&piece);
        }
        let keys = KeySet::parse(&body, &self.settings.algorithms).map_err(FetchError::NoKeys)?;
        Ok((keys, life))
    }

    /// Made anew for each fetch: they are rare, and the system's authorities may change.
    fn client(&self) -> Result<Client, FetchError> {
        // No redirect: keys come from the place that is written, not from one that it names. No proxy either.
        let builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(FETCH_TIME / 2)
            .pool_max_idle_per_host(0)
            .no_proxy();
        let builder = match &self.settings.ca {
            Some(pem) => builder.tls_certs_only(Certificate::from_pem_bundle(pem)?),
            None => builder,
        };
        Ok(builder.build()?)
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keys could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{}", causes(.0))]
    Http(#[from] reqwest::Error),
    #[error("the status is {0}")]
    Status(u16),
    #[error("it takes too long")]
    TooSlow,
    #[error("it is too long")]
    TooLong,
    #[error("{0}")]
    NoKeys(&'static str),
}

/// An error of HTTP hides why in the causes behind it.
fn causes(error: &reqwest::Error) -> String {
    // The URL is that of the settings, and may hold what must not be logged.
    let text = error.to_string();
    let mut text = error.url().map_or(text.clone(), |it| text.replace(&format!(" for url ({it})"), ""));
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// How long to keep what was answered with this `Cache-Control` (RFC 9111, section 5.2.2.1). Fetched anew a
/// little before it ends.
fn life(cache_control: Option<&str>) -> Duration {
    let directives = cache_control.unwrap_or_default().split(',').map(str::trim);
    let stated = directives.filter_map(|it| {
        let (name, value) = it.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse().ok())?
    });
    let life = stated.map(Duration::from_secs).next().unwrap_or(LIFE_DEFAULT).clamp(LIFE.0, LIFE.1);
    life.mul_f64(0.9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r4_5_keys_are_kept_as_long_as_their_issuer_says_within_bounds() {
        let check = |field: Option<&str>, seconds: u64| assert_eq!(life(field).as_secs(), seconds, "{field:?}");
        check(None, 540);
        check(Some("no-store"), 540);
        check(Some("public, MAX-AGE=\"3600\""), 3240);
        check(Some("max-age=0"), 54);
        check(Some("max-age=99999999999"), 77_760);
        check(Some("s-maxage=5, max-age=soon"), 540);
    }
}
