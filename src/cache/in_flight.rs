//! Collapsed forwarding: one request fetches a response, others for the same wait for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The fills that are in flight, by key.
#[derive(Default)]
pub(super) struct InFlightFills(Arc<Mutex<ByKey>>);

type ByKey = HashMap<Box<[u8]>, watch::Receiver<Outcome>>;

/// What became of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    Pending,
    /// The response is stored.
    Stored,
    /// It is of no use to others, or takes too long.
    NotStored,
    /// The request that fetched it ended before it was there.
    Abandoned,
}

/// The guard of the request that fetches. Dropped, it releases the followers.
pub(super) struct InFlight {
    fills: Arc<Mutex<ByKey>>,
    key: Box<[u8]>,
    outcome: watch::Sender<Outcome>,
}

/// The part of a request in a fill.
pub(super) enum Joined {
    /// This request fetches.
    Leader(InFlight),
    /// Another one fetches.
    Follower(watch::Receiver<Outcome>),
}

impl InFlightFills {
    pub(super) fn join(&self, key: &[u8]) -> Joined {
        let mut fills = self.0.lock();
        if let Some(running) = fills.get(key) {
            return Joined::Follower(running.clone());
        }
        let (outcome, receiver) = watch::channel(Outcome::Pending);
        fills.insert(key.into(), receiver);
        Joined::Leader(InFlight { fills: self.0.clone(), key: key.into(), outcome })
    }
}

impl InFlight {
    /// Wakes the followers. A later request is a leader again.
    pub(super) fn complete(self, outcome: Outcome) {
        self.fills.lock().remove(&self.key);
        let _ = self.outcome.send(outcome);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // The leader left: the followers see that no outcome will come. Once complete, the key may be
        // another one's.
        let mut fills = self.fills.lock();
        if fills.get(&self.key).is_some_and(|it| it.same_channel(&self.outcome.subscribe())) {
            fills.remove(&self.key);
        }
    }
}

/// Waits until the response is there, at most for `patience`.
pub(super) async fn follow(mut in_flight: watch::Receiver<Outcome>, patience: Duration) -> Outcome {
    let landed = tokio::time::timeout(patience, in_flight.wait_for(|it| *it != Outcome::Pending)).await;
    match landed {
        Ok(Ok(outcome)) => *outcome,
        Ok(Err(_)) => Outcome::Abandoned,
        Err(_) => Outcome::NotStored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_leads_and_the_others_follow() {
        let fills = InFlightFills::default();
        let Joined::Leader(leader) = fills.join(b"a") else { panic!("nobody leads") };
        let Joined::Follower(waiting) = fills.join(b"a") else { panic!("two lead") };
        assert!(matches!(fills.join(b"b"), Joined::Leader(_)));
        leader.complete(Outcome::Stored);
        assert_eq!(follow(waiting, Duration::from_secs(5)).await, Outcome::Stored);
        assert!(matches!(fills.join(b"a"), Joined::Leader(_)));
    }

    #[tokio::test]
    async fn a_leader_that_leaves_holds_nobody_up() {
        let fills = InFlightFills::default();
        let Joined::Leader(leader) = fills.join(b"a") else { panic!("nobody leads") };
        let Joined::Follower(waiting) = fills.join(b"a") else { panic!("two lead") };
        drop(leader);
        assert_eq!(follow(waiting, Duration::from_secs(60)).await, Outcome::Abandoned);
        assert!(matches!(fills.join(b"a"), Joined::Leader(_)));
    }

    #[tokio::test]
    async fn a_slow_leader_is_not_waited_for_without_end() {
        let fills = InFlightFills::default();
        let Joined::Leader(_in_flight) = fills.join(b"a") else { panic!("nobody leads") };
        let Joined::Follower(waiting) = fills.join(b"a") else { panic!("two lead") };
        assert_eq!(follow(waiting, Duration::from_millis(1)).await, Outcome::NotStored);
    }
}
