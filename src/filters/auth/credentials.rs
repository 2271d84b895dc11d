//! Finds the one credential of a request. Two of them are a reason to refuse: an upstream could go by the other.

use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName};
use http::{HeaderValue, Uri};
use pingora::http::RequestHeader;

use crate::base::{At, Diagnostics};
use crate::http as codec;
use crate::pipeline::Refusal;
use crate::routing::value_of as parameter;

use super::config::SourceConfig;

/// Where API keys are.
pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Where a route looks for credentials.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Places {
    pub(super) header: bool,
    pub(super) cookie: Option<String>,
    pub(super) query: Option<String>,
    pub(super) api_key: bool,
}

/// Where the credential was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Header,
    Cookie,
    Query,
    ApiKey,
}

impl Place {
    /// The field that it is; none for what was taken out of the query.
    pub(super) const fn field(self) -> Option<HeaderName> {
        match self {
            Self::Header => Some(AUTHORIZATION),
            Self::Cookie => Some(COOKIE),
            Self::ApiKey => Some(API_KEY),
            Self::Query => None,
        }
    }
}

impl Places {
    pub(super) fn compile(sources: Option<&[SourceConfig]>, at: &At<'_>, diagnostics: &mut Diagnostics) -> Self {
        let mut places = Self { header: sources.is_none(), cookie: None, query: None, api_key: false };
        if sources.is_some_and(<[_]>::is_empty) {
            diagnostics.error(at, "no place to look for a token").help("leave it out for the header");
        }
        for (number, source) in sources.iter().flat_map(|it| it.iter()).enumerate() {
            let at = at.index(number);
            let twice = match source {
                SourceConfig::Header(_) => std::mem::replace(&mut places.header, true),
                SourceConfig::Cookie(it) => {
                    check_name(&it.cookie, &at.key("cookie"), diagnostics);
                    places.cookie.replace(it.cookie.clone()).is_some()
                }
                SourceConfig::Query(it) => {
                    check_name(&it.query, &at.key("query"), diagnostics);
                    places.query.replace(it.query.clone()).is_some()
                }
            };
            if twice {
                diagnostics.error(&at, "a second place of the same kind").help("one header, one cookie, one parameter");
            }
        }
        places
    }

    /// What a client can send and where, in words.
    pub(super) fn accepted(&self, tokens: bool, certificates: bool) -> String {
        let bearer = match (tokens, self.api_key) {
            (true, false) => "a token",
            (false, _) => "an API key",
            (true, true) => "a token or an API key",
        };
        let header = self.header.then(|| format!("{bearer} as `Authorization: Bearer ...`"));
        let key = self.api_key.then(|| "an API key as `X-API-Key: ...`".to_owned());
        let cookie = self.cookie.as_ref().map(|name| format!("{bearer} in the cookie `{name}`"));
        let query = self.query.as_ref().map(|name| format!("{bearer} in the query parameter `{name}`"));
        let certificate = certificates.then(|| "a client certificate".to_owned());
        let ways: Vec<String> = [header, key, cookie, query, certificate].into_iter().flatten().collect();
        format!("send {}", ways.join(", or "))
    }

    /// The credential, and where it was.
    pub(super) fn find<'r>(&self, request: &'r RequestHeader) -> Result<Option<(Place, &'r [u8])>, Refusal> {
        let headers = &request.headers;
        let bearer = if self.header { bearer(headers)? } else { None };
        let cookie = match &self.cookie {
            Some(name) => one(cookies(headers, name))?,
            None => None,
        };
        let query = match &self.query {
            Some(name) => one(parameters(&request.uri, name))?,
            None => None,
        };
        let key = if self.api_key { one(headers.get_all(API_KEY).iter().map(HeaderValue::as_bytes))? } else { None };
        let found = [(Place::Header, bearer), (Place::Cookie, cookie), (Place::Query, query), (Place::ApiKey, key)];
        one(found.into_iter().filter_map(|(place, it)| Some((place, it?))))
    }
}

fn check_name(name: &str, at: &At<'_>, diagnostics: &mut Diagnostics) {
    let plain = |it: u8| it.is_ascii_alphanumeric() || b"-_.".contains(&it);
    if name.is_empty() || !name.bytes().all(plain) {
        diagnostics.error(at, "not a name").help("letters, digits, `-`, `_` and `.`");
    }
}

/// The only one, if there is any.
fn one<T>(mut found: impl Iterator<Item = T>) -> Result<Option<T>, Refusal> {
    let first = found.next();
    match found.next() {
        None => Ok(first),
        Some(_) => Err(Refusal::AmbiguousCredentials("there is more than one credential")),
    }
}

/// The token in `Authorization: Bearer` (RFC 6750, section 2.1). Another scheme is not for the gateway.
fn bearer(headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let Some(field) = one(headers.get_all(AUTHORIZATION).iter())? else { return Ok(None) };
    Ok(codec::bearer(field.as_bytes()))
}

/// The values of a cookie; HTTP/2 may spread cookies over fields (RFC 9113, section 8.2.3).
fn cookies<'r>(headers: &'r HeaderMap, name: &str) -> impl Iterator<Item = &'r [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|it| it.as_bytes().split(|it| *it == b';'));
    pairs.filter_map(move |pair| value_of(pair.trim_ascii(), name))
}

/// The values of a parameter, as they are: a token has nothing in it that would be escaped. Some servers end pairs at
/// `;`, too: what one of them would take for the credential is one.
fn parameters<'r>(uri: &'r Uri, name: &str) -> impl Iterator<Item = &'r [u8]> {
    let pairs = uri.query().unwrap_or_default().split(['&', ';']);
    pairs.filter_map(move |pair| parameter(pair, name)).map(str::as_bytes)
}

fn value_of<'p>(pair: &'p [u8], name: &str) -> Option<&'p [u8]> {
    let equals = pair.iter().position(|it| *it == b'=')?;
    (pair[..equals].trim_ascii() == name.as_bytes()).then(|| &pair[equals + 1..])
}

/// Takes a parameter out of the query, so that no log and no upstream gets it.
pub(super) fn drop_parameter(request: &mut RequestHeader, name: &str) {
    let Some(query) = request.uri.query() else { return };
    if !query.split(['&', ';']).any(|it| parameter(it, name).is_some()) {
        return;
    }
    // Each with the sign behind it: what is between the others stays as it is.
    let pairs = query.split_inclusive(['&', ';']);
    let rest: String = pairs.filter(|it| parameter(it.trim_end_matches(['&', ';']), name).is_none()).collect();
    let rest = if query.ends_with(['&', ';']) { &rest } else { rest.trim_end_matches(['&', ';']) };
    let target = if rest.is_empty() { request.uri.path().to_owned() } else { format!("{}?{rest}", request.uri.path()) };
    // The authority stays: in HTTP/2 it is the only place of the host.
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = target.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        request.set_uri(uri);
    }
}

/// Takes a cookie out.
pub(super) fn drop_cookie(request: &mut RequestHeader, name: &str) {
    let fields: Vec<HeaderValue> = request.headers.get_all(COOKIE).iter().cloned().collect();
    request.remove_header(&COOKIE);
    for field in fields {
        let pairs = field.as_bytes().split(|it| *it == b';').map(<[u8]>::trim_ascii);
        let rest: Vec<&[u8]> = pairs.filter(|it| value_of(it, name).is_none()).collect();
        if let (false, Ok(rest)) = (rest.is_empty(), HeaderValue::from_bytes(&rest.join(&b"; "[..]))) {
            let _ = request.append_header(COOKIE, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places { header: true, cookie: Some("t".to_owned()), query: Some("q".to_owned()), api_key: true }
    }

    fn request(target: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    #[track_caller]
    fn check(target: &str, fields: &[(&'static str, &str)], found: Result<Option<(Place, &str)>, ()>) {
        let request = request(target, fields);
        let is = places().find(&request).map_err(drop);
        let is = is.map(|it| it.map(|(place, value)| (place, std::str::from_utf8(value).unwrap())));
        assert_eq!(is, found, "{target} {fields:?}");
    }

    #[test]
    fn r4_2_a_request_has_one_credential() {
        check("/", &[], Ok(None));
        check("/", &[("authorization", "Bearer a")], Ok(Some((Place::Header, "a"))));
        check("/", &[("authorization", "bEARER  a ")], Ok(Some((Place::Header, "a"))));
        check("/", &[("authorization", "Bearer")], Ok(Some((Place::Header, ""))));
        check("/", &[("authorization", "Bearera")], Ok(None));
        check("/", &[("authorization", "Basic a")], Ok(None));
        check("/", &[("authorization", "Bearer a"), ("authorization", "Bearer a")], Err(()));
        check("/", &[("authorization", "Basic a"), ("authorization", "Bearer a")], Err(()));
        check("/?q=a", &[("authorization", "Bearer a")], Err(()));
        check("/?x=1&q=a", &[], Ok(Some((Place::Query, "a"))));
        check("/?q=a&q=b", &[], Err(()));
        check("/?q=a&%71=b", &[], Err(()));
        check("/?%71=b", &[], Ok(Some((Place::Query, "b"))));
        check("/?x=1;q=b&q=a", &[], Err(()));
        check("/?qq=a&Q=b", &[], Ok(None));
        check("/", &[("cookie", "a=b; t=c;tt=d")], Ok(Some((Place::Cookie, "c"))));
        check("/", &[("cookie", "t=c"), ("cookie", "t=d")], Err(()));
        check("/", &[("cookie", "t=c; t =d")], Err(()));
        check("/", &[("x-api-key", "k"), ("cookie", "t=c")], Err(()));
        check("/", &[("x-api-key", "k")], Ok(Some((Place::ApiKey, "k"))));
    }

    #[test]
    fn what_must_not_go_on_is_taken_out_and_nothing_else() {
        let mut plain = request("/a?x=1&q=secret&y=%20", &[("cookie", "a=1; t=secret; b=2"), ("cookie", "t=secret")]);
        drop_parameter(&mut plain, "q");
        drop_cookie(&mut plain, "t");
        assert_eq!(plain.uri.to_string(), "/a?x=1&y=%20");
        let cookies: Vec<_> = plain.headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
        let mut second = RequestHeader::build("GET", b"/", None).unwrap();
        second.set_uri("https://x.tta/a?q=s&b".parse().unwrap());
        drop_parameter(&mut second, "q");
        assert_eq!(second.uri.to_string(), "https://x.tta/a?b");
        for (target, left) in [
            ("/a?q=s", "/a"),
            ("/a?%71=s&x", "/a?x"),
            ("/a?x;q=s", "/a?x"),
            ("/a?x&q=s;y=1&", "/a?x&y=1&"),
            ("/a?q", "/a"),
            ("/a?qq=1", "/a?qq=1"),
            ("/a", "/a"),
        ] {
            let mut request = request(target, &[]);
            drop_parameter(&mut request, "q");
            assert_eq!(request.uri.to_string(), left);
        }
    }
}
