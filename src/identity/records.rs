//! The store's records as the identity room reads them, and how revocations come in: from the store when
//! the gateway starts, from messages as soon as something is revoked, and from the store again every few
//! seconds, since messages may be lost and the command line sends none.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval};

use crate::state::{PubSub, Received};
use crate::store::{self, Revoked, Store, StoreError};

use super::accounts::{Account, Accounts, ApiKeyRecord, Unavailable};
use super::revocations::Revocation;
use super::verifier::Identity;
use crate::base::unix_seconds;

/// The topic of revocations.
const TOPIC: &str = "identity.revocations";

/// How often revocations are read from the store.
const PERIOD: Duration = Duration::from_secs(2);
/// How much further back than the last time: others may have been about to record, by other clocks.
const OVERLAP: u64 = 30;

#[async_trait]
impl Accounts for Store {
    async fn api_key(&self, id: &str) -> Result<Option<ApiKeyRecord>, Unavailable> {
        let Some(key) = Store::api_key(self, id).await.map_err(unavailable)? else { return Ok(None) };
        // A hash of another length is none that could be compared: the record is broken, and opens nothing.
        let hash = key.hash.as_slice().try_into().map_err(|_| Unavailable)?;
        Ok(Some(ApiKeyRecord {
            subject: key.name,
            hash,
            tenant: key.tenant,
            roles: key.roles,
            scopes: key.scopes,
            expires: key.expires.map(|it| u64::try_from(it).unwrap_or(0)),
            revoked: key.revoked.is_some(),
        }))
    }

    async fn account(&self, subject: &str) -> Result<Option<Account>, Unavailable> {
        let user = self.user(subject).await.map_err(unavailable)?;
        Ok(user.map(|it| Account {
            roles: it.roles.iter().map(|it| Arc::from(it.as_str())).collect(),
            tenant: it.tenant.as_deref().map(Arc::from),
            active: it.active,
        }))
    }
}

/// The store has reported it already.
fn unavailable(_: StoreError) -> Unavailable {
    Unavailable
}

impl Identity {
    /// Takes something back, here at once and at the other gateways as soon as they hear of it. To be recorded in the
    /// store before, by the caller.
    pub async fn revoke_everywhere(&self, revocation: Revocation, pubsub: &PubSub) {
        let message = serde_json::to_vec(&revocation).unwrap_or_default();
        self.revoke(revocation);
        if pubsub.publish(TOPIC, Bytes::from(message)).await.is_err() {
            tracing::warn!(event = "revocation_not_heard", "other gateways hear of a revocation from the store only");
        }
    }

    /// Learns what the store says was taken back at this second or later.
    ///
    /// # Errors
    /// When the store can't be reached.
    pub async fn learn(&self, store: &Store, since: u64) -> Result<(), StoreError> {
        for revoked in store.revocations(i64::try_from(since).unwrap_or(0)).await? {
            self.learn_one(revoked);
        }
        Ok(())
    }

    fn learn_one(&self, revoked: store::Revocation) {
        let store::Revocation { kind, id, issued_until, expires } = revoked;
        let time = |it: i64| u64::try_from(it).unwrap_or(0);
        let until = time(expires);
        self.revoke_if_new(match kind {
            Revoked::Token => Revocation::Token { jti: id, until },
            Revoked::Session => Revocation::Session { sid: id, until },
            Revoked::Subject => Revocation::Subject { subject: id, before: time(issued_until), until },
            Revoked::ApiKey => Revocation::ApiKey { id },
        });
    }

    /// Follows the messages until the process ends; for a runtime that requests do not depend on. A store is
    /// read once something has opened it.
    pub async fn follow(self: Arc<Self>, store: Store, pubsub: PubSub) {
        let mut messages = pubsub.subscribe(TOPIC);
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut since = 0_u64; // a store that was opened after the start may have anything to report
        loop {
            let received = tokio::select! {
                received = messages.next() => match received {
                    Some(received) => Some(received),
                    None => return,
                },
                _ = tick.tick() => None,
            };
            if let Some(Received::Message(message)) = &received {
                match serde_json::from_slice(message) {
                    Ok(revocation) => self.revoke_if_new(revocation),
                    Err(_) => {
                        tracing::warn!(event = "revocation_unreadable", "a message about a revocation is ignored")
                    }
                }
                continue;
            }
            let now = unix_seconds();
            if store.is_open() && self.learn(&store, since.saturating_sub(OVERLAP)).await.is_ok() {
                since = now;
            }
        }
    }
}
