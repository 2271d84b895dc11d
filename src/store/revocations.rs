//! What was issued and must not count any more.

use sqlx::{Any, Row, Transaction};

use crate::store::calls::{Store, StoreError};
use crate::store::sql;

/// More can't be revoked at once than every gateway can keep in mind.
const REVOCATIONS_MAX: i64 = 100_000;

/// What a revocation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Revoked {
    /// One token, by its `jti`.
    Token,
    /// All tokens of a sign-in, by the name of its family of refresh tokens.
    Session,
    /// All tokens of a subject that were issued up to a moment.
    Subject,
    /// An API key.
    ApiKey,
}

impl Revoked {
    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::Subject => "subject",
            Self::ApiKey => "api_key",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Token, Self::Session, Self::Subject, Self::ApiKey].into_iter().find(|it| it.as_str() == text)
    }
}

/// What was issued and must not count any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What `id` names.
    pub kind: Revoked,
    /// A `jti`, a `sid`, a `sub`, or the id of an API key.
    pub id: String,
    /// It is about tokens whose `iat` is this second or an earlier one, in seconds since 1970.
    pub issued_until: i64,
    /// When nothing can be left that it is about, in seconds since 1970.
    pub expires: i64,
}

impl Store {
    /// Revokes. A later moment takes an earlier one's place.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn revoke(&self, revocation: Revocation) -> Result<(), StoreError> {
        self.call(move |database| async move {
            let Revocation { kind, id, issued_until, expires } = revocation;
            let mut transaction = database.begin().await?;
            record(&mut transaction, kind, &id, issued_until, expires).await?;
            transaction.commit().await
        })
        .await
    }

    /// The revocations that still matter and were recorded at this second or later (0: all). Asked
    /// again, a caller begins some seconds earlier: others may have been about to record.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also if there are more than can be kept in mind.
    pub async fn revocations(&self, since: i64) -> Result<Vec<Revocation>, StoreError> {
        let rows = self.call(move |database| async move {
            let query = sqlx::query("SELECT * FROM revocations WHERE recorded >= $1 AND expires > $2 LIMIT $3");
            let query = query.bind(since).bind(sql::now()).bind(REVOCATIONS_MAX + 1);
            let rows = query.fetch_all(&database.pool).await?;
            rows.iter()
                .map(|row| {
                    let kind: String = row.try_get("kind")?;
                    let kind = Revoked::parse(&kind).ok_or_else(|| sqlx::Error::Protocol(format!("kind {kind}")))?;
                    Ok(Revocation {
                        kind,
                        id: row.try_get("id")?,
                        issued_until: row.try_get("issued_until")?,
                        expires: row.try_get("expires")?,
                    })
                })
                .collect::<Result<Vec<_>, sqlx::Error>>()
        });
        let revocations = rows.await?;
        if revocations.len() as i64 > REVOCATIONS_MAX {
            return Err(StoreError::Unavailable(format!("more than {REVOCATIONS_MAX} revocations")));
        }
        Ok(revocations)
    }
}

pub(super) async fn record(
    transaction: &mut Transaction<'static, Any>,
    kind: Revoked,
    id: &str,
    issued_until: i64,
    expires: i64,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "INSERT INTO revocations (kind, id, issued_until, expires, recorded) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (kind, id) DO UPDATE SET
            issued_until = CASE WHEN excluded.issued_until > revocations.issued_until
                THEN excluded.issued_until ELSE revocations.issued_until END,
            expires = CASE WHEN excluded.expires > revocations.expires
                THEN excluded.expires ELSE revocations.expires END,
            recorded = excluded.recorded",
    );
    let query = query.bind(kind.as_str().to_owned()).bind(id.to_owned());
    let query = query.bind(issued_until).bind(expires).bind(sql::now());
    query.execute(&mut **transaction).await.map(|_| ())
}
