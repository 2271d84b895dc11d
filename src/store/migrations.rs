//! The tables, and how an older database gets them.

use sqlx::any::AnyConnectOptions;
use sqlx::{AnyConnection, ConnectOptions, Connection, Row};

use crate::store::config::Place;
use crate::store::sql;

/// Each is run once, in this order, and never changed afterwards: what is different goes into a new
/// one. The words are those that both databases know; numbers are 64 bits, times seconds since 1970.
const MIGRATIONS: &[&[&str]] = &[&[
    "CREATE TABLE users (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        password_hash TEXT,
        roles TEXT NOT NULL,
        tenant TEXT,
        active BIGINT NOT NULL,
        version BIGINT NOT NULL,
        created BIGINT NOT NULL,
        changed BIGINT NOT NULL)",
    "CREATE TABLE refresh_tokens (
        hash BYTEA PRIMARY KEY,
        family TEXT NOT NULL,
        user_id TEXT NOT NULL,
        expires BIGINT NOT NULL,
        used BIGINT,
        ended BIGINT)",
    "CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family)",
    "CREATE INDEX refresh_tokens_by_user ON refresh_tokens (user_id)",
    "CREATE INDEX refresh_tokens_by_end ON refresh_tokens (expires)",
    "CREATE TABLE revocations (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        issued_until BIGINT NOT NULL,
        expires BIGINT NOT NULL,
        recorded BIGINT NOT NULL,
        PRIMARY KEY (kind, id))",
    "CREATE INDEX revocations_by_end ON revocations (expires)",
    "CREATE INDEX revocations_by_time ON revocations (recorded)",
    "CREATE TABLE api_keys (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        hash BYTEA NOT NULL,
        roles TEXT NOT NULL,
        scopes TEXT NOT NULL,
        tenant TEXT,
        created BIGINT NOT NULL,
        expires BIGINT,
        revoked BIGINT)",
    "CREATE TABLE secrets (
        name TEXT PRIMARY KEY,
        ciphertext BYTEA NOT NULL,
        wrapped_key BYTEA NOT NULL,
        key_id TEXT NOT NULL,
        updated BIGINT NOT NULL)",
]];

/// Two gateways that start at once take turns. Any number will do, as long as it is always this.
const TURN: &str = "SELECT pg_advisory_xact_lock(7310579462)";

/// Brings the tables up to date, over a connection of its own: its error is the true reason why a
/// database can't be opened, where a pool would only report that it gave up.
pub(super) async fn run(place: &Place, options: &AnyConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection = options.connect().await?;
    sql::prepare(place, &mut connection).await?;
    if let Place::Sqlite(_) = place {
        // Readers go on during writes. Stays with the file.
        sqlx::query("PRAGMA journal_mode = WAL").execute(&mut connection).await?;
    }
    migrate(place, &mut connection).await?;
    connection.close().await
}

async fn migrate(place: &Place, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with(sql::begin(place)).await?;
    if let Place::Postgres(..) = place {
        sqlx::query(TURN).execute(&mut *transaction).await?;
    }
    let table = "CREATE TABLE IF NOT EXISTS moongate_migrations (number BIGINT PRIMARY KEY, done BIGINT NOT NULL)";
    sqlx::query(table).execute(&mut *transaction).await?;
    let last = "SELECT COALESCE(MAX(number), 0) AS last FROM moongate_migrations";
    let last: i64 = sqlx::query(last).fetch_one(&mut *transaction).await?.try_get("last")?;
    let known = MIGRATIONS.len() as i64;
    if last > known {
        let message = format!("its tables are number {last}, of a later version; this one knows {known}");
        return Err(sqlx::Error::InvalidArgument(message));
    }
    for (number, statements) in (1..).zip(MIGRATIONS).skip(last as usize) {
        for statement in *statements {
            sqlx::query(*statement).execute(&mut *transaction).await?;
        }
        let done = sqlx::query("INSERT INTO moongate_migrations (number, done) VALUES ($1, $2)");
        done.bind::<i64>(number).bind(sql::now()).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}
