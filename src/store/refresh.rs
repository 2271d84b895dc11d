//! Refresh tokens: each is used once, and all that come from one sign-in are a family (RFC 9700,
//! section 4.14.2).

use std::time::Duration;

use sqlx::any::AnyRow;
use sqlx::{Any, Row, Transaction};

use crate::store::calls::{Store, StoreError};
use crate::store::revocations::{self, Revoked};
use crate::store::sql;

/// A refresh token to keep. The token itself is never kept.
#[derive(Clone, Debug)]
pub struct NewRefreshToken {
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// The end of its life, in seconds since 1970.
    pub expires: i64,
}

/// A refresh token that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// All that come from one sign-in.
    pub family: String,
    /// Whose it is.
    pub user: String,
    /// The end of its life, in seconds since 1970.
    pub expires: i64,
    /// Whether it would still be taken.
    pub fresh: bool,
}

/// What became of a refresh token that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It was good, and the new one has taken its place.
    Done,
    /// It had been used before, so a copy is about. Its family, named here, has ended, and the
    /// access tokens that it brought forth are revoked.
    Reused(String),
    /// It is not known, its life is over, or its family has ended.
    Refused,
}

impl Store {
    /// Keeps the first refresh token of a sign-in.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn begin_family(&self, family: &str, user: &str, token: NewRefreshToken) -> Result<(), StoreError> {
        let (family, user) = (family.to_owned(), user.to_owned());
        self.call(move |database| async move {
            let mut transaction = database.begin().await?;
            insert(&mut transaction, &family, &user, token).await?;
            transaction.commit().await
        })
        .await
    }

    /// The refresh token of this hash, if there is one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn refresh_token(&self, hash: [u8; 32]) -> Result<Option<RefreshToken>, StoreError> {
        self.call(move |database| async move {
            let query = sqlx::query("SELECT * FROM refresh_tokens WHERE hash = $1").bind(hash.to_vec());
            let row = query.fetch_optional(&database.pool).await?;
            row.as_ref().map(read).transpose()
        })
        .await
    }

    /// Puts a new refresh token in an old one's place, unless the old one was used before: then its
    /// family ends. Of two calls with the same token, one is the second. `life` is the longest that an
    /// access token can still last.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn rotate(&self, old: [u8; 32], new: NewRefreshToken, life: Duration) -> Result<Rotation, StoreError> {
        self.call(move |database| async move {
            let mut transaction = database.begin().await?;
            let now = sql::now();
            let query = sqlx::query(
                "UPDATE refresh_tokens SET used = $1
                 WHERE hash = $2 AND used IS NULL AND ended IS NULL AND expires > $1 RETURNING *",
            );
            let row = query.bind(now).bind(old.to_vec()).fetch_optional(&mut *transaction).await?;
            let rotation = match row {
                Some(row) => {
                    let (family, user): (String, String) = (row.try_get("family")?, row.try_get("user_id")?);
                    insert(&mut transaction, &family, &user, new).await?;
                    Rotation::Done
                }
                None => match used_before(&mut transaction, old).await? {
                    Some(family) => {
                        end(&mut transaction, &family, now, life).await?;
                        Rotation::Reused(family)
                    }
                    None => Rotation::Refused,
                },
            };
            transaction.commit().await?;
            Ok(rotation)
        })
        .await
    }

    /// Ends the family of a refresh token, and revokes the access tokens that it brought forth; `life` is
    /// the longest that one of them can still last.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn end_family(&self, family: &str, life: Duration) -> Result<(), StoreError> {
        let family = family.to_owned();
        self.call(move |database| async move {
            let mut transaction = database.begin().await?;
            end(&mut transaction, &family, sql::now(), life).await?;
            transaction.commit().await
        })
        .await
    }
}

/// Ends all families of a user.
pub(super) async fn end_families_of(
    transaction: &mut Transaction<'static, Any>,
    user: &str,
    now: i64,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query("UPDATE refresh_tokens SET ended = $1 WHERE user_id = $2 AND ended IS NULL");
    query.bind(now).bind(user.to_owned()).execute(&mut **transaction).await.map(|_| ())
}

async fn insert(
    transaction: &mut Transaction<'static, Any>,
    family: &str,
    user: &str,
    token: NewRefreshToken,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "INSERT INTO refresh_tokens (hash, family, user_id, expires)
         VALUES ($1, $2, $3, $4)",
    );
    let query = query.bind(token.hash.to_vec()).bind(family.to_owned()).bind(user.to_owned()).bind(token.expires);
    query.execute(&mut **transaction).await.map(|_| ())
}

/// The family of a token that was used, whether or not it has ended since.
async fn used_before(
    transaction: &mut Transaction<'static, Any>,
    hash: [u8; 32],
) -> Result<Option<String>, sqlx::Error> {
    let query = sqlx::query("SELECT family FROM refresh_tokens WHERE hash = $1 AND used IS NOT NULL");
    let row = query.bind(hash.to_vec()).fetch_optional(&mut **transaction).await?;
    row.map(|it| it.try_get("family")).transpose()
}

/// Ends a family, and revokes its access tokens.
async fn end(
    transaction: &mut Transaction<'static, Any>,
    family: &str,
    now: i64,
    life: Duration,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query("UPDATE refresh_tokens SET ended = $1 WHERE family = $2 AND ended IS NULL");
    query.bind(now).bind(family.to_owned()).execute(&mut **transaction).await?;
    revocations::record(transaction, Revoked::Session, family, now, now + sql::seconds(life)).await
}

fn read(row: &AnyRow) -> Result<RefreshToken, sqlx::Error> {
    let (used, ended): (Option<i64>, Option<i64>) = (row.try_get("used")?, row.try_get("ended")?);
    let expires = row.try_get("expires")?;
    Ok(RefreshToken {
        family: row.try_get("family")?,
        user: row.try_get("user_id")?,
        expires,
        fresh: used.is_none() && ended.is_none() && expires > sql::now(),
    })
}
