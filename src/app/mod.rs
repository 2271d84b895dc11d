//! Assembly: read the files, bind, bring everything to life, stop. And the commands that only look.

mod inspect;
mod run;
mod signals;

pub use inspect::{Checked, check, explain, routes, schema};
pub use run::run;

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
