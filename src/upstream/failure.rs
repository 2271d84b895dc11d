//! Why an endpoint can't be reached, or fails its checks, in plain words for operators.
//!
//! The words are ours alone: what an endpoint sent, or what a library says about its own insides, is not repeated
//! (R10.2).

use std::io::{self, ErrorKind};

use pingora::{Error, ErrorType};

/// What Pingora's error means.
pub fn in_words(error: &Error) -> String {
    let words = match error.etype() {
        ErrorType::HTTPStatus(status) => return format!("it answered with status {status}"),
        ErrorType::ConnectError | ErrorType::UnknownError => return connecting(error),
        ErrorType::TLSHandshakeFailure | ErrorType::HandshakeError => return handshake(&error.to_string()),
        ErrorType::ConnectTimedout => "it does not take the connection in time",
        ErrorType::ConnectRefused => REFUSED,
        ErrorType::ConnectNoRoute => NO_ROUTE,
        ErrorType::TLSHandshakeTimedout => "it does not finish the TLS handshake in time",
        ErrorType::InvalidCert => "the certificates of its `tls` can't be used",
        ErrorType::ReadTimedout => "it does not answer in time",
        ErrorType::WriteTimedout => "it does not take the request in time",
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => {
            "it closes the connection before it answers"
        }
        ErrorType::InvalidHTTPHeader | ErrorType::H1Error => "what it answers is not HTTP/1.1",
        ErrorType::H2Error | ErrorType::H2Downgrade | ErrorType::InvalidH2 => "it does not speak HTTP/2",
        ErrorType::InternalError | ErrorType::BindError | ErrorType::SocketError => {
            "the gateway has no socket for it: see its limit of open files, and the free ports"
        }
        _ => "it can't be reached",
    };
    words.to_owned()
}

/// What it means that nothing more can be read from a connection: of TLS, an alert may come late, such as the one for a
/// certificate that is missing.
pub fn reading_in_words(error: &io::Error) -> String {
    let text = error.to_string();
    match error.kind() {
        _ if text.contains("alert") || error.kind() == ErrorKind::InvalidData => handshake(&text),
        ErrorKind::ConnectionReset => "it resets the connection before it answers".to_owned(),
        _ => "it ends the connection before it answers".to_owned(),
    }
}

const REFUSED: &str = "it refuses the connection: nothing listens there";
const NO_ROUTE: &str = "there is no route to it";

/// What the operating system says.
fn connecting(error: &Error) -> String {
    let Some(cause) = error.root_cause().downcast_ref::<io::Error>() else {
        return "it can't be connected to".to_owned();
    };
    match cause.kind() {
        ErrorKind::ConnectionRefused => REFUSED.to_owned(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => NO_ROUTE.to_owned(),
        ErrorKind::TimedOut => "it does not take the connection in time".to_owned(),
        ErrorKind::ConnectionReset => "it resets the connection".to_owned(),
        ErrorKind::AddrNotAvailable => "the gateway has no port left for it".to_owned(),
        _ => format!("it can't be connected to: {cause}"),
    }
}

/// What is said when a handshake fails for this. Pingora hands on rustls' words alone, not its errors.
const HANDSHAKES: &[(&str, &str)] = &[
    ("not valid for name", "its certificate does not bear the name in `tls.sni`"),
    ("NotValidForName", "its certificate does not bear the name in `tls.sni`"),
    ("UnknownIssuer", "its certificate comes from an authority that is not trusted here: see `tls.ca`"),
    ("certificate expired", "its certificate has expired"),
    ("certificate not valid yet", "its certificate is not valid yet"),
    ("Revoked", "its certificate has been revoked"),
    ("CaUsedAsEndEntity", "its certificate is an authority's own, which is no certificate of a server"),
    ("invalid peer certificate", "its certificate is not valid"),
    ("corrupt message", "what it answers is no TLS: it may be an endpoint in the clear"),
    ("unexpected message", "what it answers is no TLS: it may be an endpoint in the clear"),
    ("CertificateRequired", "it wants a certificate of the gateway's: see `tls.client_cert`"),
    ("alert: UnknownCA", "it does not trust the authority of the gateway's certificate: see `tls.client_cert`"),
    ("alert: BadCertificate", "it does not take the gateway's certificate: see `tls.client_cert`"),
    ("alert: UnrecognisedName", "it does not know the name in `tls.sni`"),
    ("alert: NoApplicationProtocol", "it does not speak what `protocol` says"),
    ("any known protocol", "it does not speak what `protocol` says"),
    ("alert: ProtocolVersion", "it speaks no version of TLS that is safe"),
    ("peer is incompatible", "it shares no version of TLS and no cipher with the gateway"),
    ("alert: HandshakeFailure", "it shares no cipher with the gateway, or wants a certificate: see `tls.client_cert`"),
    ("fatal alert", "it refuses the TLS handshake"),
];

fn handshake(text: &str) -> String {
    let known = HANDSHAKES.iter().find(|(sign, _)| text.contains(sign));
    known.map_or("it ends the connection during the TLS handshake", |it| it.1).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_librarys_insides_is_repeated() {
        let inside = "BasicPeer { _address: Inet(127.0.0.1:1) }";
        for kind in [
            ErrorType::ConnectError,
            ErrorType::ConnectRefused,
            ErrorType::TLSHandshakeFailure,
            ErrorType::InternalError,
            ErrorType::UnknownError,
            ErrorType::Custom("Odd"),
        ] {
            let words = in_words(&Error::explain(kind, inside));
            assert!(!words.contains("Peer") && !words.is_empty(), "{words}");
        }
    }

    #[test]
    fn an_alert_that_comes_late_is_heard() {
        let error = io::Error::new(ErrorKind::InvalidData, "received fatal alert: CertificateRequired");
        assert!(reading_in_words(&error).contains("wants a certificate"));
        assert!(reading_in_words(&io::Error::from(ErrorKind::ConnectionReset)).contains("resets the connection"));
    }

    #[test]
    fn the_operating_systems_word_is_heard() {
        let of = |kind: ErrorKind| in_words(&Error::because(ErrorType::ConnectError, "", io::Error::from(kind)));
        assert_eq!(of(ErrorKind::ConnectionRefused), REFUSED);
        assert_eq!(of(ErrorKind::NetworkUnreachable), NO_ROUTE);
    }
}
