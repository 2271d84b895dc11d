//! What differs between SQLite and PostgreSQL, and how values are read and written on both.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyRow};
use sqlx::{AnyConnection, ConnectOptions, Executor, Row};

use crate::base::unix_seconds;
use crate::store::config::Place;

/// Seconds since 1970: how all times are kept.
pub(super) fn now() -> i64 {
    unix_seconds().try_into().unwrap_or(i64::MAX)
}

/// How to connect. A SQLite file is made here, so that nobody else may ever read it.
pub(super) fn options(place: &Place) -> Result<AnyConnectOptions, sqlx::Error> {
    sqlx::any::install_default_drivers();
    let url = match place {
        Place::Sqlite(path) => {
            own_file(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            format!("sqlite://{}?mode=rw", escaped(path))
        }
        Place::Postgres(url, _) => url.expose().to_owned(),
    };
    // Statements are not logged: the slow ones show in the metrics.
    Ok(AnyConnectOptions::from_str(&url)?.disable_statement_logging())
}

/// Makes the file and its folder, if need be, readable by their owner alone.
fn own_file(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let mut permissions = file.metadata()?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(0o600);
        file.set_permissions(permissions)?;
    }
    Ok(())
}

/// A path inside a URL, whatever its bytes are.
fn escaped(path: &Path) -> String {
    let plain = |it: u8| it.is_ascii_alphanumeric() || b"/._-".contains(&it);
    let escape = |it: &u8| if plain(*it) { char::from(*it).to_string() } else { format!("%{it:02X}") };
    path.as_os_str().as_bytes().iter().map(escape).collect()
}

/// What each new connection begins with.
pub(super) async fn prepare(place: &Place, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let statements: &[&'static str] = match place {
        // A holder of the lock for longer than that makes the call fail before its own deadline ends.
        // FULL: what was reported as done is on the disk.
        Place::Sqlite(_) => &["PRAGMA busy_timeout = 2000", "PRAGMA synchronous = FULL"],
        Place::Postgres(..) => &["SET statement_timeout = '4s'", "SET lock_timeout = '2s'"],
    };
    for statement in statements {
        connection.execute(*statement).await?;
    }
    Ok(())
}

/// How a transaction begins. SQLite takes the lock for writing at once: taken later, it would fail
/// instead of waiting.
pub(super) fn begin(place: &Place) -> &'static str {
    match place {
        Place::Sqlite(_) => "BEGIN IMMEDIATE",
        Place::Postgres(..) => "BEGIN",
    }
}

/// A list of words, as the databases keep it.
pub(super) fn list(words: &[String]) -> String {
    serde_json::to_string(words).unwrap_or_default()
}

/// A list of words, read back.
pub(super) fn words(row: &AnyRow, column: &str) -> Result<Vec<String>, sqlx::Error> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// A yes or no, kept as a number: SQLite has no other.
pub(super) fn truth(row: &AnyRow, column: &str) -> Result<bool, sqlx::Error> {
    row.try_get::<i64, _>(column).map(|it| it != 0)
}

/// A number of seconds as the databases keep it.
pub(super) fn seconds(length: Duration) -> i64 {
    length.as_secs().try_into().unwrap_or(i64::MAX)
}
