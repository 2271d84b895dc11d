//! Binding every listener before anything starts, so that a port in use or a bad certificate is an
//! error at start and not a listener missing later.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, TcpKeepalive, Type};

use super::admission::Admission;
use super::certificates::{Certificates, TlsError};
use super::config::Listener;
use super::descriptors::Descriptors;
use super::handshake::Untold;
use super::metrics::Metrics;
use crate::guard::Guard;

/// Connections that the kernel completes and keeps for us until we accept them.
const BACKLOG: i32 = 4096;
/// A dead client on a quiet connection (an idle WebSocket, say) is noticed after some minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A listener that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be taken.
    #[error("listener `{listener}` cannot take {address}: {source}{}", advice(source))]
    Address {
        /// Its name.
        listener: Arc<str>,
        /// As configured.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A certificate cannot be used.
    #[error("listener `{listener}` at {address} cannot speak TLS: {source}")]
    Tls {
        /// Its name.
        listener: Arc<str>,
        /// As configured.
        address: SocketAddr,
        /// What is wrong.
        source: Box<TlsError>,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop what uses it, or choose another port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}

/// What all clones of a socket share.
pub(super) struct Shared {
    pub(super) listener: Listener,
    pub(super) certificates: Option<Arc<Certificates>>,
    pub(super) admission: Admission,
    pub(super) guard: OnceLock<Arc<Guard>>,
    pub(super) metrics: Metrics,
    pub(super) untold: Untold,
}

/// A bound listener. It accepts when served; the port is given back when all clones are gone.
pub struct Socket {
    pub(super) inner: TcpListener,
    pub(super) shared: Arc<Shared>,
    address: SocketAddr,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("name", self.name()).field("address", &self.address).finish()
    }
}

impl Socket {
    /// The listener's name.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.listener.name
    }

    /// Where it is bound, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its certificates, for a reload.
    pub fn certificates(&self) -> Option<&Arc<Certificates>> {
        self.shared.certificates.as_ref()
    }

    /// From now on blocked addresses are turned away. Sockets are bound before there is a guard.
    pub fn guarded_by(&self, guard: Arc<Guard>) {
        let _ = self.shared.guard.set(guard);
    }

    /// What its clients hold is counted against the process' descriptors.
    pub fn count_against(&self, descriptors: Arc<Descriptors>) {
        self.shared.admission.count_against(descriptors);
    }

    /// Another handle to the same socket, with the same caps, for another worker.
    pub fn try_clone(&self) -> io::Result<Self> {
        let inner = self.inner.try_clone()?;
        Ok(Self { inner, shared: self.shared.clone(), address: self.address })
    }
}

/// Loads all certificates and binds all listeners, or none.
pub fn bind(listeners: &[Listener]) -> Result<Vec<Socket>, BindError> {
    listeners.iter().map(bind_one).collect()
}

fn bind_one(listener: &Listener) -> Result<Socket, BindError> {
    let Listener { name, address, .. } = listener;
    let certificates = listener.tls.as_ref().map(|it| Certificates::load(it, name)).transpose();
    let certificates = certificates.map_err(|source| BindError::Tls {
        listener: name.clone(),
        address: *address,
        source: Box::new(source),
    })?;
    let (inner, bound) =
        listen(*address).map_err(|source| BindError::Address { listener: name.clone(), address: *address, source })?;
    let shared = Shared {
        listener: listener.clone(),
        certificates: certificates.map(Arc::new),
        admission: Admission::new(listener.limits),
        guard: OnceLock::new(),
        metrics: Metrics::of(name),
        untold: Untold::new(),
    };
    Ok(Socket { inner, shared: Arc::new(shared), address: bound })
}

fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for old connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    // Accepted sockets inherit it, which saves a call for each of them.
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    SockRef::from(&listener).set_tcp_keepalive(&keepalive)?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}
