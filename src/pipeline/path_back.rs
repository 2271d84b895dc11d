//! The way back of a rewritten path: where an upstream names its own paths (`Location`, `Content-Location`, the `Path` of
//! cookies), its client has to read those that it can use.
//!
//! What changes is known from the request itself: its path as it came and as the upstream got it, without what both
//! end with. `/api/v1/players/7`, sent on as `/players/7`, makes `/api/v1/players/8` of `/players/8`.

use http::Uri;
use http::header::{CONTENT_LOCATION, HeaderName, HeaderValue, LOCATION, SET_COOKIE};
use pingora::http::ResponseHeader;

/// The beginnings of a path on both sides of a rewrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathBack {
    /// As the client sent it, and as the upstream got it.
    pub received: Uri,
    /// The same for the upstream.
    pub sent: Uri,
    /// What both end with, in bytes; `None` if they are to be compared as wholes.
    pub tail: Option<usize>,
    /// The host that the upstream got.
    pub host: Option<HeaderValue>,
}

impl PathBack {
    /// Rewrites what the upstream says of its paths. `endpoint` is the address that answered.
    pub fn apply(&self, response: &mut ResponseHeader, endpoint: Option<&str>) {
        for name in [LOCATION, CONTENT_LOCATION] {
            self.field(response, &name, |it| self.reference(it, endpoint));
        }
        self.field(response, &SET_COOKIE, |it| self.cookie(it));
    }

    fn field(&self, response: &mut ResponseHeader, name: &HeaderName, new: impl Fn(&str) -> Option<String>) {
        let lines: Vec<HeaderValue> = response.headers.get_all(name).iter().cloned().collect();
        let changed = |it: &HeaderValue| {
            let mut value = HeaderValue::try_from(new(it.to_str().ok()?)?).ok()?;
            value.set_sensitive(it.is_sensitive());
            Some(value)
        };
        if !lines.iter().any(|it| changed(it).is_some()) {
            return;
        }
        response.remove_header(name);
        for line in lines {
            let line = changed(&line).unwrap_or(line);
            let _ = response.append_header(name.clone(), line);
        }
    }

    /// A path, or an address of the upstream's; what is somewhere else stays as it is.
    fn reference(&self, reference: &str, endpoint: Option<&str>) -> Option<String> {
        if reference.starts_with('/') && !reference.starts_with("//") {
            return self.path(reference);
        }
        let rest = ["http://", "https://", "//"].iter().find_map(|it| reference.strip_prefix(it))?;
        let (authority, path) = rest.split_at(rest.find('/')?);
        let host = self.host.as_ref().and_then(|it| it.to_str().ok());
        let own = host.is_some_and(|it| it.eq_ignore_ascii_case(authority)) || endpoint == Some(authority);
        if own { self.path(path) } else { None }
    }

    fn cookie(&self, line: &str) -> Option<String> {
        let part = |part: &str| {
            let (name, value) = part.split_once('=')?;
            let new = self.path(value.trim()).filter(|_| name.trim().eq_ignore_ascii_case("path"))?;
            // A cookie for `/api/` would not be sent to `/api` (RFC 6265, section 5.1.4).
            let new = if value.trim() == "/" { new.strip_suffix('/').unwrap_or(&new) } else { &new };
            Some(format!("{name}={}", if new.is_empty() { "/" } else { new }))
        };
        let mut parts = line.split(';');
        let first = parts.next()?.to_owned();
        let new = parts.map(|it| part(it).unwrap_or_else(|| it.to_owned()));
        let line_new = std::iter::once(first).chain(new).collect::<Vec<_>>().join(";");
        (line_new != line).then_some(line_new)
    }

    /// The path as the client can use it; `None` if it stays.
    fn path(&self, path: &str) -> Option<String> {
        let Some((client, upstream)) = self.beginnings() else {
            let rest = path.strip_prefix(self.sent.path()).filter(|it| it.is_empty() || it.starts_with(['?', '#']))?;
            return Some(format!("{}{rest}", self.received.path()));
        };
        // An upstream that has been told of the prefix may write it by itself.
        if client.len() > upstream.len() && behind(path, client).is_some() {
            return None;
        }
        let rest = behind(path, upstream)?;
        let root = if client.is_empty() && !rest.starts_with('/') { "/" } else { "" };
        let path = format!("{client}{root}{rest}");
        // What was a path below a beginning must not become the name of another host.
        (!path.starts_with("//") && !path.starts_with("/\\")).then_some(path)
    }

    /// Of both paths, without a slash at the end.
    fn beginnings(&self) -> Option<(&str, &str)> {
        let (received, sent, tail) = (self.received.path(), self.sent.path(), self.tail?);
        let cut = |path: &'_ str| path.len().checked_sub(tail);
        let (client, upstream) = (received.get(..cut(received)?)?, sent.get(..cut(sent)?)?);
        let same = received[client.len()..] == sent[upstream.len()..];
        same.then(|| (client.trim_end_matches('/'), upstream.trim_end_matches('/')))
    }
}

/// What follows a beginning, if it ends where a segment does.
fn behind<'p>(path: &'p str, beginning: &str) -> Option<&'p str> {
    path.strip_prefix(beginning).filter(|it| it.is_empty() || it.starts_with(['/', '?', '#']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(received: &str, sent: &str, tail: Option<usize>) -> PathBack {
        let host = Some(HeaderValue::from_static("players.internal"));
        PathBack { received: received.parse().unwrap(), sent: sent.parse().unwrap(), tail, host }
    }

    #[track_caller]
    fn check(back: &PathBack, cases: &[(&str, Option<&str>)]) {
        for (reference, wanted) in cases {
            assert_eq!(back.reference(reference, Some("10.0.0.1:80")).as_deref(), *wanted, "{reference}");
        }
    }

    #[test]
    fn locations_of_the_upstream_become_those_of_the_client() {
        check(
            &back("/api/v1/players/7", "/players/7", Some(1)),
            &[
                ("/players/8?x=1#a", Some("/api/v1/players/8?x=1#a")),
                ("/players", Some("/api/v1/players")),
                ("http://players.internal/players/8", Some("/api/v1/players/8")),
                ("https://10.0.0.1:80/players/8", Some("/api/v1/players/8")),
                ("//players.internal/players/8", Some("/api/v1/players/8")),
                ("https://elsewhere.example/players/8", None),
                ("/api/v1/players/8", None),
                ("/playersandmore", None),
                ("/login", None),
                ("8", None),
                ("?page=2", None),
            ],
        );
        check(
            &back("/api/a/b", "/a/b", Some(3)),
            &[("/", Some("/api/")), ("/x", Some("/api/x")), ("/api/x", None), ("/apix", Some("/api/apix"))],
        );
        check(
            &back("/a", "/v2/a", Some(1)),
            &[("/v2/b", Some("/b")), ("/v2", Some("/")), ("/b", None), ("/v2//evil.example/", None)],
        );
        check(&back("/api", "/v1", Some(0)), &[("/v1/x", Some("/api/x")), ("/v10", None)]);
        // Where nothing is the same at the end, only this very path is known.
        check(&back("/items/12", "/item?id=12", None), &[("/item?x", Some("/items/12?x")), ("/item/3", None)]);
    }

    #[test]
    fn paths_of_cookies_become_those_of_the_client() {
        let prefixed = back("/api/a", "/a", Some(1));
        for (line, wanted) in [
            ("a=1; Path=/; HttpOnly", Some("a=1; Path=/api; HttpOnly")),
            ("path=/x; path=/x", Some("path=/x; path=/api/x")),
            ("a=1; Path=/api/x", None),
            ("a=1; HttpOnly", None),
        ] {
            assert_eq!(prefixed.cookie(line).as_deref(), wanted, "{line}");
        }
        assert_eq!(back("/a", "/v2/a", Some(1)).cookie("a=1; Path=/v2").as_deref(), Some("a=1; Path=/"));
    }
}
