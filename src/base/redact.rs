//! What looks like a credential, wherever it turns up: by the names that credentials go by, and by the shapes of
//! known keys.
//!
//! Names are compared decoded, without case and without what separates words: `X-Api-Key`, `api_key` and `%61piKey`
//! are one. Long texts that merely look random are not redacted: identifiers and digests of content do, too.

use std::borrow::Cow;
use std::ops::Range;

/// What is shown in the place of what must not be (S2S-29).
pub const REDACTED: &str = "_REDACTED_";

/// Names with one of these in them.
const NAME_PARTS: [&str; 19] = [
    "accesskey",
    "apikey",
    "authkey",
    "authorization",
    "cookie",
    "credential",
    "functionskey",
    "masterkey",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "secret",
    "session",
    "sharedkey",
    "signature",
    "signingkey",
    "subscriptionkey",
    "token",
];

/// Names that are one of these as a whole.
const NAMES: [&str; 15] = [
    "assertion",
    "auth",
    "bearer",
    "code",
    "jwt",
    "key",
    "oauth",
    "otp",
    "pass",
    "pin",
    "pw",
    "pwd",
    "sid",
    "sig",
    "xauth",
];

/// No longer name is looked at: it is none that anybody has given.
const NAME_MAX: usize = 128;

/// Whether a header field or a parameter of this name carries a credential.
pub fn names_credential(name: &[u8]) -> bool {
    let plain = |it: &u8| it.is_ascii_alphanumeric().then(|| char::from(it.to_ascii_lowercase()));
    let name: String = name.iter().take(NAME_MAX).filter_map(plain).collect();
    NAMES.contains(&name.as_str()) || NAME_PARTS.iter().any(|it| name.contains(it))
}

/// What a known key begins with, and how many letters follow at least; one of them is a digit where the beginning
/// could be that of a word.
struct Shape {
    prefix: &'static str,
    rest: usize,
    digit: bool,
}

const fn shape(prefix: &'static str, rest: usize) -> Shape {
    Shape { prefix, rest, digit: false }
}

const fn with_digit(prefix: &'static str, rest: usize) -> Shape {
    Shape { prefix, rest, digit: true }
}

/// As their makers document them.
const SHAPES: [Shape; 44] = [
    with_digit("aiza", 30),
    with_digit("akia", 16),
    with_digit("asia", 16),
    shape("dop_v1_", 16),
    shape("ghp_", 8),
    shape("gho_", 8),
    shape("ghu_", 8),
    shape("ghs_", 8),
    shape("ghr_", 8),
    shape("github_pat_", 8),
    shape("gldt-", 8),
    shape("glpat-", 8),
    shape("glrt-", 8),
    shape("hf_", 20),
    shape("npm_", 20),
    with_digit("pypi-", 20),
    shape("rk-live-", 2),
    shape("rk_live_", 2),
    shape("rk_test_", 2),
    with_digit("sg.", 20),
    shape("shpat_", 8),
    shape("shpss_", 8),
    shape("sk-admin-", 2),
    shape("sk-ant-", 2),
    shape("sk-live-", 2),
    shape("sk-or-", 2),
    shape("sk-proj-", 2),
    shape("sk-svcacct-", 2),
    shape("sk-test-", 2),
    with_digit("sk-", 12),
    shape("sk_live_", 2),
    shape("sk_test_", 2),
    shape("whsec_", 8),
    shape("xapp-", 8),
    shape("xoxa-", 8),
    shape("xoxb-", 8),
    shape("xoxc-", 8),
    shape("xoxd-", 8),
    shape("xoxe-", 8),
    shape("xoxo-", 8),
    shape("xoxp-", 8),
    shape("xoxr-", 8),
    shape("xoxs-", 8),
    shape("ya29.", 16),
];

/// A letter of a word; a key stands at a word's beginning.
const WORD: u8 = 1;
/// The first letter of some shape.
const FIRST: u8 = 2;
/// What calls for a closer look: an escape, a parameter, credentials in an authority.
const DOUBT: u8 = 4;

/// One look at a byte says all that an ordinary target needs.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let it = byte as u8;
        if it.is_ascii_alphanumeric() || it == b'-' || it == b'_' || it == b'.' {
            classes[byte] |= WORD;
        }
        if it == b'%' || it == b'=' || it == b'@' {
            classes[byte] |= DOUBT;
        }
        byte += 1;
    }
    let mut number = 0;
    while number < SHAPES.len() {
        let first = SHAPES[number].prefix.as_bytes()[0];
        classes[first as usize] |= FIRST;
        classes[first.to_ascii_uppercase() as usize] |= FIRST;
        number += 1;
    }
    // JSON Web Tokens, and API keys of this gateway.
    let mut own = 0;
    while own < 4 {
        classes[b"eEmM"[own] as usize] |= FIRST;
        own += 1;
    }
    classes
};

fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// How long the key is that `text` begins with, if it begins with one.
fn key_length(text: &[u8]) -> Option<usize> {
    let first = text.first()?.to_ascii_lowercase();
    // Of most texts the second letter says that they are none: what follows is not for every segment of every path.
    let second = text.get(1)?.to_ascii_lowercase();
    let own = (first == b'e' && second == b'y') || (first == b'm' && second == b'g');
    if !own && !SHAPES.iter().any(|it| it.prefix.as_bytes()[0] == first && it.prefix.as_bytes()[1] == second) {
        return None;
    }
    key_at(text)
}

#[cold]
fn key_at(text: &[u8]) -> Option<usize> {
    let length = text.iter().position(|it| !is(*it, WORD) && !b"+/=~".contains(it)).unwrap_or(text.len());
    let key = &text[..length];
    let begins = |prefix: &str| key.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix.as_bytes()));
    let known = |shape: &Shape| {
        begins(shape.prefix)
            && key.len() >= shape.prefix.len() + shape.rest
            && (!shape.digit || key[shape.prefix.len()..].iter().any(u8::is_ascii_digit))
    };
    // A header in base64, a dot, and what is signed or sealed (RFC 7515, RFC 7516).
    let token = || begins("eyj") && key.len() >= 20 && key.contains(&b'.');
    // `mg_`, an id, `_`, and a secret of at least 16 letters.
    let own = || begins("mg_") && key[3..].iter().position(|it| *it == b'_').is_some_and(|it| key.len() - it >= 20);
    (SHAPES.iter().any(known) || token() || own()).then_some(length)
}

/// Where known keys stand in a text, and what stands before the `@` of a URL.
pub fn credentials_in(text: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let begins = at == 0 || !is(text[at - 1], WORD);
        let length = if begins && is(text[at], FIRST) { key_length(&text[at..]) } else { None };
        if let Some(length) = length {
            found.push(at..at + length);
            at += length;
            continue;
        }
        if let Some(length) = text[at..].strip_prefix(b"://").and_then(userinfo) {
            found.push(at + 3..at + 3 + length);
            at += 3 + length;
            continue;
        }
        at += 1;
    }
    found
}

/// How much of an authority stands before its `@` (RFC 3986, section 3.2.1). A password may hold what should have
/// been escaped, so the last one counts; a blank or a quote ends every URL.
fn userinfo(authority: &[u8]) -> Option<usize> {
    let end = authority.iter().position(|it| it.is_ascii_whitespace() || b"\"'`<>".contains(it));
    let authority = &authority[..end.unwrap_or(authority.len())];
    let path = authority.iter().position(|it| b"/?#".contains(it)).unwrap_or(authority.len());
    authority[..path].iter().rposition(|it| *it == b'@')
}

/// A text for people without the [credentials](credentials_in) in it.
pub fn without_credentials(text: &str) -> Cow<'_, str> {
    let found = credentials_in(text.as_bytes());
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    let mut done = 0;
    for Range { start, end } in found {
        // Keys are ASCII, and an authority begins and ends beside ASCII.
        safe.push_str(&text[done..start]);
        safe.push_str(REDACTED);
        done = end;
    }
    safe.push_str(&text[done..]);
    Cow::Owned(safe)
}

/// A request's target as a log may have it: without segments that have the shape of a key, and without the values of
/// parameters that are named like credentials, in the path and in the query. For an ordinary one, a look at each byte.
pub fn redacted_target(target: &[u8]) -> Cow<'_, [u8]> {
    let mut begins = true;
    for (at, byte) in target.iter().enumerate() {
        if is(*byte, DOUBT) || (begins && is(*byte, FIRST) && key_length(&target[at..]).is_some()) {
            return closely(target);
        }
        begins = !is(*byte, WORD);
    }
    Cow::Borrowed(target)
}

#[cold]
fn closely(target: &[u8]) -> Cow<'_, [u8]> {
    let mut safe = Vec::with_capacity(target.len());
    for piece in target.split_inclusive(|it| is_separator(*it)) {
        let (piece, separator) = match piece.split_last() {
            Some((last, rest)) if is_separator(*last) => (rest, Some(*last)),
            _ => (piece, None),
        };
        match piece.iter().position(|it| *it == b'=') {
            Some(equals) if names_credential(&decoded(&piece[..equals])) => {
                safe.extend_from_slice(&piece[..=equals]);
                safe.extend_from_slice(REDACTED.as_bytes());
            }
            _ if betrays(piece, 0) => safe.extend_from_slice(REDACTED.as_bytes()),
            _ => safe.extend_from_slice(piece),
        }
        safe.extend(separator);
    }
    if safe == target { Cow::Borrowed(target) } else { Cow::Owned(safe) }
}

/// What is escaped once more than it had to be is looked at as often.
const DECODED_MAX: usize = 3;

fn is_separator(byte: u8) -> bool {
    b"/?&;#".contains(&byte)
}

/// Whether there is a credential in a piece of a target, however often it is escaped: a URL may be a parameter.
fn betrays(piece: &[u8], depth: usize) -> bool {
    let named = |it: &[u8]| it.iter().position(|it| *it == b'=').is_some_and(|end| names_credential(&it[..end]));
    // `user:password@host` in a path that holds a URL.
    let authority = |it: &[u8]| {
        let at = it.iter().position(|it| *it == b'@');
        at.is_some_and(|at| it[..at].contains(&b':') && !it.starts_with(b"mailto:"))
    };
    !credentials_in(piece).is_empty()
        || piece.split(|it| is_separator(*it)).any(|it| named(it) || authority(it))
        || (piece.contains(&b'%') && depth < DECODED_MAX && betrays(&decoded(piece), depth + 1))
}

/// Escapes undone (RFC 3986, section 2.1); one that is none stands for itself.
fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let digit = |it: u8| char::from(it).to_digit(16).map(|it| it as u8);
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let escaped = match behind {
            [high, low, ..] if *first == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        plain.push(escaped.map_or(*first, |(high, low)| high << 4 | low));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(target: &str, expected: &str) {
        assert_eq!(String::from_utf8_lossy(&redacted_target(target.as_bytes())), expected, "{target}");
    }

    #[track_caller]
    fn same(target: &str) {
        check(target, target);
    }

    #[test]
    fn segments_with_the_shape_of_a_key_are_redacted() {
        check("/v1/keys/sk-live-4f9a/x", "/v1/keys/_REDACTED_/x");
        check("/SK_LIVE_4f9a", "/_REDACTED_");
        check("/v1/s%6B-live-4f9a/x", "/v1/_REDACTED_/x");
        check("/v1/s%256B-live-4f9a/x", "/v1/_REDACTED_/x");
        check("/a/AKIAIOSFODNN7EXAMPLE", "/a/_REDACTED_");
        check("/a/ghp_0123456789abcdef;v=1", "/a/_REDACTED_;v=1");
        check("/t/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "/t/_REDACTED_");
        check("/k/mg_k1_0123456789abcdef", "/k/_REDACTED_");
        check("/fetch/https://user:pass@host/x", "/fetch/https://_REDACTED_/x");
        check("/fetch/https%3A%2F%2Fuser%3Apass%40host", "/fetch/_REDACTED_");
    }

    #[test]
    fn values_of_parameters_named_like_credentials_are_redacted() {
        check("/x?api_key=1&page=2", "/x?api_key=_REDACTED_&page=2");
        check("/x?page=2&%61pi%2Dkey=1", "/x?page=2&%61pi%2Dkey=_REDACTED_");
        check("/x?X-Amz-Signature=a&X-Amz-Date=b", "/x?X-Amz-Signature=_REDACTED_&X-Amz-Date=b");
        check("/x;TOKEN=1/y", "/x;TOKEN=_REDACTED_/y");
        check("/x?next=%2Fy%3Faccess_token%3Dabc", "/x?_REDACTED_");
        check("/x?id=sk-live-4f9a", "/x?_REDACTED_");
        for name in ["code", "sig", "client_secret", "refresh_token", "id_token", "Password", "key", "auth"] {
            check(&format!("/x?{name}=1"), &format!("/x?{name}=_REDACTED_"));
        }
    }

    #[test]
    fn ordinary_targets_stay_as_they_are() {
        for target in [
            "/",
            "/players/7/notes/2f1c0a52-5b7e-4a8e-9a53-0d9f5f0c7a11",
            "/assets/app.3f2a9b1c8d7e6f5a4b3c2d1e0f9a8b7c.js",
            "/sk-learn/tutorial",
            "/asia/world-expo/2024",
            "/x?keyword=a&page=2&sort=key&state=open",
            "/caf%C3%A9/%zz/%",
            "/mail/ada@example.org",
            "/geo:1,2;u=35",
            "*",
            "",
        ] {
            same(target);
        }
    }

    #[test]
    fn texts_for_people_lose_keys_and_what_opens_urls() {
        let text = "cannot reach redis://ada:p@ss@host:6379/0 with `sk-live-4f9a`";
        let safe = "cannot reach redis://_REDACTED_@host:6379/0 with `_REDACTED_`";
        assert_eq!(without_credentials(text), safe);
        assert!(matches!(without_credentials("see http://host/a@b"), Cow::Borrowed(_)));
    }

    #[test]
    fn names_are_compared_without_case_and_separators() {
        for name in ["Authorization", "Cookie", "Set-Cookie", "X-API-Key", "Proxy-Authorization", "x-auth-token"] {
            assert!(names_credential(name.as_bytes()), "{name}");
        }
        for name in ["x-level", "accept", "keyword", "idempotency-key", "x-request-id", "barcode"] {
            assert!(!names_credential(name.as_bytes()), "{name}");
        }
    }
}
