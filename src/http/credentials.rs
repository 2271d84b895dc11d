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

/// How the names of such fields begin that negotiate, describe a body, state a condition, that a browser adds, or the
/// gateway itself. What it says of a principal says nothing that the principal does not.
const HARMLESS_PREFIXES: [&str; 5] = ["accept-", "content-", "if-", "sec-", "x-moongate-"];

/// What such names have in them, wherever in a word it stands.
const TELLING: [&str; 25] = [
    "auth",
    "token",
    "session",
    "secret",
    "credential",
    "cookie",
    "apikey",
    "password",
    "passphrase",
    "passcode",
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

/// Short words count only as a whole: `x-org`, but not `origin`; `x-pin`, but not `x-ping`.
const TELLING_WORDS: [&str; 90] = [
    "accesskey",
    "actor",
    "appkey",
    "assertion",
    "badge",
    "bearer",
    "behalf",
    "beneficiary",
    "birthdate",
    "birthday",
    "caller",
    "caregiver",
    "carer",
    "cert",
    "child",
    "citizen",
    "claims",
    "company",
    "consumer",
    "cred",
    "creds",
    "csrf",
    "delegate",
    "dn",
    "dob",
    "doctor",
    "dpop",
    "email",
    "employee",
    "encounter",
    "eppn",
    "eptid",
    "family",
    "group",
    "groups",
    "guardian",
    "hmac",
    "hospital",
    "household",
    "insured",
    "jwt",
    "login",
    "mail",
    "mfa",
    "mrn",
    "nhs",
    "npi",
    "nurse",
    "org",
    "orgid",
    "orgs",
    "otp",
    "owner",
    "pass",
    "passkey",
    "passport",
    "passwd",
    "phone",
    "physician",
    "pin",
    "practice",
    "practitioner",
    "pupil",
    "pw",
    "pwd",
    "resident",
    "role",
    "roles",
    "scope",
    "scopes",
    "sid",
    "signature",
    "ssn",
    "staff",
    "student",
    "sub",
    "subject",
    "subscriber",
    "subscription",
    "subscriptionkey",
    "team",
    "teams",
    "ticket",
    "totp",
    "uid",
    "universalid",
    "upn",
    "ward",
    "workspace",
    "xsrf",
];

/// What a `key` may be of without saying who asks. A `provider`'s pays for an answer and does not choose it.
const PLAIN_KEYS: [&str; 11] = [
    "cache",
    "dedup",
    "idempotency",
    "order",
    "partition",
    "provider",
    "public",
    "routing",
    "sort",
    "surrogate",
    "trace",
];

/// What a `code` may be of without opening anything.
const PLAIN_CODES: [&str; 12] = [
    "area", "country", "currency", "error", "lang", "language", "locale", "postal", "region", "response", "status",
    "zip",
];

/// Whose `id` or `number` says for whom a request is.
const WHOSE_NUMBER: [&str; 14] = [
    "anonymous",
    "case",
    "client",
    "contract",
    "department",
    "device",
    "facility",
    "health",
    "insurance",
    "policy",
    "project",
    "provider",
    "visit",
    "visitor",
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
    has_telling_part(name.as_bytes()) || has_telling_word(name)
}

/// Whether one of [`TELLING`] stands anywhere. As a plain loop: searchers are made for longer texts, and this is for
/// every field that is not known by its name.
fn has_telling_part(name: &[u8]) -> bool {
    let begins = |rest: &[u8], part: &str| rest[0] == part.as_bytes()[0] && rest.starts_with(part.as_bytes());
    (0..name.len()).any(|at| TELLING.iter().any(|it| begins(&name[at..], it)))
}

fn has_telling_word(name: &str) -> bool {
    let mut before = "";
    name.split(|it: char| !it.is_ascii_alphanumeric()).any(|word| {
        let first = std::mem::replace(&mut before, word);
        match word {
            "key" | "keys" => !PLAIN_KEYS.contains(&first),
            "code" => !PLAIN_CODES.contains(&first),
            "id" | "number" | "no" | "nr" => WHOSE_NUMBER.contains(&first),
            _ => TELLING_WORDS.binary_search(&word).is_ok(),
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
    digest_of(headers, headers.keys().filter(open).collect())
}

/// A digest of those of these `claims` that are there and are no credentials, with their names; `None` if there are none.
pub fn claimed(headers: &HeaderMap, claims: &[HeaderName], impersonal: &[HeaderName]) -> Option<[u8; 32]> {
    let open = |it: &&HeaderName| headers.contains_key(*it) && !impersonal.contains(it) && !is_credential(it);
    digest_of(headers, claims.iter().filter(open).collect())
}

fn digest_of(headers: &HeaderMap, mut names: Vec<&HeaderName>) -> Option<[u8; 32]> {
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
            "ocp-apim-subscription-key",
            "x-functions-key",
            "x-access-key",
            "x-app-key",
            "x-key",
            "x-password",
            "x-passcode",
            "x-pass",
            "x-pin",
            "x-access-code",
            "x-sid",
            "sid",
            "dpop",
            "x-ticket",
            "x-assertion",
            "x-bearer",
            "x-passport",
            "x-subscriber-id",
            "x-resident",
            "x-encounter-id",
            "x-visit-id",
            "x-case-id",
            "x-health-id",
            "x-insurance-id",
            "x-policy-number",
            "x-student",
            "x-child-id",
            "x-doctor",
            "x-nurse",
            "x-guardian",
            "iv-creds",
            "sm_universalid",
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
            "accept-charset",
            "accept-profile",
            "cache-control",
            "content-profile",
            "content-digest",
            "if-match",
            "if-range",
            "if-unmodified-since",
            "tracestate",
            "x-correlation-id",
            "x-amzn-trace-id",
            "x-requested-with",
            "x-idempotency-key",
            "x-cache-key",
            "x-provider-key",
            "surrogate-key",
            "public-key-pins",
            "x-country-code",
            "x-ping",
            "x-case",
            "x-health",
            "x-encoding",
            "x-compass",
            "sec-fetch-user",
            "grpc-timeout",
            "grpc-encoding",
            "priority",
            "x-b3-sampled",
            "cdn-loop",
            "cf-ray",
            "cf-ipcountry",
            "cloudfront-viewer-country",
            "x-amz-cf-id",
            "x-azure-ref",
            "x-cloud-trace-context",
            "x-datadog-parent-id",
            "newrelic",
            "sentry-trace",
            "baggage",
            "x-request-start",
            "x-queue-start",
            "device-memory",
            "viewport-width",
            "save-data",
            "downlink",
            "purpose",
            "early-data",
            "last-event-id",
            "upgrade-insecure-requests",
            "want-repr-digest",
            "prefer",
            "soapaction",
            "connect-protocol-version",
            "x-grpc-web",
            "x-client-version",
            "x-client-name",
            "x-app-version",
            "x-build-number",
            "x-page-number",
            "x-platform",
            "x-device-type",
            "x-timezone",
            "x-locale",
            "x-currency-code",
        ] {
            assert!(!is_credential(&HeaderName::from_static(name)), "{name}");
        }
    }

    #[test]
    fn words_can_be_looked_up() {
        assert!(TELLING_WORDS.is_sorted());
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
