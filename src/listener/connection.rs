//! What is known about one connection, and the state that its deadlines follow.
//!
//! The stream itself moves bytes ([`Downstream`](super::Downstream)); this is the part that others
//! may look at while an app owns the stream.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::HeaderValue;

use crate::identity::ClientCertificate;

use super::admission::Full;
use super::config::{Alpn, Limits};
use super::drain::{Drain, DrainPhase};
use super::socket::Shared;

pub use super::admission::Room;

/// Why something never became a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyReject {
    /// Its head did not arrive in time.
    Timeout,
    /// It is not HTTP as RFC 9112 writes it; the text says in which way.
    Malformed(&'static str),
    /// Its target is too long.
    TargetTooLong,
    /// Its header fields are too many or too large.
    FieldsTooLarge,
}

/// Words an answer to what never became a request.
pub trait Refuse: Send + Sync {
    /// A whole HTTP/1.1 answer with `Connection: close`; it is also the place to log and count. `origin` is the page
    /// that called, as far as that could be read.
    fn refuse(&self, why: EarlyReject, origin: Option<&HeaderValue>, connection: &Connection) -> Vec<u8>;
}

/// What the TLS handshake agreed on.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// The name that the client requested.
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
    /// HTTP/2: the app and h2 look after it.
    H2,
    /// To be dropped.
    Cut,
}

/// One connection, from accept to close. It belongs to one thread; the atomics are there only
/// because tasks must be `Send`.
pub struct Connection {
    shared: Arc<Shared>,
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
    requests: AtomicU32,
    read: AtomicU64,
    written: AtomicU64,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("listener", self.listener())
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, peer: SocketAddr, drain: Drain) -> Self {
        let listener = &shared.listener;
        Self {
            // A dual-stack socket shows IPv4 clients as ::ffff:a.b.c.d, which no IPv4 rule matches.
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            opened: Instant::now(),
            ready: OnceLock::new(),
            tls: OnceLock::new(),
            drain,
            limits: listener.limits,
            h2c: listener.h2c && listener.tls.is_none(),
            shared,
            phase: AtomicU8::new(Phase::Fresh as u8),
            turn: AtomicU32::new(0),
            refused: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
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

    /// How long it may wait for its next request.
    pub fn keep_alive(&self) -> Duration {
        self.limits.keep_alive
    }

    /// Room for a request beside others of this connection; `None` if its client has enough under way, or all
    /// clients together have.
    pub fn room_for_another(&self) -> Option<Room> {
        let Shared { listener, admission, metrics, .. } = &*self.shared;
        let full = match admission.admit_request(self.peer.ip()) {
            Ok(room) => return Some(room),
            Err(full) => full,
        };
        match full {
            Full::Descriptors => metrics.requests_refused_descriptors.inc(),
            _ => metrics.requests_refused_per_address.inc(),
        }
        if admission.may_log() {
            tracing::warn!(
                event = "request_refused", listener = %listener.name,
                client = %self.peer.ip(), reason = full.as_str(), "a client has too much under way"
            );
        }
        None
    }

    /// It was ended for its frames that move no request.
    pub fn flooded(&self) {
        let Shared { listener, admission, metrics, .. } = &*self.shared;
        metrics.floods.inc();
        if admission.may_log() {
            tracing::warn!(
                event = "http2_flood", listener = %listener.name,
                client = %self.peer.ip(), "a connection brings frames that move no request"
            );
        }
    }

    /// The listener's name.
    pub fn listener(&self) -> &Arc<str> {
        &self.shared.listener.name
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

    /// Nothing is awaited on it.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase(), Phase::Fresh | Phase::Idle)
    }

    /// A request was answered, and no other has begun. What was just accepted may hold a request that is yet to be read.
    pub(super) fn is_between_requests(&self) -> bool {
        self.phase() == Phase::Idle
    }

    /// There is no whole request on it.
    pub(super) fn asks_nothing(&self) -> bool {
        matches!(self.phase(), Phase::Fresh | Phase::Header | Phase::Idle)
    }

    /// The connection's task checks this after each turn.
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
