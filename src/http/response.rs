//! A response's head, read as strictly as a request's (RFC 9112, sections 4 and 6.3), and without what
//! belonged to its connection.
//!
//! Interim responses are heads of their own; what comes of them, and of 101, is decided above.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use httparse::{Error, Header, ParserConfig, Response, Status};
use pingora::http::ResponseHeader;

use super::fields::{ConnectionOptions, elements};
use super::framing::{Framing, FramingFields};
use super::request::append;
use super::scan::{HeadError, HeadScan, Limits};

/// Header fields.
const FIELDS_MAX: usize = 256;
const LIMITS: Limits = Limits { first_line: usize::MAX, head: 256 * 1024 };
/// Room that is made for fields that the gateway adds.
const MORE_FIELDS: usize = 8;

const STATUS_LINE: HeadError = HeadError::Malformed("the status line is not version, status and reason");

/// A response's head without the fields of its connection, and what it said about that.
#[derive(Debug)]
pub struct ResponseHead {
    /// Names without their case; values are slices of what was received. Interim responses have lost their
    /// framing fields, too, and 204 its length (RFC 9110, section 8.6).
    pub response: Box<ResponseHeader>,
    /// How the body ends.
    pub framing: Framing,
    /// The connection may serve again once the body has ended (RFC 9112, section 9.3).
    pub persistent: bool,
    /// What the upstream changes to, in a 101 (RFC 9110, section 7.8).
    pub upgrade: Option<HeaderValue>,
}

/// Takes a whole head off the buffer; `None` when its end has not come yet. `method` is the request's.
///
/// After an error nothing more can be read from the connection.
pub fn read_response(
    buffer: &mut BytesMut,
    scan: &mut HeadScan,
    method: &Method,
) -> Result<Option<ResponseHead>, HeadError> {
    check_start(buffer)?;
    let Some(end) = scan.end(buffer, &LIMITS, |_| Ok(()))? else { return Ok(None) };
    *scan = HeadScan::default();
    read_head(&buffer.split_to(end).freeze(), method).map(Some)
}

/// What was left over from the response before, or is no HTTP at all, is refused at once.
fn check_start(buffer: &[u8]) -> Result<(), HeadError> {
    const START: &[u8] = b"HTTP/1.";
    let length = buffer.len().min(START.len());
    if buffer[..length] != START[..length] {
        return Err(STATUS_LINE);
    }
    Ok(())
}

fn read_head(head: &Bytes, method: &Method) -> Result<ResponseHead, HeadError> {
    let mut space = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
    let mut parsed = Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, head, &mut space) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(STATUS_LINE),
        Err(error) => return Err(head_error(error)),
    }
    let status = parsed.code.and_then(|it| StatusCode::from_u16(it).ok()).ok_or(STATUS_LINE)?;
    let version = if parsed.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut fields = Fields::read(head, parsed.headers, status)?;
    let framing = fields.framing(status, version, method)?;
    fields.remove_named(parsed.headers);

    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let persistent = framing != Framing::UntilClose && !switches && !fields.announces_what_is_not(status);
    Ok(ResponseHead {
        framing,
        persistent: persistent && fields.connection.persistent(version),
        upgrade: fields.upgrade.filter(|_| switches),
        response: Box::new(response(status, parsed.reason, fields.headers)),
    })
}

fn head_error(error: Error) -> HeadError {
    match error {
        Error::TooManyHeaders => HeadError::FieldsTooLarge,
        Error::HeaderName => HeadError::Malformed("a header field's name is not a token with a colon behind it"),
        Error::HeaderValue => HeadError::Malformed("a header field holds a control character"),
        Error::NewLine | Error::Token | Error::Status | Error::Version => STATUS_LINE,
    }
}

/// What is written on is of our version, whichever the upstream has.
fn response(status: StatusCode, reason: Option<&str>, headers: HeaderMap) -> ResponseHeader {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    (parts.status, parts.headers) = (status, headers);
    let mut response = ResponseHeader::from(parts);
    if let Some(reason) = reason.filter(|it| !it.is_empty()) {
        let _ = response.set_reason_phrase(Some(reason)); // it does not fail
    }
    response
}

/// Of 1xx, 204 and 304 the status alone says that there is no body (RFC 9112, section 6.3).
fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// A head's fields, and what those of them say that were the connection's.
struct Fields<'a> {
    headers: HeaderMap,
    framing: FramingFields<'a>,
    connection: ConnectionOptions,
    upgrade: Option<HeaderValue>,
}

impl<'a> Fields<'a> {
    fn read(head: &Bytes, list: &[Header<'a>], status: StatusCode) -> Result<Self, HeadError> {
        let mut fields = Self {
            headers: HeaderMap::with_capacity(list.len() + MORE_FIELDS),
            framing: FramingFields::default(),
            connection: ConnectionOptions::default(),
            upgrade: None,
        };
        let keeps_length = !status.is_informational() && status != StatusCode::NO_CONTENT;
        for field in list {
            if fields.passes(head, field, keeps_length) {
                append(&mut fields.headers, head, field)?;
            }
        }
        if keeps_length {
            fields.framing.write_canonical_length(&mut fields.headers);
        }
        Ok(fields)
    }

    /// Takes note of a field; false if it is not for the next connection.
    fn passes(&mut self, head: &Bytes, field: &Header<'a>, keeps_length: bool) -> bool {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            2 => return !is("te"),
            7 if is("upgrade") => self.upgrade = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).ok(),
            7 => return !is("trailer"),
            10 if is("connection") => self.connection.add(field.value),
            10 => return !is("keep-alive"),
            14 if is("content-length") => {
                self.framing.add_length(field.value);
                return keeps_length;
            }
            14 => return !is("http2-settings"),
            16 => return !is("proxy-connection"),
            17 if is("transfer-encoding") => self.framing.add_coding(field.value),
            _ => return true,
        }
        false
    }

    /// RFC 9112, section 6.3. Fields that contradict each other are errors even where no body comes: it is the
    /// next reader who would be misled.
    fn framing(&self, status: StatusCode, version: Version, method: &Method) -> Result<Framing, HeadError> {
        if status.is_informational() {
            return Ok(Framing::Empty);
        }
        let declared = self.framing.framing(version)?;
        if is_bodiless(status) || *method == Method::HEAD {
            return Ok(Framing::Empty);
        }
        Ok(declared.unwrap_or(Framing::UntilClose))
    }

    /// A body is announced where none can be. It would come before the next response, so there is no next one.
    fn announces_what_is_not(&self, status: StatusCode) -> bool {
        match status {
            StatusCode::NOT_MODIFIED => false, // that of the 200 in its place (RFC 9110, section 8.6)
            StatusCode::NO_CONTENT => self.framing.has_coding() || self.framing.announces_bytes(),
            _ => status.is_informational() && !self.framing.is_empty(),
        }
    }

    /// Drops what `Connection` names (RFC 9110, section 7.6.1).
    fn remove_named(&mut self, list: &[Header<'_>]) {
        if !self.connection.names_fields {
            return;
        }
        let lines = list.iter().filter(|it| it.name.eq_ignore_ascii_case("connection"));
        for name in lines.flat_map(|it| elements(it.value)) {
            if let Ok(name) = HeaderName::from_bytes(name) {
                self.headers.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests;
