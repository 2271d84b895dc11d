//! The requests, and what upstreams answer to them.

use crate::support::Script;
use crate::support::upstream::{Request, answer_bytes, chunk, chunked_head, last_chunk};

/// One request, byte by byte; `x-case` in it tells the upstream how to answer.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) request: Vec<u8>,
}

/// What upstreams do, by the name of the case.
pub(super) fn answer(request: &Request) -> Script {
    let with = |status, headers: &[(&str, &str)], body: &str| Script::answer(status, headers, body);
    let raw = |text: &str| Script::new().read_body().send(text);
    match request.header("x-case").unwrap_or_default().as_str() {
        "probe" => with(200, &[], "probe"),
        "head" | "head_missing" => raw("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\netag: \"a\"\r\n\r\n"),
        "head_chunked" => raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        "conditional" => raw("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\nlast-modified: yesterday\r\n\r\n"),
        "not_modified_with_length" => raw("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 55\r\n\r\n"),
        "range" => with(206, &[("content-range", "bytes 0-4/10"), ("accept-ranges", "bytes")], "01234"),
        "range_bad" => with(416, &[("content-range", "bytes */10")], ""),
        // Kept, a peer may take the connection for the next case: the body that it expects never comes.
        "expect_refused" => Script::new().send(answer_bytes(417, &[("connection", "close")], b"no")).close(),
        "expect" => Script::continue_then(Script::ok("thanks")),
        "early_hints" => Script::early_hints_then("</a>; rel=preload", Script::ok("page")),
        "answer_chunked" => Script::chunked(200, &[b"one ", b"two"], &[]),
        "answer_chunked_trailers" | "answer_trailers_wanted" => {
            Script::chunked(200, &[b"one ", b"two"], &[("x-sum", "1")])
        }
        "answer_chunked_empty" | "answer_chunked_http10" => Script::chunked(200, &[], &[]),
        "answer_until_close" => Script::until_close(200, "all of it"),
        "answer_http10" => raw("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold").close(),
        "answer_http10_until_close" => raw("HTTP/1.0 200 OK\r\n\r\nold").close(),
        "answer_empty" => with(200, &[], ""),
        "answer_204" => with(204, &[("x-a", "b")], ""),
        "answer_204_with_length" => raw("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"),
        "answer_big" => with(200, &[], &"0123456789abcdef".repeat(200_000)),
        "answer_404" => with(404, &[("x-theirs", "yes")], "no such thing"),
        "answer_500" => with(500, &[], "broken"),
        "answer_503_retry_after" => with(503, &[("retry-after", "7")], "later"),
        "answer_302" => with(302, &[("location", "http://elsewhere/x?y#z")], ""),
        "answer_unknown_status" => with(299, &[], "odd"),
        "answer_cookies" => {
            with(200, &[("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2"), ("vary", "a"), ("vary", "b")], "x")
        }
        "answer_hop_by_hop" => with(
            200,
            &[("connection", "x-hop"), ("x-hop", "1"), ("proxy-connection", "a"), ("te", "b"), ("x-stay", "c")],
            "x",
        ),
        "answer_utf8_header" => raw("HTTP/1.1 200 OK\r\nx-name: gr\u{fc}\u{df}e\r\ncontent-length: 0\r\n\r\n"),
        "answer_empty_header" => with(200, &[("x-empty", "")], "x"),
        "answer_large_header" => with(200, &[("x-large", &"v".repeat(3000))], "x"),
        "answer_close" => raw("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx").close(),
        "answer_cut_length" => Script::cut_length(100, "half"),
        "answer_cut_chunked" => Script::cut_chunked(&[b"half"]),
        "answer_garbage" => raw("no answer at all\r\n\r\n").close(),
        "answer_two_lengths" => raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd").close(),
        "answer_length_list" => raw("HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\n\r\nabc").close(),
        "answer_length_twice" => raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc").close(),
        "answer_length_leading_zero" => raw("HTTP/1.1 200 OK\r\ncontent-length: 03\r\n\r\nabc").close(),
        "answer_length_and_chunks" => {
            raw("HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
                .close()
        }
        "answer_coding_upper_case" => {
            raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n").close()
        }
        "answer_coding_other" => {
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").close()
        }
        "answer_http10_chunked" => {
            raw("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").close()
        }
        "answer_chunk_extension" => {
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0\r\n\r\n").close()
        }
        "answer_chunk_leading_zeros" => {
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0003\r\nabc\r\n00\r\n\r\n").close()
        }
        "answer_chunk_bad" => {
            raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n").close()
        }
        "answer_trailer_of_framing" => {
            Script::chunked(200, &[b"abc"], &[("content-length", "9"), ("set-cookie", "a=b"), ("x-sum", "1")])
        }
        "answer_folded" => raw("HTTP/1.1 200 OK\r\nx-fold: a\r\n b\r\ncontent-length: 1\r\n\r\nx").close(),
        "answer_name_with_space" => raw("HTTP/1.1 200 OK\r\nx-a : b\r\ncontent-length: 1\r\n\r\nx").close(),
        "answer_connection_lines" => with(
            200,
            &[
                ("connection", "x-one"),
                ("connection", "keep-alive, X-Two"),
                ("x-one", "1"),
                ("x-two", "2"),
                ("x-stay", "3"),
            ],
            "x",
        ),
        "answer_no_reason" => raw("HTTP/1.1 200\r\ncontent-length: 1\r\n\r\nx").close(),
        "answer_interim_two" => {
            let interim = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
            raw(interim).send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")
        }
        "answer_switch_unasked" => {
            raw("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").close()
        }
        "post_unanswered" => Script::new().read_body().close(),
        "answer_encoded" => with(200, &[("content-encoding", "gzip"), ("content-type", "text/plain")], "not really"),
        "answer_caching" => {
            with(200, &[("cache-control", "max-age=9"), ("age", "3"), ("expires", "never"), ("etag", "W/\"x\"")], "x")
        }
        _ => with(200, &[("content-type", "text/plain"), ("x-up", "1")], "hello"),
    }
}

/// `{line}` with Host, the case's name, these further lines, and a body.
fn case(name: &'static str, line: &str, lines: &str, body: impl AsRef<[u8]>) -> Case {
    let head = format!("{line}\r\nHost: a.example\r\nx-case: {name}\r\n{lines}\r\n");
    Case { name, request: [head.as_bytes(), body.as_ref()].concat() }
}

fn get(name: &'static str, target: &str) -> Case {
    case(name, &format!("GET {target} HTTP/1.1"), "", "")
}

fn with(name: &'static str, lines: &str) -> Case {
    case(name, "GET /with HTTP/1.1", lines, "")
}

const CHUNKS: &str = "3\r\nabc\r\n0\r\n\r\n";

/// Whoever reads such a body in another way than its sender meant has no use for the connection: it is the last on it.
fn posted(name: &'static str, lines: &str, body: &str) -> Case {
    case(name, "POST /p HTTP/1.1", &format!("{lines}Connection: close\r\n"), body)
}

fn chunked(name: &'static str, body: &str) -> Case {
    posted(name, "Transfer-Encoding: chunked\r\n", body)
}

pub(super) fn all() -> Vec<Case> {
    let mut all = vec![
        get("get", "/"),
        get("query", "/a?b=c&d=e"),
        get("query_encoded", "/s?q=a%20b%2Fc+d&&=&x&y=%zz"),
        get("query_brackets", "/s?f[0]=1&r={x}|y^z`"),
        get("query_quotes", "/s?q=\"<'>\\"),
        get("query_slashes", "/s?u=http://b.example/../c//d?e"),
        get("query_empty", "/s?"),
        get("path_sub_delims", "/a;b=c,d:e@f!$&'()*+g~h_i-j.k"),
        get("path_encoded_utf8", "/caf%C3%A9/%E2%82%AC"),
        get("path_encoded_space", "/a%20b"),
        get("path_lower_case_hex", "/caf%c3%a9"),
        get("path_encoded_letter", "/%61bc"),
        get("path_encoded_slash", "/a%2Fb"),
        get("path_dot_segments", "/a/./b/../c"),
        get("path_double_slash", "/a//b"),
        get("path_trailing_slash", "/a/b/"),
        get("path_long", &format!("/{}", "long/".repeat(1000))),
        get("path_bad_encoding", "/a%zz"),
        case("head", "HEAD /h HTTP/1.1", "", ""),
        case("head_chunked", "HEAD /h HTTP/1.1", "", ""),
        case("post", "POST /p HTTP/1.1", "Content-Type: text/plain\r\nContent-Length: 11\r\n", "hello world"),
        case("post_empty", "POST /p HTTP/1.1", "Content-Length: 0\r\n", ""),
        case("post_no_length", "POST /p HTTP/1.1", "", ""),
        case("post_big", "POST /p HTTP/1.1", "Content-Length: 300000\r\n", "0123456789".repeat(30_000)),
        case(
            "post_chunked",
            "POST /p HTTP/1.1",
            "Transfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        ),
        case("post_chunked_empty", "POST /p HTTP/1.1", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        case(
            "post_chunked_big",
            "POST /p HTTP/1.1",
            "Transfer-Encoding: chunked\r\n",
            [chunk(&[b'x'; 100_000]), chunk(&[b'y'; 70_000]), last_chunk(&[])].concat(),
        ),
        case(
            "post_chunk_extension",
            "POST /p HTTP/1.1",
            "Transfer-Encoding: chunked\r\n",
            "5;a=b\r\nhello\r\n0\r\n\r\n",
        ),
        case(
            "post_chunked_trailers",
            "POST /p HTTP/1.1",
            "Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n",
            "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n",
        ),
        case("post_unanswered", "POST /p HTTP/1.1", "Content-Length: 1\r\n", "x"),
        case("put", "PUT /p HTTP/1.1", "Content-Length: 3\r\nIf-Match: \"a\"\r\n", "abc"),
        case("patch", "PATCH /p HTTP/1.1", "Content-Length: 3\r\n", "abc"),
        case("delete", "DELETE /d HTTP/1.1", "", ""),
        case("delete_with_body", "DELETE /d HTTP/1.1", "Content-Length: 3\r\n", "abc"),
        case("options", "OPTIONS /o HTTP/1.1", "", ""),
        case("propfind", "PROPFIND /d HTTP/1.1", "Depth: 1\r\n", ""),
        case("get_with_body", "GET /g HTTP/1.1", "Content-Length: 3\r\n", "abc"),
        with("headers_many", &(0..60).map(|it| format!("x-field-{it}: {it}\r\n")).collect::<String>()),
        with("headers_repeated", "x-one: a\r\nx-two: b\r\nx-one: c\r\naccept: a/b\r\naccept: c/d\r\n"),
        with("headers_case", "X-CamelCase: Value\r\nACCEPT-language: de\r\n"),
        with("headers_underscore", "x_under_score: 1\r\n"),
        with("headers_empty", "x-empty:\r\nx-after: 1\r\n"),
        with("headers_space", "x-space:   a  b \t \r\n"),
        with("headers_large", &format!("x-large: {}\r\n", "v".repeat(12_000))),
        with("headers_usual", "User-Agent: t/1\r\nAccept-Encoding: gzip, br\r\nReferer: http://r/\r\nDNT: 1\r\n"),
        with("authorization", "Authorization: Bearer abc.def\r\nProxy-Authorization: Basic eA==\r\n"),
        with("cookies", "Cookie: a=1; b=\"2\"; c=\r\n"),
        with("conditional", "If-None-Match: \"a\", W/\"b\"\r\nIf-Modified-Since: Sat, 29 Oct 1994 19:43:31 GMT\r\n"),
        with("not_modified_with_length", ""),
        with("range", "Range: bytes=0-4\r\nIf-Range: \"a\"\r\n"),
        with("range_bad", "Range: bytes=50-\r\n"),
        with("connection_close", "Connection: close\r\n"),
        with("connection_keep_alive", "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n"),
        with("connection_names_a_field", "Connection: x-hop, keep-alive\r\nx-hop: 1\r\nx-stay: 2\r\n"),
        with("proxy_connection", "Proxy-Connection: keep-alive\r\n"),
        with("te", "TE: trailers, gzip;q=0.5\r\nConnection: TE\r\n"),
        with("upgrade_h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
        with("upgrade_websocket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
        with("forwarded_claims", "X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nVia: 1.0 old\r\n"),
        with("max_forwards", "Max-Forwards: 5\r\n"),
        case("expect", "POST /e HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
        case("expect_refused", "POST /e HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 5\r\n", ""),
        case("http10", "GET /old HTTP/1.0", "", ""),
        case("http10_keep_alive", "GET /old HTTP/1.0", "Connection: keep-alive\r\n", ""),
        case("http10_post", "POST /old HTTP/1.0", "Content-Length: 3\r\n", "abc"),
        case("answer_chunked_http10", "GET /old HTTP/1.0", "", ""),
        // What a body's length may be written like.
        posted("length_leading_zero", "Content-Length: 003\r\n", "abc"),
        posted("length_plus", "Content-Length: +3\r\n", "abc"),
        posted("length_list", "Content-Length: 3, 3\r\n", "abc"),
        posted("length_list_unequal", "Content-Length: 3, 4\r\n", "abcd"),
        posted("length_twice", "Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
        posted("length_twice_unequal", "Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"),
        posted("length_and_chunks", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
        posted("coding_upper_case", "Transfer-Encoding: CHUNKED\r\n", CHUNKS),
        posted("coding_twice", "Transfer-Encoding: chunked, chunked\r\n", CHUNKS),
        posted("coding_other", "Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
        posted("coding_unknown", "Transfer-Encoding: xchunked\r\n", CHUNKS),
        posted("coding_identity", "Transfer-Encoding: identity\r\nContent-Length: 3\r\n", "abc"),
        posted("coding_lines", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
        posted("coding_control", "Transfer-Encoding: \x0bchunked\r\n", CHUNKS),
        case("coding_http10", "POST /p HTTP/1.0", "Transfer-Encoding: chunked\r\n", CHUNKS),
        // Chunks and what may stand around them.
        chunked("chunk_leading_zeros", "0003\r\nabc\r\n000\r\n\r\n"),
        chunked("chunk_upper_case", "A\r\n0123456789\r\n0\r\n\r\n"),
        chunked("chunk_extension_quoted", "3;a=\"b;c\"\r\nabc\r\n0;d\r\n\r\n"),
        chunked("chunk_extension_space", "3 ; a = b\r\nabc\r\n0\r\n\r\n"),
        chunked("chunk_extension_control", "3;a=\x01\r\nabc\r\n0\r\n\r\n"),
        chunked("chunk_extension_bare_lf", "3;a\nabc\r\n0\r\n\r\n"),
        chunked("chunk_sign", "+3\r\nabc\r\n0\r\n\r\n"),
        chunked("chunk_prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        chunked("chunk_too_long", "3\r\nabcd\r\n0\r\n\r\n"),
        chunked("chunk_trailers_undeclared", "3\r\nabc\r\n0\r\nx-sum: 1\r\nX-Two: 2\r\n\r\n"),
        chunked("chunk_trailer_of_framing", "3\r\nabc\r\n0\r\ncontent-length: 9\r\nauthorization: x\r\n\r\n"),
        // Fields and their lines.
        with("fold", "x-fold: a\r\n b\r\n"),
        with("fold_first", " x-fold: a\r\n"),
        with("name_with_space", "x-a : b\r\n"),
        with("name_with_control", "x-\x01a: b\r\n"),
        with("line_bare_lf", "x-a: b\nx-c: d\r\n"),
        with("value_bare_cr", "x-a: b\rc\r\n"),
        with(
            "connection_lines",
            "Connection: x-one\r\nx-one: 1\r\nConnection: keep-alive, X-Two\r\nx-two: 2\r\nx-stay: 3\r\n",
        ),
        with("connection_lines_close", "Connection: x-one\r\nConnection: close\r\nx-one: 1\r\n"),
        with("connection_names_host", "Connection: host, content-length\r\n"),
        with("te_only", "TE: trailers\r\nConnection: TE\r\n"),
        with("answer_trailers_wanted", "TE: trailers\r\nConnection: TE\r\n"),
        with("te_unnamed", "TE: trailers\r\n"),
        // HTTP/1.0 and its connections.
        case("http10_keep_alive_post", "POST /old HTTP/1.0", "Connection: Keep-Alive\r\nContent-Length: 3\r\n", "abc"),
        case("http10_keep_alive_and_close", "GET /old HTTP/1.0", "Connection: keep-alive, close\r\n", ""),
        case("http12", "GET /new HTTP/1.2", "", ""),
        // Where a request goes.
        case("absolute_form_default_port", "GET http://a.example:80/abs HTTP/1.1", "", ""),
        case("absolute_form_port", "GET http://a.example:8080/abs HTTP/1.1", "", ""),
        case("absolute_form_upper_case", "GET HTTP://A.Example/Abs HTTP/1.1", "", ""),
        case("absolute_form_other_host", "GET http://b.example/abs HTTP/1.1", "", ""),
        case("absolute_form_user", "GET http://u:p@a.example/abs HTTP/1.1", "", ""),
        case("absolute_form", "GET http://a.example/abs?x=y HTTP/1.1", "", ""),
        case("absolute_form_bare", "GET http://a.example HTTP/1.1", "", ""),
    ];
    for name in [
        "early_hints",
        "answer_chunked",
        "answer_chunked_trailers",
        "answer_chunked_empty",
        "answer_until_close",
        "answer_http10",
        "answer_http10_until_close",
        "answer_empty",
        "answer_204",
        "answer_204_with_length",
        "answer_big",
        "answer_404",
        "answer_500",
        "answer_503_retry_after",
        "answer_302",
        "answer_unknown_status",
        "answer_cookies",
        "answer_hop_by_hop",
        "answer_utf8_header",
        "answer_empty_header",
        "answer_large_header",
        "answer_close",
        "answer_cut_length",
        "answer_cut_chunked",
        "answer_garbage",
        "answer_two_lengths",
        "answer_length_list",
        "answer_length_twice",
        "answer_length_leading_zero",
        "answer_length_and_chunks",
        "answer_coding_upper_case",
        "answer_coding_other",
        "answer_http10_chunked",
        "answer_chunk_extension",
        "answer_chunk_leading_zeros",
        "answer_chunk_bad",
        "answer_trailer_of_framing",
        "answer_folded",
        "answer_name_with_space",
        "answer_connection_lines",
        "answer_no_reason",
        "answer_interim_two",
        "answer_switch_unasked",
        "answer_encoded",
        "answer_caching",
    ] {
        all.push(get(name, "/answer"));
    }
    // Host in other clothes.
    for (name, host) in [
        ("host_port", "A.Example:8080"),
        ("host_default_port", "a.example:80"),
        ("host_ipv6", "[::1]:80"),
        ("host_ipv6_upper_case", "[FE80::A]"),
        ("host_upper", "A.EXAMPLE"),
        ("host_empty", ""),
        ("host_empty_port", "a.example:"),
        ("host_bad_port", "a.example:x"),
        ("host_list", "a.example, b.example"),
        ("host_user", "u@a.example"),
    ] {
        let request = format!("GET /host HTTP/1.1\r\nhost: {host}\r\nx-case: {name}\r\n\r\n");
        all.push(Case { name, request: request.into_bytes() });
    }
    for (name, hosts) in [("host_missing", ""), ("host_twice", "Host: a.example\r\nHost: a.example\r\n")] {
        let request = format!("GET /host HTTP/1.1\r\nx-case: {name}\r\n{hosts}\r\n");
        all.push(Case { name, request: request.into_bytes() });
    }
    all
}
