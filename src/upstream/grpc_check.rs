//! The check by gRPC's health protocol: `grpc.health.v1.Health/Check` over HTTP/2, where `SERVING` alone passes.
//!
//! The request and the answer are messages of one field each (health.proto of grpc/grpc-proto), so that they are written
//! and read here, by the encoding of Protocol Buffers.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HOST, HeaderValue, TE, USER_AGENT};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::upstreams::peer::{HttpPeer, Peer};
use std::net::SocketAddr;

use super::failure::in_words;

const PATH: &[u8] = b"/grpc.health.v1.Health/Check";
/// What an answer may have, in bytes: it needs seven.
const ANSWER_MAX: usize = 4096;

/// Asks an endpoint whether it serves.
pub(super) struct GrpcCheck {
    connector: Connector,
    peer: HttpPeer,
    host: HeaderValue,
    message: Bytes,
}

impl GrpcCheck {
    /// Asks for this service, or for the server as a whole if it is empty. `peer` is the template of all connections.
    ///
    /// # Errors
    /// If the name can't be one of a host.
    pub(super) fn new(peer: HttpPeer, host: &str, service: &str) -> pingora::Result<Self> {
        let host = HeaderValue::from_str(host)
            .map_err(|_| pingora::Error::explain(pingora::ErrorType::InvalidHTTPHeader, "no name of a host"))?;
        Ok(Self { connector: Connector::new(None), peer, host, message: framed(&request(service)) })
    }

    /// One check.
    ///
    /// # Errors
    /// Why it failed, in plain words.
    pub(super) async fn check(&self, address: SocketAddr) -> Result<(), String> {
        let mut peer = self.peer.clone();
        peer._address = address.into();
        let connected = self.connector.get_http_session(&peer).await;
        let (session, _) = connected.map_err(|error| in_words(&error))?;
        let HttpSession::H2(mut session) = session else { return Err("it does not speak HTTP/2".to_owned()) };
        let verdict = self.ask(&mut session).await;
        if verdict.is_err() {
            session.shutdown();
        }
        let idle = peer.idle_timeout();
        self.connector.release_http_session(HttpSession::H2(session), &peer, idle).await;
        verdict
    }

    async fn ask(&self, session: &mut Http2Session) -> Result<(), String> {
        let head = self.head().map_err(|error| in_words(&error))?;
        let answered = async {
            session.write_request_header(Box::new(head), false)?;
            session.write_request_body(self.message.clone(), true).await?;
            session.read_response_header().await
        };
        answered.await.map_err(|error| in_words(&error))?;
        let head = session.response_header().expect("it was just read");
        if head.status != http::StatusCode::OK {
            return Err(format!("it answered with status {}", head.status.as_u16()));
        }
        // An answer that is nothing but trailers has them in the place of the head.
        status_of(&head.headers).map_or(Ok(()), passed)?;
        let mut body = BytesMut::new();
        while let Some(piece) = session.read_response_body().await.map_err(|error| in_words(&error))? {
            body.extend_from_slice(&piece);
            if body.len() > ANSWER_MAX {
                return Err(NO_ANSWER.to_owned());
            }
        }
        let trailers = session.read_trailers().await.map_err(|error| in_words(&error))?.unwrap_or_default();
        passed(status_of(&trailers).ok_or(NO_ANSWER)?)?;
        match serving_status(&body).ok_or(NO_ANSWER)? {
            1 => Ok(()),
            2 => Err("it says that it does not serve (NOT_SERVING)".to_owned()),
            3 => Err(UNKNOWN_SERVICE.to_owned()),
            _ => Err("it does not know whether it serves (UNKNOWN)".to_owned()),
        }
    }

    fn head(&self) -> pingora::Result<RequestHeader> {
        let mut head = RequestHeader::build("POST", PATH, Some(4))?;
        head.set_version(http::Version::HTTP_2);
        head.insert_header(HOST, &self.host)?;
        head.insert_header(CONTENT_TYPE, "application/grpc")?;
        head.insert_header(TE, "trailers")?;
        head.insert_header(USER_AGENT, "moongate-health-check")?;
        Ok(head)
    }
}

const NO_ANSWER: &str = "what it answers is none of gRPC's health protocol";
const UNKNOWN_SERVICE: &str = "it does not know the service that `health.grpc` names";

/// The status of the call, if this has it.
fn status_of(fields: &HeaderMap) -> Option<u16> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// What a status other than OK means (gRPC's health checking protocol, and its list of codes).
fn passed(status: u16) -> Result<(), String> {
    match status {
        0 => Ok(()),
        5 => Err(UNKNOWN_SERVICE.to_owned()),
        12 => Err("it does not offer gRPC's health protocol".to_owned()),
        7 | 16 => Err(format!("it does not let the gateway ask for its health (gRPC status {status})")),
        _ => Err(format!("it answered with gRPC status {status}")),
    }
}

/// `HealthCheckRequest { string service = 1 }`; a field that is empty is not written.
fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length > 0x7f {
            message.push(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    message
}

/// A message as gRPC sends it: not compressed, and its length.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// The status in a framed `HealthCheckResponse { ServingStatus status = 1 }`: 0 if the field is not there, as proto3 has
/// it; `None` if it is no such message.
fn serving_status(frame: &[u8]) -> Option<u64> {
    let (head, mut message) = frame.split_at_checked(5)?;
    if head[0] != 0 || u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        // What is not known is passed over: a later version may have more fields.
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut message)?,
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// A number of variable length, at most ten bytes.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for place in 0..10 {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_as_protocol_buffers_has_it() {
        assert_eq!(request(""), [0_u8; 0]);
        assert_eq!(request("ab"), [0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(300));
        assert_eq!((long[..3].to_vec(), long.len()), (vec![0x0a, 0xac, 0x02], 303));
        assert_eq!(&framed(&[1, 2])[..], [0, 0, 0, 0, 2, 1, 2]);
    }

    #[test]
    fn an_answer_is_read_whatever_else_stands_in_it_and_never_guessed() {
        let status = |message: &[u8]| serving_status(&framed(message));
        assert_eq!(status(&[0x08, 1]), Some(1));
        assert_eq!(status(&[]), Some(0), "a field that is not there is its default");
        assert_eq!(status(&[0x08, 2, 0x08, 1]), Some(1), "the last one counts");
        assert_eq!(status(&[0x12, 1, 9, 0x1d, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0, 0, 0, 0, 0x28, 9, 0x08, 1]), Some(1));
        for broken in [&[0x08][..], &[0x08, 0x80], &[0x12, 9, 0], &[0x0b], &[0x1d, 0], &[0xff; 12]] {
            assert_eq!(status(broken), None, "{broken:?}");
        }
        for frame in [&b""[..], &[0, 0, 0, 0], &[1, 0, 0, 0, 0], &[0, 0, 0, 0, 9, 0x08, 1], &[0, 0, 0, 0, 0, 0x08, 1]] {
            assert_eq!(serving_status(frame), None, "{frame:?}");
        }
    }
}
