//! Why TLS handshakes of clients fail, in plain words and few of them; scanners make them fail all day, so the log
//! says it once in a while.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The log names one failure in this time, with the number of all.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Why a handshake failed: the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Refused,
    NoTls,
    Protocol,
    Incompatible,
    NoCertificate,
    Certificate,
    Left,
    Timeout,
    Other,
}

impl Cause {
    /// All of them, in their order.
    pub(super) const ALL: [Self; 9] = [
        Self::Refused,
        Self::NoTls,
        Self::Protocol,
        Self::Incompatible,
        Self::NoCertificate,
        Self::Certificate,
        Self::Left,
        Self::Timeout,
        Self::Other,
    ];

    /// In a word.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "certificate_refused",
            Self::NoTls => "no_tls",
            Self::Protocol => "protocol",
            Self::Incompatible => "incompatible",
            Self::NoCertificate => "no_client_certificate",
            Self::Certificate => "client_certificate",
            Self::Left => "client_left",
            Self::Timeout => "timeout",
            Self::Other => "other",
        }
    }
}

/// A failure as people read it.
pub(super) type InWords = (Cause, &'static str);

/// The client did not come to an end of it.
pub(super) const TOO_LONG: InWords = (Cause::Timeout, "the client does not finish the handshake in time");

/// What is said when a handshake fails for this. Pingora hands on rustls' words alone, not its errors.
const HANDSHAKES: &[(&str, InWords)] = &[
    ("alert: UnknownCA", (Cause::Refused, "the client does not trust the authority of this listener's certificate")),
    ("alert: CertificateExpired", (Cause::Refused, "for the client this listener's certificate has expired")),
    ("alert: CertificateRevoked", (Cause::Refused, "for the client this listener's certificate has been revoked")),
    ("alert: BadCertificate", (Cause::Refused, "the client does not take this listener's certificate: see its names")),
    ("alert: CertificateUnknown", (Cause::Refused, "the client does not take this listener's certificate")),
    ("alert: UnsupportedCertificate", (Cause::Refused, "the client can't use this listener's certificate")),
    ("sent no certificates", (Cause::NoCertificate, "the client shows no certificate, and the listener wants one")),
    (
        "UnknownIssuer",
        (Cause::Certificate, "the client's certificate comes from an authority that is not in `client_ca`"),
    ),
    ("certificate expired", (Cause::Certificate, "the client's certificate has expired")),
    ("certificate not valid yet", (Cause::Certificate, "the client's certificate is not valid yet")),
    ("Revoked", (Cause::Certificate, "the client's certificate has been revoked: it is in `client_crl`")),
    ("invalid peer certificate", (Cause::Certificate, "the client's certificate is not valid")),
    ("any known protocol", (Cause::Protocol, "the client speaks none of the protocols in `alpn`")),
    ("alert: NoApplicationProtocol", (Cause::Protocol, "the client speaks none of the protocols in `alpn`")),
    ("corrupt message", (Cause::NoTls, "what the client sends is no TLS: it may speak in the clear")),
    ("unexpected message", (Cause::NoTls, "what the client sends is no TLS: it may speak in the clear")),
    (
        "peer is incompatible",
        (Cause::Incompatible, "the client shares no version of TLS and no cipher with the gateway"),
    ),
    ("alert: ProtocolVersion", (Cause::Incompatible, "the client speaks no version of TLS that is safe")),
    ("alert: HandshakeFailure", (Cause::Incompatible, "the client shares no cipher with the gateway")),
    ("alert: InsufficientSecurity", (Cause::Incompatible, "the gateway's ciphers are not enough for the client")),
    ("fatal alert", (Cause::Other, "the client refuses the handshake")),
    ("eof", (Cause::Left, "the client leaves during the handshake")),
    ("reset by peer", (Cause::Left, "the client leaves during the handshake")),
    ("Broken pipe", (Cause::Left, "the client leaves during the handshake")),
];

/// What Pingora's error means. A library's words about its insides are not repeated (R10.2).
pub(super) fn in_words(error: &str) -> InWords {
    let known = HANDSHAKES.iter().find(|(sign, _)| error.contains(sign));
    known.map_or((Cause::Other, "the handshake breaks off"), |it| it.1)
}

/// The failures of one listener, as far as the log has not named them.
#[derive(Debug)]
pub(super) struct Untold {
    since: Instant,
    /// Milliseconds since `since` at which one was named last, plus one.
    told: AtomicU64,
    count: AtomicU64,
}

impl Untold {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), told: AtomicU64::new(0), count: AtomicU64::new(0) }
    }

    /// Takes note of one; if it is to be named, with how many there were since the last one that was.
    pub(super) fn another(&self) -> Option<u64> {
        self.another_at(self.since.elapsed())
    }

    fn another_at(&self, elapsed: Duration) -> Option<u64> {
        self.count.fetch_add(1, Relaxed);
        let now = elapsed.as_millis() as u64 + 1;
        let last = self.told.load(Relaxed);
        let due = last == 0 || now >= last + SAY_EVERY.as_millis() as u64;
        let mine = due && self.told.compare_exchange(last, now, Relaxed, Relaxed).is_ok();
        mine.then(|| self.count.swap(0, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_librarys_insides_is_repeated() {
        let words = in_words("TLSHandshakeFailure context: Stream { fd: 7 } cause: something new");
        assert_eq!(words, (Cause::Other, "the handshake breaks off"));
        assert_eq!(in_words("cause: tls handshake eof").0, Cause::Left);
    }

    #[test]
    fn a_listener_says_it_once_a_minute_and_counts_the_others() {
        let untold = Untold::new();
        let at = |seconds| untold.another_at(Duration::from_secs(seconds));
        assert_eq!((at(0), at(1), at(59), at(60), at(61)), (Some(1), None, None, Some(3), None));
        assert_eq!(at(500), Some(2));
    }

    #[test]
    fn every_cause_has_a_place_of_its_own() {
        for (number, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, number, "{}", cause.as_str());
        }
    }
}
