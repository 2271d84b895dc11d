//! Removes records whose life has ended, so that the tables don't grow for ever.

use std::time::Duration;

use crate::store::Place;
use crate::store::calls::{Database, sorted};
use crate::store::sql;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(300);
/// So many at once: nobody shall wait long for the lock.
const BATCH: i64 = 500;
/// How long a list still shows API keys that are of no use any more.
const KEYS_SHOWN: i64 = 30 * 86_400;

/// As long as the database is open.
pub(super) async fn run(database: Database, place: Place) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = purge(&database, sql::now()).await {
            let error = sorted(error, &place);
            tracing::warn!(event = "store_purge_failed", error = %error, "it is tried again");
        }
    }
}

/// Removes everything that ended before `now`.
pub(super) async fn purge(database: &Database, now: i64) -> Result<u64, sqlx::Error> {
    let statements = [
        ("DELETE FROM refresh_tokens WHERE hash IN (SELECT hash FROM refresh_tokens WHERE expires < $1 LIMIT $2)", now),
        // Rows of one kind and id: the pair is the key, but lists of pairs are not for both databases.
        (
            "DELETE FROM revocations WHERE expires < $1 AND id IN (SELECT id FROM revocations WHERE expires < $1 LIMIT $2)",
            now,
        ),
        (
            "DELETE FROM api_keys WHERE id IN (SELECT id FROM api_keys WHERE expires < $1 OR revoked < $1 LIMIT $2)",
            now - KEYS_SHOWN,
        ),
    ];
    let mut removed = 0;
    for (statement, end) in statements {
        loop {
            let done = sqlx::query(statement).bind(end).bind(BATCH).execute(&database.pool).await?;
            removed += done.rows_affected();
            if done.rows_affected() == 0 {
                break;
            }
        }
    }
    Ok(removed)
}
