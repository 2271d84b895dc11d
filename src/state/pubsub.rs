//! Publish and subscribe: short messages to all subscribers, in this gateway and in those that share its state: a token
//! was revoked, a cached answer is void.
//!
//! A message is a hint, not a record: one that was lost on the way is not sent again. But a subscriber
//! learns that some may be missing, and can look at the truth itself.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::state::metrics;
use crate::state::records::Unavailable;
use crate::state::redis::Link;

/// So many messages wait for a slow subscriber; of more it misses the oldest.
const WAITING_MAX: usize = 1_024;
/// The largest message in bytes.
const MESSAGE_MAX: usize = 4_096;

/// What a subscriber receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A message that was published.
    Message(Bytes),
    /// Some messages may be lost: the subscriber was slow, or the other
    /// gateways were out of reach.
    Lagged,
}

/// Publishes and subscribes; clones share it.
#[derive(Clone)]
pub struct PubSub {
    hub: Arc<Hub>,
    link: Option<Arc<Link>>,
}

/// The messages of one topic.
pub struct Subscription(broadcast::Receiver<Received>);

/// The subscribers in this gateway, by topic. Topics are words of the source, so there are few.
#[derive(Default)]
pub(super) struct Hub {
    topics: Mutex<HashMap<&'static str, broadcast::Sender<Received>>>,
}

impl PubSub {
    pub(super) fn local() -> Self {
        Self { hub: Arc::default(), link: None }
    }

    pub(super) fn shared(self, link: Arc<Link>) -> Self {
        Self { link: Some(link), ..self }
    }

    pub(super) fn hub(&self) -> Arc<Hub> {
        self.hub.clone()
    }

    /// Publishes a message of at most 4 KiB to all subscribers, those in this gateway at once.
    ///
    /// # Errors
    /// When the other gateways can't be reached; subscribers in this one got it all the same.
    pub async fn publish(&self, topic: &'static str, message: Bytes) -> Result<(), Unavailable> {
        if message.len() > MESSAGE_MAX {
            return Err(Unavailable);
        }
        self.hub.deliver(topic, &Received::Message(message.clone()));
        match &self.link {
            None => Ok(()),
            Some(link) => link.publish(topic, &message).await,
        }
    }

    /// Subscribes to what is published from now on.
    pub fn subscribe(&self, topic: &'static str) -> Subscription {
        let mut topics = self.hub.topics.lock();
        let sender = topics.entry(topic).or_insert_with(|| broadcast::channel(WAITING_MAX).0);
        Subscription(sender.subscribe())
    }
}

impl Hub {
    pub(super) fn deliver(&self, topic: &str, received: &Received) {
        if let Some(sender) = self.topics.lock().get(topic) {
            let _ = sender.send(received.clone()); // nobody subscribes
        }
    }

    /// The other gateways were out of reach for a while.
    pub(super) fn missed(&self) {
        for sender in self.topics.lock().values() {
            let _ = sender.send(Received::Lagged);
        }
    }
}

impl Subscription {
    /// The next message; `None` when the state is gone.
    pub async fn next(&mut self) -> Option<Received> {
        match self.0.recv().await {
            Ok(received) => Some(received),
            Err(RecvError::Lagged(_)) => {
                metrics::PUBSUB.with_label_values(&["missed"]).inc();
                Some(Received::Lagged)
            }
            Err(RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn subscribers_get_their_topic_in_order() {
        let pubsub = PubSub::local();
        let mut first = pubsub.subscribe("tokens");
        pubsub.publish("cache", Bytes::from_static(b"other")).await.unwrap();
        pubsub.publish("tokens", Bytes::from_static(b"1")).await.unwrap();
        pubsub.publish("tokens", Bytes::from_static(b"2")).await.unwrap();
        assert_eq!(first.next().await, Some(Received::Message(Bytes::from_static(b"1"))));
        assert_eq!(first.next().await, Some(Received::Message(Bytes::from_static(b"2"))));
    }

    #[tokio::test]
    async fn a_slow_subscriber_learns_that_it_lagged() {
        let pubsub = PubSub::local();
        let mut slow = pubsub.subscribe("tokens");
        for number in 0..=WAITING_MAX {
            pubsub.publish("tokens", Bytes::from(number.to_string())).await.unwrap();
        }
        assert_eq!(slow.next().await, Some(Received::Lagged));
        assert!(matches!(slow.next().await, Some(Received::Message(_))));
        assert_eq!(pubsub.publish("tokens", Bytes::from(vec![0; MESSAGE_MAX + 1])).await, Err(Unavailable));
    }
}
