//! What a client receives about the cache: `X-Cache` (S2S-12), `Cache-Status` (RFC 9211), `Age`.

use http::HeaderValue;
use http::header::{AGE, CACHE_CONTROL, EXPIRES, HeaderName};
use pingora::http::ResponseHeader;

use crate::cache::metrics::METRICS;

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What the cache could do for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A kept, fresh response.
    Hit,
    /// The upstream's response.
    Miss,
    /// A cached response that is no longer fresh.
    Stale,
    /// A cached response that the upstream has confirmed.
    Revalidated,
    /// Nothing: the request is none whose response is kept.
    Bypass,
}

/// Why a request went to the upstream (RFC 9211, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// The cache was not to be used.
    Bypass,
    /// The method's responses are not kept.
    Method,
    /// Nothing was kept.
    UriMiss,
    /// Something was kept, for other fields of the request.
    VaryMiss,
    /// What was kept had become stale.
    Stale,
    /// The client wanted it so.
    Request,
    /// A range was requested, and nothing was stored.
    Partial,
}

/// What a client receives about the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStatus {
    pub(super) verdict: Verdict,
    pub(super) forwarded: Option<Forwarded>,
    /// What the upstream said, if the client gets something else.
    pub(super) forwarded_status: Option<u16>,
    pub(super) stored: bool,
    pub(super) collapsed: bool,
    /// Seconds of freshness that are left, and the age in seconds.
    pub(super) time: Option<(i64, u64)>,
    /// The same response is for everybody: clients may keep it, if they revalidate it each time.
    pub(super) public: bool,
}

impl CacheStatus {
    pub(super) const fn forwarded(verdict: Verdict, forwarded: Forwarded) -> Self {
        Self {
            verdict,
            forwarded: Some(forwarded),
            forwarded_status: None,
            stored: false,
            collapsed: false,
            time: None,
            public: false,
        }
    }

    pub(super) const fn kept(verdict: Verdict, time: (i64, u64), public: bool) -> Self {
        Self {
            verdict,
            forwarded: None,
            forwarded_status: None,
            stored: false,
            collapsed: false,
            time: Some(time),
            public,
        }
    }

    /// The word for log and metrics.
    pub const fn word(&self) -> &'static str {
        match self.verdict {
            Verdict::Hit => "hit",
            Verdict::Miss => "miss",
            Verdict::Stale => "stale",
            Verdict::Revalidated => "revalidated",
            Verdict::Bypass => "bypass",
        }
    }

    pub(super) fn count(&self) {
        match self.verdict {
            Verdict::Hit => METRICS.hits.inc(),
            Verdict::Miss => METRICS.misses.inc(),
            Verdict::Stale => METRICS.stale.inc(),
            Verdict::Revalidated => METRICS.revalidated.inc(),
            Verdict::Bypass => METRICS.bypassed.inc(),
        }
        if self.collapsed {
            METRICS.collapsed.inc();
        }
    }

    /// Writes it on the response's head.
    pub fn on_response(&self, answer: &mut ResponseHeader) {
        let _ = answer.insert_header(X_CACHE, HeaderValue::from_static(self.word()));
        if let Ok(status) = HeaderValue::from_maybe_shared(bytes::Bytes::from(self.status())) {
            let _ = answer.append_header(CACHE_STATUS, status);
        }
        if let Some((_, age)) = self.time {
            let _ = answer.insert_header(AGE, HeaderValue::from(age));
        }
        // The gateway's own `no-store` (S2S-30) is for what is private; what the upstream said stands.
        let silent = ![CACHE_CONTROL, EXPIRES].iter().any(|it| answer.headers.contains_key(it));
        if self.public && silent {
            let _ = answer.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
    }

    /// As in `moongate; hit; ttl=30` or `moongate; fwd=stale; fwd-status=304; stored`.
    fn status(&self) -> String {
        use std::fmt::Write;
        let mut status = String::with_capacity(48);
        status.push_str("moongate; ");
        match self.forwarded {
            None => status.push_str("hit"),
            Some(forwarded) => {
                status.push_str("fwd=");
                status.push_str(match forwarded {
                    Forwarded::Bypass => "bypass",
                    Forwarded::Method => "method",
                    Forwarded::UriMiss => "uri-miss",
                    Forwarded::VaryMiss => "vary-miss",
                    Forwarded::Stale => "stale",
                    Forwarded::Request => "request",
                    Forwarded::Partial => "partial",
                });
            }
        }
        if let Some(code) = self.forwarded_status {
            let _ = write!(status, "; fwd-status={code}");
        }
        if let Some((left, _)) = self.time {
            let _ = write!(status, "; ttl={left}");
        }
        if self.stored {
            status.push_str("; stored");
        }
        if self.collapsed {
            status.push_str("; collapsed");
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: CacheStatus, word: &str, field: &str) {
        let mut head = ResponseHeader::build(200, None).unwrap();
        status.on_response(&mut head);
        assert_eq!(head.headers[X_CACHE], word);
        assert_eq!(head.headers[CACHE_STATUS], field);
    }

    #[test]
    fn s2s_12_clients_see_what_the_cache_did() {
        check(CacheStatus::kept(Verdict::Hit, (30, 5), true), "hit", "moongate; hit; ttl=30");
        check(CacheStatus::kept(Verdict::Stale, (-3, 33), true), "stale", "moongate; hit; ttl=-3");
        let miss = CacheStatus { stored: true, ..CacheStatus::forwarded(Verdict::Miss, Forwarded::UriMiss) };
        check(miss, "miss", "moongate; fwd=uri-miss; stored");
        let revalidated = CacheStatus {
            forwarded_status: Some(304),
            collapsed: true,
            stored: true,
            ..CacheStatus::forwarded(Verdict::Revalidated, Forwarded::Stale)
        };
        check(revalidated, "revalidated", "moongate; fwd=stale; fwd-status=304; stored; collapsed");
        check(CacheStatus::forwarded(Verdict::Bypass, Forwarded::Method), "bypass", "moongate; fwd=method");
    }
}
