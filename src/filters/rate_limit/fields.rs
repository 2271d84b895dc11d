//! What answers say about limits: `X-RateLimit-*` (S2S-10), `RateLimit` and `RateLimit-Policy`
//! (draft-ietf-httpapi-ratelimit-headers-10).

use std::fmt::Write;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use http::HeaderValue;
use http::header::HeaderName;
use pingora::http::ResponseHeader;

use crate::pipeline::{Exchange, RateLimitStatus};

const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Every response to a counted request says what is left of the tightest limit, refusals too. What an
/// upstream said under these names was about its own limits.
pub(super) fn on_response(exchange: &Exchange, answer: &mut ResponseHeader) {
    let Some(RateLimitStatus { name, limit, remaining, more, reset, policies }) = &exchange.rate_limit_status else {
        return;
    };
    let mut digits = [itoa::Buffer::new(); 4];
    let [of_limit, of_remaining, of_more, of_reset] = &mut digits;
    let [limit, remaining, more, reset] =
        [of_limit.format(*limit), of_remaining.format(*remaining), of_more.format(*more), of_reset.format(*reset)]
            .map(str::as_bytes);
    // All values in one piece of memory.
    let mut text = BytesMut::with_capacity(name.len() + 128);
    let mut value = |parts: &[&[u8]]| {
        parts.iter().for_each(|it| text.put_slice(it));
        text.split().freeze()
    };
    let values = [
        (X_LIMIT, value(&[limit])),
        (X_REMAINING, value(&[remaining])),
        (X_RESET, value(&[reset])),
        (RATELIMIT, value(&[b"\"", name.as_bytes(), b"\";r=", remaining, b";t=", more])),
    ];
    for (name, value) in values {
        if let Ok(value) = HeaderValue::from_maybe_shared(value) {
            let _ = answer.insert_header(name, value);
        }
    }
    let _ = answer.insert_header(POLICY, policies.clone());
}

/// The value of `RateLimit-Policy`: each limit with its quota and its window in seconds.
pub(super) fn policies<'l>(limits: impl Iterator<Item = (&'l str, u64, Duration)>) -> HeaderValue {
    let mut text = String::new();
    for (name, requests, every) in limits {
        if !text.is_empty() {
            text.push_str(", ");
        }
        // A window has whole seconds.
        let (quota, window) = match every.as_millis().max(1) {
            millis if millis < 1_000 => (u128::from(requests) * 1_000 / millis, 1),
            _ => (u128::from(requests), seconds(every)),
        };
        let _ = write!(text, "\"{name}\";q={quota};w={window}");
    }
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

/// Whole seconds, rounded up.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_told_in_whole_seconds() {
        let minute = Duration::from_secs(60);
        assert_eq!(policies([("ip", 60, minute)].into_iter()), "\"ip\";q=60;w=60");
        let several = [("ip", 60, minute), ("x-client", 5, Duration::from_millis(100))];
        assert_eq!(policies(several.into_iter()), "\"ip\";q=60;w=60, \"x-client\";q=50;w=1");
    }

    #[test]
    fn a_part_of_a_second_counts_as_one() {
        assert_eq!(seconds(Duration::ZERO), 0);
        assert_eq!(seconds(Duration::from_nanos(1)), 1);
        assert_eq!(seconds(Duration::from_secs(2)), 2);
    }
}
