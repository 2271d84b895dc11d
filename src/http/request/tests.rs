use super::*;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};

fn read(text: impl AsRef<[u8]>) -> Result<Option<RequestHead>, HeadError> {
    read_request(&mut BytesMut::from(text.as_ref()), &mut HeadScan::default())
}

#[track_caller]
fn whole(text: impl AsRef<[u8]>) -> RequestHead {
    read(text.as_ref())
        .unwrap_or_else(|error| panic!("{error}: {}", text.as_ref().escape_ascii()))
        .expect("a whole head")
}

/// A request with these fields besides its Host.
fn with(fields: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

#[track_caller]
fn refused(text: impl AsRef<[u8]>, reason: &'static str) {
    let error = read(text.as_ref()).err();
    assert_eq!(error, Some(HeadError::Malformed(reason)), "{}", text.as_ref().escape_ascii());
}

#[test]
fn a_head_is_taken_and_no_more() {
    let text = "\r\nPOST /a?b=c HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX-A: \t b \t\r\nX-A:\r\n\r\nhiGET /";
    let (mut buffer, mut scan) = (BytesMut::from(text), HeadScan::default());
    let head = read_request(&mut buffer, &mut scan).unwrap().unwrap();
    assert_eq!((&buffer[..], head.framing, head.persistent), (&b"hiGET /"[..], Framing::Length(2), true));
    let request = &head.request;
    assert_eq!((request.method.as_str(), request.uri.to_string().as_str()), ("POST", "/a?b=c"));
    assert_eq!((request.raw_path(), request.version), (&b"/a?b=c"[..], Version::HTTP_11));
    assert_eq!(request.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["b", ""]);
    assert!(!head.upgrade && !head.expects_continue && !request.has_case());
    assert!(read_request(&mut BytesMut::from("GET / HTTP/1.1\r\nHost: a\r\n"), &mut scan).unwrap().is_none());
}

#[test]
fn a_request_line_is_three_words_and_single_blanks() {
    const LINE: &str = "the request line is not method, target and version, each once";
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET\t/ HTTP/1.1",
        "GET / x HTTP/1.1",
        "GET /",
        "GET",
        "GET / HTTP/1.1\tx",
        "GET /\u{b} HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET  HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "\u{16}\u{3}\u{1}",
    ] {
        refused(format!("{line}\r\nHost: a\r\n\r\n"), LINE);
    }
    for version in
        ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/1.", "HTTP/1.11", "http/1.1", "HTTP/01.1", "HTTP/1,1", "ICY"]
    {
        let error = read(format!("GET / {version}\r\nHost: a\r\n\r\n")).err();
        assert!(matches!(error, Some(HeadError::Malformed(_))), "{version}");
    }
    refused("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", "the target has a fragment");
    refused("GET http://a/#a HTTP/1.1\r\nHost: a\r\n\r\n", "the target has a fragment");
    for method in ["get", "BREW-COFFEE!~", "#", &"M".repeat(32)] {
        assert_eq!(whole(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).request.method.as_str(), method);
    }
    refused(format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(33)), "the method is too long to be one");
}

/// What comes behind could not make it right.
#[test]
fn what_is_wrong_already_is_refused_at_once() {
    for text in
        ["\u{16}", "(", " ", "GE\r", "GET\r\n", "GET  / HTTP/1.1\r\n", "GET / HTTP/1.1\n", "GET / HTTP/1.1\r\nA: b\n"]
    {
        assert!(matches!(read(text), Err(HeadError::Malformed(_))), "{text:?}");
    }
    refused("M".repeat(33), "the method is too long to be one");
    for text in ["", "\r", "\r\n", "G", "GET", "GET / HTTP/1.1\r", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nA: b\r\n\r"]
    {
        assert!(read(text).unwrap().is_none(), "{text:?}");
    }
}

#[test]
fn lines_end_in_both_bytes_and_nothing_is_folded() {
    refused("GET / HTTP/1.1\nHost: a\r\n\r\n", "a line ends without CR");
    refused(with("X: a\n"), "a line ends without CR");
    refused("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "a line ends without CR");
    refused("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", "a bare CR in the head");
    refused("\r\n".repeat(5) + "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "too many empty lines before a request");
    assert_eq!(whole("\r\n".repeat(4) + "GET / HTTP/1.1\r\nHost: a\r\n\r\n").request.uri.path(), "/");
    const NAME: &str = "a header field's name is not a token with a colon behind it";
    for field in [
        "X : a",
        "X\t: a",
        " X: a",
        "\tX: a",
        "X Y: a",
        ": a",
        "X",
        "X\r: a",
        "X\0: a",
        "\u{e9}: a",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "(: a",
    ] {
        refused(with(&format!("{field}\r\n")), NAME);
    }
    for field in ["X: a\rb", "X: \0", "X: a\u{7f}", "X: \u{1b}", "X: \r\r\n"] {
        refused(with(&format!("{field}\r\n")), "a header field holds a control character");
    }
    assert_eq!(whole(with("X: a\tb \u{e9}\r\n")).request.headers["x"].as_bytes(), "a\tb \u{e9}".as_bytes());
}

#[test]
fn heads_are_bounded() {
    let target = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(length - 1));
    assert_eq!(whole(target(TARGET_MAX)).request.raw_path().len(), TARGET_MAX);
    assert_eq!(read(target(TARGET_MAX + 1)).err(), Some(HeadError::TargetTooLong));
    let endless = format!("GET /{}", "a".repeat(LIMITS.first_line));
    assert_eq!(read(&endless).err(), Some(HeadError::TargetTooLong));

    let value = |length| with(&format!("X: {}\r\n", "a".repeat(length)));
    assert_eq!(whole(value(VALUE_MAX)).request.headers["x"].len(), VALUE_MAX);
    assert_eq!(read(value(VALUE_MAX + 1)).err(), Some(HeadError::FieldsTooLarge));
    let fields = |count: usize| with(&"X: a\r\n".repeat(count - 1));
    assert_eq!(whole(fields(FIELDS_MAX)).request.headers.len(), FIELDS_MAX);
    assert_eq!(read(fields(FIELDS_MAX + 1)).err(), Some(HeadError::FieldsTooLarge));

    let four = ["A", "B", "C", "D"].map(|it| format!("{it}: {}\r\n", "a".repeat(16_000))).concat();
    let rest = LIMITS.head - with(&four).len() - "E: \r\n".len();
    assert!(read(with(&format!("{four}E: {}\r\n", "a".repeat(rest)))).is_ok());
    assert_eq!(read(with(&format!("{four}E: {}\r\n", "a".repeat(rest + 1)))).err(), Some(HeadError::FieldsTooLarge));
    let without_end = with(&format!("X: {}", "a".repeat(LIMITS.head)));
    assert_eq!(read(&without_end[..LIMITS.head]).err(), Some(HeadError::FieldsTooLarge));
    assert!(read(&without_end[..LIMITS.head - 1]).unwrap().is_none());
}

#[test]
fn a_body_is_framed_in_one_way() {
    assert_eq!(whole(with("")).framing, Framing::Empty);
    assert_eq!(whole(with("Content-Length: 0\r\n")).framing, Framing::Empty);
    assert_eq!(whole(with("transfer-encoding:\t CHUNKED \t\r\n")).framing, Framing::Chunked);
    for (text, length, canonical) in [("0000000005", 5, "5"), ("010", 10, "10"), ("17", 17, "17")] {
        let head = whole(with(&format!("Content-Length: {text}\r\n")));
        assert_eq!(
            (head.framing, &head.request.headers[CONTENT_LENGTH]),
            (Framing::Length(length), &canonical.parse().unwrap())
        );
    }
    let number = "Content-Length is not one number";
    refused(with("Content-Length: 5, 5\r\n"), number);
    refused(with("Content-Length: 5\r\ncontent-length: 5\r\n"), number);
    refused(with("Content-Length:\r\n"), number);
    refused(with("Transfer-Encoding: gzip, chunked\r\n"), "Transfer-Encoding is not the one word chunked");
    let both = "both Content-Length and Transfer-Encoding";
    refused(with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), both);
    refused(with("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), both);
    let old = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    refused(old, "Transfer-Encoding before HTTP/1.1");
}

#[test]
fn names_are_compared_whole_and_those_that_fold_are_removed() {
    let head = whole(with("Content-Length-Hint: 5\r\nTransfer-Encoding: chunked\r\nX-Content-Length: 7\r\n"));
    assert_eq!((head.framing, &head.request.headers["content-length-hint"]), (Framing::Chunked, &"5".parse().unwrap()));
    for name in ["Transfer_Encoding", "transfer.encoding", "Content_Length", "CONTENT~LENGTH", "content`length"] {
        let head = whole(with(&format!("{name}: chunked\r\nContent-Length: 5\r\n")));
        assert_eq!((head.framing, head.request.headers.len()), (Framing::Length(5), 2), "{name}");
    }
    for name in ["Transfer0Encoding", "ContentxLength", "Content_Lengths", "Xontent_Length", "x_y"] {
        assert!(whole(with(&format!("{name}: 7\r\n"))).request.headers.contains_key(name), "{name}");
    }
    assert!(!whole(with("Transfer_Encoding: chunked\r\n")).request.headers.contains_key(TRANSFER_ENCODING));
}

#[test]
fn there_is_one_host() {
    let request = |version: &str, hosts: &str| format!("GET / {version}\r\n{hosts}\r\n");
    refused(request("HTTP/1.1", ""), "Host is missing");
    refused("GET http://a/ HTTP/1.1\r\n\r\n", "Host is missing");
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        refused(request(version, "Host: a\r\nHOST: a\r\n"), "Host is there twice");
        for host in ["", "a b", "a,b", "u@a", "a:x", "a/", "[]"] {
            let reason = "Host is not a name or address with an optional port";
            refused(request(version, &format!("Host: {host}\r\n")), reason);
        }
    }
    assert!(whole(request("HTTP/1.0", "")).request.headers.is_empty());
    assert_eq!(whole(request("HTTP/1.1", "Host: [::1]:80\r\n")).request.headers[HOST], "[::1]:80");
}

#[test]
fn an_absolute_target_is_host_and_path() {
    for (target, host, uri, expected) in [
        ("http://a.example/case?x", "a.example", "/case?x", "a.example"),
        ("HTTP://GW.test/x", "gw.test", "/x", "GW.test"),
        ("http://gw.test:80/x", "gw.test", "/x", "gw.test:80"),
        ("http://gw.test/x", "gw.test:80", "/x", "gw.test"),
        ("https://gw.test", "gw.test:443", "/", "gw.test"),
        ("http://gw.test?x=1", "gw.test", "/?x=1", "gw.test"),
    ] {
        let head = whole(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(
            (head.request.uri.to_string().as_str(), &head.request.headers[HOST]),
            (uri, &expected.parse().unwrap())
        );
        assert_eq!(head.request.raw_path(), uri.as_bytes());
    }
    assert_eq!(whole("GET http://b/ HTTP/1.0\r\n\r\n").request.headers[HOST], "b");
    let differ = "Host is not the target's authority";
    refused("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", differ);
    refused("GET http://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n", differ);
    refused("GET http://a/ HTTP/1.0\r\nHost: b\r\n\r\n", differ);
    refused("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "the target is neither a path nor an http address");
    refused("GET a HTTP/1.1\r\nHost: a\r\n\r\n", "the target is neither a path nor an http address");
    assert_eq!(whole("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").request.uri.path(), "*");
}

#[test]
fn connect_is_readable_and_the_last() {
    for target in ["a.example:443", "/", "[::1]:443"] {
        let head = whole(format!("CONNECT {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"));
        assert_eq!((head.request.method.as_str(), head.framing, head.persistent), ("CONNECT", Framing::Empty, false));
        assert_eq!(head.request.raw_path(), target.as_bytes());
    }
}

#[test]
fn the_client_says_whether_the_connection_goes_on() {
    let persistent = |version, fields| whole(format!("GET / {version}\r\nHost: a\r\n{fields}\r\n")).persistent;
    for (fields, new, old) in [
        ("", true, false),
        ("Connection: Keep-Alive\r\n", true, true),
        ("Connection: Close\r\n", false, false),
        ("Connection: x-a\r\nConnection: close\r\n", false, false),
        ("Connection: close\r\nConnection: keep-alive\r\n", false, false),
        ("Connection: keep-alive, close\r\n", false, false),
        ("Connection: x-a,, \tkeep-alive\r\n", true, true),
        ("Proxy-Connection: close\r\n", true, false),
        ("X-Connection: close\r\n", true, false),
    ] {
        assert_eq!((persistent("HTTP/1.1", fields), persistent("HTTP/1.0", fields)), (new, old), "{fields}");
    }
}

#[test]
fn connection_names_only_what_is_its_own() {
    for value in ["a b", "\"close\"", "close; x", "a\u{e9}", "close, @"] {
        refused(with(&format!("Connection: {value}\r\n")), "Connection is not a list of names");
    }
    for name in NOT_HOP_BY_HOP.into_iter().chain(["Authorization", "X-Forwarded-Port", "X-FORWARDED-", "close, Host"]) {
        let reason = "Connection names a field that is not the connection's";
        refused(with(&format!("Connection: {name}\r\n")), reason);
        refused(with(&format!("Connection: x-a\r\nConnection: {name}\r\n")), reason);
    }
    for value in ["keep-alive, x-mine", "TE", "Upgrade, HTTP2-Settings", "", ",", "x-forward"] {
        assert!(read(with(&format!("Connection: {value}\r\n"))).is_ok(), "{value}");
    }
}

#[test]
fn an_upgrade_is_asked_for_in_both_fields() {
    let upgrade = |version: &str, fields: &str| whole(format!("GET / {version}\r\nHost: a\r\n{fields}\r\n"));
    let both = "Upgrade: websocket\r\nConnection: x-a\r\nConnection: keep-alive, UPGRADE\r\n";
    let head = upgrade("HTTP/1.1", both);
    assert!(head.upgrade && head.persistent && head.request.headers[UPGRADE] == "websocket");
    assert!(!upgrade("HTTP/1.0", both).upgrade);
    assert!(!upgrade("HTTP/1.1", "Upgrade: websocket\r\n").upgrade);
    assert!(!upgrade("HTTP/1.1", "Connection: upgrade\r\n").upgrade);
    assert!(!upgrade("HTTP/1.1", "Upgrade: websocket\r\nConnection: xupgrade\r\n").upgrade);
}

#[test]
fn to_continue_is_expected_before_a_body() {
    let expects =
        |version: &str, fields: &str| whole(format!("POST / {version}\r\nHost: a\r\n{fields}\r\n")).expects_continue;
    assert!(expects("HTTP/1.1", "Expect: 100-Continue\r\nContent-Length: 5\r\n"));
    assert!(expects("HTTP/1.1", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"));
    assert!(!expects("HTTP/1.1", "Expect: 100-continue\r\n"));
    assert!(!expects("HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n"));
    assert!(!expects("HTTP/1.0", "Expect: 100-continue\r\nContent-Length: 5\r\n"));
    assert!(!expects("HTTP/1.1", "Expect: 200-ok\r\nContent-Length: 5\r\n"));
}
