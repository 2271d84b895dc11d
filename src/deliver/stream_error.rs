//! What a client of an event stream, or of a WebSocket that wants to know, hears when its stream ends before its time:
//! the one shape of all errors, in an event.

use bytes::Bytes;
use http::StatusCode;

use crate::connections::Cause;
use crate::pipeline::{EndState, ErrorBody};

/// Why a stream ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamError {
    /// The upstream broke off.
    Truncated,
    /// The upstream ended it in good order, but before the marker that the route names.
    Unterminated,
    /// The upstream has been silent for too long.
    Idle,
    /// Something else has to end it.
    Ended(Cause),
}

/// What clients wait before they come back, in milliseconds: elsewhere at once, where the upstream is to recover later.
const RETRY_ELSEWHERE: u32 = 1_000;
const RETRY_LATER: u32 = 3_000;

impl StreamError {
    /// The status is what a request would get for the same.
    pub(super) fn body(self) -> ErrorBody {
        let say = ErrorBody::new;
        const AGAIN: &str = "connect again, and go on where the stream ended";
        match self {
            Self::Truncated => say(
                StatusCode::BAD_GATEWAY,
                "stream_truncated",
                "the service broke off in the middle of its stream",
                AGAIN,
            ),
            Self::Unterminated => say(
                StatusCode::BAD_GATEWAY,
                "stream_unterminated",
                "the service ended its stream before it was complete",
                AGAIN,
            ),
            Self::Idle => {
                say(StatusCode::GATEWAY_TIMEOUT, "stream_idle", "the service has been silent for too long", AGAIN)
            }
            Self::Ended(Cause::Revoked | Cause::Expired) => say(
                StatusCode::UNAUTHORIZED,
                "stream_revoked",
                "the credential that opened this stream does not count any more",
                "sign in again, or renew the token, and connect again",
            ),
            Self::Ended(Cause::Stopped) => say(
                StatusCode::SERVICE_UNAVAILABLE,
                "server_shutting_down",
                "this server is shutting down",
                "connect again: another server answers",
            ),
            Self::Ended(Cause::Closed) => {
                say(StatusCode::SERVICE_UNAVAILABLE, "stream_closed", "an operator ended this stream", AGAIN)
            }
        }
    }

    /// How the exchange ends.
    pub(super) fn end_state(self) -> EndState {
        match self {
            Self::Truncated | Self::Unterminated | Self::Idle => EndState::Truncated,
            Self::Ended(cause) => end_state(cause),
        }
    }

    /// As an event: `error`, but for a stop, which is no fault of anybody's.
    pub(super) fn event(self, request_id: &str) -> Bytes {
        let (name, retry) = match self {
            Self::Ended(Cause::Stopped) => ("server_shutting_down", RETRY_ELSEWHERE),
            Self::Ended(_) => ("error", RETRY_ELSEWHERE),
            Self::Truncated | Self::Unterminated | Self::Idle => ("error", RETRY_LATER),
        };
        let mut event = format!("event: {name}\nretry: {retry}\ndata: ").into_bytes();
        event.extend_from_slice(&self.body().json(request_id)); // ends with a line's end
        event.push(b'\n');
        event.into()
    }
}

/// How an exchange ends that has to.
pub(super) fn end_state(cause: Cause) -> EndState {
    match cause {
        Cause::Stopped => EndState::Drained,
        Cause::Revoked | Cause::Expired => EndState::Revoked,
        Cause::Closed => EndState::Closed,
    }
}

/// The message for clients of WebSockets that want to know that the process begins to stop (US-013): the error, with
/// its code as the message's type.
pub(super) fn shutdown_message(request_id: &str) -> Bytes {
    let body = StreamError::Ended(Cause::Stopped).body();
    let error = String::from_utf8(body.json(request_id)).unwrap_or_default();
    format!("{{\"type\":\"{}\",{}", body.code, error.trim_end().trim_start_matches('{')).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn us_013_a_message_at_a_stop_is_json_with_the_error_of_all_streams() {
        let message: Value = serde_json::from_slice(&shutdown_message("r1")).unwrap();
        assert_eq!(message["type"], "server_shutting_down");
        assert_eq!(
            (&message["error"]["code"], &message["error"]["request_id"]),
            (&"server_shutting_down".into(), &"r1".into())
        );
    }

    #[test]
    fn s2s_22_every_error_event_says_when_to_come_back() {
        let causes = [Cause::Stopped, Cause::Revoked, Cause::Expired, Cause::Closed].map(StreamError::Ended);
        for error in causes.into_iter().chain([StreamError::Truncated, StreamError::Unterminated, StreamError::Idle]) {
            let event = String::from_utf8(error.event("r1").to_vec()).unwrap();
            let lines: Vec<_> = event.split('\n').collect();
            assert!(lines[0].starts_with("event: ") && lines[1].starts_with("retry: "), "{event}");
            let data: Value = serde_json::from_str(lines[2].strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(data["error"]["code"], error.body().code);
            assert_eq!(lines[3..], ["", ""], "{event}");
        }
    }
}
