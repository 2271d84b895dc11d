//! Requests that no careful server takes, as data. The runner hides a second request behind each.
//!
//! RFC 9112 (the message), RFC 9110 (its fields) and RFC 3986 (its target) say what is wrong with
//! them; the headline of each group says where.

/// What becomes of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Want {
    /// This answer, and the upstream sees nothing at all.
    No(u16),
    /// The head was good and went on before the body turned out not to be: the answer is a 400 and the
    /// upstream's request is cut before its end.
    Cut,
}

pub struct Case {
    pub name: String,
    pub bytes: Vec<u8>,
    pub want: Want,
}

fn case(name: impl Into<String>, want: Want, bytes: impl Into<Vec<u8>>) -> Case {
    Case { name: name.into(), bytes: bytes.into(), want }
}

/// Puts one header line (or several) into an otherwise good request with five bytes after it.
fn posted(line: &[u8]) -> Vec<u8> {
    [b"POST /case HTTP/1.1\r\nHost: a.example\r\n", line, b"\r\n\r\nhello"].concat()
}

fn got(line: &[u8]) -> Vec<u8> {
    [b"GET /case HTTP/1.1\r\nHost: a.example\r\n", line, b"\r\n\r\n"].concat()
}

fn asked(request_line: &[u8]) -> Vec<u8> {
    [request_line, b"\r\nHost: a.example\r\n\r\n"].concat()
}

fn hosted(host: &[u8]) -> Vec<u8> {
    [b"GET /case HTTP/1.1\r\nHost: ", host, b"\r\n\r\n"].concat()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    [b"POST /case HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n", body].concat()
}

pub fn all() -> Vec<Case> {
    let groups = [
        lengths(),
        codings(),
        chunks(),
        lines(),
        fields(),
        hosts(),
        request_lines(),
        targets(),
        methods(),
        meanings(),
        sizes(),
        other_protocols(),
    ];
    groups.into_iter().flatten().collect()
}

/// RFC 9110, section 8.6; RFC 9112, section 6.3.
fn lengths() -> Vec<Case> {
    let values: [&[u8]; 28] = [
        b"+5",
        b"-5",
        b"-0",
        b"+0",
        b"0x5",
        b"5h",
        b"5 5",
        b"5, 5",
        b"5,5",
        b"5, 6",
        b"0, 5",
        b",5",
        b"5,",
        b"",
        b" \t ",
        b"5.0",
        b"5e0",
        b"five",
        b"5;",
        b"\"5\"",
        b"5_0",
        b"5\x0b",
        b"\x0c5",
        b"\xef\xbc\x95",
        b"\xb2",
        b"9223372036854775808",
        b"18446744073709551621",
        b"99999999999999999999999999999999",
    ];
    let single = values.iter().map(|value| {
        let name = format!("Content-Length: {}", value.escape_ascii());
        case(name, Want::No(400), posted(&[b"Content-Length: ", *value].concat()))
    });
    let several: [(&str, &[u8]); 8] = [
        ("the same length twice", b"Content-Length: 5\r\nContent-Length: 5"),
        ("two lengths", b"Content-Length: 5\r\nContent-Length: 6"),
        ("two lengths, the first 0", b"Content-Length: 0\r\nContent-Length: 5"),
        ("two lengths, in other case", b"content-length: 5\r\nCONTENT-LENGTH: 0"),
        ("a length and an empty one", b"Content-Length: 5\r\nContent-Length:"),
        ("a folded length", b"Content-Length:\r\n 5"),
        ("a length with a NUL", b"Content-Length: 5\0"),
        ("a length with a bare CR", b"Content-Length: 5\r6"),
    ];
    single.chain(several.into_iter().map(|(name, line)| case(name, Want::No(400), posted(line)))).collect()
}

/// RFC 9112, section 6.1.
fn codings() -> Vec<Case> {
    let values: [&[u8]; 27] = [
        b"chunked, chunked",
        b"chunked,chunked",
        b"xchunked",
        b"chunkedx",
        b"x chunked",
        b"chunked x",
        b"chunked, identity",
        b"identity, chunked",
        b"identity",
        b"gzip",
        b"gzip, chunked",
        b"chunked, gzip",
        b"",
        b",chunked",
        b"chunked,",
        b", chunked",
        b"chunked;q=1",
        b"\"chunked\"",
        b"'chunked'",
        b"\x0bchunked",
        b"chunked\x0b",
        b"\x0cchunked",
        b"\0chunked",
        b"chun ked",
        b"chun\tked",
        b"\xefchunked",
        b"none",
    ];
    let single = values.iter().map(|value| {
        let name = format!("Transfer-Encoding: {}", value.escape_ascii());
        let head = [b"POST /case HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: ", *value].concat();
        case(name, Want::No(400), [&head[..], b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"].concat())
    });
    let several: [(&str, &[u8]); 16] = [
        ("a length, then chunks", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
        ("chunks, then a length", b"Transfer-Encoding: chunked\r\nContent-Length: 5"),
        ("the length 0 and chunks", b"Content-Length: 0\r\nTransfer-Encoding: chunked"),
        ("a length and an unknown coding", b"Content-Length: 5\r\nTransfer-Encoding: xchunked"),
        ("a length and the coding identity", b"Content-Length: 5\r\nTransfer-Encoding: identity"),
        ("a length and an empty coding", b"Content-Length: 5\r\nTransfer-Encoding:"),
        ("chunked in two fields", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("identity, then chunked, in two fields", b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        ("chunked, then x, in two fields", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x"),
        ("a space before the coding's colon", b"Transfer-Encoding : chunked"),
        ("a tab before the coding's colon", b"Transfer-Encoding\t: chunked"),
        ("a vertical tab before the coding's colon", b"Transfer-Encoding\x0b: chunked"),
        ("a NUL in the coding's name", b"Transfer-\0Encoding: chunked"),
        ("a folded coding", b"Transfer-Encoding:\r\n chunked"),
        ("a coding behind a fold", b"X: y\r\n Transfer-Encoding: chunked"),
        ("a coding behind a bare CR", b"X: y\rTransfer-Encoding: chunked"),
    ];
    let several = several.into_iter().map(|(name, line)| case(name, Want::No(400), posted(line)));
    let old: &[u8] = b"POST /case HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let both: &[u8] =
        b"POST /case HTTP/1.0\r\nHost: a.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let old = [("chunks before HTTP/1.1", old), ("chunks and a length before HTTP/1.1", both)];
    single.chain(several).chain(old.into_iter().map(|(name, bytes)| case(name, Want::No(400), bytes))).collect()
}

/// RFC 9112, section 7.1.
fn chunks() -> Vec<Case> {
    let bodies: [(&str, &[u8]); 34] = [
        ("an empty size", b"\r\nhello\r\n0\r\n\r\n"),
        ("an empty size after a chunk", b"5\r\nhello\r\n\r\n\r\n"),
        ("only an extension", b";a=b\r\nhello\r\n0\r\n\r\n"),
        ("a space after the size", b"5 \r\nhello\r\n0\r\n\r\n"),
        ("an extension with a bare LF", b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("an extension with a NUL", b"5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("data shorter than its size", b"8\r\nhello\r\n0\r\n\r\n"),
        ("a last line that ends in a bare LF", b"5\r\nhello\r\n0\r\n\n"),
        ("a trailer that ends in a bare LF", b"5\r\nhello\r\n0\r\nx: y\n\r\n"),
        ("a negative size", b"-5\r\nhello\r\n0\r\n\r\n"),
        ("a signed size", b"+5\r\nhello\r\n0\r\n\r\n"),
        ("a size with 0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
        ("a size with h", b"5h\r\nhello\r\n0\r\n\r\n"),
        ("a size with a letter beyond f", b"5g\r\nhello\r\n0\r\n\r\n"),
        ("a size with an underscore", b"0_5\r\nhello\r\n0\r\n\r\n"),
        ("a space before the size", b" 5\r\nhello\r\n0\r\n\r\n"),
        ("a tab before the size", b"\t5\r\nhello\r\n0\r\n\r\n"),
        ("a space within the size", b"0 5\r\nhello\r\n0\r\n\r\n"),
        ("a NUL after the size", b"5\0\r\nhello\r\n0\r\n\r\n"),
        ("a size of 2^64 + 5", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a size of 2^64 - 1", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("a size of 2^68", b"100000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("a size with many zeros", b"000000000000000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a size behind a bare LF", b"\n5\r\nhello\r\n0\r\n\r\n"),
        ("a size that ends in a bare LF", b"5\nhello\r\n0\r\n\r\n"),
        ("a size that ends in a bare CR", b"5\rhello\r\n0\r\n\r\n"),
        ("a size that ends in CR CR LF", b"5\r\r\nhello\r\n0\r\n\r\n"),
        ("an extension with a bare CR", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("data that ends in a bare LF", b"5\r\nhello\n0\r\n\r\n"),
        ("data that ends in a bare CR", b"5\r\nhello\r0\r\n\r\n"),
        ("data without an end", b"5\r\nhello0\r\n\r\n"),
        ("data longer than its size", b"5\r\nhello world\r\n0\r\n\r\n"),
        ("a last chunk that ends in a bare LF", b"5\r\nhello\r\n0\n\r\n"),
        ("a last chunk with a sign", b"5\r\nhello\r\n-0\r\n\r\n"),
    ];
    let mut cases: Vec<_> =
        bodies.into_iter().map(|(name, body)| case(format!("chunks: {name}"), Want::Cut, chunked(body))).collect();
    let extension = [b"5;", &[b'a'; 100 << 10][..], b"\r\nhello\r\n0\r\n\r\n"].concat();
    cases.push(case("chunks: an extension of 100 KiB", Want::Cut, chunked(&extension)));
    let trailer = [b"0\r\nx: ", &[b'a'; 100 << 10][..], b"\r\n\r\n"].concat();
    cases.push(case("chunks: a trailer of 100 KiB", Want::Cut, chunked(&trailer)));
    cases
}

/// RFC 9112, sections 2.2 and 5.2.
fn lines() -> Vec<Case> {
    let requests: [(&str, &[u8]); 16] = [
        ("bare LF everywhere", b"GET /case HTTP/1.1\nHost: a.example\n\n"),
        ("a bare LF after the request line", b"GET /case HTTP/1.1\nHost: a.example\r\n\r\n"),
        ("a bare LF after a field", b"GET /case HTTP/1.1\r\nHost: a.example\nX: y\r\n\r\n"),
        ("a bare LF at the end", b"GET /case HTTP/1.1\r\nHost: a.example\r\n\n"),
        ("LF CR at the end", b"GET /case HTTP/1.1\r\nHost: a.example\r\n\n\r"),
        ("a bare CR after the request line", b"GET /case HTTP/1.1\rHost: a.example\r\n\r\n"),
        ("a bare CR after a field", b"GET /case HTTP/1.1\r\nHost: a.example\rX: y\r\n\r\n"),
        ("CR CR LF", b"GET /case HTTP/1.1\r\nHost: a.example\r\r\n\r\n"),
        ("a bare CR in a value", b"GET /case HTTP/1.1\r\nHost: a.example\r\nX: a\rb\r\n\r\n"),
        ("a bare CR in a name", b"GET /case HTTP/1.1\r\nHost: a.example\r\nX\r: b\r\n\r\n"),
        ("a bare CR in the target", b"GET /ca\rse HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("a fold with a space", b"GET /case HTTP/1.1\r\nHost: a.example\r\nX: a\r\n b\r\n\r\n"),
        ("a fold with a tab", b"GET /case HTTP/1.1\r\nHost: a.example\r\nX: a\r\n\tb\r\n\r\n"),
        ("an empty fold", b"GET /case HTTP/1.1\r\nHost: a.example\r\nX: a\r\n \r\n\r\n"),
        ("a space before the first field", b"GET /case HTTP/1.1\r\n Host: a.example\r\n\r\n"),
        ("a tab before the first field", b"GET /case HTTP/1.1\r\n\tX: y\r\nHost: a.example\r\n\r\n"),
    ];
    requests.into_iter().map(|(name, bytes)| case(name, Want::No(400), bytes)).collect()
}

/// RFC 9110, sections 5.1 and 5.5.
fn fields() -> Vec<Case> {
    let broken: [&[u8]; 25] = [
        b"X : y",
        b"X\t: y",
        b": y",
        b":",
        b" : y",
        b"X y",
        b"X",
        b"X Y: z",
        b"X\0: y",
        b"X\x01: y",
        b"X\x7f: y",
        b"X\x80: y",
        b"X\xc3\xa9: y",
        b"X(: y",
        b"X,Y: z",
        b"X/: y",
        b"X@: y",
        b"\"X\": y",
        b"X[]: y",
        b"{X}: y",
        b"X: a\0b",
        b"X: a\x01b",
        b"X: a\x1bb",
        b"X: a\x7fb",
        b"X: a\x0bb",
    ];
    let named = |line: &&[u8]| case(format!("the field '{}'", line.escape_ascii()), Want::No(400), got(line));
    broken.iter().map(named).collect()
}

/// RFC 9112, section 3.2; RFC 3986, section 3.2.
fn hosts() -> Vec<Case> {
    let values: [&[u8]; 27] = [
        b"",
        b" ",
        b"a b",
        b"a\tb",
        b"a/b",
        b"a\\b",
        b"a,b",
        b"a, b",
        b"user@a.example",
        b"user:pw@a.example",
        b"a?b",
        b"a#b",
        b"a\"b",
        b"a;b",
        b"a%00b",
        b"a\xc3\xa9",
        b"a\0b",
        b"a:port",
        b"a:-1",
        b"a:+80",
        b"a:99999",
        b"a:65536",
        b"a:80:80",
        b":80",
        b"[::1",
        b"[zz]",
        b"http://a.example",
    ];
    let single = values.iter().map(|host| case(format!("Host: {}", host.escape_ascii()), Want::No(400), hosted(host)));
    let others: [(&str, &[u8]); 7] = [
        ("no Host", b"GET /case HTTP/1.1\r\n\r\n"),
        ("no Host but other fields", b"GET /case HTTP/1.1\r\nAccept: */*\r\n\r\n"),
        ("the same Host twice", b"GET /case HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n"),
        ("two Hosts", b"GET /case HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"),
        ("two Hosts in HTTP/1.0", b"GET /case HTTP/1.0\r\nHost: a.example\r\nHost: b.example\r\n\r\n"),
        ("a Host and an empty one", b"GET /case HTTP/1.1\r\nHost: a.example\r\nHost:\r\n\r\n"),
        ("a folded Host", b"GET /case HTTP/1.1\r\nHost:\r\n a.example\r\n\r\n"),
    ];
    single.chain(others.into_iter().map(|(name, bytes)| case(name, Want::No(400), bytes))).collect()
}

/// RFC 9112, sections 2.3 and 3.
fn request_lines() -> Vec<Case> {
    let lines: [&[u8]; 38] = [
        b"GET /case",
        b"GET",
        b"GET ",
        b"GET  HTTP/1.1",
        b"/case HTTP/1.1",
        b"GET /case ",
        b"GET /case HTTP",
        b"GET /case HTTP/",
        b"GET /case HTTP/1",
        b"GET /case HTTP/1.",
        b"GET /case HTTP/.1",
        b"GET /case HTTP/0.9",
        b"GET /case HTTP/1.2",
        b"GET /case HTTP/1.10",
        b"GET /case HTTP/01.1",
        b"GET /case HTTP/1.1.1",
        b"GET /case HTTP/2.0",
        b"GET /case HTTP/2",
        b"GET /case HTTP/3.0",
        b"GET /case http/1.1",
        b"GET /case Http/1.1",
        b"GET /case HTTP /1.1",
        b"GET /case HTTP/1 .1",
        b"GET /case HTTP\\1.1",
        b"GET /case HTTPS/1.1",
        b"GET /case ICY/1.1",
        b"GET  /case HTTP/1.1",
        b"GET /case  HTTP/1.1",
        b"GET /case x HTTP/1.1",
        b"GET /ca\x0bse HTTP/1.1",
        b"GET\t/case HTTP/1.1",
        b"GET /case\tHTTP/1.1",
        b"GET\x0b/case HTTP/1.1",
        b" GET /case HTTP/1.1",
        b"\tGET /case HTTP/1.1",
        b"GET /case HTTP/1.1 ",
        b"GET /case HTTP/1.1 x",
        b"GET /case HTTP/1.1\t",
    ];
    let named = |line: &&[u8]| case(format!("the line '{}'", line.escape_ascii()), Want::No(400), asked(line));
    let mut cases: Vec<_> = lines.iter().map(named).collect();
    let junk: [(&str, &[u8]); 6] = [
        ("junk before the request line", b"junk\r\nGET /case HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("a NUL before the request line", b"\0GET /case HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("a byte order mark before the request line", b"\xef\xbb\xbfGET /case HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("a bare LF before the request line", b"\nGET /case HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("a field before the request line", b"Host: a.example\r\nGET /case HTTP/1.1\r\n\r\n"),
        ("an answer instead of a request", b"HTTP/1.1 200 OK\r\nHost: a.example\r\n\r\n"),
    ];
    cases.extend(junk.into_iter().map(|(name, bytes)| case(name, Want::No(400), bytes)));
    cases
}

/// RFC 9112, section 3.2; RFC 3986, section 3.3.
fn targets() -> Vec<Case> {
    let targets: [&[u8]; 42] = [
        b"http://b.example/case",
        b"http://a.example:81/case",
        b"http://b.example",
        b"http://user@a.example/case",
        b"http://a.example@b.example/case",
        b"http:///case",
        b"http://",
        b"http:/case",
        b"http:case",
        b"ftp://a.example/case",
        b"javascript:alert(1)",
        b"//b.example\\case",
        b"a.example:80",
        b"case",
        b"?case",
        b"*",
        b"*/case",
        b"**",
        b"/ca\0se",
        b"/ca\x01se",
        b"/ca\x1fse",
        b"/ca\x7fse",
        b"/ca\x80se",
        b"/ca\xc3\xa9se",
        b"/ca\\se",
        b"/case#x",
        b"/case?a#b",
        b"/case?a\x0bb",
        b"/ca%2fse",
        b"/ca%2Fse",
        b"/ca%5cse",
        b"/ca%00se",
        b"/ca%0d%0aX:%20y",
        b"/ca%7fse",
        b"/case%",
        b"/case%2",
        b"/case%zz",
        b"/..",
        b"/a/../../case",
        b"/%2e%2e/case",
        b"/a/..;/case",
        b"/a/..%3b/case",
    ];
    let named = |target: &&[u8]| {
        let line = [b"GET ", *target, b" HTTP/1.1"].concat();
        case(format!("the target '{}'", target.escape_ascii()), Want::No(400), asked(&line))
    };
    targets.iter().map(named).collect()
}

/// RFC 9110, section 9.1.
fn methods() -> Vec<Case> {
    let methods: [&[u8]; 12] = [
        b"G\xc9T", b"\xff", b"G\0T", b"G\x7fT", b"G@T", b"G(T)", b"G,T", b"G/T", b"G:T", b"\"GET\"", b"G[T]", b"{GET}",
    ];
    let named = |method: &&[u8]| {
        let line = [*method, b" /case HTTP/1.1"].concat();
        case(format!("the method '{}'", method.escape_ascii()), Want::No(400), asked(&line))
    };
    let mut cases: Vec<_> = methods.iter().map(named).collect();
    let long = |bytes: usize| [&vec![b'A'; bytes][..], b" /case HTTP/1.1"].concat();
    cases.push(case("a method of 100 bytes", Want::No(400), asked(&long(100))));
    cases.push(case("a method of 10 KB", Want::No(400), asked(&long(10_000))));
    let connects: [&[u8]; 4] = [b"a.example:80", b"a.example:443", b"/case", b"http://a.example/case"];
    for target in connects {
        let line = [b"CONNECT ", target, b" HTTP/1.1"].concat();
        cases.push(case(format!("CONNECT {}", target.escape_ascii()), Want::No(405), asked(&line)));
    }
    cases
}

/// RFC 9110, sections 7.6.1, 7.6.2, 7.8, 9.3.8 and 10.1.1.
fn meanings() -> Vec<Case> {
    let names = [
        "Host",
        "host",
        "Content-Length",
        "Content-Type",
        "Authorization",
        "Cookie",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Real-IP",
        "Forwarded",
        "close, Host",
        "keep-alive,authorization",
        "Transfer-Encoding",
        "X-Request-Id",
        "traceparent",
        "a b",
        "a;b",
    ];
    let mut cases: Vec<_> = names
        .iter()
        .map(|it| {
            case(
                format!("Connection: {it}"),
                Want::No(400),
                posted(format!("Connection: {it}\r\nContent-Length: 5").as_bytes()),
            )
        })
        .collect();
    for expect in ["junk", "200-ok", "100-continue, junk", "100-continue\r\nExpect: junk", ""] {
        let line = format!("Expect: {expect}\r\nContent-Length: 5");
        cases.push(case(format!("Expect: {expect}"), Want::No(417), posted(line.as_bytes())));
    }
    for method in ["TRACE", "OPTIONS"] {
        let request =
            |hops: &str| format!("{method} /case HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: {hops}\r\n\r\n");
        for hops in ["-1", "x", "", "1, 2", "1\r\nMax-Forwards: 2"] {
            cases.push(case(format!("{method} with Max-Forwards: {hops}"), Want::No(400), request(hops)));
        }
    }
    let trace = b"TRACE /case HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    cases.push(case("TRACE with a body", Want::No(400), &trace[..]));
    cases
}

/// Everything has a bound; the issue names these.
fn sizes() -> Vec<Case> {
    let long = |count: usize| vec![b'a'; count];
    let value = |count| got(&[b"X: ", &long(count)[..]].concat());
    let name = |count| got(&[&long(count)[..], b": y"].concat());
    let many =
        |count: usize| got((0..count).map(|it| format!("x-{it}: y")).collect::<Vec<_>>().join("\r\n").as_bytes());
    let fat =
        got((0..9).map(|it| format!("x-{it}: {}", "a".repeat(8_000))).collect::<Vec<_>>().join("\r\n").as_bytes());
    let target = |count| asked(&[b"GET /", &long(count)[..], b" HTTP/1.1"].concat());
    vec![
        case("a field of 100 KB", Want::No(431), value(100_000)),
        case("a field of 17 KB", Want::No(431), value(17_000)),
        case("a field of 2 MB", Want::No(431), value(2_000_000)),
        case("a name of 100 KB", Want::No(431), name(100_000)),
        case("129 fields", Want::No(431), many(129)),
        case("10,000 fields", Want::No(431), many(10_000)),
        case("9 fields of 8 KB", Want::No(431), fat),
        case("a target of 20 KB", Want::No(414), target(20_000)),
        case("a target of 2 MB", Want::No(414), target(2_000_000)),
        case("a request line without an end", Want::No(414), [&b"GET /"[..], &long(2_000_000)].concat()),
    ]
}

/// What other protocols say to a plain HTTP/1 port.
fn other_protocols() -> Vec<Case> {
    let hello: &[u8] = b"\x16\x03\x01\x00\x2e\x01\x00\x00\x2a\x03\x03abcdefghijklmnopqrstuvwxyz012345\x00\x00\x02\x13\x01\x01\x00\r\n\r\n";
    let cases: [(&str, &[u8]); 7] = [
        ("a TLS hello", hello),
        ("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        ("SMTP", b"EHLO a.example\r\n\r\n"),
        ("the PROXY protocol", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /case HTTP/1.1\r\nHost: a.example\r\n\r\n"),
        ("RTSP", b"DESCRIBE rtsp://a.example/case RTSP/1.0\r\nHost: a.example\r\n\r\n"),
        ("zeros", &[0; 64]),
    ];
    cases.into_iter().map(|(name, bytes)| case(name, Want::No(400), bytes)).collect()
}
