//! gRPC-Web (grpc/doc/PROTOCOL-WEB.md): calls of gRPC in a form that browsers can send and read. They go on as the calls
//! of gRPC that they stand for, so that everything above knows one kind of call; what is behind an answer becomes its
//! last message, since pages get to see no trailers.

use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, Engine as _};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::{HeaderName, Method};
use pingora::http::{RequestHeader, ResponseHeader};

use super::{ClientError, Part};
use crate::http as codec;

const WEB: &[u8] = b"application/grpc-web";
const TEXT: &[u8] = b"-text";
const GRPC: &[u8] = b"application/grpc";
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// A message's flag and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;
/// The one flag that messages of gRPC know: the message is compressed.
const COMPRESSED: u8 = 1;
/// The flag of the frame that holds trailers.
const TRAILERS: u8 = 0x80;
/// As of an answer of HTTP/2 that ends without trailers: INTERNAL.
const NO_STATUS: &[u8] = b"grpc-status: 13\r\ngrpc-message: the service ended its answer without a status\r\n";

/// Characters of base64 that make whole bytes, and so many bytes.
const QUANTUM: usize = 4;
const GROUP: usize = 3;

/// One call over the web.
#[derive(Debug)]
pub(super) struct GrpcWeb {
    /// Reads the request's body, where it is text.
    text: Option<TextDecoder>,
    received: Messages,
    /// Whether the answer is to be text.
    answers_text: bool,
    /// The suffix of the request's type, which an answer without one gets, too.
    suffix: Vec<u8>,
    answer: Answer,
}

/// How far the answer has come.
#[derive(Debug)]
enum Answer {
    /// There is no head yet, or it begins none of gRPC: it passes as it is.
    Other,
    Begun {
        messages: Messages,
        /// Bytes that wait for others to make whole groups of base64.
        rest: Vec<u8>,
        /// The head has said the status.
        status_told: bool,
    },
}

impl GrpcWeb {
    /// What a request is written in, if it is a call over the web; then it becomes the call that it stands for.
    pub(super) fn take(request: &mut RequestHeader) -> Option<Self> {
        if request.method != Method::POST {
            return None;
        }
        let (text, suffix) = form(&request.headers, &CONTENT_TYPE)?;
        let answers_text = codec::tokens(&request.headers, &ACCEPT).find_map(|it| form_of(it)).map_or(text, |it| it.0);
        let content_type = HeaderValue::from_bytes(&[GRPC, &suffix].concat()).ok()?;
        let _ = request.insert_header(CONTENT_TYPE, content_type);
        let _ = request.insert_header(TE, HeaderValue::from_static("trailers"));
        // Upstreams answer in no form of the web.
        if form(&request.headers, &ACCEPT).is_some() {
            request.remove_header(&ACCEPT);
        }
        if text {
            request.remove_header(&CONTENT_LENGTH);
        }
        let text = text.then(TextDecoder::default);
        Some(Self { text, received: Messages::default(), answers_text, suffix, answer: Answer::Other })
    }

    /// Whether the request's body is text, which is longer than what it stands for.
    pub(super) fn reads_text(&self) -> bool {
        self.text.is_some()
    }

    /// A piece of the request's body, or its end, as it goes on; an empty piece says nothing yet.
    ///
    /// # Errors
    /// When it is no text of base64, or does not consist of messages.
    pub(super) fn received(&mut self, piece: Option<Bytes>) -> Result<Option<Bytes>, ClientError> {
        let Some(piece) = piece else {
            let whole = self.text.as_ref().is_none_or(TextDecoder::is_whole) && self.received.at_border();
            return whole.then_some(None).ok_or(ClientError::Malformed("the body ends within a message of gRPC-Web"));
        };
        let piece = match &mut self.text {
            Some(text) => text.decode(&piece).ok_or(ClientError::Malformed("the body is not base64"))?,
            None => piece,
        };
        let follows = self.received.follow(&piece);
        follows.then_some(Some(piece)).ok_or(ClientError::Malformed("the body has what is no message of gRPC"))
    }

    /// What of the answer goes out in the place of a part.
    ///
    /// # Errors
    /// When the answer does not consist of whole messages.
    pub(super) fn sent(&mut self, part: Part) -> Result<(Option<Bytes>, Part), ClientError> {
        match part {
            Part::Head(mut head, bodiless) => {
                self.begin(&mut head, bodiless);
                Ok((None, Part::Head(head, bodiless)))
            }
            Part::Data(piece) => Ok((None, Part::Data(self.data(piece)?))),
            Part::End(trailers) => Ok((self.end(trailers.as_deref())?, Part::End(None))),
        }
    }

    fn begin(&mut self, head: &mut ResponseHeader, bodiless: bool) {
        if !codec::is_grpc(&head.headers) {
            return;
        }
        let type_of_head = head.headers.get(CONTENT_TYPE).map(|it| codec::essence(it.as_bytes()).to_ascii_lowercase());
        let own = type_of_head.as_deref().and_then(|it| it.get(GRPC.len()..)).unwrap_or_default();
        let suffix = if own.is_empty() { &self.suffix } else { own };
        let suffix = if suffix.is_empty() { b"+proto" } else { suffix };
        let text = if self.answers_text { TEXT } else { b"" };
        if let Ok(value) = HeaderValue::from_bytes(&[WEB, text, suffix].concat()) {
            let _ = head.insert_header(CONTENT_TYPE, value);
        }
        if bodiless {
            return; // all there is to say is said in the head
        }
        head.remove_header(&CONTENT_LENGTH);
        let status_told = head.headers.contains_key(STATUS);
        self.answer = Answer::Begun { messages: Messages::default(), rest: Vec::new(), status_told };
    }

    fn data(&mut self, piece: Bytes) -> Result<Bytes, ClientError> {
        let Answer::Begun { messages, rest, .. } = &mut self.answer else { return Ok(piece) };
        if !messages.follow(&piece) {
            return Err(ClientError::Incomplete);
        }
        if !self.answers_text {
            return Ok(piece);
        }
        rest.extend_from_slice(&piece);
        // A message goes out whole when it is whole: whoever reads it does not wait for the next one.
        let now = if messages.at_border() { rest.len() } else { rest.len() - rest.len() % GROUP };
        let text = BASE64_STANDARD.encode(&rest[..now]);
        rest.drain(..now);
        Ok(text.into())
    }

    /// The last frame, if there is anything to say in it.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<Option<Bytes>, ClientError> {
        let Answer::Begun { messages, status_told, .. } = &self.answer else { return Ok(None) };
        if !messages.at_border() {
            return Err(ClientError::Incomplete);
        }
        let lines = match trailers {
            Some(trailers) => lines(trailers),
            None if *status_told => return Ok(None),
            None => NO_STATUS.to_vec(),
        };
        self.answer = Answer::Other;
        let frame = frame(&lines);
        Ok(Some(if self.answers_text { BASE64_STANDARD.encode(&frame).into() } else { frame }))
    }
}

/// Trailers as a block of fields of HTTP/1, without the line that ends it. Names are in small letters, values in one line.
fn lines(trailers: &HeaderMap) -> Vec<u8> {
    let mut lines = Vec::with_capacity(64);
    for (name, value) in trailers {
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

fn frame(lines: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + lines.len());
    frame.put_u8(TRAILERS);
    frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX)); // trailers are bounded by far less
    frame.put_slice(lines);
    frame.freeze()
}

/// Whether the type in this field is text, and its suffix; `None` if it is none of gRPC-Web.
fn form(headers: &HeaderMap, name: &HeaderName) -> Option<(bool, Vec<u8>)> {
    form_of(headers.get(name)?.as_bytes()).map(|(text, suffix)| (text, suffix.to_ascii_lowercase()))
}

fn form_of(media_type: &[u8]) -> Option<(bool, &[u8])> {
    let rest = without(codec::essence(media_type), WEB)?;
    let (text, suffix) = without(rest, TEXT).map_or((false, rest), |suffix| (true, suffix));
    matches!(suffix, [] | [b'+', ..]).then_some((text, suffix))
}

/// What follows on these words, in any case.
fn without<'a>(text: &'a [u8], words: &[u8]) -> Option<&'a [u8]> {
    let (first, rest) = text.split_at_checked(words.len())?;
    first.eq_ignore_ascii_case(words).then_some(rest)
}

/// Where messages begin and end in a body.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that are here.
    filled: usize,
    /// Bytes of the message that are to come.
    left: u32,
}

impl Messages {
    /// Takes note of what came; whether it can be what it has to be.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let now = bytes.len().min(self.left as usize);
                self.left -= now as u32; // no more than is left
                bytes = &bytes[now..];
                continue;
            }
            if self.filled == 0 && *first > COMPRESSED {
                return false;
            }
            self.prefix[self.filled] = *first;
            self.filled += 1;
            bytes = rest;
            if self.filled == PREFIX {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length);
                self.filled = 0;
            }
        }
        true
    }

    fn at_border(&self) -> bool {
        self.left == 0 && self.filled == 0
    }
}

/// Base64 (RFC 4648, section 4) that comes in pieces, and may be padded in its middle: each piece of it was one by itself
/// where it was written.
#[derive(Debug, Default)]
struct TextDecoder {
    /// Characters of a quantum that is not whole yet.
    rest: Vec<u8>,
}

impl TextDecoder {
    fn is_whole(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes of all quanta that are whole.
    fn decode(&mut self, piece: &[u8]) -> Option<Bytes> {
        self.rest.extend_from_slice(piece);
        let whole = self.rest.len() - self.rest.len() % QUANTUM;
        let mut bytes = Vec::with_capacity(whole / QUANTUM * GROUP);
        let mut text = &self.rest[..whole];
        while !text.is_empty() {
            // Up to the quantum that is padded, if one is: no quantum begins with the sign for that.
            let end = text.iter().position(|it| *it == b'=').map_or(text.len(), |at| at / QUANTUM * QUANTUM);
            BASE64_STANDARD_NO_PAD.decode_vec(&text[..end], &mut bytes).ok()?;
            text = &text[end..];
            if let Some((padded, others)) = text.split_at_checked(QUANTUM) {
                BASE64_STANDARD.decode_vec(padded, &mut bytes).ok()?;
                text = others;
            }
        }
        self.rest.drain(..whole);
        Some(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn call(content_type: &str, accept: Option<&str>) -> (RequestHeader, Option<GrpcWeb>) {
        let mut request = RequestHeader::build_no_case("POST", b"/a.B/C", None).unwrap();
        request.insert_header(CONTENT_TYPE, content_type).unwrap();
        request.insert_header(CONTENT_LENGTH, "5").unwrap();
        if let Some(accept) = accept {
            request.insert_header(ACCEPT, accept).unwrap();
        }
        let web = GrpcWeb::take(&mut request);
        (request, web)
    }

    #[test]
    fn a_call_over_the_web_becomes_one_of_grpc() {
        for (content_type, expected, text) in [
            ("application/grpc-web", "application/grpc", false),
            ("application/grpc-web+proto", "application/grpc+proto", false),
            ("Application/gRPC-Web-Text; charset=utf-8", "application/grpc", true),
            ("application/grpc-web-text+proto", "application/grpc+proto", true),
            ("application/grpc-web+json", "application/grpc+json", false),
        ] {
            let (request, web) = call(content_type, None);
            let web = web.unwrap();
            assert_eq!((web.text.is_some(), web.answers_text), (text, text), "{content_type}");
            assert_eq!(
                (&request.headers[CONTENT_TYPE], &request.headers[TE]),
                (&expected.parse().unwrap(), &"trailers".parse().unwrap())
            );
            assert_eq!(request.headers.contains_key(CONTENT_LENGTH), !text);
        }
        for other in ["application/grpc", "application/grpc-webs", "application/grpc-web-texts", "application/json", ""]
        {
            let (request, web) = call(other, None);
            assert!(web.is_none() && request.headers[CONTENT_TYPE] == other, "{other}");
        }
        let mut request = RequestHeader::build_no_case("PUT", b"/a.B/C", None).unwrap();
        request.insert_header(CONTENT_TYPE, "application/grpc-web").unwrap();
        assert!(GrpcWeb::take(&mut request).is_none(), "calls are POST");
    }

    #[test]
    fn the_form_of_the_answer_is_what_the_client_accepts_and_else_that_of_its_request() {
        for (content_type, accept, text) in [
            ("application/grpc-web-text", Some("application/grpc-web-text"), true),
            ("application/grpc-web", Some("application/grpc-web-text+proto"), true),
            ("application/grpc-web-text", Some("application/grpc-web+proto"), false),
            ("application/grpc-web-text", Some("*/*"), true),
            ("application/grpc-web", Some("*/*"), false),
        ] {
            assert_eq!(call(content_type, accept).1.unwrap().answers_text, text, "{content_type} {accept:?}");
        }
    }

    fn message(length: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend((length as u32).to_be_bytes());
        message.extend((0..length).map(|it| it as u8));
        message
    }

    fn answered(web: &mut GrpcWeb, pieces: &[&[u8]], trailers: Option<HeaderMap>) -> Result<Vec<u8>, ClientError> {
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header(CONTENT_TYPE, "application/grpc").unwrap();
        web.sent(Part::Head(Box::new(head), false))?;
        let mut out = Vec::new();
        for piece in pieces {
            let (None, Part::Data(piece)) = web.sent(Part::Data(Bytes::copy_from_slice(piece)))? else { panic!() };
            out.extend_from_slice(&piece);
        }
        let (last, Part::End(None)) = web.sent(Part::End(trailers.map(Box::new)))? else { panic!() };
        out.extend_from_slice(&last.unwrap_or_default());
        Ok(out)
    }

    #[test]
    fn what_is_no_message_never_looks_like_trailers() {
        let web = || call("application/grpc-web", None).1.unwrap();
        // An upstream that writes the frame of trailers itself, and one that ends within a message.
        assert_eq!(answered(&mut web(), &[b"\x80\0\0\0\0"], None), Err(ClientError::Incomplete));
        assert_eq!(answered(&mut web(), &[b"\0\0\0\0\x05hell"], None), Err(ClientError::Incomplete));
        assert_eq!(answered(&mut web(), &[b"\0\0\0"], None), Err(ClientError::Incomplete));
        let out = answered(&mut web(), &[b"\0\0\0\0\x01x"], None).unwrap();
        assert!(out.starts_with(b"\0\0\0\0\x01x\x80\0\0\0") && out.ends_with(NO_STATUS), "{out:?}");
    }

    fn read_whole(web: &mut GrpcWeb, pieces: &[&[u8]]) -> Result<Vec<u8>, ClientError> {
        let mut out = Vec::new();
        for piece in pieces {
            out.extend(web.received(Some(Bytes::copy_from_slice(piece)))?.unwrap());
        }
        web.received(None)?;
        Ok(out)
    }

    #[test]
    fn text_may_be_padded_at_each_piece_and_is_nothing_but_base64() {
        let read = |text: &str| read_whole(&mut call("application/grpc-web-text", None).1.unwrap(), &[text.as_bytes()]);
        // A message of one byte, in one piece and in three.
        assert_eq!(read("AAAAAAFh").unwrap(), b"\0\0\0\0\x01a");
        assert_eq!(read("AAA=AAA=AWE=").unwrap(), b"\0\0\0\0\x01a");
        assert_eq!(read("").unwrap(), b"");
        for wrong in
            ["AAAAAAF", "AAAAAAFh=", "A===", "====", "AA=A", "AAAA\nAFh", "AAAAAAF_", "AAAAAA==", "AAAAAAAAgA=="]
        {
            assert!(matches!(read(wrong), Err(ClientError::Malformed(_))), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn however_it_is_cut_text_says_the_same(lengths in vec(0..40_usize, 0..5), cuts in vec(1..9_usize, 1..30)) {
            let whole: Vec<u8> = lengths.iter().flat_map(|it| message(*it)).collect();
            let mut pieces: Vec<&[u8]> = Vec::new();
            let mut left = &whole[..];
            for size in cuts.iter().cycle() {
                if left.is_empty() { break }
                let (piece, rest) = left.split_at((*size).min(left.len()));
                pieces.push(piece);
                left = rest;
            }
            let mut web = call("application/grpc-web-text", None).1.unwrap();
            // Each piece is text of its own, as some clients write it.
            let texts: Vec<String> = pieces.iter().map(|it| BASE64_STANDARD.encode(it)).collect();
            let texts: Vec<&[u8]> = texts.iter().map(|it| it.as_bytes()).collect();
            prop_assert_eq!(&read_whole(&mut web, &texts).unwrap(), &whole);
            let trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))]);
            let text = answered(&mut web, &pieces, Some(trailers)).unwrap();
            let decoded = TextDecoder::default().decode(&text).unwrap();
            let (messages, last) = decoded.split_at(whole.len());
            prop_assert_eq!((messages, last), (&whole[..], &b"\x80\0\0\0\x10grpc-status: 0\r\n"[..]));
        }

        #[test]
        fn nothing_that_comes_breaks_it(bytes in vec(any::<u8>(), 0..60), text in any::<bool>()) {
            let content_type = if text { "application/grpc-web-text" } else { "application/grpc-web" };
            let mut web = call(content_type, None).1.unwrap();
            let _ = read_whole(&mut web, &[&bytes]);
            let _ = answered(&mut web, &[&bytes], None);
        }
    }
}
