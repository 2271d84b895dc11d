//! The `store` section of gateway.yaml: where records that last are kept.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::{At, Diagnostics, Secret};

/// Where records that last are kept: one of `sqlite` and `postgres`. Default: SQLite in
/// `data/moongate.db`.
///
/// The store is opened at start when this section is written or when something needs it (the local
/// service `auth`, API keys, a `secret:NAME`), and a start that can't open it ends. A gateway that
/// only passes requests on needs none, and leaves no file behind.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// A file on this machine, for one gateway.
    pub sqlite: Option<SqliteConfig>,
    /// A PostgreSQL server, which several gateways can share.
    pub postgres: Option<PostgresConfig>,
}

/// A file on this machine.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SqliteConfig {
    /// The file. It is made, with its folder, if it is not there; nobody but its owner may read it.
    pub path: PathBuf,
}

impl Default for SqliteConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("data/moongate.db") }
    }
}

/// A PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// As in `postgres://user:password@host:5432/database`: write `"${DATABASE_URL}"`.
    pub url: Secret,
    /// The most connections that this gateway opens. Default 8.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = 200))]
    pub connections: u32,
}

fn eight() -> u32 {
    8
}

/// Compiled: the database.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// A file.
    Sqlite(PathBuf),
    /// A server, and how many connections to it there may be.
    Postgres(Secret, u32),
}

impl Place {
    /// The database that a `store` section names, or the default one without a section.
    pub fn compile(config: Option<&StoreConfig>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let default = StoreConfig::default();
        match config.unwrap_or(&default) {
            StoreConfig { sqlite: Some(_), postgres: Some(_) } => {
                diagnostics.error(at, "two stores").help("keep one of sqlite and postgres");
                Self::Sqlite(SqliteConfig::default().path)
            }
            StoreConfig { postgres: Some(postgres), .. } => {
                let url = postgres.url.expose();
                if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
                    let diagnostic =
                        diagnostics.error(&at.key("postgres").key("url"), "not the URL of a PostgreSQL server");
                    diagnostic.help("write it as postgres://user:password@host:5432/database");
                }
                Self::Postgres(postgres.url.clone(), postgres.connections)
            }
            StoreConfig { sqlite, postgres: None } => {
                let path = sqlite.clone().unwrap_or_default().path;
                if path.as_os_str().is_empty() {
                    diagnostics.error(&at.key("sqlite").key("path"), "no file").help("write it as data/moongate.db");
                }
                Self::Sqlite(path)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(yaml: &str, faults: &[&str]) -> Place {
        let config: StoreConfig = serde_yaml::from_str(yaml).unwrap();
        let mut diagnostics = Diagnostics::default();
        let place = Place::compile(Some(&config), &At::ROOT.key("store"), &mut diagnostics);
        assert_eq!(diagnostics.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(), faults, "{yaml}");
        place
    }

    #[test]
    fn one_database_is_named_and_the_default_is_a_file() {
        assert_eq!(check("{}", &[]), Place::Sqlite("data/moongate.db".into()));
        assert_eq!(check("sqlite: { path: a.db }", &[]), Place::Sqlite("a.db".into()));
        assert!(matches!(check("postgres: { url: 'postgres://h/d' }", &[]), Place::Postgres(_, 8)));
        check("{ sqlite: {}, postgres: { url: 'postgres://h/d' } }", &["/store"]);
        check("postgres: { url: 'mysql://h/d' }", &["/store/postgres/url"]);
        check("sqlite: { path: '' }", &["/store/sqlite/path"]);
    }

    #[test]
    fn the_server_s_password_is_never_shown() {
        let place = check("postgres: { url: 'postgres://u:hunter2@h/d' }", &[]);
        assert!(!format!("{place:?}").contains("hunter2"));
    }
}
