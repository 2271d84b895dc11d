//! Paths against protected routes: no spelling reaches what another spelling may not.

use crate::support::tokens::{SECRET, token};
use crate::support::*;

const CONFIG: &str = "
listeners: { public: [{ address: \"127.0.0.1:0\", h2c: true }], admin: { address: \"127.0.0.1:0\" } }
tokens: { issuer: moongate, audience: [tta], hs256_secret: \"${PROXY_JWT_SECRET}\" }
";

/// Protected paths, and an open route to the same upstream for everything else.
const ROUTES: &str = "
routes:
  - { name: admin, match: { path: \"/admin/{*rest}\" }, upstream: up, auth: { jwt: {} } }
  - { name: secret, match: { path: /secret }, upstream: up, auth: { jwt: {} } }
  - { name: deep, match: { path: \"/api/{version}/private/{*rest}\" }, upstream: up, auth: { jwt: {} } }
  - { name: open, match: { path: \"/{*rest}\" }, upstream: up }
";

fn start(routes: &str, upstream: &RawUpstream) -> Gateway {
    let head = format!("version: 1\nupstreams:\n  up: {{ discovery: {{ static: [\"{}\"] }} }}\n", upstream.address());
    Gateway::with(head + routes).config(CONFIG).env("PROXY_JWT_SECRET", SECRET).start()
}

/// What is put between, before, behind and in place of the parts of a protected path.
const SLASHES: [&str; 12] =
    ["/", "//", "/./", "/x/../", "/%2e/", "/x/%2E%2e/", "/.%2e/../", "%2f", "%2F", "\\", "%5c", "/;/"];
const BEHIND: [&str; 22] = [
    "",
    "/",
    "//",
    ";",
    ";x",
    ";a=b",
    "%3b",
    "%3Bx",
    "/;",
    "/.",
    "/..;/",
    "%00",
    "%0a",
    "%20",
    "%09",
    "?",
    "?x=/../..",
    "#",
    "#x",
    "%23",
    "%3f",
    "/x/..",
];
const BEFORE: [&str; 12] = ["", "/", "/.", "/x/..", "/;", "/;x", "/.;", "/..;", "/%2e", "/x;/..", "/x/..;", "\\"];

/// Each word as it is, with a letter encoded once and twice, overlong, with a byte in it that some readers drop.
fn words(word: &str) -> Vec<String> {
    let first = word.as_bytes()[0];
    let rest = &word[1..];
    vec![
        word.to_owned(),
        format!("%{first:02x}{rest}"),
        format!("%{first:02X}{rest}"),
        format!("%25{first:02x}{rest}"),
        format!("%c1%{:02x}{rest}", 0x80 | (first & 0x3f)),
        format!("{word}%00"),
        format!("{word};v=1"),
        format!("{word}%3bv=1"),
        format!("{word}\0"),
        format!("{word}\t"),
    ]
}

fn corpus() -> Vec<String> {
    let mut corpus = Vec::new();
    for parts in [&["admin", "x"][..], &["secret"], &["api", "v1", "private", "x"]] {
        let plain = parts.join("/");
        for before in BEFORE {
            for behind in BEHIND {
                corpus.push(format!("{before}/{plain}{behind}"));
            }
        }
        for slash in SLASHES {
            for behind in BEHIND {
                corpus.push(format!("{slash}{}{behind}", parts.join(slash)));
                corpus.push(format!("/{}{behind}", parts.join(slash)));
            }
        }
        for (at, part) in parts.iter().enumerate() {
            for word in words(part) {
                let mut spelled: Vec<&str> = parts.to_vec();
                spelled[at] = &word;
                corpus.push(format!("/{}", spelled.join("/")));
            }
        }
    }
    corpus
}

/// What servers are known to make of a path, in whatever order: cut parameters off, decode, take a backslash for a slash,
/// merge slashes, remove dot segments, end at a NUL, decode overlong forms.
fn readings(target: &str) -> Vec<String> {
    let path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
    let steps: [fn(&str) -> String; 6] = [without_parameters, decoded, slashes, merged, without_dots, until_nul];
    let mut readings = vec![path];
    let mut next = 0;
    while next < readings.len() && readings.len() < 500 {
        for step in steps {
            let read = step(&readings[next]);
            if !readings.contains(&read) {
                readings.push(read);
            }
        }
        next += 1;
    }
    readings
}

fn without_parameters(path: &str) -> String {
    path.split('/').map(|it| it.split(';').next().unwrap_or_default()).collect::<Vec<_>>().join("/")
}

fn decoded(path: &str) -> String {
    let (bytes, mut out, mut at) = (path.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|it| std::str::from_utf8(it).ok());
        match hex.filter(|_| bytes[at] == b'%').and_then(|it| u8::from_str_radix(it, 16).ok()) {
            Some(byte) => (out.push(byte), at += 3).1,
            None => (out.push(bytes[at]), at += 1).1,
        }
    }
    // Overlong: two bytes for what fits in one.
    let mut text = Vec::new();
    let mut bytes = out.into_iter().peekable();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.peek()) {
            (0xc0 | 0xc1, Some(next @ 0x80..=0xbf)) => {
                text.push((byte & 1) << 6 | (next & 0x3f));
                bytes.next();
            }
            _ => text.push(byte),
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn slashes(path: &str) -> String {
    path.replace('\\', "/")
}

fn merged(path: &str) -> String {
    let mut path = path.to_owned();
    while path.contains("//") {
        path = path.replace("//", "/");
    }
    path
}

fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

fn until_nul(path: &str) -> String {
    path.split('\0').next().unwrap_or_default().to_owned()
}

fn is_protected(path: &str) -> bool {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments[..] {
        ["admin", ..] => true,
        ["secret"] => true,
        ["api", version, "private", ..] => !version.is_empty(),
        _ => false,
    }
}

/// The status, over a connection of its own: what is malformed may close it.
fn status(gateway: &Gateway, target: &str, fields: &str) -> u16 {
    let mut client = RawClient::connect(gateway.public());
    client.send(format!("GET {target} HTTP/1.1\r\nhost: app.example\r\n{fields}connection: close\r\n\r\n"));
    client.try_read_response("GET").map_or(0, |it| it.status)
}

#[test]
fn no_spelling_of_a_path_gets_past_the_credentials_that_it_needs() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(ROUTES, &upstream);
    let corpus = corpus();
    assert!(corpus.len() > 1000);
    let absolute =
        corpus.iter().filter(|it| it.starts_with('/')).step_by(7).map(|it| format!("http://app.example{it}"));
    let (mut refused, mut asked) = (0, 0);
    for target in corpus.iter().cloned().chain(absolute) {
        match status(&gateway, &target, "") {
            400 => refused += 1,
            401 => asked += 1,
            200 | 404 => {}
            other => panic!("{target:?}: {other}"),
        }
    }
    let mut http2 = H2Client::connect(gateway.public());
    let by_http2 = corpus.iter().filter(|it| it.starts_with('/') && it.parse::<http::Uri>().is_ok()).step_by(3);
    for target in by_http2 {
        match http2.request("GET", target, &[], b"", None).status {
            200 | 400 | 401 | 404 => {}
            other => panic!("{target:?} over HTTP/2: {other}"),
        }
    }
    assert!(refused > 100 && asked > 100, "{refused} refused, {asked} asked for credentials");
    // All that has arrived came by the open route, and is nothing that is protected, whoever reads it.
    for request in upstream.requests() {
        let text = String::from_utf8_lossy(&request).into_owned();
        let target = text.split(' ').nth(1).unwrap().to_owned();
        for reading in readings(&target) {
            // What is encoded twice is decoded twice by nobody who reads paths as RFC 3986 has it.
            let twice = target.contains("%25");
            assert!(twice || !is_protected(&reading), "{target} is read as {reading}");
        }
    }
}

#[test]
fn what_is_open_stays_open_and_what_is_allowed_gets_in() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let gateway = start(ROUTES, &upstream);
    let bearer = format!("authorization: Bearer {}\r\n", token("ada", &[]));
    for target in ["/", "/a;v=1/b", "/a%3Bb", "/secrets;x", "/adminx;y", "/api/v1;x/public", "/secret/x;y"] {
        assert_eq!(status(&gateway, target, ""), 200, "{target}");
    }
    for target in ["/admin/x", "/secret", "/api/v1/private/x", "//admin//x", "/x/../secret"] {
        assert_eq!(status(&gateway, target, ""), 401, "{target}");
        assert_eq!(status(&gateway, target, &bearer), 200, "{target}");
    }
    // With credentials, too: which path is meant nobody can say.
    for target in ["/admin;x/y", "/admin/x;y", "/secret;x"] {
        assert_eq!(status(&gateway, target, &bearer), 400, "{target}");
    }
}

#[test]
fn a_route_may_take_parameters_and_opens_no_other_by_that() {
    let upstream = RawUpstream::start(|_| Script::ok("fine"));
    let routes = "
routes:
  - { name: matrix, match: { path: \"/matrix/{*rest}\" }, upstream: up, auth: { jwt: {} }, path_parameters: true }
  - { name: secret, match: { path: /secret }, upstream: up, auth: { jwt: {} } }
  - { name: page, match: { path: /page }, upstream: up }
  - { name: open, match: { path: \"/{*rest}\" }, upstream: up, path_parameters: true }
";
    let gateway = start(routes, &upstream);
    let bearer = format!("authorization: Bearer {}\r\n", token("ada", &[]));
    for (target, fields, expected) in [
        ("/matrix/a;v=1/b", "", 401),
        ("/matrix/a;v=1/b", &*bearer, 200),
        // Without its parameter it is protected, and this one goes to the open route.
        ("/matrix;v=1/b", "", 400),
        ("/secret;x", "", 400),
        ("/secret%3bx", "", 400),
        ("/;/secret", "", 400),
        ("/;x/secret;y", &*bearer, 400),
        ("/page;x", "", 200),
        ("/other;x", "", 200),
    ] {
        assert_eq!(status(&gateway, target, fields), expected, "{target}");
    }
    let strict = start(&routes.replace(", path_parameters: true", ""), &upstream);
    assert_eq!(status(&strict, "/page;x", ""), 400, "it would be another route without its parameter");
    assert_eq!(status(&strict, "/other;x", ""), 200);
}
