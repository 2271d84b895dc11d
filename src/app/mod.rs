//! Assembly: read the files, bind, bring everything to life, stop. And the commands that only look.

mod command_line;
mod inspect;
mod keys;
mod prompt;
mod register;
mod run;
mod secrets;
mod signals;
mod users;

pub use command_line::main;
pub use inspect::{Checked, ExplainRequest, check, explain, routes, schema};
pub use keys::{Algorithm, NewApiKeyArgs, add_api_key, api_keys, new_key, revoke_api_key};
pub use register::{RegisterArgs, register};
pub use run::run;
pub use secrets::{list_secrets, put_secret, remove_secret, rotate_secrets};
pub use users::{NewUserArgs, add_user, change_user, list_users, set_password};

use std::path::PathBuf;

/// The two files that a command works on.
#[derive(Clone, Debug)]
pub struct Files {
    /// `gateway.yaml`.
    pub gateway: PathBuf,
    /// `routes.yaml`.
    pub routes: PathBuf,
}

/// How a command shows what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

/// A command did not succeed; the text says why, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);
