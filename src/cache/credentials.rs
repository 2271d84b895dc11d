//! Which fields are credentials: they say who the caller is.
//!
//! A response to such a request is that caller's own, until the response says otherwise. Which fields an upstream
//! goes by can't be known, so names that sound like it count: at worst a response is not kept that could have
//! been.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE,
    COOKIE, HOST, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, ORIGIN, RANGE, REFERER, USER_AGENT,
};

/// Fields that most requests have, and that say nothing of the kind.
const HARMLESS: [HeaderName; 14] = [
    HOST,
    USER_AGENT,
    ACCEPT,
    ACCEPT_ENCODING,
    ACCEPT_LANGUAGE,
    CONNECTION,
    CACHE_CONTROL,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    RANGE,
    ORIGIN,
    REFERER,
];

/// How the names of such fields begin that a browser adds, or the gateway itself. What it says of a principal says
/// nothing that the principal does not.
const HARMLESS_PREFIXES: [&str; 5] =
    ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "sec-", "x-moongate-"];

/// What such names are made of.
const TELLING: [&str; 15] = [
    "auth",
    "token",
    "session",
    "secret",
    "credential",
    "cookie",
    "api-key",
    "api_key",
    "apikey",
    "jwt",
    "user",
    "tenant",
    "account",
    "identity",
    "player",
];

/// Whether a field of this name may say who the caller is.
pub(super) fn is_credential(field: &HeaderName) -> bool {
    if HARMLESS.contains(field) {
        return false;
    }
    if *field == AUTHORIZATION || *field == COOKIE {
        return true;
    }
    let name = field.as_str();
    !HARMLESS_PREFIXES.iter().any(|it| name.starts_with(it)) && TELLING.iter().any(|it| name.contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r9_2_names_that_sound_like_a_person_count() {
        for name in [
            "authorization",
            "cookie",
            "proxy-authorization",
            "x-api-key",
            "apikey",
            "x_api_key",
            "x-session-id",
            "x-csrf-token",
            "x-forwarded-user",
            "x-user-id",
            "x-tenant",
            "x-amz-security-token",
            "x-player-id",
            "x-ms-client-principal-jwt",
        ] {
            assert!(is_credential(&HeaderName::from_static(name)), "{name}");
        }
        for name in [
            "host",
            "user-agent",
            "accept",
            "accept-language",
            "x-request-id",
            "traceparent",
            "x-forwarded-for",
            "sec-websocket-key",
            "sec-ch-ua",
            "idempotency-key",
            "if-none-match",
            "range",
            "dnt",
            "x-api-version",
            "x-moongate-tenant",
        ] {
            assert!(!is_credential(&HeaderName::from_static(name)), "{name}");
        }
    }
}
