//! Secrets as they lie in the database: sealed. What seals and opens them is in the room `secrets`.

use sqlx::Row;
use sqlx::any::AnyRow;

use crate::store::calls::{Store, StoreError};
use crate::store::sql;

/// No list is longer.
const SECRETS_MAX: i64 = 10_000;

/// A sealed secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSecret {
    /// Its name.
    pub name: String,
    /// The value, sealed with a key of its own.
    pub ciphertext: Vec<u8>,
    /// That key, sealed with the key of the whole.
    pub wrapped_key: Vec<u8>,
    /// Which key of the whole it was.
    pub key_id: String,
}

/// What may be shown of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretEntry {
    /// Its name.
    pub name: String,
    /// Which key of the whole it was sealed with.
    pub key_id: String,
    /// When its value was set, or sealed anew, in seconds since 1970.
    pub updated: i64,
}

/// What became of the wish to seal all secrets anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resealed {
    /// So many were sealed anew.
    Done(usize),
    /// This one could not be opened; nothing was changed.
    Failed(String),
}

impl Store {
    /// Keeps a secret, in the place of the one that had its name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn put_secret(&self, secret: SealedSecret) -> Result<(), StoreError> {
        self.call(move |database| async move {
            let query = sqlx::query(
                "INSERT INTO secrets (name, ciphertext, wrapped_key, key_id, updated) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (name) DO UPDATE SET ciphertext = excluded.ciphertext,
                    wrapped_key = excluded.wrapped_key, key_id = excluded.key_id, updated = excluded.updated",
            );
            let query = query.bind(secret.name).bind(secret.ciphertext).bind(secret.wrapped_key);
            query.bind(secret.key_id).bind(sql::now()).execute(&database.pool).await.map(|_| ())
        })
        .await
    }

    /// The secret of this name, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn secret(&self, name: &str) -> Result<Option<SealedSecret>, StoreError> {
        let name = name.to_owned();
        self.call(move |database| async move {
            let query = sqlx::query("SELECT * FROM secrets WHERE name = $1").bind(name);
            query.fetch_optional(&database.pool).await?.as_ref().map(read).transpose()
        })
        .await
    }

    /// Removes a secret; false if there is none of this name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn remove_secret(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.call(move |database| async move {
            let query = sqlx::query("DELETE FROM secrets WHERE name = $1").bind(name);
            Ok(query.execute(&database.pool).await?.rows_affected() > 0)
        })
        .await
    }

    /// What may be shown of each secret, in the order of their names.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn secret_entries(&self) -> Result<Vec<SecretEntry>, StoreError> {
        self.call(move |database| async move {
            let query = sqlx::query("SELECT name, key_id, updated FROM secrets ORDER BY name LIMIT $1");
            let rows = query.bind(SECRETS_MAX).fetch_all(&database.pool).await?;
            rows.iter()
                .map(|row| {
                    Ok(SecretEntry {
                        name: row.try_get("name")?,
                        key_id: row.try_get("key_id")?,
                        updated: row.try_get("updated")?,
                    })
                })
                .collect()
        })
        .await
    }

    /// Replaces every secret by what `seal` makes of it, all of them or none (US-016.3). One for which
    /// `seal` has nothing stops it; one that `seal` leaves as it was is not counted.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn reseal_secrets<S>(&self, seal: S) -> Result<Resealed, StoreError>
    where
        S: Fn(&SealedSecret) -> Option<SealedSecret> + Send + Sync + 'static,
    {
        self.call(move |database| async move {
            let mut transaction = database.begin().await?;
            // Touched, so that nobody puts one in between.
            let query = sqlx::query("UPDATE secrets SET updated = updated RETURNING *");
            let rows = query.fetch_all(&mut *transaction).await?;
            let mut count = 0;
            for row in &rows {
                let old = read(row)?;
                let Some(new) = seal(&old) else { return Ok(Resealed::Failed(old.name)) };
                if new == old {
                    continue;
                }
                let query = sqlx::query(
                    "UPDATE secrets SET ciphertext = $1, wrapped_key = $2, key_id = $3, updated = $4 WHERE name = $5",
                );
                let query = query.bind(new.ciphertext).bind(new.wrapped_key).bind(new.key_id);
                query.bind(sql::now()).bind(old.name).execute(&mut *transaction).await?;
                count += 1;
            }
            transaction.commit().await?;
            Ok(Resealed::Done(count))
        })
        .await
    }
}

fn read(row: &AnyRow) -> Result<SealedSecret, sqlx::Error> {
    Ok(SealedSecret {
        name: row.try_get("name")?,
        ciphertext: row.try_get("ciphertext")?,
        wrapped_key: row.try_get("wrapped_key")?,
        key_id: row.try_get("key_id")?,
    })
}
