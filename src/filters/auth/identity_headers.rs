//! The identity headers: what upstreams receive about the caller, a fixed list of fields, from the gateway alone
//! (R4.2).

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};

use crate::identity::{Fields, Principal};

const SUBJECT: HeaderName = HeaderName::from_static("x-moongate-subject");
const TENANT: HeaderName = HeaderName::from_static("x-moongate-tenant");
const ROLES: HeaderName = HeaderName::from_static("x-moongate-roles");
const SCOPES: HeaderName = HeaderName::from_static("x-moongate-scopes");
const METHOD: HeaderName = HeaderName::from_static("x-moongate-auth-method");
const IDENTITY: HeaderName = HeaderName::from_static("x-moongate-identity");

/// The identity headers of a principal, with the token that proves them.
pub(in crate::filters) fn fields(principal: &Principal, identity_token: Option<String>) -> Arc<Fields> {
    let mut fields = Vec::with_capacity(6);
    let mut field = |name: HeaderName, value: &str| fields.extend(HeaderValue::from_str(value).map(|it| (name, it)));
    field(SUBJECT, &escaped(&principal.subject));
    if let Some(tenant) = &principal.tenant {
        field(TENANT, &escaped(tenant));
    }
    if !principal.roles.is_empty() {
        field(ROLES, &listed(&principal.roles, ","));
    }
    if !principal.scopes.is_empty() {
        field(SCOPES, &listed(&principal.scopes, " "));
    }
    field(METHOD, principal.kind.as_str());
    let identity_token = identity_token.and_then(|it| HeaderValue::from_maybe_shared(Bytes::from(it)).ok());
    fields.extend(identity_token.map(|it| (IDENTITY, it)));
    fields.into()
}

fn listed(words: &[Arc<str>], between: &str) -> String {
    words.iter().map(|it| escaped(it)).collect::<Vec<_>>().join(between)
}

/// What is not plain is written as in a URI: blanks at an end would be lost, and who reads bytes beyond ASCII in
/// which way nobody knows.
fn escaped(text: &str) -> Cow<'_, str> {
    let plain = |it: u8| it.is_ascii_graphic() && !b"%,".contains(&it);
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if plain(byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_value_whatever_is_in_it() {
        for (name, told) in [
            ("ada", "ada"),
            ("auth0|5f7", "auth0|5f7"),
            ("ada ", "ada%20"),
            ("a,b", "a%2Cb"),
            ("50%", "50%25"),
            ("Ada Łovelace", "Ada%20%C5%81ovelace"),
        ] {
            assert_eq!(escaped(name), told);
        }
    }
}
