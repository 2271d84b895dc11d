//! API keys of services. What is kept of one is the hash of its secret part.

use std::fmt;

use sqlx::Row;
use sqlx::any::AnyRow;

use crate::store::calls::{Store, StoreError};
use crate::store::revocations::{self, Revoked};
use crate::store::sql;

/// No list is longer.
const KEYS_MAX: i64 = 10_000;
/// How long it is reported that a key was revoked, in seconds.
const TOLD: i64 = 86_400;

/// An API key, as far as it is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Names the key; a part of the key itself.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// SHA-256 of the secret part.
    pub hash: Vec<u8>,
    /// Its roles.
    pub roles: Vec<String>,
    /// What it is limited to; none: not limited.
    pub scopes: Vec<String>,
    /// For whom it counts.
    pub tenant: Option<String>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// The end of its life, in seconds since 1970; none: it has no end.
    pub expires: Option<i64>,
    /// When it was revoked, in seconds since 1970.
    pub revoked: Option<i64>,
}

/// An API key to keep.
#[derive(Clone)]
pub struct NewApiKey {
    /// Names the key.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// SHA-256 of the secret part.
    pub hash: [u8; 32],
    /// Its roles.
    pub roles: Vec<String>,
    /// What it is limited to; none: not limited.
    pub scopes: Vec<String>,
    /// For whom it counts.
    pub tenant: Option<String>,
    /// The end of its life, in seconds since 1970; none: it has no end.
    pub expires: Option<i64>,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Store {
    /// Keeps an API key.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the id is taken; [`StoreError::Unavailable`].
    pub async fn add_api_key(&self, key: NewApiKey) -> Result<(), StoreError> {
        self.call(move |database| async move {
            let query = sqlx::query(
                "INSERT INTO api_keys (id, name, hash, roles, scopes, tenant, created, expires)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            );
            let query = query.bind(key.id).bind(key.name).bind(key.hash.to_vec()).bind(sql::list(&key.roles));
            let query = query.bind(sql::list(&key.scopes)).bind(key.tenant).bind(sql::now()).bind(key.expires);
            query.execute(&database.pool).await.map(|_| ())
        })
        .await
    }

    /// The API key of this id, if there is one; it may be revoked or over.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        let id = id.to_owned();
        self.call(move |database| async move {
            let query = sqlx::query("SELECT * FROM api_keys WHERE id = $1").bind(id);
            query.fetch_optional(&database.pool).await?.as_ref().map(read).transpose()
        })
        .await
    }

    /// The API keys in the order of their names.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        self.call(move |database| async move {
            let query = sqlx::query("SELECT * FROM api_keys ORDER BY name, created, id LIMIT $1").bind(KEYS_MAX);
            query.fetch_all(&database.pool).await?.iter().map(read).collect()
        })
        .await
    }

    /// Revokes an API key, and says so to every gateway; false if there is none of this id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn revoke_api_key(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.call(move |database| async move {
            let mut transaction = database.begin().await?;
            let now = sql::now();
            let query = sqlx::query("UPDATE api_keys SET revoked = COALESCE(revoked, $1) WHERE id = $2");
            let done = query.bind(now).bind(id.clone()).execute(&mut *transaction).await?;
            // What a gateway remembers of a key has expired long before.
            revocations::record(&mut transaction, Revoked::ApiKey, &id, now, now + TOLD).await?;
            transaction.commit().await?;
            Ok(done.rows_affected() > 0)
        })
        .await
    }
}

fn read(row: &AnyRow) -> Result<ApiKey, sqlx::Error> {
    Ok(ApiKey {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        hash: row.try_get("hash")?,
        roles: sql::words(row, "roles")?,
        scopes: sql::words(row, "scopes")?,
        tenant: row.try_get("tenant")?,
        created: row.try_get("created")?,
        expires: row.try_get("expires")?,
        revoked: row.try_get("revoked")?,
    })
}
