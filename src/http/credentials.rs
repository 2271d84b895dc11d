//! Which fields are credentials: they say who the caller is, or for whom.
//!
//! Which fields an upstream goes by can't be known, so names that sound like a person or a group count: at worst a
//! response is not shared that could have been. A route that knows better says so (`impersonal`).

use aws_lc_rs::digest::{Context, SHA256};
use http::HeaderMap;
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
const HARMLESS_PREFIXES: [&str; 2] = ["sec-", "x-moongate-"];

/// What such names have in them, wherever in a word it stands.
const TELLING: [&str; 22] = [
    "auth",
    "token",
    "session",
    "secret",
    "credential",
    "cookie",
    "apikey",
    "user",
    "tenant",
    "account",
    "identity",
    "player",
    "customer",
    "patient",
    "clinic",
    "member",
    "person",
    "profile",
    "organi",
    "permission",
    "impersonat",
    "principal",
];

/// Whether a field of this name may say who the caller is, or for whom.
pub fn is_credential(field: &HeaderName) -> bool {
    if HARMLESS.contains(field) {
        return false;
    }
    if *field == AUTHORIZATION || *field == COOKIE {
        return true;
    }
    let name = field.as_str();
    if HARMLESS_PREFIXES.iter().any(|it| name.starts_with(it)) {
        return false;
    }
    TELLING.iter().any(|it| name.contains(it)) || has_telling_word(name)
}

/// Short words count only as a whole: `x-org`, but not `origin`.
fn has_telling_word(name: &str) -> bool {
    let mut before = "";
    name.split(|it: char| !it.is_ascii_alphanumeric()).any(|word| {
        let first = std::mem::replace(&mut before, word);
        match word {
            "org" | "orgs" | "orgid" | "company" | "team" | "teams" | "group" | "groups" | "workspace" | "practice"
            | "hospital" | "role" | "roles" | "scope" | "scopes" | "claims" | "email" | "mail" | "login" | "uid"
            | "sub" | "subject" | "owner" | "actor" | "caller" | "consumer" | "behalf" | "staff" | "employee"
            | "mrn" | "nhs" | "ssn" | "phone" | "jwt" | "cert" | "dn" | "csrf" | "xsrf" | "signature" | "hmac" => true,
            "key" => first == "api",
            "id" => matches!(first, "client" | "device"),
            _ => false,
        }
    })
}

/// A digest of all credentials among these fields that nobody here has verified, with their names; `None` if there are
/// none. `verified` is the field that proved the principal, `impersonal` are those that the route knows to be none.
pub fn unverified_credentials(
    headers: &HeaderMap,
    verified: Option<&HeaderName>,
    impersonal: &[HeaderName],
) -> Option<[u8; 32]> {
    let open = |it: &&HeaderName| verified != Some(*it) && !impersonal.contains(it) && is_credential(it);
    let mut names: Vec<&HeaderName> = headers.keys().filter(open).collect();
    if names.is_empty() {
        return None;
    }
    // A client may send the same fields in another order.
    names.sort_unstable_by_key(|it| it.as_str());
    let mut context = Context::new(&SHA256);
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    for name in names {
        let lines = headers.get_all(name);
        part(name.as_str().as_bytes());
        part(&(lines.iter().count() as u64).to_be_bytes());
        lines.iter().for_each(|it| part(it.as_bytes()));
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn r9_2_names_that_sound_like_a_person_or_a_group_count() {
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
            "x-forwarded-for-user",
            "x-forwarded-email",
            "x-forwarded-client-cert",
            "x-user-id",
            "x-tenant",
            "x-amz-security-token",
            "x-player-id",
            "x-ms-client-principal-jwt",
            "x-org",
            "x-org-id",
            "x-organization",
            "x-customer",
            "x-customerid",
            "x-patient-id",
            "x-email",
            "x-member",
            "x-role",
            "x-roles",
            "x-account",
            "x-group",
            "x_team",
            "x-client-id",
            "x-on-behalf-of",
            "ssl-client-s-dn",
            "remote-user",
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
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-port",
            "origin",
            "x-original-url",
            "x-client-version",
            "x-controller",
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

    fn digest(fields: &[(&'static str, &'static str)]) -> Option<[u8; 32]> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        unverified_credentials(&headers, Some(&AUTHORIZATION), &[HeaderName::from_static("x-role")])
    }

    #[test]
    fn a_digest_is_of_all_that_nobody_has_verified() {
        assert_eq!(digest(&[("accept", "a"), ("authorization", "a"), ("x-role", "a")]), None);
        let anne = digest(&[("cookie", "anne")]);
        assert!(anne.is_some());
        assert_eq!(anne, digest(&[("cookie", "anne"), ("authorization", "b"), ("accept", "b"), ("x-role", "b")]));
        assert_eq!(digest(&[("cookie", "a"), ("x-user", "b")]), digest(&[("x-user", "b"), ("cookie", "a")]));
        for other in [
            &[("cookie", "ben")][..],
            &[("x-user", "anne")],
            &[("cookie", "an"), ("cookie", "ne")],
            &[("cookie", "anne"), ("cookie", "")],
            &[("cookie", "anne"), ("x-user", "")],
        ] {
            assert_ne!(anne, digest(other), "{other:?}");
        }
    }
}
