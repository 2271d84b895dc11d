//! Extended CONNECT (RFC 8441): how a WebSocket begins over HTTP/2. It goes on as the handshake that HTTP/1.1 has for
//! the same (RFC 6455, section 4), so that everything above knows one way to a WebSocket.

use aws_lc_rs::{digest, rand};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::request::Parts;
use http::{Method, StatusCode};
use pingora::http::RequestHeader;

const WEBSOCKET: &str = "websocket";
/// What a server adds to the key to show that it understood (RFC 6455, section 1.3).
const ACCEPT_SALT: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// A key's length, in bytes (RFC 6455, section 4.1).
const KEY_LENGTH: usize = 16;

/// What an extended CONNECT asks for.
#[derive(Debug)]
pub(super) enum Extended {
    /// A WebSocket, and the answer to the key that we have given the upstream, once we have.
    WebSocket(Option<HeaderValue>),
    /// A protocol that is not spoken here.
    Unknown,
}

impl Extended {
    /// What a request's head asks for, if it is an extended CONNECT. The one for a WebSocket becomes a GET, as which
    /// routes know it.
    pub(super) fn of(parts: &mut Parts) -> Option<Self> {
        let protocol = parts.extensions.remove::<h2::ext::Protocol>()?;
        if !protocol.as_str().eq_ignore_ascii_case(WEBSOCKET) {
            return Some(Self::Unknown);
        }
        parts.method = Method::GET;
        Some(Self::WebSocket(None))
    }

    pub(super) fn is_websocket(&self) -> bool {
        matches!(self, Self::WebSocket(_))
    }

    /// Writes what the handshake of HTTP/1.1 has and HTTP/2 leaves out.
    pub(super) fn write_handshake(&mut self, request: &mut RequestHeader) {
        let Self::WebSocket(accept) = self else { return };
        let mut key = [0; KEY_LENGTH];
        rand::fill(&mut key).expect("the system has randomness");
        let key = BASE64_STANDARD.encode(key);
        *accept = HeaderValue::from_str(&accept_for(&key)).ok();
        for (name, value) in [(UPGRADE, WEBSOCKET), (SEC_WEBSOCKET_KEY, &key)] {
            let _ = request.insert_header(name, value);
        }
    }

    /// Whether an answer's head can be passed on: a change of protocols that the upstream has understood, or an answer
    /// that says no. Any other success would begin a WebSocket (RFC 8441, section 5) with one who speaks none.
    pub(super) fn may_be_answered(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        match self {
            Self::WebSocket(accept) if status == StatusCode::SWITCHING_PROTOCOLS => {
                let mut said = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
                accept.is_some() && said.next() == accept.as_ref() && said.next().is_none()
            }
            Self::WebSocket(_) | Self::Unknown => !status.is_success(),
        }
    }
}

/// A change of protocols as HTTP/2 says it: 200, without what is of HTTP/1.1's handshake or would bound a body.
pub(super) fn success(headers: &mut HeaderMap) -> StatusCode {
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH] {
        headers.remove(name);
    }
    StatusCode::OK
}

/// RFC 6455, section 4.2.2.
fn accept_for(key: &str) -> String {
    let salted = [key, ACCEPT_SALT].concat();
    BASE64_STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, salted.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6455_1_3_a_key_has_its_answer() {
        assert_eq!(accept_for("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn rfc_8441_5_no_success_but_a_change_that_was_understood_is_passed_on() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut extended = Extended::WebSocket(None);
        extended.write_handshake(&mut request);
        let key = request.headers[SEC_WEBSOCKET_KEY].to_str().unwrap();
        let headers = |accepts: &[&str]| -> HeaderMap {
            let value = |it: &&str| (SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(it).unwrap());
            accepts.iter().map(value).fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            })
        };
        let may = |status, accepts: &[&str]| {
            extended.may_be_answered(StatusCode::from_u16(status).unwrap(), &headers(accepts))
        };
        let right = accept_for(key);
        assert!(may(101, &[&right]));
        for accepts in [&[][..], &["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="], &[&right, &right], &[""]] {
            assert!(!may(101, accepts), "{accepts:?}");
        }
        for (status, expected) in [(200, false), (204, false), (302, true), (403, true), (426, true), (502, true)] {
            assert_eq!(may(status, &[&right]), expected, "{status}");
        }
    }
}
