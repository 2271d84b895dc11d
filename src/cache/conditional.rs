//! Conditional requests and ranges, answered from something that is there as a whole (RFC 9110, sections
//! 13 and 14): a cached response, or a file.

use std::ops::Range;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::{
    ETAG, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
    RANGE as RANGE_FIELD,
};

use crate::cache::freshness::date;

/// What names a version of something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Validators<'a> {
    /// Its `ETag`.
    pub etag: Option<&'a HeaderValue>,
    /// Its `Last-Modified`.
    pub last_modified: Option<SystemTime>,
}

/// What a request's conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// They hold, or there are none.
    Holds,
    /// The client has it already: 304.
    NotModified,
    /// It is not what the client takes it for: 412.
    Failed,
}

/// Which part of something a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// These bytes.
    Bytes(Range<u64>),
    /// Bytes that are not there: 416.
    Beyond,
}

impl Validators<'_> {
    /// All conditions of a GET or HEAD, in the order of RFC 9110, section 13.2.2.
    pub fn condition(&self, headers: &HeaderMap) -> Condition {
        if headers.contains_key(IF_MATCH) {
            if !self.named_by(headers, &IF_MATCH, strong_eq) {
                return Condition::Failed;
            }
        } else if let Some(since) = headers.get(IF_UNMODIFIED_SINCE).and_then(date)
            && self.last_modified.is_none_or(|it| whole_seconds(it) > since)
        {
            return Condition::Failed;
        }
        self.condition_of_caches(headers)
    }

    /// The conditions that a cache may decide on (RFC 9111, section 4.3.2): the client has it, or not.
    pub fn condition_of_caches(&self, headers: &HeaderMap) -> Condition {
        if headers.contains_key(IF_NONE_MATCH) {
            let known = self.named_by(headers, &IF_NONE_MATCH, weak_eq);
            return if known { Condition::NotModified } else { Condition::Holds };
        }
        let since = headers.get(IF_MODIFIED_SINCE).and_then(date);
        match (since, self.last_modified) {
            (Some(since), Some(modified)) if whole_seconds(modified) <= since => Condition::NotModified,
            _ => Condition::Holds,
        }
    }

    /// The part of `length` bytes that a GET wants. Several ranges, and what is no range, mean the whole:
    /// a server may ignore them (section 14.2).
    pub fn part(&self, headers: &HeaderMap, length: u64) -> Part {
        let Some(field) = headers.get(RANGE_FIELD).and_then(|it| it.to_str().ok()) else { return Part::Whole };
        if let Some(condition) = headers.get(IF_RANGE)
            && !self.still(condition)
        {
            return Part::Whole;
        }
        let mut words = field.splitn(2, '=');
        let bytes = words.next().is_some_and(|it| it.trim().eq_ignore_ascii_case("bytes"));
        match words.next() {
            Some(range) if bytes => single(range.trim(), length),
            _ => Part::Whole,
        }
    }

    /// Whether a 304 with these fields is about this version (RFC 9111, section 4.3.4): a strong validator has to be
    /// the same strong one, a weak one to correspond. One that names nothing can only be about what was asked for.
    pub(super) fn are_those_of(&self, confirmation: &HeaderMap) -> bool {
        match (self.etag, confirmation.get(ETAG)) {
            (Some(own), Some(named)) if is_weak(named.as_bytes()) => weak_eq(own.as_bytes(), named.as_bytes()),
            (Some(own), Some(named)) => strong_eq(own.as_bytes(), named.as_bytes()),
            (None, Some(_)) => false,
            (_, None) => match (self.last_modified, confirmation.get(LAST_MODIFIED).and_then(date)) {
                (Some(own), Some(named)) => own == named,
                _ => true,
            },
        }
    }

    fn named_by(
        &self,
        headers: &HeaderMap,
        field: &http::HeaderName,
        same: impl Fn(&[u8], &[u8]) -> bool + Copy,
    ) -> bool {
        let lines = headers.get_all(field).iter();
        lines.flat_map(|it| tags(it.as_bytes())).any(|it| match self.etag {
            _ if it == b"*" => true,
            Some(etag) => same(etag.as_bytes(), it),
            None => false,
        })
    }

    /// Section 13.1.5: only what names every byte proves that parts fit together.
    fn still(&self, condition: &HeaderValue) -> bool {
        let text = condition.as_bytes();
        if text.starts_with(b"\"") || text.starts_with(b"W/") {
            return self.etag.is_some_and(|it| strong_eq(it.as_bytes(), text));
        }
        date(condition).is_some_and(|it| self.last_modified.is_some_and(|modified| whole_seconds(modified) == it))
    }
}

fn single(range: &str, length: u64) -> Part {
    let Some((first, last)) = range.split_once('-') else { return Part::Whole };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (None, Some(count)) if first.is_empty() => {
            if count == 0 || length == 0 {
                return Part::Beyond;
            }
            Part::Bytes(length.saturating_sub(count)..length)
        }
        (Some(first), None) if last.is_empty() && first < length => Part::Bytes(first..length),
        (Some(first), Some(last)) if first > last => Part::Whole,
        (Some(first), Some(last)) if first < length => Part::Bytes(first..last.saturating_add(1).min(length)),
        (Some(_), Some(_)) => Part::Beyond,
        (Some(_), None) if last.is_empty() => Part::Beyond,
        _ => Part::Whole,
    }
}

/// The entity tags of a list. A tag may hold a comma.
fn tags(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        while let [b' ' | b'\t' | b',', rest @ ..] = text {
            text = rest;
        }
        if text.is_empty() {
            return None;
        }
        let quote = text.iter().position(|it| *it == b'"');
        let comma = text.iter().position(|it| *it == b',');
        let end = match (quote, comma) {
            (Some(open), comma) if comma.is_none_or(|it| it > open) => {
                let close = text[open + 1..].iter().position(|it| *it == b'"');
                close.map_or(text.len(), |it| open + it + 2)
            }
            (_, comma) => comma.unwrap_or(text.len()),
        };
        let (tag, rest) = text.split_at(end);
        text = rest;
        Some(tag.trim_ascii())
    })
}

fn is_weak(tag: &[u8]) -> bool {
    tag.starts_with(b"W/")
}

fn strong_eq(left: &[u8], right: &[u8]) -> bool {
    left == right && !is_weak(left)
}

fn weak_eq(left: &[u8], right: &[u8]) -> bool {
    left.strip_prefix(b"W/").unwrap_or(left) == right.strip_prefix(b"W/").unwrap_or(right)
}

/// Files know fractions of a second, HTTP's dates do not.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    const NEW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const OLD: &str = "Sunday, 06-Nov-94 08:49:36 GMT";

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|it| (HeaderName::from_static(it.0), HeaderValue::from_static(it.1))).collect()
    }

    #[track_caller]
    fn check(lines: &[(&'static str, &'static str)], expected: Condition) {
        let etag = HeaderValue::from_static("\"a,b\"");
        let modified = httpdate::parse_http_date(NEW).ok();
        let validators = Validators { etag: Some(&etag), last_modified: modified };
        assert_eq!(validators.condition(&headers(lines)), expected, "{lines:?}");
    }

    #[test]
    fn rfc_9110_conditions_are_evaluated_in_their_order() {
        use Condition::{Failed, Holds, NotModified};
        check(&[], Holds);
        check(&[("if-none-match", "\"x\", W/\"a,b\"")], NotModified);
        check(&[("if-none-match", "*")], NotModified);
        check(&[("if-none-match", "\"a\", \"b\"")], Holds);
        check(&[("if-none-match", "\"x\""), ("if-modified-since", NEW)], Holds);
        check(&[("if-modified-since", NEW)], NotModified);
        check(&[("if-modified-since", OLD)], Holds);
        check(&[("if-modified-since", "yesterday")], Holds);
        check(&[("if-match", "\"a,b\"")], Holds);
        check(&[("if-match", "W/\"a,b\"")], Failed);
        check(&[("if-match", "\"x\"")], Failed);
        check(&[("if-unmodified-since", OLD)], Failed);
        check(&[("if-unmodified-since", NEW)], Holds);
    }

    #[test]
    fn rfc_9110_ranges() {
        let part = |range: &'static str, length| Validators::default().part(&headers(&[("range", range)]), length);
        assert_eq!(part("bytes=0-3", 10), Part::Bytes(0..4));
        assert_eq!(part("Bytes=8-99", 10), Part::Bytes(8..10));
        assert_eq!(part("bytes=4-", 10), Part::Bytes(4..10));
        assert_eq!(part("bytes=-4", 10), Part::Bytes(6..10));
        assert_eq!(part("bytes=-40", 10), Part::Bytes(0..10));
        for beyond in ["bytes=10-", "bytes=10-11", "bytes=-0", "bytes=99999999999999999999-"] {
            assert_eq!(part(beyond, 10), Part::Beyond, "{beyond}");
        }
        assert_eq!(part("bytes=0-", 0), Part::Beyond);
        for whole in
            ["bytes=0-1,3-4", "bytes=4-2", "lines=0-3", "bytes=a-b", "bytes=", "bytes", "bytes=--1", "bytes=+1-2"]
        {
            assert_eq!(part(whole, 10), Part::Whole, "{whole}");
        }
    }

    #[test]
    fn rfc_9111_4_3_4_a_304_is_about_a_version_that_it_names_strongly_or_not_at_all() {
        let check = |own: &'static str, named: &[(&'static str, &'static str)], expected: bool| {
            let etag = HeaderValue::from_static(own);
            let last_modified = httpdate::parse_http_date(NEW).ok();
            let validators = Validators { etag: Some(&etag).filter(|_| !own.is_empty()), last_modified };
            assert_eq!(validators.are_those_of(&headers(named)), expected, "{own} {named:?}");
        };
        check("\"v1\"", &[("etag", "\"v1\"")], true);
        check("\"v1\"", &[("etag", "\"v1\""), ("last-modified", OLD)], true);
        check("\"v1\"", &[("etag", "W/\"v1\"")], true);
        check("W/\"v1\"", &[("etag", "W/\"v1\"")], true);
        check("\"v1\"", &[], true);
        check("", &[("last-modified", NEW)], true);
        check("\"v1\"", &[("etag", "\"v2\"")], false);
        check("\"v1-gzip\"", &[("etag", "\"v1\"")], false);
        check("W/\"v1\"", &[("etag", "\"v1\"")], false);
        check("", &[("etag", "\"v1\"")], false);
        check("", &[("last-modified", OLD)], false);
    }

    #[test]
    fn rfc_9110_if_range_needs_a_strong_proof() {
        let etag = HeaderValue::from_static("\"v1\"");
        let validators = Validators { etag: Some(&etag), last_modified: httpdate::parse_http_date(NEW).ok() };
        let part = |condition| validators.part(&headers(&[("range", "bytes=0-0"), ("if-range", condition)]), 10);
        assert_eq!(part("\"v1\""), Part::Bytes(0..1));
        assert_eq!(part(NEW), Part::Bytes(0..1));
        for changed in ["\"v2\"", "W/\"v1\"", OLD, "nonsense"] {
            assert_eq!(part(changed), Part::Whole, "{changed}");
        }
    }
}
