//! What holds for any input: a message cut anywhere is the same message, chunks are what a naive reading
//! makes of them, and nothing panics.

use bytes::{Bytes, BytesMut};
use http::Method;
use proptest::prelude::*;

use super::{
    BodyDecoder, BodyError, Decoded, Framing, HeadError, HeadScan, chunk_head, read_request, read_response,
    write_last_chunk,
};

/// Parts that heads are made of, good ones and bad ones.
const HEAD_PARTS: &[&str] = &[
    "GET ",
    "POST ",
    "OPTIONS * ",
    "CONNECT a:1 ",
    "/",
    "/a?b",
    "http://a/",
    "http://A:80?x",
    "#",
    " ",
    "  ",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/1.1 200 OK",
    "HTTP/1.1 204 ",
    "HTTP/1.0 101 x",
    "\r\n",
    "\r\n",
    "\r\n",
    "\r\n\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    "Host: a\r\n",
    "Host: a:80\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 03\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close, x-a\r\n",
    "Connection: upgrade\r\n",
    "Upgrade: websocket\r\n",
    "Expect: 100-continue\r\n",
    "X-A: b\r\n",
    "X-A : b\r\n",
    " b\r\n",
    "Content_Length: 1\r\n",
    "\0",
    "\u{e9}",
    ":",
    "abc",
];

/// Parts that chunked bodies are made of.
const BODY_PARTS: &[&str] = &[
    "0",
    "5",
    "a",
    "00",
    "1F",
    ";",
    ";x",
    ";x=y",
    "=\"z \\\" \"",
    "\"",
    " ",
    "\t",
    "\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    "hello",
    "0123456789",
    "5\r\nhello\r\n",
    "a\r\n0123456789\r\n",
    "5;x=\"y\"\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\n",
    "X: y\r\n",
    "Host: a\r\n",
    ":",
    "\0",
    "\u{e9}",
    "7fffffffffffffff",
    "8000000000000000",
    "GET / HTTP/1.1\r\n",
];

fn made_of(parts: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        20 => proptest::sample::select(parts).prop_map(|it| it.as_bytes().to_vec()),
        1 => any::<u8>().prop_map(|it| vec![it]),
    ];
    proptest::collection::vec(part, 0..16).prop_map(|it| it.concat())
}

/// A whole request most of the time, some bytes changed.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let field =
        proptest::sample::select(HEAD_PARTS.iter().copied().filter(|it| it.ends_with("\r\n")).collect::<Vec<_>>());
    let line =
        proptest::sample::select(vec!["GET / HTTP/1.1\r\n", "POST http://a/b HTTP/1.1\r\n", "HTTP/1.1 200 OK\r\n"]);
    let flips = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (line, proptest::collection::vec(field, 0..6), flips).prop_map(|(line, fields, flips)| {
        let mut bytes = format!("{line}Host: a\r\n{}\r\nrest", fields.concat()).into_bytes();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

/// A whole chunked body and something behind it, some bytes changed.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let data = proptest::collection::vec(any::<u8>(), 1..40);
    let extension = proptest::sample::select(vec!["", "", ";a", " ;a=b\t; c", ";a=\"b;\\\" \u{e9}\"", ";a = b"]);
    let trailer = proptest::sample::select(vec!["X-A: b\r\n", "x-b:\r\n", "Host: c\r\n", "X-A: \t\u{e9} d \r\n"]);
    let chunks = proptest::collection::vec((data, extension), 0..4);
    let flips = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (chunks, proptest::collection::vec(trailer, 0..3), flips).prop_map(|(chunks, trailers, flips)| {
        let mut bytes = Vec::new();
        for (data, extension) in chunks {
            bytes.extend(format!("{:X}{extension}\r\n", data.len()).into_bytes());
            bytes.extend(data);
            bytes.extend(b"\r\n");
        }
        bytes.extend(format!("0\r\n{}\r\nrest", trailers.concat()).into_bytes());
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

type Outcome = Result<(String, usize), Option<HeadError>>;

/// What comes of a head: all of it as text, and how many bytes it had; `None` while its end is missing.
fn head(
    input: &[u8],
    sizes: impl Iterator<Item = usize>,
    read: impl Fn(&mut BytesMut, &mut HeadScan) -> Result<Option<String>, HeadError>,
) -> Outcome {
    let (mut buffer, mut scan, mut received) = (BytesMut::new(), HeadScan::default(), 0);
    for size in sizes {
        let piece = &input[received..input.len().min(received + size)];
        buffer.extend_from_slice(piece);
        received += piece.len();
        match read(&mut buffer, &mut scan) {
            Ok(Some(head)) => return Ok((head, received - buffer.len())),
            Ok(None) => {}
            Err(error) => return Err(Some(error)),
        }
    }
    Err(None)
}

fn request_head(buffer: &mut BytesMut, scan: &mut HeadScan) -> Result<Option<String>, HeadError> {
    Ok(read_request(buffer, scan)?.map(|it| format!("{it:?}")))
}

fn response_head(buffer: &mut BytesMut, scan: &mut HeadScan) -> Result<Option<String>, HeadError> {
    Ok(read_response(buffer, scan, &Method::GET)?.map(|it| format!("{it:?}")))
}

/// The same head in one piece, byte by byte, and cut once anywhere.
fn check_cuts(input: &[u8], read: impl Fn(&mut BytesMut, &mut HeadScan) -> Result<Option<String>, HeadError>) {
    let whole = head(input, [input.len()].into_iter(), &read);
    let length = input.len();
    assert_eq!(head(input, std::iter::repeat_n(1, length), &read), whole, "{}", input.escape_ascii());
    for cut in 0..=length {
        assert_eq!(head(input, [cut, length - cut].into_iter(), &read), whole, "{} cut at {cut}", input.escape_ascii());
    }
}

/// What comes of a chunked body.
#[derive(Debug, PartialEq)]
struct Body {
    data: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
    /// `None` if the end has not come.
    left: Option<usize>,
}

fn decoded(input: &[u8], sizes: impl Iterator<Item = usize>) -> Result<Body, BodyError> {
    let (mut buffer, mut decoder, mut received) = (BytesMut::new(), BodyDecoder::new(Framing::Chunked), 0);
    let mut body = Body { data: Vec::new(), trailers: Vec::new(), left: None };
    for size in sizes {
        let piece = &input[received..input.len().min(received + size)];
        buffer.extend_from_slice(piece);
        received += piece.len();
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::More => break,
                Decoded::Data(data) => body.data.extend_from_slice(&data),
                Decoded::End(trailers) => {
                    let pair = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                        (name.to_string(), value.as_bytes().to_vec())
                    };
                    body.trailers = trailers.iter().flat_map(|it| it.iter()).map(pair).collect();
                    body.left = Some(input.len() - decoder.received() as usize);
                    return Ok(body);
                }
            }
        }
    }
    Ok(body)
}

/// A chunked body as RFC 9112, section 7.1, reads when one takes no care of speed, of pieces, or of limits. `None` if
/// it is malformed as far as whole lines go.
fn naive(mut input: &[u8]) -> Option<Body> {
    let mut body = Body { data: Vec::new(), trailers: Vec::new(), left: None };
    loop {
        let Some((line, rest)) = line(input) else { return Some(body) };
        let text = String::from_utf8_lossy(line?).into_owned();
        let digits: String = text.chars().take_while(char::is_ascii_hexdigit).collect();
        if digits.is_empty() || digits.len() > 16 || !extensions(&line?[digits.len()..]) {
            return None;
        }
        let size = i64::from_str_radix(&digits, 16).ok()? as usize;
        if size == 0 {
            return naive_trailers(rest, body);
        }
        body.data.extend_from_slice(&rest[..size.min(rest.len())]);
        let Some(behind) = rest.get(size..) else { return Some(body) };
        match behind {
            [] | [b'\r'] => return Some(body),
            [b'\r', b'\n', rest @ ..] => input = rest,
            _ => return None,
        }
    }
}

fn naive_trailers(mut input: &[u8], mut body: Body) -> Option<Body> {
    loop {
        let Some((line, rest)) = line(input) else {
            body.trailers.clear();
            return Some(body);
        };
        let line = line?;
        if line.is_empty() {
            body.left = Some(rest.len());
            return Some(body);
        }
        let colon = line.iter().position(|it| *it == b':')?;
        let name = http::HeaderName::from_bytes(&line[..colon]).ok()?;
        let blank = |it: &u8| matches!(it, b' ' | b'\t'); // a form feed is none, though it is white space elsewhere
        let value = &line[colon + 1..];
        let value = &value[value.iter().position(|it| !blank(it)).unwrap_or(value.len())..];
        let value = &value[..value.iter().rposition(|it| !blank(it)).map_or(0, |it| it + 1)];
        let value = http::HeaderValue::from_bytes(value).ok()?;
        if name != http::header::HOST {
            body.trailers.push((name.to_string(), value.as_bytes().to_vec()));
        }
        input = rest;
    }
}

/// The next line, `None` inside if it does not end in CR LF or has a CR in it; `None` if its end has not come.
type Line<'a> = (Option<&'a [u8]>, &'a [u8]);

fn line(input: &[u8]) -> Option<Line<'_>> {
    let end = input.iter().position(|it| *it == b'\n')?;
    let text = input[..end].strip_suffix(b"\r").filter(|it| !it.contains(&b'\r'));
    Some((text, &input[end + 1..]))
}

/// Extensions, by cutting them off from the left.
fn extensions(text: &[u8]) -> bool {
    fn blanks(text: &[u8]) -> &[u8] {
        let end = text.iter().position(|it| !b" \t".contains(it)).unwrap_or(text.len());
        &text[end..]
    }
    fn token(text: &[u8]) -> Option<&[u8]> {
        let end = (1..=text.len()).rev().find(|it| http::Method::from_bytes(&text[..*it]).is_ok())?;
        Some(&text[end..])
    }
    fn quoted(text: &[u8]) -> Option<&[u8]> {
        let mut rest = text.strip_prefix(b"\"")?;
        loop {
            rest = match rest {
                [b'"', rest @ ..] => return Some(rest),
                [b'\\', b'\t' | 0x20..=0x7e | 0x80.., rest @ ..] => rest,
                [b'\\', ..] => return None,
                [b'\t' | 0x20..=0x7e | 0x80.., rest @ ..] => rest,
                _ => return None,
            };
        }
    }
    fn one(text: &[u8]) -> Option<&[u8]> {
        let rest = token(blanks(blanks(text).strip_prefix(b";")?))?;
        match blanks(rest).strip_prefix(b"=") {
            None => Some(rest),
            Some(value) => token(blanks(value)).or_else(|| quoted(blanks(value))),
        }
    }
    text.is_empty() || one(text).is_some_and(extensions)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_request_cut_anywhere_is_the_same(input in prop_oneof![request(), made_of(HEAD_PARTS)]) {
        check_cuts(&input, request_head);
    }

    #[test]
    fn a_response_cut_anywhere_is_the_same(input in prop_oneof![request(), made_of(HEAD_PARTS)]) {
        check_cuts(&input, response_head);
    }

    #[test]
    fn chunks_cut_anywhere_are_the_same(input in prop_oneof![body(), made_of(BODY_PARTS)]) {
        let whole = decoded(&input, [input.len()].into_iter());
        prop_assert_eq!(decoded(&input, std::iter::repeat_n(1, input.len())), whole.as_ref().map(same).map_err(|it| *it));
        for cut in 0..=input.len() {
            prop_assert_eq!(decoded(&input, [cut, input.len() - cut].into_iter()), whole.as_ref().map(same).map_err(|it| *it));
        }
    }

    #[test]
    fn chunks_are_what_a_naive_reading_makes_of_them(input in prop_oneof![body(), made_of(BODY_PARTS)]) {
        match (decoded(&input, [input.len()].into_iter()), naive(&input)) {
            (Ok(found), Some(expected)) => prop_assert_eq!(found, expected),
            // What is wrong may be seen before its line has ended, and only then.
            (Err(BodyError::Malformed(_)), None) => {}
            (Err(BodyError::Malformed(_)), Some(expected)) => prop_assert_eq!(expected.left, None),
            (found, expected) => prop_assert!(false, "{:?} but {:?}", found, expected),
        }
    }

    /// What we write is what we read.
    #[test]
    fn chunks_that_are_written_are_read(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..5)) {
        let mut out = BytesMut::new();
        for piece in &pieces {
            chunk_head(piece.len(), &mut out);
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
        }
        write_last_chunk(None, &mut out);
        let expected = Body { data: pieces.concat(), trailers: Vec::new(), left: Some(0) };
        prop_assert_eq!(decoded(&Bytes::from(out), [usize::MAX / 2].into_iter()), Ok(expected));
    }

    #[test]
    fn nothing_panics(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = request_head(&mut BytesMut::from(&input[..]), &mut HeadScan::default());
        let _ = response_head(&mut BytesMut::from(&input[..]), &mut HeadScan::default());
        let _ = decoded(&input, [input.len()].into_iter());
    }
}

fn same(body: &Body) -> Body {
    Body { data: body.data.clone(), trailers: body.trailers.clone(), left: body.left }
}
