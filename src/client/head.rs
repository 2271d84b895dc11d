//! Which requests are ordinary, and how the head of one is read.
//!
//! What leaves any doubt is not: it goes to Pingora's parser and to the checks behind it, and they say why.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, Version};
use httparse::{Header, ParserConfig, Request, Status};
use memchr::memchr_iter;
use pingora::http::RequestHeader;

use crate::http1::{self, Place, place};

/// A request with more fields than this is not ordinary.
const FIELDS_MAX: usize = 64;
/// A head larger than this is not ordinary, in bytes; nor is a target larger than that.
const HEAD_MAX: usize = 16 * 1024;
const TARGET_MAX: usize = 8 * 1024;
/// Room that is made for fields that the gateway adds.
const MORE_FIELDS: usize = 8;

/// The largest body that is read with its head, in bytes.
pub const BODY_MAX: u64 = 16 * 1024;

/// What was read comes to.
pub(super) enum Head {
    /// A whole request that leaves no doubt; it was taken off the buffer.
    Ordinary(Ordinary),
    /// A part of a request that may turn out to be ordinary; at least so many bytes are yet to come.
    Part(usize),
    /// Anything else. Unless it is ordinary, the buffer is as it was.
    Other,
}

/// A whole request.
pub(super) struct Ordinary {
    pub(super) request: Box<RequestHeader>,
    /// Head and body as they were received.
    pub(super) raw: Bytes,
    /// Where in `raw` the body begins.
    pub(super) body_at: usize,
    /// The client wants the connection to end with the answer.
    pub(super) close: bool,
}

/// Takes a whole request off the buffer.
pub(super) fn read(buffer: &mut BytesMut) -> Head {
    let mut places = [((0, 0), (0, 0)); FIELDS_MAX];
    let sketch = match Sketch::of(buffer, &mut places) {
        Ok(Some(sketch)) => sketch,
        Ok(None) => return Head::Other,
        Err(Partial) => return Head::Part(1),
    };
    let whole = sketch.head + sketch.body;
    if buffer.len() < whole {
        return Head::Part(whole - buffer.len());
    }
    let raw = buffer.split_to(whole).freeze();
    if let Some(request) = sketch.request(&raw, &places) {
        let request = Box::new(request);
        return Head::Ordinary(Ordinary { request, raw, body_at: sketch.head, close: sketch.close });
    }
    // It can't be told in our terms: put back what was taken.
    http1::put_back(&raw, buffer);
    Head::Other
}

/// Those of the fields' names and values.
type Places = [(Place, Place); FIELDS_MAX];

/// A head's parts, by their places.
struct Sketch {
    method: Method,
    target: Place,
    count: usize,
    head: usize,
    body: usize,
    close: bool,
}

/// The head's end has not come yet.
struct Partial;

impl Sketch {
    /// `None` for what is not ordinary.
    fn of(buffer: &[u8], places: &mut Places) -> Result<Option<Self>, Partial> {
        if buffer.len() > http1::PLACE_MAX {
            return Ok(None);
        }
        let mut space = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
        let mut request = Request::new(&mut []);
        let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut request, buffer, &mut space);
        match parsed {
            Ok(Status::Complete(head)) => Ok(Self::of_parsed(buffer, places, &request, head)),
            Ok(Status::Partial) => Err(Partial),
            Err(_) => Ok(None),
        }
    }

    fn of_parsed(buffer: &[u8], places: &mut Places, request: &Request<'_, '_>, head: usize) -> Option<Self> {
        let target = request.path?;
        // An absolute target names a second host, and a fragment would be cut off. Empty lines in front were passed over.
        let target_is_plain = target.starts_with('/') && target.bytes().all(|it| it.is_ascii_graphic() && it != b'#');
        if request.version != Some(1) || !target_is_plain || matches!(buffer.first(), Some(b'\r' | b'\n')) {
            return None;
        }
        // A line may end in a bare LF for the parser; a bare CR is nothing to it. So there are as many of both.
        let count = |byte| memchr_iter(byte, &buffer[..head]).count();
        if head > HEAD_MAX || target.len() > TARGET_MAX || count(b'\r') != count(b'\n') {
            return None;
        }
        let method = Method::from_bytes(request.method?.as_bytes()).ok()?;
        if matches!(method, Method::CONNECT | Method::TRACE) {
            return None;
        }
        let mut sketch = Self {
            method,
            target: place(buffer, target.as_bytes()),
            count: request.headers.len(),
            head,
            body: 0,
            close: false,
        };
        let (mut hosts, mut length) = (0, None);
        for (field, to) in request.headers.iter().zip(places) {
            let name = field.name;
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => hosts += 1,
                6 if name.eq_ignore_ascii_case("expect") => return None,
                7 if name.eq_ignore_ascii_case("upgrade") || name.eq_ignore_ascii_case("trailer") => return None,
                10 if name.eq_ignore_ascii_case("connection") => {
                    sketch.close |= !http1::keeps_alive(field.value)?;
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let first = length.replace(http1::length(field.value)?).is_none();
                    first.then_some(())?;
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => return None,
                _ => {}
            }
            *to = (place(buffer, name.as_bytes()), place(buffer, field.value));
        }
        let length = length.unwrap_or(0);
        if hosts != 1 || length > BODY_MAX {
            return None;
        }
        sketch.body = length as usize;
        Some(sketch)
    }

    /// Values are slices of the head: nothing is copied.
    fn request(&self, raw: &Bytes, places: &Places) -> Option<RequestHeader> {
        let slice = |(from, to): Place| raw.slice(usize::from(from)..usize::from(to));
        let mut headers = HeaderMap::with_capacity(self.count + MORE_FIELDS);
        for &(name, value) in &places[..self.count] {
            let name = HeaderName::from_bytes(&raw[usize::from(name.0)..usize::from(name.1)]).ok()?;
            headers.append(name, HeaderValue::from_maybe_shared(slice(value)).ok()?);
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = self.method.clone();
        parts.uri = Uri::from_maybe_shared(slice(self.target)).ok()?;
        parts.version = Version::HTTP_11;
        parts.headers = headers;
        Some(RequestHeader::from(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn ordinary(text: &str) -> Ordinary {
        let Head::Ordinary(request) = read(&mut BytesMut::from(text)) else { panic!("not ordinary: {text:?}") };
        request
    }

    #[test]
    fn a_request_is_taken_with_its_body_and_no_more() {
        let text = "POST /a?b=c HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX-A:  b \r\n\r\nhiGET /";
        let mut buffer = BytesMut::from(text);
        let Head::Ordinary(Ordinary { request, raw, body_at, close }) = read(&mut buffer) else { panic!("other") };
        assert_eq!((&raw[body_at..], &buffer[..], close), (&b"hi"[..], &b"GET /"[..], false));
        assert_eq!((request.method.as_str(), request.uri.to_string().as_str()), ("POST", "/a?b=c"));
        assert_eq!((&request.headers["host"], &request.headers["x-a"]), (&"a".parse().unwrap(), &"b".parse().unwrap()));
        assert!(ordinary("GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n").close);
    }

    #[test]
    fn what_is_not_there_yet_may_still_come() {
        let mut buffer = BytesMut::from("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nh");
        assert!(matches!(read(&mut buffer), Head::Part(1)));
        buffer.extend_from_slice(b"i");
        assert!(matches!(read(&mut buffer), Head::Ordinary(_)));
        assert!(matches!(read(&mut BytesMut::from("GET / HTTP/1.1\r\nHost: a\r\n")), Head::Part(1)));
    }

    #[test]
    fn any_doubt_makes_it_another_and_leaves_it_as_it_was() {
        let fields = [
            "",
            "Host: a\r\nHost: a\r\n",
            "Host: a\r\nTransfer-Encoding: chunked\r\n",
            "Host: a\r\nContent-Length: +0\r\n",
            "Host: a\r\nContent-Length: 00\r\n",
            "Host: a\r\nContent-Length: 02\r\n",
            "Host: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n",
            "Host: a\r\nContent-Length: 99999999999\r\n",
            "Host: a\r\nContent-Length: 17000\r\n",
            "Host: a\r\nExpect: 100-continue\r\n",
            "Host: a\r\nConnection: x-a\r\n",
            "Host: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
            "Host: a\r\nX: a\r\n b\r\n",
            "Host: a\r\nX : a\r\n",
            "Host: a\nX: a\r\n",
            "Host: a\r\nX: a\rb\r\n",
            "Host: a\r\nX: a\x7f\r\n",
            "Host: a\r\nX: \0\r\n",
        ];
        let whole = fields.iter().map(|it| format!("GET / HTTP/1.1\r\n{it}\r\n"));
        let lines = [
            "GET / HTTP/1.0",
            "GET http://a/ HTTP/1.1",
            "GET * HTTP/1.1",
            "GET  / HTTP/1.1",
            "GET /#a HTTP/1.1",
            "CONNECT / HTTP/1.1",
        ];
        let lines = lines.iter().map(|it| format!("{it}\r\nHost: a\r\n\r\n"));
        let odd = ["\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "\0"];
        for text in whole.chain(lines).chain(odd.map(str::to_owned)) {
            let mut buffer = BytesMut::from(text.as_str());
            assert!(matches!(read(&mut buffer), Head::Other), "{text:?}");
            assert_eq!(buffer, text.as_bytes());
        }
    }
}
