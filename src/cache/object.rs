//! A cached response, in memory and as bytes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    AGE, CONNECTION, CONTENT_LENGTH, DATE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use pingora::http::ResponseHeader;

use crate::cache::conditional::Validators;
use crate::cache::freshness::{Freshness, date};
use crate::cache::key::Target;
use crate::http as codec;

/// What an entry takes beside its bytes, about.
const OVERHEAD: usize = 512;

/// Fields of one connection or one delivery, not of the response (RFC 9111, section 3.1).
const NOT_KEPT: [HeaderName; 13] = [
    AGE,
    CONNECTION,
    CONTENT_LENGTH,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("x-cache"),
    HeaderName::from_static("x-request-id"),
];

/// A cached response.
#[derive(Debug)]
pub struct Object {
    /// Ready to be served, but for what belongs to one delivery.
    pub(super) head: ResponseHeader,
    pub(super) body: Bytes,
    pub(super) freshness: Freshness,
    pub(super) route: Arc<str>,
    pub(super) target: Target,
    /// Fingerprints of everything that it depends on: a change of one of them makes it useless.
    pub(super) depends: Arc<[u64]>,
    /// Which changes were known when it was requested.
    pub(super) known: u64,
    modified: Option<SystemTime>,
}

impl Object {
    /// Keeps a response as its upstream sent it.
    pub(super) fn new(
        answer: &ResponseHeader,
        body: Bytes,
        freshness: Freshness,
        (route, target): (Arc<str>, Target),
        depends: Arc<[u64]>,
        known: u64,
    ) -> Option<Self> {
        let head = kept(answer, body.len())?;
        // Of its own, here and in the head: what was read from a connection is a slice of something larger,
        // which would stay in memory and not be counted.
        let body = Bytes::copy_from_slice(&body);
        let modified = head.headers.get(LAST_MODIFIED).and_then(date);
        Some(Self { head, body, freshness, route, target, depends, known, modified })
    }

    /// The same response, confirmed by a 304: its fields replace those of the same name (RFC 9111, section 3.2).
    pub(super) fn confirmed(&self, answer: &ResponseHeader, freshness: Freshness, known: u64) -> Option<Self> {
        let mut head = self.head.clone();
        // What describes the body stays, and what names it: it is the same body, and a weak name proves less.
        let stays = |name: &HeaderName| {
            NOT_KEPT.contains(name)
                || (*name == ETAG && self.head.headers.contains_key(ETAG))
                || [http::header::CONTENT_ENCODING, http::header::CONTENT_TYPE, http::header::CONTENT_RANGE]
                    .contains(name)
        };
        for name in answer.headers.keys().filter(|it| !stays(it)) {
            let mut values = answer.headers.get_all(name).iter();
            if let Some(first) = values.next() {
                head.insert_header(name.clone(), own(first)?).ok()?;
            }
            for value in values {
                head.append_header(name.clone(), own(value)?).ok()?;
            }
        }
        let modified = head.headers.get(LAST_MODIFIED).and_then(date);
        let (body, route, target) = (self.body.clone(), self.route.clone(), self.target.clone());
        Some(Self { head, body, freshness, route, target, depends: self.depends.clone(), known, modified })
    }

    pub(super) fn validators(&self) -> Validators<'_> {
        Validators { etag: self.head.headers.get(ETAG), last_modified: self.modified }
    }

    /// The same, for a client's own condition: what does not say when it was changed is no newer than its `Date`, or
    /// than it came here (RFC 9111, section 4.3.2).
    pub(super) fn validators_for_clients(&self) -> Validators<'_> {
        let dated = || self.head.headers.get(DATE).and_then(date);
        let last_modified = self.modified.or_else(dated).unwrap_or(SystemTime::UNIX_EPOCH + self.freshness.born);
        Validators { last_modified: Some(last_modified), ..self.validators() }
    }

    /// What it takes in memory, about.
    pub(super) fn weight(&self) -> usize {
        let fields: usize = self.head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        OVERHEAD + fields + self.body.len() + self.target.as_str().len()
    }
}

/// The head without what belongs to one connection.
fn kept(answer: &ResponseHeader, length: usize) -> Option<ResponseHeader> {
    let named = codec::tokens(&answer.headers, &CONNECTION);
    let named: Vec<_> = named.filter_map(|it| HeaderName::from_bytes(it).ok()).collect();
    let mut head = ResponseHeader::build_no_case(answer.status, Some(answer.headers.len() + 8)).ok()?;
    for (name, value) in &answer.headers {
        if !NOT_KEPT.contains(name) && !named.contains(name) {
            head.append_header(name.clone(), own(value)?).ok()?;
        }
    }
    if answer.status != http::StatusCode::NO_CONTENT {
        head.insert_header(CONTENT_LENGTH, HeaderValue::from(length)).ok()?;
    }
    Some(head)
}

/// A value with memory of its own.
fn own(value: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(value.as_bytes()).ok()
}

/// What can be under a key.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    /// A response.
    Whole(Arc<Object>),
    /// The responses part by these fields of the request.
    Varied(Arc<[HeaderName]>),
}

impl Slot {
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Whole(object) => object.weight(),
            Self::Varied(fields) => OVERHEAD + fields.iter().map(|it| it.as_str().len()).sum::<usize>(),
        }
    }
}

/// The form in which slots lie in the shared state. Another version is as good as nothing.
const VERSION: &[u8; 4] = b"mgc1";

/// A slot as bytes, with its whole key, and with the `stamp` that says whether it still counts.
pub(super) fn encode(key: &[u8], slot: &Slot, stamp: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(slot.weight() + key.len());
    out.put_slice(VERSION);
    out.put_u64(0); // the sum, below
    out.put_u64(stamp);
    put(&mut out, key);
    match slot {
        Slot::Varied(fields) => {
            out.put_u8(b'v');
            out.put_u32(u32::try_from(fields.len()).unwrap_or(u32::MAX));
            for field in fields.iter() {
                put(&mut out, field.as_str().as_bytes());
            }
        }
        Slot::Whole(object) => {
            out.put_u8(b'w');
            put_object(&mut out, object);
        }
    }
    let sum = sum(&out[12..]);
    out[4..12].copy_from_slice(&sum.to_be_bytes());
    out.freeze()
}

fn put_object(out: &mut BytesMut, object: &Object) {
    let freshness = &object.freshness;
    for time in [freshness.born, freshness.lifetime, freshness.while_revalidate, freshness.if_error] {
        out.put_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }
    let flags = [freshness.always_ask, freshness.never_stale, freshness.for_everybody];
    out.put_u8(flags.iter().enumerate().map(|(bit, it)| u8::from(*it) << bit).sum());
    out.put_u16(object.head.status.as_u16());
    out.put_u32(u32::try_from(object.head.headers.len()).unwrap_or(u32::MAX));
    for (name, value) in &object.head.headers {
        put(out, name.as_str().as_bytes());
        put(out, value.as_bytes());
    }
    let (text, host, https) = object.target.parts();
    put(out, object.route.as_bytes());
    put(out, text.as_bytes());
    out.put_u32(u32::try_from(host).unwrap_or(u32::MAX));
    out.put_u8(u8::from(https));
    out.put_u32(u32::try_from(object.depends.len()).unwrap_or(u32::MAX));
    for fingerprint in object.depends.iter() {
        out.put_u64(*fingerprint);
    }
    put(out, &object.body);
}

fn put(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

/// What lies under `key`, and its stamp; `None` if the bytes are anything else than what was put there.
pub(super) fn decode(key: &[u8], bytes: &Bytes, known: u64) -> Option<(Slot, u64)> {
    let rest = bytes.strip_prefix(VERSION)?;
    let (status, rest) = rest.split_first_chunk::<8>()?;
    if u64::from_be_bytes(*status) != sum(rest) {
        return None;
    }
    let mut read = Read { bytes, at: 12 };
    let stamp = read.u64()?;
    if read.part()? != key {
        return None;
    }
    let slot = match read.take(1)?[0] {
        b'v' => {
            let count = read.u32()?;
            let fields = (0..count).map(|_| HeaderName::from_bytes(&read.part()?).ok());
            Slot::Varied(fields.collect::<Option<Vec<_>>>()?.into())
        }
        b'w' => Slot::Whole(Arc::new(read.object(known)?)),
        _ => return None,
    };
    (read.at == bytes.len()).then_some((slot, stamp))
}

struct Read<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Read<'_> {
    /// Shares the memory of the whole.
    fn take(&mut self, length: usize) -> Option<Bytes> {
        let end = self.at.checked_add(length).filter(|it| *it <= self.bytes.len())?;
        let part = self.bytes.slice(self.at..end);
        self.at = end;
        Some(part)
    }

    fn u32(&mut self) -> Option<usize> {
        let bytes = self.take(4)?;
        usize::try_from(u32::from_be_bytes(bytes.as_ref().try_into().ok()?)).ok()
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.as_ref().try_into().ok()?))
    }

    fn part(&mut self) -> Option<Bytes> {
        let length = self.u32()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.part()?.to_vec()).ok()
    }

    fn millis(&mut self) -> Option<Duration> {
        self.u64().map(Duration::from_millis)
    }

    fn object(&mut self, known: u64) -> Option<Object> {
        let (born, lifetime) = (self.millis()?, self.millis()?);
        let (while_revalidate, if_error) = (self.millis()?, self.millis()?);
        let flags = self.take(1)?[0];
        let status = self.take(2)?;
        let status = http::StatusCode::from_u16(u16::from_be_bytes([status[0], status[1]])).ok()?;
        let count = self.u32()?;
        let mut head = ResponseHeader::build_no_case(status, Some(count.min(256))).ok()?;
        for _ in 0..count {
            let name = HeaderName::from_bytes(&self.part()?).ok()?;
            head.append_header(name, HeaderValue::from_bytes(&self.part()?).ok()?).ok()?;
        }
        let route = self.text()?;
        let target = self.text()?;
        let host = self.u32()?;
        let target = Target::from_parts(&target, host, self.take(1)?[0] == 1)?;
        let count = self.u32()?;
        let depends = (0..count).map(|_| self.u64()).collect::<Option<Vec<u64>>>()?;
        // Of its own: a slice would keep the head's bytes in memory, too.
        let body = Bytes::copy_from_slice(&self.part()?);
        let freshness = Freshness {
            born,
            lifetime,
            while_revalidate,
            if_error,
            always_ask: flags & 1 != 0,
            never_stale: flags & 2 != 0,
            for_everybody: flags & 4 != 0,
        };
        let modified = head.headers.get(LAST_MODIFIED).and_then(date);
        let route = route.as_str().into();
        Some(Object { head, body, freshness, route, target, depends: depends.into(), known, modified })
    }
}

/// Finds what was cut or overwritten; against forgery, the state keeps strangers out.
fn sum(bytes: &[u8]) -> u64 {
    crate::cache::invalidations::fingerprint(&[bytes])
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
