//! Heads, fields and chunks as they are written: one form, whatever form they came in.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};
use http::StatusCode;
use http::header::HeaderMap;
use pingora::http::ResponseHeader;

use super::trailers::may_be_trailer;

/// Room for an ordinary head and a small body behind it, in bytes: growing in steps would copy it again and again.
const HEAD_ROOM: usize = 1024;

/// Writes a response's head: status line, fields with names in lower case, and the empty line.
///
/// It is written as it stands: the caller has seen to the fields that frame the body.
pub fn write_response_head(head: &ResponseHeader, out: &mut BytesMut) {
    out.reserve(HEAD_ROOM);
    let reason = reason(head);
    if head.status == StatusCode::OK && reason == "OK" {
        out.put_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        out.put_slice(b"HTTP/1.1 ");
        out.put_slice(head.status.as_str().as_bytes());
        out.put_u8(b' '); // it is there even if no reason is (RFC 9112, section 4)
        out.put_slice(reason.as_bytes());
        out.put_slice(b"\r\n");
    }
    for (name, value) in &head.headers {
        write_field(out, name.as_str(), &[value.as_bytes()]);
    }
    out.put_slice(b"\r\n");
}

/// What may have been set as the reason is unchecked: it must not end the line.
fn reason(head: &ResponseHeader) -> &str {
    let reason = head.get_reason_phrase().unwrap_or_default();
    let is_plain = reason.bytes().all(|it| it == b'\t' || !it.is_ascii_control());
    if is_plain { reason } else { head.status.canonical_reason().unwrap_or_default() }
}

/// Writes a field, its value in pieces.
pub fn write_field(out: &mut BytesMut, name: &str, value: &[&[u8]]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    value.iter().for_each(|it| out.put_slice(it));
    out.put_slice(b"\r\n");
}

/// Writes the line before a chunk's data (RFC 9112, section 7.1). `length` is not 0, which would end the
/// body; behind the data goes CR LF.
pub fn chunk_head(length: usize, out: &mut BytesMut) {
    debug_assert!(length > 0, "a chunk without data is the last one");
    let _ = write!(out, "{length:x}\r\n"); // a buffer that grows takes everything
}

/// Writes the end of a chunked body, with the trailers that may be (RFC 9110, section 6.5.1).
pub fn write_last_chunk(trailers: Option<&HeaderMap>, out: &mut BytesMut) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| may_be_trailer(name)) {
        write_field(out, name.as_str(), &[value.as_bytes()]);
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(status: u16, reason: Option<&str>, fields: &[(&'static str, &'static str)]) -> String {
        let mut head = ResponseHeader::build_no_case(status, None).unwrap();
        head.set_reason_phrase(reason).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        let mut out = BytesMut::new();
        write_response_head(&head, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_head_has_its_reason_and_names_in_lower_case() {
        assert_eq!(
            written(200, None, &[("Content-Length", "2"), ("X-A", "1"), ("x-a", "2")]),
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: 1\r\nx-a: 2\r\n\r\n"
        );
        for (status, reason, line) in [
            (200, Some("Fine"), "200 Fine"),
            (100, None, "100 Continue"),
            (404, Some("Not\tHere"), "404 Not\tHere"),
            (599, None, "599 "),
            (404, Some("a\r\nX: b"), "404 Not Found"),
            (599, Some("a\nb"), "599 "),
        ] {
            assert_eq!(written(status, reason, &[]), format!("HTTP/1.1 {line}\r\n\r\n"));
        }
    }

    #[test]
    fn chunks_are_written_as_they_are_read() {
        let mut out = BytesMut::new();
        for length in [1, 10, 255, 65536] {
            chunk_head(length, &mut out);
        }
        assert_eq!(&out[..], b"1\r\na\r\nff\r\n10000\r\n");
    }

    #[test]
    fn the_last_chunk_has_trailers_that_may_be() {
        let written = |trailers| {
            let mut out = BytesMut::new();
            write_last_chunk(trailers, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(written(None), "0\r\n\r\n");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("content-length", "7".parse().unwrap());
        assert_eq!(written(Some(&trailers)), "0\r\ngrpc-status: 0\r\n\r\n");
    }
}
