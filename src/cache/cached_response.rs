//! From a cached response to the one that a client gets: whole, a part of it, or word that it has it already.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_RANGE, DATE, ETAG, EXPIRES, HeaderName,
    HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, VARY,
};
use http::{HeaderMap, Method, StatusCode};
use pingora::http::ResponseHeader;

use crate::cache::cache_status::CacheStatus;
use crate::cache::conditional::{Condition, Part};
use crate::cache::fill::Fill;
use crate::cache::object::Object;

/// What a client gets from the cache.
pub struct CachedResponse {
    /// The head, without the fields about the cache.
    pub head: Box<ResponseHeader>,
    /// The body; for HEAD it is not sent.
    pub body: Bytes,
    /// What the client receives about the cache.
    pub status: CacheStatus,
    /// The response has to be fetched anew, while the client gets this one.
    pub refresh: Option<Fill>,
}

/// What a 304 repeats of the response that it stands for (RFC 9110, section 15.4.5).
const IN_304: [HeaderName; 7] = [CACHE_CONTROL, CONTENT_LOCATION, DATE, ETAG, EXPIRES, VARY, LAST_MODIFIED];

/// Answers a request with these fields from what is kept.
pub(super) fn give(object: &Arc<Object>, method: &Method, headers: &HeaderMap, status: CacheStatus) -> CachedResponse {
    let validators = object.validators();
    // Conditions and ranges are for GET, conditions for HEAD, too (RFC 9110, sections 13.2.1 and 14.2).
    let good = object.head.status == StatusCode::OK && [Method::GET, Method::HEAD].contains(method);
    // Without one nothing is looked at that a condition would be held against: dates would be read.
    let conditional = || headers.keys().any(|it| [IF_NONE_MATCH, IF_MODIFIED_SINCE].contains(it));
    let known =
        || conditional() && object.validators_for_clients().condition_of_caches(headers) == Condition::NotModified;
    let (head, body) = if good && known() {
        (not_modified(object), Bytes::new())
    } else if good && *method == Method::GET {
        let length = object.body.len() as u64;
        match validators.part(headers, length) {
            Part::Whole => whole(object),
            Part::Beyond => (beyond(length), Bytes::new()),
            Part::Bytes(range) => part(object, &range),
        }
    } else {
        whole(object)
    };
    CachedResponse { head, body, status, refresh: None }
}

fn whole(object: &Object) -> (Box<ResponseHeader>, Bytes) {
    (Box::new(object.head.clone()), object.body.clone())
}

fn part(object: &Object, range: &std::ops::Range<u64>) -> (Box<ResponseHeader>, Bytes) {
    let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
    let body = object.body.slice(at(range.start)..at(range.end));
    let mut head = Box::new(object.head.clone());
    let _ = head.set_status(StatusCode::PARTIAL_CONTENT);
    let place = format!("bytes {}-{}/{}", range.start, range.end - 1, object.body.len());
    if let Ok(place) = HeaderValue::from_str(&place) {
        let _ = head.insert_header(CONTENT_RANGE, place);
    }
    let _ = head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()));
    (head, body)
}

fn beyond(length: u64) -> Box<ResponseHeader> {
    let mut head = bare(StatusCode::RANGE_NOT_SATISFIABLE);
    if let Ok(place) = HeaderValue::from_str(&format!("bytes */{length}")) {
        let _ = head.insert_header(CONTENT_RANGE, place);
    }
    let _ = head.insert_header(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let _ = head.insert_header(CONTENT_LENGTH, HeaderValue::from_static("0"));
    head
}

fn not_modified(object: &Object) -> Box<ResponseHeader> {
    not_modified_of(&object.head)
}

/// The 304 for a client that has the response with this head already.
pub fn not_modified_of(answer: &ResponseHeader) -> Box<ResponseHeader> {
    let mut head = bare(StatusCode::NOT_MODIFIED);
    for name in IN_304 {
        for value in answer.headers.get_all(&name) {
            let _ = head.append_header(name.clone(), value.clone());
        }
    }
    if let Some(targeted) = answer.headers.get("cdn-cache-control") {
        let _ = head.insert_header("cdn-cache-control", targeted.clone());
    }
    head
}

fn bare(status: StatusCode) -> Box<ResponseHeader> {
    let head = ResponseHeader::build_no_case(status, Some(12));
    Box::new(head.expect("a status of HTTP makes a head"))
}
