//! What the exchanges of one thread share.

use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use tokio::sync::watch;

/// Idle upstream connections that one thread keeps at most, all upstreams together. A pool smaller
/// than the concurrency doubles the cost of a request.
const POOL: usize = 4096;

/// One thread's connections to upstreams, and the word that streams have to end.
pub struct Worker {
    /// Pingora's client sessions, HTTP/1 and 2.
    pub(super) connector: Connector,
    /// Becomes true when streams must end because the process does.
    pub(super) ending: watch::Receiver<bool>,
}

impl Worker {
    /// How many idle upstream connections one worker keeps at most.
    pub const IDLE_CONNECTIONS: usize = POOL;

    /// To be made on the thread that uses it. `ending` is set once, when the time that requests under
    /// way were given at a stop is nearly over.
    pub fn new(ending: watch::Receiver<bool>) -> Self {
        Self { connector: Connector::new(Some(ConnectorOptions::new(POOL))), ending }
    }
}
