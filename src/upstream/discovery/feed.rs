//! One source that is followed.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::super::compile::EndpointSpec;
use super::super::metrics;
use super::Source;

/// The first wait after a failed look-up; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// The longest wait after a failed look-up.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// How far waits vary, so that gateways do not ask in step.
const JITTER: f64 = 0.1;

/// A source that is asked again and again.
pub(super) trait Poll: Send + Sync + 'static {
    /// The endpoints as of now, and when to ask again.
    ///
    /// # Errors
    /// Why that can't be told, in plain words.
    fn look(&self) -> impl Future<Output = Result<(Vec<EndpointSpec>, Duration), String>> + Send;
}

/// The endpoints of a source, as of its last good answer.
#[derive(Clone, Debug, Default)]
pub(in crate::upstream) struct Found {
    /// Sorted by address.
    pub(in crate::upstream) endpoints: Arc<[EndpointSpec]>,
    /// When they were last confirmed; `None` if there never was a good answer.
    pub(in crate::upstream) confirmed: Option<SystemTime>,
    /// Why the newest look-up came to nothing, if it did.
    pub(in crate::upstream) error: Option<String>,
}

/// A source that is followed until nobody uses it any more.
pub(in crate::upstream) struct Feed {
    source: Source,
    found: watch::Receiver<Found>,
    task: AbortHandle,
}

impl Feed {
    /// Follows a source by asking it.
    pub(super) fn polling(runtime: &Handle, source: &Source, poll: impl Poll) -> Self {
        let (sender, found) = watch::channel(Found::default());
        let task = runtime.spawn(ask_again_and_again(source.clone(), poll, sender)).abort_handle();
        Self { source: source.clone(), found, task }
    }

    /// Follows a source that tells of itself.
    pub(super) fn told(
        runtime: &Handle,
        source: &Source,
        mut news: watch::Receiver<Option<Arc<[EndpointSpec]>>>,
    ) -> Self {
        let (sender, found) = watch::channel(Found::default());
        let name = source.clone();
        let pass_on = async move {
            loop {
                if let Some(endpoints) = news.borrow_and_update().clone() {
                    confirm(&name, &sender, endpoints);
                }
                if news.changed().await.is_err() {
                    return;
                }
            }
        };
        Self { source: source.clone(), found, task: runtime.spawn(pass_on).abort_handle() }
    }

    /// What is followed.
    pub(in crate::upstream) fn source(&self) -> &Source {
        &self.source
    }

    /// What is known now.
    pub(in crate::upstream) fn found(&self) -> Found {
        self.found.borrow().clone()
    }

    /// Tells when something else is found.
    pub(in crate::upstream) fn watch(&self) -> watch::Receiver<Found> {
        self.found.clone()
    }

    /// Returns when there was an answer, good or bad.
    pub(super) async fn answered(&self) {
        let known = |found: &Found| found.confirmed.is_some() || found.error.is_some();
        let _ = self.found.clone().wait_for(known).await;
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask_again_and_again(source: Source, poll: impl Poll, found: watch::Sender<Found>) {
    let mut retry = RETRY_FIRST;
    loop {
        let wait = match poll.look().await {
            Ok((endpoints, wait)) if !endpoints.is_empty() => {
                retry = RETRY_FIRST;
                confirm(&source, &found, super::tidy(endpoints));
                wait
            }
            failed => {
                let reason = failed.err().unwrap_or_else(|| "the answer is empty".to_owned());
                fail(&source, &found, reason);
                let wait = retry;
                retry = (retry * 2).min(RETRY_MAX);
                wait
            }
        };
        sleep(wait.mul_f64(1.0 + JITTER * (fastrand::f64() - 0.5))).await;
    }
}

fn confirm(source: &Source, found: &watch::Sender<Found>, endpoints: Arc<[EndpointSpec]>) {
    metrics::DISCOVERIES.with_label_values(&["success"]).inc();
    found.send_modify(|it| {
        if it.error.take().is_some() {
            tracing::info!(event = "discovery_recovered", source = %source, endpoints = endpoints.len(), "there are answers again");
        }
        it.endpoints = endpoints;
        it.confirmed = Some(SystemTime::now());
    });
}

/// The last good answer stays. Said once for each reason, not for each look-up.
fn fail(source: &Source, found: &watch::Sender<Found>, reason: String) {
    metrics::DISCOVERIES.with_label_values(&["failure"]).inc();
    found.send_if_modified(|it| {
        if it.error.as_ref() == Some(&reason) {
            return false;
        }
        tracing::warn!(
            event = "discovery_failed", source = %source, reason = %reason, endpoints = it.endpoints.len(),
            "the last good answer goes on serving"
        );
        it.error = Some(reason);
        true
    });
}

/// The rest of a time to live, within bounds.
pub(super) fn until(valid: Instant, shortest: Duration, longest: Duration) -> Duration {
    valid.saturating_duration_since(Instant::now()).clamp(shortest, longest.max(shortest))
}
