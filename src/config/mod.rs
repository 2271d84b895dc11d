//! The files an operator writes: read, checked, compiled into a [`Snapshot`], watched, and swapped in.
//!
//! Knows files, lines and columns, and the shape of the whole; what a section means is the business
//! of the room that owns it.

mod active;
mod document;
mod environment;
mod faults;
mod gateway_file;
mod routes_file;
mod secret_values;
mod snapshot;
mod spans;
mod structure;
mod watch;

#[cfg(test)]
mod tests;

pub use active::{
    ActiveConfig, Changes, Compiled, Configuration, RouteRuntime, Runtime, compile_files, compile_routes,
};
pub use document::{Document, Environment};
pub use faults::{Fault, Faults};
pub use gateway_file::{GatewayFile, Mode, Process, ShutdownConfig, TrustedProxies};
pub use routes_file::RoutesFile;
pub use secret_values::Keeping;
pub use snapshot::{Action, Description, Known, Redirect, Respond, Route, Snapshot};
pub use structure::{routes_schema, schema_of};
pub use watch::{WatchError, Watcher};
