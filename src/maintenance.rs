//! The maintenance switch: one call turns the clients of all routes away, in every gateway that shares the state.
//!
//! What is said lies in the state, so that it outlives a gateway where the state does. Other gateways hear of a change at
//! once, and look by themselves in case they did not.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use once_cell::sync::Lazy;
use prometheus::{IntGauge, register_int_gauge};
use serde::{Deserialize, Serialize};

use crate::state::{Received, State, Unavailable};
use crate::telemetry::Timestamp;

/// Where it lies in the state.
const KEY: &str = "maintenance:notice";
/// What gateways tell one another that something has changed by.
const TOPIC: &str = "maintenance";
/// A message may be lost: so often it is looked what holds.
const LOOK: Duration = Duration::from_secs(5);
/// Nobody means to be away for longer, and what is forgotten ends some day.
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

static ON: Lazy<IntGauge> = Lazy::new(|| {
    let help = "Whether the gateway is in maintenance: 1 if all routes but those that ignore it get 503.";
    register_int_gauge!("moongate_maintenance", help).expect("a family is registered once")
});

/// What clients are told while it lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// For people.
    pub message: String,
    /// After how many seconds clients may look again.
    pub retry_after: u64,
    /// When it began.
    pub since: String,
}

/// Whether the gateway is in maintenance.
pub struct Maintenance {
    notice: ArcSwapOption<Notice>,
    state: State,
}

impl Maintenance {
    /// Not in maintenance, as far as is known before the first [`look`](Self::look).
    pub fn new(state: State) -> Arc<Self> {
        ON.set(0);
        Arc::new(Self { notice: ArcSwapOption::empty(), state })
    }

    /// What clients are told, if it is in maintenance.
    pub fn notice(&self) -> Option<Arc<Notice>> {
        self.notice.load().as_ref().cloned()
    }

    /// Begins it, or changes what is said.
    ///
    /// # Errors
    /// When the other gateways could not learn of it: nothing has changed then.
    pub async fn begin(&self, message: &str, retry_after: u64) -> Result<Arc<Notice>, Unavailable> {
        let since = Timestamp::now().as_str().to_owned();
        let notice = Arc::new(Notice { message: message.to_owned(), retry_after, since });
        let bytes = serde_json::to_vec(&*notice).map_err(|_| Unavailable)?;
        self.state.records.write(KEY, bytes.into(), LIFE).await?;
        self.set(Some(notice.clone()));
        let _ = self.state.pubsub.publish(TOPIC, Bytes::new()).await; // else they find out when they look
        Ok(notice)
    }

    /// Ends it, if there is one.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub async fn end(&self) -> Result<(), Unavailable> {
        self.state.records.delete(KEY).await?;
        self.set(None);
        let _ = self.state.pubsub.publish(TOPIC, Bytes::new()).await;
        Ok(())
    }

    /// Looks what holds. Where the state can't be reached, what was known holds on.
    pub async fn look(&self) {
        match self.state.records.read(KEY).await {
            Ok(Some(bytes)) => match serde_json::from_slice::<Notice>(&bytes) {
                Ok(notice) => self.set(Some(Arc::new(notice))),
                Err(error) => tracing::error!(event = "maintenance_unreadable", error = %error),
            },
            Ok(None) => self.set(None),
            Err(Unavailable) => tracing::debug!(event = "maintenance_unknown"),
        }
    }

    /// Follows what other gateways say, for as long as the process lives.
    pub async fn follow(self: Arc<Self>) {
        let mut messages = self.state.pubsub.subscribe(TOPIC);
        loop {
            self.look().await;
            tokio::select! {
                received = messages.next() => match received {
                    Some(Received::Message(_) | Received::Lagged) => {}
                    None => return,
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn set(&self, notice: Option<Arc<Notice>>) {
        let before = self.notice.swap(notice.clone());
        ON.set(i64::from(notice.is_some()));
        match (before, notice) {
            (before, Some(notice)) if before.as_ref() != Some(&notice) => {
                tracing::warn!(
                    event = "maintenance_began",
                    message = notice.message.as_str(),
                    since = notice.since.as_str()
                );
            }
            (Some(before), None) => tracing::warn!(event = "maintenance_ended", since = before.since.as_str()),
            _ => {}
        }
    }
}
