//! Short words to everybody who listens, in this gateway and in those that share its state: a token was
//! revoked, a cached answer is void.
//!
//! A notice is a hint, not a record: one that was lost on the way is not sent again. But whoever listens
//! is told that some may be missing, and can look at the truth itself.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::state::metrics;
use crate::state::records::Unavailable;
use crate::state::redis::Link;

/// So many notices wait for a slow listener; of more it misses the oldest.
const WAITING_MAX: usize = 1_024;
/// The largest notice in bytes.
const NOTICE_MAX: usize = 4_096;

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Somebody said this.
    Said(Bytes),
    /// Something may have been said that can't be heard any more: the listener was slow, or the other
    /// gateways were out of reach.
    Missed,
}

/// Says and hears notices; clones share it.
#[derive(Clone)]
pub struct Notices {
    hub: Arc<Hub>,
    link: Option<Arc<Link>>,
}

/// Hears the notices of one topic.
pub struct Subscription(broadcast::Receiver<Notice>);

/// The listeners in this gateway, by topic. Topics are words of the source, so there are few.
#[derive(Default)]
pub(super) struct Hub {
    topics: Mutex<HashMap<&'static str, broadcast::Sender<Notice>>>,
}

impl Notices {
    pub(super) fn local() -> Self {
        Self { hub: Arc::default(), link: None }
    }

    pub(super) fn shared(self, link: Arc<Link>) -> Self {
        Self { link: Some(link), ..self }
    }

    pub(super) fn hub(&self) -> Arc<Hub> {
        self.hub.clone()
    }

    /// Says something of at most 4 KiB to everybody who listens, this gateway at once.
    ///
    /// # Errors
    /// When the other gateways can't be reached; this one has heard it all the same.
    pub async fn publish(&self, topic: &'static str, said: Bytes) -> Result<(), Unavailable> {
        if said.len() > NOTICE_MAX {
            return Err(Unavailable);
        }
        self.hub.deliver(topic, &Notice::Said(said.clone()));
        match &self.link {
            None => Ok(()),
            Some(link) => link.publish(topic, &said).await,
        }
    }

    /// Hears what is said from now on.
    pub fn subscribe(&self, topic: &'static str) -> Subscription {
        let mut topics = self.hub.topics.lock();
        let sender = topics.entry(topic).or_insert_with(|| broadcast::channel(WAITING_MAX).0);
        Subscription(sender.subscribe())
    }
}

impl Hub {
    pub(super) fn deliver(&self, topic: &str, notice: &Notice) {
        if let Some(sender) = self.topics.lock().get(topic) {
            let _ = sender.send(notice.clone()); // nobody listens
        }
    }

    /// The other gateways were out of reach for a while.
    pub(super) fn missed(&self) {
        for sender in self.topics.lock().values() {
            let _ = sender.send(Notice::Missed);
        }
    }
}

impl Subscription {
    /// The next notice; `None` when the state is gone.
    pub async fn next(&mut self) -> Option<Notice> {
        match self.0.recv().await {
            Ok(notice) => Some(notice),
            Err(RecvError::Lagged(_)) => {
                metrics::NOTICES.with_label_values(&["missed"]).inc();
                Some(Notice::Missed)
            }
            Err(RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_hear_their_topic_in_order() {
        let notices = Notices::local();
        let mut first = notices.subscribe("tokens");
        notices.publish("cache", Bytes::from_static(b"other")).await.unwrap();
        notices.publish("tokens", Bytes::from_static(b"1")).await.unwrap();
        notices.publish("tokens", Bytes::from_static(b"2")).await.unwrap();
        assert_eq!(first.next().await, Some(Notice::Said(Bytes::from_static(b"1"))));
        assert_eq!(first.next().await, Some(Notice::Said(Bytes::from_static(b"2"))));
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_that_it_missed_something() {
        let notices = Notices::local();
        let mut slow = notices.subscribe("tokens");
        for number in 0..=WAITING_MAX {
            notices.publish("tokens", Bytes::from(number.to_string())).await.unwrap();
        }
        assert_eq!(slow.next().await, Some(Notice::Missed));
        assert!(matches!(slow.next().await, Some(Notice::Said(_))));
        assert_eq!(notices.publish("tokens", Bytes::from(vec![0; NOTICE_MAX + 1])).await, Err(Unavailable));
    }
}
