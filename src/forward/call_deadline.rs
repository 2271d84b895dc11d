//! The deadline of a gRPC call, which its client sets (gRPC over HTTP/2, `grpc-timeout`): read, bounded by the route,
//! and passed on as what is left of it.

use std::time::{Duration, Instant};

use http::HeaderValue;
use http::header::HeaderName;
use pingora::http::RequestHeader;

use super::policy::Policy;
use crate::http as codec;
use crate::pipeline::Refusal;

pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// No more digits than these.
const DIGITS_MAX: usize = 8;

/// When the call that begins with this request has to be over; `None` if its client waits for as long as it takes.
///
/// # Errors
/// When the field can't be read: whoever set it would wait for something else than we think.
pub fn call_deadline(request: &RequestHeader, started: Instant, policy: &Policy) -> Result<Option<Instant>, Refusal> {
    let mut fields = request.headers.get_all(GRPC_TIMEOUT).iter();
    let Some(field) = fields.next().filter(|_| codec::is_grpc(&request.headers)) else { return Ok(None) };
    let timeout = parse(field.as_bytes()).filter(|_| fields.next().is_none());
    let timeout = timeout.ok_or(Refusal::BadRequest("grpc-timeout can't be read"))?;
    // A moment that no clock can hold is none to wait for.
    Ok(started.checked_add(policy.grpc_timeout_max.map_or(timeout, |most| timeout.min(most))))
}

fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |sum, it| sum * 10 + u64::from(it - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The field for the upstream: what is left, in the smallest unit that has room for it, and never more than is left.
pub(super) fn written(left: Duration) -> HeaderValue {
    const NUMBERS: u128 = 10_u128.pow(DIGITS_MAX as u32);
    let text = match () {
        () if left.as_micros() < NUMBERS => format!("{}u", left.as_micros()),
        () if left.as_millis() < NUMBERS => format!("{}m", left.as_millis()),
        () => format!("{}S", u128::from(left.as_secs()).min(NUMBERS - 1)),
    };
    HeaderValue::from_str(&text).expect("digits and a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("0S", Duration::ZERO),
            ("00000250m", Duration::from_millis(250)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("7n", Duration::from_nanos(7)),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(expected), "{text}");
        }
        for wrong in ["", "S", "1", "1s", "1 S", "-1S", "1.5S", "100000000n", "1SS"] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_written_reads_as_no_more_than_is_left() {
        for left in [
            Duration::ZERO,
            Duration::from_nanos(1_999),
            Duration::from_millis(99_999),
            Duration::from_millis(100_000),
            Duration::from_micros(99_999_999_999),
            Duration::from_secs(100_001),
            Duration::from_secs(u64::MAX),
        ] {
            let read = parse(written(left).as_bytes()).unwrap();
            assert!(read <= left, "{left:?} {read:?}");
            assert!(left.as_secs() > 99_999_999 || left - read < Duration::from_secs(1), "{left:?} {read:?}");
        }
    }
}
