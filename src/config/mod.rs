//! The files an operator writes: read, checked, compiled into a [`Snapshot`], watched, and swapped in.
//!
//! Knows which files there are and the shape of the whole; lines and columns are for the yaml room, and what a section
//! means is the business of the room that owns it.

mod active;
mod gateway_file;
mod idle;
mod lints;
mod routes_file;
mod secret_values;
mod snapshot;
mod trusted;
mod watch;

pub use active::{
    ActiveConfig, Changes, Compiled, Configuration, RouteRuntime, Runtime, compile_files, compile_routes, known_roles,
};
pub use gateway_file::{GatewayFile, Mode, Process, ShutdownConfig};
pub use routes_file::{RoutesFile, routes_schema};
pub use secret_values::Keeping;
pub use snapshot::{Action, Description, Known, Redirect, Respond, Route, Snapshot};
pub use trusted::{TrustedFields, TrustedFieldsConfig, TrustedProxies};
pub use watch::{WatchError, Watcher};
