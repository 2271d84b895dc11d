//! What was taken back: kept in the store, counted from the next request on, told to the other
//! gateways, and learnt from them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use once_cell::sync::Lazy;
use prometheus::{IntCounter, register_int_counter};

use crate::identity::{Identity, Revocation};
use crate::services::auth::now;
use crate::state::{Notice, Notices};
use crate::store::{self, Revoked, Store, StoreError};

/// Where gateways tell each other.
const TOPIC: &str = "revocations";
/// How often the store is asked what others took back: the command line, and gateways that share the
/// store but no state.
const EVERY: Duration = Duration::from_secs(2);
/// What may have been recorded late: a transaction under way, a clock that is behind.
const OVERLAP: i64 = 30;

static FAILURES: Lazy<IntCounter> = Lazy::new(|| {
    let help = "Times that the store could not be asked what was taken back";
    register_int_counter!("moongate_revocation_polls_failed_total", help).expect("the name is registered once")
});

/// Takes back, tells and learns.
#[derive(Clone)]
pub struct Revoking {
    identity: Arc<Identity>,
    notices: Notices,
    store: Store,
}

impl Revoking {
    /// Between who judges tokens, the other gateways and the store.
    pub fn new(identity: Arc<Identity>, notices: Notices, store: Store) -> Self {
        Self { identity, notices, store }
    }

    /// Lets what is in the store already count from now on, here and everywhere.
    pub(super) async fn spread(&self, revocation: Revocation) {
        let said = serde_json::to_vec(&revocation).unwrap_or_default();
        self.identity.revoke(revocation);
        // Who can't be told now asks the store.
        let _ = self.notices.publish(TOPIC, Bytes::from(said)).await;
    }

    /// Keeps it in the store, and lets it count from now on, here and everywhere. Here it counts even if
    /// it can't be kept.
    pub(super) async fn revoke(&self, record: store::Revocation) -> Result<(), StoreError> {
        let kept = self.store.revoke(record.clone()).await;
        self.spread(of_record(record)).await;
        kept
    }

    /// Learns everything that is still of importance: before the first request, so that nothing that was
    /// taken back counts again after a restart.
    ///
    /// # Errors
    /// When the store can't be reached.
    pub async fn learn_all(&self) -> Result<(), StoreError> {
        self.store.revocations(0).await?.into_iter().for_each(|it| self.identity.revoke(of_record(it)));
        Ok(())
    }

    /// Listens to the other gateways and asks the store once it is open, for ever. A store that can't be asked changes
    /// nothing: what is known still counts, and what was missed is asked for later.
    pub async fn follow(self) {
        let mut notices = self.notices.subscribe(TOPIC);
        let mut timer = tokio::time::interval(EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut since = 0; // all that is still of importance
        let mut known = HashSet::new();
        loop {
            tokio::select! {
                Some(notice) = notices.next() => match notice {
                    Notice::Said(said) => self.hear(&said),
                    // Asked for at the next tick; what was said in between is in the store.
                    Notice::Missed => since = since.min(now() - 600),
                },
                _ = timer.tick() => {
                    // A store that nothing has needed yet has nothing to tell.
                    if !self.store.is_open() {
                        continue;
                    }
                    let asked = now();
                    match self.store.revocations(since - OVERLAP).await {
                        Ok(records) => {
                            self.learn(records, &mut known);
                            since = asked;
                        }
                        Err(_) => FAILURES.inc(), // the store tells why
                    }
                }
            }
        }
    }

    fn hear(&self, said: &[u8]) {
        if let Ok(revocation) = serde_json::from_slice(said) {
            self.identity.revoke(revocation);
        }
    }

    /// What is told again and again is learnt once: each time costs every token a look.
    fn learn(&self, records: Vec<store::Revocation>, known: &mut HashSet<(Revoked, String, i64)>) {
        let mut seen = HashSet::new();
        for record in records {
            let print = (record.kind, record.id.clone(), record.issued_until);
            if !known.contains(&print) {
                self.identity.revoke(of_record(record));
            }
            seen.insert(print);
        }
        *known = seen;
    }
}

fn of_record(record: store::Revocation) -> Revocation {
    let store::Revocation { kind, id, issued_until, expires } = record;
    let moment = |it: i64| u64::try_from(it).unwrap_or(0);
    match kind {
        Revoked::Token => Revocation::Token { jti: id, until: moment(expires) },
        Revoked::Session => Revocation::Session { sid: id, until: moment(expires) },
        Revoked::Subject => Revocation::Subject { subject: id, before: moment(issued_until), until: moment(expires) },
        Revoked::ApiKey => Revocation::ApiKey { id },
    }
}
