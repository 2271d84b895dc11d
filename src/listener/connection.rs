//! What is known about one connection, and the state that its deadlines follow.
//!
//! The stream itself moves bytes ([`Downstream`](super::Downstream)); this is the part that others
//! may look at while Pingora owns the stream.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use pingora::protocols::Digest;

use crate::identity::ClientCertificate;

use super::config::{Alpn, Limits, Listener};
use super::drain::{Drain, DrainPhase};

/// Words an answer to a request that never reached the app: malformed, CONNECT, or too slow.
pub trait Refuse: Send + Sync {
    /// A whole HTTP/1.1 answer with `Connection: close`; it is also the place to log and count.
    fn refuse(&self, status: u16, connection: &Connection) -> Vec<u8>;
}

/// What the TLS handshake agreed on.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// The name that the client asked for.
    pub server_name: Option<String>,
    /// Such as `TLSv1_3`.
    pub version: Option<&'static str>,
    /// The cipher suite.
    pub cipher: Option<&'static str>,
    /// The protocol, if the client offered any.
    pub alpn: Option<Alpn>,
    /// The client's own certificate; it was verified.
    pub client: Option<Arc<ClientCertificate>>,
}

/// Which deadline counts for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Accepted; not one byte of a request.
    Fresh,
    /// Some of a request's header.
    Header,
    /// The app has a request; its own deadlines count.
    Request,
    /// Between two requests.
    Idle,
    /// HTTP/2: Pingora and h2 look after it.
    H2,
    /// To be dropped.
    Cut,
}

/// One connection, from accept to close. It belongs to one thread; the atomics are there only
/// because Pingora's types must be `Sync`.
#[derive(Debug)]
pub struct Connection {
    listener: Arc<str>,
    peer: SocketAddr,
    opened: Instant,
    ready: OnceLock<Instant>,
    tls: OnceLock<TlsFacts>,
    drain: Drain,
    pub(super) limits: Limits,
    /// Whether this connection may turn out to be plain-text HTTP/2.
    pub(super) h2c: bool,
    phase: AtomicU8,
    /// Counts changes of `phase`: two idle times in a row are not one.
    turn: AtomicU32,
    refused: AtomicBool,
    malformed: AtomicBool,
    requests: AtomicU32,
    read: AtomicU64,
    written: AtomicU64,
}

impl Connection {
    pub(super) fn new(listener: &Listener, peer: SocketAddr, drain: Drain) -> Self {
        Self {
            listener: listener.name.clone(),
            // A dual-stack socket shows IPv4 clients as ::ffff:a.b.c.d, which no IPv4 rule matches.
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            opened: Instant::now(),
            ready: OnceLock::new(),
            tls: OnceLock::new(),
            drain,
            limits: listener.limits,
            h2c: listener.h2c && listener.tls.is_none(),
            phase: AtomicU8::new(Phase::Fresh as u8),
            turn: AtomicU32::new(0),
            refused: AtomicBool::new(false),
            malformed: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// The connection that a session stands on, HTTP/1 and HTTP/2 alike: `session.digest()`.
    /// `None` for sessions that did not come through a listener, such as subrequests.
    pub fn of(digest: Option<&Digest>) -> Option<&Arc<Self>> {
        digest?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }

    /// The header is complete and the app has it: its deadline is off, and what is written from
    /// now on is an answer. To be called in the first phase that has the session.
    pub fn admitted(&self) {
        self.requests.store(self.requests.load(Relaxed).saturating_add(1), Relaxed);
        if matches!(self.phase(), Phase::Fresh | Phase::Header | Phase::Idle) {
            self.enter(Phase::Request);
        }
    }

    /// Whether the answer under way should be the last one of this connection.
    pub fn closing(&self) -> bool {
        self.requests() >= self.limits.requests || self.drain.phase() > DrainPhase::Serving
    }

    /// Whether a request line came that is not one, which Pingora mends before anybody sees it.
    pub fn malformed(&self) -> bool {
        self.malformed.load(Relaxed)
    }

    pub(super) fn set_malformed(&self) {
        self.malformed.store(true, Relaxed);
    }

    /// The listener's name.
    pub fn listener(&self) -> &Arc<str> {
        &self.listener
    }

    /// Who called.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// When it was accepted.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// What the handshake agreed on; `None` on a plain-text connection.
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.tls.get()
    }

    /// Requests so far.
    pub fn requests(&self) -> u32 {
        self.requests.load(Relaxed)
    }

    /// Bytes from the client so far, without TLS.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Bytes to the client so far, without TLS.
    pub fn bytes_written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// When the time for the first header began: with TLS, after the handshake.
    pub(super) fn ready_at(&self) -> Instant {
        *self.ready.get_or_init(Instant::now)
    }

    pub(super) fn set_tls(&self, facts: TlsFacts) {
        // Only the handshake sets it, once.
        let _ = self.tls.set(facts);
    }

    /// Whether HTTP/2 was agreed on during the handshake.
    pub(super) fn speaks_h2(&self) -> bool {
        self.tls().is_some_and(|tls| tls.alpn == Some(Alpn::H2))
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Fresh,
            1 => Phase::Header,
            2 => Phase::Request,
            3 => Phase::Idle,
            4 => Phase::H2,
            _ => Phase::Cut,
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
        self.turn.store(self.turn().wrapping_add(1), Relaxed);
    }

    pub(super) fn turn(&self) -> u32 {
        self.turn.load(Relaxed)
    }

    /// Nobody waits for anything on it.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase(), Phase::Fresh | Phase::Idle)
    }

    /// There is no whole request on it.
    pub(super) fn asks_nothing(&self) -> bool {
        matches!(self.phase(), Phase::Fresh | Phase::Header | Phase::Idle)
    }

    /// The connection's task asks this after each turn.
    pub(super) fn is_over(&self) -> bool {
        self.phase() == Phase::Cut || self.asks_nothing() && self.drain.phase() >= DrainPhase::Closed
    }

    /// The request before is answered: the connection waits for the next one.
    pub fn answered(&self) {
        if self.phase() == Phase::Request {
            self.enter(Phase::Idle);
        }
    }

    /// True for the first time only.
    pub(super) fn refuse_once(&self) -> bool {
        !self.refused.swap(true, Relaxed)
    }

    pub(super) fn count_read(&self, bytes: usize) {
        self.read.store(self.read.load(Relaxed) + bytes as u64, Relaxed);
    }

    pub(super) fn count_written(&self, bytes: usize) {
        self.written.store(self.written.load(Relaxed) + bytes as u64, Relaxed);
    }
}
