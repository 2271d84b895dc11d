//! What the requests of one thread share on their way to upstreams.

use std::io;

use pingora::connectors::http::Connector;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::{Error, ErrorType, Result};
use tokio::net::TcpStream;

use crate::transport::Transport;
use crate::upstream::Endpoint;

/// Idle HTTP/2 connections that one thread keeps at most; those of HTTP/1 are in `pool.rs`.
const POOL: usize = 1024;

/// One thread's ways to upstreams.
pub struct Worker {
    /// Connections for HTTP/1.
    transport: TransportConnector,
    /// Pingora's client sessions, for HTTP/2.
    pub(super) http2: Connector,
}

impl Default for Worker {
    fn default() -> Self {
        Self::new()
    }
}

impl Worker {
    /// How many idle upstream connections one worker keeps at most.
    pub const IDLE_CONNECTIONS: usize = POOL;

    /// To be made on the thread that uses it.
    pub fn new() -> Self {
        let options = || Some(ConnectorOptions::new(POOL));
        Self { transport: TransportConnector::new(options()), http2: Connector::new(options()) }
    }

    /// A new connection for HTTP/1.
    pub(super) async fn connect(&self, endpoint: &Endpoint) -> Result<Transport> {
        let peer = endpoint.peer();
        if peer.is_tls() {
            return self.transport.new_stream(peer).await.map(Transport::Layered);
        }
        let connecting = async {
            let socket = TcpStream::connect(endpoint.address()).await?;
            socket.set_nodelay(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        match connecting.await {
            Ok(socket) => Ok(Transport::Plain(socket, None)),
            Err(error) => {
                let kind = if is_ours(&error) { ErrorType::InternalError } else { ErrorType::ConnectError };
                Err(Error::because(kind, "in the clear", error))
            }
        }
    }
}

/// Whether it is the gateway that has no socket or no port left, whoever was to be connected to.
fn is_ours(error: &io::Error) -> bool {
    const ENFILE: i32 = 23; // errno(3): the system's limit of open files
    const EMFILE: i32 = 24; // the process's
    error.kind() == io::ErrorKind::AddrNotAvailable || matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}
