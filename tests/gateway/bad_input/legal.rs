//! Requests that look odd and are right, or that are read in one way only: what exactly arrives.

pub struct Legal {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub method: &'static str,
    pub target: &'static str,
    /// Every value that the upstream gets under these names, in order; no value: the field must not be there.
    pub fields: Vec<(&'static str, Vec<&'static str>)>,
    pub body: &'static [u8],
}

const LENGTH_5: (&str, &[&str]) = ("content-length", &["5"]);
const NO_LENGTH: (&str, &[&str]) = ("content-length", &[]);
const CHUNKED: (&str, &[&str]) = ("transfer-encoding", &["chunked"]);
const NOT_CHUNKED: (&str, &[&str]) = ("transfer-encoding", &[]);
const HOST: (&str, &[&str]) = ("host", &["a.example"]);

type Row = (
    &'static str,
    &'static [u8],
    &'static str,
    &'static str,
    &'static [(&'static str, &'static [&'static str])],
    &'static [u8],
);

pub fn all() -> Vec<Legal> {
    let rows: [Row; 38] = [
        ("a plain GET", b"GET /case HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET", "/case", &[HOST, NO_LENGTH, NOT_CHUNKED], b""),
        ("an empty line in front", b"\r\nGET /case HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET", "/case", &[HOST], b""),
        ("no space after the colon", b"GET /case HTTP/1.1\r\nHost:a.example\r\nX:y\r\n\r\n", "GET", "/case", &[HOST, ("x", &["y"])], b""),
        ("spaces and tabs round a value", b"GET /case HTTP/1.1\r\nHost: \ta.example \t\r\nX:\t y \t\r\n\r\n", "GET", "/case", &[HOST, ("x", &["y"])], b""),
        ("a GET with a body", b"GET /case HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello", "GET", "/case", &[LENGTH_5, NOT_CHUNKED], b"hello"),
        ("a DELETE with chunks", b"DELETE /case HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "DELETE", "/case", &[CHUNKED, NO_LENGTH], b"hello"),
        ("a POST without a body", b"POST /case HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n", "POST", "/case", &[("content-length", &["0"])], b""),
        ("a POST without any framing", b"POST /case HTTP/1.1\r\nHost: a.example\r\n\r\n", "POST", "/case", &[NOT_CHUNKED], b""),
        ("spaces round the length", b"POST /case HTTP/1.1\r\nHost: a.example\r\nContent-Length: \t 5 \t\r\n\r\nhello", "POST", "/case", &[LENGTH_5], b"hello"),
        ("a length in capitals", b"POST /case HTTP/1.1\r\nHost: a.example\r\nCONTENT-LENGTH: 5\r\n\r\nhello", "POST", "/case", &[LENGTH_5], b"hello"),
        ("chunked in capitals", b"POST /case HTTP/1.1\r\nHost: a.example\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "POST", "/case", &[CHUNKED, NO_LENGTH], b"hello"),
        ("chunked between blanks", b"POST /case HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding:\t chunked \t\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "POST", "/case", &[CHUNKED, NO_LENGTH], b"hello"),
        ("no chunk but the last", b"POST /case HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "POST", "/case", &[CHUNKED], b""),
        ("chunk sizes with zeros in front", b"POST /case HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n005\r\nhello\r\n000\r\n\r\n", "POST", "/case", &[CHUNKED], b"hello"),
        ("chunk sizes in both cases", b"POST /case HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "POST", "/case", &[CHUNKED], b"01234567890123456789"),
        ("chunk extensions", b"POST /case HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b;c=\"d e\"\r\nhello\r\n0;z\r\n\r\n", "POST", "/case", &[CHUNKED], b"hello"),
        ("trailers that would change the framing", b"POST /case HTTP/1.1\r\nHost: a.example\r\nTrailer: Content-Length, Host\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 99\r\nHost: evil\r\nTransfer-Encoding: x\r\n\r\n", "POST", "/case", &[HOST, CHUNKED, NO_LENGTH, ("trailer", &[])], b"hello"),
        ("a body that looks like a request", b"POST /case HTTP/1.1\r\nHost: a.example\r\nContent-Length: 23\r\n\r\nGET /inner HTTP/1.1\r\n\r\n", "POST", "/case", &[("content-length", &["23"])], b"GET /inner HTTP/1.1\r\n\r\n"),
        ("chunks that look like a request", b"POST /case HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n17\r\nGET /inner HTTP/1.1\r\n\r\n\r\n0\r\n\r\n", "POST", "/case", &[CHUNKED], b"GET /inner HTTP/1.1\r\n\r\n"),
        ("another name for the coding", b"POST /case HTTP/1.1\r\nHost: a.example\r\nTransfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello", "POST", "/case", &[LENGTH_5, NOT_CHUNKED], b"hello"),
        ("HTTP/1.0 with a Host", b"GET /case HTTP/1.0\r\nHost: a.example\r\n\r\n", "GET", "/case", &[HOST], b""),
        ("HTTP/1.0 with a body", b"POST /case HTTP/1.0\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello", "POST", "/case", &[LENGTH_5], b"hello"),
        ("a Host with a port", b"GET /case HTTP/1.1\r\nHost: a.example:65535\r\n\r\n", "GET", "/case", &[("host", &["a.example:65535"])], b""),
        ("a Host that is an address", b"GET /case HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET", "/case", &[("host", &["[::1]"])], b""),
        ("absolute-form with the same host", b"GET http://a.example/case?x HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET", "/case?x", &[HOST], b""),
        ("Upgrade: h2c", b"GET /case HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "GET", "/case", &[("upgrade", &[]), ("http2-settings", &[]), ("connection", &[])], b""),
        ("fields of this connection", b"GET /case HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, X-Mine\r\nKeep-Alive: 5\r\nX-Mine: y\r\nProxy-Connection: z\r\nTE: trailers\r\n\r\n", "GET", "/case", &[("connection", &[]), ("keep-alive", &[]), ("x-mine", &[]), ("proxy-connection", &[]), ("te", &[])], b""),
        ("a method of another case", b"get /case HTTP/1.1\r\nHost: a.example\r\n\r\n", "get", "/case", &[HOST], b""),
        ("an unknown method", b"BREW-COFFEE!~ /case HTTP/1.1\r\nHost: a.example\r\n\r\n", "BREW-COFFEE!~", "/case", &[HOST], b""),
        ("OPTIONS that may go further", b"OPTIONS /case HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 7\r\n\r\n", "OPTIONS", "/case", &[("max-forwards", &["6"])], b""),
        ("Max-Forwards where it means nothing", b"GET /case HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 0\r\n\r\n", "GET", "/case", &[("max-forwards", &["0"])], b""),
        ("dots in the path", b"GET /a/./b/../c//d HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET", "/a/c/d", &[HOST], b""),
        ("dots in disguise", b"GET /a/%2e/b/%2E./c HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET", "/a/c", &[HOST], b""),
        ("escapes of what needs none", b"GET /%63%61se?%63 HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET", "/case?%63", &[HOST], b""),
        ("parameters in the path", b"GET /case;x=1/y;z HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET", "/case;x=1/y;z", &[HOST], b""),
        ("a backslash in the query", b"GET /case?a\\b&%2f%00 HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET", "/case?a\\b&%2f%00", &[HOST], b""),
        ("overlapping ranges", b"GET /case HTTP/1.1\r\nHost: a.example\r\nRange: bytes=0-,0-,0-,5-2,-0,x\r\n\r\n", "GET", "/case", &[("range", &["bytes=0-,0-,0-,5-2,-0,x"])], b""),
        ("bytes beyond ASCII in a value", b"GET /case HTTP/1.1\r\nHost: a.example\r\nX: gr\xfc\xdfe\ty\r\n\r\n", "GET", "/case", &[("x", &["gr\u{fc}\u{df}e\ty"])], b""),
    ];
    let legal = |(name, bytes, method, target, fields, body): Row| Legal {
        name,
        bytes: bytes.to_vec(),
        method,
        target,
        fields: fields.iter().map(|(name, values)| (*name, values.to_vec())).collect(),
        body,
    };
    rows.into_iter().map(legal).collect()
}
