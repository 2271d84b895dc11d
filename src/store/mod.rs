//! Records that last: users, credentials, revocations, secrets. SQLite, or PostgreSQL (`store` in
//! gateway.yaml); one code for both.
//!
//! Nothing here decides who may do what. What the store holds of a credential is a hash, of a secret
//! a ciphertext: a reader of the database can use neither. That the store can't be reached is a
//! value of its own, which the caller has to decide on.

mod api_keys;
mod calls;
mod config;
mod metrics;
mod migrations;
mod purge;
mod refresh;
mod revocations;
mod secrets;
mod sql;
mod users;

pub use api_keys::{ApiKey, NewApiKey};
pub use calls::{Store, StoreError};
pub use config::{Place, PostgresConfig, SqliteConfig, StoreConfig};
pub use refresh::{NewRefreshToken, RefreshToken, Rotation};
pub use revocations::{Revocation, Revoked};
pub use secrets::{Resealed, SealedSecret, SecretEntry};
pub use users::{NewUser, User, UserChange};
