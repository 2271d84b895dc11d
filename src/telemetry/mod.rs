//! Logs and metrics: how the gateway reports what it does.
//!
//! Rooms log through `tracing` (an `event` field first) and count through handles that were resolved
//! when their owner was made; nothing on a request's way looks up a label.

mod log;
mod metrics;
mod process;
mod status;
mod summary;
mod timestamp;

pub use log::{LogConfig, LogFormat, LogLevel, flush, line, spawn_flusher, start, stop};
pub use metrics::{
    GENERATIONS_ALIVE, IN_FLIGHT, LONG_LIVED_KINDS, RELOADS, RouteMetrics, STREAMS_OPEN, Streams, exposition, figures,
    last_reload_failed, last_reload_succeeded, refused, route_series,
};
pub use summary::{Summary, summary};
pub use timestamp::Timestamp;
