//! The fields behind the last chunk (RFC 9112, section 7.1.2), and which of them may stand there.

use bytes::BytesMut;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::body::BodyError;
use super::claims::{claim, fold_alike};
use super::credentials::is_credential;
use super::fields::{is_hop_by_hop, is_token_byte};

/// The whole section with its empty line, in bytes.
const SECTION_MAX: usize = 16 * 1024;
/// Its fields.
const FIELDS_MAX: u8 = 64;

const NAME: BodyError = BodyError::Malformed("a trailer field's name is not a token with a colon behind it");
const VALUE: BodyError = BodyError::Malformed("a trailer field holds a control character");
const LINE_END: BodyError = BodyError::Malformed("a trailer field does not end in CR LF");

/// Fields that a reader would need before the body, or that say who requests what (RFC 9110, section 6.5.1). With dashes
/// for all that servers fold into them.
const NOT_TRAILERS: [&str; 34] = [
    "accept",
    "age",
    "authorization",
    "cache-control",
    "connection",
    "cookie",
    "date",
    "expect",
    "expires",
    "from",
    "host",
    "keep-alive",
    "last-modified",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "retry-after",
    "set-cookie",
    "status",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "vary",
    "via",
    "www-authenticate",
    "x-api-key",
    "x-request-id",
];

/// Whether a field may be sent behind a body: it neither frames nor routes the message, nor says who requests it, for
/// how long it may be kept, or how the body is to be read (RFC 9110, section 6.5.1).
///
/// Digests may: they are known at the end only (RFC 9530, section 2). Some servers put trailers among the fields of the
/// head, and fold their names: no claim may come that way, nor another spelling of what may not.
pub fn may_be_trailer(name: &HeaderName) -> bool {
    let dashed: SmallVec<[u8; 48]> = name.as_str().bytes().map(dash).collect();
    let beginnings: [&[u8]; 3] = [b"content-", b"if-", b"access-control-"];
    let begins_wrong = beginnings.iter().any(|it| dashed.starts_with(it)) && name != "content-digest";
    let is_wrong = || NOT_TRAILERS.binary_search_by(|it| it.as_bytes().cmp(&dashed)).is_ok();
    !begins_wrong && !is_hop_by_hop(name) && !is_wrong() && claim(name).is_none()
}

fn dash(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte } else { b'-' }
}

/// Removes what may not be sent behind a request's body: credentials too, of which the head alone has those that count,
/// and what servers could take for one of these `edited` fields, about which the head has the last word.
pub fn retain_request_trailers(trailers: &mut HeaderMap, edited: Option<&[HeaderName]>) {
    retain(trailers, |it| may_be_trailer(it) && !is_credential(it) && !is_edited(it, edited));
}

/// Removes what may not be sent behind a response's body, and what could be taken for one of these `edited` fields.
pub fn retain_response_trailers(trailers: &mut HeaderMap, edited: Option<&[HeaderName]>) {
    retain(trailers, |it| may_be_trailer(it) && !is_edited(it, edited));
}

fn is_edited(name: &HeaderName, edited: Option<&[HeaderName]>) -> bool {
    edited.is_some_and(|it| it.iter().any(|it| fold_alike(it, name)))
}

fn retain(trailers: &mut HeaderMap, may_stay: impl Fn(&HeaderName) -> bool) {
    let wrong: Vec<HeaderName> = trailers.keys().filter(|it| !may_stay(it)).cloned().collect();
    for name in &wrong {
        trailers.remove(name);
    }
}

#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    LineStart,
    Name,
    Value,
    /// Behind a field's CR.
    FieldLf,
    /// Behind the CR of the empty line.
    LastLf,
}

/// A section whose end has not come yet. A line that has begun stays in the buffer until it is whole.
#[derive(Debug, Default)]
pub(super) struct Trailers {
    kept: Option<Box<HeaderMap>>,
    place: Place,
    /// Bytes of the buffer that were looked at.
    at: usize,
    colon: usize,
    total: usize,
    fields: u8,
}

impl Trailers {
    /// True when the section has ended.
    pub(super) fn read(&mut self, buffer: &mut BytesMut) -> Result<bool, BodyError> {
        while let Some(byte) = buffer.get(self.at).copied() {
            let before = self.place;
            self.place = self.next(byte)?;
            self.at += 1;
            self.total += 1;
            if self.total > SECTION_MAX {
                return Err(BodyError::TooMuchOverhead);
            }
            if matches!(before, Place::FieldLf | Place::LastLf) {
                let line = buffer.split_to(self.at);
                self.at = 0;
                if matches!(before, Place::LastLf) {
                    return Ok(true);
                }
                self.keep(line)?;
            }
        }
        Ok(false)
    }

    /// Those that may be trailers.
    pub(super) fn take(&mut self) -> Option<Box<HeaderMap>> {
        self.kept.take()
    }

    fn next(&mut self, byte: u8) -> Result<Place, BodyError> {
        match (self.place, byte) {
            (Place::LineStart, b'\r') => Ok(Place::LastLf),
            (Place::Name, b':') => {
                self.colon = self.at;
                Ok(Place::Value)
            }
            (Place::LineStart | Place::Name, _) if is_token_byte(byte) => Ok(Place::Name),
            (Place::LineStart | Place::Name, _) => Err(NAME),
            (Place::Value, b'\r') => Ok(Place::FieldLf),
            (Place::Value, b'\t' | b' '..=b'~' | 0x80..) => Ok(Place::Value),
            (Place::Value, _) => Err(VALUE),
            (Place::FieldLf | Place::LastLf, b'\n') => Ok(Place::LineStart),
            (Place::FieldLf | Place::LastLf, _) => Err(LINE_END),
        }
    }

    fn keep(&mut self, line: BytesMut) -> Result<(), BodyError> {
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(BodyError::TooMuchOverhead);
        }
        let line = line.freeze();
        let name = HeaderName::from_bytes(&line[..self.colon]).map_err(|_| NAME)?;
        if may_be_trailer(&name) {
            let value = line.slice_ref(line[self.colon + 1..].trim_ascii());
            let value = HeaderValue::from_maybe_shared(value).map_err(|_| VALUE)?;
            let _ = self.kept.get_or_insert_default().try_append(name, value); // there are 64 at most
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields as text, or the error; the same however the section is cut.
    #[track_caller]
    fn read(section: &[u8]) -> Result<Option<String>, BodyError> {
        let whole = read_in(section, section.len().max(1));
        assert_eq!(read_in(section, 1), whole, "{}", section.escape_ascii());
        whole
    }

    fn read_in(section: &[u8], size: usize) -> Result<Option<String>, BodyError> {
        let (mut buffer, mut trailers) = (BytesMut::new(), Trailers::default());
        for piece in section.chunks(size) {
            buffer.extend_from_slice(piece);
            if trailers.read(&mut buffer)? {
                let map = trailers.take().unwrap_or_default();
                let line =
                    |(name, value): (&HeaderName, &HeaderValue)| format!("{name}={}|", value.as_bytes().escape_ascii());
                return Ok(Some(map.iter().map(line).collect()));
            }
        }
        Ok(None)
    }

    #[test]
    fn fields_are_read_until_the_empty_line() {
        assert_eq!(read(b"\r\n"), Ok(Some(String::new())));
        assert_eq!(read(b"X-Sum: a b \r\nx-empty:\r\n\r\n"), Ok(Some("x-sum=a b|x-empty=|".into())));
        assert_eq!(read(b"X:\t\xe9\t\r\nX: 2\r\n\r\n"), Ok(Some("x=\\xe9|x=2|".into())));
        assert_eq!(read(b"X: a\r\n"), Ok(None));
    }

    #[test]
    fn what_is_no_field_is_refused() {
        let sections: [&[u8]; 18] = [
            b"X",
            b"\n",
            b"XX\r\n\r\n",
            b"X Y: 1\r\n\r\n",
            b"X : 1\r\n\r\n",
            b": 1\r\n\r\n",
            b" X: 1\r\n\r\n",
            b":path: /\r\n\r\n",
            b"X: 1\n\r\n",
            b"X: 1\r\n\n",
            b"X: 1\r\n\rx",
            b"X: \0\r\n\r\n",
            b"X: \x7f\r\n\r\n",
            b"X: a\rb\r\n\r\n",
            b"X: 1\r\n folded\r\n\r\n",
            b"X: 1\r\n\tfolded\r\n\r\n",
            b"X\0: 1\r\n\r\n",
            b"X\xe9: 1\r\n\r\n",
        ];
        for section in &sections[1..] {
            assert!(matches!(read(section), Err(BodyError::Malformed(_))), "{}", section.escape_ascii());
        }
        assert_eq!(read(sections[0]), Ok(None));
    }

    #[test]
    fn the_section_is_bounded() {
        let fields = |count| "x: 1\r\n".repeat(count) + "\r\n";
        assert!(read(fields(64).as_bytes()).is_ok());
        assert_eq!(read(fields(65).as_bytes()), Err(BodyError::TooMuchOverhead));
        let long = |length| format!("x:{}\r\n\r\n", "y".repeat(length));
        assert!(read(long(SECTION_MAX - 6).as_bytes()).is_ok());
        assert_eq!(read(long(SECTION_MAX - 5).as_bytes()), Err(BodyError::TooMuchOverhead));
    }

    #[test]
    fn what_the_head_has_the_last_word_about_is_no_trailer_in_any_spelling() {
        let left = |retain: fn(&mut HeaderMap, Option<&[HeaderName]>)| {
            let mut trailers = HeaderMap::new();
            for name in ["x-level", "x_level", "x.level", "x-levels", "x-sum", "x_api_key", "x-account-plan"] {
                trailers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
            }
            retain(&mut trailers, Some(&[HeaderName::from_static("x-level")]));
            let mut left: Vec<_> = trailers.keys().map(|it| it.as_str().to_owned()).collect();
            left.sort_unstable();
            left
        };
        assert_eq!(left(retain_request_trailers), ["x-levels", "x-sum"]);
        assert_eq!(left(retain_response_trailers), ["x-account-plan", "x-levels", "x-sum"]);
    }

    #[test]
    fn some_fields_may_not_be_trailers() {
        assert!(NOT_TRAILERS.is_sorted());
        for name in ["grpc-status", "grpc-message", "etag", "server-timing", "content-digest", "repr-digest", "x-sum"] {
            assert!(may_be_trailer(&name.parse().unwrap()), "{name}");
        }
        let more = ["content-length", "content-type", "transfer-encoding", "te", "trailer", "connection", "upgrade"];
        let more = more.iter().chain(&["if-match", "x-forwarded-for", "x-auth-user", "sm_user"]);
        for name in NOT_TRAILERS.iter().chain(more) {
            assert!(!may_be_trailer(&name.parse().unwrap()), "{name}");
            for byte in ["_", "."] {
                assert!(!may_be_trailer(&name.replace('-', byte).parse().unwrap()), "{name}");
            }
        }
        assert!(!may_be_trailer(&"content_digest".parse().unwrap()));
        let section = b"Content-Length: 99\r\nHost: evil\r\nSum: 1\r\nTransfer-Encoding: x\r\nSet-Cookie: a\r\n\r\n";
        assert_eq!(read(section), Ok(Some("sum=1|".into())));
    }
}
