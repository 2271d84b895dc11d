//! What is read in fields on either side: lists of tokens, media types, lengths, and which fields
//! belong to one connection only (RFC 9110, sections 5.6, 7.6.1 and 8.3).

use http::Version;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};
use smallvec::SmallVec;

const GRPC: &[u8] = b"application/grpc";

/// Whether a field is for one connection and never for the next (RFC 9110, section 7.6.1).
///
/// The length of the name comes first: it rules most names out.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    let name = name.as_str();
    match name.len() {
        2 => name == "te",
        7 => name == "upgrade" || name == "trailer",
        10 => name == "connection" || name == "keep-alive",
        14 => name == "http2-settings",
        16 => name == "proxy-connection",
        17 => name == "transfer-encoding",
        _ => false,
    }
}

/// The elements of a list of tokens: all lines are one list (RFC 9110, section 5.6.1), empty elements are ignored.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().flat_map(|it| elements(it.as_bytes()))
}

/// Whether a list of tokens has this one, in any case.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|it| it.eq_ignore_ascii_case(token.as_bytes()))
}

/// Removes what belongs to one connection, and all that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return; // `Connection` is one of them
    }
    let named: SmallVec<[HeaderName; 4]> =
        tokens(headers, &CONNECTION).filter_map(|it| HeaderName::from_bytes(it).ok()).collect();
    let own: SmallVec<[HeaderName; 8]> = headers.keys().filter(|it| is_hop_by_hop(it)).cloned().collect();
    for name in named.iter().chain(&own) {
        headers.remove(name);
    }
}

/// Whether the body is a stream of server-sent events.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    media_type_is(headers, "text/event-stream")
}

/// Whether `Content-Type` is this type, in any case and with any parameters (RFC 9110, section 8.3.1).
pub fn media_type_is(headers: &HeaderMap, media_type: &str) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|it| essence(it.as_bytes()).eq_ignore_ascii_case(media_type.as_bytes()))
}

/// A media type, or range of them, without its parameters; its case is as it was written.
pub fn essence(media_type: &[u8]) -> &[u8] {
    media_type.split(|it| *it == b';').next().unwrap_or_default().trim_ascii()
}

/// Whether `Content-Type` is one of gRPC's own: those of gRPC-Web, which begin alike, are not (gRPC over HTTP/2,
/// "Content-Type").
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let Some((kind, suffix)) = essence(value.as_bytes()).split_at_checked(GRPC.len()) else { return false };
    kind.eq_ignore_ascii_case(GRPC) && matches!(suffix, [] | [b'+', ..])
}

/// Whether `Content-Type` is one of gRPC or gRPC-Web (grpc/doc/PROTOCOL-WEB.md).
pub fn is_any_grpc(headers: &HeaderMap) -> bool {
    const WEB: [&str; 2] = ["-web", "-web-text"];
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let Some((kind, rest)) = essence(value.as_bytes()).split_at_checked(GRPC.len()) else { return false };
    let form = rest.split(|it| *it == b'+').next().unwrap_or_default();
    let known = form.is_empty() || WEB.iter().any(|it| form.eq_ignore_ascii_case(it.as_bytes()));
    kind.eq_ignore_ascii_case(GRPC) && known
}

/// Whether the body is in any coding, `identity` being none (RFC 9110, section 8.4).
pub fn is_encoded(headers: &HeaderMap) -> bool {
    tokens(headers, &CONTENT_ENCODING).any(|it| !it.eq_ignore_ascii_case(b"identity"))
}

/// The token of a field `Authorization: Bearer …` (RFC 6750, section 2.1; the scheme has no case, RFC 9110, section
/// 11.1); `None` for another scheme.
pub fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked("bearer".len())?;
    let is_one = scheme.eq_ignore_ascii_case(b"bearer") && matches!(token, [] | [b' ', ..]);
    is_one.then(|| token.trim_ascii())
}

/// A length: digits only, zeros in front allowed (RFC 9110, section 8.6), below 2^63.
pub fn length(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let add = |sum: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    text.iter().try_fold(0, add).filter(|it| *it < 1 << 63)
}

/// The elements of one line of a list.
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|it| *it == b',').map(<[u8]>::trim_ascii).filter(|it| !it.is_empty())
}

/// What `Connection` requests, over all of its lines (RFC 9110, section 7.6.1).
#[derive(Default)]
pub(super) struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
    pub(super) upgrade: bool,
    /// It names other fields.
    pub(super) names_fields: bool,
}

impl ConnectionOptions {
    /// Adds a line of the field.
    pub(super) fn add(&mut self, value: &[u8]) {
        for option in elements(value) {
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.close = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ => self.names_fields = true,
            }
        }
    }

    /// Whether the connection goes on (RFC 9112, section 9.3); `close` wins.
    pub(super) fn persistent(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }
}

/// A byte of a token (RFC 9110, section 5.6.2).
pub fn is_token_byte(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let (mut table, mut byte) = ([false; 256], 0);
        while byte < 128 {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let (others, mut at) = (b"!#$%&'*+-.^_`|~", 0);
        while at < others.len() {
            table[others[at] as usize] = true;
            at += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{ACCEPT, HeaderValue, TE};

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap());
        list.iter().map(pair).fold(HeaderMap::new(), |mut map, (name, value): (HeaderName, _)| {
            map.append(name, value);
            map
        })
    }

    #[test]
    fn fields_of_one_connection_are_known() {
        let own = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
        for name in own.into_iter().chain(["http2-settings"]) {
            assert!(is_hop_by_hop(&name.parse().unwrap()), "{name}");
        }
        for name in ["ta", "referer", "user-agent", "content-length", "accept-charset", "host", "x"] {
            assert!(!is_hop_by_hop(&name.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn all_lines_are_one_list() {
        let map = headers(&[("te", "a,, b ,\tc"), ("te", ""), ("te", "D"), ("accept", "e")]);
        let found: Vec<_> = tokens(&map, &TE).collect();
        assert_eq!(found, [&b"a"[..], b"b", b"c", b"D"]);
        assert!(has_token(&map, &TE, "B") && has_token(&map, &TE, "d") && !has_token(&map, &TE, "e"));
        assert!(has_token(&map, &ACCEPT, "E") && !has_token(&map, &CONNECTION, "e"));
    }

    #[test]
    fn what_connection_names_goes_with_it() {
        let left = |list| {
            let mut map = headers(list);
            strip_hop_by_hop(&mut map);
            let mut names: Vec<_> = map.keys().map(|it| it.as_str().to_owned()).collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(left(&[("a", "1"), ("b", "2")]), "a b");
        assert_eq!(
            left(&[("a", "1"), ("connection", "A, close"), ("Connection", "b,\"x\""), ("b", "2"), ("c", "3")]),
            "c"
        );
        assert_eq!(left(&[("te", "x"), ("upgrade", "x"), ("keep-alive", "5"), ("trailer", "y"), ("y", "")]), "y");
    }

    #[test]
    fn media_types_have_no_case_and_any_parameters() {
        for value in
            ["text/event-stream", "Text/Event-Stream", " text/event-stream ; charset=utf-8", "text/event-stream;"]
        {
            assert!(is_event_stream(&headers(&[("content-type", value)])), "{value}");
        }
        for value in ["", "text/event-streams", "text/plain; x=text/event-stream", "text/event-stream, a/b"] {
            assert!(!is_event_stream(&headers(&[("content-type", value)])), "{value}");
        }
        assert!(!is_event_stream(&HeaderMap::new()));
        assert!(media_type_is(&headers(&[("content-type", "application/JSON")]), "Application/json"));
    }

    #[test]
    fn calls_of_grpc_are_known_by_their_type() {
        let is = |value| is_grpc(&headers(&[("content-type", value)]));
        for value in ["application/grpc", "Application/gRPC+proto", "application/grpc ; charset=utf-8"] {
            assert!(is(value), "{value}");
        }
        for value in ["application/grpc-web", "application/grpc-web+proto", "application/grpcs", "application/grp", ""]
        {
            assert!(!is(value), "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
        let is_any = |value| is_any_grpc(&headers(&[("content-type", value)]));
        for value in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC-Web-Text+proto",
            "application/grpc-web;x=y",
        ] {
            assert!(is_any(value), "{value}");
        }
        for value in ["application/grpcs", "application/grpc-webs", "application/grpc-text", "application/grp", ""] {
            assert!(!is_any(value), "{value}");
        }
    }

    #[test]
    fn identity_is_no_coding_in_any_case() {
        let is = |list: &[(&str, &str)]| is_encoded(&headers(list));
        assert!(!is(&[]) && !is(&[("content-encoding", "Identity")]) && !is(&[("content-encoding", "identity, ")]));
        assert!(is(&[("content-encoding", "identity"), ("content-encoding", "GZIP")]));
        assert!(is(&[("content-encoding", "identity, br")]));
    }

    #[test]
    fn a_bearer_token_is_what_follows_its_scheme() {
        for (field, token) in [("Bearer a.b", Some("a.b")), ("bEARER  x ", Some("x")), ("Bearer", Some(""))] {
            assert_eq!(bearer(field.as_bytes()), token.map(str::as_bytes), "{field}");
        }
        for field in ["", "Basic x", "Bearers x", "Bearer\tx"] {
            assert_eq!(bearer(field.as_bytes()), None, "{field}");
        }
    }

    #[test]
    fn a_length_is_digits() {
        let largest = i64::MAX.to_string();
        let zeros = "0".repeat(9000) + "7";
        let good = [("0", 0), ("17", 17), ("05", 5), ("000", 0), (&largest, i64::MAX as u64), (&zeros, 7)];
        for (text, expected) in good {
            assert_eq!(length(text.as_bytes()), Some(expected), "{text}");
        }
        for text in ["", "+5", "-5", "0x5", "5 ", " 5", "5,5", "9223372036854775808", "18446744073709551616", "٣"] {
            assert_eq!(length(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn close_wins_over_all_lines() {
        let persistent = |lines: &[&str], version| {
            let mut options = ConnectionOptions::default();
            lines.iter().for_each(|it| options.add(it.as_bytes()));
            options.persistent(version)
        };
        assert!(persistent(&[], Version::HTTP_11) && !persistent(&[], Version::HTTP_10));
        assert!(persistent(&["x-a, Keep-Alive"], Version::HTTP_10));
        for lines in [&["x-a", "Close"][..], &["keep-alive, close"], &["close", "keep-alive"]] {
            assert!(!persistent(lines, Version::HTTP_11) && !persistent(lines, Version::HTTP_10), "{lines:?}");
        }
    }

    #[test]
    fn token_bytes_are_those_that_names_have() {
        for byte in 0..=255u8 {
            let expected = HeaderName::from_bytes(&[byte]).is_ok();
            assert_eq!(is_token_byte(byte), expected, "{byte}");
        }
    }
}
