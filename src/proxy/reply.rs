//! The responses that the gateway sends by itself: one shape for every refusal and failure (decision 8:
//! `{"error": {code, message, details, request_id, suggested_action}}`), and the way to send one.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::date::get_cached_date;
use serde_json::json;

use crate::base::RequestId;
use crate::client::{Client, ClientError, Part};
use crate::http as codec;
use crate::pipeline::{ErrorBody, Refusal};

impl ErrorBody {
    /// The one place that knows what each refusal looks like.
    pub(super) fn of(refusal: &Refusal) -> Self {
        let say = Self::new;
        const LATER: &str = "try again later";
        match refusal {
            Refusal::BadRequest(why) => say(
                StatusCode::BAD_REQUEST,
                "bad_request",
                &format!("the request is malformed: {why}"),
                "send the request as RFC 9110 and RFC 9112 write it",
            ),
            Refusal::MethodNotSupported => say(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_supported",
                "CONNECT is not offered",
                "use another method",
            ),
            // RFC 9220, section 3
            Refusal::ProtocolNotSupported => say(
                StatusCode::NOT_IMPLEMENTED,
                "protocol_not_supported",
                "no connection changes to the protocol that :protocol names",
                "leave :protocol out, or name websocket",
            ),
            Refusal::ExpectationFailed => say(
                StatusCode::EXPECTATION_FAILED,
                "expectation_failed",
                "only the expectation 100-continue is known",
                "leave out Expect",
            ),
            Refusal::AmbiguousCredentials(why) => say(
                StatusCode::BAD_REQUEST,
                "ambiguous_credentials",
                &format!("the caller can't be identified without doubt: {why}"),
                "send one credential, in one place",
            ),
            Refusal::Unauthorized { why, accepted, .. } => Self {
                details: json!({ "reason": refusal.reason() }),
                ..say(
                    StatusCode::UNAUTHORIZED,
                    "unauthorized",
                    &match why {
                        Some((_, sentence)) => (*sentence).to_owned(),
                        None => format!("this path requires a credential: {accepted}"),
                    },
                    "send a credential that is valid here: sign in again, or renew the token",
                )
            },
            Refusal::Forbidden(missing) => Self {
                details: json!({
                    "reason": refusal.reason(),
                    "required_roles": missing.roles,
                    "missing_permissions": missing.permissions,
                    "missing_scopes": missing.scopes,
                }),
                ..say(StatusCode::FORBIDDEN, "forbidden", &missing.sentence, "ask an administrator for what is missing")
            },
            Refusal::AddressNotAllowed => say(
                StatusCode::FORBIDDEN,
                "address_not_allowed",
                "this is not for clients of this network",
                "call from a network that the operator allows",
            ),
            Refusal::ContentStopped => say(
                StatusCode::FORBIDDEN,
                "content_stopped",
                "a rule of this path stopped the request for what its body says",
                "send something else",
            ),
            Refusal::IdentityUnavailable => say(
                StatusCode::SERVICE_UNAVAILABLE,
                "identity_unavailable",
                "the caller can't be authenticated at the moment",
                LATER,
            ),
            Refusal::UpgradeNotAllowed { protocol, setting } => Self {
                details: json!({ "protocol": protocol, "setting": setting }),
                ..say(
                    StatusCode::BAD_REQUEST,
                    "upgrade_not_allowed",
                    "this path does not change to the protocol that Upgrade names",
                    "send the request without Upgrade; an operator allows WebSockets by the route's `match.websocket`, and other protocols by its `upgrade`",
                )
            },
            Refusal::RouteNotFound => say(
                StatusCode::NOT_FOUND,
                "route_not_found",
                "nothing is served under this host and path",
                "check the host name and the path",
            ),
            Refusal::MethodNotAllowed { allow } => Self {
                details: json!({ "allow": allow }),
                ..say(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "method_not_allowed",
                    "this path does not accept this method",
                    "use one of the methods in Allow",
                )
            },
            Refusal::NotAcceptable => say(
                StatusCode::NOT_ACCEPTABLE,
                "not_acceptable",
                "no media type that Accept names is offered here",
                "accept another media type",
            ),
            Refusal::BodyTooLarge { limit } => Self {
                details: json!({ "limit_bytes": limit }),
                ..say(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "body_too_large",
                    "the request's body is larger than this path accepts",
                    "send less",
                )
            },
            Refusal::UnsupportedMediaType { accepted } => Self {
                details: json!({ "accepted": accepted }),
                ..say(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "unsupported_media_type",
                    "bodies of this media type are not accepted here",
                    "send one of the accepted media types, and say so in Content-Type",
                )
            },
            Refusal::BodyInvalid { faults } => Self {
                details: json!({ "faults": faults.iter()
                    .map(|it| json!({ "pointer": it.pointer, "rule": it.rule })).collect::<Vec<_>>() }),
                ..say(
                    StatusCode::BAD_REQUEST,
                    "invalid_body",
                    "the body is not what this path requires",
                    "correct the places that the pointers name",
                )
            },
            Refusal::CheckBusy => say(
                StatusCode::SERVICE_UNAVAILABLE,
                "check_busy",
                "too many bodies are being checked at the moment",
                LATER,
            ),
            Refusal::IdempotencyKey(why) => say(
                StatusCode::BAD_REQUEST,
                "idempotency_key",
                &format!("this path needs an idempotency key: {why}"),
                "send Idempotency-Key with a new UUID for each new request, and the same one when you repeat it",
            ),
            Refusal::IdempotencyRunning => say(
                StatusCode::CONFLICT,
                "idempotency_running",
                "the first request with this idempotency key is still under way",
                LATER,
            ),
            Refusal::IdempotencyMismatch => say(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_mismatch",
                "this idempotency key belongs to another request",
                "use a new key for a new request",
            ),
            Refusal::IdempotencyNotKept => say(
                StatusCode::CONFLICT,
                "idempotency_not_kept",
                "this was done already, but its response was a stream or too large to be stored",
                "fetch the result of the first request in another way; do not repeat it under a new key",
            ),
            Refusal::IdempotencyFull(why) => say(
                StatusCode::SERVICE_UNAVAILABLE,
                "idempotency_full",
                &format!("this was not done, there is no room for another request with an idempotency key: {why}"),
                "try again later, with the same key",
            ),
            Refusal::StateUnavailable => say(
                StatusCode::SERVICE_UNAVAILABLE,
                "state_unavailable",
                "what this request depends on can't be looked up at the moment",
                LATER,
            ),
            Refusal::RateLimited { limit, retry_after, .. } => Self {
                details: json!({ "limit": limit, "retry_after": retry_after }),
                ..say(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limited",
                    "too many requests have come",
                    "wait as many seconds as Retry-After says",
                )
            },
            Refusal::AddressBlocked { retry_after } => Self {
                details: json!({ "retry_after": retry_after }),
                ..say(
                    StatusCode::TOO_MANY_REQUESTS,
                    "address_blocked",
                    "too much came from this address; it is blocked for a time",
                    "wait, and then send less; a client that has to send so much is put on the operator's list",
                )
            },
            Refusal::NotCached => say(
                StatusCode::GATEWAY_TIMEOUT,
                "not_cached",
                "the client accepts cached responses alone, and there is none",
                "send the request without Cache-Control: only-if-cached",
            ),
            Refusal::UriTooLong => say(
                StatusCode::URI_TOO_LONG,
                "uri_too_long",
                "the request's target is too long",
                "send a shorter target",
            ),
            Refusal::HeadersTooLarge => say(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                "the header fields are too many or too large",
                "send fewer or shorter header fields",
            ),
            Refusal::RequestTimeout => say(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                "the request did not arrive in time",
                "send the request again, faster",
            ),
            Refusal::BreakerOpen { retry_after } => Self {
                details: json!({ "retry_after": retry_after }),
                ..say(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "breaker_open",
                    "the service is temporarily unavailable",
                    "try again after the time that Retry-After names",
                )
            },
            Refusal::DependencyDown { dependency } => Self {
                details: json!({ "dependency": &**dependency }),
                ..say(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "dependency_unavailable",
                    "a service that this one depends on is not available",
                    LATER,
                )
            },
            Refusal::Maintenance { message, retry_after } => Self {
                details: json!({ "retry_after": retry_after }),
                ..say(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "maintenance",
                    message,
                    "try again after the time that Retry-After names",
                )
            },
            Refusal::UpstreamOverloaded => say(
                StatusCode::SERVICE_UNAVAILABLE,
                "upstream_overloaded",
                "the service has as much to do as it can",
                LATER,
            ),
            Refusal::NoHealthyEndpoint => {
                say(StatusCode::SERVICE_UNAVAILABLE, "upstream_unavailable", "the service is not available", LATER)
            }
            Refusal::ConnectFailed => {
                say(StatusCode::BAD_GATEWAY, "upstream_unreachable", "the service can't be reached", LATER)
            }
            Refusal::ConnectTimeout => say(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_connect_timeout",
                "the service did not take the connection in time",
                LATER,
            ),
            Refusal::UpstreamClosed => {
                say(StatusCode::BAD_GATEWAY, "upstream_closed", "the service broke off before it answered", LATER)
            }
            Refusal::UpstreamProtocol => say(
                StatusCode::BAD_GATEWAY,
                "upstream_protocol_error",
                "the service's answer could not be understood",
                "tell the operator",
            ),
            Refusal::ResponseTooLarge { limit } => Self {
                details: json!({ "limit_bytes": limit }),
                ..say(
                    StatusCode::BAD_GATEWAY,
                    "response_too_large",
                    "the service's answer is larger than this path can look through",
                    "request less",
                )
            },
            Refusal::UpstreamStatus { status } => {
                let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY);
                let (message, action) = match status.is_server_error() {
                    true => ("the service answered with an error", LATER),
                    false => ("the service refused the request", "look at what was sent, and at the status"),
                };
                let details = json!({ "status": status.as_u16() });
                // The status stays the upstream's own.
                Self { status, details, ..say(StatusCode::BAD_GATEWAY, "upstream_error", message, action) }
            }
            Refusal::FirstByteTimeout => {
                say(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "the service did not answer in time", LATER)
            }
            Refusal::ExchangeTimeout => {
                say(StatusCode::GATEWAY_TIMEOUT, "request_deadline", "the request took too long in all", LATER)
            }
            Refusal::CallDeadline => say(
                StatusCode::GATEWAY_TIMEOUT,
                "call_deadline",
                "the time is over that grpc-timeout allowed",
                "allow the call more time",
            ),
            Refusal::Internal => say(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "something in the gateway broke",
                "tell the operator",
            ),
            Refusal::UnknownUpstream => say(
                StatusCode::INTERNAL_SERVER_ERROR,
                "unknown_upstream",
                "what answers here relies on a service that is not configured",
                "tell the operator",
            ),
            Refusal::CallLoop => say(
                StatusCode::LOOP_DETECTED,
                "call_loop",
                "the services that answer here call one another in a circle",
                "tell the operator",
            ),
        }
    }
}

/// An error as docs/ERRORS.md shows it.
#[derive(Clone, Debug)]
pub struct ErrorCode {
    /// The status of the answer.
    pub status: u16,
    /// The word that programs look at.
    pub code: &'static str,
    /// The message for people, for example.
    pub message: String,
    /// The names of what `details` holds.
    pub details: Vec<String>,
    /// What to do about it.
    pub suggested_action: &'static str,
}

/// Every error that the gateway can answer with, in the order of the statuses: the closed list.
pub fn error_codes() -> Vec<ErrorCode> {
    let describe = |refusal: Refusal| {
        let ErrorBody { status, code, message, details, suggested_action } = ErrorBody::of(&refusal);
        let details = details.as_object().map(|it| it.keys().cloned().collect()).unwrap_or_default();
        ErrorCode { status: status.as_u16(), code, message, details, suggested_action }
    };
    Refusal::one_of_each().map(describe).collect()
}

/// An upstream's error in the shape of our own: its status and what it says to clients in other fields stay, what is
/// about its body goes.
pub(super) fn wrapped(
    mut head: Box<ResponseHeader>,
    request_id: &RequestId,
    request: &RequestHeader,
) -> (Box<ResponseHeader>, Bytes) {
    let (ours, body) = refusal(&Refusal::UpstreamStatus { status: head.status.as_u16() }, request_id, request);
    for name in OF_THE_BODY {
        head.remove_header(&name);
    }
    for name in [CONTENT_TYPE, CONTENT_LENGTH] {
        if let Some(value) = ours.headers.get(&name) {
            let _ = head.insert_header(name, value.clone());
        }
    }
    let _ = head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()));
    (head, body)
}

/// What speaks of a body that is no longer there.
const OF_THE_BODY: [http::header::HeaderName; 12] = [
    CONTENT_TYPE,
    CONTENT_LENGTH,
    http::header::CONTENT_ENCODING,
    http::header::CONTENT_LANGUAGE,
    http::header::CONTENT_LOCATION,
    http::header::CONTENT_DISPOSITION,
    http::header::CONTENT_RANGE,
    http::header::ACCEPT_RANGES,
    http::header::ETAG,
    http::header::LAST_MODIFIED,
    http::header::CACHE_CONTROL,
    http::header::EXPIRES,
];

/// Head and body of the answer to a refusal.
/// A client of gRPC gets its own kind of error, and one of gRPC-Web the same: both look at fields of the head, too.
pub(super) fn refusal(
    refusal: &Refusal,
    request_id: &RequestId,
    request: &RequestHeader,
) -> (Box<ResponseHeader>, Bytes) {
    let error = ErrorBody::of(refusal);
    if codec::is_any_grpc(&request.headers) {
        return (grpc(&error, request), Bytes::new());
    }
    let body = error.json(request_id.as_str());
    let mut head = head(error.status);
    let _ = head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(refusal, Refusal::MethodNotSupported) {
        let _ = head.insert_header(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    if let Refusal::MethodNotAllowed { allow } = refusal
        && let Ok(allow) = HeaderValue::from_str(allow)
    {
        let _ = head.insert_header(ALLOW, allow);
    }
    if let Some(challenge) = challenge(refusal) {
        let _ = head.insert_header(WWW_AUTHENTICATE, challenge);
    }
    if let Refusal::AddressBlocked { retry_after }
    | Refusal::RateLimited { retry_after, .. }
    | Refusal::Maintenance { retry_after, .. }
    | Refusal::BreakerOpen { retry_after } = refusal
    {
        let _ = head.insert_header(RETRY_AFTER, HeaderValue::from(*retry_after));
    } else if error.status == StatusCode::SERVICE_UNAVAILABLE || matches!(refusal, Refusal::IdempotencyRunning) {
        let _ = head.insert_header(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    (head, Bytes::from(body))
}

/// An answer that is nothing but trailers, in the place of the head (gRPC over HTTP/2, "Trailers-Only"): clients of gRPC
/// look at no status and at no body of HTTP's.
fn grpc(error: &ErrorBody, request: &RequestHeader) -> Box<ResponseHeader> {
    let mut answer = head(StatusCode::OK);
    let content_type = request.headers.get(CONTENT_TYPE).map(|it| it.as_bytes().to_ascii_lowercase());
    if let Ok(content_type) = HeaderValue::from_bytes(&content_type.unwrap_or_default()) {
        let _ = answer.insert_header(CONTENT_TYPE, content_type);
    }
    let _ = answer.insert_header("grpc-status", HeaderValue::from(grpc_status(error.status)));
    if let Ok(message) = HeaderValue::from_str(&percent_encoded(&error.message)) {
        let _ = answer.insert_header("grpc-message", message);
    }
    answer
}

/// The codes of gRPC, as its own mapping from HTTP has them where it has any, and by their meaning elsewhere.
fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 | 411 | 415 | 417 | 422 | 426 => 3, // INVALID_ARGUMENT
        408 | 504 => 4,                         // DEADLINE_EXCEEDED
        404..=406 | 501 => 12,                  // UNIMPLEMENTED
        401 => 16,                              // UNAUTHENTICATED
        403 => 7,                               // PERMISSION_DENIED
        409 => 10,                              // ABORTED
        413 | 414 | 429 | 431 => 8,             // RESOURCE_EXHAUSTED
        502 | 503 => 14,                        // UNAVAILABLE
        500 | 508 => 13,                        // INTERNAL
        _ => 2,                                 // UNKNOWN
    }
}

/// `grpc-message` is percent-encoded.
fn percent_encoded(text: &str) -> String {
    let plain = |it: u8| matches!(it, b' '..=b'~') && it != b'%';
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match plain(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

/// How to authenticate (RFC 9110, section 11.6.1), and what the credential lacks (RFC 6750, section 3.1).
fn challenge(refusal: &Refusal) -> Option<HeaderValue> {
    match refusal {
        Refusal::Unauthorized { challenge, why: None, .. } => HeaderValue::from_str(challenge).ok(),
        Refusal::Unauthorized { challenge, why: Some((_, sentence)), .. } if challenge.starts_with("Bearer") => {
            let text = format!("{challenge}, error=\"invalid_token\", error_description=\"{sentence}\"");
            HeaderValue::from_str(&text).ok()
        }
        Refusal::Unauthorized { challenge, .. } => HeaderValue::from_str(challenge).ok(),
        Refusal::Forbidden(missing) if !missing.scopes.is_empty() => {
            let scopes = missing.scopes.join(" ");
            let text = format!("Bearer realm=\"moongate\", error=\"insufficient_scope\", scope=\"{scopes}\"");
            HeaderValue::from_str(&text).ok()
        }
        _ => None,
    }
}

/// An empty head of this status.
pub(super) fn head(status: StatusCode) -> Box<ResponseHeader> {
    Box::new(ResponseHeader::build_no_case(status, Some(16)).expect("a status code is one"))
}

/// Says how long a whole body is, where an answer may say so.
pub(super) fn say_length(head: &mut ResponseHeader, body: &Bytes) {
    if head.status != StatusCode::NO_CONTENT && head.status != StatusCode::NOT_MODIFIED {
        let _ = head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
}

/// Sends an answer that is complete.
///
/// # Errors
/// When the client is gone.
pub(super) async fn send(client: &mut Client, mut head: Box<ResponseHeader>, body: Bytes) -> Result<(), ClientError> {
    say_length(&mut head, &body);
    let bodiless = body.is_empty() || client.request().method == Method::HEAD;
    client.send([Part::Head(head, bodiless), Part::Data(body), Part::End(None)]).await
}

/// The bytes of an answer to something that never became a request: what Pingora's parser refused, or
/// a head that did not arrive in time. HTTP/1.1, and the connection ends.
pub(super) fn raw(refusal: &Refusal, request_id: &RequestId, fields: &ResponseHeader) -> Vec<u8> {
    let error = ErrorBody::of(refusal);
    let body = error.json(request_id.as_str());
    let reason = error.status.canonical_reason().unwrap_or_default();
    let mut answer = format!("HTTP/1.1 {} {reason}\r\n", error.status.as_u16()).into_bytes();
    let mut field = |name: &str, value: &[u8]| {
        answer.extend_from_slice(name.as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value);
        answer.extend_from_slice(b"\r\n");
    };
    field(CONTENT_TYPE.as_str(), b"application/json");
    field(CONTENT_LENGTH.as_str(), body.len().to_string().as_bytes());
    field(DATE.as_str(), get_cached_date().as_bytes());
    field(CONNECTION.as_str(), b"close");
    for (name, value) in fields.headers.iter().filter(|(name, _)| *name != CONTENT_TYPE) {
        field(name.as_str(), value.as_bytes());
    }
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(&body);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_stands_for_one_thing_and_the_list_is_in_order() {
        let codes = error_codes();
        let mut names: Vec<_> = codes.iter().map(|it| it.code).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), codes.len());
        assert!(codes.is_sorted_by_key(|it| it.status));
    }

    #[test]
    fn s2s_41_every_refusal_has_a_status_and_a_message_of_grpc() {
        let mut request = RequestHeader::build("POST", b"/pkg.Service/Call", None).unwrap();
        request.insert_header(CONTENT_TYPE, "application/grpc+proto").unwrap();
        for why in Refusal::one_of_each() {
            let (answer, body) = refusal(&why, &RequestId::random(), &request);
            let field = |name: &str| answer.headers.get(name).map(|it| it.to_str().unwrap()).unwrap_or_default();
            assert_eq!((answer.status, body.len()), (StatusCode::OK, 0), "{why:?}");
            let status: u16 = field("grpc-status").parse().unwrap();
            assert!((3..=16).contains(&status), "{why:?} is UNKNOWN, or none at all: {status}");
            assert!(!field("grpc-message").is_empty(), "{why:?}");
            assert_eq!(field("content-type"), "application/grpc+proto");
        }
    }
}
