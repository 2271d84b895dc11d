//! The store's API keys and users, for who judges credentials.

use std::sync::Arc;

use async_trait::async_trait;

use crate::identity::{Account, Accounts, ApiKeyRecord, Unavailable};
use crate::store::Store;

/// The records in the store.
pub struct StoredAccounts(Store);

impl StoredAccounts {
    /// Those of this store.
    pub fn new(store: Store) -> Self {
        Self(store)
    }
}

#[async_trait]
impl Accounts for StoredAccounts {
    async fn api_key(&self, id: &str) -> Result<Option<ApiKeyRecord>, Unavailable> {
        let Some(key) = self.0.api_key(id).await.map_err(|_| Unavailable)? else { return Ok(None) };
        // A hash of another length is none: the record is of no use to anybody.
        let Ok(hash) = <[u8; 32]>::try_from(&key.hash[..]) else { return Ok(None) };
        Ok(Some(ApiKeyRecord {
            subject: key.name,
            hash,
            tenant: key.tenant,
            roles: key.roles,
            scopes: key.scopes,
            // A time before 1970 is one that is over.
            expires: key.expires.map(|it| u64::try_from(it).unwrap_or(0)),
            revoked: key.revoked.is_some(),
        }))
    }

    async fn account(&self, subject: &str) -> Result<Option<Account>, Unavailable> {
        let user = self.0.user(subject).await.map_err(|_| Unavailable)?;
        Ok(user.map(|it| Account {
            roles: it.roles.iter().map(|role| Arc::from(&**role)).collect(),
            tenant: it.tenant.as_deref().map(Arc::from),
            active: it.active,
        }))
    }
}
