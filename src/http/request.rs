//! A request's head, read once, strictly (RFC 9112, sections 2 to 6).
//!
//! Whether the request may be served (CONNECT, TRACE, what it expects, where it goes) is decided above.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Method, Version};
use httparse::{Error, Header, ParserConfig, Request, Status};
use pingora::http::RequestHeader;

use super::fields::{ConnectionOptions, elements, has_token, is_token_byte};
use super::framing::{Framing, FramingFields};
use super::scan::{HeadError, HeadScan, Limits};
use super::target::{Authority, Target, authority_is_plain};

/// The longest method, in bytes; the registry's longest has 17.
const METHOD_MAX: usize = 32;
/// The longest target, in bytes.
const TARGET_MAX: usize = 8 * 1024;
/// Header fields.
const FIELDS_MAX: usize = 128;
/// One field's value, in bytes.
const VALUE_MAX: usize = 16 * 1024;
const LIMITS: Limits = Limits { first_line: METHOD_MAX + TARGET_MAX + "  HTTP/1.1\r\n".len(), head: 64 * 1024 };
/// Room that is made for fields that the gateway adds.
const MORE_FIELDS: usize = 8;

const REQUEST_LINE: HeadError = HeadError::Malformed("the request line is not method, target and version, each once");

/// Fields that `Connection` must not name, nor any `X-Forwarded-…`: dropping them would take the request's
/// meaning away, or what the proxies before us said about the client.
const NOT_HOP_BY_HOP: [&str; 17] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "authorization",
    "cookie",
    "origin",
    "expect",
    "max-forwards",
    "forwarded",
    "via",
    "x-real-ip",
    "x-request-id",
    "traceparent",
    "tracestate",
    "date",
];

/// A request's head as it came, its target in origin form, and what it says about the connection.
#[derive(Debug)]
pub struct RequestHead {
    /// Names without their case; values are slices of what was received.
    ///
    /// `Host` is valid and there at most once, and in each request of HTTP/1.1. A target in absolute form
    /// became `Host` and path (RFC 9112, section 3.2.2).
    pub request: RequestHeader,
    /// How the body ends; never [`Framing::UntilClose`], and [`Framing::Empty`] for CONNECT.
    pub framing: Framing,
    /// The client lets the connection go on after the answer (RFC 9112, section 9.3).
    pub persistent: bool,
    /// It requests a change of protocols: HTTP/1.1, `Upgrade`, and `Connection` names that (RFC 9110, section 7.8).
    pub upgrade: bool,
    /// It waits for 100 before it sends its body, or says so (RFC 9110, section 10.1.1).
    pub expects_continue: bool,
    /// There is a field `Expect`, whatever it expects.
    pub expects: bool,
    /// Its client takes trailers behind the answer (RFC 9110, section 10.1.4).
    pub takes_trailers: bool,
}

/// Takes a whole head off the buffer; `None` when its end has not come yet.
///
/// A few empty lines before the request line are taken off, too (RFC 9112, section 2.2). After an error
/// nothing more can be read from the connection; what there is of the head stays in the buffer, for the caller that
/// writes the refusal.
///
/// ```
/// use bytes::BytesMut;
/// use moongate::http::{Framing, HeadScan, read_request};
///
/// let mut buffer = BytesMut::from("POST /a HTTP/1.1\r\nHost: b.example\r\nContent-Length: 2\r\n\r\nhi");
/// let head = read_request(&mut buffer, &mut HeadScan::default()).unwrap().unwrap();
/// assert_eq!((head.request.uri.path(), head.framing, &buffer[..]), ("/a", Framing::Length(2), &b"hi"[..]));
/// ```
pub fn read_request(buffer: &mut BytesMut, scan: &mut HeadScan) -> Result<Option<RequestHead>, HeadError> {
    if !scan.skip_empty_lines(buffer)? {
        return Ok(None);
    }
    check_method(buffer)?;
    let Some(end) = scan.end(buffer, &LIMITS, check_line)? else { return Ok(None) };
    *scan = HeadScan::default();
    let head = buffer.split_to(end).freeze();
    let read = read_head(&head);
    if read.is_err() {
        *buffer = BytesMut::from(&head[..]);
    }
    read.map(Some)
}

/// Looks at the first bytes only, so that what is no HTTP at all is refused at once.
fn check_method(buffer: &[u8]) -> Result<(), HeadError> {
    let start = &buffer[..buffer.len().min(METHOD_MAX + 1)];
    match start.iter().position(|it| !is_token_byte(*it)) {
        Some(end) if end > 0 && start[end] == b' ' => Ok(()),
        Some(_) => Err(REQUEST_LINE),
        None if start.len() > METHOD_MAX => Err(HeadError::Malformed("the method is too long to be one")),
        None => Ok(()),
    }
}

/// Behind the method, visible ASCII with two blanks, and no fragment, which is never sent (RFC 9110, section 7.1).
fn check_line(line: &[u8]) -> Result<(), HeadError> {
    let method = line.iter().position(|it| *it == b' ').unwrap_or(line.len());
    // Without an early end, so that the compiler can look at many bytes at once.
    let (mut blanks, mut others, mut fragment) = (0_u16, false, false);
    for byte in &line[method..] {
        blanks += u16::from(*byte == b' ');
        others |= !matches!(byte, b' '..=b'~');
        fragment |= *byte == b'#';
    }
    if others || blanks != 2 {
        return Err(REQUEST_LINE);
    }
    if fragment {
        return Err(HeadError::Malformed("the target has a fragment"));
    }
    Ok(())
}

fn read_head(head: &Bytes) -> Result<RequestHead, HeadError> {
    let mut space = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
    let mut parsed = Request::new(&mut []);
    match ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, head, &mut space) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(REQUEST_LINE),
        Err(error) => return Err(head_error(error)),
    }
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    if target.len() > TARGET_MAX {
        return Err(HeadError::TargetTooLong);
    }
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| REQUEST_LINE)?;
    let target = Target::of(&method, head.slice_ref(target.as_bytes()))?;

    let mut fields = Fields::read(head, parsed.headers)?;
    let declared = fields.framing.framing(version)?.unwrap_or(Framing::Empty);
    fields.framing.write_canonical_length(&mut fields.headers);
    check_host(&mut fields.headers, version, target.authority)?;
    if fields.connection.names_fields {
        check_connection(&fields.headers)?;
    }
    let connects = method == Method::CONNECT;
    let framing = if connects { Framing::Empty } else { declared };
    let waits = fields.expects && version == Version::HTTP_11 && framing != Framing::Empty;
    Ok(RequestHead {
        framing,
        persistent: !connects && fields.connection.persistent(version),
        upgrade: version == Version::HTTP_11 && fields.upgrades && fields.connection.upgrade,
        expects_continue: waits && has_token(&fields.headers, &EXPECT, "100-continue"),
        expects: fields.expects,
        takes_trailers: fields.has_te && has_token(&fields.headers, &TE, "trailers"),
        request: request(method, target.uri, version, fields.headers),
    })
}

fn head_error(error: Error) -> HeadError {
    match error {
        Error::TooManyHeaders => HeadError::FieldsTooLarge,
        Error::HeaderName => HeadError::Malformed("a header field's name is not a token with a colon behind it"),
        Error::HeaderValue => HeadError::Malformed("a header field holds a control character"),
        Error::Version => HeadError::Malformed("the version is neither HTTP/1.1 nor HTTP/1.0"),
        Error::NewLine | Error::Token | Error::Status => REQUEST_LINE,
    }
}

fn request(method: Method, uri: http::Uri, version: Version, headers: HeaderMap) -> RequestHeader {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    (parts.method, parts.uri, parts.version, parts.headers) = (method, uri, version, headers);
    RequestHeader::from(parts)
}

/// A head's fields, and what those of them say that matter here.
struct Fields<'a> {
    headers: HeaderMap,
    framing: FramingFields<'a>,
    connection: ConnectionOptions,
    upgrades: bool,
    expects: bool,
    has_te: bool,
}

impl<'a> Fields<'a> {
    /// Values are slices of the head: nothing is copied.
    fn read(head: &Bytes, list: &[Header<'a>]) -> Result<Self, HeadError> {
        let mut fields = Self {
            headers: HeaderMap::with_capacity(list.len() + MORE_FIELDS),
            framing: FramingFields::default(),
            connection: ConnectionOptions::default(),
            upgrades: false,
            expects: false,
            has_te: false,
        };
        for field in list {
            if field.value.len() > VALUE_MAX {
                return Err(HeadError::FieldsTooLarge);
            }
            if folds_into_framing(field.name.as_bytes()) {
                continue;
            }
            fields.note(field);
            append(&mut fields.headers, head, field)?;
        }
        Ok(fields)
    }

    /// The length of the name comes first: it rules most names out.
    fn note(&mut self, field: &Header<'a>) {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            2 if is("te") => self.has_te = true,
            6 if is("expect") => self.expects = true,
            7 if is("upgrade") => self.upgrades = true,
            10 if is("connection") => self.connection.add(field.value),
            14 if is("content-length") => self.framing.add_length(field.value),
            17 if is("transfer-encoding") => self.framing.add_coding(field.value),
            _ => {}
        }
    }
}

/// Adds a field as it stands in the head.
pub(super) fn append(headers: &mut HeaderMap, head: &Bytes, field: &Header<'_>) -> Result<(), HeadError> {
    let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| head_error(Error::HeaderName))?;
    let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
    let value = value.map_err(|_| head_error(Error::HeaderValue))?;
    headers.try_append(name, value).map_err(|_| HeadError::FieldsTooLarge)?;
    Ok(())
}

/// `Content_Length` and the like: behind us, CGI and its children write `_` for any byte of a name that is
/// neither letter nor digit, and so take them for the fields that frame the body.
pub fn folds_into_framing(name: &[u8]) -> bool {
    let folds = |first: &str, second: &str| {
        let (start, end) = (&name[..first.len()], &name[first.len() + 1..]);
        let between = name[first.len()];
        !between.is_ascii_alphanumeric()
            && between != b'-'
            && start.eq_ignore_ascii_case(first.as_bytes())
            && end.eq_ignore_ascii_case(second.as_bytes())
    };
    match name.len() {
        14 => folds("content", "length"),
        17 => folds("transfer", "encoding"),
        _ => false,
    }
}

/// One `Host`, at least for HTTP/1.1 (RFC 9112, section 3.2); an absolute target goes before it.
fn check_host(headers: &mut HeaderMap, version: Version, target: Option<Authority>) -> Result<(), HeadError> {
    let mut hosts = headers.get_all(HOST).iter();
    match hosts.next() {
        None if version == Version::HTTP_11 => return Err(HeadError::Malformed("Host is missing")),
        None => {}
        Some(_) if hosts.next().is_some() => return Err(HeadError::Malformed("Host is there twice")),
        Some(host) if !authority_is_plain(host.as_bytes()) => {
            return Err(HeadError::Malformed("Host is not a name or address with an optional port"));
        }
        Some(host) if target.as_ref().is_some_and(|it| !it.is(host.as_bytes())) => {
            return Err(HeadError::Malformed("Host is not the target's authority"));
        }
        Some(_) => {}
    }
    if let Some(target) = target
        && let Ok(host) = HeaderValue::from_maybe_shared(target.text)
    {
        headers.insert(HOST, host);
    }
    Ok(())
}

fn check_connection(headers: &HeaderMap) -> Result<(), HeadError> {
    for option in headers.get_all(CONNECTION).iter().flat_map(|it| elements(it.as_bytes())) {
        if !option.iter().all(|it| is_token_byte(*it)) {
            return Err(HeadError::Malformed("Connection is not a list of names"));
        }
        let forwarded = option.get(.."x-forwarded-".len()).is_some_and(|it| it.eq_ignore_ascii_case(b"x-forwarded-"));
        if forwarded || NOT_HOP_BY_HOP.iter().any(|it| option.eq_ignore_ascii_case(it.as_bytes())) {
            return Err(HeadError::Malformed("Connection names a field that is not the connection's"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
