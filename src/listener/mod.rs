//! Where clients come in: sockets, caps before any parsing, TLS, deadlines and drain.
//!
//! We accept ourselves, because Pingora's own way has no deadline for a whole header, no caps, and
//! leaves the process alive when it cannot bind; then each connection goes to an [`App`], which speaks HTTP on it.

mod admission;
mod certificates;
mod config;
mod connection;
mod descriptors;
mod downstream;
mod drain;
mod handshake;
mod metrics;
mod serve;
mod socket;
mod validity;

pub use certificates::{Certificates, TlsError, report_kept};
pub use config::{
    Alpn, CertificateConfig, ClientAuth, Limits, Listener, ListenerConfig, ListenerLimits, Tls, TlsConfig,
};
pub use connection::{Connection, EarlyReject, Refuse, Room, TlsFacts};
pub use descriptors::Descriptors;
pub use downstream::Downstream;
pub use drain::{Drain, DrainPhase};
pub use serve::{App, serve};
pub use socket::{BindError, Socket, bind};
