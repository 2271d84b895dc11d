//! Where clients come in: sockets, caps before any parsing, TLS, deadlines and drain.
//!
//! We accept ourselves, because Pingora's own way has no deadline for a whole header, no caps, and
//! leaves the process alive when it cannot bind; then the stream goes to a Pingora [`ServerApp`].
//! What a request means is the business of that app; it learns about its connection by
//! [`Connection::of`].
//!
//! [`ServerApp`]: pingora::apps::ServerApp

mod admission;
mod certificates;
mod config;
mod connection;
mod downstream;
mod drain;
mod metrics;
mod serve;
mod socket;
#[cfg(test)]
mod tests;
mod validity;
mod wire;

pub use certificates::{Certificates, TlsError};
pub use config::{
    Alpn, CertificateConfig, ClientAuth, Limits, Listener, ListenerConfig, ListenerLimits, Tls, TlsConfig,
};
pub use connection::{Connection, Refuse, TlsFacts};
pub use downstream::Downstream;
pub use drain::{Drain, DrainPhase};
pub use serve::serve;
pub use socket::{BindError, Socket, bind};
