//! The forms of a request's target (RFC 9112, section 3.2), and what an authority looks like.

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::{Method, Uri};

use super::scan::HeadError;

const NOT_A_URI: HeadError = HeadError::Malformed("the target is not a URI");

/// A request's target.
pub(super) struct Target {
    /// In origin form, `*`, or the authority that CONNECT names.
    pub(super) uri: Uri,
    /// Whom the absolute form is for.
    pub(super) authority: Option<Authority>,
}

/// Of an absolute form.
pub(super) struct Authority {
    pub(super) text: Bytes,
    default_port: u16,
}

impl Target {
    /// The request line was looked at before: all bytes are visible ASCII, and there is no fragment.
    pub(super) fn of(method: &Method, text: Bytes) -> Result<Self, HeadError> {
        let authority_form = *method == Method::CONNECT && authority_is_plain(&text);
        if authority_form || text.starts_with(b"/") || text == "*" {
            let uri = Uri::from_maybe_shared(text).map_err(|_| NOT_A_URI)?;
            return Ok(Self { uri, authority: None });
        }
        absolute(method, &text)
    }
}

fn absolute(method: &Method, text: &Bytes) -> Result<Target, HeadError> {
    let (scheme, default_port) = match () {
        () if has_prefix(text, b"http://") => (7, 80),
        () if has_prefix(text, b"https://") => (8, 443),
        () => return Err(HeadError::Malformed("the target is neither a path nor an http address")),
    };
    let rest = text.slice(scheme..);
    let end = rest.iter().position(|it| matches!(it, b'/' | b'?')).unwrap_or(rest.len());
    let authority = rest.slice(..end);
    if !authority_is_plain(&authority) {
        return Err(HeadError::Malformed("the target's authority is not a name or address with an optional port"));
    }
    let uri = path(method, rest.slice(end..))?;
    // A colon without a port says nothing (RFC 3986, section 6.2.3).
    let named = authority.len() - usize::from(authority.ends_with(b":"));
    let authority = authority.slice(..named);
    Ok(Target { uri, authority: Some(Authority { text: authority, default_port }) })
}

/// An empty path is `/` (RFC 9110, section 4.2.3), and `*` for OPTIONS (RFC 9112, section 3.2.4).
fn path(method: &Method, text: Bytes) -> Result<Uri, HeadError> {
    match text.first() {
        None if *method == Method::OPTIONS => Ok(Uri::from_static("*")),
        None => Ok(Uri::from_static("/")),
        Some(b'?') => Uri::from_maybe_shared(Bytes::from([b"/", &text[..]].concat())).map_err(|_| NOT_A_URI),
        Some(_) => Uri::from_maybe_shared(text).map_err(|_| NOT_A_URI),
    }
}

impl Authority {
    /// Whether `host` is the same host and port, the scheme's own port being the one that is left out.
    pub(super) fn is(&self, host: &[u8]) -> bool {
        is_same_authority(&self.text, host, self.default_port)
    }
}

/// Whether two authorities are the same host and port, without case and without the dot of the root, the default port
/// being the one that is left out. Both have to be [plain](authority_is_plain).
pub fn is_same_authority(one: &[u8], other: &[u8], default_port: u16) -> bool {
    let ((name, port), (other, other_port)) = (split(one), split(other));
    let port_of = |port: &[u8]| port.strip_prefix(b":").and_then(number).unwrap_or(default_port);
    let same_name = without_last_dot(name).eq_ignore_ascii_case(without_last_dot(other));
    same_name && port_of(port) == port_of(other_port)
}

/// The one form of a host's many (RFC 3986, sections 6.2.2 and 6.2.3): letters small, without the port that the scheme
/// has anyhow and without the dot of the root, addresses of IPv6 as RFC 5952 writes them. `None` if it is in that form,
/// which most are. `host` has to be [plain](authority_is_plain).
pub fn normal_authority(host: &[u8], default_port: u16) -> Option<String> {
    let (name, port) = split(host);
    if is_normal(name, port, default_port) {
        return None;
    }
    let mut normal = String::from_utf8_lossy(without_last_dot(name)).to_ascii_lowercase();
    if let Some(address) = normal.strip_prefix('[').and_then(|it| it.strip_suffix(']')?.parse::<Ipv6Addr>().ok()) {
        normal = format!("[{address}]");
    }
    if let Some(port) = port.get(1..).and_then(number).filter(|it| *it != default_port) {
        normal = format!("{normal}:{port}");
    }
    (normal.as_bytes() != host).then_some(normal)
}

/// What can be told without writing it anew; an address of IPv6 can't.
fn is_normal(name: &[u8], port: &[u8], default_port: u16) -> bool {
    let port_is_normal = match port {
        [] => true,
        [_, b'1'..=b'9', ..] => number(&port[1..]) != Some(default_port),
        _ => false,
    };
    port_is_normal && !name.iter().any(u8::is_ascii_uppercase) && !name.starts_with(b"[") && !name.ends_with(b".")
}

/// The dot of the root says nothing (RFC 1034, section 3.1).
fn without_last_dot(name: &[u8]) -> &[u8] {
    name.strip_suffix(b".").filter(|it| !it.is_empty() && !it.ends_with(b".")).unwrap_or(name)
}

/// Whether `host` is `name`, `name:port`, `[v6]` or `[v6]:port` (RFC 9110, section 7.2).
///
/// Names are of letters, digits and `-._~`: what RFC 3986 would allow besides is read differently by different
/// servers, and no host has it in its name.
pub fn authority_is_plain(host: &[u8]) -> bool {
    let (name, port) = split(host);
    let name_is_plain = match name {
        [b'[', address @ .., b']'] => std::str::from_utf8(address).is_ok_and(|it| it.parse::<Ipv6Addr>().is_ok()),
        name => !name.is_empty() && name.iter().all(|it| NAME_BYTES[usize::from(*it)]),
    };
    let port_is_plain = match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => number(digits).is_some(),
        _ => false,
    };
    name_is_plain && port_is_plain
}

/// Name and port, the colon with the port.
fn split(host: &[u8]) -> (&[u8], &[u8]) {
    let end = match host.first() {
        Some(b'[') => host.iter().rposition(|it| *it == b']').map(|it| it + 1),
        _ => host.iter().position(|it| *it == b':'),
    };
    host.split_at(end.unwrap_or(host.len()))
}

/// Letters, digits and `-._~`.
const NAME_BYTES: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        bytes[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    bytes
};

/// A port that is written in digits alone.
fn number(digits: &[u8]) -> Option<u16> {
    let digit = |it: u8| it.is_ascii_digit().then(|| u16::from(it - b'0'));
    let more = |number: u16, it: &u8| number.checked_mul(10)?.checked_add(digit(*it)?);
    if digits.is_empty() { None } else { digits.iter().try_fold(0, more) }
}

fn has_prefix(text: &[u8], prefix: &[u8]) -> bool {
    text.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_address_with_an_optional_port() {
        let good =
            ["a.example", "a.example:", "a.example:80", "127.0.0.1", "[::1]", "[::1]:8080", "[::]:", "a_b", "a:0080"];
        for host in good {
            assert!(authority_is_plain(host.as_bytes()), "{host}");
        }
        let bad = [
            "",
            "a b",
            "a/b",
            "a,b",
            "a\"b",
            "a:+1",
            "a:b",
            "a:65536",
            "a:1:2",
            "[::1",
            "::1",
            "a@b",
            ":80",
            "[::1]x",
            "[]",
            "[::::]",
            "[1]",
            "[a.example]",
            "[::1%25eth0]",
            "a%2eb",
            "[::1]:8]",
            "ä",
            "a\0",
        ];
        for host in bad {
            assert!(!authority_is_plain(host.as_bytes()), "{host}");
        }
    }

    #[track_caller]
    fn read(method: &Method, text: &'static str) -> Result<(String, Option<String>), HeadError> {
        let target = Target::of(method, Bytes::from_static(text.as_bytes()))?;
        let authority = target.authority.map(|it| String::from_utf8_lossy(&it.text).into_owned());
        Ok((target.uri.to_string(), authority))
    }

    #[test]
    fn each_form_comes_to_a_path() {
        for (text, uri, authority) in [
            ("/", "/", None),
            ("//a/b?c", "//a/b?c", None),
            ("/a?b\\c{d}", "/a?b\\c{d}", None),
            ("*", "*", None),
            ("http://a.example/x?y", "/x?y", Some("a.example")),
            ("HTTPS://A.example:8443", "/", Some("A.example:8443")),
            ("hTTp://a?x=1", "/?x=1", Some("a")),
            ("http://[::1]:80/", "/", Some("[::1]:80")),
            ("http://a//b", "//b", Some("a")),
        ] {
            assert_eq!(read(&Method::GET, text), Ok((uri.into(), authority.map(str::to_owned))), "{text}");
        }
        assert_eq!(read(&Method::OPTIONS, "http://a"), Ok(("*".into(), Some("a".into()))));
        assert_eq!(read(&Method::OPTIONS, "http://a/"), Ok(("/".into(), Some("a".into()))));
        for text in ["a:443", "a", "[::1]:443", "/"] {
            assert_eq!(read(&Method::CONNECT, text), Ok((text.into(), None)));
        }
    }

    #[test]
    fn other_targets_are_refused() {
        for text in ["a", "a:443", "?x", "ftp://a/", "http:/a", "http:a", "http://", "http:///x", "http://u@a/", "**"] {
            assert!(read(&Method::GET, text).is_err(), "{text}");
        }
        for text in ["http://a b/", "http://a:x/", "/<", "/`", "http://a/>", "http://a,b/", "http://a\\b/"] {
            assert!(read(&Method::GET, text).is_err(), "{text}");
        }
    }

    #[test]
    fn connect_has_no_other_form_than_others() {
        for text in ["a:1/", "a/b", "?", "u@a:1", "a:x", "ftp://a/"] {
            assert!(read(&Method::CONNECT, text).is_err(), "{text}");
        }
    }

    #[test]
    fn one_host_has_one_form() {
        for (host, port, normal) in [
            ("x.org", 80, None),
            ("x.org:8080", 80, None),
            ("x.org:443", 80, None),
            ("127.0.0.1:8080", 80, None),
            ("[::1]:8080", 80, None),
            ("X.org", 80, Some("x.org")),
            ("x.org:80", 80, Some("x.org")),
            ("x.org:0080", 80, Some("x.org")),
            ("x.org:443", 443, Some("x.org")),
            ("x.org:", 443, Some("x.org")),
            ("x.org.", 80, Some("x.org")),
            ("X.ORG.:08080", 80, Some("x.org:8080")),
            ("[::0:A]:80", 80, Some("[::a]")),
            ("..", 80, None),
            (".", 80, None),
        ] {
            assert_eq!(normal_authority(host.as_bytes(), port).as_deref(), normal, "{host} {port}");
        }
    }

    #[test]
    fn the_same_host_is_recognised() {
        let same = |target: &'static str, host: &str| {
            Target::of(&Method::GET, target.into()).ok().unwrap().authority.unwrap().is(host.as_bytes())
        };
        for (target, host) in [
            ("http://GW.test/x", "gw.test"),
            ("http://gw.test:80/x", "gw.test"),
            ("http://gw.test/x", "GW.TEST:80"),
            ("http://gw.test:/x", "gw.test"),
            ("https://gw.test/x", "gw.test:443"),
            ("http://gw.test:8080/x", "gw.test:08080"),
            ("http://[::A]/x", "[::a]:80"),
            ("http://gw.test./x", "gw.test"),
        ] {
            assert!(same(target, host), "{target} {host}");
        }
        for (target, host) in [
            ("http://gw.test/", "gw.test:443"),
            ("https://gw.test/", "gw.test:80"),
            ("http://gw.test/", "gw.tes"),
            ("http://gw.test:81/", "gw.test"),
            ("http://gw.test/", "x.gw.test"),
        ] {
            assert!(!same(target, host), "{target} {host}");
        }
    }
}
