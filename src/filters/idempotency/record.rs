//! What is stored under a key: that a request is under way, its response, or that the response was not stored.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// Begins every record; another version's is not read.
const VERSION: u8 = 1;

/// A stored response.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, as the upstream sent them.
    pub headers: HeaderMap,
    /// Its body, byte for byte.
    pub body: Bytes,
}

/// A record, read.
#[derive(Debug, PartialEq)]
pub(super) enum Record {
    /// A request is under way.
    Running { fingerprint: [u8; 32] },
    /// The response.
    Done { fingerprint: [u8; 32], response: StoredResponse },
    /// It was done, and its response could not be stored.
    NotStored { fingerprint: [u8; 32] },
}

const RUNNING: u8 = 1;
const DONE: u8 = 2;
const NOT_STORED: u8 = 3;

impl Record {
    /// A reservation differs from every other by `owner`: only who made it may end it.
    pub(super) fn running(fingerprint: &[u8; 32], owner: u128) -> Bytes {
        let mut out = begin(RUNNING, fingerprint);
        out.put_u128(owner);
        out.freeze()
    }

    pub(super) fn not_stored(fingerprint: &[u8; 32]) -> Bytes {
        begin(NOT_STORED, fingerprint).freeze()
    }

    pub(super) fn done(fingerprint: &[u8; 32], response: &StoredResponse) -> Bytes {
        let mut out = begin(DONE, fingerprint);
        out.put_u16(response.status.as_u16());
        out.put_u16(u16::try_from(response.headers.len()).unwrap_or(u16::MAX));
        for (name, value) in response.headers.iter().take(usize::from(u16::MAX)) {
            put(&mut out, name.as_str().as_bytes());
            put(&mut out, value.as_bytes());
        }
        out.extend_from_slice(&response.body);
        out.freeze()
    }

    /// `None` for what is not a record of this version.
    pub(super) fn read(mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let kind = bytes.try_get_u8().ok()?;
        let mut fingerprint = [0; 32];
        bytes.try_copy_to_slice(&mut fingerprint).ok()?;
        match kind {
            RUNNING => Some(Self::Running { fingerprint }),
            NOT_STORED => Some(Self::NotStored { fingerprint }),
            DONE => {
                let status = StatusCode::from_u16(bytes.try_get_u16().ok()?).ok()?;
                let count = bytes.try_get_u16().ok()?;
                let mut headers = HeaderMap::new();
                for _ in 0..count {
                    let name = HeaderName::from_bytes(&take(&mut bytes)?).ok()?;
                    headers.append(name, HeaderValue::from_maybe_shared(take(&mut bytes)?).ok()?);
                }
                Some(Self::Done { fingerprint, response: StoredResponse { status, headers, body: bytes } })
            }
            _ => None,
        }
    }
}

fn begin(kind: u8, fingerprint: &[u8; 32]) -> BytesMut {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_slice(fingerprint);
    out
}

fn put(out: &mut BytesMut, text: &[u8]) {
    out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put_slice(text);
}

fn take(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_back_as_it_was() {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", HeaderValue::from_static("a=1"));
        headers.append("set-cookie", HeaderValue::from_static("b=2"));
        headers.insert("x-odd", HeaderValue::from_bytes(b"\xff").unwrap());
        let response = StoredResponse { status: StatusCode::CREATED, headers, body: Bytes::from_static(b"\0body") };
        let fingerprint = [7; 32];
        let read = Record::read(Record::done(&fingerprint, &response));
        assert_eq!(read, Some(Record::Done { fingerprint, response }));
    }

    #[test]
    fn what_was_cut_or_made_up_is_no_record() {
        let response = StoredResponse { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::new() };
        let whole = Record::done(&[1; 32], &response);
        for length in 0..whole.len() {
            assert_eq!(Record::read(whole.slice(..length)), None, "{length}");
        }
        assert_eq!(Record::read(Bytes::from_static(b"{\"json\":true}")), None);
    }
}
