use super::*;

fn read(text: impl AsRef<[u8]>, method: &Method) -> Result<Option<ResponseHead>, HeadError> {
    read_response(&mut BytesMut::from(text.as_ref()), &mut HeadScan::default(), method)
}

#[track_caller]
fn whole(text: &str) -> ResponseHead {
    read(text, &Method::GET).unwrap_or_else(|error| panic!("{error}: {text:?}")).expect("a whole head")
}

/// The names that are left.
fn names(head: &ResponseHead) -> String {
    let mut names: Vec<_> = head.response.headers.keys().map(|it| it.as_str()).collect();
    names.sort_unstable();
    names.join(" ")
}

#[track_caller]
fn refused(text: impl AsRef<[u8]>) {
    let error = read(text.as_ref(), &Method::GET).err();
    assert!(matches!(error, Some(HeadError::Malformed(_))), "{}: {error:?}", text.as_ref().escape_ascii());
}

#[test]
fn a_head_is_taken_and_no_more() {
    let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: \tb \r\nDate: x\r\n\r\nabcd");
    let head = read_response(&mut buffer, &mut HeadScan::default(), &Method::GET).unwrap().unwrap();
    assert_eq!((head.framing, head.persistent, &buffer[..]), (Framing::Length(3), true, &b"abcd"[..]));
    assert_eq!((head.response.status, &head.response.headers["x-a"]), (StatusCode::OK, &"b".parse().unwrap()));
    assert_eq!((names(&head).as_str(), head.upgrade), ("content-length date x-a", None));
    assert!(!head.response.has_case() && head.response.version == Version::HTTP_11);
}

#[test]
fn a_status_line_is_version_status_and_reason() {
    for (line, status, reason) in [
        ("HTTP/1.1 200 OK", 200, Some("OK")),
        ("HTTP/1.0 404 Nobody's here", 404, Some("Nobody's here")),
        ("HTTP/1.1 599 ", 599, None),
        ("HTTP/1.1 999", 999, None),
        ("HTTP/1.1 204 ", 204, Some("No Content")),
    ] {
        let head = whole(&format!("{line}\r\n\r\n"));
        assert_eq!((head.response.status.as_u16(), head.response.get_reason_phrase()), (status, reason), "{line}");
    }
    for line in [
        "HTTP/2.0 200 OK",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 200OK",
        "HTTP/1.1 -20 OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1 200 O\rK",
        " HTTP/1.1 200 OK",
        "\r\nHTTP/1.1 200 OK",
        "x",
        "HTTP/1.1",
        "ICY 200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 200 \x7f",
    ] {
        refused(format!("{line}\r\n\r\n"));
    }
    // Left over from the response before, and seen as such before a line has ended.
    for text in ["\r\n", "0", "hello", "H ", "HTTP/2"] {
        refused(text);
    }
    for text in ["", "HTT", "HTTP/1.1 200 OK\r\nConte", "HTTP/1.1 200 OK\r\nA: b\r\n\r"] {
        assert!(read(text, &Method::GET).unwrap().is_none(), "{text:?}");
    }
}

#[test]
fn lines_and_fields_are_as_strict_as_a_requests() {
    for fields in
        ["X: a\r\n b", "X: a\r\n\tb", "X : a", " X: a", "X Y: a", "X", ": a", "X: a\rb", "X: \0", "X: \x7f", "X\0: a"]
    {
        refused(format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: 3\r\n\r\n"));
    }
    for text in ["HTTP/1.1 200 OK\n\r\n", "HTTP/1.1 200 OK\r\nA: b\n\r\n", "HTTP/1.1 200 OK\r\n\n", "HTTP/1.1 200 OK\n"]
    {
        assert_eq!(read(text, &Method::GET).err(), Some(HeadError::Malformed("a line ends without CR")));
    }
}

#[test]
fn heads_are_bounded() {
    let fields = |count| format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(count));
    assert_eq!(whole(&fields(FIELDS_MAX)).response.headers.len(), FIELDS_MAX);
    assert_eq!(read(fields(FIELDS_MAX + 1), &Method::GET).err(), Some(HeadError::FieldsTooLarge));
    let value = |length| format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(length));
    let rest = LIMITS.head - value(0).len();
    assert_eq!(whole(&value(rest)).response.headers["x"].len(), rest);
    assert_eq!(read(value(rest + 1), &Method::GET).err(), Some(HeadError::FieldsTooLarge));
    assert_eq!(read(&value(LIMITS.head)[..LIMITS.head], &Method::GET).err(), Some(HeadError::FieldsTooLarge));
}

#[test]
fn a_body_is_framed_in_one_way() {
    let head = |fields: &str| whole(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"));
    for (fields, framing, left) in [
        ("", Framing::UntilClose, ""),
        ("Content-Length: 0\r\n", Framing::Empty, "content-length"),
        ("Content-Length: 0003\r\n", Framing::Length(3), "content-length"),
        ("Transfer-Encoding: Chunked\r\n", Framing::Chunked, ""),
        ("Content-Length-Hint: 5\r\nTransfer-Encoding: chunked\r\n", Framing::Chunked, "content-length-hint"),
    ] {
        let head = head(fields);
        assert_eq!((head.framing, names(&head).as_str()), (framing, left), "{fields}");
        assert_eq!(head.persistent, framing != Framing::UntilClose);
    }
    assert_eq!(head("Content-Length: 0003\r\n").response.headers["content-length"], "3");
}

#[test]
fn a_framing_in_doubt_is_refused() {
    for fields in [
        "Content-Length: 5, 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: +5",
        "Content-Length:",
        "Content-Length: 5 5",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Transfer-Encoding: identity",
    ] {
        for status in ["200 OK", "304 Not Modified", "204 No Content"] {
            refused(format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n"));
        }
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
        assert!(read(head, &Method::HEAD).is_err(), "{fields}");
    }
    refused("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
}

#[test]
fn some_responses_have_no_body_whatever_they_say() {
    let of = |status: &str, fields: &str, method: &Method| {
        let head = read(format!("HTTP/1.1 {status}\r\n{fields}\r\n"), method).unwrap().unwrap();
        assert_eq!(head.framing, Framing::Empty, "{status} {fields}");
        (names(&head), head.persistent)
    };
    let (length, chunked) = ("Content-Length: 055\r\n", "Transfer-Encoding: chunked\r\n");
    let kept = ("content-length".to_owned(), true);
    assert_eq!(of("200 OK", length, &Method::HEAD), kept);
    assert_eq!(of("304 Not Modified", length, &Method::GET), kept);
    for (status, method) in
        [("200 OK", Method::HEAD), ("304 Not Modified", Method::GET), ("204 No Content", Method::GET)]
    {
        assert_eq!(of(status, "", &method), (String::new(), true));
    }
    assert_eq!(of("304 Not Modified", chunked, &Method::GET), (String::new(), true));
    assert_eq!(of("204 No Content", "Content-Length: 0\r\n", &Method::GET), (String::new(), true));
    // If bytes come nevertheless, they must not be taken for the next response.
    assert_eq!(of("204 No Content", length, &Method::GET), (String::new(), false));
    assert_eq!(of("204 No Content", chunked, &Method::GET), (String::new(), false));
}

#[test]
fn interim_responses_lose_what_is_not_theirs() {
    let fields =
        "Connection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\nLink: </a>\r\n";
    let head = whole(&format!("HTTP/1.1 103 Early Hints\r\n{fields}\r\n"));
    assert_eq!((names(&head).as_str(), head.framing, head.upgrade), ("link", Framing::Empty, None));
    assert!(whole("HTTP/1.1 100 Continue\r\n\r\n").persistent);

    let head = whole(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
    );
    assert_eq!(
        (names(&head).as_str(), head.upgrade.as_ref().unwrap()),
        ("sec-websocket-accept", &"WebSocket".parse().unwrap())
    );
    assert!(!head.persistent && head.framing == Framing::Empty);
    assert_eq!(whole("HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n").upgrade, None);
}

#[test]
fn the_connections_fields_stay_behind() {
    let fields = "Connection: X-A, close\r\nConnection: x-b,\"y\"\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\nTE: x\r\nTrailer: y\r\nUpgrade: z\r\n\
        Proxy-Connection: a\r\nKeep-Alive: 5\r\nHTTP2-Settings: AAA\r\nContent-Length: 0\r\nServer: u\r\n";
    assert_eq!(names(&whole(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"))), "content-length server x-c");
}

#[test]
fn the_upstream_says_whether_the_connection_goes_on() {
    let persistent = |version: &str, fields: &str| whole(&format!("{version} 200 OK\r\n{fields}\r\n")).persistent;
    for (fields, new, old) in [
        ("Content-Length: 3\r\n", true, false),
        ("Content-Length: 3\r\nConnection: Keep-Alive\r\n", true, true),
        ("Content-Length: 3\r\nConnection: x-a\r\nConnection: close\r\n", false, false),
        ("Content-Length: 3\r\nConnection: close\r\nConnection: keep-alive\r\n", false, false),
        ("Connection: keep-alive\r\n", false, false),
    ] {
        assert_eq!((persistent("HTTP/1.1", fields), persistent("HTTP/1.0", fields)), (new, old), "{fields}");
    }
}
