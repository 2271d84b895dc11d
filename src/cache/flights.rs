//! One request fetches an answer, the others that want the same wait for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The answers that are being fetched, by key.
#[derive(Default)]
pub(super) struct Flights(Arc<Mutex<ByKey>>);

type ByKey = HashMap<Box<[u8]>, watch::Receiver<Landing>>;

/// What became of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landing {
    /// It goes on.
    Pending,
    /// The answer is kept.
    Kept,
    /// It is of no use to others, or takes too long.
    Useless,
    /// Whoever fetched it left before it was there.
    Left,
}

/// This request fetches. Dropped, it lets the others go.
pub(super) struct Flight {
    flights: Arc<Mutex<ByKey>>,
    key: Box<[u8]>,
    landing: watch::Sender<Landing>,
}

/// Who fetches.
pub(super) enum Joined {
    /// This request.
    Lead(Flight),
    /// Another one.
    Follow(watch::Receiver<Landing>),
}

impl Flights {
    pub(super) fn join(&self, key: &[u8]) -> Joined {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(key) {
            return Joined::Follow(flight.clone());
        }
        let (landing, receiver) = watch::channel(Landing::Pending);
        flights.insert(key.into(), receiver);
        Joined::Lead(Flight { flights: self.0.clone(), key: key.into(), landing })
    }
}

impl Flight {
    /// Tells those who wait. Whoever comes from now on leads again.
    pub(super) fn land(self, landing: Landing) {
        self.flights.lock().remove(&self.key);
        let _ = self.landing.send(landing);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // The leader left: those who wait see that nobody will tell them. Once landed, the key may be
        // another one's.
        let mut flights = self.flights.lock();
        if flights.get(&self.key).is_some_and(|it| it.same_channel(&self.landing.subscribe())) {
            flights.remove(&self.key);
        }
    }
}

/// Waits until the answer is there, at most for `patience`.
pub(super) async fn follow(mut flight: watch::Receiver<Landing>, patience: Duration) -> Landing {
    let landed = tokio::time::timeout(patience, flight.wait_for(|it| *it != Landing::Pending)).await;
    match landed {
        Ok(Ok(landing)) => *landing,
        Ok(Err(_)) => Landing::Left,
        Err(_) => Landing::Useless,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_leads_and_the_others_follow() {
        let flights = Flights::default();
        let Joined::Lead(flight) = flights.join(b"a") else { panic!("nobody leads") };
        let Joined::Follow(waiting) = flights.join(b"a") else { panic!("two lead") };
        assert!(matches!(flights.join(b"b"), Joined::Lead(_)));
        flight.land(Landing::Kept);
        assert_eq!(follow(waiting, Duration::from_secs(5)).await, Landing::Kept);
        assert!(matches!(flights.join(b"a"), Joined::Lead(_)));
    }

    #[tokio::test]
    async fn a_leader_that_leaves_holds_nobody_up() {
        let flights = Flights::default();
        let Joined::Lead(flight) = flights.join(b"a") else { panic!("nobody leads") };
        let Joined::Follow(waiting) = flights.join(b"a") else { panic!("two lead") };
        drop(flight);
        assert_eq!(follow(waiting, Duration::from_secs(60)).await, Landing::Left);
        assert!(matches!(flights.join(b"a"), Joined::Lead(_)));
    }

    #[tokio::test]
    async fn a_slow_leader_is_not_waited_for_without_end() {
        let flights = Flights::default();
        let Joined::Lead(_flight) = flights.join(b"a") else { panic!("nobody leads") };
        let Joined::Follow(waiting) = flights.join(b"a") else { panic!("two lead") };
        assert_eq!(follow(waiting, Duration::from_millis(1)).await, Landing::Useless);
    }
}
