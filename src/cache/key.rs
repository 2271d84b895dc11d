//! What makes two requests the same: target, route, whose they are, and the fields that responses depend on.
//!
//! Keys are compared as a whole, not by a hash: no two requests can be taken for one another. Each part
//! is preceded by its length, so that no part can pretend to be two.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName};
use http::{HeaderMap, Method, Uri};
use pingora::http::RequestHeader;

use crate::cache::body;
use crate::cache::config::{Per, Rules};
use crate::cache::freshness::Credentials;
use crate::http::{claimed, is_credential, unverified_credentials};
use crate::identity::{Caller, CallerKey, Principal};

/// What trusted proxies say of a client's address beside its scheme and host.
const PROXIED: [HeaderName; 2] =
    [HeaderName::from_static("x-forwarded-port"), HeaderName::from_static("x-forwarded-prefix")];

/// The target that a client requested, before its route changed any of it: `api.example.org/players/7?x=1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    text: Arc<str>,
    /// Where the path begins.
    host: usize,
    https: bool,
}

/// A request, as far as the cache is concerned. The head is that which the upstream gets.
#[derive(Clone, Copy, Debug)]
pub struct CacheRequest<'a> {
    /// The target that the client requested.
    pub target: &'a Target,
    /// The method.
    pub method: &'a Method,
    /// The fields.
    pub headers: &'a HeaderMap,
    /// The caller.
    pub principal: Option<&'a Principal>,
    /// The field whose credential proved the caller.
    pub verified: Option<&'a HeaderName>,
    /// Fields that claim who is asking, or that this is another request, and that the upstream gets.
    pub claims: &'a [HeaderName],
    /// The body, if [`Rules::needs_body`] says that it is needed.
    pub body: Option<&'a [u8]>,
    /// The upstream that it goes to, where several share the route's requests.
    pub part: Option<&'a str>,
}

impl<'a> CacheRequest<'a> {
    /// A request for this target.
    pub fn new(
        target: &'a Target,
        request: &'a RequestHeader,
        (principal, verified): (Option<&'a Principal>, Option<&'a HeaderName>),
        claims: &'a [HeaderName],
        body: Option<&'a [u8]>,
    ) -> Self {
        let (method, headers) = (&request.method, &request.headers);
        Self { target, method, headers, principal, verified, claims, body, part: None }
    }

    /// The same, at this part of a split.
    pub fn at_part(self, part: Option<&'a str>) -> Self {
        Self { part, ..self }
    }
}

/// The request has no response that could be kept: it shows credentials, and they name nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nobody;

impl Target {
    /// The target of a request: its scheme, its host, and `uri`, as the client sent it.
    pub fn of(https: bool, request: &RequestHeader, uri: &Uri) -> Self {
        let field = request.headers.get(HOST).and_then(|it| it.to_str().ok());
        Self::new(https, field.or_else(|| Some(request.uri.authority()?.as_str())).unwrap_or_default(), uri)
    }

    /// `host` is that of the request, or none.
    pub fn new(https: bool, host: &str, uri: &Uri) -> Self {
        let path = uri.path_and_query().map_or("/", |it| it.as_str());
        let mut text = String::with_capacity(host.len() + path.len());
        text.push_str(host);
        text.make_ascii_lowercase();
        text.push_str(path);
        Self { host: host.len(), text: text.into(), https }
    }

    /// A target that another one names in `Location` or `Content-Location`: only what has the same host is
    /// invalidated with it (RFC 9111, section 4.4).
    pub(super) fn beside(&self, reference: &str) -> Option<Self> {
        let uri: Uri = reference.parse().ok()?;
        let path = uri.path_and_query()?.as_str();
        let same = uri.authority().is_none_or(|it| it.as_str().eq_ignore_ascii_case(self.host()));
        (same && path.starts_with('/')).then(|| Self::new(self.https, self.host(), &uri))
    }

    /// The host, in small letters.
    pub fn host(&self) -> &str {
        &self.text[..self.host]
    }

    /// Path and query.
    pub fn path(&self) -> &str {
        &self.text[self.host..]
    }

    /// Host and path: what a purge by key names.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn parts(&self) -> (Arc<str>, usize, bool) {
        (self.text.clone(), self.host, self.https)
    }

    pub(super) fn from_parts(text: &str, host: usize, https: bool) -> Option<Self> {
        text.is_char_boundary(host).then(|| Self { text: text.into(), host, https })
    }
}

/// The key of a request, before the response's own `Vary` is known.
pub(super) fn primary(rules: &Rules, request: &CacheRequest<'_>) -> Result<(Vec<u8>, Credentials), Nobody> {
    let mut key = Vec::with_capacity(256);
    let at_part = request.part.filter(|_| !rules.across_split);
    key.push(u8::from(request.target.https) | u8::from(rules.by_body) << 1 | u8::from(at_part.is_some()) << 2);
    at_part.iter().for_each(|it| part(&mut key, it.as_bytes()));
    part(&mut key, rules.route.as_bytes());
    part(&mut key, request.target.host().as_bytes());
    part(&mut key, request.target.path().as_bytes());
    // Where a trusted proxy says these, upstreams write addresses with them.
    for field in PROXIED.iter().filter(|it| request.headers.contains_key(*it)) {
        vary(std::slice::from_ref(field), request.headers, &mut key);
    }
    // Those that are credentials count as such.
    optional(&mut key, claimed(request.headers, request.claims, &rules.impersonal).as_ref().map(|it| &it[..]));
    if rules.by_body {
        part(&mut key, request.method.as_str().as_bytes());
        let media = media(request.headers, &mut key);
        // The same bytes in another coding are another input.
        vary(&[CONTENT_ENCODING], request.headers, &mut key);
        key.extend_from_slice(&body::fingerprint(media, request.body.unwrap_or_default()));
    }
    let credentials = scope(rules, request, &mut key)?;
    vary(&rules.vary, request.headers, &mut key);
    Ok((key, credentials))
}

/// The type of a body, all of whose lines are in the key; of two, nobody knows which one counts.
fn media<'h>(headers: &'h HeaderMap, key: &mut Vec<u8>) -> Option<&'h [u8]> {
    let lines = headers.get_all(CONTENT_TYPE);
    key.push(u8::try_from(lines.iter().count()).unwrap_or(u8::MAX));
    lines.iter().for_each(|it| part(key, it.as_bytes()));
    let mut lines = lines.iter();
    lines.next().filter(|_| lines.next().is_none()).map(|it| it.as_bytes())
}

/// Makes a primary key that of the variant for these fields.
pub(super) fn variant(key: &mut Vec<u8>, fields: &[HeaderName], headers: &HeaderMap) {
    key.push(b'v');
    vary(fields, headers, key);
}

/// Whose responses these are.
fn scope(rules: &Rules, request: &CacheRequest<'_>, key: &mut Vec<u8>) -> Result<Credentials, Nobody> {
    match (rules.per, request.principal) {
        (Some(Per::Public), _) => key.push(b'p'),
        (Some(Per::User), Some(principal)) => {
            key.push(b'u');
            // A service may carry credentials of many: an upstream could go by those.
            let unverified = unverified_credentials(request.headers, request.verified, &rules.impersonal);
            identity(Caller { principal: Some(principal), unverified }, key);
        }
        (Some(Per::Tenant), Some(principal)) => {
            let CallerKey { tag, parts } = principal.tenant_key().ok_or(Nobody)?;
            key.extend_from_slice(&[b't', tag]);
            parts.iter().for_each(|it| part(key, it));
        }
        (Some(_), None) if request.headers.keys().any(|it| rules.is_credential(it)) => return Err(Nobody),
        (Some(_), None) => key.push(b'a'),
        (None, principal) => {
            key.push(b'n');
            let mine = principal.filter(|_| rules.parts_by_credentials());
            if let Some(principal) = mine {
                identity(Caller { principal: Some(principal), unverified: None }, key);
            }
            let open = |field: &HeaderName| rules.is_credential(field) && !rules.parts_by(field);
            let outside_key = principal.is_some() && mine.is_none() || request.headers.keys().any(open);
            return Ok(Credentials { outside_key });
        }
    }
    Ok(Credentials::default())
}

fn identity(caller: Caller<'_>, key: &mut Vec<u8>) {
    caller.key(|it| part(key, it));
    // What a token is limited to may limit the response.
    for words in caller.principal.iter().flat_map(|it| [&it.roles, &it.scopes]) {
        key.extend_from_slice(&u32::try_from(words.len()).unwrap_or(u32::MAX).to_be_bytes());
        words.iter().for_each(|it| part(key, it.as_bytes()));
    }
}

fn vary(fields: &[HeaderName], headers: &HeaderMap, key: &mut Vec<u8>) {
    for field in fields {
        part(key, field.as_str().as_bytes());
        let value = value(field, headers);
        match value {
            // What proves who somebody is stays out of keys, which operators may see.
            Some(value) if is_credential(field) => optional(key, Some(digest(&SHA256, &value).as_ref())),
            value => optional(key, value.as_deref()),
        }
    }
}

/// A field's value in one line, without blanks around its members; what is not there is not what is empty.
fn value(field: &HeaderName, headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut lines = headers.get_all(field).iter().peekable();
    lines.peek()?;
    let mut whole = Vec::new();
    for line in lines {
        if is_credential(field) {
            part(&mut whole, line.as_bytes()); // every byte counts, and every line
            continue;
        }
        for member in line.as_bytes().split(|it| *it == b',') {
            whole.extend_from_slice(member.trim_ascii());
            whole.push(b',');
        }
    }
    if *field == ACCEPT_ENCODING {
        whole.make_ascii_lowercase();
        whole.retain(|it| *it != b' ');
    }
    Some(whole)
}

fn part(key: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    key.extend_from_slice(&length.to_be_bytes());
    key.extend_from_slice(bytes);
}

fn optional(key: &mut Vec<u8>, bytes: Option<&[u8]>) {
    key.push(u8::from(bytes.is_some()));
    part(key, bytes.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{At, Diagnostics};
    use crate::cache::config::CacheConfig;
    use crate::identity::Kind;
    use http::header::AUTHORIZATION;

    fn rules(yaml: &str) -> Rules {
        let config: CacheConfig = serde_yaml::from_str(yaml).unwrap();
        Rules::compile("a", &config, &[], &At::ROOT, &mut Diagnostics::default())
    }

    fn somebody(kind: Kind, subject: &str, tenant: Option<&str>) -> Principal {
        Principal { tenant: tenant.map(Into::into), ..Principal::new(kind, subject) }
    }

    #[derive(Clone, Copy, Default)]
    struct Case<'a> {
        target: &'a str,
        headers: &'a [(&'a str, &'a str)],
        claims: &'a [HeaderName],
        principal: Option<&'a Principal>,
        body: Option<&'a [u8]>,
        part: Option<&'a str>,
    }

    fn key(rules: &Rules, case: &Case<'_>) -> Result<(Vec<u8>, Credentials), Nobody> {
        let target = Target::new(false, "h", &case.target.parse().unwrap_or_default());
        let mut headers = HeaderMap::new();
        for (name, value) in case.headers {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let request = CacheRequest {
            target: &target,
            method: &Method::GET,
            headers: &headers,
            principal: case.principal,
            verified: Some(&AUTHORIZATION).filter(|_| case.principal.is_some()),
            claims: case.claims,
            body: case.body,
            part: case.part,
        };
        primary(rules, &request)
    }

    #[track_caller]
    fn differ(yaml: &str, left: Case<'_>, right: Case<'_>) {
        let rules = rules(yaml);
        let left = key(&rules, &left).expect("a key");
        if let Ok(right) = key(&rules, &right) {
            assert!(left.0 != right.0 || right.1.outside_key, "{yaml}");
        }
    }

    #[test]
    fn the_parts_of_a_split_share_nothing_unless_they_are_told_to() {
        let [one, two] = ["one", "two"].map(|it| Case { part: Some(it), ..Case::default() });
        differ("{ ttl: 1m }", one, two);
        differ("{ ttl: 1m }", one, Case::default());
        let shared = rules("{ ttl: 1m, across_split: true }");
        assert_eq!(key(&shared, &one), key(&shared, &two));
    }

    #[test]
    fn r9_2_answers_never_cross_users() {
        let anne = somebody(Kind::User, "anne", Some("clinic"));
        let ben = somebody(Kind::User, "ben", Some("clinic"));
        let other_anne = somebody(Kind::User, "anne", Some("praxis"));
        let nobodys_anne = somebody(Kind::User, "anne", None);
        let key_anne = somebody(Kind::ApiKey, "anne", Some("clinic"));
        let of = |principal| Case { principal: Some(principal), ..Case::default() };
        let foreign_anne = Principal { issuer: Some("https://id.example".into()), ..anne.clone() };
        let limited_anne = Principal { scopes: vec!["notes.read".into()], ..anne.clone() };
        let anne_in_role = Principal { roles: vec!["notes.read".into()], ..anne.clone() };
        for other in [&ben, &other_anne, &nobodys_anne, &key_anne, &foreign_anne, &limited_anne, &anne_in_role] {
            differ("{ per: user }", of(&anne), of(other));
            differ("{ vary: [authorization] }", of(&anne), of(other));
        }
        differ("{ per: user }", of(&anne), Case::default());
        differ("{ per: tenant }", of(&anne), of(&other_anne));
        differ("{ per: tenant }", of(&anne), of(&nobodys_anne));
        differ("{ per: user }", of(&limited_anne), of(&anne_in_role));
        let told_tenant = Principal { tenant_issuer: Some("https://id.example".into()), ..anne.clone() };
        differ("{ per: tenant }", of(&anne), of(&told_tenant));
    }

    #[test]
    fn r9_2_what_a_caller_carries_for_others_parts_its_responses() {
        let relay = somebody(Kind::Certificate, "relay", None);
        let of = |headers| Case { principal: Some(&relay), headers, ..Case::default() };
        let [anne, ben] = [[("x-patient-id", "anne")], [("x-patient-id", "ben")]];
        differ("{ per: user }", of(&anne), of(&ben));
        differ("{ per: user }", of(&anne), of(&[]));
        let known = rules("{ per: user, impersonal: [X-Patient-Id] }");
        assert_eq!(key(&known, &of(&anne)), key(&known, &of(&ben)));
        let open = rules("{ impersonal: [x-role] }");
        let case = Case { headers: &[("x-role", "button")], ..Case::default() };
        assert!(!key(&open, &case).unwrap().1.outside_key);
        assert!(key(&rules("{}"), &case).unwrap().1.outside_key);
    }

    #[test]
    fn what_trusted_proxies_claim_parts_responses_whoever_shares_them() {
        let claims = [HeaderName::from_static("x-original-url"), HeaderName::from_static("x-acme-serial")];
        let relay = somebody(Kind::Certificate, "relay", Some("clinic"));
        for per in ["{}", "{ per: public }", "{ per: user }", "{ per: tenant }", "{ vary: [x-a] }"] {
            for field in ["x-original-url", "x-acme-serial"] {
                let [one, other] = [[(field, "1")], [(field, "2")]];
                for principal in [None, Some(&relay)] {
                    let of = |headers| Case { headers, claims: &claims, principal, ..Case::default() };
                    let of = |headers| key(&rules(per), &of(headers)).map(|it| it.0);
                    assert!(of(&one[..]) != of(&other) && of(&one) != of(&[]) && of(&one).is_ok(), "{per} {field}");
                }
            }
        }
    }

    #[test]
    fn the_coding_of_a_body_is_a_part_of_it() {
        let of = |headers| Case { headers, body: Some(b"1"), ..Case::default() };
        let yaml = "{ key: [body], ttl: 1m }";
        differ(yaml, of(&[("content-encoding", "gzip")]), of(&[]));
        differ(yaml, of(&[("content-encoding", "gzip")]), of(&[("content-encoding", "br")]));
    }

    #[test]
    fn every_line_of_a_bodys_type_is_a_part_of_it() {
        const JSON: (&str, &str) = ("content-type", "application/json");
        const TEXT: (&str, &str) = ("content-type", "text/plain");
        const ONE_LINE: (&str, &str) = ("content-type", "application/json, text/plain");
        let of = |headers: &'static [_], body: &'static [u8]| Case { headers, body: Some(body), ..Case::default() };
        let yaml = "{ key: [body], ttl: 1m }";
        for other in [&[JSON, TEXT][..], &[TEXT, JSON], &[TEXT], &[JSON, JSON]] {
            differ(yaml, of(&[JSON], b"1"), of(other, b"1"));
        }
        differ(yaml, of(&[JSON, TEXT], b"1"), of(&[ONE_LINE], b"1"));
        // Of two types, none says that blanks mean nothing.
        differ(yaml, of(&[JSON, TEXT], b"[1]"), of(&[JSON, TEXT], b"[ 1]"));
    }

    #[test]
    fn r9_2_credentials_that_name_nobody_share_nothing() {
        for field in ["authorization", "cookie", "x-api-key", "x-session-id", "x-auth-token"] {
            let shown = [(field, "secret")];
            let case = Case { headers: &shown, ..Case::default() };
            assert!(key(&rules("{ per: user }"), &case).is_err());
            assert!(key(&rules("{ per: tenant }"), &case).is_err());
            assert!(key(&rules("{ ttl: 1s }"), &case).unwrap().1.outside_key);
            assert!(!key(&rules("{ per: public }"), &case).unwrap().1.outside_key);
        }
        // One credential parts responses, another is shown beside it.
        let both = [("authorization", "x"), ("cookie", "y")];
        let case = Case { headers: &both, ..Case::default() };
        assert!(key(&rules("{ vary: [authorization] }"), &case).unwrap().1.outside_key);
        assert!(!key(&rules("{ vary: [authorization, cookie] }"), &case).unwrap().1.outside_key);
    }

    #[test]
    fn no_part_of_a_key_can_pretend_to_be_another() {
        let with = |headers| Case { headers, ..Case::default() };
        let rules = "{ vary: [x-a, x-b] }";
        differ(rules, with(&[("x-a", "1")]), with(&[("x-b", "1")]));
        differ(rules, with(&[("x-a", "")]), with(&[]));
        differ(rules, with(&[("x-a", "1"), ("x-b", "2")]), with(&[("x-a", "12"), ("x-b", "")]));
        let token = "{ vary: [authorization] }";
        differ(token, with(&[("authorization", "Bearer a")]), with(&[("authorization", "bearer a")]));
        differ(token, with(&[("authorization", "a,b")]), with(&[("authorization", "a"), ("authorization", "b")]));
    }

    #[test]
    fn blanks_in_lists_part_nothing() {
        let rules = rules("{ vary: [accept-encoding, accept-language] }");
        let with = |headers| key(&rules, &Case { headers, ..Case::default() }).unwrap().0;
        assert_eq!(with(&[("accept-encoding", "gzip, BR")]), with(&[("accept-encoding", "gzip,br")]));
        assert_eq!(
            with(&[("accept-language", "de, en")]),
            with(&[("accept-language", "de"), ("accept-language", "en")])
        );
    }

    #[test]
    fn rfc_9111_only_what_stands_on_the_same_host_is_invalidated_with_it() {
        let target = Target::new(false, "Example.org", &"/a?b=c".parse().unwrap());
        assert_eq!(target.as_str(), "example.org/a?b=c");
        let beside = |reference| target.beside(reference).map(|it| it.as_str().to_owned());
        assert_eq!(beside("/x"), Some("example.org/x".to_owned()));
        assert_eq!(beside("http://EXAMPLE.org/x?y"), Some("example.org/x?y".to_owned()));
        assert_eq!(beside("http://other.org/x"), None);
        assert_eq!(beside("x"), None);
    }
}
