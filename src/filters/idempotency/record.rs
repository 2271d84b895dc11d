//! What is kept under an id: that a request is under way, its answer, or that the answer was not kept.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// Begins every record; another version's is not read.
const VERSION: u8 = 1;

/// An answer that was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, as the upstream gave them.
    pub headers: HeaderMap,
    /// Its body, byte for byte.
    pub body: Bytes,
}

/// A record, read.
#[derive(Debug, PartialEq)]
pub(super) enum Record {
    /// A gateway is at it.
    Running { fingerprint: [u8; 32] },
    /// The answer.
    Done { fingerprint: [u8; 32], kept: Kept },
    /// It was done, and its answer could not be kept.
    NotKept { fingerprint: [u8; 32] },
}

const RUNNING: u8 = 1;
const DONE: u8 = 2;
const NOT_KEPT: u8 = 3;

impl Record {
    /// A claim is told from every other by `owner`: only who made it may end it.
    pub(super) fn running(fingerprint: &[u8; 32], owner: u128) -> Bytes {
        let mut out = begin(RUNNING, fingerprint);
        out.put_u128(owner);
        out.freeze()
    }

    pub(super) fn not_kept(fingerprint: &[u8; 32]) -> Bytes {
        begin(NOT_KEPT, fingerprint).freeze()
    }

    pub(super) fn done(fingerprint: &[u8; 32], kept: &Kept) -> Bytes {
        let mut out = begin(DONE, fingerprint);
        out.put_u16(kept.status.as_u16());
        out.put_u16(u16::try_from(kept.headers.len()).unwrap_or(u16::MAX));
        for (name, value) in kept.headers.iter().take(usize::from(u16::MAX)) {
            put(&mut out, name.as_str().as_bytes());
            put(&mut out, value.as_bytes());
        }
        out.extend_from_slice(&kept.body);
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
            NOT_KEPT => Some(Self::NotKept { fingerprint }),
            DONE => {
                let status = StatusCode::from_u16(bytes.try_get_u16().ok()?).ok()?;
                let count = bytes.try_get_u16().ok()?;
                let mut headers = HeaderMap::new();
                for _ in 0..count {
                    let name = HeaderName::from_bytes(&take(&mut bytes)?).ok()?;
                    headers.append(name, HeaderValue::from_maybe_shared(take(&mut bytes)?).ok()?);
                }
                Some(Self::Done { fingerprint, kept: Kept { status, headers, body: bytes } })
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
        let kept = Kept { status: StatusCode::CREATED, headers, body: Bytes::from_static(b"\0body") };
        let fingerprint = [7; 32];
        let read = Record::read(Record::done(&fingerprint, &kept));
        assert_eq!(read, Some(Record::Done { fingerprint, kept }));
    }

    #[test]
    fn what_was_cut_or_made_up_is_no_record() {
        let kept = Kept { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::new() };
        let whole = Record::done(&[1; 32], &kept);
        for length in 0..whole.len() {
            assert_eq!(Record::read(whole.slice(..length)), None, "{length}");
        }
        assert_eq!(Record::read(Bytes::from_static(b"{\"json\":true}")), None);
    }
}
