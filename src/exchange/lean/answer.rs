//! Which answers are ordinary, and how one is read.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use httparse::{ParserConfig, Response, Status};
use pingora::http::ResponseHeader;

use crate::http1::{self, Place, place};

/// An answer with more fields than this is not ordinary.
const FIELDS_MAX: usize = 96;
/// A head larger than this is not ordinary.
const HEAD_MAX: usize = 32 * 1024;

/// What the bytes so far are.
pub(super) enum Shape {
    /// Not yet a whole head.
    Partial,
    /// A head that leaves no doubt about its body; it was taken off the buffer.
    Ordinary(Head),
    /// Anything else: interim, chunked, until close, odd. The buffer is as it was.
    Other,
}

/// The head of an ordinary answer, without the fields of its connection.
pub(super) struct Head {
    pub(super) answer: Box<ResponseHeader>,
    /// Bytes of the body.
    pub(super) length: u64,
    /// The connection may serve again.
    pub(super) keep_alive: bool,
}

/// Looks at what was read. What leaves any doubt is `Other`, never a guess.
pub(super) fn read(buffer: &mut BytesMut, method: &Method) -> Shape {
    let Some(sketch) = sketch(buffer, method) else { return Shape::Other };
    match sketch {
        Sketch::Partial if buffer.len() > HEAD_MAX => Shape::Other,
        Sketch::Partial => Shape::Partial,
        Sketch::Whole { end, status, length, keep_alive, fields, count } => {
            let head = buffer.split_to(end).freeze();
            match answer(status, &head, &fields[..count]) {
                Some(answer) => Shape::Ordinary(Head { answer, length, keep_alive }),
                None => {
                    // It can't be told in our terms: put back what was taken.
                    http1::put_back(&head, buffer);
                    Shape::Other
                }
            }
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "it lives for a moment on the stack; a box would cost an allocation")]
enum Sketch {
    Partial,
    Whole { end: usize, status: u16, length: u64, keep_alive: bool, fields: [(Place, Place); FIELDS_MAX], count: usize },
}

/// `None` for what is not ordinary.
fn sketch(buffer: &[u8], method: &Method) -> Option<Sketch> {
    let mut space = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS_MAX];
    let mut response = Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut response, buffer, &mut space);
    let Status::Complete(end) = parsed.ok()? else { return Some(Sketch::Partial) };
    let status = response.code?;
    if response.version != Some(1) || status < 200 || end > HEAD_MAX {
        return None;
    }
    let mut fields = [((0, 0), (0, 0)); FIELDS_MAX];
    let (mut count, mut length, mut keep_alive) = (0, None, true);
    for field in response.headers.iter() {
        match field.name.len() {
            10 if field.name.eq_ignore_ascii_case("connection") => {
                keep_alive = http1::keeps_alive(field.value)?;
                continue;
            }
            10 if field.name.eq_ignore_ascii_case("keep-alive") => continue,
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                if length.is_some() {
                    return None;
                }
                length = Some(http1::length(field.value)?);
                if status == 204 {
                    continue; // it must not be there (RFC 9110, section 8.6)
                }
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => return None,
            7 if field.name.eq_ignore_ascii_case("upgrade") || field.name.eq_ignore_ascii_case("trailer") => continue,
            16 if field.name.eq_ignore_ascii_case("proxy-connection") => continue,
            _ => {}
        }
        fields[count] = (place(buffer, field.name.as_bytes()), place(buffer, field.value));
        count += 1;
    }
    let length = if super::has_no_body(method, status) { 0 } else { length? };
    Some(Sketch::Whole { end, status, length, keep_alive, fields, count })
}

/// Values are slices of the head: nothing is copied.
fn answer(status: u16, head: &Bytes, fields: &[(Place, Place)]) -> Option<Box<ResponseHeader>> {
    let status = StatusCode::from_u16(status).ok()?;
    // Room for what the way out adds.
    let mut answer = Box::new(ResponseHeader::build_no_case(status, Some(fields.len() + 8)).ok()?);
    let range = |&(from, to): &Place| usize::from(from)..usize::from(to);
    for (name, value) in fields {
        let name = HeaderName::from_bytes(&head[range(name)]).ok()?;
        let value = HeaderValue::from_maybe_shared(head.slice(range(value))).ok()?;
        answer.append_header(name, value).ok()?;
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> &'static str {
        match read(&mut BytesMut::from(text), &Method::GET) {
            Shape::Partial => "partial",
            Shape::Ordinary(_) => "ordinary",
            Shape::Other => "other",
        }
    }

    #[test]
    fn an_answer_of_known_length_is_ordinary() {
        let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabcd");
        let Shape::Ordinary(head) = read(&mut buffer, &Method::GET) else { panic!("not ordinary") };
        assert_eq!((head.length, head.keep_alive, &buffer[..]), (3, true, &b"abcd"[..]));
        assert_eq!(head.answer.headers["x-a"], "b");
        assert_eq!(shape("HTTP/1.1 204 No Content\r\n\r\n"), "ordinary");
        assert_eq!(shape("HTTP/1.1 304 Not Modified\r\nContent-Length: 55\r\n\r\n"), "ordinary");
        assert_eq!(shape("HTTP/1.1 200 OK\r\nConte"), "partial");
    }

    #[test]
    fn any_doubt_makes_it_another() {
        for text in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: x-a\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert_eq!(shape(text), "other", "{text}");
        }
    }

    #[test]
    fn what_is_handed_on_is_whole() {
        let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
        let mut buffer = BytesMut::from(text);
        assert!(matches!(read(&mut buffer, &Method::GET), Shape::Other));
        assert_eq!(&buffer[..], text.as_bytes());
    }

    #[test]
    fn an_answer_to_head_has_no_body() {
        let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 55\r\n\r\n");
        let Shape::Ordinary(head) = read(&mut buffer, &Method::HEAD) else { panic!("not ordinary") };
        assert_eq!(head.length, 0);
    }
}
